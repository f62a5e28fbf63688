/**
 * The directory under a bpf file system in which one agent pins its maps and links.
 *
 *      <directory>/maps/<name>    links/<program>    pods/<netns cookie>       in force
 *      <directory>/maps-old ...                                                a set of another layout, until it is replaced
 *
 * Pins keep the capture in force when the agent ends, however it ends; the next agent takes them over. A directory that
 * lies in no bpf file system gets one of its own, mounted at the directory, so nothing depends on how the host is set
 * up. A lock on the directory keeps two agents from sharing it. What others have put there is never removed.
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlinkSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { WeftError } from '../base/errors.ts'
import { type Addon, hasCode, kernelError } from './addon.ts'
import { readStamp } from './layout-stamp.ts'

/** `f_type` of a bpf file system (BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11

/** What an agent pins, in directories of their own: a fresh bpf file system may have files that cannot be removed. */
export const PIN_KINDS = ['maps', 'links', 'pods'] as const
export type PinKind = (typeof PIN_KINDS)[number]

/** Of a set that is being replaced. The kernel allows no dots in names. */
const OLD = '-old'
/** Of a link that is about to take the place of the one with the same name. */
const NEW = '-new'

/** The map whose pin completes a set: see map-set.ts. */
const STAMP_NAME = 'layout'

export class BpfDirectory {
  readonly path: string
  /** True when a bpf file system of the agent's own is mounted here. */
  readonly hasOwnMount: boolean
  private readonly addon: Addon
  private lockFd: number

  private constructor(addon: Addon, path: string, lockFd: number, hasOwnMount: boolean) {
    this.addon = addon
    this.path = path
    this.lockFd = lockFd
    this.hasOwnMount = hasOwnMount
  }

  /**
   * Makes, mounts if needed, and locks the directory. Throws WeftError: WEFT_CONFIG when another agent uses it or it is
   * nothing that can be used, WEFT_UNSUPPORTED without bpf file systems, else WEFT_SYSCALL.
   */
  static open(addon: Addon, path: string): BpfDirectory {
    let lockFd = -1
    try {
      makeDirectory(path)
      const hasOwnMount = ensureBpfFilesystem(addon, path)
      lockFd = addon.lockDirectory(path)
      for (const kind of PIN_KINDS) mkdirSync(join(path, kind), { recursive: true, mode: 0o700 })
      return new BpfDirectory(addon, path, lockFd, hasOwnMount)
    } catch (error) {
      if (lockFd >= 0) closeSync(lockFd)
      throw openError(addon, path, error)
    }
  }

  /**
   * For removing what is there: nothing is made. Null when there is no such directory in a bpf file system. With
   * `isForced` the lock is not asked for.
   */
  static openExisting(addon: Addon, path: string, isForced: boolean): BpfDirectory | null {
    if (!existsSync(path) || statfsSync(path).type !== BPF_FS_MAGIC) return null
    try {
      const lockFd = isForced ? -1 : addon.lockDirectory(path)
      return new BpfDirectory(addon, path, lockFd, isMountedByWeft(path))
    } catch (error) {
      throw openError(addon, path, error)
    }
  }

  pathOf(kind: PinKind, name: string): string {
    return join(this.path, kind, name)
  }

  /** In the set that was set aside. */
  pathOfOld(kind: PinKind, name: string): string {
    return join(this.path, kind + OLD, name)
  }

  /** Names of what is pinned, those of links that are being replaced left out. */
  pinned(kind: PinKind): string[] {
    const names = readdirSync(join(this.path, kind))
    return names.filter((name) => !name.endsWith(NEW))
  }

  /** Pins the link `fd` in place of the one with that name, if there is one: this has effect until the new one has. */
  replacePin(kind: PinKind, name: string, fd: number): void {
    const path = this.pathOf(kind, name)
    if (existsSync(path) && !this.isOurs(kind, name, path)) throw inTheWay(path)
    this.addon.pinObject(fd, path + NEW)
    if (existsSync(path)) unlinkSync(path)
    renameSync(path + NEW, path)
  }

  /** Completes or undoes replacements in the middle of which an agent was killed. */
  settleReplacements(kind: PinKind): void {
    for (const name of readdirSync(join(this.path, kind))) {
      if (!name.endsWith(NEW)) continue
      const path = this.pathOf(kind, name)
      const target = path.slice(0, -NEW.length)
      if (existsSync(target)) unlinkSync(path)
      else renameSync(path, target)
    }
  }

  /** How much is pinned, in all sets. */
  counts(): Readonly<Record<PinKind, number>> {
    const countOf = (kind: PinKind): number => this.paths(kind).length
    return { maps: countOf('maps'), links: countOf('links'), pods: countOf('pods') }
  }

  /** The pods with a program, in all sets; the inode number of a netns that is gone is 0. */
  pods(): { readonly netnsCookie: bigint; readonly inode: bigint }[] {
    return this.paths('pods').map((path) => {
      const fd = this.addon.openPinned(path)
      const { target: inode } = this.addon.describeLink(fd)
      closeSync(fd)
      return { netnsCookie: BigInt(basename(path).replace(NEW, '')), inode }
    })
  }

