/**
 * After two failed connects in a row an endpoint is left alone for a moment: longer each time, but never so long that
 * one that has come back would be missed for a second. A single failure costs nobody else anything.
 *
 * Whoever asks meanwhile is told the old failure at once and can go to another endpoint. What counts is one wave of
 * attempts: connects that were under way together fail together, and are one failure.
 */
import { Backoff, type BackoffSettings } from '../base/backoff.ts'
import { describeError, type ErrorCode, WeftError } from '../base/errors.ts'

/**
 * 25 ms at first: the shortest wait of a retry by default, so that a lone request that is retried finds the endpoint free
 * to be tried again. 500 ms at most: two attempts a second cost nobody anything, and a tunnel's connection and what goes
 * through it, which wait one after the other, still come back within a second.
 */
export const CONNECT_BACKOFF: BackoffSettings = { baseMs: 25, maxMs: 500 }

/** Failures of our own side, which say nothing about the endpoint. */
const OWN_FAULTS: ReadonlySet<ErrorCode> = new Set(['WEFT_CERTIFICATE', 'WEFT_LIMIT', 'WEFT_SYSCALL', 'WEFT_CLOSED'])

/** The failure of a moment ago, told again without another attempt: it is no news about the endpoint. */
export class BackingOffError extends WeftError {}

/** When an endpoint may be dialled again. */
export class ConnectBackoff {
  private readonly backoff: Backoff
  private error: WeftError | null = null
  private failedAtMs = 0
  private retryAtMs = 0

  /** `random` is in [0, 1). */
  constructor(random: () => number) {
    this.backoff = new Backoff(CONNECT_BACKOFF, random)
  }

  /** Milliseconds until the next attempt may be made; 0 when it may be made now. */
  waitMs(nowMs: number): number {
    return this.error === null ? 0 : Math.max(0, this.retryAtMs - nowMs)
  }

  /** What those are told who cannot wait. Only while `waitMs` is above 0. */
  failure(nowMs: number): BackingOffError {
    const error = this.error!
    const wait = Math.ceil(this.waitMs(nowMs))
    return new BackingOffError(error.code, `not tried again for ${wait} ms after: ${describeError(error)}`)
  }

  onConnected(): void {
    if (this.error === null) return
    this.error = null
    this.backoff.reset()
  }

  /** An attempt that began at `dialledAtMs` failed. */
  onFailed(error: WeftError, dialledAtMs: number, nowMs: number): void {
    if (OWN_FAULTS.has(error.code) || error instanceof BackingOffError) return
    if (this.error !== null && dialledAtMs <= this.failedAtMs) return
    const hasFailedBefore = this.error !== null
    this.error = error
    this.failedAtMs = nowMs
    if (hasFailedBefore) this.retryAtMs = nowMs + this.backoff.nextMs()
  }
}
