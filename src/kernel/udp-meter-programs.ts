/**
 * The programs that meter the UDP of pods, and the filters by which they are attached to the interfaces in a pod's netns.
 * Filters stay when the agent ends; those of the next agent take their place with no packet in between.
 */
import { closeSync } from 'node:fs'
import { type Addon, hasCode, kernelError, type LoadedObject } from './addon.ts'
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

/** From inside a pod's netns, what the pod sends goes out. */
const PROGRAMS: readonly (readonly [name: string, direction: TcDirection])[] = [
  ['weft_udp_sent', TC_EGRESS],
  ['weft_udp_received', TC_INGRESS],
]

/** A pod whose UDP is to be metered. */
export interface MeteredPod {
  readonly displayName: string
  /** The agent's number of the pod. */
  readonly id: number
  readonly netnsFd: number
  readonly interfaces: readonly number[]
}

export class UdpMeterPrograms {
  private readonly addon: Addon
  private readonly fds: Readonly<Record<string, number>>
  private isClosed = false

  private constructor(addon: Addon, fds: Readonly<Record<string, number>>) {
    this.addon = addon
    this.fds = fds
  }

  /** Loads the programs with these maps. Throws WeftError WEFT_BPF. */
  static load(addon: Addon, objectPath: string, mapFds: Readonly<Record<string, number>>): UdpMeterPrograms {
    let loaded: LoadedObject
    try {
      loaded = addon.loadObject(objectPath, mapFds, null)
    } catch (error) {
      throw kernelError('WEFT_BPF', `the eBPF object ${objectPath} cannot be loaded`, error)
    }
    // Duplicates, which the programs hold.
    for (const fd of Object.values(loaded.maps)) closeSync(fd)
    return new UdpMeterPrograms(addon, loaded.programs)
  }

  /**
   * Meters a pod until `detachUdpMeter`; meters that are there are replaced. Throws WeftError WEFT_BPF naming the pod; then
   * it is not metered.
   */
  attach(pod: MeteredPod): void {
    try {
      for (const index of pod.interfaces) {
        ask(this.addon, pod.netnsFd, addClsact(index), 'EEXIST')
        for (const [name, direction] of PROGRAMS) {
          const program = { fd: this.fds[name]!, name, classId: pod.id }
          ask(this.addon, pod.netnsFd, replaceFilter(index, direction, program))
        }
      }
    } catch (error) {
      detachUdpMeter(this.addon, pod.netnsFd, pod.interfaces)
      throw kernelError('WEFT_BPF', `the UDP of pod ${pod.displayName} cannot be metered`, error)
    }
  }

  /** Lets the programs go; filters hold them on. Calling it again does nothing. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    for (const fd of Object.values(this.fds)) closeSync(fd)
  }
}

/** Ends the metering of a pod, whichever agent has begun it. What is not there any more is no failure. */
export function detachUdpMeter(addon: Addon, netnsFd: number, interfaces: readonly number[]): void {
  for (const index of interfaces) {
    for (const [, direction] of PROGRAMS) ask(addon, netnsFd, deleteFilter(index, direction), ...GONE)
    // Others may have filters in the same place.
    const isEmpty = PROGRAMS.every(([, direction]) => ask(addon, netnsFd, dumpFilters(index, direction), ...GONE) === 0)
    if (isEmpty) ask(addon, netnsFd, deleteClsact(index), ...GONE)
  }
}

/** The answers when there is no such filter, no place for filters, or no such interface. */
const GONE = ['ENOENT', 'EINVAL', 'ENODEV'] as const

/** Sends a message; the number of bytes of the answer, 0 when it is one of the failures that may be. */
function ask(addon: Addon, netnsFd: number, message: Uint8Array, ...allowed: readonly string[]): number {
  try {
    return addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, message).length
  } catch (error) {
    if (allowed.some((code) => hasCode(error, code))) return 0
    throw error
  }
}
