/** What the main thread and its data workers say to each other. Plain data; descriptors are numbers, one process. */
import type { LogLevel } from '../base/log.ts'
import type { Delta } from '../model/delta.ts'
import type { CarriedChange } from '../proxy/carried-endpoints.ts'
import type { ConnectionDescription } from '../proxy/connections.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import type { CapturedPod } from './capture.ts'
import type { TransportName } from './worker-transport.ts'

/** `workerData` of a worker thread. */
export interface WorkerStart {
  readonly index: number
  /** Workers of this agent: they share the limits that users set. */
  readonly workerCount: number
  readonly node: string
  readonly trustDomain: string
  readonly isLogging: boolean
  readonly transport: TransportName
  readonly logLevel: LogLevel
  /** Heartbeats of all workers, an Int32 each; shared. */
  readonly beats: SharedArrayBuffer
  /** The same for the kernel's programs; -1 when nothing is captured there. */
  readonly heartbeatMapFd: number
  /** In which the kernel says that a worker's thread has died; -1 likewise. */
  readonly threadMapFd: number
  /** The slot of worker 0 in both. */
  readonly slotBase: number
  /** What vital-signs.ts shares. */
  readonly vitals: SharedArrayBuffer
  /** Where a worker writes what the main thread cannot, standard error as a rule; -1 for nowhere. */
  readonly alarmFd: number
}

/** How a worker drains. */
export interface WorkerDrain {
  /** What still arrives at the listeners is served for so long; then they are closed. */
  readonly lingerMs: number
  /** How long an idle HTTP connection may wait for one more request. */
  readonly idleMs: number
}

/** Main thread to worker. */
export type ToWorker =
  | { readonly kind: 'delta'; readonly delta: Delta }
  | { readonly kind: 'credential'; readonly material: TlsMaterial }
  | { readonly kind: 'carried'; readonly changes: readonly CarriedChange[] }
  | { readonly kind: 'drop-credential'; readonly identity: string }
  /** `pod.listeners` carry only this worker's descriptors; the worker owns them from now on. */
  | { readonly kind: 'add-pod'; readonly request: number; readonly pod: CapturedPod; readonly identity: string }
  | { readonly kind: 'remove-pod'; readonly uid: string }
  | { readonly kind: 'report'; readonly request: number; readonly connectionsMax: number }
  /** Nothing new for HTTP connections that are idle for `idleMs`; listeners accept for `lingerMs` more. */
  | ({ readonly kind: 'drain' } & WorkerDrain)
  | { readonly kind: 'stop' }

/** Worker to main thread. */
export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'pod-added'; readonly request: number; readonly error: string | null }
  | { readonly kind: 'report'; readonly request: number; readonly report: WorkerReport }
  | { readonly kind: 'access-log'; readonly lines: string }
  | { readonly kind: 'log'; readonly line: string }
  | { readonly kind: 'drained' }

/** What a worker knows of itself when it is asked. */
export interface WorkerReport {
  readonly metrics: MetricsReport
  readonly connectionCount: number
  readonly connectionsByPod: ReadonlyMap<string, number>
  readonly connections: readonly ConnectionDescription[]
  readonly snapshotVersion: number
}
