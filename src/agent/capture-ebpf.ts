/**
 * Capture with eBPF: enrols pods by network namespace, in both directions, without address rewriting or iptables
 * (native/bpf has the programs, kernel/steering.ts the routes).
 *
 * Enrolling prepares everything; `begin` then inserts the pod into the map `pods`: that one insert switches both directions
 * on, and deleting it switches both off. The listeners' descriptors are the caller's as soon as `enrol` has resolved: when
 * the last of them is closed the kernel drops the listener, and the pod's connections are let by, or refused if strict.
 */
import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { canonicalAddress } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type Addon, hasCode, kernelError, loadAddon } from '../kernel/addon.ts'
import { CapturePrograms, type PodLink } from '../kernel/capture-programs.ts'
import {
  PORT_HBONE,
  PORT_INBOUND,
  PORT_OUTBOUND,
  STAT_BYPASSED,
  STAT_ESCAPES_REFUSED,
  STAT_INBOUND_CAPTURED,
  STAT_OUTBOUND_CAPTURED,
  STAT_REFUSED,
} from '../kernel/layout.generated.ts'
import { listenInNetns } from '../kernel/sockets.ts'
import {
  hasSteeredSockets,
  installSteering,
  planSteering,
  removeSteering,
  type SteeringPlan,
} from '../kernel/steering.ts'
import type { UnservedCounts } from './absence-watch.ts'
import {
  type Capture,
  type CapturedListener,
  type CapturedPod,
  type CaptureStats,
  type Carrier,
  type ListenerRole,
  type PodDialing,
  type PodToCapture,
  ROLE_HBONE,
  ROLE_INBOUND,
  ROLE_OUTBOUND,
} from './capture.ts'
import { KernelCarried } from './carried-kernel.ts'
import type { CarriedSource } from './carried-source.ts'
import { DnsEnrolments } from './dns-enrolment.ts'
import { EbpfCarrier } from './ebpf-carrier.ts'
import { KernelUnserved } from './kernel-unserved.ts'

export interface EbpfCaptureOptions {
  /** Processes in this cgroup (v2) are captured if their netns is enrolled. The root of the hierarchy on a real node. */
  readonly cgroupPath: string
  /** A directory of this agent's own for pins; a bpf file system is mounted there if it is in none. */
  readonly pinDirectory: string
  readonly log: Logger
  /** For tests: an addon that is loaded already. */
  readonly addon?: Addon
}

const ROLE_PORTS: readonly [ListenerRole, number][] = [
  [ROLE_OUTBOUND, PORT_OUTBOUND],
  [ROLE_INBOUND, PORT_INBOUND],
  [ROLE_HBONE, PORT_HBONE],
]

/**
 * Time between switching a pod off and removing the programs that take its connections: a connect() that was steered
 * just before has sent its SYN by then.
 */
const WITHDRAW_GRACE_MS = 20

/** How often withdrawn pods are looked at whose steered connections are still open. Only removing their routes waits. */
const LINGER_CHECK_MS = 1000

/** What the capture holds for one pod. */
interface EnrolledPod {
  readonly displayName: string
  /** The programs' number of the pod. */
  readonly id: number
  scope: number
  readonly netnsFd: number
  readonly netnsCookie: bigint
  readonly workerCount: number
  readonly plan: SteeringPlan
  readonly link: PodLink
  isStrict: boolean
  isCaptured: boolean
}

/** Every step that enrolling has done, to be undone in reverse when a later one fails. */
type Undo = (() => void)[]

/** The capture of one agent; one per process, because its pins are in one directory. */
export class EbpfCapture implements Capture {
  readonly kind = 'ebpf'
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly ownNetnsCookie: bigint
  private readonly log: Logger
  private readonly dns: DnsEnrolments
  private readonly enrolled = new Map<string, EnrolledPod>()
  /** Withdrawn pods with steered connections that are still open. */
  private lingering: EnrolledPod[] = []
  private nextPodId = 1
  private lingerCheck: NodeJS.Timeout | null = null

