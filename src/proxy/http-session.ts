// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One downstream HTTP connection: hands bytes to the engine and makes an Exchange of every request. It bounds in time
 * what the engine waits for: an idle connection, a head that comes in drops, a client that never ends.
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
import type { Conn, Handler } from '../transport/conn.ts'
import { Exchange, type ExchangeOrigin } from './exchange.ts'
import type { ProxyParts } from './parts.ts'
import { normalizeTarget } from './path.ts'

/** Idle time after which a downstream connection is reset. One hour, as Istio's default idleTimeout. */
const DOWNSTREAM_IDLE_MS = 3_600_000

/** Longest time from the first byte of a head to its last. One minute, as nginx: a head of 64 KiB at 10 kbit/s. */
const HEAD_MS_MAX = 60_000

/** Longest wait for the client's end after our last response. 5 s: time for the response to be read, as nginx gives. */
const LINGER_MS_MAX = 5000

/** What the connection's owner needs to know beyond the exchanges. */
export interface HttpSessionOwner extends ExchangeOrigin {
  onSessionClosed(error: WeftError | null): void
  onViolation(violation: ProtocolViolation): void
}

/** See the head of the file. */
export class HttpSession implements Handler, HttpServerEvents, TimerTarget {
  readonly conn: Conn
  private readonly parts: ProxyParts
  private readonly owner: HttpSessionOwner
  private readonly codec: HttpServerConnection
  private current: Exchange | null
  /** Runs while the client owes us something; made when it first does, which is rare. */
  private waitTimer: TimerEntry | null
  private wait: Wait

  /** Takes an open connection over. */
  constructor(parts: ProxyParts, conn: Conn, owner: HttpSessionOwner) {
    this.conn = conn
    this.parts = parts
    this.owner = owner
    this.current = null
    this.waitTimer = null
    this.wait = WAIT_NONE
    this.codec = new H1ServerConnection(conn, this)
    conn.handler = this
    conn.setIdleTimeout(DOWNSTREAM_IDLE_MS)
    if (parts.isDraining) this.codec.drain()
  }

  /** Bytes that were read before the protocol was known. */
  begin(held: Uint8Array, length: number, hasEnded: boolean): void {
    if (length > 0) this.codec.receive(held, 0, length)
    if (hasEnded && !this.conn.isClosed) this.codec.receiveEnd()
  }

  onOpen(): void {}

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.codec.receive(bytes, offset, end)
  }

  onEnd(): void {
    this.codec.receiveEnd()
  }

  onDrain(): void {
    this.codec.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.onWait(WAIT_NONE)
    this.codec.receiveClose()
    this.owner.onSessionClosed(error)
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    // Once, before anything looks at it: routes, policies and the upstream must see the same path.
    head.target = normalizeTarget(head.target)
    const exchange = new Exchange(this.parts, this.owner, stream, head)
    this.current = exchange
    this.owner.route(exchange)
    return exchange
  }

  onViolation(violation: ProtocolViolation): void {
    this.owner.onViolation(violation)
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

  onTimer(): void {
    if (this.wait === WAIT_HEAD) this.owner.onViolation(HEAD_TOO_SLOW)
    this.conn.abort()
  }

  /** Ends after the exchange in flight. */
  drain(): void {
    this.codec.drain()
  }

  /** Resets at once. */
  abort(): void {
    if (this.current !== null && !this.current.isDone) this.current.abort('the connection was reset by the proxy')
    this.conn.abort()
  }
}

const HEAD_TOO_SLOW: ProtocolViolation = {
  reason: 'head-too-slow',
  message: `a request head must be complete within ${HEAD_MS_MAX / 1000} s of its first byte`,
  status: 408,
}
