import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BODY_CHUNKED, BODY_UNTIL_CLOSE } from '../../../src/http/codec.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { latin1, RecordingServer } from '../../support/h1-recorders.ts'

const GET = 'GET / HTTP/1.1\r\nHost: h\r\n\r\n'
const GET_10 = 'GET / HTTP/1.0\r\n\r\n'
const WEBSOCKET = 'GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n'

function post(length: number, more = ''): string {
  return `POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ${length}\r\n${more}\r\n`
}

function serverWith(request: string): RecordingServer {
  const server = new RecordingServer()
  server.receive(request)
  return server
}

function write(server: RecordingServer, text: string): number {
  return server.last.stream.writeBody(latin1(text), 0, text.length)
}

// --- responses ---

test('head and body of a response leave in one write', () => {
  const server = new RecordingServer()
  server.onEnd = (exchange) => exchange.reply(200, 'hello', HeaderList.of([['X-Id', '7']]))
  server.receive(GET)
  assert.deepEqual(server.sink.writes, ['HTTP/1.1 200 OK\r\nx-id: 7\r\ncontent-length: 5\r\n\r\nhello'])
  assert.equal(server.connection.activeCount, 0)
})

test('the answers to pipelined requests leave in one write, in order', () => {
  const server = new RecordingServer()
  server.onEnd = (exchange) => exchange.reply(200, exchange.head.target)
  server.receive('GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n')
  assert.deepEqual(server.sink.writes, [
    'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/1HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/2',
  ])
})

test('a pipelined request waits, with reading paused, until the one before it is answered', () => {
  const server = serverWith('GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HT')
  assert.equal(server.exchanges.length, 1)
  assert.equal(server.sink.isPaused, true)
  server.last.reply()
  assert.equal(server.exchanges.length, 2)
  assert.equal(server.last.head.target, '/2')
  assert.equal(server.sink.isPaused, true)
  server.last.reply()
  assert.equal(server.sink.isPaused, false)
  server.receive('TP/1.1\r\nHost: h\r\n\r\n')
  assert.deepEqual(
    server.exchanges.map((exchange) => `${exchange.head.method} ${exchange.head.target}`),
    ['GET /1', 'GET /2', 'GET /3'],
  )
})

test('what the transport delivers after a pause comes after what is held', () => {
  const server = serverWith('GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTT')
  server.receive('P/1.1\r\nHost: h\r\n\r\n')
  server.last.reply()
  assert.equal(server.last.head.target, '/2')
})

test('ten thousand pipelined requests are answered without nesting calls', () => {
  const server = serverWith(GET)
  server.onEnd = (exchange) => exchange.reply(204)
  const rest = 'GET / HTTP/1.1\r\nHost:h\r\n\r\n'.repeat(10_000)
  server.receive(rest.slice(0, 200_000))
  server.exchanges[0]!.reply(204)
  server.receive(rest.slice(200_000))
  assert.equal(server.exchanges.length, 10_001)
  assert.equal(server.sink.text, 'HTTP/1.1 204 No Content\r\n\r\n'.repeat(10_001))
})

test('a body of unknown length is chunked, and empty pieces do not end it', () => {
  const server = serverWith(GET)
  server.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_CHUNKED })
  write(server, 'hello')
  write(server, '')
  write(server, 'x'.repeat(26))
  server.last.stream.end(null)
  assert.equal(
    server.sink.text,
    `HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1a\r\n${'x'.repeat(26)}\r\n0\r\n\r\n`,
  )
})

test('a body that lasts until the upstream closes is chunked towards HTTP/1.1', () => {
  const server = serverWith(GET)
  server.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  write(server, 'x')
  server.last.stream.end(null)
  assert.equal(server.sink.text, 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n')
  assert.deepEqual(server.sink.endings, [])
})

test('towards HTTP/1.0 a body of unknown length ends with the connection', () => {
  const server = serverWith('GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
  server.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_CHUNKED })
  write(server, 'x')
  server.last.stream.end(null)
  assert.equal(server.sink.text, 'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nx')
  assert.deepEqual(server.sink.endings, ['close'])
})

