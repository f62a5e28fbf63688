/** `weft.v1.Traffic` <-> model Traffic: routes and cluster settings of one scope towards one service port. */
import {
  type DirectResponse,
  type Fault,
  type HeaderEdits,
  type HeaderPair,
  type NamedMatch,
  type PathMatch,
  type Redirect,
  type Retry,
  type RetryCondition,
  type Rewrite,
  type Route,
  type RouteMatch,
  type StringMatch,
  type Traffic,
  trafficKey,
  type WeightedCluster,
} from '../model/route.ts'
import {
  BALANCE_LEAST_REQUEST,
  BALANCE_RANDOM,
  BALANCE_ROUND_ROBIN,
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
} from '../model/service.ts'
import { protocolFromNumber } from './address-codec.ts'
import type { Checks } from './checks.ts'
import type {
  ClusterMessage,
  HeaderEditsMessage,
  NamedMatchMessage,
  PathMatchMessage,
  RouteMatchMessage,
  RouteMessage,
  StringMatchMessage,
  TrafficMessage,
  WeightedClusterMessage,
} from './messages.ts'
import { stringMatchFromMessage, stringMatchToMessage } from './policy-codec.ts'

/** Every retry condition of the model; the compiler complains when one is missing. */
const RETRY_CONDITIONS = Object.keys({
  '5xx': true,
  'gateway-error': true,
  reset: true,
  'reset-before-request': true,
  'connect-failure': true,
  'retriable-4xx': true,
  'refused-stream': true,
  cancelled: true,
  'deadline-exceeded': true,
  internal: true,
  'resource-exhausted': true,
  unavailable: true,
} satisfies Record<RetryCondition, true>) as RetryCondition[]

// --- model -> message ---

export function trafficToMessage(traffic: Traffic, checks: Checks): TrafficMessage {
  return {
    scope: traffic.scope,
    service: traffic.service,
    port: checks.port('port', traffic.port),
    protocol: traffic.protocol,
    defaultCluster: traffic.defaultCluster,
    clusters: traffic.clusters.map((cluster) => clusterToMessage(cluster, checks)),
    routes: traffic.routes.map((route, i) => routeToMessage(route, `routes[${i}]`, checks)),
    tcpClusters: traffic.tcpClusters.map((weighted) => weightedToMessage(weighted, 'tcpClusters', checks)),
  }
}

function clusterToMessage(cluster: Cluster, checks: Checks): ClusterMessage {
  const field = `clusters[${cluster.key}]`
  const { limits, outlier } = cluster
  return {
    service: cluster.service,
    subset: cluster.subset,
    port: checks.port(`${field}.port`, cluster.port),
    members: cluster.members === null ? null : { uids: cluster.members },
    balance: cluster.balance,
    limits: {
      connectionsMax: checks.optionalUint32(`${field}.limits.connectionsMax`, limits.connectionsMax),
      connectTimeoutMs: checks.uint32(`${field}.limits.connectTimeoutMs`, limits.connectTimeoutMs),
      pendingRequestsMax: checks.optionalUint32(`${field}.limits.pendingRequestsMax`, limits.pendingRequestsMax),
      requestsMax: checks.optionalUint32(`${field}.limits.requestsMax`, limits.requestsMax),
      requestsPerConnectionMax: checks.optionalUint32(
        `${field}.limits.requestsPerConnectionMax`,
        limits.requestsPerConnectionMax,
      ),
      retriesMax: checks.optionalUint32(`${field}.limits.retriesMax`, limits.retriesMax),
      idleTimeoutMs: checks.uint32(`${field}.limits.idleTimeoutMs`, limits.idleTimeoutMs),
      connectionAgeMsMax: checks.optionalUint32(`${field}.limits.connectionAgeMsMax`, limits.connectionAgeMsMax),
    },
    outlier: outlier && {
      consecutiveServerErrors: checks.uint32(`${field}.outlier.consecutive5xx`, outlier.consecutive5xx),
      consecutiveGatewayErrors: checks.uint32(
        `${field}.outlier.consecutiveGatewayErrors`,
        outlier.consecutiveGatewayErrors,
      ),
      intervalMs: checks.uint32(`${field}.outlier.intervalMs`, outlier.intervalMs),
      baseEjectionMs: checks.uint32(`${field}.outlier.baseEjectionMs`, outlier.baseEjectionMs),
      ejectionPercentMax: checks.uint32(`${field}.outlier.ejectionPercentMax`, outlier.ejectionPercentMax),
      healthPercentMin: checks.uint32(`${field}.outlier.healthPercentMin`, outlier.healthPercentMin),
    },
    isMutualTls: cluster.isMutualTls,
  }
}

