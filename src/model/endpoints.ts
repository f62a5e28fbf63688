/**
 * Which endpoints of a service may be used by clients of one node: what kube-proxy would use, so that a service means the
 * same in the mesh as without it. Balancing, subsets and ejection choose among these.
 */
import type { Service } from './service.ts'
import type { Snapshot } from './snapshot.ts'
import {
  ENDPOINT_DRAINING,
  ENDPOINT_READY,
  ENDPOINT_UNREADY,
  type Readiness,
  type Workload,
  type WorkloadService,
} from './workload.ts'

/** Where clients are. */
export interface Place {
  readonly node: string
  /** Empty when not known: then hints for zones are not followed. */
  readonly zone: string
}

/** A place to which nothing is near. */
export const NO_PLACE: Place = { node: '', zone: '' }

/** Where the pods of an agent are: as the first of them says. */
export function placeOf({ pods, workloads }: Snapshot): Place {
  for (const uid of pods.keys()) {
    const workload = workloads.get(uid)
    if (workload !== undefined) return { node: workload.node, zone: workload.locality.zone }
  }
  return NO_PLACE
}

/** What an endpoint is of which nothing was said. */
const UNSAID: WorkloadService = { service: '', ports: [] }

interface Candidate {
  readonly workload: Workload
  readonly membership: WorkloadService
}

/**
 * The endpoints among `workloads` that clients at `place` may use, in the same order. Ready ones; where there are none,
 * those that are being deleted and still serve. `service` null is a service of which nothing is known.
 */
export function usableEndpoints(
  key: string,
  service: Service | null,
  workloads: readonly Workload[],
  place: Place,
): readonly Workload[] {
  const isNodeLocal = service?.isNodeLocal === true
  const ready: Candidate[] = []
  const draining: Workload[] = []
  for (const workload of workloads) {
    if (workload.capacity <= 0 || (isNodeLocal && workload.node !== place.node)) continue
    const membership = membershipOf(workload, key) ?? UNSAID
    const readiness = readinessOf(workload, membership, service)
    if (readiness === ENDPOINT_READY) ready.push({ workload, membership })
    else if (readiness === ENDPOINT_DRAINING) draining.push(workload)
  }
  if (ready.length === 0) return draining
  return (isNodeLocal ? null : hinted(ready, place)) ?? ready.map(({ workload }) => workload)
}

/** Whether a workload, as an endpoint of `service`, takes connections. */
export function readinessOf(workload: Workload, membership: WorkloadService, service: Service | null): Readiness {
  const { readiness = ENDPOINT_READY } = membership
  if (readiness !== ENDPOINT_READY || workload.isHealthy || service?.isPublishingUnready === true) return readiness
  return ENDPOINT_UNREADY
}

/** What a workload is to the service `key`; null when nothing. */
export function membershipOf(workload: Workload, key: string): WorkloadService | null {
  for (const membership of workload.services) if (membership.service === key) return membership
  return null
}

/**
 * The endpoints that are meant for this place. Hints count only when every endpoint has some and one is meant for this
 * place: half-written hints must not send everybody to one endpoint. Null when they do not count.
 */
function hinted(ready: readonly Candidate[], { node, zone }: Place): readonly Workload[] | null {
  return chosen(ready, node, ({ nodes }) => nodes) ?? (zone === '' ? null : chosen(ready, zone, ({ zones }) => zones))
}

function chosen(
  ready: readonly Candidate[],
  name: string,
  hintsOf: (membership: WorkloadService) => readonly string[] | undefined,
): readonly Workload[] | null {
  const found: Workload[] = []
  for (const { workload, membership } of ready) {
    const hints = hintsOf(membership)
    if (hints === undefined) return null
    if (hints.includes(name)) found.push(workload)
  }
  return found.length === 0 ? null : found
}
