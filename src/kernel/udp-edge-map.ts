/**
 * UDP of the pods of this node, by pod, direction and the address at the other end. Two maps have this form: `udp_edges`,
 * which the programs count up, and `udp_accounted`, in which agents keep what they have put into their metrics. Nouns are
 * those of native/bpf/include/weft/meter.h.
 */
import { formatAddress } from '../base/address.ts'
import { readU64 } from './edge-map.ts'
import { ADDRESS, UDP_EDGE, UDP_EDGE_KEY, UDP_RECEIVED, UDP_SENT } from './layout.generated.ts'
import { type BpfMap, encodeAddress, IS_LITTLE_ENDIAN, type WalkableMap } from './maps.ts'

/** The maps of meter.h. */
export const UDP_MAPS = ['udp_edges', 'udp_accounted', 'udp_unmetered'] as const

/** What names an edge. */
export interface UdpEdgeKey {
  /** The agent's number of the pod. */
  readonly pod: number
  /** The pod sent; else it received. */
  readonly isSent: boolean
  /** Canonical. */
  readonly remote: string
}

/** What passed, since the maps were made. Bytes without headers. */
export interface UdpTotals {
  readonly bytes: number
  readonly packets: number
}

/** An entry of either map, as it was read. Its parts are decoded when they are asked for: most entries never change. */
export class UdpEdge {
  /** The same for equal keys. */
  readonly id: string
  private readonly keyBytes: Uint8Array
  private readonly valueBytes: Uint8Array

  constructor(keyBytes: Uint8Array, valueBytes: Uint8Array) {
    this.keyBytes = keyBytes
    this.valueBytes = valueBytes
    this.id = Buffer.from(keyBytes.buffer, keyBytes.byteOffset, keyBytes.length).toString('latin1')
  }

  get pod(): number {
    return this.word(UDP_EDGE_KEY.pod)
  }

  get key(): UdpEdgeKey {
    const { remote } = UDP_EDGE_KEY
    return {
      pod: this.pod,
      isSent: this.word(UDP_EDGE_KEY.direction) === UDP_SENT,
      remote: formatAddress(this.keyBytes.subarray(remote, remote + ADDRESS.bytes)),
    }
  }

  get totals(): UdpTotals {
    return decodeTotals(this.valueBytes, 0)
  }

  private word(offset: number): number {
    const { buffer, byteOffset, length } = this.keyBytes
    return new DataView(buffer, byteOffset, length).getUint32(offset, IS_LITTLE_ENDIAN)
  }
}

/** Either of the two maps. */
export class UdpEdgeMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  read(key: UdpEdgeKey): UdpTotals | null {
    const value = this.map.lookup(encodeKey(key))
    return value === null ? null : decodeTotals(value, 0)
  }

  write(key: UdpEdgeKey, totals: UdpTotals): void {
    const value = new Uint8Array(UDP_EDGE.bytes)
    const view = new DataView(value.buffer)
    view.setBigUint64(UDP_EDGE.payload, BigInt(totals.bytes), IS_LITTLE_ENDIAN)
    view.setBigUint64(UDP_EDGE.packets, BigInt(totals.packets), IS_LITTLE_ENDIAN)
    this.map.update(encodeKey(key), value)
  }

  delete(key: UdpEdgeKey): boolean {
    return this.map.delete(encodeKey(key))
  }

  /** Every edge. One that appears or goes meanwhile may be missing, or come twice. */
  all(): UdpEdge[] {
    const { keys, values } = this.map.readAll()
    const found: UdpEdge[] = []
    const [keyBytes, valueBytes] = [UDP_EDGE_KEY.bytes, UDP_EDGE.bytes]
    for (let i = 0; i * keyBytes < keys.length; i++) {
      const key = keys.subarray(i * keyBytes, (i + 1) * keyBytes)
      found.push(new UdpEdge(key, values.subarray(i * valueBytes, (i + 1) * valueBytes)))
    }
    return found
  }
}

/** Of a per-CPU map: what found no room in `udp_edges`. */
export function readUnmetered(map: BpfMap): UdpTotals {
  const perCpu = map.lookup(new Uint8Array(4))
  let [bytes, packets] = [0, 0]
  for (let at = 0; perCpu !== null && at < perCpu.length; at += UDP_EDGE.bytes) {
    const totals = decodeTotals(perCpu, at)
    bytes += totals.bytes
    packets += totals.packets
  }
  return { bytes, packets }
}

function encodeKey({ pod, isSent, remote }: UdpEdgeKey): Uint8Array {
  const key = new Uint8Array(UDP_EDGE_KEY.bytes)
  const view = new DataView(key.buffer)
  key.set(encodeAddress(remote), UDP_EDGE_KEY.remote)
  view.setUint32(UDP_EDGE_KEY.pod, pod, IS_LITTLE_ENDIAN)
  view.setUint32(UDP_EDGE_KEY.direction, isSent ? UDP_SENT : UDP_RECEIVED, IS_LITTLE_ENDIAN)
  return key
}

function decodeTotals(values: Uint8Array, start: number): UdpTotals {
  const view = new DataView(values.buffer, values.byteOffset + start, UDP_EDGE.bytes)
  return { bytes: readU64(view, UDP_EDGE.payload), packets: readU64(view, UDP_EDGE.packets) }
}
