/**
 * Kubernetes' own kinds, as far as the mesh needs them: shapes and normal forms of Namespace, Node, Pod, Service and
 * EndpointSlice. How they become workloads and services is in workloads.ts and services.ts.
 */
import { canonicalAddress } from '../base/address.ts'
import type { Protocol } from '../model/service.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN, type FailureMode, type Locality } from '../model/workload.ts'
import { type Visibility, visibilityOf } from './hosts.ts'
import { findings, quote } from './messages.ts'
import type { MeshObject } from './object.ts'
import { isTree, own } from './object.ts'
import { protocolOfPort, protocolOfWord } from './protocol.ts'
import { Cursor, flag, integer, list, map, openObject, port, required, type Shape, text } from './schema.ts'
import { type Selector, selectorOf } from './selector.ts'
import type { Run } from './settings.ts'
import { isDnsLabel } from './strings.ts'

/** Text that is an IP address, in canonical form. */
const address: Shape<string | null> = {
  absent: null,
  isRequired: false,
  read(value, cursor) {
    const written = text.read(value, cursor)
    if (written === null || written === '') return null
    const canonical = canonicalAddress(written)
    if (canonical === null) cursor.reject(`${quote(written)} is not an IP address.`, 'Write an IPv4 or IPv6 address.')
    return canonical
  },
}

// --- Namespace ---

/** What to do with the pods of a namespace. */
export function isMeshNamespace(object: MeshObject, run: Run): boolean {
  const value = object.labels['weft.dev/mesh']
  if (value !== undefined && value !== 'enabled' && value !== 'disabled') {
    run.log.add(object, ['metadata', 'labels', 'weft.dev/mesh'], findings.badMeshLabel(value, '"enabled"'))
  }
  return value === 'enabled'
}

const FAILURE_MODE_ANNOTATION = 'weft.dev/failure-mode'

/**
 * What an annotation of a namespace or pod says about connections while the agent does not serve; `inherited` when it says
 * nothing, or something unknown (reported).
 */
export function failureModeOf(object: MeshObject, inherited: FailureMode, run: Run): FailureMode {
  const written = object.annotations[FAILURE_MODE_ANNOTATION]
  if (written === 'open') return FAILURE_OPEN
  if (written === 'closed') return FAILURE_CLOSED
  if (written !== undefined) {
    run.log.add(object, ['metadata', 'annotations', FAILURE_MODE_ANNOTATION], findings.badFailureMode(written))
  }
  return inherited
}

/** The failure modes that namespaces give their pods, by name; those that say nothing are left out. */
export function failureModes(namespaces: readonly MeshObject[], run: Run): ReadonlyMap<string, FailureMode> {
  const modes = new Map<string, FailureMode>()
  for (const object of namespaces) {
    const mode = failureModeOf(object, FAILURE_BY_POLICY, run)
    if (mode !== FAILURE_BY_POLICY) modes.set(object.name, mode)
  }
  return modes
}

const DNS_CAPTURE_ANNOTATION = 'weft.dev/dns-capture'

/**
 * True when an annotation of a namespace or pod says that questions to DNS resolvers are not captured; `inherited` when it
 * says nothing, or something unknown (reported).
 */
export function isDnsExempt(object: MeshObject, inherited: boolean, run: Run): boolean {
  const written = object.annotations[DNS_CAPTURE_ANNOTATION]
  if (written === 'true') return false
  if (written === 'false') return true
  if (written !== undefined) {
    run.log.add(object, ['metadata', 'annotations', DNS_CAPTURE_ANNOTATION], findings.badDnsCapture(written))
  }
  return inherited
}

/** The names of namespaces whose pods are exempt, unless they say otherwise themselves. */
export function dnsExemptNamespaces(namespaces: readonly MeshObject[], run: Run): ReadonlySet<string> {
  return new Set(namespaces.filter((object) => isDnsExempt(object, false, run)).map(({ name }) => name))
}

// --- Node ---

/** Where a node stands, from its topology labels. */
export function localityOf(node: MeshObject): Locality {
  return {
    region: node.labels['topology.kubernetes.io/region'] ?? '',
    zone: node.labels['topology.kubernetes.io/zone'] ?? '',
    subzone: node.labels['topology.istio.io/subzone'] ?? '',
  }
}

// --- Pod ---

const podSpec = openObject({
  nodeName: text,
  serviceAccountName: text,
  hostNetwork: flag,
  containers: list(openObject({ ports: list(openObject({ name: text, containerPort: required(port) })) })),
})

const podStatus = openObject({
  phase: text,
  podIP: address,
  podIPs: list(openObject({ ip: address })),
  conditions: list(openObject({ type: required(text), status: required(text) })),
})

/** What the mesh needs of a Pod. */
export interface Pod {
  readonly object: MeshObject
  readonly node: string
  readonly serviceAccount: string
  readonly isHostNetwork: boolean
  /** Canonical, the preferred one first; empty when the pod has none yet. */
  readonly addresses: readonly string[]
  readonly isReady: boolean
  /** Named container ports. */
  readonly ports: ReadonlyMap<string, number>
  /** Kind and name of the controller that owns it; null for a bare pod. */
  readonly owner: { readonly kind: string; readonly name: string } | null
}

