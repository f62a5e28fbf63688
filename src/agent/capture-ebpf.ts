/**
 * Capture with eBPF: enrols pods by network namespace, in both directions, without address rewriting or iptables
 * (native/bpf has the programs, kernel/steering.ts the routes).
 *
 * What is in the kernel outlives the agent, unless `close` removes it: `open` takes over what an earlier agent has left or
 * released. Its pods stay captured, and enrolling one of them replaces everything in place: at no moment is it uncaptured.
 *
 * Enrolling prepares everything; `begin` then inserts the pod into the map `pods`: that one insert switches both directions
 * on, and deleting it switches both off. The listeners' descriptors are the caller's as soon as `enrol` has resolved: when
 * the last of them is closed the kernel drops the listener, and the pod's connections are let by, or refused if strict.
 */
import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { assert } from '../base/assert.ts'
import type { Logger } from '../base/log.ts'
import { type Addon, fullMapError, hasCode, kernelError, loadAddon } from '../kernel/addon.ts'
import { CapturePrograms } from '../kernel/capture-programs.ts'
import {
  STAT_BYPASSED,
  STAT_ESCAPES_REFUSED,
  STAT_INBOUND_CAPTURED,
  STAT_OUTBOUND_CAPTURED,
  STAT_REFUSED,
  WORKERS_MAX,
} from '../kernel/layout.generated.ts'
import { countConnections } from '../kernel/open-connections.ts'
import type { UnservedCounts } from './absence-watch.ts'
import type { Capture, CapturedPod, CaptureStats, Carrier, PodToCapture } from './capture.ts'
import type { AuditedPod } from './capture-watch.ts'
import { KernelCarried } from './carried-kernel.ts'
import { CarriedNumbers } from './carried-numbers.ts'
import type { CarriedSource } from './carried-source.ts'
import { DnsEnrolments } from './dns-enrolment.ts'
import { EbpfCarrier } from './ebpf-carrier.ts'
import { FoundPods } from './found-pods.ts'
import { KernelUnserved } from './kernel-unserved.ts'
import { LingeringPods } from './lingering-pods.ts'
import { auditPod } from './pod-audit.ts'
import { type EnrolledPod, PodEnrolling } from './pod-enrolling.ts'
import { nodeNetnsCookie } from './pod-netns.ts'
import { PodRecords } from './pod-records.ts'
import { UdpMeterPods } from './udp-meter-pods.ts'

export interface EbpfCaptureOptions {
  /** Processes in this cgroup (v2) are captured if their netns is enrolled. The root of the hierarchy on a real node. */
  readonly cgroupPath: string
  /** A directory of this agent's own for pins; a bpf file system is mounted there if it is in none. */
  readonly pinDirectory: string
  readonly log: Logger
  /** Where to write down which pods are captured, for the next agent; without it some of them may not be known again. */
  readonly stateDirectory?: string
  /** Of this program, for people who look at its pins. */
  readonly version?: string
  /** Slot of data worker 0 in the kernel's maps: agents that run at one time must not share slots. 0 when left out. */
  readonly slotBase?: number
  /** True when the agent that has released the pins still serves: it goes on until `dismissPredecessor`. */
  readonly isPredecessorServing?: boolean
  /** The node's own netns, when it is not this process's. */
  readonly nodeNetns?: string
  /** For tests: an addon that is loaded already. */
  readonly addon?: Addon
}

/**
 * Time between switching a pod off and removing the programs that take its connections: a connect() that was steered
 * just before has sent its SYN by then.
 */
const WITHDRAW_GRACE_MS = 20

/** A process ends within milliseconds when it is killed; ten seconds are for machines under load. */
const LOCK_TRIES = 500
const LOCK_RETRY_MS = 20

/** The capture of one agent; one per process, because its pins are in one directory. */
export class EbpfCapture implements Capture {
  readonly kind = 'ebpf'
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly log: Logger
  private readonly dns: DnsEnrolments
  readonly udp: UdpMeterPods
  private readonly stateDirectory: string | null
  private readonly records: PodRecords
  private readonly lingering: LingeringPods
  private readonly found: FoundPods
  private readonly enrolling: PodEnrolling
  readonly slotBase: number
  private readonly enrolled = new Map<string, EnrolledPod>()
  /** Slots of the agent before this one, while it still serves. */
  private predecessorSlots: readonly number[] = []
  /** From `open` until `dismissPredecessor`: what is pinned may be its own again. */
  private hasPredecessor = false
  private ownSlots: readonly number[] = []
  private carrierMade: Carrier | null = null
  private isReleased = false
  /** Released, but for `resume`: descriptors of links are still open. */
  private isReturnable = false

