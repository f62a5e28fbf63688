import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BODY_CHUNKED } from '../../../src/http/codec.ts'
import { FRAME_SETTINGS, FRAME_WINDOW_UPDATE } from '../../../src/http/h2/frame.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { H2ServerPeer } from '../../support/h2-codec-peer.ts'
import { dataFrame, resetFrame, windowUpdateFrame } from '../../support/scripted-h2-peer.ts'

const GET = [':method', 'GET', ':scheme', 'http', ':path', '/a?b', ':authority', 'web:80']
const POST = [':method', 'POST', ':scheme', 'http', ':path', '/p', ':authority', 'web']
const WEBSOCKET = [
  ':method',
  'CONNECT',
  ':protocol',
  'websocket',
  ':scheme',
  'http',
  ':path',
  '/ws',
  ':authority',
  'web',
  'sec-websocket-version',
  '13',
]

test('a request and its response', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, [...GET, 'x-one', '1', 'x-two', ''], true))
  assert.deepEqual(peer.takeLog(), ['request GET http web:80 /a?b body=0', '  x-one: "1"', '  x-two: ""', 'end'])
  assert.equal(peer.last.head.version, 20)
  peer.last.respond(200, 5, [['x-answer', 'yes']])
  peer.last.write('hello')
  peer.last.stream.end(null)
  assert.deepEqual(peer.take(), [
    '1 headers :status=200 x-answer=yes content-length=5',
    '1 data "hello"',
    '1 data "" end',
  ])
  assert.equal(peer.connection.activeCount, 0)
})

test('a response without a body ends with its head, and its trailers come with the body', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true), peer.headers(3, GET, true))
  peer.exchanges[0]!.respond(404, 0)
  peer.exchanges[0]!.stream.end(null)
  peer.exchanges[1]!.respond(200, BODY_CHUNKED)
  peer.exchanges[1]!.write('x')
  peer.exchanges[1]!.stream.end(HeaderList.of([['grpc-status', '0']]))
  assert.deepEqual(peer.take(), [
    '1 headers :status=404 end',
    '3 headers :status=200',
    '3 data "x"',
    '3 headers grpc-status=0 end',
  ])
})

test('HEAD, 204 and 304 have no body, whatever is written, and HEAD and 304 tell a length', () => {
  const peer = new H2ServerPeer()
  const HEAD = [':method', 'HEAD', ':scheme', 'http', ':path', '/', ':authority', 'web']
  peer.send(
    peer.headers(1, HEAD, true),
    peer.headers(3, GET, true),
    peer.headers(5, GET, true),
    peer.headers(7, HEAD, true),
  )
  peer.exchanges[0]!.respond(200, 5)
  peer.exchanges[0]!.write('hello')
  peer.exchanges[0]!.stream.end(null)
  peer.exchanges[1]!.respond(204, 0)
  peer.exchanges[1]!.stream.end(null)
  peer.exchanges[2]!.respond(304, 0, [['content-length', '77']])
  peer.exchanges[2]!.stream.end(null)
  peer.exchanges[3]!.respond(200, 0, [['content-length', '88']])
  peer.exchanges[3]!.stream.end(null)
  assert.deepEqual(peer.take(), [
    '1 headers :status=200 content-length=5 end',
    '3 headers :status=204 end',
    '5 headers :status=304 content-length=77 end',
    '7 headers :status=200 content-length=88 end',
  ])
})

test('headers of one hop, and those that the engine writes itself, do not go out', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true))
  const fields: [string, string][] = [
    ['connection', 'x-hop'],
    ['keep-alive', '1'],
    ['transfer-encoding', 'chunked'],
    ['upgrade', 'h2c'],
    ['content-length', '9'],
    ['x-stays', '1'],
  ]
  peer.last.respond(200, BODY_CHUNKED, fields)
  assert.deepEqual(peer.take(), ['1 headers :status=200 x-stays=1'])
})

test('bodies and trailers of requests; a body has the declared length or is unknown', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, [...POST, 'content-length', '5']), dataFrame(1, 'he'), dataFrame(1, 'llo', true))
  assert.deepEqual(peer.takeLog(), ['request POST http web /p body=5', 'body "hello"', 'end'])
  peer.send(peer.headers(3, POST), dataFrame(3, 'x'), peer.headers(3, ['x-sum', '7'], true))
  assert.deepEqual(peer.takeLog(), ['request POST http web /p body=chunked', 'body "x"', '  trailer x-sum: "7"', 'end'])
})

