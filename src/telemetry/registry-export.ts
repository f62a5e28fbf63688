/**
 * A registry's counters as reports for another registry: at the first call all that was ever counted, then what came on
 * top. So the counters of a node go on where they were when one agent hands over to the next.
 */
import { HTTP_LABELS, TCP_LABELS } from './catalogue.ts'
import type { ExportedSeries, MetricsRegistry, OwnTotals } from './registry.ts'
import { type MetricsReport, SERIES_HTTP, type SeriesDescription, type UdpReport } from './report.ts'

interface Sent {
  readonly id: number
  readonly series: ExportedSeries
  readonly values: Float64Array
}

/** What one registry has told another. */
export class RegistryExport {
  private readonly registry: MetricsRegistry
  private readonly seriesMax: number
  private readonly sent = new Map<string, Sent>()
  /** Of what is counted outside of series. */
  private readonly totals = new Map<string, number>()
  private nextId = 1

  /** `seriesMax` is how many series one report may have. */
  constructor(registry: MetricsRegistry, seriesMax: number) {
    this.registry = registry
    this.seriesMax = seriesMax
  }

  /** What was counted since the last call. The other registry merges all of it under one number. */
  async take(): Promise<readonly MetricsReport[]> {
    const reports: MetricsReport[] = []
    let draft = new Draft()
    for (const series of this.registry.exported()) {
      this.add(draft, series)
      if (draft.count < this.seriesMax) continue
      reports.push(draft.report(NOTHING))
      draft = new Draft()
    }
    const { udp, ...rest } = this.ownSince(await this.registry.ownTotals())
    reports.push(draft.report(rest))
    const { counts, overflows } = udp ?? NO_UDP
    for (let at = 0; at < counts.length; at += this.seriesMax) {
      const part = { counts: counts.slice(at, at + this.seriesMax), overflows: at === 0 ? overflows : 0 }
      reports.push(new Draft().report({ ...NOTHING, udp: part }))
    }
    return reports
  }

  private add(draft: Draft, series: ExportedSeries): void {
    let sent = this.sent.get(series.labelText)
    // Given up and begun anew.
    if (sent?.series !== series) {
      sent = { id: this.nextId++, series, values: new Float64Array(series.values.length) }
      this.sent.set(series.labelText, sent)
      draft.newSeries.push({ id: sent.id, kind: series.kind, labels: labelsOf(series) })
    }
    const { values } = sent
    const increments = series.values.map((value, index) => value - values[index]!)
    if (increments.every((increment) => increment === 0)) return
    values.set(series.values)
    draft.add(sent.id, series.kind, increments)
  }

  private ownSince({ droppedEdges, foldedOutcomes, droppedLogLines, violations, dns, udp }: OwnTotals): OwnTotals {
    return {
      droppedEdges: this.since('edges', droppedEdges),
      foldedOutcomes: this.since('outcomes', foldedOutcomes),
      droppedLogLines: this.since('lines', droppedLogLines),
      violations: violations.map((total) => this.countSince(`violation ${total.side} ${total.reason}`, total)),
      dns: {
        queries: dns.queries.map((total) => this.countSince(`query ${total.source} ${total.result}`, total)),
        failures: dns.failures.map((total) => this.countSince(`failure ${total.reason}`, total)),
        receivedDropped: this.since('received datagrams', dns.receivedDropped),
        sentDropped: this.since('sent datagrams', dns.sentDropped),
      },
      ...(udp === undefined ? {} : { udp: this.udpSince(udp) }),
    }
  }

  private udpSince({ counts, overflows }: UdpReport): UdpReport {
    const grown = counts.map((total) => {
      const name = `udp ${total.isSent} ${total.labels.join('\n')}`
      return { ...total, bytes: this.since(`${name} bytes`, total.bytes), packets: this.since(name, total.packets) }
    })
    return { counts: grown.filter(({ packets }) => packets > 0), overflows: this.since('udp overflows', overflows) }
  }

  private countSince<T extends { readonly count: number }>(key: string, total: T): T {
    return { ...total, count: this.since(key, total.count) }
  }

  private since(key: string, total: number): number {
    const before = this.totals.get(key) ?? 0
    // What is less than before was given up, and has begun anew.
    const increment = total < before ? total : total - before
    this.totals.set(key, total)
    return increment
  }
}

const NOTHING: OwnTotals = {
  droppedEdges: 0,
  foldedOutcomes: 0,
  droppedLogLines: 0,
  violations: [],
  dns: { queries: [], failures: [], receivedDropped: 0, sentDropped: 0 },
}

const NO_UDP: UdpReport = { counts: [], overflows: 0 }

/** A report that is being written. */
class Draft {
  readonly newSeries: SeriesDescription[] = []
  /** By kind of series. */
  private readonly ids: readonly number[][] = [[], [], []]
  private readonly values: readonly number[][] = [[], [], []]

  /** Series that are in it; one that is new may count twice. */
  get count(): number {
    return this.newSeries.length + this.ids.reduce((sum, ids) => sum + ids.length, 0)
  }

  add(id: number, kind: ExportedSeries['kind'], increments: Float64Array): void {
    this.ids[kind]!.push(id)
    this.values[kind]!.push(...increments)
  }

  report(rest: OwnTotals): MetricsReport {
    const [http, tcp, messages] = this.ids
    const [httpValues, tcpValues, messageValues] = this.values
    return {
      newSeries: this.newSeries,
      retired: [],
      httpIds: Uint32Array.from(http!),
      httpValues: Float64Array.from(httpValues!),
      tcpIds: Uint32Array.from(tcp!),
      tcpValues: Float64Array.from(tcpValues!),
      messageIds: Uint32Array.from(messages!),
      messageValues: Float64Array.from(messageValues!),
      ...rest,
    }
  }
}

/** Back from the text: keeping the values as well would double what a series takes. */
function labelsOf({ kind, labelText }: ExportedSeries): string[] {
  const names = kind === SERIES_HTTP ? HTTP_LABELS : TCP_LABELS
  const values: string[] = []
  let at = 0
  for (const name of names) {
    at += name.length + 2
    let value = ''
    while (labelText[at] !== '"') {
      if (labelText[at] === '\\') {
        const escaped = labelText[at + 1]!
        value += escaped === 'n' ? '\n' : escaped
        at += 2
      } else value += labelText[at++]
    }
    values.push(value)
    at += 2
  }
  return values
}
