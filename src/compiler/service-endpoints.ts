/**
 * Who is an endpoint of a Kubernetes service: as its EndpointSlices say, or, where there are none (a directory of YAML has
 * no controllers), the pods that its selector selects.
 */
import {
  ENDPOINT_DRAINING,
  ENDPOINT_READY,
  ENDPOINT_UNREADY,
  type PortMapping,
  type Readiness,
  TUNNEL_NONE,
} from '../model/workload.ts'
import type { CoreService, CoreServicePort } from './core-service.ts'
import type { EndpointSlice, SliceEndpoint } from './endpoint-slice.ts'
import { findings } from './messages.ts'
import type { Pod } from './pod.ts'
import { selects } from './selector.ts'
import type { Run } from './settings.ts'
import { addEndpoint, type Draft, NOWHERE, uniquePorts } from './workload-draft.ts'

/** Zones and nodes of whom nothing is said about. */
const NOWHERE_SAID: readonly string[] = []

/** Adds the pods that a service selects among the `drafts` of its namespace. */
export function addSelected(service: CoreService, key: string, drafts: readonly Draft[], run: Run): void {
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
    const hostname = pod.subdomain === service.object.name ? pod.hostname : ''
    const readiness = readinessIn(service, pod)
    const said = {
      readiness,
      isOwn: true,
      ports: uniquePorts(ports),
      hostname,
      zones: NOWHERE_SAID,
      nodes: NOWHERE_SAID,
    }
    addEndpoint(draft, { service: key, ...said })
  }
}

/** What Kubernetes would write into the slice. */
function readinessIn({ isPublishingUnready }: CoreService, pod: Pod): Readiness {
  if (isPublishingUnready || pod.isReady) return ENDPOINT_READY
  return pod.isDraining ? ENDPOINT_DRAINING : ENDPOINT_UNREADY
}

function targetOf(port: CoreServicePort, pod: Pod): number | null {
  return typeof port.targetPort === 'number' ? port.targetPort : (pod.ports.get(port.targetPort) ?? null)
}

/** Adds what the slices of a service say. Endpoints that are no pod become workloads of their own. */
export function addSlices(
  service: CoreService,
  key: string,
  slices: readonly EndpointSlice[],
  drafts: Map<string, Draft>,
  addresses: Map<string, Draft>,
  run: Run,
): void {
  for (const slice of slices) {
    const mapped: PortMapping[] = []
    for (const port of service.ports) {
      const target = slice.ports.get(`${port.name}/${port.transport}`)
      if (target !== undefined) mapped.push({ servicePort: port.number, targetPort: target })
    }
    const ports = uniquePorts(mapped)
    for (const endpoint of slice.endpoints) {
      const draft = draftOf(slice, endpoint, drafts, addresses, run)
      if (draft === null) continue
      const { hostname, zones, nodes } = endpoint
      const readiness = readinessOf(service, endpoint, draft)
      const isOwn = draft.namespace === slice.object.namespace
      addEndpoint(draft, { service: key, readiness, isOwn, ports, hostname, zones, nodes })
    }
  }
}

/**
 * The workload behind an endpoint. Null when it is a pod that is not there: watches run side by side, and a pod that is only
 * known by its address would be sent plaintext.
 */
function draftOf(
  slice: EndpointSlice,
  endpoint: SliceEndpoint,
  drafts: Map<string, Draft>,
  addresses: Map<string, Draft>,
  run: Run,
): Draft | null {
  if (endpoint.pod !== '') {
    const draft = drafts.get(endpoint.workloadUid)
    const uid = draft?.pod?.object.uid ?? ''
    const isSame = draft !== undefined && (uid === '' || endpoint.podUid === '' || uid === endpoint.podUid)
    if (isSame) return draft
    run.log.add(slice.object, ['endpoints'], findings.podUnknown(endpoint.pod))
    return null
  }
  const known = addresses.get(endpoint.address)
  if (known !== undefined) return known
  const draft = draftEndpoint(slice, endpoint, run)
  drafts.set(draft.uid, draft)
  addresses.set(endpoint.address, draft)
  return draft
}

/** A pod that is being deleted drains from the moment when the pod says so, whether its slices know already or not. */
function readinessOf({ isPublishingUnready }: CoreService, { readiness }: SliceEndpoint, { pod }: Draft): Readiness {
  const isLate = readiness === ENDPOINT_READY && !isPublishingUnready && pod?.isDraining === true
  return isLate ? ENDPOINT_DRAINING : readiness
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
    endpoints: [],
    member: null,
  }
}
