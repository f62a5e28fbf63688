// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What one gRPC call keeps beyond its exchange: until when it may last, how much of that the upstream is told, and how many
 * messages have passed.
 *
 * The deadline is the earlier one of the client's `grpc-timeout` and of the route's timeout. Every try is told what is
 * left of it, or of the try's own limit, so that no server works on for nobody. A `grpc-timeout` that is not well formed
 * sets no deadline and is passed on as it is: the server judges it, as it would without a proxy.
 */
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { HeaderList } from '../http/headers.ts'
import type { Exchange } from './exchange.ts'
import { formatGrpcTimeout, grpcTimeoutOf } from './grpc.ts'
import { MessageCounter } from './message-counter.ts'

const TIMEOUT = 'grpc-timeout'

/** Messages of a stream that goes on are told this long after they passed, as Istio does. */
const MESSAGES_FLUSH_MS = 5000

export class GrpcCall implements TimerTarget {
  readonly requests: MessageCounter
  readonly responses: MessageCounter
  /** What the client's own deadline leaves at the start, milliseconds; -1 when it set none. */
  readonly clientTimeoutMs: number
  /** The client's own deadline is the one that counts. */
  isClientDeadline: boolean
  private readonly exchange: Exchange
  private readonly isTold: boolean
  private endsAtMs: number
  private tryEndsAtMs: number
  /** Null until a second message passes in one direction: unary calls are told when they end. */
  private flush: TimerEntry | null

  constructor(exchange: Exchange, headers: HeaderList, startedAtMs: number) {
    const timeoutMs = grpcTimeoutOf(headers)
    this.clientTimeoutMs = timeoutMs
    this.isClientDeadline = timeoutMs >= 0
    this.isTold = timeoutMs >= 0 || !headers.has(TIMEOUT)
    this.endsAtMs = timeoutMs >= 0 ? startedAtMs + timeoutMs : Number.POSITIVE_INFINITY
    this.tryEndsAtMs = Number.POSITIVE_INFINITY
    this.exchange = exchange
    this.requests = new MessageCounter()
    this.responses = new MessageCounter()
    this.flush = null
  }

  /** A part of the request's body; of a stream's, the second message on asks for a report. */
  addRequest(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    if (this.requests.add(bytes, offset, end) > 1 && this.flush?.isRunning !== true) this.startFlush()
  }

  /** The same of a response with status 200: others are not made of messages. */
  addResponse(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    if (this.responses.add(bytes, offset, end) > 1 && this.flush?.isRunning !== true) this.startFlush()
  }

  onTimer(): void {
    this.exchange.origin.recordMessages(this.exchange)
  }

  /** The exchange is over; what was not told yet is recorded with it. */
  close(): void {
    if (this.flush !== null) this.exchange.parts.timers.clear(this.flush)
  }

  private startFlush(): void {
    // A chunk of a message that was told already.
    if (this.requests.untold + this.responses.untold === 0) return
    this.flush ??= new TimerEntry(this)
    this.exchange.parts.timers.start(this.flush, MESSAGES_FLUSH_MS)
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
