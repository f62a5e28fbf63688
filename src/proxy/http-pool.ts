// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * HTTP connections of one version to one endpoint on behalf of one source: kept alive, limited, queued for.
 *
 * An exchange asks with `acquire` and gets a connection at once when one has room: an idle one of HTTP/1, or one of HTTP/2
 * that the server allows another stream on. Else one is dialled, within the cluster's limits, and the exchange waits its
 * turn. The most recently used connection is taken first, so that the others age and go.
 */
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { HttpClientConnection, HttpClientEvents } from '../http/codec.ts'
import { H1ClientConnection } from '../http/h1/client-connection.ts'
import { H2ClientConnection } from '../http/h2/client-connection.ts'
import { STREAMS_BEFORE_SETTINGS_MAX } from '../http/h2/limits.ts'
import type { PoolLimits } from '../model/service.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ClusterState } from './cluster.ts'
import type { ProxyParts } from './parts.ts'
import type { Path } from './upstreams.ts'

/** Exchanges that may wait for a connection of one endpoint. Envoy's default of 1,024: more only adds latency. */
export const WAITING_MAX = 1024

/** Connections to one endpoint from one source. Ephemeral ports are the real limit; this keeps memory bounded. */
export const CONNECTIONS_MAX = 4096

/** Idle connections are given up after this time when the user set nothing shorter. Below the usual 60 s of servers. */
export const IDLE_MAX_MS = 55_000

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
export class HttpPool {
  readonly parts: ProxyParts
  readonly cluster: ClusterState | null
  readonly limits: PoolLimits
  /** How its connections go; see upstreams.ts. */
  readonly path: Path
  /** Its connections carry many exchanges at a time. */
  readonly speaksHttp2: boolean
  private readonly dial: Dial
  /** Connections with room, the most recently used last. Of HTTP/1 those are the idle ones. */
  private readonly roomy: HttpUpstream[]
  private readonly all: Set<HttpUpstream>
  private connecting: number
  private waiting: PoolWaiter[]
  private isClosed: boolean

  constructor(
    parts: ProxyParts,
    dial: Dial,
    limits: PoolLimits,
    cluster: ClusterState | null,
    path: Path,
    speaksHttp2: boolean,
  ) {
    this.parts = parts
    this.cluster = cluster
    this.limits = limits
    this.path = path
    this.speaksHttp2 = speaksHttp2
    this.dial = dial
    this.roomy = []
    this.all = new Set()
    this.connecting = 0
    this.waiting = []
    this.isClosed = false
  }

