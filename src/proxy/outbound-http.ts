// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 5b of the outbound path: HTTP. For every request, in this order:
 * match a route -> inject a fault -> redirect or answer directly -> choose a destination -> rewrite -> mirror
 * -> pick an endpoint -> judge a one-hop destination's policies -> take a connection from the pool -> forward.
 *
 * A request is routed by the newest snapshot, whatever the age of its connection.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type WeftError } from '../base/errors.ts'
import type { ProtocolViolation } from '../http/codec.ts'
import { HeaderList } from '../http/headers.ts'
import { DEFAULT_RETRY, type Fault } from '../model/route.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import type { EdgeKey } from '../telemetry/recorder.ts'
import type { ClusterState } from './cluster.ts'
import type { Exchange } from './exchange.ts'
import { decideFault } from './fault.ts'
import { leaveApp, prepareRetry, tellServiceTime, tellTimeout } from './forwarding-headers.ts'
import type { GrpcCall } from './grpc-call.ts'
import { HttpSession, type HttpSessionOwner, versionText } from './http-session.ts'
import { sendMirrors } from './mirror.ts'
import type { EdgePair, OutboundConnection } from './outbound.ts'
import { buildRedirect } from './redirect.ts'
import {
  denialText,
  directReply,
  faultReply,
  grpcFaultReply,
  REPLY_DENIED,
  REPLY_NO_ACTION,
  REPLY_NO_CLUSTER,
  REPLY_NO_ENDPOINT,
  REPLY_NO_ROUTE,
  REPLY_OVERFLOW,
} from './reply.ts'
import { RequestOverrides } from './request-overrides.ts'
import { RetryPolicy } from './retry.ts'
import { applyEdits, rewriteRequest } from './rewrite.ts'
import type { CompiledRoute } from './route-table.ts'
import type { CompiledTraffic } from './route-tables.ts'
import { PATH_ONE_HOP, PATH_PLAIN, type Path } from './upstreams.ts'
import { noteRefusal, noteViolation } from './violation-log.ts'

/** What is retried where no rule says anything: two more tries when nobody can have acted on the request. */
const RETRY_WITHOUT_RULES = RetryPolicy.compile(DEFAULT_RETRY)

/** Where there is no service, and so no other endpoint: only what the app asks for. */
const RETRY_NEVER = RetryPolicy.compile({ ...DEFAULT_RETRY, attempts: 0, on: [] })

/** The HTTP of one outbound connection. */
export class OutboundHttp implements HttpSessionOwner {
  readonly session: HttpSession
  private readonly outbound: OutboundConnection

  constructor(outbound: OutboundConnection) {
    this.outbound = outbound
    this.session = new HttpSession(outbound.parts, outbound.conn, this)
  }

  // --- match ---

  route(exchange: Exchange): void {
    const { parts, destination } = this.outbound
    const snapshot = parts.snapshot
    const { headers } = exchange.head
    const overrides = exchange.route === null && leaveApp(headers, parts.random) ? RequestOverrides.take(headers) : null
    if (destination.service === null || destination.port === null) {
      if (overrides !== null) this.govern(exchange, RETRY_NEVER, 0, overrides)
      this.routeDirect(exchange)
      return
    }
    const traffic = this.outbound.trafficOf(snapshot)
    if (traffic === null) {
      this.govern(exchange, RETRY_WITHOUT_RULES, 0, overrides)
      const cluster = parts.clusters.defaultCluster(destination.service, destination.port.number)
      this.toCluster(exchange, parts.clusters.get(cluster, snapshot))
      return
    }
    const compiled = parts.routeTables.of(traffic)
    if (exchange.route !== null) {
      // Back from an injected delay: the rule that asked for it goes on.
      this.toRoute(exchange, exchange.route, compiled, snapshot)
      return
    }
    if (compiled.routes.isEmpty) {
      this.govern(exchange, RETRY_WITHOUT_RULES, 0, overrides)
      this.toClusterKey(exchange, traffic.defaultCluster, compiled, snapshot)
      return
    }
    const route = compiled.routes.match(exchange.head)
    if (route === null) {
      exchange.reply(REPLY_NO_ROUTE, null, `no rule of ${traffic.key} matches`)
      return
    }
    exchange.route = route
    this.govern(exchange, route.retryPolicy, route.timeoutMs, overrides)
    const fault = route.route.fault
    if (fault === null || !this.injectFault(exchange, fault)) this.toRoute(exchange, route, compiled, snapshot)
  }

