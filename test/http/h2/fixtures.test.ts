/** Both roles of HTTP/2 as the codec seam shows them: the fixtures of h2-server.md and h2-client.md, cut at every byte. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { BODY_CHUNKED } from '../../../src/http/codec.ts'
import { type Fixture, readFixtures } from '../../support/h1-fixtures.ts'
import { H2ClientPeer, H2ServerPeer } from '../../support/h2-codec-peer.ts'
import { framesOf } from '../../support/h2-fixtures.ts'

type Run = (fixture: Fixture, cuts: readonly number[]) => string[]

function feed(peer: H2ServerPeer | H2ClientPeer, fixture: Fixture, cuts: readonly number[]): string[] {
  let start = 0
  for (const cut of [...cuts, fixture.bytes.length]) {
    if (cut > start) peer.send(fixture.bytes.subarray(start, cut))
    start = cut
  }
  const lines = [...peer.takeLog(), ...peer.take().map((line) => `sent ${line}`)]
  if (peer.sink.endings.length > 0) lines.push(`sink ${peer.sink.endings.join(' ')}`)
  return lines.length === 0 ? ['(nothing)'] : lines
}

/** A request is answered with 204 as soon as it is complete. */
const asServer: Run = (fixture, cuts) => {
  const peer = new H2ServerPeer(!fixture.options.includes('without-greeting'))
  peer.whenRequest = (exchange) => {
    const onRequestEnd = exchange.onRequestEnd.bind(exchange)
    exchange.onRequestEnd = (trailers) => {
      onRequestEnd(trailers)
      exchange.respond(204, 0)
      exchange.stream.end(null)
    }
  }
  return feed(peer, fixture, cuts)
}

/** Two requests are open: `a`, a POST on stream 1 whose body has not ended, and `b`, a GET on stream 3. */
const asClient: Run = (fixture, cuts) => {
  const peer = new H2ClientPeer(fixture.options.includes('without-greeting') ? null : undefined)
  peer.open('a', { method: 'POST', bodyLength: BODY_CHUNKED })
  peer.open('b')
  peer.take()
  return feed(peer, fixture, cuts)
}

for (const [name, run] of [
  ['h2-server.md', asServer],
  ['h2-client.md', asClient],
] as const) {
  describe(name, () => {
    const fixtures = readFixtures(
      name,
      (fixture) => run(fixture, []),
      (source) => framesOf(source.split('\n').slice(0, -1)),
    )
    for (const fixture of fixtures) {
      test(fixture.title, () => assert.deepEqual(run(fixture, []), fixture.events))
    }

    test('the same wherever the bytes are cut in two', () => {
      for (const fixture of fixtures) {
        for (let cut = 1; cut < fixture.bytes.length; cut++) {
          assert.deepEqual(run(fixture, [cut]), fixture.events, `${fixture.title}, cut at ${cut}`)
        }
      }
    })

    test('the same when the bytes come one at a time', () => {
      for (const fixture of fixtures) {
        const cuts = Array.from({ length: fixture.bytes.length - 1 }, (_, index) => index + 1)
        assert.deepEqual(run(fixture, cuts), fixture.events, fixture.title)
      }
    })
  })
}