  private constructor(addon: Addon, programs: CapturePrograms, ownNetnsCookie: bigint, log: Logger) {
    this.addon = addon
    this.programs = programs
    this.ownNetnsCookie = ownNetnsCookie
    this.log = log
    this.dns = new DnsEnrolments(addon, programs, log)
  }

  /**
   * Loads and attaches the programs; no pod is captured yet. Throws WeftError WEFT_UNSUPPORTED, WEFT_BPF, WEFT_SYSCALL
   * or WEFT_CONFIG; then nothing is left behind.
   */
  static open(options: EbpfCaptureOptions): EbpfCapture {
    const addon = options.addon ?? loadAddon()
    const ownNetnsCookie = cookieOf(addon, '/proc/thread-self/ns/net')
    const programs = CapturePrograms.open(addon, options)
    return new EbpfCapture(addon, programs, ownNetnsCookie, options.log)
  }

  enrol(pod: PodToCapture, workerCount: number): Promise<CapturedPod> {
    // Nothing waits: enrolling is some twenty short system calls and one program load, about two milliseconds.
    return new Promise((resolve) => resolve(this.enrolNow(pod, workerCount)))
  }

  begin(uid: string): void {
    const pod = this.enrolled.get(uid)
    assert(pod !== undefined, `pod ${uid} is enrolled`)
    pod.isCaptured = true
    this.switchOn(pod)
    this.dns.begin(pod.netnsCookie)
  }

  /** Changes what happens to a pod's connections when no data worker is alive: refused (strict) or let by. */
  setStrict(uid: string, isStrict: boolean): void {
    const pod = this.enrolled.get(uid)
    if (pod === undefined || pod.isStrict === isStrict) return
    pod.isStrict = isStrict
    if (pod.isCaptured) this.switchOn(pod)
  }

  get carrier(): Carrier {
    return new EbpfCarrier(this.addon, this.programs, this.enrolled, (pod) => this.switchOn(pod))
  }

  get carried(): CarriedSource {
    const netnsOf = (id: number): number | null =>
      [...this.enrolled.values()].find((pod) => pod.id === id)?.netnsFd ?? null
    return new KernelCarried(this.addon, this.programs, netnsOf)
  }

  async withdraw(uid: string): Promise<void> {
    const pod = this.enrolled.get(uid)
    if (pod === undefined) return
    this.enrolled.delete(uid)
    this.switchOff(pod)
    await delay(WITHDRAW_GRACE_MS)
    this.release(pod)
  }

  get heartbeatMapFd(): number {
    return this.programs.heartbeatMapFd
  }

  setServing(workers: readonly number[]): void {
    this.programs.servingWorkers.set(workers)
  }

  get unserved(): UnservedCounts {
    return new KernelUnserved(this.programs, () =>
      [...this.enrolled.values()].map(({ netnsCookie, displayName }) => [netnsCookie, displayName]),
    )
  }

  stats(): CaptureStats {
    const { stats } = this.programs
    return {
      enrolledPods: this.enrolled.size,
      outboundCaptured: stats.read(STAT_OUTBOUND_CAPTURED),
      inboundCaptured: stats.read(STAT_INBOUND_CAPTURED),
      bypassed: stats.read(STAT_BYPASSED),
      refused: stats.read(STAT_REFUSED) + stats.read(STAT_ESCAPES_REFUSED),
    }
  }

  async drain(): Promise<void> {
    for (const pod of this.enrolled.values()) this.switchOff(pod)
    await delay(WITHDRAW_GRACE_MS)
  }

  async close(): Promise<void> {
    const pods = [...this.enrolled.values()]
    this.enrolled.clear()
    for (const pod of pods) this.switchOff(pod)
    if (pods.length > 0) await delay(WITHDRAW_GRACE_MS)
    for (const pod of pods) this.release(pod)
    if (this.lingerCheck !== null) clearInterval(this.lingerCheck)
    // The agent ends, and with it the connections that these routes carry.
    for (const pod of this.lingering.splice(0)) this.removeRoutes(pod)
    this.programs.close()
  }

