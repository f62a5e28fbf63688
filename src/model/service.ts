/** Services and the settings of the clusters behind them. */

export const PROTOCOL_DETECT = 0
export const PROTOCOL_TCP = 1
export const PROTOCOL_HTTP1 = 2
export const PROTOCOL_HTTP2 = 3
export const PROTOCOL_GRPC = 4
/** TLS of the application's own: opaque to the mesh. */
export const PROTOCOL_TLS = 5
export const PROTOCOL_UDP = 6
export type Protocol =
  | typeof PROTOCOL_DETECT
  | typeof PROTOCOL_TCP
  | typeof PROTOCOL_HTTP1
  | typeof PROTOCOL_HTTP2
  | typeof PROTOCOL_GRPC
  | typeof PROTOCOL_TLS
  | typeof PROTOCOL_UDP

export interface ServicePort {
  readonly number: number
  /** Default target port; a workload's own mapping wins. 0 where only that says (a named port). */
  readonly targetPort: number
  readonly name: string
  readonly protocol: Protocol
}

export interface Service {
  /** `namespace/hostname`; built by `serviceKey`. */
  readonly key: string
  readonly name: string
  readonly namespace: string
  readonly hostname: string
  /** Canonical virtual IPs; empty for a headless service. */
  readonly addresses: readonly string[]
  readonly ports: readonly ServicePort[]
  /** Namespaces whose pods may look the name up; absent for all of them. */
  readonly exportTo?: readonly string[]
  /** Its name stands for the addresses of its endpoints. False when left out. */
  readonly isHeadless?: boolean
  /** The host that its name stands for (ExternalName). It then has neither addresses nor endpoints. */
  readonly alias?: string
  /** A client stays with its endpoint for so long after it last used it. Left out: it does not. */
  readonly affinityMs?: number
  /** Clients go to endpoints of their own node, or nowhere (internalTrafficPolicy). False when left out. */
  readonly isNodeLocal?: boolean
  /** Endpoints take connections whatever their own health. False when left out. */
  readonly isPublishingUnready?: boolean
}

export function serviceKey(namespace: string, hostname: string): string {
  return `${namespace}/${hostname}`
}

export const BALANCE_LEAST_REQUEST = 0
export const BALANCE_ROUND_ROBIN = 1
export const BALANCE_RANDOM = 2
export type Balance = typeof BALANCE_LEAST_REQUEST | typeof BALANCE_ROUND_ROBIN | typeof BALANCE_RANDOM

/** Limits towards one cluster (DestinationRule connectionPool). `null` means no limit of the user's. */
export interface PoolLimits {
  readonly connectionsMax: number | null
  readonly connectTimeoutMs: number
  readonly pendingRequestsMax: number | null
  readonly requestsMax: number | null
  readonly requestsPerConnectionMax: number | null
  readonly retriesMax: number | null
  /** Idle upstream connections are closed after this time; 0 never. */
  readonly idleTimeoutMs: number
  /** Upstream connections take nothing new after this time, and close when what they carry is over. */
  readonly connectionAgeMsMax: number | null
}

export interface OutlierDetection {
  /** Consecutive 5xx (connect failures count) that eject; 0 switches this trigger off. */
  readonly consecutive5xx: number
  /** Consecutive 502/503/504 (connect failures count) that eject; 0 switches this trigger off. */
  readonly consecutiveGatewayErrors: number
  readonly intervalMs: number
  readonly baseEjectionMs: number
  readonly ejectionPercentMax: number
  readonly healthPercentMin: number
}

/** Defaults: DestinationRule reference, `connectionPool`. */
export const DEFAULT_POOL_LIMITS: PoolLimits = {
  connectionsMax: null,
  connectTimeoutMs: 10_000,
  pendingRequestsMax: null,
  requestsMax: null,
  requestsPerConnectionMax: null,
  retriesMax: null,
  idleTimeoutMs: 3_600_000,
  connectionAgeMsMax: null,
}

/** What a client does towards one service, subset and port: where to, and how. */
export interface Cluster {
  /** `<service key>|<subset, may be empty>|<service port>`; built by `clusterKey`. */
  readonly key: string
  readonly service: string
  readonly subset: string
  readonly port: number
  /** Uids of the workloads in the subset; null means every endpoint of the service. */
  readonly members: readonly string[] | null
  readonly balance: Balance
  readonly limits: PoolLimits
  readonly outlier: OutlierDetection | null
  /** False sends plaintext even to enrolled workloads (DestinationRule tls.mode DISABLE). */
  readonly isMutualTls: boolean
}

export function clusterKey(service: string, subset: string, port: number): string {
  return `${service}|${subset}|${port}`
}
