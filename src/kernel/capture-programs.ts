/**
 * The eBPF programs of one agent: the connect hooks, attached once to a cgroup, and one sk_lookup instance per pod netns.
 * Holds the maps they share. Everything is attached by links, and maps and links are pinned.
 *
 *      <pin directory>/maps/<name>    links/weft_connect4    links/weft_connect6    pods/<netns cookie>
 */
import { closeSync, openSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { type Addon, kernelError, type LoadedObject, NATIVE_BUILD_DIRECTORY } from './addon.ts'
import { BpfDirectory } from './bpf-directory.ts'
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

/** The maps of maps.h; an object's own constants are not among them. */
const SHARED_MAPS = [
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
] as const

export interface CaptureProgramsOptions {
  /** Processes in this cgroup (v2) and below it are captured, if their netns is enrolled. */
  readonly cgroupPath: string
  /** A directory of this agent's own, in a bpf file system or not (then one is mounted there). */
  readonly pinDirectory: string
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
  readonly dnsPods: DnsPodMap
  readonly resolvers: ResolverMap
  readonly dnsStats: DnsStatsMap
  /** Descriptor of the addresses of resolvers, for the data workers; open until `close`. */
  readonly resolverMapFd: number
  /** Descriptor of the map that exempts sockets, open until `close`. */
  readonly exemptMapFd: number
  /** Descriptor of the heartbeats, for the data workers; open until `close`. */
  readonly heartbeatMapFd: number
  private readonly addon: Addon
  private readonly directory: BpfDirectory
  private readonly lookupObjectPath: string
  private readonly mapFds: Readonly<Record<string, number>>
  private readonly linkFds: number[]
  private isClosed = false

  private constructor(
    addon: Addon,
    directory: BpfDirectory,
    lookupObjectPath: string,
    mapFds: Readonly<Record<string, number>>,
    linkFds: number[],
  ) {
    this.addon = addon
    this.directory = directory
    this.lookupObjectPath = lookupObjectPath
    this.mapFds = mapFds
    this.linkFds = linkFds
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
    this.exemptMapFd = mapFds['exempt_sockets']!
    this.heartbeatMapFd = mapFds['heartbeats']!
  }

  /** Loads, pins and attaches. Throws WeftError WEFT_BPF, WEFT_SYSCALL or WEFT_CONFIG; then nothing is left behind. */
  static open(addon: Addon, options: CaptureProgramsOptions): CapturePrograms {
    const build = options.buildDirectory ?? NATIVE_BUILD_DIRECTORY
    const directory = BpfDirectory.open(addon, options.pinDirectory)
    let loaded: LoadedObject | null = null
    let sockops: LoadedObject | null = null
    let dns: LoadedObject | null = null
    const linkFds: number[] = []
    try {
      loaded = loadObject(addon, join(build, 'connect.bpf.o'), {}, null)
      const mapFds: Record<string, number> = {}
      for (const name of SHARED_MAPS) {
        mapFds[name] = loaded.maps[name]!
        pin(addon, mapFds[name], join(directory.path, 'maps', name))
      }
      sockops = loadObject(addon, join(build, 'sockops.bpf.o'), mapFds, null)
      dns = loadObject(addon, join(build, 'dns.bpf.o'), mapFds, null)
      const programs = { ...loaded.programs, ...sockops.programs, ...dns.programs }
      attachToCgroup(addon, programs, options.cgroupPath, join(directory.path, 'links'), linkFds)
      return new CapturePrograms(addon, directory, join(build, 'sk_lookup.bpf.o'), mapFds, linkFds)
    } catch (error) {
      closeAll(linkFds)
      if (loaded !== null) closeAll(Object.values(loaded.maps))
      directory.close()
      throw error
    } finally {
      // Links hold the programs.
      if (loaded !== null) closeAll(Object.values(loaded.programs))
      for (const object of [sockops, dns]) {
        if (object !== null) closeAll([...Object.values(object.programs), ...Object.values(object.maps)])
      }
    }
  }

  /** Descriptor of the storage of sockets that are carried; open until `close`. */
  get carriedSocketsFd(): number {
    return this.mapFds['carried_sockets']!
  }

  /** A reader of the events, to be closed by the caller. There must be one at a time, in all processes. */
  openEvents(): EventRing {
    return EventRing.open(this.addon, this.mapFds['events']!)
  }

  /** Attaches an sk_lookup instance to a pod's netns. Throws WeftError WEFT_BPF naming the pod. */
  attachPod(netnsFd: number, netnsCookie: bigint, podName: string): PodLink {
    const loaded = loadObject(this.addon, this.lookupObjectPath, this.mapFds, encodeCookie(netnsCookie))
    let fd = -1
    try {
      fd = this.addon.attachLink(loaded.programs['weft_sk_lookup']!, netnsFd, BPF_SK_LOOKUP)
      const path = join(this.directory.path, 'pods', String(netnsCookie))
      pin(this.addon, fd, path)
      return { fd, pin: path }
    } catch (error) {
      if (fd >= 0) closeSync(fd)
      throw kernelError('WEFT_BPF', `the sk_lookup program cannot be attached to pod ${podName}`, error)
    } finally {
      closeAll(Object.values(loaded.programs))
      // Duplicates of the shared maps, and the constants, which the program holds.
      closeAll(Object.values(loaded.maps))
    }
  }

  /** Detaches it; a netns that is gone has done so itself. */
  detachPod(link: PodLink): void {
    unlinkSync(link.pin)
    closeSync(link.fd)
  }

  /** Detaches the connect hooks and removes all pins. Pods must have been detached. Calling it again does nothing. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    closeAll(this.linkFds.splice(0))
    this.directory.close()
    closeAll(Object.values(this.mapFds))
  }
}

function loadObject(
  addon: Addon,
  path: string,
  sharedMaps: Readonly<Record<string, number>>,
  constants: Uint8Array | null,
): LoadedObject {
  try {
    return addon.loadObject(path, sharedMaps, constants)
  } catch (error) {
    throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be loaded`, error)
  }
}

function attachToCgroup(
  addon: Addon,
  programs: Readonly<Record<string, number>>,
  cgroupPath: string,
  linksDirectory: string,
  linkFds: number[],
): void {
  let cgroupFd: number
  try {
    cgroupFd = openSync(cgroupPath, 'r')
  } catch (error) {
    throw kernelError('WEFT_SYSCALL', `the cgroup ${cgroupPath} cannot be opened`, error)
  }
  try {
    const hooks: [string, number][] = [
      ['weft_connect4', BPF_CGROUP_INET4_CONNECT],
      ['weft_connect6', BPF_CGROUP_INET6_CONNECT],
      ['weft_getpeername4', BPF_CGROUP_INET4_GETPEERNAME],
      ['weft_getpeername6', BPF_CGROUP_INET6_GETPEERNAME],
      ['weft_sockops', BPF_CGROUP_SOCK_OPS],
      ['weft_sendmsg4', BPF_CGROUP_UDP4_SENDMSG],
      ['weft_sendmsg6', BPF_CGROUP_UDP6_SENDMSG],
      ['weft_recvmsg4', BPF_CGROUP_UDP4_RECVMSG],
      ['weft_recvmsg6', BPF_CGROUP_UDP6_RECVMSG],
    ]
    for (const [name, attachType] of hooks) {
      try {
        linkFds.push(addon.attachLink(programs[name]!, cgroupFd, attachType))
      } catch (error) {
        const what = `program ${name} cannot be attached to ${cgroupPath}; is it a directory of a cgroup2 file system?`
        throw kernelError('WEFT_BPF', what, error)
      }
      pin(addon, linkFds.at(-1)!, join(linksDirectory, name))
    }
  } finally {
    closeSync(cgroupFd)
  }
}

function pin(addon: Addon, fd: number, path: string): void {
  try {
    addon.pinObject(fd, path)
  } catch (error) {
    throw kernelError('WEFT_BPF', `${path} cannot be pinned`, error)
  }
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd)
}
