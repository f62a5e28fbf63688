/** One pod (or VM), as every agent knows it. Mirrors `istio.workload.Workload`; addresses are canonical text. */

export const TUNNEL_NONE = 0
export const TUNNEL_HBONE = 1
/** How a workload can be reached. */
export type TunnelProtocol = typeof TUNNEL_NONE | typeof TUNNEL_HBONE

/** What made the pod, as metrics name it. */
export type WorkloadType = 'deployment' | 'cronjob' | 'pod' | 'job'

export interface Locality {
  readonly region: string
  readonly zone: string
  readonly subzone: string
}

/** Takes connections as long as the workload is healthy. */
export const ENDPOINT_READY = 0
/** Is being deleted and still serves: takes connections only where no other endpoint does. */
export const ENDPOINT_DRAINING = 1
/** Takes none. */
export const ENDPOINT_UNREADY = 2
/** Whether an endpoint of a service takes connections. */
export type Readiness = typeof ENDPOINT_READY | typeof ENDPOINT_DRAINING | typeof ENDPOINT_UNREADY

/** A service that a workload is an endpoint of. */
export interface WorkloadService {
  /** Key of the service: `namespace/hostname`. */
  readonly service: string
  readonly ports: readonly PortMapping[]
  /** ENDPOINT_READY when left out. */
  readonly readiness?: Readiness
  /** The endpoint's name below the service's (`db-0`): asked for by `db-0.db.shop.svc.cluster.local`. Left out: none. */
  readonly hostname?: string
  /** Zones, and nodes, whose clients should be served by this endpoint. Left out: nothing was said. */
  readonly zones?: readonly string[]
  readonly nodes?: readonly string[]
}

export interface PortMapping {
  readonly servicePort: number
  readonly targetPort: number
}

/** A pod as the mesh knows it, of any node. */
export interface Workload {
  /** `<cluster>//Pod/<namespace>/<name>` for pods. */
  readonly uid: string
  readonly name: string
  readonly namespace: string
  /** Canonical addresses, the preferred one first; none for a pod that is scheduled and whose network is not made yet. */
  readonly addresses: readonly string[]
  /** A name that stands for the addresses, which are then empty: agents look it up (agent/named-endpoints.ts). */
  readonly hostname?: string
  readonly node: string
  readonly trustDomain: string
  readonly serviceAccount: string
  /** HBONE when the workload is enrolled in the mesh. */
  readonly tunnelProtocol: TunnelProtocol
  readonly isHealthy: boolean
  readonly services: readonly WorkloadService[]
  /** Keys (`namespace/name`) of the policies that select this workload; namespace and global ones are not listed. */
  readonly policies: readonly string[]
  readonly clusterId: string
  readonly locality: Locality
  /** For telemetry: the owner (a Deployment, say), and the canonical service and revision. */
  readonly workloadName: string
  readonly workloadType: WorkloadType
  readonly canonicalName: string
  readonly canonicalRevision: string
  /** Relative weight among the endpoints of a service; 1 unless set. */
  readonly capacity: number
}

/** Open where the mesh permits plaintext to the pod, else closed. */
export const FAILURE_BY_POLICY = 0
/** The pod's connections are let by. */
export const FAILURE_OPEN = 1
/** They are refused at once. */
export const FAILURE_CLOSED = 2
/** What becomes of a pod's connections, in both directions, while its node's agent does not serve. */
export type FailureMode = typeof FAILURE_BY_POLICY | typeof FAILURE_OPEN | typeof FAILURE_CLOSED

/**
 * What only the agent of the pod's node is told: where the pod is, and which rules its own traffic follows.
 */
export interface LocalPod {
  readonly uid: string
  /** Path of the pod's network namespace; `loopback:<address of the app>` in loopback capture. */
  readonly netns: string
  /** Scope whose traffic rules this pod's connections follow. */
  readonly scope: string
  readonly failureMode: FailureMode
  /** True when its questions to DNS resolvers are none of the mesh's business. False when left out. */
  readonly isDnsExempt?: boolean
  /** Connections to it are encrypted, also from pods of its own node. False when left out. */
  readonly mustEncrypt?: boolean
  /**
   * Uid that the API server gave the pod: another pod of the same name (a StatefulSet's) has another one. Left out where
   * nobody gave any.
   */
  readonly podUid?: string
  /** Ports to which the node's kubelet connects by itself, to see how the pod is. Left out when there are none. */
  readonly probePorts?: readonly number[]
}
