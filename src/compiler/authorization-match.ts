/** Sources, operations and conditions of AuthorizationPolicy rules to the model's matches. */
import { formatAddress, parseCidr } from '../base/address.ts'
import { EMPTY_POLICY_MATCH, type PolicyMatch } from '../model/policy.ts'
import type { StringMatch } from '../model/route.ts'
import {
  type ConditionFields,
  isPathTemplate,
  type OperationFields,
  type SourceFields,
} from './authorization-policy-fields.ts'
import type { Path } from './object.ts'
import { wildcardMatch } from './strings.ts'

/** One alternative of a clause. */
export interface Translated {
  /** Null when nothing that is supported was given. */
  readonly match: PolicyMatch | null
  readonly unsupported: readonly { readonly name: string; readonly path: Path }[]
}

/** Attributes of a source that need what the mesh does not have yet: tokens, forwarded addresses, trust domains. */
const UNSUPPORTED_SOURCES = [
  'requestPrincipals',
  'notRequestPrincipals',
  'trustDomains',
  'notTrustDomains',
  'remoteIpBlocks',
  'notRemoteIpBlocks',
] as const

/** `namespace` is the policy's: service accounts without one are in it. */
export function sourceMatch(source: SourceFields, namespace: string): Translated {
  const unsupported = UNSUPPORTED_SOURCES.filter((name) => source[name].length > 0)
  return translated(
    {
      ...EMPTY_POLICY_MATCH,
      principals: [
        ...source.principals.map(wildcardMatch),
        ...source.serviceAccounts.map((one) => account(one, namespace)),
      ],
      notPrincipals: [
        ...source.notPrincipals.map(wildcardMatch),
        ...source.notServiceAccounts.map((one) => account(one, namespace)),
      ],
      namespaces: source.namespaces.map(wildcardMatch),
      notNamespaces: source.notNamespaces.map(wildcardMatch),
      sourceIps: source.ipBlocks.map(canonicalBlock),
      notSourceIps: source.notIpBlocks.map(canonicalBlock),
    },
    unsupported.map((name) => ({ name, path: [name] })),
  )
}

export function operationMatch(operation: OperationFields): Translated {
  return translated(
    {
      ...EMPTY_POLICY_MATCH,
      // Hosts are compared without regard to case: both sides in lower case.
      hosts: operation.hosts.map((host) => wildcardMatch(host.toLowerCase())),
      notHosts: operation.notHosts.map((host) => wildcardMatch(host.toLowerCase())),
      methods: operation.methods.map(wildcardMatch),
      notMethods: operation.notMethods.map(wildcardMatch),
      paths: operation.paths.map(pathMatch),
      notPaths: operation.notPaths.map(pathMatch),
      destinationPorts: operation.ports.map(Number),
      notDestinationPorts: operation.notPorts.map(Number),
    },
    [],
  )
}

/** `namespace` is the policy's. */
export function conditionMatch(condition: ConditionFields, namespace: string): Translated {
  const { key, values, notValues } = condition
  const strings = { is: values.map(wildcardMatch), isNot: notValues.map(wildcardMatch) }
  switch (key) {
    case 'source.ip':
      return supported({ sourceIps: values.map(canonicalBlock), notSourceIps: notValues.map(canonicalBlock) })
    case 'source.namespace':
      return supported({ namespaces: strings.is, notNamespaces: strings.isNot })
    case 'source.principal':
      return supported({ principals: strings.is, notPrincipals: strings.isNot })
    case 'source.serviceAccount':
      return supported({
        principals: values.map((one) => account(one, namespace)),
        notPrincipals: notValues.map((one) => account(one, namespace)),
      })
    case 'destination.ip':
      return supported({ destinationIps: values.map(canonicalBlock), notDestinationIps: notValues.map(canonicalBlock) })
    case 'destination.port':
      return supported({ destinationPorts: values.map(Number), notDestinationPorts: notValues.map(Number) })
  }
  const header = /^request\.headers\[(.+)\]$/.exec(key)
  if (header === null) return translated(EMPTY_POLICY_MATCH, [{ name: key, path: ['key'] }])
  return supported({ headers: [{ name: header[1]!.toLowerCase(), values: strings.is, notValues: strings.isNot }] })
}

function supported(kinds: Partial<PolicyMatch>): Translated {
  return translated({ ...EMPTY_POLICY_MATCH, ...kinds }, [])
}

/** A match with nothing in it would never match: it is none. */
function translated(match: PolicyMatch, unsupported: Translated['unsupported']): Translated {
  const isEmpty = Object.values(match as unknown as Record<string, readonly unknown[]>).every(
    (kind) => kind.length === 0,
  )
  return { match: isEmpty ? null : match, unsupported }
}

/** A service account, whatever its trust domain: what comes before is one segment that cannot hold a slash. */
function account(written: string, namespace: string): StringMatch {
  const slash = written.indexOf('/')
  const [owner, name] = slash < 0 ? [namespace, written] : [written.slice(0, slash), written.slice(slash + 1)]
  return { kind: 'suffix', value: `/ns/${owner}/sa/${name}` }
}

/** Templates become patterns: `{*}` is one whole segment, `{**}` the rest. */
function pathMatch(path: string): StringMatch {
  if (!isPathTemplate(path)) return wildcardMatch(path)
  const segments = path.split('/').map((segment) => {
    if (segment === '{*}') return '[^/]+'
    return segment === '{**}' ? '.*' : segment.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  })
  return { kind: 'regex', value: segments.join('/') }
}

/** CIDR text with a canonical address; a bare address gets its full length. */
function canonicalBlock(written: string): string {
  const block = parseCidr(written)!
  return `${formatAddress(block.bytes)}/${block.length}`
}
