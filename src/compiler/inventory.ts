/**
 * What there is: services by host, workloads with their labels, and who is an endpoint of what.
 *
 * Endpoints come from EndpointSlices; a service that has none, but a selector, gets the pods that it selects. Rules
 * (routes, policies) are compiled against this inventory.
 */
import { PROTOCOL_UDP, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import {
  type Locality,
  type PortMapping,
  TUNNEL_HBONE,
  TUNNEL_NONE,
  type Workload,
  type WorkloadService,
  type WorkloadType,
} from '../model/workload.ts'
import type { CoreService, CoreServicePort } from './core-service.ts'
import type { EndpointSlice, SliceEndpoint } from './endpoint-slice.ts'
import type { Enrolments } from './enrolment.ts'
import { claimHosts, type EntryHost } from './entry-hosts.ts'
import { exportOf } from './hosts.ts'
import { compareText, findings } from './messages.ts'
import { compareAge, type MeshObject } from './object.ts'
import type { Pod } from './pod.ts'
import { selects } from './selector.ts'
import type { EntryEndpoint, ServiceEntry } from './service-entry.ts'
import type { Run } from './settings.ts'

/** A workload and what rules ask about it. */
export interface Member {
  readonly uid: string
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
  /** In the mesh, whoever enrols it. */
  readonly isEnrolled: boolean
  /** In the mesh, and this control plane's to enrol. */
  readonly isOurs: boolean
  /** The pod's object; null for an endpoint that is no pod. */
  readonly object: MeshObject | null
  readonly workload: Omit<Workload, 'policies'>
}

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
  /** By node name. */
  readonly localities: ReadonlyMap<string, Locality>
  readonly pods: readonly Pod[]
  readonly services: readonly CoreService[]
  readonly slices: readonly EndpointSlice[]
  readonly entries: readonly ServiceEntry[]
}

/** One endpoint of a service while the inventory is made. */
interface Endpoint {
  readonly isReady: boolean
  readonly ports: readonly PortMapping[]
}

/** A workload while the inventory is made. */
interface Draft {
  readonly uid: string
  readonly namespace: string
  readonly pod: Pod | null
  readonly labels: Readonly<Record<string, string>>
  readonly base: Omit<Workload, 'policies' | 'services' | 'isHealthy' | 'uid' | 'namespace'>
  readonly isReady: boolean
  readonly isOurs: boolean
  readonly endpoints: Map<string, Endpoint>
}

