// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The dialling end of HBONE: one mutual-TLS connection to the proxy of a destination, carrying many tunnels.
 *
 * Tunnels may be opened before the connection is up; their requests go out with the first flight. No request waits for
 * the peer's settings. After GOAWAY no tunnel is opened any more, open ones go on; the connection closes with the last.
 */
import { parseHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { HBONE_CLIENT_SETTINGS } from '../http/h2/limits.ts'
import type { H2Receiver, H2Stream } from '../http/h2/stream.ts'
import type { Conn, ConnectOptions, Handler } from '../transport/conn.ts'
import type { TunnelParts } from './hbone.ts'
import { TunnelConnection } from './hbone-connection.ts'
import { TUNNEL_DIALLED, TunnelStream } from './hbone-stream.ts'

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
}

/** Who keeps the connection in a pool. */
export interface TunnelClientOwner {
  /** The connection is up. */
  onConnected(client: TunnelClient): void
  /** No tunnel will ever be opened on it again (GOAWAY, failure, close). Called once; open tunnels may go on. */
  onUnusable(client: TunnelClient): void
  /** A tunnel ended: there is room, or nothing left on the connection. May come inside a call on the tunnel. */
  onTunnelClosed(client: TunnelClient): void
}

/** One HBONE connection that we dialled; many tunnels share it. */
export class TunnelClient extends TunnelConnection {
  readonly dialledAtMs: number
  /** Since when no tunnel is open on it; meaningless while one is. */
  idleSinceMs: number
  private readonly owner: TunnelClientOwner
  private isUnusableReported = false

  /** `options` must have a TLS context and the identities that the destination may prove. */
  constructor(parts: TunnelParts, options: ConnectOptions, owner: TunnelClientOwner) {
    super(parts, HBONE_CLIENT_SETTINGS, null, options)
    this.dialledAtMs = parts.nowMs()
    this.idleSinceMs = this.dialledAtMs
    this.owner = owner
  }

  /** True while another tunnel may be opened now. */
  get canOpen(): boolean {
    return this.connection.canOpen && this.connection.activeCount < TUNNELS_MAX && !this.isStalled
  }

  /** Tunnels that it may carry at a time, as far as is known. */
  get tunnelsMax(): number {
    return Math.min(TUNNELS_MAX, this.connection.peer.streamsMax)
  }

  /** True while tunnels will be opened again. */
  get isUsable(): boolean {
    return !this.connection.isDraining && !this.connection.isClosed
  }

  /**
   * Opens a tunnel. `handler.onOpen` comes with the 200, or `onClose` with a TunnelError, also when there is no room.
   * What is written before waits for the 200, which must come within `timeoutMs` (0: whenever it comes).
   */
  openTunnel(request: TunnelRequest, handler: Handler, timeoutMs = 0): Conn {
    const target = parseHostPort(request.authority)
    const tunnel = new TunnelStream(this, TUNNEL_DIALLED, target?.host ?? '', target?.port ?? 0, handler)
    if (this.canOpen) {
      const stream = this.connection.open(fieldsOf(request), false, tunnel)
      stream.cork()
      tunnel.attach(stream)
      if (timeoutMs > 0) tunnel.limitOpening(timeoutMs)
    } else {
      const state = !this.isUsable ? 'takes no more tunnels' : this.isStalled ? 'is stalled' : 'is full'
      tunnel.failLater(new WeftError('WEFT_LIMIT', `the HBONE connection with ${this.peerName} ${state}`))
    }
    return tunnel
  }

  /** A server opens no streams; the engine has refused it before. */
  override onStream(stream: H2Stream): H2Receiver {
    return stream.receiver
  }

  override onOpen(): void {
    super.onOpen()
    this.owner.onConnected(this)
  }

  override onStreamEnded(): void {
    if (this.activeCount === 0) this.idleSinceMs = this.parts.nowMs()
    this.owner.onTunnelClosed(this)
  }

  /** The peer's GOAWAY is answered by ours, and the connection closes with its last tunnel. */
  override onGoAway(): void {
    this.drain()
  }

  protected override onUnusable(): void {
    if (this.isUnusableReported) return
    this.isUnusableReported = true
    // After a failure they are closed already.
    for (const { receiver } of this.connection.streams.values()) {
      if (receiver instanceof TunnelStream) receiver.retire()
    }
    this.owner.onUnusable(this)
  }
}

function fieldsOf(request: TunnelRequest): string[] {
  const fields = [':method', 'CONNECT', ':authority', request.authority]
  if (request.baggage !== '') fields.push('baggage', request.baggage)
  if (request.forwarded !== '') fields.push('forwarded', request.forwarded)
  return fields
}
