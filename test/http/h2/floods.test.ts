/** Abuse that is cheap for the peer: each kind ends the connection at a stated limit, and honest use never meets it. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FRAME_CONTINUATION,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_SETTINGS,
  SETTING_INITIAL_WINDOW_SIZE,
} from '../../../src/http/h2/frame.ts'
import {
  APP_SERVER_SETTINGS,
  CONTINUATION_FRAMES_MAX,
  HBONE_SERVER_SETTINGS,
  HEADER_BLOCK_FACTOR,
  IDLE_FRAMES_BURST,
  IDLE_FRAMES_PER_SECOND,
  OUTPUT_BYTES_MAX,
  RECENT_RESETS_MAX,
  RESETS_BURST,
  TINY_DATA_BURST,
  TINY_UPDATES_BURST,
} from '../../../src/http/h2/limits.ts'
import {
  CONNECT_FIELDS,
  dataFrame,
  frame,
  GET_FIELDS,
  goAwayFrame,
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
  const IDLE: readonly (readonly [string, string, (peer: ScriptedH2Peer, i: number) => Uint8Array[]])[] = [
    ['of PING', 'ping_flood', () => [pingFrame()]],
    ['of PING ACK', 'ping_flood', () => [pingFrame('12345678', 1)]],
    ['of SETTINGS', 'settings_flood', () => [settingsFrame(4, 5)]],
    ['of SETTINGS ACK', 'settings_flood', () => [frame(FRAME_SETTINGS, FLAG_ACK, 0)]],
    ['of PRIORITY', 'priority_flood', (_peer, i) => [priorityFrame(2 * i + 1, 0)]],
    ['of PRIORITY_UPDATE', 'unknown_frame_flood', () => [frame(0x10, 0, 0, Buffer.from([0, 0, 0, 1, 0x75]))]],
    ['of unknown frames', 'unknown_frame_flood', () => [frame(0xaa, 0, 0)]],
    ['of empty DATA', 'empty_data_flood', () => [dataFrame(1, '')]],
    ['of GOAWAY', 'goaway_flood', () => [goAwayFrame(0, 0)]],
  ]
  for (const [name, reason, make] of IDLE) {
    test(name, () => {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      peer.request(1)
      const count = flood(peer, 3 * IDLE_FRAMES_BURST, (i) => make(peer, i))
      assert.ok(count <= IDLE_FRAMES_BURST + 2, `${count}`)
      assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', reason])
      assert.equal(peer.goAwayName(), 'ENHANCE_YOUR_CALM')
    })
  }

  test('of window updates that open next to nothing (data dribble)', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, true, settingsFrame(SETTING_INITIAL_WINDOW_SIZE, 0))
    const { stream } = peer.request(1)
    stream!.sendHeaders([':status', '200'], false)
    stream!.write(Buffer.alloc(100_000), 0, 100_000)
    const count = flood(peer, 5 * TINY_UPDATES_BURST, () => [windowUpdateFrame(1, 1)])
    assert.ok(count <= TINY_UPDATES_BURST + 4, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'window_update_flood'])
  })

  test('of window updates for streams that are over', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1).stream!.reset(8)
    const count = flood(peer, 5 * TINY_UPDATES_BURST, () => [windowUpdateFrame(1, 1_000_000)])
    assert.ok(count <= TINY_UPDATES_BURST + 4, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'window_update_flood'])
  })

  test('of resets for streams that are over', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1).stream!.reset(8)
    const count = flood(peer, 3 * IDLE_FRAMES_BURST, () => [resetFrame(1, 8)])
    assert.ok(count <= IDLE_FRAMES_BURST + 2, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'rapid_reset'])
  })

  test('of trailers for a stream that we have reset', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1).stream!.reset(8)
    const count = flood(peer, 3 * IDLE_FRAMES_BURST, () => [peer.headersFrame(1, ['a', 'b'], true)])
    assert.ok(count <= IDLE_FRAMES_BURST + 2, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'stream_error_flood'])
  })

  test('of DATA with next to nothing in it, from an application', () => {
    const peer = new ScriptedH2Peer(APP_SERVER_SETTINGS)
    peer.request(1, GET_FIELDS)
    const tiny = dataFrame(1, 'x')
    const many = Buffer.concat(new Array<Buffer>(1000).fill(tiny))
    const count = flood(peer, 2 * (TINY_DATA_BURST / 1000), () => [many])
    assert.ok(count <= TINY_DATA_BURST / 1000 + 1, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'tiny_data_flood'])
  })

  test('of requests whose answers nobody reads', () => {
    const peer = new ScriptedH2Peer(APP_SERVER_SETTINGS)
    for (let id = 1; id < 2000 && peer.failed === null; id += 2) {
      const { stream } = peer.request(id, GET_FIELDS, true)
      stream!.sendHeaders([':status', '200', 'x-long', 'x'.repeat(1000)], true)
      peer.sink.backlog += 20_000
      peer.flush()
    }
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'output_flood'])
    assert.deepEqual(peer.sink.endings, ['abort'])
    assert.ok(peer.sink.backlog <= OUTPUT_BYTES_MAX + 20_000)
  })

  test('of requests that are reset before they are answered (rapid reset)', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const count = flood(peer, 3 * RESETS_BURST, (i) => [
      peer.headersFrame(2 * i + 1, CONNECT_FIELDS),
      resetFrame(2 * i + 1, 8),
    ])
    assert.ok(count <= RESETS_BURST + 1, `${count}`)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'rapid_reset'])
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

  test('a PING for every DATA frame, as gRPC measures bandwidth', () => {
    const peer = new ScriptedH2Peer(APP_SERVER_SETTINGS, true, settingsFrame(SETTING_INITIAL_WINDOW_SIZE, 1 << 30))
    const { stream } = peer.request(1, GET_FIELDS, true)
    stream!.sendHeaders([':status', '200'], false)
    for (let i = 0; i < 5 * IDLE_FRAMES_BURST; i++) {
      stream!.write(Buffer.from('message'), 0, 7)
      peer.send(pingFrame(), windowUpdateFrame(0, 7), windowUpdateFrame(1, 7))
    }
    assert.equal(peer.failed, null)
  })

  test('a priority and the returned window with each of many requests', () => {
    const peer = new ScriptedH2Peer(APP_SERVER_SETTINGS)
    for (let id = 1; id < 10 * IDLE_FRAMES_BURST; id += 2) {
      const { stream } = peer.request(id, GET_FIELDS, true)
      stream!.sendHeaders([':status', '200'], false)
      stream!.write(Buffer.from('ok'), 0, 2)
      stream!.end()
      peer.send(priorityFrame(id + 2, 0), windowUpdateFrame(0, 2), windowUpdateFrame(id, 2))
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
