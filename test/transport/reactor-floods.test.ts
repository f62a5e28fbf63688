/**
 * Peers of the reactor that speak TLS in ways that no library does: records without end that carry nothing, records
 * that are none, handshakes that stop anywhere or never come to an end. Each is ended within a limit, with a sentence,
 * and the listener goes on serving.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { after, describe, test } from 'node:test'
import { ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { closed, TlsPeers } from '../support/tls-peers.ts'
import { CONTENT_ALERT, CONTENT_DATA, CONTENT_HANDSHAKE, RecordPeer } from '../support/tls-records.ts'
import { reactorKind } from '../support/transports.ts'

/** Each is a record of 27 bytes: together more than may come in a row (kBarrenMax in native/addon/reactor_input.cc). */
const KEY_UPDATES = 2_600

if (reactorKind.skip === false) testFloods(new TlsPeers(reactorKind))
else test('the reactor', { skip: reactorKind.skip }, () => {})

function testFloods(peers: TlsPeers): void {
  const TEST = { timeout: 60_000 }
  after(() => peers.close())

  /** A proved client that makes its own records, and what the server's side saw of it. */
  async function connected() {
    const { acceptor, port } = await peers.serve(() => new Echo())
    const peer = await RecordPeer.connect({ ...peers.foreignIdentity, port, ALPNProtocols: ['h2'] })
    const server = await acceptor.handler(0)
    peer.raw.write(peer.record(CONTENT_DATA, Buffer.from('proved')))
    await server.seen('bytes')
    return { peer, server, port, acceptor }
  }

  async function assertServing(port: number): Promise<void> {
    const client = new ConnRecorder()
    const conn = peers.dial(port, client)
    writeText(conn, 'still there')
    await client.seen('bytes')
    assert.equal(client.text, 'still there')
    conn.abort()
  }

  describe('a proved peer', TEST, () => {
    const once: readonly (readonly [string, (peer: RecordPeer) => Buffer, RegExp])[] = [
      [
        'that sends a record with an altered tag',
        (peer) => {
          const record = peer.record(CONTENT_DATA, Buffer.from('x'))
          record[record.length - 1]! ^= 1
          return record
        },
        /BAD_RECORD_MAC/,
      ],
      [
        'that sends a record longer than one may be',
        () => Buffer.concat([Buffer.of(CONTENT_DATA, 3, 3, 0x48, 1), Buffer.alloc(0x4801)]),
        /ERR_SSL_.*(LENGTH|LONG)/,
      ],
      ['that sends a record of no known type', (peer) => peer.record(99, Buffer.from('x')), /ERR_SSL_/],
      ['that sends a record without any type', (peer) => peer.record(0, Buffer.alloc(20)), /ERR_SSL_/],
      ['that sends plain bytes', () => Buffer.from('GET / HTTP/1.1\r\n\r\n'), /ERR_SSL_/],
      [
        'that sends another hello, to renegotiate',
        (peer) => peer.record(CONTENT_HANDSHAKE, Uint8Array.of(1, 0, 0, 2, 3, 3)),
        /ERR_SSL_UNEXPECTED_MESSAGE/,
      ],
      [
        'that sends a handshake message larger than any',
        (peer) => peer.record(CONTENT_HANDSHAKE, Uint8Array.of(24, 0xff, 0xff, 0xff, 0)),
        /ERR_SSL_/,
      ],
      ['that sends half an alert', (peer) => peer.record(CONTENT_ALERT, Uint8Array.of(2)), /ERR_SSL_/],
      [
        'that sends a fatal alert',
        (peer) => peer.record(CONTENT_ALERT, Uint8Array.of(2, 80)),
        /ERR_SSL_.*INTERNAL_ERROR/,
      ],
    ]
    for (const [name, make, message] of once) {
      test(`${name} is cut off, and what it said before stands`, async () => {
        const { peer, server, port } = await connected()
        const isClosed = closed(peer.raw)
        peer.raw.write(make(peer))
        await server.seen('close')
        assert.equal(server.error?.code, 'WEFT_TLS')
        assert.match(server.error!.message, message)
        assert.equal(server.text, 'proved')
        assert.ok(!server.events.includes('end'))
        peer.raw.end()
        await isClosed
        await assertServing(port)
      })
    }

    const floods: readonly (readonly [string, (peer: RecordPeer) => Buffer, string, RegExp])[] = [
      [
        'empty records',
        (peer) => peer.record(CONTENT_DATA, Buffer.alloc(0)),
        'WEFT_TLS',
        /TOO_MANY_EMPTY|RECORD_TOO_SMALL/,
      ],
      ['key updates', (peer) => peer.keyUpdate(false), 'WEFT_LIMIT', /carry nothing/],
      ['key updates that ask for an answer', (peer) => peer.keyUpdate(true), 'WEFT_LIMIT', /carry nothing|takes none/],
    ]
    for (const [name, make, code, message] of floods) {
      test(`that sends ${name} without end is cut off`, async () => {
        const { peer, server, port } = await connected()
        let sent = 0
        while (!server.events.includes('close')) {
          const many: Buffer[] = []
          for (let i = 0; i < 200; i++) many.push(make(peer))
          sent += 200
          assert.ok(sent < 20_000, `${sent} were taken`)
          peer.raw.write(Buffer.concat(many))
          await new Promise((resolve) => setImmediate(resolve))
        }
        assert.equal(server.error?.code, code)
        assert.match(server.error!.message, message)
        peer.raw.destroy()
        await assertServing(port)
      })
    }

    test('may change its keys often while it says something', async () => {
      const { peer, server } = await connected()
      for (let round = 0; round < KEY_UPDATES; round++) {
        peer.raw.write(Buffer.concat([peer.keyUpdate(false), peer.record(CONTENT_DATA, Buffer.from('.'))]))
        if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
      await server.until(() => server.received.length === 'proved'.length + KEY_UPDATES)
      assert.equal(server.error, null)
      peer.raw.destroy()
      await server.seen('close')
    })
  })

  describe('a peer that proves nothing', TEST, () => {
    test('may stop after any part of its hello, by an end or a reset, and each is reported once', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const hello = await peers.clientHello()
      let failures = 0
      for (const length of [0, 1, 4, 5, 6, 9, 43, 100, hello.length - 1, hello.length]) {
        for (const isReset of [false, true]) {
          const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
          socket.on('error', () => {})
          await once(socket, 'connect')
          const isClosed = closed(socket)
          if (length > 0) await new Promise<void>((resolve) => socket.write(hello.subarray(0, length), () => resolve()))
          // What the server says to a whole hello has come: the reset meets it in the middle of the handshake.
          if (length === hello.length) await new Promise((resolve) => socket.once('data', resolve))
          if (isReset) socket.resetAndDestroy()
          else socket.end()
          const { error } = await acceptor.failure(failures++)
          assert.equal(error.code, 'WEFT_TLS')
          assert.match(error.message, /closed the connection during the TLS handshake/)
          socket.destroy()
          await isClosed
        }
      }
      assert.equal(acceptor.errors.length, failures)
      assert.deepEqual(acceptor.handlers, [])
      await assertServing(port)
    })

    test('has the time of a handshake for it, however many bytes it sends in that time', async () => {
      const slow = reactorKind.create({ handshakeTimeoutMs: 300 })
      const { acceptor, port } = await peers.serve(() => new Echo(), undefined, slow)
      const hello = await peers.clientHello()
      const socket = net.connect({ port, host: '127.0.0.1', noDelay: true })
      socket.on('error', () => {})
      await once(socket, 'connect')
      const isClosed = closed(socket)
      let sent = 0
      const drip = setInterval(() => socket.write(hello.subarray(sent, ++sent)), 10)
      const { error } = await acceptor.failure(0)
      clearInterval(drip)
      assert.match(error.message, /did not finish its TLS handshake in time/)
      assert.ok(sent > 0 && sent < hello.length, `${sent} bytes were sent`)
      await isClosed
    })

    test('shows at most 32 KiB of certificates', async () => {
      const { acceptor, port } = await peers.serve(() => new Echo())
      const { key, cert, ...rest } = peers.foreignIdentity
      const many = cert + peers.authority.bundle.repeat(120)
      const ended = peers.foreignClient(port, { ...rest, key, cert: many, ALPNProtocols: ['h2'] })
      const { error } = await acceptor.failure(0)
      assert.match(error.message, /EXCESSIVE_MESSAGE_SIZE/)
      await ended
      // A chain with something superfluous in it is none of our business.
      const few = cert + peers.authority.bundle.repeat(4)
      const socket = await RecordPeer.connect({ ...rest, port, key, cert: few, ALPNProtocols: ['h2'] })
      await acceptor.handler(0)
      socket.raw.destroy()
      await assertServing(port)
    })
  })
}
