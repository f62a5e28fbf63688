/**
 * What the agent has of the controller's resources, and what of it is not in force yet.
 *
 * Resources come piece by piece; `takeDelta` hands out everything that changed since its last call as one Delta, so that
 * what refers to each other is put in force together. A policy may move between two resource types: the delta speaks of
 * the model, where it only changed.
 */
import type { Delta } from '../model/delta.ts'
import type { MeshNamespace } from '../model/namespace.ts'
import type { Policy } from '../model/policy.ts'
import type { Traffic } from '../model/route.ts'
import type { Service } from '../model/service.ts'
import type { LocalPod, Workload } from '../model/workload.ts'
import { RESOURCE_TYPES, type ResourceType } from '../wire/discovery.ts'
import type { Resource } from '../wire/mesh-codec.ts'

/** A resource as it was received. */
export interface HeldResource {
  readonly version: string
  readonly bytes: Uint8Array
  readonly resource: Resource
}

type Kind = Resource['kind']

/** Everything accepted so far, and what of it no delta has carried yet. */
export class ResourceStore {
  private readonly held = new Map<ResourceType, Map<string, HeldResource>>(
    RESOURCE_TYPES.map((typeUrl) => [typeUrl, new Map()]),
  )
  /** Names that changed since the last delta, by kind. */
  private readonly touched: Record<Kind, Set<string>> = emptyNames()
  /** Names that the deltas handed out so far have put in force, by kind. */
  private readonly inForce: Record<Kind, Set<string>> = emptyNames()

  put(typeUrl: ResourceType, name: string, held: HeldResource): void {
    this.held.get(typeUrl)!.set(name, held)
    this.touched[held.resource.kind].add(name)
  }

  /** Unknown names are ignored. */
  remove(typeUrl: ResourceType, name: string): void {
    const map = this.held.get(typeUrl)!
    const held = map.get(name)
    if (held === undefined) return
    map.delete(name)
    this.touched[held.resource.kind].add(name)
  }

  /** Name -> version of everything held of a type, whether in force or not. */
  versions(typeUrl: ResourceType): Record<string, string> {
    const versions: Record<string, string> = {}
    for (const [name, { version }] of this.held.get(typeUrl)!) versions[name] = version
    return versions
  }

  count(typeUrl: ResourceType): number {
    return this.held.get(typeUrl)!.size
  }

  /** Everything held, by type and name. */
  entries(): readonly (readonly [ResourceType, string, HeldResource])[] {
    return RESOURCE_TYPES.flatMap((typeUrl) =>
      [...this.held.get(typeUrl)!].map(([name, held]) => [typeUrl, name, held] as const),
    )
  }

  /** What changed since the last call; from now on it counts as in force. */
  takeDelta(): Delta {
    const workloads = this.take('workload')
    const services = this.take('service')
    const policies = this.take('policy')
    const traffic = this.take('traffic')
    const pods = this.take('pod')
    const namespaces = this.take('namespace')
    return {
      workloads: workloads.changed as Workload[],
      removedWorkloads: workloads.removed,
      services: services.changed as Service[],
      removedServices: services.removed,
      policies: policies.changed as Policy[],
      removedPolicies: policies.removed,
      traffic: traffic.changed as Traffic[],
      removedTraffic: traffic.removed,
      pods: pods.changed as LocalPod[],
      removedPods: pods.removed,
      namespaces: namespaces.changed as MeshNamespace[],
      removedNamespaces: namespaces.removed,
    }
  }

  private take(kind: Kind): { changed: Resource['value'][]; removed: string[] } {
    const changed: Resource['value'][] = []
    const removed: string[] = []
    const inForce = this.inForce[kind]
    for (const name of this.touched[kind]) {
      const resource = this.find(kind, name)
      if (resource !== null) {
        changed.push(resource.value)
        inForce.add(name)
      } else if (inForce.delete(name)) {
        removed.push(name)
      }
    }
    this.touched[kind].clear()
    return { changed, removed }
  }

  private find(kind: Kind, name: string): Resource | null {
    for (const map of this.held.values()) {
      const resource = map.get(name)?.resource
      if (resource?.kind === kind) return resource
    }
    return null
  }
}

function emptyNames(): Record<Kind, Set<string>> {
  return {
    workload: new Set(),
    service: new Set(),
    policy: new Set(),
    traffic: new Set(),
    pod: new Set(),
    namespace: new Set(),
  }
}
