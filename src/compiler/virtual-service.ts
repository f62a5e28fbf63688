/**
 * VirtualService to rules: everything about an object that does not depend on who asks. Host names are expanded, enum
 * and percentage defaults applied, matches and edits in the model's form. Clients, ports and destinations are resolved
 * later, per scope (traffic.ts).
 */
import { type Cidr, parseCidr } from '../base/address.ts'
import type {
  DirectResponse,
  Fault,
  HeaderEdits,
  NamedMatch,
  Redirect,
  Retry,
  Rewrite,
  RouteMatch,
  StringMatch,
} from '../model/route.ts'
import { expandHost, type Visibility, visibilityOf } from './hosts.ts'
import type { DestinationFields, HeadersFields } from './http-action-fields.ts'
import { directResponseOf, faultOf, ppmOf, redirectOf, retryOf, rewriteOf, splitHostEdit } from './http-actions.ts'
import { findings } from './messages.ts'
import type { MeshObject, Path } from './object.ts'
import { Cursor } from './schema.ts'
import { SELECT_ALL, type Selector, selectorOf } from './selector.ts'
import type { Run } from './settings.ts'
import {
  type HttpMatchFields,
  type HttpRuleFields,
  IGNORED_HEADER_KEYS,
  type TcpRuleFields,
  virtualServiceSpec,
} from './virtual-service-fields.ts'

/** Which clients a match is for. */
export interface ClientCondition {
  /** Null for any namespace. */
  readonly namespace: string | null
  readonly labels: Selector
}

/** One match of an HTTP rule; all conditions must hold. */
export interface HttpMatch {
  readonly client: ClientCondition
  /** Service port that the client addressed; null for any. */
  readonly port: number | null
  readonly match: RouteMatch
}

/** Where a rule sends requests; resolved to a cluster per scope and port. */
export interface Destination {
  /** As written, for messages. */
  readonly writtenHost: string
  readonly host: string
  /** Empty for all endpoints. */
  readonly subset: string
  /** Null: the service's only port, else the one that the client addressed. */
  readonly port: number | null
  readonly path: Path
}

/** One destination of a rule and its weight. */
export interface WeightedDestination {
  readonly destination: Destination
  readonly weight: number
  readonly requestEdits: HeaderEdits | null
  readonly responseEdits: HeaderEdits | null
  readonly authority: string | null
}

/** One HTTP rule; the first that matches is taken. */
export interface HttpRule {
  readonly name: string
  readonly path: Path
  /** Any of these (OR). A rule without matches has one that takes everything; none: the rule is for gateways only. */
  readonly matches: readonly HttpMatch[]
  readonly destinations: readonly WeightedDestination[]
  readonly redirect: Redirect | null
  readonly directResponse: DirectResponse | null
  readonly rewrite: Rewrite | null
  readonly requestEdits: HeaderEdits | null
  readonly responseEdits: HeaderEdits | null
  readonly timeoutMs: number
  readonly retry: Retry
  readonly fault: Fault | null
  readonly mirrors: readonly { readonly destination: Destination; readonly ppm: number }[]
}

/** One match of a TCP rule. */
export interface TcpMatch {
  readonly client: ClientCondition
  readonly port: number | null
  /** Empty for any. */
  readonly subnets: readonly Cidr[]
}

/** One TCP rule. */
export interface TcpRule {
  readonly path: Path
  /** As for HTTP. */
  readonly matches: readonly TcpMatch[]
  readonly destinations: readonly WeightedDestination[]
}

/** A VirtualService, read and with its defaults. */
export interface VirtualService {
  readonly object: MeshObject
  /** `namespace/name`. */
  readonly source: string
  readonly visibility: Visibility
  /** Expanded; `writtenHosts` has the same order. */
  readonly hosts: readonly string[]
  readonly writtenHosts: readonly string[]
  readonly http: readonly HttpRule[]
  readonly tcp: readonly TcpRule[]
}

const ANYONE: ClientCondition = { namespace: null, labels: SELECT_ALL }
const ANY_REQUEST: RouteMatch = { path: null, method: null, scheme: null, authority: null, headers: [], query: [] }
const MESH_GATEWAY = 'mesh'

