/**
 * The native addon (native/addon): its typed declaration, loading it, and its failures as WeftErrors.
 *
 * The addon makes system calls and knows nothing of pods; whoever calls it says what the call was for, with
 * `WEFT_SYSCALL` or `WEFT_BPF` and the name of the pod or program (see `kernelError`). Descriptors are plain numbers,
 * owned by the caller unless stated otherwise; `closeSync` of node:fs closes them.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { ErrorCode } from '../base/errors.ts'
import { describeError, WeftError } from '../base/errors.ts'

/** What every failing call throws, besides TypeError and RangeError for arguments that are wrong. */
export interface SyscallError extends Error {
  readonly errno: number
  /** Name of the errno, such as `ENOENT`. */
  readonly code: string
  readonly syscall: string
  /** What the call was made on: a path, a map, a descriptor. */
  readonly object: string
  /** What libbpf and the verifier said, if they did. */
  readonly log?: string
}

export interface DescribedMap {
  readonly name: string
  readonly keyBytes: number
  readonly valueBytes: number
  readonly entriesMax: number
}

/** What an object file holds, before any kernel has seen it. */
export interface DescribedObject {
  readonly maps: readonly DescribedMap[]
  readonly programs: readonly { readonly name: string; readonly section: string }[]
}

/** To what a link attaches which program. */
export interface DescribedLink {
  readonly kind: 'cgroup' | 'netns' | 'other'
  /** Id of the cgroup, or inode number of the netns; 0 when that is gone. */
  readonly target: bigint
  /** The kernel's numbers of the link and of its program. */
  readonly id: number
  readonly programId: number
  /** Name of the program, cut to 15 letters. */
  readonly program: string
}

/** Descriptors by name; all of them are the caller's to close. */
export interface LoadedObject {
  readonly maps: Readonly<Record<string, number>>
  readonly programs: Readonly<Record<string, number>>
}

/** One address of an interface, or the interface itself (`address` null). */
export interface NetnsInterface {
  readonly name: string
  readonly index: number
  readonly isUp: boolean
  /** 4 or 16 bytes in network order. */
  readonly address: Uint8Array | null
}

/** All keys and all values of a map, one after the other, in the same order. */
export interface MapEntries {
  readonly keys: Uint8Array
  readonly values: Uint8Array
}

/** A reader of a ring buffer; means something only to the addon. */
export type Ring = object

export interface Addon {
  describeObject(path: string): DescribedObject
  /**
   * Maps named in `sharedMaps` are used instead of new ones. `constants` are the bytes of the object's `.rodata`.
   * Programs named in `leftOut` are not loaded.
   */
  loadObject(
    path: string,
    sharedMaps: Readonly<Record<string, number>>,
    constants: Uint8Array | null,
    leftOut?: readonly string[],
  ): LoadedObject
  /** `targetFd` is a cgroup directory or a netns; `attachType` a number of `enum bpf_attach_type`. */
  attachLink(programFd: number, targetFd: number, attachType: number): number
  /** The link runs that program from now on, with no moment in between. ENOLINK when what it was attached to is gone. */
  updateLink(linkFd: number, programFd: number): void
  /** The link runs no program any more, at once and whoever else has it open. */
  detachLink(linkFd: number): void
  describeLink(linkFd: number): DescribedLink
  /** Programs that are attached to the cgroup or netns itself. */
  attachedPrograms(targetFd: number, attachType: number): { readonly name: string; readonly id: number }[]
  /**
   * Attaches by tcx, in place of the program of the same name, or else in front of all others; with no packet in between.
   * It stays when the caller ends. `attachType` is TCX_INGRESS or TCX_EGRESS.
   */
  attachToInterface(netnsFd: number, interfaceIndex: number, attachType: number, programFd: number): Promise<void>
  /** Detaches every program of that name, which the kernel cuts to 15 letters; none is no failure. */
  detachFromInterface(netnsFd: number, interfaceIndex: number, attachType: number, name: string): Promise<void>
  /** Names of the programs that are attached by tcx, in the order in which they run. EINVAL when there is no tcx. */
  interfacePrograms(netnsFd: number, interfaceIndex: number, attachType: number): string[]
  pinObject(fd: number, path: string): void
  /** A descriptor of what is pinned there. */
  openPinned(path: string): number
  mapUpdate(mapFd: number, key: Uint8Array, value: Uint8Array): void
  /** False when the key was not there. */
  mapDelete(mapFd: number, key: Uint8Array): boolean
  /** Null when the key is not there. The values of all CPUs, one after the other, for a per-CPU map. */
  mapLookup(mapFd: number, key: Uint8Array): Uint8Array | null
  /** A map in the kernel, which cuts names to 15 letters. */
  describeMap(mapFd: number): DescribedMap
  /** Of a hash map that is not per CPU. While it changes, an entry may be missing or come twice. */
  mapEntries(mapFd: number): MapEntries