  /** Retries and time-outs: the rule's, unless the app asks for others. */
  private govern(exchange: Exchange, policy: RetryPolicy, timeoutMs: number, overrides: RequestOverrides | null): void {
    const wholeMs = overrides === null ? timeoutMs : overrides.timeoutOver(timeoutMs)
    const retry = overrides === null ? policy : overrides.retryOver(policy, wholeMs)
    exchange.retry = retry
    exchange.tryTimeoutMs = retry.perTryTimeoutMs
    if (wholeMs > 0) exchange.startDeadline(wholeMs)
    tellTimeout(exchange.head.headers, wholeMs, retry.perTryTimeoutMs)
  }

  // --- fault ---

  /** True when the exchange was delayed (it comes back to `route`) or aborted. */
  private injectFault(exchange: Exchange, fault: Fault): boolean {
    const outcome = decideFault(fault, this.outbound.parts.random)
    exchange.injectedStatus = outcome.abortStatus
    exchange.injectedGrpcStatus = outcome.abortGrpcStatus
    if (outcome.delayMs > 0) {
      exchange.routeAfter(outcome.delayMs, false)
      return true
    }
    return this.abortByFault(exchange)
  }

  /** True when a fault rule aborts this exchange. */
  private abortByFault(exchange: Exchange): boolean {
    const { injectedStatus, injectedGrpcStatus } = exchange
    if (injectedGrpcStatus >= 0) {
      exchange.reply(grpcFaultReply(injectedGrpcStatus), null, 'injected by a fault rule')
      return true
    }
    if (injectedStatus === 0) return false
    exchange.reply(faultReply(injectedStatus), null, 'injected by a fault rule')
    return true
  }

  // --- redirect, direct response, destination, rewrite, mirror ---

  private toRoute(exchange: Exchange, route: CompiledRoute, compiled: CompiledTraffic, snapshot: Snapshot): void {
    const { redirect, directResponse, mirrors } = route.route
    if (this.abortByFault(exchange)) return
    if (redirect !== null) {
      const { status, location } = buildRedirect(route, exchange.head, this.outbound.conn.localPort)
      exchange.reply(directReply(status, ''), HeaderList.of([['location', location]]), 'redirect')
      return
    }
    if (directResponse !== null) {
      const headers = new HeaderList()
      if (route.responseEdits !== null) applyEdits(route.responseEdits, headers)
      exchange.reply(directReply(directResponse.status, directResponse.body), headers, 'direct response')
      return
    }
    const destination = route.pickDestination(this.outbound.parts.random())
    if (destination === null) {
      exchange.reply(REPLY_NO_ACTION, null, 'the route names no destination')
      return
    }
    exchange.destination = destination
    const head = exchange.head
    rewriteRequest(route, destination.authority, head)
    if (route.requestEdits !== null) applyEdits(route.requestEdits, head.headers)
    if (destination.requestEdits !== null) applyEdits(destination.requestEdits, head.headers)
    if (mirrors.length > 0) sendMirrors(this.outbound, exchange, mirrors, compiled, snapshot)
    this.toClusterKey(exchange, destination.clusterKey, compiled, snapshot)
  }

  // --- endpoint ---

  private toClusterKey(exchange: Exchange, key: string, compiled: CompiledTraffic, snapshot: Snapshot): void {
    const cluster = compiled.clusters.get(key)
    if (cluster === undefined) {
      exchange.reply(REPLY_NO_CLUSTER, null, `${key} does not exist`)
      return
    }
    this.toCluster(exchange, this.outbound.parts.clusters.get(cluster, snapshot))
  }