test('a body of another length than declared resets the stream', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, [...POST, 'content-length', '3']), dataFrame(1, 'abcd'))
  assert.deepEqual(peer.takeLog().at(-1), 'reset the client broke HTTP/2 rules on the stream (PROTOCOL_ERROR)')
  peer.send(peer.headers(3, [...POST, 'content-length', '3']), dataFrame(3, 'ab', true))
  assert.deepEqual(peer.takeLog().at(-1), 'reset the client broke HTTP/2 rules on the stream (PROTOCOL_ERROR)')
  assert.deepEqual(peer.take(), ['1 reset PROTOCOL_ERROR', '3 reset PROTOCOL_ERROR'])
})

test('cookie crumbs become one field, te: trailers stays, Host stands in for :authority', () => {
  const peer = new H2ServerPeer()
  const noAuthority = GET.slice(0, 6)
  peer.send(
    peer.headers(
      1,
      [...noAuthority, 'cookie', 'a=1', 'host', 'h', 'te', 'trailers', 'x', 'y', 'cookie', 'b=2', 'cookie', 'c=3'],
      true,
    ),
  )
  assert.deepEqual(peer.takeLog(), [
    'request GET http h /a?b body=0',
    '  cookie: "a=1; b=2; c=3"',
    '  x: "y"',
    '  te: "trailers"',
    'end',
  ])
})

/** Requests that no exchange is made of: what is changed, and the answer. */
const refused: readonly [string, readonly string[], number, string][] = [
  ['a plain CONNECT', [':method', 'CONNECT', ':authority', 'a:80'], 501, 'connect'],
  ['CONNECT with another protocol', WEBSOCKET.with(3, 'connect-udp'), 501, 'connect'],
  ['a method with a space', GET.with(1, 'G ET'), 400, 'bad_method'],
  ['a path with a space', GET.with(5, '/a b'), 400, 'bad_target'],
  ['a path with a fragment', GET.with(5, '/a#b'), 400, 'bad_target'],
  ['a path with a backslash', GET.with(5, '/a\\b'), 400, 'bad_target'],
  ['a path with a byte above ASCII', GET.with(5, '/\xe4'), 400, 'bad_target'],
  ['a scheme that is not HTTP', GET.with(3, 'ftp'), 400, 'bad_scheme'],
  ['no authority', GET.slice(0, 6), 400, 'bad_host'],
  ['an authority with user information', GET.with(7, 'me@web'), 400, 'bad_host'],
  ['an authority with a path', GET.with(7, 'web/x'), 400, 'bad_host'],
  ['an authority with a bad port', GET.with(7, 'web:65536'), 400, 'bad_host'],
  ['an address that is not closed', GET.with(7, '[::1'), 400, 'bad_host'],
  ['two hosts', [...GET.slice(0, 6), 'host', 'a', 'host', 'b'], 400, 'bad_host'],
  ['an unknown expectation', [...GET, 'expect', 'magic'], 417, 'bad_expect'],
  [
    'too many fields',
    [...GET, ...Array.from({ length: 129 }, (_, i) => [`x-${i}`, '1']).flat()],
    431,
    'too_many_headers',
  ],
]

for (const [what, fields, status, reason] of refused) {
  test(`${what} is answered ${status} and makes no exchange`, () => {
    const peer = new H2ServerPeer()
    peer.send(peer.headers(1, fields, true))
    assert.deepEqual(peer.takeLog(), [`violation ${status} ${reason}`])
    const frames = peer.take()
    assert.match(frames[0]!, new RegExp(`^1 headers :status=${status} `))
    assert.match(frames.at(-1)!, /end$/)
    assert.equal(peer.connection.activeCount, 0)
    // The connection goes on.
    peer.send(peer.headers(3, GET, true))
    assert.equal(peer.exchanges.length, 1)
  })
}

test('requests that break the rules of HTTP/2 are reset and make no exchange', () => {
  const bad: readonly (readonly string[])[] = [
    [...GET, 'connection', 'close'],
    [...GET, 'transfer-encoding', 'chunked'],
    [...GET, 'te', 'gzip'],
    [...GET, 'host', 'other'],
    [...GET, ':protocol', 'websocket'],
    WEBSOCKET.filter((_, i) => i < 4 || i > 5),
    ['x-first', '1', ...GET],
  ]
  const peer = new H2ServerPeer()
  for (const [i, fields] of bad.entries()) {
    peer.send(peer.headers(2 * i + 1, fields, true))
    assert.deepEqual(peer.take(), [`${2 * i + 1} reset PROTOCOL_ERROR`])
    assert.deepEqual(peer.takeLog(), ['violation 0 malformed_head'])
  }
})

