/**
 * The data path of one worker: listeners of the captured pods, the newest snapshot, and everything that lives as long
 * as the worker. The agent's worker thread makes one, feeds it deltas, pods and credentials, and drains it.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, type WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { TICK_FINE_MS, TimerWheel } from '../base/timers.ts'
import type { Delta } from '../model/delta.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { Recorder } from '../telemetry/recorder.ts'
import type {
  Acceptor,
  Conn,
  Handler,
  ListenerHandle,
  ListenTarget,
  TlsContext,
  TlsContextSource,
  Transport,
} from '../transport/conn.ts'
import { type CarriedChange, CarriedEndpoints } from './carried-endpoints.ts'
import { ClusterRegistry } from './cluster-registry.ts'
import { type ConnectionDescription, Connections } from './connections.ts'
import { TunnelServer } from './hbone-server.ts'
import { DRAIN_IDLE_MS } from './http-session.ts'
import { type Admission, InboundConnection } from './inbound.ts'
import { InboundTunnels } from './inbound-tunnels.ts'
import { LocalPods, type LocalWorkload } from './local-pods.ts'
import { OutboundConnection } from './outbound.ts'
import { isMeshResolver, type NameServer, OutboundDns, PORT_DOMAIN } from './outbound-dns.ts'
import { OutboundTargets } from './outbound-targets.ts'
import type { Credentials, PodSockets, ProxyParts } from './parts.ts'
import { Policies } from './policies.ts'
import { RouteTables } from './route-tables.ts'
import { ServerFirstPorts } from './server-first.ts'
import { Upstreams } from './upstreams.ts'

export const LISTEN_OUTBOUND = 0
export const LISTEN_INBOUND = 1
export const LISTEN_HBONE = 2
/** What a listener is for. */
export type ListenRole = typeof LISTEN_OUTBOUND | typeof LISTEN_INBOUND | typeof LISTEN_HBONE

/** Where to listen for a pod, and for what. */
export interface PodListener {
  readonly role: ListenRole
  readonly target: ListenTarget
}

/** What a proxy is made of; see `ProxyParts`. */
export interface ProxyOptions {
  readonly node: string
  readonly trustDomain: string
  readonly transport: Transport
  readonly recorder: Recorder
  readonly log: Logger
  readonly sockets: PodSockets
  readonly nameServer?: NameServer
  readonly nowMs: () => number
  readonly random: () => number
  /** Workers of this node, which share users' limits; 1 unless given. */
  readonly workerCount?: number
}

/** Byte counters of live connections go to telemetry this often. Five seconds, as Istio's proxies do. */
export const METRICS_FLUSH_MS = 5000

/** The data path of one worker, from outside: pods, credentials and configuration go in, connections are served. */
export class MeshProxy {
  private readonly parts: ProxyParts
  private readonly credentials = new CredentialStore()
  private readonly podListeners = new Map<string, ListenerHandle[]>()
  private readonly tunnelServers = new Map<string, Set<TunnelServer>>()
  /** Listeners that several pods share (loopback capture), by address and port. */
  private readonly shared = new Map<string, SharedListener>()

  constructor(options: ProxyOptions) {
    const upstreams = new Upstreams()
    this.parts = {
      ...options,
      credentials: this.credentials,
      clusters: new ClusterRegistry(options.nowMs, options.random, options.workerCount),
      carried: new CarriedEndpoints(options.random),
      routeTables: new RouteTables(),
      targets: new OutboundTargets(),
      policies: new Policies(),
      pods: new LocalPods(),
      upstreams,
      connections: new Connections(),
      serverFirst: new ServerFirstPorts(),
      timers: new TimerWheel(),
      deadlines: new TimerWheel(TICK_FINE_MS),
      snapshot: Snapshot.empty,
      isDraining: false,
      drainIdleMs: DRAIN_IDLE_MS,
    }
    upstreams.bind(this.parts)
  }

  get snapshot(): Snapshot {
    return this.parts.snapshot
  }

