// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The recorder of one data worker. An edge's labels are resolved once; from then on counting is a look-up by a small
 * integer and additions into a Float64Array. `collect` hands the increments to the main thread and sets them to zero.
 *
 * Everything is bounded: edges per worker (beyond it one `unknown` edge per reporter and protocol counts on), outcomes
 * per edge and in all (beyond it they count under their status class), and what is over is counted itself.
 */
import {
  FLAG_DELAY_INJECTED,
  FLAG_DENIED,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_DOWNSTREAM_PROTOCOL,
  FLAG_FAULT_INJECTED,
  FLAG_NO_CLUSTER,
  FLAG_NO_HEALTHY_UPSTREAM,
  FLAG_NO_ROUTE,
  FLAG_NONE,
  FLAG_STREAM_IDLE_TIMEOUT,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  FLAG_UPSTREAM_OVERFLOW,
  FLAG_UPSTREAM_PROTOCOL,
  FLAG_UPSTREAM_RETRY_LIMIT,
  FLAG_UPSTREAM_TIMEOUT,
  type Flag,
} from '../base/errors.ts'
import { type AccessLog, formatAccessRecord } from './access-log.ts'
import {
  bucketOf,
  HISTOGRAM_SUM,
  HTTP_DURATION,
  HTTP_REQUEST_BYTES,
  HTTP_REQUESTS,
  HTTP_RESPONSE_BYTES,
  HTTP_WIDTH,
  MESSAGES_REQUEST,
  MESSAGES_RESPONSE,
  MESSAGES_WIDTH,
  TCP_CLOSED,
  TCP_OPENED,
  TCP_RECEIVED,
  TCP_SENT,
  TCP_WIDTH,
} from './catalogue.ts'
import { DnsCounts } from './dns-counts.ts'
import { edgeLabels, overflowLabels } from './labels.ts'
import type { AccessRecord, EdgeKey, EdgeMetrics, Recorder, ViolationSide } from './recorder.ts'
import {
  type MetricsReport,
  SERIES_HTTP,
  SERIES_MESSAGES,
  SERIES_TCP,
  type SeriesDescription,
  type SeriesKind,
} from './report.ts'
import { ViolationCounts } from './violation-counts.ts'

/**
 * Edges of one worker. 1,000: a node of 100 pods with ten edges each. An edge costs about 600 bytes here per outcome,
 * and 70 KB of text at each scrape, which is what makes more of them expensive.
 */
export const EDGES_MAX = 1_000

/** Outcomes (status, gRPC status, flag) of one edge: a service answers with a dozen statuses; an attacker with 900. */
export const EDGE_OUTCOMES_MAX = 32

/** Outcomes of all edges of a worker together: three per edge on average at the limit. */
export const OUTCOMES_MAX = 3_000

/** Edges unused for this long are given up, so that pods long gone make room. */
export const EDGE_IDLE_MS = 3_600_000

/** Entries of the look-up from objects to edges; it is emptied when full. Several keys may mean one edge. */
const MEMO_MAX = 4 * EDGES_MAX

const FLAGS: readonly Flag[] = [
  FLAG_NONE,
  FLAG_UPSTREAM_CONNECT,
  FLAG_NO_HEALTHY_UPSTREAM,
  FLAG_UPSTREAM_OVERFLOW,
  FLAG_UPSTREAM_RETRY_LIMIT,
  FLAG_NO_ROUTE,
  FLAG_NO_CLUSTER,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_TIMEOUT,
  FLAG_UPSTREAM_PROTOCOL,
  FLAG_DOWNSTREAM_PROTOCOL,
  FLAG_FAULT_INJECTED,
  FLAG_DELAY_INJECTED,
  FLAG_DENIED,
  FLAG_STREAM_IDLE_TIMEOUT,
]
const FLAG_INDEX: ReadonlyMap<Flag, number> = new Map(FLAGS.map((flag, index) => [flag, index]))

/** An outcome's key: status (10 bits), gRPC status plus one (8 bits), flag (5 bits). */
const GRPC_SHIFT = 5
const STATUS_SHIFT = 13
const GRPC_STATUS_MAX = 254
const STATUS_MAX = 999

