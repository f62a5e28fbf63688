// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 5a of the outbound path: bytes. Pick an endpoint, judge a one-hop destination's policies, connect, copy.
 *
 * Nothing is read from the client until the upstream is there. A client whose upstream cannot be had sees a reset,
 * never a clean end that looks like an empty answer.
 */
import { formatHostPort } from '../base/address.ts'
import {
  describeError,
  FLAG_DENIED,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_NO_HEALTHY_UPSTREAM,
  FLAG_NONE,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  FLAG_UPSTREAM_OVERFLOW,
  type Flag,
  type WeftError,
} from '../base/errors.ts'
import { DEFAULT_POOL_LIMITS } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ConnectionFacts } from './authorize.ts'
import type { CarriedPort } from './carried-endpoints.ts'
import type { ClusterState, Endpoint } from './cluster.ts'
import { BackingOffError } from './connect-backoff.ts'
import { Relay, type RelayOwner } from './copy.ts'
import { TunnelError } from './hbone.ts'
import { identityOf } from './local-pods.ts'
import type { EdgePair, OutboundConnection } from './outbound.ts'
import { denialText } from './reply.ts'
import type { CompiledTraffic } from './route-tables.ts'
import { chooseTcpCluster } from './tcp-choice.ts'
import { PATH_ONE_HOP, PATH_PLAIN, PATH_TUNNEL, type Path } from './upstreams.ts'

/** Endpoints tried for one TCP connection. A refused endpoint costs one round trip; three cover a rolling restart. */
const CONNECT_TRIES_MAX = 3

/** Idle time after which a relayed connection is reset where no cluster says another. One hour, as Istio's default. */
export const RELAY_IDLE_MS = 3_600_000

/** One outbound connection that is relayed as bytes. */
export class OutboundRelay implements Handler, RelayOwner {
  private readonly outbound: OutboundConnection
  private held: Uint8Array
  private hasEnded: boolean
  private relay: Relay | null
  private upstream: Conn | null
  /** Null when all connections to what was dialled come to the proxy. */
  private readonly carried: CarriedPort | null
  private cluster: ClusterState | null
  private isConnectionAcquired: boolean
  private endpoint: Endpoint | null
  private tried: Endpoint[] | null
  private hasRepeated: boolean
  private target: Workload | null
  private path: Path
  private facts: ConnectionFacts | null
  private edges: EdgePair | null
  private flushedReceived: number
  private flushedSent: number
  private isFinished: boolean

  /** `held` are bytes that detection has read already; they are kept. */
  constructor(outbound: OutboundConnection, held: Uint8Array, hasEnded: boolean) {
    this.outbound = outbound
    this.held = held
    this.hasEnded = hasEnded
    this.relay = null
    this.upstream = null
    this.carried = outbound.parts.carried.of(outbound.target.carriedKey)
    this.cluster = null
    this.isConnectionAcquired = false
    this.endpoint = null
    this.tried = null
    this.hasRepeated = false
    this.target = null
    this.path = PATH_PLAIN
    this.facts = null
    this.edges = null
    this.flushedReceived = 0
    this.flushedSent = 0
    this.isFinished = false
    outbound.conn.handler = this
    outbound.conn.pauseReading()
    if (outbound.destination.port === null) this.connectDirect()
    else this.connectEndpoint()
  }

  get receivedBytes(): number {
    return this.relay?.receivedBytes ?? 0
  }

  get sentBytes(): number {
    return this.relay?.sentBytes ?? 0
  }

  get upstreamText(): string {
    if (this.upstream === null) return ''
    const via = this.path === PATH_TUNNEL ? 'hbone ' : ''
    return via + formatHostPort(this.upstream.remoteAddress, this.upstream.remotePort)
  }

  get peerText(): string {
    return this.target === null ? '' : identityOf(this.target)
  }

  // --- where to ---

  /** A workload's own address, or one that the mesh does not know: as dialled. */
  private connectDirect(): void {
    const { conn, destination } = this.outbound
    const timeoutMs = DEFAULT_POOL_LIMITS.connectTimeoutMs
    this.connect(destination.workload, conn.localAddress, conn.localPort, true, timeoutMs, '')
  }

