import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import { decodeSockets } from '../../src/kernel/carried-sockets.ts'
import { FLOW } from '../../src/kernel/layout.generated.ts'
import { encodeAddress, IS_LITTLE_ENDIAN } from '../../src/kernel/maps.ts'
import { type DumpedSocket, decodeDump } from '../../src/kernel/socket-dump.ts'

const TCP_STATES = { ESTABLISHED: 1, FIN_WAIT1: 4, FIN_WAIT2: 5, CLOSE_WAIT: 8, LAST_ACK: 9, CLOSING: 11 }

function attribute(type: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + ((value.length + 3) & ~3))
  const view = new DataView(bytes.buffer)
  view.setUint16(0, 4 + value.length, IS_LITTLE_ENDIAN)
  view.setUint16(2, type, IS_LITTLE_ENDIAN)
  bytes.set(value, 4)
  return bytes
}

/** One message of sock_diag: 1,000 bytes acknowledged, 2,000 received. */
function message(state: number, isOpen: boolean, isCarried = true): Uint8Array {
  const flow = new Uint8Array(FLOW.bytes)
  const flowView = new DataView(flow.buffer)
  flow.set(encodeAddress('10.96.0.1'), FLOW.original)
  flow.set(encodeAddress('10.0.0.2'), FLOW.destination)
  flowView.setUint32(FLOW.source_pod, 1, IS_LITTLE_ENDIAN)
  flowView.setUint32(FLOW.service, 3, IS_LITTLE_ENDIAN)
  flowView.setUint32(FLOW.is_open, isOpen ? 1 : 0, IS_LITTLE_ENDIAN)
  const info = new Uint8Array(232)
  const infoView = new DataView(info.buffer)
  infoView.setUint32(68, 42, IS_LITTLE_ENDIAN)
  infoView.setBigUint64(120, 1_000n, IS_LITTLE_ENDIAN)
  infoView.setBigUint64(128, 2_000n, IS_LITTLE_ENDIAN)
  // An attribute of an odd length first: the next begins at a multiple of four.
  const attributes = [attribute(8, Uint8Array.of(1)), attribute(2, info)]
  if (isCarried) attributes.push(attribute(20 | 0x8000, attribute(1 | 0x8000, attribute(3, flow))))
  const diag = new Uint8Array(72)
  diag[0] = FAMILY_IPV4
  diag[1] = state
  diag.set([0x9c, 0x40], 4)
  diag.set([10, 0, 0, 1], 8)
  const bytes = Buffer.concat([new Uint8Array(16), diag, ...attributes])
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, bytes.length, IS_LITTLE_ENDIAN)
  return bytes
}

function decode(answer: Uint8Array): ReturnType<typeof decodeSockets> {
  const found: DumpedSocket[] = []
  decodeDump(answer, FAMILY_IPV4, found)
  return decodeSockets(found)
}

test('bytes are those of the apps: SYN and FINs are left out, as far as they have come', () => {
  const bytes = (state: number): number[] => {
    const [socket] = decode(message(state, true))
    return [socket!.sent, socket!.received]
  }
  assert.deepEqual(bytes(TCP_STATES.ESTABLISHED), [999, 2_000])
  assert.deepEqual(bytes(TCP_STATES.FIN_WAIT1), [999, 2_000])
  assert.deepEqual(bytes(TCP_STATES.FIN_WAIT2), [998, 2_000])
  assert.deepEqual(bytes(TCP_STATES.CLOSE_WAIT), [999, 1_999])
  assert.deepEqual(bytes(TCP_STATES.LAST_ACK), [999, 1_999])
  assert.deepEqual(bytes(TCP_STATES.CLOSING), [999, 1_999])
})

test('sockets of other connections, and those that are being connected, are left out', () => {
  const answer = Buffer.concat([
    message(TCP_STATES.ESTABLISHED, true, false),
    message(2, false),
    message(TCP_STATES.ESTABLISHED, true),
  ])
  const [socket, ...others] = decode(answer)
  assert.deepEqual(others, [])
  assert.deepEqual(socket!.source, { address: '10.0.0.1', port: 40_000 })
  assert.equal(socket!.original.address, '10.96.0.1')
  assert.deepEqual([socket!.sourcePod, socket!.service, socket!.roundTripUs], [1, 3, 42])
})

test('an answer that is cut off at any byte is read as far as it goes, never beyond', () => {
  const whole = Buffer.concat([message(TCP_STATES.ESTABLISHED, true), message(TCP_STATES.ESTABLISHED, true)])
  for (let cut = 0; cut < whole.length; cut++) {
    const count = decode(whole.subarray(0, cut)).length
    assert.equal(count, cut < whole.length / 2 ? 0 : 1, `cut at ${cut}`)
  }
  assert.equal(decode(whole).length, 2)
})

test('attributes with impossible lengths are not read', () => {
  const answer = message(TCP_STATES.ESTABLISHED, true)
  const view = new DataView(answer.buffer, answer.byteOffset)
  for (const length of [0, 3, 0xffff]) {
    view.setUint16(16 + 72, length, IS_LITTLE_ENDIAN)
    assert.deepEqual(decode(answer), [])
  }
})
