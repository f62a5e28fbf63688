/**
 * What a proxy has of one kind, as a table: the configuration dump of an agent, seen from one of its pods or from the whole
 * node. Pure.
 */
import { ACTION_DENY, POLICY_SCOPE_GLOBAL, POLICY_SCOPE_NAMESPACE, type Policy } from '../../model/policy.ts'
import type { PathMatch, Route, RouteMatch, StringMatch, Traffic } from '../../model/route.ts'
import type { Protocol, Service } from '../../model/service.ts'
import { ENDPOINT_DRAINING, ENDPOINT_UNREADY, TUNNEL_HBONE, type Workload } from '../../model/workload.ts'
import type { CertificateAnswer, ConfigDump } from './answers.ts'

export const VIEWS = ['routes', 'clusters', 'endpoints', 'services', 'policies', 'certificates'] as const
export type View = (typeof VIEWS)[number]

/** Text of the protocols, by their number. */
const PROTOCOLS: Readonly<Record<Protocol, string>> = {
  0: 'detect',
  1: 'TCP',
  2: 'HTTP',
  3: 'HTTP/2',
  4: 'gRPC',
  5: 'TLS',
  6: 'UDP',
}

/** Whose view it is: null for the whole node. */
export interface Viewer {
  readonly namespace: string
  readonly name: string
}

/** Rows with their head; `items` are the same as data. */
export interface ProxyView {
  readonly rows: readonly (readonly string[])[]
  readonly items: readonly unknown[]
}

/** Null when the viewer is no pod of the mesh on this node. */
export function proxyView(
  view: Exclude<View, 'certificates'>,
  dump: ConfigDump,
  viewer: Viewer | null,
): ProxyView | null {
  const workload = viewer === null ? null : workloadOf(dump, viewer)
  const local = workload === null ? null : (dump.pods.find(({ uid }) => uid === workload.uid) ?? null)
  if (viewer !== null && (workload === null || local === null)) return null
  const traffic = dump.traffic.filter(({ scope }) => local === null || scope === local.scope)
  switch (view) {
    case 'routes':
      return routesView(traffic)
    case 'clusters':
      return clustersView(traffic)
    case 'endpoints':
      return endpointsView(dump.workloads)
    case 'services':
      return servicesView(dump.services)
    case 'policies':
      return policiesView(dump.policies.filter((policy) => workload === null || selects(policy, workload)))
  }
}

export function certificatesView(
  certificates: readonly CertificateAnswer[],
  viewer: string | null,
  nowMs: number,
): ProxyView {
  const items = certificates.filter(({ identity }) => viewer === null || identity === viewer)
  return {
    items,
    rows: [
      ['IDENTITY', 'SERIAL', 'AGE', 'UNTIL', 'RENEWED IN', 'LAST ERROR'],
      ...items.map(({ identity, serial, notBeforeMs, notAfterMs, renewAtMs, lastError }) => [
        identity,
        serial ?? '-',
        notBeforeMs === null ? '-' : spanText(nowMs - notBeforeMs),
        notAfterMs === null ? '-' : new Date(notAfterMs).toISOString(),
        renewAtMs === null ? '-' : spanText(renewAtMs - nowMs),
        lastError ?? '-',
      ]),
    ],
  }
}

/** SPIFFE id of a pod of the dump; null when it is not there. */
export function identityIn(dump: ConfigDump, viewer: Viewer): string | null {
  const workload = workloadOf(dump, viewer)
  if (workload === null) return null
  return `spiffe://${workload.trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}`
}

/** `90s`, `45m`, `23h`, `12d`. */
export function spanText(ms: number): string {
  const seconds = Math.round(ms / 1000)
  const size = Math.abs(seconds)
  if (size < 120) return `${seconds}s`
  if (size < 7200) return `${Math.round(seconds / 60)}m`
  if (size < 172_800) return `${Math.round(seconds / 3600)}h`
  return `${Math.round(seconds / 86_400)}d`
}

// --- views ---

function routesView(traffic: readonly Traffic[]): ProxyView {
  const items = traffic.flatMap((one) =>
    one.routes.map((route) => ({ service: one.service, port: one.port, ...route })),
  )
  const rows = traffic.flatMap((one) =>
    one.routes.map((route) => [
      `${one.service}:${one.port}`,
      route.name === '' ? route.source : `${route.source} (${route.name})`,
      matchesText(route.matches),
      targetText(route),
    ]),
  )
  return { items, rows: [['SERVICE', 'RULE', 'MATCHES', 'TO'], ...rows] }
}

function clustersView(traffic: readonly Traffic[]): ProxyView {
  const clusters = new Map(
    traffic.flatMap(({ clusters: some }) => some.map((cluster) => [cluster.key, cluster] as const)),
  )
  const items = [...clusters.values()]
  const balances = ['least request', 'round robin', 'random']
  return {
    items,
    rows: [
      ['SERVICE', 'PORT', 'SUBSET', 'ENDPOINTS', 'BALANCE', 'MUTUAL TLS', 'OUTLIERS'],
      ...items.map(({ service, port, subset, members, balance, isMutualTls, outlier }) => [
        service,
        `${port}`,
        subset === '' ? '-' : subset,
        members === null ? 'all' : `${members.length}`,
        balances[balance] ?? `${balance}`,
        isMutualTls ? 'yes' : 'no',
        outlier === null ? '-' : 'ejected',
      ]),
    ],
  }
}

