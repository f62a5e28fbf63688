// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * HTTP connections of one version to one endpoint on behalf of one source: kept alive, limited, queued for.
 *
 * An exchange asks with `acquire` and gets a connection at once when one has room: an idle one of HTTP/1, or one of HTTP/2
 * that the server allows another stream on. Else one is dialled, within the cluster's limits, and the exchange waits its
 * turn, but not for ever. The most recently used connection is taken first, so that the others age and go. An endpoint
 * that could not be reached is left alone for a moment (connect-backoff.ts).
 */
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import { STREAMS_BEFORE_SETTINGS_MAX } from '../http/h2/limits.ts'
import type { PoolLimits } from '../model/service.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ClusterState, Endpoint } from './cluster.ts'
import { ConnectBackoff } from './connect-backoff.ts'
import { TunnelError } from './hbone.ts'
import { HttpUpstream } from './http-upstream.ts'
import type { ProxyParts } from './parts.ts'
import { PoolQueue } from './pool-queue.ts'
import type { Path } from './upstreams.ts'

/** Exchanges that may wait for a connection of one endpoint. Envoy's default of 1,024: more only adds latency. */
export const WAITING_MAX = 1024

/** Connections to one endpoint from one source. Ephemeral ports are the real limit; this keeps memory bounded. */
export const CONNECTIONS_MAX = 4096

/** Idle connections are given up after this time when the user set nothing shorter. Below the usual 60 s of servers. */
export const IDLE_MAX_MS = 55_000

/**
 * How much longer than a connect may take an exchange waits for a connection. 1 s: whoever waits for one that is being
 * made hears of its failure, not of the wait; whoever waits for a busy one has waited long enough.
 */
export const WAIT_BEYOND_CONNECT_MS = 1000

/** An exchange that waits for a connection. */
export interface PoolWaiter {
  onUpstream(upstream: HttpUpstream): void
  /** No connection can be had; `isOverflow` when a limit of the user's said no. */
  onUpstreamFailed(error: WeftError, isOverflow: boolean): void
}

/** Opens the byte stream of a new connection. */
export interface Dial {
  open(handler: Handler): Conn
}

/** The connections from one source to one endpoint. */
export class HttpPool implements TimerTarget {
  readonly parts: ProxyParts
  readonly cluster: ClusterState | null
  readonly limits: PoolLimits
  /** Null when it is none of a cluster's. */
  readonly endpoint: Endpoint | null
  /** How its connections go; see upstreams.ts. */
  readonly path: Path
  /** Its connections carry many exchanges at a time. */
  readonly speaksHttp2: boolean
  private readonly dial: Dial
  /** Connections with room, the most recently used last. Of HTTP/1 those are the idle ones. */
  private readonly roomy: HttpUpstream[]
  private readonly all: Set<HttpUpstream>
  private connecting: number
  private readonly waiting: PoolQueue
  /** Null until somebody has had to wait. */
  private waitTimer: TimerEntry | null
  private readonly backoff: ConnectBackoff
  /** Dials again when the endpoint has been left alone for long enough; null until it had to be. */
  private dialTimer: TimerEntry | null
  private isClosed: boolean
  /** A dial that nobody has looked at was repeated, and no connection has been made since. */
  private hasRedialled: boolean

  constructor(
    parts: ProxyParts,
    dial: Dial,
    limits: PoolLimits,
    cluster: ClusterState | null,
    endpoint: Endpoint | null,
    path: Path,
    speaksHttp2: boolean,
  ) {
    this.parts = parts
    this.cluster = cluster
    this.endpoint = endpoint
    this.limits = limits
    this.path = path
    this.speaksHttp2 = speaksHttp2
    this.dial = dial
    this.roomy = []
    this.all = new Set()
    this.connecting = 0
    this.waiting = new PoolQueue()
    this.waitTimer = null
    this.backoff = new ConnectBackoff(parts.random)
    this.dialTimer = null
    this.isClosed = false
    this.hasRedialled = false
  }

  get isEmpty(): boolean {
    return this.all.size === 0 && this.waiting.length === 0
  }

  /** Nobody asks it any more: its connections end with their last exchange. */
  get isGivenUp(): boolean {
    return this.isClosed || this.endpoint?.isRemoved === true
  }

  /** Exchanges wait for room. */
  get hasWaiting(): boolean {
    return this.waiting.length > 0
  }

