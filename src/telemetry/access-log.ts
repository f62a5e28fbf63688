/**
 * The access log: one JSON object per line, with the field names that Istio's JSON log uses where they exist, and a
 * writer that gathers lines and never holds more than a stated number of bytes.
 */
import type { AccessRecord } from './recorder.ts'

/** The line of one record, without its newline. */
export function formatAccessRecord(record: AccessRecord): string {
  const { edge, http } = record
  const line: Record<string, unknown> = {
    start_time: new Date(record.startedAtMs).toISOString(),
    duration: record.durationMs,
    reporter: edge.reporter,
    protocol: http?.protocol ?? 'TCP',
  }
  if (http !== null) {
    line['method'] = http.method
    line['path'] = http.path
    line['authority'] = http.authority
    line['response_code'] = http.status
    if (http.grpcStatus >= 0) line['grpc_status'] = http.grpcStatus
    line['route_name'] = http.route
    line['request_id'] = http.requestId
  }
  line['response_flags'] = record.flag
  line['details'] = record.details
  line['bytes_received'] = record.receivedBytes
  line['bytes_sent'] = record.sentBytes
  line['downstream_remote_address'] = record.downstream
  line['upstream_host'] = record.upstream
  line['source_workload'] = edge.source?.workloadName ?? null
  line['source_namespace'] = edge.source?.namespace ?? null
  line['source_principal'] = edge.sourcePrincipal
  line['destination_workload'] = edge.destination?.workloadName ?? null
  line['destination_namespace'] = edge.destination?.namespace ?? null
  line['destination_principal'] = edge.destinationPrincipal
  line['destination_service'] = edge.service?.hostname ?? (edge.host === '' ? null : edge.host)
  line['mutual_tls'] = edge.isMutualTls
  if (record.roundTripUs !== undefined) {
    line['carried_by'] = 'kernel'
    line['round_trip_us'] = record.roundTripUs
  }
  return JSON.stringify(line)
}

/** Bytes held while the sink takes none. 1 MiB: a few thousand lines; more would only be older when it is read. */
export const LOG_BUFFER_BYTES_MAX = 1_048_576

/** Gathered text is written from this size on; 16 KiB makes a write per about forty lines. */
const LOG_FLUSH_BYTES = 16_384

/** Oldest age of a line that waits for more, milliseconds. */
const LOG_FLUSH_MS = 200

/** Where text goes. As a stream's `write`: returning false means take no more until `AccessLog.resume`. */
export type AccessLogSink = (text: string) => unknown

/** Collects lines and hands them on in batches; drops, and counts, what nobody takes. */
export class AccessLog {
  private readonly sink: AccessLogSink
  private lines: string[] = []
  private bytes = 0
  private isBlocked = false
  private droppedCount = 0
  private timer: NodeJS.Timeout | null = null

  constructor(sink: AccessLogSink) {
    this.sink = sink
  }

  /** Takes one line, or counts it as dropped when the buffer is full. */
  write(line: string): void {
    // Characters stand for bytes here: exact for ASCII, and near enough for a limit.
    if (this.bytes + line.length + 1 > LOG_BUFFER_BYTES_MAX) {
      this.droppedCount++
      return
    }
    this.lines.push(line)
    this.bytes += line.length + 1
    if (this.isBlocked) return
    if (this.bytes >= LOG_FLUSH_BYTES) this.flush()
    else this.timer ??= setTimeout(() => this.flush(), LOG_FLUSH_MS).unref()
  }

  /** Hands over what is gathered, unless the sink is full. Also for shutdown. */
  flush(): void {
    if (this.timer !== null) clearTimeout(this.timer)
    this.timer = null
    if (this.isBlocked || this.lines.length === 0) return
    const text = `${this.lines.join('\n')}\n`
    this.lines = []
    this.bytes = 0
    this.isBlocked = this.sink(text) === false
  }

  /** The sink takes more. */
  resume(): void {
    this.isBlocked = false
    this.flush()
  }

  /** Lines dropped since the last call. */
  takeDroppedCount(): number {
    const count = this.droppedCount
    this.droppedCount = 0
    return count
  }
}
