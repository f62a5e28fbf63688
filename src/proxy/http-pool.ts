// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * HTTP connections to one endpoint on behalf of one source: kept alive, limited, queued for.
 *
 * An exchange asks with `acquire` and gets a connection at once when one is idle; else one is dialled, within the
 * cluster's limits, and the exchange waits its turn. The most recently used idle connection is taken first, so that
 * the others age and go.
 */
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { HttpClientConnection, HttpClientEvents } from '../http/codec.ts'
import { H1ClientConnection } from '../http/h1/client-connection.ts'
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

export class HttpPool {
  readonly parts: ProxyParts
  readonly cluster: ClusterState | null
  readonly limits: PoolLimits
  /** How its connections go; see upstreams.ts. */
  readonly path: Path
  private readonly dial: Dial
  private readonly idle: HttpUpstream[]
  private readonly all: Set<HttpUpstream>
  private waiting: PoolWaiter[]
  private isClosed: boolean

  constructor(parts: ProxyParts, dial: Dial, limits: PoolLimits, cluster: ClusterState | null, path: Path) {
    this.parts = parts
    this.cluster = cluster
    this.limits = limits
    this.path = path
    this.dial = dial
    this.idle = []
    this.all = new Set()
    this.waiting = []
    this.isClosed = false
  }

  get isEmpty(): boolean {
    return this.all.size === 0 && this.waiting.length === 0
  }

  get hasIdle(): boolean {
    return this.idle.length > 0
  }

  /** Answers through the waiter, at once when a connection is idle. */
  acquire(waiter: PoolWaiter): void {
    let upstream = this.idle.pop()
    while (upstream !== undefined && !upstream.canOpen) upstream = this.idle.pop()
    if (upstream !== undefined) {
      upstream.leaveIdle()
      waiter.onUpstream(upstream)
      return
    }
    this.acquireFresh(waiter)
  }

  /** Like `acquire`, but on a connection that has not been idle. */
  acquireFresh(waiter: PoolWaiter): void {
    if (this.waiting.length >= WAITING_MAX || this.cluster?.tryAcquirePending() === false) {
      waiter.onUpstreamFailed(new WeftError('WEFT_LIMIT', 'too many requests wait for a connection'), true)
      return
    }
    const isAllowed = this.all.size < CONNECTIONS_MAX && (this.cluster === null || this.cluster.tryAcquireConnection())
    if (!isAllowed && this.all.size === 0) {
      // Nothing of ours will ever be given back to this waiter.
      this.cluster?.releasePending()
      waiter.onUpstreamFailed(new WeftError('WEFT_LIMIT', 'the connection limit of the cluster is reached'), true)
      return
    }
    this.waiting.push(waiter)
    if (isAllowed) this.connect()
  }

  /** The exchange no longer waits. */
  cancel(waiter: PoolWaiter): void {
    const index = this.waiting.indexOf(waiter)
    if (index < 0) return
    this.waiting.splice(index, 1)
    this.cluster?.releasePending()
  }

  /** Takes over a connection that is open already and has carried nothing yet. */
  adopt(conn: Conn): void {
    this.cluster?.tryAcquireConnection()
    const upstream = new HttpUpstream(this)
    upstream.conn = conn
    conn.handler = upstream
    this.all.add(upstream)
    upstream.onOpen(conn)
  }

  /** @internal An upstream is open, or has finished an exchange, and can take another. */
  onAvailable(upstream: HttpUpstream): void {
    const waiter = this.nextWaiter()
    if (waiter !== null) waiter.onUpstream(upstream)
    else if (this.isClosed) upstream.close()
    else {
      this.idle.push(upstream)
      upstream.enterIdle(this.idleTimeoutMs())
    }
  }

  /** @internal */
  onGone(upstream: HttpUpstream, wasOpen: boolean, error: WeftError | null): void {
    if (!this.all.delete(upstream)) return
    this.cluster?.releaseConnection()
    const index = this.idle.indexOf(upstream)
    if (index >= 0) this.idle.splice(index, 1)
    if (this.waiting.length === 0) return
    if (!wasOpen) {
      const failure = error ?? new WeftError('WEFT_CONNECT', 'the connection was closed while it was being made')
      this.nextWaiter()?.onUpstreamFailed(failure, false)
    } else if (this.cluster === null || this.cluster.tryAcquireConnection()) {
      this.connect()
    }
  }

  /** Closes what is idle now and everything else when its exchange is over. */
  close(): void {
    this.isClosed = true
    for (const upstream of [...this.idle]) upstream.close()
  }

  private nextWaiter(): PoolWaiter | null {
    const waiter = this.waiting.shift()
    if (waiter === undefined) return null
    this.cluster?.releasePending()
    return waiter
  }

  private connect(): void {
    const upstream = new HttpUpstream(this)
    this.all.add(upstream)
    upstream.conn = this.dial.open(upstream)
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
  private readonly pool: HttpPool
  private readonly timer: TimerEntry
  private isOpen: boolean
  private isIdle: boolean

  constructor(pool: HttpPool) {
    this.conn = null
    this.codec = null
    this.servedCount = 0
    this.pool = pool
    this.timer = new TimerEntry(this)
    this.isOpen = false
    this.isIdle = false
  }

  get canOpen(): boolean {
    return this.codec?.canOpen === true && this.conn?.isClosed === false
  }

  onOpen(conn: Conn): void {
    this.isOpen = true
    this.codec = new H1ClientConnection(conn, this)
    this.pool.onAvailable(this)
  }

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.codec?.receive(bytes, offset, end)
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
    const max = this.pool.limits.requestsPerConnectionMax
    if (!codec.isReusable || (max !== null && this.servedCount >= max)) {
      this.conn.close()
    } else if (codec.canOpen) {
      this.pool.onAvailable(this)
    }
  }

  onUnusable(): void {
    if (this.codec?.activeCount === 0) this.conn?.close()
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
    this.isIdle = false
    this.pool.parts.timers.clear(this.timer)
  }
}