test('HTTP/1.0 is told whether the connection lives on', () => {
  const kept = serverWith('GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
  kept.last.reply(200, 'x')
  assert.equal(kept.sink.text, 'HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx')
  assert.deepEqual(kept.sink.endings, [])
  const closed = serverWith(GET_10)
  closed.last.reply(200, 'x')
  assert.equal(closed.sink.text, 'HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx')
  assert.deepEqual(closed.sink.endings, ['close'])
})

test('trailers go out with a chunked body and are left out elsewhere', () => {
  const trailers = HeaderList.of([
    ['X-Sum', '1'],
    ['content-length', '9'],
  ])
  const chunked = serverWith(GET)
  chunked.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_CHUNKED })
  chunked.last.stream.end(trailers)
  assert.match(chunked.sink.text, /\r\n\r\n0\r\nx-sum: 1\r\n\r\n$/)
  const counted = serverWith(GET)
  counted.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 1 })
  write(counted, 'x')
  counted.last.stream.end(trailers)
  assert.match(counted.sink.text, /\r\n\r\nx$/)
})

test('to HEAD no body is sent, whatever the writer writes, and the length is told', () => {
  const own = serverWith('HEAD / HTTP/1.1\r\nHost: h\r\n\r\n')
  own.last.reply(404, 'not found')
  assert.equal(own.sink.text, 'HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n')
  const forwarded = serverWith('HEAD / HTTP/1.1\r\nHost: h\r\n\r\n')
  forwarded.last.reply(200, '', HeaderList.of([['content-length', '1234']]))
  assert.equal(forwarded.sink.text, 'HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n')
  const chunked = serverWith('HEAD / HTTP/1.1\r\nHost: h\r\n\r\n')
  chunked.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_CHUNKED })
  write(chunked, 'x')
  chunked.last.stream.end(HeaderList.of([['x', 'y']]))
  assert.equal(chunked.sink.text, 'HTTP/1.1 200 OK\r\n\r\n')
})

test('204 and 304 have no body, and 204 no length', () => {
  const server = serverWith(GET)
  server.last.reply(204, 'x')
  assert.equal(server.sink.take(), 'HTTP/1.1 204 No Content\r\n\r\n')
  server.receive(GET)
  server.last.reply(304, '', HeaderList.of([['content-length', '5']]))
  assert.equal(server.sink.take(), 'HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n')
  server.receive(GET)
  server.last.reply(304, '', HeaderList.of([['content-length', '5\u00b2']]))
  assert.equal(server.sink.take(), 'HTTP/1.1 304 Not Modified\r\n\r\n')
})

test('a status without a registered reason has an empty one', () => {
  const server = serverWith(GET)
  server.last.reply(299)
  assert.match(server.sink.text, /^HTTP\/1\.1 299 \r\n/)
})

test('a response body that is longer or shorter than declared aborts the connection', () => {
  const long = serverWith(GET)
  long.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 2 })
  assert.equal(write(long, 'abc'), 0)
  assert.deepEqual(long.takeLog().slice(-1), ['reset the response body is longer than declared'])
  assert.deepEqual(long.sink.endings, ['abort'])
  const short = serverWith(GET)
  short.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 2 })
  write(short, 'a')
  short.last.stream.end(null)
  assert.deepEqual(short.takeLog().slice(-1), ['reset the response body is shorter than declared'])
  assert.deepEqual(short.sink.endings, ['abort'])
})

test('a stream whose exchange is over does nothing to the next one', () => {
  const server = serverWith(GET)
  const stale = server.last.stream
  server.last.reply()
  server.receive(GET)
  server.sink.take()
  stale.writeHead({ status: 500, headers: new HeaderList(), bodyLength: 0 })
  stale.writeInformational(103, new HeaderList())
  stale.writeBody(latin1('x'), 0, 1)
  stale.end(null)
  stale.pauseRequest()
  stale.reset()
  assert.equal(server.sink.text, '')
  assert.equal(server.sink.isPaused, false)
  assert.deepEqual(server.sink.endings, [])
  assert.equal(server.connection.activeCount, 1)
})

test('reset after a head drops what is not sent and aborts, and its receiver hears nothing', () => {
  const server = serverWith(GET)
  server.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 5 })
  server.last.stream.reset()
  assert.deepEqual(server.sink.endings, ['abort'])
  assert.deepEqual(server.takeLog().slice(2), [])
  server.connection.receiveClose()
  assert.deepEqual(server.takeLog(), [])
})

