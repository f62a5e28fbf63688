// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** Step 5a of the outbound path: to which of the weighted clusters of a TCP rule a connection goes. */
import type { WeightedCluster } from '../model/route.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { CarriedPort } from './carried-endpoints.ts'
import type { ClusterState } from './cluster.ts'
import type { ClusterRegistry } from './cluster-registry.ts'
import type { CompiledTraffic } from './route-tables.ts'

/**
 * Draws by weight; without weights it is the default cluster. Null when the rule names a cluster that is not there. Of a
 * cluster to whose endpoints the kernel carries connections only the rest of its weight counts.
 */
export function chooseTcpCluster(
  compiled: CompiledTraffic,
  carried: CarriedPort | null,
  clusters: ClusterRegistry,
  snapshot: Snapshot,
  random: () => number,
): ClusterState | null {
  const { tcpClusters, defaultCluster } = compiled.traffic
  let total = 0
  let left = 0
  for (const weighted of tcpClusters) {
    total += weighted.weight
    left += weightLeft(compiled, weighted, carried, clusters, snapshot)
  }
  // When the kernel carries everything, what comes here all the same is spread as if it carried nothing.
  const isRest = left > 0
  let key = defaultCluster
  let point = random() * (isRest ? left : total)
  for (const weighted of tcpClusters) {
    const weight = isRest ? weightLeft(compiled, weighted, carried, clusters, snapshot) : weighted.weight
    if (isRest && weight === 0) continue
    key = weighted.cluster
    point -= weight
    if (point < 0) break
  }
  const cluster = compiled.clusters.get(key)
  return cluster === undefined ? null : clusters.get(cluster, snapshot)
}

/** What of a cluster's weight falls to the proxy. */
function weightLeft(
  compiled: CompiledTraffic,
  { cluster: key, weight }: WeightedCluster,
  carried: CarriedPort | null,
  clusters: ClusterRegistry,
  snapshot: Snapshot,
): number {
  const cluster = carried === null ? undefined : compiled.clusters.get(key)
  return cluster === undefined ? weight : weight * carried!.shareOf(clusters.get(cluster, snapshot))
}
