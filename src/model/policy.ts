/**
 * Authorization policies in normal form, as in `istio.security.Authorization`, widened by HTTP attributes.
 *
 * Rules are ORed; the clauses of a rule are ANDed; the matches of a clause are ORed; inside a match all given kinds are
 * ANDed, the values of a kind ORed, and a `not` kind holds when none of its values matches. A match with nothing in it
 * never matches; a rule with no clauses always matches; a policy with no rules never matches.
 * STRICT peer authentication arrives as a DENY policy on "no principal".
 */
import type { StringMatch } from './route.ts'

export const ACTION_ALLOW = 0
export const ACTION_DENY = 1
export type PolicyAction = typeof ACTION_ALLOW | typeof ACTION_DENY

export const POLICY_SCOPE_GLOBAL = 0
export const POLICY_SCOPE_NAMESPACE = 1
export const POLICY_SCOPE_WORKLOAD = 2
export type PolicyScope = typeof POLICY_SCOPE_GLOBAL | typeof POLICY_SCOPE_NAMESPACE | typeof POLICY_SCOPE_WORKLOAD

export interface Policy {
  /** `namespace/name`; built by `policyKey`. */
  readonly key: string
  readonly name: string
  readonly namespace: string
  readonly scope: PolicyScope
  readonly action: PolicyAction
  /** Evaluated and logged, never enforced. */
  readonly isDryRun: boolean
  readonly rules: readonly PolicyRule[]
}

export interface PolicyRule {
  readonly clauses: readonly PolicyClause[]
}

export interface PolicyClause {
  readonly matches: readonly PolicyMatch[]
}

/** Layer 4 kinds first; the last six need an HTTP exchange. Empty lists are absent kinds. */
export interface PolicyMatch {
  readonly principals: readonly StringMatch[]
  readonly notPrincipals: readonly StringMatch[]
  readonly namespaces: readonly StringMatch[]
  readonly notNamespaces: readonly StringMatch[]
  /** CIDR text. */
  readonly sourceIps: readonly string[]
  readonly notSourceIps: readonly string[]
  readonly destinationIps: readonly string[]
  readonly notDestinationIps: readonly string[]
  readonly destinationPorts: readonly number[]
  readonly notDestinationPorts: readonly number[]
  readonly hosts: readonly StringMatch[]
  readonly notHosts: readonly StringMatch[]
  readonly methods: readonly StringMatch[]
  readonly notMethods: readonly StringMatch[]
  readonly paths: readonly StringMatch[]
  readonly notPaths: readonly StringMatch[]
  /** `request.headers[name]` conditions; every entry must hold. */
  readonly headers: readonly PolicyHeader[]
}

export interface PolicyHeader {
  readonly name: string
  readonly values: readonly StringMatch[]
  readonly notValues: readonly StringMatch[]
}

/** A match with nothing in it, to spread into real ones. */
export const EMPTY_POLICY_MATCH: PolicyMatch = {
  principals: [],
  notPrincipals: [],
  namespaces: [],
  notNamespaces: [],
  sourceIps: [],
  notSourceIps: [],
  destinationIps: [],
  notDestinationIps: [],
  destinationPorts: [],
  notDestinationPorts: [],
  hosts: [],
  notHosts: [],
  methods: [],
  notMethods: [],
  paths: [],
  notPaths: [],
  headers: [],
}

/** True when the policy can only be judged with an HTTP exchange at hand. */
export function needsHttp(policy: Policy): boolean {
  return policy.rules.some((rule) => rule.clauses.some((clause) => clause.matches.some(matchNeedsHttp)))
}

function matchNeedsHttp(match: PolicyMatch): boolean {
  return (
    match.hosts.length > 0 ||
    match.notHosts.length > 0 ||
    match.methods.length > 0 ||
    match.notMethods.length > 0 ||
    match.paths.length > 0 ||
    match.notPaths.length > 0 ||
    match.headers.length > 0
  )
}

export function policyKey(namespace: string, name: string): string {
  return `${namespace}/${name}`
}

/**
 * Prefix of the names of policies made from PeerAuthentication (STRICT). They are judged when a connection arrives,
 * also on HTTP ports: plaintext is refused without an HTTP answer.
 */
export const PEER_AUTHENTICATION_PREFIX = 'istio_converted_'

export function isPeerAuthentication(policy: Policy): boolean {
  return policy.name.startsWith(PEER_AUTHENTICATION_PREFIX)
}
