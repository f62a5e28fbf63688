/**
 * Counters of what the kernel carries, put into the mesh's metrics: the same families and labels as the proxy's one hop, for
 * both reporters.
 *
 * Bytes of open connections are with their sockets, those of closed ones with their edge. The edges are read first, then
 * the sockets: a connection that closes in between is missing in the sum until the next time, never counted twice, and a
 * sum that has gone back is waited for. What was put into the metrics is written to `accounted`, where the next agent
 * begins: what happens while there is none is counted by it, once.
 */
import {
  FLAG_DENIED,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_NONE,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  type Flag,
} from '../base/errors.ts'
import type { CarriedSocket } from '../kernel/carried-sockets.ts'
import { type EdgeIds, EdgeTotals } from '../kernel/edge-map.ts'
import {
  OUTCOME_CLOSED,
  OUTCOME_DENIED,
  OUTCOME_EXPELLED,
  OUTCOME_FAILED,
  OUTCOME_RESET_BY_DESTINATION,
  OUTCOME_RESET_BY_SOURCE,
  OUTCOMES,
} from '../kernel/layout.generated.ts'
import { identityOf } from '../proxy/local-pods.ts'
import type { EdgeKey, Recorder } from '../telemetry/recorder.ts'
import type { RoundTrips } from '../telemetry/round-trips.ts'
import type { CarriedNames } from './carried-names.ts'
import type { CarriedSource } from './carried-source.ts'

/** How the proxy calls an end, by OUTCOME_ number. */
export const OUTCOME_FLAGS: readonly Flag[] = flagsByOutcome()

/**
 * An edge whose pods have no names (yet) is not counted for so long: after a start, enrolling takes some seconds. Then it
 * counts under unknown labels: its pod has been withdrawn.
 */
export const NAMELESS_MS = 60_000

/** An edge of a withdrawn pod is given up when nothing was open and nothing happened for so long. */
export const REST_MS = 60_000

/** What is known of one edge. */
interface CarriedEdge {
  readonly ids: EdgeIds
  /** What the metrics have, of this agent or of earlier ones. */
  accounted: EdgeTotals
  firstSeenMs: number
  changedAtMs: number
  isOpen: boolean
}

/** All edges, and what of them the metrics have. */
export class CarriedEdges {
  private readonly kernel: CarriedSource
  private readonly names: CarriedNames
  private readonly recorder: Recorder
  private readonly roundTrips: RoundTrips
  private readonly now: () => number
  private readonly edges = new Map<string, CarriedEdge>()

  constructor(
    kernel: CarriedSource,
    names: CarriedNames,
    recorder: Recorder,
    roundTrips: RoundTrips,
    now: () => number,
  ) {
    this.kernel = kernel
    this.names = names
    this.recorder = recorder
    this.roundTrips = roundTrips
    this.now = now
    for (const { ids, totals } of kernel.accounted.all()) this.edgeOf(ids).accounted = totals
  }

  /** The counters of the kernel now; to be followed by `socketsOf` each source that has something open, then by `account`. */
  read(): EdgeReading {
    return new EdgeReading(this.kernel.edges.all())
  }

  /** Puts into the metrics what is new. `open` are the sockets that were there after the reading. */
  account(reading: EdgeReading, open: readonly CarriedSocket[]): void {
    const live = liveBytes(open)
    const nowMs = this.now()
    for (const { ids, totals } of reading.edges) {
      const edge = this.edgeOf(ids)
      const bytes = live.get(keyOf(ids))
      if (bytes !== undefined) {
        totals.sent += bytes.sent
        totals.received += bytes.received
      }
      edge.isOpen = isOpen(totals)
      if (!hasGrown(totals, edge.accounted)) continue
      const key = this.edgeKeyOf(ids)
      const isNameless = key.source === null || key.destination === null
      if (isNameless && nowMs - edge.firstSeenMs < NAMELESS_MS) continue
      edge.changedAtMs = nowMs
      this.count(key, totals, edge.accounted)
      edge.accounted = largerOf(totals, edge.accounted)
      this.kernel.accounted.write(ids, edge.accounted)
    }
    this.removeResting(nowMs)
  }

  /** One more measurement of each open connection. */
  sampleRoundTrips(open: readonly CarriedSocket[]): void {
    for (const socket of open) {
      if (socket.roundTripUs === 0) continue
      const key = this.edgeKeyOf({
        source: socket.sourcePod,
        destination: socket.destinationPod,
        service: socket.service,
      })
      this.roundTrips.observe(key, socket.roundTripUs / 1e6)
    }
  }

  /** What the proxy would say of a connection of that edge, as the source reports it. */
  edgeKeyOf(ids: EdgeIds): EdgeKey {
    const source = this.names.podOf(ids.source)
    const destination = this.names.podOf(ids.destination)
    const service = this.names.serviceOf(ids.service)
    return {
      reporter: 'source',
      protocol: 'tcp',
      source,
      destination,
      service,
      host: service === null ? this.names.addressOf(ids.service) : '',
      // As on the proxy's one hop: identities are proved by the kernel, and nothing leaves the node.
      isMutualTls: true,
      sourcePrincipal: source === null ? null : identityOf(source),
      destinationPrincipal: destination === null ? null : identityOf(destination),
    }
  }

