/** RFC 9113 sections 6.8, 6.9 and 8: HTTP messages, going away, and the arithmetic of windows, in both roles. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FRAME_DATA, FRAME_GOAWAY, FRAME_WINDOW_UPDATE } from '../../../src/http/h2/frame.ts'
import { APP_SERVER_SETTINGS } from '../../../src/http/h2/limits.ts'
import { CLOSED_UNPROCESSED } from '../../../src/http/h2/stream.ts'
import { POST_FIELDS, type Requirement, Situation, testRequirements } from '../../support/h2-requirements.ts'
import {
  dataFrame,
  frame,
  GET_FIELDS,
  goAwayFrame,
  pingFrame,
  ScriptedH2Peer,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'

const SOCKET_FIELDS: readonly string[] = [':method', 'CONNECT', ':protocol', 'websocket', ...GET_FIELDS.slice(2)]

/** A request that is malformed costs its stream. */
function malformed(section: string, title: string, fields: readonly string[]): Requirement {
  return [section, title, (peer) => [peer.headersFrame(5, fields, true)], 'stream 5 PROTOCOL_ERROR']
}

function good(section: string, title: string, fields: readonly string[]): Requirement {
  return [section, title, (peer) => [peer.headersFrame(5, fields, true)], 'tolerated']
}

describe('RFC 9113 section 8: requests', () => {
  testRequirements('server', [
    good('8.1', 'a request', GET_FIELDS),
    ['8.1', 'trailers', (peer) => [dataFrame(1, 'x'), peer.headersFrame(1, ['x-sum', '1'], true)], 'tolerated'],
    ['8.1', 'trailers without body', (peer) => [peer.headersFrame(1, ['x-sum', '1'], true)], 'tolerated'],
    [
      '8.1',
      'a second head that does not end the stream',
      (peer) => [peer.headersFrame(1, ['a', 'b'])],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1',
      'a pseudo-header in trailers',
      (peer) => [peer.headersFrame(1, [':path', '/'], true)],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1',
      'a connection header in trailers',
      (peer) => [peer.headersFrame(1, ['connection', 'close'], true)],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'more body than declared',
      (peer) => [peer.headersFrame(5, [...POST_FIELDS, 'content-length', '1']), dataFrame(5, 'xx')],
      'stream 5 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'less body than declared',
      (peer) => [peer.headersFrame(5, [...POST_FIELDS, 'content-length', '3']), dataFrame(5, 'xx', true)],
      'stream 5 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'a declared body that never comes',
      (peer) => [peer.headersFrame(5, [...POST_FIELDS, 'content-length', '3'], true)],
      'stream 5 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'as much body as declared, in pieces',
      (peer) => [
        peer.headersFrame(5, [...POST_FIELDS, 'content-length', '2']),
        dataFrame(5, 'x'),
        dataFrame(5, 'x', true),
      ],
      'tolerated',
    ],
    malformed('8.1.1', 'a length that is no number', [...GET_FIELDS, 'content-length', '-1']),
    malformed('8.1.1', 'two lengths', [...GET_FIELDS, 'content-length', '0', 'content-length', '1']),
    malformed('8.2.1', 'an upper-case name', [...GET_FIELDS, 'X-A', 'b']),
    malformed('8.2.1', 'a space in a name', [...GET_FIELDS, 'x a', 'b']),
    malformed('8.2.1', 'a colon in a name', [...GET_FIELDS, 'x:a', 'b']),
    malformed('8.2.1', 'a DEL in a name', [...GET_FIELDS, 'x\x7f', 'b']),
    malformed('8.2.1', 'a byte above ASCII in a name', [...GET_FIELDS, 'x\xe9', 'b']),
    malformed('8.2.1', 'an empty name', [...GET_FIELDS, '', 'b']),
    malformed('8.2.1', 'NUL in a value', [...GET_FIELDS, 'x-a', 'b\0']),
    malformed('8.2.1', 'CR in a value', [...GET_FIELDS, 'x-a', 'b\rc']),
    malformed('8.2.1', 'LF in a value', [...GET_FIELDS, 'x-a', 'b\nc: d']),
    malformed('8.2.1', 'a leading space in a value', [...GET_FIELDS, 'x-a', ' b']),
    malformed('8.2.1', 'a trailing tab in a value', [...GET_FIELDS, 'x-a', 'b\t']),
    good('8.2.1', 'bytes above ASCII in a value', [...GET_FIELDS, 'x-a', 'caf\xe9']),
    good('8.2.1', 'an empty value', [...GET_FIELDS, 'x-a', '']),
    ...['connection', 'proxy-connection', 'keep-alive', 'transfer-encoding', 'upgrade'].map((name) =>
      malformed('8.2.2', name, [...GET_FIELDS, name, 'x']),
    ),
    malformed('8.2.2', 'te other than trailers', [...GET_FIELDS, 'te', 'trailers, gzip']),
    good('8.2.2', 'te: trailers', [...GET_FIELDS, 'te', 'trailers']),
    good('8.2.3', 'cookie crumbs', [...GET_FIELDS, 'cookie', 'a=b', 'cookie', 'c=d']),
    malformed('8.3', 'an unknown pseudo-header', [...GET_FIELDS, ':unknown', 'x']),
    malformed('8.3', 'a pseudo-header of responses', [...GET_FIELDS, ':status', '200']),
    malformed('8.3', 'a pseudo-header behind a field', [':method', 'GET', 'a', 'b', ...GET_FIELDS.slice(2)]),
    malformed('8.3', 'a pseudo-header twice', [...GET_FIELDS, ':path', '/']),
    malformed('8.3.1', 'no method', GET_FIELDS.slice(2)),
    malformed('8.3.1', 'no scheme', [':method', 'GET', ':path', '/', ':authority', 'a']),
    malformed('8.3.1', 'no path', [':method', 'GET', ':scheme', 'http', ':authority', 'a']),
    malformed('8.3.1', 'an empty path', [':method', 'GET', ':scheme', 'http', ':path', '', ':authority', 'a']),
    malformed('8.3.1', 'a path that does not begin with a slash', [
      ':method',
      'GET',
      ':scheme',
      'http',
      ':path',
      'a',
      ':authority',
      'a',
    ]),
    malformed('8.3.1', '* with a method other than OPTIONS', [
      ':method',
      'GET',
      ':scheme',
      'http',
      ':path',
      '*',
      ':authority',
      'a',
    ]),
    good('8.3.1', '* with OPTIONS', [':method', 'OPTIONS', ':scheme', 'http', ':path', '*', ':authority', 'a']),
    malformed('8.3.1', 'a Host that is another authority', [...GET_FIELDS, 'host', 'b']),
    good('8.3.1', 'a Host that is the same authority', [...GET_FIELDS, 'host', 'a']),
    malformed('8.5', 'CONNECT with scheme and path', [':method', 'CONNECT', ...GET_FIELDS.slice(2)]),
    malformed('8.5', 'CONNECT without authority', [':method', 'CONNECT']),
    good('RFC 8441 4', 'extended CONNECT', SOCKET_FIELDS),
    malformed(
      'RFC 8441 4',
      'extended CONNECT without path',
      SOCKET_FIELDS.filter((_, i) => i < 6 || i > 7),
    ),
    malformed('RFC 8441 4', ':protocol with another method', [
      ':method',
      'GET',
      ':protocol',
      'websocket',
      ...GET_FIELDS.slice(2),
    ]),
  ])
})

