/**
 * The immutable, versioned state of the mesh as one agent knows it. `apply` makes the next snapshot; indexes that a
 * delta does not touch are shared with the previous one. Readers hold a reference and never lock.
 */
import type { Delta } from './delta.ts'
import type { MeshNamespace } from './namespace.ts'
import { POLICY_SCOPE_GLOBAL, POLICY_SCOPE_NAMESPACE, type Policy } from './policy.ts'
import { type Traffic, trafficKey } from './route.ts'
import type { Service } from './service.ts'
import type { LocalPod, Workload } from './workload.ts'

const NO_WORKLOADS: readonly Workload[] = []

export class Snapshot {
  /** Counts up by one per applied delta; 0 is the empty snapshot. */
  readonly version: number
  readonly workloads: ReadonlyMap<string, Workload>
  readonly services: ReadonlyMap<string, Service>
  readonly policies: ReadonlyMap<string, Policy>
  readonly traffic: ReadonlyMap<string, Traffic>
  readonly pods: ReadonlyMap<string, LocalPod>
  readonly namespaces: ReadonlyMap<string, MeshNamespace>
  private readonly workloadsByAddress: ReadonlyMap<string, Workload>
  private readonly servicesByAddress: ReadonlyMap<string, Service>
  private readonly endpoints: ReadonlyMap<string, readonly Workload[]>
  private readonly globalPolicies: readonly Policy[]
  private readonly namespacePolicies: ReadonlyMap<string, readonly Policy[]>

  private constructor(fields: SnapshotFields) {
    this.version = fields.version
    this.workloads = fields.workloads
    this.services = fields.services
    this.policies = fields.policies
    this.traffic = fields.traffic
    this.pods = fields.pods
    this.namespaces = fields.namespaces
    this.workloadsByAddress = fields.workloadsByAddress
    this.servicesByAddress = fields.servicesByAddress
    this.endpoints = fields.endpoints
    this.globalPolicies = fields.globalPolicies
    this.namespacePolicies = fields.namespacePolicies
  }

  static readonly empty: Snapshot = new Snapshot({
    version: 0,
    workloads: new Map(),
    services: new Map(),
    policies: new Map(),
    traffic: new Map(),
    pods: new Map(),
    namespaces: new Map(),
    workloadsByAddress: new Map(),
    servicesByAddress: new Map(),
    endpoints: new Map(),
    globalPolicies: [],
    namespacePolicies: new Map(),
  })

  /** The snapshot after `delta`. Cost is linear in the size of the indexes that the delta touches. */
  apply(delta: Delta): Snapshot {
    const hasWorkloads = delta.workloads.length + delta.removedWorkloads.length > 0
    const hasServices = delta.services.length + delta.removedServices.length > 0
    const hasPolicies = delta.policies.length + delta.removedPolicies.length > 0
    const workloads = hasWorkloads
      ? merge(this.workloads, delta.workloads, (workload) => workload.uid, delta.removedWorkloads)
      : this.workloads
    const services = hasServices
      ? merge(this.services, delta.services, (service) => service.key, delta.removedServices)
      : this.services
    const policies = hasPolicies
      ? merge(this.policies, delta.policies, (policy) => policy.key, delta.removedPolicies)
      : this.policies
    return new Snapshot({
      version: this.version + 1,
      workloads,
      services,
      policies,
      traffic: merge(this.traffic, delta.traffic, (traffic) => traffic.key, delta.removedTraffic),
      pods: merge(this.pods, delta.pods, (pod) => pod.uid, delta.removedPods),
      namespaces: merge(this.namespaces, delta.namespaces, ({ name }) => name, delta.removedNamespaces),
      workloadsByAddress: hasWorkloads ? indexAddresses(workloads) : this.workloadsByAddress,
      servicesByAddress: hasServices ? indexAddresses(services) : this.servicesByAddress,
      endpoints: hasWorkloads ? indexEndpoints(workloads) : this.endpoints,
      globalPolicies: hasPolicies
        ? [...policies.values()].filter((policy) => policy.scope === POLICY_SCOPE_GLOBAL)
        : this.globalPolicies,
      namespacePolicies: hasPolicies ? indexNamespacePolicies(policies) : this.namespacePolicies,
    })
  }

