/**
 * Events of connections that the kernel carries: one when a connection has ended or was denied, for the access log. The ring
 * keeps them while no agent runs; what finds it full is counted as lost by the programs.
 */
import { formatAddress } from '../base/address.ts'
import { type Addon, kernelError, type Ring } from './addon.ts'
import { readU64 } from './edge-map.ts'
import { ADDRESS, EVENT, FLOW_KEY } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'

/** One end of a connection. */
export interface End {
  /** Canonical. */
  readonly address: string
  /** 0 when the connection got none, because it was denied. */
  readonly port: number
}

/** A connection that ended or was denied. */
export interface CarriedEvent {
  /** Of a denied connection, the unspecified address. */
  readonly source: End
  readonly destination: End
  /** What the app had dialled. */
  readonly original: End
  readonly sourcePod: number
  readonly destinationPod: number
  readonly service: number
  /** An OUTCOME_ number. */
  readonly outcome: number
  /** Number of the policy that denied it; 0 when none allowed it, or when it was not denied. */
  readonly policy: number
  /** CLOCK_MONOTONIC. */
  readonly endedNs: number
  readonly durationNs: number
  /** Of the app at the source: to the destination, and from it. */
  readonly sent: number
  readonly received: number
  /** Smoothed; 0 when it was never measured. */
  readonly roundTripUs: number
}

/** The one reader of the events. */
export class EventRing {
  private readonly addon: Addon
  private readonly ring: Ring
  private isClosed = false

  private constructor(addon: Addon, ring: Ring) {
    this.addon = addon
    this.ring = ring
  }

  /** Throws WeftError WEFT_BPF. Goes on where the last reader ended, in whatever process it was. */
  static open(addon: Addon, mapFd: number): EventRing {
    try {
      return new EventRing(addon, addon.openRing(mapFd, EVENT.bytes))
    } catch (error) {
      throw kernelError('WEFT_BPF', 'the events of carried connections cannot be read', error)
    }
  }

  /** The records of at most `max` events, to be decoded by `decodeEvent`. Never waits. */
  read(max: number): Uint8Array {
    return this.addon.readRing(this.ring, max)
  }

  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.addon.closeRing(this.ring)
  }
}

/** How many events `records` are. */
export function eventCount(records: Uint8Array): number {
  return records.length / EVENT.bytes
}

/** The event number `index` of `records`. */
export function decodeEvent(records: Uint8Array, index: number): CarriedEvent {
  const bytes = records.subarray(index * EVENT.bytes, (index + 1) * EVENT.bytes)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const u32 = (offset: number): number => view.getUint32(offset, IS_LITTLE_ENDIAN)
  return {
    source: {
      address: decodeAddress(bytes, EVENT.flow + FLOW_KEY.source),
      port: u32(EVENT.flow + FLOW_KEY.source_port),
    },
    destination: {
      address: decodeAddress(bytes, EVENT.flow + FLOW_KEY.destination),
      port: u32(EVENT.flow + FLOW_KEY.destination_port),
    },
    original: { address: decodeAddress(bytes, EVENT.original), port: u32(EVENT.original_port) },
    sourcePod: u32(EVENT.source_pod),
    destinationPod: u32(EVENT.destination_pod),
    service: u32(EVENT.service),
    outcome: u32(EVENT.outcome),
    policy: u32(EVENT.policy),
    endedNs: readU64(view, EVENT.ended_ns),
    durationNs: readU64(view, EVENT.duration_ns),
    sent: readU64(view, EVENT.sent),
    received: readU64(view, EVENT.received),
    roundTripUs: u32(EVENT.round_trip_us),
  }
}

/** The canonical text of a `struct address`. */
export function decodeAddress(bytes: Uint8Array, offset: number): string {
  return formatAddress(bytes.subarray(offset, offset + ADDRESS.bytes))
}
