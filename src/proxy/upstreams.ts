/**
 * How a byte stream or an HTTP connection to an endpoint is made: which path it takes, and the pools behind it.
 *
 *   one hop   the endpoint is a captured pod of this node: dialled from inside its own netns, no TLS, policy judged here
 *   tunnel    the endpoint is enrolled elsewhere, or demands encryption on this node too: an HBONE stream, dialled from
 *             inside the source pod's netns
 *   plain     anything else: TCP from inside the source pod's netns; also a pod of this node that is not captured yet
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import { DEFAULT_POOL_LIMITS, type PoolLimits } from '../model/service.ts'
import { TUNNEL_HBONE, type Workload } from '../model/workload.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ClusterState, Endpoint } from './cluster.ts'
import { FailedConn } from './failed-conn.ts'
import { type Dial, HttpPool } from './http-pool.ts'
import type { LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'
import { TunnelCounters } from './tunnel-destination.ts'
import { TunnelPool } from './tunnel-pool.ts'

export const PATH_PLAIN = 0
export const PATH_ONE_HOP = 1
export const PATH_TUNNEL = 2
/** How bytes get to an endpoint. */
export type Path = typeof PATH_PLAIN | typeof PATH_ONE_HOP | typeof PATH_TUNNEL

/** Where a connection goes. */
export interface UpstreamTarget {
  readonly address: string
  readonly port: number
  /** Null when the address belongs to no workload of the mesh. */
  readonly workload: Workload | null
  readonly path: Path
  readonly connectTimeoutMs: number
  /** Host name of the service, for the `forwarded` header of a tunnel; empty when there is none. */
  readonly host: string
  /** Address of the client inside the source pod. */
  readonly forwardedFor: string
}

/** Everything that this worker dials, and the pools of it by source pod. */
export class Upstreams {
  private parts: ProxyParts | null = null
  private readonly sources = new Map<string, SourcePools>()
  /** Of all tunnel connections of this worker. */
  readonly tunnelCounters = new TunnelCounters()

  /** Must be called once before anything else; parts and pools refer to each other. */
  bind(parts: ProxyParts): void {
    this.parts = parts
  }

  /** The path from a pod of this node to `workload`. */
  pathTo(workload: Workload | null, isMutualTls: boolean, source: LocalWorkload | null = null): Path {
    if (workload === null) return PATH_PLAIN
    const { pods, node, snapshot } = this.bound()
    // Also to a pod that is not captured yet: then it is refused. What stays within one pod is on no wire.
    if (
      workload.node === node &&
      source?.uid !== workload.uid &&
      snapshot.pods.get(workload.uid)?.mustEncrypt === true
    ) {
      return PATH_TUNNEL
    }
    if (pods.has(workload.uid)) return PATH_ONE_HOP
    // Nobody but this agent could listen for tunnels there, and it does not (yet): its app is still reached directly.
    if (workload.node === node) return PATH_PLAIN
    return isMutualTls && workload.tunnelProtocol === TUNNEL_HBONE ? PATH_TUNNEL : PATH_PLAIN
  }

  /** Opens a byte stream; the outcome comes to `handler`. */
  connect(source: LocalWorkload, target: UpstreamTarget, handler: Handler): Conn {
    if (target.path === PATH_TUNNEL) return this.poolsOf(source).tunnels.open(target, handler)
    if (target.path === PATH_ONE_HOP && target.workload !== null) {
      return this.connectApp(target.workload.uid, target.address, target.port, target.connectTimeoutMs, handler)
    }
    return this.dial(source.uid, target.address, target.port, target.connectTimeoutMs, handler)
  }

  /** Opens a byte stream to the app of a pod of this node, from inside the pod's netns. */
  connectApp(uid: string, podAddress: string, port: number, timeoutMs: number, handler: Handler): Conn {
    return this.dial(uid, this.bound().sockets.appAddress(uid, podAddress), port, timeoutMs, handler)
  }

  /** TCP from inside a pod's netns. */
  private dial(uid: string, address: string, port: number, timeoutMs: number, handler: Handler): Conn {
    const { transport, sockets } = this.bound()
    try {
      const origin = sockets.originIn(uid, address)
      return transport.connect({ address, port, origin, timeoutMs, tls: null, expectedIdentities: [] }, handler)
    } catch (error) {
      const failure = error instanceof WeftError ? error : new WeftError('WEFT_CONNECT', describeError(error), error)
      return new FailedConn(transport, handler, address, port, failure)
    }
  }

  /** The HTTP pool from `source` to an endpoint of a cluster. */
  httpPool(
    source: LocalWorkload,
    cluster: ClusterState,
    endpoint: Endpoint,
    host: string,
    speaksHttp2: boolean,
  ): HttpPool {
    const pools = this.poolsOf(source)
    const byEndpoint = speaksHttp2 ? pools.http2 : pools.http
    const path = this.pathTo(endpoint.workload, cluster.isMutualTls, source)
    let pool = byEndpoint.get(endpoint)
    if (pool !== undefined && (pool.path !== path || pool.limits !== cluster.limits)) {
      // The pod joined or left the mesh, or the settings changed: what is open must not outlive that.
      pool.close()
      pool = undefined
    }
    if (pool === undefined) {
      const target: UpstreamTarget = {
        address: endpoint.address,
        port: endpoint.port,
        workload: endpoint.workload,
        path,
        connectTimeoutMs: cluster.limits.connectTimeoutMs,
        host,
        forwardedFor: '',
      }
      const dial = new SourceDial(this, source, target)
      pool = new HttpPool(this.bound(), dial, cluster.limits, cluster, endpoint, path, speaksHttp2)
      byEndpoint.set(endpoint, pool)
    }
    return pool
  }

