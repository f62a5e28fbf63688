/** What a peer may not send, and what it costs it: the stream or the connection, with the code of RFC 9113. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FLAG_PADDED,
  FLAG_PRIORITY,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_PUSH_PROMISE,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
  PREFACE,
} from '../../../src/http/h2/frame.ts'
import { HBONE_CLIENT_SETTINGS, HBONE_SERVER_SETTINGS } from '../../../src/http/h2/limits.ts'
import { CLOSED_BY_VIOLATION, CLOSED_WITH_CONNECTION } from '../../../src/http/h2/stream.ts'
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
  StreamRecorder,
  settingsFrame,
  uint32,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'

const WINDOW_4M = 4 << 20

/** A client engine with one request open, on stream 1. */
function clientPeer(): { peer: ScriptedH2Peer; recorder: StreamRecorder } {
  const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
  const recorder = new StreamRecorder()
  recorder.stream = peer.engine.open(CONNECT_FIELDS, false, recorder)
  peer.flush()
  peer.take()
  return { peer, recorder }
}

describe('a server ends the connection', () => {
  /** What is sent after the greeting and a request on stream 1. */
  const CASES: readonly (readonly [string, string, (peer: ScriptedH2Peer) => Uint8Array[]])[] = [
    ['DATA on stream 0', 'PROTOCOL_ERROR', () => [dataFrame(0, 'x')]],
    ['DATA on an idle stream', 'PROTOCOL_ERROR', () => [dataFrame(3, 'x')]],
    [
      'DATA with padding longer than it',
      'PROTOCOL_ERROR',
      () => [frame(FRAME_DATA, FLAG_PADDED, 1, Buffer.from([9, 0]))],
    ],
    ['a frame above the announced size', 'FRAME_SIZE_ERROR', () => [Buffer.from([0x10, 0, 1, 0, 0, 0, 0, 0, 1])]],
    ['HEADERS on stream 0', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(0, CONNECT_FIELDS)]],
    ['HEADERS on an even stream', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(2, CONNECT_FIELDS)]],
    [
      'HEADERS on a stream below the last one',
      'STREAM_CLOSED',
      (peer) => [peer.headersFrame(7, CONNECT_FIELDS), peer.headersFrame(5, CONNECT_FIELDS)],
    ],
    [
      'a block that is not HPACK',
      'COMPRESSION_ERROR',
      () => [frame(FRAME_HEADERS, FLAG_END_HEADERS, 3, Buffer.from([0x80]))],
    ],
    [
      'a bad block on a closed stream too',
      'COMPRESSION_ERROR',
      () => [resetFrame(1, 8), frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, Buffer.from([0x80]))],
    ],
    [
      'HEADERS with padding longer than it',
      'PROTOCOL_ERROR',
      () => [frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 3, Buffer.from([2, 0]))],
    ],
    [
      'HEADERS with a priority cut short',
      'FRAME_SIZE_ERROR',
      () => [frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY, 3, Buffer.from([0, 0, 0]))],
    ],
    ['CONTINUATION without HEADERS', 'PROTOCOL_ERROR', () => [frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1)]],
    [
      'a header block interrupted by another frame',
      'PROTOCOL_ERROR',
      (peer) => [peer.cutHeaders(3, CONNECT_FIELDS, 1)[0]!, pingFrame()],
    ],
    [
      'a header block interrupted by CONTINUATION of another stream',
      'PROTOCOL_ERROR',
      (peer) => [peer.cutHeaders(3, CONNECT_FIELDS, 1)[0]!, frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1)],
    ],
    [
      'a header block interrupted by an unknown frame',
      'PROTOCOL_ERROR',
      (peer) => [peer.cutHeaders(3, CONNECT_FIELDS, 1)[0]!, frame(0x42, 0, 3)],
    ],
    ['PRIORITY on stream 0', 'PROTOCOL_ERROR', () => [priorityFrame(0, 1)]],
    ['RST_STREAM on stream 0', 'PROTOCOL_ERROR', () => [resetFrame(0, 8)]],
    ['RST_STREAM on an idle stream', 'PROTOCOL_ERROR', () => [resetFrame(9, 8)]],
    ['RST_STREAM of a wrong length', 'FRAME_SIZE_ERROR', () => [frame(FRAME_RST_STREAM, 0, 1, Buffer.alloc(3))]],
    ['SETTINGS on a stream', 'PROTOCOL_ERROR', () => [frame(FRAME_SETTINGS, 0, 1)]],
    ['SETTINGS of a wrong length', 'FRAME_SIZE_ERROR', () => [frame(FRAME_SETTINGS, 0, 0, Buffer.alloc(5))]],
    ['SETTINGS ACK with payload', 'FRAME_SIZE_ERROR', () => [frame(FRAME_SETTINGS, FLAG_ACK, 0, Buffer.alloc(6))]],
    ['too many settings', 'ENHANCE_YOUR_CALM', () => [frame(FRAME_SETTINGS, 0, 0, Buffer.alloc(65 * 6))]],
    ['ENABLE_PUSH above 1', 'PROTOCOL_ERROR', () => [settingsFrame(2, 2)]],
    ['an initial window above 2^31-1', 'FLOW_CONTROL_ERROR', () => [settingsFrame(4, 0x8000_0000)]],
    ['a maximum frame size below 16384', 'PROTOCOL_ERROR', () => [settingsFrame(5, 16_383)]],
    ['a maximum frame size above 2^24-1', 'PROTOCOL_ERROR', () => [settingsFrame(5, 16_777_216)]],
    [
      'an initial window that makes a stream overflow',
      'FLOW_CONTROL_ERROR',
      () => [windowUpdateFrame(1, 0x7fff_0000 - 65_535), settingsFrame(4, 0x7fff_ffff)],
    ],
    ['PUSH_PROMISE', 'PROTOCOL_ERROR', () => [frame(FRAME_PUSH_PROMISE, FLAG_END_HEADERS, 1, uint32(2))]],
    ['PING on a stream', 'PROTOCOL_ERROR', () => [frame(FRAME_PING, 0, 1, Buffer.alloc(8))]],
    ['PING of a wrong length', 'FRAME_SIZE_ERROR', () => [frame(FRAME_PING, 0, 0, Buffer.alloc(7))]],
    ['GOAWAY on a stream', 'PROTOCOL_ERROR', () => [frame(FRAME_GOAWAY, 0, 1, Buffer.alloc(8))]],
    ['GOAWAY cut short', 'FRAME_SIZE_ERROR', () => [frame(FRAME_GOAWAY, 0, 0, Buffer.alloc(7))]],
    ['GOAWAY with a novel in it', 'ENHANCE_YOUR_CALM', () => [frame(FRAME_GOAWAY, 0, 0, Buffer.alloc(20_000))]],
    ['WINDOW_UPDATE of a wrong length', 'FRAME_SIZE_ERROR', () => [frame(FRAME_WINDOW_UPDATE, 0, 1, Buffer.alloc(5))]],
    ['WINDOW_UPDATE of 0 on the connection', 'PROTOCOL_ERROR', () => [windowUpdateFrame(0, 0)]],
    ['WINDOW_UPDATE on an idle stream', 'PROTOCOL_ERROR', () => [windowUpdateFrame(11, 1)]],
    ['a connection window above 2^31-1', 'FLOW_CONTROL_ERROR', () => [windowUpdateFrame(0, 0x7fff_ffff)]],
  ]
  for (const [name, code, script] of CASES) {
    test(`for ${name}, with ${code}`, () => {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      const stream = peer.request(1)
      peer.take()
      peer.send(...script(peer))
      assert.equal(peer.goAwayName(), code)
      assert.equal(peer.failed?.[0], code)
      assert.deepEqual(peer.sink.endings, ['close'])
      assert.equal(peer.engine.isClosed, true)
      assert.ok(stream.closed !== null, 'open streams are closed')
      const before = peer.sink.frames.length
      peer.send(pingFrame())
      assert.equal(peer.sink.frames.length, before, 'nothing is said after the end')
    })
  }

  test('for a first frame that is not SETTINGS', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, false)
    peer.send(PREFACE, pingFrame())
    assert.equal(peer.goAwayName(), 'PROTOCOL_ERROR')
  })

  test('for a first frame that is an acknowledgement', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, false)
    peer.send(PREFACE, frame(FRAME_SETTINGS, FLAG_ACK, 0))
    assert.equal(peer.goAwayName(), 'PROTOCOL_ERROR')
  })

  test('for HTTP/1.1', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, false)
    peer.send(Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'))
    assert.equal(peer.goAwayName(), 'PROTOCOL_ERROR')
  })
})

