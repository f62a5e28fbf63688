/**
 * What the data path tells telemetry: one `EdgeMetrics` per (reporter, source, destination, service, protocol,
 * security), resolved once per connection or cluster and then only counted on. Interfaces; workers implement them with
 * typed-array slots (worker-recorder.ts).
 */
import type { Flag } from '../base/errors.ts'
import type { Service } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'

/** Which end of an edge saw it. */
export type Reporter = 'source' | 'destination'
/** As the `request_protocol` label says it. */
export type MetricProtocol = 'http' | 'grpc' | 'tcp' | 'udp'

/** Identifies an edge. Missing parts are null and become `unknown` labels. */
export interface EdgeKey {
  readonly reporter: Reporter
  readonly protocol: MetricProtocol
  readonly source: Workload | null
  readonly destination: Workload | null
  readonly service: Service | null
  /** Host for `destination_service` when there is no service; empty becomes `unknown`. */
  readonly host: string
  readonly isMutualTls: boolean
  /** Identities proved by TLS (or, on one node, by the kernel); null when none. */
  readonly sourcePrincipal: string | null
  readonly destinationPrincipal: string | null
}

/** Counters of one edge. Resolved once; counting is addition into slots. */
export interface EdgeMetrics {
  /** One finished exchange. `status` 0 when there was no response; `grpcStatus` -1 when it is not gRPC. */
  exchangeFinished(
    status: number,
    grpcStatus: number,
    flag: Flag,
    durationMs: number,
    requestBytes: number,
    responseBytes: number,
  ): void
  /** gRPC messages since the last call: of clients, of servers. */
  grpcMessages(requests: number, responses: number): void
  /** `count` connections at once; 1 when left out. */
  connectionOpened(count?: number): void
  connectionClosed(flag: Flag, count?: number): void
  /** Bytes since the last call: received from the client, sent to the client. */
  connectionBytes(received: number, sent: number): void
}

/** One line of the access log. Built only when `Recorder.isLogging`. */
export interface AccessRecord {
  readonly startedAtMs: number
  readonly durationMs: number
  readonly edge: EdgeKey
  readonly flag: Flag
  /** Reason in words when the flag is not '-'. */
  readonly details: string
  readonly downstream: string
  readonly upstream: string
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Null for plain TCP. */
  readonly http: AccessHttp | null
  /** Only of a connection that the kernel carried: its smoothed round trip, 0 when it was never measured. */
  readonly roundTripUs?: number
}

/** The HTTP part of an access log line. */
export interface AccessHttp {
  readonly method: string
  readonly path: string
  readonly authority: string
  readonly protocol: string
  readonly status: number
  /** -1 when it is not gRPC. */
  readonly grpcStatus: number
  readonly route: string
  readonly requestId: string
}

/** Which side of the proxy broke the rules. */
export type ViolationSide = 'downstream' | 'upstream'

/** Where the proxy reports to. One per worker. */
export interface Recorder {
  readonly isLogging: boolean
  /** Memoised; the number of edges is bounded, beyond it one overflow edge counts on. */
  edge(key: EdgeKey): EdgeMetrics
  log(record: AccessRecord): void
  /** A peer broke the rules of HTTP, or a limit; `reason` is one of the engines' stable words. */
  violation(side: ViolationSide, reason: string): void
}
