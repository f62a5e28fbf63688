/**
 * Workloads while the inventory is made: what a pod is to the mesh, and of which services it is an endpoint as they are
 * found one by one.
 */
import { isSameData } from '../base/same-data.ts'
import type { PortMapping } from '../model/workload.ts'
import {
  ENDPOINT_READY,
  type Locality,
  type Readiness,
  TUNNEL_HBONE,
  TUNNEL_NONE,
  type TunnelProtocol,
  type Workload,
  type WorkloadService,
  type WorkloadType,
} from '../model/workload.ts'
import type { Enrolment } from './enrolment.ts'
import { compareText } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { Pod } from './pod.ts'
import type { Run } from './settings.ts'

/** What rules ask about a workload when they choose it. */
export interface Selectable {
  readonly uid: string
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
  /** In the mesh, whoever enrols it. */
  readonly isEnrolled: boolean
}

/** A workload. */
export interface Member extends Selectable {
  /** The very same as long as rules cannot tell the difference, however the workload is. */
  readonly selectable: Selectable
  /** In the mesh, and this control plane's to enrol. */
  readonly isOurs: boolean
  /** The pod's object; null for an endpoint that is no pod. */
  readonly object: MeshObject | null
  readonly workload: Omit<Workload, 'policies'>
}

/** What a service says about one of its endpoints. */
export interface DraftEndpoint {
  /** Key of the service. */
  readonly service: string
  readonly readiness: Readiness
  /** Said by the workload's own namespace: it then counts for the workload as a whole. */
  readonly isOwn: boolean
  readonly ports: readonly PortMapping[]
  /** Empty for most. */
  readonly hostname: string
  readonly zones: readonly string[]
  readonly nodes: readonly string[]
}

/** A workload in the making. */
export interface Draft {
  readonly uid: string
  readonly namespace: string
  readonly pod: Pod | null
  readonly labels: Readonly<Record<string, string>>
  readonly base: Omit<Workload, 'policies' | 'services' | 'isHealthy' | 'uid' | 'namespace'>
  readonly isReady: boolean
  readonly isOurs: boolean
  /** One for each service, in the order in which the services were looked at. */
  readonly endpoints: DraftEndpoint[]
  /** What it has become; null before. */
  member: Member | null
}

/** By uid, of the run before; what they have become they were made to. */
export type FormerDrafts = ReadonlyMap<string, Draft>

/** By node name. */
export type Localities = ReadonlyMap<string, Locality>

export const NOWHERE: Locality = { region: '', zone: '', subzone: '' }

/** A pod, as yet of no service. */
export function draftPod(
  pod: Pod,
  { isMeshed, isOurs }: Enrolment,
  localities: Localities,
  former: FormerDrafts,
  run: Run,
): Draft {
  const { namespace, labels } = pod.object
  const uid = pod.workloadUid
  const tunnelProtocol = isMeshed ? TUNNEL_HBONE : TUNNEL_NONE
  const locality = localities.get(pod.node) ?? NOWHERE
  const known = former.get(uid)
  const isKnown = known?.pod === pod && known.base.tunnelProtocol === tunnelProtocol && known.base.locality === locality
  const base = isKnown ? known.base : baseOf(pod, tunnelProtocol, locality, run)
  const isReady = pod.isReady && pod.addresses.length > 0
  return { uid, namespace, pod, labels, isReady, isOurs, base, endpoints: [], member: null }
}

function baseOf(pod: Pod, tunnelProtocol: TunnelProtocol, locality: Locality, { settings }: Run): Draft['base'] {
  const { name, labels } = pod.object
  const owner = ownerOf(pod)
  return {
    name,
    addresses: pod.addresses,
    node: pod.node,
    trustDomain: settings.trustDomain,
    serviceAccount: pod.serviceAccount,
    tunnelProtocol,
    clusterId: settings.clusterId,
    locality,
    workloadName: owner.name,
    workloadType: owner.type,
    canonicalName: canonicalName(labels) ?? owner.name,
    canonicalRevision: canonicalRevision(labels),
    capacity: 1,
  }
}

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

