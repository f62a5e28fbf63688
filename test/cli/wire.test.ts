import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TCP_FIN, TCP_SYN, type TcpSegment } from '../../src/cli/demo/pcap.ts'
import { WireWatch } from '../../src/cli/demo/wire.ts'

const CLIENT = '198.18.1.10'
const SERVER = '198.18.2.11'
const OUTSIDER = '198.18.2.19'

function segment(sequence: number, payload: string, changes: Partial<TcpSegment> = {}): TcpSegment {
  return {
    source: CLIENT,
    sourcePort: 40_000,
    destination: SERVER,
    destinationPort: 15_008,
    sequence,
    flags: 16,
    payload: Buffer.from(payload, 'latin1'),
    ...changes,
  }
}

function record(type: number, length: number): string {
  return `${String.fromCharCode(type, 3, 3, length >> 8, length & 255)}${'.'.repeat(length)}`
}

function watch(...segments: readonly TcpSegment[]) {
  const wire = new WireWatch([15_008, 15_012], [OUTSIDER])
  for (const one of segments) wire.add(one)
  return wire.report()
}

const SYN = segment(99, '', { flags: TCP_SYN })

test('a stream of TLS records is clean however it is cut into segments', () => {
  const stream = record(22, 300) + record(20, 1) + record(23, 16_640) + record(21, 2)
  for (const size of [1, 3, 5, 7, 1000, 20_000]) {
    const segments = [SYN]
    for (let at = 0; at < stream.length; at += size) segments.push(segment(100 + at, stream.slice(at, at + size)))
    const report = watch(...segments)
    assert.deepEqual([report.offences, report.unjudged, report.records], [0, 0, 4], `segments of ${size}`)
    assert.equal(report.bytes, stream.length)
  }
})

test('sequence numbers wrap around', () => {
  const half = record(23, 10)
  const report = watch(segment(4_294_967_290, '', { flags: TCP_SYN }), segment(4_294_967_291, half), segment(10, half))
  assert.deepEqual([report.records, report.offences, report.unjudged], [2, 0, 0])
})

test('plaintext is an offence, with its connection and first bytes', () => {
  const report = watch(SYN, segment(100, 'GET / HTTP/1.1\r\nhost: details\r\n\r\n'))
  assert.equal(report.offences, 1)
  assert.match(report.examples[0]!, /^198\.18\.1\.10:40000 -> 198\.18\.2\.11:15008 not TLS: "GET \/ HTTP/)
})

test('plaintext after a clean record is an offence', () => {
  assert.equal(watch(SYN, segment(100, `${record(23, 5)}HTTP/1.1 200 OK`)).offences, 1)
})

test('content types, versions and lengths outside of TLS are offences', () => {
  for (const header of [
    '\x13\x03\x03\0\x01',
    '\x18\x03\x03\0\x01',
    '\x17\x02\x03\0\x01',
    '\x17\x03\x05\0\x01',
    '\x17\x03\x03\x41\x01',
  ]) {
    assert.equal(watch(SYN, segment(100, `${header}.`)).offences, 1, JSON.stringify(header))
  }
})

test('a port that the mesh does not use is an offence even under TLS', () => {
  const changes = { destinationPort: 9080 }
  const report = watch({ ...SYN, ...changes }, segment(100, record(23, 5), changes))
  assert.equal(report.offences, 1)
  assert.match(report.examples[0]!, /on a port that the mesh does not use/)
})

test('retransmitted bytes are judged once', () => {
  const bytes = record(23, 20)
  const report = watch(
    SYN,
    segment(100, bytes),
    segment(100, bytes),
    segment(110, bytes.slice(10)),
    segment(125, record(23, 1)),
  )
  assert.deepEqual([report.records, report.offences, report.unjudged], [2, 0, 0])
})

test('after a gap, and without a beginning, nothing is judged, and that is said', () => {
  assert.equal(watch(SYN, segment(200, 'whatever'), segment(208, 'whatever')).unjudged, 2)
  assert.equal(watch(segment(100, 'whatever')).unjudged, 1)
})

test('a port that is used anew is a new connection', () => {
  const end = segment(110, '', { flags: TCP_FIN | 16 })
  const again = segment(5000, '', { flags: TCP_SYN })
  const report = watch(SYN, segment(100, record(23, 5)), end, again, segment(5001, record(23, 5)))
  assert.deepEqual([report.records, report.unjudged, report.offences], [2, 0, 0])
})

test('hosts outside the mesh are counted apart', () => {
  const report = watch(segment(100, 'GET /', { source: OUTSIDER, destinationPort: 9080 }))
  assert.deepEqual([report.segments, report.offences, report.exempt], [0, 0, 1])
})