  /** The workload that has this canonical address, or null. */
  workloadByAddress(address: string): Workload | null {
    return this.workloadsByAddress.get(address) ?? null
  }

  /** The service that has this canonical virtual IP, or null. */
  serviceByAddress(address: string): Service | null {
    return this.servicesByAddress.get(address) ?? null
  }

  /** Workloads that are endpoints of a service (healthy or not), in a stable order. */
  endpointsOf(serviceKey: string): readonly Workload[] {
    return this.endpoints.get(serviceKey) ?? NO_WORKLOADS
  }

  /** Rules for clients of `scope` towards a service port; null means defaults. */
  trafficOf(scope: string, serviceKey: string, port: number): Traffic | null {
    return this.traffic.get(trafficKey(scope, serviceKey, port)) ?? null
  }

  /** Every policy that applies to a workload: global, its namespace's, and those that select it. */
  policiesOf(workload: Workload): readonly Policy[] {
    const selected: Policy[] = [...this.globalPolicies, ...(this.namespacePolicies.get(workload.namespace) ?? [])]
    for (const key of workload.policies) {
      const policy = this.policies.get(key)
      if (policy !== undefined) selected.push(policy)
    }
    return selected
  }
}

interface SnapshotFields {
  readonly version: number
  readonly workloads: ReadonlyMap<string, Workload>
  readonly services: ReadonlyMap<string, Service>
  readonly policies: ReadonlyMap<string, Policy>
  readonly traffic: ReadonlyMap<string, Traffic>
  readonly pods: ReadonlyMap<string, LocalPod>
  readonly namespaces: ReadonlyMap<string, MeshNamespace>
  readonly workloadsByAddress: ReadonlyMap<string, Workload>
  readonly servicesByAddress: ReadonlyMap<string, Service>
  readonly endpoints: ReadonlyMap<string, readonly Workload[]>
  readonly globalPolicies: readonly Policy[]
  readonly namespacePolicies: ReadonlyMap<string, readonly Policy[]>
}

function merge<T>(
  previous: ReadonlyMap<string, T>,
  added: readonly T[],
  keyOf: (value: T) => string,
  removed: readonly string[],
): ReadonlyMap<string, T> {
  if (added.length === 0 && removed.length === 0) return previous
  const next = new Map(previous)
  for (const key of removed) next.delete(key)
  for (const value of added) next.set(keyOf(value), value)
  return next
}

function indexAddresses<T extends { readonly addresses: readonly string[] }>(
  values: ReadonlyMap<string, T>,
): ReadonlyMap<string, T> {
  const index = new Map<string, T>()
  for (const value of values.values()) for (const address of value.addresses) index.set(address, value)
  return index
}

function indexEndpoints(workloads: ReadonlyMap<string, Workload>): ReadonlyMap<string, readonly Workload[]> {
  const index = new Map<string, Workload[]>()
  for (const workload of workloads.values()) {
    for (const { service } of workload.services) {
      const list = index.get(service)
      if (list === undefined) index.set(service, [workload])
      else list.push(workload)
    }
  }
  for (const list of index.values()) list.sort((a, b) => (a.uid < b.uid ? -1 : 1))
  return index
}

function indexNamespacePolicies(policies: ReadonlyMap<string, Policy>): ReadonlyMap<string, readonly Policy[]> {
  const index = new Map<string, Policy[]>()
  for (const policy of policies.values()) {
    if (policy.scope !== POLICY_SCOPE_NAMESPACE) continue
    const list = index.get(policy.namespace)
    if (list === undefined) index.set(policy.namespace, [policy])
    else list.push(policy)
  }
  return index
}
