/**
 * What an agent and its successor say to each other over `handover.sock` in the state directory: one JSON object a line.
 * The two may be different builds, so every message is checked field by field, and fields that are not known are left
 * alone; FORMAT changes when an old build could misread a new one.
 *
 *      successor                        predecessor
 *      hello ------------------------->
 *      <------------------------- welcome           who it is; its keys, if the node is the same
 *      <------------------------- credential ...
 *      <------------------------- told
 *      take -------------------------->             it stops enrolling and gives up the kernel's maps
 *      <------------------------- released
 *      commit ------------------------>             every pod is served by both now
 *      <------------------------- report ...        all that it has ever counted
 *      <------------------------- committed
 *      serving ----------------------->             new connections are the successor's; it drains
 *      <------------------------- report ...        what it counts while it drains
 *      <------------------------- ended
 *
 * `refused` may come from the predecessor in place of any answer, with a reason for the operator.
 */
import type { DnsFailure, DnsReport, DnsResult, DnsSource } from '../telemetry/dns-counts.ts'
import type { MetricsReport, SeriesDescription, UdpReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'

/** Of these messages. */
export const HANDOVER_FORMAT = 1

/** Longest line. A report of REPORT_SERIES_MAX series is some 150 KiB, a credential 6 KiB. */
export const LINE_BYTES_MAX = 1_048_576

/** Series in one report; more are sent as several. */
export const REPORT_SERIES_MAX = 256

/** Longest reason and version that is taken from the other side for our log. */
const TEXT_LENGTH_MAX = 1000

/** Who speaks. */
export interface HandoverParty {
  readonly format: number
  readonly version: string
  readonly pid: number
  readonly node: string
}

/** Successor to predecessor. */
export type FromSuccessor =
  | ({ readonly kind: 'hello' } & HandoverParty)
  | { readonly kind: 'take' }
  | { readonly kind: 'commit' }
  | { readonly kind: 'serving' }

/** Predecessor to successor. */
export type FromPredecessor =
  /** `slotBase` is the slot of its first data worker in the kernel's maps. */
  | ({ readonly kind: 'welcome'; readonly slotBase: number } & HandoverParty)
  /** With a private key: it goes over a socket that only this user can open, and into no log. */
  | { readonly kind: 'credential'; readonly material: TlsMaterial }
  | { readonly kind: 'told' }
  | { readonly kind: 'released' }
  | { readonly kind: 'committed' }
  | { readonly kind: 'report'; readonly report: MetricsReport }
  | { readonly kind: 'ended' }
  | { readonly kind: 'refused'; readonly reason: string }

export type HandoverMessage = FromSuccessor | FromPredecessor

/** One line, without its end. */
export function encodeMessage(message: HandoverMessage): string {
  return JSON.stringify(message, (_key, value: unknown) => (ArrayBuffer.isView(value) ? [...numbersOf(value)] : value))
}

/** Throws an Error that says what is wrong; bytes that are no message must not be more than a closed connection. */
export function decodeFromSuccessor(line: string): FromSuccessor {
  const fields = parse(line)
  switch (fields['kind']) {
    case 'hello':
      return { kind: 'hello', ...party(fields) }
    case 'take':
    case 'commit':
    case 'serving':
      return { kind: fields['kind'] }
    default:
      throw new Error('it is no message of a successor')
  }
}

/** As `decodeFromSuccessor`. */
export function decodeFromPredecessor(line: string): FromPredecessor {
  const fields = parse(line)
  switch (fields['kind']) {
    case 'welcome':
      return { kind: 'welcome', slotBase: count(fields['slotBase']), ...party(fields) }
    case 'credential':
      return { kind: 'credential', material: material(record(fields['material'])) }
    case 'told':
    case 'released':
    case 'committed':
    case 'ended':
      return { kind: fields['kind'] }
    case 'report':
      return { kind: 'report', report: report(record(fields['report'])) }
    case 'refused':
      return { kind: 'refused', reason: text(fields['reason']).slice(0, TEXT_LENGTH_MAX) }
    default:
      throw new Error('it is no message of a predecessor')
  }
}

// --- fields ---

type Fields = Readonly<Record<string, unknown>>

function parse(line: string): Fields {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    // The cause would quote the line, which may hold a key.
    throw new Error('it is not JSON')
  }
  return record(value)
}