/** Makes the workload of a draft; it is the former one when that was made from the same. */
export function finishDraft(draft: Draft, localities: Localities, former: FormerDrafts): Member {
  const known = former.get(draft.uid)
  const before = known?.member ?? null
  const locality = localities.get(draft.base.node) ?? draft.base.locality
  const isSame =
    known !== undefined &&
    before !== null &&
    isSameData(before.workload.locality, locality) &&
    isSameDraft(draft, known)
  draft.member = isSame ? before : memberOf(draft, locality, before)
  return draft.member
}

function isSameDraft(draft: Draft, known: Draft): boolean {
  if (draft.pod !== known.pod || draft.isReady !== known.isReady || draft.isOurs !== known.isOurs) return false
  // What is no pod is drafted anew each time.
  if (draft.base !== known.base && !(isSameData(draft.base, known.base) && isSameData(draft.labels, known.labels))) {
    return false
  }
  const { endpoints } = draft
  if (endpoints.length !== known.endpoints.length) return false
  for (let i = 0; i < endpoints.length; i++) if (!isSameEndpoint(endpoints[i]!, known.endpoints[i]!)) return false
  return true
}

function isSameEndpoint(a: DraftEndpoint, b: DraftEndpoint): boolean {
  return (
    a.service === b.service &&
    a.readiness === b.readiness &&
    a.isOwn === b.isOwn &&
    a.hostname === b.hostname &&
    isSameData(a.ports, b.ports) &&
    isSameData(a.zones, b.zones) &&
    isSameData(a.nodes, b.nodes)
  )
}

function memberOf(draft: Draft, locality: Locality, former: Member | null): Member {
  const services = draft.endpoints
    .map(
      ({ service, ports, readiness, hostname, zones, nodes }): WorkloadService => ({
        service,
        ports,
        ...(readiness === ENDPOINT_READY ? {} : { readiness }),
        ...(hostname === '' ? {} : { hostname }),
        ...(zones.length === 0 ? {} : { zones }),
        ...(nodes.length === 0 ? {} : { nodes }),
      }),
    )
    .sort((a, b) => compareText(a.service, b.service))
  // Who writes slices in another namespace must not be able to take a workload out of everybody's services.
  const isHealthy = draft.isReady && draft.endpoints.every((one) => !one.isOwn || one.readiness === ENDPOINT_READY)
  const { uid, namespace, pod, labels, base, isOurs } = draft
  const isEnrolled = base.tunnelProtocol === TUNNEL_HBONE
  const selectable =
    former !== null && former.isEnrolled === isEnrolled && isSameData(former.labels, labels)
      ? former.selectable
      : { uid, namespace, labels, isEnrolled }
  return {
    uid,
    namespace,
    labels,
    isEnrolled,
    selectable,
    isOurs,
    object: pod?.object ?? null,
    workload: { uid, namespace, ...base, locality, services, isHealthy },
  }
}

/** Adds what one slice says; a pod with two address families is in two slices of one service. */
export function addEndpoint(draft: Draft, endpoint: DraftEndpoint): void {
  const { endpoints } = draft
  const known = endpoints.at(-1)
  // Services are looked at one after the other.
  if (known === undefined || known.service !== endpoint.service) {
    endpoints.push(endpoint)
    return
  }
  endpoints[endpoints.length - 1] = {
    service: endpoint.service,
    // Numbers grow from ready to unready: what is worst is true.
    readiness: Math.max(endpoint.readiness, known.readiness) as Readiness,
    isOwn: endpoint.isOwn,
    ports: uniquePorts([...known.ports, ...endpoint.ports]),
    hostname: known.hostname === '' ? endpoint.hostname : known.hostname,
    zones: known.zones.length === 0 ? endpoint.zones : known.zones,
    nodes: known.nodes.length === 0 ? endpoint.nodes : known.nodes,
  }
}

/** Without what is there twice, and sorted. */
export function uniquePorts(ports: readonly PortMapping[]): readonly PortMapping[] {
  const unique = new Map(ports.map((port) => [`${port.servicePort}/${port.targetPort}`, port]))
  return [...unique.values()].sort((a, b) => a.servicePort - b.servicePort || a.targetPort - b.targetPort)
}