  private toCluster(exchange: Exchange, cluster: ClusterState): void {
    const { parts, source, destination } = this.outbound
    if (exchange.cluster === null) {
      if (!cluster.tryAcquireRequest()) {
        exchange.reply(REPLY_OVERFLOW, null, `the request limit of ${cluster.key} is reached`)
        return
      }
      exchange.cluster = cluster
    }
    const endpoint = cluster.pick(exchange.tried, source.uid)
    if (endpoint === null) {
      exchange.reply(REPLY_NO_ENDPOINT, null, `${cluster.key} has no healthy endpoint`)
      return
    }
    exchange.endpoint = endpoint
    const path = parts.upstreams.pathTo(endpoint.workload, cluster.isMutualTls, this.outbound.source)
    this.outbound.identify(exchange.head.headers, path, endpoint.workload)
    if (path === PATH_ONE_HOP && !this.isAllowed(exchange, endpoint.workload, endpoint.address, endpoint.port)) return
    const speaksHttp2 = this.outbound.speaksHttp2(exchange)
    const host = destination.service!.hostname
    exchange.forward(parts.upstreams.httpPool(source, cluster, endpoint, host, speaksHttp2))
  }

  /** A workload's own address was dialled: straight to it. */
  private routeDirect(exchange: Exchange): void {
    const { parts, source, conn } = this.outbound
    const workload = this.dialledWorkload()
    if (workload === null) {
      exchange.reply(REPLY_NO_ENDPOINT, null, 'the service has no such port')
      return
    }
    const path = parts.upstreams.pathTo(workload, true, this.outbound.source)
    this.outbound.identify(exchange.head.headers, path, workload)
    if (path === PATH_ONE_HOP && !this.isAllowed(exchange, workload, conn.localAddress, conn.localPort)) return
    const speaksHttp2 = this.outbound.speaksHttp2(exchange)
    exchange.forward(parts.upstreams.directPool(source, workload, conn.localAddress, conn.localPort, speaksHttp2))
  }

  /** The workload whose own address was dialled, as it is now: it may have joined or left the mesh meanwhile. */
  private dialledWorkload(): Workload | null {
    const { parts, destination } = this.outbound
    const { workload } = destination
    return workload === null ? null : (parts.snapshot.workloads.get(workload.uid) ?? workload)
  }

  /** On one hop the destination's policies are judged here, as if the request had crossed the network. */
  private isAllowed(exchange: Exchange, workload: Workload, address: string, port: number): boolean {
    const { parts } = this.outbound
    const authorizer = parts.policies.authorizerOf(parts.snapshot, workload)
    if (authorizer.isEmpty) return true
    const decision = authorizer.authorizeExchange(this.outbound.factsFor(address, port), exchange.head)
    if (decision.isAllowed) return true
    exchange.reply(REPLY_DENIED, null, denialText(decision))
    return false
  }

  /** Another try: the route and the cluster stay, the endpoint changes. */
  reroute(exchange: Exchange): void {
    prepareRetry(exchange.head.headers, exchange.attempt + 1)
    if (exchange.cluster === null) this.routeDirect(exchange)
    else this.toCluster(exchange, exchange.cluster)
  }

  // --- response ---

  onResponseHead(exchange: Exchange, headers: HeaderList): void {
    // Whole milliseconds from here on: a fraction would be an object of its own.
    tellServiceTime(headers, Math.floor(this.outbound.parts.nowMs() - exchange.startedAtMs))
    const { route, destination } = exchange
    if (route !== null && route.responseEdits !== null) applyEdits(route.responseEdits, headers)
    if (destination !== null && destination.responseEdits !== null) applyEdits(destination.responseEdits, headers)
  }

  // --- record ---

