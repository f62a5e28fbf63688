// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The serving end of HBONE: one accepted mutual-TLS connection, whose CONNECT requests become tunnels.
 *
 * Nothing is answered before the acceptor decides: everything that can fail happens before the 200. What the client
 * sends meanwhile waits in the stream, within its window. The acceptor is told when the client gives up while it waits.
 */
import { formatHostPort, parseHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { ERROR_NONE } from '../http/h2/frame.ts'
import { fieldValue } from '../http/h2/header-rules.ts'
import { HBONE_SERVER_SETTINGS } from '../http/h2/limits.ts'
import type { H2Receiver, H2Stream } from '../http/h2/stream.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { TunnelParts } from './hbone.ts'
import { TunnelConnection } from './hbone-connection.ts'
import { TUNNEL_ACCEPTED, TunnelStream } from './hbone-stream.ts'

/** Decides about tunnels that peers ask for. */
export interface TunnelAcceptor {
  /** A valid CONNECT arrived. The acceptor calls `accept` or `refuse`, now or later. */
  onTunnel(pending: PendingTunnel): void
}

/** Told when the client of a pending tunnel has gone. */
export interface AbandonListener {
  onAbandoned(pending: PendingTunnel): void
}

/** A CONNECT that waits for its answer. */
export class PendingTunnel implements H2Receiver {
  /** Of the authority: canonical address, or a host name. */
  readonly host: string
  readonly port: number
  /** The header as received; null when absent. */
  readonly forwarded: string | null
  /** The client has gone: `accept` would be in vain. */
  isAbandoned = false
  listener: AbandonListener | null = null
  private readonly server: TunnelServer
  private readonly stream: H2Stream
  private isDecided = false

  constructor(server: TunnelServer, stream: H2Stream, host: string, port: number, fields: readonly string[]) {
    this.server = server
    this.stream = stream
    this.host = host
    this.port = port
    this.forwarded = fieldValue(fields, 'forwarded')
  }

  /** SPIFFE identity that the client proved; never null on a mutual-TLS listener. */
  get peerIdentity(): string | null {
    return this.server.conn.peerIdentity
  }

  /** Where the tunnel's connection comes from, and where it arrived. */
  get remoteAddress(): string {
    return this.server.conn.remoteAddress
  }

  get remotePort(): number {
    return this.server.conn.remotePort
  }

  get localAddress(): string {
    return this.server.conn.localAddress
  }

  get localPort(): number {
    return this.server.conn.localPort
  }

  /**
   * Answers 200 with `baggage` (empty: without) and returns the tunnel. Its `onOpen` comes at the end of the batch, then
   * what has arrived meanwhile; until then the caller may set another handler.
   */
  accept(baggage: string, handler: Handler = DEAF): Conn {
    this.isDecided = true
    const tunnel = new TunnelStream(this.server, TUNNEL_ACCEPTED, this.host, this.port, handler)
    if (this.isAbandoned) {
      const authority = formatHostPort(this.host, this.port)
      tunnel.failLater(new WeftError('WEFT_CLOSED', `the client of the tunnel to ${authority} has gone`))
      return tunnel
    }
    tunnel.attach(this.stream)
    this.stream.receiver = tunnel
    const fields = [':status', '200']
    if (baggage !== '') fields.push('baggage', baggage)
    this.stream.sendHeaders(fields, false)
    tunnel.openLater()
    return tunnel
  }

  /** Answers `status` without a body: the client learns no more than that. `reason` is for our own log. */
  refuse(status: number, reason: string): void {
    if (this.isDecided) return
    this.isDecided = true
    const { log } = this.server.parts
    if (log.isDebug) {
      const authority = formatHostPort(this.host, this.port)
      log.debug('tunnel refused', { authority, status, reason, peer: this.peerIdentity })
    }
    if (!this.isAbandoned) refuse(this.stream, status)
  }

  // --- H2Receiver: the stream is paused, so only its closing can come ---

  onHeaders(): void {}
  onData(): void {}
  onTrailers(): void {}
  onEnd(): void {}
  onDrain(): void {}

  onClosed(): void {
    if (this.isDecided) return
    this.isAbandoned = true
    this.listener?.onAbandoned(this)
  }
}

/** One HBONE connection that a peer dialled. */
export class TunnelServer extends TunnelConnection {
  private readonly acceptor: TunnelAcceptor
  private readonly servers: Set<TunnelServer>

  /** To be made the handler of `conn`, an accepted connection. Takes itself out of `servers` when it is closed. */
  constructor(conn: Conn, parts: TunnelParts, acceptor: TunnelAcceptor, servers: Set<TunnelServer>) {
    super(parts, HBONE_SERVER_SETTINGS, conn, null)
    this.acceptor = acceptor
    this.servers = servers
  }

  override onStream(stream: H2Stream, fields: string[]): H2Receiver {
    const authority = fieldValue(fields, ':authority')
    const target = authority === null ? null : parseHostPort(authority)
    if (fieldValue(fields, ':method') !== 'CONNECT' || target === null) {
      refuse(stream, 400)
      return stream.receiver
    }
    stream.pauseReading()
    const pending = new PendingTunnel(this, stream, target.host, target.port, fields)
    stream.receiver = pending
    this.acceptor.onTunnel(pending)
    return stream.receiver
  }

  override onStreamEnded(): void {}

  override onClose(conn: Conn, error: WeftError | null): void {
    super.onClose(conn, error)
    this.servers.delete(this)
  }

  protected override onUnusable(): void {}
}

/** Answers without a body and asks the client to stop (RFC 9113 section 8.1). */
function refuse(stream: H2Stream, status: number): void {
  stream.sendHeaders([':status', String(status)], true)
  stream.reset(ERROR_NONE)
}

/** Handler of a tunnel whose owner has not said yet who it is. */
const DEAF: Handler = {
  onOpen(): void {},
  onBytes(): void {},
  onEnd(): void {},
  onDrain(): void {},
  onClose(): void {},
}