  private paths(kind: PinKind): string[] {
    const directories = [join(this.path, kind), join(this.path, kind + OLD)].filter((path) => existsSync(path))
    return directories.flatMap((directory) => this.ours(kind, directory).map((name) => join(directory, name)))
  }

  // --- a set of another layout ---

  get hasOldSet(): boolean {
    return PIN_KINDS.some((kind) => existsSync(join(this.path, kind + OLD)))
  }

  /** Makes room for a fresh set. What is there stays in force beside it until `removeOldSet`. */
  setAside(): void {
    this.removeOldSet()
    for (const kind of PIN_KINDS) {
      const [from, to] = [join(this.path, kind), join(this.path, kind + OLD)]
      mkdirSync(to, { recursive: true, mode: 0o700 })
      for (const name of stampFirst(this.ours(kind, from))) renameSync(join(from, name), join(to, name))
    }
  }

  /**
   * Of two sets the older one is in force again, if the agent that made the other has ended before it served: then no pod
   * is in the maps, or they are not all there.
   */
  dropUnused(): void {
    if (this.isPinned(this.pathOfOld('maps', STAMP_NAME)) && !this.isInUse) this.restoreOldSet()
  }

  private get isInUse(): boolean {
    if (!this.isPinned(this.pathOf('maps', STAMP_NAME))) return false
    let fd = -1
    try {
      fd = this.addon.openPinned(this.pathOf('maps', 'pods'))
      return this.addon.mapEntries(fd).keys.length > 0
    } catch {
      return false
    } finally {
      if (fd >= 0) closeSync(fd)
    }
  }

  private isPinned(path: string): boolean {
    return existsSync(path) && this.isOurs('maps', basename(path), path)
  }

  /**
   * Puts a set that was set aside back in force, in place of the one that was to replace it. The stamps see to it that
   * whoever finds this half done does it again: theirs goes first, ours comes last.
   */
  private restoreOldSet(): void {
    for (const kind of PIN_KINDS) {
      const directory = join(this.path, kind)
      for (const name of stampFirst(this.ours(kind, directory))) {
        if (existsSync(this.pathOfOld(kind, name))) unlinkSync(join(directory, name))
      }
    }
    for (const kind of [...PIN_KINDS].reverse()) {
      const [from, to] = [join(this.path, kind + OLD), join(this.path, kind)]
      if (!existsSync(from)) continue
      for (const name of stampFirst(this.ours(kind, from)).reverse()) renameSync(join(from, name), join(to, name))
      if (readdirSync(from).length === 0) rmdirSync(from)
    }
  }

  /**
   * Detaches and frees the set that was set aside, whoever has its links open. connect() goes first: what its programs let
   * pass on the way to a pod is known there by the programs of both sets.
   */
  removeOldSet(): void {
    // A set without its stamp is nobody's.
    const stamp = this.pathOfOld('maps', STAMP_NAME)
    if (this.isPinned(stamp)) unlinkSync(stamp)
    for (const kind of ['links', 'pods'] as const) this.detachKind(kind, OLD)
    for (const kind of ['links', 'pods', 'maps'] as const) this.removeKind(kind, OLD)
  }

  private detachKind(kind: PinKind, suffix: string): void {
    const directory = join(this.path, kind + suffix)
    if (!existsSync(directory)) return
    for (const name of this.ours(kind, directory)) {
      const fd = this.addon.openPinned(join(directory, name))
      try {
        this.addon.detachLink(fd)
      } finally {
        closeSync(fd)
      }
    }
  }

  /** Paths of what no agent has put here. */
  strangers(): string[] {
    const found: string[] = []
    // The last two are the kernel's own, in every bpf file system of some kernels.
    const own = new Set<string>([...PIN_KINDS, ...PIN_KINDS.map((kind) => kind + OLD), 'maps.debug', 'progs.debug'])
    for (const entry of readdirSync(this.path)) if (!own.has(entry)) found.push(join(this.path, entry))
    for (const kind of PIN_KINDS) {
      for (const directory of [join(this.path, kind), join(this.path, kind + OLD)]) {
        if (!existsSync(directory)) continue
        const ours = new Set(this.ours(kind, directory))
        for (const name of readdirSync(directory)) if (!ours.has(name)) found.push(join(directory, name))
      }
    }
    return found
  }

  // --- ending ---

  /**
   * Takes it back after `unlock`: the set that was in force then is again, its links with programs of whichever of the
   * two. Throws the system call's error, EAGAIN while another agent has it.
   */
  reclaim(): void {
    if (this.lockFd < 0) this.lockFd = this.addon.lockDirectory(this.path)
    if (this.hasOldSet) this.restoreOldSet()
    for (const kind of ['links', 'pods'] as const) this.settleReplacements(kind)
  }

  /** Gives the directory up with everything in it: another agent may take it over. */
  unlock(): void {
    if (this.lockFd >= 0) closeSync(this.lockFd)
    this.lockFd = -1
  }