test('interim responses come before the final head', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, [...POST, 'expect', '100-continue']))
  assert.deepEqual(peer.takeLog(), ['request POST http web /p body=chunked expects-continue'])
  peer.last.stream.writeInformational(100, new HeaderList())
  peer.last.stream.writeInformational(103, HeaderList.of([['link', '</a>']]))
  peer.last.respond(200, 0)
  peer.last.stream.end(null)
  assert.deepEqual(peer.take(), [
    '1 headers :status=100',
    '1 headers :status=103 link=</a>',
    '1 headers :status=200 end',
    '1 reset NO_ERROR',
  ])
})

test('a response that ends first stops the client, once all of it is sent', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, POST), dataFrame(1, 'part'))
  peer.takeLog()
  peer.last.respond(413, BODY_CHUNKED)
  // More than the client's window: the rest waits.
  peer.last.write('x'.repeat(70_000))
  peer.last.stream.end(null)
  assert.deepEqual(
    peer.take().filter((line) => !line.includes('data')),
    ['1 headers :status=413'],
  )
  peer.send(dataFrame(1, 'more'))
  assert.deepEqual(peer.takeLog(), [], 'nothing more is told')
  peer.send(windowUpdateFrame(1, 100_000), windowUpdateFrame(0, 100_000))
  assert.deepEqual(peer.take(), ['1 data 4465 end', '1 reset NO_ERROR'])
  assert.equal(peer.connection.activeCount, 0)
})

test('an answer given inside onRequest, and a reset there', () => {
  const peer = new H2ServerPeer()
  peer.whenRequest = (exchange) => {
    exchange.respond(403, 2)
    exchange.write('no')
    exchange.stream.end(null)
  }
  peer.send(peer.headers(1, GET, true))
  assert.deepEqual(peer.takeLog(), ['request GET http web:80 /a?b body=0'])
  assert.deepEqual(peer.take(), ['1 headers :status=403 content-length=2', '1 data "no"', '1 data "" end'])
  peer.whenRequest = (exchange) => exchange.stream.reset()
  peer.send(peer.headers(3, GET, true))
  assert.deepEqual(peer.take(), ['3 reset INTERNAL_ERROR'])
})

test('a client that resets, and one that goes, are told with a reason; then calls do nothing', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, POST), peer.headers(3, POST))
  peer.takeLog()
  peer.send(resetFrame(1, 8))
  assert.deepEqual(peer.takeLog(), ['reset the client reset the stream (CANCEL)'])
  peer.connection.receiveClose()
  assert.deepEqual(peer.takeLog(), ['reset the client closed the connection'])
  for (const exchange of peer.exchanges) {
    exchange.respond(200, BODY_CHUNKED)
    exchange.write('late')
    exchange.stream.end(null)
    exchange.stream.pauseRequest()
    exchange.stream.resumeRequest()
    exchange.stream.reset()
  }
  assert.deepEqual(peer.take(), [])
})

test("a client's half-close takes its exchanges with it", () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true))
  peer.takeLog()
  peer.connection.receiveEnd()
  assert.deepEqual(peer.takeLog(), ['reset the client closed the connection'])
  assert.deepEqual(peer.sink.endings, ['close'])
})

test('a paused request is held back by its window, and only it', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, POST), peer.headers(3, POST))
  peer.takeLog()
  peer.exchanges[0]!.stream.pauseRequest()
  peer.exchanges[0]!.stream.pauseRequest()
  const chunk = Buffer.alloc(16_000, 'x')
  for (let i = 0; i < 40; i++) peer.send(dataFrame(1, chunk))
  assert.deepEqual(peer.takeLog(), [])
  assert.deepEqual(
    peer.framesOf(FRAME_WINDOW_UPDATE).filter(({ streamId }) => streamId === 1),
    [],
  )
  peer.send(dataFrame(3, 'other'))
  assert.deepEqual(peer.takeLog(), ['body "other"'])
  peer.exchanges[0]!.stream.resumeRequest()
  peer.batch.end()
  assert.equal(peer.takeLog()[0]!.length, 'body ""'.length + 640_000)
  assert.notEqual(peer.framesOf(FRAME_WINDOW_UPDATE).filter(({ streamId }) => streamId === 1).length, 0)
})

test('a backlog is told, and its end', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true))
  peer.takeLog()
  peer.last.respond(200, BODY_CHUNKED)
  assert.equal(peer.last.write('x'.repeat(65_535)), 0)
  assert.equal(peer.last.write('y'.repeat(300_000)), 300_000)
  peer.send(windowUpdateFrame(0, 1_000_000), windowUpdateFrame(1, 1_000_000))
  assert.deepEqual(peer.takeLog(), ['drain'])
})

