import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BODY_CHUNKED, BODY_UNTIL_CLOSE, type ClientStream } from '../../../src/http/codec.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { latin1, RecordingClient, requestHead } from '../../support/h1-recorders.ts'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'

function write(stream: ClientStream, text: string): number {
  return stream.writeBody(latin1(text), 0, text.length)
}

/** A client that has had one exchange, so that its connection is a reused one. */
function usedClient(): RecordingClient {
  const client = new RecordingClient()
  client.open()
  client.receive(OK)
  client.takeLog()
  client.sink.take()
  return client
}

// --- requests ---

test('a request without a body is sent whole by open', () => {
  const client = new RecordingClient()
  client.open({
    target: '/a?b',
    headers: HeaderList.of([
      ['X-Id', '7'],
      ['Connection', 'close'],
    ]),
  })
  assert.equal(client.sink.text, 'GET /a?b HTTP/1.1\r\nhost: example.com\r\nx-id: 7\r\n\r\n')
  assert.equal(client.connection.canOpen, false)
  assert.equal(client.connection.activeCount, 1)
  assert.equal(client.connection.isReusable, true)
})

test('methods that anticipate a body say when they have none', () => {
  for (const [method, says] of [
    ['POST', true],
    ['PUT', true],
    ['PATCH', true],
    ['DELETE', false],
    ['OPTIONS', false],
  ] as const) {
    const client = new RecordingClient()
    client.open({ method })
    assert.equal(client.sink.text.includes('content-length: 0\r\n'), says, method)
  }
})

test('a request body goes out by length or in chunks, with trailers', () => {
  const counted = new RecordingClient()
  const first = counted.open({ method: 'POST', bodyLength: 5 })
  write(first, 'hel')
  write(first, 'lo')
  first.end(null)
  assert.equal(counted.sink.text, 'POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 5\r\n\r\nhello')
  for (const bodyLength of [BODY_CHUNKED, BODY_UNTIL_CLOSE]) {
    const chunked = new RecordingClient()
    const stream = chunked.open({ method: 'POST', bodyLength })
    write(stream, 'hello')
    write(stream, '')
    stream.end(HeaderList.of([['X-Sum', '1']]))
    stream.end(null)
    assert.equal(
      chunked.sink.text,
      'POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n',
    )
  }
})

test('the end of a request without a body writes nothing', () => {
  const client = new RecordingClient()
  const stream = client.open()
  client.sink.take()
  stream.end(HeaderList.of([['x', 'y']]))
  assert.equal(client.sink.text, '')
})

test('TE: trailers is passed on with the Connection header that it needs', () => {
  const client = new RecordingClient()
  client.open({ headers: HeaderList.of([['te', 'trailers']]) })
  assert.equal(client.sink.text, 'GET / HTTP/1.1\r\nhost: example.com\r\nte: trailers\r\nconnection: te\r\n\r\n')
  const other = new RecordingClient()
  other.open({ headers: HeaderList.of([['te', 'gzip']]) })
  assert.equal(other.sink.text, 'GET / HTTP/1.1\r\nhost: example.com\r\n\r\n')
})

test('the expectation of 100 is passed on, and 100 is reported', () => {
  const client = new RecordingClient()
  const stream = client.open({ method: 'PUT', bodyLength: 2, expectsContinue: true })
  assert.match(client.sink.take(), /expect: 100-continue\r\ncontent-length: 2\r\n\r\n$/)
  client.receive('HTTP/1.1 100 Continue\r\n\r\n')
  write(stream, 'ok')
  stream.end(null)
  client.receive(OK)
  assert.deepEqual(client.takeLog(), ['informational 100', 'response 200 body=0', 'free', 'end'])
  assert.equal(client.connection.canOpen, true)
})

test('a request body that is longer or shorter than declared aborts the connection', () => {
  const long = new RecordingClient()
  const tooLong = long.open({ method: 'POST', bodyLength: 2 })
  assert.equal(write(tooLong, 'abc'), 0)
  assert.deepEqual(long.takeLog(), ['unusable', 'free', 'reset the request body is longer than declared'])
  assert.deepEqual(long.sink.endings, ['abort'])
  const short = new RecordingClient()
  const tooShort = short.open({ method: 'POST', bodyLength: 2 })
  write(tooShort, 'a')
  tooShort.end(null)
  assert.deepEqual(short.takeLog(), ['unusable', 'free', 'reset the request body is shorter than declared'])
  const unexpected = new RecordingClient()
  write(unexpected.open(), 'a')
  assert.deepEqual(unexpected.takeLog(), ['unusable', 'free', 'reset the request body is longer than declared'])
})