/** Reads a pod; null when it has errors (reported) or has finished. */
export function readPod(object: MeshObject, run: Run): Pod | null {
  const cursor = new Cursor(run.log, object)
  const spec = podSpec.read(object.spec ?? {}, cursor.at('spec'))
  const status = podStatus.read(object.status ?? {}, cursor.at('status'))
  if (spec === null || status === null || run.log.hasError(object)) return null
  if (status.phase === 'Succeeded' || status.phase === 'Failed') return null
  const addresses = new Set<string>()
  if (status.podIP !== null) addresses.add(status.podIP)
  for (const { ip } of status.podIPs) if (ip !== null) addresses.add(ip)
  const ports = new Map<string, number>()
  for (const container of spec.containers) {
    for (const { name, containerPort } of container.ports)
      if (name !== null && name !== '') ports.set(name, containerPort)
  }
  const ready = status.conditions.find((condition) => condition.type === 'Ready')
  // Without a kubelet (a directory of YAML) there is no condition: such a pod is taken as ready once it has an address.
  const isReady =
    (ready === undefined || ready.status === 'True') && status.phase !== 'Pending' && !isTerminating(object)
  return {
    object,
    node: spec.nodeName ?? '',
    serviceAccount:
      spec.serviceAccountName === null || spec.serviceAccountName === '' ? 'default' : spec.serviceAccountName,
    isHostNetwork: spec.hostNetwork === true,
    addresses: [...addresses],
    isReady,
    ports,
    owner: ownerOf(object),
  }
}

const NETNS_ANNOTATION = 'weft.dev/netns'

/** The network namespace that a pod's annotation names; empty when it names none, and the agent must find it. */
export function netnsOf(object: MeshObject, run: Run): string {
  const written = object.annotations[NETNS_ANNOTATION]
  if (written === undefined) return ''
  const isPath = /^\/[\x21-\x7e]+$/.test(written) && !written.split('/').includes('..')
  const isLoopback = written.startsWith('loopback:') && canonicalAddress(written.slice('loopback:'.length)) !== null
  if (isPath || isLoopback) return written
  run.log.add(object, ['metadata', 'annotations', NETNS_ANNOTATION], findings.badNetns(written))
  return ''
}

/** True when deletion has begun: the pod finishes what it has and takes nothing new. */
function isTerminating(object: MeshObject): boolean {
  const metadata = isTree(object.raw) ? own(object.raw, 'metadata') : undefined
  return isTree(metadata) && own(metadata, 'deletionTimestamp') !== undefined
}

function ownerOf(object: MeshObject): Pod['owner'] {
  const metadata = isTree(object.raw) ? own(object.raw, 'metadata') : undefined
  const owners = isTree(metadata) ? own(metadata, 'ownerReferences') : undefined
  if (!Array.isArray(owners)) return null
  const trees = owners.filter(isTree)
  const owner = trees.find((reference) => own(reference, 'controller') === true) ?? trees[0]
  if (owner === undefined) return null
  const [kind, name] = [own(owner, 'kind'), own(owner, 'name')]
  return typeof kind === 'string' && typeof name === 'string' ? { kind, name } : null
}

// --- Service ---

/** A port number, or the name of a container port. */
const targetPort: Shape<number | string | null> = {
  absent: null,
  isRequired: false,
  read: (value, cursor) => (typeof value === 'string' ? value : port.read(value, cursor)),
}

const serviceSpec = openObject({
  type: text,
  clusterIP: text,
  clusterIPs: list(text),
  selector: map(text),
  ports: list(openObject({ name: text, port: required(port), targetPort, protocol: text, appProtocol: text })),
})

/** One port of a Service. */
export interface CoreServicePort {
  readonly number: number
  readonly name: string
  readonly targetPort: number | string
  /** `TCP`, `UDP` or `SCTP`. */
  readonly transport: string
  readonly protocol: Protocol
}

/** What the mesh needs of a Service. */
export interface CoreService {
  readonly object: MeshObject
  readonly addresses: readonly string[]
  readonly ports: readonly CoreServicePort[]
  /** Null when endpoints are not made from a selector. */
  readonly selector: Selector | null
  /** To whom the name is visible. */
  readonly visibility: Visibility
}

