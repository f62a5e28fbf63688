/** The connections that the real kernel carries: maps of the programs, and sockets in the netns of pods. */
import type { Addon } from '../kernel/addon.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { type CarriedSocket, carriedSocketsIn } from '../kernel/carried-sockets.ts'
import type { EdgeMap } from '../kernel/edge-map.ts'
import type { EventRing } from '../kernel/event-ring.ts'
import {
  STAT_EDGES_LOST,
  STAT_EVENTS_LOST,
  STAT_KERNEL_CARRIED,
  STAT_KERNEL_DENIED,
} from '../kernel/layout.generated.ts'
import type { CarriedCounters, CarriedSource } from './carried-source.ts'

/** What an EbpfCapture has of carried connections. Uses its descriptors: it must not outlive the capture. */
export class KernelCarried implements CarriedSource {
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly netnsOf: (pod: number) => number | null

  /** `netnsOf` gives the descriptor of a captured pod's netns by the programs' number of the pod. */
  constructor(addon: Addon, programs: CapturePrograms, netnsOf: (pod: number) => number | null) {
    this.addon = addon
    this.programs = programs
    this.netnsOf = netnsOf
  }

  get edges(): EdgeMap {
    return this.programs.edges
  }

  get accounted(): EdgeMap {
    return this.programs.accountedEdges
  }

  isCaptured(pod: number): boolean {
    return this.netnsOf(pod) !== null
  }

  socketsOf(pod: number): readonly CarriedSocket[] {
    const netnsFd = this.netnsOf(pod)
    return netnsFd === null ? [] : carriedSocketsIn(this.addon, netnsFd, this.programs.mapFds['carried_sockets']!)
  }

  openEvents(): EventRing {
    return this.programs.openEvents()
  }

  counters(): CarriedCounters {
    const { stats } = this.programs
    return {
      carried: stats.read(STAT_KERNEL_CARRIED),
      denied: stats.read(STAT_KERNEL_DENIED),
      eventsLost: stats.read(STAT_EVENTS_LOST),
      edgesLost: stats.read(STAT_EDGES_LOST),
    }
  }
}