test('the server says that it takes extended CONNECT, and how many streams', () => {
  const peer = new H2ServerPeer()
  const payload = peer.sink.frames.find(({ type }) => type === FRAME_SETTINGS)!.payload
  const settings = new Map<number, number>()
  for (let i = 0; i < payload.length; i += 6) settings.set(payload.readUInt16BE(i), payload.readUInt32BE(i + 2))
  assert.equal(settings.get(8), 1)
  assert.equal(settings.get(3), 1000)
})

test('a WebSocket is a GET with an upgrade; 101 opens it as 200, and it half-closes each way', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, WEBSOCKET), dataFrame(1, 'early'))
  const log = peer.takeLog()
  assert.equal(log[0], 'request GET http web /ws body=0 upgrade=websocket')
  assert.equal(log.length, 3, 'nothing of the tunnel is told before it is open')
  assert.match(log[2]!, /^ {2}sec-websocket-key: "[A-Za-z0-9+/]{22}=="$/)
  peer.last.respond(101, BODY_CHUNKED, [
    ['upgrade', 'websocket'],
    ['sec-websocket-accept', 'abc'],
    ['x-app', '1'],
  ])
  assert.deepEqual(peer.take(), ['1 headers :status=200 x-app=1'])
  assert.deepEqual(peer.takeLog(), ['body "early"'])
  peer.last.write('hello')
  peer.last.stream.end(null)
  assert.deepEqual(peer.take(), ['1 data "hello"', '1 data "" end'])
  peer.send(dataFrame(1, 'late', true))
  assert.deepEqual(peer.takeLog(), ['body "late"', 'end'])
  assert.equal(peer.connection.activeCount, 0)
})

test('a refused WebSocket is an ordinary response; what the client sent early is dropped', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, WEBSOCKET), dataFrame(1, 'early'))
  peer.takeLog()
  peer.last.respond(403, 2)
  assert.deepEqual(peer.takeLog(), ['end'])
  peer.last.write('no')
  peer.last.stream.end(null)
  assert.deepEqual(peer.take(), [
    '1 headers :status=403 content-length=2',
    '1 data "no"',
    '1 data "" end',
    '1 reset NO_ERROR',
  ])
  assert.deepEqual(peer.takeLog(), [])
})

test('101 to a client that did not ask for it resets the stream', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true))
  peer.takeLog()
  peer.last.respond(101, BODY_CHUNKED)
  assert.deepEqual(peer.take(), ['1 reset INTERNAL_ERROR'])
  assert.deepEqual(peer.takeLog(), ['reset the response switches protocols, but the client did not ask for it'])
})

test('a drain lets open exchanges finish, then closes', () => {
  const peer = new H2ServerPeer()
  peer.send(peer.headers(1, GET, true))
  peer.connection.drain()
  assert.deepEqual(peer.take(), ['goaway 2147483647 NO_ERROR'])
  // On its way when the client heard of it.
  peer.send(peer.headers(3, GET, true))
  assert.equal(peer.exchanges.length, 2)
  const ping = peer.sink.frames.findLast(({ type }) => type === 6)!
  peer.send(Buffer.concat([Buffer.from([0, 0, 8, 6, 1, 0, 0, 0, 0]), ping.payload]))
  assert.deepEqual(peer.take(), ['goaway 3 NO_ERROR'])
  for (const exchange of peer.exchanges) {
    exchange.respond(200, 0)
    exchange.stream.end(null)
  }
  assert.deepEqual(peer.take(), ['1 headers :status=200 end', '3 headers :status=200 end'])
  assert.deepEqual(peer.sink.endings, ['close'])
})

test('a flood of resets ends the connection, and every exchange hears of it', () => {
  const peer = new H2ServerPeer()
  for (let id = 1; peer.sink.endings.length === 0; id += 2) {
    assert.ok(id < 5000, 'the flood was stopped')
    peer.send(peer.headers(id, GET, true), resetFrame(id, 8))
  }
  assert.match(peer.take().at(-1)!, /^goaway [0-9]+ ENHANCE_YOUR_CALM$/)
  const log = peer.takeLog()
  assert.equal(
    log.filter((line) => line.startsWith('request')).length,
    log.filter((line) => line.startsWith('reset')).length,
  )
  assert.equal(log.at(-1), 'violation 0 rapid_reset')
})
