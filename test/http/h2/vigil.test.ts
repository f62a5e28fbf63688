/** Time on HTTP/2 connections: what a peer owes, for how long, and that honest waiting is never cut short. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FRAME_CONTINUATION,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_SETTINGS,
  PREFACE,
  SETTING_INITIAL_WINDOW_SIZE,
} from '../../../src/http/h2/frame.ts'
import {
  APP_CLIENT_SETTINGS,
  APP_SERVER_SETTINGS,
  QUEUED_BYTES_HIGH,
  ROLE_SERVER,
} from '../../../src/http/h2/limits.ts'
import { CLOSED_BY_SILENCE, CLOSED_BY_STALL, CLOSED_WITH_CONNECTION } from '../../../src/http/h2/stream.ts'
import {
  BEAT_MS,
  CLIENT_SILENCE_MS,
  HEAD_MS,
  IDLE_MS,
  PING_TIMEOUT_MS,
  SERVER_SILENCE_MS,
  STALL_MS,
  Vigil,
} from '../../../src/http/h2/vigil.ts'
import {
  frame,
  GET_FIELDS,
  pingFrame,
  ScriptedH2Peer,
  StreamRecorder,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'

const ACK = frame(FRAME_SETTINGS, FLAG_ACK, 0)

/** A connection with its vigil. */
class Watched {
  readonly peer: ScriptedH2Peer
  private readonly vigil: Vigil

  constructor(settings = APP_SERVER_SETTINGS, greets = true, greeting: Buffer = Buffer.concat([settingsFrame(), ACK])) {
    this.peer = new ScriptedH2Peer(settings, greets, greeting)
    this.vigil = new Vigil(this.peer.engine, settings.role)
  }

  /** Lets time pass; `each` runs before every beat. */
  pass(timeMs: number, each: () => void = () => {}): void {
    for (let passed = 0; passed < timeMs; passed += BEAT_MS) {
      each()
      this.peer.flush()
      this.vigil.beat()
      this.peer.flush()
    }
  }
}

describe('a client is given a minute', () => {
  test('to send its settings', () => {
    const { peer, pass } = bound(new Watched(APP_SERVER_SETTINGS, false))
    peer.send(PREFACE)
    pass(HEAD_MS - BEAT_MS)
    assert.equal(peer.failed, null)
    pass(BEAT_MS)
    assert.deepEqual(peer.failed, ['SETTINGS_TIMEOUT', 'settings_missing'])
    assert.equal(peer.goAwayName(), 'SETTINGS_TIMEOUT')
  })

  test('to send its preface', () => {
    const { peer, pass } = bound(new Watched(APP_SERVER_SETTINGS, false))
    peer.send(PREFACE.subarray(0, 5))
    pass(HEAD_MS)
    assert.deepEqual(peer.failed, ['SETTINGS_TIMEOUT', 'settings_missing'])
  })

  test('to acknowledge ours (RFC 9113 section 6.5.3)', () => {
    const { peer, pass } = bound(new Watched(APP_SERVER_SETTINGS, true, settingsFrame()))
    const stream = peer.request(1, GET_FIELDS)
    pass(HEAD_MS, () => peer.send(pingFrame()))
    assert.deepEqual(peer.failed, ['SETTINGS_TIMEOUT', 'settings_not_acknowledged'])
    assert.equal(stream.closed?.[0], CLOSED_WITH_CONNECTION)
  })

  test('for a head in CONTINUATION frames that do not end', () => {
    const { peer, pass } = bound(new Watched())
    peer.send(frame(FRAME_HEADERS, 0, 1))
    pass(HEAD_MS - BEAT_MS)
    peer.send(frame(FRAME_CONTINUATION, 0, 1))
    pass(BEAT_MS)
    assert.equal(peer.failed, null)
    pass(BEAT_MS)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'head_too_slow'])
  })

  test('for a HEADERS frame that comes in drops', () => {
    const { peer, pass } = bound(new Watched())
    const whole = peer.headersFrame(1, [...GET_FIELDS, 'x-long', 'x'.repeat(100)], true)
    peer.send(whole.subarray(0, 12))
    let at = 12
    pass(HEAD_MS + BEAT_MS, () => {
      if (peer.failed !== null) return
      peer.send(whole.subarray(at, at + 1))
      at++
    })
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'head_too_slow'])
  })

  test('but a busy connection that is always found within some head is left alone', () => {
    const { peer, pass } = bound(new Watched())
    let id = 1
    let rest: Uint8Array = new Uint8Array(0)
    pass(3 * HEAD_MS, () => {
      const next = peer.headersFrame(id, GET_FIELDS, true)
      id += 2
      peer.send(rest, next.subarray(0, 12))
      rest = next.subarray(12)
      for (const stream of peer.streams.values()) stream.stream!.reset(0)
    })
    assert.equal(peer.failed, null)
  })
})