/** Key of the messages of an edge, which is no outcome's: its flag does not exist. */
const MESSAGES_KEY = (1 << GRPC_SHIFT) - 1

/** Numbers of a series, by kind. */
const WIDTHS: readonly number[] = [HTTP_WIDTH, TCP_WIDTH, MESSAGES_WIDTH]

/** One series of an edge: increments since the last collection. */
class Outcome {
  /** -1 until it was first reported. */
  id = -1
  isChanged = false
  readonly key: number
  readonly kind: SeriesKind
  readonly edge: RecordedEdge
  readonly values: Float64Array

  constructor(edge: RecordedEdge, key: number) {
    this.edge = edge
    this.key = key
    this.kind = edge.isTcp ? SERIES_TCP : key === MESSAGES_KEY ? SERIES_MESSAGES : SERIES_HTTP
    this.values = new Float64Array(WIDTHS[this.kind]!)
  }

  addToHistogram(start: number, value: number): void {
    const values = this.values
    values[start + bucketOf(value)]! += 1
    values[start + HISTOGRAM_SUM]! += value
  }
}

class RecordedEdge implements EdgeMetrics {
  /** False once given up; counting on brings it back. */
  isLive = true
  /** Time of the last collection that found it used. */
  usedAtMs: number
  readonly labels: readonly string[]
  readonly outcomes = new Map<number, Outcome>()
  readonly isTcp: boolean
  private readonly recorder: WorkerRecorder
  /** The last outcome; nearly always the next one too. */
  private latest: Outcome | null = null
  /** Null until there is a message. */
  private messages: Outcome | null = null

  constructor(recorder: WorkerRecorder, labels: readonly string[], isTcp: boolean, usedAtMs: number) {
    this.recorder = recorder
    this.labels = labels
    this.isTcp = isTcp
    this.usedAtMs = usedAtMs
  }

  /** Ignored on a TCP edge: it has no such series. */
  exchangeFinished(
    status: number,
    grpcStatus: number,
    flag: Flag,
    durationMs: number,
    requestBytes: number,
    responseBytes: number,
  ): void {
    if (this.isTcp) return
    const outcome = this.outcome(outcomeKey(status, grpcStatus, flag))
    outcome.values[HTTP_REQUESTS]! += 1
    outcome.addToHistogram(HTTP_DURATION, durationMs)
    outcome.addToHistogram(HTTP_REQUEST_BYTES, requestBytes)
    outcome.addToHistogram(HTTP_RESPONSE_BYTES, responseBytes)
  }

  grpcMessages(requests: number, responses: number): void {
    if (this.isTcp || requests + responses === 0) return
    if (this.messages === null)
      this.messages = this.outcomes.get(MESSAGES_KEY) ?? this.recorder.addOutcome(this, MESSAGES_KEY)
    const { messages } = this
    messages.values[MESSAGES_REQUEST]! += requests
    messages.values[MESSAGES_RESPONSE]! += responses
    if (!messages.isChanged) this.recorder.markChanged(messages)
  }

  /** The connection calls are ignored on an HTTP edge: its connections carry many edges' exchanges. */
  connectionOpened(count = 1): void {
    if (this.isTcp) this.outcome(0).values[TCP_OPENED]! += count
  }

  connectionClosed(flag: Flag, count = 1): void {
    if (this.isTcp) this.outcome(outcomeKey(0, -1, flag)).values[TCP_CLOSED]! += count
  }

  connectionBytes(received: number, sent: number): void {
    if (!this.isTcp) return
    const values = this.outcome(0).values
    values[TCP_RECEIVED]! += received
    values[TCP_SENT]! += sent
  }

  forget(): void {
    this.outcomes.clear()
    this.latest = null
    this.messages = null
    this.isLive = false
  }

  private outcome(key: number): Outcome {
    let outcome = this.latest
    if (outcome === null || outcome.key !== key) {
      outcome = this.outcomes.get(key) ?? this.recorder.addOutcome(this, key)
      this.latest = outcome
    }
    if (!outcome.isChanged) this.recorder.markChanged(outcome)
    return outcome
  }
}

