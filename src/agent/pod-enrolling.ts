/**
 * What the eBPF capture does with one pod: every step of enrolling it, in the order in which nothing is lost and each
 * step can be undone; switching it on and off; and removing it.
 *
 * A pod that an earlier agent has captured is replaced in place, and stays captured as it was when a step fails.
 */
import { closeSync } from 'node:fs'
import { canonicalAddress } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { WeftError } from '../base/errors.ts'
import { type Addon, fullMapError, kernelError } from '../kernel/addon.ts'
import type { CapturePrograms, PodLink } from '../kernel/capture-programs.ts'
import type { LocalRoute } from '../kernel/netlink.ts'
import type { ProbedPort } from '../kernel/probed-map.ts'
import { removeSteering, type SteeringPlan } from '../kernel/steering.ts'
import type { CapturedPod, PodDialing, PodToCapture } from './capture.ts'
import type { DnsEnrolments } from './dns-enrolment.ts'
import type { FoundPod, FoundPods } from './found-pods.ts'
import type { LingeringPods } from './lingering-pods.ts'
import { openListeners, openPodNetns, planPod, ROLE_PORTS, steerPod } from './pod-netns.ts'
import type { PodRecord, PodRecords } from './pod-records.ts'
import type { UdpMeterPods } from './udp-meter-pods.ts'

/** What the capture holds for one pod. */
export interface EnrolledPod {
  /** The programs' number of the pod. */
  readonly id: number
  record: PodRecord
  scope: number
  readonly netnsFd: number
  readonly workerCount: number
  readonly link: PodLink
  isCaptured: boolean
  /** At which the kubelet reaches it: canonical. */
  readonly addresses: readonly string[]
  probePorts: readonly number[]
}

/** Every step that enrolling has done, to be undone in reverse when a later one fails. */
type Undo = (() => void)[]

/** What enrolling works on, the capture's. */
export interface EnrollingParts {
  readonly addon: Addon
  readonly programs: CapturePrograms
  /** Of the node: no pod may have it. */
  readonly ownNetnsCookie: bigint
  readonly dns: DnsEnrolments
  readonly udp: UdpMeterPods
  readonly records: PodRecords
  readonly lingering: LingeringPods
  readonly found: FoundPods
  /** Slot of data worker 0 in the kernel's maps. */
  readonly slotBase: number
}

/** Of one capture. Which pods are enrolled is the capture's to remember. */
export class PodEnrolling {
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly ownNetnsCookie: bigint
  private readonly dns: DnsEnrolments
  private readonly udp: UdpMeterPods
  private readonly records: PodRecords
  private readonly lingering: LingeringPods
  private readonly found: FoundPods
  private readonly slotBase: number
  private readonly enrolled: Map<string, EnrolledPod>
  private nextPodId: number
  /**
   * True while the agent before this one serves with maps of another layout: in ours there are no pods then, so that our
   * programs, which are attached beside its own, let everything be.
   */
  isWaiting = false

  /** `enrolled` gets every pod that is, by uid. */
  constructor(parts: EnrollingParts, enrolled: Map<string, EnrolledPod>) {
    this.addon = parts.addon
    this.programs = parts.programs
    this.ownNetnsCookie = parts.ownNetnsCookie
    this.dns = parts.dns
    this.udp = parts.udp
    this.records = parts.records
    this.lingering = parts.lingering
    this.found = parts.found
    this.slotBase = parts.slotBase
    this.enrolled = enrolled
    this.nextPodId = Math.max(this.found.freeId, this.udp.greatestPodId + 1)
  }

  /** Another agent has given numbers meanwhile: they are given to no other pod. */
  skipGivenNumbers(): void {
    this.nextPodId = Math.max(this.nextPodId, this.found.freeId)
  }

