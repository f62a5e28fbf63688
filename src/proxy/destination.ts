/**
 * Step 3 of the outbound path: what did the app dial? A service's virtual IP, a workload's own address, or something
 * the mesh knows nothing of.
 */

import { PROTOCOL_DETECT, PROTOCOL_TCP, type Protocol, type Service, type ServicePort } from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'

/** What an original destination is to the mesh. */
export interface Destination {
  /** Null unless a virtual IP of the mesh was dialled. */
  readonly service: Service | null
  /** Null when the service has no such port; then the connection is passed through as dialled. */
  readonly port: ServicePort | null
  /** Null unless a workload's own address was dialled. */
  readonly workload: Workload | null
  readonly protocol: Protocol
}

const UNKNOWN: Destination = { service: null, port: null, workload: null, protocol: PROTOCOL_TCP }

/** Looks an original destination up. Unknown addresses are plain TCP: nothing of theirs is ours to parse. */
export function resolveDestination(snapshot: Snapshot, address: string, portNumber: number): Destination {
  const service = snapshot.serviceByAddress(address)
  if (service !== null) {
    const port = findPort(service, portNumber)
    return port === null
      ? { service, port: null, workload: null, protocol: PROTOCOL_TCP }
      : { service, port, workload: null, protocol: port.protocol }
  }
  const workload = snapshot.workloadByAddress(address)
  if (workload === null) return UNKNOWN
  return { service: null, port: null, workload, protocol: protocolOfTarget(snapshot, workload, portNumber) }
}

/** The service and protocol behind a workload's target port. */
export interface TargetPort {
  readonly service: Service | null
  readonly protocol: Protocol
}

/**
 * What arrives at `targetPort` of a workload. `host` picks among several services (and only one that the workload
 * really belongs to), else one of the workload's own namespace is first: who writes a service elsewhere must not say what
 * the port speaks. A port that no service names is detected.
 */
export function resolveTargetPort(
  snapshot: Snapshot,
  workload: Workload,
  targetPort: number,
  host: string,
): TargetPort {
  let found: TargetPort | null = null
  for (const { service: key, ports } of workload.services) {
    const service = snapshot.services.get(key)
    if (service === undefined) continue
    for (const mapping of ports) {
      if (mapping.targetPort !== targetPort) continue
      const protocol = findPort(service, mapping.servicePort)?.protocol ?? PROTOCOL_DETECT
      if (service.hostname === host) return { service, protocol }
      if (
        found === null ||
        (found.service!.namespace !== workload.namespace && service.namespace === workload.namespace)
      ) {
        found = { service, protocol }
      }
    }
  }
  return found ?? UNNAMED
}

const UNNAMED: TargetPort = { service: null, protocol: PROTOCOL_DETECT }

function protocolOfTarget(snapshot: Snapshot, workload: Workload, targetPort: number): Protocol {
  return resolveTargetPort(snapshot, workload, targetPort, '').protocol
}

function findPort(service: Service, number: number): ServicePort | null {
  for (const port of service.ports) if (port.number === number) return port
  return null
}
