// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The dialling end of HBONE: one mutual-TLS connection to the proxy of a destination, carrying many tunnels.
 *
 * Tunnels may be opened before the connection is up; their requests go out with the first flight. No request waits for
 * the peer's settings. After GOAWAY no tunnel is opened any more, open ones go on; the connection closes with the last.
 */
import { formatHostPort, parseHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { H2Connection, type H2Events } from '../http/h2/connection.ts'
import { ERROR_NONE, errorName } from '../http/h2/frame.ts'
import { HBONE_CLIENT_SETTINGS } from '../http/h2/limits.ts'
import type { H2Receiver, H2Stream } from '../http/h2/stream.ts'
import type { Conn, ConnectOptions, Flushable, Handler } from '../transport/conn.ts'
import { Keepalive, type KeepaliveOwner, type TunnelParts } from './hbone.ts'
import { type TunnelEnds, type TunnelHost, TunnelStream } from './hbone-stream.ts'

/** Tunnels of one connection. 100: as ztunnel; one lost connection should not take more with it. */
export const TUNNELS_MAX = 100

/** What the CONNECT request says. Empty texts are left out. */
export interface TunnelRequest {
  /** `ip:port` of the destination. */
  readonly authority: string
  /** Of the source workload; see baggage.ts. */
  readonly baggage: string
  /** `for="ip:port"` and perhaps `;host=<service>`. */
  readonly forwarded: string
  readonly traceparent: string
}

export interface TunnelClientOwner {
  /** No tunnel will ever be opened on it again (GOAWAY, failure, close). Called once; open tunnels may go on. */
  onUnusable(client: TunnelClient): void
  /** A tunnel ended: there may be room, or nothing left on the connection. */
  onTunnelClosed(client: TunnelClient): void
}

export class TunnelClient implements Handler, H2Events, TunnelHost, Flushable, KeepaliveOwner {
  isFlushPending = false
  failure: WeftError | null = null
  readonly parts: TunnelParts
  readonly peerName: string
  private readonly owner: TunnelClientOwner
  private readonly conn: Conn
  private readonly connection: H2Connection
  private readonly keepalive: Keepalive
  private isOpen = false
  private isUnusableReported = false
  private deferred: TunnelStream[] = []
  private lingering: TunnelStream[] = []
  private lingeringBefore: TunnelStream[] = []

  /** `options` must have a TLS context and the identities that the destination may prove. */
  constructor(parts: TunnelParts, options: ConnectOptions, owner: TunnelClientOwner) {
    this.parts = parts
    this.owner = owner
    this.peerName = formatHostPort(options.address, options.port)
    this.conn = parts.transport.connect(options, this)
    this.connection = new H2Connection(HBONE_CLIENT_SETTINGS, this.conn, this, parts.nowMs)
    this.keepalive = new Keepalive(parts.timers, this.connection, this)
    this.connection.start()
  }

  /** Open tunnels, and those that wait for their answer. */
  get activeCount(): number {
    return this.connection.activeCount
  }

  /** True while another tunnel may be opened now. */
  get canOpen(): boolean {
    return this.connection.canOpen && this.connection.activeCount < TUNNELS_MAX
  }

  /** True while tunnels will be opened again. */
  get isUsable(): boolean {
    return !this.connection.isDraining && !this.connection.isClosed
  }

  /**
   * Opens a tunnel. `handler.onOpen` comes with the 200, or `onClose` with a TunnelError, also when there is no room.
   * What is written before waits for the 200.
   */
  openTunnel(request: TunnelRequest, handler: Handler): Conn {
    const ends = this.endsOf(request.authority)
    if (!this.canOpen) {
      const tunnel = new TunnelStream(this, ends, handler)
      tunnel.failLater(
        new WeftError(
          'WEFT_LIMIT',
          `no room for a tunnel to ${request.authority} on the connection with ${this.peerName}`,
        ),
      )
      return tunnel
    }
    const tunnel = new TunnelStream(this, ends, handler)
    const stream = this.connection.open(fieldsOf(request), false, tunnel)
    stream.cork()
    tunnel.attach(stream)
    return tunnel
  }

  /** No new tunnels; closes with the last one. */
  drain(): void {
    this.connection.drain()
    this.reportUnusable()
  }

  /** Ends now: open tunnels are reset. */
  close(): void {
    this.failure ??= new WeftError('WEFT_CLOSED', `the HBONE connection with ${this.peerName} was closed by this proxy`)
    if (this.isOpen) this.connection.close(ERROR_NONE, '')
    else this.conn.abort()
    this.connection.receiveClose()
    this.reportUnusable()
  }

  // --- Handler: the TLS connection ---

  onOpen(): void {
    this.isOpen = true
    this.keepalive.start()
    this.parts.transport.atBatchEnd(this)
  }

  onBytes(_conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    this.connection.receive(bytes, offset, end)
  }

  /** A proxy that ends its side will not answer any more. */
  onEnd(): void {
    this.connection.receiveClose()
    this.conn.close()
    this.reportUnusable()
  }

  onDrain(): void {
    this.connection.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.failure ??= error
    this.keepalive.stop()
    this.connection.receiveClose()
    this.reportUnusable()
  }

  // --- H2Events ---

  /** A server opens no streams; the engine has refused it before. */
  onStream(stream: H2Stream): H2Receiver {
    return stream.receiver
  }

  onFlushWanted(): void {
    this.parts.transport.atBatchEnd(this)
  }

  onPong(): void {
    this.keepalive.onPong()
  }

  onRoom(): void {
    this.owner.onTunnelClosed(this)
  }

  onGoAway(): void {
    this.connection.drain()
    this.reportUnusable()
  }

  onFailed(code: number, reason: string): void {
    const message = `the proxy at ${this.peerName} broke HTTP/2 rules (${errorName(code)}: ${reason})`
    this.failure ??= new WeftError('WEFT_PROTOCOL', message)
    this.reportUnusable()
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
    if (this.isOpen || this.connection.isClosed) this.connection.flush()
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
    this.reportUnusable()
  }

  private reportUnusable(): void {
    if (this.isUnusableReported) return
    this.isUnusableReported = true
    this.owner.onUnusable(this)
  }

  private endsOf(authority: string): TunnelEnds {
    const target = parseHostPort(authority)
    return {
      localAddress: this.conn.localAddress,
      localPort: this.conn.localPort,
      remoteAddress: target === null ? '' : target.host,
      remotePort: target === null ? 0 : target.port,
      peerIdentity: this.conn.peerIdentity,
      authority,
    }
  }
}

function fieldsOf(request: TunnelRequest): string[] {
  const fields = [':method', 'CONNECT', ':authority', request.authority]
  if (request.baggage !== '') fields.push('baggage', request.baggage)
  if (request.forwarded !== '') fields.push('forwarded', request.forwarded)
  if (request.traceparent !== '') fields.push('traceparent', request.traceparent)
  return fields
}