test('interim responses go before the final one, but not to HTTP/1.0', () => {
  const server = serverWith(GET)
  server.last.stream.writeInformational(103, HeaderList.of([['Link', '</a>']]))
  server.last.reply()
  server.last.stream.writeInformational(103, new HeaderList())
  assert.equal(
    server.sink.text,
    'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
  )
  const old = serverWith(GET_10)
  old.last.stream.writeInformational(103, new HeaderList())
  assert.equal(old.sink.text, '')
})

test('writeBody reports the backlog, with what is only gathered so far', () => {
  const server = new RecordingServer()
  server.sink.backlog = 1000
  const backlogs: number[] = []
  server.onEnd = (exchange) => {
    exchange.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 20_010 })
    backlogs.push(write(server, 'x'.repeat(10)))
    backlogs.push(write(server, 'y'.repeat(20_000)))
    exchange.stream.end(null)
  }
  server.receive(GET)
  assert.equal(backlogs[0]! >= 10, true)
  assert.equal(backlogs[1], 1000)
  assert.equal(server.sink.writes.length, 2)
  assert.match(server.sink.writes[0]!, /x{10}$/)
  server.connection.receiveDrain()
  assert.equal(server.takeLog().includes('drain'), false)
})

test('the receiver is told when the backlog is sent', () => {
  const server = serverWith(GET)
  server.connection.receiveDrain()
  assert.deepEqual(server.takeLog().slice(2), ['drain'])
})

// --- requests ---

test('body bytes are lent from the input without a copy', () => {
  const server = new RecordingServer()
  const input = latin1(`${post(5)}hello`)
  let lent: Uint8Array | null = null
  const record = server.onRequest.bind(server)
  server.onRequest = (stream, head) => {
    const receiver = record(stream, head)
    receiver.onRequestBody = (bytes) => {
      lent = bytes
    }
    return receiver
  }
  server.connection.receive(input, 0, input.length)
  assert.equal(lent, input)
})

test('pausing a request pauses reading once, however often it is asked', () => {
  const server = serverWith(post(10))
  server.last.stream.pauseRequest()
  server.last.stream.pauseRequest()
  assert.equal(server.sink.isPaused, true)
  server.last.stream.resumeRequest()
  assert.equal(server.sink.isPaused, false)
  server.last.stream.resumeRequest()
})

test('a request that was paused does not hold the next one back', () => {
  const server = serverWith(post(1))
  server.last.stream.pauseRequest()
  server.receive('x')
  server.last.reply()
  assert.equal(server.sink.isPaused, false)
})

test('a client that ends its side within a request is told to its receiver, without an answer', () => {
  const server = serverWith(`${post(10)}abc`)
  server.connection.receiveEnd()
  assert.equal(server.takeLog().at(-1), 'reset the client ended its side before its request was complete')
  assert.deepEqual(server.sink.endings, ['close'])
})

test('a client that ends its side after a complete request still gets the answer', () => {
  const server = serverWith(GET + GET)
  server.connection.receiveEnd()
  server.last.reply(200, '1')
  assert.deepEqual(server.sink.endings, [])
  server.last.reply(200, '2')
  assert.match(server.sink.text, /1HTTP\/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2$/)
  assert.deepEqual(server.sink.endings, ['close'])
})

test('a client that has ended its side is not waited for after a violation', () => {
  const server = serverWith(`${GET}broken\r\n`)
  server.connection.receiveEnd()
  server.last.reply()
  assert.equal(server.takeLog().at(-1), 'violation 400 bad_method')
  assert.deepEqual(server.sink.endings, ['close'])
})

test('a client that ends its side between requests, or within a head, is closed without a word', () => {
  for (const input of ['', '\r\n', 'GET / HT']) {
    const server = new RecordingServer()
    if (input !== '') server.receive(input)
    server.connection.receiveEnd()
    assert.deepEqual(server.takeLog(), [])
    assert.equal(server.sink.text, '')
    assert.deepEqual(server.sink.endings, ['close'])
  }
})

test('a closed connection resets its exchange, once', () => {
  const server = serverWith(GET)
  server.connection.receiveClose()
  server.connection.receiveClose()
  server.last.reply()
  assert.deepEqual(server.takeLog().slice(2), ['reset the client closed the connection'])
  assert.equal(server.sink.text, '')
  assert.deepEqual(server.sink.endings, [])
})

