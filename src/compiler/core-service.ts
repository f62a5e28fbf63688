/** Kubernetes' Services, as far as the mesh needs them. */
import { canonicalAddress } from '../base/address.ts'
import type { Protocol } from '../model/service.ts'
import { type Visibility, visibilityOf } from './hosts.ts'
import { findings, quote } from './messages.ts'
import type { MeshObject } from './object.ts'
import { protocolOfPort, protocolOfWord } from './protocol.ts'
import { Cursor, flag, integer, list, map, openObject, port, required, type Shape, text } from './schema.ts'
import { type Selector, selectorOf } from './selector.ts'
import type { Run } from './settings.ts'
import { isDnsLabel } from './strings.ts'

/** A port number, or the name of a container port. */
const targetPort: Shape<number | string | null> = {
  absent: null,
  isRequired: false,
  form: { kind: 'either', forms: [port.form, text.form] },
  read: (value, cursor) => (typeof value === 'string' ? value : port.read(value, cursor)),
}

/** Longest and usual time of a session affinity, seconds, as Kubernetes has them. */
const AFFINITY_S_MAX = 86_400
const AFFINITY_S_DEFAULT = 10_800

const serviceSpec = openObject({
  type: text,
  externalName: text,
  clusterIP: text,
  clusterIPs: list(text),
  selector: map(text),
  sessionAffinity: text,
  sessionAffinityConfig: openObject({ clientIP: openObject({ timeoutSeconds: integer(1, AFFINITY_S_MAX) }) }),
  internalTrafficPolicy: text,
  publishNotReadyAddresses: flag,
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
  /** The name stands for the endpoints' addresses. */
  readonly isHeadless: boolean
  /** The host that the name stands for; empty for none. */
  readonly alias: string
  /** 0 for none. */
  readonly affinityMs: number
  readonly isNodeLocal: boolean
  readonly isPublishingUnready: boolean
}

/** Reads a service; null when it has errors or is of no use to the mesh (both reported). */
export function readService(object: MeshObject, run: Run): CoreService | null {
  const cursor = new Cursor(run.log, object)
  const specCursor = cursor.at('spec')
  const spec = serviceSpec.read(object.spec ?? {}, specCursor)
  if (spec === null || run.log.hasError(object)) return null
  const visibility = serviceVisibility(object, run)
  if (spec.type === 'ExternalName') return readAlias(object, spec.externalName ?? '', visibility, specCursor)
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
  const seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? AFFINITY_S_DEFAULT
  return {
    object,
    addresses,
    ports,
    selector,
    visibility,
    isHeadless: addresses.length === 0,
    alias: '',
    affinityMs: spec.sessionAffinity === 'ClientIP' ? seconds * 1000 : 0,
    isNodeLocal: spec.internalTrafficPolicy === 'Local',
    isPublishingUnready: spec.publishNotReadyAddresses === true,
  }
}

/** A service of type ExternalName: another name for a host, whatever else is written. */
function readAlias(
  object: MeshObject,
  written: string,
  visibility: Visibility,
  specCursor: Cursor,
): CoreService | null {
  const alias = written.toLowerCase().replace(/\.$/, '')
  if (alias.length > 253 || !alias.split('.').every(isDnsLabel)) {
    specCursor.at('externalName').reject(`${quote(written)} is not a host name.`, 'Write a whole host name.')
    return null
  }
  const nothing = { addresses: [], ports: [], selector: null, isHeadless: false, affinityMs: 0 }
  return { object, ...nothing, alias, visibility, isNodeLocal: false, isPublishingUnready: false }
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
