/**
 * What both ends of HBONE share: the mesh's tunnel of one byte stream per HTTP/2 CONNECT, inside mutual TLS.
 * The client is hbone-client.ts, the server hbone-server.ts, one tunnel (a Conn) hbone-stream.ts.
 */
import { type ErrorCode, WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget, type TimerWheel } from '../base/timers.ts'
import type { H2Connection } from '../http/h2/connection.ts'
import type { Transport } from '../transport/conn.ts'

/** Where proxies listen for tunnels, on every pod's address. */
export const HBONE_PORT = 15_008

/** What tunnels need of the proxy's parts. */
export interface TunnelParts {
  readonly transport: Transport
  /** Coarse wheel. */
  readonly timers: TimerWheel
  /** Milliseconds of a monotonic clock. */
  readonly nowMs: () => number
}

/** A tunnel that was not opened, or a reason that it ended. */
export class TunnelError extends WeftError {
  /** HTTP status of the refusal; 0 when it was not refused by an answer. */
  readonly status: number
  /** The peer certainly never acted on it: it may be opened again elsewhere without harm. */
  readonly isUnprocessed: boolean

  constructor(code: ErrorCode, message: string, status: number, isUnprocessed: boolean, cause?: unknown) {
    super(code, message, cause)
    this.name = 'TunnelError'
    this.status = status
    this.isUnprocessed = isUnprocessed
  }
}

/** PING after this long, and again. As ztunnel. */
const PING_INTERVAL_MS = 10_000

/** Pings that may be without answer when the next is due: two intervals are the 20 s after which ztunnel gives up. */
const UNANSWERED_MAX = 2

/** The owner of a connection that is kept alive. */
export interface KeepaliveOwner {
  /** Every interval. */
  onKeepaliveTick(): void
  /** The peer has not answered in time. */
  onKeepaliveLost(): void
}

/** Pings the peer of one connection as long as it is open. */
export class Keepalive implements TimerTarget {
  private readonly entry: TimerEntry
  private readonly timers: TimerWheel
  private readonly connection: H2Connection
  private readonly owner: KeepaliveOwner
  private unanswered = 0

  constructor(timers: TimerWheel, connection: H2Connection, owner: KeepaliveOwner) {
    this.timers = timers
    this.connection = connection
    this.owner = owner
    this.entry = new TimerEntry(this)
  }

  start(): void {
    this.timers.start(this.entry, PING_INTERVAL_MS)
  }

  stop(): void {
    this.timers.clear(this.entry)
  }

  onPong(): void {
    this.unanswered = 0
  }

  onTimer(): void {
    if (this.unanswered === UNANSWERED_MAX) {
      this.owner.onKeepaliveLost()
      return
    }
    this.unanswered++
    this.connection.ping()
    this.timers.start(this.entry, PING_INTERVAL_MS)
    this.owner.onKeepaliveTick()
  }
}
