// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One downstream HTTP connection of either version, told apart by the first bytes, whatever was declared: hands bytes to
 * the engine and makes an Exchange of every request. It bounds in time what the engine waits for: an idle connection, a
 * head that comes in drops, a client that never ends. The engine of HTTP/2 watches itself, beat by beat.
 */
import type { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import {
  type HttpServerConnection,
  type HttpServerEvents,
  type ProtocolViolation,
  type RequestHead,
  type RequestReceiver,
  type ServerStream,
  WAIT_END,
  WAIT_HEAD,
  WAIT_NONE,
  type Wait,
} from '../http/codec.ts'
import { H1ServerConnection } from '../http/h1/server-connection.ts'
import { H2ServerConnection } from '../http/h2/server-connection.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { ConnectionBeat } from './connection-beat.ts'
import { Exchange, type ExchangeOrigin } from './exchange.ts'
import type { ProxyParts } from './parts.ts'
import { normalizeTarget } from './path.ts'

/**
 * A downstream connection that says nothing and has no exchange open is ended after this many checks in a row: within
 * an hour and a quarter, Istio's default idleTimeout being one hour. While an exchange is open silence means nothing: a
 * stream may have nothing to say for days, and a peer that is dead is found by keepalive.
 */
const IDLE_CHECKS_MAX = 4
const IDLE_CHECK_MS = 900_000

/** Longest time from the first byte of a head to its last. One minute, as nginx: a head of 64 KiB at 10 kbit/s. */
const HEAD_MS_MAX = 60_000

/** Longest wait for the client's end after our last response. 5 s: time for the response to be read, as nginx gives. */
const LINGER_MS_MAX = 5000

/**
 * How long an idle connection of a proxy that drains waits for one more request, whose response tells the client that
 * it was the last, unless the drain has time for more. 1 s: whoever sends once a second loses nothing, and an agent that
 * stops is not held up by the others.
 */
export const DRAIN_IDLE_MS = 1000

/** Enough of the preface of HTTP/2 to tell it from a request line. */
const PREFACE_BEGIN = 'PRI '

/** What the connection's owner needs to know beyond the exchanges. */
export interface HttpSessionOwner extends ExchangeOrigin {
  onSessionClosed(error: WeftError | null): void
  /** See `HttpServerEvents.onViolation`. */
  onViolation(violation: ProtocolViolation, isRefusal: boolean): void
}

/** See the head of the file. */
export class HttpSession implements Handler, HttpServerEvents, TimerTarget {
  readonly conn: Conn
  private readonly parts: ProxyParts
  private readonly owner: HttpSessionOwner
  /** Null until the first bytes tell the version. */
  private codec: HttpServerConnection | null
  /** First bytes that could still be either version's; null nearly always. */
  private early: Uint8Array | null
  /** The connection was closed before it had a version. */
  private isOver: boolean
  private current: Exchange | null
  /** Runs while the client owes us something; made when it first does, which is rare. */
  private waitTimer: TimerEntry | null
  private readonly idleTimer: TimerEntry
  /** Checks since the client last said something. */
  private idleChecks: number
  private wait: Wait
  /** Of HTTP/2 only. */
  private clock: ConnectionBeat | null
  /** Runs once the connection drains; null before. */
  private drainTimer: TimerEntry | null

  /** Takes an open connection over. */
  constructor(parts: ProxyParts, conn: Conn, owner: HttpSessionOwner) {
    this.conn = conn
    this.parts = parts
    this.owner = owner
    this.current = null
    this.waitTimer = null
    this.wait = WAIT_NONE
    this.clock = null
    this.codec = null
    this.early = null
    this.isOver = false
    this.drainTimer = null
    conn.handler = this
    this.idleTimer = new TimerEntry(this)
    this.idleChecks = 0
    conn.setIdleTimeout(0)
    parts.timers.start(this.idleTimer, IDLE_CHECK_MS)
    if (parts.isDraining) this.drain()
  }

  /** Bytes that were read before the protocol was known. */
  begin(held: Uint8Array, length: number, hasEnded: boolean): void {
    if (length > 0) this.onBytes(this.conn, held, 0, length)
    if (hasEnded && !this.conn.isClosed) this.onEnd()
  }

  onOpen(): void {}

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.idleChecks = 0
    if (this.codec !== null) this.codec.receive(bytes, offset, end)
    else if (!this.isOver) this.begun(bytes, offset, end)
  }

  onEnd(): void {
    if (this.codec !== null) this.codec.receiveEnd()
    else this.close()
  }

  onDrain(): void {
    this.codec?.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.onWait(WAIT_NONE)
    this.parts.timers.clear(this.idleTimer)
    this.clock?.stop()
    if (this.drainTimer !== null) this.parts.timers.clear(this.drainTimer)
    this.isOver = true
    this.codec?.receiveClose()
    this.owner.onSessionClosed(error)
  }

  /** The first bytes: `PRI ` begins the preface of HTTP/2, and no request of HTTP/1 (RFC 9113 section 11.6). */
  private begun(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    const { early } = this
    const all = early === null ? bytes : joined(early, bytes, offset, end)
    const start = early === null ? offset : 0
    const stop = early === null ? end : all.length
    let count = 0
    while (
      count < PREFACE_BEGIN.length &&
      start + count < stop &&
      all[start + count] === PREFACE_BEGIN.charCodeAt(count)
    ) {
      count++
    }
    if (start + count === stop && count < PREFACE_BEGIN.length) {
      if (early === null) this.onWait(WAIT_HEAD)
      this.early = all.slice(start, stop)
      return
    }
    if (early !== null) this.onWait(WAIT_NONE)
    this.early = null
    const codec = count === PREFACE_BEGIN.length ? this.openHttp2() : new H1ServerConnection(this.conn, this)
    this.codec = codec
    if (this.drainTimer !== null) codec.retire()
    codec.receive(all, start, stop)
  }

  private openHttp2(): HttpServerConnection {
    const { parts } = this
    const codec = new H2ServerConnection(this.conn, this, parts.transport, parts.nowMs)
    this.clock = new ConnectionBeat(parts.timers, codec)
    return codec
  }

  private close(): void {
    this.isOver = true
    this.conn.close()
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    // Once, before anything looks at it: routes, policies and the upstream must see the same path.
    head.target = normalizeTarget(head.target)
    const exchange = new Exchange(this.parts, this.owner, stream, head)
    this.current = exchange
    if (exchange.startClientDeadline()) this.owner.route(exchange)
    return exchange
  }

  onViolation(violation: ProtocolViolation, isRefusal: boolean): void {
    this.owner.onViolation(violation, isRefusal)
  }

  onWait(wait: Wait): void {
    this.wait = wait
    if (wait !== WAIT_NONE) {
      this.waitTimer ??= new TimerEntry(this)
      this.parts.timers.start(this.waitTimer, wait === WAIT_END ? LINGER_MS_MAX : HEAD_MS_MAX)
    } else if (this.waitTimer !== null) {
      this.parts.timers.clear(this.waitTimer)
    }
  }

  onTimer(entry: TimerEntry): void {
    if (entry === this.idleTimer) {
      this.checkIdle()
      return
    }
    if (entry === this.drainTimer) {
      this.closeIdle()
      return
    }
    if (this.wait === WAIT_HEAD) this.owner.onViolation(HEAD_TOO_SLOW, true)
    this.conn.abort()
  }

  /** In order where the client takes part: one that still does not go is reset by the next check. */
  private checkIdle(): void {
    if (this.codec !== null && this.codec.activeCount > 0) this.idleChecks = 0
    else this.idleChecks++
    if (this.idleChecks > IDLE_CHECKS_MAX) {
      this.conn.abort()
      return
    }
    this.parts.timers.start(this.idleTimer, IDLE_CHECK_MS)
    if (this.idleChecks === IDLE_CHECKS_MAX) this.drain()
  }

  /** Ends after the exchanges in flight, or the one that may be on its way. */
  drain(): void {
    if (this.drainTimer !== null || this.isOver) return
    this.drainTimer = new TimerEntry(this)
    this.parts.timers.start(this.drainTimer, this.parts.drainIdleMs)
    this.codec?.retire()
  }

  private closeIdle(): void {
    if (this.codec !== null) this.codec.drain()
    else if (!this.isOver) this.close()
  }

  /** Resets at once. */
  abort(): void {
    if (this.current !== null && !this.current.isDone) this.current.abort('the connection was reset by the proxy')
    this.conn.abort()
  }
}

/** An HTTP version as the access log shows it. */
export function versionText(version: number): string {
  return version === 20 ? 'HTTP/2' : version === 10 ? 'HTTP/1.0' : 'HTTP/1.1'
}

function joined(first: Uint8Array, bytes: Uint8Array, offset: number, end: number): Uint8Array {
  const all = new Uint8Array(first.length + end - offset)
  all.set(first)
  all.set(bytes.subarray(offset, end), first.length)
  return all
}

const HEAD_TOO_SLOW: ProtocolViolation = {
  reason: 'head_too_slow',
  message: `a request head must be complete within ${HEAD_MS_MAX / 1000} s of its first byte`,
  status: 408,
}