/** The recorder of one worker: edges in slots of typed arrays. */
export class WorkerRecorder implements Recorder {
  readonly isLogging: boolean
  /** Counted on by the worker's resolver. */
  readonly dns = new DnsCounts()
  private readonly accessLog: AccessLog | null
  private readonly now: () => number
  private readonly edges = new Map<string, RecordedEdge>()
  private readonly memo = new Map<string, RecordedEdge>()
  private readonly objectNumbers = new WeakMap<object, number>()
  private nextObjectNumber = 1
  private nextSeriesId = 0
  private outcomeCount = 0
  private changed: Outcome[] = []
  private collectedAtMs: number
  private droppedEdges = 0
  private foldedOutcomes = 0
  private readonly violations = new ViolationCounts()

  /** `accessLog` is where lines go; null switches the log off. */
  constructor(accessLog: AccessLog | null, now: () => number = Date.now) {
    this.accessLog = accessLog
    this.isLogging = accessLog !== null
    this.now = now
    this.collectedAtMs = now()
  }

  log(record: AccessRecord): void {
    this.accessLog?.write(formatAccessRecord(record))
  }

  violation(side: ViolationSide, reason: string): void {
    this.violations.add(side, reason)
  }

  edge(key: EdgeKey): EdgeMetrics {
    const memoKey = this.memoKey(key)
    let edge = this.memo.get(memoKey)
    if (edge === undefined || !edge.isLive) {
      edge = this.resolve(key)
      if (this.memo.size >= MEMO_MAX) this.memo.clear()
      this.memo.set(memoKey, edge)
    }
    return edge
  }

  /**
   * Identifies a key by its objects, so that a workload whose labels changed (a new object) is a new key. Objects are
   * numbered, because a Map cannot be keyed by several of them at once.
   */
  private memoKey(key: EdgeKey): string {
    return (
      `${key.reporter} ${key.protocol} ${key.isMutualTls} ${this.numberOf(key.source)} ${this.numberOf(key.destination)}` +
      ` ${this.numberOf(key.service)} ${key.sourcePrincipal} ${key.destinationPrincipal} ${key.host}`
    )
  }

  private numberOf(object: object | null): number {
    if (object === null) return 0
    let number = this.objectNumbers.get(object)
    if (number === undefined) {
      number = this.nextObjectNumber++
      this.objectNumbers.set(object, number)
    }
    return number
  }

  private resolve(key: EdgeKey): RecordedEdge {
    const labels = edgeLabels(key)
    const existing = this.edges.get(labels.join('\n'))
    if (existing !== undefined) return existing
    if (this.edges.size < EDGES_MAX) return this.addEdge(labels, key)
    this.droppedEdges++
    const overflow = overflowLabels(key)
    return this.edges.get(overflow.join('\n')) ?? this.addEdge(overflow, key)
  }

  private addEdge(labels: readonly string[], key: EdgeKey): RecordedEdge {
    const edge = new RecordedEdge(this, labels, key.protocol === 'tcp', this.collectedAtMs)
    this.edges.set(labels.join('\n'), edge)
    return edge
  }

  /** @internal A first outcome of its kind; beyond the limits the one of its class. */
  addOutcome(edge: RecordedEdge, key: number): Outcome {
    if (!edge.isLive) this.revive(edge)
    let wanted = key
    const isFull = edge.outcomes.size >= EDGE_OUTCOMES_MAX || this.outcomeCount >= OUTCOMES_MAX
    if (isFull && key !== MESSAGES_KEY) {
      this.foldedOutcomes++
      // Only the class of the status is kept: at most ten of these per edge.
      wanted = edge.isTcp ? 0 : (Math.trunc((key >>> STATUS_SHIFT) / 100) * 100) << STATUS_SHIFT
      const folded = edge.outcomes.get(wanted)
      if (folded !== undefined) return folded
    }
    const outcome = new Outcome(edge, wanted)
    edge.outcomes.set(wanted, outcome)
    this.outcomeCount++
    return outcome
  }