describe('a server ends only the stream', () => {
  const HEAD: readonly (readonly [string, string, readonly string[]])[] = [
    ['no method', 'PROTOCOL_ERROR', [':scheme', 'http', ':path', '/']],
    ['no scheme', 'PROTOCOL_ERROR', [':method', 'GET', ':path', '/']],
    ['no path', 'PROTOCOL_ERROR', [':method', 'GET', ':scheme', 'http']],
    ['an empty path', 'PROTOCOL_ERROR', [':method', 'GET', ':scheme', 'http', ':path', '']],
    ['a path that is no path', 'PROTOCOL_ERROR', [':method', 'GET', ':scheme', 'http', ':path', 'x']],
    ['two methods', 'PROTOCOL_ERROR', [':method', 'GET', ...GET_FIELDS]],
    ['two paths', 'PROTOCOL_ERROR', [...GET_FIELDS, ':path', '/']],
    ['an unknown pseudo-header', 'PROTOCOL_ERROR', [...GET_FIELDS, ':protocol', 'websocket']],
    ['a pseudo-header of responses', 'PROTOCOL_ERROR', [...GET_FIELDS, ':status', '200']],
    ['a pseudo-header after a field', 'PROTOCOL_ERROR', [':method', 'GET', 'a', 'b', ':scheme', 'http', ':path', '/']],
    ['CONNECT without authority', 'PROTOCOL_ERROR', [':method', 'CONNECT']],
    ['CONNECT with a path', 'PROTOCOL_ERROR', [':method', 'CONNECT', ':authority', 'a:1', ':path', '/']],
    ['connection', 'PROTOCOL_ERROR', [...GET_FIELDS, 'connection', 'close']],
    ['proxy-connection', 'PROTOCOL_ERROR', [...GET_FIELDS, 'proxy-connection', 'close']],
    ['keep-alive', 'PROTOCOL_ERROR', [...GET_FIELDS, 'keep-alive', '1']],
    ['transfer-encoding', 'PROTOCOL_ERROR', [...GET_FIELDS, 'transfer-encoding', 'chunked']],
    ['upgrade', 'PROTOCOL_ERROR', [...GET_FIELDS, 'upgrade', 'x']],
    ['te other than trailers', 'PROTOCOL_ERROR', [...GET_FIELDS, 'te', 'gzip']],
    ['a host that is not the authority', 'PROTOCOL_ERROR', [...GET_FIELDS, 'host', 'b']],
    ['an upper-case name', 'PROTOCOL_ERROR', [...GET_FIELDS, 'Accept', 'x']],
    ['a line feed in a value', 'PROTOCOL_ERROR', [...GET_FIELDS, 'a', 'b\nc: d']],
    ['a content-length that is no number', 'PROTOCOL_ERROR', [...GET_FIELDS, 'content-length', '1x']],
    ['two content-lengths', 'PROTOCOL_ERROR', [...GET_FIELDS, 'content-length', '1', 'content-length', '2']],
    ['a list above the announced size', 'ENHANCE_YOUR_CALM', [...GET_FIELDS, 'a', 'x'.repeat(66_000)]],
  ]
  for (const [name, code, fields] of HEAD) {
    test(`for a head with ${name}, with ${code}`, () => {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      peer.send(peer.headersFrame(1, fields))
      assert.deepEqual(peer.resetNames(), [`1:${code}`])
      assert.deepEqual(peer.requests, [])
      peer.request(3)
      assert.equal(peer.engine.activeCount, 1)
    })
  }

  /** What is sent on an accepted GET (stream 1), and the code. */
  const BODY: readonly (readonly [string, string, readonly string[], (peer: ScriptedH2Peer) => Uint8Array[]])[] = [
    ['DATA after the end', 'STREAM_CLOSED', GET_FIELDS, () => [dataFrame(1, 'x', true), dataFrame(1, 'x')]],
    [
      'HEADERS after the end',
      'STREAM_CLOSED',
      GET_FIELDS,
      (peer) => [dataFrame(1, '', true), peer.headersFrame(1, ['a', 'b'], true)],
    ],
    ['trailers that do not end it', 'PROTOCOL_ERROR', GET_FIELDS, (peer) => [peer.headersFrame(1, ['a', 'b'])]],
    [
      'a pseudo-header in trailers',
      'PROTOCOL_ERROR',
      GET_FIELDS,
      (peer) => [peer.headersFrame(1, [':path', '/'], true)],
    ],
    ['malformed trailers', 'PROTOCOL_ERROR', GET_FIELDS, (peer) => [peer.headersFrame(1, ['A', 'b'], true)]],
    ['WINDOW_UPDATE of 0', 'PROTOCOL_ERROR', GET_FIELDS, () => [windowUpdateFrame(1, 0)]],
    ['a window above 2^31-1', 'FLOW_CONTROL_ERROR', GET_FIELDS, () => [windowUpdateFrame(1, 0x7fff_ffff)]],
    [
      'PRIORITY of a wrong length',
      'FRAME_SIZE_ERROR',
      GET_FIELDS,
      () => [frame(FRAME_PRIORITY, 0, 1, Buffer.alloc(4))],
    ],
    [
      'more body than its content-length',
      'PROTOCOL_ERROR',
      [...GET_FIELDS, 'content-length', '3'],
      () => [dataFrame(1, 'abcd')],
    ],
    [
      'less body than its content-length',
      'PROTOCOL_ERROR',
      [...GET_FIELDS, 'content-length', '3'],
      () => [dataFrame(1, 'ab', true)],
    ],
  ]
  for (const [name, code, fields, script] of BODY) {
    test(`for ${name}, with ${code}`, () => {
      const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
      const stream = peer.request(1, fields)
      peer.take()
      peer.send(...script(peer))
      assert.deepEqual(peer.resetNames(), [`1:${code}`])
      assert.equal(stream.closed?.[0], CLOSED_BY_VIOLATION)
      assert.equal(peer.failed, null)
      peer.request(3)
    })
  }

  test('when more streams are open than announced, saying that it was not acted on', () => {
    const peer = new ScriptedH2Peer({ ...HBONE_SERVER_SETTINGS, peerStreamsMax: 2 })
    peer.request(1)
    peer.request(3)
    peer.send(peer.headersFrame(5, CONNECT_FIELDS))
    assert.deepEqual(peer.resetNames(), ['5:REFUSED_STREAM'])
    peer.send(resetFrame(1, 8))
    peer.request(7)
  })

  test('for DATA on a stream that the peer itself has reset', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1)
    peer.send(resetFrame(1, 8), dataFrame(1, 'x'))
    assert.deepEqual(peer.resetNames(), ['1:STREAM_CLOSED'])
  })
})

