/** Counts of DNS queries by who answered and how, and of resolvers that failed, since the last collection. */

/** Who answered: the mesh, the cache of its resolvers' replies, a resolver, or nobody but an error of our own. */
export type DnsSource = 'mesh' | 'cache' | 'forwarded' | 'none'

/** How a query ended for its client. */
export type DnsResult =
  | 'answered'
  /** The name exists, but has nothing of the type. */
  | 'nodata'
  | 'nxdomain'
  /** Too large for UDP: the client comes again over TCP. */
  | 'truncated'
  /** An error of the server. */
  | 'error'
  /** Bytes that are no query. */
  | 'malformed'
  /** More queries in flight than a pod or a worker may have. */
  | 'limited'
  /** The resolver never answered. */
  | 'timeout'

/** Why a resolver failed a query, as far as a socket or a check can tell. */
export type DnsFailure = 'refused' | 'unreachable' | 'closed' | 'exhausted' | 'timeout' | 'mismatch' | 'forged'

/** Queries of one kind. */
export interface DnsQueryCount {
  readonly source: DnsSource
  readonly result: DnsResult
  readonly count: number
}

/** Failures of one kind. */
export interface DnsFailureCount {
  readonly reason: DnsFailure
  readonly count: number
}

/** What was counted. Plain data. */
export interface DnsReport {
  readonly queries: readonly DnsQueryCount[]
  readonly failures: readonly DnsFailureCount[]
  /** Datagrams of questions and answers that found the kernel's buffers full. */
  readonly receivedDropped: number
  readonly sentDropped: number
}

/** The counts of one worker. Kinds are few: the words above are all there are. */
export class DnsCounts {
  private readonly queries = new Map<DnsSource, Map<DnsResult, number>>()
  private readonly failures = new Map<DnsFailure, number>()
  private receivedDropped = 0
  private sentDropped = 0

  query(source: DnsSource, result: DnsResult): void {
    let results = this.queries.get(source)
    if (results === undefined) {
      results = new Map()
      this.queries.set(source, results)
    }
    results.set(result, (results.get(result) ?? 0) + 1)
  }

  failure(reason: DnsFailure): void {
    this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1)
  }

  dropped(received: number, sent: number): void {
    this.receivedDropped += received
    this.sentDropped += sent
  }

  /** What was counted; begins at zero again. */
  take(): DnsReport {
    const queries: DnsQueryCount[] = []
    for (const [source, results] of this.queries) {
      for (const [result, count] of results) queries.push({ source, result, count })
    }
    const failures = [...this.failures].map(([reason, count]) => ({ reason, count }))
    this.queries.clear()
    this.failures.clear()
    const { receivedDropped, sentDropped } = this
    this.receivedDropped = 0
    this.sentDropped = 0
    return { queries, failures, receivedDropped, sentDropped }
  }
}
