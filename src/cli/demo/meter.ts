/**
 * What the demo measures while it runs: readings of the agents' metrics each second, and the reports of the load
 * generator. TCP has no latency in Istio's metrics, so the client's own figures fill those columns.
 */
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { type Edge, edgesBetween, type Reading, readingOf } from './edges.ts'
import { parseExposition } from './exposition.ts'
import type { Stage } from './stage.ts'
import { quantile } from './statistics.ts'

/** Pod that makes the load, as it appears in edges. */
const CLIENT = 'client'

interface LoadReport {
  readonly target: string
  readonly requests: number
  readonly errors: number
  readonly latenciesMs: readonly number[]
  readonly lastError: string
}

interface TimedReading {
  readonly atMs: number
  readonly reading: Reading
}

interface TimedReport extends LoadReport {
  readonly atMs: number
}

/** Span of the table: long enough for percentiles and shares, short enough to see a change of the rules. */
const SPAN_MS = 15_000

export class Meter {
  /** All requests and errors that the load generator saw, and the last error. */
  requests = 0
  errors = 0
  lastError = ''
  private readonly stage: Stage
  private first: TimedReading | null = null
  private readings: TimedReading[] = []
  private reports: TimedReport[] = []
  private readonly latenciesMs = new Map<string, number[]>()

  constructor(stage: Stage) {
    this.stage = stage
  }

  /** Takes the load generator's reports, one JSON object a line. */
  readonly onLoad = (output: Readable): void => {
    createInterface({ input: output }).on('line', (line) => this.take(JSON.parse(line) as LoadReport))
  }

  /** Reads the metrics of all agents. The first reading is the zero of the totals. */
  async read(): Promise<void> {
    const texts = await Promise.all(this.stage.plan.nodes.map((node) => this.stage.metrics(node)))
    const timed = { atMs: performance.now(), reading: readingOf(texts.flatMap(parseExposition)) }
    this.first ??= timed
    this.readings.push(timed)
    const oldestMs = timed.atMs - SPAN_MS
    while (this.readings.length > 2 && this.readings[1]!.atMs <= oldestMs) this.readings.shift()
    this.reports = this.reports.filter(({ atMs }) => atMs > oldestMs)
  }

  /** Edges of the last seconds, and how many milliseconds these are. */
  recent(): { readonly edges: readonly Edge[]; readonly spanMs: number } {
    const [from, to] = [this.readings[0], this.readings.at(-1)]
    if (from === undefined || to === undefined || from === to) return { edges: [], spanMs: 0 }
    const latencies = new Map<string, number[]>()
    for (const report of this.reports) append(latencies, report.target, report.latenciesMs)
    return { edges: withLatencies(edgesBetween(from.reading, to.reading), latencies), spanMs: to.atMs - from.atMs }
  }

  /** Edges since the first reading. */
  total(): readonly Edge[] {
    const last = this.readings.at(-1)
    if (this.first === null || last === undefined) return []
    return withLatencies(edgesBetween(this.first.reading, last.reading), this.latenciesMs)
  }

  private take(report: LoadReport): void {
    this.requests += report.requests
    this.errors += report.errors
    if (report.lastError !== '') this.lastError = report.lastError
    this.reports.push({ ...report, atMs: performance.now() })
    append(this.latenciesMs, report.target, report.latenciesMs)
  }
}

/**
 * Latencies kept per target for the totals. Beyond it the oldest half goes: a demo may run for days, and the percentiles
 * of the last hours are as good.
 */
const LATENCIES_MAX = 200_000

function append(all: Map<string, number[]>, target: string, latenciesMs: readonly number[]): void {
  const list = all.get(target) ?? []
  list.push(...latenciesMs)
  if (list.length > LATENCIES_MAX) list.splice(0, LATENCIES_MAX / 2)
  all.set(target, list)
}

/** Fills in the client's own figures where the agents have none. */
function withLatencies(edges: readonly Edge[], latenciesMs: ReadonlyMap<string, readonly number[]>): readonly Edge[] {
  return edges.map((edge) => {
    const values = edge.source === CLIENT && edge.p50Ms === null ? (latenciesMs.get(edge.destination) ?? []) : []
    return values.length === 0 ? edge : { ...edge, p50Ms: quantile(values, 0.5), p99Ms: quantile(values, 0.99) }
  })
}