describe('a server takes', () => {
  test('frames that were under way when it reset the stream', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const stream = peer.request(1)
    stream.stream!.reset(8)
    peer.flush()
    peer.take()
    peer.send(dataFrame(1, 'x'), windowUpdateFrame(1, 5), peer.headersFrame(1, ['a', 'b'], true), resetFrame(1, 8))
    assert.deepEqual(peer.take(), [])
    assert.equal(stream.closed, null, 'who resets a stream hears no more of it')
    peer.request(3)
  })

  test('a header block in many pieces, with an empty one, and keeps the table in step', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const pieces = peer.cutHeaders(1, CONNECT_FIELDS, 9)
    assert.ok(pieces.length > 2)
    peer.send(...pieces.slice(0, -1), frame(FRAME_CONTINUATION, 0, 1), pieces.at(-1)!)
    peer.request(3)
    assert.deepEqual(peer.requests, [[...CONNECT_FIELDS], [...CONNECT_FIELDS]])
  })

  test('padded HEADERS with a priority', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const block = peer.headersFrame(1, CONNECT_FIELDS).subarray(9)
    const payload = Buffer.concat([Buffer.from([4]), uint32(0), Buffer.from([1]), block, Buffer.alloc(4)])
    peer.send(frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY, 1, payload))
    assert.deepEqual(peer.requests, [[...CONNECT_FIELDS]])
  })

  test('streams that depend on themselves: priorities are not looked at', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const block = peer.headersFrame(1, CONNECT_FIELDS).subarray(9)
    const payload = Buffer.concat([uint32(1), Buffer.from([16]), block])
    peer.send(frame(FRAME_HEADERS, FLAG_END_HEADERS | FLAG_PRIORITY, 1, payload), priorityFrame(1, 1))
    assert.deepEqual(peer.requests, [[...CONNECT_FIELDS]])
    assert.deepEqual(peer.resetNames(), [])
  })

  test('unknown frames, unknown settings and PRIORITY, on any stream', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.send(frame(0xee, 0xff, 77, Buffer.from('?')), settingsFrame(0x77, 9), priorityFrame(9, 7), priorityFrame(2, 0))
    peer.request(1)
    assert.equal(peer.failed, null)
  })

  test('reserved bits of stream ids and increments', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.send(windowUpdateFrame(0, 0x8000_0001), frame(FRAME_PING, 0, 0x8000_0000, Buffer.alloc(8)))
    assert.equal(peer.failed, null)
    assert.equal(peer.takeOf(FRAME_PING).length, 1)
  })

  test('host beside authority when they are the same but for case', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    peer.request(1, [...GET_FIELDS, 'host', 'A'])
  })

  test('GOAWAY of a client, whose open streams go on', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const stream = peer.request(1)
    peer.send(goAwayFrame(0, 0), dataFrame(1, 'on', true))
    assert.deepEqual(peer.goAways, [0])
    assert.equal(stream.text, 'on')
  })
})