  /** The HTTP pool from `source` straight to an address (a pod dialled by its IP). */
  directPool(source: LocalWorkload, workload: Workload, address: string, port: number, speaksHttp2: boolean): HttpPool {
    const key = poolKey(address, port, speaksHttp2)
    const pools = this.poolsOf(source)
    const path = this.pathTo(workload, true, source)
    let pool = pools.direct.get(key)
    if (pool !== undefined && pool.path !== path) {
      pool.close()
      pool = undefined
    }
    if (pool === undefined) {
      const target: UpstreamTarget = {
        address,
        port,
        workload,
        path,
        connectTimeoutMs: DEFAULT_POOL_LIMITS.connectTimeoutMs,
        host: '',
        forwardedFor: '',
      }
      const dial = new SourceDial(this, source, target)
      pool = new HttpPool(this.bound(), dial, DEFAULT_POOL_LIMITS, null, null, path, speaksHttp2)
      pools.direct.set(key, pool)
    }
    return pool
  }

  /** The HTTP pool to the app of a pod of this node, for requests that arrive there. */
  appPool(pod: LocalWorkload, podAddress: string, port: number, speaksHttp2: boolean): HttpPool {
    const key = poolKey(podAddress, port, speaksHttp2)
    const pools = this.poolsOf(pod)
    let pool = pools.app.get(key)
    if (pool === undefined) {
      const dial = new AppDial(this, pod.uid, podAddress, port)
      pool = new HttpPool(this.bound(), dial, APP_LIMITS, null, null, PATH_ONE_HOP, speaksHttp2)
      pools.app.set(key, pool)
    }
    return pool
  }

  /** A pod of this node is gone: its idle connections and tunnels close. */
  removePod(uid: string): void {
    this.sources.get(uid)?.close()
    this.sources.delete(uid)
  }

  /** The credential of `identity` changed: new connections must use it, so its tunnels are drained. */
  rotate(identity: string): void {
    for (const pools of this.sources.values()) if (pools.source.identity === identity) pools.tunnels.rotate()
  }

  /** Drops pools that hold nothing. Called every minute. */
  sweep(): void {
    for (const [uid, pools] of this.sources) {
      pools.sweep()
      if (pools.isEmpty) this.sources.delete(uid)
    }
  }

  close(): void {
    for (const pools of this.sources.values()) pools.close()
    this.sources.clear()
  }

  private poolsOf(source: LocalWorkload): SourcePools {
    let pools = this.sources.get(source.uid)
    if (pools === undefined) {
      pools = new SourcePools(this.bound(), source, this.tunnelCounters)
      this.sources.set(source.uid, pools)
    }
    return pools
  }

  private bound(): ProxyParts {
    if (this.parts === null) throw new Error('Upstreams.bind was not called')
    return this.parts
  }
}

/** Connections of both versions may go to one address. */
function poolKey(address: string, port: number, speaksHttp2: boolean): string {
  return speaksHttp2 ? `h2 ${formatHostPort(address, port)}` : formatHostPort(address, port)
}

/** Limits towards a pod's own app: nothing but a time to connect. */
const APP_LIMITS: PoolLimits = DEFAULT_POOL_LIMITS

/** Everything pooled for one pod of this node. */
class SourcePools {
  readonly source: LocalWorkload
  readonly http = new Map<Endpoint, HttpPool>()
  readonly http2 = new Map<Endpoint, HttpPool>()
  readonly direct = new Map<string, HttpPool>()
  readonly app = new Map<string, HttpPool>()
  readonly tunnels: TunnelPool

  constructor(parts: ProxyParts, source: LocalWorkload, counters: TunnelCounters) {
    this.source = source
    this.tunnels = new TunnelPool(parts, source, counters)
  }

  get isEmpty(): boolean {
    return this.http.size + this.http2.size + this.direct.size + this.app.size === 0 && this.tunnels.isEmpty
  }

  sweep(): void {
    for (const map of [this.http, this.http2, this.direct, this.app] as Map<unknown, HttpPool>[]) {
      for (const [key, pool] of map) {
        // Its endpoint is gone: what is idle closes now.
        if (pool.isGivenUp) pool.close()
        if (pool.isEmpty) map.delete(key)
      }
    }
    this.tunnels.sweep()
  }

  close(): void {
    for (const map of [this.http, this.http2, this.direct, this.app] as Map<unknown, HttpPool>[]) {
      for (const pool of map.values()) pool.close()
      map.clear()
    }
    this.tunnels.close()
  }
}

class SourceDial implements Dial {
  private readonly upstreams: Upstreams
  private readonly source: LocalWorkload
  private readonly target: UpstreamTarget

  constructor(upstreams: Upstreams, source: LocalWorkload, target: UpstreamTarget) {
    this.upstreams = upstreams
    this.source = source
    this.target = target
  }

  open(handler: Handler): Conn {
    return this.upstreams.connect(this.source, this.target, handler)
  }
}

class AppDial implements Dial {
  private readonly upstreams: Upstreams
  private readonly uid: string
  private readonly address: string
  private readonly port: number

  constructor(upstreams: Upstreams, uid: string, address: string, port: number) {
    this.upstreams = upstreams
    this.uid = uid
    this.address = address
    this.port = port
  }

  open(handler: Handler): Conn {
    return this.upstreams.connectApp(this.uid, this.address, this.port, APP_LIMITS.connectTimeoutMs, handler)
  }
}