  /** Prepares everything; nothing is captured yet, unless the pod was already. Throws WeftError; then all is undone. */
  enrol(pod: PodToCapture, workerCount: number): CapturedPod {
    assert(!this.enrolled.has(pod.pod.uid), `pod ${pod.displayName} is not enrolled yet`)
    const undo: Undo = []
    try {
      const enrolled = this.prepare(pod, workerCount, undo)
      this.enrolled.set(pod.pod.uid, enrolled.record)
      return enrolled.captured
    } catch (error) {
      for (const step of undo.reverse()) step()
      if (error instanceof WeftError) throw error
      const { displayName } = pod
      throw (
        fullMapError(`pod ${displayName}`, error) ??
        kernelError('WEFT_SYSCALL', `pod ${displayName} cannot be enrolled`, error)
      )
    }
  }

  private prepare(pod: PodToCapture, workerCount: number, undo: Undo): { record: EnrolledPod; captured: CapturedPod } {
    const { displayName } = pod
    const netnsFd = openPodNetns(this.addon, pod)
    undo.push(() => closeSync(netnsFd))
    const netnsCookie = this.addon.netnsCookie(netnsFd)
    this.refuseSharedNetns(displayName, netnsCookie)

    const plan = planPod(this.addon, pod, netnsFd)
    const listeners = openListeners(this.addon, netnsFd, displayName, workerCount, undo)
    const found = this.found.get(netnsCookie)
    const id = found === null || found.id === 0 ? this.nextPodId : found.id
    const record = this.recordOf(pod, netnsCookie, id, plan)
    // A pod that is captured already stays so when this fails.
    const undoOnly = found === null ? undo : []

    undoOnly.push(() => this.records.delete(netnsCookie))
    this.records.put(record)
    this.lingering.keep(netnsCookie)
    undoOnly.push(() => removeSteering(this.addon, netnsFd, plan))
    steerPod(this.addon, displayName, netnsFd, plan)
    for (const address of plan.ownAddresses) {
      undoOnly.push(() => this.programs.ownAddresses.delete(netnsCookie, address))
      this.programs.ownAddresses.insert(netnsCookie, address)
    }
    for (const { role, fds } of listeners) {
      for (const [worker, fd] of fds!.entries()) {
        this.programs.listeners.insert(netnsCookie, role, this.slotBase + worker, fd)
      }
    }
    const link = this.programs.attachPod(netnsFd, netnsCookie, displayName)
    undo.push(found === null ? () => this.programs.detachPod(link) : () => closeSync(link.fd))
    if (found !== null) this.leaveBehind(found, plan, netnsFd)
    if (id === this.nextPodId) this.nextPodId++
    const metered = { displayName, id, netnsFd, interfaces: plan.interfaces }
    undoOnly.push(() => void this.udp.end(metered))
    this.udp.attach(metered)
    // Last, because it does not fail: nobody would close its sockets.
    const slots = Array.from({ length: workerCount }, (_, worker) => this.slotBase + worker)
    const isDnsCaptured = pod.isDnsCaptured === true && this.programs.canCaptureDns
    const dns = isDnsCaptured ? this.dns.prepare({ displayName, netnsFd, netnsCookie, plan, slots }) : null
    if (dns === null) this.dns.removeFound(netnsCookie, netnsFd, plan)
    else listeners.push(dns)
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
        ...{ id, record, scope: 1, netnsFd, workerCount, link, isCaptured: found !== null },
        addresses: pod.addresses.map((address) => canonicalAddress(address)!),
        probePorts: pod.pod.probePorts ?? [],
      },
      captured: { uid: pod.pod.uid, listeners, dialing },
    }
  }

  private recordOf(pod: PodToCapture, netnsCookie: bigint, id: number, plan: SteeringPlan): PodRecord {
    const { uid, netns } = pod.pod
    const { displayName } = pod
    return { uid, displayName, netns, netnsCookie, id, isStrict: pod.isStrict ?? false, isWithdrawn: false, plan }
  }

  /** Removes what the earlier agent had set for a pod, and this one has not. */
  private leaveBehind({ netnsCookie, record }: FoundPod, plan: SteeringPlan, netnsFd: number): void {
    this.found.forget(netnsCookie)
    if (record === null) return
    for (const address of record.plan.ownAddresses) {
      if (!plan.ownAddresses.includes(address)) this.programs.ownAddresses.delete(netnsCookie, address)
    }
    const routes = record.plan.routes.filter((old) => !plan.routes.some((route) => isSameRoute(route, old)))
    const rules = record.plan.rules.filter(({ family }) => !plan.rules.some((rule) => rule.family === family))
    if (routes.length + rules.length > 0) removeSteering(this.addon, netnsFd, { ...plan, routes, rules })
  }

  private refuseSharedNetns(displayName: string, netnsCookie: bigint): void {
    if (netnsCookie === this.ownNetnsCookie) {
      throw new WeftError(
        'WEFT_CONFIG',
        `pod ${displayName} uses the network namespace of the node; it cannot be enrolled`,
      )
    }
    for (const { record } of this.enrolled.values()) {
      if (record.netnsCookie !== netnsCookie) continue
      throw new WeftError(
        'WEFT_CONFIG',
        `pods ${displayName} and ${record.displayName} share a network namespace; only one of them can be enrolled`,
      )
    }
  }

  // --- switching ---

  /** Captures nothing new of the pod. */
  switchOff({ record, id }: EnrolledPod): void {
    this.programs.pods.delete(record.netnsCookie)
    this.dns.end(record.netnsCookie)
    this.letProbesBy(id, [])
  }

  /** Connections of the node itself to the pod's probe ports, and to no others, are let by from now on. */
  switchProbes({ id, addresses, probePorts }: EnrolledPod): void {
    if (this.isWaiting) return
    this.letProbesBy(
      id,
      addresses.flatMap((address) => probePorts.map((port) => ({ address, port }))),
    )
  }

  private letProbesBy(id: number, wanted: readonly ProbedPort[]): void {
    const { probed } = this.programs
    for (const { port, pod } of [...probed.entries()]) {
      const isWanted = wanted.some((one) => one.address === port.address && one.port === port.port)
      if (pod === id && !isWanted) probed.delete(port)
    }
    for (const port of wanted) probed.insert(port, id)
  }

  /** Captures the pod as it is now known; `isUnserved` as if no data worker were alive. */
  switchOn({ record, scope }: EnrolledPod, isUnserved = false): void {
    if (this.isWaiting) return
    const { isSteeringIpv4, isSteeringIpv6, interfaces } = record.plan
    const { id, isStrict } = record
    const steering = { isSteeringIpv4, isSteeringIpv6, interfaces }
    this.programs.pods.insert(record.netnsCookie, { id, scope, isStrict, isUnserved, ...steering })
  }

  // --- withdrawing ---

  /**
   * Removes what captured a pod that is switched off. The netns may be gone; our descriptor keeps it usable. Everything is
   * gone at once but for the meter, for which the promise is.
   */
  async remove({ record, link, netnsFd, workerCount }: EnrolledPod): Promise<void> {
    const { netnsCookie, plan } = record
    this.programs.detachPod(link)
    this.dns.release(netnsCookie)
    this.programs.unserved.take(netnsCookie)
    for (const [role] of ROLE_PORTS) {
      for (let worker = 0; worker < workerCount; worker++) {
        this.programs.listeners.delete(netnsCookie, role, this.slotBase + worker)
      }
    }
    for (const address of plan.ownAddresses) this.programs.ownAddresses.delete(netnsCookie, address)
    await this.lingering.add(record, netnsFd)
  }
}

function isSameRoute(a: LocalRoute, b: LocalRoute): boolean {
  // Family, table, metric: what `replaceRoute` replaces.
  return a.family === b.family && a.table === b.table && a.metric === b.metric
}
