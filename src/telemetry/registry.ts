/**
 * All metrics of a node, as Prometheus text: the mesh's families, gathered from the reports of the data workers, and
 * the agent's own.
 *
 * The agent's own are prom-client's. The mesh's are kept and written here, because they arrive as finished histograms,
 * which prom-client cannot take, and because 25 labels on 66 lines per series are worth rendering once and not at
 * every scrape.
 */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { CarriedGauges, type CarriedState, NOTHING_CARRIED } from './carried-gauges.ts'
import {
  BUCKET_BOUNDS,
  type CounterFamily,
  HISTOGRAM_SUM,
  type HistogramFamily,
  HTTP_COUNTERS,
  HTTP_HISTOGRAMS,
  HTTP_LABELS,
  HTTP_WIDTH,
  MESSAGE_COUNTERS,
  MESSAGES_WIDTH,
  TCP_COUNTERS,
  TCP_LABELS,
  TCP_WIDTH,
} from './catalogue.ts'
import { type DnsBypassed, DnsFamilies } from './dns-families.ts'
import { PodNetworkFamilies, type PodNetworkState } from './pod-network-families.ts'
import {
  type MetricsReport,
  SERIES_HTTP,
  SERIES_MESSAGES,
  SERIES_TCP,
  type SeriesDescription,
  type SeriesKind,
} from './report.ts'
import type { RoundTrips } from './round-trips.ts'
import { renderLabels } from './text.ts'
import type { UdpTraffic } from './udp-traffic.ts'

/** Series that only dead workers counted are shown this long, then given up like any idle edge. */
const ORPHAN_MS = 3_600_000

/** Text is handed out in pieces of about this size, so that a scrape of many series never builds one huge string. */
const CHUNK_CHARACTERS = 65_536

const BUCKET_SUFFIXES: readonly string[] = [...BUCKET_BOUNDS.map(String), '+Inf'].map((bound) => `,le="${bound}"} `)

/** The agent's own state at the time of a scrape. Plain data. */
export interface AgentState {
  readonly enrolledPods: number
  /** Pods that are to be captured and are not, as the kernel was last seen; and how often a damaged capture was repaired. */
  readonly podsNotCaptured: number
  readonly captureRepairs: number
  /** Connections since start. */
  readonly outboundCaptured: number
  readonly inboundCaptured: number
  readonly bypassed: number
  /** Left out where DNS is never captured. */
  readonly dnsBypassed?: DnsBypassed
  /** Data workers that do not respond now. */
  readonly silentWorkers: number
  readonly refused: number
  /** Times and seconds that nobody served this node, over all agents since it was booted. */
  readonly absences: number
  readonly absentSeconds: number
  /** Times and seconds that the agent's main thread stood still while its data workers went on. */
  readonly mainStalls: number
  readonly mainStalledSeconds: number
  /** Open proxied connections by pod (`namespace/name`). */
  readonly openConnections: ReadonlyMap<string, number>
  /** Times of expiry by identity. */
  readonly certificateExpiryMs: ReadonlyMap<string, number>
  /** Counts up with every configuration put in force. */
  readonly configVersion: number
  readonly configRejected: number
  /** Left out where the kernel carries nothing. */
  readonly carried?: CarriedState
  /** Left out where there is nothing to tell. */
  readonly podNetworks?: PodNetworkState
}

/** What the registry says of this program. */
export interface RegistrySettings {
  /** Labels of `istio_build`, by which dashboards show versions. */
  readonly component: string
  readonly version: string
  readonly now: () => number
  /** Rendered with the rest when given. */
  readonly roundTrips?: RoundTrips
  readonly udp?: UdpTraffic
}

/** Numbers of a series, by kind. */
const WIDTHS: readonly number[] = [HTTP_WIDTH, TCP_WIDTH, MESSAGES_WIDTH]

/** A series and its counters, for reading only. */
export interface ExportedSeries {
  readonly kind: SeriesKind
  /** `name="value",...`, escaped. */
  readonly labelText: string
  /** Totals since the series began. */
  readonly values: Float64Array
}

/** What a report has beyond series. */
export type OwnTotals = Pick<
  MetricsReport,
  'droppedEdges' | 'foldedOutcomes' | 'droppedLogLines' | 'violations' | 'dns' | 'udp'
>

interface Series extends ExportedSeries {
  /** Workers that count on it. */
  holders: number
  orphanedAtMs: number
}

