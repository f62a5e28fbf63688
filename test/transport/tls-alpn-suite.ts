/** Application protocols (ALPN, RFC 7301), and listeners that serve several identities. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import tls from 'node:tls'
import type { TlsContext, TlsOptions } from '../../src/transport/conn.ts'
import { AcceptRecorder, ConnRecorder, Echo } from '../support/conn-recorder.ts'
import { SERVER, type TlsPeers } from '../support/tls-peers.ts'

function protocols(...alpn: string[]): TlsOptions {
  return { alpn, isResumable: false }
}

/** Tests of the choice of a protocol, and of a certificate. */
export function testProtocolChoice(peers: TlsPeers): void {
  const TEST = { timeout: 30_000 }

  describe('the application protocol', TEST, () => {
    const cases: readonly (readonly [string, readonly string[], readonly string[], string])[] = [
      ['the only one', ['h2'], ['h2'], 'h2'],
      ["the server's first choice among the client's", ['h2', 'http/1.1'], ['http/1.1', 'h2'], 'h2'],
      ['what is left when the client lacks the first', ['h2', 'http/1.1'], ['http/1.1'], 'http/1.1'],
      ['what is left when the server lacks the first', ['http/1.1'], ['h2', 'http/1.1'], 'http/1.1'],
      ['the second of three', ['x', 'istio', 'h2'], ['h2', 'istio'], 'istio'],
    ]
    for (const [name, offered, wanted, agreed] of cases) {
      test(`is ${name}, and both sides know it`, async () => {
        const options = protocols(...offered)
        const { acceptor, port } = await peers.serve(() => new Echo(), undefined, undefined, options)
        const client = new ConnRecorder()
        const conn = peers.dial(port, client, { options: protocols(...wanted) })
        await client.seen('open')
        assert.equal(conn.alpn, agreed)
        const server = await acceptor.handler(0)
        assert.equal(server.conn!.alpn, agreed)
        conn.abort()
      })
    }

    test('is h2 unless told otherwise, and none without TLS', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      assert.equal(conn.alpn, null, 'not before the handshake')
      await client.seen('open')
      assert.deepEqual([conn.alpn, (await acceptor.handler(0)).conn!.alpn], ['h2', 'h2'])
      conn.abort()
    })

    test('that both sides lack is refused by both, naming what was wanted', async () => {
      const options = protocols('h2', 'http/1.1')
      const { acceptor, port } = await peers.serve(() => new Echo(), undefined, undefined, options)
      const client = new ConnRecorder()
      peers.dial(port, client, { options: protocols('istio') })
      await client.seen('close')
      assert.deepEqual(client.events, ['close'])
      assert.equal(client.error?.code, 'WEFT_TLS')
      assert.match(client.error!.message, new RegExp(`^127\\.0\\.0\\.1:${port} .*no ALPN istio\\)`))
      const failure = await acceptor.failure(0)
      assert.equal(failure.error.code, 'WEFT_TLS')
      assert.match(failure.error.message, /^127\.0\.0\.1 .*no ALPN h2 or http\/1\.1\)/)
      assert.deepEqual(acceptor.handlers, [])
    })

    test('that both sides lack ends with the alert no_application_protocol', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const end = await peers.foreignClient(port, { ...peers.foreignIdentity, ALPNProtocols: ['http/1.1', 'spdy/3'] })
      assert.equal(end, 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL')
      assert.match((await acceptor.failure(0)).error.message, /no ALPN h2/)
    })

    test('of a list that is none makes no context', () => {
      for (const alpn of [[], [''], ['h2', ''], ['x'.repeat(256)]]) {
        assert.throws(() => peers.transport.tlsContext(peers.serverMaterial, protocols(...alpn)), {
          code: 'WEFT_CERTIFICATE',
          message: /application protocols/,
        })
      }
    })
  })

  describe('a listener with several identities', TEST, () => {
    test('shows the one of the address that was dialled, and what takes its place', async () => {
      const { transport, authority } = peers
      const identity = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`
      const contexts = new Map<string, TlsContext>()
      for (const [address, name] of [
        ['127.0.0.2', 'second'],
        ['127.0.0.3', 'third'],
      ] as const) {
        contexts.set(address, transport.tlsContext(authority.leaf('shop', name)))
      }
      const asked: string[] = []
      const source = {
        current: (address: string, port: number) => {
          asked.push(`${address}:${port}`)
          return contexts.get(address) ?? null
        },
      }
      const acceptor = new AcceptRecorder(() => new Echo())
      const listener = await transport.listen({ address: '0.0.0.0', port: 0, isShared: false }, source, acceptor)
      peers.atEnd(() => listener.close())
      const { port } = listener
      const everybody = [SERVER, identity('second'), identity('third'), identity('changed')]
      const proved = async (address: string): Promise<string | null> => {
        const handler = new ConnRecorder()
        const conn = peers.dial(port, handler, { address, expected: everybody })
        await Promise.race([handler.seen('open'), handler.seen('close')])
        const { peerIdentity } = conn
        conn.abort()
        return peerIdentity
      }
      assert.equal(await proved('127.0.0.2'), identity('second'))
      assert.equal(await proved('127.0.0.3'), identity('third'))
      assert.equal(await proved('127.0.0.2'), identity('second'))
      contexts.set('127.0.0.3', transport.tlsContext(authority.leaf('shop', 'changed')))
      assert.equal(await proved('127.0.0.3'), identity('changed'))
      assert.equal(await proved('127.0.0.2'), identity('second'))
      assert.equal(await proved('127.0.0.4'), null, 'nobody has that address')
      assert.deepEqual(
        asked,
        ['2', '3', '2', '3', '2', '4'].map((last) => `127.0.0.${last}:${port}`),
      )
      assert.ok(acceptor.errors.some(({ error }) => /no certificate yet/.test(error.message)))
    })
  })

  describe('a client of another make', TEST, () => {
    test('gets the protocol that it shares with the listener', async () => {
      const options = protocols('h2', 'http/1.1')
      const { acceptor, port } = await peers.serve(() => new Echo(), undefined, undefined, options)
      const socket = tls.connect({ port, ...peers.foreignIdentity, ALPNProtocols: ['http/1.1'] })
      await once(socket, 'secureConnect')
      assert.equal(socket.alpnProtocol, 'http/1.1')
      assert.equal((await acceptor.handler(0)).conn!.alpn, 'http/1.1')
      socket.destroy()
    })
  })
}
