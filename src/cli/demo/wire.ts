/**
 * Judges what went over the wire between the nodes: follows every TCP connection from its first packet and checks that
 * each payload byte lies in a TLS record (content types 20 to 23, RFC 8446 section 5.1), and on which ports.
 */
import { formatHostPort } from '../../base/address.ts'
import { TCP_FIN, TCP_RST, TCP_SYN, type TcpSegment } from './pcap.ts'

const RECORD_HEADER_BYTES = 5
const CONTENT_TYPE_MIN = 20
const CONTENT_TYPE_MAX = 23
/** RFC 8446 section 5.2: 2^14 bytes and at most 256 of expansion. */
const RECORD_BYTES_MAX = 16_640
/** Directions of connections followed at a time. The demo has some dozens; users may put load generators into pods. */
const FLOWS_MAX = 10_000
/** Offences described; all are counted. */
const OFFENCES_MAX = 5

export interface WireReport {
  /** TCP segments with payload between the nodes, without those of `exempt` addresses. */
  readonly segments: number
  readonly bytes: number
  readonly records: number
  /** Segments with bytes outside of TLS records, or on ports that are not allowed. */
  readonly offences: number
  readonly examples: readonly string[]
  /** Segments that could not be judged: their connection began before the capture did, or packets were lost. */
  readonly unjudged: number
  /** Segments to or from exempt addresses. */
  readonly exempt: number
  /** True when the watch ended before the demo did. */
  readonly isCut: boolean
}

interface Flow {
  /** Sequence number of the next byte. */
  next: number
  /** Bytes left of the current record. */
  left: number
  readonly header: number[]
  isLost: boolean
}

export class WireWatch {
  private readonly ports: ReadonlySet<number>
  private readonly exemptAddresses: ReadonlySet<string>
  private readonly flows = new Map<string, Flow>()
  private readonly examples: string[] = []
  private segments = 0
  private bytes = 0
  private records = 0
  private offences = 0
  private unjudged = 0
  private exempt = 0
  private isCut = false

  /** `ports`: servers' ports that may be seen. `exemptAddresses`: hosts outside the mesh. */
  constructor(ports: readonly number[], exemptAddresses: readonly string[]) {
    this.ports = new Set(ports)
    this.exemptAddresses = new Set(exemptAddresses)
  }

  /** Takes the next segment, in the order of the capture. */
  add(segment: TcpSegment): void {
    if (this.exemptAddresses.has(segment.source) || this.exemptAddresses.has(segment.destination)) {
      if (segment.payload.length > 0) this.exempt++
      return
    }
    const key = flowName(segment)
    if ((segment.flags & TCP_SYN) !== 0) this.open(key, segment.sequence)
    else if (segment.payload.length > 0) this.judge(key, segment)
    if ((segment.flags & (TCP_FIN | TCP_RST)) !== 0) this.flows.delete(key)
  }

  /** Nothing more will be added, though traffic goes on. */
  cut(): void {
    this.isCut = true
  }

  report(): WireReport {
    const { segments, bytes, records, offences, examples, unjudged, exempt, isCut } = this
    return { segments, bytes, records, offences, examples, unjudged, exempt, isCut }
  }

  private open(key: string, sequence: number): void {
    // The oldest goes: most likely it ended without our seeing it.
    if (this.flows.size >= FLOWS_MAX) this.flows.delete(this.flows.keys().next().value!)
    this.flows.set(key, { next: (sequence + 1) >>> 0, left: 0, header: [], isLost: false })
  }

  private judge(key: string, segment: TcpSegment): void {
    this.segments++
    this.bytes += segment.payload.length
    if (!this.ports.has(segment.destinationPort) && !this.ports.has(segment.sourcePort)) {
      this.offend(segment, 'on a port that the mesh does not use')
      return
    }
    const flow = this.flows.get(key)
    if (flow === undefined || flow.isLost) {
      this.unjudged++
      return
    }
    // Difference modulo 2^32: negative for bytes that were seen before (retransmission).
    const ahead = (segment.sequence - flow.next) | 0
    if (ahead > 0) {
      flow.isLost = true
      this.unjudged++
      return
    }
    const fresh = segment.payload.subarray(Math.min(-ahead, segment.payload.length))
    flow.next = (flow.next + fresh.length) >>> 0
    if (!this.followRecords(flow, fresh)) {
      flow.isLost = true
      this.offend(segment, 'not TLS')
    }
  }

  /** Steps over records; false when a header is no TLS record's. */
  private followRecords(flow: Flow, bytes: Uint8Array): boolean {
    let at = 0
    while (at < bytes.length) {
      if (flow.left > 0) {
        const step = Math.min(flow.left, bytes.length - at)
        flow.left -= step
        at += step
        continue
      }
      flow.header.push(bytes[at++]!)
      if (!isRecordHeader(flow.header)) return false
      if (flow.header.length < RECORD_HEADER_BYTES) continue
      flow.left = flow.header[3]! * 256 + flow.header[4]!
      flow.header.length = 0
      this.records++
    }
    return true
  }

  private offend(segment: TcpSegment, what: string): void {
    this.offences++
    if (this.examples.length >= OFFENCES_MAX) return
    const start = Buffer.from(segment.payload.subarray(0, 32)).toString('latin1')
    this.examples.push(`${flowName(segment)} ${what}: ${JSON.stringify(start)}`)
  }
}

/** True when the bytes so far can be the start of a record's header. */
function isRecordHeader(header: readonly number[]): boolean {
  const [type, major, minor, high, low] = header
  if (type! < CONTENT_TYPE_MIN || type! > CONTENT_TYPE_MAX) return false
  if (major !== undefined && major !== 3) return false
  if (minor !== undefined && minor > 4) return false
  return low === undefined || high! * 256 + low <= RECORD_BYTES_MAX
}

function flowName(segment: TcpSegment): string {
  const { source, sourcePort, destination, destinationPort } = segment
  return `${formatHostPort(source, sourcePort)} -> ${formatHostPort(destination, destinationPort)}`
}