function routeToMessage(route: Route, field: string, checks: Checks): RouteMessage {
  const { retry, fault, redirect, rewrite } = route
  return {
    source: route.source,
    name: route.name,
    matches: route.matches.map(matchToMessage),
    clusters: route.clusters.map((weighted) => weightedToMessage(weighted, `${field}.clusters`, checks)),
    redirect,
    directResponse: route.directResponse,
    rewrite,
    requestEdits: route.requestEdits,
    responseEdits: route.responseEdits,
    timeoutMs: checks.uint32(`${field}.timeoutMs`, route.timeoutMs),
    retry: {
      attempts: checks.uint32(`${field}.retry.attempts`, retry.attempts),
      perTryTimeoutMs: checks.optionalUint32(`${field}.retry.perTryTimeoutMs`, retry.perTryTimeoutMs),
      on: retry.on,
      statuses: retry.statuses,
      backoffBaseMs: checks.uint32(`${field}.retry.backoffBaseMs`, retry.backoffBaseMs),
      avoidsPreviousHosts: retry.avoidsPreviousHosts,
    },
    fault: fault && {
      delayMs: checks.uint32(`${field}.fault.delayMs`, fault.delayMs),
      delayPpm: checks.ppm(`${field}.fault.delayPpm`, fault.delayPpm),
      abortStatus: checks.uint32(`${field}.fault.abortStatus`, fault.abortStatus),
      abortGrpcStatus: checks.optionalUint32(`${field}.fault.abortGrpcStatus`, fault.abortGrpcStatus),
      abortPpm: checks.ppm(`${field}.fault.abortPpm`, fault.abortPpm),
    },
    mirrors: route.mirrors.map(({ cluster, ppm }) => ({ cluster, ppm: checks.ppm(`${field}.mirrors.ppm`, ppm) })),
  }
}

function matchToMessage(match: RouteMatch): RouteMatchMessage {
  const named = (list: readonly NamedMatch[]): NamedMatchMessage[] =>
    list.map(({ name, match: value, isNegated }) => ({ name, match: stringMatchToMessage(value), isNegated }))
  return {
    path: match.path && { [match.path.kind]: match.path.value, ignoreCase: match.path.ignoreCase },
    method: match.method && stringMatchToMessage(match.method),
    scheme: match.scheme && stringMatchToMessage(match.scheme),
    authority: match.authority && stringMatchToMessage(match.authority),
    headers: named(match.headers),
    query: named(match.query),
  }
}

function weightedToMessage(weighted: WeightedCluster, field: string, checks: Checks): WeightedClusterMessage {
  return { ...weighted, weight: checks.uint32(`${field}.weight`, weighted.weight) }
}

// --- message -> model ---

export function trafficFromMessage(message: TrafficMessage, checks: Checks): Traffic {
  const scope = checks.required('scope', message.scope)
  const service = checks.required('service', message.service)
  const port = checks.port('port', message.port)
  return {
    key: trafficKey(scope, service, port),
    scope,
    service,
    port,
    protocol: protocolFromNumber('protocol', message.protocol, checks),
    defaultCluster: checks.required('default_cluster', message.defaultCluster),
    clusters: message.clusters.map((cluster, i) => clusterFromMessage(cluster, `clusters[${i}]`, checks)),
    routes: message.routes.map((route, i) => routeFromMessage(route, `routes[${i}]`, checks)),
    tcpClusters: message.tcpClusters.map((weighted, i) => weightedFromMessage(weighted, `tcp_clusters[${i}]`, checks)),
  }
}

