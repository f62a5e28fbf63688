/** TLS peers that are not let in, and what is said of them. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { describe, test } from 'node:test'
import type tls from 'node:tls'
import type { TlsMaterial } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { closed, SERVER, type TlsPeers } from '../support/tls-peers.ts'

const HOUR_MS = 3_600_000

/** Tests of TLS peers that are refused, by either side. */
export function testTlsRefusals(peers: TlsPeers): void {
  const TEST = { timeout: 30_000 }
  describe('a client refuses a server', TEST, () => {
    const cases: readonly (readonly [string, TlsMaterial, readonly string[], string, RegExp])[] = [
      [
        'of another identity, naming both',
        peers.serverMaterial,
        ['spiffe://cluster.local/ns/shop/sa/other'],
        'WEFT_PEER_IDENTITY',
        /proved to be spiffe:\/\/cluster\.local\/ns\/shop\/sa\/server, expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/other/,
      ],
      ['when it expects nobody', peers.serverMaterial, [], 'WEFT_PEER_IDENTITY', /expected nobody/],
      [
        'of the right name from an authority that is not trusted',
        peers.stranger.leaf('shop', 'server', { bundle: peers.authority.bundle }),
        [SERVER],
        'WEFT_TLS',
        /UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT/,
      ],
      [
        'whose certificate has expired',
        peers.authority.leaf('shop', 'server', { nowMs: Date.now() - HOUR_MS, lifetimeMs: HOUR_MS / 2 }),
        [SERVER],
        'WEFT_TLS',
        /CERT_HAS_EXPIRED/,
      ],
      [
        'whose certificate is not valid yet',
        peers.authority.leaf('shop', 'server', { nowMs: Date.now() + HOUR_MS }),
        [SERVER],
        'WEFT_TLS',
        /CERT_NOT_YET_VALID/,
      ],
    ]
    for (const [name, material, expected, code, message] of cases) {
      test(name, async () => {
        const { acceptor, port } = await peers.serve(() => new Echo(), material)
        const client = new ConnRecorder()
        writeText(peers.dial(port, client, { expected }), 'secret')
        await client.seen('close')
        assert.deepEqual(client.events, ['close'])
        assert.equal(client.error?.code, code)
        assert.match(client.error!.message, message)
        assert.ok(client.error!.message.includes(`127.0.0.1:${port}`))
        const failure = await acceptor.failure(0)
        assert.equal(failure.error.code, 'WEFT_TLS')
        assert.deepEqual(acceptor.handlers, [], 'not a byte reached the server')
      })
    }

    test('that did not agree on HTTP/2', async () => {
      const port = await peers.foreignServer({ ca: peers.authority.bundle, requestCert: true })
      const client = new ConnRecorder()
      peers.dial(port, client)
      await client.seen('close')
      assert.deepEqual(client.events, ['close'])
      assert.equal(client.error?.code, 'WEFT_TLS')
      assert.match(client.error!.message, /ALPN h2/)
    })

    test('that speaks only TLS 1.2', async () => {
      const port = await peers.foreignServer({ maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] })
      const client = new ConnRecorder()
      peers.dial(port, client)
      await client.seen('close')
      assert.equal(client.error?.code, 'WEFT_TLS')
    })

    test('that answers garbage, resets, closes or says nothing', async () => {
      const answers: readonly (readonly [RegExp, (socket: net.Socket) => void])[] = [
        [/ERR_SSL/, (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
        [
          /closed the connection during the TLS handshake/,
          (socket) => socket.once('data', () => socket.resetAndDestroy()),
        ],
        [/closed the connection during the TLS handshake/, (socket) => socket.once('data', () => socket.end())],
        [/did not finish its TLS handshake within 100 ms/, () => {}],
      ]
      for (const [message, answer] of answers) {
        const server = net.createServer({ allowHalfOpen: true }, (socket) => {
          socket.on('error', () => {})
          peers.atEnd(() => socket.destroy())
          answer(socket)
        })
        server.listen(0, '127.0.0.1')
        await once(server, 'listening')
        const client = new ConnRecorder()
        peers.dial((server.address() as net.AddressInfo).port, client, {
          timeoutMs: message.source.includes('100') ? 100 : 5_000,
        })
        await client.seen('close')
        server.close()
        assert.equal(client.error?.code, 'WEFT_TLS')
        assert.match(client.error!.message, message)
      }
    })
  })

  describe('a server refuses a client', TEST, () => {
    const cases: readonly (readonly [string, TlsMaterial, string, RegExp])[] = [
      [
        'from an authority that is not trusted',
        peers.stranger.leaf('shop', 'client', { bundle: peers.authority.bundle }),
        'WEFT_TLS',
        /UNABLE_TO_VERIFY_LEAF_SIGNATURE|UNABLE_TO_GET_ISSUER_CERT/,
      ],
      [
        'whose certificate has expired',
        peers.authority.leaf('shop', 'client', { nowMs: Date.now() - HOUR_MS, lifetimeMs: HOUR_MS / 2 }),
        'WEFT_TLS',
        /CERT_HAS_EXPIRED/,
      ],
      [
        'whose certificate is not valid yet',
        peers.authority.leaf('shop', 'client', { nowMs: Date.now() + HOUR_MS }),
        'WEFT_TLS',
        /CERT_NOT_YET_VALID/,
      ],
      [
        'of another trust domain, though of the same authority',
        peers.authority.leafFor('spiffe://elsewhere.org/ns/shop/sa/client'),
        'WEFT_PEER_IDENTITY',
        /spiffe:\/\/elsewhere\.org\/ns\/shop\/sa\/client, expected one identity in trust domain cluster\.local/,
      ],
      [
        'that is a node and no workload',
        peers.authority.leafFor('spiffe://cluster.local/node/node1'),
        'WEFT_PEER_IDENTITY',
        /proved to be nobody/,
      ],
    ]
    for (const [name, material, code, message] of cases) {
      test(name, async () => {
        const { acceptor, port } = await peers.serve(() => new Echo())
        const client = new ConnRecorder()
        peers.dial(port, client, { material })
        const failure = await acceptor.failure(0)
        assert.equal(failure.error.code, code)
        assert.match(failure.error.message, message)
        assert.equal(failure.remoteAddress, '127.0.0.1')
        await client.seen('close')
        assert.notEqual(client.error, null)
        assert.ok(!client.events.includes('end'), 'the refusal is not an end in order')
        assert.deepEqual(acceptor.handlers, [])
      })
    }

    const identity = { key: peers.clientMaterial.key, cert: peers.clientMaterial.certificateChain }
    const foreign: readonly (readonly [string, tls.ConnectionOptions, RegExp])[] = [
      ['without a certificate', { ALPNProtocols: ['h2'] }, /was refused/],
      [
        'whose certificate is self-signed',
        { ...selfSigned(), ALPNProtocols: ['h2'] },
        /was refused: (DEPTH_ZERO_SELF_SIGNED_CERT|INVALID_PURPOSE)/,
      ],
      ['that speaks only TLS 1.2', { ...identity, maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] }, /ERR_SSL/],
      ['without ALPN', identity, /ALPN h2/],
      ['that speaks only HTTP/1.1', { ...identity, ALPNProtocols: ['http/1.1'] }, /ERR_SSL|ALPN/],
      [
        'that offers only ChaCha20',
        { ...identity, ALPNProtocols: ['h2'], ciphers: 'TLS_CHACHA20_POLY1305_SHA256', minVersion: 'TLSv1.3' },
        /ERR_SSL/,
      ],
    ]
    for (const [name, options, message] of foreign) {
      test(name, async () => {
        const { acceptor, port } = await peers.serve(() => new Echo())
        const ended = peers.foreignClient(port, options)
        const failure = await acceptor.failure(0)
        assert.equal(failure.error.code, 'WEFT_TLS')
        assert.match(failure.error.message, message)
        assert.equal(failure.remoteAddress, '127.0.0.1')
        await ended
        assert.deepEqual(acceptor.handlers, [])
      })
    }

    test('that sends garbage, half a handshake, nothing, or a reset', async () => {
      const quick = peers.kind.create({ handshakeTimeoutMs: 150 })
      const hello = await peers.clientHello()
      const acts: readonly (readonly [RegExp, (socket: net.Socket) => void])[] = [
        [/ERR_SSL/, (socket) => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
        [/ERR_SSL/, (socket) => socket.write(Buffer.alloc(100_000, 0x16))],
        [/handshake in time/, () => {}],
        [/handshake in time/, (socket) => socket.write(hello.subarray(0, hello.length - 10))],
        [/handshake in time/, (socket) => socket.write(hello)],
        [/closed the connection during/, (socket) => socket.end(hello.subarray(0, 50))],
        [/closed the connection during/, (socket) => socket.write(hello, () => socket.resetAndDestroy())],
      ]
      const { acceptor, port } = await peers.serve(() => new Echo(), peers.serverMaterial, quick)
      for (const [index, [message, act]] of acts.entries()) {
        const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        socket.on('error', () => {})
        await once(socket, 'connect')
        const isClosed = closed(socket)
        act(socket)
        socket.on('end', () => socket.end())
        socket.resume()
        const failure = await acceptor.failure(index)
        assert.equal(failure.error.code, 'WEFT_TLS')
        assert.match(failure.error.message, message)
        assert.equal(failure.remoteAddress, '127.0.0.1')
        await isClosed
      }
      assert.equal(acceptor.errors.length, acts.length, 'each failure is reported once')
      assert.deepEqual(acceptor.handlers, [])
    })

    test('beyond the limit of unfinished handshakes', async () => {
      const narrow = peers.kind.create({ handshakesMax: 2 })
      const { acceptor, port } = await peers.serve(() => new Echo(), peers.serverMaterial, narrow)
      const sockets: net.Socket[] = []
      for (let i = 0; i < 3; i++) sockets.push(net.connect(port, '127.0.0.1').on('error', () => {}))
      const failure = await acceptor.failure(0)
      assert.equal(failure.error.code, 'WEFT_LIMIT')
      for (const socket of sockets) socket.destroy()
      await acceptor.failure(2)
      const client = new ConnRecorder()
      const conn = peers.dial(port, client)
      await client.seen('open')
      conn.abort()
    })

    test('while it has no certificate itself', async () => {
      const served = await peers.serve(() => new Echo())
      served.context = null
      const client = new ConnRecorder()
      peers.dial(served.port, client)
      const failure = await served.acceptor.failure(0)
      assert.match(failure.error.message, /no certificate yet/)
      await client.seen('close')
      served.context = peers.transport.tlsContext(peers.serverMaterial)
      const again = new ConnRecorder()
      const conn = peers.dial(served.port, again)
      await again.seen('open')
      conn.abort()
    })
  })
}

/** A certificate that its own key signed: a root used as a leaf. */
function selfSigned(): { key: string; cert: string } {
  const { authority: own } = new TestAuthority()
  return { key: own.key.export({ format: 'pem', type: 'pkcs8' }).toString(), cert: own.certificate.pem }
}