  // --- enrolling ---

  private enrolNow(pod: PodToCapture, workerCount: number): CapturedPod {
    assert(!this.enrolled.has(pod.pod.uid), `pod ${pod.displayName} is not enrolled yet`)
    const undo: Undo = []
    try {
      const enrolled = this.prepare(pod, workerCount, undo)
      this.enrolled.set(pod.pod.uid, enrolled.record)
      return enrolled.captured
    } catch (error) {
      for (const step of undo.reverse()) step()
      throw error instanceof WeftError
        ? error
        : kernelError('WEFT_SYSCALL', `pod ${pod.displayName} cannot be enrolled`, error)
    }
  }

  private prepare(pod: PodToCapture, workerCount: number, undo: Undo): { record: EnrolledPod; captured: CapturedPod } {
    const { displayName } = pod
    const netnsFd = this.openNetns(pod)
    undo.push(() => closeSync(netnsFd))
    const netnsCookie = this.addon.netnsCookie(netnsFd)
    this.refuseSharedNetns(displayName, netnsCookie)

    const plan = this.planFor(pod, netnsFd)
    const listeners = openListeners(this.addon, netnsFd, displayName, workerCount, undo)

    undo.push(() => removeSteering(this.addon, netnsFd, plan))
    this.installSteering(displayName, netnsFd, plan)

    for (const address of plan.ownAddresses) {
      undo.push(() => this.programs.ownAddresses.delete(netnsCookie, address))
      this.programs.ownAddresses.insert(netnsCookie, address)
    }
    for (const { role, fds } of listeners) {
      for (const [worker, fd] of fds!.entries()) this.programs.listeners.insert(netnsCookie, role, worker, fd)
    }
    const link = this.programs.attachPod(netnsFd, netnsCookie, displayName)
    undo.push(() => this.programs.detachPod(link))
    // Last, because it does not fail: nobody would close its sockets.
    const slots = Array.from({ length: workerCount }, (_, slot) => slot)
    const dns = pod.isDnsCaptured === true ? this.dns.prepare({ displayName, netnsFd, netnsCookie, plan, slots }) : null
    if (dns !== null) listeners.push(dns)

    const isStrict = pod.isStrict ?? false
    const dialing: PodDialing = {
      netnsFd,
      netnsCookie,
      exemptMapFd: this.programs.exemptMapFd,
      resolverMapFd: dns === null ? -1 : this.programs.resolverMapFd,
      localAddress: null,
      appAddress: null,
    }
    return {
      record: {
        displayName,
        id: this.nextPodId++,
        scope: 1,
        netnsFd,
        netnsCookie,
        workerCount,
        plan,
        link,
        isStrict,
        isCaptured: false,
      },
      captured: { uid: pod.pod.uid, listeners, dialing },
    }
  }

  private openNetns(pod: PodToCapture): number {
    try {
      return this.addon.openNetns(pod.pod.netns)
    } catch (error) {
      const what = hasCode(error, 'ENOENT')
        ? `the network namespace of pod ${pod.displayName} does not exist (any more)`
        : `the network namespace of pod ${pod.displayName} cannot be opened`
      throw kernelError('WEFT_SYSCALL', what, error)
    }
  }

  private refuseSharedNetns(displayName: string, netnsCookie: bigint): void {
    if (netnsCookie === this.ownNetnsCookie) {
      throw new WeftError(
        'WEFT_CONFIG',
        `pod ${displayName} uses the network namespace of the node; it cannot be enrolled`,
      )
    }
    for (const other of this.enrolled.values()) {
      if (other.netnsCookie !== netnsCookie) continue
      throw new WeftError(
        'WEFT_CONFIG',
        `pods ${displayName} and ${other.displayName} share a network namespace; only one of them can be enrolled`,
      )
    }
  }

  private planFor(pod: PodToCapture, netnsFd: number): SteeringPlan {
    const addresses: string[] = []
    for (const text of pod.addresses) {
      const address = canonicalAddress(text)
      if (address === null) throw new WeftError('WEFT_CONFIG', `pod ${pod.displayName} has a bad address: ${text}`)
      addresses.push(address)
    }
    return planSteering(this.addon.netnsInterfaces(netnsFd), addresses)
  }

