/**
 * What the data path of one worker is made of, handed to every connection as one object. Interfaces are narrow on
 * purpose: the proxy can use a credential but never read its key, and open sockets in pods but not enrol them.
 */
import type { Logger } from '../base/log.ts'
import type { TimerWheel } from '../base/timers.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Recorder } from '../telemetry/recorder.ts'
import type { ConnectOrigin, TlsContext, Transport } from '../transport/conn.ts'
import type { CarriedEndpoints } from './carried-endpoints.ts'
import type { ClusterRegistry } from './cluster-registry.ts'
import type { Connections } from './connections.ts'
import type { LocalPods } from './local-pods.ts'
import type { NameServer } from './outbound-dns.ts'
import type { OutboundTargets } from './outbound-targets.ts'
import type { Policies } from './policies.ts'
import type { RouteTables } from './route-tables.ts'
import type { ServerFirstPorts } from './server-first.ts'
import type { Upstreams } from './upstreams.ts'

/** Opens sockets that start inside a pod of this node. Implemented by the agent on top of the capture. */
export interface PodSockets {
  /** Where a connection that leaves from inside pod `uid` starts. Throws WeftError WEFT_SYSCALL naming the pod. */
  originIn(uid: string, address: string): ConnectOrigin
  /** Address at which the pod's app listens; its own address unless the capture says otherwise. */
  appAddress(uid: string, podAddress: string): string
}

/** TLS contexts by identity; rotation replaces them. */
export interface Credentials {
  /** Null while no certificate has been issued yet. */
  contextOf(identity: string): TlsContext | null
}

/** The parts of one worker's proxy. One object for all connections; only the last two fields change. */
export interface ProxyParts {
  readonly node: string
  readonly trustDomain: string
  readonly transport: Transport
  readonly recorder: Recorder
  readonly log: Logger
  readonly sockets: PodSockets
  /** Who answers DNS over TCP; left out where no pod's DNS is captured. */
  readonly nameServer?: NameServer
  readonly credentials: Credentials
  readonly clusters: ClusterRegistry
  readonly carried: CarriedEndpoints
  readonly routeTables: RouteTables
  readonly targets: OutboundTargets
  readonly policies: Policies
  readonly pods: LocalPods
  readonly upstreams: Upstreams
  readonly connections: Connections
  readonly serverFirst: ServerFirstPorts
  /** Coarse wheel: idle times, keepalives. */
  readonly timers: TimerWheel
  /** Fine wheel: deadlines of requests, detection. */
  readonly deadlines: TimerWheel
  /** Milliseconds of a monotonic clock. */
  readonly nowMs: () => number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** The newest snapshot. A TCP connection keeps the one it began with; an HTTP exchange takes the newest. */
  snapshot: Snapshot
  /** Set once by a drain: HTTP connections end after the exchange in flight, or the next one. */
  isDraining: boolean
  /** How long an idle HTTP connection of a proxy that drains waits for that. */
  drainIdleMs: number
}
