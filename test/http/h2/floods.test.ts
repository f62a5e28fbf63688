/** Abuse that is cheap for the peer: each kind ends the connection at a stated limit, and honest use never meets it. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FLAG_END_HEADERS, FRAME_CONTINUATION, FRAME_HEADERS, FRAME_PING } from '../../../src/http/h2/frame.ts'
import {
  CONTINUATION_FRAMES_MAX,
  HBONE_SERVER_SETTINGS,
  HEADER_BLOCK_FACTOR,
  IDLE_FRAMES_BURST,
  IDLE_FRAMES_PER_SECOND,
  RECENT_RESETS_MAX,
  RESETS_BURST,
} from '../../../src/http/h2/limits.ts'
import {
  CONNECT_FIELDS,
  dataFrame,
  frame,
  GET_FIELDS,
  pingFrame,
  priorityFrame,
  resetFrame,
  ScriptedH2Peer,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'

/** Sends what `make` makes until the engine gives up, at most `limit` times; returns how often. */
function flood(peer: ScriptedH2Peer, limit: number, make: (i: number) => Uint8Array[]): number {
  for (let i = 0; i < limit; i++) {
    if (peer.failed !== null) return i
    peer.send(...make(i))
  }
  return limit
}

describe('a flood is ended', () => {
  const IDLE: readonly (readonly [string, (peer: ScriptedH2Peer, i: number) => Uint8Array[]])[] = [
    ['of PING', () => [pingFrame()]],
    ['of PING ACK', () => [pingFrame('12345678', 1)]],
    ['of SETTINGS', () => [settingsFrame(4, 5)]],
    ['of PRIORITY', (_peer, i) => [priorityFrame(2 * i + 1, 0)]],
    ['of unknown frames', () => [frame(0xaa, 0, 0)]],
    ['of empty DATA', () => [dataFrame(1, '')]],
  ]
  for (const [name, make] of IDLE) {
    test(name, () => {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      peer.request(1)
      const count = flood(peer, 3 * IDLE_FRAMES_BURST, (i) => make(peer, i))
      assert.ok(count <= IDLE_FRAMES_BURST + 1, `${count}`)
      assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
      assert.equal(peer.goAwayName(), 'ENHANCE_YOUR_CALM')
    })
  }

  test('of requests that are reset before they are answered (rapid reset)', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const count = flood(peer, 3 * RESETS_BURST, (i) => [
      peer.headersFrame(2 * i + 1, CONNECT_FIELDS),
      resetFrame(2 * i + 1, 8),
    ])
    assert.ok(count <= RESETS_BURST + 1, `${count}`)
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
  })

  test('of requests that make us reset them', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const count = flood(peer, 3 * RESETS_BURST, (i) => [
      peer.headersFrame(2 * i + 1, GET_FIELDS),
      windowUpdateFrame(2 * i + 1, 0),
    ])
    assert.ok(count <= RESETS_BURST + 1, `${count}`)
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
  })

  test('of malformed requests', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const count = flood(peer, 3 * RESETS_BURST, (i) => [peer.headersFrame(2 * i + 1, [':method', 'GET'])])
    assert.ok(count <= RESETS_BURST + 1, `${count}`)
  })

  test('of requests above the number of streams', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    flood(peer, 3 * RESETS_BURST, (i) => [peer.headersFrame(2 * i + 1, CONNECT_FIELDS)])
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
    assert.equal(peer.streams.size, HBONE_SERVER_SETTINGS.peerStreamsMax)
  })

  test('of DATA for closed streams', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1)
    peer.send(resetFrame(1, 8))
    // The second one is answered with a reset of ours and then ignored; a new closed stream each time is not.
    const count = flood(peer, 3 * RESETS_BURST, (i) => {
      const id = 2 * i + 3
      const stream = peer.request(id).stream!
      stream.sendHeaders([':status', '200'], false)
      return [resetFrame(id, 8), dataFrame(id, 'x')]
    })
    assert.ok(count <= RESETS_BURST + 1, `${count}`)
  })

  test('of CONTINUATION, empty or not', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.send(frame(FRAME_HEADERS, 0, 1))
    const count = flood(peer, 1000, () => [frame(FRAME_CONTINUATION, 0, 1)])
    assert.equal(count, CONTINUATION_FRAMES_MAX + 1)
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
  })

  test('of a header block without end, before it is collected', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const max = HBONE_SERVER_SETTINGS.headerListBytesMax * HEADER_BLOCK_FACTOR
    peer.send(frame(FRAME_HEADERS, 0, 1, Buffer.alloc(max)))
    assert.equal(peer.failed, null)
    peer.send(frame(FRAME_CONTINUATION, 0, 1, Buffer.alloc(1)).subarray(0, 9))
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
  })

  test('of one HEADERS frame larger than any list may be', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const max = HBONE_SERVER_SETTINGS.headerListBytesMax * HEADER_BLOCK_FACTOR
    peer.send(frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, Buffer.alloc(max + 1)).subarray(0, 9))
    assert.equal(peer.failed?.[0], 'ENHANCE_YOUR_CALM')
  })
})

describe('honest use is not taken for a flood', () => {
  test('keepalives for a long time', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    for (let i = 0; i < 5 * IDLE_FRAMES_BURST; i++) {
      peer.nowMs += 1000 / IDLE_FRAMES_PER_SECOND
      peer.send(pingFrame())
    }
    assert.equal(peer.failed, null)
    assert.equal(peer.takeOf(FRAME_PING).length, 5 * IDLE_FRAMES_BURST)
  })

  test('tunnels that are accepted and then reset, as many as one likes', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    for (let i = 0; i < 3 * RESETS_BURST; i++) {
      const { stream } = peer.request(2 * i + 1)
      stream!.sendHeaders([':status', '200'], false)
      peer.send(resetFrame(2 * i + 1, 8))
    }
    assert.equal(peer.failed, null)
    assert.equal(peer.engine.activeCount, 0)
  })

  test('resets of our own, whose stray frames are ignored', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    for (let i = 0; i < 2 * RESETS_BURST; i++) {
      const { stream } = peer.request(2 * i + 1)
      stream!.reset(8)
      if (i < RECENT_RESETS_MAX) peer.send(dataFrame(1, 'late'))
    }
    assert.equal(peer.failed, null)
  })

  test('a large body in single bytes', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const stream = peer.request(1)
    for (let i = 0; i < 10_000; i++) peer.sendUnflushed(dataFrame(1, 'x'))
    assert.equal(stream.received.length, 10_000)
    assert.equal(peer.failed, null)
  })
})
