/**
 * The eBPF programs of one agent: the hooks that are attached once, to a cgroup, and one sk_lookup instance per pod netns.
 * Holds the maps they share. Everything is attached by links, and maps and links are pinned: they outlive the agent, and
 * the next one takes them over (bpf-directory.ts, map-set.ts, attachments.ts).
 */
import { closeSync, existsSync, fstatSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { type Addon, kernelError, NATIVE_BUILD_DIRECTORY } from './addon.ts'
import type { Attachments } from './attachments.ts'
import { BpfDirectory } from './bpf-directory.ts'
import { CaptureOpening, type CaptureProgramsOptions, closeAll, type Opened, type Takeover } from './capture-opening.ts'
import { BackendMap, FrontendMap, VerdictMap } from './carry-maps.ts'
import { DnsPodMap, DnsStatsMap, ResolverMap } from './dns-maps.ts'
import { EdgeMap } from './edge-map.ts'
import { EventRing } from './event-ring.ts'
import {
  encodeCookie,
  HeartbeatMap,
  KernelMap,
  ListenerMap,
  OwnAddressMap,
  PodMap,
  ServingWorkersMap,
  StatsMap,
} from './maps.ts'
import {
  type AbsentPiece,
  FALLBACKS,
  PIECE_GETPEERNAME,
  PIECE_MESSAGES,
  PIECE_SOCKOPS,
  PIECE_UPDATE,
} from './optional-pieces.ts'
import type { InspectedMaps } from './pod-inspection.ts'
import { ProbedMap } from './probed-map.ts'
import { AbsenceJournalMap, lastBeatNs, UnservedMap } from './unserved.ts'

/** Of `enum bpf_attach_type` in linux/bpf.h. */
const BPF_SK_LOOKUP = 36

/** The sk_lookup instance of one pod. */
export interface PodLink {
  readonly fd: number
  readonly pin: string
}

export class CapturePrograms {
  readonly pods: PodMap
  readonly ownAddresses: OwnAddressMap
  readonly listeners: ListenerMap
  readonly servingWorkers: ServingWorkersMap
  readonly heartbeats: HeartbeatMap
  readonly frontends: FrontendMap
  readonly backends: BackendMap
  readonly verdicts: VerdictMap
  readonly probed: ProbedMap
  readonly edges: EdgeMap
  readonly accountedEdges: EdgeMap
  readonly stats: StatsMap
  readonly unserved: UnservedMap
  readonly absences: AbsenceJournalMap
  /** The latest heartbeat before these programs were opened; 0 when there was none. */
  readonly beatBeforeNs: bigint
  /** For `inspectPod`. */
  readonly inspected: InspectedMaps
  readonly dnsPods: DnsPodMap
  readonly resolvers: ResolverMap
  readonly dnsStats: DnsStatsMap
  /** Descriptor of the addresses of resolvers, for the data workers; open until `close`. */
  readonly resolverMapFd: number
  /** Descriptors of the shared maps by name; open until `close`. */
  readonly mapFds: Readonly<Record<string, number>>
  /** Descriptor of the map that exempts sockets, open until `close`. */
  readonly exemptMapFd: number
  /** Descriptor of the heartbeats, for the data workers; open until `close`. */
  readonly heartbeatMapFd: number
  /** Descriptor of the map of their threads, likewise. */
  readonly threadMapFd: number
  /** Which set of maps this is: see LayoutStamp. */
  readonly epoch: bigint
  readonly takeover: Takeover
  /** Of the agent that had the maps before, as its stamp says; empty when there was none. */
  readonly previousVersion: string
  private readonly addon: Addon
  private readonly directory: BpfDirectory
  private readonly attachments: Attachments
  private readonly lookupObjectPath: string
  private readonly linkFds: number[]
  private readonly missingPieces: readonly AbsentPiece[]
  private isReleased = false
  private isClosed = false

  private constructor(addon: Addon, directory: BpfDirectory, options: CaptureProgramsOptions, opened: Opened) {
    const { mapFds } = opened
    this.addon = addon
    this.directory = directory
    this.attachments = opened.attachments
    this.lookupObjectPath = join(options.buildDirectory ?? NATIVE_BUILD_DIRECTORY, 'sk_lookup.bpf.o')
    this.mapFds = mapFds
    this.linkFds = opened.linkFds
    this.missingPieces = opened.missing
    this.epoch = opened.stamp.epoch
    this.takeover = opened.takeover
    this.previousVersion = opened.previousVersion
    this.pods = new PodMap(new KernelMap(addon, mapFds['pods']!))
    this.ownAddresses = new OwnAddressMap(new KernelMap(addon, mapFds['own_addresses']!))
    this.listeners = new ListenerMap(new KernelMap(addon, mapFds['listeners']!))
    this.servingWorkers = new ServingWorkersMap(new KernelMap(addon, mapFds['serving_workers']!))
    this.heartbeats = new HeartbeatMap(new KernelMap(addon, mapFds['heartbeats']!))
    this.frontends = new FrontendMap(new KernelMap(addon, mapFds['frontends']!))
    this.backends = new BackendMap(new KernelMap(addon, mapFds['backends']!))
    this.verdicts = new VerdictMap(new KernelMap(addon, mapFds['verdicts']!))
    this.probed = new ProbedMap(new KernelMap(addon, mapFds['probed']!))
    this.edges = new EdgeMap(new KernelMap(addon, mapFds['edges']!))
    this.accountedEdges = new EdgeMap(new KernelMap(addon, mapFds['edges_accounted']!))
    this.stats = new StatsMap(new KernelMap(addon, mapFds['stats']!))
    this.unserved = new UnservedMap(new KernelMap(addon, mapFds['unserved']!))
    this.absences = new AbsenceJournalMap(new KernelMap(addon, mapFds['absences']!))
    this.beatBeforeNs = lastBeatNs(new KernelMap(addon, mapFds['heartbeats']!))
    const resolverAddresses = new KernelMap(addon, mapFds['resolver_addresses']!)
    this.dnsPods = new DnsPodMap(new KernelMap(addon, mapFds['dns_pods']!))
    this.resolvers = new ResolverMap(new KernelMap(addon, mapFds['resolvers']!), resolverAddresses)
    this.dnsStats = new DnsStatsMap(new KernelMap(addon, mapFds['dns_stats']!))
    this.resolverMapFd = resolverAddresses.fd
    const map = (name: string): KernelMap => new KernelMap(addon, mapFds[name]!)
    this.inspected = {
      pods: map('pods'),
      ownAddresses: map('own_addresses'),
      listeners: map('listeners'),
      dnsPods: map('dns_pods'),
    }
    this.exemptMapFd = mapFds['exempt_sockets']!
    this.heartbeatMapFd = mapFds['heartbeats']!
    this.threadMapFd = mapFds['worker_threads']!
  }

  /**
   * Takes over what an earlier agent has pinned, or makes it anew; then loads, pins and attaches. Throws WeftError
   * WEFT_BPF, WEFT_SYSCALL, WEFT_UNSUPPORTED or WEFT_CONFIG; then what was found is still in force, and nothing is left of
   * what was not.
   */
  static open(addon: Addon, options: CaptureProgramsOptions): CapturePrograms {
    const directory = BpfDirectory.open(addon, options.pinDirectory)
    const opening = new CaptureOpening(addon, directory, options)
    try {
      return new CapturePrograms(addon, directory, options, opening.run())
    } catch (error) {
      opening.undo()
      throw error
    }
  }

  /** What this kernel cannot do, and what happens instead. May grow while pods are attached. */
  get missing(): readonly AbsentPiece[] {
    const { updateFailure } = this.attachments
    if (updateFailure === '') return this.missingPieces
    const absent = { piece: PIECE_UPDATE, fallback: FALLBACKS[PIECE_UPDATE]!, reason: updateFailure }
    return [...this.missingPieces, absent]
  }

  /** False when a piece is missing without which the kernel must not carry connections by itself. */
  get canCarry(): boolean {
    return !this.missingPieces.some(({ piece }) => piece === PIECE_GETPEERNAME || piece === PIECE_SOCKOPS)
  }

  /** False when a piece is missing without which DNS must not be captured. */
  get canCaptureDns(): boolean {
    return !this.missingPieces.some(({ piece }) => piece === PIECE_MESSAGES || piece === PIECE_GETPEERNAME)
  }

  /** A reader of the events, to be closed by the caller. There must be one at a time, in all processes. */
  openEvents(): EventRing {
    return EventRing.open(this.addon, this.mapFds['events']!)
  }

  // --- pods ---

  /** Netns cookies of the pods that have an sk_lookup instance. */
  attachedPods(): bigint[] {
    return this.directory.pinned('pods').filter(isCookie).map(BigInt)
  }

  /** False when the pod's netns is gone, or it has no sk_lookup instance. */
  hasNetns(netnsCookie: bigint): boolean {
    return this.netnsInode(netnsCookie) !== 0n
  }

  /** Inode number of the netns of a pod that has an sk_lookup instance; 0 when that is gone. */
  netnsInode(netnsCookie: bigint): bigint {
    let fd = -1
    try {
      fd = this.addon.openPinned(this.directory.pathOf('pods', String(netnsCookie)))
      return this.addon.describeLink(fd).target
    } catch {
      return 0n
    } finally {
      if (fd >= 0) closeSync(fd)
    }
  }

  /**
   * Attaches an sk_lookup instance to a pod's netns, in place of the one that is there. Throws WeftError WEFT_BPF naming
   * the pod.
   */
  attachPod(netnsFd: number, netnsCookie: bigint, podName: string): PodLink {
    const loaded = loadObject(this.addon, this.lookupObjectPath, this.mapFds, encodeCookie(netnsCookie))
    const name = String(netnsCookie)
    try {
      const fd = this.attachments.attach({
        kind: 'pods',
        name,
        programFd: loaded.programs['weft_sk_lookup']!,
        targetFd: netnsFd,
        target: fstatSync(netnsFd, { bigint: true }).ino,
        attachType: BPF_SK_LOOKUP,
      })
      return { fd, pin: this.directory.pathOf('pods', name) }
    } catch (error) {
      throw kernelError('WEFT_BPF', `the sk_lookup program cannot be attached to pod ${podName}`, error)
    } finally {
      closeAll(Object.values(loaded.programs))
      // Duplicates of the shared maps, and the constants, which the program holds.
      closeAll(Object.values(loaded.maps))
    }
  }

  /** Detaches it; a netns that is gone has done so itself. */
  detachPod(link: PodLink): void {
    this.detach(link.pin)
    closeSync(link.fd)
  }

  /** The same for a pod of an earlier agent. */
  detachFoundPod(netnsCookie: bigint): void {
    this.detach(this.directory.pathOf('pods', String(netnsCookie)))
  }

  /** Forgets that a pod's DNS was captured, and which resolvers it asked. */
  forgetDns(netnsCookie: bigint): void {
    if (this.dnsPods.delete(netnsCookie)) this.resolvers.forget(netnsCookie)
  }

  /** The greatest number that a pod has had in these maps. */
  greatestPodId(): number {
    let greatest = 0
    for (const { id } of this.pods.entries().values()) greatest = Math.max(greatest, id)
    for (const { pair } of this.verdicts.entries()) greatest = Math.max(greatest, pair.source, pair.destination)
    for (const { backend } of this.backends.entries()) greatest = Math.max(greatest, backend.pod)
    for (const { ids } of this.edges.all()) greatest = Math.max(greatest, ids.source, ids.destination)
    return greatest
  }

  /** Removes what the maps say of pods that `isGone` says are: nobody is carried to them any more. Counters stay. */
  forgetPods(isGone: (id: number) => boolean): void {
    for (const { port, pod } of this.probed.entries()) if (isGone(pod)) this.probed.delete(port)
    for (const { pair } of this.verdicts.entries()) {
      if (isGone(pair.source) || isGone(pair.destination)) this.verdicts.delete(pair)
    }
    for (const { service, slot, backend } of this.backends.entries()) {
      if (backend.pod !== 0 && isGone(backend.pod)) this.backends.insert(service, slot, { ...backend, pod: 0 })
    }
  }

  private detach(pin: string): void {
    if (existsSync(pin)) unlinkSync(pin)
  }

  // --- ending ---

  /** Removes the set that `takeover` has 'replaced'. To be called when the pods are captured by this one. */
  removeReplaced(): void {
    this.directory.removeOldSet()
  }

  /** Paths in the pin directory that are nobody's. */
  strangers(): readonly string[] {
    return this.directory.strangers()
  }

  /** Gives the pins up: they stay in force, and another agent may take them over. The maps can be used until `close`. */
  release(): void {
    if (this.isReleased) return
    this.isReleased = true
    closeAll(this.linkFds.splice(0))
    this.directory.unlock()
  }

  /** The agent to which they were released is dead: see `BpfDirectory.reclaim`. */
  resume(): void {
    this.directory.reclaim()
    this.isReleased = false
  }

  /** Detaches the hooks and removes all pins. The maps can be used until `close`. */
  abandon(): void {
    if (this.isReleased) return
    this.isReleased = true
    closeAll(this.linkFds.splice(0))
    this.directory.remove()
  }

  /**
   * Detaches the hooks and removes all pins, unless they were given up; closes all descriptors. Pods must have been
   * detached. Calling it again does nothing.
   */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.abandon()
    closeAll(Object.values(this.mapFds))
  }
}

function loadObject(
  addon: Addon,
  path: string,
  sharedMaps: Readonly<Record<string, number>>,
  constants: Uint8Array | null,
): ReturnType<Addon['loadObject']> {
  try {
    return addon.loadObject(path, sharedMaps, constants)
  } catch (error) {
    throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be loaded`, error)
  }
}

function isCookie(name: string): boolean {
  return /^[0-9]{1,20}$/.test(name)
}