  private installSteering(displayName: string, netnsFd: number, plan: SteeringPlan): void {
    try {
      installSteering(this.addon, netnsFd, plan)
    } catch (error) {
      const what = hasCode(error, 'ENETDOWN')
        ? `an interface of pod ${displayName} is down (lo must be up as well)`
        : `the steering routes of pod ${displayName} cannot be set`
      throw kernelError('WEFT_SYSCALL', what, error)
    }
  }

  private switchOff(pod: EnrolledPod): void {
    this.programs.pods.delete(pod.netnsCookie)
    this.dns.end(pod.netnsCookie)
  }

  private switchOn(pod: EnrolledPod): void {
    this.programs.pods.insert(pod.netnsCookie, {
      id: pod.id,
      scope: pod.scope,
      isStrict: pod.isStrict,
      isSteeringIpv4: pod.plan.isSteeringIpv4,
      isSteeringIpv6: pod.plan.isSteeringIpv6,
      interfaces: pod.plan.interfaces,
    })
  }

  // --- withdrawing ---

  /** Removes what captured a pod that is switched off. The netns may be gone; our descriptor keeps it usable. */
  private release(pod: EnrolledPod): void {
    this.programs.detachPod(pod.link)
    this.dns.release(pod.netnsCookie)
    for (const [role] of ROLE_PORTS) {
      for (let slot = 0; slot < pod.workerCount; slot++) this.programs.listeners.delete(pod.netnsCookie, role, slot)
    }
    for (const address of pod.plan.ownAddresses) this.programs.ownAddresses.delete(pod.netnsCookie, address)
    this.lingering.push(pod)
    this.checkLingering()
  }

  /** Removes the routes of withdrawn pods, and lets their netns go, as soon as no steered connection is open. */
  private checkLingering(): void {
    const open: EnrolledPod[] = []
    for (const pod of this.lingering) {
      if (this.isSteering(pod)) open.push(pod)
      else this.removeRoutes(pod)
    }
    this.lingering = open
    if (open.length > 0 && this.lingerCheck === null) {
      this.lingerCheck = setInterval(() => this.checkLingering(), LINGER_CHECK_MS).unref()
    }
    if (open.length === 0 && this.lingerCheck !== null) {
      clearInterval(this.lingerCheck)
      this.lingerCheck = null
    }
  }

  private isSteering(pod: EnrolledPod): boolean {
    try {
      return hasSteeredSockets(this.addon, pod.netnsFd)
    } catch (error) {
      // Kernels without sock_diag: the routes go at once, and open steered connections with them.
      this.log.warn('open connections of a withdrawn pod cannot be listed', {
        pod: pod.displayName,
        error: describeError(error),
      })
      return false
    }
  }

  private removeRoutes(pod: EnrolledPod): void {
    try {
      removeSteering(this.addon, pod.netnsFd, pod.plan)
    } catch (error) {
      this.log.warn('steering routes cannot be removed', { pod: pod.displayName, error: describeError(error) })
    }
    closeSync(pod.netnsFd)
  }
}

function openListeners(
  addon: Addon,
  netnsFd: number,
  displayName: string,
  workerCount: number,
  undo: Undo,
): CapturedListener[] {
  return ROLE_PORTS.map(([role, port]) => {
    const fds: number[] = []
    for (let worker = 0; worker < workerCount; worker++) {
      const fd = listenInNetns(addon, netnsFd, port, displayName)
      undo.push(() => closeSync(fd))
      fds.push(fd)
    }
    return { role, fds, address: '::', port }
  })
}

function cookieOf(addon: Addon, path: string): bigint {
  try {
    const fd = addon.openNetns(path)
    try {
      return addon.netnsCookie(fd)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    throw kernelError('WEFT_UNSUPPORTED', 'the kernel has no netns cookies (Linux 5.17 or newer is needed)', error)
  }
}