/** The sum of what all workers have reported, and the agent's own, as Prometheus text. */
export class MetricsRegistry {
  readonly contentType: string
  private readonly now: () => number
  private readonly own = new Registry()
  private readonly series = new Map<string, Series>()
  private readonly workers = new Map<number, Map<number, Series>>()
  private readonly gauges: AgentGauges
  private readonly carriedGauges: CarriedGauges
  private readonly podNetworks: PodNetworkFamilies
  private readonly roundTrips: RoundTrips | null
  private readonly udp: UdpTraffic | null
  private readonly droppedEdges: Counter
  private readonly foldedOutcomes: Counter
  private readonly droppedLogLines: Counter
  private readonly violations: Counter<'side' | 'reason'>
  private readonly dns: DnsFamilies

  constructor(settings: RegistrySettings) {
    this.now = settings.now
    this.contentType = this.own.contentType
    collectDefaultMetrics({ register: this.own })
    this.gauges = new AgentGauges(this.own, settings.now)
    this.carriedGauges = new CarriedGauges(this.own)
    this.podNetworks = new PodNetworkFamilies(this.own)
    this.roundTrips = settings.roundTrips ?? null
    this.udp = settings.udp ?? null
    const registers = [this.own]
    new Gauge({ name: 'istio_build', help: 'Build of this proxy.', labelNames: ['component', 'tag'], registers }).set(
      { component: settings.component, tag: settings.version },
      1,
    )
    this.droppedEdges = new Counter({
      name: 'weft_metrics_edges_dropped_total',
      help: 'Edges counted under unknown labels because a data worker keeps no more edges.',
      registers,
    })
    this.foldedOutcomes = new Counter({
      name: 'weft_metrics_outcomes_folded_total',
      help: 'Outcomes counted under their status class because an edge had too many kinds of them.',
      registers,
    })
    this.droppedLogLines = new Counter({
      name: 'weft_access_log_lines_dropped_total',
      help: 'Access log lines dropped because the log was not taken fast enough.',
      registers,
    })
    this.violations = new Counter({
      name: 'weft_http_violations_total',
      help: 'Peers that broke the rules of HTTP or a limit of the proxy, by side of the proxy and reason.',
      labelNames: ['side', 'reason'],
      registers,
    })
    this.dns = new DnsFamilies(this.own)
  }

  /** Adds what a worker counted. A successor may take over the number `worker` once `forgetWorker` was called. */
  merge(worker: number, report: MetricsReport): void {
    let known = this.workers.get(worker)
    if (known === undefined) {
      known = new Map()
      this.workers.set(worker, known)
    }
    for (const description of report.newSeries) this.hold(known, description)
    addAll(known, report.httpIds, report.httpValues, HTTP_WIDTH)
    addAll(known, report.tcpIds, report.tcpValues, TCP_WIDTH)
    addAll(known, report.messageIds, report.messageValues, MESSAGES_WIDTH)
    for (const id of report.retired) {
      const series = known.get(id)
      known.delete(id)
      if (series !== undefined && --series.holders === 0) this.series.delete(series.labelText)
    }
    this.droppedEdges.inc(report.droppedEdges)
    this.foldedOutcomes.inc(report.foldedOutcomes)
    this.droppedLogLines.inc(report.droppedLogLines)
    for (const { side, reason, count } of report.violations) this.violations.inc({ side, reason }, count)
    this.dns.add(report.dns)
    if (report.udp !== undefined) this.udp?.merge(report.udp)
  }

  /** Every series as it is now, for registry-export.ts. */
  exported(): Iterable<ExportedSeries> {
    return this.series.values()
  }

  /** What is counted outside of series. */
  async ownTotals(): Promise<OwnTotals> {
    const { values } = await this.violations.get()
    return {
      droppedEdges: await totalOf(this.droppedEdges),
      foldedOutcomes: await totalOf(this.foldedOutcomes),
      droppedLogLines: await totalOf(this.droppedLogLines),
      violations: values.map(({ labels, value }) => {
        return { side: String(labels.side), reason: String(labels.reason), count: value }
      }),
      dns: await this.dns.totals(),
      ...(this.udp === null ? {} : { udp: this.udp.totals() }),
    }
  }

  /** A worker is gone. What it counted stays: counters never go back while their series lives. */
  forgetWorker(worker: number): void {
    for (const series of this.workers.get(worker)?.values() ?? []) {
      if (--series.holders === 0) series.orphanedAtMs = this.now()
    }
    this.workers.delete(worker)
  }