  private connectEndpoint(): void {
    const { parts, snapshot, destination } = this.outbound
    const name = `${destination.service!.hostname}:${destination.port!.number}`
    if (this.cluster === null) {
      const traffic = this.outbound.trafficOf(snapshot)
      this.cluster = this.chooseCluster(traffic === null ? null : parts.routeTables.of(traffic))
    }
    const cluster = this.cluster
    if (cluster === null) {
      this.refuse(FLAG_NO_HEALTHY_UPSTREAM, `no such subset or service behind ${name}`)
      return
    }
    const { tried } = this
    const { uid } = this.outbound.source
    const endpoint = this.carried === null ? cluster.pick(tried, uid) : this.carried.pick(cluster, tried, uid)
    if (endpoint === null) {
      this.refuse(FLAG_NO_HEALTHY_UPSTREAM, `${name} has no healthy endpoint`)
      return
    }
    if (!this.isConnectionAcquired && !cluster.tryAcquireConnection()) {
      this.refuse(FLAG_UPSTREAM_OVERFLOW, `the connection limit of ${cluster.key} is reached`)
      return
    }
    this.isConnectionAcquired = true
    this.endpoint = endpoint
    this.connectTo(cluster, endpoint)
  }

  private connectTo(cluster: ClusterState, endpoint: Endpoint): void {
    const timeoutMs = cluster.limits.connectTimeoutMs
    const { workload, address, port } = endpoint
    const { hostname } = this.outbound.destination.service!
    this.connect(workload, address, port, cluster.isMutualTls, timeoutMs, hostname)
  }

  private chooseCluster(compiled: CompiledTraffic | null): ClusterState | null {
    const { parts, snapshot, destination } = this.outbound
    if (compiled === null) {
      const cluster = parts.clusters.defaultCluster(destination.service!, destination.port!.number)
      return parts.clusters.get(cluster, snapshot)
    }
    return chooseTcpCluster(compiled, this.carried, parts.clusters, snapshot, parts.random)
  }

  // --- authorise and connect ---

  private connect(
    workload: Workload | null,
    address: string,
    port: number,
    isMutualTls: boolean,
    connectTimeoutMs: number,
    host: string,
  ): void {
    const { parts, snapshot, source } = this.outbound
    this.target = workload
    this.path = parts.upstreams.pathTo(workload, isMutualTls, source)
    if (this.edges === null) {
      this.edges = this.outbound.edgesTo('tcp', workload, port, this.path)
      this.edges.source.connectionOpened()
      this.edges.destination?.connectionOpened()
    }
    if (this.path === PATH_ONE_HOP && workload !== null) {
      this.facts = this.outbound.factsFor(address, port)
      const decision = parts.policies.authorizerOf(snapshot, workload).authorizeConnection(this.facts)
      if (!decision.isAllowed) {
        this.refuse(FLAG_DENIED, denialText(decision))
        return
      }
    }
    const forwardedFor = this.outbound.downstreamText
    const target = { address, port, workload, path: this.path, connectTimeoutMs, host, forwardedFor }
    this.upstream = parts.upstreams.connect(source, target, new UpstreamWatch(this))
  }

  /** @internal */
  onUpstreamOpen(upstream: Conn): void {
    const { conn, parts } = this.outbound
    if (conn.isClosed) {
      upstream.abort()
      return
    }
    this.endpoint?.onSuccess(parts.nowMs())
    this.endpoint?.onRequestStart()
    const relay = new Relay(conn, upstream, this)
    this.relay = relay
    conn.setIdleTimeout(this.cluster === null ? RELAY_IDLE_MS : this.cluster.limits.idleTimeoutMs)
    if (this.held.length > 0) relay.onBytes(conn, this.held, 0, this.held.length)
    this.held = EMPTY
    if (this.hasEnded) relay.onEnd(conn)
    conn.resumeReading()
  }