  /** Answers through the waiter, at once when a connection has room. */
  acquire(waiter: PoolWaiter): void {
    const upstream = this.takeRoomy()
    if (upstream !== null) waiter.onUpstream(upstream)
    else this.queue(waiter)
  }

  /**
   * Like `acquire`, but not on a connection that has been idle, which the server may have given up as well: one of those
   * makes way, so that a limit on connections does not stand in between.
   */
  acquireFresh(waiter: PoolWaiter): void {
    if (this.speaksHttp2) {
      this.acquire(waiter)
      return
    }
    const idle = this.takeRoomy()
    this.queue(waiter)
    idle?.close()
  }

  /** The exchange no longer waits. */
  cancel(waiter: PoolWaiter): void {
    if (this.waiting.remove(waiter)) this.cluster?.releasePending()
  }

  /** Takes over a connection that is open already, and on which the server has said `early`. */
  adopt(conn: Conn, early: Uint8Array): void {
    this.cluster?.tryAcquireConnection()
    const upstream = new HttpUpstream(this)
    upstream.conn = conn
    conn.handler = upstream
    this.all.add(upstream)
    this.connecting++
    upstream.onOpen(conn)
    if (early.length > 0) upstream.onBytes(conn, early, 0, early.length)
  }

  /** @internal A connection has been made. */
  onConnected(upstream: HttpUpstream): void {
    this.connecting--
    this.backoff.onConnected()
    this.hasRedialled = false
    this.onAvailable(upstream)
  }

  /** @internal An upstream is open, or has finished an exchange, and can take another. */
  onAvailable(upstream: HttpUpstream): void {
    while (this.waiting.length > 0 && upstream.canOpen) {
      upstream.leaveIdle()
      this.nextWaiter()?.onUpstream(upstream)
    }
    if (this.waiting.length > 0) this.connectForWaiting()
    const isUnused = upstream.activeCount === 0
    if (this.isGivenUp) {
      if (isUnused) upstream.close()
      return
    }
    if (!upstream.canOpen) return
    if (!upstream.isListed) {
      upstream.isListed = true
      this.roomy.push(upstream)
    }
    if (isUnused) upstream.enterIdle(this.idleTimeoutMs())
  }

  /** @internal */
  onGone(upstream: HttpUpstream, wasOpen: boolean, error: WeftError | null): void {
    if (!this.all.delete(upstream)) return
    this.cluster?.releaseConnection()
    this.unlist(upstream)
    if (wasOpen) {
      if (this.waiting.length > 0) this.connectForWaiting()
      return
    }
    this.connecting--
    this.onConnectFailed(upstream, error)
  }

  private onConnectFailed(upstream: HttpUpstream, error: WeftError | null): void {
    const failure = error ?? new WeftError('WEFT_CONNECT', 'the connection was closed while it was being made')
    if (failure instanceof TunnelError && failure.isUnprocessed && !this.hasRedialled) {
      // The peer is going away and has not looked at it: another connection is as good as the first. Once.
      this.hasRedialled = true
      this.connectForWaiting()
      return
    }
    this.backoff.onFailed(failure, upstream.dialledAtMs, this.parts.nowMs())
    this.nextWaiter()?.onUpstreamFailed(failure, false)
    // Of HTTP/2 the others waited for the same connection; of HTTP/1 for one of their own, which may be made now.
    if (this.waiting.length > 0 && (!this.speaksHttp2 || this.all.size > 0)) this.connectForWaiting()
    while (this.all.size === 0 && this.waiting.length > 0) this.nextWaiter()?.onUpstreamFailed(failure, false)
  }

  /** Closes what is idle now and everything else when its exchanges are over. */
  close(): void {
    this.isClosed = true
    for (const upstream of [...this.roomy]) if (upstream.activeCount === 0) upstream.close()
  }

  /** A connection with room; null when there is none. HTTP/1 has room for one: then it is taken off the list. */
  private takeRoomy(): HttpUpstream | null {
    const { roomy } = this
    while (roomy.length > 0) {
      const upstream = roomy[roomy.length - 1]!
      if (upstream.canOpen) {
        upstream.leaveIdle()
        if (!this.speaksHttp2) this.unlist(upstream)
        return upstream
      }
      upstream.isListed = false
      roomy.pop()
    }
    return null
  }