  private count(key: EdgeKey, now: EdgeTotals, before: EdgeTotals): void {
    const ended = now.ended.map((count, outcome) => grown(count, before.ended[outcome]!))
    // Who fails or is denied was opened as well: so does the proxy count, which hears of a connection before that.
    const opened = grown(now.opened, before.opened) + ended[OUTCOME_FAILED]! + ended[OUTCOME_DENIED]!
    const sent = grown(now.sent, before.sent)
    const received = grown(now.received, before.received)
    for (const reporter of ['source', 'destination'] as const) {
      const metrics = this.recorder.edge({ ...key, reporter })
      if (opened > 0) metrics.connectionOpened(opened)
      if (sent > 0 || received > 0) metrics.connectionBytes(sent, received)
      for (const [outcome, count] of ended.entries()) {
        if (count > 0) metrics.connectionClosed(OUTCOME_FLAGS[outcome]!, count)
      }
    }
    const roundTrips = now.roundTrips.map((count, bucket) => grown(count, before.roundTrips[bucket]!))
    if (roundTrips.some((count) => count > 0)) {
      this.roundTrips.add(key, roundTrips, grown(now.roundTripUs, before.roundTripUs) / 1e6)
    }
  }

  private edgeOf(ids: EdgeIds): CarriedEdge {
    const key = keyOf(ids)
    let edge = this.edges.get(key)
    if (edge === undefined) {
      const nowMs = this.now()
      edge = {
        ids,
        accounted: new EdgeTotals(),
        firstSeenMs: nowMs,
        changedAtMs: nowMs,
        isOpen: false,
      }
      this.edges.set(key, edge)
    }
    return edge
  }

  /** Pods are withdrawn, and their numbers never come again: their edges would fill the map in the end. */
  private removeResting(nowMs: number): void {
    for (const [key, edge] of this.edges) {
      if (edge.isOpen || nowMs - edge.changedAtMs < REST_MS) continue
      const { ids } = edge
      if (this.kernel.isCaptured(ids.source) && this.kernel.isCaptured(ids.destination)) continue
      this.edges.delete(key)
      this.kernel.edges.delete(ids)
      this.kernel.accounted.delete(ids)
    }
  }
}

/** What the kernel's counters said at one moment. */
export class EdgeReading {
  readonly edges: readonly { readonly ids: EdgeIds; readonly totals: EdgeTotals }[]

  constructor(edges: readonly { readonly ids: EdgeIds; readonly totals: EdgeTotals }[]) {
    this.edges = edges
  }

  /** Pods that have connections which have not ended. */
  get openSources(): ReadonlySet<number> {
    return new Set(this.edges.filter(({ totals }) => isOpen(totals)).map(({ ids }) => ids.source))
  }

  /** Open connections by the pod that made them. */
  get openCounts(): ReadonlyMap<number, number> {
    const counts = new Map<number, number>()
    for (const { ids, totals } of this.edges) {
      const open = totals.opened - endedOf(totals) + totals.ended[OUTCOME_FAILED]!
      if (open > 0) counts.set(ids.source, (counts.get(ids.source) ?? 0) + open)
    }
    return counts
  }
}

function flagsByOutcome(): readonly Flag[] {
  const flags = new Array<Flag>(OUTCOMES).fill(FLAG_NONE)
  flags[OUTCOME_CLOSED] = FLAG_NONE
  flags[OUTCOME_RESET_BY_SOURCE] = FLAG_DOWNSTREAM_CLOSED
  flags[OUTCOME_RESET_BY_DESTINATION] = FLAG_UPSTREAM_CLOSED
  flags[OUTCOME_EXPELLED] = FLAG_DENIED
  flags[OUTCOME_FAILED] = FLAG_UPSTREAM_CONNECT
  flags[OUTCOME_DENIED] = FLAG_DENIED
  return flags
}

function keyOf({ source, destination, service }: EdgeIds): string {
  return `${source} ${destination} ${service}`
}

function liveBytes(open: readonly CarriedSocket[]): Map<string, { sent: number; received: number }> {
  const byEdge = new Map<string, { sent: number; received: number }>()
  for (const { sourcePod, destinationPod, service, sent, received } of open) {
    const key = keyOf({ source: sourcePod, destination: destinationPod, service })
    const sum = byEdge.get(key)
    if (sum === undefined) byEdge.set(key, { sent, received })
    else {
      sum.sent += sent
      sum.received += received
    }
  }
  return byEdge
}

/** Connections that were begun and have ended. */
function endedOf(totals: EdgeTotals): number {
  let sum = 0
  for (const [outcome, count] of totals.ended.entries()) if (outcome !== OUTCOME_DENIED) sum += count
  return sum
}

/** True while a connection is open or being made. */
function isOpen(totals: EdgeTotals): boolean {
  return totals.attempted > endedOf(totals)
}

/** Attempts are not looked at: no metric has them. */
function hasGrown(now: EdgeTotals, before: EdgeTotals): boolean {
  return (
    now.opened > before.opened ||
    now.sent > before.sent ||
    now.received > before.received ||
    now.ended.some((count, outcome) => count > before.ended[outcome]!)
  )
}

function grown(now: number, before: number): number {
  return Math.max(0, now - before)
}

function largerOf(a: EdgeTotals, b: EdgeTotals): EdgeTotals {
  const larger = new EdgeTotals()
  larger.attempted = Math.max(a.attempted, b.attempted)
  larger.opened = Math.max(a.opened, b.opened)
  larger.sent = Math.max(a.sent, b.sent)
  larger.received = Math.max(a.received, b.received)
  larger.roundTripUs = Math.max(a.roundTripUs, b.roundTripUs)
  for (let i = 0; i < larger.ended.length; i++) larger.ended[i] = Math.max(a.ended[i]!, b.ended[i]!)
  for (let i = 0; i < larger.roundTrips.length; i++) larger.roundTrips[i] = Math.max(a.roundTrips[i]!, b.roundTrips[i]!)
  return larger
}