  /** @internal */
  onUpstreamFailed(error: WeftError | null): void {
    if (this.isFinished) return
    const endpoint = this.endpoint
    this.upstream = null
    if (endpoint !== null && this.cluster !== null) {
      // A proxy that is going away has not looked at it: another connection is as good as the first. Once.
      if (error instanceof TunnelError && error.isUnprocessed && !this.hasRepeated) {
        this.hasRepeated = true
        this.connectTo(this.cluster, endpoint)
        return
      }
      if (!(error instanceof BackingOffError)) endpoint.onFailure(true, this.outbound.parts.nowMs())
      this.endpoint = null
      if (this.tried === null) this.tried = [endpoint]
      else this.tried.push(endpoint)
      if (this.tried.length < CONNECT_TRIES_MAX && this.tried.length < this.cluster.endpointCount) {
        this.connectEndpoint()
        return
      }
    }
    this.refuse(FLAG_UPSTREAM_CONNECT, error === null ? 'closed while connecting' : describeError(error))
  }

  private refuse(flag: Flag, reason: string): void {
    this.outbound.parts.log.debug('outbound connection refused', { reason, pod: this.outbound.source.uid })
    this.finish(flag, reason)
    this.outbound.conn.abort()
  }

  // --- the client, while the upstream is being connected ---

  onOpen(): void {}

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    // Reading is paused, but a read that was under way may still come in.
    const held = new Uint8Array(this.held.length + end - offset)
    held.set(this.held)
    held.set(bytes.subarray(offset, end), this.held.length)
    this.held = held
  }

  onEnd(): void {
    this.hasEnded = true
  }

  onDrain(): void {}

  onClose(): void {
    this.finish(FLAG_DOWNSTREAM_CLOSED, 'closed before the upstream was connected')
    this.upstream?.abort()
  }

  // --- the end ---

  onFirstByte(isServer: boolean): void {
    if (this.outbound.isUndeclared) this.outbound.parts.serverFirst.note(this.outbound.portKey, isServer)
  }

  onRelayClosed(isDownstreamFault: boolean, error: WeftError | null): void {
    this.endpoint?.onRequestEnd()
    if (error === null) this.finish(FLAG_NONE, '')
    else this.finish(isDownstreamFault ? FLAG_DOWNSTREAM_CLOSED : FLAG_UPSTREAM_CLOSED, describeError(error))
  }

  /** A policy may deny now what it allowed when the connection began. */
  recheck(): void {
    if (this.facts === null || this.target === null || this.relay === null) return
    const { parts, source } = this.outbound
    const decision = parts.policies.authorizerOf(parts.snapshot, this.target).authorizeConnection(this.facts)
    if (decision.isAllowed) return
    parts.log.info('connection closed: a policy now denies it', { pod: source.uid, policy: decision.policy })
    this.finish(FLAG_DENIED, denialText(decision))
    this.relay.abort()
  }

  abort(): void {
    if (this.relay !== null) this.relay.abort()
    else this.outbound.conn.abort()
  }

  flushMetrics(): void {
    const received = this.receivedBytes - this.flushedReceived
    const sent = this.sentBytes - this.flushedSent
    if (this.edges === null || (received === 0 && sent === 0)) return
    this.flushedReceived += received
    this.flushedSent += sent
    this.edges.source.connectionBytes(received, sent)
    this.edges.destination?.connectionBytes(received, sent)
  }

  /** Exactly once, whatever the end. */
  private finish(flag: Flag, details: string): void {
    if (this.isFinished) return
    this.isFinished = true
    this.flushMetrics()
    if (this.isConnectionAcquired) this.cluster?.releaseConnection()
    this.edges?.source.connectionClosed(flag)
    this.edges?.destination?.connectionClosed(flag)
    this.outbound.finish(this.edges?.key ?? null, flag, details)
  }
}

const EMPTY = new Uint8Array(0)

/** Handler of an upstream that is still being connected. */
class UpstreamWatch implements Handler {
  private readonly owner: OutboundRelay

  constructor(owner: OutboundRelay) {
    this.owner = owner
  }

  onOpen(conn: Conn): void {
    this.owner.onUpstreamOpen(conn)
  }

  onBytes(): void {}
  onEnd(): void {}
  onDrain(): void {}

  onClose(_conn: Conn, error: WeftError | null): void {
    this.owner.onUpstreamFailed(error)
  }
}
