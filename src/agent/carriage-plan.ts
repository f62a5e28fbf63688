/**
 * What the kernel may carry by itself between pods of this node, worked out of a snapshot: pure, no system call.
 *
 * A port is for the kernel when its protocol is opaque (tcp, tls) and nothing is asked of it that only the proxy can do:
 * no limits on connections, no outlier detection, no time-outs of the user's. Its endpoints get slots by weight; an
 * endpoint that is not a captured pod of this node has slots too, which send the connection to the agent. Every pair of a
 * local source and a local destination gets a verdict, unless policies judge addresses that tell the pod's own apart.
 */
import { type Family, familyOf } from '../base/address.ts'
import type { Backend, Frontend, Pair } from '../kernel/carry-maps.ts'
import { SLOTS_MAX } from '../kernel/layout.generated.ts'
import { formatIdentity, principalOf } from '../model/identity.ts'
import type { Traffic } from '../model/route.ts'
import {
  type Cluster,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_DETECT,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  type Protocol,
  type Service,
  type ServicePort,
} from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import type { ConnectionFacts } from '../proxy/authorize.ts'
import { Authorizer } from '../proxy/authorize.ts'
import { resolveTargetPort } from '../proxy/destination.ts'
import { addressBytes } from '../proxy/local-pods.ts'

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

/** The wanted contents of the kernel's maps, by keys that say the same as theirs. */
export interface CarriagePlan {
  readonly frontends: ReadonlyMap<string, PlannedFrontend>
  readonly backends: ReadonlyMap<string, PlannedBackend>
  readonly verdicts: ReadonlyMap<string, PlannedVerdict>
}

export interface PlannedFrontend {
  readonly frontend: Frontend
  readonly service: number
  readonly slots: number
}

export interface PlannedBackend {
  readonly service: number
  readonly slot: number
  readonly backend: Backend
}

export interface PlannedVerdict {
  readonly pair: Pair
  readonly isAllowed: boolean
  /** Number of the policy that denies; 0 when none allows. */
  readonly policy: number
}

export const EMPTY_PLAN: CarriagePlan = { frontends: new Map(), backends: new Map(), verdicts: new Map() }

/** Makes the plan. Cost: services times scopes, and pairs of local pods that a service connects. */
export function planCarriage(input: CarriageInput): CarriagePlan {
  return new Planning(input).run()
}

/** An endpoint and its share of a service's connections. */
interface Share {
  readonly backend: Backend
  readonly weight: number
}

/** One run over a snapshot. */
class Planning {
  private readonly input: CarriageInput
  private readonly frontends = new Map<string, PlannedFrontend>()
  private readonly backends = new Map<string, PlannedBackend>()
  private readonly verdicts = new Map<string, PlannedVerdict>()
  private readonly authorizers = new Map<string, Authorizer>()

  constructor(input: CarriageInput) {
    this.input = input
  }

  run(): CarriagePlan {
    for (const [scope, sources] of this.sourcesByScope()) this.planScope(scope, sources)
    const { frontends, backends, verdicts } = this
    return { frontends, backends, verdicts }
  }

  private sourcesByScope(): Map<string, Workload[]> {
    const { snapshot, pods } = this.input
    const sources = new Map<string, Workload[]>()
    for (const uid of pods.keys()) {
      const pod = snapshot.pods.get(uid)
      const workload = snapshot.workloads.get(uid)
      if (pod === undefined || workload === undefined) continue
      const known = sources.get(pod.scope)
      if (known === undefined) sources.set(pod.scope, [workload])
      else known.push(workload)
    }
    return sources
  }

  private planScope(scope: string, sources: readonly Workload[]): void {
    const { snapshot, pods } = this.input
    const targets = new Map<string, { readonly workload: Workload; readonly port: number }>()
    const aim = (workload: Workload, port: number): void => {
      targets.set(`${workload.uid} ${port}`, { workload, port })
    }
    for (const service of snapshot.services.values()) {
      for (const port of service.ports) this.planPort(scope, service, port, aim)
    }
    for (const uid of pods.keys()) {
      const workload = snapshot.workloads.get(uid)
      if (workload !== undefined) this.planAddresses(scope, workload, aim)
    }
    for (const { workload, port } of targets.values()) {
      for (const source of sources) if (source.uid !== workload.uid) this.judge(source, workload, port)
    }
  }