  record(exchange: Exchange): void {
    exchange.cluster?.releaseRequest()
    const { parts } = this.outbound
    const edges = this.edgesOf(exchange)
    const durationMs = parts.nowMs() - exchange.startedAtMs
    const { status, grpcStatus, flag, receivedBytes, sentBytes } = exchange
    edges.source.exchangeFinished(status, grpcStatus, flag, durationMs, receivedBytes, sentBytes)
    edges.destination?.exchangeFinished(status, grpcStatus, flag, durationMs, receivedBytes, sentBytes)
    if (exchange.grpc !== null) this.countMessages(exchange.grpc, edges)
    if (parts.recorder.isLogging) this.log(exchange, edges.key, durationMs)
  }

  recordMessages(exchange: Exchange): void {
    if (exchange.grpc !== null) this.countMessages(exchange.grpc, this.edgesOf(exchange))
  }

  private countMessages(call: GrpcCall, edges: EdgePair): void {
    const requests = call.requests.take()
    const responses = call.responses.take()
    edges.source.grpcMessages(requests, responses)
    edges.destination?.grpcMessages(requests, responses)
  }

  onViolation(violation: ProtocolViolation, isRefusal: boolean): void {
    const { parts, source, conn, downstreamText: downstream } = this.outbound
    noteViolation(parts, 'downstream', violation, { pod: source.uid, client: downstream })
    if (!isRefusal) return
    const workload = this.dialledWorkload()
    const edges = this.outbound.edgesTo(
      'http',
      workload,
      conn.localPort,
      parts.upstreams.pathTo(workload, true, this.outbound.source),
    )
    noteRefusal(parts, violation, { edge: edges.key, metrics: edges.source, downstream })
  }

  onSessionClosed(error: WeftError | null): void {
    if (error === null) this.outbound.finish(null, FLAG_NONE, '')
    else this.outbound.finish(null, FLAG_DOWNSTREAM_CLOSED, describeError(error))
  }

  private edgesOf(exchange: Exchange): EdgePair {
    const { parts, conn, target } = this.outbound
    const { endpoint } = exchange
    const workload = endpoint === null ? this.dialledWorkload() : endpoint.workload
    const path = parts.upstreams.pathTo(
      workload,
      exchange.cluster === null || exchange.cluster.isMutualTls,
      this.outbound.source,
    )
    const known = exchange.isGrpc ? target.grpcEdges : target.edges
    let edges = known.get(endpoint)
    if (edges === undefined || !isEdgeOf(edges, workload, path)) {
      const protocol = exchange.isGrpc ? 'grpc' : 'http'
      edges = this.outbound.edgesTo(protocol, workload, endpoint?.port ?? conn.localPort, path)
      known.set(endpoint, edges)
    }
    return edges
  }

  private log(exchange: Exchange, edge: EdgeKey, durationMs: number): void {
    const { head, endpoint } = exchange
    this.outbound.parts.recorder.log({
      startedAtMs: exchange.startedAtMs,
      durationMs,
      edge,
      flag: exchange.flag,
      details: exchange.details,
      downstream: this.outbound.downstreamText,
      upstream: endpoint === null ? '' : formatHostPort(endpoint.address, endpoint.port),
      receivedBytes: exchange.receivedBytes,
      sentBytes: exchange.sentBytes,
      http: {
        method: head.method,
        path: head.target,
        authority: head.authority,
        protocol: versionText(head.version),
        status: exchange.status,
        grpcStatus: exchange.grpcStatus,
        route: exchange.route?.name ?? '',
        requestId: head.headers.get('x-request-id') ?? '',
      },
    })
  }
}

/** False when the workload or the way to it has changed since the edge was made. */
function isEdgeOf(edges: EdgePair, workload: Workload | null, path: Path): boolean {
  return (
    edges.key.destination === workload &&
    edges.key.isMutualTls === (path !== PATH_PLAIN) &&
    (edges.destination !== null) === (path === PATH_ONE_HOP)
  )
}
