/**
 * The DNS part of enrolling a pod in the eBPF capture: sockets, routes and map entries, in the order in which nothing is
 * lost. A pod whose DNS cannot be captured is enrolled all the same: it asks its resolvers as if there were no mesh.
 */
import { closeSync } from 'node:fs'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import {
  type DnsNetns,
  installDnsRoutes,
  openDnsSocket,
  planDnsRoutes,
  removeDnsRoutes,
} from '../kernel/dns-capture.ts'
import { DNS_STAT_BYPASSED, DNS_STAT_RESOLVERS_FULL, PORT_DNS } from '../kernel/layout.generated.ts'
import type { LocalRoute } from '../kernel/netlink.ts'
import type { SteeringPlan } from '../kernel/steering.ts'
import { type CapturedListener, ROLE_DNS } from './capture.ts'

interface DnsPod {
  readonly netnsFd: number
  readonly routes: readonly LocalRoute[]
  readonly slots: readonly number[]
  readonly isIpv4: boolean
  readonly isIpv6: boolean
}

/** What the capture says of a pod. */
export interface PodToAnswer {
  readonly displayName: string
  readonly netnsFd: number
  readonly netnsCookie: bigint
  readonly plan: SteeringPlan
  /** Slots of the data workers, one socket each. */
  readonly slots: readonly number[]
}

/** The pods of one capture whose DNS is captured, by netns cookie. */
export class DnsEnrolments {
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly log: Logger
  private readonly pods = new Map<bigint, DnsPod>()

  constructor(addon: Addon, programs: CapturePrograms, log: Logger) {
    this.addon = addon
    this.programs = programs
    this.log = log
  }

  /** Questions that were let by, counted by the programs. */
  get bypassed(): { readonly unserved: number; readonly resolvers: number } {
    const { dnsStats } = this.programs
    return { unserved: dnsStats.read(DNS_STAT_BYPASSED), resolvers: dnsStats.read(DNS_STAT_RESOLVERS_FULL) }
  }

  /**
   * Prepares a pod: nothing is captured before `begin`. Null, and a line in the log, when it cannot be; then nothing of
   * it is left behind. The descriptors are the caller's.
   */
  prepare(pod: PodToAnswer): CapturedListener | null {
    const { netnsFd, netnsCookie, plan, slots, displayName } = pod
    const netns: DnsNetns = { netnsFd, netnsCookie, exemptMapFd: this.programs.exemptMapFd }
    const routes = planDnsRoutes(plan)
    const fds: number[] = []
    try {
      for (const slot of slots) {
        const fd = openDnsSocket(this.addon, netns, displayName)
        fds.push(fd)
        this.programs.listeners.insert(netnsCookie, ROLE_DNS, slot, fd)
      }
      installDnsRoutes(this.addon, netnsFd, routes)
    } catch (error) {
      // A socket leaves the map of listeners when it is closed.
      for (const fd of fds) closeSync(fd)
      removeDnsRoutes(this.addon, netnsFd, routes)
      this.log.warn('DNS of a pod is not captured', { pod: displayName, error: describeError(error) })
      return null
    }
    const { isSteeringIpv4: isIpv4, isSteeringIpv6: isIpv6 } = plan
    this.pods.set(netnsCookie, { netnsFd, routes, slots, isIpv4, isIpv6 })
    return { role: ROLE_DNS, fds, address: '::', port: PORT_DNS }
  }

  /** True for a pod that was prepared. */
  has(netnsCookie: bigint): boolean {
    return this.pods.has(netnsCookie)
  }

  /** Sets routes and entry of a captured pod anew, for the interfaces that it has now. Throws the system call's error. */
  repair(netnsCookie: bigint, plan: SteeringPlan): void {
    const pod = this.pods.get(netnsCookie)
    if (pod === undefined) return
    const routes = planDnsRoutes(plan)
    installDnsRoutes(this.addon, pod.netnsFd, routes)
    this.pods.set(netnsCookie, { ...pod, routes, isIpv4: plan.isSteeringIpv4, isIpv6: plan.isSteeringIpv6 })
    this.begin(netnsCookie)
  }

  /** Captures from now on, if the pod was prepared. */
  begin(netnsCookie: bigint): void {
    const pod = this.pods.get(netnsCookie)
    if (pod !== undefined) this.programs.dnsPods.switchOn(netnsCookie, pod)
  }

  /** New questions go to the resolvers; answers that are on their way still come. */
  end(netnsCookie: bigint): void {
    if (this.pods.has(netnsCookie)) this.programs.dnsPods.switchOff(netnsCookie)
  }

  /** Removes everything of a pod that was ended. Its sockets may live on; the netns may be gone. */
  release(netnsCookie: bigint): void {
    const pod = this.pods.get(netnsCookie)
    if (pod === undefined) return
    this.pods.delete(netnsCookie)
    for (const slot of pod.slots) this.programs.listeners.delete(netnsCookie, ROLE_DNS, slot)
    this.programs.forgetDns(netnsCookie)
    this.removeRoutes(pod.netnsFd, pod.routes)
  }

  /** Removes what an earlier agent has set for a pod whose DNS is captured no more. */
  removeFound(netnsCookie: bigint, netnsFd: number, plan: SteeringPlan): void {
    if (!this.programs.dnsPods.has(netnsCookie)) return
    this.programs.forgetDns(netnsCookie)
    this.removeRoutes(netnsFd, planDnsRoutes(plan))
  }

  private removeRoutes(netnsFd: number, routes: readonly LocalRoute[]): void {
    try {
      removeDnsRoutes(this.addon, netnsFd, routes)
    } catch (error) {
      this.log.warn('routes of captured DNS cannot be removed', { error: describeError(error) })
    }
  }
}