describe('RFC 9113 section 8: responses', () => {
  const bad = (section: string, title: string, fields: readonly string[], isEnd = false): Requirement => [
    section,
    title,
    (peer) => [peer.headersFrame(1, fields, isEnd)],
    'stream 1 PROTOCOL_ERROR',
  ]
  testRequirements('client', [
    ['8.1', 'a response', (peer) => [peer.headersFrame(1, [':status', '200']), dataFrame(1, 'x', true)], 'tolerated'],
    [
      '8.1',
      'several 1xx, a response, trailers',
      (peer) => [
        peer.headersFrame(1, [':status', '100']),
        peer.headersFrame(1, [':status', '103']),
        peer.headersFrame(1, [':status', '200']),
        dataFrame(1, 'x'),
        peer.headersFrame(1, ['a', 'b'], true),
      ],
      'tolerated',
    ],
    bad('8.1', 'a 1xx that ends the stream', [':status', '103'], true),
    [
      '8.1',
      'DATA behind a 1xx',
      (peer) => [peer.headersFrame(1, [':status', '100']), dataFrame(1, 'x')],
      'stream 1 PROTOCOL_ERROR',
    ],
    ['8.1', 'DATA before a head', () => [dataFrame(1, 'x')], 'stream 1 PROTOCOL_ERROR'],
    [
      '8.1',
      'a second final head',
      (peer) => [peer.headersFrame(1, [':status', '200']), peer.headersFrame(1, [':status', '200'])],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1',
      'trailers with a pseudo-header',
      (peer) => [peer.headersFrame(1, [':status', '200']), peer.headersFrame(1, [':status', '200'], true)],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'more body than declared',
      (peer) => [peer.headersFrame(1, [':status', '200', 'content-length', '1']), dataFrame(1, 'xx')],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      'less body than declared',
      (peer) => [peer.headersFrame(1, [':status', '200', 'content-length', '3']), dataFrame(1, 'xx', true)],
      'stream 1 PROTOCOL_ERROR',
    ],
    [
      '8.1.1',
      '304 with a length and no body',
      (peer) => [peer.headersFrame(1, [':status', '304', 'content-length', '9'], true)],
      'tolerated',
    ],
    bad('8.2.1', 'an upper-case name', [':status', '200', 'X-A', 'b']),
    bad('8.2.1', 'LF in a value', [':status', '200', 'x-a', 'b\nc']),
    bad('8.2.2', 'a connection header', [':status', '200', 'connection', 'close']),
    bad('8.2.2', 'transfer-encoding', [':status', '200', 'transfer-encoding', 'chunked']),
    bad('8.3', 'a pseudo-header of requests', [':status', '200', ':path', '/']),
    bad('8.3.2', 'no status', ['a', 'b']),
    bad('8.3.2', 'two statuses', [':status', '200', ':status', '200']),
    bad('8.3.2', 'a status behind a field', ['a', 'b', ':status', '200']),
    bad('8.3.2', 'a status of two digits', [':status', '20']),
    bad('8.3.2', 'status 600', [':status', '600']),
    bad('8.6', 'status 101', [':status', '101']),
  ])
})