  /** Puts a delta in force; live connections that would not be let in any more are closed. */
  applyDelta(delta: Delta): void {
    this.parts.snapshot = this.parts.snapshot.apply(delta)
    const touchesPolicy =
      delta.policies.length + delta.removedPolicies.length + delta.workloads.length + delta.removedWorkloads.length > 0
    if (touchesPolicy) this.parts.connections.recheckAll()
  }

  /** The kernel carries connections to other endpoints than before. */
  setCarried(changes: readonly CarriedChange[]): void {
    this.parts.carried.change(changes)
  }

  /** A credential was issued or renewed; handshakes from now on use it. */
  setCredential(context: TlsContext): void {
    this.credentials.set(context)
    this.parts.upstreams.rotate(context.identity)
  }

  /** New handshakes as `identity` are refused; what is open goes on. */
  dropCredential(identity: string): void {
    this.credentials.delete(identity)
  }

  /** Listens for a pod; may be called again with more listeners. Rejects when one cannot be had; then none stays open. */
  async addPod(pod: LocalWorkload, listeners: readonly PodListener[]): Promise<void> {
    this.parts.pods.add(pod)
    const handles = this.podListeners.get(pod.uid) ?? []
    this.podListeners.set(pod.uid, handles)
    try {
      for (const listener of listeners) handles.push(await this.listen(pod, listener))
    } catch (error) {
      this.removePod(pod.uid)
      throw error
    }
  }

  /**
   * Stops listening for a pod and lets go of what is pooled for it. Its open connections live on; those with HTTP end
   * after the exchange in flight, because the next one would need a new connection to an app that is no longer ours.
   */
  removePod(uid: string): void {
    for (const handle of this.podListeners.get(uid) ?? []) handle.close()
    this.podListeners.delete(uid)
    this.parts.pods.remove(uid)
    this.parts.upstreams.removePod(uid)
    this.parts.connections.drainPod(uid)
    for (const server of this.tunnelServers.get(uid) ?? []) server.drain()
    this.tunnelServers.delete(uid)
  }

  /** Accepts nothing new and ends HTTP connections after the exchange in flight. */
  drain(): void {
    this.retire(DRAIN_IDLE_MS)
    this.closeListeners()
  }

  /**
   * Ends HTTP connections after the exchange in flight, or after the next one if it comes within `idleMs`, and tunnel
   * connections after their last tunnel. Those that are still in the queues of listeners are served like that as well.
   */
  retire(idleMs: number): void {
    this.parts.isDraining = true
    this.parts.drainIdleMs = idleMs
    this.drainTunnelServers()
    this.parts.connections.drainAll()
  }

  /** Accepts nothing more. To be called when nothing more comes: what is in the queue of a closed listener is reset. */
  closeListeners(): void {
    for (const handles of this.podListeners.values()) for (const handle of handles) handle.close()
    this.drainTunnelServers()
  }

  /**
   * True when a proxy that was told to retire carries nothing any more. Tunnel connections that we dialled end when
   * nothing uses them: the peer is told.
   */
  endIfIdle(): boolean {
    if (this.connectionCount > 0) return false
    this.parts.upstreams.close()
    for (const servers of this.tunnelServers.values()) if (servers.size > 0) return false
    return true
  }

  /** Resets what is left. */
  close(): void {
    this.drain()
    this.parts.connections.abortAll()
    this.parts.upstreams.close()
    this.parts.timers.stop()
    this.parts.deadlines.stop()
  }

  /** Called every METRICS_FLUSH_MS. */
  flushMetrics(): void {
    this.parts.connections.flushMetrics(this.parts.nowMs())
  }

  /** Called every minute: lets go of pools and clusters that nothing uses. */
  sweep(): void {
    this.parts.upstreams.sweep()
    this.parts.clusters.sweep(this.parts.snapshot)
  }

  get connectionCount(): number {
    return this.parts.connections.size
  }

  get connectionsByPod(): ReadonlyMap<string, number> {
    return this.parts.connections.byPod
  }