  private constructor(addon: Addon, programs: CapturePrograms, ownNetnsCookie: bigint, options: EbpfCaptureOptions) {
    const { log } = options
    this.addon = addon
    this.programs = programs
    this.log = log
    this.dns = new DnsEnrolments(addon, programs, log)
    const hasPod = (id: number): boolean => [...this.enrolled.values()].some((pod) => pod.id === id)
    this.udp = new UdpMeterPods(addon, programs.mapFds, hasPod, log)
    this.slotBase = options.slotBase ?? 0
    this.stateDirectory = options.stateDirectory ?? null
    this.records = new PodRecords(this.stateDirectory, log)
    this.lingering = new LingeringPods(addon, this.udp, this.records, log)
    this.found = new FoundPods(addon, programs, this.records, this.lingering, log)
    const { dns, udp, records, lingering, found, slotBase } = this
    this.enrolling = new PodEnrolling(
      { addon, programs, ownNetnsCookie, dns, udp, records, lingering, found, slotBase },
      this.enrolled,
    )
  }

  /**
   * Takes over what an earlier agent has left, or begins afresh; then loads and attaches the programs. Throws WeftError
   * WEFT_UNSUPPORTED, WEFT_BPF, WEFT_SYSCALL or WEFT_CONFIG; then everything is as it was.
   */
  static open(options: EbpfCaptureOptions): EbpfCapture {
    const addon = options.addon ?? loadAddon()
    const hostNetnsCookie = nodeNetnsCookie(addon, options.nodeNetns)
    const programs = CapturePrograms.open(addon, { ...options, nodeNetnsCookie: hostNetnsCookie })
    try {
      const capture = new EbpfCapture(addon, programs, hostNetnsCookie, options)
      capture.begun(options.isPredecessorServing ?? false)
      return capture
    } catch (error) {
      // What was taken over must not be lost, and half of what is new does no harm: the next agent takes it over.
      programs.release()
      programs.close()
      throw error
    }
  }

  private begun(isPredecessorServing: boolean): void {
    const { programs, log } = this
    for (const { piece, fallback, reason } of programs.missing) {
      log.warn('the kernel lacks a piece of the capture', { piece, fallback, reason })
    }
    for (const path of programs.strangers()) log.warn('the pin directory has something that is not ours', { path })
    if (programs.takeover === 'replaced') {
      log.warn('the maps of an earlier agent have another layout: counters restart and pods are enrolled anew', {
        version: programs.previousVersion,
      })
    } else if (programs.takeover === 'taken-over') {
      log.info('the capture of an earlier agent is taken over', {
        version: programs.previousVersion,
        pods: this.found.count,
      })
    }
    if (isPredecessorServing) {
      this.hasPredecessor = true
      if (programs.takeover === 'taken-over') this.predecessorSlots = programs.servingWorkers.read()
      else this.enrolling.isWaiting = true
      return
    }
    // Nobody serves until somebody says so: the slots of a dead agent may soon be those of a worker that is not ready.
    programs.servingWorkers.set([])
    this.found.capture()
    programs.removeReplaced()
  }

  enrol(pod: PodToCapture, workerCount: number): Promise<CapturedPod> {
    // Nothing waits: enrolling is some fifty short system calls and one program load, about eight milliseconds.
    return new Promise((resolve) => resolve(this.enrolling.enrol(pod, workerCount)))
  }

  begin(uid: string): void {
    const pod = this.enrolled.get(uid)
    assert(pod !== undefined, `pod ${uid} is enrolled`)
    pod.isCaptured = true
    if (this.isReleased) return
    try {
      this.enrolling.switchProbes(pod)
      this.enrolling.switchOn(pod)
    } catch (error) {
      throw fullMapError(`pod ${pod.record.displayName}`, error) ?? error
    }
    if (!this.enrolling.isWaiting) this.dns.begin(pod.record.netnsCookie)
  }

  /** Changes what happens to a pod's connections when no data worker is alive: refused (strict) or let by. */
  setStrict(uid: string, isStrict: boolean): void {
    const pod = this.enrolled.get(uid)
    if (pod === undefined || pod.record.isStrict === isStrict || this.isReleased) return
    pod.record = { ...pod.record, isStrict }
    this.records.put(pod.record)
    if (pod.isCaptured) this.enrolling.switchOn(pod)
  }

