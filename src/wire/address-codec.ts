/** `istio.workload.Address` <-> model Workload and Service: the layer-4 view that a ztunnel would take as well. */
import { PROTOCOL_UDP, type Protocol, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import {
  ENDPOINT_DRAINING,
  ENDPOINT_READY,
  ENDPOINT_UNREADY,
  TUNNEL_HBONE,
  TUNNEL_NONE,
  type Workload,
  type WorkloadService,
  type WorkloadType,
} from '../model/workload.ts'
import type { Checks } from './checks.ts'
import type { AddressMessage, MembershipMessage, ServiceMessage, WorkloadMessage } from './messages.ts'

/** By their numbers in istio.workload.WorkloadType. */
const WORKLOAD_TYPES: readonly WorkloadType[] = ['deployment', 'cronjob', 'pod', 'job']

const STATUS_HEALTHY = 0
const STATUS_UNHEALTHY = 1

const READINESS = [ENDPOINT_READY, ENDPOINT_DRAINING, ENDPOINT_UNREADY] as const

/** Numbers of istio.workload.LoadBalancing. Of other scopes and modes we have no use: they are read as if not there. */
const SCOPE_NODE = 4
const MODE_STRICT = 1
const HEALTH_ALL = 1

/** Meaning of an empty trust domain and service account on the wire. */
const DEFAULT_TRUST_DOMAIN = 'cluster.local'
const DEFAULT_SERVICE_ACCOUNT = 'default'

export function workloadToMessage(workload: Workload, checks: Checks): AddressMessage {
  const services: Record<string, MembershipMessage> = {}
  for (const membership of workload.services) {
    services[checks.required('services', membership.service)] = membershipToMessage(membership, checks)
  }
  const message: WorkloadMessage = {
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    addresses: workload.addresses.map((address) => checks.addressBytes('addresses', address)),
    tunnelProtocol: workload.tunnelProtocol,
    trustDomain: workload.trustDomain,
    serviceAccount: workload.serviceAccount,
    node: workload.node,
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    workloadType: WORKLOAD_TYPES.indexOf(workload.workloadType),
    workloadName: workload.workloadName,
    authorizationPolicies: workload.policies,
    status: workload.isHealthy ? STATUS_HEALTHY : STATUS_UNHEALTHY,
    clusterId: workload.clusterId,
    services,
    locality: workload.locality,
    capacity: { value: checks.uint32('capacity', workload.capacity) },
    hostname: workload.hostname ?? '',
  }
  return { workload: message }
}

export function workloadFromMessage(message: WorkloadMessage, checks: Checks): Workload {
  const tunnelProtocol = checks.oneOf('tunnel_protocol', message.tunnelProtocol, [TUNNEL_NONE, TUNNEL_HBONE])
  const status = checks.oneOf('status', message.status, [STATUS_HEALTHY, STATUS_UNHEALTHY])
  const workloadType = WORKLOAD_TYPES[message.workloadType]
  if (workloadType === undefined) checks.fail('workload_type', `is ${message.workloadType}, which is unknown`)
  const services: WorkloadService[] = []
  for (const [service, membership] of Object.entries(message.services)) {
    services.push(membershipFromMessage(checks.required('services', service), membership, checks))
  }
  return {
    uid: checks.required('uid', message.uid),
    name: checks.required('name', message.name),
    namespace: checks.required('namespace', message.namespace),
    addresses: message.addresses.map((address, i) => checks.addressText(`addresses[${i}]`, address)),
    node: checks.text('node', message.node),
    trustDomain: checks.text('trust_domain', message.trustDomain || DEFAULT_TRUST_DOMAIN),
    serviceAccount: checks.text('service_account', message.serviceAccount || DEFAULT_SERVICE_ACCOUNT),
    tunnelProtocol,
    isHealthy: status === STATUS_HEALTHY,
    services,
    policies: message.authorizationPolicies.map((key) => checks.required('authorization_policies', key)),
    clusterId: checks.text('cluster_id', message.clusterId),
    locality: {
      region: checks.text('locality.region', message.locality?.region ?? ''),
      zone: checks.text('locality.zone', message.locality?.zone ?? ''),
      subzone: checks.text('locality.subzone', message.locality?.subzone ?? ''),
    },
    workloadName: checks.text('workload_name', message.workloadName),
    workloadType,
    canonicalName: checks.text('canonical_name', message.canonicalName),
    canonicalRevision: checks.text('canonical_revision', message.canonicalRevision),
    capacity: message.capacity?.value ?? 1,
    ...(message.hostname === '' ? {} : { hostname: checks.text('hostname', message.hostname) }),
  }
}

function membershipToMessage(membership: WorkloadService, checks: Checks): MembershipMessage {
  const { service, ports, hostname = '', readiness = ENDPOINT_READY, zones = [], nodes = [] } = membership
  return {
    ports: ports.map((port) => ({
      servicePort: checks.port(`services[${service}].servicePort`, port.servicePort),
      targetPort: checks.port(`services[${service}].targetPort`, port.targetPort),
      portName: '',
      protocol: 0,
    })),
    hostname,
    readiness,
    zones,
    nodes,
  }
}

function membershipFromMessage(service: string, message: MembershipMessage | null, checks: Checks): WorkloadService {
  if (message === null) return { service, ports: [] }
  const field = `services[${service}]`
  const { hostname, zones, nodes } = message
  const readiness = checks.oneOf(`${field}.readiness`, message.readiness, READINESS)
  return {
    service,
    ports: message.ports.map((port) => ({
      servicePort: checks.port(`${field}.service_port`, port.servicePort),
      targetPort: checks.port(`${field}.target_port`, port.targetPort),
    })),
    ...(readiness === ENDPOINT_READY ? {} : { readiness }),
    ...(hostname === '' ? {} : { hostname: checks.text(`${field}.hostname`, hostname) }),
    ...(zones.length === 0 ? {} : { zones: zones.map((name) => checks.required(`${field}.zones`, name)) }),
    ...(nodes.length === 0 ? {} : { nodes: nodes.map((name) => checks.required(`${field}.nodes`, name)) }),
  }
}

export function serviceToMessage(service: Service, checks: Checks): AddressMessage {
  const message: ServiceMessage = {
    name: service.name,
    namespace: service.namespace,
    hostname: service.hostname,
    addresses: service.addresses.map((address) => ({
      network: '',
      address: checks.addressBytes('addresses', address),
    })),
    ports: service.ports.map((port) => ({
      servicePort: checks.port('ports.number', port.number),
      targetPort: checks.integer('ports.targetPort', port.targetPort, 0, 65_535),
      portName: port.name,
      protocol: port.protocol,
    })),
    exportTo: service.exportTo ?? [],
    hasExportTo: service.exportTo !== undefined,
    loadBalancing: isPlain(service)
      ? null
      : {
          routingPreference: service.isNodeLocal === true ? [SCOPE_NODE] : [],
          mode: service.isNodeLocal === true ? MODE_STRICT : 0,
          healthPolicy: service.isPublishingUnready === true ? HEALTH_ALL : 0,
        },
    isHeadless: service.isHeadless ?? false,
    alias: service.alias ?? '',
    affinityMs: checks.uint32('affinityMs', service.affinityMs ?? 0),
  }
  return { service: message }
}

export function serviceFromMessage(message: ServiceMessage, checks: Checks): Service {
  const namespace = checks.required('namespace', message.namespace)
  const hostname = checks.required('hostname', message.hostname)
  const { loadBalancing, alias, affinityMs } = message
  const isNodeLocal = loadBalancing?.mode === MODE_STRICT && loadBalancing.routingPreference[0] === SCOPE_NODE
  return {
    key: serviceKey(namespace, hostname),
    name: checks.required('name', message.name),
    namespace,
    hostname,
    addresses: message.addresses.map(({ address }, i) => checks.addressText(`addresses[${i}]`, address)),
    ports: message.ports.map(
      (port): ServicePort => ({
        number: checks.port('ports.service_port', port.servicePort),
        targetPort: checks.integer('ports.target_port', port.targetPort, 0, 65_535),
        name: checks.text('ports.port_name', port.portName),
        protocol: protocolFromNumber('ports.protocol', port.protocol, checks),
      }),
    ),
    ...(message.isHeadless ? { isHeadless: true } : {}),
    ...(alias === '' ? {} : { alias: checks.text('alias', alias) }),
    ...(affinityMs === 0 ? {} : { affinityMs }),
    ...(isNodeLocal ? { isNodeLocal: true } : {}),
    ...(loadBalancing?.healthPolicy === HEALTH_ALL ? { isPublishingUnready: true } : {}),
    ...(message.hasExportTo ? { exportTo: message.exportTo.map((name) => checks.required('export_to', name)) } : {}),
  }
}

function isPlain({ isNodeLocal, isPublishingUnready }: Service): boolean {
  return isNodeLocal !== true && isPublishingUnready !== true
}

/** Protocols are numbered without gaps from PROTOCOL_DETECT (0) to PROTOCOL_UDP. */
export function protocolFromNumber(field: string, value: number, checks: Checks): Protocol {
  return checks.integer(field, value, 0, PROTOCOL_UDP) as Protocol
}