/** Reads a VirtualService; null when it has errors, or nothing for clients in the mesh (both reported). */
export function readVirtualService(object: MeshObject, run: Run): VirtualService | null {
  const cursor = new Cursor(run.log, object).at('spec')
  const spec = virtualServiceSpec.read(object.spec ?? {}, cursor)
  if (spec === null || run.log.hasError(object)) return null
  if (spec.gateways.length > 0 && !spec.gateways.includes(MESH_GATEWAY)) {
    cursor.at('gateways').report(findings.gatewayOnly())
    return null
  }
  if (spec.hosts.length === 0) {
    cursor.report(
      findings.notSupported('Being a delegate (a VirtualService without hosts)', 'the rules have no effect'),
    )
    return null
  }
  const expand = (host: string): string => expandHost(host, object.namespace, run.settings.clusterDomain)
  const http = spec.http.map((rule, i) => httpRule(rule, cursor.at('http', i), expand))
  const tcp = spec.tcp.map((rule, i) => tcpRule(rule, cursor.at('tcp', i), expand))
  if (run.log.hasError(object)) return null
  reportUnreachable(http, cursor)
  return {
    object,
    source: `${object.namespace}/${object.name}`,
    visibility: visibilityOf(spec.exportTo, object.namespace),
    hosts: spec.hosts.map(expand),
    writtenHosts: spec.hosts,
    http,
    tcp,
  }
}

// --- rules ---

function httpRule(rule: HttpRuleFields, cursor: Cursor, expand: (host: string) => string): HttpRule {
  const edits = splitHostEdit(rule.headers)
  const destinations = weighted(rule.route, cursor.at('route'), expand)
  const single = destinations.length === 1 ? destinations[0]!.authority : null
  const matches: HttpMatch[] = []
  rule.match.forEach((match, i) => {
    const read = httpMatch(match, cursor.at('match', i))
    if (read !== null) matches.push(read)
  })
  if (rule.match.length === 0) matches.push({ client: ANYONE, port: null, match: ANY_REQUEST })
  const rewrite = rewriteOf(rule, edits.authority ?? single)
  return {
    name: rule.name ?? '',
    path: cursor.path,
    matches,
    destinations: destinations.length === 1 ? [{ ...destinations[0]!, authority: null }] : destinations,
    redirect: redirectOf(rule),
    directResponse: directResponseOf(rule),
    rewrite,
    requestEdits: edits.request,
    responseEdits: edits.response,
    timeoutMs: rule.timeout ?? 0,
    retry: retryOf(rule),
    fault: faultOf(rule),
    mirrors: mirrorsOf(rule, cursor, expand),
  }
}

function tcpRule(rule: TcpRuleFields, cursor: Cursor, expand: (host: string) => string): TcpRule {
  const matches: TcpMatch[] = []
  for (const match of rule.match) {
    const client = clientOf(match)
    if (client === null) continue
    const subnets = match.destinationSubnets.map((subnet) => parseCidr(subnet)!)
    matches.push({ client, port: match.port, subnets })
  }
  if (rule.match.length === 0) matches.push({ client: ANYONE, port: null, subnets: [] })
  const routes = rule.route.map((route) => ({ ...route, headers: null }))
  return { path: cursor.path, matches, destinations: weighted(routes, cursor.at('route'), expand) }
}

/**
 * Null when no client in the mesh is meant. As in Istio, a match that lists gateways is judged by them alone: its
 * sourceLabels and sourceNamespace do not count.
 */
function clientOf(
  match: Pick<HttpMatchFields, 'gateways' | 'sourceLabels' | 'sourceNamespace'>,
): ClientCondition | null {
  if (match.gateways.length > 0) return match.gateways.includes(MESH_GATEWAY) ? ANYONE : null
  return { namespace: match.sourceNamespace, labels: selectorOf(match.sourceLabels) }
}

function httpMatch(match: HttpMatchFields, cursor: Cursor): HttpMatch | null {
  const client = clientOf(match)
  if (client === null) {
    cursor.at('gateways').report(findings.gatewayOnly())
    return null
  }
  const headers: NamedMatch[] = []
  for (const [isNegated, entries] of [
    [false, match.headers],
    [true, match.withoutHeaders],
  ] as const) {
    for (const [name, condition] of entries) {
      if (IGNORED_HEADER_KEYS.has(name)) continue
      headers.push({ name: name.toLowerCase(), match: condition, isNegated })
    }
  }
  const query = [...match.queryParams].map(
    ([name, condition]): NamedMatch => ({ name, match: condition, isNegated: false }),
  )
  return {
    client,
    port: match.port,
    match: {
      path: pathOf(match),
      method: conditionOf(match.method),
      scheme: conditionOf(match.scheme),
      authority: conditionOf(match.authority),
      headers,
      query,
    },
  }
}

