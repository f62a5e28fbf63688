/**
 * ServiceEntry (networking.istio.io v1, v1beta1, v1alpha3: one schema): hosts that the cluster does not know, their ports
 * and endpoints. Its addresses, or those that are allocated for it, are virtual IPs like a service's.
 */
import { canonicalAddress, parseAddress } from '../base/address.ts'
import type { ServicePort } from '../model/service.ts'
import { exportToField, isWildcard, type Visibility, visibilityOf } from './hosts.ts'
import { findings, quote } from './messages.ts'
import type { MeshObject } from './object.ts'
import { protocolOfPort } from './protocol.ts'
import {
  Cursor,
  checked,
  INT32_MAX,
  integer,
  list,
  map,
  object,
  oneOf,
  port,
  required,
  text,
  unsupported,
  type ValueOf,
} from './schema.ts'
import type { Run } from './settings.ts'
import { isDnsLabel, labelMap } from './strings.ts'

/** Most hosts of one entry, as the API has it. */
const HOSTS_MAX = 256

const entryHost = checked(text, (host, cursor) => {
  if (!isHostName(host.startsWith('*.') ? host.slice(2) : host)) {
    cursor.reject(`${quote(host)} is not a host name.`, 'Write a full name, or a wildcard as the first label.')
  }
})

/** True for a name that can be looked up. */
function isHostName(host: string): boolean {
  return host.length <= 253 && parseAddress(host) === null && host.toLowerCase().split('.').every(isHostLabel)
}

function isHostLabel(label: string): boolean {
  return isDnsLabel(label.startsWith('_') ? label.slice(1) : label)
}

const endpoint = object({
  address: required(text),
  ports: map(port),
  labels: labelMap,
  network: unsupported('network', 'the address is dialled as it is'),
  locality: text,
  weight: integer(0, INT32_MAX),
  serviceAccount: unsupported('serviceAccount', 'the endpoint is outside the mesh, or known by its own pod'),
})

/** The spec of a ServiceEntry. */
export const serviceEntrySpec = object({
  hosts: required(list(entryHost, HOSTS_MAX)),
  addresses: list(text),
  ports: list(
    object({
      number: required(port),
      protocol: oneOf(['HTTP', 'HTTPS', 'GRPC', 'GRPC-WEB', 'HTTP2', 'MONGO', 'TCP', 'TLS', 'UDP', 'REDIS', 'MYSQL']),
      name: required(text),
      targetPort: port,
    }),
  ),
  location: oneOf(['MESH_EXTERNAL', 'MESH_INTERNAL']),
  resolution: oneOf(['NONE', 'STATIC', 'DNS', 'DNS_ROUND_ROBIN', 'DYNAMIC_DNS']),
  endpoints: list(endpoint),
  workloadSelector: unsupported('workloadSelector', 'the entry has the endpoints that it lists'),
  exportTo: exportToField,
  subjectAltNames: unsupported('subjectAltNames', 'the names in certificates are not looked at'),
})

/** One endpoint of an entry. */
export interface EntryEndpoint {
  /** Canonical; empty for a name. */
  readonly address: string
  /** Lower case; empty for an address. */
  readonly hostname: string
  /** Target ports by port name; they win over the entry's. */
  readonly ports: ReadonlyMap<string, number>
  readonly labels: Readonly<Record<string, string>>
  readonly locality: string
  readonly weight: number
}

/** What the mesh needs of a ServiceEntry. */
export interface ServiceEntry {
  readonly object: MeshObject
  /** Lower case, without wildcards. */
  readonly hosts: readonly string[]
  /** Canonical; empty when virtual IPs are to be allocated. */
  readonly addresses: readonly string[]
  readonly ports: readonly ServicePort[]
  readonly endpoints: readonly EntryEndpoint[]
  /** True when it lists no endpoints and each host is its own: its name is looked up. */
  readonly isOwnEndpoint: boolean
  readonly visibility: Visibility
}