function clusterFromMessage(message: ClusterMessage, field: string, checks: Checks): Cluster {
  const service = checks.required(`${field}.service`, message.service)
  const subset = checks.text(`${field}.subset`, message.subset)
  const port = checks.port(`${field}.port`, message.port)
  const { limits, outlier } = message
  const percent = (name: string, value: number) => checks.integer(`${field}.outlier.${name}`, value, 0, 100)
  return {
    key: clusterKey(service, subset, port),
    service,
    subset,
    port,
    members:
      message.members === null ? null : message.members.uids.map((uid) => checks.required(`${field}.members`, uid)),
    balance: checks.oneOf(`${field}.balance`, message.balance, [
      BALANCE_LEAST_REQUEST,
      BALANCE_ROUND_ROBIN,
      BALANCE_RANDOM,
    ]),
    limits:
      limits === null
        ? DEFAULT_POOL_LIMITS
        : {
            connectionsMax: limits.connectionsMax,
            connectTimeoutMs: limits.connectTimeoutMs,
            pendingRequestsMax: limits.pendingRequestsMax,
            requestsMax: limits.requestsMax,
            requestsPerConnectionMax: limits.requestsPerConnectionMax,
            retriesMax: limits.retriesMax,
            idleTimeoutMs: limits.idleTimeoutMs,
            connectionAgeMsMax: limits.connectionAgeMsMax,
          },
    outlier: outlier && {
      consecutive5xx: outlier.consecutiveServerErrors,
      consecutiveGatewayErrors: outlier.consecutiveGatewayErrors,
      intervalMs: outlier.intervalMs,
      baseEjectionMs: outlier.baseEjectionMs,
      ejectionPercentMax: percent('ejection_percent_max', outlier.ejectionPercentMax),
      healthPercentMin: percent('health_percent_min', outlier.healthPercentMin),
    },
    isMutualTls: message.isMutualTls,
  }
}

function routeFromMessage(message: RouteMessage, field: string, checks: Checks): Route {
  return {
    source: checks.text(`${field}.source`, message.source),
    name: checks.text(`${field}.name`, message.name),
    matches: message.matches.map((match, i) => matchFromMessage(match, `${field}.matches[${i}]`, checks)),
    clusters: message.clusters.map((weighted, i) => weightedFromMessage(weighted, `${field}.clusters[${i}]`, checks)),
    redirect: redirectFromMessage(message.redirect, `${field}.redirect`, checks),
    directResponse: directResponseFromMessage(message.directResponse, `${field}.direct_response`, checks),
    rewrite: rewriteFromMessage(message.rewrite, `${field}.rewrite`, checks),
    requestEdits: editsFromMessage(message.requestEdits, `${field}.request_edits`, checks),
    responseEdits: editsFromMessage(message.responseEdits, `${field}.response_edits`, checks),
    timeoutMs: message.timeoutMs,
    retry: retryFromMessage(message.retry, `${field}.retry`, checks),
    fault: faultFromMessage(message.fault, `${field}.fault`, checks),
    mirrors: message.mirrors.map(({ cluster, ppm }, i) => ({
      cluster: checks.required(`${field}.mirrors[${i}].cluster`, cluster),
      ppm: checks.ppm(`${field}.mirrors[${i}].ppm`, ppm),
    })),
  }
}

function matchFromMessage(message: RouteMatchMessage, field: string, checks: Checks): RouteMatch {
  const string = (name: string, match: StringMatchMessage | null): StringMatch | null =>
    match && stringMatchFromMessage(`${field}.${name}`, match, checks)
  const named = (name: string, list: readonly NamedMatchMessage[], isHeader: boolean): NamedMatch[] =>
    list.map((entry, i) => {
      const place = `${field}.${name}[${i}]`
      if (entry.match === null) checks.fail(`${place}.match`, 'is missing')
      return {
        name: isHeader ? checks.headerName(`${place}.name`, entry.name) : checks.required(`${place}.name`, entry.name),
        match: stringMatchFromMessage(`${place}.match`, entry.match, checks),
        isNegated: entry.isNegated,
      }
    })
  return {
    path: message.path && pathFromMessage(message.path, `${field}.path`, checks),
    method: string('method', message.method),
    scheme: string('scheme', message.scheme),
    authority: string('authority', message.authority),
    headers: named('headers', message.headers, true),
    query: named('query', message.query, false),
  }
}

