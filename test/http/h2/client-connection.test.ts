import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BODY_CHUNKED } from '../../../src/http/codec.ts'
import { FRAME_WINDOW_UPDATE } from '../../../src/http/h2/frame.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { H2ClientPeer } from '../../support/h2-codec-peer.ts'
import { dataFrame, goAwayFrame, resetFrame, settingsFrame, windowUpdateFrame } from '../../support/scripted-h2-peer.ts'

const SETTING_STREAMS_MAX = 3
const SETTING_CONNECT_PROTOCOL = 8
/** The handshake of RFC 6455 section 1.3. */
const WEBSOCKET_KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const WEBSOCKET_ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='

function write(stream: { writeBody(bytes: Uint8Array, offset: number, length: number): number }, text: string): number {
  return stream.writeBody(Buffer.from(text, 'latin1'), 0, text.length)
}

function webSocketHeaders(): HeaderList {
  return HeaderList.of([
    ['sec-websocket-version', '13'],
    ['sec-websocket-key', WEBSOCKET_KEY],
  ])
}

test('a request without a body, and its response with trailers', () => {
  const peer = new H2ClientPeer()
  peer.open('a', { target: '/x?y', headers: HeaderList.of([['x-one', '1']]) })
  assert.deepEqual(peer.take(), ['1 headers :method=GET :scheme=http :path=/x?y :authority=example.com x-one=1 end'])
  peer.send(peer.headers(1, [':status', '200', 'x-answer', 'yes']), dataFrame(1, 'hello'))
  peer.send(peer.headers(1, ['grpc-status', '0'], true))
  assert.deepEqual(peer.takeLog(), [
    'a response 200 body=chunked',
    '  x-answer: "yes"',
    'body "hello"',
    '  trailer grpc-status: "0"',
    'a end',
  ])
  assert.equal(peer.freed, 1)
  assert.equal(peer.connection.activeCount, 0)
})

test('bodies, trailers and what a request says of its body', () => {
  const peer = new H2ClientPeer()
  const known = peer.open('a', { method: 'POST', bodyLength: 5 })
  write(known, 'hello')
  known.end(null)
  const unknown = peer.open('b', { method: 'POST', bodyLength: BODY_CHUNKED, expectsContinue: true })
  write(unknown, 'x')
  unknown.end(HeaderList.of([['x-sum', '7']]))
  assert.deepEqual(peer.take(), [
    '1 headers :method=POST :scheme=http :path=/ :authority=example.com content-length=5',
    '1 data "hello"',
    '1 data "" end',
    '3 headers :method=POST :scheme=http :path=/ :authority=example.com expect=100-continue',
    '3 data "x"',
    '3 headers x-sum=7 end',
  ])
})

test('headers of one hop stay behind; te: trailers goes on', () => {
  const peer = new H2ClientPeer()
  const headers = HeaderList.of([
    ['connection', 'x'],
    ['keep-alive', '1'],
    ['proxy-connection', '1'],
    ['transfer-encoding', 'chunked'],
    ['upgrade', 'h2c'],
    ['host', 'other'],
    ['te', 'trailers'],
    ['x-stays', '1'],
  ])
  peer.open('a', { headers })
  assert.deepEqual(peer.take(), [
    '1 headers :method=GET :scheme=http :path=/ :authority=example.com x-stays=1 te=trailers end',
  ])
})

test('a response that is whole with its head; lengths of responses', () => {
  const peer = new H2ClientPeer()
  for (const name of ['a', 'b', 'c']) peer.open(name)
  peer.open('d', { method: 'HEAD' })
  peer.send(
    peer.headers(1, [':status', '404', 'content-length', '0'], true),
    peer.headers(3, [':status', '200', 'content-length', '2']),
    dataFrame(3, 'ok', true),
    peer.headers(5, [':status', '304', 'content-length', '9'], true),
    peer.headers(7, [':status', '200', 'content-length', '7']),
    dataFrame(7, '', true),
  )
  assert.deepEqual(peer.takeLog(), [
    'a response 404 body=0',
    'a end',
    'b response 200 body=2',
    'body "ok"',
    'b end',
    'c response 304 body=0',
    '  content-length: "9"',
    'c end',
    'd response 200 body=0',
    '  content-length: "7"',
    'd end',
  ])
})

test('a body of another length than declared, or one to HEAD, breaks the exchange', () => {
  const peer = new H2ClientPeer()
  peer.open('a')
  peer.open('b')
  peer.open('c', { method: 'HEAD' })
  peer.send(
    peer.headers(1, [':status', '200', 'content-length', '2']),
    dataFrame(1, 'x', true),
    peer.headers(3, [':status', '200', 'content-length', '2']),
    dataFrame(3, 'xyz', true),
    peer.headers(5, [':status', '200']),
    dataFrame(5, 'x', true),
  )
  assert.deepEqual(
    peer.takeLog().filter((line) => line.includes('reset')),
    ['a', 'b', 'c'].map((name) => `${name} reset the upstream broke HTTP/2 rules on the stream (PROTOCOL_ERROR)`),
  )
})