/** What is always present needs no condition. */
function conditionOf(match: StringMatch | null): StringMatch | null {
  return match === null || match.kind === 'present' ? null : match
}

function pathOf(match: HttpMatchFields): RouteMatch['path'] {
  const { uri } = match
  if (uri === null || uri.kind === 'present' || uri.kind === 'suffix') return null
  return { kind: uri.kind, value: uri.value, ignoreCase: match.ignoreUriCase === true && uri.kind !== 'regex' }
}

// --- destinations ---

function destinationOf(fields: DestinationFields, path: Path, expand: (host: string) => string): Destination {
  return {
    writtenHost: fields.host,
    host: expand(fields.host),
    subset: fields.subset ?? '',
    port: fields.port?.number ?? null,
    path,
  }
}

/** Destinations that get something: a single one takes all, whatever its weight; of several, those with a weight. */
function weighted(
  routes: readonly {
    readonly destination: DestinationFields
    readonly weight: number | null
    readonly headers: HeadersFields | null
  }[],
  cursor: Cursor,
  expand: (host: string) => string,
): WeightedDestination[] {
  const result: WeightedDestination[] = []
  routes.forEach((route, i) => {
    const weight = routes.length === 1 ? 1 : (route.weight ?? 0)
    if (weight === 0) return
    const edits = splitHostEdit(route.headers)
    result.push({
      destination: destinationOf(route.destination, [...cursor.path, i, 'destination'], expand),
      weight,
      requestEdits: edits.request,
      responseEdits: edits.response,
      authority: edits.authority,
    })
  })
  return result
}

function mirrorsOf(rule: HttpRuleFields, cursor: Cursor, expand: (host: string) => string): HttpRule['mirrors'] {
  const mirrors = rule.mirrors.map((mirror, i) => ({
    destination: destinationOf(mirror.destination, [...cursor.path, 'mirrors', i, 'destination'], expand),
    ppm: ppmOf(mirror.percentage?.value ?? (mirror.percentage === null ? 100 : 0)),
  }))
  if (rule.mirror !== null) {
    const percent = rule.mirrorPercentage?.value ?? (rule.mirrorPercentage === null ? null : 0)
    mirrors.push({
      destination: destinationOf(rule.mirror, [...cursor.path, 'mirror'], expand),
      ppm: ppmOf(percent ?? rule.mirrorPercent ?? rule.mirror_percent ?? 100),
    })
  }
  return mirrors.filter((mirror) => mirror.ppm > 0)
}

/** Every destination that the rules name, mirrors included. */
export function destinationsOf(rule: VirtualService): Destination[] {
  const routed = [...rule.http, ...rule.tcp].flatMap(({ destinations }) => destinations)
  const mirrored = rule.http.flatMap(({ mirrors }) => mirrors)
  return [...routed, ...mirrored].map(({ destination }) => destination)
}

// --- reachability ---

/** True when a match takes every request of every client on every port. */
function takesEverything(match: HttpMatch): boolean {
  return (
    match.client.namespace === null && match.client.labels.text === '' && match.port === null && isCatchAll(match.match)
  )
}

/** True when a request cannot fail to match. */
export function isCatchAll(match: RouteMatch): boolean {
  if (match.headers.length > 0 || match.query.length > 0) return false
  if (match.method !== null || match.scheme !== null || match.authority !== null) return false
  const { path } = match
  if (path === null) return true
  return (
    (path.kind === 'prefix' && (path.value === '/' || path.value === '')) ||
    (path.kind === 'regex' && path.value === '.*')
  )
}

/** Reports rules after one that takes everything, and matches that are written twice. */
function reportUnreachable(rules: readonly HttpRule[], cursor: Cursor): void {
  let catchAll = ''
  const seen = new Map<string, string>()
  for (const [i, rule] of rules.entries()) {
    const name = rule.name === '' ? `http[${i}]` : `${rule.name} (http[${i}])`
    if (catchAll !== '') {
      cursor.at('http', i).report(findings.ruleUnreachable(catchAll))
      continue
    }
    for (const match of rule.matches) {
      const text = JSON.stringify(match)
      const earlier = seen.get(text)
      if (earlier === undefined) seen.set(text, name)
      else cursor.at('http', i, 'match').report(findings.matchDuplicated(earlier))
    }
    if (rule.matches.some(takesEverything)) catchAll = name
  }
}
