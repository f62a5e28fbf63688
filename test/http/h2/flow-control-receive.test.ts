/** What is received: windows given back, back-pressure, and what a crowd of stalled streams may hold. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FRAME_RST_STREAM, FRAME_SETTINGS } from '../../../src/http/h2/frame.ts'
import {
  HBONE_CLIENT_SETTINGS,
  HBONE_SERVER_SETTINGS,
  HELD_BYTES_FREE,
  HELD_BYTES_NARROW,
} from '../../../src/http/h2/limits.ts'
import { increments, tunnels, WINDOW_DEFAULT } from '../../support/h2-tunnels.ts'
import {
  CONNECT_FIELDS,
  dataFrame,
  type Frame,
  frame,
  resetFrame,
  ScriptedH2Peer,
  StreamRecorder,
} from '../../support/scripted-h2-peer.ts'

const STREAM_WINDOW = 4 << 20
const NARROW_WINDOW = 65_536
const CONNECTION_WINDOW = 16 << 20
const MIB = 1 << 20

describe('what is received', () => {
  test('is announced as agreed: windows, frame size, header list size', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, false)
    peer.flush()
    const [settings, update] = peer.take()
    const pairs = new Map<number, number>()
    for (let at = 0; at < settings!.payload.length; at += 6) {
      pairs.set(settings!.payload.readUInt16BE(at), settings!.payload.readUInt32BE(at + 2))
    }
    assert.deepEqual(
      pairs,
      new Map([
        [4, STREAM_WINDOW],
        [5, MIB],
        [6, 65_536],
        [3, 200],
      ]),
    )
    assert.equal(update?.payload.readUInt32BE(0), CONNECTION_WINDOW - WINDOW_DEFAULT)
    const client = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS, false)
    client.flush()
    const payload = client.take()[0]!.payload
    assert.ok(payload.includes(Buffer.from([0, 2, 0, 0, 0, 0])), 'push is disabled')
  })

  test('gives the window back only after it was passed on', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    for (let i = 0; i < 3; i++) peer.send(dataFrame(1, Buffer.alloc(MIB, 97 + i)))
    assert.equal(recorder.received.length, 0, 'a paused receiver gets nothing')
    assert.equal(increments(peer.take()).get(1), undefined)
    recorder.stream!.resumeReading()
    assert.equal(recorder.received.length, 0, 'nothing comes inside the call')
    peer.flush()
    assert.equal(recorder.received.length, 3 * MIB)
    assert.equal(recorder.text.slice(MIB - 1, MIB + 1), 'ab')
    assert.equal(increments(peer.take()).get(1), 3 * MIB)
  })

  test('is held back when the receiver pauses in the middle of it, and the window with it', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.whenData = (stream) => stream.pauseReading()
    peer.send(dataFrame(1, Buffer.alloc(MIB)))
    peer.send(dataFrame(1, Buffer.alloc(MIB)))
    assert.equal(recorder.received.length, MIB)
    assert.equal(increments(peer.take()).get(1), undefined)
    recorder.whenData = null
    recorder.stream!.resumeReading()
    peer.flush()
    assert.equal(recorder.received.length, 2 * MIB)
    assert.equal(increments(peer.take()).get(1), 2 * MIB)
  })

  test('needs as many resumes as there were pauses', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    recorder.stream!.pauseReading()
    peer.send(dataFrame(1, 'x'))
    recorder.stream!.resumeReading()
    peer.flush()
    assert.equal(recorder.text, '')
    recorder.stream!.resumeReading()
    peer.flush()
    assert.equal(recorder.text, 'x')
  })

  test('the end waits behind what is held, and the closing behind the end', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    peer.send(dataFrame(1, 'last words', true))
    recorder.stream!.end()
    peer.flush()
    assert.deepEqual(recorder.events, [])
    assert.equal(peer.engine.activeCount, 0, 'for the peer it is closed')
    recorder.stream!.resumeReading()
    peer.flush()
    assert.deepEqual(recorder.events, ['data', 'end', 'closed'])
  })

  test('a paused receiver is not told the end, nor the closing, when nothing is held', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    peer.send(dataFrame(1, '', true))
    recorder.stream!.end()
    peer.flush()
    assert.deepEqual(recorder.events, [])
    recorder.stream!.resumeReading()
    peer.flush()
    assert.deepEqual(recorder.events, ['end', 'closed'])
  })

  test('what is held of a stream that ended in order survives the connection', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    peer.send(dataFrame(1, 'last words', true))
    recorder.stream!.end()
    peer.flush()
    peer.engine.receiveClose()
    recorder.stream!.resumeReading()
    peer.flush()
    assert.equal(recorder.text, 'last words')
    assert.deepEqual(recorder.closed, [0, 0])
  })

  test('a reset comes at once and drops what is held', () => {
    const { peer } = tunnels(1)
    const recorder = peer.streams.get(1)!
    recorder.stream!.pauseReading()
    peer.send(dataFrame(1, 'x'), resetFrame(1, 8))
    assert.deepEqual(recorder.events, ['closed'])
  })

  test('a complete answer followed by RST_STREAM(NO_ERROR) is not lost', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const recorder = new StreamRecorder()
    const stream = peer.engine.open(CONNECT_FIELDS, false, recorder)
    stream.pauseReading()
    peer.send(peer.headersFrame(1, [':status', '200']), dataFrame(1, 'all', true), resetFrame(1, 0))
    stream.resumeReading()
    peer.flush()
    assert.deepEqual(recorder.events, ['headers', 'data', 'end', 'closed'])
    assert.deepEqual(recorder.closed, [1, 0])
  })

  test('stalled streams do not stall the others, up to a stated amount', () => {
    const stalled = HELD_BYTES_FREE / STREAM_WINDOW
    const { peer } = tunnels(stalled + 1)
    for (let i = 0; i < stalled; i++) {
      peer.streams.get(2 * i + 1)!.stream!.pauseReading()
      for (let sent = 0; sent < STREAM_WINDOW; sent += MIB) peer.send(dataFrame(2 * i + 1, Buffer.alloc(MIB)))
    }
    const free = 2 * stalled + 1
    for (let i = 0; i < 40; i++) peer.send(dataFrame(free, Buffer.alloc(MIB)))
    assert.equal(peer.failed, null)
    assert.equal(peer.streams.get(free)!.received.length, 40 * MIB)
  })

  test('beyond that amount the connection window is kept until something is read', () => {
    const stalled = HELD_BYTES_FREE / STREAM_WINDOW + 1
    const { peer } = tunnels(stalled)
    for (let i = 0; i < stalled; i++) {
      peer.streams.get(2 * i + 1)!.stream!.pauseReading()
      for (let sent = 0; sent < STREAM_WINDOW; sent += MIB) peer.send(dataFrame(2 * i + 1, Buffer.alloc(MIB)))
    }
    const given = increments(peer.take()).get(0)!
    assert.ok(given <= HELD_BYTES_FREE && given > HELD_BYTES_FREE - CONNECTION_WINDOW / 4, `${given}`)
    peer.streams.get(1)!.stream!.resumeReading()
    peer.flush()
    assert.equal(increments(peer.take()).get(0)! + given, stalled * STREAM_WINDOW)
  })

  /** Streams that hold more than HELD_BYTES_NARROW together, and one that is read. */
  function crowd() {
    const stalled = HELD_BYTES_NARROW / STREAM_WINDOW + 1
    const { peer } = tunnels(stalled + 1)
    for (let i = 0; i < stalled; i++) {
      peer.streams.get(2 * i + 1)!.stream!.pauseReading()
      for (let sent = 0; sent < STREAM_WINDOW; sent += MIB) peer.send(dataFrame(2 * i + 1, Buffer.alloc(MIB)))
    }
    return { peer, stalled, free: 2 * stalled + 1 }
  }

  /** Initial windows that were announced. */
  function announced(frames: readonly Frame[]): number[] {
    const settings = frames.filter(({ type, flags }) => type === FRAME_SETTINGS && flags === 0)
    assert.ok(settings.every(({ payload }) => payload.length === 6 && payload.readUInt16BE(0) === 4))
    return settings.map(({ payload }) => payload.readUInt32BE(2))
  }

  const ACK = frame(FRAME_SETTINGS, 1, 0)

  test('paused receivers that hold much make the window of all streams narrow, once', () => {
    const { peer, free } = crowd()
    assert.deepEqual(announced(peer.take()), [NARROW_WINDOW])
    // Until the peer knows, it may send as before.
    peer.send(ACK, dataFrame(free, Buffer.alloc(STREAM_WINDOW / 8)), ACK)
    assert.equal(peer.failed, null)
    // Told at once although it would be too little to tell for a wide window: the peer has no other.
    assert.equal(increments(peer.take()).get(free), STREAM_WINDOW / 8)
    for (let i = 0; i < 100; i++) {
      peer.send(dataFrame(free, Buffer.alloc(NARROW_WINDOW / 2)))
      assert.equal(increments(peer.take()).get(free), NARROW_WINDOW / 2)
    }
    assert.equal(peer.failed, null)
  })

  test('a narrow window is a limit, for streams that were there and for new ones', () => {
    for (const streamId of [1, 99]) {
      const { peer } = crowd()
      peer.send(ACK, ACK)
      if (streamId === 99) peer.request(99).stream!.pauseReading()
      const allowed = streamId === 99 ? NARROW_WINDOW : 0
      peer.send(dataFrame(streamId, Buffer.alloc(allowed)), dataFrame(streamId, 'a'))
      peer.flush()
      const resets = peer.take().filter(({ type }) => type === FRAME_RST_STREAM)
      assert.deepEqual([peer.failed, resets.map((one) => one.streamId)], [null, [streamId]])
    }
  })

  test('a stream without any window may still be ended', () => {
    const { peer } = crowd()
    peer.send(ACK, ACK, dataFrame(1, '', true))
    peer.streams.get(1)!.stream!.resumeReading()
    peer.flush()
    assert.equal(peer.streams.get(1)!.events.at(-1), 'end')
  })

  test('streams that are read again get their window, which is wide again once little is held', () => {
    const { peer, stalled } = crowd()
    peer.send(ACK)
    peer.engine.relax()
    for (let i = 0; i < stalled; i++) peer.streams.get(2 * i + 1)!.stream!.resumeReading()
    peer.flush()
    peer.engine.relax()
    assert.deepEqual(announced(peer.take()), [NARROW_WINDOW], 'much is held, or the last change is not acknowledged')
    peer.send(ACK)
    peer.take()
    peer.engine.relax()
    peer.engine.relax()
    peer.flush()
    assert.deepEqual(announced(peer.take()), [STREAM_WINDOW])
    peer.send(ACK)
    for (let sent = 0; sent < STREAM_WINDOW; sent += MIB) peer.send(dataFrame(1, Buffer.alloc(MIB)))
    assert.equal(peer.failed, null)
    assert.equal(peer.streams.get(1)!.received.length, 2 * STREAM_WINDOW)
  })

  test('padding costs the peer window and is given back at once', () => {
    const { peer } = tunnels(1)
    const padded = Buffer.concat([Buffer.from([0, 1, 0, 0, 8, 0, 0, 0, 1, 255]), Buffer.alloc(255)])
    for (let i = 0; i < 5000; i++) peer.send(padded)
    assert.equal(peer.failed, null)
    assert.ok(increments(peer.take()).get(1)! > 0)
  })
})
