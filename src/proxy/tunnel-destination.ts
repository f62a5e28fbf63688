/**
 * The HBONE connections from one pod of this node to one workload's address.
 *
 * A tunnel goes to the fullest connection that has room, so that the others run dry and can go. Before the last room is
 * taken another connection is dialled, one at a time, so that nobody waits for a handshake; the same when the credential
 * was renewed: the old connections are drained once the new one is up. A connection that is not answered on, or on which
 * nothing moves because readers have stopped, is passed over until that is over or its pings have failed; a destination that cannot be reached is left alone for a moment.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import { DEFAULT_POOL_LIMITS } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { writeBaggage } from './baggage.ts'
import { ConnectBackoff } from './connect-backoff.ts'
import { FailedConn } from './failed-conn.ts'
import { writeForwarded } from './forwarded.ts'
import { HBONE_PORT } from './hbone.ts'
import { TunnelClient, type TunnelClientOwner } from './hbone-client.ts'
import { identityOf, type LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'
import type { UpstreamTarget } from './upstreams.ts'

/** An unused tunnel connection is released after five minutes, like ztunnel's POOL_UNUSED_RELEASE_TIMEOUT. */
const TUNNEL_UNUSED_MS = 300_000

/** Connections to one destination. 100 tunnels each: 3,200 concurrent streams from one pod to one pod. */
export const CLIENTS_MAX = 32

/** Another connection is dialled ahead when this share of the tunnels of all is taken: the last fifth lasts a handshake. */
const PREFETCH_SHARE = 0.8

/** A tunnel's answer may take this much longer than a connect may: a connect's own time-out says more about the cause. */
const ANSWER_BEYOND_CONNECT_MS = 500

/** What happened to the tunnel connections of one worker. */
export class TunnelCounters {
  dialled = 0
  /** Of those dialled: before anybody needed them. */
  prefetched = 0
  failed = 0
  /** Ended after they had been up, by a failure (pings without answer, a reset, a violation). */
  lost = 0
}

/** See the head of the file. */
export class TunnelDestination implements TunnelClientOwner, TimerTarget {
  private readonly parts: ProxyParts
  private readonly source: LocalWorkload
  private readonly workload: Workload
  private readonly address: string
  private readonly counters: TunnelCounters
  /** Those that take new tunnels. */
  private clients: TunnelClient[] = []
  /** Dialled ahead and not up yet. */
  private prefetching: TunnelClient | null = null
  /** Made with an older credential; used until `prefetching` is up. */
  private outdated: TunnelClient[] = []
  private readonly backoff: ConnectBackoff
  private readonly unusedTimer: TimerEntry

  constructor(parts: ProxyParts, source: LocalWorkload, workload: Workload, address: string, counters: TunnelCounters) {
    this.parts = parts
    this.source = source
    this.workload = workload
    this.address = address
    this.counters = counters
    this.backoff = new ConnectBackoff(parts.random)
    this.unusedTimer = new TimerEntry(this)
  }

  get isEmpty(): boolean {
    return this.clients.length === 0
  }

  open(target: UpstreamTarget, handler: Handler): Conn {
    let client = this.clientWithRoom()
    if (client === null) {
      const made = this.dial(target.connectTimeoutMs)
      if (made instanceof WeftError) {
        return new FailedConn(this.parts.transport, handler, target.address, target.port, made)
      }
      client = made
    }
    const sourceWorkload = this.parts.snapshot.workloads.get(this.source.uid)
    const request = {
      authority: formatHostPort(target.address, target.port),
      baggage: sourceWorkload === undefined ? '' : writeBaggage(sourceWorkload),
      forwarded: writeForwarded(target.forwardedFor, target.host),
    }
    const tunnel = client.openTunnel(request, handler, target.connectTimeoutMs + ANSWER_BEYOND_CONNECT_MS)
    if (this.isNearlyFull()) this.prefetch(target.connectTimeoutMs)
    return tunnel
  }

  /** The credential changed. What is in use gets a successor first; what is not used ends now. */
  rotate(): void {
    const old = [...this.clients]
    // One that is just being made has the old credential as well.
    this.prefetching = null
    this.outdated = old
    if (old.some((client) => client.activeCount > 0)) this.prefetch(DEFAULT_POOL_LIMITS.connectTimeoutMs)
    if (this.prefetching === null) this.drainOutdated()
    else for (const client of old) if (client.activeCount === 0) client.drain()
  }

