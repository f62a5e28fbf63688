/**
 * The loop: take an input that was worth keeping, damage it, run it, keep it when it reached something new.
 *
 * Taking the coverage costs as much as running tens of inputs, so it is taken per batch; a batch that reached something
 * is run again in halves until the inputs are found that did. Batches grow while nothing new is found.
 */
import { SeededRandom } from '../support/seeded-random.ts'
import type { Coverage, Reach } from './coverage.ts'
import { mutate } from './mutator.ts'
import type { Target } from './target.ts'

const BATCH_MAX = 512

/** Outcomes remembered: a target whose words never repeat must not fill the pool. */
const OUTCOMES_MAX = 2_000

/** A broken property. */
export interface Crash {
  readonly input: Uint8Array
  readonly error: Error
}

/** Told before every run. */
export interface RunListener {
  begin(input: Uint8Array): void
}

export class Fuzzer {
  readonly coverage: Coverage
  /** Inputs worth mutating. */
  readonly pool: Uint8Array[]
  /** Those of them that reached new code. */
  readonly found: Uint8Array[]
  /** One for each place where a property broke. */
  readonly crashes: Map<string, Crash>
  executions: number
  private readonly target: Target
  private readonly random: SeededRandom
  private readonly listener: RunListener
  private readonly outcomes: Set<string>
  private batchSize: number

  constructor(target: Target, coverage: Coverage, seed: number, listener: RunListener) {
    this.target = target
    this.coverage = coverage
    this.random = new SeededRandom(seed)
    this.listener = listener
    this.pool = []
    this.found = []
    this.crashes = new Map()
    this.executions = 0
    this.outcomes = new Set()
    this.batchSize = 8
  }

  get outcomeCount(): number {
    return this.outcomes.size
  }

  /** Runs the inputs to begin with; all of them are worth keeping. */
  begin(inputs: readonly Uint8Array[]): void {
    this.coverage.add(this.coverage.take())
    for (const input of inputs) this.execute(input)
    this.coverage.add(this.coverage.take())
    this.pool.push(...inputs)
  }

  /** One batch. True when something new was reached. */
  step(): boolean {
    const { pool, random } = this
    const batch: Uint8Array[] = []
    for (let i = 0; i < this.batchSize; i++) {
      // What was found last leads on; what was found first is not forgotten.
      const recent = pool.length - 1 - Math.floor(pool.length * random.next() ** 3)
      batch.push(mutate(this.target, random, pool[recent]!, pool))
    }
    const isNew = this.search(batch)
    this.batchSize = isNew ? Math.max(8, this.batchSize >>> 1) : Math.min(BATCH_MAX, this.batchSize * 2)
    return isNew
  }

  /** What `input` reaches by itself. */
  reachOf(input: Uint8Array): Reach {
    this.execute(input)
    return this.coverage.take()
  }

  /** Runs `input`; what breaks is noted. */
  execute(input: Uint8Array): Error | null {
    this.executions++
    this.listener.begin(input)
    try {
      const outcome = this.target.run(input)
      if (!this.outcomes.has(outcome) && this.outcomes.size < OUTCOMES_MAX) {
        this.outcomes.add(outcome)
        this.pool.push(input)
      }
      return null
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown))
      const place = placeOf(error)
      const known = this.crashes.get(place)
      if (known === undefined || input.length < known.input.length) this.crashes.set(place, { input, error })
      return error
    }
  }

  private search(batch: readonly Uint8Array[]): boolean {
    for (const input of batch) this.execute(input)
    const reach = this.coverage.take()
    if (this.coverage.gainOf(reach) === 0) return false
    if (batch.length === 1) {
      this.coverage.add(reach)
      this.pool.push(batch[0]!)
      this.found.push(batch[0]!)
      return true
    }
    const half = batch.length >>> 1
    const first = this.search(batch.slice(0, half))
    const second = this.search(batch.slice(half))
    // What only all of them together reach (a cache that fills up) is no reason to look again.
    this.coverage.add(reach)
    return first || second
  }
}

/** Crashes of one kind: the first line without its numbers and quoted text, and where it was thrown. */
export function placeOf(error: Error): string {
  const frame = error.stack?.split('\n').find((line) => line.includes('/src/') || line.includes('/test/fuzz/')) ?? ''
  return `${error.message
    .split('\n')[0]!
    .replace(/"[^"]*"|[0-9]+/g, '#')
    .slice(0, 80)} ${frame.trim()}`
}