function record(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('an object is missing')
  return value as Fields
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new Error('a text is missing')
  return value
}

function count(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new Error('a count is missing')
  return value
}

function list(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new Error('a list is missing')
  return value
}

function party(fields: Fields): HandoverParty {
  return {
    format: count(fields['format']),
    version: text(fields['version']).slice(0, TEXT_LENGTH_MAX),
    pid: count(fields['pid']),
    node: text(fields['node']).slice(0, TEXT_LENGTH_MAX),
  }
}

function material(fields: Fields): TlsMaterial {
  return {
    identity: text(fields['identity']),
    certificateChain: text(fields['certificateChain']),
    key: text(fields['key']),
    bundle: text(fields['bundle']),
    trustDomain: text(fields['trustDomain']),
  }
}

function report(fields: Fields): MetricsReport {
  return {
    newSeries: list(fields['newSeries']).map((value) => series(record(value))),
    retired: list(fields['retired']).map(count),
    httpIds: Uint32Array.from(list(fields['httpIds']).map(count)),
    httpValues: values(fields['httpValues']),
    tcpIds: Uint32Array.from(list(fields['tcpIds']).map(count)),
    tcpValues: values(fields['tcpValues']),
    messageIds: Uint32Array.from(list(fields['messageIds']).map(count)),
    messageValues: values(fields['messageValues']),
    droppedEdges: count(fields['droppedEdges']),
    foldedOutcomes: count(fields['foldedOutcomes']),
    droppedLogLines: count(fields['droppedLogLines']),
    violations: list(fields['violations']).map((value) => {
      const violation = record(value)
      return { side: text(violation['side']), reason: text(violation['reason']), count: count(violation['count']) }
    }),
    dns: dnsReport(record(fields['dns'])),
    // Agents before this one did not tell of it.
    ...(fields['udp'] === undefined ? {} : { udp: udpReport(record(fields['udp'])) }),
  }
}

function udpReport(fields: Fields): UdpReport {
  const counts = list(fields['counts']).map((value) => {
    const one = record(value)
    const [bytes, packets] = [count(one['bytes']), count(one['packets'])]
    return { isSent: one['isSent'] === true, labels: list(one['labels']).map(text), bytes, packets }
  })
  return { counts, overflows: count(fields['overflows']) }
}

/** Its words become labels, whatever they are: another build may know more of them. */
function dnsReport(fields: Fields): DnsReport {
  return {
    queries: list(fields['queries']).map((value) => {
      const query = record(value)
      const [source, result] = [text(query['source']), text(query['result'])]
      return { source: source as DnsSource, result: result as DnsResult, count: count(query['count']) }
    }),
    failures: list(fields['failures']).map((value) => {
      const failure = record(value)
      return { reason: text(failure['reason']) as DnsFailure, count: count(failure['count']) }
    }),
    receivedDropped: count(fields['receivedDropped']),
    sentDropped: count(fields['sentDropped']),
  }
}

function series(fields: Fields): SeriesDescription {
  const kind = fields['kind']
  if (kind !== 0 && kind !== 1 && kind !== 2) throw new Error('a kind of series is missing')
  return { id: count(fields['id']), kind, labels: list(fields['labels']).map(text) }
}

function values(value: unknown): Float64Array<ArrayBuffer> {
  const all = list(value)
  for (const one of all) {
    if (typeof one !== 'number' || !Number.isFinite(one)) throw new Error('a number is missing')
  }
  return Float64Array.from(all as number[])
}

function numbersOf(view: ArrayBufferView): Iterable<number> {
  return view as unknown as Iterable<number>
}
