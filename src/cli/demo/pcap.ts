/**
 * Reads a capture as tcpdump writes it (`-w -`): the classic pcap format, Ethernet frames, down to TCP segments.
 * Bytes come in pieces of any size. What is no TCP over IPv4 or IPv6 is counted and left out.
 */
import { formatAddress } from '../../base/address.ts'
import { WeftError } from '../../base/errors.ts'

export const TCP_FIN = 1
export const TCP_SYN = 2
export const TCP_RST = 4

export interface TcpSegment {
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  readonly sequence: number
  /** Bits TCP_FIN, TCP_SYN, TCP_RST and others as on the wire. */
  readonly flags: number
  /** A view of the reader's buffer: valid until the callback returns. */
  readonly payload: Uint8Array
}

const FILE_HEADER_BYTES = 24
const RECORD_HEADER_BYTES = 16
const ETHERNET_HEADER_BYTES = 14
const LINK_ETHERNET = 1
/** Microseconds and nanoseconds; the byte order of the machine that wrote the file. */
const MAGIC_NUMBERS = [0xa1b2c3d4, 0xa1b23c4d]
/** tcpdump's own largest snapshot length. A longer record means that the stream is broken. */
const RECORD_BYTES_MAX = 262_144
const PROTOCOL_TCP = 6

export class PcapReader {
  /** Packets of any kind so far. */
  packets = 0
  private readonly onSegment: (segment: TcpSegment) => void
  private pending: Buffer = Buffer.alloc(0)
  private isLittleEndian = true
  private hasHeader = false

  constructor(onSegment: (segment: TcpSegment) => void) {
    this.onSegment = onSegment
  }

  /** Takes the next piece. Throws WeftError WEFT_PROTOCOL when it is no capture of Ethernet frames. */
  push(bytes: Uint8Array): void {
    let buffer = this.pending.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.pending, bytes])
    if (!this.hasHeader) {
      if (buffer.length < FILE_HEADER_BYTES) {
        this.pending = buffer
        return
      }
      this.readHeader(buffer)
      buffer = buffer.subarray(FILE_HEADER_BYTES)
    }
    let offset = 0
    while (buffer.length - offset >= RECORD_HEADER_BYTES) {
      const length = this.uint32(buffer, offset + 8)
      if (length > RECORD_BYTES_MAX) throw broken(`a packet of ${length} bytes`)
      const start = offset + RECORD_HEADER_BYTES
      if (buffer.length - start < length) break
      this.packets++
      const segment = parseFrame(buffer.subarray(start, start + length))
      if (segment !== null) this.onSegment(segment)
      offset = start + length
    }
    this.pending = buffer.subarray(offset)
  }

  private readHeader(buffer: Buffer): void {
    if (MAGIC_NUMBERS.includes(buffer.readUInt32LE(0))) this.isLittleEndian = true
    else if (MAGIC_NUMBERS.includes(buffer.readUInt32BE(0))) this.isLittleEndian = false
    else throw broken('another magic number')
    const link = this.uint32(buffer, 20) & 0xffff
    if (link !== LINK_ETHERNET) throw broken(`link type ${link} in place of Ethernet`)
    this.hasHeader = true
  }

  private uint32(buffer: Buffer, offset: number): number {
    return this.isLittleEndian ? buffer.readUInt32LE(offset) : buffer.readUInt32BE(offset)
  }
}

function broken(what: string): WeftError {
  return new WeftError('WEFT_PROTOCOL', `the packet capture is not readable: ${what}`)
}

/** The TCP segment in an Ethernet frame; null when there is none, or not all of its headers. */
export function parseFrame(frame: Buffer): TcpSegment | null {
  if (frame.length < ETHERNET_HEADER_BYTES) return null
  const packet = frame.subarray(ETHERNET_HEADER_BYTES)
  switch (frame.readUInt16BE(12)) {
    case 0x0800:
      return parseIpv4(packet)
    case 0x86dd:
      return parseIpv6(packet)
    default:
      return null
  }
}

function parseIpv4(packet: Buffer): TcpSegment | null {
  if (packet.length < 20 || packet[0]! >>> 4 !== 4 || packet[9] !== PROTOCOL_TCP) return null
  const headerBytes = (packet[0]! & 15) * 4
  const totalBytes = packet.readUInt16BE(2)
  // Later fragments have no TCP header. Nobody sends fragments of TCP on purpose.
  if ((packet.readUInt16BE(6) & 0x1fff) !== 0) return null
  const end = totalBytes === 0 ? packet.length : Math.min(totalBytes, packet.length)
  if (headerBytes < 20 || headerBytes > end) return null
  return parseTcp(packet.subarray(headerBytes, end), packet.subarray(12, 16), packet.subarray(16, 20))
}

function parseIpv6(packet: Buffer): TcpSegment | null {
  if (packet.length < 40 || packet[0]! >>> 4 !== 6 || packet[6] !== PROTOCOL_TCP) return null
  const payloadBytes = packet.readUInt16BE(4)
  const end = payloadBytes === 0 ? packet.length : Math.min(40 + payloadBytes, packet.length)
  return parseTcp(packet.subarray(40, end), packet.subarray(8, 24), packet.subarray(24, 40))
}

function parseTcp(tcp: Buffer, source: Uint8Array, destination: Uint8Array): TcpSegment | null {
  if (tcp.length < 20) return null
  const headerBytes = (tcp[12]! >>> 4) * 4
  if (headerBytes < 20 || headerBytes > tcp.length) return null
  return {
    source: formatAddress(source),
    sourcePort: tcp.readUInt16BE(0),
    destination: formatAddress(destination),
    destinationPort: tcp.readUInt16BE(2),
    sequence: tcp.readUInt32BE(4),
    flags: tcp[13]!,
    payload: tcp.subarray(headerBytes),
  }
}
