/**
 * The pinned maps and links of a node, opened by somebody who is no agent, to look at them: `weft check --node`. Works
 * while the agent serves, and while there is none. Nothing is changed.
 */
import { closeSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { WeftError } from '../base/errors.ts'
import { type Addon, kernelError } from './addon.ts'
import { HEARTBEAT_MS_MAX, LAYOUT_HASH } from './layout.generated.ts'
import { readStamp } from './layout-stamp.ts'
import { HeartbeatMap, KernelMap, PodMap, ServingWorkersMap, StatsMap } from './maps.ts'
import type { InspectedMaps } from './pod-inspection.ts'
import { AbsenceJournalMap, lastBeatNs, UnservedMap } from './unserved.ts'

/** Maps that are looked at. */
const MAPS = [
  ...['pods', 'own_addresses', 'listeners', 'serving_workers', 'heartbeats'],
  ...['stats', 'unserved', 'absences', 'dns_pods'],
] as const

/** A data worker that the programs may choose. */
export interface ServingWorker {
  readonly slot: number
  /** Since its last heartbeat; -1 when it never beat. */
  readonly silentMs: number
  /** The programs give it connections. */
  readonly isAlive: boolean
}

/** See the head of the file. */
export class PinnedCapture {
  readonly pods: PodMap
  readonly stats: StatsMap
  readonly unserved: UnservedMap
  readonly absences: AbsenceJournalMap
  /** For `inspectPod`. */
  readonly maps: InspectedMaps
  private readonly addon: Addon
  private readonly directory: string
  private readonly fds: Readonly<Record<string, number>>

  private constructor(addon: Addon, directory: string, fds: Readonly<Record<string, number>>) {
    const map = (name: string): KernelMap => new KernelMap(addon, fds[name]!)
    this.addon = addon
    this.directory = directory
    this.fds = fds
    this.pods = new PodMap(map('pods'))
    this.stats = new StatsMap(map('stats'))
    this.unserved = new UnservedMap(map('unserved'))
    this.absences = new AbsenceJournalMap(map('absences'))
    this.maps = {
      pods: map('pods'),
      ownAddresses: map('own_addresses'),
      listeners: map('listeners'),
      dnsPods: map('dns_pods'),
    }
  }

  /** Null when nothing is pinned there. Throws WeftError: WEFT_CONFIG for maps of another build, WEFT_BPF. */
  static open(addon: Addon, directory: string): PinnedCapture | null {
    if (!existsSync(join(directory, 'maps'))) return null
    const stamp = readStamp(addon, join(directory, 'maps', 'layout'))
    if (stamp === null) return null
    if (stamp.hash !== LAYOUT_HASH) {
      const version = stamp.version === '' ? 'another version' : `version ${stamp.version}`
      throw new WeftError('WEFT_CONFIG', `the maps in ${directory} are of ${version} of weft; check with that one`)
    }
    const fds: Record<string, number> = {}
    try {
      for (const name of MAPS) fds[name] = addon.openPinned(join(directory, 'maps', name))
    } catch (error) {
      for (const fd of Object.values(fds)) closeSync(fd)
      throw kernelError('WEFT_BPF', `the maps in ${directory} cannot be opened`, error)
    }
    return new PinnedCapture(addon, directory, fds)
  }

  close(): void {
    for (const fd of Object.values(this.fds)) closeSync(fd)
  }

  /** `nowNs` is CLOCK_MONOTONIC. */
  workers(nowNs: bigint): ServingWorker[] {
    const heartbeats = new HeartbeatMap(new KernelMap(this.addon, this.fds['heartbeats']!))
    return new ServingWorkersMap(new KernelMap(this.addon, this.fds['serving_workers']!)).read().map((slot) => {
      const beatNs = heartbeats.read(slot)
      const silentMs = beatNs === 0n ? -1 : Math.max(0, Number((nowNs - beatNs) / 1_000_000n))
      return { slot, silentMs, isAlive: silentMs >= 0 && silentMs <= HEARTBEAT_MS_MAX }
    })
  }

  /** The latest heartbeat of any data worker, of whatever agent; 0 when there was none. */
  get lastBeatNs(): bigint {
    return lastBeatNs(new KernelMap(this.addon, this.fds['heartbeats']!))
  }

  /** Descriptor of a pinned link, to be closed by the caller; -1 when it is not there. */
  openLink(kind: 'links' | 'pods', name: string): number {
    try {
      return this.addon.openPinned(join(this.directory, kind, name))
    } catch {
      return -1
    }
  }

  /** True when the link is pinned and what it was attached to is still there. */
  isHooked(name: string): boolean {
    const fd = this.openLink('links', name)
    if (fd < 0) return false
    try {
      return this.addon.describeLink(fd).target !== 0n
    } finally {
      closeSync(fd)
    }
  }
}
