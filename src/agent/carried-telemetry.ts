/**
 * Metrics, access log and live table of the connections that the kernel carries. Runs on the main thread, in short turns.
 *
 *      edges (map)    --- every 5 s and at a scrape --->  CarriedEdges  --->  recorder  --->  registry
 *      open sockets   --- pod by pod ---------------------^
 *      events (ring)  --- every 200 ms ---------------->  CarriedLog    --->  access log
 *
 * One agent at a time: who hands over to another calls `stop`, which puts everything into the metrics that there is.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { formatHostPort } from '../base/address.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { CarriedSocket } from '../kernel/carried-sockets.ts'
import type { CarriedState } from '../telemetry/carried-gauges.ts'
import type { Recorder } from '../telemetry/recorder.ts'
import type { RoundTrips } from '../telemetry/round-trips.ts'
import { CarriedEdges, EdgeReading } from './carried-edges.ts'
import { CarriedLog, EVENTS_INTERVAL_MS, type EventClock } from './carried-log.ts'
import type { CarriedNames } from './carried-names.ts'
import type { CarriedSource } from './carried-source.ts'

/** Between two looks at counters and sockets. As often as data workers report bytes of open connections. */
export const ACCOUNT_INTERVAL_MS = 5_000

/**
 * Events wait for the names of pods after a start, until all are captured, but no longer than this: a line with unknown
 * names is better than none.
 */
export const NAMES_WAIT_MS = 30_000

/**
 * Looking at open sockets takes at most one part in so many of the main thread's time: some five microseconds each, which
 * is 0.15 s for 30,000 of one pod. Their bytes then come later, or with their end.
 */
export const SOCKETS_SHARE_OF_TIME = 20

export interface CarriedTelemetryOptions {
  readonly kernel: CarriedSource
  readonly names: CarriedNames
  readonly recorder: Recorder
  readonly roundTrips: RoundTrips
  readonly clock: EventClock
  readonly log: Logger
  /** True once the pods of this node are captured, as far as they can be. */
  readonly areNamesKnown: () => boolean
}

/** One carried connection as /connections shows it; the fields of the proxy's own, and what only the kernel knows. */
export interface CarriedConnection {
  readonly carriedBy: 'kernel'
  readonly direction: 'outbound'
  readonly protocol: 'tcp'
  readonly pod: string
  readonly downstream: string
  readonly originalDestination: string
  readonly upstream: string
  readonly peer: string
  readonly ageMs: number
  readonly receivedBytes: number
  readonly sentBytes: number
  readonly roundTripUs: number
}

/** Everything that is told of carried connections. */
export class CarriedTelemetry {
  private readonly options: CarriedTelemetryOptions
  private readonly edges: CarriedEdges
  private readonly events: CarriedLog
  private readonly timers: NodeJS.Timeout[] = []
  private readonly startedAtMs: number
  private reading = new EdgeReading([])
  private accounting: Promise<void> | null = null
  /** On the kernel's clock: sockets are not looked at before. */
  private nextLookNs = 0
  private isReadingEvents = false
  private isStopped = false
  /** Said once: the next one would be five seconds later. */
  private hasWarned = false

  /** Throws WeftError when the events cannot be read. */
  constructor(options: CarriedTelemetryOptions) {
    this.options = options
    const { kernel, names, recorder, roundTrips, clock } = options
    this.startedAtMs = clock.now()
    this.edges = new CarriedEdges(kernel, names, recorder, roundTrips, () => clock.now())
    this.events = new CarriedLog(
      kernel.openEvents(),
      recorder,
      names,
      ({ sourcePod, destinationPod, service }) =>
        this.edges.edgeKeyOf({ source: sourcePod, destination: destinationPod, service }),
      clock,
    )
  }

  start(): void {
    this.timers.push(
      // Neither of them rejects.
      setInterval(() => void this.readEvents(), EVENTS_INTERVAL_MS).unref(),
      setInterval(() => void this.sample(), ACCOUNT_INTERVAL_MS).unref(),
    )
  }

  /** Brings the recorder up to date; for a scrape. Never rejects. */
  collect(): Promise<void> {
    return this.account(false)
  }

  /** The same, and measures the round trips of open connections once more. Never rejects. */
  sample(): Promise<void> {
    return this.account(true)
  }

