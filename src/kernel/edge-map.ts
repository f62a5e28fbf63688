/**
 * Counters of what the kernel carried, by edge: source pod, destination pod, service. Two maps have this form: `edges`,
 * which the programs count up, and `edges_accounted`, in which agents keep what they have put into their metrics.
 * Nouns are those of native/bpf/include/weft/maps.h.
 */
import {
  EDGE,
  EDGE_KEY,
  OUTCOMES,
  ROUND_TRIP_BOUNDS,
  ROUND_TRIP_BUCKETS,
  ROUND_TRIP_FIRST_US,
} from './layout.generated.ts'
import { IS_LITTLE_ENDIAN, type WalkableMap } from './maps.ts'

/** The numbers that name an edge. */
export interface EdgeIds {
  readonly source: number
  readonly destination: number
  readonly service: number
}

/** What connections of an edge came to, since the maps were made. */
export class EdgeTotals {
  /** Connections that were begun: those that ended otherwise than by denial, and those that have not. */
  attempted = 0
  opened = 0
  /** Indexes are OUTCOME_ numbers. */
  readonly ended: number[] = new Array(OUTCOMES).fill(0)
  /** Bytes of closed connections, as the source counts them. */
  sent = 0
  received = 0
  /** Smoothed round trips at the end of connections: the sum in microseconds, and how many fell into which bucket. */
  roundTripUs = 0
  readonly roundTrips: number[] = new Array(ROUND_TRIP_BUCKETS).fill(0)
}

/** Upper bounds of the round trip buckets in seconds, without `+Inf`. */
export const ROUND_TRIP_BOUNDS_SECONDS: readonly number[] = Array.from(
  { length: ROUND_TRIP_BOUNDS },
  (_, i) => (ROUND_TRIP_FIRST_US * 2 ** i) / 1e6,
)

/** Either of the two maps. */
export class EdgeMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  /** Null when there never was such a connection. */
  read(source: number, destination: number, service: number): EdgeTotals | null {
    const value = this.map.lookup(encodeIds({ source, destination, service }))
    return value === null ? null : decodeTotals(value, 0)
  }

  write(ids: EdgeIds, totals: EdgeTotals): void {
    this.map.update(encodeIds(ids), encodeTotals(totals))
  }

  delete(ids: EdgeIds): boolean {
    return this.map.delete(encodeIds(ids))
  }

  /** Every edge. One that appears or goes meanwhile may be missing, or come twice. */
  all(): { readonly ids: EdgeIds; readonly totals: EdgeTotals }[] {
    const { keys, values } = this.map.readAll()
    const view = new DataView(keys.buffer, keys.byteOffset, keys.byteLength)
    const found: { ids: EdgeIds; totals: EdgeTotals }[] = []
    for (let i = 0; i * EDGE_KEY.bytes < keys.length; i++) {
      const at = i * EDGE_KEY.bytes
      const ids = {
        source: view.getUint32(at + EDGE_KEY.source, IS_LITTLE_ENDIAN),
        destination: view.getUint32(at + EDGE_KEY.destination, IS_LITTLE_ENDIAN),
        service: view.getUint32(at + EDGE_KEY.service, IS_LITTLE_ENDIAN),
      }
      found.push({ ids, totals: decodeTotals(values, i * EDGE.bytes) })
    }
    return found
  }
}

function encodeIds({ source, destination, service }: EdgeIds): Uint8Array {
  const key = new Uint8Array(EDGE_KEY.bytes)
  const view = new DataView(key.buffer)
  view.setUint32(EDGE_KEY.source, source, IS_LITTLE_ENDIAN)
  view.setUint32(EDGE_KEY.destination, destination, IS_LITTLE_ENDIAN)
  view.setUint32(EDGE_KEY.service, service, IS_LITTLE_ENDIAN)
  return key
}

function encodeTotals(totals: EdgeTotals): Uint8Array {
  const bytes = new Uint8Array(EDGE.bytes)
  const view = new DataView(bytes.buffer)
  const put = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), IS_LITTLE_ENDIAN)
  put(EDGE.attempted, totals.attempted)
  put(EDGE.opened, totals.opened)
  for (const [i, count] of totals.ended.entries()) put(EDGE.ended + 8 * i, count)
  put(EDGE.sent, totals.sent)
  put(EDGE.received, totals.received)
  put(EDGE.round_trip_us, totals.roundTripUs)
  for (const [i, count] of totals.roundTrips.entries()) put(EDGE.round_trips + 8 * i, count)
  return bytes
}

function decodeTotals(bytes: Uint8Array, start: number): EdgeTotals {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, EDGE.bytes)
  const at = (offset: number): number => readU64(view, offset)
  const totals = new EdgeTotals()
  totals.attempted = at(EDGE.attempted)
  totals.opened = at(EDGE.opened)
  for (let i = 0; i < OUTCOMES; i++) totals.ended[i] = at(EDGE.ended + 8 * i)
  totals.sent = at(EDGE.sent)
  totals.received = at(EDGE.received)
  totals.roundTripUs = at(EDGE.round_trip_us)
  for (let i = 0; i < ROUND_TRIP_BUCKETS; i++) totals.roundTrips[i] = at(EDGE.round_trips + 8 * i)
  return totals
}

/** A 64-bit number of a struct, as a double: exact below 2^53. */
export function readU64(view: DataView, offset: number): number {
  const first = view.getUint32(offset, IS_LITTLE_ENDIAN)
  const second = view.getUint32(offset + 4, IS_LITTLE_ENDIAN)
  return IS_LITTLE_ENDIAN ? second * 2 ** 32 + first : first * 2 ** 32 + second
}
