/** The metric families of the mesh's DNS, summed over the data workers. */
import { Counter, type Registry } from 'prom-client'
import type { DnsReport } from './dns-counts.ts'

export class DnsFamilies {
  private readonly queries: Counter<'source' | 'result'>
  private readonly failures: Counter<'reason'>

  constructor(register: Registry) {
    const registers = [register]
    this.queries = new Counter({
      name: 'weft_dns_queries_total',
      help: 'DNS queries of pods, by who answered (the mesh, the cache, a forwarded-to resolver, none) and how.',
      labelNames: ['source', 'result'],
      registers,
    })
    this.failures = new Counter({
      name: 'weft_dns_upstream_failures_total',
      help: 'Failures of the resolvers of pods, and replies of theirs that could not be believed, by reason.',
      labelNames: ['reason'],
      registers,
    })
  }

  add({ queries, failures }: DnsReport): void {
    for (const { source, result, count } of queries) this.queries.inc({ source, result }, count)
    for (const { reason, count } of failures) this.failures.inc({ reason }, count)
  }
}
