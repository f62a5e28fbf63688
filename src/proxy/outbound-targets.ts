// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Steps 2 and 3 of the outbound path, remembered: what a pod of this node has dialled, under the newest snapshot, with
 * the metrics of its edges. Connections that come and go then cost three look-ups instead of the whole resolution.
 *
 * A connection keeps its target, so that what it began with stays; a new snapshot drops all of them from here.
 */
import { familyOf } from '../base/address.ts'
import type { Traffic } from '../model/route.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { carriedKey } from './carried-endpoints.ts'
import { type Destination, resolveDestination } from './destination.ts'
import type { Endpoint } from './endpoint.ts'
import { type LocalWorkload, scopeOf } from './local-pods.ts'
import type { EdgePair } from './outbound.ts'

/**
 * Targets remembered; beyond it all are forgotten. 4096: forty for each pod of a node of a hundred. Apps choose what
 * they dial, so there has to be a limit.
 */
export const TARGETS_MAX = 4_096

/** What one pod dialled: an address and a port. Shared by its connections there. */
export class OutboundTarget {
  readonly snapshot: Snapshot
  readonly destination: Destination
  readonly sourceWorkload: Workload | null
  /** The rules of the source's scope for the service port that was dialled; null means defaults. */
  readonly traffic: Traffic | null
  /** Of the service port, to ask what the kernel carries of it; empty when no service was dialled. */
  readonly carriedKey: string
  readonly edges: Map<Endpoint | null, EdgePair>
  readonly grpcEdges: Map<Endpoint | null, EdgePair>

  constructor(snapshot: Snapshot, source: LocalWorkload, address: string, port: number) {
    this.snapshot = snapshot
    this.destination = resolveDestination(snapshot, address, port)
    this.sourceWorkload = snapshot.workloads.get(source.uid) ?? null
    this.traffic = trafficOf(snapshot, source, this.destination)
    const { service, port: dialled } = this.destination
    const scope = this.traffic === null ? '' : scopeOf(snapshot, source.uid)
    this.carriedKey =
      service === null || dialled === null ? '' : carriedKey(scope, service.key, dialled.number, familyOf(address))
    this.edges = new Map()
    this.grpcEdges = new Map()
  }
}

/** The targets of all pods of one worker. */
export class OutboundTargets {
  private snapshot: Snapshot = Snapshot.empty
  private readonly bySource = new Map<LocalWorkload, Map<string, Map<number, OutboundTarget>>>()
  private count = 0

  of(snapshot: Snapshot, source: LocalWorkload, address: string, port: number): OutboundTarget {
    if (snapshot !== this.snapshot || this.count >= TARGETS_MAX) {
      this.snapshot = snapshot
      this.bySource.clear()
      this.count = 0
    }
    const target = this.bySource.get(source)?.get(address)?.get(port)
    return target ?? this.add(new OutboundTarget(snapshot, source, address, port), source, address, port)
  }

  private add(target: OutboundTarget, source: LocalWorkload, address: string, port: number): OutboundTarget {
    let byAddress = this.bySource.get(source)
    if (byAddress === undefined) {
      byAddress = new Map()
      this.bySource.set(source, byAddress)
    }
    let byPort = byAddress.get(address)
    if (byPort === undefined) {
      byPort = new Map()
      byAddress.set(address, byPort)
    }
    byPort.set(port, target)
    this.count++
    return target
  }
}

/** See `OutboundTarget.traffic`. */
export function trafficOf(snapshot: Snapshot, source: LocalWorkload, destination: Destination): Traffic | null {
  const { service, port } = destination
  if (service === null || port === null) return null
  return snapshot.trafficOf(scopeOf(snapshot, source.uid), service.key, port.number)
}
