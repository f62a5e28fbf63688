/**
 * Rules to `Traffic`: what clients that see a `RuleView` do towards one service port. Destinations become clusters here,
 * because subsets and settings come from the DestinationRule that the CLIENT follows for the destination.
 *
 * An unknown host, port or subset yields a cluster key without a cluster: such requests get 503 (flag NC).
 */
import { cidrContains, parseAddress } from '../base/address.ts'
import type { Mirror, Route, RouteMatch, Traffic, WeightedCluster } from '../model/route.ts'
import { type Cluster, clusterKey, PROTOCOL_UDP, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import {
  blocksFor,
  type ClusterSettings,
  DEFAULT_CLUSTER_SETTINGS,
  type MergedRule,
  type Subset,
  settingsOf,
} from './destination-rule.ts'
import { isWildcard, wildcardCovers } from './hosts.ts'
import type { Selection } from './inventory.ts'
import { findings } from './messages.ts'
import type { MeshObject } from './object.ts'
import { mayBeHttp, mayBeTcp } from './protocol.ts'
import type { RuleSet, RuleView } from './rule-view.ts'
import { selects } from './selector.ts'
import type { Run } from './settings.ts'
import {
  type ClientCondition,
  type Destination,
  destinationsOf,
  type HttpRule,
  isCatchAll,
  type VirtualService,
  type WeightedDestination,
} from './virtual-service.ts'

const NOTHING: ServiceTraffic = { id: 0, traffic: [] }

/** Traffic before its scope has a name. */
export type UnscopedTraffic = Omit<Traffic, 'key' | 'scope'>

/** What clients with one view do. */
export interface BuiltTraffic {
  readonly traffic: readonly UnscopedTraffic[]
  /** Equal for equal traffic of one builder. */
  readonly fingerprint: string
}

/** Traffic of one service, and a number that stands for its content; 0 is "nothing but defaults". */
interface ServiceTraffic {
  readonly id: number
  readonly traffic: readonly UnscopedTraffic[]
}

/** What of a VirtualService depends on the client. */
interface Dependence {
  readonly conditions: readonly ClientCondition[]
  readonly services: readonly Service[]
}

/** Builds the traffic of services for one view of the rules. */
export class TrafficBuilder {
  private readonly selection: Selection
  private readonly rules: RuleSet
  private readonly run: Run
  /** Uids by `service key|selector`. */
  private readonly subsetMembers = new Map<string, readonly string[]>()
  /** By everything that the traffic of a service depends on: most clients share it. */
  private readonly byChoice = new Map<string, ServiceTraffic>()
  private readonly idByContent = new Map<string, number>([['[]', 0]])
  private readonly dependences = new Map<VirtualService, Dependence>()
  private readonly ruleIds: ReadonlyMap<VirtualService | MergedRule | null, number>
  /** Services that a rule names, whoever may see it; most have none. */
  private readonly ruled: readonly Service[]

  constructor(selection: Selection, rules: RuleSet, run: Run) {
    this.selection = selection
    this.rules = rules
    this.run = run
    this.ruled = ruledServices(selection.services, rules)
    this.ruleIds = new Map([null, ...rules.virtualServices, ...rules.destinationRules].map((rule, i) => [rule, i]))
  }

  /** Everything that differs from the defaults for clients with this view, by service and port. */
  build(view: RuleView): BuiltTraffic {
    const traffic: UnscopedTraffic[] = []
    const ids: number[] = []
    for (const service of this.ruled) {
      const built = this.buildService(view, service)
      if (built.id === 0) continue
      traffic.push(...built.traffic)
      ids.push(built.id)
    }
    return { traffic, fingerprint: ids.join(',') }
  }

  private buildService(view: RuleView, service: Service): ServiceTraffic {
    const virtualService = view.virtualServiceOf(service)
    const rule = view.destinationRuleOf(service)
    if (virtualService === null && rule === null) return NOTHING
    const choice = this.choiceOf(view, service, virtualService, rule)
    const known = this.byChoice.get(choice)
    if (known !== undefined) return known
    const traffic: UnscopedTraffic[] = []
    for (const port of service.ports) {
      if (port.protocol === PROTOCOL_UDP) continue
      const one = this.buildPort(view, service, port, virtualService, rule)
      if (one !== null) traffic.push(one)
    }
    const content = JSON.stringify(traffic)
    const id = this.idByContent.get(content) ?? this.idByContent.size
    this.idByContent.set(content, id)
    const built = { id, traffic }
    this.byChoice.set(choice, built)
    return built
  }

  /** Everything that the traffic of a service depends on: the rules, which matches are for the client, and subsets' rules. */
  private choiceOf(
    view: RuleView,
    service: Service,
    virtualService: VirtualService | null,
    rule: MergedRule | null,
  ): string {
    let choice = `${service.key}|${this.ruleIds.get(virtualService)}|${this.ruleIds.get(rule)}`
    if (virtualService === null) return choice
    const { conditions, services } = this.dependenceOf(virtualService)
    for (const condition of conditions) choice += view.holds(condition) ? '|1' : '|0'
    for (const target of services) choice += `|${this.ruleIds.get(view.destinationRuleOf(target))}`
    return choice
  }

  private dependenceOf(source: VirtualService): Dependence {
    const known = this.dependences.get(source)
    if (known !== undefined) return known
    const conditions = [...source.http, ...source.tcp].flatMap(({ matches }) => matches.map(({ client }) => client))
    const hosts = new Set(destinationsOf(source).map(({ host }) => host))
    const services = [...hosts].map((host) => this.serviceOf(host)).filter((service) => service !== null)
    const made = { conditions, services }
    this.dependences.set(source, made)
    return made
  }

  /** Uids of a service's endpoints that a subset selects; null for all of them. */
  membersOf(service: Service, subset: Subset): readonly string[] | null {
    if (subset.labels.text === '') return null
    const key = `${service.key}|${subset.labels.text}`
    const known = this.subsetMembers.get(key)
    if (known !== undefined) return known
    const endpoints = this.selection.membersOf.get(service.key) ?? []
    const uids = endpoints.filter((member) => selects(subset.labels, member.labels)).map((member) => member.uid)
    this.subsetMembers.set(key, uids)
    return uids
  }

  private buildPort(
    view: RuleView,
    service: Service,
    port: ServicePort,
    virtualService: VirtualService | null,
    rule: MergedRule | null,
  ): UnscopedTraffic | null {
    const clusters = new Map<string, Cluster>()
    const fallback = this.cluster(service, port, null, rule)
    clusters.set(fallback.key, fallback)
    let routes: readonly Route[] = []
    let tcpClusters: readonly WeightedCluster[] = []
    if (virtualService !== null) {
      const target = new Targets(this, view, virtualService.object, service, port, clusters)
      if (mayBeHttp(port.protocol)) routes = httpRoutes(virtualService, view, port, target)
      if (mayBeTcp(port.protocol)) tcpClusters = tcpRoute(virtualService, view, service, port, target)
    }
    if (routes.length === 0 && tcpClusters.length === 0 && isDefault(fallback)) return null
    return {
      service: service.key,
      port: port.number,
      protocol: port.protocol,
      defaultCluster: fallback.key,
      clusters: [...clusters.values()],
      routes,
      tcpClusters,
    }
  }

  /** The cluster of a service port under a DestinationRule. */
  cluster(service: Service, port: ServicePort, subset: Subset | null, rule: MergedRule | null): Cluster {
    const isTcp = !mayBeHttp(port.protocol)
    const settings: ClusterSettings =
      rule === null ? DEFAULT_CLUSTER_SETTINGS : settingsOf(blocksFor(rule, subset, port.number), isTcp)
    const name = subset?.name ?? ''
    return {
      key: clusterKey(service.key, name, port.number),
      service: service.key,
      subset: name,
      port: port.number,
      members: subset === null ? null : this.membersOf(service, subset),
      ...settings,
    }
  }

  serviceOf(host: string): Service | null {
    return this.selection.serviceByHost.get(host) ?? null
  }

  reportUnknownSubset(object: MeshObject, destination: Destination, namespace: string): void {
    const isDeclared = this.rules.destinationRules.some(
      (rule) => rule.host === destination.host && rule.subsets.has(destination.subset),
    )
    const finding = isDeclared
      ? findings.subsetNotSeen(destination.subset, destination.host, namespace)
      : findings.subsetUnknown(destination.subset, destination.host)
    this.run.log.add(object, [...destination.path, 'subset'], finding)
  }

  report(object: MeshObject, destination: Destination, finding: Parameters<Run['log']['add']>[2]): void {
    this.run.log.add(object, [...destination.path, 'port'], finding)
  }
}

/** Services for whose host there is a rule, in their order. */
function ruledServices(services: readonly Service[], rules: RuleSet): readonly Service[] {
  const hosts = new Set<string>()
  for (const rule of rules.virtualServices) for (const host of rule.hosts) hosts.add(host)
  for (const rule of rules.destinationRules) hosts.add(rule.host)
  const wildcards = [...hosts].filter(isWildcard)
  return services.filter(
    ({ hostname }) => hosts.has(hostname) || wildcards.some((wildcard) => wildcardCovers(wildcard, hostname)),
  )
}

/** Resolves the destinations of one VirtualService for one port and kind of client. */
class Targets {
  private readonly builder: TrafficBuilder
  private readonly view: RuleView
  private readonly object: MeshObject
  private readonly service: Service
  private readonly port: ServicePort
  private readonly clusters: Map<string, Cluster>

  constructor(
    builder: TrafficBuilder,
    view: RuleView,
    object: MeshObject,
    service: Service,
    port: ServicePort,
    clusters: Map<string, Cluster>,
  ) {
    this.builder = builder
    this.view = view
    this.object = object
    this.service = service
    this.port = port
    this.clusters = clusters
  }

  /** Key of the destination's cluster; the cluster is added when it exists. */
  keyOf(destination: Destination): string {
    const service = this.builder.serviceOf(destination.host)
    if (service === null) {
      // Reported for the whole object (compile.ts).
      return clusterKey(serviceKey('', destination.host), destination.subset, destination.port ?? this.port.number)
    }
    const number = this.portNumber(destination, service)
    const key = clusterKey(service.key, destination.subset, number)
    if (this.clusters.has(key)) return key
    const port = service.ports.find((one) => one.number === number)
    if (port === undefined) {
      this.builder.report(this.object, destination, findings.portUnknown(number, destination.host))
      return key
    }
    const rule = this.view.destinationRuleOf(service)
    const subset = destination.subset === '' ? null : (rule?.subsets.get(destination.subset) ?? null)
    if (destination.subset !== '' && subset === null) {
      this.builder.reportUnknownSubset(this.object, destination, this.view.client.namespace)
      return key
    }
    this.clusters.set(key, this.builder.cluster(service, port, subset, rule))
    return key
  }

  weighted(destinations: readonly WeightedDestination[]): WeightedCluster[] {
    return destinations.map(({ destination, weight, requestEdits, responseEdits, authority }) => ({
      cluster: this.keyOf(destination),
      weight,
      requestEdits,
      responseEdits,
      authority,
    }))
  }

  private portNumber(destination: Destination, service: Service): number {
    if (destination.port !== null) return destination.port
    if (service.ports.length === 1) return service.ports[0]!.number
    // Within one service "the same port" is what everybody means.
    if (service !== this.service) {
      this.builder.report(this.object, destination, findings.portNeeded(destination.host, this.port.number))
    }
    return this.port.number
  }
}

function isDefault(cluster: Cluster): boolean {
  const { balance, outlier, isMutualTls } = DEFAULT_CLUSTER_SETTINGS
  return (
    cluster.balance === balance &&
    cluster.outlier === outlier &&
    cluster.isMutualTls === isMutualTls &&
    JSON.stringify(cluster.limits) === JSON.stringify(DEFAULT_CLUSTER_SETTINGS.limits)
  )
}

/** The rules that can match, in order, up to the first that takes everything. */
function httpRoutes(source: VirtualService, view: RuleView, port: ServicePort, targets: Targets): Route[] {
  const routes: Route[] = []
  for (const rule of source.http) {
    const matches: RouteMatch[] = []
    for (const { client, port: wanted, match } of rule.matches) {
      if ((wanted === null || wanted === port.number) && view.holds(client)) matches.push(match)
    }
    if (matches.length === 0) continue
    routes.push(routeOf(source, rule, matches, targets))
    if (matches.some(isCatchAll)) break
  }
  return routes
}

function routeOf(source: VirtualService, rule: HttpRule, matches: readonly RouteMatch[], targets: Targets): Route {
  const mirrors = rule.mirrors.map(({ destination, ppm }): Mirror => ({ cluster: targets.keyOf(destination), ppm }))
  return {
    source: source.source,
    name: rule.name,
    // A match without conditions is the same as none, and cheaper.
    matches: matches[0]!.path === null && isCatchAll(matches[0]!) ? [] : matches,
    clusters: targets.weighted(rule.destinations),
    redirect: rule.redirect,
    directResponse: rule.directResponse,
    rewrite: rule.rewrite,
    requestEdits: rule.requestEdits,
    responseEdits: rule.responseEdits,
    timeoutMs: rule.timeoutMs,
    retry: rule.retry,
    fault: rule.fault,
    mirrors,
  }
}

/** Clusters of the first TCP rule that matches; empty when none does. */
function tcpRoute(
  source: VirtualService,
  view: RuleView,
  service: Service,
  port: ServicePort,
  targets: Targets,
): readonly WeightedCluster[] {
  const addresses = service.addresses.map((address) => parseAddress(address)!)
  const rule = source.tcp.find(({ matches }) =>
    matches.some(({ client, port: wanted, subnets }) => {
      if (wanted !== null && wanted !== port.number) return false
      // The client addressed the service's virtual IP: which subnets hold it is known now.
      const isInside = subnets.some((subnet) => addresses.some((bytes) => cidrContains(subnet, bytes)))
      return (subnets.length === 0 || isInside) && view.holds(client)
    }),
  )
  return rule === undefined ? [] : targets.weighted(rule.destinations)
}
