// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One HTTP request and its response, between a downstream stream and an upstream connection of a pool.
 *
 * The origin (outbound.ts or inbound.ts) decides where it goes by calling `forward` or `reply`; the exchange moves the
 * bytes, keeps both sides' back-pressure, retries, watches the deadlines and ends exactly once, in `finish`.
 *
 *     routing --forward()--> waiting --onUpstream--> trying --response head--> responding --> done
 *        \                      \                       \--retry--> waiting
 *         \--reply() ------------\-----------------------\----------------------------------> done
 */
import { assert } from '../base/assert.ts'
import { FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type Flag, type WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type {
  ClientStream,
  RequestHead,
  RequestReceiver,
  ResponseHead,
  ResponseReceiver,
  ServerStream,
} from '../http/codec.ts'
import type { HeaderList } from '../http/headers.ts'
import { BACKLOG_HIGH } from '../transport/conn.ts'
import type { ClusterState, Endpoint } from './cluster.ts'
import { BackingOffError } from './connect-backoff.ts'
import { cleanTrailers } from './forwarding-headers.ts'
import { grpcContentTypeOf, grpcStatusOf, httpStatusFor, impliedGrpcStatus, isGrpcRequest } from './grpc.ts'
import { GrpcCall } from './grpc-call.ts'
import { HeldBody, LOST_BODY } from './held-body.ts'
import type { HttpPool, PoolWaiter } from './http-pool.ts'
import type { HttpUpstream } from './http-upstream.ts'
import type { MirroredRequest } from './mirror.ts'
import type { ProxyParts } from './parts.ts'
import {
  grpcStatusOfReply,
  grpcTrailers,
  REPLY_CONNECT_FAILED,
  REPLY_DEADLINE,
  REPLY_NEEDS_HTTP2,
  REPLY_OVERFLOW,
  REPLY_TIMEOUT,
  type Reply,
  resetReply,
  writeGrpcReply,
  writeReply,
} from './reply.ts'
import { isIdempotent, pushbackMsOf, type RetryPolicy } from './retry.ts'
import type { CompiledDestination, CompiledRoute } from './route-table.ts'

const STATE_ROUTING = 0
const STATE_WAITING = 1
const STATE_TRYING = 2
const STATE_RESPONDING = 3
const STATE_DONE = 4

/** Where an exchange comes from, and who decides where it goes. */
export interface ExchangeOrigin {
  /** Decide: call `exchange.forward` or `exchange.reply`, now or later. */
  route(exchange: Exchange): void
  /** Another try: pick an endpoint that is not in `exchange.tried` and call `forward`, or `reply`. */
  reroute(exchange: Exchange): void
  /** The upstream answers: edit the head. */
  onResponseHead(exchange: Exchange, headers: HeaderList): void
  /** The exchange is over: counters and access log. */
  record(exchange: Exchange): void
  /** A gRPC call goes on: counts the messages since the last time. */
  recordMessages(exchange: Exchange): void
}

export class Exchange implements RequestReceiver, ResponseReceiver, PoolWaiter, TimerTarget {
  readonly parts: ProxyParts
  readonly origin: ExchangeOrigin
  readonly stream: ServerStream
  readonly head: RequestHead
  readonly startedAtMs: number
  /** Null when it is not gRPC. */
  readonly grpc: GrpcCall | null

  // --- decided by the origin ---
  route: CompiledRoute | null
  destination: CompiledDestination | null
  cluster: ClusterState | null
  endpoint: Endpoint | null
  retry: RetryPolicy | null
  tryTimeoutMs: number
  /** What a fault rule injects, perhaps after its delay; 0 and -1 are none. */
  injectedStatus: number
  injectedGrpcStatus: number

  // --- what happened ---
  status: number
  /** Of the response, or what its end means to a gRPC client; -1 when it is not gRPC. */
  grpcStatus: number
  flag: Flag
  details: string
  receivedBytes: number
  sentBytes: number
  /** Endpoints that failed this exchange; null until the first did. */
  tried: Endpoint[] | null
  attempt: number

  private state: number
  private pool: HttpPool | null
  private client: ClientStream | null
  private isReused: boolean
  /** The upstream knows for certain what it did not process; see `onResponseReset`. */
  private isCertain: boolean
  private hasRepeated: boolean
  private isCounted: boolean
  private isRetryCounted: boolean
  /** Null until a byte of it was read. */
  private body: HeldBody | null
  /** What is read now may be needed by another try. */
  private isRepeatable: boolean
  private trailers: HeaderList | null
  private isRequestEnded: boolean
  private isResponseEnded: boolean
  private isTunnel: boolean
  private isRequestPaused: boolean
  private isResponsePaused: boolean
  private deadline: TimerEntry | null
  private tryDeadline: TimerEntry | null
  private wait: TimerEntry | null
  private afterWait: number
  private mirrors: MirroredRequest[] | null

  constructor(parts: ProxyParts, origin: ExchangeOrigin, stream: ServerStream, head: RequestHead) {
    this.parts = parts
    this.origin = origin
    this.stream = stream
    this.head = head
    this.startedAtMs = parts.nowMs()
    this.grpc = head.version === 20 && isGrpcRequest(head) ? new GrpcCall(this, head.headers, this.startedAtMs) : null
    this.route = null
    this.destination = null
    this.cluster = null
    this.endpoint = null
    this.retry = null
    this.tryTimeoutMs = 0
    this.injectedStatus = 0
    this.injectedGrpcStatus = -1
    this.status = 0
    this.grpcStatus = -1
    this.flag = FLAG_NONE
    this.details = ''
    this.receivedBytes = 0
    this.sentBytes = 0
    this.tried = null
    this.attempt = 0
    this.state = STATE_ROUTING
    this.pool = null
    this.client = null
    this.isReused = false
    this.isCertain = false
    this.hasRepeated = false
    this.isCounted = false
    this.isRetryCounted = false
    this.body = null
    this.isRepeatable = true
    this.trailers = null
    this.isRequestEnded = false
    this.isResponseEnded = false
    this.isTunnel = false
    this.isRequestPaused = false
    this.isResponsePaused = false
    this.deadline = null
    this.tryDeadline = null
    this.wait = null
    this.afterWait = AFTER_WAIT_ROUTE
    this.mirrors = null
  }

  get isGrpc(): boolean {
    return this.grpc !== null
  }

  get isDone(): boolean {
    return this.state === STATE_DONE
  }

  // --- decisions of the origin ---

  /** Starts the deadline of the whole exchange, retries included. A gRPC client's own wins where it is shorter. */
  startDeadline(timeoutMs: number): void {
    if (timeoutMs <= 0 || this.grpc?.limitTo(this.startedAtMs + timeoutMs) === false) return
    this.deadline ??= new TimerEntry(this)
    this.parts.deadlines.start(this.deadline, timeoutMs)
  }

  /** Starts the deadline that a gRPC client has set itself. False when it is over: the client has been told. */
  startClientDeadline(): boolean {
    const timeoutMs = this.grpc === null ? -1 : this.grpc.clientTimeoutMs
    if (timeoutMs < 0) return true
    if (timeoutMs === 0) {
      this.reply(REPLY_DEADLINE, null, 'the client gave the call no time')
      return false
    }
    this.deadline = new TimerEntry(this)
    this.parts.deadlines.start(this.deadline, timeoutMs)
    return true
  }

  /** Asks the origin again after `delayMs` (an injected delay, or the back-off of a retry). */
  routeAfter(delayMs: number, isRetry: boolean): void {
    this.wait = new TimerEntry(this)
    this.afterWait = isRetry ? AFTER_WAIT_REROUTE : AFTER_WAIT_ROUTE
    this.holdRequest()
    this.parts.deadlines.start(this.wait, delayMs)
  }

  /** Sends the request to an endpoint of `pool`. */
  forward(pool: HttpPool): void {
    if (pool.speaksHttp2 && this.head.version !== 20 && isGrpcRequest(this.head)) {
      this.reply(REPLY_NEEDS_HTTP2, null, 'gRPC over HTTP/1 was refused')
      return
    }
    this.pool = pool
    this.state = STATE_WAITING
    if (this.endpoint !== null) {
      this.endpoint.onRequestStart()
      this.isCounted = true
    }
    if (this.tryTimeoutMs > 0) {
      this.tryDeadline ??= new TimerEntry(this)
      this.parts.deadlines.start(this.tryDeadline, this.tryTimeoutMs)
      this.grpc?.limitTryTo(this.parts.nowMs() + this.tryTimeoutMs)
    }
    pool.acquire(this)
    if (this.state === STATE_WAITING) this.holdRequest()
  }

  /** A mirrored request that is fed with this one's body. */
  addMirror(mirror: MirroredRequest): void {
    // What was read before (during an injected delay, say) belongs to the mirror as well.
    this.body?.copyTo(mirror)
    if (this.isRequestEnded || this.head.bodyLength === 0) {
      mirror.send()
      return
    }
    if (this.mirrors === null) this.mirrors = [mirror]
    else this.mirrors.push(mirror)
  }

  /** Answers without an upstream. */
  reply(reply: Reply, headers: HeaderList | null, details: string): void {
    if (this.state === STATE_DONE) return
    this.status = reply.status
    this.flag = reply.flag
    this.details = details
    const isStarted = this.state === STATE_RESPONDING
    this.dropUpstream()
    this.isResponseEnded = true
    this.state = STATE_DONE
    this.releaseRequest()
    if (this.grpc !== null) {
      // A status among the headers, or in trailers once a response has begun.
      this.grpcStatus = grpcStatusOfReply(reply)
      this.status = 200
      if (isStarted) this.stream.end(grpcTrailers(reply))
      else writeGrpcReply(this.stream, reply, headers, grpcContentTypeOf(this.head.headers))
    } else if (isStarted) this.stream.reset()
    else this.sentBytes += writeReply(this.stream, reply, headers)
    this.finish()
  }

  // --- the request, from downstream ---

  onRequestBody(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.receivedBytes += end - offset
    if (this.state === STATE_DONE) return
    if (this.grpc !== null) this.grpc.addRequest(bytes, offset, end)
    if (this.isTunnel) {
      this.writeUpstream(bytes, offset, end)
      return
    }
    if (this.mirrors !== null) for (const mirror of this.mirrors) mirror.add(bytes, offset, end)
    this.holdBody(bytes, offset, end)
    if (this.client !== null) this.writeUpstream(bytes, offset, end)
  }

  onRequestEnd(trailers: HeaderList | null): void {
    this.isRequestEnded = true
    if (trailers !== null) cleanTrailers(trailers)
    this.trailers = trailers
    if (this.state === STATE_DONE) return
    if (this.mirrors !== null) {
      for (const mirror of this.mirrors) mirror.send()
      this.mirrors = null
    }
    if (this.isTunnel || this.head.bodyLength !== 0) this.client?.end(trailers)
    this.finishIfBothEnded()
  }

  onRequestReset(reason: string, flag: Flag): void {
    if (this.state === STATE_DONE) return
    this.flag = flag
    this.details = reason
    this.dropUpstream()
    this.state = STATE_DONE
    this.finish()
  }

  onResponseDrain(): void {
    if (!this.isResponsePaused) return
    this.isResponsePaused = false
    this.client?.resumeResponse()
  }

  // --- the upstream ---

  onUpstream(upstream: HttpUpstream): void {
    assert(this.state === STATE_WAITING && upstream.codec !== null, 'a connection comes only to a waiting exchange')
    this.state = STATE_TRYING
    this.isReused = upstream.servedCount > 0
    this.isCertain = upstream.isCertain
    upstream.servedCount++
    this.grpc?.tellDeadline(this.head.headers, this.parts.nowMs())
    const client = upstream.codec.open(this.head, this)
    this.client = client
    // A try over HTTP/1 that carried some of its body counts as processed, whatever became of it.
    this.isRepeatable = this.isCertain || this.retry?.mayRetryProcessed(this.grpc !== null) === true
    if (this.body !== null) {
      this.body.writeTo(client)
      if (!this.isRepeatable || !this.body.canReplay) this.body = LOST_BODY
    }
    if (this.isRequestEnded && this.head.bodyLength !== 0) client.end(this.trailers)
    this.releaseRequest()
  }

  onUpstreamFailed(error: WeftError, isOverflow: boolean): void {
    if (isOverflow) {
      this.reply(REPLY_OVERFLOW, null, error.message)
      return
    }
    if (!(error instanceof BackingOffError)) this.endpoint?.onFailure(true, this.parts.nowMs())
    if (this.retry?.shouldRetryConnectFailure === true && this.tryAgain()) return
    this.reply(REPLY_CONNECT_FAILED, null, error.message)
  }

  onInformational(status: number, headers: HeaderList): void {
    if (this.state === STATE_TRYING) this.stream.writeInformational(status, headers)
  }

  onResponseHead(head: ResponseHead): void {
    if (this.state !== STATE_TRYING) return
    const grpcStatus = this.grpc !== null ? grpcStatusOf(head.headers) : -1
    // A gRPC call that goes on tells its outcome in trailers.
    if (grpcStatus >= 0) this.noteOutcome(httpStatusFor(grpcStatus))
    else if (this.grpc === null || head.status !== 200) this.noteOutcome(head.status)
    if (this.retry?.shouldRetryStatus(head.status, grpcStatus) === true && this.tryAgain(pushbackMsOf(head.headers)))
      return
    this.grpcStatus = grpcStatus
    this.state = STATE_RESPONDING
    this.isRepeatable = false
    if (this.body !== null) this.body = LOST_BODY
    this.status = head.status
    this.clear(this.tryDeadline)
    this.origin.onResponseHead(this, head.headers)
    if (head.status === 101 || (this.head.method === 'CONNECT' && head.status < 300)) this.becomeTunnel()
    this.stream.writeHead(head)
  }

  onResponseBody(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    if (this.state !== STATE_RESPONDING) return
    const length = end - offset
    this.sentBytes += length
    if (this.grpc !== null && this.status === 200) this.grpc.addResponse(bytes, offset, end)
    if (this.stream.writeBody(bytes, offset, length) > BACKLOG_HIGH && !this.isResponsePaused) {
      this.isResponsePaused = true
      this.client?.pauseResponse()
    }
  }

  onResponseEnd(trailers: HeaderList | null): void {
    if (this.state !== STATE_RESPONDING) return
    this.isResponseEnded = true
    if (this.grpc !== null && this.grpcStatus < 0) {
      this.grpcStatus = grpcStatusOf(trailers)
      if (this.grpcStatus >= 0) this.noteOutcome(httpStatusFor(this.grpcStatus))
    }
    this.stream.end(trailers)
    if (this.isTunnel) {
      this.finishIfBothEnded()
      return
    }
    // An upstream that answers before it has the whole request does not want the rest.
    if (!this.isRequestEnded) this.dropUpstream()
    this.client = null
    this.state = STATE_DONE
    this.releaseRequest()
    this.finish()
  }

  onResponseReset(reason: string, wasProcessed: boolean, flag: Flag, errorCode = -1): void {
    this.client = null
    if (this.state === STATE_RESPONDING) {
      if (this.grpc !== null) {
        this.reply(resetReply(flag, errorCode), null, reason)
        return
      }
      this.flag = flag
      this.details = reason
      this.state = STATE_DONE
      this.stream.reset()
      this.finish()
      return
    }
    if (this.state !== STATE_TRYING) return
    if (!wasProcessed && this.mayRepeat()) {
      // Not counted as a retry: nobody has acted on it.
      this.hasRepeated = true
      this.state = STATE_WAITING
      this.pool?.acquireFresh(this)
      if (this.state === STATE_WAITING) this.holdRequest()
      return
    }
    this.endpoint?.onFailure(true, this.parts.nowMs())
    if (this.retry?.shouldRetryReset(wasProcessed, false) === true && this.tryAgain()) return
    this.reply(resetReply(flag, errorCode), null, reason)
  }

  onRequestDrain(): void {
    this.releaseRequest()
  }

  // --- deadlines ---

  onTimer(entry: TimerEntry): void {
    if (this.state === STATE_DONE) return
    if (entry === this.wait) {
      if (this.afterWait === AFTER_WAIT_REROUTE) this.origin.reroute(this)
      else this.origin.route(this)
      return
    }
    this.endpoint?.onFailure(true, this.parts.nowMs())
    if (entry === this.tryDeadline && this.state !== STATE_RESPONDING) {
      if (this.retry?.shouldRetryTimeout === true && this.tryAgain()) return
    }
    const isClients = entry === this.deadline && this.grpc?.isClientDeadline === true
    this.reply(isClients ? REPLY_DEADLINE : REPLY_TIMEOUT, null, 'the upstream did not answer in time')
  }

  /** The worker stops, or a policy now denies this connection. */
  abort(reason: string): void {
    this.onRequestReset(reason, FLAG_DOWNSTREAM_CLOSED)
  }

  // --- inner workings ---

  /** Starts another try when one is allowed; false leaves everything as it is. `pushbackMs` as `pushbackMsOf` says. */
  private tryAgain(pushbackMs = 0): boolean {
    const retry = this.retry
    if (retry === null || pushbackMs < 0 || this.attempt >= retry.attempts || !this.canReplay()) return false
    if (this.cluster !== null) {
      if (!this.isRetryCounted && !this.cluster.tryAcquireRetry()) return false
      this.isRetryCounted = true
    }
    this.attempt++
    if (this.endpoint !== null && retry.avoidsPreviousHosts) {
      if (this.tried === null) this.tried = [this.endpoint]
      else this.tried.push(this.endpoint)
    }
    this.dropUpstream()
    this.state = STATE_ROUTING
    this.routeAfter(Math.max(pushbackMs, retry.backoffMs(this.attempt, this.parts.random())), true)
    return true
  }

  /** Lets go of the connection or of the place in its queue, and of the endpoint. */
  private dropUpstream(): void {
    if (this.state === STATE_WAITING) this.pool?.cancel(this)
    this.client?.reset()
    this.client = null
    this.clear(this.tryDeadline)
    this.endTry()
    if (this.state !== STATE_DONE) this.state = STATE_ROUTING
  }

  private endTry(): void {
    if (!this.isCounted) return
    this.isCounted = false
    this.endpoint?.onRequestEnd()
  }

  private noteOutcome(status: number): void {
    if (this.endpoint?.observer == null) return
    if (status >= 500) this.endpoint.onFailure(status >= 502 && status <= 504, this.parts.nowMs())
    else this.endpoint.onSuccess(this.parts.nowMs())
  }

  private becomeTunnel(): void {
    this.isTunnel = true
    this.isRequestEnded = false
    this.clear(this.deadline)
  }

  private finishIfBothEnded(): void {
    if (!this.isTunnel || !this.isRequestEnded || !this.isResponseEnded) return
    this.client = null
    this.state = STATE_DONE
    this.finish()
  }

  /**
   * Once more at once, on another connection: after a kept-alive connection of HTTP/1 that the app closed just then, as
   * far as one may guess; after a refused stream or a GOAWAY of HTTP/2, which are certain, once.
   */
  private mayRepeat(): boolean {
    if (!this.canReplay()) return false
    return this.isCertain ? !this.hasRepeated : this.isReused && isIdempotent(this.head.method)
  }

  private canReplay(): boolean {
    return this.body === null || this.body.canReplay
  }

  private holdBody(bytes: Uint8Array, offset: number, end: number): void {
    if (this.client !== null && (!this.isRepeatable || this.body?.hasRoom(end - offset) === false)) {
      this.body = LOST_BODY
      return
    }
    this.body ??= new HeldBody(0)
    this.body.add(bytes, offset, end)
  }

  private writeUpstream(bytes: Uint8Array, offset: number, end: number): void {
    if (this.client === null) return
    if (this.client.writeBody(bytes, offset, end - offset) > BACKLOG_HIGH) this.holdRequest()
  }

  private holdRequest(): void {
    if (this.isRequestPaused || this.isRequestEnded) return
    this.isRequestPaused = true
    this.stream.pauseRequest()
  }

  private releaseRequest(): void {
    if (!this.isRequestPaused) return
    this.isRequestPaused = false
    this.stream.resumeRequest()
  }

  private clear(entry: TimerEntry | null): void {
    if (entry !== null) this.parts.deadlines.clear(entry)
  }

  /** Exactly once, whatever the end. */
  private finish(): void {
    this.clear(this.deadline)
    this.clear(this.tryDeadline)
    this.clear(this.wait)
    this.body = null
    if (this.grpc !== null) {
      this.grpc.close()
      if (this.grpcStatus < 0) this.grpcStatus = impliedGrpcStatus(this.flag, this.status)
    }
    this.endTry()
    if (this.isRetryCounted) this.cluster?.releaseRetry()
    this.origin.record(this)
  }
}

const AFTER_WAIT_ROUTE = 0
const AFTER_WAIT_REROUTE = 1