function pathFromMessage(message: PathMatchMessage, field: string, checks: Checks): PathMatch {
  const { kind } = message
  if (kind === undefined) checks.fail(field, 'is a match of a kind that this version does not know')
  return { kind, value: checks.text(field, message[kind] ?? ''), ignoreCase: message.ignoreCase }
}

function weightedFromMessage(message: WeightedClusterMessage, field: string, checks: Checks): WeightedCluster {
  return {
    cluster: checks.required(`${field}.cluster`, message.cluster),
    weight: message.weight,
    requestEdits: editsFromMessage(message.requestEdits, `${field}.request_edits`, checks),
    responseEdits: editsFromMessage(message.responseEdits, `${field}.response_edits`, checks),
    authority: checks.optionalText(`${field}.authority`, message.authority),
  }
}

function editsFromMessage(message: HeaderEditsMessage | null, field: string, checks: Checks): HeaderEdits | null {
  if (message === null) return null
  const pairs = (name: string, list: readonly HeaderPair[]): HeaderPair[] =>
    list.map((pair, i) => ({
      name: checks.headerName(`${field}.${name}[${i}].name`, pair.name),
      value: checks.text(`${field}.${name}[${i}].value`, pair.value),
    }))
  return {
    set: pairs('set', message.set),
    add: pairs('add', message.add),
    remove: message.remove.map((name, i) => checks.headerName(`${field}.remove[${i}]`, name)),
  }
}

function rewriteFromMessage(message: RouteMessage['rewrite'], field: string, checks: Checks): Rewrite | null {
  if (message === null) return null
  const { regex } = message
  return {
    authority: checks.optionalText(`${field}.authority`, message.authority),
    path: checks.optionalText(`${field}.path`, message.path),
    regex: regex && {
      pattern: checks.required(`${field}.regex.pattern`, regex.pattern),
      substitution: checks.text(`${field}.regex.substitution`, regex.substitution),
    },
  }
}

function redirectFromMessage(message: RouteMessage['redirect'], field: string, checks: Checks): Redirect | null {
  if (message === null) return null
  const { scheme, port, derivePort } = message
  return {
    status: checks.integer(`${field}.status`, message.status, 300, 399),
    path: checks.optionalText(`${field}.path`, message.path),
    prefixRewrite: checks.optionalText(`${field}.prefix_rewrite`, message.prefixRewrite),
    authority: checks.optionalText(`${field}.authority`, message.authority),
    scheme: scheme === null ? null : checks.oneOf(`${field}.scheme`, scheme, ['http', 'https']),
    port: port === null ? null : checks.port(`${field}.port`, port),
    derivePort: derivePort === null ? null : checks.oneOf(`${field}.derive_port`, derivePort, ['protocol', 'request']),
  }
}

function directResponseFromMessage(
  message: RouteMessage['directResponse'],
  field: string,
  checks: Checks,
): DirectResponse | null {
  if (message === null) return null
  return { status: checks.status(`${field}.status`, message.status), body: checks.body(`${field}.body`, message.body) }
}

function retryFromMessage(message: RouteMessage['retry'], field: string, checks: Checks): Retry {
  if (message === null) checks.fail(field, 'is missing')
  return {
    attempts: message.attempts,
    perTryTimeoutMs: message.perTryTimeoutMs,
    on: message.on.map((condition, i) => checks.oneOf(`${field}.on[${i}]`, condition, RETRY_CONDITIONS)),
    statuses: message.statuses.map((status, i) => checks.status(`${field}.statuses[${i}]`, status)),
    backoffBaseMs: message.backoffBaseMs,
    avoidsPreviousHosts: message.avoidsPreviousHosts,
  }
}

function faultFromMessage(message: RouteMessage['fault'], field: string, checks: Checks): Fault | null {
  if (message === null) return null
  const { abortStatus } = message
  return {
    delayMs: message.delayMs,
    delayPpm: checks.ppm(`${field}.delay_ppm`, message.delayPpm),
    abortStatus: abortStatus === 0 ? 0 : checks.status(`${field}.abort_status`, abortStatus),
    abortGrpcStatus: message.abortGrpcStatus,
    abortPpm: checks.ppm(`${field}.abort_ppm`, message.abortPpm),
  }
}
