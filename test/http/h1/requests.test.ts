/** Requests as the server connection reads them: the fixtures of h1-requests.md, whole and cut at every byte. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Fixture, readFixtures } from '../../support/h1-fixtures.ts'
import { RecordingServer } from '../../support/h1-recorders.ts'

/** Events of `fixture` when its bytes come in the pieces that `cuts` make; each request is answered at once. */
function run(fixture: Fixture, cuts: readonly number[]): string[] {
  const server = new RecordingServer()
  server.onEnd = (exchange) => exchange.reply(204)
  let start = 0
  for (const cut of [...cuts, fixture.bytes.length]) {
    const piece = fixture.bytes.slice(start, cut)
    if (piece.length > 0) server.connection.receive(piece, 0, piece.length)
    piece.fill(0x58)
    start = cut
  }
  const lines = server.takeLog()
  if (server.connection.activeCount > 0) lines.push('(request is not complete)')
  else if (lines.length === 0) lines.push('(no request)')
  // Whether it lingers depends on whether more had come already: both are an orderly end.
  if (server.sink.endings.length > 0) lines.push(server.sink.endings.includes('abort') ? 'sink aborted' : 'sink ended')
  return lines
}

const fixtures = readFixtures('h1-requests.md', (fixture) => run(fixture, []))

for (const fixture of fixtures) {
  test(`a request: ${fixture.title}`, () => {
    assert.deepEqual(run(fixture, []), fixture.events)
  })
}

test('every request gives the same events wherever its bytes are cut in two', () => {
  for (const fixture of fixtures) {
    for (let cut = 1; cut < fixture.bytes.length; cut++) {
      assert.deepEqual(run(fixture, [cut]), fixture.events, `${fixture.title}, cut at ${cut}`)
    }
  }
})

test('every request gives the same events when its bytes come one at a time', () => {
  for (const fixture of fixtures) {
    const cuts = Array.from({ length: fixture.bytes.length - 1 }, (_, index) => index + 1)
    assert.deepEqual(run(fixture, cuts), fixture.events, fixture.title)
  }
})