test('interim responses are passed on, up to a limit', () => {
  const peer = new H2ClientPeer()
  peer.open('a')
  peer.send(peer.headers(1, [':status', '103', 'link', '</a>']), peer.headers(1, [':status', '200'], true))
  assert.deepEqual(peer.takeLog(), ['a informational 103', '  link: "</a>"', 'a response 200 body=0', 'a end'])
  peer.open('b')
  for (let i = 0; i < 17; i++) peer.send(peer.headers(3, [':status', '100']))
  assert.equal(peer.takeLog().at(-1), 'b reset the upstream sent too many interim responses')
  assert.equal(peer.take().at(-1), '3 reset PROTOCOL_ERROR')
})

test('only a refused stream and a GOAWAY that does not cover it were certainly not processed', () => {
  const peer = new H2ClientPeer()
  for (const name of ['a', 'b', 'c', 'd']) peer.open(name)
  peer.send(resetFrame(1, 7), resetFrame(3, 2))
  assert.deepEqual(peer.takeLog(), [
    'a reset the upstream did not take the stream (REFUSED_STREAM) (not processed)',
    'b reset the upstream reset the stream (INTERNAL_ERROR)',
  ])
  peer.send(goAwayFrame(5, 0))
  assert.deepEqual(peer.takeLog(), ['d reset the upstream did not take the stream (NO_ERROR) (not processed)'])
  assert.equal(peer.isUnusable, true)
  assert.equal(peer.connection.canOpen, false)
  assert.equal(peer.connection.isReusable, false)
  peer.connection.receiveClose()
  assert.deepEqual(peer.takeLog(), ['c reset the upstream closed the connection'])
})

test('a server that breaks the rules of the connection takes every exchange with it', () => {
  const peer = new H2ClientPeer()
  peer.open('a')
  peer.send(dataFrame(0, 'x'))
  assert.deepEqual(peer.takeLog(), [
    'a reset the upstream broke HTTP/2 rules, so its connection was closed (PROTOCOL_ERROR)',
    'violation frame_on_connection',
  ])
  assert.equal(peer.isUnusable, true)
  assert.deepEqual(peer.sink.endings, ['close'])
})

test('a server that speaks HTTP/1 is found out', () => {
  const peer = new H2ClientPeer(null)
  peer.open('a')
  peer.send(Buffer.from('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n'))
  assert.match(peer.takeLog()[0]!, /^a reset the upstream broke HTTP\/2 rules/)
})

test('a reset gives the stream up; nothing more is told, also of a response that was complete', () => {
  const peer = new H2ClientPeer()
  const stream = peer.open('a', { method: 'POST', bodyLength: BODY_CHUNKED })
  peer.take()
  peer.send(peer.headers(1, [':status', '200'], true))
  peer.takeLog()
  stream.reset()
  assert.deepEqual(peer.take(), ['1 reset CANCEL'])
  write(stream, 'late')
  stream.end(null)
  stream.pauseResponse()
  stream.resumeResponse()
  peer.send(resetFrame(1, 0))
  assert.deepEqual(peer.takeLog(), [])
  assert.deepEqual(peer.take(), [])
  assert.equal(peer.freed, 1)
})

test('a paused response is held back by its window, and only it', () => {
  const peer = new H2ClientPeer()
  const stream = peer.open('a')
  peer.open('b')
  peer.send(peer.headers(1, [':status', '200']), peer.headers(3, [':status', '200']))
  peer.takeLog()
  stream.pauseResponse()
  stream.pauseResponse()
  for (let i = 0; i < 30; i++) peer.send(dataFrame(1, Buffer.alloc(16_000, 'x')))
  peer.send(dataFrame(1, '', true))
  peer.send(dataFrame(3, 'other', true))
  assert.deepEqual(peer.takeLog(), ['body "other"', 'b end'])
  assert.deepEqual(
    peer.framesOf(FRAME_WINDOW_UPDATE).filter(({ streamId }) => streamId === 1),
    [],
  )
  stream.resumeResponse()
  peer.batch.end()
  const log = peer.takeLog()
  assert.equal(log[0]!.length, 'body ""'.length + 480_000)
  assert.equal(log[1], 'a end')
})

test('a backlog is told, and its end', () => {
  const peer = new H2ClientPeer()
  const stream = peer.open('a', { method: 'POST', bodyLength: BODY_CHUNKED })
  write(stream, 'x'.repeat(65_535))
  assert.equal(write(stream, 'y'.repeat(300_000)), 300_000)
  peer.send(windowUpdateFrame(0, 1_000_000), windowUpdateFrame(1, 1_000_000))
  assert.deepEqual(peer.takeLog(), ['a drain'])
})