  describeConnections(limit: number): ConnectionDescription[] {
    return this.parts.connections.describe(limit)
  }

  private listen(pod: LocalWorkload, { role, target }: PodListener): Promise<ListenerHandle> {
    const { parts } = this
    if (role === LISTEN_OUTBOUND) {
      if ('address' in target) return this.share(target)
      return parts.transport.listen(target, null, new OutboundAcceptor(parts, pod))
    }
    if (role === LISTEN_INBOUND) return parts.transport.listen(target, null, new PlaintextAcceptor(parts, pod))
    const source = new PodCredential(this.credentials, pod.identity)
    return parts.transport.listen(target, source, new TunnelConnAcceptor(parts, pod, this.serversOf(pod.uid)))
  }

  /** A listener on an address that all pods of the node dial; the last one closes it. */
  private async share(
    target: ListenTarget & { readonly address: string; readonly port: number },
  ): Promise<ListenerHandle> {
    const key = formatHostPort(target.address, target.port)
    let shared = this.shared.get(key)
    if (shared === undefined) {
      const opened = this.parts.transport.listen(target, null, new SharedOutboundAcceptor(this.parts))
      shared = { opened, userCount: 0 }
      this.shared.set(key, shared)
    }
    shared.userCount++
    const use = shared
    const handle = await shared.opened
    return {
      port: handle.port,
      address: handle.address,
      close: () => {
        use.userCount--
        if (use.userCount > 0) return
        handle.close()
        if (this.shared.get(key) === use) this.shared.delete(key)
      },
    }
  }

  private drainTunnelServers(): void {
    for (const servers of this.tunnelServers.values()) for (const server of servers) server.drain()
  }

  private serversOf(uid: string): Set<TunnelServer> {
    let servers = this.tunnelServers.get(uid)
    if (servers === undefined) {
      servers = new Set()
      this.tunnelServers.set(uid, servers)
    }
    return servers
  }
}

interface SharedListener {
  readonly opened: Promise<ListenerHandle>
  userCount: number
}

// --- credentials ---

class CredentialStore implements Credentials {
  private readonly byIdentity = new Map<string, TlsContext>()

  contextOf(identity: string): TlsContext | null {
    return this.byIdentity.get(identity) ?? null
  }

  set(context: TlsContext): void {
    this.byIdentity.set(context.identity, context)
  }

  delete(identity: string): void {
    this.byIdentity.delete(identity)
  }
}

class PodCredential implements TlsContextSource {
  private readonly credentials: Credentials
  private readonly identity: string

  constructor(credentials: Credentials, identity: string) {
    this.credentials = credentials
    this.identity = identity
  }

  current(): TlsContext | null {
    return this.credentials.contextOf(this.identity)
  }
}

// --- acceptors: step 1 of both paths ---

class OutboundAcceptor implements Acceptor {
  private readonly parts: ProxyParts
  private readonly pod: LocalWorkload

  constructor(parts: ProxyParts, pod: LocalWorkload) {
    this.parts = parts
    this.pod = pod
  }

  onAccept(conn: Conn): Handler {
    const nameServer = conn.localPort === PORT_DOMAIN ? this.nameServerFor(conn.localAddress) : null
    if (nameServer !== null) return new OutboundDns(this.parts, nameServer, this.pod, conn)
    return new OutboundConnection(this.parts, this.pod, conn)
  }

  /** Who answers what is asked at `address`; null when the connection is to go there. */
  private nameServerFor(address: string): NameServer | null {
    const { nameServer, snapshot } = this.parts
    if (nameServer === undefined || !nameServer.answersFor(this.pod.uid)) return null
    return isMeshResolver(snapshot, address) ? null : nameServer
  }

  onAcceptError(error: WeftError, remoteAddress: string): void {
    logAcceptError(this.parts, this.pod, error, remoteAddress)
  }
}

/** Loopback capture only: the source is whoever has the address that the client dialled from. */
class SharedOutboundAcceptor implements Acceptor {
  private readonly parts: ProxyParts

