/**
 * The agent's side of what is told of carried connections: a recorder of the main thread's own, as every data worker has
 * one, and CarriedTelemetry that feeds it. Where the capture carries nothing, everything here is empty.
 */
import { systemClock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import { ROUND_TRIP_BOUNDS_SECONDS } from '../kernel/edge-map.ts'
import { AccessLog } from '../telemetry/access-log.ts'
import type { CarriedState } from '../telemetry/carried-gauges.ts'
import { NOTHING_CARRIED } from '../telemetry/carried-gauges.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import { RoundTrips } from '../telemetry/round-trips.ts'
import { WorkerRecorder } from '../telemetry/worker-recorder.ts'
import type { CarriedNames } from './carried-names.ts'
import type { CarriedSource } from './carried-source.ts'
import { type CarriedConnection, CarriedTelemetry } from './carried-telemetry.ts'

/** Number under which the registry keeps the main thread's recorder: no data worker has it. */
export const CARRIED_RECORDER = -1

export interface CarriedReportsOptions {
  /** Null where the capture carries nothing. */
  readonly kernel: CarriedSource | null
  readonly names: CarriedNames | null
  /** Where lines of the access log go; null with the log off. */
  readonly accessLog: ((lines: string) => void) | null
  readonly log: Logger
  readonly areNamesKnown: () => boolean
}

/** One per agent. */
export class CarriedReports {
  /** For the registry, which renders them. */
  readonly roundTrips = new RoundTrips(ROUND_TRIP_BOUNDS_SECONDS, systemClock.now)
  private readonly options: CarriedReportsOptions
  private readonly accessLog: AccessLog | null
  private readonly recorder: WorkerRecorder
  private telemetry: CarriedTelemetry | null = null
  /** While nothing is counted. */
  private lastState = NOTHING_CARRIED

  constructor(options: CarriedReportsOptions) {
    this.options = options
    const sink = options.accessLog
    this.accessLog = sink === null ? null : new AccessLog((lines) => sink(lines))
    this.recorder = new WorkerRecorder(this.accessLog)
  }

  /**
   * From now on this agent counts what the kernel carries. No other may do so at the same time: they would count it twice,
   * and take events from one another. Throws WeftError when the events cannot be read.
   */
  start(): void {
    const { kernel, names, log, areNamesKnown } = this.options
    if (kernel === null || names === null || this.telemetry !== null) return
    const { recorder, roundTrips } = this
    const clock = { now: systemClock.now, monotonicNs: () => Number(process.hrtime.bigint()) }
    this.telemetry = new CarriedTelemetry({ kernel, names, recorder, roundTrips, clock, log, areNamesKnown })
    this.telemetry.start()
  }

  /** Counts and logs what is left; from then on another agent may. */
  async stop(): Promise<void> {
    const { telemetry } = this
    // From here on `collect` must not read what the other counts.
    this.telemetry = null
    await telemetry?.stop()
    // A scrape may still come, and counters must not go back.
    if (telemetry !== null) this.lastState = telemetry.state()
    this.accessLog?.flush()
  }

  /** What was counted since the last call. */
  async collect(): Promise<MetricsReport> {
    await this.telemetry?.collect()
    return this.recorder.collect()
  }

  state(): CarriedState {
    return this.telemetry?.state() ?? this.lastState
  }

  /** At most `limit` open connections. */
  connections(limit: number): CarriedConnection[] {
    return this.telemetry?.connections(limit) ?? []
  }
}
