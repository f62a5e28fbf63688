/** Times one operation: the best of several rounds, in nanoseconds per call. Run micro benches alone on a quiet machine. */

const ROUNDS = 7

/** Prints `name` and nanoseconds per call of `operation`. Its result must depend on the work, or the work is optimised away. */
export function measure(name: string, calls: number, operation: (index: number) => unknown): void {
  let best = Number.POSITIVE_INFINITY
  let kept: unknown = null
  for (let round = 0; round < ROUNDS; round++) {
    const startedAt = process.hrtime.bigint()
    for (let i = 0; i < calls; i++) kept = operation(i)
    best = Math.min(best, Number(process.hrtime.bigint() - startedAt) / calls)
  }
  console.log(`${name.padEnd(60)} ${best.toFixed(1).padStart(9)} ns/op${kept === undefined ? ' ' : ''}`)
}
