/**
 * What a data worker hands to the main thread at each collection: increments since the last one, as plain data that can
 * be posted between threads. Increments, so that a worker that dies takes nothing back that was counted.
 */

import type { DnsReport } from './dns-counts.ts'

/** What a series counts. */
export const SERIES_HTTP = 0
export const SERIES_TCP = 1
export const SERIES_MESSAGES = 2
export type SeriesKind = typeof SERIES_HTTP | typeof SERIES_TCP | typeof SERIES_MESSAGES

/** Outcomes of an edge are separate series; an id means the same series for the life of the worker. */
export interface SeriesDescription {
  readonly id: number
  readonly kind: SeriesKind
  /** Values for HTTP_LABELS with SERIES_HTTP, else for TCP_LABELS, in that order. */
  readonly labels: readonly string[]
}

/** Breaches of the rules of HTTP, by side of the proxy and reason. */
export interface ViolationCount {
  readonly side: string
  readonly reason: string
  readonly count: number
}

/** What a worker has counted since it was last asked. Plain data. */
export interface MetricsReport {
  /** Series that were not in an earlier report. */
  readonly newSeries: readonly SeriesDescription[]
  /** Series of edges that have not been used for long and are given up; their ids do not come again. */
  readonly retired: readonly number[]
  /** Ids of the series that changed, and HTTP_WIDTH, TCP_WIDTH or MESSAGES_WIDTH numbers for each, in the same order. */
  readonly httpIds: Uint32Array<ArrayBuffer>
  readonly httpValues: Float64Array<ArrayBuffer>
  readonly tcpIds: Uint32Array<ArrayBuffer>
  readonly tcpValues: Float64Array<ArrayBuffer>
  readonly messageIds: Uint32Array<ArrayBuffer>
  readonly messageValues: Float64Array<ArrayBuffer>
  /** Edges that were counted as `unknown` because of the limit. */
  readonly droppedEdges: number
  /** Outcomes that were counted under their status class because an edge had too many. */
  readonly foldedOutcomes: number
  readonly droppedLogLines: number
  readonly violations: readonly ViolationCount[]
  readonly dns: DnsReport
  /** Only one agent tells another of it: data workers do not see UDP. */
  readonly udp?: UdpReport
}

/** UDP of pods, of one pair of workloads. */
export interface UdpCount {
  readonly isSent: boolean
  /** Values of the labels of UDP. */
  readonly labels: readonly string[]
  readonly bytes: number
  readonly packets: number
}

export interface UdpReport {
  readonly counts: readonly UdpCount[]
  readonly overflows: number
}
