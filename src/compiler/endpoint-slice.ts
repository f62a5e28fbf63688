/** EndpointSlices: who is behind a service, as Kubernetes or somebody else has written it down. */
import { canonicalAddress } from '../base/address.ts'
import { ENDPOINT_DRAINING, ENDPOINT_READY, ENDPOINT_UNREADY, type Readiness } from '../model/workload.ts'
import { findings, quote } from './messages.ts'
import type { MeshObject } from './object.ts'
import { podWorkloadUid } from './pod.ts'
import { Cursor, flag, integer, list, openObject, required, text, type ValueOf } from './schema.ts'
import type { Run } from './settings.ts'

const condition = openObject({ ready: flag, serving: flag, terminating: flag })

const names = list(openObject({ name: required(text) }))

const slice = openObject({
  endpoints: list(
    openObject({
      addresses: required(list(text)),
      conditions: condition,
      targetRef: openObject({ kind: text, name: text, uid: text }),
      hostname: text,
      nodeName: text,
      zone: text,
      hints: openObject({ forZones: names, forNodes: names }),
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
  /** Uid of the workload that is this pod; empty when the endpoint is none. */
  readonly workloadUid: string
  /** Uid of the pod; empty when not said. */
  readonly podUid: string
  readonly readiness: Readiness
  /** Below the service's name; empty for most. */
  readonly hostname: string
  readonly node: string
  readonly zone: string
  /** Whose clients it should serve; empty when nothing is said. */
  readonly zones: readonly string[]
  readonly nodes: readonly string[]
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

/**
 * What the conditions say. Absent ones are as good as they can be. `ready` has the last word: it is false for endpoints that
 * are being deleted, unless the service is for all of them, and then they are as good as any.
 */
function readinessOf(conditions: ValueOf<typeof condition>): Readiness {
  if (conditions === null || conditions.ready !== false) return ENDPOINT_READY
  return conditions.serving === true && conditions.terminating === true ? ENDPOINT_DRAINING : ENDPOINT_UNREADY
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
        const pod = endpoint.targetRef?.kind === 'Pod' ? (endpoint.targetRef.name ?? '') : ''
        endpoints.push({
          address: canonical,
          pod,
          workloadUid: pod === '' ? '' : podWorkloadUid(run.settings, object.namespace, pod),
          podUid: endpoint.targetRef?.uid ?? '',
          readiness: readinessOf(endpoint.conditions),
          hostname: endpoint.hostname ?? '',
          node: endpoint.nodeName ?? '',
          zone: endpoint.zone ?? '',
          zones: endpoint.hints?.forZones.map(({ name }) => name) ?? [],
          nodes: endpoint.hints?.forNodes.map(({ name }) => name) ?? [],
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
