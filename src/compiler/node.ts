/** Nodes: where they stand. */
import type { Locality } from '../model/workload.ts'
import type { MeshObject } from './object.ts'

/** Where a node stands, from its topology labels. */
export function localityOf(node: MeshObject): Locality {
  return {
    region: node.labels['topology.kubernetes.io/region'] ?? '',
    zone: node.labels['topology.kubernetes.io/zone'] ?? '',
    subzone: node.labels['topology.istio.io/subzone'] ?? '',
  }
}
