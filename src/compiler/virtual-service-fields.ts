/**
 * The field table of VirtualService (networking.istio.io v1, v1beta1, v1alpha3: one schema) with its admission rules.
 * What HTTP rules do is in http-action-fields.ts; what the fields mean is in virtual-service.ts.
 */
import { parseCidr } from '../base/address.ts'
import { exportToField, ruleHost } from './hosts.ts'
import {
  destination,
  directResponse,
  fault,
  headers,
  percentage,
  redirect,
  retries,
  rewrite,
} from './http-action-fields.ts'
import { findings, quote } from './messages.ts'
import {
  checked,
  duration,
  flag,
  INT32_MAX,
  integer,
  list,
  map,
  object,
  openObject,
  outdated,
  port,
  refused,
  required,
  text,
  unsupported,
  type ValueOf,
} from './schema.ts'
import { dnsLabel, isHeaderName, labelMap, stringMatch } from './strings.ts'

const routeDestination = object({ destination: required(destination), weight: integer(0, INT32_MAX), headers })

/** Several destinations need a share to divide; a single one takes everything, whatever its weight. */
const routeDestinations = checked(list(routeDestination), (entries, cursor) => {
  if (entries.length > 1 && entries.every((entry) => (entry.weight ?? 0) === 0)) {
    cursor.reject('The weights add up to 0.', 'Give at least one destination a weight.')
  }
})

// --- http match ---

/** Keys that cannot be matched as headers because they have fields of their own. */
export const IGNORED_HEADER_KEYS: ReadonlySet<string> = new Set(['uri', 'scheme', 'method', 'authority'])
const PSEUDO_HEADERS: ReadonlySet<string> = new Set([':method', ':path', ':authority', ':scheme'])

const headerMatches = map(required(stringMatch('value')), (name, cursor) => {
  if (IGNORED_HEADER_KEYS.has(name)) {
    cursor.report(
      findings.noEffect(`The header ${quote(name)} is never matched.`, `Use the field ${name} of the match.`),
    )
  } else if (name.startsWith('@')) {
    cursor.report(findings.cannotApply('Matching token claims', 'it needs RequestAuthentication'))
  } else if (name.startsWith(':') ? !PSEUDO_HEADERS.has(name) : !isHeaderName(name)) {
    cursor.reject(`${quote(name)} is not a header name.`, 'Correct the name.')
  }
})

const httpMatch = object({
  name: text,
  uri: stringMatch('uri'),
  scheme: stringMatch('value'),
  method: stringMatch('value'),
  authority: stringMatch('value'),
  headers: headerMatches,
  withoutHeaders: headerMatches,
  queryParams: map(required(stringMatch('value'))),
  port,
  sourceLabels: labelMap,
  sourceNamespace: dnsLabel,
  gateways: list(text),
  ignoreUriCase: flag,
  statPrefix: unsupported('statPrefix', 'the rule has no statistics of its own'),
})

// --- http rule ---