  /** Open tunnels go on; the connections close with their last. */
  drain(): void {
    for (const client of [...this.clients]) client.drain()
  }

  // --- TunnelClientOwner ---

  onConnected(client: TunnelClient): void {
    this.backoff.onConnected()
    this.watchUnused(client)
    if (client === this.prefetching) this.onPrefetched()
  }

  onUnusable(client: TunnelClient): void {
    this.clients = this.clients.filter((other) => other !== client)
    this.outdated = this.outdated.filter((other) => other !== client)
    const { failure } = client
    if (failure !== null && !client.isOpen) {
      this.counters.failed++
      this.backoff.onFailed(failure, client.dialledAtMs, this.parts.nowMs())
    } else if (failure !== null) {
      this.counters.lost++
    }
    if (client === this.prefetching) this.onPrefetched()
  }

  onTunnelClosed(client: TunnelClient): void {
    this.watchUnused(client)
  }

  /** Releases what has not been used for long enough, and comes back for the rest. */
  onTimer(): void {
    const nowMs = this.parts.nowMs()
    let nextMs = 0
    for (const client of [...this.clients]) {
      if (client.activeCount > 0) continue
      const leftMs = client.idleSinceMs + TUNNEL_UNUSED_MS - nowMs
      if (leftMs <= 0) client.drain()
      else if (nextMs === 0 || leftMs < nextMs) nextMs = leftMs
    }
    if (nextMs > 0) this.parts.timers.start(this.unusedTimer, nextMs)
  }

  // --- inner workings ---

  private watchUnused(client: TunnelClient): void {
    if (client.activeCount > 0 || this.unusedTimer.isRunning) return
    this.parts.timers.start(this.unusedTimer, TUNNEL_UNUSED_MS)
  }

  private onPrefetched(): void {
    this.prefetching = null
    this.drainOutdated()
  }

  private drainOutdated(): void {
    const outdated = this.outdated
    this.outdated = []
    for (const client of outdated) client.drain()
  }

  private clientWithRoom(): TunnelClient | null {
    let best: TunnelClient | null = null
    for (const client of this.clients) {
      if (!client.canOpen || client.isSuspect) continue
      if (best === null || client.activeCount > best.activeCount) best = client
    }
    return best
  }

  private isNearlyFull(): boolean {
    let active = 0
    let room = 0
    for (const client of this.clients) {
      if (client.isSuspect || client.isStalled) continue
      active += client.activeCount
      room += client.tunnelsMax
    }
    return active >= room * PREFETCH_SHARE
  }

  private prefetch(timeoutMs: number): void {
    const made = this.dial(timeoutMs)
    if (made instanceof WeftError) return
    this.prefetching = made
    this.counters.prefetched++
  }

  private dial(timeoutMs: number): TunnelClient | WeftError {
    const { parts, source, workload, address } = this
    const where = `${workload.namespace}/${workload.name} at ${formatHostPort(address, HBONE_PORT)}`
    if (this.clients.length >= CLIENTS_MAX) {
      return new WeftError('WEFT_LIMIT', `all ${CLIENTS_MAX} tunnel connections to ${where} are full`)
    }
    const nowMs = parts.nowMs()
    if (this.backoff.waitMs(nowMs) > 0) return this.backoff.failure(nowMs)
    const tls = parts.credentials.contextOf(source.identity)
    if (tls === null) {
      return new WeftError('WEFT_CERTIFICATE', `no certificate for ${source.identity} yet, so no tunnel to ${where}`)
    }
    try {
      const options = {
        address,
        port: HBONE_PORT,
        origin: parts.sockets.originIn(source.uid, address),
        timeoutMs,
        tls,
        expectedIdentities: [identityOf(workload)],
      }
      const client = new TunnelClient(parts, options, this)
      this.clients.push(client)
      this.counters.dialled++
      return client
    } catch (error) {
      return error instanceof WeftError ? error : new WeftError('WEFT_CONNECT', describeError(error), error)
    }
  }
}
