/** Responses as the client connection reads them: the fixtures of h1-responses.md, whole and cut at every byte. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Fixture, readFixtures } from '../../support/h1-fixtures.ts'
import { RecordingClient } from '../../support/h1-recorders.ts'

/**
 * Options of a fixture: a method other than GET, `upgrade` (the request asked for a WebSocket), and how the connection
 * ends after the bytes: `eof` or `reset`.
 */
function run(fixture: Fixture, cuts: readonly number[]): string[] {
  const client = new RecordingClient()
  const method = fixture.options.find((option) => option === option.toUpperCase()) ?? 'GET'
  client.open({ method, upgrade: fixture.options.includes('upgrade') ? 'websocket' : null })
  let start = 0
  for (const cut of [...cuts, fixture.bytes.length]) {
    const piece = fixture.bytes.slice(start, cut)
    if (piece.length > 0) client.connection.receive(piece, 0, piece.length)
    piece.fill(0x58)
    start = cut
  }
  if (fixture.options.includes('eof')) client.connection.receiveEnd()
  if (fixture.options.includes('reset')) client.connection.receiveClose()
  const lines = client.takeLog()
  if (client.connection.activeCount > 0) lines.push('(response is not complete)')
  if (client.sink.endings.length > 0) lines.push(client.sink.endings.includes('abort') ? 'sink aborted' : 'sink ended')
  return lines
}

const fixtures = readFixtures('h1-responses.md', (fixture) => run(fixture, []))

for (const fixture of fixtures) {
  test(`a response: ${fixture.title}`, () => {
    assert.deepEqual(run(fixture, []), fixture.events)
  })
}

test('every response gives the same events wherever its bytes are cut in two', () => {
  for (const fixture of fixtures) {
    if (fixture.options.includes('uncut')) continue
    for (let cut = 1; cut < fixture.bytes.length; cut++) {
      assert.deepEqual(run(fixture, [cut]), fixture.events, `${fixture.title}, cut at ${cut}`)
    }
  }
})

test('every response gives the same events when its bytes come one at a time', () => {
  for (const fixture of fixtures) {
    if (fixture.options.includes('uncut')) continue
    const cuts = Array.from({ length: fixture.bytes.length - 1 }, (_, index) => index + 1)
    assert.deepEqual(run(fixture, cuts), fixture.events, fixture.title)
  }
})
