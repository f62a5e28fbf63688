/**
 * Requests that two servers would divide differently. Each is followed by a request that must never be seen: whatever
 * the engine makes of the first, the second one is not answered.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RecordingClient, RecordingServer } from '../../support/h1-recorders.ts'

const HOST = 'Host: h\r\n'
const SECOND = 'GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n'

/** Head lines after `POST / HTTP/1.1` and Host, what follows the head, and the reason of the refusal. */
const REFUSED: readonly (readonly [head: string, body: string, reason: string])[] = [
  // --- two statements about the body ---
  ['Content-Length: 4\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'length_and_encoding'],
  ['Transfer-Encoding: chunked\r\nContent-Length: 4\r\n', '0\r\n\r\n', 'length_and_encoding'],
  ['Transfer-Encoding: identity\r\nContent-Length: 4\r\n', 'abcd', 'length_and_encoding'],
  ['Content-Length: 4\r\nContent-Length: 5\r\n', 'abcd', 'duplicate_content_length'],
  ['Content-Length: 4\r\nContent-Length: 4\r\n', 'abcd', 'duplicate_content_length'],
  ['Content-Length: 4\r\ncontent-length: 0\r\n', 'abcd', 'duplicate_content_length'],
  // --- lengths that are read differently ---
  ['Content-Length: 4, 5\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4, 4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: +4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: -4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 0x4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4.0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4e0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 4 4\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 04\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: "4"\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length:\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 1_0\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 9007199254740993\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: 18446744073709551620\r\n', 'abcd', 'bad_content_length'],
  ['Content-Length: \xb2\r\n', 'abcd', 'bad_content_length'],
  // --- codings that are read differently ---
  ['Transfer-Encoding: xchunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked, chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked, identity\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: identity, chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: identity\r\n', '', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: "chunked"\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked;q=1\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: chunked,\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: ,chunked\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding:\r\n', '0\r\n\r\n', 'bad_transfer_encoding'],
  ['Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n', 'unsupported_transfer_encoding'],
  ['Transfer-Encoding: gzip\r\n', '', 'unsupported_transfer_encoding'],
  // --- names that are read differently ---
  ['Transfer-Encoding : chunked\r\n', '0\r\n\r\n', 'space_before_colon'],
  ['Transfer-Encoding\t: chunked\r\n', '0\r\n\r\n', 'space_before_colon'],
  [' Transfer-Encoding: chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['X: y\r\n\tTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['Transfer-Encoding:\r\n chunked\r\n', '0\r\n\r\n', 'obs_fold'],
  ['Transfer\x00-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_header_name'],
  ['\xefTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bad_header_name'],
  ['Content-Length\r\n', 'abcd', 'bad_header_name'],
  ['(Content-Length): 4\r\n', 'abcd', 'bad_header_name'],
  // --- values that are read differently ---
  ['Transfer-Encoding: \x0bchunked\r\n', '0\r\n\r\n', 'bad_header_value'],
  ['Transfer-Encoding: chunked\x00\r\n', '0\r\n\r\n', 'bad_header_value'],
  ['X: y\x00\r\n', '', 'bad_header_value'],
  // --- lines that are read differently ---
  ['X: y\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bare_lf'],
  ['X: y\rTransfer-Encoding: chunked\r\n', '0\r\n\r\n', 'bare_cr'],
  ['X: y\r\r\n', '', 'bare_cr'],
  ['\nContent-Length: 4\r\n', 'abcd', 'bare_lf'],
  ['X: y\n\r\n', '', 'bare_lf'],
  // --- who is asked for ---
  ['Host: other\r\n', '', 'duplicate_host'],
  ['host : other\r\n', '', 'space_before_colon'],
  ['Connection: content-length\r\nContent-Length: 4\r\n', 'abcd', 'bad_connection'],
  ['Connection: close, Host\r\n', '', 'bad_connection'],
  // --- who asks: no client decides what of it the next hop sees ---
  ['Connection: authorization\r\nAuthorization: a\r\n', '', 'bad_connection'],
  ['Connection: Cookie\r\nCookie: a=b\r\n', '', 'bad_connection'],
  ['Connection: close, forwarded\r\n', '', 'bad_connection'],
  ['Connection: x-forwarded-for\r\nX-Forwarded-For: 192.0.2.1\r\n', '', 'bad_connection'],
  ['Connection: X-Forwarded-Client-Cert\r\n', '', 'bad_connection'],
  ['Connection: x-envoy-internal\r\n', '', 'bad_connection'],
  ['Connection: x-request-id\r\n', '', 'bad_connection'],
  ['Connection: X-Real-IP\r\n', '', 'bad_connection'],
]

for (const [head, body, reason] of REFUSED) {
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

/** Bodies after `Transfer-Encoding: chunked`. */
const REFUSED_CHUNKS: readonly (readonly [body: string, reason: string])[] = [
  ['\r\n', 'bad_chunk_size'],
  ['x\r\n', 'bad_chunk_size'],
  [' 4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['4 \r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['4\t;a\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['0x4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['+4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  ['-4\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_size'],
  [';a\r\n', 'bad_chunk_size'],
  ['4_\r\n', 'bad_chunk_size'],
  ['123456789\r\n', 'chunk_too_large'],
  ['000000004\r\nabcd\r\n', 'chunk_too_large'],
  ['ffffffffffffffff4\r\n', 'chunk_too_large'],
  ['4\nabcd\r\n0\r\n\r\n', 'bare_lf'],
  ['4\rXabcd\r\n0\r\n\r\n', 'bare_cr'],
  ['4;a\nabcd\r\n0\r\n\r\n', 'bare_lf'],
  ['4;a\rabcd\r\n0\r\n\r\n', 'bare_cr'],
  ['4;a\0\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_extension'],
  ['4;\xff\r\nabcd\r\n0\r\n\r\n', 'bad_chunk_extension'],
  ['4\r\nabcdX\r\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\n\n0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabcd\r0\r\n\r\n', 'bad_chunk_end'],
  ['4\r\nabc\r\n0\r\n\r\n', 'bad_chunk_end'],
  ['0\r\n\n', 'bare_lf'],
  ['0\n\n', 'bare_lf'],
  ['0\r\n\rX', 'bare_cr'],
  ['0\r\nContent-Length: 3\r\n\r\n', 'bad_trailer'],
  ['0\r\nTransfer-Encoding: chunked\r\n\r\n', 'bad_trailer'],
  ['0\r\nHost: other\r\n\r\n', 'bad_trailer'],
  ['0\r\nConnection: close\r\n\r\n', 'bad_trailer'],
  ['0\r\nX : y\r\n\r\n', 'space_before_colon'],
  ['0\r\nX: y\n\r\n', 'bare_lf'],
  ['0\r\n X: y\r\n\r\n', 'obs_fold'],
]

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
