/** What `/dns` of the admin endpoint shows: the names that pods of this node may ask for, and what they are answered. */
import { MeshAnswers } from '../dns/mesh-answers.ts'
import { MESH_TTL_S } from '../dns/reply.ts'
import type { Snapshot } from '../model/snapshot.ts'

/** Namespaces shown, and names of each. A node has some hundred pods; a person looks for one name, and greps. */
export const NAMESPACES_SHOWN_MAX = 100
export const NAMES_SHOWN_MAX = 1_000

/** Names by namespace of the pods that may ask for them. */
export interface DnsNames {
  readonly ttlSeconds: number
  /** Names that the mesh knows, whoever may see them. */
  readonly nameCount: number
  readonly namespaces: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>
  /** True when there is more than is shown. */
  readonly isCut: boolean
}

/** The names of one state of the mesh. */
export function describeNames(snapshot: Snapshot): DnsNames {
  const names = new MeshAnswers()
  names.update(snapshot)
  const asking = new Set<string>()
  for (const uid of snapshot.pods.keys()) {
    const workload = snapshot.workloads.get(uid)
    if (workload !== undefined) asking.add(workload.namespace)
  }
  const shown = [...asking].sort().slice(0, NAMESPACES_SHOWN_MAX)
  let isCut = asking.size > shown.length
  const namespaces: Record<string, Record<string, readonly string[]>> = Object.create(null)
  for (const namespace of shown) {
    const visible = names.visibleTo(namespace, NAMES_SHOWN_MAX + 1)
    if (visible.length > NAMES_SHOWN_MAX) isCut = true
    const byHost: Record<string, readonly string[]> = Object.create(null)
    for (const { hostname } of visible.slice(0, NAMES_SHOWN_MAX)) {
      const answer = names.find(hostname, namespace)
      // What stands for nothing that the mesh knows is not answered by it.
      if (answer !== null) byHost[hostname] = answer.addresses
    }
    namespaces[namespace] = byHost
  }
  return { ttlSeconds: MESH_TTL_S, nameCount: names.size, namespaces, isCut }
}