  get isEmpty(): boolean {
    return this.all.size === 0 && this.waiting.length === 0
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

  /** Like `acquire`, but not on a connection that has been idle, which the server may have given up as well. */
  acquireFresh(waiter: PoolWaiter): void {
    if (this.speaksHttp2) this.acquire(waiter)
    else this.queue(waiter)
  }

  /** The exchange no longer waits. */
  cancel(waiter: PoolWaiter): void {
    const index = this.waiting.indexOf(waiter)
    if (index < 0) return
    this.waiting.splice(index, 1)
    this.cluster?.releasePending()
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
    if (this.isClosed) {
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
    if (!wasOpen) this.connecting--
    if (this.waiting.length === 0) return
    if (wasOpen) {
      this.connectForWaiting()
      return
    }
    const failure = error ?? new WeftError('WEFT_CONNECT', 'the connection was closed while it was being made')
    this.nextWaiter()?.onUpstreamFailed(failure, false)
    // The others waited for the same connection, unless there is another to wait for.
    while (this.speaksHttp2 && this.all.size === 0 && this.waiting.length > 0) {
      this.nextWaiter()?.onUpstreamFailed(failure, false)
    }
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
    this.waiting.push(waiter)
    // Each waiter of HTTP/1 brings a connection of its own; those of HTTP/2 share what is being made.
    if (!this.speaksHttp2) this.tryConnect()
    else this.connectForWaiting()
    if (this.all.size > 0 || this.waiting.length === 0) return
    // Nothing of ours will ever be given back to this waiter.
    this.cancel(waiter)
    waiter.onUpstreamFailed(new WeftError('WEFT_LIMIT', 'the connection limit of the cluster is reached'), true)
  }

  /** Makes the connections that those who wait need, as far as is allowed. */
  private connectForWaiting(): void {
    const perConnection = this.speaksHttp2 ? STREAMS_BEFORE_SETTINGS_MAX : 1
    while (this.waiting.length > this.connecting * perConnection) if (!this.tryConnect()) return
  }

  private tryConnect(): boolean {
    if (this.all.size >= CONNECTIONS_MAX || this.cluster?.tryAcquireConnection() === false) return false
    const upstream = new HttpUpstream(this)
    this.all.add(upstream)
    this.connecting++
    upstream.conn = this.dial.open(upstream)
    return true
  }

  private nextWaiter(): PoolWaiter | null {
    const waiter = this.waiting.shift()
    if (waiter === undefined) return null
    this.cluster?.releasePending()
    return waiter
  }

  private idleTimeoutMs(): number {
    const timeoutMs = this.limits.idleTimeoutMs
    return timeoutMs > 0 && timeoutMs < IDLE_MAX_MS ? timeoutMs : IDLE_MAX_MS
  }
}

/** One upstream HTTP connection. */
export class HttpUpstream implements Handler, HttpClientEvents, TimerTarget {
  conn: Conn | null
  codec: HttpClientConnection | null
  /** Exchanges begun on it. */
  servedCount: number
  /** @internal It is in the pool's list of connections with room. */
  isListed: boolean
  private readonly pool: HttpPool
  private readonly timer: TimerEntry
  private isOpen: boolean
  private isIdle: boolean

  constructor(pool: HttpPool) {
    this.conn = null
    this.codec = null
    this.servedCount = 0
    this.isListed = false
    this.pool = pool
    this.timer = new TimerEntry(this)
    this.isOpen = false
    this.isIdle = false
  }

  get canOpen(): boolean {
    return this.codec?.canOpen === true && this.conn?.isClosed === false && !this.isSpent
  }

  get activeCount(): number {
    return this.codec === null ? 0 : this.codec.activeCount
  }

  /** What an exchange is certain of when the connection says that it was not processed: HTTP/1 only guesses. */
  get isCertain(): boolean {
    return this.pool.speaksHttp2
  }

  onOpen(conn: Conn): void {
    const { parts, speaksHttp2 } = this.pool
    this.isOpen = true
    this.codec = speaksHttp2
      ? new H2ClientConnection(conn, this, parts.transport, parts.nowMs)
      : new H1ClientConnection(conn, this)
    this.pool.onConnected(this)
  }

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.codec?.receive(bytes, offset, end)
    // The server's settings may have made room.
    const { pool } = this
    if (pool.speaksHttp2 && (!this.isListed || pool.hasWaiting) && this.canOpen) pool.onAvailable(this)
  }

  onEnd(): void {
    this.codec?.receiveEnd()
    // An idle server connection that half-closes is over.
    if (this.isIdle) this.close()
  }

  onDrain(): void {
    this.codec?.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.pool.parts.timers.clear(this.timer)
    this.codec?.receiveClose()
    this.pool.onGone(this, this.isOpen, error)
  }

  onStreamClosed(): void {
    const codec = this.codec
    if (codec === null || this.conn === null) return
    if (!codec.isReusable || this.isSpent) {
      if (codec.activeCount === 0) this.conn.close()
    } else if (codec.canOpen) {
      this.pool.onAvailable(this)
    }
  }

  onUnusable(): void {
    if (this.codec?.activeCount === 0) this.conn?.close()
  }

  /** It has carried as many exchanges as the user allows a connection. */
  private get isSpent(): boolean {
    const max = this.pool.limits.requestsPerConnectionMax
    return max !== null && this.servedCount >= max
  }

  onTimer(): void {
    this.close()
  }

  close(): void {
    this.conn?.close()
  }

  enterIdle(timeoutMs: number): void {
    this.isIdle = true
    this.pool.parts.timers.start(this.timer, timeoutMs)
  }

  leaveIdle(): void {
    if (!this.isIdle) return
    this.isIdle = false
    this.pool.parts.timers.clear(this.timer)
  }
}