describe('a peer that takes nothing', () => {
  test('costs its stream after five minutes without window, and only that', () => {
    const { peer, pass } = bound(
      new Watched(APP_SERVER_SETTINGS, true, Buffer.concat([settingsFrame(SETTING_INITIAL_WINDOW_SIZE, 10), ACK])),
    )
    const [stalled, slow] = [peer.request(1, GET_FIELDS, true), peer.request(3, GET_FIELDS, true)]
    for (const { stream } of [stalled, slow]) {
      stream!.sendHeaders([':status', '200'], false)
      stream!.write(Buffer.alloc(1000), 0, 1000)
      stream!.end()
    }
    const alive = (): void => peer.send(windowUpdateFrame(3, 1))
    pass(STALL_MS, alive)
    assert.equal(stalled.closed, null)
    pass(2 * BEAT_MS, alive)
    assert.equal(stalled.closed?.[0], CLOSED_BY_STALL)
    assert.equal(slow.closed, null)
    assert.deepEqual(peer.resetNames(), ['1:CANCEL'])
    assert.deepEqual(peer.streamViolations, ['stream_stalled'])
    pass(2 * STALL_MS, alive)
    assert.equal(slow.closed, null, 'one byte is progress')
  })

  test('costs its connection after five minutes without reading', () => {
    const { peer, pass } = bound(new Watched())
    const stream = peer.request(1, GET_FIELDS, true)
    stream.stream!.sendHeaders([':status', '200'], false)
    peer.sink.backlog = 1 << 20
    peer.flush()
    pass(STALL_MS - BEAT_MS)
    assert.equal(peer.failed, null)
    pass(BEAT_MS)
    assert.deepEqual(peer.failed, ['ENHANCE_YOUR_CALM', 'output_stalled'])
    assert.deepEqual(peer.sink.endings, ['abort'], 'it would not read a GOAWAY either')
    assert.equal(stream.closed?.[0], CLOSED_WITH_CONNECTION)
  })

  test('cannot make us hold a full queue for each of a thousand streams', () => {
    const { peer } = new Watched(
      APP_SERVER_SETTINGS,
      true,
      Buffer.concat([settingsFrame(SETTING_INITIAL_WINDOW_SIZE, 0), ACK]),
    )
    const piece = Buffer.alloc(16_384)
    let held = 0
    for (let id = 1; id < 2000; id += 2) {
      const { stream } = peer.request(id, GET_FIELDS, true)
      stream!.sendHeaders([':status', '200'], false)
      // A writer stops when it is told of a high backlog.
      let backlog = 0
      while (backlog <= 262_144) {
        backlog = stream!.write(piece, 0, piece.length)
        held += piece.length
      }
    }
    assert.ok(held <= QUEUED_BYTES_HIGH + 1000 * piece.length + 300_000, `${held} bytes are held`)
    for (let id = 1; id < 2000; id += 2) peer.sendUnflushed(windowUpdateFrame(id, 1 << 20))
    peer.send(windowUpdateFrame(0, 1 << 30))
    for (const stream of peer.streams.values()) assert.ok(stream.events.includes('drain'), 'every writer goes on')
  })
})

