/**
 * What the kernel tells of the connections that it carries, as the rest of the agent sees it: counters by edge, sockets that
 * are open, events, and what earlier agents have put into their metrics.
 */

import type { CarriedSocket } from '../kernel/carried-sockets.ts'
import type { EdgeMap } from '../kernel/edge-map.ts'
import type { EventRing } from '../kernel/event-ring.ts'

/** What the kernel tells. */
export interface CarriedSource {
  readonly edges: Pick<EdgeMap, 'all' | 'delete'>
  /** Kept by the kernel while no agent runs. */
  readonly accounted: Pick<EdgeMap, 'all' | 'write' | 'delete'>
  /** False for a pod that is not captured (yet), or no more. */
  isCaptured(pod: number): boolean
  /** Open connections that a pod has made; none for a pod that is not captured. Throws WeftError. */
  socketsOf(pod: number): readonly CarriedSocket[]
  /** There must be one reader at a time, in all processes. */
  openEvents(): Pick<EventRing, 'read' | 'close'>
  /** Counters of the programs since their maps were made. */
  counters(): CarriedCounters
}

/** See the STAT_ numbers of native/bpf/include/weft/maps.h. */
export interface CarriedCounters {
  readonly carried: number
  readonly denied: number
  readonly eventsLost: number
  readonly edgesLost: number
}
