/**
 * HTTP routes in the mesh's own, API-neutral form: the union of what VirtualService and HTTPRoute can say.
 * Plain data, ordered; the first match wins. The proxy compiles it (proxy/route-table.ts).
 */
import type { Cluster, Protocol } from './service.ts'

export type StringMatch =
  | { readonly kind: 'exact'; readonly value: string }
  | { readonly kind: 'prefix'; readonly value: string }
  | { readonly kind: 'suffix'; readonly value: string }
  /** Whole-value match; RE2 syntax as far as JavaScript shares it, checked by the compiler. */
  | { readonly kind: 'regex'; readonly value: string }
  /** Present (and, for policies, not empty). */
  | { readonly kind: 'present' }

/** `pathSegments` is the Gateway API prefix: `/v2` matches `/v2` and `/v2/x`, never `/v2x`. */
export type PathMatch = {
  readonly kind: 'exact' | 'prefix' | 'regex' | 'pathSegments'
  readonly value: string
  readonly ignoreCase: boolean
}

export interface NamedMatch {
  /** Header names in lower case; query names as written. `:method`, `:path`, `:authority`, `:scheme` are allowed for headers. */
  readonly name: string
  readonly match: StringMatch
  /** True when the condition is inverted (withoutHeaders). An absent value then counts as the empty string. */
  readonly isNegated: boolean
}

/** All conditions hold (AND); absent ones are null or empty. */
export interface RouteMatch {
  readonly path: PathMatch | null
  readonly method: StringMatch | null
  readonly scheme: StringMatch | null
  readonly authority: StringMatch | null
  readonly headers: readonly NamedMatch[]
  readonly query: readonly NamedMatch[]
}

export interface HeaderPair {
  readonly name: string
  readonly value: string
}

/** Removal is done first, then set, then add (append as a line of its own). */
export interface HeaderEdits {
  readonly set: readonly HeaderPair[]
  readonly add: readonly HeaderPair[]
  readonly remove: readonly string[]
}

export interface WeightedCluster {
  /** Key into `Traffic.clusters`; a key that is not there means "unknown destination": 503, flag NC. */
  readonly cluster: string
  readonly weight: number
  readonly requestEdits: HeaderEdits | null
  readonly responseEdits: HeaderEdits | null
  /** Replaces the authority for this destination only. */
  readonly authority: string | null
}

export interface Rewrite {
  readonly authority: string | null
  /** Replaces what the route's prefix matched (or the whole path for another kind of match). Query is kept. */
  readonly path: string | null
  readonly regex: { readonly pattern: string; readonly substitution: string } | null
}

export interface Redirect {
  readonly status: number
  readonly path: string | null
  readonly prefixRewrite: string | null
  readonly authority: string | null
  readonly scheme: 'http' | 'https' | null
  readonly port: number | null
  readonly derivePort: 'protocol' | 'request' | null
}

export interface DirectResponse {
  readonly status: number
  readonly body: string
}

export interface Retry {
  /** Retries after the first try; 0 disables. */
  readonly attempts: number
  /** Per-try time-out, milliseconds; null is the route's. */
  readonly perTryTimeoutMs: number | null
  readonly on: readonly RetryCondition[]
  /** Statuses really returned by the upstream that are retried as well. */
  readonly statuses: readonly number[]
  readonly backoffBaseMs: number
  readonly avoidsPreviousHosts: boolean
}

export type RetryCondition =
  | '5xx'
  | 'gateway-error'
  | 'reset'
  | 'reset-before-request'
  | 'connect-failure'
  | 'retriable-4xx'
  | 'refused-stream'
  | 'cancelled'
  | 'deadline-exceeded'
  | 'internal'
  | 'resource-exhausted'
  | 'unavailable'

/** The default of VirtualService when no retry block is written. */
export const DEFAULT_RETRY: Retry = {
  attempts: 2,
  perTryTimeoutMs: null,
  on: ['connect-failure', 'refused-stream', 'unavailable', 'cancelled'],
  statuses: [],
  backoffBaseMs: 25,
  avoidsPreviousHosts: true,
}

/** Percentages are in parts per million, so that 0.0001 % is exact. */
export interface Fault {
  readonly delayMs: number
  readonly delayPpm: number
  /** HTTP status of the abort; 0 when a gRPC status is given. */
  readonly abortStatus: number
  readonly abortGrpcStatus: number | null
  readonly abortPpm: number
}

export interface Mirror {
  readonly cluster: string
  readonly ppm: number
}

export interface Route {
  /** For logs and metrics: `namespace/name` of the rule's object, and the rule's own name. */
  readonly source: string
  readonly name: string
  /** Any of these matches (OR); empty matches everything. */
  readonly matches: readonly RouteMatch[]
  /** Exactly one of `clusters` (not empty), `redirect`, `directResponse`; none of them answers 500. */
  readonly clusters: readonly WeightedCluster[]
  readonly redirect: Redirect | null
  readonly directResponse: DirectResponse | null
  readonly rewrite: Rewrite | null
  readonly requestEdits: HeaderEdits | null
  readonly responseEdits: HeaderEdits | null
  /** Whole exchange, retries included; 0 is none. */
  readonly timeoutMs: number
  readonly retry: Retry
  readonly fault: Fault | null
  readonly mirrors: readonly Mirror[]
}

/**
 * Everything one scope's clients do towards one service port. Absent for a (scope, service, port) means the defaults:
 * every endpoint, default settings, no routes.
 */
export interface Traffic {
  /** `<scope>|<service key>|<port>`; built by `trafficKey`. */
  readonly key: string
  readonly scope: string
  readonly service: string
  readonly port: number
  readonly protocol: Protocol
  /** Used when `routes` is empty, for TCP as well. */
  readonly defaultCluster: string
  readonly clusters: readonly Cluster[]
  /** HTTP routes in order; empty means straight to the default cluster. Not empty and none matches: 404, flag NR. */
  readonly routes: readonly Route[]
  /** For TCP ports: weighted clusters of the first matching rule; empty means the default cluster. */
  readonly tcpClusters: readonly WeightedCluster[]
}

export function trafficKey(scope: string, service: string, port: number): string {
  return `${scope}|${service}|${port}`
}
