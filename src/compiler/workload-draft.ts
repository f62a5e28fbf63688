/**
 * Workloads while the inventory is made: what a pod is to the mesh, and of which services it is an endpoint as they are
 * found one by one.
 */
import type { PortMapping } from '../model/workload.ts'
import {
  ENDPOINT_READY,
  type Locality,
  type Readiness,
  TUNNEL_HBONE,
  TUNNEL_NONE,
  type Workload,
  type WorkloadService,
  type WorkloadType,
} from '../model/workload.ts'
import type { Enrolments } from './enrolment.ts'
import { compareText } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { Pod } from './pod.ts'
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

/** What a service says about one of its endpoints. */
export interface DraftEndpoint {
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
  /** By service key. */
  readonly endpoints: Map<string, DraftEndpoint>
}

/** By node name. */
export type Localities = ReadonlyMap<string, Locality>

export const NOWHERE: Locality = { region: '', zone: '', subzone: '' }

/** A pod, as yet of no service. */
export function draftPod(pod: Pod, enrolments: Enrolments, localities: Localities, run: Run): Draft {
  const { name, namespace, labels } = pod.object
  const { settings } = run
  const owner = ownerOf(pod)
  const { isMeshed, isOurs } = enrolments.of(pod)
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
      locality: localities.get(pod.node) ?? NOWHERE,
      workloadName: owner.name,
      workloadType: owner.type,
      canonicalName: canonicalName(labels) ?? owner.name,
      canonicalRevision: canonicalRevision(labels),
      capacity: 1,
    },
    endpoints: new Map(),
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

/** The workload that a draft has become. */
export function finishDraft(draft: Draft, localities: Localities): Member {
  const services: WorkloadService[] = [...draft.endpoints]
    .map(([service, { ports, readiness, hostname, zones, nodes }]) => ({
      service,
      ports,
      ...(readiness === ENDPOINT_READY ? {} : { readiness }),
      ...(hostname === '' ? {} : { hostname }),
      ...(zones.length === 0 ? {} : { zones }),
      ...(nodes.length === 0 ? {} : { nodes }),
    }))
    .sort((a, b) => compareText(a.service, b.service))
  // Who writes slices in another namespace must not be able to take a workload out of everybody's services.
  const isHealthy =
    draft.isReady && [...draft.endpoints.values()].every((one) => !one.isOwn || one.readiness === ENDPOINT_READY)
  const { uid, namespace, pod, labels, base, isOurs } = draft
  const locality = localities.get(base.node) ?? base.locality
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

/** Adds what one slice says; a pod with two address families is in two slices of one service. */
export function addEndpoint(draft: Draft, key: string, endpoint: DraftEndpoint): void {
  const known = draft.endpoints.get(key)
  const ports = new Map<string, PortMapping>()
  for (const port of [...(known?.ports ?? []), ...endpoint.ports])
    ports.set(`${port.servicePort}/${port.targetPort}`, port)
  draft.endpoints.set(key, {
    // Numbers grow from ready to unready: what is worst is true.
    readiness: Math.max(endpoint.readiness, known?.readiness ?? ENDPOINT_READY) as Readiness,
    isOwn: endpoint.isOwn,
    ports: [...ports.values()].sort((a, b) => a.servicePort - b.servicePort || a.targetPort - b.targetPort),
    hostname: known === undefined || known.hostname === '' ? endpoint.hostname : known.hostname,
    zones: known === undefined || known.zones.length === 0 ? endpoint.zones : known.zones,
    nodes: known === undefined || known.nodes.length === 0 ? endpoint.nodes : known.nodes,
  })
}
