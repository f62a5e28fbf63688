/**
 * The `baggage` header of HBONE (W3C baggage syntax): who a workload is, for the metrics of the other side. It is never
 * trusted for anything else; identity comes from TLS.
 */
import type { Workload, WorkloadType } from '../model/workload.ts'

/** Longest header that is read. Twice what the longest names allowed by Kubernetes add up to. */
const BAGGAGE_CHARS_MAX = 4096

/** What a peer says of its workload; empty where it says nothing. */
export interface Baggage {
  readonly cluster: string
  readonly namespace: string
  readonly workloadName: string
  readonly workloadType: WorkloadType
  readonly service: string
  readonly revision: string
  readonly region: string
  readonly zone: string
}

const WORKLOAD_TYPES: readonly WorkloadType[] = ['deployment', 'cronjob', 'pod', 'job']

/** The header that describes `workload`. Made once per connection or workload, not per request. */
export function writeBaggage(workload: Workload): string {
  const members: string[] = []
  add(members, 'k8s.cluster.name', workload.clusterId)
  add(members, 'k8s.namespace.name', workload.namespace)
  add(members, `k8s.${workload.workloadType}.name`, workload.workloadName)
  add(members, 'service.name', workload.canonicalName)
  add(members, 'service.version', workload.canonicalRevision)
  add(members, 'cloud.region', workload.locality.region)
  add(members, 'cloud.availability_zone', workload.locality.zone)
  return members.join(',')
}

/** Reads the header of a peer. Unknown members are skipped; null when there is nothing in it, or too much. */
export function parseBaggage(text: string): Baggage | null {
  if (text.length > BAGGAGE_CHARS_MAX) return null
  const members = new Map<string, string>()
  for (const member of text.split(',')) {
    // Properties of a member (`;key=value`) mean nothing to us.
    const pair = member.split(';', 1)[0]!
    const equals = pair.indexOf('=')
    if (equals > 0) members.set(pair.slice(0, equals).trim(), decode(pair.slice(equals + 1).trim()))
  }
  if (members.size === 0) return null
  const workloadType = WORKLOAD_TYPES.find((type) => members.has(`k8s.${type}.name`)) ?? 'deployment'
  return {
    cluster: members.get('k8s.cluster.name') ?? '',
    namespace: members.get('k8s.namespace.name') ?? '',
    workloadName: members.get(`k8s.${workloadType}.name`) ?? '',
    workloadType,
    service: members.get('service.name') ?? '',
    revision: members.get('service.version') ?? '',
    region: members.get('cloud.region') ?? '',
    zone: members.get('cloud.availability_zone') ?? '',
  }
}

function add(members: string[], key: string, value: string): void {
  // Kubernetes names need no escape; labels of other origin might.
  if (value !== '') members.push(`${key}=${encodeURIComponent(value)}`)
}

function decode(value: string): string {
  if (!value.includes('%')) return value
  try {
    return decodeURIComponent(value)
  } catch {
    return value
  }
}
