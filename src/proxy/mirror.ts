/**
 * Mirrored requests: sent beside the real one, answer thrown away, never waited for and never retried.
 *
 * A mirror needs the whole body, so it goes out when the request is complete; requests whose body is longer than
 * MIRROR_BYTES_MAX are not mirrored.
 */
import { BytePieces } from '../base/byte-pieces.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { ClientStream, RequestHead, ResponseReceiver } from '../http/codec.ts'
import type { Mirror } from '../model/route.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { ClusterState, Endpoint } from './cluster.ts'
import type { Exchange } from './exchange.ts'
import type { HttpPool, PoolWaiter } from './http-pool.ts'
import type { HttpUpstream } from './http-upstream.ts'
import type { OutboundConnection } from './outbound.ts'
import type { CompiledTraffic } from './route-tables.ts'
import { PATH_ONE_HOP } from './upstreams.ts'

/** Longest body that is mirrored. 64 KiB: as much as is kept for a retry. */
const MIRROR_BYTES_MAX = 65_536

/** Mirrored requests in flight per worker. A slow mirror must not become a memory leak. */
const MIRRORS_MAX = 1024

/**
 * Longest time of a mirrored request. A minute, whatever the real one may take: a stream that is mirrored (a gRPC watch,
 * say) would otherwise go on for ever, with nobody who ends it.
 */
const MIRROR_MS_MAX = 60_000

let mirrorsInFlight = 0

/** Starts the mirrors of a request that `exchange` is about to forward. */
export function sendMirrors(
  outbound: OutboundConnection,
  exchange: Exchange,
  mirrors: readonly Mirror[],
  compiled: CompiledTraffic,
  snapshot: Snapshot,
): void {
  const { parts, source, destination } = outbound
  for (const mirror of mirrors) {
    if (parts.random() * 1_000_000 >= mirror.ppm) continue
    const cluster = compiled.clusters.get(mirror.cluster)
    if (cluster === undefined || mirrorsInFlight >= MIRRORS_MAX) continue
    const state = parts.clusters.get(cluster, snapshot)
    const endpoint = state.pick(null, source.uid)
    if (endpoint === null || !isAllowed(outbound, exchange, state, endpoint)) continue
    const host = destination.service?.hostname ?? ''
    const pool = parts.upstreams.httpPool(source, state, endpoint, host, outbound.speaksHttp2(exchange))
    const mirrored = new MirroredRequest(exchange.head, pool)
    const path = parts.upstreams.pathTo(endpoint.workload, state.isMutualTls, source)
    outbound.identify(mirrored.head.headers, path, endpoint.workload)
    exchange.addMirror(mirrored)
  }
}

function isAllowed(outbound: OutboundConnection, exchange: Exchange, state: ClusterState, endpoint: Endpoint): boolean {
  const { parts } = outbound
  if (parts.upstreams.pathTo(endpoint.workload, state.isMutualTls, outbound.source) !== PATH_ONE_HOP) return true
  const authorizer = parts.policies.authorizerOf(parts.snapshot, endpoint.workload)
  const facts = outbound.factsFor(endpoint.address, endpoint.port)
  return authorizer.authorizeExchange(facts, exchange.head).isAllowed
}

/** One mirrored request, fed by its exchange. */
export class MirroredRequest implements PoolWaiter, ResponseReceiver, TimerTarget {
  readonly head: RequestHead
  private readonly pool: HttpPool
  private body: BytePieces | null
  private bodyBytes: number
  private readonly timer: TimerEntry
  private client: ClientStream | null
  private isOver: boolean

  constructor(head: RequestHead, pool: HttpPool) {
    this.head = { ...head, headers: head.headers.clone(), upgrade: null, expectsContinue: false }
    this.head.headers.remove('expect')
    this.pool = pool
    this.body = null
    this.bodyBytes = 0
    this.timer = new TimerEntry(this)
    this.client = null
    this.isOver = false
  }

  /** A part of the body; lent. */
  add(bytes: Uint8Array, offset: number, end: number): void {
    this.bodyBytes += end - offset
    if (this.bodyBytes > MIRROR_BYTES_MAX) {
      this.body = null
      return
    }
    this.body ??= new BytePieces()
    this.body.add(bytes, offset, end)
  }

  /** The request is complete: send it. */
  send(): void {
    if (this.bodyBytes > MIRROR_BYTES_MAX) return
    mirrorsInFlight++
    this.pool.parts.timers.start(this.timer, MIRROR_MS_MAX)
    this.pool.acquire(this)
  }

  onUpstream(upstream: HttpUpstream): void {
    upstream.servedCount++
    this.head.bodyLength = this.bodyBytes
    const client = upstream.codec!.open(this.head, this)
    this.client = client
    if (this.body !== null) {
      for (const piece of this.body.all()) client.writeBody(piece, 0, piece.length)
      this.body = null
    }
    if (this.bodyBytes > 0) client.end(null)
  }

  onUpstreamFailed(): void {
    this.finish()
  }

  onInformational(): void {}
  onResponseHead(): void {}
  onResponseBody(): void {}

  onResponseEnd(): void {
    this.finish()
  }

  onResponseReset(): void {
    this.finish()
  }

  onRequestDrain(): void {}

  /** It has had its time. */
  onTimer(): void {
    this.pool.cancel(this)
    this.client?.reset()
    this.finish()
  }

  private finish(): void {
    if (this.isOver) return
    this.isOver = true
    this.client = null
    mirrorsInFlight--
    this.pool.parts.timers.clear(this.timer)
  }
}