/** Reads an entry; null when it has errors or can have no effect (both reported). */
export function readServiceEntry(object: MeshObject, run: Run): ServiceEntry | null {
  const cursor = new Cursor(run.log, object, ['spec'])
  const spec = serviceEntrySpec.read(object.spec ?? {}, cursor)
  if (spec === null || run.log.hasError(object)) return null
  if (spec.hosts.length === 0) cursor.at('hosts').reject('The list is empty.', 'Write at least one host.')
  checkPorts(spec, cursor)
  const addresses = readAddresses(spec.addresses, cursor)
  const endpoints = readEndpoints(spec, cursor)
  if (run.log.hasError(object)) return null
  if (spec.resolution === null || spec.resolution === 'NONE' || spec.resolution === 'DYNAMIC_DNS') {
    cursor.at('resolution').report(findings.resolutionNotSupported(spec.resolution ?? 'NONE'))
    return null
  }
  const hosts = new Set<string>()
  spec.hosts.forEach((host, i) => {
    if (isWildcard(host)) cursor.at('hosts', i).report(findings.wildcardEntry(host))
    else hosts.add(host.toLowerCase())
  })
  if (addresses.length > 0 && hosts.size > 1) {
    // One virtual IP is one service to the mesh: connections say where they go, not by which name.
    cursor.at('addresses').report(findings.sharedAddresses([...hosts][0]!))
  }
  return {
    object,
    hosts: [...hosts],
    addresses,
    ports: spec.ports.map(({ number, protocol, name, targetPort }) => ({
      number,
      targetPort: targetPort ?? number,
      name,
      protocol: protocolOfPort(protocol === 'UDP' ? 'UDP' : 'TCP', protocol ?? 'TCP', name, number),
    })),
    endpoints,
    isOwnEndpoint: spec.resolution !== 'STATIC' && spec.endpoints.length === 0,
    visibility: visibilityOf(spec.exportTo, object.namespace),
  }
}

type EntrySpec = NonNullable<ValueOf<typeof serviceEntrySpec>>

function checkPorts({ ports, endpoints }: EntrySpec, cursor: Cursor): void {
  const numbers = new Set<number>()
  const names = new Set<string>()
  ports.forEach(({ number, name }, i) => {
    const place = cursor.at('ports', i)
    if (numbers.has(number)) place.reject(`Port ${number} is listed twice.`, 'Remove one.')
    if (names.has(name)) place.reject(`The port name ${quote(name)} is given twice.`, 'Rename one.')
    numbers.add(number)
    names.add(name)
  })
  endpoints.forEach((one, i) => {
    for (const name of one.ports.keys()) {
      if (names.has(name)) continue
      cursor.at('endpoints', i, 'ports').reject(`The entry has no port named ${quote(name)}.`, 'Correct the name.')
    }
  })
}

function readAddresses(written: readonly string[], cursor: Cursor): readonly string[] {
  const addresses = new Set<string>()
  written.forEach((one, i) => {
    const canonical = canonicalAddress(one)
    if (canonical !== null) addresses.add(canonical)
    else
      cursor
        .at('addresses', i)
        .reject(`${quote(one)} is not an IP address.`, 'Write addresses; blocks are not supported yet.')
  })
  return [...addresses]
}

/** Addresses with any resolution; names only where they are looked up. */
function readEndpoints({ endpoints, resolution }: EntrySpec, cursor: Cursor): EntryEndpoint[] {
  const hasNames = resolution === 'DNS' || resolution === 'DNS_ROUND_ROBIN'
  return endpoints.flatMap((one, i) => {
    const address = canonicalAddress(one.address)
    if (address === null && (!hasNames || !isHostName(one.address))) {
      const fix = hasNames ? 'Write one, or a whole host name.' : 'Write one, or the resolution DNS.'
      cursor.at('endpoints', i, 'address').reject(`${quote(one.address)} is not an IP address.`, fix)
      return []
    }
    const ports = new Map<string, number>()
    for (const [name, number] of one.ports) if (number !== null) ports.set(name, number)
    const labels: Record<string, string> = Object.create(null)
    for (const [name, value] of one.labels) labels[name] = value ?? ''
    const [locality, weight] = [one.locality ?? '', one.weight ?? 1]
    const hostname = address === null ? one.address.toLowerCase() : ''
    return [{ address: address ?? '', hostname, ports, labels, locality, weight }]
  })
}
