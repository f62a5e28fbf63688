/**
 * What the kernel may carry by itself between pods of this node, worked out of a snapshot: pure, no system call.
 *
 * A port is for the kernel when its protocol is opaque (tcp, tls) and nothing is asked of it that only the proxy can do:
 * no limits on connections, no outlier detection, no time-outs of the user's, no session affinity. Its endpoints get slots by weight; an
 * endpoint that is no captured pod of this node, or that somebody's connections to cannot be judged beforehand, has slots
 * too, which send the connection to the agent. A service without such an endpoint, and one that only the proxy can serve,
 * gets slots for the time when nobody serves.
 *
 * What holds for every client is planned once, in scope 0; scopes with rules of their own have frontends of their own.
 */
import { type Family, familyOf } from '../base/address.ts'
import type { Backend, Frontend } from '../kernel/carry-maps.ts'
import { membershipOf, type Place, placeOf, usableEndpoints } from '../model/endpoints.ts'
import type { Traffic } from '../model/route.ts'
import {
  type Cluster,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_DETECT,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  PROTOCOL_UDP,
  type Protocol,
  type Service,
  type ServicePort,
} from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { carriedKey } from '../proxy/carried-endpoints.ts'
import { resolveTargetPort } from '../proxy/destination.ts'
import { type Share, slotsOf } from './carriage-slots.ts'
import { type PlannedVerdict, Verdicts } from './carriage-verdicts.ts'
import { nameOfAddress, nameOfPort } from './carried-names.ts'

export type { PlannedVerdict } from './carriage-verdicts.ts'

/** Numbers for names, given once and kept: the kernel's maps know numbers only. */
export interface Numbering {
  numberOf(name: string): number
}

/** What a plan is made of. */
export interface CarriageInput {
  readonly snapshot: Snapshot
  /** The captured pods of this node, and their numbers. */
  readonly pods: ReadonlyMap<string, number>
  readonly scopes: Numbering
  readonly services: Numbering
  readonly policies: Numbering
  /** True when connections to that workload must be encrypted, on one node too. */
  readonly mustEncrypt: (workload: Workload) => boolean
}

/** The wanted contents of the kernel's maps, by keys that say the same as theirs; what matters most comes first. */
export interface CarriagePlan {
  readonly frontends: ReadonlyMap<string, PlannedFrontend>
  readonly backends: ReadonlyMap<string, PlannedBackend>
  readonly verdicts: ReadonlyMap<string, PlannedVerdict>
  /** The endpoints (uids) of service ports that the kernel carries connections to, by `carriedKey`. */
  readonly carried: ReadonlyMap<string, readonly string[]>
}

export interface PlannedFrontend {
  readonly frontend: Frontend
  readonly service: number
  readonly slots: number
  /** Only for the time when nobody serves. */
  readonly isFallback: boolean
  /** Where `carried` tells of it, if it does; empty for a pod's own address, and for what was found in the maps. */
  readonly carriedKey: string
}

export interface PlannedBackend {
  readonly service: number
  readonly slot: number
  readonly backend: Backend
}

export const EMPTY_PLAN: CarriagePlan = {
  frontends: new Map(),
  backends: new Map(),
  verdicts: new Map(),
  carried: new Map(),
}

/** The key of a frontend in a plan. */
export function frontendKey({ scope, address, port }: Frontend): string {
  return `${scope} ${address} ${port}`
}

/** The scope of what holds for every client that has no rules of its own. Scopes with rules have numbers from 1. */
const SCOPE_EVERYONE = 0

/** Makes the plan. Cost: ports of services and their endpoints, rules of scopes, and pairs of pods of this node. */
export function planCarriage(input: CarriageInput): CarriagePlan {
  return new Planning(input).run()
}

interface WeightedCluster {
  readonly cluster: Cluster
  readonly weight: number
}

/** The endpoints of a service port in one family. */
interface Balanced {
  readonly slots: readonly Backend[]
  /** Uids of those that the kernel carries connections to. */
  readonly carried: readonly string[]
}

/** One run over a snapshot. */
class Planning {
  private readonly input: CarriageInput
  private readonly verdicts: Verdicts
  private readonly frontends = new Map<string, PlannedFrontend>()
  private readonly fallbacks = new Map<string, PlannedFrontend>()
  private readonly backends = new Map<string, PlannedBackend>()
  private readonly fallbackBackends = new Map<string, PlannedBackend>()
  private readonly carried = new Map<string, readonly string[]>()
  /** Of all clients: they are pods of this node. */
  private readonly place: Place

