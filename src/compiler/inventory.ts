/**
 * What there is: services by host, workloads with their labels, and who is an endpoint of what. Rules (routes, policies)
 * are compiled against this inventory.
 */
import { groupBy } from '../base/group-by.ts'
import { isSameData } from '../base/same-data.ts'
import { STEP_VALUES, type Steps } from '../base/steps.ts'
import { PROTOCOL_UDP, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import { isSameList } from './compile-memo.ts'
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
import {
  type Draft,
  draftPod,
  type FormerDrafts,
  finishDraft,
  type Localities,
  type Member,
  type Selectable,
} from './workload-draft.ts'

export type { Member, Selectable } from './workload-draft.ts'

/** What rules choose from: services by host, and workloads as selectors see them. */
export interface Selection {
  /** Sorted by key. */
  readonly services: readonly Service[]
  readonly serviceByKey: ReadonlyMap<string, Service>
  /** Of services with one host the last. */
  readonly serviceByHost: ReadonlyMap<string, Service>
  readonly hosts: ReadonlySet<string>
  /** Sorted by uid. */
  readonly members: readonly Selectable[]
  /** By namespace, sorted by uid. */
  readonly membersIn: ReadonlyMap<string, readonly Selectable[]>
  /** Endpoints by service key, sorted by uid. */
  readonly membersOf: ReadonlyMap<string, readonly Selectable[]>
}

/** All objects of the mesh, indexed for the compiler. */
export interface Inventory {
  /** The very same as before while nothing changes that rules can see. */
  readonly selection: Selection
  /** Sorted by uid. */
  readonly members: readonly Member[]
  /** By uid, for the next inventory. */
  readonly drafts: FormerDrafts
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

const NO_DRAFTS: FormerDrafts = new Map()

/** Builds the inventory; reports clashing addresses and ports that lead nowhere. Takes what is the same from `former`. */
export function* buildInventory(core: CoreObjects, run: Run, former: Inventory | null): Steps<Inventory> {
  const { enrolments, localities } = core
  const formerDrafts = former?.drafts ?? NO_DRAFTS
  const drafts = new Map<string, Draft>()
  const addresses = new Map<string, Draft>()
  let count = 0
  for (const pod of claimAddresses(core, run)) {
    if (++count % STEP_VALUES === 0) yield
    const draft = draftPod(pod, enrolments.of(pod, run), localities, formerDrafts, run)
    drafts.set(draft.uid, draft)
    if (!pod.isHostNetwork) for (const address of pod.addresses) addresses.set(address, draft)
  }
  const services: Service[] = []
  const podsByNamespace = groupBy(drafts.values(), (draft) => draft.namespace)
  yield
  const slicesByService = groupBy(core.slices, (slice) => `${slice.object.namespace}/${slice.service}`)
  yield
  for (const service of claimVirtualIps(core.services, run)) {
    yield
    const { namespace, name } = service.object
    const key = keyOfService(service, run)
    services.push(modelService(service, run))
    const slices = slicesByService.get(`${namespace}/${name}`)
    if (slices !== undefined) addSlices(service, key, slices, drafts, addresses, run)
    else addSelected(service, key, podsByNamespace.get(namespace) ?? [], run)
  }
  for (const one of claimHosts(core.entries, services, addresses.keys(), run)) {
    yield
    services.push(one.service)
    addEntryEndpoints(one, drafts, addresses, run)
  }
  const members: Member[] = []
  for (const draft of drafts.values()) {
    if (++count % STEP_VALUES === 0) yield
    members.push(finishDraft(draft, localities, formerDrafts))
  }
  yield
  members.sort((a, b) => compareText(a.uid, b.uid))
  yield
  const selection = yield* select(services, members, former?.selection ?? null)
  return { selection, members, drafts }
}

/** What rules see of it; all that is as before is the very same. */
function* select(unsorted: readonly Service[], all: readonly Member[], former: Selection | null): Steps<Selection> {
  const named = unsorted.map((service) => {
    const known = former?.serviceByKey.get(service.key)
    return known !== undefined && isSameData(known, service) ? known : service
  })
  const services = formerList(
    named.sort((a, b) => compareText(a.key, b.key)),
    former?.services,
  )
  yield
  const members = formerList(
    all.map(({ selectable }) => selectable),
    former?.members,
  )
  const membersOf = new Map<string, readonly Selectable[]>()
  for (const { selectable, workload } of all) {
    for (const { service } of workload.services) {
      const list = membersOf.get(service) as Selectable[] | undefined
      if (list === undefined) membersOf.set(service, [selectable])
      else list.push(selectable)
    }
  }
  yield
  let isSame = former !== null && services === former.services && members === former.members
  isSame &&= membersOf.size === former!.membersOf.size
  for (const [service, list] of membersOf) {
    const known = former?.membersOf.get(service)
    if (known !== undefined && isSameList(known, list)) membersOf.set(service, known)
    else isSame = false
  }
  if (isSame) return former!
  yield
  const membersIn = members === former?.members ? former.membersIn : groupBy(members, ({ namespace }) => namespace)
  if (services === former?.services) {
    const { serviceByKey, serviceByHost, hosts } = former
    return { services, serviceByKey, serviceByHost, hosts, members, membersIn, membersOf }
  }
  const serviceByKey = new Map(services.map((service) => [service.key, service]))
  const serviceByHost = new Map(services.map((service) => [service.hostname, service]))
  const hosts = new Set(serviceByHost.keys())
  return { services, serviceByKey, serviceByHost, hosts, members, membersIn, membersOf }
}

function formerList<T>(list: readonly T[], former: readonly T[] | undefined): readonly T[] {
  return former !== undefined && isSameList(list, former) ? former : list
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
function claimAddresses({ pods, enrolments }: CoreObjects, run: Run): readonly Pod[] {
  const placed = pods.filter((pod) => {
    if (pod.isHostNetwork || pod.addresses.length > 0) return true
    // One that is scheduled is told to its node's agent at once: who makes the pod's network asks for it.
    // That also holds for one that its label keeps out: whoever asks must not wait for nothing.
    const { isMeshed } = enrolments.of(pod, run)
    return isMeshed || (pod.node !== '' && enrolments.isMeshNamespace(pod.object.namespace))
  })
  // Hardly ever is an address claimed twice, and only then it matters who is newer.
  if (!hasSharedAddress(placed)) return placed
  const owners = new Map<string, Pod>()
  placed.sort(
    (a, b) =>
      (b.object.creationTimestamp ?? 0) - (a.object.creationTimestamp ?? 0) || compareText(a.object.key, b.object.key),
  )
  return placed.filter((pod) => {
    if (pod.isHostNetwork) return true
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

function hasSharedAddress(pods: readonly Pod[]): boolean {
  const claimed = new Set<string>()
  for (const { isHostNetwork, addresses } of pods) {
    if (isHostNetwork) continue
    for (const address of addresses) {
      if (claimed.has(address)) return true
      claimed.add(address)
    }
  }
  return false
}
