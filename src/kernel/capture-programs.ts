/**
 * The eBPF programs of one agent: the hooks that are attached once, to a cgroup, and one sk_lookup instance per pod netns.
 * Holds the maps they share. Everything is attached by links, and maps and links are pinned: they outlive the agent, and
 * the next one takes them over (bpf-directory.ts, map-set.ts, attachments.ts).
 */
import { closeSync, existsSync, fstatSync, openSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describeError, WeftError } from '../base/errors.ts'
import { type Addon, type DescribedMap, kernelError, NATIVE_BUILD_DIRECTORY } from './addon.ts'
import { Attachments } from './attachments.ts'
import { BpfDirectory } from './bpf-directory.ts'
import { BackendMap, FrontendMap, VerdictMap } from './carry-maps.ts'
import { denialConstants, whyErrorsCannotBeChosen } from './denial.ts'
import { DnsPodMap, DnsStatsMap, ResolverMap } from './dns-maps.ts'
import { EdgeMap } from './edge-map.ts'
import { EventRing } from './event-ring.ts'
import { type LayoutStamp, writeStamp } from './layout-stamp.ts'
import { openMapSet, pinMapSet, STAMP_MAP } from './map-set.ts'
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
  PIECE_SET_RETVAL,
  PIECE_SOCKOPS,
  PIECE_UPDATE,
} from './optional-pieces.ts'
import type { InspectedMaps } from './pod-inspection.ts'
import { UDP_MAPS } from './udp-edge-map.ts'
import { AbsenceJournalMap, lastBeatNs, UnservedMap } from './unserved.ts'

// Numbers of `enum bpf_attach_type` in linux/bpf.h.
const BPF_CGROUP_INET4_CONNECT = 10
const BPF_CGROUP_INET6_CONNECT = 11
const BPF_CGROUP_SOCK_OPS = 3
const BPF_CGROUP_UDP4_SENDMSG = 14
const BPF_CGROUP_UDP6_SENDMSG = 15
const BPF_CGROUP_UDP4_RECVMSG = 19
const BPF_CGROUP_UDP6_RECVMSG = 20
const BPF_CGROUP_INET4_GETPEERNAME = 29
const BPF_CGROUP_INET6_GETPEERNAME = 30
const BPF_SK_LOOKUP = 36

/** The maps that the objects share; an object's own constants are not among them. */
const SHARED_MAPS = [
  STAMP_MAP,
  'pods',
  'own_addresses',
  'listeners',
  'serving_workers',
  'heartbeats',
  'exempt_sockets',
  'steered_sockets',
  'bound_syns',
  'frontends',
  'backends',
  'verdicts',
  'flows',
  'carried_sockets',
  'edges',
  'edges_accounted',
  'events',
  'dns_pods',
  'resolvers',
  'resolver_addresses',
  'dns_stats',
  'stats',
  'unserved',
  'absences',
  ...UDP_MAPS,
] as const

/** A program and the hook of the cgroup it goes to. */
interface Hook {
  readonly program: string
  readonly attachType: number
  /** What is missing without it, as people call it; null when nothing works without it. */
  readonly piece: string | null
}

const CONNECT_OBJECT = 'connect.bpf.o'

/** What is attached to the cgroup, by the object that has it. The first has all shared maps. */
const OBJECTS: readonly { readonly file: string; readonly hooks: readonly Hook[] }[] = [
  {
    file: CONNECT_OBJECT,
    hooks: [
      { program: 'weft_connect4', attachType: BPF_CGROUP_INET4_CONNECT, piece: null },
      { program: 'weft_connect6', attachType: BPF_CGROUP_INET6_CONNECT, piece: null },
      { program: 'weft_getpeername4', attachType: BPF_CGROUP_INET4_GETPEERNAME, piece: PIECE_GETPEERNAME },
      { program: 'weft_getpeername6', attachType: BPF_CGROUP_INET6_GETPEERNAME, piece: PIECE_GETPEERNAME },
    ],
  },
  {
    file: 'sockops.bpf.o',
    hooks: [{ program: 'weft_sockops', attachType: BPF_CGROUP_SOCK_OPS, piece: PIECE_SOCKOPS }],
  },
  {
    file: 'dns.bpf.o',
    hooks: [
      { program: 'weft_sendmsg4', attachType: BPF_CGROUP_UDP4_SENDMSG, piece: PIECE_MESSAGES },
      { program: 'weft_sendmsg6', attachType: BPF_CGROUP_UDP6_SENDMSG, piece: PIECE_MESSAGES },
      { program: 'weft_recvmsg4', attachType: BPF_CGROUP_UDP4_RECVMSG, piece: PIECE_MESSAGES },
      { program: 'weft_recvmsg6', attachType: BPF_CGROUP_UDP6_RECVMSG, piece: PIECE_MESSAGES },
    ],
  },
]

