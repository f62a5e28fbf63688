import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PcapReader, TCP_SYN, type TcpSegment } from '../../src/cli/demo/pcap.ts'
import { captureOf, frameOf, type Packet } from '../support/pcap-writer.ts'

const PACKETS: readonly Packet[] = [
  {
    source: '198.18.1.10',
    sourcePort: 40_000,
    destination: '198.18.2.11',
    destinationPort: 15_008,
    sequence: 7,
    flags: TCP_SYN,
    payload: '',
  },
  {
    source: '198.18.1.10',
    sourcePort: 40_000,
    destination: '198.18.2.11',
    destinationPort: 15_008,
    sequence: 8,
    flags: 24,
    payload: 'hello',
  },
  {
    source: 'fd77:1::10',
    sourcePort: 50_000,
    destination: 'fd77:2::11',
    destinationPort: 15_008,
    sequence: 4_294_967_295,
    flags: 16,
    payload: 'x',
  },
]

/** What a reader makes of a capture that comes in these pieces. */
function read(...pieces: readonly Buffer[]): { segments: Packet[]; packets: number } {
  const segments: Packet[] = []
  const reader = new PcapReader((segment: TcpSegment) => {
    segments.push({ ...segment, payload: Buffer.from(segment.payload).toString('latin1') })
  })
  for (const piece of pieces) reader.push(piece)
  return { segments, packets: reader.packets }
}

test('segments over IPv4 and IPv6 come out as they went in, whatever the byte order and clock of the file', () => {
  for (const isLittleEndian of [true, false]) {
    for (const isNanosecond of [true, false]) {
      const capture = captureOf(PACKETS.map(frameOf), { isLittleEndian, isNanosecond })
      assert.deepEqual(read(capture), { segments: PACKETS, packets: 3 })
    }
  }
})

test('a capture cut at any byte is read the same', () => {
  const capture = captureOf(PACKETS.map(frameOf), {})
  for (let cut = 0; cut <= capture.length; cut++) {
    assert.deepEqual(read(capture.subarray(0, cut), capture.subarray(cut)).segments, PACKETS, `cut at ${cut}`)
  }
})

test('padding after the IP packet is no payload', () => {
  const frame = Buffer.concat([frameOf(PACKETS[0]!), Buffer.alloc(10)])
  assert.equal(read(captureOf([frame], {})).segments[0]!.payload, '')
})

test('what is no TCP, and what is cut short, is counted and left out', () => {
  const udp = frameOf(PACKETS[1]!)
  udp[14 + 9] = 17
  const arp = Buffer.from(udp)
  arp.writeUInt16BE(0x0806, 12)
  const fragment = frameOf(PACKETS[1]!)
  fragment.writeUInt16BE(1, 14 + 6)
  const frames = [udp, arp, fragment, frameOf(PACKETS[1]!).subarray(0, 40), Buffer.alloc(3), Buffer.alloc(0)]
  assert.deepEqual(read(captureOf(frames, {})), { segments: [], packets: frames.length })
})

test('every shortened or damaged frame is survived', () => {
  for (const packet of PACKETS) {
    const frame = frameOf(packet)
    for (let length = 0; length < frame.length; length++) {
      assert.equal(read(captureOf([frame.subarray(0, length)], {})).packets, 1)
    }
    for (let at = 0; at < frame.length; at++) {
      for (const value of [0, 15, 240, 255]) {
        const damaged = Buffer.from(frame)
        damaged[at] = value
        assert.equal(read(captureOf([damaged], {})).packets, 1)
      }
    }
  }
})

test('a stream that is no capture of Ethernet frames is refused with the reason', () => {
  const other = captureOf([], {})
  other.writeUInt32LE(113, 20)
  assert.throws(() => read(other), /link type 113 in place of Ethernet/)
  assert.throws(() => read(Buffer.alloc(24)), /another magic number/)
  const huge = captureOf([Buffer.alloc(4)], {})
  huge.writeUInt32LE(300_000, 24 + 8)
  assert.throws(() => read(huge), /a packet of 300000 bytes/)
})
