/**
 * The directory under a bpf file system in which one agent pins its maps and links.
 *
 * Pins keep the capture in force when the agent dies; ending normally removes them. A directory that lies in no bpf file
 * system gets one of its own, mounted at the directory, so nothing depends on how the host is set up. A lock on the
 * directory keeps two agents from sharing it.
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlinkSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { WeftError } from '../base/errors.ts'
import { type Addon, hasCode, kernelError } from './addon.ts'

/** `f_type` of a bpf file system (BPF_FS_MAGIC). */
const BPF_FS_MAGIC = 0xcafe4a11

/** What an agent pins, in directories of their own: a fresh bpf file system may have files that cannot be removed. */
const PIN_DIRECTORIES = ['maps', 'links', 'pods'] as const

export class BpfDirectory {
  readonly path: string
  private readonly addon: Addon
  private lockFd: number
  private readonly hasOwnMount: boolean

  private constructor(addon: Addon, path: string, lockFd: number, hasOwnMount: boolean) {
    this.addon = addon
    this.path = path
    this.lockFd = lockFd
    this.hasOwnMount = hasOwnMount
  }

  /**
   * Makes, mounts if needed, and locks the directory; what an agent that died has left in it is removed. Throws WeftError
   * WEFT_SYSCALL, or WEFT_CONFIG when another agent uses it.
   */
  static open(addon: Addon, path: string): BpfDirectory {
    let lockFd = -1
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 })
      const hasOwnMount = ensureBpfFilesystem(addon, path)
      lockFd = addon.lockDirectory(path)
      removePins(path)
      for (const name of PIN_DIRECTORIES) mkdirSync(join(path, name), { mode: 0o700 })
      return new BpfDirectory(addon, path, lockFd, hasOwnMount)
    } catch (error) {
      if (lockFd >= 0) closeSync(lockFd)
      if (error instanceof WeftError) throw error
      if (!hasCode(error, 'EAGAIN')) {
        throw kernelError('WEFT_SYSCALL', `the pin directory ${path} cannot be made ready`, error)
      }
      const what = `another agent is using the pin directory ${path}; give each agent its own`
      throw new WeftError('WEFT_CONFIG', what, error)
    }
  }

  /** Removes all pins, the mount if it is ours, and the directory. Calling it again does nothing. */
  close(): void {
    if (this.lockFd < 0) return
    removePins(this.path)
    closeSync(this.lockFd)
    this.lockFd = -1
    if (this.hasOwnMount) this.addon.unmount(this.path)
    rmdirSync(this.path)
  }
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

/** Unlinks every pin; a link that is open nowhere else is detached by that. */
function removePins(path: string): void {
  for (const name of PIN_DIRECTORIES) {
    const directory = join(path, name)
    if (!existsSync(directory)) continue
    for (const pin of readdirSync(directory)) unlinkSync(join(directory, pin))
    rmdirSync(directory)
  }
}