  constructor(input: CarriageInput) {
    this.input = input
    this.place = placeOf(input.snapshot)
    this.verdicts = new Verdicts(input.snapshot, input.pods, input.policies)
  }

  run(): CarriagePlan {
    const { snapshot, pods } = this.input
    const local: Workload[] = []
    const scopes = new Set<string>()
    for (const uid of pods.keys()) {
      const [pod, workload] = [snapshot.pods.get(uid), snapshot.workloads.get(uid)]
      if (pod !== undefined) scopes.add(pod.scope)
      if (workload !== undefined) local.push(workload)
    }
    for (const service of snapshot.services.values()) {
      for (const port of service.ports) this.planPort('', service, port, null)
    }
    for (const traffic of snapshot.traffic.values()) {
      if (!scopes.has(traffic.scope)) continue
      const service = snapshot.services.get(traffic.service)
      const port = service?.ports.find(({ number }) => number === traffic.port)
      if (port !== undefined) this.planPort(traffic.scope, service!, port, traffic)
    }
    for (const workload of local) this.planAddresses(workload)
    return {
      frontends: joined(this.frontends, this.fallbacks),
      backends: joined(this.backends, this.fallbackBackends),
      verdicts: this.verdicts.planned,
      carried: this.carried,
    }
  }

  // --- services ---

  /** `scope` is empty, and `traffic` null, for what holds for everyone. */
  private planPort(scope: string, service: Service, port: ServicePort, traffic: Traffic | null): void {
    if (port.protocol === PROTOCOL_UDP || service.addresses.length === 0) return
    const rules = clustersFor(service, port, traffic)
    const clusters = rules?.some(({ cluster }) => this.hasAffinity(cluster)) === true ? null : rules
    const balanced = new Map<Family, Balanced>()
    for (const address of service.addresses) {
      const family = familyOf(address)
      let found = balanced.get(family)
      if (found === undefined) {
        found = this.balance(clusters ?? [fallbackFor(service, port, traffic)], family, clusters !== null)
        balanced.set(family, found)
        if (found.carried.length > 0)
          this.carried.set(carriedKey(scope, service.key, port.number, family), found.carried)
      }
      // A scope of its own hides what everyone gets, also when it has no endpoints.
      if (found.slots.length === 0 && scope === '') continue
      const number = this.input.services.numberOf(nameOfPort(scope, service.key, port.number, family))
      const frontend = { address, port: port.number, scope: this.scopeNumber(scope) }
      this.add(
        frontend,
        number,
        found.slots,
        carriedKey(scope, service.key, port.number, family),
        found.carried.length === 0,
      )
    }
  }

  /** The kernel draws lots for each connection: it keeps no client with its endpoint. */
  private hasAffinity({ service }: Cluster): boolean {
    return this.input.snapshot.services.get(service)?.affinityMs !== undefined
  }

  private balance(clusters: readonly WeightedCluster[], family: Family, isForKernel: boolean): Balanced {
    const shares: Share[] = []
    const carried: string[] = []
    for (const { cluster, weight } of clusters) this.addShares(cluster, weight, family, isForKernel, shares, carried)
    return { slots: slotsOf(shares), carried: [...new Set(carried)] }
  }

  private addShares(
    cluster: Cluster,
    weight: number,
    family: Family,
    isForKernel: boolean,
    shares: Share[],
    carried: string[],
  ): void {
    const { snapshot } = this.input
    const service = snapshot.services.get(cluster.service) ?? null
    const members = cluster.members === null ? null : new Set(cluster.members)
    const endpoints = snapshot.endpointsOf(cluster.service)
    const candidates = members === null ? endpoints : endpoints.filter(({ uid }) => members.has(uid))
    const found: { workload: Workload; address: string; port: number }[] = []
    let capacity = 0
    for (const workload of usableEndpoints(cluster.service, service, candidates, this.place)) {
      const port = targetPortOf(workload, cluster, service)
      const address = workload.addresses.find((candidate) => familyOf(candidate) === family) ?? workload.addresses[0]
      if (port === null || address === undefined) continue
      found.push({ workload, address, port })
      capacity += workload.capacity
    }
    for (const { workload, address, port } of found) {
      // The socket has the family of what was dialled: an endpoint of the other family is the agent's.
      const isReachable = familyOf(address) === family
      if (!isForKernel && !isReachable) continue
      const pod = isForKernel && isReachable ? this.podOf(workload, port) : 0
      if (pod !== 0) carried.push(workload.uid)
      shares.push({ backend: { address, port, pod }, weight: (weight * workload.capacity) / capacity })
    }
  }

