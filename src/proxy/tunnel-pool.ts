/**
 * HBONE connections from one pod of this node to workloads elsewhere: few, shared by many exchanges.
 *
 * Keyed by the destination's address; the source is fixed, because a tunnel carries the identity of the pod it starts
 * in. A connection is added when all others are full, and released when nothing has used it for a while.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { Workload } from '../model/workload.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { writeBaggage } from './baggage.ts'
import { FailedConn } from './failed-conn.ts'
import { writeForwarded } from './forwarded.ts'
import { HBONE_PORT } from './hbone.ts'
import { TunnelClient, type TunnelClientOwner } from './hbone-client.ts'
import { identityOf, type LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'
import type { UpstreamTarget } from './upstreams.ts'

/** An unused tunnel connection is released after five minutes, like ztunnel's POOL_UNUSED_RELEASE_TIMEOUT. */
const TUNNEL_UNUSED_MS = 300_000

/** Connections to one destination. 100 tunnels each: 3,200 concurrent streams from one pod to one pod. */
const CLIENTS_MAX = 32

/** The HBONE connections of one source pod. */
export class TunnelPool {
  private readonly parts: ProxyParts
  private readonly source: LocalWorkload
  private readonly destinations = new Map<string, TunnelDestination>()

  constructor(parts: ProxyParts, source: LocalWorkload) {
    this.parts = parts
    this.source = source
  }

  get isEmpty(): boolean {
    return this.destinations.size === 0
  }

  /** Opens a tunnel to `target`; the outcome comes to `handler`. */
  open(target: UpstreamTarget, handler: Handler): Conn {
    const workload = target.workload!
    const key = `${target.address} ${identityOf(workload)}`
    let destination = this.destinations.get(key)
    if (destination === undefined) {
      destination = new TunnelDestination(this.parts, this.source, workload, target.address)
      this.destinations.set(key, destination)
    }
    return destination.open(target, handler)
  }

  /** New tunnels use new connections, made with the credential of now; open ones go on. */
  rotate(): void {
    for (const destination of this.destinations.values()) destination.drain()
  }

  sweep(): void {
    for (const [key, destination] of this.destinations) if (destination.isEmpty) this.destinations.delete(key)
  }

  /** The pod is gone: open tunnels go on, nothing new. */
  close(): void {
    for (const destination of this.destinations.values()) destination.drain()
    this.destinations.clear()
  }
}

/** The connections to one workload's address. */
class TunnelDestination implements TunnelClientOwner, TimerTarget {
  private readonly parts: ProxyParts
  private readonly source: LocalWorkload
  private readonly workload: Workload
  private readonly address: string
  private readonly clients: TunnelClient[] = []
  private readonly timer: TimerEntry

  constructor(parts: ProxyParts, source: LocalWorkload, workload: Workload, address: string) {
    this.parts = parts
    this.source = source
    this.workload = workload
    this.address = address
    this.timer = new TimerEntry(this)
  }

  get isEmpty(): boolean {
    return this.clients.length === 0
  }

  open(target: UpstreamTarget, handler: Handler): Conn {
    let client = this.clientWithRoom()
    if (client === null) {
      const made = this.connect(target.connectTimeoutMs)
      if (made instanceof WeftError) {
        return new FailedConn(this.parts.transport, handler, target.address, target.port, made)
      }
      client = made
    }
    this.parts.timers.clear(this.timer)
    const sourceWorkload = this.parts.snapshot.workloads.get(this.source.uid)
    const request = {
      authority: formatHostPort(target.address, target.port),
      baggage: sourceWorkload === undefined ? '' : writeBaggage(sourceWorkload),
      forwarded: writeForwarded(target.forwardedFor, target.host),
    }
    return client.openTunnel(request, handler)
  }

  /** Open tunnels go on; the connections close with their last. */
  drain(): void {
    for (const client of [...this.clients]) client.drain()
  }

  onUnusable(client: TunnelClient): void {
    const index = this.clients.indexOf(client)
    if (index >= 0) this.clients.splice(index, 1)
  }

  onTunnelClosed(): void {
    for (const client of this.clients) if (client.activeCount > 0) return
    this.parts.timers.start(this.timer, TUNNEL_UNUSED_MS)
  }

  onTimer(): void {
    for (const client of [...this.clients]) if (client.activeCount === 0) client.drain()
  }

  /** The fullest connection with room first, so that the others run dry and can go. */
  private clientWithRoom(): TunnelClient | null {
    let best: TunnelClient | null = null
    for (const client of this.clients) {
      if (client.canOpen && (best === null || client.activeCount > best.activeCount)) best = client
    }
    return best
  }

  private connect(timeoutMs: number): TunnelClient | WeftError {
    const { parts, source, workload, address } = this
    const where = `${workload.namespace}/${workload.name} at ${formatHostPort(address, HBONE_PORT)}`
    if (this.clients.length >= CLIENTS_MAX) {
      return new WeftError('WEFT_LIMIT', `all ${CLIENTS_MAX} tunnel connections to ${where} are full`)
    }
    const tls = parts.credentials.contextOf(source.identity)
    if (tls === null) {
      return new WeftError('WEFT_CERTIFICATE', `no certificate for ${source.identity} yet, so no tunnel to ${where}`)
    }
    try {
      const options = {
        address,
        port: HBONE_PORT,
        origin: parts.sockets.originIn(source.uid, address),
        timeoutMs,
        tls,
        expectedIdentities: [identityOf(workload)],
      }
      const client = new TunnelClient(parts, options, this)
      this.clients.push(client)
      return client
    } catch (error) {
      return error instanceof WeftError ? error : new WeftError('WEFT_CONNECT', describeError(error), error)
    }
  }
}
