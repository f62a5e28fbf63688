/**
 * The field table of AuthorizationPolicy (security.istio.io v1, v1beta1) with its admission rules. What the fields mean
 * is in authorization-policy.ts and authorization-match.ts.
 */
import { parseCidr } from '../base/address.ts'
import { findings, quote } from './messages.ts'
import { checked, closest, list, object, oneOf, required, type Shape, text, type ValueOf } from './schema.ts'
import { labelMap } from './strings.ts'

/** Most rules of a policy, as the Istio API states. */
const RULES_MAX = 512
/** Most targetRefs, as the Istio API states. */
const TARGETS_MAX = 16

/** Values of an attribute: none may be empty. */
const values: Shape<readonly string[]> = checked(list(text), (entries, cursor) => {
  entries.forEach((entry, i) => {
    if (entry === '') cursor.at(i).reject('The value is empty.', 'Write a value, or "*" for any.')
    else if (entry.slice(1, -1).includes('*') && !entry.includes('{*')) {
      cursor
        .at(i)
        .reject(`${quote(entry)} has a "*" in its middle.`, 'A "*" may only be the first or the last character.')
    } else if (entry.length > 1 && entry.startsWith('*') && entry.endsWith('*')) {
      cursor.at(i).reject(`${quote(entry)} has a "*" at both ends.`, 'Keep one of them.')
    }
  })
})

/** True when a policy path is a template (`/users/{*}/carts/{**}`). */
export function isPathTemplate(path: string): boolean {
  return path.includes('{') || path.includes('}')
}

const paths: Shape<readonly string[]> = checked(values, (entries, cursor) => {
  entries.forEach((path, i) => {
    if (!isPathTemplate(path)) return
    const segments = path.split('/')
    const isValid = segments.every((segment, j) => {
      if (segment === '{**}') return j === segments.length - 1
      return segment === '{*}' || !/[{}*]/.test(segment)
    })
    if (!isValid || !path.startsWith('/')) {
      cursor
        .at(i)
        .reject(
          `${quote(path)} is not a valid path template.`,
          'Use {*} for one whole segment and {**} for the rest at the end.',
        )
    }
  })
})

const ports: Shape<readonly string[]> = checked(list(text), (entries, cursor) => {
  entries.forEach((entry, i) => {
    if (!isPortText(entry))
      cursor.at(i).reject(`${quote(entry)} is not a port.`, 'Write a number from 1 to 65535 in quotes.')
  })
})

function isPortText(value: string): boolean {
  return /^[1-9][0-9]{0,4}$/.test(value) && Number(value) <= 65_535
}

const blocks: Shape<readonly string[]> = checked(list(text), (entries, cursor) => {
  entries.forEach((entry, i) => {
    if (parseCidr(entry) === null)
      cursor.at(i).reject(`${quote(entry)} is not an address block.`, 'Write one like 10.0.0.0/8.')
  })
})

