/**
 * Edges of the mesh (who talks to whom) from the agents' Istio-standard metrics, over a span of time: the difference of
 * two readings. A series belongs to the reporter that saw it; the source's view counts, and the destination's only for
 * callers that have none (from outside the mesh).
 */
import type { Sample } from './exposition.ts'
import { histogramQuantile } from './statistics.ts'

export interface Edge {
  readonly source: string
  readonly destination: string
  readonly protocol: string
  /** HTTP requests; for TCP, connections. */
  readonly requests: number
  /** HTTP: status 5xx or none at all. TCP: connections that ended with a response flag. */
  readonly errors: number
  readonly p50Ms: number | null
  readonly p99Ms: number | null
  readonly mutualTls: boolean
}

/** Samples by name and labels: the values at one moment. */
export type Reading = ReadonlyMap<string, Sample>

const FAMILIES = /^istio_(requests_total|request_duration_milliseconds_bucket|tcp_connections_(opened|closed)_total)$/

/** The samples that edges are made of, of all agents together. */
export function readingOf(samples: Iterable<Sample>): Reading {
  const reading = new Map<string, Sample>()
  for (const sample of samples) {
    if (!FAMILIES.test(sample.name)) continue
    const key = `${sample.name}${JSON.stringify(Object.entries(sample.labels).sort())}`
    const before = reading.get(key)
    // Two agents may count the same series: each its own part of it.
    reading.set(key, before === undefined ? sample : { ...sample, value: before.value + sample.value })
  }
  return reading
}

class EdgeSum {
  readonly source: string
  readonly destination: string
  readonly protocol: string
  requests = 0
  errors = 0
  plain = 0
  /** Observations up to each bound. */
  readonly buckets = new Map<number, number>()

  constructor(source: string, destination: string, protocol: string) {
    this.source = source
    this.destination = destination
    this.protocol = protocol
  }

  add(name: string, labels: Readonly<Record<string, string>>, value: number): void {
    if (name === 'istio_request_duration_milliseconds_bucket') {
      const bound = labels['le'] === '+Inf' ? Number.POSITIVE_INFINITY : Number(labels['le'])
      this.buckets.set(bound, (this.buckets.get(bound) ?? 0) + value)
      return
    }
    if (name === 'istio_tcp_connections_closed_total') {
      if (labels['response_flags'] !== '-') this.errors += value
      return
    }
    this.requests += value
    if (labels['connection_security_policy'] !== 'mutual_tls') this.plain += value
    if (name === 'istio_requests_total' && isServerError(labels['response_code'] ?? '0')) this.errors += value
  }

  edge(): Edge {
    const { source, destination, protocol, requests, errors } = this
    const bounds = [...this.buckets.keys()].sort((a, b) => a - b)
    const histogram = { bounds, counts: bounds.map((bound) => this.buckets.get(bound)!) }
    return {
      source,
      destination,
      protocol,
      requests,
      errors,
      p50Ms: rounded(histogramQuantile(histogram, 0.5)),
      p99Ms: rounded(histogramQuantile(histogram, 0.99)),
      mutualTls: requests > 0 && this.plain === 0,
    }
  }
}

/** Edges with traffic between two readings, sorted by name. */
export function edgesBetween(before: Reading, after: Reading): readonly Edge[] {
  const bySource = sums(before, after, 'source')
  for (const [key, sum] of sums(before, after, 'destination')) if (!bySource.has(key)) bySource.set(key, sum)
  return [...bySource.values()]
    .map((sum) => sum.edge())
    .filter((edge) => edge.requests > 0 || edge.errors > 0)
    .sort((a, b) => edgeName(a).localeCompare(edgeName(b)))
}

/** Identifies an edge, also for people. */
export function edgeName(edge: Pick<Edge, 'source' | 'destination' | 'protocol'>): string {
  return `${edge.source} -> ${edge.destination} (${edge.protocol})`
}

function sums(before: Reading, after: Reading, reporter: string): Map<string, EdgeSum> {
  const found = new Map<string, EdgeSum>()
  for (const [series, { name, labels, value }] of after) {
    if (labels['reporter'] !== reporter) continue
    const growth = value - (before.get(series)?.value ?? 0)
    if (growth === 0) continue
    const source = workloadOf(labels['source_workload'])
    const destination = workloadOf(labels['destination_workload'], labels['destination_service_name'])
    const protocol = labels['request_protocol'] ?? 'tcp'
    const key = edgeName({ source, destination, protocol })
    let sum = found.get(key)
    if (sum === undefined) {
      sum = new EdgeSum(source, destination, protocol)
      found.set(key, sum)
    }
    sum.add(name, labels, growth)
  }
  return found
}

/** A request that was refused before a workload was chosen has only the service's name. */
function workloadOf(workload: string | undefined, fallback = 'unknown'): string {
  return workload === undefined || workload === 'unknown' ? fallback : workload
}

function isServerError(code: string): boolean {
  return code === '0' || code.startsWith('5')
}

function rounded(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 100) / 100
}
