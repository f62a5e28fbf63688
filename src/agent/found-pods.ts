/**
 * The pods that an earlier agent has captured, as its maps, links and records tell. They stay captured as they are until
 * they are enrolled again, in place, or are known to be wanted no more. What belonged to pods that are gone is removed.
 */
import { closeSync } from 'node:fs'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { planDnsRoutes, removeDnsRoutes } from '../kernel/dns-capture.ts'
import type { Pod } from '../kernel/maps.ts'
import { findNetns } from '../kernel/netns-search.ts'
import { installSteering, planSteering } from '../kernel/steering.ts'
import type { LingeringPods } from './lingering-pods.ts'
import type { PodRecord, PodRecords } from './pod-records.ts'

/** A pod that is still captured as an earlier agent left it. */
export interface FoundPod {
  readonly netnsCookie: bigint
  readonly id: number
  /** Null when nothing was written down, or it cannot be read. */
  readonly record: PodRecord | null
}

export class FoundPods {
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly records: PodRecords
  private readonly lingering: LingeringPods
  private readonly log: Logger
  private readonly pods = new Map<bigint, FoundPod>()
  private greatestId = 0

  constructor(addon: Addon, programs: CapturePrograms, records: PodRecords, lingering: LingeringPods, log: Logger) {
    this.addon = addon
    this.programs = programs
    this.records = records
    this.lingering = lingering
    this.log = log
    this.read(new Set())
  }

  /** The same again, when another agent has used the maps and is dead. `enrolled` are this agent's own. */
  reread(enrolled: ReadonlySet<bigint>): void {
    this.pods.clear()
    this.read(enrolled)
    for (const netnsCookie of enrolled) this.pods.delete(netnsCookie)
  }

  /** The number of no pod that was ever found or counted. */
  get freeId(): number {
    return this.greatestId + 1
  }

  get count(): number {
    return this.pods.size
  }

  /** Numbers by uid, of those whose uid is known. */
  numbers(): ReadonlyMap<string, number> {
    const numbers = new Map<string, number>()
    for (const { id, record } of this.pods.values()) if (record !== null && id !== 0) numbers.set(record.uid, id)
    return numbers
  }

  get(netnsCookie: bigint): FoundPod | null {
    return this.pods.get(netnsCookie) ?? null
  }

  /** The pod is enrolled again. */
  forget(netnsCookie: bigint): void {
    this.pods.delete(netnsCookie)
  }

  /** The pods whose uid is not among these, or is not known. */
  others(uids: ReadonlySet<string>): FoundPod[] {
    return [...this.pods.values()].filter(({ record }) => record === null || !uids.has(record.uid))
  }

  /**
   * Captures the pods that are known by their records but not, or not all, in the maps and links, because those are new:
   * with no agent's listeners, so that connections are let by, or refused if strict, until the pods are enrolled.
   */
  capture(): void {
    const attached = new Set(this.programs.attachedPods())
    const entries = this.programs.pods.entries()
    for (const { netnsCookie, record } of this.pods.values()) {
      if (record === null || (attached.has(netnsCookie) && entries.has(netnsCookie))) continue
      try {
        this.captureOne(record)
      } catch (error) {
        const fields = { pod: record.displayName, error: describeError(error) }
        this.log.warn('a pod of an earlier agent is not captured until it is enrolled', fields)
      }
    }
  }

  /** Changes what happens to the connections of a pod that is not enrolled again yet. Others are ignored. */
  setStrict(uid: string, isStrict: boolean): void {
    for (const pod of this.pods.values()) {
      if (pod.record === null || pod.record.uid !== uid || pod.record.isStrict === isStrict) continue
      const record = { ...pod.record, isStrict }
      this.pods.set(pod.netnsCookie, { ...pod, record })
      this.records.put(record)
      const entry = this.programs.pods.entries().get(pod.netnsCookie)
      if (entry !== undefined) this.programs.pods.insert(pod.netnsCookie, { ...entry, isStrict })
    }
  }

  /** Switches a pod off. */
  switchOff({ netnsCookie }: FoundPod): void {
    this.programs.pods.delete(netnsCookie)
    this.programs.dnsPods.switchOff(netnsCookie)
  }

  /**
   * Removes what captured a pod that is switched off; its routes stay while steered connections are open. Resolves when it is
   * not metered any more.
   */
  async remove(pod: FoundPod): Promise<void> {
    const { netnsCookie } = pod
    const inode = this.programs.netnsInode(netnsCookie)
    const netnsFd = this.openNetns(pod, inode)
    this.pods.delete(netnsCookie)
    this.programs.detachFoundPod(netnsCookie)
    this.programs.ownAddresses.deleteWhere((cookie) => cookie === netnsCookie)
    const hadDns = this.programs.dnsPods.has(netnsCookie)
    this.programs.forgetDns(netnsCookie)
    if (netnsFd < 0) {
      this.records.delete(netnsCookie)
      return
    }
    const record = pod.record ?? this.recordOf(pod, netnsFd)
    this.log.info('a pod of an earlier agent is captured no more', { pod: record.displayName })
    if (hadDns) this.removeDnsRoutes(record, netnsFd)
    await this.lingering.add(record, netnsFd)
  }