function endpointsView(workloads: readonly Workload[]): ProxyView {
  const items = workloads.flatMap((workload) =>
    workload.services.map(({ service, ports, readiness }) => ({ service, ports, readiness, workload })),
  )
  items.sort((x, y) => x.service.localeCompare(y.service) || x.workload.uid.localeCompare(y.workload.uid))
  return {
    items: items.map(({ service, ports, readiness, workload }) => ({
      service,
      pod: `${workload.namespace}/${workload.name}`,
      addresses: workload.addresses,
      ports,
      node: workload.node,
      health: healthText(workload, readiness),
      isTunnelled: workload.tunnelProtocol === TUNNEL_HBONE,
    })),
    rows: [
      ['SERVICE', 'POD', 'ADDRESS', 'PORTS', 'NODE', 'HEALTH', 'TUNNEL'],
      ...items.map(({ service, ports, readiness, workload }) => [
        service,
        `${workload.namespace}/${workload.name}`,
        workload.addresses[0] ?? workload.hostname ?? '-',
        ports.map(({ servicePort, targetPort }) => `${servicePort}>${targetPort}`).join(','),
        workload.node === '' ? '-' : workload.node,
        healthText(workload, readiness),
        workload.tunnelProtocol === TUNNEL_HBONE ? 'HBONE' : '-',
      ]),
    ],
  }
}

function servicesView(services: readonly Service[]): ProxyView {
  return {
    items: services,
    rows: [
      ['SERVICE', 'ADDRESSES', 'PORTS'],
      ...services.map(({ key, addresses, ports, isHeadless, alias }) => [
        key,
        alias !== undefined ? `> ${alias}` : isHeadless === true ? 'headless' : addresses.join(','),
        ports.map(({ number, protocol }) => `${number}/${PROTOCOLS[protocol]}`).join(','),
      ]),
    ],
  }
}

function policiesView(policies: readonly Policy[]): ProxyView {
  return {
    items: policies,
    rows: [
      ['POLICY', 'ACTION', 'SCOPE', 'RULES', 'DRY RUN'],
      ...policies.map(({ key, action, scope, rules, isDryRun }) => [
        key,
        action === ACTION_DENY ? 'DENY' : 'ALLOW',
        scope === POLICY_SCOPE_GLOBAL ? 'mesh' : scope === POLICY_SCOPE_NAMESPACE ? 'namespace' : 'workload',
        `${rules.length}`,
        isDryRun ? 'yes' : '-',
      ]),
    ],
  }
}

// --- texts ---

function workloadOf({ workloads }: ConfigDump, { namespace, name }: Viewer): Workload | null {
  return workloads.find((one) => one.namespace === namespace && one.name === name) ?? null
}

/** Policies of the mesh and of the namespace hold without being listed. */
function selects({ key, scope, namespace }: Policy, workload: Workload): boolean {
  if (scope === POLICY_SCOPE_GLOBAL) return true
  if (scope === POLICY_SCOPE_NAMESPACE) return namespace === workload.namespace
  return workload.policies.includes(key)
}

function healthText({ isHealthy }: Workload, readiness: number | undefined): string {
  if (readiness === ENDPOINT_DRAINING) return 'draining'
  return isHealthy && readiness !== ENDPOINT_UNREADY ? 'ready' : 'not ready'
}

function matchesText(matches: readonly RouteMatch[]): string {
  return matches.length === 0 ? '*' : matches.map(matchText).join(' or ')
}

function matchText({ path, method, authority, headers, query }: RouteMatch): string {
  const parts = [
    ...(method === null ? [] : [stringText(method)]),
    ...(authority === null ? [] : [`host ${stringText(authority)}`]),
    ...(path === null ? [] : [pathText(path)]),
    ...headers.map(({ name, match, isNegated }) => `${isNegated ? 'not ' : ''}${name}=${stringText(match)}`),
    ...query.map(({ name, match, isNegated }) => `${isNegated ? 'not ' : ''}?${name}=${stringText(match)}`),
  ]
  return parts.length === 0 ? '*' : parts.join(' ')
}

function stringText(match: StringMatch): string {
  switch (match.kind) {
    case 'exact':
      return match.value
    case 'prefix':
      return `${match.value}*`
    case 'suffix':
      return `*${match.value}`
    case 'regex':
      return `~${match.value}`
    case 'present':
      return '*'
  }
}

function pathText({ kind, value }: PathMatch): string {
  return kind === 'exact' ? value : kind === 'regex' ? `~${value}` : `${value}*`
}

function targetText({ clusters, redirect, directResponse }: Route): string {
  if (redirect !== null) return `redirect ${redirect.status}`
  if (directResponse !== null) return `answer ${directResponse.status}`
  return clusters.map(({ cluster, weight }) => (clusters.length === 1 ? cluster : `${cluster} ${weight}`)).join(', ')
}