  /**
   * Removes all pins (a link that is open nowhere else is detached by that), the mount if it is ours, and the directory.
   * Returns the paths of what is not an agent's, and stays.
   */
  remove(): readonly string[] {
    this.removeOldSet()
    for (const kind of [...PIN_KINDS].reverse()) this.removeKind(kind)
    const left = this.strangers()
    this.unlock()
    // Unmounting would remove what is not ours.
    if (left.length > 0) return left
    if (this.hasOwnMount) this.addon.unmount(this.path)
    rmdirSync(this.path)
    return left
  }

  private removeKind(kind: PinKind, suffix = ''): void {
    const directory = join(this.path, kind + suffix)
    if (!existsSync(directory)) return
    for (const name of this.ours(kind, directory)) unlinkSync(join(directory, name))
    if (readdirSync(directory).length === 0) rmdirSync(directory)
  }

  private ours(kind: PinKind, directory: string): string[] {
    return readdirSync(directory).filter((name) => this.isOurs(kind, name.replace(NEW, ''), join(directory, name)))
  }

  /** True for what an agent of whatever version pins under such a name. */
  private isOurs(kind: PinKind, name: string, path: string): boolean {
    let fd: number
    try {
      fd = this.addon.openPinned(path)
    } catch {
      // A directory, or something that is no eBPF object.
      return false
    }
    try {
      // Both names are the map's: the kernel's is cut to 15 letters.
      if (kind === 'maps') return this.addon.describeMap(fd).name === name.slice(0, 15)
      const link = this.addon.describeLink(fd)
      // A link whose cgroup or netns is gone says no more than that.
      if (kind === 'pods') return link.kind === 'netns' && /^[0-9]+$/.test(name)
      return link.kind === 'cgroup' && name.startsWith('weft_')
    } catch {
      return false
    } finally {
      closeSync(fd)
    }
  }
}

/** The same names. */
function stampFirst(names: readonly string[]): string[] {
  return [...names].sort((a, b) => Number(b === STAMP_NAME) - Number(a === STAMP_NAME))
}

/** What others have put where an agent pins stays. */
export function inTheWay(path: string): WeftError {
  return new WeftError(
    'WEFT_CONFIG',
    `${path} is in the way and not an agent's; remove it, or choose another pin directory`,
  )
}

function openError(addon: Addon, path: string, error: unknown): WeftError {
  if (error instanceof WeftError) return error
  const what = `the pin directory ${path} cannot be used`
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EAGAIN':
      return new WeftError('WEFT_CONFIG', heldMessage(addon, path), error)
    case 'ENOTDIR':
    case 'EEXIST':
      return new WeftError('WEFT_CONFIG', `${what}: it is not a directory; choose another (--pin-directory)`, error)
    case 'EROFS':
      return new WeftError(
        'WEFT_CONFIG',
        `${what}: its file system is mounted read-only; mount it read-write, or choose another (--pin-directory)`,
        error,
      )
    case 'EACCES':
    case 'EPERM':
      return new WeftError('WEFT_CONFIG', `${what}: it cannot be written; run as root, see weft check`, error)
    case 'ENODEV':
      return new WeftError('WEFT_UNSUPPORTED', `${what}: the kernel has no bpf file system; see weft check`, error)
    default:
      return kernelError('WEFT_SYSCALL', what, error)
  }
}

/** With `recursive` alone Node says ENOENT of a file system that is read-only. */
function makeDirectory(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !statSync(path).isDirectory()) throw error
  }
}

/** Who holds the directory, and what can be done. */
function heldMessage(addon: Addon, path: string): string {
  const stamp = readStamp(addon, join(path, 'maps', 'layout'))
  const holder = stamp === null || stamp.version === '' ? '' : ` (weft ${stamp.version})`
  return `another agent${holder} is using the pin directory ${path}; end it first, or give each agent its own`
}

/**
 * Makes sure that `path`, a directory, is in a bpf file system. Returns true when it has one of its own, mounted now or
 * by an earlier agent, to be unmounted at the end.
 */
function ensureBpfFilesystem(addon: Addon, path: string): boolean {
  const isMountPoint = statSync(path).dev !== statSync(dirname(path)).dev
  if (statfsSync(path).type !== BPF_FS_MAGIC) {
    addon.mountBpfFilesystem(path)
    return true
  }
  if (!isMountPoint) return false
  if (isMountedByWeft(path)) return true
  // Cleaning up would remove everybody's pins.
  throw new WeftError('WEFT_CONFIG', `${path} is a whole bpf file system; give the agent a directory inside it`)
}

/** True when the bpf file system mounted at `path` was mounted by an agent: its source says so. */
function isMountedByWeft(path: string): boolean {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [before, after] = line.split(' - ')
    if (before?.split(' ')[4] === path && after?.split(' ')[1] === 'weft') return true
  }
  return false
}

/** True when `error` says that a directory is locked. */
export function isHeld(error: unknown): boolean {
  return error instanceof WeftError && hasCode(error.cause, 'EAGAIN')
}