describe('a client ends the connection', () => {
  const CASES: readonly (readonly [string, string, (peer: ScriptedH2Peer) => Uint8Array[]])[] = [
    ['HEADERS on a stream it has not opened', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(3, [':status', '200'])]],
    ['HEADERS on an even stream', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(2, [':status', '200'])]],
    ['DATA on a stream it has not opened', 'PROTOCOL_ERROR', () => [dataFrame(3, 'x')]],
    ['PUSH_PROMISE', 'PROTOCOL_ERROR', () => [frame(FRAME_PUSH_PROMISE, FLAG_END_HEADERS, 1, uint32(2))]],
    ['a server that enables push', 'PROTOCOL_ERROR', () => [settingsFrame(2, 1)]],
    [
      'HEADERS on a stream that the peer has ended',
      'STREAM_CLOSED',
      (peer) => [resetFrame(1, 8), peer.headersFrame(1, [':status', '200'])],
    ],
  ]
  for (const [name, code, script] of CASES) {
    test(`for ${name}, with ${code}`, () => {
      const { peer, recorder } = clientPeer()
      peer.send(...script(peer))
      assert.equal(peer.goAwayName(), code)
      assert.ok(recorder.closed !== null)
    })
  }

  test('for a server that begins with something other than SETTINGS', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS, false)
    peer.send(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'))
    assert.ok(peer.failed !== null)
    assert.deepEqual(peer.sink.endings, ['close'])
  })
})

