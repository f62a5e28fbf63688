/** Each limit on what a peer may send: the last size that is taken, and the first that is not. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CHUNK_EXTENSION_BYTES_MAX,
  DRAIN_BYTES_MAX,
  FIELD_COUNT_MAX,
  HEAD_BYTES_MAX,
  HELD_BYTES_MAX,
  INFORMATIONAL_COUNT_MAX,
  LINE_BYTES_MAX,
  LINGER_BYTES_MAX,
  METHOD_BYTES_MAX,
  NOMINATIONS_MAX,
  TRAILER_BYTES_MAX,
} from '../../../src/http/h1/limits.ts'
import { RecordingClient, RecordingServer } from '../../support/h1-recorders.ts'

/** The violation that `text` leads to, however it is cut; 'taken' when a request came of it. */
function outcomeOf(text: string): string {
  const outcomes = [1, 1000, 4096, text.length].map((size) => {
    const server = new RecordingServer()
    server.onEnd = (exchange) => exchange.reply(204)
    for (let start = 0; start < text.length; start += size) server.receive(text.slice(start, start + size))
    if (server.exchanges.length > 0 && server.exchanges.every((exchange) => exchange.isEnded)) return 'taken'
    return server.takeLog().at(-1) ?? 'nothing'
  })
  assert.equal(new Set(outcomes).size, 1, `how input is cut changes the outcome: ${outcomes.join(', ')}`)
  return outcomes[0]!
}

function padded(prefix: string, suffix: string, length: number): string {
  return prefix + 'x'.repeat(length - prefix.length - suffix.length) + suffix
}

test('a request line may be as long as its limit allows', () => {
  const rest = 'Host: h\r\n\r\n'
  const end = ' HTTP/1.1\r\n'
  assert.equal(outcomeOf(padded('GET /', end, LINE_BYTES_MAX - 1) + rest), 'taken')
  assert.equal(outcomeOf(padded('GET /', end, LINE_BYTES_MAX + 1) + rest), 'violation 414 line_too_long')
  assert.equal(outcomeOf(padded('GET /', '', LINE_BYTES_MAX)), 'violation 414 line_too_long')
})

test('a head may be as large as its limit allows', () => {
  const lines = 'GET / HTTP/1.1\r\nHost: h\r\n'
  assert.equal(outcomeOf(padded(`${lines}X: `, '\r\n\r\n', HEAD_BYTES_MAX)), 'taken')
  assert.equal(outcomeOf(padded(`${lines}X: `, '\r\n\r\n', HEAD_BYTES_MAX + 1)), 'violation 431 head_too_large')
  assert.equal(outcomeOf(padded(`${lines}X`, '', HEAD_BYTES_MAX)), 'violation 431 head_too_large')
  assert.equal(outcomeOf(padded(`${lines}X: `, '', HEAD_BYTES_MAX * 2)), 'violation 431 head_too_large')
})

test('a head may have as many headers as the limit allows', () => {
  const head = (count: number) => `GET / HTTP/1.1\r\nHost: h\r\n${'a: b\r\n'.repeat(count - 1)}\r\n`
  assert.equal(outcomeOf(head(FIELD_COUNT_MAX)), 'taken')
  assert.equal(outcomeOf(head(FIELD_COUNT_MAX + 1)), 'violation 431 too_many_headers')
})

test('a method may be as long as the limit allows', () => {
  const request = (length: number) => `${'M'.repeat(length)} / HTTP/1.1\r\nHost: h\r\n\r\n`
  assert.equal(outcomeOf(request(METHOD_BYTES_MAX)), 'taken')
  assert.equal(outcomeOf(request(METHOD_BYTES_MAX + 1)), 'violation 501 method_too_long')
})

test('Connection may name as many headers as the limit allows', () => {
  const request = (count: number) => `GET / HTTP/1.1\r\nHost: h\r\nConnection: ${'x,'.repeat(count)}close\r\n\r\n`
  assert.equal(outcomeOf(request(NOMINATIONS_MAX)), 'taken')
  assert.equal(outcomeOf(request(NOMINATIONS_MAX + 1)), 'violation 400 bad_connection')
})

