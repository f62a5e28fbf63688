// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** One upstream HTTP connection of a pool (http-pool.ts), from the dial to its end: idle, busy, or on its way out. */
import { formatHostPort } from '../base/address.ts'
import type { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { HttpClientConnection, HttpClientEvents, ProtocolViolation } from '../http/codec.ts'
import { H1ClientConnection } from '../http/h1/client-connection.ts'
import { H2ClientConnection } from '../http/h2/client-connection.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { ConnectionBeat } from './connection-beat.ts'
import type { HttpPool } from './http-pool.ts'
import { noteViolation } from './violation-log.ts'

/** Connections of one age must not all end at once: each lives up to a tenth less than it may. */
const AGE_JITTER = 0.1

/** See the head of the file. */
export class HttpUpstream implements Handler, HttpClientEvents, TimerTarget {
  conn: Conn | null
  codec: HttpClientConnection | null
  /** Exchanges begun on it. */
  servedCount: number
  /** @internal It is in the pool's list of connections with room. */
  isListed: boolean
  readonly dialledAtMs: number
  private readonly pool: HttpPool
  private readonly idleTimer: TimerEntry
  /** Null while its age does not matter. */
  private ageTimer: TimerEntry | null
  /** Of HTTP/2 only. */
  private clock: ConnectionBeat | null
  private isOpen: boolean
  private isIdle: boolean
  /** It takes no new exchange, and closes with its last. */
  private isRetiring: boolean

  constructor(pool: HttpPool) {
    this.conn = null
    this.codec = null
    this.servedCount = 0
    this.isListed = false
    this.dialledAtMs = pool.parts.nowMs()
    this.pool = pool
    this.idleTimer = new TimerEntry(this)
    this.ageTimer = null
    this.clock = null
    this.isOpen = false
    this.isIdle = false
    this.isRetiring = false
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

  // --- Handler ---

  onOpen(conn: Conn): void {
    const { parts, limits, speaksHttp2 } = this.pool
    this.isOpen = true
    this.codec = speaksHttp2 ? this.openHttp2(conn) : new H1ClientConnection(conn, this)
    if (limits.connectionAgeMsMax !== null) {
      this.ageTimer = new TimerEntry(this)
      parts.timers.start(this.ageTimer, limits.connectionAgeMsMax * (1 - AGE_JITTER * parts.random()))
    }
    this.pool.onConnected(this)
  }

  private openHttp2(conn: Conn): HttpClientConnection {
    const { parts } = this.pool
    const codec = new H2ClientConnection(conn, this, parts.transport, parts.nowMs)
    this.clock = new ConnectionBeat(parts.timers, codec)
    return codec
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
    const { timers } = this.pool.parts
    timers.clear(this.idleTimer)
    if (this.ageTimer !== null) timers.clear(this.ageTimer)
    this.clock?.stop()
    this.codec?.receiveClose()
    this.pool.onGone(this, this.isOpen, error)
  }

  /** A tunnel of a connection that drains: kept for later exchanges it would keep that connection open for ever. */
  onRetiring(): void {
    this.retire()
  }

  // --- HttpClientEvents ---

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

  onViolation(violation: ProtocolViolation): void {
    const { conn } = this
    const upstream = conn === null ? '' : formatHostPort(conn.remoteAddress, conn.remotePort)
    noteViolation(this.pool.parts, 'upstream', violation, { upstream })
  }

  // --- its end ---

  onTimer(entry: TimerEntry): void {
    if (entry === this.idleTimer) this.close()
    else this.retire()
  }

  close(): void {
    this.conn?.close()
  }

  /** Takes nothing new; closes now, or with the last of its exchanges. */
  retire(): void {
    this.isRetiring = true
    if (this.isOpen && this.activeCount === 0) this.close()
  }

  enterIdle(timeoutMs: number): void {
    this.isIdle = true
    this.pool.parts.timers.start(this.idleTimer, timeoutMs)
  }

  leaveIdle(): void {
    if (!this.isIdle) return
    this.isIdle = false
    this.pool.parts.timers.clear(this.idleTimer)
  }

  /** It is on its way out, or has carried as many exchanges as the user allows a connection. */
  private get isSpent(): boolean {
    const max = this.pool.limits.requestsPerConnectionMax
    return this.isRetiring || (max !== null && this.servedCount >= max)
  }
}