describe('RFC 9113 section 6.8: going away', () => {
  test('6.8, client: streams above the last id were not processed, the others go on, and nothing new is opened', () => {
    const situation = new Situation(false)
    const { peer } = situation
    peer.send(goAwayFrame(1, 0))
    assert.deepEqual(situation.stream(3).closed, [CLOSED_UNPROCESSED, 0])
    assert.equal(peer.engine.canOpen, false)
    peer.send(peer.headersFrame(1, [':status', '200']), dataFrame(1, 'on', true))
    assert.equal(situation.stream(1).text, 'on')
  })

  test('6.8, client: an answer to a PING that it never sent does not end it', () => {
    const { peer } = new Situation(false)
    peer.send(goAwayFrame(0, 0), pingFrame('weftdrai', 1))
    assert.deepEqual(peer.sink.endings, [])
    assert.equal(peer.takeOf(FRAME_GOAWAY).length, 0)
  })

  test('6.8, client: a second GOAWAY may only lower the last id', () => {
    const situation = new Situation(false)
    const { peer } = situation
    peer.send(goAwayFrame(0x7fff_ffff, 0))
    assert.equal(situation.stream(3).closed, null)
    peer.send(goAwayFrame(0, 0))
    assert.deepEqual(situation.stream(1).closed, [CLOSED_UNPROCESSED, 0])
    assert.deepEqual(situation.stream(3).closed, [CLOSED_UNPROCESSED, 0])
  })

  test('6.8, server: two steps, so that requests under way are served; later ones are not, and a client may repeat them', () => {
    const situation = new Situation(true)
    const { peer } = situation
    peer.engine.drain()
    peer.flush()
    assert.equal(peer.takeOf(FRAME_GOAWAY)[0]!.payload.readUInt32BE(0), 0x7fff_ffff)
    peer.request(5)
    peer.send(pingFrame('weftdrai', 1))
    assert.equal(peer.takeOf(FRAME_GOAWAY)[0]!.payload.readUInt32BE(0), 5)
    peer.send(peer.headersFrame(7, GET_FIELDS, true), dataFrame(7, 'x'), windowUpdateFrame(7, 9))
    assert.deepEqual(peer.take(), [], 'as if it had never been sent')
    assert.equal(peer.streams.size, 3)
    for (const id of [1, 3, 5]) peer.streams.get(id)!.stream!.sendHeaders([':status', '204'], true)
    peer.send(dataFrame(1, '', true), dataFrame(5, '', true))
    assert.deepEqual(peer.sink.endings, ['close'])
  })

  test('6.8, server: GOAWAY of a client does not touch its open requests, and new ones are still served', () => {
    const situation = new Situation(true)
    const { peer } = situation
    peer.send(goAwayFrame(0, 0))
    peer.send(dataFrame(1, 'on', true))
    assert.equal(situation.stream(1).text, 'on')
    assert.equal(peer.failed, null)
  })

  test('6.8: a connection error names the last stream that was looked at', () => {
    const { peer } = new Situation(true)
    peer.send(dataFrame(0, 'x'))
    assert.equal(peer.takeOf(FRAME_GOAWAY)[0]!.payload.readUInt32BE(0), 3)
  })
})

