/**
 * Endpoints that are known by name: the names are looked up here, in the agent's own network, and the data workers only
 * ever see addresses. Each address found is a workload of its own, so that balancing and ejection see it.
 *
 * Sits between the subscription and everything that reads the mesh's state: deltas go through `translate`, and what
 * later look-ups find comes as deltas of its own. A name that cannot be looked up keeps the addresses it had.
 */
import { canonicalAddress, FAMILY_IPV4, familyOf } from '../base/address.ts'
import type { Clock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import { type Delta, EMPTY_DELTA } from '../model/delta.ts'
import type { Workload } from '../model/workload.ts'

/** What a look-up found. */
export interface FoundAddresses {
  readonly addresses: readonly string[]
  readonly ttlMs: number
}

/** What it needs of its agent. */
export interface NamedEndpointsOptions {
  /** Looks a whole name up; rejects when there is no answer or no address. */
  readonly lookUp: (hostname: string) => Promise<FoundAddresses>
  readonly clock: Clock
  readonly log: Logger
  /** Told what changed since, as if it came from the controller. */
  readonly onDelta: (delta: Delta) => void
}

/** A name is looked up again when its TTL is over, but not more often than this: some TTLs are 0. */
export const REFRESH_MS_MIN = 5_000

/** And at least this often: a TTL of a day is no reason to send a day's traffic to a host that has moved. */
export const REFRESH_MS_MAX = 60_000

/** Addresses of a name that are used. 16: more than a reply over UDP usually has; each is a workload in every worker. */
export const ADDRESSES_MAX = 16

/** One name, however many endpoints have it. */
interface Host {
  readonly name: string
  readonly uids: Set<string>
  addresses: readonly string[]
  isFailing: boolean
  cancel: (() => void) | null
}

/** See the head of the file. */
export class NamedEndpoints {
  private readonly options: NamedEndpointsOptions
  private readonly hosts = new Map<string, Host>()
  /** Workloads with names, as the controller wrote them. */
  private readonly workloads = new Map<string, Workload>()
  /** Uids of what was made of each. */
  private readonly derived = new Map<string, readonly string[]>()
  private isStopped = false

  constructor(options: NamedEndpointsOptions) {
    this.options = options
  }

  /** The delta with addresses in place of names, as far as they are known now. */
  translate(delta: Delta): Delta {
    const isNamed = delta.workloads.some(({ hostname }) => hostname !== undefined)
    if (!isNamed && this.workloads.size === 0) return delta
    const workloads: Workload[] = []
    const removed: string[] = []
    for (const uid of delta.removedWorkloads) {
      if (this.workloads.has(uid)) removed.push(...this.forget(uid))
      else removed.push(uid)
    }
    for (const workload of delta.workloads) {
      if (this.workloads.get(workload.uid)?.hostname !== workload.hostname) removed.push(...this.forget(workload.uid))
      if (workload.hostname === undefined) workloads.push(workload)
      else this.put(workload, workload.hostname, workloads, removed)
    }
    return { ...delta, workloads, removedWorkloads: removed }
  }

  /** No look-up and no delta from now on. */
  stop(): void {
    this.isStopped = true
    for (const host of this.hosts.values()) host.cancel?.()
  }

  private put(workload: Workload, hostname: string, workloads: Workload[], removed: string[]): void {
    this.workloads.set(workload.uid, workload)
    let host = this.hosts.get(hostname)
    if (host === undefined) {
      host = { name: hostname, uids: new Set(), addresses: [], isFailing: false, cancel: null }
      this.hosts.set(hostname, host)
      void this.refresh(host) // never rejects
    }
    host.uids.add(workload.uid)
    this.derive(workload, host.addresses, workloads, removed)
  }

  /** Ends a workload with a name; the uids that were made of it. */
  private forget(uid: string): readonly string[] {
    const workload = this.workloads.get(uid)
    if (workload === undefined) return []
    this.workloads.delete(uid)
    const host = this.hosts.get(workload.hostname!)!
    host.uids.delete(uid)
    if (host.uids.size === 0) {
      host.cancel?.()
      this.hosts.delete(host.name)
    }
    const uids = this.derived.get(uid) ?? []
    this.derived.delete(uid)
    return uids
  }

  private derive(workload: Workload, addresses: readonly string[], workloads: Workload[], removed: string[]): void {
    const { hostname: _, ...rest } = workload
    const made = addresses.map((address): Workload => {
      return { ...rest, uid: `${workload.uid}/${address}`, addresses: [address] }
    })
    const uids = new Set(made.map(({ uid }) => uid))
    for (const uid of this.derived.get(workload.uid) ?? []) if (!uids.has(uid)) removed.push(uid)
    this.derived.set(workload.uid, [...uids])
    workloads.push(...made)
  }

  private async refresh(host: Host): Promise<void> {
    const { lookUp, clock, log, onDelta } = this.options
    let delayMs = REFRESH_MS_MIN
    let addresses: readonly string[] | null = null
    try {
      const found = await lookUp(host.name)
      addresses = usable(found.addresses)
      delayMs = Math.min(REFRESH_MS_MAX, Math.max(REFRESH_MS_MIN, found.ttlMs))
      host.isFailing = false
    } catch (error) {
      if (!host.isFailing) {
        const { message } = error as Error
        log.warn('the host of an endpoint cannot be looked up', {
          host: host.name,
          message,
          kept: host.addresses.length,
        })
      }
      host.isFailing = true
    }
    if (this.isStopped || this.hosts.get(host.name) !== host) return
    host.cancel = clock.after(delayMs, () => void this.refresh(host)) // never rejects
    if (addresses === null || addresses.join() === host.addresses.join()) return
    host.addresses = addresses
    const workloads: Workload[] = []
    const removed: string[] = []
    for (const uid of host.uids) this.derive(this.workloads.get(uid)!, addresses, workloads, removed)
    onDelta({ ...EMPTY_DELTA, workloads, removedWorkloads: removed })
  }
}

/**
 * Canonical and sorted, so that the order of a reply changes nothing. Of two families the first is used: an endpoint is
 * dialled from a pod's network, and every pod that has one address has an IPv4 address far more often than not.
 */
function usable(found: readonly string[]): readonly string[] {
  const addresses = [...new Set(found.map(canonicalAddress).filter((address) => address !== null))].sort()
  const ipv4 = addresses.filter((address) => familyOf(address) === FAMILY_IPV4)
  if (addresses.length === 0) throw new Error('it has no address')
  return (ipv4.length > 0 ? ipv4 : addresses).slice(0, ADDRESSES_MAX)
}