test('the writer is told when the backlog is sent', () => {
  const client = new RecordingClient()
  client.sink.backlog = 300_000
  const stream = client.open({ method: 'POST', bodyLength: BODY_CHUNKED })
  assert.equal(write(stream, 'x') >= 300_000, true)
  client.sink.backlog = 0
  client.connection.receiveDrain()
  assert.deepEqual(client.takeLog(), ['drain'])
  assert.equal(write(stream, 'x'), 0)
})

// --- responses ---

test('a connection serves one exchange after another', () => {
  const client = new RecordingClient()
  for (let i = 0; i < 3; i++) {
    assert.equal(client.connection.canOpen, true)
    client.open()
    client.receive('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    assert.deepEqual(client.takeLog(), ['response 200 body=2', 'body "ok"', 'free', 'end'])
    assert.equal(client.connection.activeCount, 0)
  }
})

test('the next exchange may be opened from onStreamClosed, before the end of the last is reported', () => {
  const client = new RecordingClient()
  client.open({ target: '/1' })
  client.onFree = () => {
    client.onFree = null
    client.open({ target: '/2' })
  }
  client.receive('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n')
  assert.deepEqual(client.takeLog(), ['response 200 body=chunked', 'free', '  trailer x-sum: "1"', 'end'])
  assert.match(client.sink.text, /GET \/2 HTTP\/1\.1\r\nhost: example.com\r\n\r\n$/)
  client.receive(OK)
  assert.deepEqual(client.takeLog(), ['response 200 body=0', 'free', 'end'])
})

test('bytes behind a response never become the answer to the next request', () => {
  const client = new RecordingClient()
  client.open({ target: '/1' })
  client.onFree = () => assert.equal(client.connection.canOpen, false)
  client.receive(`${OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`)
  assert.deepEqual(client.takeLog(), ['response 200 body=0', 'unusable', 'free', 'end'])
  assert.deepEqual(client.sink.endings, ['close'])
})

test('bytes that nobody asked for make an idle connection unusable', () => {
  const client = usedClient()
  client.receive('HTTP/1.1 408 Request Timeout\r\n\r\n')
  assert.deepEqual(client.takeLog(), ['unusable'])
  assert.equal(client.connection.canOpen, false)
  assert.equal(client.connection.isReusable, false)
  assert.deepEqual(client.sink.endings, ['abort'])
})

test('a response that is complete before its request ends the connection', () => {
  const client = new RecordingClient()
  const stream = client.open({ method: 'POST', bodyLength: 10 })
  write(stream, 'abc')
  client.receive(OK)
  assert.deepEqual(client.takeLog(), ['response 200 body=0', 'unusable', 'free', 'end'])
  assert.deepEqual(client.sink.endings, ['close'])
  client.sink.take()
  write(stream, 'defghij')
  stream.end(null)
  assert.equal(client.sink.text, '')
})

test('a response that comes when all bytes of the request are written, but before end, leaves the connection usable', () => {
  const client = new RecordingClient()
  const stream = client.open({ method: 'POST', bodyLength: 3 })
  write(stream, 'abc')
  client.receive(OK)
  stream.end(null)
  assert.equal(client.connection.canOpen, true)
})

test('pausing a response pauses reading once, and the end of the exchange lets go', () => {
  const client = new RecordingClient()
  const stream = client.open()
  stream.pauseResponse()
  stream.pauseResponse()
  assert.equal(client.sink.isPaused, true)
  stream.resumeResponse()
  assert.equal(client.sink.isPaused, false)
  stream.pauseResponse()
  client.receive(OK)
  assert.equal(client.sink.isPaused, false)
  stream.pauseResponse()
  assert.equal(client.sink.isPaused, false)
})

test('a response is delivered to its end although it was paused within', () => {
  const client = new RecordingClient()
  const stream = client.open()
  client.receive('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab')
  stream.pauseResponse()
  client.receive('cd')
  assert.equal(client.takeLog().at(-1), 'end')
})

// --- endings ---

test('a reused connection that closes before any answer did not serve the request', () => {
  for (const close of ['receiveEnd', 'receiveClose'] as const) {
    const client = usedClient()
    client.open()
    client.connection[close]()
    assert.match(client.takeLog().at(-1)!, /^reset .*\(not processed\)$/, close)
  }
})

test('a connection that closes counts as having served the request when it was new, had a body, or had begun to answer', () => {
  const fresh = new RecordingClient()
  fresh.open()
  fresh.connection.receiveEnd()
  assert.doesNotMatch(fresh.takeLog().at(-1)!, /not processed/)

  const withBody = usedClient()
  write(withBody.open({ method: 'POST', bodyLength: 3 }), 'a')
  withBody.connection.receiveClose()
  assert.doesNotMatch(withBody.takeLog().at(-1)!, /not processed/)

  const answering = usedClient()
  answering.open()
  answering.receive('H')
  answering.connection.receiveEnd()
  assert.doesNotMatch(answering.takeLog().at(-1)!, /not processed/)

  const interim = usedClient()
  interim.open()
  interim.receive('HTTP/1.1 102 Processing\r\n\r\n')
  interim.connection.receiveEnd()
  assert.doesNotMatch(interim.takeLog().at(-1)!, /not processed/)
})

test('a request with a body of which nothing is written yet was not served by a reused connection that closes', () => {
  const client = usedClient()
  client.open({ method: 'POST', bodyLength: 3 })
  client.connection.receiveEnd()
  assert.match(client.takeLog().at(-1)!, /\(not processed\)$/)
})

test('an idle connection that ends or closes is unusable', () => {
  const ended = usedClient()
  ended.connection.receiveEnd()
  assert.deepEqual(ended.takeLog(), ['unusable'])
  assert.deepEqual(ended.sink.endings, ['close'])
  const closed = usedClient()
  closed.connection.receiveClose()
  closed.connection.receiveClose()
  closed.connection.receiveEnd()
  assert.deepEqual(closed.takeLog(), ['unusable'])
  assert.equal(closed.connection.canOpen, false)
})

test('reset gives the exchange up and the connection with it, and the receiver hears nothing more', () => {
  const client = new RecordingClient()
  const stream = client.open()
  client.receive('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab')
  client.takeLog()
  stream.reset()
  stream.reset()
  client.receive('cd')
  client.connection.receiveClose()
  assert.deepEqual(client.takeLog(), ['unusable', 'free'])
  assert.deepEqual(client.sink.endings, ['abort'])
})

test('reset within a body stops the events at once', () => {
  const client = new RecordingClient()
  const stream = client.open()
  client.onResponseBody = () => stream.reset()
  client.receive('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n')
  assert.deepEqual(client.takeLog(), ['response 200 body=chunked', 'unusable', 'free'])
})

test('reset within the head of a response without a body stops the events at once', () => {
  const client = new RecordingClient()
  const stream = client.open()
  client.onResponseHead = () => stream.reset()
  client.receive(OK)
  assert.deepEqual(client.takeLog(), ['unusable', 'free'])
})

test('the pool hears of the end of a connection only after it was reset', () => {
  const client = new RecordingClient()
  client.open()
  client.onUnusable = () => assert.deepEqual(client.sink.endings, ['abort'])
  client.receive('nonsense\r\n')
  assert.equal(client.connection.isReusable, false)
})

// --- tunnels ---

test('an upgrade is asked for with its headers, and 101 makes a tunnel with half-close', () => {
  const client = new RecordingClient()
  const stream = client.open({ upgrade: 'websocket', headers: HeaderList.of([['Sec-WebSocket-Key', 'k']]) })
  assert.equal(
    client.sink.take(),
    'GET / HTTP/1.1\r\nhost: example.com\r\nsec-websocket-key: k\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n',
  )
  client.receive('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello')
  write(stream, 'raw')
  stream.end(null)
  assert.equal(client.sink.take(), 'raw')
  assert.deepEqual(client.sink.endings, ['end'])
  client.receive('more')
  client.connection.receiveEnd()
  assert.deepEqual(client.takeLog(), [
    'response 101 body=until-close',
    '  upgrade: "websocket"',
    'body "hellomore"',
    'end',
    'unusable',
    'free',
  ])
  client.connection.receiveClose()
  assert.deepEqual(client.takeLog(), [])
})

test('a writer that ended before the 101 half-closes when the tunnel opens', () => {
  const client = new RecordingClient()
  client.open({ upgrade: 'websocket' }).end(null)
  assert.deepEqual(client.sink.endings, [])
  client.receive('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n')
  assert.deepEqual(client.sink.endings, ['end'])
})

test('a tunnel that closes without both ends is a reset', () => {
  const client = new RecordingClient()
  client.open({ method: 'CONNECT', authority: 'h:443', target: '' })
  assert.match(client.sink.text, /^CONNECT h:443 HTTP\/1\.1\r\nhost: h:443\r\n\r\n$/)
  client.receive('HTTP/1.1 200 OK\r\n\r\n')
  client.connection.receiveEnd()
  client.connection.receiveClose()
  assert.deepEqual(client.takeLog().slice(-3), ['unusable', 'free', 'reset the upstream reset the connection'])
})

test('an exchange is opened only on an idle connection', () => {
  const client = new RecordingClient()
  client.open()
  assert.throws(() => client.connection.open(requestHead(), client), /only on an idle connection/)
})
