/** The life of a connection and of its streams when everybody keeps the rules. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FLAG_ACK,
  FLAG_END_STREAM,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_SETTINGS,
} from '../../../src/http/h2/frame.ts'
import { HBONE_CLIENT_SETTINGS, HBONE_SERVER_SETTINGS } from '../../../src/http/h2/limits.ts'
import {
  CLOSED_BY_PEER,
  CLOSED_IN_ORDER,
  CLOSED_UNPROCESSED,
  CLOSED_WITH_CONNECTION,
} from '../../../src/http/h2/stream.ts'
import {
  CONNECT_FIELDS,
  dataFrame,
  GET_FIELDS,
  goAwayFrame,
  pingFrame,
  resetFrame,
  ScriptedH2Peer,
  StreamRecorder,
  settingsFrame,
} from '../../support/scripted-h2-peer.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

function open(peer: ScriptedH2Peer, fields: readonly string[] = CONNECT_FIELDS, isEnd = false): StreamRecorder {
  const recorder = new StreamRecorder()
  recorder.stream = peer.engine.open(fields, isEnd, recorder)
  peer.flush()
  return recorder
}

describe('a client', () => {
  test('says hello and sends requests without waiting for the settings of the peer', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS, false)
    open(peer)
    const frames = peer.take()
    assert.deepEqual(
      frames.map((one) => one.type),
      [FRAME_SETTINGS, 8, FRAME_HEADERS],
    )
    assert.deepEqual(peer.fieldsOf(frames[2]!), CONNECT_FIELDS)
  })

  test('reports 1xx heads, the final head, body, trailers, end and closing, in this order', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const recorder = open(peer, GET_FIELDS, true)
    peer.send(
      peer.headersFrame(1, [':status', '103', 'link', 'a']),
      peer.headersFrame(1, [':status', '200', 'x', 'y']),
      dataFrame(1, 'body'),
      peer.headersFrame(1, ['checksum', '1'], true),
    )
    assert.deepEqual(recorder.events, ['headers', 'headers', 'data', 'trailers', 'end', 'closed'])
    assert.deepEqual(recorder.heads, [
      [':status', '103', 'link', 'a'],
      [':status', '200', 'x', 'y'],
    ])
    assert.deepEqual(recorder.trailers, ['checksum', '1'])
    assert.deepEqual(recorder.closed, [CLOSED_IN_ORDER, 0])
  })

  test('takes an answer that is a head only', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const recorder = open(peer, GET_FIELDS, true)
    peer.send(peer.headersFrame(1, [':status', '304', 'content-length', '500'], true))
    assert.deepEqual(recorder.events, ['headers end', 'end', 'closed'])
  })

  test('keeps to the number of streams that the peer allows', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS, true, settingsFrame(3, 2))
    open(peer)
    assert.equal(peer.engine.canOpen, true)
    open(peer)
    assert.equal(peer.engine.canOpen, false)
    peer.send(resetFrame(1, 8))
    assert.equal(peer.engine.canOpen, true)
    assert.equal(peer.endedStreams, 1)
  })

  test('tells what a GOAWAY did not cover from the rest, opens nothing more, and the rest goes on', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const covered = open(peer)
    const lost = open(peer)
    peer.send(goAwayFrame(1, 0))
    assert.deepEqual(lost.closed, [CLOSED_UNPROCESSED, 0])
    assert.equal(covered.closed, null)
    assert.equal(peer.engine.canOpen, false)
    assert.deepEqual(peer.goAways, [0])
    peer.send(peer.headersFrame(1, [':status', '200']), dataFrame(1, 'on'))
    assert.equal(covered.text, 'on')
  })

  test('tells a refused stream from a reset one', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const refused = open(peer)
    const reset = open(peer)
    peer.send(resetFrame(1, 7), resetFrame(3, 8))
    assert.deepEqual(refused.closed, [CLOSED_UNPROCESSED, 7])
    assert.deepEqual(reset.closed, [CLOSED_BY_PEER, 8])
  })

  test('drains: opens nothing more and closes with the last stream', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const recorder = open(peer)
    peer.engine.drain()
    peer.flush()
    assert.equal(peer.goAwayName(), 'NO_ERROR')
    assert.equal(peer.engine.canOpen, false)
    assert.deepEqual(peer.sink.endings, [])
    recorder.stream!.end()
    peer.send(peer.headersFrame(1, [':status', '200']), dataFrame(1, '', true))
    assert.deepEqual(recorder.closed, [CLOSED_IN_ORDER, 0])
    assert.deepEqual(peer.sink.endings, ['close'])
  })
})

describe('a server', () => {
  test('acknowledges settings, answers pings with their payload', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, false)
    peer.flush()
    peer.take()
    peer.send(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), settingsFrame(), pingFrame('abcdefgh'))
    const [ack, pong] = peer.take()
    assert.deepEqual([ack!.type, ack!.flags, ack!.payload.length], [FRAME_SETTINGS, FLAG_ACK, 0])
    assert.deepEqual([pong!.type, pong!.flags, pong!.payload.toString()], [FRAME_PING, FLAG_ACK, 'abcdefgh'])
  })

  test('echoes, half-closed in either order', () => {
    for (const peerEndsFirst of [true, false]) {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      const recorder = peer.request(1)
      const stream = recorder.stream!
      stream.sendHeaders([':status', '200'], false)
      if (peerEndsFirst) peer.send(dataFrame(1, 'x', true))
      stream.write(Buffer.from('y'), 0, 1)
      stream.end()
      peer.flush()
      assert.equal(peer.take().at(-1)!.flags & FLAG_END_STREAM, FLAG_END_STREAM)
      if (!peerEndsFirst) {
        assert.equal(recorder.closed, null)
        peer.send(dataFrame(1, 'x', true))
      }
      assert.deepEqual(recorder.events, ['data', 'end', 'closed'])
      assert.equal(peer.engine.activeCount, 0)
    }
  })

  test('a request without a body ends at once', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorder = peer.request(1, GET_FIELDS, true)
    assert.deepEqual(recorder.events, ['end'])
    recorder.stream!.sendHeaders([':status', '204'], true)
    peer.flush()
    assert.deepEqual(recorder.closed, [CLOSED_IN_ORDER, 0])
  })

  test('the closing is never reported inside the call that caused it', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorder = peer.request(1, GET_FIELDS, true)
    recorder.stream!.sendHeaders([':status', '204'], true)
    assert.equal(recorder.closed, null)
    peer.flush()
    assert.ok(recorder.closed !== null)
  })

  test('who resets hears nothing more', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorder = peer.request(1)
    recorder.whenData = (stream) => stream.reset(8)
    peer.send(dataFrame(1, 'x'), dataFrame(1, 'y', true))
    assert.deepEqual(recorder.events, ['data'])
    assert.deepEqual(peer.resetNames(), ['1:CANCEL'])
    recorder.stream!.write(Buffer.from('z'), 0, 1)
    recorder.stream!.end()
    recorder.stream!.reset(8)
    peer.flush()
    assert.deepEqual(peer.take(), [])
  })

  test('sends a header list larger than a frame in several', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorder = peer.request(1)
    recorder.stream!.sendHeaders([':status', '200', 'large', 'x'.repeat(40_000)], false)
    peer.flush()
    assert.deepEqual(
      peer.take().map((one) => [one.type, one.flags, one.payload.length > 16_384]),
      [
        [FRAME_HEADERS, 0, false],
        [9, 0, false],
        [9, 4, false],
      ],
    )
  })

  test('drains in two steps: what is under way is served, what comes after is ignored', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const first = peer.request(1)
    peer.engine.drain()
    peer.flush()
    const [warning, ping] = peer.take()
    assert.deepEqual([warning!.type, warning!.payload.readUInt32BE(0)], [FRAME_GOAWAY, 0x7fff_ffff])
    assert.equal(ping?.type, FRAME_PING)
    const underWay = peer.request(3)
    peer.send(pingFrame(ping!.payload.toString('latin1'), FLAG_ACK))
    const final = peer.takeOf(FRAME_GOAWAY)
    assert.equal(final[0]?.payload.readUInt32BE(0), 3)
    peer.send(peer.headersFrame(5, CONNECT_FIELDS))
    assert.equal(peer.streams.has(5), false)
    assert.deepEqual(peer.sink.endings, [])
    first.stream!.reset(8)
    underWay.stream!.reset(8)
    peer.flush()
    assert.deepEqual(peer.sink.endings, ['close'])
  })

  test('frames of streams that came after the final GOAWAY are ignored', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1)
    peer.engine.drain()
    peer.flush()
    peer.send(pingFrame(peer.takeOf(FRAME_PING)[0]!.payload.toString('latin1'), FLAG_ACK))
    peer.take()
    peer.send(peer.headersFrame(5, CONNECT_FIELDS), dataFrame(5, 'x'))
    assert.equal(peer.failed, null)
    assert.deepEqual(peer.take(), [])
  })

  test('the loss of the transport closes all streams', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorders = [peer.request(1), peer.request(3)]
    peer.engine.receiveClose()
    for (const recorder of recorders) assert.deepEqual(recorder.closed, [CLOSED_WITH_CONNECTION, 0])
    assert.equal(peer.engine.activeCount, 0)
    recorders[0]!.stream!.write(Buffer.from('x'), 0, 1)
    peer.flush()
  })

  test('a receiver that closes the connection inside its event is not disturbed', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const recorder = peer.request(1)
    recorder.whenData = () => peer.engine.close(0, '')
    peer.send(dataFrame(1, 'x'), dataFrame(1, 'y'))
    assert.deepEqual(recorder.events, ['data', 'closed'])
    assert.equal(peer.goAwayName(), 'NO_ERROR')
  })

  test('reports the answer to its own ping', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.engine.ping()
    peer.flush()
    const [ping] = peer.takeOf(FRAME_PING)
    peer.send(pingFrame('notours!', FLAG_ACK))
    assert.equal(peer.pongs, 0)
    peer.send(pingFrame(ping!.payload.toString('latin1'), FLAG_ACK))
    assert.equal(peer.pongs, 1)
  })
})

test('a conversation means the same wherever its bytes are cut', () => {
  const script = (peer: ScriptedH2Peer): Buffer =>
    Buffer.concat([
      peer.headersFrame(1, CONNECT_FIELDS),
      dataFrame(1, 'hello '),
      ...peer.cutHeaders(3, [...CONNECT_FIELDS, 'x', 'y'.repeat(40)], 13),
      pingFrame(),
      dataFrame(1, 'world', true),
      Buffer.from([0, 0, 6, FRAME_DATA, 8, 0, 0, 0, 3, 2, 97, 98, 99, 0, 0]),
      settingsFrame(4, 70_000),
      resetFrame(3, 8),
      peer.headersFrame(5, GET_FIELDS, true),
    ])
  const whole = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
  const bytes = script(whole)
  const outcome = (peer: ScriptedH2Peer): unknown =>
    [...peer.streams].map(([id, one]) => [id, one.text, one.events.filter((event) => event !== 'data'), one.closed])
  whole.send(bytes)
  const expected = outcome(whole)
  assert.equal(whole.streams.size, 3)
  for (let cut = 1; cut < bytes.length; cut++) {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.send(bytes.subarray(0, cut))
    peer.send(bytes.subarray(cut))
    assert.deepEqual(outcome(peer), expected, `cut at ${cut}`)
    assert.deepEqual(peer.requests, whole.requests)
  }
})

test('garbage and damaged conversations end in an error or in silence, never in an exception', () => {
  const random = new SeededRandom(20_240)
  for (let round = 0; round < 2000; round++) {
    const settings = round % 2 === 0 ? HBONE_SERVER_SETTINGS : HBONE_CLIENT_SETTINGS
    const peer = new ScriptedH2Peer(settings)
    const recorders: StreamRecorder[] = []
    if (settings === HBONE_CLIENT_SETTINGS) recorders.push(open(peer), open(peer))
    const frames: Buffer[] = []
    for (let i = random.integer(1, 12); i > 0; i--) {
      const id = random.pick([0, 1, 1, 3, 3, 5, 2])
      const payload = Buffer.from(Array.from({ length: random.integer(0, 12) }, () => random.integer(0, 255)))
      const kind = random.integer(0, 6)
      if (kind < 2) frames.push(peer.headersFrame(id, random.pick([CONNECT_FIELDS, GET_FIELDS, [':status', '200']])))
      else if (kind < 4) frames.push(dataFrame(id, payload, random.boolean()))
      else
        frames.push(
          Buffer.concat([
            Buffer.from([0, 0, payload.length, random.integer(0, 10), random.integer(0, 255), 0, 0, 0, id]),
            payload,
          ]),
        )
    }
    const bytes = Buffer.concat(frames)
    if (random.boolean()) bytes[random.integer(0, bytes.length - 1)] = random.integer(0, 255)
    const cut = random.integer(0, bytes.length)
    peer.send(bytes.subarray(0, cut))
    for (const recorder of [...peer.streams.values(), ...recorders]) {
      const action = random.integer(0, 5)
      if (action === 0) recorder.stream!.reset(8)
      else if (action === 1) recorder.stream!.pauseReading()
      else if (action === 2) recorder.stream!.sendHeaders([':status', '200'], false)
      else if (action === 3) recorder.stream!.end()
    }
    peer.send(bytes.subarray(cut))
    for (const recorder of peer.streams.values()) recorder.stream!.resumeReading()
    peer.flush()
    peer.engine.receiveClose()
    peer.flush()
    assert.equal(peer.engine.activeCount, 0)
  }
})
