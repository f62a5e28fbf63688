// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The serving end of HBONE: one accepted mutual-TLS connection, whose CONNECT requests become tunnels.
 *
 * Nothing is answered before the acceptor decides: everything that can fail happens before the 200. What the client
 * sends meanwhile waits in the stream, within its window. The acceptor is told when the client gives up while it waits.
 */
import { formatHostPort, parseHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { H2Connection, type H2Events } from '../http/h2/connection.ts'
import { ERROR_NONE, errorName } from '../http/h2/frame.ts'
import { fieldValue } from '../http/h2/header-rules.ts'
import { HBONE_SERVER_SETTINGS } from '../http/h2/limits.ts'
import type { H2Receiver, H2Stream } from '../http/h2/stream.ts'
import type { Conn, Flushable, Handler } from '../transport/conn.ts'
import { Keepalive, type KeepaliveOwner, type TunnelParts } from './hbone.ts'
import { type TunnelHost, TunnelStream } from './hbone-stream.ts'

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
  /** Header values as received; null when absent. */
  readonly forwarded: string | null
  readonly baggage: string | null
  readonly traceparent: string | null
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
    this.baggage = fieldValue(fields, 'baggage')
    this.traceparent = fieldValue(fields, 'traceparent')
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
    const ends = {
      localAddress: this.host,
      localPort: this.port,
      remoteAddress: this.remoteAddress,
      remotePort: this.remotePort,
      peerIdentity: this.peerIdentity,
      authority: formatHostPort(this.host, this.port),
    }
    const tunnel = new TunnelStream(this.server, ends, handler)
    tunnel.attach(this.stream)
    this.stream.receiver = tunnel
    if (this.isAbandoned) {
      tunnel.failLater(new WeftError('WEFT_CLOSED', `the client of the tunnel to ${ends.authority} has gone`))
      return tunnel
    }
    const fields = [':status', '200']
    if (baggage !== '') fields.push('baggage', baggage)
    this.stream.sendHeaders(fields, false)
    tunnel.openLater()
    return tunnel
  }

  /** Answers `status` without a body. `reason` is for our log only: the client learns no more than the status. */
  refuse(status: number, reason: string): void {
    if (this.isDecided) return
    this.isDecided = true
    if (!this.isAbandoned) this.server.refuse(this.stream, status, reason)
  }

  // --- H2Receiver: the stream is paused, so only its end can come ---

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

export class TunnelServer implements Handler, H2Events, TunnelHost, Flushable, KeepaliveOwner {
  isFlushPending = false
  failure: WeftError | null = null
  readonly parts: TunnelParts
  readonly conn: Conn
  private readonly acceptor: TunnelAcceptor
  private readonly servers: Set<TunnelServer>
  private readonly connection: H2Connection
  private readonly keepalive: Keepalive
  private deferred: TunnelStream[] = []
  private lingering: TunnelStream[] = []
  private lingeringBefore: TunnelStream[] = []

  /** Becomes the handler of `conn`, an accepted connection. Takes itself out of `servers` when it is closed. */
  constructor(conn: Conn, parts: TunnelParts, acceptor: TunnelAcceptor, servers: Set<TunnelServer>) {
    this.conn = conn
    this.parts = parts
    this.acceptor = acceptor
    this.servers = servers
    this.connection = new H2Connection(HBONE_SERVER_SETTINGS, conn, this, parts.nowMs)
    this.keepalive = new Keepalive(parts.timers, this.connection, this)
  }

  get peerName(): string {
    return formatHostPort(this.conn.remoteAddress, this.conn.remotePort)
  }

  /** Open and pending tunnels. */
  get activeCount(): number {
    return this.connection.activeCount
  }

  /** No new tunnels; closes when the last one has ended. */
  drain(): void {
    this.connection.drain()
  }

  /** Ends now: open tunnels are reset. */
  close(): void {
    this.failure ??= new WeftError('WEFT_CLOSED', `the HBONE connection from ${this.peerName} was closed by this proxy`)
    this.connection.close(ERROR_NONE, '')
  }

  // --- Handler: the TLS connection ---

  onOpen(): void {
    this.connection.start()
    this.keepalive.start()
  }

  onBytes(_conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    this.connection.receive(bytes, offset, end)
  }

  /** A client that ends its side takes its tunnels with it. */
  onEnd(): void {
    this.connection.receiveClose()
    this.conn.close()
  }

  onDrain(): void {
    this.connection.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.failure ??= error
    this.keepalive.stop()
    this.connection.receiveClose()
    this.servers.delete(this)
  }

  // --- H2Events ---

  onStream(stream: H2Stream, fields: string[]): H2Receiver {
    const authority = fieldValue(fields, ':authority')
    const target = authority === null ? null : parseHostPort(authority)
    if (fieldValue(fields, ':method') !== 'CONNECT' || target === null) {
      this.refuse(stream, 400, 'not CONNECT to host:port')
      return stream.receiver
    }
    stream.pauseReading()
    const pending = new PendingTunnel(this, stream, target.host, target.port, fields)
    stream.receiver = pending
    this.acceptor.onTunnel(pending)
    return stream.receiver
  }

  onFlushWanted(): void {
    this.parts.transport.atBatchEnd(this)
  }

  onPong(): void {
    this.keepalive.onPong()
  }

  onRoom(): void {}

  onGoAway(): void {}

  onFailed(code: number, reason: string): void {
    const message = `the client at ${this.peerName} broke HTTP/2 rules (${errorName(code)}: ${reason})`
    this.failure ??= new WeftError('WEFT_PROTOCOL', message)
  }

  /** Answers without a body and asks the client to stop (RFC 9113 section 8.1). */
  refuse(stream: H2Stream, status: number, _reason: string): void {
    stream.sendHeaders([':status', String(status)], true)
    stream.reset(ERROR_NONE)
  }

  // --- TunnelHost, Flushable ---

  deferTunnel(tunnel: TunnelStream): void {
    this.deferred.push(tunnel)
    this.parts.transport.atBatchEnd(this)
  }

  lingerTunnel(tunnel: TunnelStream): void {
    this.lingering.push(tunnel)
  }

  flush(): void {
    this.isFlushPending = false
    const deferred = this.deferred
    if (deferred.length > 0) {
      this.deferred = []
      for (let i = 0; i < deferred.length; i++) deferred[i]!.runDeferred()
    }
    this.connection.flush()
  }

  // --- KeepaliveOwner ---

  onKeepaliveTick(): void {
    for (const tunnel of this.lingeringBefore) tunnel.sweep()
    this.lingeringBefore = this.lingering
    this.lingering = []
  }

  onKeepaliveLost(): void {
    this.failure ??= new WeftError('WEFT_TIMEOUT', `the proxy at ${this.peerName} has not answered a ping for 20 s`)
    this.conn.abort()
    this.connection.receiveClose()
  }
}

/** Handler of a tunnel whose owner has not said yet who it is. */
const DEAF: Handler = {
  onOpen(): void {},
  onBytes(): void {},
  onEnd(): void {},
  onDrain(): void {},
  onClose(): void {},
}
