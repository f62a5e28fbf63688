/** TLS: who is let in, who is not and what is said of it, rotation, and foreign peers. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import tls from 'node:tls'
import { BACKLOG_HIGH, type Conn, ORIGIN_ANY, type TlsContext, type TlsMaterial } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import type { TransportKind } from '../support/transports.ts'

/** Tests of TLS. */
export function testTls(kind: TransportKind): void {
  const TEST = { timeout: 30_000 }
  const transport = kind.create()
  const authority = new TestAuthority()
  const stranger = new TestAuthority()
  const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
  const CLIENT = 'spiffe://cluster.local/ns/shop/sa/client'
  const HOUR_MS = 3_600_000
  const serverMaterial = authority.leaf('shop', 'server')
  const clientMaterial = authority.leaf('shop', 'client')
  const closers: (() => void)[] = []

  after(() => {
    for (const close of closers) close()
  })

  interface Served<H extends ConnRecorder> {
    readonly acceptor: AcceptRecorder<H>
    readonly port: number
    context: TlsContext | null
  }

  async function serve<H extends ConnRecorder>(create: () => H, material = serverMaterial, by = transport) {
    const acceptor = new AcceptRecorder(create)
    const served: Served<H> = { acceptor, port: 0, context: by.tlsContext(material) }
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await by.listen(target, { current: () => served.context }, acceptor)
    closers.push(() => listener.close())
    return Object.assign(served, { port: listener.port })
  }

  interface Dial {
    readonly material?: TlsMaterial
    readonly expected?: readonly string[]
    readonly timeoutMs?: number
  }

  function dial(port: number, handler: ConnRecorder, { material, expected, timeoutMs }: Dial = {}): Conn {
    const options = {
      address: '127.0.0.1',
      port,
      origin: ORIGIN_ANY,
      timeoutMs: timeoutMs ?? 10_000,
      tls: transport.tlsContext(material ?? clientMaterial),
      expectedIdentities: expected ?? [SERVER],
    }
    return transport.connect(options, handler)
  }

  /** A peer of another make: node:tls without our transport, on our port. Resolves with how its connection ended. */
  async function foreignClient(port: number, options: tls.ConnectionOptions): Promise<string> {
    const socket = tls.connect({
      port,
      host: '127.0.0.1',
      ca: authority.bundle,
      checkServerIdentity: noCheck,
      ...options,
    })
    let end = 'close'
    socket.on('error', (error: NodeJS.ErrnoException) => {
      end = error.code ?? error.message
    })
    socket.resume()
    await closed(socket)
    return end
  }

  /** Unlike `once`, an error does not matter to it. */
  function closed(socket: net.Socket): Promise<void> {
    return new Promise((resolve) => socket.once('close', () => resolve()))
  }

  function noCheck(): undefined {
    return undefined
  }

  /** A server of another make. */
  async function foreignServer(options: tls.TlsOptions): Promise<number> {
    const server = tls.createServer({ key: serverMaterial.key, cert: serverMaterial.certificateChain, ...options })
    server.on('secureConnection', (socket) => socket.on('error', () => {}))
    server.listen(0, '127.0.0.1')
    closers.push(() => server.close())
    await once(server, 'listening')
    return (server.address() as net.AddressInfo).port
  }

  describe('a mutual TLS connection', TEST, () => {
    test('proves both identities, carries bytes, and half-closes in both directions', async () => {
      const { acceptor, port } = await serve(() => new Echo())
      const client = new ConnRecorder()
      const conn = dial(port, client)
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
      const { acceptor, port } = await serve(() => new ConnRecorder())
      for (const [index, isClientFirst] of [true, false].entries()) {
        const client = new ConnRecorder()
        const conn = dial(port, client)
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
      const { acceptor, port } = await serve(() => new Echo())
      const client = new ConnRecorder()
      const conn = dial(port, client)
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
      const otherConn = dial(port, other)
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
      const { acceptor, port } = await serve(() => new ConnRecorder())
      const client = new ConnRecorder()
      const conn = dial(port, client)
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
      const { acceptor, port } = await serve(() => new ConnRecorder())
      const client = new ConnRecorder()
      const conn = dial(port, client)
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

  describe('a client refuses a server', TEST, () => {
    const cases: readonly (readonly [string, TlsMaterial, readonly string[], string, RegExp])[] = [
      [
        'of another identity, naming both',
        serverMaterial,
        ['spiffe://cluster.local/ns/shop/sa/other'],
        'WEFT_PEER_IDENTITY',
        /proved to be spiffe:\/\/cluster\.local\/ns\/shop\/sa\/server, expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/other/,
      ],
      ['when it expects nobody', serverMaterial, [], 'WEFT_PEER_IDENTITY', /expected nobody/],
      [
        'of the right name from an authority that is not trusted',
        stranger.leaf('shop', 'server', { bundle: authority.bundle }),
        [SERVER],
        'WEFT_TLS',
        /UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT/,
      ],
      [
        'whose certificate has expired',
        authority.leaf('shop', 'server', { nowMs: Date.now() - HOUR_MS, lifetimeMs: HOUR_MS / 2 }),
        [SERVER],
        'WEFT_TLS',
        /CERT_HAS_EXPIRED/,
      ],
      [
        'whose certificate is not valid yet',
        authority.leaf('shop', 'server', { nowMs: Date.now() + HOUR_MS }),
        [SERVER],
        'WEFT_TLS',
        /CERT_NOT_YET_VALID/,
      ],
    ]
    for (const [name, material, expected, code, message] of cases) {
      test(name, async () => {
        const { acceptor, port } = await serve(() => new Echo(), material)
        const client = new ConnRecorder()
        writeText(dial(port, client, { expected }), 'secret')
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
      const port = await foreignServer({ ca: authority.bundle, requestCert: true })
      const client = new ConnRecorder()
      dial(port, client)
      await client.seen('close')
      assert.deepEqual(client.events, ['close'])
      assert.equal(client.error?.code, 'WEFT_TLS')
      assert.match(client.error!.message, /ALPN h2/)
    })

    test('that speaks only TLS 1.2', async () => {
      const port = await foreignServer({ maxVersion: 'TLSv1.2', ALPNProtocols: ['h2'] })
      const client = new ConnRecorder()
      dial(port, client)
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
          closers.push(() => socket.destroy())
          answer(socket)
        })
        server.listen(0, '127.0.0.1')
        await once(server, 'listening')
        const client = new ConnRecorder()
        dial((server.address() as net.AddressInfo).port, client, {
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
        stranger.leaf('shop', 'client', { bundle: authority.bundle }),
        'WEFT_TLS',
        /UNABLE_TO_VERIFY_LEAF_SIGNATURE|UNABLE_TO_GET_ISSUER_CERT/,
      ],
      [
        'whose certificate has expired',
        authority.leaf('shop', 'client', { nowMs: Date.now() - HOUR_MS, lifetimeMs: HOUR_MS / 2 }),
        'WEFT_TLS',
        /CERT_HAS_EXPIRED/,
      ],
      [
        'whose certificate is not valid yet',
        authority.leaf('shop', 'client', { nowMs: Date.now() + HOUR_MS }),
        'WEFT_TLS',
        /CERT_NOT_YET_VALID/,
      ],
      [
        'of another trust domain, though of the same authority',
        authority.leafFor('spiffe://elsewhere.org/ns/shop/sa/client'),
        'WEFT_PEER_IDENTITY',
        /spiffe:\/\/elsewhere\.org\/ns\/shop\/sa\/client, expected one identity in trust domain cluster\.local/,
      ],
      [
        'that is a node and no workload',
        authority.leafFor('spiffe://cluster.local/node/node1'),
        'WEFT_PEER_IDENTITY',
        /proved to be nobody/,
      ],
    ]
    for (const [name, material, code, message] of cases) {
      test(name, async () => {
        const { acceptor, port } = await serve(() => new Echo())
        const client = new ConnRecorder()
        dial(port, client, { material })
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

    const identity = { key: clientMaterial.key, cert: clientMaterial.certificateChain }
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
        const { acceptor, port } = await serve(() => new Echo())
        const ended = foreignClient(port, options)
        const failure = await acceptor.failure(0)
        assert.equal(failure.error.code, 'WEFT_TLS')
        assert.match(failure.error.message, message)
        assert.equal(failure.remoteAddress, '127.0.0.1')
        await ended
        assert.deepEqual(acceptor.handlers, [])
      })
    }

    test('that sends garbage, half a handshake, nothing, or a reset', async () => {
      const quick = kind.create({ handshakeTimeoutMs: 150 })
      const hello = await clientHello()
      const acts: readonly (readonly [RegExp, (socket: net.Socket) => void])[] = [
        [/ERR_SSL/, (socket) => socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
        [/ERR_SSL/, (socket) => socket.write(Buffer.alloc(100_000, 0x16))],
        [/handshake in time/, () => {}],
        [/handshake in time/, (socket) => socket.write(hello.subarray(0, hello.length - 10))],
        [/handshake in time/, (socket) => socket.write(hello)],
        [/closed the connection during/, (socket) => socket.end(hello.subarray(0, 50))],
        [/closed the connection during/, (socket) => socket.write(hello, () => socket.resetAndDestroy())],
      ]
      const { acceptor, port } = await serve(() => new Echo(), serverMaterial, quick)
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
      const narrow = kind.create({ handshakesMax: 2 })
      const { acceptor, port } = await serve(() => new Echo(), serverMaterial, narrow)
      const sockets: net.Socket[] = []
      for (let i = 0; i < 3; i++) sockets.push(net.connect(port, '127.0.0.1').on('error', () => {}))
      const failure = await acceptor.failure(0)
      assert.equal(failure.error.code, 'WEFT_LIMIT')
      for (const socket of sockets) socket.destroy()
      await acceptor.failure(2)
      const client = new ConnRecorder()
      const conn = dial(port, client)
      await client.seen('open')
      conn.abort()
    })

    test('while it has no certificate itself', async () => {
      const served = await serve(() => new Echo())
      served.context = null
      const client = new ConnRecorder()
      dial(served.port, client)
      const failure = await served.acceptor.failure(0)
      assert.match(failure.error.message, /no certificate yet/)
      await client.seen('close')
      served.context = transport.tlsContext(serverMaterial)
      const again = new ConnRecorder()
      const conn = dial(served.port, again)
      await again.seen('open')
      conn.abort()
    })
  })

  describe('rotation', TEST, () => {
    test('reaches a listener that is open, and leaves its connections alone', async () => {
      const served = await serve(() => new Echo())
      const old = new ConnRecorder()
      const oldConn = dial(served.port, old)
      await old.seen('open')
      served.context = transport.tlsContext(authority.leaf('shop', 'renamed'))
      const renamed = 'spiffe://cluster.local/ns/shop/sa/renamed'
      const fresh = new ConnRecorder()
      const freshConn = dial(served.port, fresh, { expected: [SERVER, renamed] })
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
      const bundle = authority.bundle + next.bundle
      const served = await serve(() => new Echo(), authority.leaf('shop', 'server', { bundle }))
      const dialled: Conn[] = []
      for (const [server, client] of [
        [authority, authority],
        [authority, next],
        [next, authority],
        [next, next],
      ] as const) {
        served.context = transport.tlsContext(server.leaf('shop', 'server', { bundle }))
        const handler = new ConnRecorder()
        dialled.push(dial(served.port, handler, { material: client.leaf('shop', 'client', { bundle }) }))
        await handler.seen('open')
      }
      const late = new ConnRecorder()
      dial(served.port, late, { material: authority.leaf('shop', 'client') })
      await late.seen('close')
      assert.equal(late.error?.code, 'WEFT_TLS', 'who trusts the old root only does not accept the new one')
      for (const conn of dialled) conn.abort()
    })
  })

  describe('a TLS context', TEST, () => {
    const good = serverMaterial
    const cases: readonly (readonly [string, Partial<TlsMaterial>, RegExp])[] = [
      ['a key of another certificate', { key: clientMaterial.key }, /do not fit together/],
      ['a key that is none', { key: 'no key' }, /do not fit together/],
      ['an empty bundle', { bundle: '' }, /bundle .* holds no certificate/],
      ['a bundle that is no PEM', { bundle: 'roots' }, /holds no certificate/],
      [
        'a bundle that cannot be read',
        { bundle: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' },
        /cannot be read/,
      ],
      ['an empty chain', { certificateChain: '' }, /holds no certificate/],
      ['the certificate of somebody else', { ...clientMaterial, identity: SERVER }, /names .*client instead/],
    ]
    for (const [name, change, message] of cases) {
      test(`is not made from ${name}`, () => {
        assert.throws(() => transport.tlsContext({ ...good, ...change }), { code: 'WEFT_CERTIFICATE', message })
      })
    }
  })

  describe('the client hello', TEST, () => {
    test('has no server name and no certificate compression, and offers TLS 1.3, AES-GCM, X25519, P-256 and h2', async () => {
      const hello = parseClientHello(await clientHello())
      assert.deepEqual(hello.ciphers, [0x1301, 0x1302])
      const SERVER_NAME = 0
      const GROUPS = 10
      const ALPN = 16
      const COMPRESS_CERTIFICATE = 27
      const PRE_SHARED_KEY = 41
      const VERSIONS = 43
      for (const absent of [SERVER_NAME, COMPRESS_CERTIFICATE, PRE_SHARED_KEY]) {
        assert.ok(!hello.extensions.has(absent), `extension ${absent} is sent`)
      }
      assert.equal(hello.extensions.get(VERSIONS), '020304')
      assert.equal(hello.extensions.get(GROUPS), '0004001d0017')
      assert.equal(hello.extensions.get(ALPN), '0003026832')
    })
  })

  describe('sessions', TEST, () => {
    test('are never resumed: each handshake checks the certificate', async () => {
      const { port } = await serve(() => new Echo())
      const options = {
        port,
        host: '127.0.0.1',
        ca: authority.bundle,
        key: clientMaterial.key,
        cert: clientMaterial.certificateChain,
        ALPNProtocols: ['h2'],
        checkServerIdentity: noCheck,
      }
      const first = tls.connect(options)
      first.write('x')
      // One that sends no ticket at all does as well. Tickets come before the first bytes.
      let session: Buffer | undefined
      first.once('session', (ticket: Buffer) => {
        session = ticket
      })
      await once(first, 'data')
      first.destroy()
      const second = tls.connect({ ...options, session })
      await once(second, 'secureConnect')
      assert.equal(second.isSessionReused(), false)
      second.destroy()
    })
  })

  describe('openssl s_client', TEST, () => {
    test('talks to a listener: TLS 1.3, AES-GCM, h2, and a chain that verifies', async () => {
      const { acceptor, port } = await serve(() => new Echo())
      const directory = mkdtempSync(join(tmpdir(), 'weft-tls-'))
      closers.push(() => rmSync(directory, { recursive: true }))
      const file = (name: string, text: string): string => {
        writeFileSync(join(directory, name), text, { mode: 0o600 })
        return join(directory, name)
      }
      const child = spawn(
        'openssl',
        [
          ...['s_client', '-connect', `127.0.0.1:${port}`, '-alpn', 'h2', '-verify_return_error', '-noservername'],
          ...['-cert', file('cert.pem', clientMaterial.certificateChain), '-key', file('key.pem', clientMaterial.key)],
          ...['-CAfile', file('ca.pem', authority.bundle)],
        ],
        { stdio: ['pipe', 'pipe', 'pipe'] },
      )
      let output = ''
      child.stdout.on('data', (chunk) => {
        output += chunk
      })
      const server = await acceptor.handler(0)
      child.stdin.write('hello from openssl\n')
      await server.until(() => server.text.includes('hello from openssl'))
      assert.equal(server.conn!.peerIdentity, CLIENT)
      while (!/^hello from openssl/m.test(output)) await once(child.stdout, 'data')
      child.stdin.end()
      server.conn!.close()
      await once(child, 'close')
      assert.match(output, /TLSv1\.3, Cipher is TLS_AES_(128|256)_GCM/)
      assert.match(output, /ALPN protocol: h2/)
      assert.match(output, /Verify return code: 0 \(ok\)/)
    })
  })

  /** A certificate that its own key signed: a root used as a leaf. */
  function selfSigned(): { key: string; cert: string } {
    const { authority: own } = new TestAuthority()
    return { key: own.key.export({ format: 'pem', type: 'pkcs8' }).toString(), cert: own.certificate.pem }
  }

  /** The first bytes that our client sends. */
  async function clientHello(): Promise<Buffer> {
    const server = net.createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = new ConnRecorder()
    const conn = dial((server.address() as net.AddressInfo).port, client)
    const [socket] = (await once(server, 'connection')) as [net.Socket]
    const [bytes] = (await once(socket, 'data')) as [Buffer]
    conn.abort()
    socket.on('error', () => {})
    await client.seen('close')
    server.close()
    return bytes
  }

  /** Cipher suites and extensions (number to hexadecimal body) of a ClientHello in one TLS record (RFC 8446). */
  function parseClientHello(record: Buffer): { ciphers: number[]; extensions: Map<number, string> } {
    // Record header 5, handshake header 4, version 2, random 32; then the session id.
    let at = 5 + 4 + 2 + 32
    at += 1 + record[at]!
    const cipherBytes = record.readUInt16BE(at)
    const ciphers: number[] = []
    for (let i = 0; i < cipherBytes; i += 2) ciphers.push(record.readUInt16BE(at + 2 + i))
    at += 2 + cipherBytes
    at += 1 + record[at]!
    const end = at + 2 + record.readUInt16BE(at)
    at += 2
    const extensions = new Map<number, string>()
    while (at < end) {
      const length = record.readUInt16BE(at + 2)
      extensions.set(record.readUInt16BE(at), record.toString('hex', at + 4, at + 4 + length))
      at += 4 + length
    }
    // 0x00ff only signals that renegotiation is secure.
    return { ciphers: ciphers.filter((cipher) => cipher !== 0xff), extensions }
  }
}
