/**
 * Loaded into a process under test with `--import`: measures how long its event loop is held up, and how long by the
 * garbage collector, and writes it to the file WEFT_BENCH_LOOP_FILE when it gets SIGUSR2, from then on anew.
 */
import { writeFileSync } from 'node:fs'
import { monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks'

const file = process.env['WEFT_BENCH_LOOP_FILE']
// The variable would be an unknown setting of the program itself.
delete process.env['WEFT_BENCH_LOOP_FILE']

if (file !== undefined) {
  /** Milliseconds between looks; it is taken off again. */
  const resolution = 5
  const delay = monitorEventLoopDelay({ resolution })
  delay.enable()
  let gcMaxMs = 0
  const observer = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) gcMaxMs = Math.max(gcMaxMs, Math.round(duration))
  })
  observer.observe({ entryTypes: ['gc'] })
  const ms = (nanoseconds: number): number => Math.max(0, Math.round(nanoseconds / 1e6) - resolution)
  process.on('SIGUSR2', () => {
    const { heapUsed } = process.memoryUsage()
    writeFileSync(file, JSON.stringify({ p99Ms: ms(delay.percentile(99)), maxMs: ms(delay.max), gcMaxMs, heapUsed }))
    delay.reset()
    gcMaxMs = 0
  })
}