  private hold(known: Map<number, Series>, description: SeriesDescription): void {
    const { kind, labels } = description
    const labelText = renderLabels(kind === SERIES_HTTP ? HTTP_LABELS : TCP_LABELS, labels)
    let series = this.series.get(labelText)
    if (series === undefined) {
      series = {
        kind,
        labelText,
        values: new Float64Array(WIDTHS[kind]!),
        holders: 0,
        orphanedAtMs: 0,
      }
      this.series.set(labelText, series)
    }
    series.holders++
    known.set(description.id, series)
  }

  // --- rendering ---

  /** The whole text. For many series prefer `chunks`. */
  async render(state: AgentState): Promise<string> {
    let text = ''
    for await (const chunk of this.chunks(state)) text += chunk
    return text
  }

  /** The text in pieces; the state is read at the beginning. */
  async *chunks(state: AgentState): AsyncGenerator<string> {
    this.gauges.set(state)
    if (state.dnsBypassed !== undefined) this.dns.setBypassed(state.dnsBypassed)
    this.carriedGauges.set(state.carried ?? NOTHING_CARRIED)
    if (state.podNetworks !== undefined) this.podNetworks.set(state.podNetworks)
    this.dropOrphans()
    yield `${await this.own.metrics()}\n`
    const all = [...this.series.values()]
    const http = all.filter((series) => series.kind === SERIES_HTTP)
    const tcp = all.filter((series) => series.kind === SERIES_TCP)
    const messages = all.filter((series) => series.kind === SERIES_MESSAGES)
    for (const family of HTTP_COUNTERS) yield* counterText(family, http)
    for (const family of MESSAGE_COUNTERS) yield* counterText(family, messages)
    for (const family of HTTP_HISTOGRAMS) yield* histogramText(family, http)
    for (const family of TCP_COUNTERS) yield* counterText(family, tcp)
    if (this.roundTrips !== null) yield this.roundTrips.render()
    if (this.udp !== null) yield this.udp.render()
  }

  private dropOrphans(): void {
    const nowMs = this.now()
    for (const [key, series] of this.series) {
      if (series.holders === 0 && nowMs - series.orphanedAtMs >= ORPHAN_MS) this.series.delete(key)
    }
  }
}

/** The agent's own families; set whole at every scrape, so that what is gone leaves no series behind. */
class AgentGauges {
  private readonly now: () => number
  private readonly enrolledPods: Gauge
  private readonly podsNotCaptured: Gauge
  private readonly captureRepairs: Counter
  private readonly captured: Counter<'direction'>
  private readonly bypassed: Counter
  private readonly refused: Counter
  private readonly silentWorkers: Gauge
  private readonly absences: Counter
  private readonly absentSeconds: Counter
  private readonly mainStalls: Counter
  private readonly mainStalledSeconds: Counter
  private readonly openConnections: Gauge<'pod'>
  private readonly certificateExpiry: Gauge<'identity'>
  private readonly configVersion: Gauge
  private readonly configRejected: Counter

  constructor(register: Registry, now: () => number) {
    const registers = [register]
    this.now = now
    this.enrolledPods = new Gauge({ name: 'weft_enrolled_pods', help: 'Pods of this node in the mesh.', registers })
    this.podsNotCaptured = new Gauge({
      name: 'weft_pods_not_captured',
      help: 'Pods that are to be in the mesh and whose connections do not come to it, as the kernel was last seen.',
      registers,
    })
    this.captureRepairs = new Counter({
      name: 'weft_capture_repairs_total',
      help: 'Times that the capture of a pod was damaged by somebody and set right again.',
      registers,
    })
    this.captured = new Counter({
      name: 'weft_captured_connections_total',
      help: 'Connections steered to the proxy, by direction.',
      labelNames: ['direction'],
      registers,
    })
    this.bypassed = new Counter({
      name: 'weft_bypassed_connections_total',
      help: 'Connections let by the proxy because something it needs was missing.',
      registers,
    })
    this.refused = new Counter({
      name: 'weft_refused_connections_total',
      help: 'Connections refused by the capture because something it needs was missing.',
      registers,
    })
    this.silentWorkers = new Gauge({
      name: 'weft_silent_workers',
      help: 'Data workers that do not respond and therefore get no connections.',
      registers,
    })
    this.absences = new Counter({
      name: 'weft_agent_absences_total',
      help: 'Times that this node was without its agent: none ran, or none of its data workers did.',
      registers,
    })
    this.absentSeconds = new Counter({
      name: 'weft_agent_absence_seconds_total',
      help: 'Seconds that this node was without its agent.',
      registers,
    })
    this.mainStalls = new Counter({
      name: 'weft_main_thread_stalls_total',
      help: 'Times that the main thread did not respond while data workers went on with the configuration they had.',
      registers,
    })
    this.mainStalledSeconds = new Counter({
      name: 'weft_main_thread_stalled_seconds_total',
      help: 'Seconds that the main thread did not respond.',
      registers,
    })
    this.openConnections = new Gauge({
      name: 'weft_open_connections',
      help: 'Open proxied connections, by pod.',
      labelNames: ['pod'],
      registers,
    })
    this.certificateExpiry = new Gauge({
      name: 'weft_certificate_expiry_seconds',
      help: 'Seconds until the certificate of an identity expires.',
      labelNames: ['identity'],
      registers,
    })
    this.configVersion = new Gauge({
      name: 'weft_config_version',
      help: 'Version of the configuration in force; counts up with every change.',
      registers,
    })
    this.configRejected = new Counter({
      name: 'weft_config_rejected_total',
      help: 'Configuration updates that were not put in force because they were not valid.',
      registers,
    })
  }