  // --- pods dialled by their own address ---

  private planAddresses(workload: Workload): void {
    const { snapshot, services } = this.input
    const ports = new Set(workload.services.flatMap((service) => service.ports.map(({ targetPort }) => targetPort)))
    for (const port of ports) {
      if (!isOpaque(resolveTargetPort(snapshot, workload, port, '').protocol)) continue
      const pod = this.podOf(workload, port)
      if (pod === 0) continue
      for (const address of workload.addresses) {
        const number = services.numberOf(nameOfAddress(workload.uid, port, address))
        this.add({ address, port, scope: SCOPE_EVERYONE }, number, [{ address, port, pod }], '', false)
      }
    }
  }

  /** The number of a pod to a port of which the kernel may carry connections; 0 for any other workload. */
  private podOf(workload: Workload, port: number): number {
    const { snapshot, pods } = this.input
    const number = pods.get(workload.uid)
    if (number === undefined || !snapshot.pods.has(workload.uid) || this.input.mustEncrypt(workload)) return 0
    return this.verdicts.isJudged(workload, number, port) ? number : 0
  }

  private scopeNumber(scope: string): number {
    return scope === '' ? SCOPE_EVERYONE : this.input.scopes.numberOf(scope)
  }

  private add(
    frontend: Frontend,
    service: number,
    slots: readonly Backend[],
    carriedKey: string,
    isFallback: boolean,
  ): void {
    const key = frontendKey(frontend)
    const [frontends, backends] = isFallback ? [this.fallbacks, this.fallbackBackends] : [this.frontends, this.backends]
    frontends.set(key, { frontend, service, slots: slots.length, isFallback, carriedKey })
    for (const [slot, backend] of slots.entries()) backends.set(`${service} ${slot}`, { service, slot, backend })
  }
}

function joined<T>(first: Map<string, T>, second: ReadonlyMap<string, T>): Map<string, T> {
  for (const [key, value] of second) first.set(key, value)
  return first
}

function isOpaque(protocol: Protocol): boolean {
  return protocol === PROTOCOL_TCP || protocol === PROTOCOL_TLS
}

/** Where connections to a port go, by weight; null when the proxy has to carry them. */
function clustersFor(service: Service, port: ServicePort, traffic: Traffic | null): readonly WeightedCluster[] | null {
  const declared = traffic !== null && traffic.protocol !== PROTOCOL_DETECT ? traffic.protocol : port.protocol
  if (!isOpaque(declared)) return null
  if (traffic === null) return [{ cluster: plainCluster(service, port), weight: 1 }]
  const weighted =
    traffic.tcpClusters.length > 0 ? traffic.tcpClusters : [{ cluster: traffic.defaultCluster, weight: 1 }]
  const clusters: WeightedCluster[] = []
  for (const { cluster: key, weight } of weighted) {
    const cluster = traffic.clusters.find((candidate) => candidate.key === key)
    if (cluster === undefined || !isSimple(cluster)) return null
    if (weight > 0) clusters.push({ cluster, weight })
  }
  return clusters
}

/** Where connections to a port go that only the proxy understands, when it is not there. */
function fallbackFor(service: Service, port: ServicePort, traffic: Traffic | null): WeightedCluster {
  const cluster = traffic?.clusters.find(({ key }) => key === traffic.defaultCluster)
  return { cluster: cluster ?? plainCluster(service, port), weight: 1 }
}

/** True when nothing is asked that needs somebody who watches the connection. */
function isSimple({ limits, outlier }: Cluster): boolean {
  return (
    outlier === null &&
    limits.connectionsMax === null &&
    limits.connectionAgeMsMax === null &&
    limits.connectTimeoutMs === DEFAULT_POOL_LIMITS.connectTimeoutMs &&
    limits.idleTimeoutMs === DEFAULT_POOL_LIMITS.idleTimeoutMs
  )
}

/** What a service port is without any rule. */
function plainCluster(service: Service, port: ServicePort): Cluster {
  return {
    key: '',
    service: service.key,
    subset: '',
    port: port.number,
    members: null,
    balance: 0,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
  }
}

/** A workload's own mapping wins over the service's target port. */
function targetPortOf(workload: Workload, cluster: Cluster, service: Service | null): number | null {
  for (const { servicePort, targetPort } of membershipOf(workload, cluster.service)?.ports ?? []) {
    if (servicePort === cluster.port) return targetPort
  }
  const port = service?.ports.find(({ number }) => number === cluster.port)?.targetPort ?? 0
  return port === 0 ? null : port
}
