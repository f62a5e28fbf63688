/**
 * Requests that two servers would divide differently. Each is followed by a request that must never be seen: whatever
 * the engine makes of the first, the second one is not answered.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { REFUSED_CHUNKS, REFUSED_HEADS } from '../../support/ambiguous-requests.ts'
import { RecordingClient, RecordingServer } from '../../support/h1-recorders.ts'

const HOST = 'Host: h\r\n'
const SECOND = 'GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n'

for (const [head, body, reason] of REFUSED_HEADS) {
  test(`refuses ${JSON.stringify(head)} with ${reason}`, () => {
    const server = new RecordingServer()
    server.onEnd = (exchange) => exchange.reply()
    server.receive(`POST / HTTP/1.1\r\n${HOST}${head}\r\n${body}${SECOND}`)
    const status = reason === 'unsupported_transfer_encoding' ? 501 : 400
    assert.deepEqual(server.takeLog(), [`violation ${status} ${reason}`])
    assert.match(server.sink.text, new RegExp(`^HTTP/1\\.1 ${status} [\\s\\S]*connection: close\r\n[\\s\\S]*${reason}`))
    assert.deepEqual(server.sink.endings, ['end'])
  })
}

for (const [body, reason] of REFUSED_CHUNKS) {
  test(`refuses the chunks ${JSON.stringify(body)} with ${reason}`, () => {
    const server = new RecordingServer()
    server.onEnd = (exchange) => exchange.reply()
    server.receive(`POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${body}${SECOND}`)
    assert.equal(server.exchanges.length, 1)
    assert.equal(server.takeLog().at(-1), `reset ${reason}`)
    assert.equal(server.last.isEnded, false)
    assert.match(server.sink.text, new RegExp(`^HTTP/1\\.1 400 [\\s\\S]*${reason}`))
    assert.deepEqual(server.sink.endings, ['end'])
  })

  test(`refuses the response chunks ${JSON.stringify(body)} with ${reason}`, () => {
    const client = new RecordingClient()
    client.open()
    client.receive(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${body}HTTP/1.1 200 OK\r\n\r\n`)
    assert.equal(client.takeLog().at(-1), `reset ${reason}`)
    assert.deepEqual(client.sink.endings, ['abort'])
    assert.equal(client.connection.isReusable, false)
  })
}

test('HTTP/1.0 with Transfer-Encoding is refused', () => {
  const server = new RecordingServer()
  server.receive(`POST / HTTP/1.0\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`)
  assert.deepEqual(server.takeLog(), ['violation 400 encoding_in_http10'])
})

test('what a header list says about framing never reaches the next hop', () => {
  const client = new RecordingClient()
  const server = new RecordingServer()
  server.receive(`GET /a HTTP/1.1\r\n${HOST}X: y\r\n\r\n`)
  const headers = server.last.head.headers
  headers.set('Content-Length', '50')
  headers.set('transfer-encoding', 'chunked')
  headers.set('Host', 'other')
  client.connection.open(server.last.head, client)
  assert.equal(client.sink.text, 'GET /a HTTP/1.1\r\nhost: h\r\nx: y\r\n\r\n')
})

test('a target that would end the request line is not sent, and the connection stays usable', () => {
  for (const target of ['/a b', '/\r\nX: y', '/caf\u00e9', '/\u010a', '']) {
    const client = new RecordingClient()
    const stream = client.open({ target })
    assert.deepEqual(client.takeLog(), ['free', 'reset the request line cannot be sent'])
    stream.writeBody(new Uint8Array(1), 0, 1)
    stream.end(null)
    assert.equal(client.sink.text, '')
    assert.equal(client.connection.canOpen, true)
  }
  const client = new RecordingClient()
  client.open({ authority: 'h\r\nX: y' })
  client.open({ method: 'GET /x HTTP/1.1\r\nX:' })
  assert.equal(client.sink.text, '')
})