  constructor(parts: ProxyParts) {
    this.parts = parts
  }

  onAccept(conn: Conn): Handler {
    const workload = this.parts.snapshot.workloadByAddress(conn.remoteAddress)
    const pod = workload === null ? null : this.parts.pods.get(workload.uid)
    return pod === null ? REFUSE : new OutboundConnection(this.parts, pod, conn)
  }

  onAcceptError(error: WeftError, remoteAddress: string): void {
    this.parts.log.warn('connection not accepted', { peer: remoteAddress, error: describeError(error) })
  }
}

/** A client that is no pod of this node. */
const REFUSE: Handler = {
  onOpen: (conn) => conn.abort(),
  onBytes: () => {},
  onEnd: () => {},
  onDrain: () => {},
  onClose: () => {},
}

/** Plaintext that arrives at a pod: judged like everything else, with no identity. */
class PlaintextAcceptor implements Acceptor {
  private readonly parts: ProxyParts
  private readonly pod: LocalWorkload

  constructor(parts: ProxyParts, pod: LocalWorkload) {
    this.parts = parts
    this.pod = pod
  }

  onAccept(conn: Conn): Handler {
    return new PlaintextArrival(this.parts, this.pod, conn)
  }

  onAcceptError(error: WeftError, remoteAddress: string): void {
    logAcceptError(this.parts, this.pod, error, remoteAddress)
  }
}

class PlaintextArrival implements Handler, Admission {
  private readonly parts: ProxyParts
  private readonly pod: LocalWorkload
  private readonly conn: Conn
  private inbound: InboundConnection | null
  private isAdmitted: boolean

  constructor(parts: ProxyParts, pod: LocalWorkload, conn: Conn) {
    this.parts = parts
    this.pod = pod
    this.conn = conn
    this.inbound = null
    this.isAdmitted = false
    // Nothing is read before the policies have spoken and the app is connected.
    conn.pauseReading()
  }

  onOpen(conn: Conn): void {
    const workload = this.parts.snapshot.workloads.get(this.pod.uid)
    if (workload === undefined) {
      conn.abort()
      return
    }
    const arrival = {
      peerIdentity: null,
      remoteAddress: conn.remoteAddress,
      remotePort: conn.remotePort,
      address: conn.localAddress,
      port: conn.localPort,
      host: '',
    }
    this.inbound = new InboundConnection(this.parts, this.pod, workload, arrival, this)
    this.inbound.start()
  }

  admit(): Conn | null {
    if (this.conn.isClosed) return null
    this.isAdmitted = true
    this.conn.resumeReading()
    return this.conn
  }

  refuse(): void {
    this.conn.abort()
  }

  onBytes(): void {}
  onEnd(): void {}
  onDrain(): void {}

  onClose(): void {
    if (!this.isAdmitted) this.inbound?.onHolderClosed()
  }
}

/** mTLS connections to port 15008 of a pod. */
class TunnelConnAcceptor implements Acceptor {
  private readonly parts: ProxyParts
  private readonly pod: LocalWorkload
  private readonly servers: Set<TunnelServer>
  private readonly tunnels: InboundTunnels

  constructor(parts: ProxyParts, pod: LocalWorkload, servers: Set<TunnelServer>) {
    this.parts = parts
    this.pod = pod
    this.servers = servers
    this.tunnels = new InboundTunnels(parts, pod)
  }

  onAccept(conn: Conn): Handler {
    const server = new TunnelServer(conn, this.parts, this.tunnels, this.servers)
    this.servers.add(server)
    return server
  }

  onAcceptError(error: WeftError, remoteAddress: string): void {
    logAcceptError(this.parts, this.pod, error, remoteAddress)
  }
}

function logAcceptError(parts: ProxyParts, pod: LocalWorkload, error: WeftError, remoteAddress: string): void {
  parts.log.warn('connection not accepted', { pod: pod.uid, peer: remoteAddress, error: describeError(error) })
}
