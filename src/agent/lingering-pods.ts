/**
 * Withdrawn pods with steered connections that are still open. They are captured no more; only their routes stay, because
 * without them the packets of those connections would leave the pod. The routes go with the last such connection.
 */
import { closeSync } from 'node:fs'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import { hasSteeredSockets, removeSteering } from '../kernel/steering.ts'
import type { PodRecord, PodRecords } from './pod-records.ts'
import type { UdpMeterPods } from './udp-meter-pods.ts'

/** How often they are looked at. Only removing their routes waits. */
const CHECK_MS = 1000

interface LingeringPod {
  readonly record: PodRecord
  readonly netnsFd: number
}

export class LingeringPods {
  private readonly addon: Addon
  private readonly udp: Pick<UdpMeterPods, 'end'>
  private readonly records: PodRecords
  private readonly log: Logger
  private pods: LingeringPod[] = []
  private timer: NodeJS.Timeout | null = null

  constructor(addon: Addon, udp: Pick<UdpMeterPods, 'end'>, records: PodRecords, log: Logger) {
    this.addon = addon
    this.udp = udp
    this.records = records
    this.log = log
  }

  /**
   * Takes the descriptor of the netns; the netns may be gone, the descriptor keeps it usable. Resolves when the pod is not
   * metered any more; the routes may stay for longer.
   */
  async add(record: PodRecord, netnsFd: number): Promise<void> {
    const { displayName, id, plan } = record
    const ended = this.udp.end({ displayName, id, netnsFd, interfaces: plan.interfaces })
    this.records.put({ ...record, isWithdrawn: true })
    this.pods.push({ record, netnsFd })
    this.check()
    await ended
  }

  /** The pod is enrolled again: its routes are needed. */
  keep(netnsCookie: bigint): void {
    for (const { netnsFd } of this.pods.filter(({ record }) => record.netnsCookie === netnsCookie)) closeSync(netnsFd)
    this.pods = this.pods.filter(({ record }) => record.netnsCookie !== netnsCookie)
  }

  /** Removes all routes: the connections that need them end with the agent. */
  removeAll(): void {
    this.stop()
    for (const pod of this.pods.splice(0)) this.removeRoutes(pod)
  }

  /** Leaves everything to the next agent, which finds it in the records. */
  leave(): void {
    this.stop()
    for (const { netnsFd } of this.pods.splice(0)) closeSync(netnsFd)
  }

  private check(): void {
    const open: LingeringPod[] = []
    for (const pod of this.pods) {
      if (this.isSteering(pod)) open.push(pod)
      else this.removeRoutes(pod)
    }
    this.pods = open
    if (open.length === 0) this.stop()
    else this.timer ??= setInterval(() => this.check(), CHECK_MS).unref()
  }

  private stop(): void {
    if (this.timer !== null) clearInterval(this.timer)
    this.timer = null
  }

  private isSteering({ record, netnsFd }: LingeringPod): boolean {
    try {
      return hasSteeredSockets(this.addon, netnsFd)
    } catch (error) {
      // Kernels without sock_diag: the routes go at once, and open steered connections with them.
      this.log.warn('open connections of a withdrawn pod cannot be listed', {
        pod: record.displayName,
        error: describeError(error),
      })
      return false
    }
  }

  private removeRoutes({ record, netnsFd }: LingeringPod): void {
    try {
      removeSteering(this.addon, netnsFd, record.plan)
      this.records.delete(record.netnsCookie)
    } catch (error) {
      this.log.warn('steering routes cannot be removed', { pod: record.displayName, error: describeError(error) })
    }
    closeSync(netnsFd)
  }
}
