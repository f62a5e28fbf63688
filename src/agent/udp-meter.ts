/**
 * Puts what the programs count of pods' UDP into the metrics, every few seconds and at a scrape. Runs on the main thread.
 *
 *      udp_edges (map): pod, direction, address  ->  pod and address get names  ->  UdpTraffic  ->  registry
 *      udp_accounted (map)                       <-  what the metrics have
 *
 * An address gets the name that it has when its packets are read: a new pod with an old address does not inherit what was
 * counted before. What was put into the metrics is written to `accounted`, where the next agent begins: what passes while
 * there is none is counted by it, once. One agent at a time: who hands over to another calls `stop`.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { UDP_EDGES_MAX } from '../kernel/layout.generated.ts'
import type { UdpEdge, UdpEdgeKey, UdpEdgeMap, UdpTotals } from '../kernel/udp-edge-map.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { type UdpFlow, UdpTraffic } from '../telemetry/udp-traffic.ts'
import type { CarriedNames } from './carried-names.ts'

/** Between two readings. As often as data workers report bytes of open connections. */
export const UDP_READ_INTERVAL_MS = 5_000

/**
 * Packets of a pod that has no name (yet) are not counted for so long: after a start, enrolling takes some seconds. Then
 * they count under unknown labels: the pod has been withdrawn while there was no agent.
 */
export const UDP_NAMELESS_MS = 60_000

/**
 * An entry of the map in which nothing has changed for so long makes room, and begins anew if its address is heard of
 * again. Long enough that nobody who talks regularly is removed and made again all the time.
 */
export const UDP_REST_MS = 600_000

/** The same when half of the map is in use: a pod may talk to very many addresses, once each. */
export const UDP_CROWDED_REST_MS = 30_000

/** What the kernel counts. */
export interface UdpSource {
  readonly edges: Pick<UdpEdgeMap, 'all' | 'delete'>
  /** Kept by the kernel while no agent runs. */
  readonly accounted: Pick<UdpEdgeMap, 'all' | 'write' | 'delete'>
  /** What found no room among the edges, since the maps were made. */
  unmetered(): UdpTotals
  /** False for a pod that is not captured (yet), or no more. */
  isCaptured(pod: number): boolean
}

export interface UdpMeterOptions {
  /** Null where there is no kernel to ask; then nothing is counted. */
  readonly kernel: UdpSource | null
  /** Null when no pod has a name. */
  readonly names: Pick<CarriedNames, 'podOf'> | null
  readonly snapshot: () => Snapshot
  readonly now: () => number
  readonly log: Logger
}

const NOTHING: UdpTotals = { bytes: 0, packets: 0 }

/** What is remembered of an entry of the map. */
interface SeenEdge {
  readonly firstSeenMs: number
  changedAtMs: number
}

export class UdpMeter {
  /** For the registry. */
  readonly traffic: UdpTraffic
  private readonly options: UdpMeterOptions
  private readonly seen = new Map<string, SeenEdge>()
  /** Answers of this reading: there may be thousands of entries of one pod. */
  private readonly captured = new Map<number, boolean>()
  private timer: NodeJS.Timeout | null = null
  /** Said once: the next one would be five seconds later. */
  private hasWarned = false

  constructor(options: UdpMeterOptions) {
    this.options = options
    this.traffic = new UdpTraffic(options.now)
  }

  /** To be called when no other agent reads; also after `stop`. */
  start(): void {
    this.timer ??= setInterval(() => this.read(), UDP_READ_INTERVAL_MS).unref()
  }

  /** Brings the metrics up to date, if started. Never throws. */
  read(): void {
    const { kernel } = this.options
    if (this.timer === null || kernel === null) return
    try {
      this.account(kernel)
    } catch (error) {
      if (!this.hasWarned) this.options.log.warn('the UDP of pods cannot be read', { error: describeError(error) })
      this.hasWarned = true
    }
  }

  /** Puts everything into the metrics that there is; from then on another agent may. To be called while maps are open. */
  stop(): void {
    this.read()
    if (this.timer !== null) clearInterval(this.timer)
    this.timer = null
  }

  private account(kernel: UdpSource): void {
    this.captured.clear()
    const accounted = new Map<string, UdpEdge>()
    for (const edge of kernel.accounted.all()) accounted.set(edge.id, edge)
    const found = new Map<string, UdpEdge>()
    // A map that changes may yield an entry twice.
    for (const edge of kernel.edges.all()) found.set(edge.id, edge)
    const restMs = found.size > UDP_EDGES_MAX / 2 ? UDP_CROWDED_REST_MS : UDP_REST_MS
    for (const edge of found.values()) this.accountEdge(kernel, edge, accounted.get(edge.id)?.totals ?? NOTHING, restMs)
    // Left by an agent that ended between two deletions.
    for (const [id, edge] of accounted) if (!found.has(id)) kernel.accounted.delete(edge.key)
    for (const id of this.seen.keys()) if (!found.has(id)) this.seen.delete(id)
    this.traffic.unmeteredPackets = kernel.unmetered().packets
  }

  private accountEdge(kernel: UdpSource, edge: UdpEdge, before: UdpTotals, restMs: number): void {
    const { names } = this.options
    const nowMs = this.options.now()
    const { totals } = edge
    let seen = this.seen.get(edge.id)
    if (seen === undefined) {
      seen = { firstSeenMs: nowMs, changedAtMs: nowMs }
      this.seen.set(edge.id, seen)
    }
    const isCaptured = this.isCaptured(kernel, edge.pod)
    if (isCaptured && totals.packets === before.packets && nowMs - seen.changedAtMs < restMs) return

    const { key } = edge
    const pod = names?.podOf(key.pod) ?? null
    // A pod without a name may get one, for a while.
    const isNameless = pod === null && nowMs - seen.firstSeenMs < UDP_NAMELESS_MS
    // What is less than before was removed, and has begun anew.
    const base = totals.packets < before.packets ? NOTHING : before
    if (totals.packets > base.packets) {
      if (isNameless) return
      seen.changedAtMs = nowMs
      this.traffic.add(this.flowOf(key, pod), totals.bytes - base.bytes, totals.packets - base.packets)
      kernel.accounted.write(key, totals)
    }
    // The programs of a withdrawn pod are detached: nothing more will come.
    const isOver = !isNameless && !isCaptured
    if (!isOver && nowMs - seen.changedAtMs < restMs) return
    kernel.edges.delete(key)
    kernel.accounted.delete(key)
    this.seen.delete(edge.id)
  }

  private isCaptured(kernel: UdpSource, pod: number): boolean {
    let isCaptured = this.captured.get(pod)
    if (isCaptured === undefined) {
      isCaptured = kernel.isCaptured(pod)
      this.captured.set(pod, isCaptured)
    }
    return isCaptured
  }

  /** What is sent to a virtual address has a service and no workload: who got it is for others to choose. */
  private flowOf({ isSent, remote }: UdpEdgeKey, pod: Workload | null): UdpFlow {
    const snapshot = this.options.snapshot()
    if (!isSent) return { isSent, source: snapshot.workloadByAddress(remote), destination: pod, service: null }
    return {
      isSent,
      source: pod,
      destination: snapshot.workloadByAddress(remote),
      service: snapshot.serviceByAddress(remote),
    }
  }
}
