/**
 * The label values of an edge, by the conventions that Kiali and Istio's dashboards rely on: `unknown`, never empty.
 *
 * Source and destination series of one edge must agree in every label but `reporter`, or Kiali counts traffic twice;
 * so every value comes from the two workloads, the service and the proved principals, never from who reports.
 */
import { parseHostPort } from '../base/address.ts'
import { parseIdentity } from '../model/identity.ts'
import type { Workload } from '../model/workload.ts'
import type { EdgeKey } from './recorder.ts'

const UNKNOWN = 'unknown'

/** Revision of a workload that has no version label, and of peers that are not known. */
const DEFAULT_REVISION = 'latest'

/** Cluster of a workload whose cluster has no name. */
const DEFAULT_CLUSTER = 'Kubernetes'

/** Service name of traffic that leaves the mesh's knowledge, as Kiali and Istio call it. */
const PASSTHROUGH = 'PassthroughCluster'

/** Longest host taken as a label; the longest DNS name has 253 characters. */
const HOST_LENGTH_MAX = 253

/** Values of the first EDGE_LABEL_COUNT labels of the catalogue, in that order. */
export function edgeLabels(key: EdgeKey): string[] {
  return [
    key.reporter,
    ...workloadLabels(key.source, key.sourcePrincipal),
    ...workloadLabels(key.destination, key.destinationPrincipal),
    ...serviceLabels(key),
    key.protocol,
    key.isMutualTls ? 'mutual_tls' : UNKNOWN,
  ]
}

/** Labels of an edge that stands for all those beyond the limit. */
export function overflowLabels(key: EdgeKey): string[] {
  return edgeLabels({
    reporter: key.reporter,
    protocol: key.protocol,
    source: null,
    destination: null,
    service: null,
    host: '',
    isMutualTls: false,
    sourcePrincipal: null,
    destinationPrincipal: null,
  })
}

function workloadLabels(workload: Workload | null, principal: string | null): string[] {
  // The namespace of an unknown workload stays unknown: Kiali skips series that know one without the other.
  if (workload === null) {
    return [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, orUnknown(principal), UNKNOWN, DEFAULT_REVISION]
  }
  // What TLS proved beats what the address suggests.
  const namespace = (principal === null ? null : parseIdentity(principal)?.namespace) ?? workload.namespace
  const service = orUnknown(workload.canonicalName)
  const revision = workload.canonicalRevision === '' ? DEFAULT_REVISION : workload.canonicalRevision
  return [
    orUnknown(workload.workloadName === '' ? workload.name : workload.workloadName),
    orUnknown(namespace),
    service,
    revision,
    workload.clusterId === '' ? DEFAULT_CLUSTER : workload.clusterId,
    orUnknown(principal),
    service,
    revision,
  ]
}

/** Host, short name and namespace of the destination service. */
function serviceLabels(key: EdgeKey): string[] {
  const { service, destination } = key
  if (service !== null) return [service.hostname, orUnknown(service.name), orUnknown(service.namespace)]
  if (destination === null) return [hostLabel(key.host), PASSTHROUGH, UNKNOWN]
  // Who was dialled by its own address, or does not know by which service, counts for the only one that it serves.
  if (destination.services.length === 1) {
    const [namespace, hostname] = destination.services[0]!.service.split('/')
    return [orUnknown(hostname), orUnknown(hostname?.split('.')[0]), orUnknown(namespace)]
  }
  return [hostLabel(key.host), UNKNOWN, orUnknown(destination.namespace)]
}

/** The host of a Host header or authority: no port, lower case, bounded; `unknown` when it is not usable. */
function hostLabel(host: string): string {
  const name = (parseHostPort(host)?.host ?? host).toLowerCase()
  return name === '' || name.length > HOST_LENGTH_MAX || !/^[a-z0-9._:-]+$/.test(name) ? UNKNOWN : name
}

function orUnknown(value: string | null | undefined): string {
  return value === null || value === undefined || value === '' ? UNKNOWN : value
}
