/**
 * What operators see of peers that break the rules of HTTP: a counter always, a log line that says who and why as far as
 * the log is not flooded, and for a request that was refused before it became an exchange its line of the access log.
 */
import { FLAG_DOWNSTREAM_PROTOCOL } from '../base/errors.ts'
import type { ProtocolViolation } from '../http/codec.ts'
import { RateBudget } from '../http/h2/rate-budget.ts'
import type { AccessRecord, EdgeKey, EdgeMetrics, ViolationSide } from '../telemetry/recorder.ts'
import type { ProxyParts } from './parts.ts'

/** Log lines: 100 at once, then ten a second for each thread. A peer can cause thousands; the counter has them all. */
const lines = new RateBudget(100, 10, 0, Date.now)

/** Counts a violation and logs it. `who` names the pod and its peer. */
export function noteViolation(
  parts: ProxyParts,
  side: ViolationSide,
  violation: ProtocolViolation,
  who: Record<string, string>,
): void {
  parts.recorder.violation(side, violation.reason)
  if (!lines.take(0)) return
  const message = side === 'downstream' ? 'a client broke HTTP rules' : 'an upstream broke HTTP rules'
  parts.log.info(message, { ...who, reason: violation.reason, detail: violation.message })
}

/** Where a refused request came from, as far as that is known without its head. */
export interface RefusedAt {
  readonly edge: EdgeKey
  readonly metrics: EdgeMetrics
  readonly downstream: string
}

/** Counts and logs the request that a violation refused. */
export function noteRefusal(parts: ProxyParts, violation: ProtocolViolation, at: RefusedAt): void {
  at.metrics.exchangeFinished(violation.status, -1, FLAG_DOWNSTREAM_PROTOCOL, 0, 0, 0)
  if (parts.recorder.isLogging) parts.recorder.log(refusalRecord(parts.nowMs(), violation, at))
}

function refusalRecord(nowMs: number, violation: ProtocolViolation, at: RefusedAt): AccessRecord {
  return {
    startedAtMs: nowMs,
    durationMs: 0,
    edge: at.edge,
    flag: FLAG_DOWNSTREAM_PROTOCOL,
    details: `${violation.reason}: ${violation.message}`,
    downstream: at.downstream,
    upstream: '',
    receivedBytes: 0,
    sentBytes: 0,
    http: {
      method: '',
      path: '',
      authority: '',
      protocol: '',
      status: violation.status,
      grpcStatus: -1,
      route: '',
      requestId: '',
    },
  }
}