  /** @internal */
  markChanged(outcome: Outcome): void {
    outcome.isChanged = true
    this.changed.push(outcome)
  }

  /** Somebody kept an edge that was given up: its series begin anew. */
  private revive(edge: RecordedEdge): void {
    edge.isLive = true
    this.edges.set(edge.labels.join('\n'), edge)
  }

  // --- collection ---

  /** The increments since the last call. */
  collect(): MetricsReport {
    const nowMs = this.now()
    const newSeries: SeriesDescription[] = []
    for (const outcome of this.changed) outcome.edge.usedAtMs = nowMs
    const http = this.changed.filter((outcome) => outcome.kind === SERIES_HTTP)
    const tcp = this.changed.filter((outcome) => outcome.kind === SERIES_TCP)
    const messages = this.changed.filter((outcome) => outcome.kind === SERIES_MESSAGES)
    this.changed = []
    const report: MetricsReport = {
      newSeries,
      httpIds: this.identify(http, newSeries),
      httpValues: takeValues(http, HTTP_WIDTH),
      tcpIds: this.identify(tcp, newSeries),
      tcpValues: takeValues(tcp, TCP_WIDTH),
      messageIds: this.identify(messages, newSeries),
      messageValues: takeValues(messages, MESSAGES_WIDTH),
      retired: this.retireEdges(nowMs),
      droppedEdges: this.droppedEdges,
      foldedOutcomes: this.foldedOutcomes,
      droppedLogLines: this.accessLog?.takeDroppedCount() ?? 0,
      violations: this.violations.take(),
      dns: this.dns.take(),
    }
    this.droppedEdges = 0
    this.foldedOutcomes = 0
    this.collectedAtMs = nowMs
    return report
  }

  private identify(outcomes: readonly Outcome[], newSeries: SeriesDescription[]): Uint32Array<ArrayBuffer> {
    const ids = new Uint32Array(outcomes.length)
    for (let i = 0; i < outcomes.length; i++) {
      const outcome = outcomes[i]!
      if (outcome.id < 0) {
        outcome.id = this.nextSeriesId++
        newSeries.push({ id: outcome.id, kind: outcome.kind, labels: outcomeLabels(outcome) })
      }
      ids[i] = outcome.id
    }
    return ids
  }

  private retireEdges(nowMs: number): number[] {
    const retired: number[] = []
    for (const [key, edge] of this.edges) {
      if (nowMs - edge.usedAtMs < EDGE_IDLE_MS) continue
      for (const outcome of edge.outcomes.values()) if (outcome.id >= 0) retired.push(outcome.id)
      this.outcomeCount -= edge.outcomes.size
      edge.forget()
      this.edges.delete(key)
    }
    return retired
  }
}

function takeValues(outcomes: readonly Outcome[], width: number): Float64Array<ArrayBuffer> {
  const values = new Float64Array(outcomes.length * width)
  for (let i = 0; i < outcomes.length; i++) {
    const outcome = outcomes[i]!
    values.set(outcome.values, i * width)
    outcome.values.fill(0)
    outcome.isChanged = false
  }
  return values
}

function outcomeKey(status: number, grpcStatus: number, flag: Flag): number {
  const knownStatus = status >= 0 && status <= STATUS_MAX ? status : 0
  const knownGrpc = grpcStatus >= 0 && grpcStatus <= GRPC_STATUS_MAX ? grpcStatus + 1 : 0
  return (knownStatus << STATUS_SHIFT) | (knownGrpc << GRPC_SHIFT) | (FLAG_INDEX.get(flag) ?? 0)
}

/** Label values of a series: the edge's, and what its key says. */
function outcomeLabels(outcome: Outcome): string[] {
  const { edge, key } = outcome
  const flag = FLAGS[key & ((1 << GRPC_SHIFT) - 1)] ?? FLAG_NONE
  if (outcome.kind !== SERIES_HTTP) return [...edge.labels, flag]
  const grpc = (key >>> GRPC_SHIFT) & 0xff
  return [...edge.labels, flag, String(key >>> STATUS_SHIFT), grpc === 0 ? '' : String(grpc - 1)]
}
