/** HBONE, client and server against each other over the in-memory network. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { WeftError } from '../../src/base/errors.ts'
import { TunnelError } from '../../src/proxy/hbone.ts'
import { TUNNELS_MAX } from '../../src/proxy/hbone-client.ts'
import type { TunnelStream } from '../../src/proxy/hbone-stream.ts'
import { BACKLOG_HIGH } from '../../src/transport/conn.ts'
import { ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import {
  CLIENT_ADDRESS,
  CLIENT_IDENTITY,
  REQUEST,
  SERVER_ADDRESS,
  SERVER_IDENTITY,
  settle,
  tunnelPair,
} from '../support/tunnel-pair.ts'

const TEST = { timeout: 20_000 }

function recorder(): ConnRecorder {
  return new ConnRecorder()
}

describe('a tunnel', TEST, () => {
  test('carries bytes both ways, with identities, addresses and what both sides say of themselves', async () => {
    const pair = await tunnelPair(() => new Echo())
    const { near, conn, farConn } = await pair.open(pair.dial())
    const pending = pair.acceptor.pending[0]!
    assert.deepEqual([pending.host, pending.port], [SERVER_ADDRESS, 8080])
    assert.equal(pending.forwarded, REQUEST.forwarded)
    assert.equal(pending.peerIdentity, CLIENT_IDENTITY)
    assert.equal(pending.remoteAddress, CLIENT_ADDRESS)
    assert.equal(conn.peerIdentity, SERVER_IDENTITY)
    assert.deepEqual([conn.remoteAddress, conn.remotePort], [SERVER_ADDRESS, 8080])
    assert.equal(conn.localAddress, CLIENT_ADDRESS)
    assert.deepEqual([farConn.localAddress, farConn.localPort], [SERVER_ADDRESS, 8080])
    assert.equal(farConn.remoteAddress, CLIENT_ADDRESS)
    assert.equal(farConn.peerIdentity, CLIENT_IDENTITY)
    writeText(conn, 'hello')
    await near.until(() => near.text === 'hello')
  })

  test('is not open before the acceptor has said so, and what was written before waits', async () => {
    const pair = await tunnelPair(null)
    const near = recorder()
    const conn = pair.dial().openTunnel(REQUEST, near)
    writeText(conn, 'early')
    conn.end()
    const pending = await pair.acceptor.tunnel(0)
    await settle()
    assert.deepEqual(near.events, [])
    const far = pair.acceptor.accept(pending, recorder())
    assert.deepEqual(far.events, [], 'nothing comes inside the call')
    await far.seen('end')
    assert.deepEqual(far.events, ['open', 'bytes', 'end'])
    assert.equal(far.text, 'early')
    far.conn!.end()
    await near.seen('close')
    assert.deepEqual(near.events, ['open', 'end', 'close'])
    assert.deepEqual([near.error, far.error], [null, null])
  })

  test('nothing but the request goes out before the 200', async () => {
    const pair = await tunnelPair(null)
    const wire = recorder()
    pair.serverHandler = wire
    const conn = pair.dial().openTunnel(REQUEST, recorder())
    writeText(conn, 'too early')
    await wire.until(() => wire.text.includes(REQUEST.authority))
    await settle()
    assert.equal(wire.text.includes('too early'), false)
  })

  test('half-closes in either order', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    for (const nearFirst of [true, false]) {
      const { near, conn, far, farConn } = await pair.open(client)
      const [first, second] = nearFirst ? [conn, farConn] : [farConn, conn]
      const [firstSide, secondSide] = nearFirst ? [near, far] : [far, near]
      writeText(first, 'question')
      first.end()
      await secondSide.seen('end')
      assert.equal(secondSide.text, 'question')
      assert.equal(first.isClosed, false)
      writeText(second, 'answer')
      second.end()
      await firstSide.seen('close')
      await secondSide.seen('close')
      assert.equal(firstSide.text, 'answer')
      assert.deepEqual([firstSide.error, secondSide.error], [null, null])
    }
    assert.equal(client.activeCount, 0)
  })

  test('a reset on either side is a reset on the other, never an end', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    for (const nearAborts of [true, false]) {
      const { near, conn, far, farConn } = await pair.open(client)
      const [aborting, abortingSide, otherSide] = nearAborts ? [conn, near, far] : [farConn, far, near]
      aborting.abort()
      assert.equal(aborting.isClosed, true)
      assert.deepEqual(abortingSide.events, ['open'], 'nothing comes inside the call')
      await otherSide.seen('close')
      await abortingSide.seen('close')
      assert.equal(otherSide.error?.code, 'WEFT_RESET')
      assert.deepEqual(otherSide.events, ['open', 'close'])
      assert.equal(abortingSide.error, null)
    }
    assert.equal(client.activeCount, 0)
    assert.equal(pair.server.activeCount, 0)
  })

  test('close delivers what was written and waits for nobody', async () => {
    const pair = await tunnelPair(recorder)
    const { near, conn, far, farConn } = await pair.open(pair.dial())
    writeText(conn, 'last words')
    conn.close()
    await near.seen('close')
    await far.seen('end')
    assert.equal(far.text, 'last words')
    writeText(farConn, 'ignored')
    farConn.end()
    await far.seen('close')
    assert.equal(far.error, null)
    assert.deepEqual([near.text, near.error], ['', null])
  })

  test('a peer that never ends after our close is reset in the end', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const { conn, far } = await pair.open(client)
    conn.close()
    await far.seen('end')
    assert.equal(client.activeCount, 1)
    await pair.pass(25_000)
    await far.seen('close')
    assert.equal(far.error?.code, 'WEFT_RESET')
    assert.equal(client.activeCount, 0)
  })

  test('close while paused does not keep what the peer has sent, and too much of it is answered with a reset', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const { conn, near, far, farConn } = await pair.open(client)
    conn.pauseReading()
    farConn.write(Buffer.alloc(3 << 20), 0, 3 << 20)
    await settle()
    conn.close()
    await near.seen('close')
    await far.seen('close')
    assert.equal(far.error?.code, 'WEFT_RESET')
    assert.equal(client.activeCount, 0)
  })

  test('close while paused drops what the peer has sent', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const { conn, near, far, farConn } = await pair.open(client)
    conn.pauseReading()
    writeText(farConn, 'unread')
    farConn.end()
    await settle()
    conn.close()
    await near.seen('close')
    await far.seen('close')
    assert.equal(near.text, '')
    assert.equal(far.error, null)
    assert.equal(client.activeCount, 0)
  })

  test('a slow reader stops its writer, at a bounded cost, and loses nothing', async () => {
    const pair = await tunnelPair(recorder)
    const { conn, near, far, farConn } = await pair.open(pair.dial())
    farConn.pauseReading()
    const chunk = Buffer.alloc(100_000, 'x')
    let written = 0
    for (let stalls = 0; stalls < 3; ) {
      const backlog = conn.write(chunk, 0, chunk.length)
      written += chunk.length
      if (backlog <= BACKLOG_HIGH) continue
      await settle()
      stalls = conn.backlog > BACKLOG_HIGH ? stalls + 1 : 0
      assert.ok(written < 20_000_000, `${written} bytes went to somebody who reads nothing`)
    }
    assert.equal(far.received.length, 0)
    farConn.resumeReading()
    await near.seen('drain')
    conn.end()
    await far.seen('end')
    assert.equal(far.received.length, written)
  })

  test('another tunnel is not stalled by it', async () => {
    const pair = await tunnelPair(() => new Echo())
    const client = pair.dial()
    const stalled = await pair.open(client)
    stalled.farConn.pauseReading()
    const chunk = Buffer.alloc(1 << 20)
    for (let i = 0; i < 8; i++) stalled.conn.write(chunk, 0, chunk.length)
    await settle()
    const { near, conn } = await pair.open(client)
    writeText(conn, 'hello')
    await near.until(() => near.text === 'hello')
  })

  test('is reset after its idle time', async () => {
    const pair = await tunnelPair(recorder)
    const { conn, near, far } = await pair.open(pair.dial())
    let nowMs = 0
    ;(pair.parts as { nowMs: () => number }).nowMs = () => nowMs
    conn.setIdleTimeout(2000)
    nowMs = 1500
    writeText(conn, 'x')
    nowMs = 2100
    await pair.pass(2500)
    assert.equal(conn.isClosed, false, 'it was not idle since the write')
    nowMs = 5000
    await pair.pass(3000)
    await near.seen('close')
    await far.seen('close')
    assert.equal(near.error?.code, 'WEFT_TIMEOUT')
    assert.equal(far.error?.code, 'WEFT_RESET')
  })

  test('calls on a closed tunnel do nothing', async () => {
    const pair = await tunnelPair(recorder)
    const { conn, near } = await pair.open(pair.dial())
    conn.abort()
    await near.seen('close')
    assert.equal(writeText(conn, 'x'), 0)
    conn.end()
    conn.close()
    conn.abort()
    conn.pauseReading()
    conn.resumeReading()
    conn.setIdleTimeout(10)
    await settle()
    assert.deepEqual(near.events, ['open', 'close'])
  })

  test('every byte arrives once and in order, whatever both ends do and wherever the network cuts', async () => {
    const random = new SeededRandom(15_008)
    for (let round = 0; round < 8; round++) {
      const pair = await tunnelPair(recorder, random.integer(1, 4000))
      const client = pair.dial()
      const tunnels = [await pair.open(client), await pair.open(client), await pair.open(client)]
      const ends = tunnels.flatMap(({ conn, farConn }) => [conn, farConn])
      const sides = tunnels.flatMap(({ near, far }) => [near, far])
      const sent = ends.map(() => '')
      for (let step = 0; step < 80; step++) {
        const index = random.integer(0, ends.length - 1)
        const text = String.fromCharCode(97 + (step % 26)).repeat(random.integer(1, 3000))
        if (random.next() < 0.6) {
          writeText(ends[index]!, text)
          sent[index] += text
        }
        if (random.next() < 0.2) ends[index]!.pauseReading()
        if (random.next() < 0.3) ends[index]!.resumeReading()
        if (random.next() < 0.2) await settle()
      }
      for (const end of ends) {
        for (let i = 0; i < 80; i++) end.resumeReading()
        end.end()
      }
      for (const side of sides) await side.seen('close')
      sides.forEach((side, i) => {
        assert.equal(side.error, null)
        assert.ok(side.text === sent[i ^ 1], `round ${round}, end ${i}`)
      })
    }
  })
})

describe('a tunnel that is refused', TEST, () => {
  const STATUSES: readonly (readonly [number, RegExp])[] = [
    [400, /does not serve 198\.18\.2\.2:8080/],
    [401, /denied: look at the authorization policies/],
    [503, /cannot reach 198\.18\.2\.2:8080: check that the application listens/],
    [418, /refused the tunnel/],
  ]
  for (const [status, message] of STATUSES) {
    test(`with ${status} tells its status and what to look at`, async () => {
      const pair = await tunnelPair(null)
      const client = pair.dial()
      const near = recorder()
      client.openTunnel(REQUEST, near)
      const pending = await pair.acceptor.tunnel(0)
      pending.refuse(status, 'because')
      await near.seen('close')
      assert.deepEqual(near.events, ['close'])
      assert.ok(near.error instanceof TunnelError)
      assert.equal(near.error.code, 'WEFT_CONNECT')
      assert.equal(near.error.status, status)
      assert.match(near.error.message, message)
      await settle()
      assert.equal(client.activeCount, 0)
      assert.equal(pair.server.activeCount, 0)
      pending.refuse(500, 'twice')
      assert.equal(client.isUsable, true)
    })
  }

  test('because nobody listens, tells why the connection failed', async () => {
    const pair = await tunnelPair(null)
    const client = pair.dial()
    const refusedPair = pair.options()
    const near = recorder()
    client.openTunnel({ ...REQUEST }, near)
    await pair.acceptor.tunnel(0)
    const elsewhere = recorder()
    const lost = new (client.constructor as new (...args: unknown[]) => typeof client)(
      pair.parts,
      { ...refusedPair, port: 1 },
      pair,
    )
    lost.openTunnel(REQUEST, elsewhere)
    await elsewhere.seen('close')
    assert.equal(elsewhere.error?.code, 'WEFT_CONNECT')
    assert.match(elsewhere.error?.message ?? '', /ECONNREFUSED/)
    assert.equal(lost.isUsable, false)
    assert.equal(pair.unusable, 1)
  })

  test('because the destination proves another identity, says so', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial('spiffe://cluster.local/ns/shop/sa/other')
    const near = recorder()
    client.openTunnel(REQUEST, near)
    await near.seen('close')
    assert.equal(near.error?.code, 'WEFT_PEER_IDENTITY')
    assert.equal(client.canOpen, false)
  })

  test('because there is no room, at the end of the batch', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const open = await pair.open(client)
    for (let i = 1; i < TUNNELS_MAX; i++) client.openTunnel(REQUEST, recorder())
    assert.equal(client.canOpen, false)
    const near = recorder()
    const conn = client.openTunnel(REQUEST, near)
    assert.equal(conn.isClosed, true)
    assert.deepEqual(near.events, [])
    await near.seen('close')
    assert.equal(near.error?.code, 'WEFT_LIMIT')
    open.conn.abort()
    assert.equal(client.canOpen, true)
    assert.equal(pair.closedTunnels, 1)
  })
})

describe('a pending tunnel', TEST, () => {
  test('whose client gives up is reported, and accepting it is in vain', async () => {
    const pair = await tunnelPair(null)
    const client = pair.dial()
    const near = recorder()
    const conn = client.openTunnel(REQUEST, near)
    const pending = await pair.acceptor.tunnel(0)
    let abandoned = 0
    pending.listener = { onAbandoned: () => abandoned++ }
    conn.abort()
    await near.seen('close')
    await settle()
    assert.equal(abandoned, 1)
    assert.equal(pending.isAbandoned, true)
    const far = pair.acceptor.accept(pending, recorder())
    await far.seen('close')
    assert.deepEqual(far.events, ['close'])
    assert.equal(far.error?.code, 'WEFT_CLOSED')
    pending.refuse(503, 'too late')
  })

  test('is reported abandoned when the whole connection is lost', async () => {
    const pair = await tunnelPair(null)
    const near = recorder()
    pair.dial().openTunnel(REQUEST, near)
    const pending = await pair.acceptor.tunnel(0)
    let abandoned = 0
    pending.listener = { onAbandoned: () => abandoned++ }
    pair.serverConns[0]!.abort()
    await near.seen('close')
    await settle()
    assert.equal(abandoned, 1)
    assert.equal(near.error?.code, 'WEFT_CONNECT')
    assert.equal(pair.servers.size, 0)
  })

  test('holds what the client sends within its window, until it is accepted', async () => {
    const pair = await tunnelPair(null)
    const near = recorder()
    const conn = pair.dial().openTunnel(REQUEST, near) as TunnelStream
    const pending = await pair.acceptor.tunnel(0)
    const far = pair.acceptor.accept(pending, new Echo())
    writeText(conn, 'x'.repeat(100_000))
    await near.until(() => near.received.length === 100_000)
    assert.equal(far.received.length, 100_000)
  })
})

describe('a tunnel connection', TEST, () => {
  test('drained by the server takes no new tunnel, finishes the open ones, then closes', async () => {
    const pair = await tunnelPair(() => new Echo())
    const client = pair.dial()
    const { near, conn } = await pair.open(client)
    pair.server.drain()
    await settle()
    assert.equal(client.isUsable, false)
    assert.equal(client.canOpen, false)
    assert.equal(pair.unusable, 1)
    const refused = recorder()
    client.openTunnel(REQUEST, refused)
    await refused.seen('close')
    assert.equal(refused.error?.code, 'WEFT_LIMIT')
    writeText(conn, 'still here')
    conn.end()
    await near.seen('close')
    assert.equal(near.text, 'still here')
    assert.equal(near.error, null)
    await settle()
    assert.equal(pair.servers.size, 0, 'the connection is closed')
    assert.equal(pair.unusable, 1)
  })

  test('drained by the client does the same', async () => {
    const pair = await tunnelPair(() => new Echo())
    const client = pair.dial()
    const { near, conn } = await pair.open(client)
    client.drain()
    assert.equal(client.canOpen, false)
    writeText(conn, 'still here')
    conn.end()
    await near.seen('close')
    assert.equal(near.error, null)
    await settle()
    assert.equal(pair.servers.size, 0)
  })

  test('drained before it is up closes when it is', async () => {
    const pair = await tunnelPair(recorder)
    pair.dial().drain()
    await settle()
    assert.equal(pair.serverConns.length, 1)
    assert.equal(pair.servers.size, 0)
  })

  test('a tunnel that races with the drain is served', async () => {
    const pair = await tunnelPair(() => new Echo())
    const client = pair.dial()
    await pair.open(client)
    pair.server.drain()
    const { near, conn } = await pair.open(client)
    writeText(conn, 'made it')
    await near.until(() => near.text === 'made it')
  })

  test('that is lost resets its tunnels', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const first = await pair.open(client)
    const second = await pair.open(client)
    pair.serverConns[0]!.abort()
    for (const { near, far } of [first, second]) {
      await near.seen('close')
      await far.seen('close')
      assert.equal(near.error?.code, 'WEFT_RESET')
      assert.equal(far.error?.code, 'WEFT_RESET')
    }
    assert.equal(client.isUsable, false)
    assert.equal(pair.unusable, 1)
  })

  test('closed by its owner resets its tunnels', async () => {
    const pair = await tunnelPair(recorder)
    const client = pair.dial()
    const { near, far } = await pair.open(client)
    client.close()
    await near.seen('close')
    await far.seen('close')
    assert.equal(near.error?.code, 'WEFT_RESET')
    assert.equal(far.error?.code, 'WEFT_RESET')
    assert.equal(pair.unusable, 1)
  })

  test('is kept alive by pings in both directions', async () => {
    const pair = await tunnelPair(() => new Echo())
    const client = pair.dial()
    const { near, conn } = await pair.open(client)
    await pair.pass(120_000)
    writeText(conn, 'alive')
    await near.until(() => near.text === 'alive')
  })

  test('whose peer does not answer pings is given up after 20 s', async () => {
    const pair = await tunnelPair(recorder)
    pair.serverHandler = recorder()
    const client = pair.dial()
    const near = recorder()
    client.openTunnel(REQUEST, near)
    await settle()
    await pair.pass(25_000)
    assert.deepEqual(near.events, [])
    await pair.pass(10_000)
    await near.seen('close')
    assert.equal(near.error?.code, 'WEFT_CONNECT')
    assert.equal((near.error as WeftError & { cause: WeftError }).cause.code, 'WEFT_TIMEOUT')
    assert.equal(pair.unusable, 1)
  })

  test('whose client goes silent is given up by the server too', async () => {
    const pair = await tunnelPair(recorder)
    const mute = recorder()
    pair.transport.connect(pair.options(), mute)
    await mute.seen('open')
    writeText(mute.conn!, 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0')
    await pair.pass(35_000)
    await mute.seen('close')
    assert.equal(pair.servers.size, 0)
  })

  test('with a client that breaks the rules is ended', async () => {
    const pair = await tunnelPair(recorder)
    const rude = recorder()
    pair.transport.connect(pair.options(), rude)
    await rude.seen('open')
    writeText(rude.conn!, 'GET / HTTP/1.1\r\n\r\n')
    await rude.seen('end')
    rude.conn!.end()
    await settle()
    assert.equal(pair.servers.size, 0)
  })
})