const httpRule = object(
  {
    name: text,
    match: list(httpMatch),
    route: routeDestinations,
    redirect,
    directResponse,
    delegate: refused('delegate', 'the rule would have no target'),
    rewrite,
    timeout: duration('zero'),
    retries,
    fault,
    mirror: destination,
    mirrorPercentage: percentage,
    mirrorPercent: integer(0, 100),
    mirror_percent: integer(0, 100),
    mirrors: list(object({ destination: required(destination), percentage })),
    corsPolicy: unsupported('corsPolicy', 'CORS headers and preflight requests are left to the service'),
    headers,
  },
  (rule, cursor) => {
    const actions = [
      rule.route.length > 0 && 'route',
      rule.redirect !== null && 'redirect',
      rule.directResponse !== null && 'directResponse',
    ]
    const given = actions.filter((action) => action !== false)
    if (given.length > 1)
      cursor.reject(`${given.join(' and ')} are both given.`, 'Write one of route, redirect, directResponse.')
    if (given.length === 0) cursor.reject('The rule does nothing.', 'Write route, redirect or directResponse.')
    if (rule.redirect !== null || rule.directResponse !== null) {
      const what = rule.redirect === null ? 'directResponse' : 'redirect'
      if (rule.fault !== null) cursor.at('fault').reject(`A rule with ${what} cannot have a fault.`, 'Remove one.')
      if (rule.rewrite !== null)
        cursor.at('rewrite').reject(`A rule with ${what} cannot have a rewrite.`, 'Remove one.')
    }
    if (rule.mirror !== null && rule.mirrors.length > 0)
      cursor.reject('mirror and mirrors are both given.', 'Write one.')
    if (rule.mirrorPercent !== null || rule.mirror_percent !== null) {
      cursor.report(findings.deprecated('mirrorPercent', 'Write mirrorPercentage.value.'))
    }
    const hasOtherPath = rule.match.some((match) => match.uri !== null && match.uri.kind !== 'prefix')
    if (rule.redirect?.prefixRewrite != null && (hasOtherPath || rule.match.length === 0)) {
      cursor.at('redirect', 'prefixRewrite').reject('prefixRewrite needs prefix matches on uri.', 'Write uri instead.')
    }
    const setsHost = [...(rule.headers?.request?.set.keys() ?? [])].some((name) => /^(:authority|host)$/i.test(name))
    if (setsHost && rule.rewrite?.authority != null) cursor.reject('The authority is rewritten twice.', 'Remove one.')
  },
)

// --- tcp and tls rules ---

const subnet = checked(text, (value, cursor) => {
  if (parseCidr(value) === null) cursor.reject(`${quote(value)} is not an address block.`, 'Write one like 10.0.0.0/8.')
})

const tcpRule = object(
  {
    match: list(
      object({
        destinationSubnets: list(subnet),
        port,
        sourceLabels: labelMap,
        sourceNamespace: dnsLabel,
        gateways: list(text),
        sourceSubnet: outdated('sourceSubnet', 'Remove it: it never had an effect.'),
      }),
    ),
    route: checked(
      list(object({ destination: required(destination), weight: integer(0, INT32_MAX) })),
      (entries, cursor) => {
        if (entries.length > 1 && entries.every((entry) => (entry.weight ?? 0) === 0)) {
          cursor.reject('The weights add up to 0.', 'Give at least one destination a weight.')
        }
      },
    ),
  },
  (rule, cursor) => {
    if (rule.route.length === 0) cursor.report(findings.missing('route'))
  },
)

/** The spec of a VirtualService. */
export const virtualServiceSpec = object(
  {
    hosts: list(ruleHost),
    gateways: list(text),
    http: list(httpRule),
    tls: checked(list(openObject({})), (_rules, cursor) => {
      cursor.report(
        findings.notSupported('Routing by tls rules', 'TLS traffic goes to the service that the client addressed'),
      )
    }),
    tcp: list(tcpRule),
    exportTo: exportToField,
  },
  (spec, cursor) => {
    if (spec.http.length + spec.tcp.length + spec.tls.length === 0) {
      cursor.reject('There are no rules.', 'Write http or tcp.')
    }
    const isMesh = spec.gateways.length === 0 || spec.gateways.includes('mesh')
    spec.hosts.forEach((host, i) => {
      if (host === '*' && isMesh)
        cursor.at('hosts', i).reject('For clients in the mesh "*" is no host.', 'Name the hosts.')
      if (spec.hosts.indexOf(host) < i) cursor.at('hosts', i).reject(`${host} is listed twice.`, 'Remove one.')
    })
  },
)

export type VirtualServiceSpec = NonNullable<ValueOf<typeof virtualServiceSpec>>
export type HttpRuleFields = VirtualServiceSpec['http'][number]
export type HttpMatchFields = HttpRuleFields['match'][number]
export type TcpRuleFields = VirtualServiceSpec['tcp'][number]