test('exchanges run side by side as the server allows; before it has told, a hundred', () => {
  const silent = new H2ClientPeer(null)
  for (let i = 0; i < 100; i++) silent.open(`${i}`)
  assert.equal(silent.connection.canOpen, false)
  const peer = new H2ClientPeer(settingsFrame(SETTING_STREAMS_MAX, 2))
  peer.open('a')
  assert.equal(peer.connection.canOpen, true)
  peer.open('b')
  assert.equal(peer.connection.canOpen, false)
  assert.equal(peer.connection.activeCount, 2)
  peer.send(peer.headers(1, [':status', '200'], true))
  assert.equal(peer.connection.canOpen, true)
})

/** Heads that would be read as something else behind a translation. */
const unsendable = [
  { method: 'CONNECT', target: '', authority: 'a:80' },
  { target: '/a b' },
  { target: '/a\r\nx: y' },
  { target: '' },
  { method: 'G ET' },
  { authority: 'a b' },
]

for (const head of unsendable) {
  test(`a head that cannot be sent ends at once and leaves the connection as it was: ${JSON.stringify(head)}`, () => {
    const peer = new H2ClientPeer()
    peer.open('a', head)
    assert.deepEqual(peer.takeLog(), ['a reset the request cannot be sent over HTTP/2'])
    assert.deepEqual(peer.take(), [])
    assert.equal(peer.connection.canOpen, true)
    assert.equal(peer.connection.activeCount, 0)
  })
}

test('an upgrade to WebSocket is an extended CONNECT, and its answer the 101 of the handshake', () => {
  const peer = new H2ClientPeer(settingsFrame(SETTING_CONNECT_PROTOCOL, 1))
  const headers = webSocketHeaders()
  const stream = peer.open('a', { target: '/ws', upgrade: 'websocket', headers })
  assert.deepEqual(peer.take(), [
    '1 headers :method=CONNECT :scheme=http :path=/ws :authority=example.com :protocol=websocket sec-websocket-version=13',
  ])
  assert.equal(headers.get('sec-websocket-key'), WEBSOCKET_KEY, 'another try finds the head as it was')
  // The accept of a proxy's own handshake behind it (Envoy lets it through) is not for our client's key.
  const fields = [':status', '200', 'x-app', '1', 'sec-websocket-accept', 'of another key']
  peer.send(peer.headers(1, fields), dataFrame(1, 'hello'))
  assert.deepEqual(peer.takeLog(), [
    'a response 101 body=until-close',
    '  x-app: "1"',
    '  upgrade: "websocket"',
    `  sec-websocket-accept: "${WEBSOCKET_ACCEPT}"`,
    'body "hello"',
  ])
  write(stream, 'ping')
  stream.end(null)
  assert.deepEqual(peer.take(), ['1 data "ping"', '1 data "" end'])
  peer.send(dataFrame(1, 'bye', true))
  assert.deepEqual(peer.takeLog(), ['body "bye"', 'a end'])
  assert.equal(peer.connection.activeCount, 0)
})

test('a tunnel whose half is over still hears of a reset', () => {
  const peer = new H2ClientPeer(settingsFrame(SETTING_CONNECT_PROTOCOL, 1))
  peer.open('a', { upgrade: 'websocket', headers: webSocketHeaders() })
  peer.send(peer.headers(1, [':status', '200']), dataFrame(1, '', true))
  peer.takeLog()
  peer.send(resetFrame(1, 8))
  assert.deepEqual(peer.takeLog(), ['a reset the upstream reset the stream (CANCEL)'])
})

test('an upgrade waits for the settings; a server without extended CONNECT gets an ordinary request', () => {
  const peer = new H2ClientPeer(null)
  peer.open('a', { upgrade: 'websocket', headers: webSocketHeaders() })
  const given = peer.open('b', { upgrade: 'websocket', headers: webSocketHeaders() })
  assert.deepEqual(peer.take(), [])
  assert.equal(peer.connection.activeCount, 2)
  given.reset()
  peer.send(settingsFrame())
  assert.deepEqual(peer.take(), [
    `1 headers :method=GET :scheme=http :path=/ :authority=example.com sec-websocket-version=13 sec-websocket-key=${WEBSOCKET_KEY} end`,
  ])
  assert.equal(peer.connection.activeCount, 1)
  peer.send(peer.headers(1, [':status', '400'], true))
  assert.deepEqual(peer.takeLog(), ['a response 400 body=0', 'a end'])
})

test('an upgrade that waits when the connection goes was not processed', () => {
  const peer = new H2ClientPeer(null)
  peer.open('a', { upgrade: 'websocket', headers: webSocketHeaders() })
  peer.connection.receiveEnd()
  assert.deepEqual(peer.takeLog(), ['a reset the upstream closed the connection (not processed)'])
})