  state(): CarriedState {
    const open = new Map<string, number>()
    for (const [pod, count] of this.reading.openCounts) {
      const workload = this.options.names.podOf(pod)
      const name = workload === null ? 'unknown' : `${workload.namespace}/${workload.name}`
      open.set(name, (open.get(name) ?? 0) + count)
    }
    return { ...this.options.kernel.counters(), open }
  }

  /** At most `limit` open connections. */
  connections(limit: number): CarriedConnection[] {
    const found: CarriedConnection[] = []
    const reading = this.edges.read()
    for (const pod of reading.openSources) {
      for (const socket of this.socketsOf(pod)) {
        if (found.length >= limit) return found
        found.push(this.describe(socket))
      }
    }
    return found
  }

  /** Counts and logs all that there is, and reads no more. Calling it again does nothing. */
  async stop(): Promise<void> {
    if (this.isStopped) return
    for (const timer of this.timers) clearInterval(timer)
    await this.account(false)
    this.isStopped = true
    while (!this.events.readSome()) await nextTurn()
    this.events.close()
  }

  /** Logs what the ring has. Never rejects. */
  async readEvents(): Promise<void> {
    const { clock, areNamesKnown } = this.options
    if (this.isReadingEvents || this.isStopped) return
    if (!areNamesKnown() && clock.now() - this.startedAtMs < NAMES_WAIT_MS) return
    this.isReadingEvents = true
    try {
      while (!this.isStopped && !this.events.readSome()) await nextTurn()
    } catch (error) {
      this.warn('events of carried connections cannot be read', error)
    } finally {
      this.isReadingEvents = false
    }
  }

  /** Two at a time would mix their readings: who comes second waits for the first. */
  private account(isSampling: boolean): Promise<void> {
    this.accounting ??= this.accountNow(isSampling)
      .catch((error: unknown) => this.warn('what the kernel carries cannot be counted', error))
      .finally(() => {
        this.accounting = null
      })
    return this.accounting
  }

  private async accountNow(isSampling: boolean): Promise<void> {
    if (this.isStopped) return
    const reading = this.edges.read()
    this.reading = reading
    const open = await this.openSockets(reading.openSources)
    this.edges.account(reading, open)
    if (isSampling) this.edges.sampleRoundTrips(open)
  }

  /** None when it is not time yet: the counters wait for what they had been told of open connections. */
  private async openSockets(pods: ReadonlySet<number>): Promise<readonly CarriedSocket[]> {
    const { clock } = this.options
    const open: CarriedSocket[] = []
    if (clock.monotonicNs() < this.nextLookNs) return open
    let spentNs = 0
    for (const pod of pods) {
      const startedNs = clock.monotonicNs()
      for (const socket of this.socketsOf(pod)) open.push(socket)
      spentNs += clock.monotonicNs() - startedNs
      // A pod with thousands of connections takes milliseconds: other work comes in between.
      await nextTurn()
    }
    this.nextLookNs = clock.monotonicNs() + spentNs * (SOCKETS_SHARE_OF_TIME - 1)
    return open
  }

  private socketsOf(pod: number): readonly CarriedSocket[] {
    try {
      return this.options.kernel.socketsOf(pod)
    } catch (error) {
      this.warn('open connections that the kernel carries are counted at their end only', error)
      return []
    }
  }

  private warn(what: string, error: unknown): void {
    if (this.hasWarned) return
    this.hasWarned = true
    this.options.log.warn(what, { error: describeError(error) })
  }

  private describe(socket: CarriedSocket): CarriedConnection {
    const { source, destination, original } = socket
    const edge = this.edges.edgeKeyOf({
      source: socket.sourcePod,
      destination: socket.destinationPod,
      service: socket.service,
    })
    return {
      carriedBy: 'kernel',
      direction: 'outbound',
      protocol: 'tcp',
      pod: edge.source?.uid ?? '',
      downstream: formatHostPort(source.address, source.port),
      originalDestination: formatHostPort(original.address, original.port),
      upstream: formatHostPort(destination.address, destination.port),
      peer: edge.destinationPrincipal ?? '',
      ageMs: Math.round((this.options.clock.monotonicNs() - socket.openedNs) / 1e6),
      receivedBytes: socket.sent,
      sentBytes: socket.received,
      roundTripUs: socket.roundTripUs,
    }
  }
}
