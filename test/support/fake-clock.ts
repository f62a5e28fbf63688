/** A clock that stands still until told to move. Due callbacks run in order of their time. */
import type { Clock } from '../../src/base/clock.ts'

interface Timer {
  readonly dueMs: number
  readonly callback: () => void
}

export class FakeClock implements Clock {
  private nowMs: number
  private readonly timers = new Set<Timer>()

  constructor(nowMs = Date.parse('2030-01-01T00:00:00Z')) {
    this.nowMs = nowMs
  }

  now(): number {
    return this.nowMs
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { dueMs: this.nowMs + delayMs, callback }
    this.timers.add(timer)
    return () => this.timers.delete(timer)
  }

  /** Milliseconds until the next callback; null when none is waiting. */
  get nextDelayMs(): number | null {
    const next = this.next()
    return next === null ? null : next.dueMs - this.nowMs
  }

  get pending(): number {
    return this.timers.size
  }

  advance(ms: number): void {
    const endMs = this.nowMs + ms
    for (let next = this.next(); next !== null && next.dueMs <= endMs; next = this.next()) {
      this.nowMs = Math.max(this.nowMs, next.dueMs)
      this.timers.delete(next)
      next.callback()
    }
    // A callback may have moved it further.
    this.nowMs = Math.max(this.nowMs, endMs)
  }

  private next(): Timer | null {
    let first: Timer | null = null
    for (const timer of this.timers) if (first === null || timer.dueMs < first.dueMs) first = timer
    return first
  }
}
