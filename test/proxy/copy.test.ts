import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { Relay, type RelayOwner } from '../../src/proxy/copy.ts'
import { BACKLOG_HIGH } from '../../src/transport/conn.ts'
import { FakeConn } from '../support/fake-conn.ts'

class Owner implements RelayOwner {
  readonly ends: { isDownstreamFault: boolean; error: string | null }[] = []

  onRelayClosed(isDownstreamFault: boolean, error: WeftError | null): void {
    this.ends.push({ isDownstreamFault, error: error?.code ?? null })
  }
}

function open(): { client: FakeConn; server: FakeConn; relay: Relay; owner: Owner } {
  const [client, server, owner] = [new FakeConn(), new FakeConn(), new Owner()]
  return { client, server, owner, relay: new Relay(client, server, owner) }
}

const RESET = new WeftError('WEFT_RESET', 'reset')

test('bytes go both ways and are counted', () => {
  const { client, server, relay } = open()
  client.deliver('question')
  server.deliver('ans')
  server.deliver('wer')
  assert.equal(server.text, 'question')
  assert.equal(client.text, 'answer')
  assert.deepEqual([relay.receivedBytes, relay.sentBytes], [8, 6])
})

test('a half-close is passed on, and the other direction lives', () => {
  const { client, server, owner } = open()
  client.deliverEnd()
  assert.deepEqual(server.endings, ['end'])
  server.deliver('still here')
  assert.equal(client.text, 'still here')
  server.deliverEnd()
  assert.deepEqual(client.endings, ['end'])
  assert.deepEqual(owner.ends, [])
  client.deliverClose()
  server.deliverClose()
  assert.deepEqual(owner.ends, [{ isDownstreamFault: false, error: null }])
})

for (const who of ['client', 'server'] as const) {
  test(`a reset by the ${who} is a reset for the other, and is told once`, () => {
    const { client, server, owner } = open()
    const [from, to] = who === 'client' ? [client, server] : [server, client]
    from.deliverClose(RESET)
    assert.deepEqual(to.endings, ['abort'])
    assert.deepEqual(owner.ends, [{ isDownstreamFault: who === 'client', error: 'WEFT_RESET' }])
  })

  test(`the ${who}'s writer is stopped while the ${who} reads slowly`, () => {
    const { client, server } = open()
    const [slow, fast] = who === 'client' ? [client, server] : [server, client]
    slow.backlog = BACKLOG_HIGH
    fast.deliver('a')
    assert.equal(fast.isPaused, false)
    slow.backlog = BACKLOG_HIGH + 1
    fast.deliver('b')
    // The transport may deliver once more; that is no second pause.
    fast.deliver('c')
    assert.equal(fast.isPaused, true)
    assert.equal(slow.isPaused, false)
    slow.handler.onDrain(slow)
    assert.equal(fast.isPaused, false)
    slow.handler.onDrain(slow)
    assert.equal(slow.text, 'abc')
  })
}

test('an abort resets both, and is told once', () => {
  const { client, server, relay, owner } = open()
  relay.abort()
  assert.deepEqual([client.endings, server.endings], [['abort'], ['abort']])
  assert.deepEqual(owner.ends, [{ isDownstreamFault: false, error: null }])
})
