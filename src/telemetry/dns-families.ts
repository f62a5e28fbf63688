/** The metric families of the mesh's DNS, summed over the data workers. */
import { Counter, type Registry } from 'prom-client'
import type { DnsFailure, DnsReport, DnsResult, DnsSource } from './dns-counts.ts'

/** Questions that were let by to the pods' resolvers since the capture was set up, by reason. */
export interface DnsBypassed {
  /** No data worker was alive. */
  readonly unserved: number
  /** The pod asks more resolvers than are told apart. */
  readonly resolvers: number
}

export class DnsFamilies {
  private readonly queries: Counter<'source' | 'result'>
  private readonly failures: Counter<'reason'>
  private readonly dropped: Counter<'direction'>
  private readonly bypassed: Counter<'reason'>

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
    this.dropped = new Counter({
      name: 'weft_dns_dropped_datagrams_total',
      help: 'Datagrams of DNS, questions received and answers sent, that found the buffers of the kernel full.',
      labelNames: ['direction'],
      registers,
    })
    this.bypassed = new Counter({
      name: 'weft_dns_bypassed_total',
      help: 'DNS questions of captured pods that went to their resolvers past the agent, by reason.',
      labelNames: ['reason'],
      registers,
    })
  }

  /** Totals of the kernel. */
  setBypassed({ unserved, resolvers }: DnsBypassed): void {
    this.bypassed.reset()
    this.bypassed.inc({ reason: 'unserved' }, unserved)
    this.bypassed.inc({ reason: 'resolvers' }, resolvers)
  }

  add({ queries, failures, receivedDropped, sentDropped }: DnsReport): void {
    this.dropped.inc({ direction: 'received' }, receivedDropped)
    this.dropped.inc({ direction: 'sent' }, sentDropped)
    for (const { source, result, count } of queries) this.queries.inc({ source, result }, count)
    for (const { reason, count } of failures) this.failures.inc({ reason }, count)
  }

  /** Everything that was added. */
  async totals(): Promise<DnsReport> {
    const [queries, failures] = [await this.queries.get(), await this.failures.get()]
    const dropped = (await this.dropped.get()).values
    const droppedOf = (direction: string): number =>
      dropped.find(({ labels }) => labels.direction === direction)?.value ?? 0
    return {
      receivedDropped: droppedOf('received'),
      sentDropped: droppedOf('sent'),
      queries: queries.values.map(({ labels, value }) => {
        return { source: labels.source as DnsSource, result: labels.result as DnsResult, count: value }
      }),
      failures: failures.values.map(({ labels, value }) => ({ reason: labels.reason as DnsFailure, count: value })),
    }
  }
}