  private removeDnsRoutes({ plan, displayName }: PodRecord, netnsFd: number): void {
    try {
      removeDnsRoutes(this.addon, netnsFd, planDnsRoutes(plan))
    } catch (error) {
      this.log.warn('routes of captured DNS cannot be removed', { pod: displayName, error: describeError(error) })
    }
  }

  // --- what is there ---

  /** Those in `kept` are there, whatever the maps say. */
  private read(kept: ReadonlySet<bigint>): void {
    const { programs, records } = this
    const entries = programs.pods.entries()
    const attached = new Set(programs.attachedPods())
    const recorded = records.all().map(({ netnsCookie }) => netnsCookie)
    const ids = [...entries.values(), ...records.all()].map(({ id }) => id)
    this.greatestId = Math.max(this.greatestId, programs.greatestPodId(), ...ids)
    const gone = new Set<bigint>()
    for (const netnsCookie of new Set([...entries.keys(), ...attached, ...recorded, ...kept])) {
      const record = records.get(netnsCookie)
      const id = this.idOf(entries.get(netnsCookie), record)
      const isAttached = attached.has(netnsCookie)
      const isThere = isAttached ? programs.hasNetns(netnsCookie) : record !== null && this.isAt(record)
      if (!isThere && !kept.has(netnsCookie)) gone.add(netnsCookie)
      else if (record?.isWithdrawn === true && !isAttached && !kept.has(netnsCookie)) {
        this.lingering.keep(netnsCookie)
        void this.lingering.add(record, this.addon.openNetns(record.netns))
      } else this.pods.set(netnsCookie, { netnsCookie, id, record })
    }
    for (const netnsCookie of gone) {
      programs.pods.delete(netnsCookie)
      programs.forgetDns(netnsCookie)
      programs.detachFoundPod(netnsCookie)
      records.delete(netnsCookie)
    }
    programs.ownAddresses.deleteWhere((cookie) => !this.pods.has(cookie))
    const living = new Set([...this.pods.values()].map(({ id }) => id))
    programs.forgetPods((id) => !living.has(id))
    if (gone.size > 0) this.log.info('what belonged to vanished pods is removed', { pods: gone.size })
  }

  /** A pod of which there is a link alone was just being enrolled, or withdrawn: 0, it gets another number. */
  private idOf(entry: Pod | undefined, record: PodRecord | null): number {
    return entry?.id ?? record?.id ?? 0
  }

  /** True when the netns at the path of the record is still the same one. */
  private isAt(record: PodRecord): boolean {
    const fd = this.openRecorded(record)
    if (fd >= 0) closeSync(fd)
    return fd >= 0
  }

  /** -1 when it is gone or another one. */
  private openRecorded(record: PodRecord): number {
    let fd = -1
    try {
      fd = this.addon.openNetns(record.netns)
      if (this.addon.netnsCookie(fd) === record.netnsCookie) return fd
    } catch {
      // The path is gone, or what is there is no netns any more.
    }
    if (fd >= 0) closeSync(fd)
    return -1
  }

  private openNetns({ record, netnsCookie }: FoundPod, inode: bigint): number {
    const fd = record === null ? -1 : this.openRecorded(record)
    return fd >= 0 ? fd : findNetns(this.addon, netnsCookie, inode)
  }

  // --- by records alone ---

  private captureOne(record: PodRecord): void {
    const { programs } = this
    const { netnsCookie, displayName, plan, isStrict } = record
    const netnsFd = this.openRecorded(record)
    if (netnsFd < 0) return
    try {
      installSteering(this.addon, netnsFd, plan)
      for (const address of plan.ownAddresses) programs.ownAddresses.insert(netnsCookie, address)
      closeSync(programs.attachPod(netnsFd, netnsCookie, displayName).fd)
      programs.pods.insert(netnsCookie, { ...plan, id: record.id, scope: 1, isStrict, isUnserved: true })
    } finally {
      closeSync(netnsFd)
    }
  }

  private recordOf({ netnsCookie, id }: FoundPod, netnsFd: number): PodRecord {
    const plan = planSteering(this.addon.netnsInterfaces(netnsFd), [])
    return {
      uid: '',
      displayName: `of netns cookie ${netnsCookie}`,
      netns: '',
      netnsCookie,
      id,
      isStrict: false,
      isWithdrawn: true,
      plan,
    }
  }
}
