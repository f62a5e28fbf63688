/** Who is an endpoint of a ServiceEntry: what it lists, or its own host. */
import { ENDPOINT_READY, type PortMapping, TUNNEL_NONE } from '../model/workload.ts'
import type { EntryHost } from './entry-hosts.ts'
import type { EntryEndpoint, ServiceEntry } from './service-entry.ts'
import type { Run } from './settings.ts'
import { addEndpoint, type Draft, uniquePorts } from './workload-draft.ts'

/** Adds the endpoints of one host of an entry. */
export function addEntryEndpoints(
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
    addEndpoint(draft, { service: service.key, ...ALWAYS_READY, ports: uniquePorts(ports) })
  }
}

const ALWAYS_READY = { readiness: ENDPOINT_READY, isOwn: true, hostname: '', zones: [], nodes: [] } as const

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
    endpoints: [],
    member: null,
  }
}