describe('a peer that vanished', () => {
  for (const [who, settings, silenceMs] of [
    ['a client', APP_SERVER_SETTINGS, CLIENT_SILENCE_MS],
    ['an upstream', APP_CLIENT_SETTINGS, SERVER_SILENCE_MS],
  ] as const) {
    const open = (watched: Watched): StreamRecorder => {
      if (settings.role === ROLE_SERVER) return watched.peer.request(1, GET_FIELDS)
      const recorder = new StreamRecorder()
      recorder.stream = watched.peer.engine.open(GET_FIELDS, true, recorder)
      return recorder
    }

    test(`${who} is found out by a ping while exchanges are open`, () => {
      const watched = new Watched(settings)
      const { peer, pass } = bound(watched)
      const stream = open(watched)
      // The first beat sees what was received before it.
      pass(BEAT_MS)
      peer.take()
      pass(silenceMs - BEAT_MS)
      assert.equal(peer.takeOf(FRAME_PING).length, 0)
      pass(BEAT_MS)
      assert.equal(peer.takeOf(FRAME_PING).length, 1)
      pass(PING_TIMEOUT_MS - BEAT_MS)
      assert.equal(peer.failed, null)
      pass(BEAT_MS)
      assert.deepEqual(peer.failed, ['NO_ERROR', 'ping_unanswered'])
      assert.equal(stream.closed?.[0], CLOSED_BY_SILENCE)
      assert.deepEqual(peer.sink.endings, ['abort'])
    })

    test(`${who} that answers is kept for as long as the exchange lasts, and asked no more often than that`, () => {
      const watched = new Watched(settings)
      const { peer, pass } = bound(watched)
      const stream = open(watched)
      peer.take()
      let pings = 0
      pass(20 * silenceMs, () => {
        for (const ping of peer.takeOf(FRAME_PING)) {
          pings++
          peer.send(frame(FRAME_PING, FLAG_ACK, 0, ping.payload))
        }
      })
      assert.equal(peer.failed, null)
      assert.equal(stream.closed, null)
      assert.ok(pings >= 15 && pings <= 20, `${pings} pings`)
    })

    test(`${who} without exchanges is not pinged`, () => {
      const { peer, pass } = bound(new Watched(settings))
      pass(IDLE_MS - BEAT_MS)
      assert.equal(peer.takeOf(FRAME_PING).length, 0)
      assert.equal(peer.failed, null)
    })
  }
})

describe('an idle client', () => {
  test('is asked to go after an hour without requests, though it keeps pinging', () => {
    const { peer, pass } = bound(new Watched())
    pass(IDLE_MS, () => peer.send(pingFrame()))
    const frames = peer.takeOf(FRAME_GOAWAY)
    assert.equal(frames.length, 1, 'a warning')
    // It does not answer the PING of the drain: the end comes without it.
    pass(3 * BEAT_MS)
    assert.deepEqual(peer.sink.endings, ['close'])
    assert.equal(peer.failed, null)
  })

  test('that makes a request now and then stays', () => {
    const { peer, pass } = bound(new Watched())
    let [id, count] = [1, 0]
    pass(3 * IDLE_MS, () => {
      if (count++ % 300 !== 0) return
      peer.request(id, GET_FIELDS, true).stream!.sendHeaders([':status', '204'], true)
      id += 2
    })
    assert.equal(peer.takeOf(FRAME_GOAWAY).length, 0)
  })

  test('an upstream is never asked: its pool decides', () => {
    const { peer, pass } = bound(new Watched(APP_CLIENT_SETTINGS))
    pass(2 * IDLE_MS)
    assert.equal(peer.takeOf(FRAME_GOAWAY).length, 0)
    assert.deepEqual(peer.sink.endings, [])
  })
})

test('a drain does not wait for ever for the answer to its PING, and lets in what came before', () => {
  const { peer, pass } = bound(new Watched())
  const first = peer.request(1, GET_FIELDS, true)
  peer.engine.drain()
  peer.flush()
  peer.request(3, GET_FIELDS, true)
  pass(2 * BEAT_MS)
  const goAways = peer.takeOf(FRAME_GOAWAY)
  assert.deepEqual(
    goAways.map((one) => one.payload.readUInt32BE(0)),
    [0x7fff_ffff, 3],
  )
  peer.send(frame(FRAME_HEADERS, FLAG_END_HEADERS, 5, peer.headersFrame(5, GET_FIELDS).subarray(9)))
  assert.equal(peer.streams.size, 2, 'what comes later is as if it had never been sent')
  first.stream!.sendHeaders([':status', '204'], true)
  peer.streams.get(3)!.stream!.sendHeaders([':status', '204'], true)
  peer.flush()
  assert.deepEqual(peer.sink.endings, ['close'])
})

/** The parts of a watched connection as plain names. */
function bound(watched: Watched): { peer: ScriptedH2Peer; pass: (timeMs: number, each?: () => void) => void } {
  return { peer: watched.peer, pass: (timeMs, each) => watched.pass(timeMs, each) }
}
