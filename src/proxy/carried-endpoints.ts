// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Which endpoints of a service port get their share of connections from the kernel already (agent/carriage-plan.ts). What
 * comes to the proxy is the share of the others: it leaves these out while there is another one, so that weights come out
 * right in the sum of both.
 */
import type { Family } from '../base/address.ts'
import type { ClusterState } from './cluster.ts'
import type { Endpoint } from './endpoint.ts'
import { createPicker, type Picker } from './picker.ts'

/** A service port (see `carriedKey`), and the uids of the endpoints that the kernel carries connections to; none: it is over. */
export type CarriedChange = readonly [key: string, uids: readonly string[]]

/** Names a service port in one address family; `scope` is empty for what holds for clients without rules of their own. */
export function carriedKey(scope: string, service: string, port: number, family: Family): string {
  return `${service}|${port}|${family}|${scope}`
}

/** What the kernel carries, as far as this worker must know it. */
export class CarriedEndpoints {
  private readonly random: () => number
  private readonly ports = new Map<string, CarriedPort>()

  /** `random` gives [0, 1). */
  constructor(random: () => number) {
    this.random = random
  }

  /** Null when all connections to the port come to the proxy. */
  of(key: string): CarriedPort | null {
    return this.ports.get(key) ?? null
  }

  change(changes: readonly CarriedChange[]): void {
    for (const [key, uids] of changes) {
      if (uids.length === 0) this.ports.delete(key)
      else this.ports.set(key, new CarriedPort(uids, this.random))
    }
  }
}

/** What is left of one cluster. */
class Remainder {
  /** Those of the cluster when this was made. */
  readonly all: readonly Endpoint[]
  /** Null when the kernel carries connections to all of them. */
  readonly picker: Picker | null
  /** Of the cluster's connections, 0 to 1. */
  readonly share: number

  constructor(cluster: ClusterState, carried: ReadonlySet<string>, random: () => number) {
    this.all = cluster.endpoints
    const rest: Endpoint[] = []
    let total = 0
    let left = 0
    for (const endpoint of this.all) {
      total += endpoint.weight
      if (carried.has(endpoint.workload.uid)) continue
      left += endpoint.weight
      rest.push(endpoint)
    }
    this.picker = rest.length === 0 ? null : createPicker(cluster.cluster.balance, rest, random)
    this.share = total === 0 ? 1 : left / total
  }
}

/** One service port that the kernel carries connections to. */
export class CarriedPort {
  private readonly carried: ReadonlySet<string>
  private readonly random: () => number
  /** Weak: a cluster that is gone takes its own with it. */
  private readonly remainders: WeakMap<ClusterState, Remainder>

  constructor(uids: readonly string[], random: () => number) {
    this.carried = new Set(uids)
    this.random = random
    this.remainders = new WeakMap()
  }

  /** Like `cluster.pick`; what the kernel carries only when nothing else is left. */
  pick(cluster: ClusterState, tried: readonly Endpoint[] | null, client = ''): Endpoint | null {
    const { picker } = this.remainderOf(cluster)
    if (picker !== null) {
      const endpoint = picker.pick(tried)
      if (endpoint !== null && (tried === null || !tried.includes(endpoint))) return endpoint
    }
    return cluster.pick(tried, client)
  }

  /** How much of a cluster's connections comes to the proxy, 0 to 1. */
  shareOf(cluster: ClusterState): number {
    return this.remainderOf(cluster).share
  }

  private remainderOf(cluster: ClusterState): Remainder {
    let remainder = this.remainders.get(cluster)
    if (remainder === undefined || remainder.all !== cluster.endpoints) {
      remainder = new Remainder(cluster, this.carried, this.random)
      this.remainders.set(cluster, remainder)
    }
    return remainder
  }
}
