/**
 * UDP between pods and whoever they talk to, as Prometheus counters: bytes of payload and packets.
 *
 * What leaves a pod is `sent`, told by its node as the source; what comes to a pod is `received`, told by its node as the
 * destination. So both numbers of one pair of workloads are there when both are in the mesh, and their difference is what
 * got lost on the way. Addresses of UDP prove no identity: principals are unknown, whatever the workload.
 */
import type { Service } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
import { EDGE_LABEL_COUNT, TCP_LABELS } from './catalogue.ts'
import { edgeLabels, overflowLabels } from './labels.ts'
import type { EdgeKey } from './recorder.ts'
import type { UdpReport } from './report.ts'
import { renderLabels } from './text.ts'

/** Pairs kept; beyond it they count under unknown labels. As many as a recorder keeps edges. */
export const UDP_SERIES_MAX = 1_000

/** A pair with no packet for so long is given up, like an idle edge. */
const UDP_IDLE_MS = 3_600_000

/** No flags: nothing is decided about a packet. */
export const UDP_LABELS = TCP_LABELS.slice(0, EDGE_LABEL_COUNT)

/** Who sent packets to whom, and which of their nodes saw them. What is not known is null. */
export interface UdpFlow {
  /** Seen as it left its source; else as it came to its destination. */
  readonly isSent: boolean
  readonly source: Workload | null
  readonly destination: Workload | null
  /** The service whose virtual address the packets were sent to. */
  readonly service: Service | null
}

interface UdpSeries {
  readonly isSent: boolean
  readonly labels: readonly string[]
  bytes: number
  packets: number
  changedAtMs: number
}

/** All counters of a node. */
export class UdpTraffic {
  /** Packets of which nothing is known but that they passed, since the kernel's maps were made. */
  unmeteredPackets = 0
  private readonly now: () => number
  private readonly series = new Map<string, UdpSeries>()
  /** Additions that found no series of their own. */
  private overflows = 0

  constructor(now: () => number) {
    this.now = now
  }

  add(flow: UdpFlow, bytes: number, packets: number): void {
    this.count(flow.isSent, edgeLabels(edgeKeyOf(flow)), bytes, packets)
  }

  /** What an agent before this one has counted. Labels that another build knows, and this one does not, are `unknown`. */
  merge({ counts, overflows }: UdpReport): void {
    for (const { isSent, labels, bytes, packets } of counts) {
      this.count(isSent, labels.length === UDP_LABELS.length ? labels : unknownLabels(isSent), bytes, packets)
    }
    this.overflows += overflows
  }

  /** Everything that was counted. */
  totals(): UdpReport {
    const counts = [...this.series.values()].map(({ isSent, labels, bytes, packets }) => ({
      isSent,
      labels,
      bytes,
      packets,
    }))
    return { counts, overflows: this.overflows }
  }

  /** The families as text. */
  render(): string {
    const nowMs = this.now()
    for (const [labels, series] of this.series) {
      if (nowMs - series.changedAtMs >= UDP_IDLE_MS) this.series.delete(labels)
    }
    return [
      this.familyText('weft_udp_sent_bytes_total', 'Payload that pods sent by UDP.', true, 'bytes'),
      this.familyText('weft_udp_sent_packets_total', 'UDP packets that pods sent.', true, 'packets'),
      this.familyText('weft_udp_received_bytes_total', 'Payload that came to pods by UDP.', false, 'bytes'),
      this.familyText('weft_udp_received_packets_total', 'UDP packets that came to pods.', false, 'packets'),
      ...counterText('weft_udp_unmetered_packets_total', 'UDP packets that no other metric counts.', [
        ['', this.unmeteredPackets],
      ]),
      ...counterText('weft_udp_overflows_total', 'Counts that went to unknown labels because of too many pairs.', [
        ['', this.overflows],
      ]),
    ].join('')
  }

  private familyText(name: string, help: string, isSent: boolean, field: 'bytes' | 'packets'): string {
    const values = [...this.series].filter(([, series]) => series.isSent === isSent)
    return counterText(
      name,
      help,
      values.map(([labels, series]) => [`{${labels}}`, series[field]]),
    ).join('')
  }

  private count(isSent: boolean, labels: readonly string[], bytes: number, packets: number): void {
    const series = this.seriesOf(isSent, labels)
    series.bytes += bytes
    series.packets += packets
    series.changedAtMs = this.now()
  }

  private seriesOf(isSent: boolean, labels: readonly string[]): UdpSeries {
    const text = renderLabels(UDP_LABELS, labels)
    const known = this.series.get(text)
    if (known !== undefined) return known
    if (this.series.size < UDP_SERIES_MAX) return this.addSeries(text, isSent, labels)
    this.overflows++
    const unknown = unknownLabels(isSent)
    const overflow = renderLabels(UDP_LABELS, unknown)
    return this.series.get(overflow) ?? this.addSeries(overflow, isSent, unknown)
  }

  private addSeries(text: string, isSent: boolean, labels: readonly string[]): UdpSeries {
    const series: UdpSeries = { isSent, labels, bytes: 0, packets: 0, changedAtMs: 0 }
    this.series.set(text, series)
    return series
  }
}

function unknownLabels(isSent: boolean): string[] {
  return overflowLabels(edgeKeyOf({ isSent, source: null, destination: null, service: null }))
}

function edgeKeyOf({ isSent, source, destination, service }: UdpFlow): EdgeKey {
  return {
    reporter: isSent ? 'source' : 'destination',
    protocol: 'udp',
    source,
    destination,
    service,
    host: '',
    isMutualTls: false,
    sourcePrincipal: null,
    destinationPrincipal: null,
  }
}

function counterText(name: string, help: string, values: readonly (readonly [string, number])[]): string[] {
  if (values.length === 0) return []
  const lines = values.map(([labels, value]) => `${name}${labels} ${value}\n`)
  return [`# HELP ${name} ${help}\n# TYPE ${name} counter\n`, ...lines]
}
