/**
 * The field table of VirtualService (networking.istio.io v1, v1beta1, v1alpha3: one schema) with its admission rules.
 * What the fields mean is in virtual-service.ts.
 */
import { parseCidr } from '../base/address.ts'
import type { RetryCondition } from '../model/route.ts'
import { exportToField, ruleHost } from './hosts.ts'
import { findings, quote } from './messages.ts'
import {
  anything,
  type Cursor,
  checked,
  closest,
  decimal,
  duration,
  flag,
  INT32_MAX,
  integer,
  list,
  map,
  object,
  oneOf,
  outdated,
  port,
  refused,
  required,
  type Shape,
  text,
  unsupported,
  type ValueOf,
} from './schema.ts'
import { dnsLabel, isHeaderName, labelMap, pattern, stringMatch } from './strings.ts'

// --- pieces ---

const destination = object({
  host: required(
    checked(ruleHost, (host, cursor) => {
      if (host.startsWith('*'))
        cursor.reject('A destination is one host, not a wildcard.', 'Write the host of a service.')
    }),
  ),
  subset: dnsLabel,
  port: object({ number: required(port) }),
})

/** Percentages are written in percent; the finest step is 0.0001 %. */
const percent: Shape<number | null> = checked(decimal(0, 100), (value, cursor) => {
  if (value > 0 && value < 0.0001) cursor.reject(`${value} % is too fine.`, 'Write 0, or at least 0.0001.')
})

const percentage = object({ value: percent })

/** Header names of operations: what may be a pseudo header is decided per place. */
function headerName(name: string, isRequestEdit: boolean, cursor: Cursor): void {
  const lower = name.toLowerCase()
  if (lower === ':authority' || lower === 'host') {
    if (!isRequestEdit) cursor.reject(`${name} can only be set or added on requests.`, 'Remove it here.')
  } else if (!isHeaderName(name)) cursor.reject(`${quote(name)} is not a header name.`, 'Correct the name.')
}

function headerValue(value: string | null, cursor: Cursor): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (value !== null && /[\x00-\x08\x0a-\x1f\x7f]/.test(value)) {
    cursor.reject('The header value has control characters.', 'Remove them.')
  }
  if (value !== null && ((value.match(/%/g)?.length ?? 0) & 1) === 1) {
    cursor.reject('The header value has a single "%".', 'Write "%%" for a literal percent sign.')
  }
}

function headerEdits(isRequest: boolean) {
  const values = checked(
    map(text, (name, cursor) => headerName(name, isRequest, cursor)),
    (entries, cursor) => {
      for (const [name, value] of entries) headerValue(value, cursor.at(name))
    },
  )
  const names = checked(list(text), (entries, cursor) => {
    for (const [i, name] of entries.entries()) headerName(name, false, cursor.at(i))
  })
  return object({ set: values, add: values, remove: names })
}

const headers = object({ request: headerEdits(true), response: headerEdits(false) })

const routeDestination = object({ destination: required(destination), weight: integer(0, INT32_MAX), headers })

/** Several destinations need a share to divide; a single one takes everything, whatever its weight. */
const routeDestinations = checked(list(routeDestination), (entries, cursor) => {
  if (entries.length > 1 && entries.every((entry) => (entry.weight ?? 0) === 0)) {
    cursor.reject('The weights add up to 0.', 'Give at least one destination a weight.')
  }
})

// --- http match ---

/** Keys that cannot be matched as headers because they have fields of their own. */
const IGNORED_HEADER_KEYS: ReadonlySet<string> = new Set(['uri', 'scheme', 'method', 'authority'])
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

// --- http actions ---

const redirect = object(
  {
    uri: text,
    prefixRewrite: text,
    authority: text,
    scheme: oneOf(['http', 'https']),
    port,
    derivePort: oneOf(['FROM_PROTOCOL_DEFAULT', 'FROM_REQUEST_PORT']),
    redirectCode: checked(integer(300, 399), (code, cursor) => {
      if (![301, 302, 303, 307, 308].includes(code))
        cursor.reject(`${code} redirects nothing.`, 'Write 301, 302, 303, 307 or 308.')
    }),
  },
  (value, cursor) => {
    const { uri, prefixRewrite, authority, scheme, derivePort } = value
    if (uri !== null && prefixRewrite !== null) cursor.reject('uri and prefixRewrite are both given.', 'Write one.')
    if (value.port !== null && derivePort !== null) cursor.reject('port and derivePort are both given.', 'Write one.')
    const isEmpty = uri === null && prefixRewrite === null && authority === null && scheme === null
    if (isEmpty && value.port === null && derivePort === null) {
      cursor.reject('The redirect changes nothing.', 'Write uri, prefixRewrite, authority, scheme or port.')
    }
  },
)

/** Largest body of a direct response, and where a warning begins (as the Istio API states). */
const BODY_BYTES_MAX = 1_048_576
const BODY_BYTES_LARGE = 102_400

const body = object({ string: text, bytes: text }, (value, cursor) => {
  if (value.string !== null && value.bytes !== null) cursor.reject('string and bytes are both given.', 'Write one.')
  if (value.bytes !== null && decodeText(value.bytes) === null) {
    cursor.at('bytes').reject('The bytes are not base64 of UTF-8 text.', 'Write the body as string.')
  }
  const bytes = new TextEncoder().encode(
    value.string ?? (value.bytes === null ? '' : (decodeText(value.bytes) ?? '')),
  ).length
  if (bytes > BODY_BYTES_MAX) cursor.reject(`The body has ${bytes} bytes.`, `Write at most ${BODY_BYTES_MAX}.`)
  else if (bytes > BODY_BYTES_LARGE) cursor.report(findings.largeBody(bytes))
})