  // --- services ---

  private planPort(scope: string, service: Service, port: ServicePort, aim: Aim): void {
    const { snapshot, scopes, services } = this.input
    const traffic = snapshot.trafficOf(scope, service.key, port.number)
    const clusters = clustersFor(service, port, traffic)
    if (clusters === null) return
    for (const address of service.addresses) {
      const family = familyOf(address)
      const shares: Share[] = []
      for (const { cluster, weight } of clusters) shares.push(...this.sharesOf(cluster, weight, family, aim))
      // With no endpoint on this node there is nothing to carry, and nothing to choose.
      if (!shares.some(({ backend }) => backend.pod !== 0)) continue
      const name = `${scope}|${service.key}|${port.number}|${family}`
      this.add({ address, port: port.number, scope: scopes.numberOf(scope) }, services.numberOf(name), slotsOf(shares))
    }
  }

  private sharesOf(cluster: Cluster, weight: number, family: Family, aim: Aim): Share[] {
    const { snapshot } = this.input
    const service = snapshot.services.get(cluster.service) ?? null
    const members = cluster.members === null ? null : new Set(cluster.members)
    const found: { workload: Workload; address: string; port: number }[] = []
    let capacity = 0
    for (const workload of snapshot.endpointsOf(cluster.service)) {
      if (!workload.isHealthy || workload.capacity <= 0 || (members !== null && !members.has(workload.uid))) continue
      const port = targetPortOf(workload, cluster, service)
      const address = workload.addresses.find((candidate) => familyOf(candidate) === family) ?? workload.addresses[0]
      if (port === null || address === undefined) continue
      found.push({ workload, address, port })
      capacity += workload.capacity
    }
    return found.map(({ workload, address, port }) => {
      // The socket has the family of what was dialled: an endpoint of the other family is the agent's.
      const pod = familyOf(address) === family ? this.podOf(workload) : 0
      if (pod !== 0) aim(workload, port)
      return { backend: { address, port, pod }, weight: (weight * workload.capacity) / capacity }
    })
  }

  // --- pods dialled by their own address ---

  private planAddresses(scope: string, workload: Workload, aim: Aim): void {
    const { snapshot, scopes, services } = this.input
    const pod = this.podOf(workload)
    if (pod === 0) return
    const ports = new Set(workload.services.flatMap((service) => service.ports.map(({ targetPort }) => targetPort)))
    for (const port of ports) {
      if (!isOpaque(resolveTargetPort(snapshot, workload, port, '').protocol)) continue
      aim(workload, port)
      for (const address of workload.addresses) {
        const service = services.numberOf(`${workload.uid}|${address}|${port}`)
        this.add({ address, port, scope: scopes.numberOf(scope) }, service, [{ address, port, pod }])
      }
    }
  }

  /** The number of a pod to which the kernel may carry connections; 0 for any other workload. */
  private podOf(workload: Workload): number {
    return this.input.mustEncrypt(workload) ? 0 : (this.input.pods.get(workload.uid) ?? 0)
  }

  private add(frontend: Frontend, service: number, slots: readonly Backend[]): void {
    const key = `${frontend.scope} ${frontend.address} ${frontend.port}`
    this.frontends.set(key, { frontend, service, slots: slots.length })
    for (const [slot, backend] of slots.entries()) {
      this.backends.set(`${service} ${slot}`, { service, slot, backend })
    }
  }

  // --- policy ---

  private judge(source: Workload, destination: Workload, port: number): void {
    const { pods, policies } = this.input
    const pair = { source: pods.get(source.uid)!, destination: pods.get(destination.uid)!, port }
    const authorizer = this.authorizerOf(destination)
    let verdict: { readonly isAllowed: boolean; readonly policy: string } | null = null
    for (const sourceIp of source.addresses) {
      for (const destinationIp of destination.addresses) {
        const decision = authorizer.authorizeConnection(factsOf(source, sourceIp, destinationIp, port))
        // What a dry-run policy would have done is told by the proxy.
        if (decision.isDryRunDenied || decision.isDryRunAllowed) return
        if (verdict !== null && (verdict.isAllowed !== decision.isAllowed || verdict.policy !== decision.policy)) return
        verdict = decision
      }
    }
    if (verdict === null) return
    const policy = verdict.isAllowed || verdict.policy === '' ? 0 : policies.numberOf(verdict.policy)
    this.verdicts.set(`${pair.source} ${pair.destination} ${port}`, { pair, isAllowed: verdict.isAllowed, policy })
  }

