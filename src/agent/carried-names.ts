/**
 * What the numbers stand for by which the kernel tells of the connections that it carries: pods, services, policies.
 *
 * A number never means something else later, so what is told of a connection that began long ago is still right.
 */
import type { Family } from '../base/address.ts'
import type { Service } from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { resolveTargetPort } from '../proxy/destination.ts'

/** Names for numbers. */
export interface CarriedNames {
  /** The pod with that number as it was last known, also when it is gone; null for one that was never seen. */
  podOf(id: number): Workload | null
  /** The service by which a connection went; null when the mesh knows it no more, or a pod was dialled that has none. */
  serviceOf(number: number): Service | null
  /** The pod's own address that was dialled by that number; empty for a service. */
  addressOf(number: number): string
  /** `namespace/name` of a policy; empty for 0 and for a number that was never given. */
  policyOf(number: number): string
}

/** Gives the name of a number, empty when there is none. */
export interface NamesOf {
  nameOf(number: number): string
}

/**
 * Pods that are remembered. Four times as many as a node may have: events of a connection come when it has ended, and the
 * pod may have gone with it.
 */
export const PODS_REMEMBERED_MAX = 4096

/** The name of a service port in one family as one scope sees it; a scope may be any text. */
export function nameOfPort(scope: string, service: string, port: number, family: Family): string {
  return `service|${service}|${port}|${family}|${scope}`
}

/** The name of a pod's own address and port. */
export function nameOfAddress(uid: string, port: number, address: string): string {
  return `pod|${uid}|${port}|${address}`
}

/** The names that the agent knows. */
export class KnownNames implements CarriedNames {
  snapshot: Snapshot
  private readonly services: NamesOf
  private readonly policies: NamesOf
  private readonly pods = new Map<number, Workload>()

  constructor(snapshot: Snapshot, services: NamesOf, policies: NamesOf) {
    this.snapshot = snapshot
    this.services = services
    this.policies = policies
  }

  /** Remembers a pod; the one that was remembered the longest ago is forgotten when there are too many. */
  remember(id: number, workload: Workload): void {
    if (this.pods.get(id) === workload) return
    this.pods.delete(id)
    this.pods.set(id, workload)
    if (this.pods.size <= PODS_REMEMBERED_MAX) return
    const [oldest] = this.pods.keys()
    this.pods.delete(oldest!)
  }

  podOf(id: number): Workload | null {
    return this.pods.get(id) ?? null
  }

  serviceOf(number: number): Service | null {
    const [kind, name, port] = this.services.nameOf(number).split('|')
    if (name === undefined) return null
    if (kind === 'service') return this.snapshot.services.get(name) ?? null
    const workload = this.snapshot.workloads.get(name)
    return workload === undefined ? null : resolveTargetPort(this.snapshot, workload, Number(port), '').service
  }

  addressOf(number: number): string {
    const [kind, , , address] = this.services.nameOf(number).split('|')
    return kind === 'pod' ? address! : ''
  }

  policyOf(number: number): string {
    return this.policies.nameOf(number)
  }
}