/** Reads a service; null when it has errors or is of no use to the mesh (both reported). */
export function readService(object: MeshObject, run: Run): CoreService | null {
  const cursor = new Cursor(run.log, object)
  const specCursor = cursor.at('spec')
  const spec = serviceSpec.read(object.spec ?? {}, specCursor)
  if (spec === null || run.log.hasError(object)) return null
  if (spec.type === 'ExternalName') {
    specCursor.at('type').report(findings.externalName())
    return null
  }
  const addresses = virtualIps(spec.clusterIP, spec.clusterIPs, specCursor)
  const numbers = new Set<string>()
  const ports = spec.ports.map((written, i): CoreServicePort => {
    const place = specCursor.at('ports', i)
    const transport = written.protocol ?? 'TCP'
    const key = `${transport}/${written.port}`
    if (numbers.has(key)) place.reject(`Port ${written.port} is listed twice.`, 'Remove one.')
    numbers.add(key)
    const protocol = protocolOfPort(transport, written.appProtocol ?? '', written.name ?? '', written.port)
    if (written.appProtocol !== null && protocolOfWord(written.appProtocol) === null) {
      place.at('appProtocol').report(findings.appProtocolUnknown(written.appProtocol))
    }
    return {
      number: written.port,
      name: written.name ?? '',
      targetPort: written.targetPort ?? written.port,
      transport,
      protocol,
    }
  })
  if (run.log.hasError(object)) return null
  const selector = spec.selector.size === 0 ? null : selectorOf(spec.selector)
  return { object, addresses, ports, selector, visibility: serviceVisibility(object, run) }
}

const EXPORT_TO_ANNOTATION = 'networking.istio.io/exportTo'

/** The annotation is a list with commas; besides names it takes `.`, `*` and `~`, which is nobody. */
function serviceVisibility(object: MeshObject, run: Run): Visibility {
  const entries = (object.annotations[EXPORT_TO_ANNOTATION] ?? '*').split(',').map((entry) => entry.trim())
  const bad = entries.find((entry) => entry !== '.' && entry !== '*' && entry !== '~' && !isDnsLabel(entry))
  if (bad !== undefined)
    run.log.add(object, ['metadata', 'annotations', EXPORT_TO_ANNOTATION], findings.badExportTo(bad))
  const visibility = visibilityOf(entries, object.namespace)
  return bad === undefined ? visibility : { isPublic: true, namespaces: visibility.namespaces }
}

function virtualIps(clusterIp: string | null, clusterIps: readonly string[], cursor: Cursor): readonly string[] {
  const written = clusterIps.length > 0 ? clusterIps : clusterIp === null ? [] : [clusterIp]
  if (written.includes('None')) return []
  const addresses = new Set<string>()
  for (const one of written) {
    if (one === '') continue
    const canonical = canonicalAddress(one)
    const place = cursor.at(clusterIps.length > 0 ? 'clusterIPs' : 'clusterIP')
    if (canonical === null) place.reject(`${quote(one)} is not an IP address.`, 'Write an address, or "None".')
    else addresses.add(canonical)
  }
  if (written.every((one) => one === '')) cursor.report(findings.noVirtualIp())
  return [...addresses]
}

// --- EndpointSlice ---

const condition = openObject({ ready: flag, serving: flag, terminating: flag })

const slice = openObject({
  endpoints: list(
    openObject({
      addresses: required(list(text)),
      conditions: condition,
      targetRef: openObject({ kind: text, name: text, namespace: text }),
      nodeName: text,
      zone: text,
    }),
  ),
  ports: list(openObject({ name: text, port: integer(1, 65_535), protocol: text })),
  addressType: text,
})

/** One endpoint of a slice. */
export interface SliceEndpoint {
  readonly address: string
  /** Name of the pod, empty when the endpoint is none. */
  readonly pod: string
  readonly isReady: boolean
  readonly node: string
  readonly zone: string
}

/** What the mesh needs of an EndpointSlice. */
export interface EndpointSlice {
  readonly object: MeshObject
  /** Name of the service in the same namespace. */
  readonly service: string
  readonly endpoints: readonly SliceEndpoint[]
  /** Target ports by service port name and transport (`http/TCP`). */
  readonly ports: ReadonlyMap<string, number>
}

/** Reads a slice; null when it has errors or no service (both reported). */
export function readEndpointSlice(object: MeshObject, run: Run): EndpointSlice | null {
  const cursor = new Cursor(run.log, object)
  const content = slice.read(object.raw, cursor)
  const service = object.labels['kubernetes.io/service-name'] ?? ''
  if (service === '') cursor.at('metadata', 'labels').report(findings.sliceWithoutService())
  if (content === null || service === '' || content.addressType === 'FQDN') return null
  const endpoints: SliceEndpoint[] = []
  content.endpoints.forEach((endpoint, i) => {
    // Every address of one endpoint leads to the same pod; Kubernetes itself writes one.
    for (const [j, written] of endpoint.addresses.entries()) {
      const canonical = canonicalAddress(written)
      const place = cursor.at('endpoints', i, 'addresses', j)
      if (canonical === null) place.reject(`${quote(written)} is not an IP address.`, 'Write an IPv4 or IPv6 address.')
      else {
        endpoints.push({
          address: canonical,
          pod: endpoint.targetRef?.kind === 'Pod' ? (endpoint.targetRef.name ?? '') : '',
          isReady: endpoint.conditions?.ready !== false && endpoint.conditions?.terminating !== true,
          node: endpoint.nodeName ?? '',
          zone: endpoint.zone ?? '',
        })
      }
    }
  })
  if (run.log.hasError(object)) return null
  const ports = new Map<string, number>()
  for (const { name, port: number, protocol } of content.ports) {
    if (number !== null) ports.set(`${name ?? ''}/${protocol ?? 'TCP'}`, number)
  }
  return { object, service, endpoints, ports }
}
