/** EndpointSlices: who is behind a service, as Kubernetes or somebody else has written it down. */
import { canonicalAddress } from '../base/address.ts'
import { findings, quote } from './messages.ts'
import type { MeshObject } from './object.ts'
import { Cursor, flag, integer, list, openObject, required, text } from './schema.ts'
import type { Run } from './settings.ts'

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