  private unlist(upstream: HttpUpstream): void {
    if (!upstream.isListed) return
    upstream.isListed = false
    const { roomy } = this
    if (roomy[roomy.length - 1] === upstream) roomy.pop()
    else roomy.splice(roomy.indexOf(upstream), 1)
  }

  private queue(waiter: PoolWaiter): void {
    if (this.waiting.length >= WAITING_MAX || this.cluster?.tryAcquirePending() === false) {
      waiter.onUpstreamFailed(new WeftError('WEFT_LIMIT', 'too many requests wait for a connection'), true)
      return
    }
    // One look at the clock: a pause that ends meanwhile must not look like a limit.
    const nowMs = this.parts.nowMs()
    this.waiting.push(waiter, nowMs)
    // Each waiter of HTTP/1 brings a connection of its own; those of HTTP/2 share what is being made.
    if (!this.speaksHttp2) this.tryConnect(nowMs)
    else this.connectForWaiting(nowMs)
    if (this.waiting.length === 0) return
    if (this.all.size === 0) this.turnAway(waiter, nowMs)
    else this.startWaitTimer(this.waitMsMax())
  }

  /** Nothing of ours will ever be given back to this waiter. */
  private turnAway(waiter: PoolWaiter, nowMs: number): void {
    this.cancel(waiter)
    if (this.backoff.waitMs(nowMs) > 0) waiter.onUpstreamFailed(this.backoff.failure(nowMs), false)
    else waiter.onUpstreamFailed(new WeftError('WEFT_LIMIT', 'the connection limit of the cluster is reached'), true)
  }

  /** Makes the connections that those who wait need, as far as is allowed. */
  private connectForWaiting(nowMs = this.parts.nowMs()): void {
    const perConnection = this.speaksHttp2 ? STREAMS_BEFORE_SETTINGS_MAX : 1
    while (this.waiting.length > this.connecting * perConnection) if (!this.tryConnect(nowMs)) return
  }

  private tryConnect(nowMs: number): boolean {
    const backoffMs = this.backoff.waitMs(nowMs)
    if (backoffMs > 0) {
      this.dialTimer ??= new TimerEntry(this)
      this.parts.deadlines.start(this.dialTimer, backoffMs)
      return false
    }
    if (this.all.size >= CONNECTIONS_MAX || this.cluster?.tryAcquireConnection() === false) return false
    const upstream = new HttpUpstream(this)
    this.all.add(upstream)
    this.connecting++
    upstream.conn = this.dial.open(upstream)
    return true
  }

  private nextWaiter(): PoolWaiter | null {
    const waiter = this.waiting.shift()
    if (waiter !== null) this.cluster?.releasePending()
    return waiter
  }

  // --- time ---

  onTimer(entry: TimerEntry): void {
    if (entry === this.dialTimer) this.connectForWaiting()
    else this.failOverdue()
  }

  /** Runs on when it runs: the first in the queue has waited longest. */
  private startWaitTimer(delayMs: number): void {
    this.waitTimer ??= new TimerEntry(this)
    if (!this.waitTimer.isRunning) this.parts.timers.start(this.waitTimer, delayMs)
  }

  /** Those who have waited too long are told so. */
  private failOverdue(): void {
    const { waiting, cluster } = this
    const waitMsMax = this.waitMsMax()
    const nowMs = this.parts.nowMs()
    while (waiting.length > 0 && nowMs - waiting.oldestMs >= waitMsMax) {
      if (cluster !== null) cluster.pendingTimedOut++
      // A connection that is still being made is slow; without one a limit stands in the way.
      const isOverflow = this.connecting === 0
      const reason = isOverflow ? 'all connections stayed busy' : 'the endpoint did not take the connection'
      const text = `no connection within ${Math.round(waitMsMax)} ms: ${reason}`
      this.nextWaiter()?.onUpstreamFailed(new WeftError('WEFT_TIMEOUT', text), isOverflow)
    }
    if (waiting.length > 0) this.startWaitTimer(waitMsMax - (nowMs - waiting.oldestMs))
  }

  private waitMsMax(): number {
    return this.limits.connectTimeoutMs + WAIT_BEYOND_CONNECT_MS
  }

  private idleTimeoutMs(): number {
    const timeoutMs = this.limits.idleTimeoutMs
    return timeoutMs > 0 && timeoutMs < IDLE_MAX_MS ? timeoutMs : IDLE_MAX_MS
  }
}
