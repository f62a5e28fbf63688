/** Writes captures as tcpdump does, for tests of what reads them. */
import { parseAddress } from '../../src/base/address.ts'

export interface Packet {
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  readonly sequence: number
  readonly flags: number
  /** One byte per character. */
  readonly payload: string
}

/** The Ethernet frame of a TCP segment; checksums are zero, which no reader of captures minds. */
export function frameOf(packet: Packet): Buffer {
  const source = Buffer.from(parseAddress(packet.source)!)
  const destination = Buffer.from(parseAddress(packet.destination)!)
  const payload = Buffer.from(packet.payload, 'latin1')
  const tcp = Buffer.alloc(20)
  tcp.writeUInt16BE(packet.sourcePort, 0)
  tcp.writeUInt16BE(packet.destinationPort, 2)
  tcp.writeUInt32BE(packet.sequence, 4)
  tcp[12] = 5 << 4
  tcp[13] = packet.flags
  const isIpv4 = source.length === 4
  const ethernet = Buffer.alloc(14)
  ethernet.writeUInt16BE(isIpv4 ? 0x0800 : 0x86dd, 12)
  const ip = Buffer.alloc(isIpv4 ? 12 : 8)
  if (isIpv4) {
    ip[0] = 0x45
    ip.writeUInt16BE(40 + payload.length, 2)
    ip[9] = 6
  } else {
    ip[0] = 0x60
    ip.writeUInt16BE(20 + payload.length, 4)
    ip[6] = 6
  }
  return Buffer.concat([ethernet, ip, source, destination, tcp, payload])
}

/** A whole capture file of Ethernet frames. */
export function captureOf(
  frames: readonly Uint8Array[],
  { isLittleEndian = true, isNanosecond = false }: { isLittleEndian?: boolean; isNanosecond?: boolean },
): Buffer {
  const header = numbers([isNanosecond ? 0xa1b23c4d : 0xa1b2c3d4, 0, 0, 0, 262_144, 1], isLittleEndian)
  const records = frames.flatMap((frame) => [numbers([1, 2, frame.length, frame.length], isLittleEndian), frame])
  return Buffer.concat([header, ...records])
}

function numbers(values: readonly number[], isLittleEndian: boolean): Buffer {
  const bytes = Buffer.alloc(values.length * 4)
  for (const [i, value] of values.entries()) {
    if (isLittleEndian) bytes.writeUInt32LE(value, i * 4)
    else bytes.writeUInt32BE(value, i * 4)
  }
  return bytes
}