/** Builds the inventory; reports clashing addresses and ports that lead nowhere. */
export function buildInventory(core: CoreObjects, run: Run): Inventory {
  const drafts = new Map<string, Draft>()
  const addresses = new Map<string, Draft>()
  for (const pod of claimAddresses(core, run)) {
    const draft = draftPod(pod, core, run)
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
  const members = [...drafts.values()].sort((a, b) => compareText(a.uid, b.uid)).map((draft) => finish(draft, core))
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
    const targetPort = typeof port.targetPort === 'number' ? port.targetPort : port.number
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
    if (pod.addresses.length === 0) return enrolments.of(pod).isMeshed
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

function draftPod(pod: Pod, core: CoreObjects, run: Run): Draft {
  const { name, namespace, labels } = pod.object
  const { settings } = run
  const owner = ownerOf(pod)
  const { isMeshed, isOurs } = core.enrolments.of(pod)
  return {
    uid: `${settings.clusterId}//Pod/${namespace}/${name}`,
    namespace,
    pod,
    labels,
    isReady: pod.isReady && pod.addresses.length > 0,
    isOurs,
    base: {
      name,
      addresses: pod.addresses,
      node: pod.node,
      trustDomain: settings.trustDomain,
      serviceAccount: pod.serviceAccount,
      tunnelProtocol: isMeshed ? TUNNEL_HBONE : TUNNEL_NONE,
      clusterId: settings.clusterId,
      locality: core.localities.get(pod.node) ?? NOWHERE,
      workloadName: owner.name,
      workloadType: owner.type,
      canonicalName: canonicalName(labels) ?? owner.name,
      canonicalRevision: canonicalRevision(labels),
      capacity: 1,
    },
    endpoints: new Map(),
  }
}

const NOWHERE: Locality = { region: '', zone: '', subzone: '' }

/** The owner that people think of: the Deployment behind a ReplicaSet, the CronJob behind a Job. */
function ownerOf(pod: Pod): { readonly name: string; readonly type: WorkloadType } {
  const { owner, object } = pod
  if (owner === null) return { name: object.name, type: 'pod' }
  if (owner.kind === 'ReplicaSet') {
    const hash = object.labels['pod-template-hash'] ?? ''
    const hasHash = hash !== '' && owner.name.endsWith(`-${hash}`)
    return { name: hasHash ? owner.name.slice(0, -hash.length - 1) : owner.name, type: 'deployment' }
  }
  if (owner.kind === 'Deployment') return { name: owner.name, type: 'deployment' }
  if (owner.kind === 'Job') {
    // A CronJob names its jobs after the minute they were due: eight digits or more.
    const scheduled = /^(.+)-[0-9]{8,}$/.exec(owner.name)
    return scheduled === null ? { name: owner.name, type: 'job' } : { name: scheduled[1]!, type: 'cronjob' }
  }
  return { name: owner.name, type: 'pod' }
}

function canonicalName(labels: Readonly<Record<string, string>>): string | undefined {
  return labels['service.istio.io/canonical-name'] ?? labels['app.kubernetes.io/name'] ?? labels['app']
}

function canonicalRevision(labels: Readonly<Record<string, string>>): string {
  return (
    labels['service.istio.io/canonical-revision'] ??
    labels['app.kubernetes.io/version'] ??
    labels['version'] ??
    'latest'
  )
}

function finish(draft: Draft, core: CoreObjects): Member {
  const services: WorkloadService[] = [...draft.endpoints]
    .map(([service, endpoint]) => ({ service, ports: endpoint.ports }))
    .sort((a, b) => compareText(a.service, b.service))
  const isHealthy = draft.isReady && [...draft.endpoints.values()].every((endpoint) => endpoint.isReady)
  const { uid, namespace, pod, labels, base, isOurs } = draft
  const locality = core.localities.get(base.node) ?? base.locality
  return {
    uid,
    namespace,
    labels,
    isEnrolled: base.tunnelProtocol === TUNNEL_HBONE,
    isOurs,
    object: pod?.object ?? null,
    workload: { uid, namespace, ...base, locality, services, isHealthy },
  }
}

// --- endpoints ---

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

function addSelected(service: CoreService, key: string, drafts: readonly Draft[], run: Run): void {
  if (service.selector === null) return
  for (const draft of drafts) {
    const { pod } = draft
    if (pod === null || !selects(service.selector, pod.object.labels)) continue
    const ports: PortMapping[] = []
    for (const port of service.ports) {
      const target = targetOf(port, pod)
      if (target !== null) ports.push({ servicePort: port.number, targetPort: target })
      else run.log.add(service.object, ['spec', 'ports'], findings.noTargetPort(String(port.targetPort)))
    }
    addEndpoint(draft, key, { isReady: true, ports })
  }
}

function targetOf(port: CoreServicePort, pod: Pod): number | null {
  return typeof port.targetPort === 'number' ? port.targetPort : (pod.ports.get(port.targetPort) ?? null)
}

function addSlices(
  service: CoreService,
  key: string,
  slices: readonly EndpointSlice[],
  drafts: Map<string, Draft>,
  addresses: Map<string, Draft>,
  run: Run,
): void {
  for (const slice of slices) {
    const ports: PortMapping[] = []
    for (const port of service.ports) {
      const target = slice.ports.get(`${port.name}/${port.transport}`)
      if (target !== undefined) ports.push({ servicePort: port.number, targetPort: target })
    }
    for (const endpoint of slice.endpoints) {
      const podUid = `${run.settings.clusterId}//Pod/${slice.object.namespace}/${endpoint.pod}`
      const draft = drafts.get(podUid) ?? addresses.get(endpoint.address) ?? draftEndpoint(slice, endpoint, run)
      if (!drafts.has(draft.uid)) {
        drafts.set(draft.uid, draft)
        addresses.set(endpoint.address, draft)
      }
      addEndpoint(draft, key, { isReady: endpoint.isReady, ports })
    }
  }
}

/** An endpoint that is no pod: plain, outside the mesh, known by its address alone. */
function draftEndpoint(slice: EndpointSlice, endpoint: SliceEndpoint, run: Run): Draft {
  const { name, namespace } = slice.object
  const { settings } = run
  return {
    uid: `${settings.clusterId}/discovery.k8s.io/EndpointSlice/${namespace}/${name}/${endpoint.address}`,
    namespace,
    pod: null,
    labels: {},
    isReady: true,
    isOurs: false,
    base: {
      name,
      addresses: [endpoint.address],
      node: endpoint.node,
      trustDomain: settings.trustDomain,
      serviceAccount: '',
      tunnelProtocol: TUNNEL_NONE,
      clusterId: settings.clusterId,
      locality: { ...NOWHERE, zone: endpoint.zone },
      workloadName: name,
      workloadType: 'pod',
      canonicalName: slice.service,
      canonicalRevision: 'latest',
      capacity: 1,
    },
    endpoints: new Map(),
  }
}

/** Adds what one slice says; a pod with two address families is in two slices of one service. */
function addEndpoint(draft: Draft, key: string, endpoint: Endpoint): void {
  const known = draft.endpoints.get(key)
  const ports = new Map<string, PortMapping>()
  for (const port of [...(known?.ports ?? []), ...endpoint.ports])
    ports.set(`${port.servicePort}/${port.targetPort}`, port)
  draft.endpoints.set(key, {
    isReady: endpoint.isReady && known?.isReady !== false,
    ports: [...ports.values()].sort((a, b) => a.servicePort - b.servicePort || a.targetPort - b.targetPort),
  })
}

// --- endpoints of ServiceEntries ---

function addEntryEndpoints(
  { entry, service }: EntryHost,
  drafts: Map<string, Draft>,
  addresses: Map<string, Draft>,
  run: Run,
): void {
  const itself = { address: '', hostname: service.hostname, ports: NO_PORTS, labels: {}, locality: '', weight: 1 }
  for (const endpoint of entry.isOwnEndpoint ? [itself] : entry.endpoints) {
    const ports = entry.ports.map(({ number, targetPort, name }): PortMapping => {
      return { servicePort: number, targetPort: endpoint.ports.get(name) ?? targetPort }
    })
    const made = draftEntryEndpoint(entry, endpoint, run)
    const draft = addresses.get(endpoint.address) ?? drafts.get(made.uid) ?? made
    drafts.set(draft.uid, draft)
    if (endpoint.address !== '') addresses.set(endpoint.address, draft)
    addEndpoint(draft, service.key, { isReady: true, ports })
  }
}

const NO_PORTS: ReadonlyMap<string, number> = new Map()

/** An endpoint of an entry that is no pod: plain, outside the mesh. */
function draftEntryEndpoint({ object }: ServiceEntry, endpoint: EntryEndpoint, run: Run): Draft {
  const { settings } = run
  const [region = '', zone = '', subzone = ''] = endpoint.locality.split('/')
  return {
    uid: `${settings.clusterId}/networking.istio.io/ServiceEntry/${object.namespace}/${object.name}/${endpoint.address || endpoint.hostname}`,
    namespace: object.namespace,
    pod: null,
    labels: endpoint.labels,
    isReady: true,
    isOurs: false,
    base: {
      name: object.name,
      addresses: endpoint.address === '' ? [] : [endpoint.address],
      ...(endpoint.hostname === '' ? {} : { hostname: endpoint.hostname }),
      node: '',
      trustDomain: settings.trustDomain,
      serviceAccount: '',
      tunnelProtocol: TUNNEL_NONE,
      clusterId: settings.clusterId,
      locality: { region, zone, subzone },
      workloadName: object.name,
      workloadType: 'pod',
      canonicalName: object.name,
      canonicalRevision: 'latest',
      capacity: endpoint.weight,
    },
    endpoints: new Map(),
  }
}
