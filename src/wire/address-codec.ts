/** `istio.workload.Address` <-> model Workload and Service: the layer-4 view that a ztunnel would take as well. */
import { PROTOCOL_UDP, type Protocol, type Service, type ServicePort, serviceKey } from '../model/service.ts'
import { TUNNEL_HBONE, TUNNEL_NONE, type Workload, type WorkloadService, type WorkloadType } from '../model/workload.ts'
import type { Checks } from './checks.ts'
import type { AddressMessage, PortMessage, ServiceMessage, WorkloadMessage } from './messages.ts'

/** By their numbers in istio.workload.WorkloadType. */
const WORKLOAD_TYPES: readonly WorkloadType[] = ['deployment', 'cronjob', 'pod', 'job']

const STATUS_HEALTHY = 0
const STATUS_UNHEALTHY = 1

/** Meaning of an empty trust domain and service account on the wire. */
const DEFAULT_TRUST_DOMAIN = 'cluster.local'
const DEFAULT_SERVICE_ACCOUNT = 'default'

export function workloadToMessage(workload: Workload, checks: Checks): AddressMessage {
  const services: Record<string, { ports: PortMessage[] }> = {}
  for (const { service, ports } of workload.services) {
    services[checks.required('services', service)] = {
      ports: ports.map((port) => ({
        servicePort: checks.port(`services[${service}].servicePort`, port.servicePort),
        targetPort: checks.port(`services[${service}].targetPort`, port.targetPort),
        portName: '',
        protocol: 0,
      })),
    }
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
  for (const [service, list] of Object.entries(message.services)) {
    services.push({
      service: checks.required('services', service),
      ports: (list?.ports ?? []).map((port) => ({
        servicePort: checks.port(`services[${service}].service_port`, port.servicePort),
        targetPort: checks.port(`services[${service}].target_port`, port.targetPort),
      })),
    })
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
      targetPort: checks.port('ports.targetPort', port.targetPort),
      portName: port.name,
      protocol: port.protocol,
    })),
    exportTo: service.exportTo ?? [],
    hasExportTo: service.exportTo !== undefined,
  }
  return { service: message }
}

export function serviceFromMessage(message: ServiceMessage, checks: Checks): Service {
  const namespace = checks.required('namespace', message.namespace)
  const hostname = checks.required('hostname', message.hostname)
  return {
    key: serviceKey(namespace, hostname),
    name: checks.required('name', message.name),
    namespace,
    hostname,
    addresses: message.addresses.map(({ address }, i) => checks.addressText(`addresses[${i}]`, address)),
    ports: message.ports.map(
      (port): ServicePort => ({
        number: checks.port('ports.service_port', port.servicePort),
        targetPort: checks.port('ports.target_port', port.targetPort),
        name: checks.text('ports.port_name', port.portName),
        protocol: protocolFromNumber('ports.protocol', port.protocol, checks),
      }),
    ),
    ...(message.hasExportTo ? { exportTo: message.exportTo.map((name) => checks.required('export_to', name)) } : {}),
  }
}

/** Protocols are numbered without gaps from PROTOCOL_DETECT (0) to PROTOCOL_UDP. */
export function protocolFromNumber(field: string, value: number, checks: Checks): Protocol {
  return checks.integer(field, value, 0, PROTOCOL_UDP) as Protocol
}
