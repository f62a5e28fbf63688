/**
 * Failures to accept, for the log: a process at its limit of descriptors fails, accepts and fails again with every
 * connection that ends, and one sentence in a while says it.
 */
import { WeftError } from '../base/errors.ts'
import { describeErrno } from './connect-error.ts'

export class AcceptReports {
  private readonly intervalMs: number
  private reportedMs = Number.NEGATIVE_INFINITY

  constructor(intervalMs: number) {
    this.intervalMs = intervalMs
  }

  /** The error to report; null when one was reported not long ago. `error.code` is the errno. */
  failed(port: number, error: Error & { code?: string }): WeftError | null {
    const nowMs = performance.now()
    if (nowMs - this.reportedMs < this.intervalMs) return null
    this.reportedMs = nowMs
    const reason = describeErrno(error.code ?? error.message)
    const text = `cannot accept on port ${port}: ${reason}; connections wait in the kernel meanwhile`
    return new WeftError('WEFT_SYSCALL', text, error)
  }
}
