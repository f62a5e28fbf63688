/**
 * Client and server connection back to back: what one writes the other reads, whatever the pieces, and a proxy made of
 * the two passes messages on unchanged.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BODY_CHUNKED } from '../../../src/http/codec.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { latin1, RecordingClient, RecordingServer } from '../../support/h1-recorders.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

/** Moves what `from` wrote into `receive`, in random pieces. */
function move(random: SeededRandom, text: string, receive: (piece: string) => void): void {
  for (let start = 0; start < text.length; ) {
    const size = random.integer(1, Math.max(1, Math.min(text.length, 40_000)))
    receive(text.slice(start, start + size))
    start += size
  }
}

test('random exchanges arrive as they were sent, one after another on one connection', () => {
  const random = new SeededRandom(11)
  const client = new RecordingClient()
  const server = new RecordingServer()
  for (let round = 0; round < 300; round++) {
    const body = 'b'.repeat(random.pick([0, 1, 15, 16, 17, 4095, 16_384, 40_000]))
    const answer = 'a'.repeat(random.pick([0, 1, 9, 10, 16_383, 16_385, 70_000]))
    const isChunked = random.boolean()
    const fields = random.list(20, () => [`x-${random.integer(0, 9)}`, 'v'.repeat(random.integer(0, 300))] as const)
    const headers = HeaderList.of(fields.map(([name, value]) => [name, value]))
    const stream = client.open({
      method: 'POST',
      target: `/${round}`,
      headers,
      bodyLength: isChunked ? BODY_CHUNKED : body.length,
    })
    if (body !== '') stream.writeBody(latin1(body), 0, body.length)
    stream.end(null)
    move(random, client.sink.take(), (piece) => server.receive(piece))
    assert.deepEqual(server.takeLog(), [
      `request POST /${round} HTTP/1.1 authority=example.com body=${isChunked ? 'chunked' : body.length}`,
      ...fields.map(([name, value]) => `  ${name}: "${value}"`),
      ...(body === '' ? [] : [`body "${body}"`]),
      'end',
    ])
    const response = server.last.stream
    response.writeHead({ status: 200, headers, bodyLength: random.boolean() ? BODY_CHUNKED : answer.length })
    for (let start = 0; start < answer.length; ) {
      const size = random.integer(1, answer.length - start)
      response.writeBody(latin1(answer), start, size)
      start += size
    }
    response.end(null)
    move(random, server.sink.take(), (piece) => client.receive(piece))
    const log = client.takeLog()
    assert.match(log[0]!, /^response 200 /)
    assert.deepEqual(log.slice(1), [
      ...fields.map(([name, value]) => `  ${name}: "${value}"`),
      ...(answer === '' ? [] : [`body "${answer}"`]),
      'free',
      'end',
    ])
  }
  assert.deepEqual([...client.sink.endings, ...server.sink.endings], [])
})

/** A downstream and an upstream connection with the simplest exchange between them. */
class Relay {
  readonly downstream = new RecordingServer()
  readonly upstream = new RecordingClient()

  constructor() {
    const { downstream, upstream } = this
    downstream.onRequest = (stream, head) => {
      const client = upstream.connection.open(head, {
        onInformational: (status, headers) => stream.writeInformational(status, headers),
        onResponseHead: (response) => stream.writeHead(response),
        onResponseBody: (bytes, offset, end) => void stream.writeBody(bytes, offset, end - offset),
        onResponseEnd: (trailers) => stream.end(trailers),
        onResponseReset: () => stream.reset(),
        onRequestDrain: () => {},
      })
      return {
        onRequestBody: (bytes, offset, end) => void client.writeBody(bytes, offset, end - offset),
        onRequestEnd: (trailers) => client.end(trailers),
        onRequestReset: () => client.reset(),
        onResponseDrain: () => {},
      }
    }
  }
}

test('a relay passes request and response on, without what concerns one connection only', () => {
  const relay = new Relay()
  relay.downstream.receive(
    'POST /p HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-End:  2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 3\r\n\r\n',
  )
  assert.deepEqual(relay.upstream.sink.writes, [
    'POST /p HTTP/1.1\r\nhost: h\r\nx-end: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 3\r\n\r\n',
  ])
  relay.upstream.receive('HTTP/1.1 200 Fine\r\nKeep-Alive: timeout=5\r\nServer: s\r\nContent-Length: 2\r\n\r\nok')
  assert.deepEqual(relay.downstream.sink.writes, ['HTTP/1.1 200 OK\r\nserver: s\r\ncontent-length: 2\r\n\r\nok'])
})

test('a relay sends pipelined requests one by one over the same upstream connection', () => {
  const relay = new Relay()
  relay.downstream.receive('GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n')
  assert.equal(relay.upstream.sink.take(), 'GET /1 HTTP/1.1\r\nhost: h\r\n\r\n')
  relay.upstream.receive('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1')
  assert.equal(relay.upstream.sink.take(), 'GET /2 HTTP/1.1\r\nhost: h\r\n\r\n')
  relay.upstream.receive('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2')
  assert.match(relay.downstream.sink.text, /1HTTP[\s\S]*2$/)
})

test('a relay passes HEAD, 100 and a WebSocket on', () => {
  const head = new Relay()
  head.downstream.receive('HEAD / HTTP/1.1\r\nHost: h\r\n\r\n')
  head.upstream.receive('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n')
  assert.equal(head.downstream.sink.text, 'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n')

  const expecting = new Relay()
  expecting.downstream.receive('PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n')
  expecting.upstream.receive('HTTP/1.1 100 Continue\r\n\r\n')
  assert.equal(expecting.downstream.sink.take(), 'HTTP/1.1 100 Continue\r\n\r\n')
  expecting.downstream.receive('ok')
  assert.match(expecting.upstream.sink.text, /expect: 100-continue\r\ncontent-length: 2\r\n\r\nok$/)

  const socket = new Relay()
  socket.downstream.receive('GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly')
  socket.upstream.receive('HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nfirst')
  assert.equal(
    socket.downstream.sink.take(),
    'HTTP/1.1 101 Switching Protocols\r\nx: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst',
  )
  assert.match(socket.upstream.sink.take(), /connection: upgrade\r\n\r\nearly$/)
  socket.downstream.connection.receiveEnd()
  assert.deepEqual(socket.upstream.sink.endings, ['end'])
  socket.upstream.receive('last')
  socket.upstream.connection.receiveEnd()
  assert.equal(socket.downstream.sink.text, 'last')
  assert.deepEqual(socket.downstream.sink.endings, ['end'])
})

test('a relay lets the client see that a response was cut off', () => {
  for (const head of ['Transfer-Encoding: chunked\r\n\r\n5\r\nhel', 'Content-Length: 9\r\n\r\nhel', '\r\nhel']) {
    const relay = new Relay()
    relay.downstream.receive('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
    relay.upstream.receive(`HTTP/1.1 200 OK\r\n${head}`)
    relay.upstream.connection.receiveClose()
    assert.deepEqual(relay.downstream.sink.endings, ['abort'], head)
    assert.doesNotMatch(relay.downstream.sink.text, /0\r\n\r\n$/)
  }
})

test('a relay ends a body that lasts until the upstream closes in order', () => {
  const relay = new Relay()
  relay.downstream.receive('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
  relay.upstream.receive('HTTP/1.0 200 OK\r\n\r\nhel')
  relay.upstream.receive('lo')
  relay.upstream.connection.receiveEnd()
  assert.match(relay.downstream.sink.text, /chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n$/)
  assert.deepEqual(relay.downstream.sink.endings, [])
})