test('a violation within a body is answered when no response has begun, else the response is cut off', () => {
  const chunked = 'POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n'
  const early = serverWith(chunked)
  early.receive('zz')
  assert.equal(early.takeLog().at(-1), 'reset bad_chunk_size')
  assert.match(early.sink.text, /^HTTP\/1\.1 400 /)
  const late = serverWith(chunked)
  late.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 10 })
  late.sink.take()
  late.receive('zz')
  assert.equal(late.takeLog().at(-1), 'reset bad_chunk_size')
  assert.equal(late.sink.text, '')
  assert.deepEqual(late.sink.endings, ['abort'])
})

test('a response that ends before its request drops the rest of the body and lives on', () => {
  const server = new RecordingServer()
  server.onRequestHead = (exchange) => exchange.reply(403)
  server.receive(`${post(10)}abcde`)
  assert.equal(server.connection.activeCount, 0)
  server.receive(`fghij${GET}`)
  assert.equal(server.exchanges.length, 2)
  assert.deepEqual(
    server.takeLog().filter((line) => line.startsWith('body')),
    [],
  )
  assert.deepEqual(server.sink.endings, [])
})

test('an answer inside onRequest is the last that its receiver hears of', () => {
  const server = new RecordingServer()
  server.onRequestHead = (exchange) => exchange.reply()
  server.receive(GET)
  assert.deepEqual(server.takeLog(), ['request GET / HTTP/1.1 authority=h body=0'])
})

test('a response written inside onRequestBody may end the exchange there', () => {
  const server = new RecordingServer()
  server.onBody = (exchange) => exchange.reply(413)
  server.receive(`${post(6)}abc`)
  server.receive(`def${GET}`)
  assert.equal(server.exchanges.length, 2)
  assert.equal(server.connection.activeCount, 1)
})

// --- expectations ---

