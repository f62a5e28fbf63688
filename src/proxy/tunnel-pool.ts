/**
 * HBONE connections from one pod of this node to workloads elsewhere: few, shared by many exchanges.
 *
 * The source is fixed, because a tunnel carries the identity of the pod it starts in. What there is to one destination,
 * and when another connection is made or one released, is tunnel-destination.ts.
 */
import type { Conn, Handler } from '../transport/conn.ts'
import { identityOf, type LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'
import { type TunnelCounters, TunnelDestination } from './tunnel-destination.ts'
import type { UpstreamTarget } from './upstreams.ts'

/** The HBONE connections of one source pod. */
export class TunnelPool {
  private readonly parts: ProxyParts
  private readonly source: LocalWorkload
  private readonly destinations = new Map<string, TunnelDestination>()
  readonly counters: TunnelCounters

  constructor(parts: ProxyParts, source: LocalWorkload, counters: TunnelCounters) {
    this.parts = parts
    this.source = source
    this.counters = counters
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
      destination = new TunnelDestination(this.parts, this.source, workload, target.address, this.counters)
      this.destinations.set(key, destination)
    }
    return destination.open(target, handler)
  }

  /** New tunnels use new connections, made with the credential of now, as soon as they are up; open ones go on. */
  rotate(): void {
    for (const destination of this.destinations.values()) destination.rotate()
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
