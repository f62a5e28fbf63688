/**
 * The checks behind `weft check`: can this machine capture with eBPF? Each says what it found and what would help.
 * Nothing is changed: programs are loaded to hear the verifier's opinion, but neither attached nor pinned.
 */
import { closeSync, existsSync, readFileSync, statfsSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { describeError } from '../base/errors.ts'
import { type Addon, asSyscallError, loadAddon, NATIVE_BUILD_DIRECTORY } from './addon.ts'
import { encodeCookie } from './maps.ts'
import { FALLBACKS, probePieces } from './optional-pieces.ts'

export interface KernelCheck {
  readonly name: string
  readonly ok: boolean
  /** The eBPF capture cannot work without it. */
  readonly isRequired: boolean
  /** What was found. */
  readonly detail: string
  /** What to do about it; empty when there is nothing to do. */
  readonly remedy: string
}

export interface ProbeOptions {
  readonly buildDirectory?: string
  /** What would be read from the kernel; for tests. */
  readonly kernelRelease?: string
  readonly procStatus?: string
  readonly mounts?: string
}

/** Oldest kernel: sk_lookup's ingress_ifindex is of 5.17. */
const KERNEL_FLOOR: readonly [number, number] = [5, 17]

/** Bit numbers in the capability sets of /proc/self/status. */
const CAP_NET_ADMIN = 12
const CAP_SYS_ADMIN = 21
const CAP_BPF = 39

const BPF_FS_MAGIC = 0xcafe4a11
const BPF_FS_DEFAULT = '/sys/fs/bpf'

/** Runs all checks, in the order in which an operator would fix things. Never throws. */
export function probeKernel(options: ProbeOptions = {}): KernelCheck[] {
  const build = options.buildDirectory ?? NATIVE_BUILD_DIRECTORY
  const checks = [
    checkRelease(options.kernelRelease ?? release()),
    checkBtf(),
    checkCgroup2(options.mounts ?? readFileSync('/proc/self/mounts', 'utf8')),
    checkBpfFilesystem(),
    ...checkCapabilities(options.procStatus ?? readFileSync('/proc/self/status', 'utf8')),
  ]
  let addon: Addon
  try {
    addon = loadAddon(join(build, 'weft.node'))
  } catch (error) {
    return [
      ...checks,
      failed('native addon', describeError(error), 'run `make -C native` (needs clang, g++, libbpf-dev)'),
    ]
  }
  return [
    ...checks,
    passed('native addon', 'loaded'),
    checkNetnsCookie(addon),
    ...checkPrograms(addon, build),
    ...checkPieces(addon, build),
  ]
}

/**
 * Mount point of the first cgroup2 file system (also on hybrid hosts, where it is below /sys/fs/cgroup), or null.
 * `mounts` is the text of /proc/self/mounts.
 */
export function findCgroup2Mount(mounts: string = readFileSync('/proc/self/mounts', 'utf8')): string | null {
  for (const line of mounts.split('\n')) {
    const [, mountPoint, type] = line.split(' ')
    // The kernel writes spaces in paths as \040.
    if (type === 'cgroup2' && mountPoint !== undefined) return mountPoint.replaceAll('\\040', ' ')
  }
  return null
}

function checkRelease(text: string): KernelCheck {
  const [major, minor] = text.split('.').map((part) => Number.parseInt(part, 10))
  const [floorMajor, floorMinor] = KERNEL_FLOOR
  const isNewEnough = major! > floorMajor || (major === floorMajor && minor! >= floorMinor)
  const name = `kernel >= ${floorMajor}.${floorMinor}`
  return isNewEnough ? passed(name, `Linux ${text}`) : failed(name, `Linux ${text}`, 'boot a newer kernel')
}

function checkBtf(): KernelCheck {
  const path = '/sys/kernel/btf/vmlinux'
  // Our programs read no kernel structs; tools that look into a running mesh (bpftool, bpftrace) need it.
  if (existsSync(path)) return { ...passed('BTF', path), isRequired: false }
  const remedy = 'for full use of bpftool, take a kernel built with CONFIG_DEBUG_INFO_BTF=y'
  return { ...failed('BTF', `no ${path}`, remedy), isRequired: false }
}

function checkCgroup2(mounts: string): KernelCheck {
  const mount = findCgroup2Mount(mounts)
  if (mount !== null) return passed('cgroup2', `mounted at ${mount}`)
  return failed('cgroup2', 'no cgroup2 file system is mounted', 'mount -t cgroup2 none /sys/fs/cgroup')
}

function checkBpfFilesystem(): KernelCheck {
  const name = 'bpf file system'
  if (existsSync(BPF_FS_DEFAULT) && statfsSync(BPF_FS_DEFAULT).type === BPF_FS_MAGIC) {
    return passed(name, `mounted at ${BPF_FS_DEFAULT}`)
  }
  if (/^nodev\tbpf$/m.test(readFileSync('/proc/filesystems', 'utf8'))) {
    return passed(name, `not mounted at ${BPF_FS_DEFAULT}; the agent will mount one of its own`)
  }
  return failed(name, 'unknown to the kernel', 'use a kernel built with CONFIG_BPF_SYSCALL=y')
}

function checkCapabilities(status: string): KernelCheck[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)
  const has = (bit: number) => (effective >> BigInt(bit)) % 2n === 1n
  const remedy = 'run as root, or add the capability to the container'
  const check = (name: string, isPresent: boolean, use: string) =>
    isPresent ? passed(name, use) : failed(name, `missing; ${use}`, remedy)
  return [
    check('CAP_SYS_ADMIN', has(CAP_SYS_ADMIN), 'enters the network namespaces of pods'),
    check('CAP_BPF', has(CAP_BPF) || has(CAP_SYS_ADMIN), 'loads eBPF programs'),
    check('CAP_NET_ADMIN', has(CAP_NET_ADMIN), 'sets steering routes and attaches network programs'),
  ]
}