test('a client that waits for 100 gets it when the writer gives it', () => {
  const server = serverWith(post(2, 'Expect: 100-continue\r\n'))
  assert.equal(server.last.head.expectsContinue, true)
  server.last.stream.writeInformational(100, new HeaderList())
  assert.equal(server.sink.take(), 'HTTP/1.1 100 Continue\r\n\r\n')
  server.receive('ok')
  server.last.reply()
  assert.equal(server.sink.text, 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
  assert.deepEqual(server.sink.endings, [])
})

test('a final answer instead of 100 closes the connection: the body may come or not', () => {
  const server = serverWith(post(2, 'Expect: 100-continue\r\n'))
  server.last.reply(413)
  assert.match(server.sink.text, /connection: close/)
  assert.deepEqual(server.sink.endings, ['end'])
  server.receive(GET)
  assert.equal(server.exchanges.length, 1)
  server.connection.receiveEnd()
  assert.deepEqual(server.sink.endings, ['end', 'close'])
})

// --- tunnels ---

test('101 makes a tunnel: raw bytes both ways and a half-close in each direction', () => {
  const server = serverWith(WEBSOCKET)
  assert.deepEqual(server.takeLog(), ['request GET /ws HTTP/1.1 authority=h body=0 upgrade=websocket'])
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  assert.equal(
    server.sink.take(),
    'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n',
  )
  server.receive('GET raw')
  write(server, 'back')
  assert.equal(server.sink.take(), 'back')
  server.connection.receiveEnd()
  write(server, 'more')
  assert.equal(server.connection.activeCount, 1)
  server.last.stream.end(null)
  assert.deepEqual(server.takeLog(), ['body "GET raw"', 'end'])
  assert.equal(server.sink.text, 'more')
  assert.deepEqual(server.sink.endings, ['end'])
  assert.equal(server.connection.activeCount, 0)
  server.connection.receiveClose()
  assert.deepEqual(server.takeLog(), [])
})

test('our side of a tunnel may end first', () => {
  const server = serverWith(WEBSOCKET)
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  server.last.stream.end(null)
  assert.deepEqual(server.sink.endings, ['end'])
  server.receive('still')
  server.connection.receiveEnd()
  assert.deepEqual(server.takeLog().slice(1), ['body "still"', 'end'])
  assert.equal(server.connection.activeCount, 0)
})

test('bytes that came before the 101 are the first of the tunnel', () => {
  const server = serverWith(`${WEBSOCKET}early`)
  server.receive('er')
  assert.equal(server.sink.isPaused, true)
  server.connection.receiveEnd()
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  assert.deepEqual(server.takeLog().slice(1), ['body "earlyer"', 'end'])
  assert.equal(server.sink.isPaused, false)
})

test('a tunnel may open inside onRequest', () => {
  const server = new RecordingServer()
  server.onRequestHead = (exchange) =>
    exchange.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  server.receive(`${WEBSOCKET}early`)
  assert.deepEqual(server.takeLog().slice(1), ['body "early"'])
})

test('a closed tunnel is a reset, unless both sides had ended', () => {
  const server = serverWith(WEBSOCKET)
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  server.connection.receiveEnd()
  server.connection.receiveClose()
  assert.deepEqual(server.takeLog().slice(1), ['end', 'reset the client closed the connection'])
})

test('a refused upgrade is an ordinary response, and the connection lives on', () => {
  const server = serverWith(WEBSOCKET)
  server.last.reply(200, 'no')
  assert.deepEqual(server.takeLog().slice(1), ['end'])
  server.receive(GET)
  assert.equal(server.exchanges.length, 2)
  assert.deepEqual(server.sink.endings, [])
})

test('a refused upgrade closes the connection when bytes of the tunnel had come already', () => {
  const server = serverWith(WEBSOCKET + GET)
  server.last.reply(403)
  assert.match(server.sink.text, /connection: close/)
  assert.equal(server.exchanges.length, 1)
  assert.deepEqual(server.sink.endings, ['end'])
})

test('2xx to CONNECT makes a tunnel; anything else closes the connection', () => {
  const request = 'CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n'
  const server = serverWith(request)
  server.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  assert.equal(server.sink.take(), 'HTTP/1.1 200 OK\r\n\r\n')
  server.receive('raw')
  assert.deepEqual(server.takeLog().slice(1), ['body "raw"'])
  const refused = serverWith(request)
  refused.last.reply(405)
  assert.deepEqual(refused.takeLog().slice(1), ['end'])
  assert.match(refused.sink.text, /connection: close/)
  assert.deepEqual(refused.sink.endings, ['close'])
})

test('101 to a request that asked for nothing is an error of the writer', () => {
  const server = serverWith(GET)
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  assert.match(server.takeLog().at(-1)!, /^reset the response switches protocols/)
  assert.deepEqual(server.sink.endings, ['abort'])
})

// --- draining ---

test('an idle connection that is drained closes at once', () => {
  const server = new RecordingServer()
  server.connection.drain()
  server.connection.drain()
  assert.deepEqual(server.sink.endings, ['close'])
})

test('a drained connection says so in the response that is due, and closes after it', () => {
  const server = serverWith(GET)
  server.connection.drain()
  assert.deepEqual(server.sink.endings, [])
  server.last.reply(200, 'x')
  assert.equal(server.sink.text, 'HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx')
  assert.deepEqual(server.sink.endings, ['close'])
})

test('a connection drained within a response or a head finishes it before it closes', () => {
  const responding = serverWith(GET)
  responding.last.stream.writeHead({ status: 200, headers: new HeaderList(), bodyLength: 1 })
  responding.connection.drain()
  write(responding, 'x')
  responding.last.stream.end(null)
  assert.deepEqual(responding.sink.endings, ['close'])
  const reading = serverWith('GET / HTTP/1.1\r\nHo')
  reading.connection.drain()
  reading.receive('st: h\r\n\r\n')
  reading.last.reply()
  assert.match(reading.sink.text, /connection: close/)
  assert.deepEqual(reading.sink.endings, ['close'])
})

test('pipelined requests behind the one that a drained connection answers are dropped', () => {
  const server = serverWith(GET + GET)
  server.connection.drain()
  server.last.reply()
  assert.equal(server.exchanges.length, 1)
  assert.equal(server.sink.isPaused, false)
  assert.deepEqual(server.sink.endings, ['end'])
})

test('a drained tunnel goes on', () => {
  const server = serverWith(WEBSOCKET)
  server.last.stream.writeHead({ status: 101, headers: new HeaderList(), bodyLength: BODY_UNTIL_CLOSE })
  server.connection.drain()
  server.receive('x')
  assert.deepEqual(server.takeLog().slice(1), ['body "x"'])
  assert.deepEqual(server.sink.endings, [])
})

test('a handler that throws does not keep other connections from sending', () => {
  const broken = new RecordingServer()
  broken.onRequestHead = () => {
    throw new Error('a bug')
  }
  assert.throws(() => broken.receive(GET), /a bug/)
  const server = serverWith(GET)
  server.last.reply()
  assert.match(server.sink.text, /^HTTP\/1\.1 200 OK/)
})
