/** What changed between two snapshots: full objects to put in place, keys to take away. Plain data, cloneable. */
import type { MeshNamespace } from './namespace.ts'
import type { Policy } from './policy.ts'
import type { Traffic } from './route.ts'
import type { Service } from './service.ts'
import type { LocalPod, Workload } from './workload.ts'

export interface Delta {
  readonly workloads: readonly Workload[]
  readonly removedWorkloads: readonly string[]
  readonly services: readonly Service[]
  readonly removedServices: readonly string[]
  readonly policies: readonly Policy[]
  readonly removedPolicies: readonly string[]
  readonly traffic: readonly Traffic[]
  readonly removedTraffic: readonly string[]
  readonly pods: readonly LocalPod[]
  readonly removedPods: readonly string[]
  readonly namespaces: readonly MeshNamespace[]
  readonly removedNamespaces: readonly string[]
}

export const EMPTY_DELTA: Delta = {
  workloads: [],
  removedWorkloads: [],
  services: [],
  removedServices: [],
  policies: [],
  removedPolicies: [],
  traffic: [],
  removedTraffic: [],
  pods: [],
  removedPods: [],
  namespaces: [],
  removedNamespaces: [],
}

/** True when nothing is in it. */
export function isEmptyDelta(delta: Delta): boolean {
  return Object.values(delta as unknown as Record<string, readonly unknown[]>).every((list) => list.length === 0)
}