function checkNetnsCookie(addon: Addon): KernelCheck {
  const name = 'SO_NETNS_COOKIE'
  let netnsFd = -1
  try {
    netnsFd = addon.openNetns('/proc/thread-self/ns/net')
    return passed(name, `own network namespace: ${addon.netnsCookie(netnsFd)}`)
  } catch (error) {
    return failed(name, describeError(error), 'needs CAP_SYS_ADMIN and Linux 5.14 or newer')
  } finally {
    if (netnsFd >= 0) closeSync(netnsFd)
  }
}

function checkPrograms(addon: Addon, build: string): KernelCheck[] {
  const objects: [string, string, Uint8Array | null][] = [
    ['connect programs', 'connect.bpf.o', null],
    ['sk_lookup program', 'sk_lookup.bpf.o', encodeCookie(0n)],
  ]
  return objects.map(([name, file, constants]) => {
    const leftOut = file === 'connect.bpf.o' ? ['weft_getpeername4', 'weft_getpeername6'] : []
    try {
      const { maps, programs } = addon.loadObject(join(build, file), {}, constants, leftOut)
      for (const fd of [...Object.values(maps), ...Object.values(programs)]) closeSync(fd)
      return passed(name, 'accepted by the verifier')
    } catch (error) {
      const log = asSyscallError(error)?.log ?? ''
      // The verifier's verdict stands before its closing statistics; without it the errno says enough.
      const verdict = /\n(.+)\nprocessed \d+ insns/.exec(log)?.[1]
      const detail = describeError(error) + (verdict === undefined ? '' : `; ${verdict}`)
      return failed(name, detail, 'see the checks above; if they are all right, report this line')
    }
  })
}

/** What the agent can do without: absent is not wrong, and has a consequence. */
function checkPieces(addon: Addon, build: string): KernelCheck[] {
  return [...probePieces(addon, build)].map(([piece, failure]) => {
    const check =
      failure === null ? passed(piece, 'supported') : failed(piece, describeError(failure), FALLBACKS[piece]!)
    return { ...check, isRequired: false }
  })
}

function passed(name: string, detail: string): KernelCheck {
  return { name, ok: true, isRequired: true, detail, remedy: '' }
}

function failed(name: string, detail: string, remedy: string): KernelCheck {
  return { name, ok: false, isRequired: true, detail, remedy }
}