  set(state: AgentState): void {
    this.enrolledPods.set(state.enrolledPods)
    this.podsNotCaptured.set(state.podsNotCaptured)
    setCounter(this.captureRepairs, state.captureRepairs)
    this.captured.reset()
    this.captured.inc({ direction: 'outbound' }, state.outboundCaptured)
    this.captured.inc({ direction: 'inbound' }, state.inboundCaptured)
    setCounter(this.bypassed, state.bypassed)
    setCounter(this.refused, state.refused)
    this.silentWorkers.set(state.silentWorkers)
    setCounter(this.absences, state.absences)
    setCounter(this.absentSeconds, state.absentSeconds)
    setCounter(this.mainStalls, state.mainStalls)
    setCounter(this.mainStalledSeconds, state.mainStalledSeconds)
    this.openConnections.reset()
    for (const [pod, count] of state.openConnections) this.openConnections.set({ pod }, count)
    this.certificateExpiry.reset()
    const nowMs = this.now()
    for (const [identity, expiryMs] of state.certificateExpiryMs) {
      this.certificateExpiry.set({ identity }, (expiryMs - nowMs) / 1_000)
    }
    this.configVersion.set(state.configVersion)
    setCounter(this.configRejected, state.configRejected)
  }
}

/** The total is counted elsewhere; prom-client only shows it. */
function setCounter(counter: Counter, total: number): void {
  counter.reset()
  counter.inc(total)
}

async function totalOf(counter: Counter): Promise<number> {
  const { values } = await counter.get()
  return values.reduce((sum, { value }) => sum + value, 0)
}

function addAll(known: Map<number, Series>, ids: Uint32Array, values: Float64Array, width: number): void {
  for (let i = 0; i < ids.length; i++) {
    const totals = known.get(ids[i]!)?.values
    if (totals === undefined) continue
    for (let j = 0; j < width; j++) totals[j]! += values[i * width + j]!
  }
}

function* counterText(family: CounterFamily, all: readonly Series[]): Generator<string> {
  let text = heading(family, 'counter')
  for (const series of all) {
    text += `${family.name}{${series.labelText}} ${series.values[family.index]}\n`
    if (text.length >= CHUNK_CHARACTERS) {
      yield text
      text = ''
    }
  }
  yield text
}

function* histogramText(family: HistogramFamily, all: readonly Series[]): Generator<string> {
  let text = heading(family, 'histogram')
  for (const series of all) {
    const bucketStart = `${family.name}_bucket{${series.labelText}`
    let total = 0
    for (let i = 0; i < BUCKET_SUFFIXES.length; i++) {
      total += series.values[family.index + i]!
      text += `${bucketStart}${BUCKET_SUFFIXES[i]}${total}\n`
    }
    text += `${family.name}_sum{${series.labelText}} ${series.values[family.index + HISTOGRAM_SUM]}\n`
    text += `${family.name}_count{${series.labelText}} ${total}\n`
    if (text.length >= CHUNK_CHARACTERS) {
      yield text
      text = ''
    }
  }
  yield text
}

function heading(family: CounterFamily, type: string): string {
  return `# HELP ${family.name} ${family.help}\n# TYPE ${family.name} ${type}\n`
}
