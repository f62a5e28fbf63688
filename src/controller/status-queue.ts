/**
 * Writes to the API server that can wait: one at a time, so many a second, the newest for each key. What is beyond the limit
 * is dropped and counted. A write that fails is put back, and all others wait with it: a server in trouble is in trouble for
 * everybody.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'

/** After a failure. */
const RETRY = { baseMs: 500, maxMs: 60_000 }

/** What became of a write. */
export type WriteOutcome = 'done' | 'failed'

/** How a queue goes about it. */
export interface StatusQueueOptions<T> {
  readonly clock: Clock
  /** Between the beginnings of two writes. */
  readonly intervalMs: number
  readonly lengthMax: number
  /** Writes one; never rejects. `failed` is tried again. */
  readonly write: (item: T) => Promise<WriteOutcome>
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** See the head of the file. */
export class StatusQueue<T> {
  private readonly options: StatusQueueOptions<T>
  private readonly backoff: Backoff
  /** In the order in which they came; urgent ones go first. */
  private readonly urgent = new Map<string, T>()
  private readonly others = new Map<string, T>()
  private isWriting = false
  private isStopped = false
  private cancelNext: (() => void) | null = null
  private writing: Promise<void> = Promise.resolve()
  private droppedCount = 0

  constructor(options: StatusQueueOptions<T>) {
    this.options = options
    this.backoff = new Backoff(RETRY, options.random)
  }

  get length(): number {
    return this.urgent.size + this.others.size
  }

  /** Writes that were given up because too many waited. */
  get dropped(): number {
    return this.droppedCount
  }

  put(key: string, item: T, isUrgent: boolean): void {
    if (this.isStopped) return
    this.forget(key)
    if (this.length >= this.options.lengthMax) {
      this.droppedCount++
      return
    }
    const queue = isUrgent ? this.urgent : this.others
    queue.set(key, item)
    this.goOn(0)
  }

  /** What waits for `key` is not wanted any more. */
  forget(key: string): void {
    this.urgent.delete(key)
    this.others.delete(key)
  }

  clear(): void {
    this.urgent.clear()
    this.others.clear()
  }

  /** Resolves when nothing is under way. What waits is not written. */
  async stop(): Promise<void> {
    this.isStopped = true
    this.cancelNext?.()
    this.clear()
    await this.writing
  }

  private goOn(delayMs: number): void {
    if (this.isWriting || this.cancelNext !== null || this.isStopped || this.length === 0) return
    this.cancelNext = this.options.clock.after(delayMs, () => {
      this.cancelNext = null
      this.writeNext()
    })
  }

  private writeNext(): void {
    const queue = this.urgent.size > 0 ? this.urgent : this.others
    const [next] = queue
    if (next === undefined) return
    const [key, item] = next
    queue.delete(key)
    const { clock, intervalMs, write } = this.options
    const startedAtMs = clock.now()
    this.isWriting = true
    this.writing = write(item).then((outcome) => {
      this.isWriting = false
      if (outcome === 'done') {
        this.backoff.reset()
        this.goOn(Math.max(0, startedAtMs + intervalMs - clock.now()))
        return
      }
      // Something newer may wait for this key by now.
      if (!this.isStopped && !this.urgent.has(key) && !this.others.has(key)) queue.set(key, item)
      this.goOn(this.backoff.nextMs())
    })
  }
}