  setProbePorts(uid: string, ports: readonly number[]): void {
    const pod = this.enrolled.get(uid)
    if (pod === undefined || this.isReleased || isSameList(pod.probePorts, ports)) return
    pod.probePorts = ports
    if (pod.isCaptured) this.enrolling.switchProbes(pod)
  }

  setFoundStrict(uid: string, isStrict: boolean): void {
    if (!this.isReleased) this.found.setStrict(uid, isStrict)
  }

  get carrier(): Carrier | null {
    const { addon, programs, enrolled, log, stateDirectory } = this
    if (!programs.canCarry) return null
    const switchOn = (pod: EnrolledPod): void => {
      if (!this.isReleased) this.enrolling.switchOn(pod)
    }
    this.carrierMade ??= new EbpfCarrier(addon, programs, enrolled, switchOn, {
      numbers: CarriedNumbers.open(stateDirectory, programs, log),
      found: this.found.numbers(),
    })
    return this.carrierMade
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
    if (this.isReleased) {
      // What is left of it is the successor's to remove; or ours, when that is dead: `resume` finds it.
      if (this.isReturnable) closeSync(pod.link.fd)
      closeSync(pod.netnsFd)
      return
    }
    this.enrolling.switchOff(pod)
    await delay(WITHDRAW_GRACE_MS)
    await this.remove(pod)
  }

  async retain(uids: ReadonlySet<string>): Promise<void> {
    if (this.isReleased) return
    const others = this.found.others(uids)
    if (others.length === 0) return
    for (const pod of others) this.found.switchOff(pod)
    await delay(WITHDRAW_GRACE_MS)
    if (this.isReleased) return
    // Some may have been enrolled meanwhile.
    const left = others.filter((pod) => this.found.get(pod.netnsCookie) === pod)
    await Promise.all(left.map((pod) => this.found.remove(pod)))
  }

  get heartbeatMapFd(): number {
    return this.programs.heartbeatMapFd
  }

  get threadMapFd(): number {
    return this.programs.threadMapFd
  }

  setServing(workers: readonly number[]): void {
    this.ownSlots = workers.map((worker) => this.slotBase + worker)
    this.writeServing()
  }

  /** The agent before this one gets no new connections any more; where its maps are of another layout, until `settle`. */
  dismissPredecessor(): void {
    this.predecessorSlots = []
    this.writeServing()
    if (this.isReleased || !this.hasPredecessor) return
    this.hasPredecessor = false
    this.enrolling.isWaiting = false
    if (this.programs.takeover !== 'replaced') return
    for (const pod of this.enrolled.values()) this.switchOn(pod)
    // Those that could not be enrolled must not be free when its programs go.
    this.found.capture()
  }

  settle(): void {
    if (!this.isReleased) this.programs.removeReplaced()
  }

  private switchOn(pod: EnrolledPod): void {
    if (!pod.isCaptured) return
    this.enrolling.switchProbes(pod)
    this.enrolling.switchOn(pod)
    this.dns.begin(pod.record.netnsCookie)
  }

  private writeServing(): void {
    if (this.isReleased) return
    // One that has too many workers for both is left some out: those that stay take all connections.
    this.programs.servingWorkers.set([...this.ownSlots, ...this.predecessorSlots].slice(0, WORKERS_MAX))
  }

  connectionsBefore(uid: string): number {
    const pod = this.enrolled.get(uid)
    if (pod === undefined || pod.isCaptured) return 0
    return countConnections(this.addon, pod.netnsFd, pod.record.plan.ownAddresses)
  }

  audit(uid: string): AuditedPod | null {
    const pod = this.enrolled.get(uid)
    if (pod === undefined || !pod.isCaptured || this.isReleased || this.enrolling.isWaiting) return null
    const { netnsFd, link, record, workerCount } = pod
    const slots = Array.from({ length: workerCount }, (_, worker) => this.slotBase + worker)
    const { netnsCookie, isStrict, plan } = record
    const isDnsCaptured = this.dns.has(netnsCookie)
    const audited = { netnsFd, netnsCookie, linkFd: link.fd, slots, isStrict, isDnsCaptured, plan }
    const { faults, left } = auditPod(this.addon, this.programs, audited, (repaired) => {
      pod.record = { ...record, plan: repaired }
      this.records.put(pod.record)
      this.dns.repair(netnsCookie, repaired)
      this.enrolling.switchOn(pod)
    })
    return { uid, faults, left }
  }