  /** A reader of a ring buffer's records, which all have that size; it goes on where the last reader ended. */
  openRing(mapFd: number, recordBytes: number): Ring
  /** The oldest records that nobody has read, one after the other. */
  readRing(ring: Ring, recordsMax: number): Uint8Array
  closeRing(ring: Ring): void

  openNetns(path: string): number
  netnsCookie(netnsFd: number): bigint
  netnsInterfaces(netnsFd: number): NetnsInterface[]
  /** Sends one netlink message inside the netns; returns the messages of the answer without its acknowledgement. */
  netlinkInNetns(netnsFd: number, protocol: number, message: Uint8Array): Uint8Array

  /** A transparent SO_REUSEPORT listener on the wildcard address; with family IPv6 for both families. */
  listenInNetns(netnsFd: number, family: number, port: number, backlog: number): number
  /** An unconnected socket that the capture lets by. ESTALE when the descriptor is not of the netns with that cookie. */
  socketInNetns(netnsFd: number, netnsCookie: bigint, family: number, exemptMapFd: number): number

  /**
   * A UDP socket that the capture lets by: on the wildcard address of `port`, with family IPv6 that of both, telling where
   * datagrams were sent to; or with port 0 not bound. ESTALE as above.
   */
  datagramInNetns(netnsFd: number, netnsCookie: bigint, family: number, port: number, exemptMapFd: number): number

  /** Another descriptor of the same socket. */
  duplicateFd(fd: number): number

  mountBpfFilesystem(path: string): void
  unmount(path: string): void
  /** Fails with EAGAIN while another program holds the lock; closing the descriptor unlocks. */
  lockDirectory(path: string): number

  /**
   * From now on the kernel puts WORKER_THREAD_DIED in that slot of the map when the calling thread dies; the thread has
   * one such slot at most.
   */
  giveLifeSign(mapFd: number, slot: number): void
  /** The calling thread's: what it has in its slot stays, and the kernel leaves it alone. */
  withdrawLifeSign(): void

  /** Writes at most 4096 bytes; false when it would have to wait, or fails. */
  writeNow(fd: number, bytes: Uint8Array): boolean
}

/** Where `make -C native` puts the addon and the programs. */
export const NATIVE_BUILD_DIRECTORY = fileURLToPath(new URL('../../native/build/', import.meta.url))

/**
 * Loads the addon; every worker thread loads it for itself. Throws WeftError WEFT_UNSUPPORTED saying what to do.
 * `path` is for tests of another build.
 */
export function loadAddon(path: string = `${NATIVE_BUILD_DIRECTORY}weft.node`): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon
  } catch (error) {
    throw new WeftError(
      'WEFT_UNSUPPORTED',
      `the native addon ${path} cannot be loaded; build it with \`make -C native\` on this machine`,
      error,
    )
  }
}

/** The system call failure in `error`, or null when it is anything else. */
export function asSyscallError(error: unknown): SyscallError | null {
  return error instanceof Error && 'syscall' in error && 'errno' in error ? (error as SyscallError) : null
}

/** True when `error` is a system call that failed with `code`. */
export function hasCode(error: unknown, code: string): boolean {
  return asSyscallError(error)?.code === code
}

/** Lines of a verifier log that are worth an operator's attention: the verdict stands at its end. */
const LOG_LINES_MAX = 12

/** The WeftError for a map that takes no more, naming it and whom it was for; null for any other failure. */
export function fullMapError(who: string, error: unknown): WeftError | null {
  if (!hasCode(error, 'E2BIG') || !asSyscallError(error)!.object.startsWith('map ')) return null
  const { object } = asSyscallError(error)!
  return new WeftError(
    'WEFT_LIMIT',
    `${who} cannot be captured: the kernel's ${object} is full; this node has more pods, addresses or data workers than fit`,
    error,
  )
}

/** Makes the WeftError for a failed call: `what` is the sentence that says what was tried, and for whom. */
export function kernelError(code: ErrorCode, what: string, error: unknown): WeftError {
  const failure = asSyscallError(error)
  if (failure?.log === undefined) return new WeftError(code, `${what}: ${describeError(error)}`, error)
  const lines = failure.log.trimEnd().split('\n').slice(-LOG_LINES_MAX)
  return new WeftError(code, `${what}: ${failure.message}; the kernel's log ends with:\n${lines.join('\n')}`, error)
}