const accounts: Shape<readonly string[]> = checked(list(text), (entries, cursor) => {
  entries.forEach((entry, i) => {
    if (!/^(?:[^/*]+\/)?[^/*]+$/.test(entry)) {
      cursor
        .at(i)
        .reject(`${quote(entry)} is not a service account.`, 'Write "name" or "namespace/name", without wildcards.')
    }
  })
})

const source = checked(
  object({
    principals: values,
    notPrincipals: values,
    requestPrincipals: values,
    notRequestPrincipals: values,
    namespaces: values,
    notNamespaces: values,
    serviceAccounts: accounts,
    notServiceAccounts: accounts,
    trustDomains: values,
    notTrustDomains: values,
    ipBlocks: blocks,
    notIpBlocks: blocks,
    remoteIpBlocks: blocks,
    notRemoteIpBlocks: blocks,
  }),
  (fields, cursor) => {
    if (Object.values(fields).every((entries) => entries.length === 0)) {
      cursor.reject('The source is empty.', 'Remove it, or say which sources are meant.')
    }
    const hasAccounts = fields.serviceAccounts.length + fields.notServiceAccounts.length > 0
    const hasOthers =
      fields.principals.length + fields.notPrincipals.length + fields.namespaces.length + fields.notNamespaces.length >
      0
    if (hasAccounts && hasOthers) {
      cursor.reject(
        'serviceAccounts cannot stand beside principals or namespaces.',
        'Write two sources, or principals only.',
      )
    }
    for (const name of ['principals', 'notPrincipals'] as const) {
      fields[name].forEach((principal, i) => {
        if (principal.startsWith('spiffe://')) {
          cursor
            .at(name, i)
            .reject('Principals are written without spiffe://.', `Write ${quote(principal.slice('spiffe://'.length))}.`)
        }
      })
    }
  },
)

const operation = checked(
  object({
    hosts: values,
    notHosts: values,
    ports,
    notPorts: ports,
    methods: values,
    notMethods: values,
    paths,
    notPaths: paths,
  }),
  (fields, cursor) => {
    if (Object.values(fields).every((entries) => entries.length === 0)) {
      cursor.reject('The operation is empty.', 'Remove it, or say which operations are meant.')
    }
  },
)

/** Keys of `when` conditions; those ending in `[` take a name in brackets. */
const CONDITION_KEYS: readonly string[] = [
  'request.headers[',
  'source.ip',
  'remote.ip',
  'source.namespace',
  'source.serviceAccount',
  'source.principal',
  'source.trustDomain',
  'request.auth.principal',
  'request.auth.audiences',
  'request.auth.presenter',
  'request.auth.claims[',
  'destination.ip',
  'destination.port',
  'connection.sni',
  'experimental.envoy.filters.',
]

const conditionKey = checked(text, (key, cursor) => {
  const isKnown = CONDITION_KEYS.some((known) => {
    if (known.endsWith('[')) return key.startsWith(known) && key.endsWith(']') && key.length > known.length + 1
    return known.endsWith('.') ? key.startsWith(known) : key === known
  })
  if (isKnown) return
  const names = CONDITION_KEYS.map((known) => (known.endsWith('[') ? `${known}name]` : known))
  cursor.report(findings.notOneOf(key, names, closest(key, names)))
})

const condition = checked(object({ key: required(conditionKey), values, notValues: values }), (fields, cursor) => {
  if (fields.values.length + fields.notValues.length === 0) {
    cursor.reject('The condition has no values.', 'Write values or notValues.')
  }
  for (const name of ['values', 'notValues'] as const) {
    fields[name].forEach((value, i) => {
      const place = cursor.at(name, i)
      if (fields.key === 'destination.port' && !isPortText(value))
        place.reject(`${quote(value)} is not a port.`, 'Write a number from 1 to 65535.')
      const isIp = fields.key === 'source.ip' || fields.key === 'destination.ip' || fields.key === 'remote.ip'
      if (isIp && parseCidr(value) === null)
        place.reject(`${quote(value)} is not an address block.`, 'Write one like 10.0.0.0/8.')
    })
  }
})

const rule = object({
  from: list(object({ source: required(source) })),
  to: list(object({ operation: required(operation) })),
  when: list(condition),
})

const targetRef = checked(
  object({ group: text, kind: required(text), name: required(text), namespace: text, sectionName: text }),
  (fields, cursor) => {
    if (fields.namespace !== null && fields.namespace !== '') {
      cursor.at('namespace').reject('A target is in the namespace of the policy.', 'Remove the field.')
    }
    const kinds = ['Service', 'ServiceEntry', 'Gateway', 'GatewayClass']
    if (!kinds.includes(fields.kind))
      cursor.at('kind').report(findings.notOneOf(fields.kind, kinds, closest(fields.kind, kinds)))
    if (fields.kind === 'Service' && fields.group !== null && fields.group !== '' && fields.group !== 'core') {
      cursor.at('group').reject('Service is in the core group.', 'Write group: "".')
    }
  },
)

/** The spec of an AuthorizationPolicy. */
export const authorizationPolicySpec = object(
  {
    selector: object({ matchLabels: labelMap }),
    targetRef,
    targetRefs: list(targetRef, TARGETS_MAX),
    action: oneOf(['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']),
    rules: list(rule, RULES_MAX),
    provider: object({ name: text }),
  },
  (spec, cursor) => {
    const places = [
      spec.selector !== null && 'selector',
      spec.targetRef !== null && 'targetRef',
      spec.targetRefs.length > 0 && 'targetRefs',
    ]
    const given = places.filter((place) => place !== false)
    if (given.length > 1) cursor.reject(`${given.join(' and ')} are both given.`, 'Write one.')
    if (spec.action === 'DENY' && spec.rules.length === 0) {
      cursor.reject('A DENY policy without rules denies nothing.', 'Write "rules: [{}]" to deny everything.')
    }
    if (spec.action === 'CUSTOM' && (spec.rules.length === 0 || (spec.provider?.name ?? '') === '')) {
      cursor.reject('A CUSTOM policy needs rules and provider.name.', 'Add them.')
    }
    if (spec.action !== 'CUSTOM' && spec.provider !== null) {
      cursor.at('provider').reject('Only CUSTOM policies have a provider.', 'Remove it, or write action: CUSTOM.')
    }
  },
)

export type AuthorizationPolicySpec = NonNullable<ValueOf<typeof authorizationPolicySpec>>
export type RuleFields = AuthorizationPolicySpec['rules'][number]
export type SourceFields = RuleFields['from'][number]['source']
export type OperationFields = RuleFields['to'][number]['operation']
export type ConditionFields = RuleFields['when'][number]
