// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What one gRPC call keeps beyond its exchange: until when it may last, and how much of that the upstream is told.
 *
 * The deadline is the earlier one of the client's `grpc-timeout` and of the route's timeout. Every try is told what is
 * left of it, or of the try's own limit, so that no server works on for nobody. A `grpc-timeout` that is not well formed
 * sets no deadline and is passed on as it is: the server judges it, as it would without a proxy.
 */
import type { HeaderList } from '../http/headers.ts'
import { formatGrpcTimeout, grpcTimeoutOf } from './grpc.ts'

const TIMEOUT = 'grpc-timeout'

export class GrpcCall {
  /** What the client's own deadline leaves at the start, milliseconds; -1 when it set none. */
  readonly clientTimeoutMs: number
  /** The client's own deadline is the one that counts. */
  isClientDeadline: boolean
  private readonly isTold: boolean
  private endsAtMs: number
  private tryEndsAtMs: number

  constructor(headers: HeaderList, startedAtMs: number) {
    const timeoutMs = grpcTimeoutOf(headers)
    this.clientTimeoutMs = timeoutMs
    this.isClientDeadline = timeoutMs >= 0
    this.isTold = timeoutMs >= 0 || !headers.has(TIMEOUT)
    this.endsAtMs = timeoutMs >= 0 ? startedAtMs + timeoutMs : Number.POSITIVE_INFINITY
    this.tryEndsAtMs = Number.POSITIVE_INFINITY
  }

  /** A limit of the route. False when the client's own deadline is not later. */
  limitTo(endsAtMs: number): boolean {
    if (endsAtMs >= this.endsAtMs) return false
    this.endsAtMs = endsAtMs
    this.isClientDeadline = false
    return true
  }

  /** A try begins that must not last longer. */
  limitTryTo(endsAtMs: number): void {
    this.tryEndsAtMs = endsAtMs
  }

  /** The upstream is about to be sent `headers`: tells it what is left. */
  tellDeadline(headers: HeaderList, nowMs: number): void {
    const endsAtMs = Math.min(this.endsAtMs, this.tryEndsAtMs)
    if (!this.isTold || endsAtMs === Number.POSITIVE_INFINITY) return
    headers.remove(TIMEOUT)
    headers.append(TIMEOUT, formatGrpcTimeout(endsAtMs - nowMs))
  }
}