describe('a client ends only the stream', () => {
  const CASES: readonly (readonly [string, string, (peer: ScriptedH2Peer) => Uint8Array[]])[] = [
    ['DATA before a head', 'PROTOCOL_ERROR', () => [dataFrame(1, 'x')]],
    ['a head without status', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, ['a', 'b'])]],
    ['a status that is no number', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '2x0'])]],
    ['a status of four digits', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '2000'])]],
    ['status 99', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '099'])]],
    ['status 101', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '101'])]],
    ['two statuses', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '200', ':status', '200'])]],
    ['a 1xx head that ends it', 'PROTOCOL_ERROR', (peer) => [peer.headersFrame(1, [':status', '103'], true)]],
    [
      'a second final head',
      'PROTOCOL_ERROR',
      (peer) => [peer.headersFrame(1, [':status', '200']), peer.headersFrame(1, [':status', '200'])],
    ],
    [
      'a list above the announced size',
      'ENHANCE_YOUR_CALM',
      (peer) => [peer.headersFrame(1, [':status', '200', 'a', 'x'.repeat(17_000)])],
    ],
  ]
  for (const [name, code, script] of CASES) {
    test(`for ${name}, with ${code}`, () => {
      const { peer, recorder } = clientPeer()
      peer.send(...script(peer))
      assert.deepEqual(peer.resetNames(), [`1:${code}`])
      assert.equal(recorder.closed?.[0], CLOSED_BY_VIOLATION)
      assert.equal(peer.failed, null)
    })
  }
})

describe('windows', () => {
  test('a peer that sends more than a stream allows loses the stream', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const stream = peer.request(1)
    stream.stream!.pauseReading()
    for (let sent = 0; sent < WINDOW_4M; sent += 1 << 20) peer.send(dataFrame(1, Buffer.alloc(1 << 20)))
    assert.equal(stream.closed, null)
    peer.send(dataFrame(1, 'x'))
    assert.deepEqual(peer.resetNames(), ['1:FLOW_CONTROL_ERROR'])
    assert.equal(stream.closed?.[0], CLOSED_BY_VIOLATION)
  })

  test('a peer that sends more than the connection allows loses the connection', () => {
    const peer = new ScriptedH2Peer({ ...HBONE_SERVER_SETTINGS, connectionWindowBytes: 100_000 })
    // Never flushed and given back in steps of a quarter only, so one frame above the window is enough.
    const stream = peer.request(1)
    peer.send(dataFrame(1, Buffer.alloc(100_001)))
    assert.equal(peer.failed?.[0], 'FLOW_CONTROL_ERROR')
    assert.deepEqual(stream.closed, [CLOSED_WITH_CONNECTION, 3])
  })

  test('END_STREAM alone needs no window', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS)
    const stream = peer.request(1)
    peer.send(settingsFrame(4, 0))
    peer.take()
    stream.stream!.sendHeaders([':status', '200'], false)
    stream.stream!.end()
    peer.flush()
    const frames = peer.take()
    assert.deepEqual(
      frames.map((one) => [one.type, one.flags]),
      [
        [FRAME_HEADERS, FLAG_END_HEADERS],
        [FRAME_DATA, FLAG_END_STREAM],
      ],
    )
  })
})