  get unserved(): UnservedCounts {
    return new KernelUnserved(this.programs, (netnsCookie) => this.records.get(netnsCookie)?.displayName ?? null)
  }

  stats(): CaptureStats {
    const { stats } = this.programs
    return {
      enrolledPods: this.enrolled.size,
      outboundCaptured: stats.read(STAT_OUTBOUND_CAPTURED),
      inboundCaptured: stats.read(STAT_INBOUND_CAPTURED),
      bypassed: stats.read(STAT_BYPASSED),
      refused: stats.read(STAT_REFUSED) + stats.read(STAT_ESCAPES_REFUSED),
      dnsBypassed: this.dns.bypassed,
    }
  }

  async drain(): Promise<void> {
    if (this.isReleased) return
    // A connect() that was steered just now must still find a listener for its SYN: nobody else would answer it.
    for (const pod of this.enrolled.values()) {
      if (pod.isCaptured) this.enrolling.switchOn(pod, true)
      this.dns.end(pod.record.netnsCookie)
    }
    await delay(WITHDRAW_GRACE_MS)
  }

  async release(isReturnable = false): Promise<void> {
    if (this.isReleased) return
    // The other agent meters pods in place of what is there by then.
    await this.udp.rest()
    if (this.isReleased) return
    this.isReleased = true
    this.isReturnable = isReturnable
    if (isReturnable) {
      this.programs.release()
      return
    }
    const isEmpty =
      !this.hasPredecessor &&
      this.enrolled.size === 0 &&
      this.records.all().length === 0 &&
      this.found.others(new Set()).length === 0
    this.lingering.leave()
    // A link that is open anywhere stays attached: the next agent could not detach it.
    for (const { link } of this.enrolled.values()) closeSync(link.fd)
    // With nothing captured there is nothing to keep.
    if (isEmpty) this.programs.abandon()
    else this.programs.release()
  }

  async resume(): Promise<void> {
    if (!this.isReleased) return
    await this.lockAgain()
    this.isReleased = false
    this.udp.resume()
    // What the other agent has enrolled, and pods that were withdrawn meanwhile: they are enrolled in place, or let go.
    this.records.reread()
    this.found.reread(new Set([...this.enrolled.values()].map(({ record }) => record.netnsCookie)))
    this.enrolling.skipGivenNumbers()
    this.carrierMade?.numbers.reread(this.programs)
    for (const pod of this.enrolled.values()) {
      this.records.put(pod.record)
      this.switchOn(pod)
      // Its programs may count in maps of another layout.
      this.udp.attach({ ...pod.record, id: pod.id, netnsFd: pod.netnsFd, interfaces: pod.record.plan.interfaces })
    }
  }

  /** A process that was killed may have its descriptors for a moment after its socket is closed. */
  private async lockAgain(): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        this.programs.resume()
        return
      } catch (error) {
        if (!hasCode(error, 'EAGAIN') || tries === LOCK_TRIES) {
          throw kernelError('WEFT_SYSCALL', 'what was released to another agent cannot be taken back', error)
        }
        await delay(LOCK_RETRY_MS)
      }
    }
  }

  async close(): Promise<void> {
    const pods = [...this.enrolled.values()]
    this.enrolled.clear()
    if (this.isReleased) {
      for (const { netnsFd } of pods) closeSync(netnsFd)
      await this.udp.close()
      this.programs.close()
      return
    }
    const found = this.found.others(new Set())
    for (const pod of pods) this.enrolling.switchOff(pod)
    for (const pod of found) this.found.switchOff(pod)
    if (pods.length + found.length > 0) await delay(WITHDRAW_GRACE_MS)
    const ended = [...pods.map((pod) => this.remove(pod)), ...found.map((pod) => this.found.remove(pod))]
    // The agent ends, and with it the connections that these routes carry.
    this.lingering.removeAll()
    await Promise.all(ended)
    await this.udp.close()
    this.records.close()
    this.programs.close()
  }

  /** Removes a pod that is switched off; of a pod that another agent has now, our descriptors alone. */
  private async remove(pod: EnrolledPod): Promise<void> {
    if (!this.isReleased) {
      await this.enrolling.remove(pod)
      return
    }
    closeSync(pod.link.fd)
    closeSync(pod.netnsFd)
  }
}

function isSameList(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((port, i) => port === b[i])
}