/** What became of the pins that were found. */
export type Takeover = 'fresh' | 'taken-over' | 'replaced'

export interface CaptureProgramsOptions {
  /** Processes in this cgroup (v2) and below it are captured, if their netns is enrolled. */
  readonly cgroupPath: string
  /** A directory of this agent's own, in a bpf file system or not (then one is mounted there). */
  readonly pinDirectory: string
  /** Of this program, for people who look at its pins. */
  readonly version?: string
  readonly buildDirectory?: string
}

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
    this.inspected = { pods: map('pods'), ownAddresses: map('own_addresses'), listeners: map('listeners') }
    this.exemptMapFd = mapFds['exempt_sockets']!
    this.heartbeatMapFd = mapFds['heartbeats']!
  }

  /**
   * Takes over what an earlier agent has pinned, or makes it anew; then loads, pins and attaches. Throws WeftError
   * WEFT_BPF, WEFT_SYSCALL, WEFT_UNSUPPORTED or WEFT_CONFIG; then what was found is still in force, and nothing is left of
   * what was not.
   */
  static open(addon: Addon, options: CaptureProgramsOptions): CapturePrograms {
    const directory = BpfDirectory.open(addon, options.pinDirectory)
    const opening = new Opening(addon, directory, options)
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

/** What opening has come to. */
interface Opened {
  readonly mapFds: Readonly<Record<string, number>>
  readonly linkFds: number[]
  readonly attachments: Attachments
  readonly missing: readonly AbsentPiece[]
  readonly stamp: LayoutStamp
  readonly takeover: Takeover
  readonly previousVersion: string
}

/** One attempt to open, and what it has made so far. */
class Opening {
  private readonly addon: Addon
  private readonly directory: BpfDirectory
  private readonly options: CaptureProgramsOptions
  private readonly build: string
  private readonly attachments: Attachments
  private readonly linkFds: number[] = []
  private readonly missing = new Map<string, AbsentPiece>()
  private mapFds: Record<string, number> = {}
  private takeover: Takeover = 'fresh'

  constructor(addon: Addon, directory: BpfDirectory, options: CaptureProgramsOptions) {
    this.addon = addon
    this.directory = directory
    this.options = options
    this.build = options.buildDirectory ?? NATIVE_BUILD_DIRECTORY
    this.attachments = new Attachments(addon, directory)
  }

  run(): Opened {
    const { addon, directory, attachments } = this
    const found = openMapSet(addon, directory, this.wantedMaps())
    const hasPins = directory.pinned('maps').length + directory.pinned('links').length > 0
    if (found.fds !== null) this.takeover = 'taken-over'
    else if (hasPins || directory.hasOldSet) this.takeover = 'replaced'
    if (found.fds === null && hasPins) directory.setAside(found.stamp !== null)
    for (const kind of ['links', 'pods'] as const) directory.settleReplacements(kind)
    this.mapFds = { ...found.fds }
    const cgroupFd = this.openCgroup()
    let stamp: LayoutStamp | null = found.fds === null ? null : found.stamp
    try {
      for (const { file, hooks } of OBJECTS) {
        const programs = this.load(file, hooks)
        try {
          // Half of a set is never used: the maps are pinned before the first program can fill them.
          stamp ??= pinMapSet(addon, directory, this.mapFds, this.options.version ?? '')
          this.attach(programs, hooks, cgroupFd)
        } finally {
          // Links hold the programs.
          closeAll(Object.values(programs))
        }
      }
    } finally {
      closeSync(cgroupFd)
    }
    const { mapFds, linkFds, takeover } = this
    if (found.fds !== null) writeStamp(addon, mapFds[STAMP_MAP]!, { ...stamp!, version: this.options.version ?? '' })
    const missing = [...this.missing.values()]
    const previousVersion = found.stamp?.version ?? ''
    return { mapFds, linkFds, attachments, missing, stamp: stamp!, takeover, previousVersion }
  }

  /** What was found stays in force, also when it was set aside. */
  undo(): void {
    closeAll(this.linkFds)
    closeAll(Object.values(this.mapFds))
    if (this.takeover === 'fresh') this.directory.remove()
    else this.directory.unlock()
  }

  private wantedMaps(): DescribedMap[] {
    const { maps } = describeObject(this.addon, join(this.build, OBJECTS[0]!.file))
    return SHARED_MAPS.map((name) => maps.find((map) => map.name === name)!)
  }

  private openCgroup(): number {
    const { cgroupPath } = this.options
    try {
      return openSync(cgroupPath, 'r')
    } catch (error) {
      throw kernelError('WEFT_SYSCALL', `the cgroup ${cgroupPath} cannot be opened`, error)
    }
  }

  /** Descriptors of the programs that this kernel takes. New maps are kept. */
  private load(file: string, hooks: readonly Hook[]): Readonly<Record<string, number>> {
    const path = join(this.build, file)
    const constants = file === CONNECT_OBJECT ? this.connectConstants() : null
    const optional = hooks.filter(({ piece }) => piece !== null)
    const leftOut: string[] = []
    for (;;) {
      try {
        const loaded = this.addon.loadObject(path, this.mapFds, constants, leftOut)
        for (const [name, fd] of Object.entries(loaded.maps)) {
          const isWanted = (SHARED_MAPS as readonly string[]).includes(name) && this.mapFds[name] === undefined
          if (isWanted) this.mapFds[name] = fd
          else closeSync(fd)
        }
        return loaded.programs
      } catch (error) {
        const isLast = leftOut.length > 0 || optional.length === 0
        if (isLast) throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be loaded`, error)
        for (const { program, piece } of optional) {
          leftOut.push(program)
          this.miss(piece!, error)
        }
        if (optional.length === hooks.length) return {}
      }
    }
  }

  private connectConstants(): Uint8Array {
    const failure = whyErrorsCannotBeChosen(this.addon, this.build)
    if (failure !== null) this.miss(PIECE_SET_RETVAL, failure)
    return denialConstants(failure === null)
  }

  private attach(programs: Readonly<Record<string, number>>, hooks: readonly Hook[], cgroupFd: number): void {
    const target = fstatSync(cgroupFd, { bigint: true }).ino
    for (const { program, attachType, piece } of hooks) {
      const programFd = programs[program]
      if (programFd === undefined) continue
      const attachment = { kind: 'links', name: program, programFd, targetFd: cgroupFd, target, attachType } as const
      try {
        this.linkFds.push(this.attachments.attach(attachment))
      } catch (error) {
        if (error instanceof WeftError) throw error
        if (piece === null) throw this.attachError(program, cgroupFd, attachType, error)
        this.miss(piece, error)
      }
    }
  }

  private attachError(program: string, cgroupFd: number, attachType: number, error: unknown): WeftError {
    const { cgroupPath } = this.options
    const what = `program ${program} cannot be attached to ${cgroupPath}`
    const other = this.programInTheWay(cgroupFd, attachType, error)
    if (other === '') return kernelError('WEFT_BPF', `${what}; is it a directory of a cgroup2 file system?`, error)
    return new WeftError('WEFT_CONFIG', `${what}: ${other} is attached to it or above it and allows no others`, error)
  }

  /** Who keeps others from the hook; empty when nobody does. */
  private programInTheWay(cgroupFd: number, attachType: number, error: unknown): string {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return ''
    try {
      const [found] = this.addon.attachedPrograms(cgroupFd, attachType)
      return found === undefined ? 'another program' : `program ${found.name} (id ${found.id})`
    } catch {
      return ''
    }
  }

  private miss(piece: string, error: unknown): void {
    const reason = describeError(error)
    if (!this.missing.has(piece)) this.missing.set(piece, { piece, fallback: FALLBACKS[piece]!, reason })
  }
}

function describeObject(addon: Addon, path: string): ReturnType<Addon['describeObject']> {
  try {
    return addon.describeObject(path)
  } catch (error) {
    throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be read`, error)
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

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd)
}
