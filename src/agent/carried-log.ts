/**
 * Lines of the access log for connections that the kernel carries: the same fields as the proxy's, out of the events in the
 * ring. Counters do not depend on it.
 *
 * The ring is read by the clock, not by its file descriptor: that would wake the thread for nearly every connection,
 * and the log is written in batches anyway. Looking at an empty ring is a read of memory, no system call.
 */
import { familyOf, formatHostPort } from '../base/address.ts'
import { FLAG_NONE } from '../base/errors.ts'
import { type CarriedEvent, decodeEvent, eventCount } from '../kernel/event-ring.ts'
import {
  OUTCOME_CLOSED,
  OUTCOME_DENIED,
  OUTCOME_EXPELLED,
  OUTCOME_FAILED,
  OUTCOME_RESET_BY_DESTINATION,
} from '../kernel/layout.generated.ts'
import { denialText } from '../proxy/reply.ts'
import type { EdgeKey, Recorder } from '../telemetry/recorder.ts'
import { OUTCOME_FLAGS } from './carried-edges.ts'
import type { CarriedNames } from './carried-names.ts'
import type { CarriedSource } from './carried-source.ts'

/** The ring holds three seconds of 10,000 connections each. */
export const EVENTS_INTERVAL_MS = 200

/** Events that are read in one turn: two or three milliseconds with the log on. */
export const EVENTS_PER_TURN_MAX = 512

/** Milliseconds since the epoch, and the clock by which the kernel stamps events. */
export interface EventClock {
  now(): number
  monotonicNs(): number
}

/** The reader of the ring. */
export class CarriedLog {
  private readonly ring: ReturnType<CarriedSource['openEvents']>
  private readonly recorder: Recorder
  private readonly names: CarriedNames
  private readonly edgeKeyOf: (event: CarriedEvent) => EdgeKey
  private readonly clock: EventClock

  constructor(
    ring: ReturnType<CarriedSource['openEvents']>,
    recorder: Recorder,
    names: CarriedNames,
    edgeKeyOf: (event: CarriedEvent) => EdgeKey,
    clock: EventClock,
  ) {
    this.ring = ring
    this.recorder = recorder
    this.names = names
    this.edgeKeyOf = edgeKeyOf
    this.clock = clock
  }

  /** Logs what has come; false when there may be more than EVENTS_PER_TURN_MAX. */
  readSome(): boolean {
    const records = this.ring.read(EVENTS_PER_TURN_MAX)
    const count = eventCount(records)
    // With the log off the ring is emptied all the same: what finds it full counts as lost.
    if (this.recorder.isLogging) for (let i = 0; i < count; i++) this.log(decodeEvent(records, i))
    return count < EVENTS_PER_TURN_MAX
  }

  close(): void {
    this.ring.close()
  }

  private log(event: CarriedEvent): void {
    const edge = this.edgeKeyOf(event)
    const durationMs = Math.round(event.durationNs / 1e6)
    const endedAtMs = this.clock.now() - (this.clock.monotonicNs() - event.endedNs) / 1e6
    this.recorder.log({
      startedAtMs: Math.round(endedAtMs - durationMs),
      durationMs,
      edge,
      flag: OUTCOME_FLAGS[event.outcome] ?? FLAG_NONE,
      details: this.detailsOf(event),
      downstream: downstreamOf(event, edge),
      upstream:
        event.outcome === OUTCOME_DENIED ? '' : formatHostPort(event.destination.address, event.destination.port),
      receivedBytes: event.sent,
      sentBytes: event.received,
      http: null,
      roundTripUs: event.roundTripUs,
    })
  }

  private detailsOf(event: CarriedEvent): string {
    switch (event.outcome) {
      case OUTCOME_CLOSED:
        return ''
      case OUTCOME_DENIED:
      case OUTCOME_EXPELLED:
        return denialText({ policy: this.names.policyOf(event.policy) })
      case OUTCOME_FAILED:
        return `cannot connect to ${formatHostPort(event.destination.address, event.destination.port)}`
      case OUTCOME_RESET_BY_DESTINATION:
        return `${formatHostPort(event.destination.address, event.destination.port)} reset the connection`
      default:
        return `${formatHostPort(event.source.address, event.source.port)} reset the connection`
    }
  }
}

/** A denied connection got no address of its own: it would have had the pod's. */
function downstreamOf({ source, outcome, original }: CarriedEvent, edge: EdgeKey): string {
  if (outcome !== OUTCOME_DENIED) return formatHostPort(source.address, source.port)
  const family = familyOf(original.address)
  return edge.source?.addresses.find((address) => familyOf(address) === family) ?? ''
}