describe('RFC 9113 sections 5.2 and 6.9: windows', () => {
  test('5.1.2: one stream more than announced is refused and may be repeated; room comes with the end of another', () => {
    const peer = new ScriptedH2Peer({ ...APP_SERVER_SETTINGS, peerStreamsMax: 2 })
    peer.request(1)
    peer.request(3)
    peer.send(peer.headersFrame(5, POST_FIELDS))
    assert.deepEqual(peer.resetNames(), ['5:REFUSED_STREAM'])
    peer.streams.get(1)!.stream!.reset(0)
    peer.flush()
    peer.request(7)
  })

  test('6.9: DATA on a stream that is over is counted against the connection and given back', () => {
    const settings = { ...APP_SERVER_SETTINGS, connectionWindowBytes: 100_000 }
    const peer = new ScriptedH2Peer(settings)
    peer.request(1).stream!.reset(8)
    peer.flush()
    peer.take()
    let granted = 0
    for (let sent = 0; sent < 1_000_000; sent += 20_000) {
      peer.send(dataFrame(1, Buffer.alloc(20_000)))
      for (const update of peer.takeOf(FRAME_WINDOW_UPDATE)) {
        assert.equal(update.streamId, 0)
        granted += update.payload.readUInt32BE(0)
      }
    }
    assert.equal(peer.failed, null, 'a million bytes through a window of 100,000')
    assert.ok(granted > 900_000 && granted <= 1_000_000, `${granted}`)
  })

  test('6.9.1: padding and its length count', () => {
    const peer = new ScriptedH2Peer({ ...APP_SERVER_SETTINGS, streamWindowBytes: 100 })
    const stream = peer.request(1, POST_FIELDS)
    stream.stream!.pauseReading()
    peer.send(frame(0, 8, 1, Buffer.concat([Buffer.from([49]), Buffer.alloc(50), Buffer.alloc(49)])))
    assert.equal(peer.failed, null)
    peer.take()
    peer.send(dataFrame(1, Buffer.alloc(51)))
    assert.deepEqual(peer.resetNames(), ['1:FLOW_CONTROL_ERROR'])
  })

  test('6.9.2: a window that settings made negative must be paid back before anything is sent', () => {
    const { peer, stream } = answering()
    stream.write(Buffer.alloc(65_535), 0, 65_535)
    peer.flush()
    assert.equal(sentBytes(peer), 65_535)
    peer.send(windowUpdateFrame(0, 1_000_000), settingsFrame(4, 1000))
    stream.write(Buffer.alloc(100), 0, 100)
    // 1,000 - 65,535: the window is at -64,535.
    peer.send(windowUpdateFrame(1, 64_535))
    assert.equal(sentBytes(peer), 0, 'a window of 0 lets nothing through')
    peer.send(windowUpdateFrame(1, 1))
    assert.equal(sentBytes(peer), 1)
    peer.send(settingsFrame(4, 1099))
    assert.equal(sentBytes(peer), 99)
  })

  test('6.9.2: settings change streams and never the connection', () => {
    const { peer, stream } = answering()
    peer.send(settingsFrame(4, 1_000_000))
    stream.write(Buffer.alloc(100_000), 0, 100_000)
    peer.flush()
    assert.equal(sentBytes(peer), 65_535, 'the connection still has its first window')
    peer.send(windowUpdateFrame(0, 10))
    assert.equal(sentBytes(peer), 10)
  })

  test('6.9.3: a frame larger than the remaining window is cut, and the rest goes when there is room', () => {
    const { peer, stream } = answering()
    peer.send(settingsFrame(4, 10))
    stream.write(Buffer.alloc(25), 0, 25)
    stream.end()
    peer.flush()
    assert.deepEqual(dataOf(peer), [[10, 0]])
    peer.send(windowUpdateFrame(1, 20))
    assert.deepEqual(dataOf(peer), [[15, 1]])
  })
})

/** A server that answers a GET on stream 1. */
function answering(): { peer: ScriptedH2Peer; stream: NonNullable<ReturnType<ScriptedH2Peer['request']>['stream']> } {
  const peer = new ScriptedH2Peer(APP_SERVER_SETTINGS)
  const stream = peer.request(1, GET_FIELDS, true).stream!
  stream.sendHeaders([':status', '200'], false)
  peer.flush()
  peer.take()
  return { peer, stream }
}

/** Length and flags of the DATA frames since the last look. */
function dataOf(peer: ScriptedH2Peer): [number, number][] {
  return peer.takeOf(FRAME_DATA).map((one) => [one.payload.length, one.flags])
}

function sentBytes(peer: ScriptedH2Peer): number {
  return dataOf(peer).reduce((sum, [length]) => sum + length, 0)
}
