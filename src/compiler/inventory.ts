/**
 * What there is: services by host, workloads with their labels, and who is an endpoint of what. Rules (routes, policies)
 * are compiled against this inventory.
 */
import { PROTOCOL_UDP, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import type { CoreService } from './core-service.ts'
import type { EndpointSlice } from './endpoint-slice.ts'
import type { Enrolments } from './enrolment.ts'
import { addEntryEndpoints } from './entry-endpoints.ts'
import { claimHosts } from './entry-hosts.ts'
import { exportOf } from './hosts.ts'
import { compareText, findings } from './messages.ts'
import { compareAge } from './object.ts'
import type { Pod } from './pod.ts'
import { addSelected, addSlices } from './service-endpoints.ts'
import type { ServiceEntry } from './service-entry.ts'
import type { Run } from './settings.ts'
import { type Draft, draftPod, finishDraft, type Localities, type Member } from './workload-draft.ts'

export type { Member } from './workload-draft.ts'

/** All objects of the mesh, indexed for the compiler. */
export interface Inventory {
  /** Sorted by key. */
  readonly services: readonly Service[]
  readonly serviceByHost: ReadonlyMap<string, Service>
  readonly hosts: ReadonlySet<string>
  /** Sorted by uid. */
  readonly members: readonly Member[]
  /** Endpoints by service key, sorted by uid. */
  readonly membersOf: ReadonlyMap<string, readonly Member[]>
}

/** The objects an inventory is made of, already read. */
export interface CoreObjects {
  readonly enrolments: Enrolments
  readonly localities: Localities
  readonly pods: readonly Pod[]
  readonly services: readonly CoreService[]
  readonly slices: readonly EndpointSlice[]
  readonly entries: readonly ServiceEntry[]
}

/** Builds the inventory; reports clashing addresses and ports that lead nowhere. */
export function buildInventory(core: CoreObjects, run: Run): Inventory {
  const drafts = new Map<string, Draft>()
  const addresses = new Map<string, Draft>()
  for (const pod of claimAddresses(core, run)) {
    const draft = draftPod(pod, core.enrolments, core.localities, run)
    drafts.set(draft.uid, draft)
    if (!pod.isHostNetwork) for (const address of pod.addresses) addresses.set(address, draft)
  }
  const services: Service[] = []
  const podsByNamespace = groupBy([...drafts.values()], (draft) => draft.namespace)
  const slicesByService = groupBy(core.slices, (slice) => `${slice.object.namespace}/${slice.service}`)
  for (const service of claimVirtualIps(core.services, run)) {
    const { namespace, name } = service.object
    const key = keyOfService(service, run)
    services.push(modelService(service, run))
    const slices = slicesByService.get(`${namespace}/${name}`)
    if (slices !== undefined) addSlices(service, key, slices, drafts, addresses, run)
    else addSelected(service, key, podsByNamespace.get(namespace) ?? [], run)
  }
  for (const one of claimHosts(core.entries, services, [...addresses.keys()], run)) {
    services.push(one.service)
    addEntryEndpoints(one, drafts, addresses, run)
  }
  services.sort((a, b) => compareText(a.key, b.key))
  const members = [...drafts.values()]
    .sort((a, b) => compareText(a.uid, b.uid))
    .map((draft) => finishDraft(draft, core.localities))
  const membersOf = new Map<string, Member[]>()
  for (const member of members) {
    for (const { service } of member.workload.services) {
      const list = membersOf.get(service)
      if (list === undefined) membersOf.set(service, [member])
      else list.push(member)
    }
  }
  const serviceByHost = new Map(services.map((service) => [service.hostname, service]))
  return { services, serviceByHost, hosts: new Set(serviceByHost.keys()), members, membersOf }
}

// --- services ---

function hostOf(service: CoreService, run: Run): string {
  const { name, namespace } = service.object
  return `${name}.${namespace}.svc.${run.settings.clusterDomain}`
}

function keyOfService(service: CoreService, run: Run): string {
  return serviceKey(service.object.namespace, hostOf(service, run))
}

function modelService(service: CoreService, run: Run): Service {
  const { name, namespace } = service.object
  const ports = new Map<number, ServicePort>()
  for (const port of service.ports) {
    // One number may stand for TCP and for UDP (DNS): the mesh carries TCP.
    if (port.protocol === PROTOCOL_UDP && ports.has(port.number)) continue
    const targetPort = typeof port.targetPort === 'number' ? port.targetPort : 0
    ports.set(port.number, { number: port.number, targetPort, name: port.name, protocol: port.protocol })
  }
  return {
    key: keyOfService(service, run),
    name,
    namespace,
    hostname: hostOf(service, run),
    addresses: service.addresses,
    ports: [...ports.values()].sort((a, b) => a.number - b.number),
    ...exportOf(service.visibility),
    ...(service.isHeadless ? { isHeadless: true } : {}),
    ...(service.alias === '' ? {} : { alias: service.alias }),
    ...(service.affinityMs === 0 ? {} : { affinityMs: service.affinityMs }),
    ...(service.isNodeLocal ? { isNodeLocal: true } : {}),
    ...(service.isPublishingUnready ? { isPublishingUnready: true } : {}),
  }
}

/** Services whose virtual IPs are their own: the oldest keeps an address that two claim. */
function claimVirtualIps(services: readonly CoreService[], run: Run): CoreService[] {
  const owners = new Map<string, CoreService>()
  return [...services]
    .sort((a, b) => compareAge(a.object, b.object))
    .filter((service) => {
      for (const address of service.addresses) {
        const owner = owners.get(address)
        if (owner !== undefined) {
          run.log.add(service.object, ['spec', 'clusterIP'], findings.duplicateAddress(address, owner.object.key))
          return false
        }
      }
      for (const address of service.addresses) owners.set(address, service)
      return true
    })
}

// --- workloads ---

/**
 * Pods that have an address of their own. Of two pods with one address the newer keeps it: addresses are used again as
 * soon as a pod is gone, and the object of the old one may linger.
 */
function claimAddresses({ pods, enrolments }: CoreObjects, run: Run): Pod[] {
  const owners = new Map<string, Pod>()
  const newestFirst = [...pods].sort(
    (a, b) =>
      (b.object.creationTimestamp ?? 0) - (a.object.creationTimestamp ?? 0) || compareText(a.object.key, b.object.key),
  )
  return newestFirst.filter((pod) => {
    if (pod.isHostNetwork) return true
    // One that is scheduled is told to its node's agent at once: who makes the pod's network asks for it.
    // That also holds for one that its label keeps out: whoever asks must not wait for nothing.
    if (pod.addresses.length === 0) {
      const { isMeshed } = enrolments.of(pod)
      return isMeshed || (pod.node !== '' && enrolments.isMeshNamespace(pod.object.namespace))
    }
    for (const address of pod.addresses) {
      const owner = owners.get(address)
      if (owner !== undefined) {
        run.log.add(pod.object, ['status', 'podIP'], findings.duplicateAddress(address, owner.object.key))
        return false
      }
    }
    for (const address of pod.addresses) owners.set(address, pod)
    return true
  })
}

function groupBy<T>(values: readonly T[], keyOf: (value: T) => string): ReadonlyMap<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const value of values) {
    const key = keyOf(value)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [value])
    else group.push(value)
  }
  return groups
}