  private authorizerOf(workload: Workload): Authorizer {
    let authorizer = this.authorizers.get(workload.uid)
    if (authorizer === undefined) {
      authorizer = Authorizer.compile(this.input.snapshot.policiesOf(workload))
      this.authorizers.set(workload.uid, authorizer)
    }
    return authorizer
  }
}

type Aim = (workload: Workload, port: number) => void

function isOpaque(protocol: Protocol): boolean {
  return protocol === PROTOCOL_TCP || protocol === PROTOCOL_TLS
}

/** Where connections to a port go, by weight; null when the proxy has to carry them. */
function clustersFor(
  service: Service,
  port: ServicePort,
  traffic: Traffic | null,
): readonly { readonly cluster: Cluster; readonly weight: number }[] | null {
  const declared = traffic !== null && traffic.protocol !== PROTOCOL_DETECT ? traffic.protocol : port.protocol
  if (!isOpaque(declared)) return null
  if (traffic === null) return [{ cluster: plainCluster(service, port), weight: 1 }]
  const weighted =
    traffic.tcpClusters.length > 0 ? traffic.tcpClusters : [{ cluster: traffic.defaultCluster, weight: 1 }]
  const clusters: { cluster: Cluster; weight: number }[] = []
  for (const { cluster: key, weight } of weighted) {
    const cluster = traffic.clusters.find((candidate) => candidate.key === key)
    if (cluster === undefined || !isSimple(cluster)) return null
    if (weight > 0) clusters.push({ cluster, weight })
  }
  return clusters
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
  for (const { service: key, ports } of workload.services) {
    if (key !== cluster.service) continue
    for (const { servicePort, targetPort } of ports) if (servicePort === cluster.port) return targetPort
  }
  return service?.ports.find(({ number }) => number === cluster.port)?.targetPort ?? null
}

function factsOf(source: Workload, sourceIp: string, destinationIp: string, port: number): ConnectionFacts {
  return {
    principal: principalOf(formatIdentity(source.trustDomain, source.namespace, source.serviceAccount)),
    namespace: source.namespace,
    sourceIp: addressBytes(sourceIp),
    destinationIp: addressBytes(destinationIp),
    destinationPort: port,
  }
}

/** As few slots as give every endpoint its exact share, or SLOTS_MAX that come close; each endpoint has one at least. */
export function slotsOf(shares: readonly Share[]): Backend[] {
  const kept = shares.slice(0, SLOTS_MAX)
  let total = 0
  for (const { weight } of kept) total += weight
  const counts = countsFor(
    kept.map(({ weight }) => weight / total),
    kept.length,
  )
  return kept.flatMap(({ backend }, index) => Array<Backend>(counts[index]!).fill(backend))
}

/** How often each of these parts of 1 stands in a list that is as short as it can be. */
function countsFor(parts: readonly number[], least: number): number[] {
  for (let slots = least; slots < SLOTS_MAX; slots++) {
    if (parts.every((part) => isWhole(part * slots))) return parts.map((part) => Math.round(part * slots))
  }
  const counts = parts.map((part) => Math.max(1, Math.floor(part * SLOTS_MAX)))
  // What is left (or too much) goes to those who have lost (or won) most by rounding.
  let rest = SLOTS_MAX - counts.reduce((sum, count) => sum + count, 0)
  while (rest !== 0) {
    const step = Math.sign(rest)
    let best = -1
    for (const [index, part] of parts.entries()) {
      if (step < 0 && counts[index]! <= 1) continue
      const gap = (part * SLOTS_MAX - counts[index]!) * step
      if (best < 0 || gap > (parts[best]! * SLOTS_MAX - counts[best]!) * step) best = index
    }
    counts[best]! += step
    rest -= step
  }
  return counts
}

function isWhole(value: number): boolean {
  return value > 0.5 && Math.abs(value - Math.round(value)) < 1e-9
}
