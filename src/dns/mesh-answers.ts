/**
 * What the names of the mesh stand for: virtual IPs, the addresses of a headless service's endpoints and of each by its
 * own name, or another host.
 *
 * Who is an endpoint is Kubernetes' answer (ready, or all where the service publishes unready ones too). A name that stands
 * for nothing right now is not denied here: the pod's own resolver has the last word.
 */
import { readinessOf } from '../model/endpoints.ts'
import type { Service } from '../model/service.ts'
import { Snapshot } from '../model/snapshot.ts'
import { ENDPOINT_READY, type Workload } from '../model/workload.ts'
import { MeshNames } from './mesh-names.ts'

/** Most names that stand for each other before an address comes: more than anybody writes, and a loop ends. */
const ALIASES_MAX = 8

/** What a name stands for. */
export interface MeshAnswer {
  readonly service: Service
  /** The host whose addresses these are, where it is another one; else null. */
  readonly alias: string | null
  readonly addresses: readonly string[]
  /** The addresses are those of endpoints, which come and go. */
  readonly isHeadless: boolean
}

/** Answers of the mesh as it is. */
export class MeshAnswers {
  private readonly names = new MeshNames()
  private snapshot: Snapshot = Snapshot.empty
  /** Endpoints by their names, of services that were asked for; goes with the snapshot's list of endpoints. */
  private named = new WeakMap<readonly Workload[], ReadonlyMap<string, readonly Workload[]>>()

  /** What the mesh looks like from now on. */
  update(snapshot: Snapshot): void {
    const isSame = snapshot.services === this.snapshot.services
    this.snapshot = snapshot
    if (!isSame) this.names.update(snapshot.services)
  }

  get size(): number {
    return this.names.size
  }

  /** Services whose names pods of `namespace` may ask for, by host name; at most `limit`. */
  visibleTo(namespace: string, limit: number): Service[] {
    return this.names.visibleTo(namespace, limit)
  }

  /**
   * What `host` (lower case, no last dot) stands for to a pod of `namespace`; null when it is no name of the mesh, or stands
   * for nothing that the mesh knows.
   */
  find(host: string, namespace: string): MeshAnswer | null {
    const service = this.names.find(host, namespace)
    return service === null ? this.endpointNamed(host, namespace) : this.answerOf(service, namespace)
  }

  private answerOf(service: Service, namespace: string): MeshAnswer | null {
    let target = service
    for (let i = 0; i < ALIASES_MAX && target.alias !== undefined; i++) {
      const next = this.names.findWhole(target.alias, namespace)
      if (next === null) return null
      target = next
    }
    if (target.alias !== undefined) return null
    const alias = target === service ? null : target.hostname
    if (target.isHeadless !== true) return { service, alias, addresses: target.addresses, isHeadless: false }
    const addresses = this.addressesOf(target, this.snapshot.endpointsOf(target.key))
    return addresses.length === 0 ? null : { service, alias, addresses, isHeadless: true }
  }

  /** `db-0.db.shop.svc.cluster.local`: one endpoint of a headless service. */
  private endpointNamed(host: string, namespace: string): MeshAnswer | null {
    const dot = host.indexOf('.')
    if (dot < 0) return null
    const service = this.names.find(host.slice(dot + 1), namespace)
    if (service === null || service.isHeadless !== true) return null
    const endpoints = this.namedOf(service).get(host.slice(0, dot))
    const addresses = endpoints === undefined ? [] : this.addressesOf(service, endpoints)
    return addresses.length === 0 ? null : { service, alias: null, addresses, isHeadless: true }
  }

  private namedOf({ key }: Service): ReadonlyMap<string, readonly Workload[]> {
    const endpoints = this.snapshot.endpointsOf(key)
    const known = this.named.get(endpoints)
    if (known !== undefined) return known
    const named = new Map<string, Workload[]>()
    for (const workload of endpoints) {
      for (const { service, hostname } of workload.services) {
        if (service !== key || hostname === undefined) continue
        const list = named.get(hostname)
        if (list === undefined) named.set(hostname, [workload])
        else list.push(workload)
      }
    }
    this.named.set(endpoints, named)
    return named
  }

  private addressesOf(service: Service, endpoints: readonly Workload[]): string[] {
    const addresses: string[] = []
    for (const workload of endpoints) {
      const membership = workload.services.find(({ service: key }) => key === service.key)
      if (membership === undefined || readinessOf(workload, membership, service) !== ENDPOINT_READY) continue
      addresses.push(...workload.addresses)
    }
    return addresses
  }
}
