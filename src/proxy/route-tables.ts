/** Route tables by traffic object, compiled once (slow side of route-table.ts). */

import type { Traffic } from '../model/route.ts'
import type { Cluster } from '../model/service.ts'
import { RouteTable } from './route-table.ts'

/** A traffic resource with its routes compiled and its clusters indexed. */
export class CompiledTraffic {
  readonly traffic: Traffic
  readonly routes: RouteTable
  readonly clusters: ReadonlyMap<string, Cluster>

  constructor(traffic: Traffic) {
    this.traffic = traffic
    this.routes = new RouteTable(traffic.routes)
    this.clusters = new Map(traffic.clusters.map((cluster) => [cluster.key, cluster]))
  }
}

/** Route tables by traffic object, compiled when first asked for. */
export class RouteTables {
  // Weak: a traffic object that a newer snapshot replaced takes its compiled form with it.
  private readonly compiled = new WeakMap<Traffic, CompiledTraffic>()

  of(traffic: Traffic): CompiledTraffic {
    let compiled = this.compiled.get(traffic)
    if (compiled === undefined) {
      compiled = new CompiledTraffic(traffic)
      this.compiled.set(traffic, compiled)
    }
    return compiled
  }
}
