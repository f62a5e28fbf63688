/**
 * The `baggage` header of HBONE (W3C baggage syntax): who a workload is, for the metrics of a peer that does not know it
 * (ztunnel reads it). Ours does not: it knows every workload from the controller, and identity comes from TLS.
 */
import type { Workload } from '../model/workload.ts'

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

function add(members: string[], key: string, value: string): void {
  // Kubernetes names need no escape; labels of other origin might.
  if (value !== '') members.push(`${key}=${encodeURIComponent(value)}`)
}
