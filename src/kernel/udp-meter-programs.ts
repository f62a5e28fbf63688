/**
 * The programs that meter the UDP of pods, and how they are attached to the interfaces in a pod's netns: by tcx, an instance
 * for each pod, or where the kernel has no tcx by filters of traffic control, one instance for all.
 *
 * Both stay when the agent ends. Those of the next agent take the place of their like with no packet in between; from one way
 * to the other there is a gap of some 20 ms, in which nothing is counted, so that nothing is counted twice.
 */
import { closeSync } from 'node:fs'
import { type Addon, hasCode, kernelError, type LoadedObject } from './addon.ts'
import { TCX_EGRESS, TCX_INGRESS } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { NETLINK_ROUTE } from './netlink.ts'
import {
  addClsact,
  deleteClsact,
  deleteFilter,
  dumpFilters,
  replaceFilter,
  TC_EGRESS,
  TC_INGRESS,
  type TcDirection,
} from './traffic-control.ts'

/** A program, and its place with each way of attaching it. */
interface MeterProgram {
  readonly name: string
  readonly tcx: number
  readonly tc: TcDirection
}

/** From inside a pod's netns, what the pod sends goes out. */
const PROGRAMS: readonly MeterProgram[] = [
  { name: 'weft_udp_sent', tcx: TCX_EGRESS, tc: TC_EGRESS },
  { name: 'weft_udp_received', tcx: TCX_INGRESS, tc: TC_INGRESS },
]

/** Index of the loopback interface, which every netns has. */
const LOOPBACK = 1

/** A pod whose UDP is to be metered. */
export interface MeteredPod extends MeteredNetns {
  readonly displayName: string
  /** The agent's number of the pod. */
  readonly id: number
}

/** Where a pod's UDP passes. */
export interface MeteredNetns {
  readonly netnsFd: number
  readonly interfaces: readonly number[]
}

/** How programs are attached. */
export type MeterWay = 'tcx' | 'filters'

/** The better way that the kernel has. */
export function meterWay(addon: Addon): MeterWay {
  const netnsFd = addon.openNetns('/proc/thread-self/ns/net')
  try {
    addon.interfacePrograms(netnsFd, LOOPBACK, TCX_INGRESS)
    return 'tcx'
  } catch {
    return 'filters'
  } finally {
    closeSync(netnsFd)
  }
}

export class UdpMeterPrograms {
  readonly way: MeterWay
  private readonly addon: Addon
  private readonly objectPath: string
  private readonly mapFds: Readonly<Record<string, number>>
  /** The instance of filters. */
  private readonly fds: Readonly<Record<string, number>>
  private isClosed = false

  private constructor(addon: Addon, objectPath: string, mapFds: Readonly<Record<string, number>>, way: MeterWay) {
    this.addon = addon
    this.objectPath = objectPath
    this.mapFds = mapFds
    this.way = way
    this.fds = this.loadInstance(null)
  }

  /**
   * Loads the programs with these maps, whose descriptors must stay open until `close`. Throws WeftError WEFT_BPF. `way` is
   * for tests of one that the kernel would not be given.
   */
  static load(
    addon: Addon,
    objectPath: string,
    mapFds: Readonly<Record<string, number>>,
    way: MeterWay = meterWay(addon),
  ): UdpMeterPrograms {
    return new UdpMeterPrograms(addon, objectPath, mapFds, way)
  }

  /**
   * Meters a pod until `detachUdpMeter`; meters that are there are replaced. The pod's descriptor must stay open until it has
   * settled. Throws WeftError WEFT_BPF naming the pod; then it is not metered.
   */
  async attach(pod: MeteredPod): Promise<void> {
    try {
      if (this.way === 'tcx') await this.attachByTcx(pod)
      else await this.attachFilters(pod)
    } catch (error) {
      await detachUdpMeter(this.addon, pod)
      throw kernelError('WEFT_BPF', `the UDP of pod ${pod.displayName} cannot be metered`, error)
    }
  }

  /** Lets the programs go; what they are attached to holds them on. Calling it again does nothing. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    closeAll(this.fds)
  }

  private async attachByTcx(pod: MeteredPod): Promise<void> {
    const instance = this.loadInstance(pod.id)
    try {
      removeFilters(this.addon, pod)
      for (const index of pod.interfaces) {
        for (const { name, tcx } of PROGRAMS) {
          await this.addon.attachToInterface(pod.netnsFd, index, tcx, instance[name]!)
        }
      }
    } finally {
      closeAll(instance)
    }
  }

  private async attachFilters(pod: MeteredPod): Promise<void> {
    await removeFromTcx(this.addon, pod)
    for (const index of pod.interfaces) {
      ask(this.addon, pod.netnsFd, addClsact(index), 'EEXIST')
      for (const { name, tc } of PROGRAMS) {
        const program = { fd: this.fds[name]!, name, classId: pod.id }
        ask(this.addon, pod.netnsFd, replaceFilter(index, tc, program))
      }
    }
  }

  /** The programs by name, the caller's to close. `pod` is the number of the only pod they are for, or null. */
  private loadInstance(pod: number | null): Readonly<Record<string, number>> {
    let loaded: LoadedObject
    try {
      loaded = this.addon.loadObject(this.objectPath, this.mapFds, pod === null ? null : encodePodNumber(pod))
    } catch (error) {
      throw kernelError('WEFT_BPF', `the eBPF object ${this.objectPath} cannot be loaded`, error)
    }
    // Duplicates, and the constant, which the programs hold.
    closeAll(loaded.maps)
    return loaded.programs
  }
}

/**
 * Ends the metering of a pod, whichever agent has begun it, and in whichever way. What is not there any more is no failure.
 * The descriptor must stay open until it has settled.
 */
export async function detachUdpMeter(addon: Addon, pod: MeteredNetns): Promise<void> {
  removeFilters(addon, pod)
  await removeFromTcx(addon, pod)
}

async function removeFromTcx(addon: Addon, { netnsFd, interfaces }: MeteredNetns): Promise<void> {
  for (const index of interfaces) {
    for (const { name, tcx } of PROGRAMS) {
      try {
        await addon.detachFromInterface(netnsFd, index, tcx, name)
      } catch (error) {
        if (!isGone(error)) throw error
      }
    }
  }
}

function removeFilters(addon: Addon, { netnsFd, interfaces }: MeteredNetns): void {
  for (const index of interfaces) {
    for (const { tc } of PROGRAMS) ask(addon, netnsFd, deleteFilter(index, tc), ...GONE)
    // Others may have filters in the same place.
    const isEmpty = PROGRAMS.every(({ tc }) => ask(addon, netnsFd, dumpFilters(index, tc), ...GONE) === 0)
    if (isEmpty) ask(addon, netnsFd, deleteClsact(index), ...GONE)
  }
}

/** The answers when there is no such program, no place for programs, or no such interface. */
const GONE = ['ENOENT', 'EINVAL', 'ENODEV'] as const

function isGone(error: unknown): boolean {
  return GONE.some((code) => hasCode(error, code))
}

/** Sends a message; the number of bytes of the answer, 0 when it is one of the failures that may be. */
function ask(addon: Addon, netnsFd: number, message: Uint8Array, ...allowed: readonly string[]): number {
  try {
    return addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, message).length
  } catch (error) {
    if (allowed.some((code) => hasCode(error, code))) return 0
    throw error
  }
}

/** The constant of the programs. */
function encodePodNumber(pod: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, pod, IS_LITTLE_ENDIAN)
  return bytes
}

function closeAll(fds: Readonly<Record<string, number>>): void {
  for (const fd of Object.values(fds)) closeSync(fd)
}
