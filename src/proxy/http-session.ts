// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One downstream HTTP connection: hands bytes to the engine and makes an Exchange of every request.
 */
import type { WeftError } from '../base/errors.ts'
import type {
  HttpServerConnection,
  HttpServerEvents,
  ProtocolViolation,
  RequestHead,
  RequestReceiver,
  ServerStream,
} from '../http/codec.ts'
import { H1ServerConnection } from '../http/h1/server-connection.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { Exchange, type ExchangeOrigin } from './exchange.ts'
import type { ProxyParts } from './parts.ts'
import { normalizeTarget } from './path.ts'

/** Idle time after which a downstream connection is reset. One hour, as Istio's default idleTimeout. */
export const DOWNSTREAM_IDLE_MS = 3_600_000

/** What the connection's owner needs to know beyond the exchanges. */
export interface HttpSessionOwner extends ExchangeOrigin {
  onSessionClosed(error: WeftError | null): void
  onViolation(violation: ProtocolViolation): void
}

export class HttpSession implements Handler, HttpServerEvents {
  readonly conn: Conn
  private readonly parts: ProxyParts
  private readonly owner: HttpSessionOwner
  private readonly codec: HttpServerConnection
  private current: Exchange | null

  /** Takes an open connection over. */
  constructor(parts: ProxyParts, conn: Conn, owner: HttpSessionOwner) {
    this.conn = conn
    this.parts = parts
    this.owner = owner
    this.current = null
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
