/**
 * The metric families of the mesh, in one place: names, help texts, labels and buckets as Istio's standard metrics have
 * them, so that existing dashboards and Kiali work unchanged. Workers and the registry both follow these orders.
 */

/** Labels of the TCP families, in the order in which label values are kept. */
export const TCP_LABELS = [
  'reporter',
  'source_workload',
  'source_workload_namespace',
  'source_app',
  'source_version',
  'source_cluster',
  'source_principal',
  'source_canonical_service',
  'source_canonical_revision',
  'destination_workload',
  'destination_workload_namespace',
  'destination_app',
  'destination_version',
  'destination_cluster',
  'destination_principal',
  'destination_canonical_service',
  'destination_canonical_revision',
  'destination_service',
  'destination_service_name',
  'destination_service_namespace',
  'request_protocol',
  'connection_security_policy',
  'response_flags',
] as const

/** Labels of the HTTP families: the same and two more. */
export const HTTP_LABELS = [...TCP_LABELS, 'response_code', 'grpc_response_status'] as const

/** Labels that an edge fixes; those after it differ per outcome. */
export const EDGE_LABEL_COUNT = 22

/** Envoy's default histogram bounds, used for milliseconds and for bytes alike. `+Inf` is implied. */
export const BUCKET_BOUNDS: readonly number[] = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
  3_600_000,
]

/** Numbers of one histogram: a count per bucket (not cumulative), the one of `+Inf`, and the sum. */
const HISTOGRAM_WIDTH = BUCKET_BOUNDS.length + 2
export const HISTOGRAM_SUM = HISTOGRAM_WIDTH - 1

/** Numbers of one HTTP outcome: the count of requests, then three histograms. */
export const HTTP_REQUESTS = 0
export const HTTP_DURATION = 1
export const HTTP_REQUEST_BYTES = HTTP_DURATION + HISTOGRAM_WIDTH
export const HTTP_RESPONSE_BYTES = HTTP_REQUEST_BYTES + HISTOGRAM_WIDTH
export const HTTP_WIDTH = HTTP_RESPONSE_BYTES + HISTOGRAM_WIDTH

/** Numbers of one TCP outcome. */
export const TCP_RECEIVED = 0
export const TCP_SENT = 1
export const TCP_OPENED = 2
export const TCP_CLOSED = 3
export const TCP_WIDTH = 4

/** Numbers of the gRPC messages of an edge; they are counted while their calls go on, so that they have no outcome. */
export const MESSAGES_REQUEST = 0
export const MESSAGES_RESPONSE = 1
export const MESSAGES_WIDTH = 2

/** A family of counters, with the slot its values have in a report. */
export interface CounterFamily {
  readonly name: string
  readonly help: string
  /** Which number of the outcome it is. */
  readonly index: number
}

/** `index` is where its buckets begin. */
export type HistogramFamily = CounterFamily

export const HTTP_COUNTERS: readonly CounterFamily[] = [
  { name: 'istio_requests_total', help: 'Requests handled by the mesh.', index: HTTP_REQUESTS },
]

export const HTTP_HISTOGRAMS: readonly HistogramFamily[] = [
  {
    name: 'istio_request_duration_milliseconds',
    help: 'Duration of requests in milliseconds.',
    index: HTTP_DURATION,
  },
  { name: 'istio_request_bytes', help: 'Size of requests in bytes.', index: HTTP_REQUEST_BYTES },
  { name: 'istio_response_bytes', help: 'Size of responses in bytes.', index: HTTP_RESPONSE_BYTES },
]

/** With TCP_LABELS, and `-` as the flag. */
export const MESSAGE_COUNTERS: readonly CounterFamily[] = [
  { name: 'istio_request_messages_total', help: 'gRPC messages sent by clients.', index: MESSAGES_REQUEST },
  { name: 'istio_response_messages_total', help: 'gRPC messages sent by servers.', index: MESSAGES_RESPONSE },
]

export const TCP_COUNTERS: readonly CounterFamily[] = [
  { name: 'istio_tcp_received_bytes_total', help: 'Bytes received from clients.', index: TCP_RECEIVED },
  { name: 'istio_tcp_sent_bytes_total', help: 'Bytes sent to clients.', index: TCP_SENT },
  { name: 'istio_tcp_connections_opened_total', help: 'TCP connections opened.', index: TCP_OPENED },
  { name: 'istio_tcp_connections_closed_total', help: 'TCP connections closed.', index: TCP_CLOSED },
]

/** Labels of ROUND_TRIP_FAMILY: what tells the two ends and the service; each series has 19 lines. */
export const ROUND_TRIP_LABELS: readonly (typeof TCP_LABELS)[number][] = [
  'source_workload',
  'source_workload_namespace',
  'destination_workload',
  'destination_workload_namespace',
  'destination_service',
]

/** With ROUND_TRIP_LABELS. Weft's own: Istio has no such metric. */
export const ROUND_TRIP_FAMILY = {
  name: 'weft_carried_round_trip_seconds',
  help: 'Smoothed round trip time of connections that the kernel carries: of open ones every few seconds, of each at its end.',
} as const

/** Index of the bucket that `value` falls into; `BUCKET_BOUNDS.length` is `+Inf`. */
export function bucketOf(value: number): number {
  // From below: most durations and sizes lie in the first buckets, and 19 comparisons cost less than a search.
  for (let i = 0; i < BUCKET_BOUNDS.length; i++) if (value <= BUCKET_BOUNDS[i]!) return i
  return BUCKET_BOUNDS.length
}