/** UTF-8 text of base64; null when it is neither. */
export function decodeText(base64: string): string | null {
  try {
    const binary = atob(base64)
    return new TextDecoder('utf-8', { fatal: true }).decode(
      Uint8Array.from(binary, (character) => character.charCodeAt(0)),
    )
  } catch {
    return null
  }
}

const directResponse = object({ status: required(integer(200, 599)), body })

const rewrite = object(
  {
    uri: text,
    authority: text,
    uriRegexRewrite: object({
      match: required(pattern),
      rewrite: required(text),
    }),
  },
  (value, cursor) => {
    if (value.uri !== null && value.uriRegexRewrite !== null)
      cursor.reject('uri and uriRegexRewrite are both given.', 'Write one.')
    if (value.uri === null && value.uriRegexRewrite === null && value.authority === null) {
      cursor.reject('The rewrite changes nothing.', 'Write uri, uriRegexRewrite or authority.')
    }
  },
)

/** Conditions of retryOn that the mesh knows. */
export const RETRY_CONDITIONS: readonly RetryCondition[] = [
  '5xx',
  'gateway-error',
  'reset',
  'reset-before-request',
  'connect-failure',
  'retriable-4xx',
  'refused-stream',
  'cancelled',
  'deadline-exceeded',
  'internal',
  'resource-exhausted',
  'unavailable',
]

/** Conditions of the API that have no meaning here, or that the numeric codes express. */
const RETRY_CONDITIONS_WITHOUT_EFFECT = [
  'retriable-headers',
  'envoy-ratelimited',
  'http3-post-connect-failure',
] as const
const RETRY_CONDITION_STATUS_CODES = 'retriable-status-codes'

/** The words of retryOn. */
export function retryWords(retryOn: string): string[] {
  return retryOn
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '')
}

const retryOn = checked(text, (value, cursor) => {
  for (const word of retryWords(value)) {
    if (/^[1-5][0-9][0-9]$/.test(word) || word === RETRY_CONDITION_STATUS_CODES) continue
    if ((RETRY_CONDITIONS as readonly string[]).includes(word)) continue
    if ((RETRY_CONDITIONS_WITHOUT_EFFECT as readonly string[]).includes(word)) {
      cursor.report(findings.notSupported(`The condition ${word}`, 'nothing is retried because of it'))
    } else {
      const hint = closest(word, RETRY_CONDITIONS)
      cursor.report(findings.notOneOf(word, [...RETRY_CONDITIONS, 'a status code'], hint))
    }
  }
})

const retries = object(
  {
    attempts: integer(0, 1000),
    perTryTimeout: duration('positive'),
    retryOn,
    retryRemoteLocalities: unsupported('retryRemoteLocalities', 'retries go to any endpoint'),
    retryIgnorePreviousHosts: flag,
    backoff: duration('positive'),
  },
  (value, cursor) => {
    if ((value.attempts ?? 0) === 0 && (value.perTryTimeout !== null || value.retryOn !== null)) {
      cursor.reject(
        'Retries are off (attempts is 0), but have settings.',
        'Write attempts: 1 or more, or remove the rest.',
      )
    }
  },
)

/** gRPC status codes by name. */
export const GRPC_STATUSES: readonly string[] = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
]

const fault = object(
  {
    delay: object(
      {
        fixedDelay: duration('positive'),
        percentage,
        percent: integer(0, 100),
        exponentialDelay: refused('exponentialDelay', 'no request is delayed'),
      },
      (value, cursor) => {
        if (value.fixedDelay === null) cursor.report(findings.missing('fixedDelay'))
        if (value.percent !== null)
          cursor.at('percent').report(findings.deprecated('percent', 'Write percentage.value.'))
      },
    ),
    abort: object(
      {
        httpStatus: integer(200, 600),
        grpcStatus: checked(text, (name, cursor) => {
          if (!GRPC_STATUSES.includes(name))
            cursor.report(findings.notOneOf(name, GRPC_STATUSES, closest(name, GRPC_STATUSES)))
        }),
        http2Error: refused('http2Error', 'no request is aborted'),
        percentage,
      },
      (value, cursor) => {
        if (value.httpStatus !== null && value.grpcStatus !== null)
          cursor.reject('httpStatus and grpcStatus are both given.', 'Write one.')
        if (value.httpStatus === null && value.grpcStatus === null) {
          cursor.report(
            findings.noEffect('The abort has no status: no request is aborted.', 'Write httpStatus or grpcStatus.'),
          )
        }
      },
    ),
  },
  (value, cursor) => {
    if (value.delay === null && value.abort === null) cursor.reject('The fault is empty.', 'Write delay or abort.')
    for (const [name, part] of [
      ['delay', value.delay],
      ['abort', value.abort],
    ] as const) {
      const hasPercent = part !== null && ('percent' in part ? part.percent !== null : false)
      if (part !== null && part.percentage?.value == null && !hasPercent) {
        cursor.at(name).report(findings.noEffect('Without percentage no request is affected.', 'Add percentage.value.'))
      }
    }
  },
)

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
    tls: checked(list(anything), (_rules, cursor) => {
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
export type DestinationFields = HttpRuleFields['route'][number]['destination']
export type HeadersFields = NonNullable<HttpRuleFields['headers']>
