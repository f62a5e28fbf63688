// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 5b of the data path: which route takes a request. The slow side compiles the routes of one traffic object into a
 * flat list, one entry per match element, in the order in which users wrote them; the first entry that matches wins, as
 * in VirtualService. The fast side walks the list and allocates nothing.
 *
 * The target is judged as it stands in the head: the exchange has normalised it (path.ts). A value that cannot be
 * compiled (a regular expression that JavaScript cannot read) never matches.
 */
import type { RequestHead } from '../http/codec.ts'
import type { DirectResponse, Fault, Mirror, Redirect, Route, RouteMatch, WeightedCluster } from '../model/route.ts'
import { NamedMatcher, PathMatcher, queryValue, requestValue, StringMatcher } from './matchers.ts'
import { pathEndOf } from './path.ts'
import { RetryPolicy } from './retry.ts'
import { authorityOf, type CompiledEdits, CompiledRewrite, compileEdits } from './rewrite.ts'

/** One place that a route can send to. */
export class CompiledDestination {
  /** Key of the cluster; it need not exist (503, flag NC). */
  readonly clusterKey: string
  readonly weight: number
  readonly requestEdits: CompiledEdits | null
  readonly responseEdits: CompiledEdits | null
  /**
   * Authority to send, null for the request's own: what the route's rewrite, the destination and edits of `host` add up
   * to. A single destination yields to the route's rewrite, one of several has the last word; edits come last.
   */
  readonly authority: string | null

  constructor(destination: WeightedCluster, route: Route) {
    this.clusterKey = destination.cluster
    this.weight = Math.max(0, destination.weight)
    this.requestEdits = compileEdits(destination.requestEdits)
    this.responseEdits = compileEdits(destination.responseEdits)
    const own = destination.authority ?? authorityOf(destination.requestEdits)
    const rewritten = route.rewrite?.authority ?? null
    const winner = route.clusters.length === 1 ? (rewritten ?? own) : (own ?? rewritten)
    this.authority = winner ?? authorityOf(route.requestEdits)
  }
}

/** A route as far as it does not depend on which of its matches took the request. */
class RouteActions {
  readonly route: Route
  readonly name: string
  readonly destinations: readonly CompiledDestination[]
  readonly totalWeight: number
  readonly requestEdits: CompiledEdits | null
  readonly responseEdits: CompiledEdits | null
  readonly rewrite: CompiledRewrite | null
  readonly retryPolicy: RetryPolicy

  constructor(route: Route) {
    this.route = route
    this.name = route.name === '' ? route.source : `${route.source}/${route.name}`
    this.destinations = route.clusters.map((destination) => new CompiledDestination(destination, route))
    this.totalWeight = this.destinations.reduce((sum, destination) => sum + destination.weight, 0)
    this.requestEdits = compileEdits(route.requestEdits)
    this.responseEdits = compileEdits(route.responseEdits)
    this.rewrite = route.rewrite === null ? null : new CompiledRewrite(route.rewrite)
    this.retryPolicy = RetryPolicy.compile(route.retry)
  }
}

/** A route together with the one of its matches that took the request: rewriting depends on which it was. */
export class CompiledRoute {
  readonly route: Route
  /** For logs: `namespace/object/rule`. */
  readonly name: string
  readonly destinations: readonly CompiledDestination[]
  readonly requestEdits: CompiledEdits | null
  readonly responseEdits: CompiledEdits | null
  readonly rewrite: CompiledRewrite | null
  readonly redirect: Redirect | null
  readonly directResponse: DirectResponse | null
  readonly retryPolicy: RetryPolicy
  readonly fault: Fault | null
  readonly mirrors: readonly Mirror[]
  /** Whole exchange, retries included; 0 is none. */
  readonly timeoutMs: number
  readonly path: PathMatcher
  private readonly totalWeight: number
  private readonly method: StringMatcher | null
  private readonly scheme: StringMatcher | null
  private readonly authority: StringMatcher | null
  private readonly headers: readonly NamedMatcher[]
  private readonly query: readonly NamedMatcher[]

  constructor(actions: RouteActions, match: RouteMatch | null) {
    const route = actions.route
    this.route = route
    this.name = actions.name
    this.destinations = actions.destinations
    this.requestEdits = actions.requestEdits
    this.responseEdits = actions.responseEdits
    this.rewrite = actions.rewrite
    this.redirect = route.redirect
    this.directResponse = route.directResponse
    this.retryPolicy = actions.retryPolicy
    this.fault = route.fault
    this.mirrors = route.mirrors
    this.timeoutMs = route.timeoutMs
    this.path = new PathMatcher(match?.path ?? null)
    this.totalWeight = actions.totalWeight
    this.method = match?.method ? new StringMatcher(match.method) : null
    this.scheme = match?.scheme ? new StringMatcher(match.scheme) : null
    this.authority = match?.authority ? new StringMatcher(match.authority) : null
    this.headers = (match?.headers ?? []).map((header) => new NamedMatcher(header, true))
    this.query = (match?.query ?? []).map((parameter) => new NamedMatcher(parameter, false))
  }

  /**
   * The destination of this exchange; `random` is in [0, 1). A single one gets everything, whatever its weight. Null when
   * there is none, or when all weights are 0.
   */
  pickDestination(random: number): CompiledDestination | null {
    const destinations = this.destinations
    if (destinations.length === 1) return destinations[0]!
    let left = random * this.totalWeight
    for (let i = 0; i < destinations.length; i++) {
      const destination = destinations[i]!
      if (left < destination.weight) return destination
      left -= destination.weight
    }
    return null
  }

  /** True when every condition holds; `pathEnd` is where the query of the target begins. */
  matches(head: RequestHead, pathEnd: number): boolean {
    if (!this.path.matches(head.target, pathEnd)) return false
    if (this.method !== null && !this.method.matches(head.method)) return false
    if (this.scheme !== null && !this.scheme.matches(head.scheme)) return false
    if (this.authority !== null && !this.authority.matches(head.authority)) return false
    for (let i = 0; i < this.headers.length; i++) {
      const header = this.headers[i]!
      if (!header.matches(requestValue(head, header.name))) return false
    }
    for (let i = 0; i < this.query.length; i++) {
      const parameter = this.query[i]!
      if (!parameter.matches(queryValue(head.target, pathEnd, parameter.name))) return false
    }
    return true
  }
}

/** The routes of one service port for one scope, in order; the first match wins. */
export class RouteTable {
  /** True when there are no routes at all: everything goes to the default cluster. */
  readonly isEmpty: boolean
  private readonly entries: readonly CompiledRoute[]

  constructor(routes: readonly Route[]) {
    this.isEmpty = routes.length === 0
    this.entries = routes.flatMap((route) => {
      const actions = new RouteActions(route)
      const matches = route.matches.length === 0 ? [null] : route.matches
      return matches.map((match) => new CompiledRoute(actions, match))
    })
  }

  /** The first route that takes the request; null when none does (404, flag NR, unless `isEmpty`). */
  match(head: RequestHead): CompiledRoute | null {
    const pathEnd = pathEndOf(head.target)
    const entries = this.entries
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!
      if (entry.matches(head, pathEnd)) return entry
    }
    return null
  }
}