test('chunk extensions may have as many bytes in one message as the limit allows', () => {
  const half = CHUNK_EXTENSION_BYTES_MAX / 2
  const request = (more: number) =>
    `POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;${'a'.repeat(half)}\r\nx\r\n0;${'a'.repeat(half + more)}\r\n\r\n`
  assert.equal(outcomeOf(request(0)), 'taken')
  assert.equal(outcomeOf(request(1)), 'reset chunk_extension_too_large')
})

test('trailers may be as large as their limit allows', () => {
  const head = 'POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n'
  assert.equal(outcomeOf(head + padded('X: ', '\r\n\r\n', TRAILER_BYTES_MAX)), 'taken')
  assert.equal(outcomeOf(head + padded('X: ', '\r\n\r\n', TRAILER_BYTES_MAX + 1)), 'reset trailers_too_large')
})

test('input that is sent ahead of its turn is held up to the limit, then the connection is aborted', () => {
  const server = new RecordingServer()
  server.receive('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
  server.receive('x'.repeat(HELD_BYTES_MAX))
  assert.equal(server.sink.isPaused, true)
  assert.deepEqual(server.sink.endings, [])
  server.receive('x')
  assert.deepEqual(server.takeLog().slice(2), ['violation 400 too_much_pipelined', 'reset too_much_pipelined'])
  assert.deepEqual(server.sink.endings, ['abort'])
})

test('after an early response a body is dropped up to the limit to save the connection', () => {
  const request = (length: number) => `POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ${length}\r\n\r\n`
  const small = new RecordingServer()
  small.onRequestHead = (exchange) => exchange.reply(403)
  small.receive(request(DRAIN_BYTES_MAX))
  small.receive('x'.repeat(DRAIN_BYTES_MAX))
  small.receive(request(0))
  assert.equal(small.exchanges.length, 2)
  assert.deepEqual(small.sink.endings, [])
  const large = new RecordingServer()
  large.onRequestHead = (exchange) => exchange.reply(403)
  large.receive(request(DRAIN_BYTES_MAX + 1))
  assert.deepEqual(large.sink.endings, ['end'])
})

test('a client whose request will not be waited for is told so with the response, before it can send another', () => {
  const ends = (framing: string, status: number): string[] => {
    const server = new RecordingServer()
    server.onRequestHead = (exchange) => exchange.reply(status)
    server.receive(`POST / HTTP/1.1\r\nHost: h\r\n${framing}\r\n\r\n`)
    assert.equal(/\r\nconnection: close\r\n/i.test(server.sink.text), server.sink.endings.length > 0)
    return server.sink.endings
  }
  assert.deepEqual(ends(`Content-Length: ${DRAIN_BYTES_MAX}`, 403), [])
  assert.deepEqual(ends(`Content-Length: ${DRAIN_BYTES_MAX + 1}`, 403), ['end'])
  // Nobody knows how much of it is to come.
  assert.deepEqual(ends('Transfer-Encoding: chunked', 403), ['end'])
})

test('a connection that lingers drops input up to the limit, then closes', () => {
  const server = new RecordingServer()
  server.receive('broken\r\n')
  assert.deepEqual(server.sink.endings, ['end'])
  server.receive('x'.repeat(LINGER_BYTES_MAX))
  assert.deepEqual(server.sink.endings, ['end'])
  server.receive('x')
  assert.deepEqual(server.sink.endings, ['end', 'close'])
  server.receive('x')
  assert.equal(server.takeLog().length, 1)
})

test('an upstream may send as many interim responses as the limit allows', () => {
  const interim = 'HTTP/1.1 102 Processing\r\n\r\n'
  const client = new RecordingClient()
  client.open()
  client.receive(interim.repeat(INFORMATIONAL_COUNT_MAX))
  assert.equal(client.takeLog().length, INFORMATIONAL_COUNT_MAX)
  client.receive(interim)
  assert.equal(client.takeLog().at(-1), 'reset too_many_informational')
  assert.deepEqual(client.sink.endings, ['abort'])
})
