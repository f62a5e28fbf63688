/** TLS connections: identities, bytes, ends, back-pressure; rotation of credentials. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { BACKLOG_HIGH, type Conn, type TlsMaterial } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { CLIENT, SERVER, type TlsPeers } from '../support/tls-peers.ts'

/** Tests of TLS connections that stand. */
export function testTlsConnections(peers: TlsPeers): void {
  const TEST = { timeout: 30_000 }
  describe('a mutual TLS connection', TEST, () => {
    test('proves both identities, carries bytes, and half-closes in both directions', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      writeText(conn, 'early ')
      await client.seen('open')
      assert.equal(conn.peerIdentity, SERVER)
      const server = await acceptor.handler(0)
      assert.equal(server.conn!.peerIdentity, CLIENT)
      assert.deepEqual([conn.remoteAddress, conn.remotePort], ['127.0.0.1', port])
      assert.equal(server.conn!.remotePort, conn.localPort)
      assert.equal(server.conn!.localAddress, '127.0.0.1')
      writeText(conn, 'and late')
      conn.end()
      await client.seen('close')
      await server.seen('close')
      assert.equal(client.text, 'early and late')
      assert.deepEqual([client.error, server.error], [null, null])
      assert.deepEqual(server.events.at(-1), 'close')
      assert.deepEqual(acceptor.errors, [])
    })

    test('still carries what the server sends after the client has ended, and the reverse', async () => {
      const { acceptor, port } = await peers.serve(() => new ConnRecorder())
      for (const [index, isClientFirst] of [true, false].entries()) {
        const client = new ConnRecorder()
        const conn = peers.dial(port, client)
        const server = await acceptor.handler(index)
        await client.seen('open')
        const [first, second] = isClientFirst ? [client, server] : [server, client]
        first.conn!.end()
        await second.seen('end')
        const big = Buffer.alloc(1_000_000, 'x')
        second.conn!.write(big, 0, big.length)
        second.conn!.end()
        await first.seen('close')
        await second.seen('close')
        assert.equal(first.received.length, big.length)
        assert.deepEqual([first.error, second.error], [null, null])
        assert.ok(conn.isClosed)
      }
    })

    test('an abort is a reset to the peer, never an end; also right after an end', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      writeText(conn, 'settled')
      await client.seen('bytes')
      const server = await acceptor.handler(0)
      conn.abort()
      await server.seen('close')
      await client.seen('close')
      assert.equal(server.error?.code, 'WEFT_RESET')
      assert.ok(!server.events.includes('end'))
      assert.equal(client.error, null)

      const other = new ConnRecorder()
      const otherConn = peers.dial(port, other)
      const otherServer = await acceptor.handler(1)
      await otherServer.seen('open')
      await other.seen('open')
      writeText(otherConn, 'x')
      otherConn.end()
      otherConn.abort()
      await other.seen('close')
      assert.equal(other.error, null)
      otherServer.conn!.abort()
      await otherServer.seen('close')
    })

    test('close sends everything first', async () => {
      const { acceptor, port } = await peers.serve(() => new ConnRecorder())
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      await client.seen('open')
      const big = Buffer.alloc(2_000_000, 'y')
      conn.write(big, 0, big.length)
      conn.close()
      const server = await acceptor.handler(0)
      await server.seen('end')
      assert.equal(server.received.length, big.length)
      server.conn!.end()
      await server.seen('close')
      await client.seen('close')
      assert.deepEqual([client.error, server.error], [null, null])
    })

    test('a slow reader stops its writer', async () => {
      const { acceptor, port } = await peers.serve(() => new ConnRecorder())
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      const server = await acceptor.handler(0)
      await server.seen('open')
      await client.seen('open')
      server.conn!.pauseReading()
      const chunk = Buffer.alloc(60_000, 'c')
      let written = 0
      for (let round = 0; round < 200 && conn.backlog <= BACKLOG_HIGH; round++) {
        do written += chunk.length
        while (conn.write(chunk, 0, chunk.length) <= BACKLOG_HIGH)
        for (let i = 0; i < 30 && conn.backlog > 0; i++) await new Promise((resolve) => setImmediate(resolve))
      }
      assert.ok(conn.backlog > BACKLOG_HIGH, 'the writer is held back')
      assert.ok(written < 32_000_000, `${written} bytes went into buffers`)
      const drains = client.events.filter((event) => event === 'drain').length
      server.conn!.resumeReading()
      await client.until(() => client.events.filter((event) => event === 'drain').length > drains)
      assert.equal(conn.backlog, 0)
      await server.until(() => server.received.length === written)
      conn.abort()
    })
  })

  describe('rotation', TEST, () => {
    test('reaches a listener that is open, and leaves its connections alone', async () => {
      const served = await peers.serve(() => new Echo())
      const old = new ConnRecorder()
      const oldConn = peers.dial(served.port, old)
      await old.seen('open')
      served.context = peers.transport.tlsContext(peers.authority.leaf('shop', 'renamed'))
      const renamed = 'spiffe://cluster.local/ns/shop/sa/renamed'
      const fresh = new ConnRecorder()
      const freshConn = peers.dial(served.port, fresh, { expected: [SERVER, renamed] })
      await fresh.seen('open')
      assert.equal(freshConn.peerIdentity, renamed)
      writeText(oldConn, 'still here')
      await old.seen('bytes')
      assert.equal(old.text, 'still here')
      oldConn.abort()
      freshConn.abort()
    })

    test('of the root works while the bundles of both sides hold the old and the new one', async () => {
      const next = new TestAuthority()
      const bundle = peers.authority.bundle + next.bundle
      const served = await peers.serve(() => new Echo(), peers.authority.leaf('shop', 'server', { bundle }))
      const dialled: Conn[] = []
      for (const [server, client] of [
        [peers.authority, peers.authority],
        [peers.authority, next],
        [next, peers.authority],
        [next, next],
      ] as const) {
        served.context = peers.transport.tlsContext(server.leaf('shop', 'server', { bundle }))
        const handler = new ConnRecorder()
        dialled.push(peers.dial(served.port, handler, { material: client.leaf('shop', 'client', { bundle }) }))
        await handler.seen('open')
      }
      const late = new ConnRecorder()
      peers.dial(served.port, late, { material: peers.authority.leaf('shop', 'client') })
      await late.seen('close')
      assert.equal(late.error?.code, 'WEFT_TLS', 'who trusts the old root only does not accept the new one')
      for (const conn of dialled) conn.abort()
    })
  })

  describe('a TLS context', TEST, () => {
    const good = peers.serverMaterial
    const cases: readonly (readonly [string, Partial<TlsMaterial>, RegExp])[] = [
      ['a key of another certificate', { key: peers.clientMaterial.key }, /do not fit together/],
      ['a key that is none', { key: 'no key' }, /do not fit together/],
      ['an empty bundle', { bundle: '' }, /bundle .* holds no certificate/],
      ['a bundle that is no PEM', { bundle: 'roots' }, /holds no certificate/],
      [
        'a bundle that cannot be read',
        { bundle: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' },
        /cannot be read/,
      ],
      ['an empty chain', { certificateChain: '' }, /holds no certificate/],
      ['the certificate of somebody else', { ...peers.clientMaterial, identity: SERVER }, /names .*client instead/],
    ]
    for (const [name, change, message] of cases) {
      test(`is not made from ${name}`, () => {
        assert.throws(() => peers.transport.tlsContext({ ...good, ...change }), { code: 'WEFT_CERTIFICATE', message })
      })
    }
  })
}
