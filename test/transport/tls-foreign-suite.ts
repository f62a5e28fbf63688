/** TLS with programs of others, and the bytes of our hello. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import tls from 'node:tls'
import { Echo } from '../support/conn-recorder.ts'
import { CLIENT, noCheck, type TlsPeers } from '../support/tls-peers.ts'

/** Tests of TLS with peers of another make. */
export function testForeignTls(peers: TlsPeers): void {
  const TEST = { timeout: 30_000 }
  describe('the client hello', TEST, () => {
    test('has no server name and no certificate compression, and offers TLS 1.3, AES-GCM, X25519, P-256 and h2', async () => {
      const hello = parseClientHello(await peers.clientHello())
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
      const { port } = await peers.serve(() => new Echo())
      const options = {
        port,
        host: '127.0.0.1',
        ca: peers.authority.bundle,
        key: peers.clientMaterial.key,
        cert: peers.clientMaterial.certificateChain,
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
      const { acceptor, port } = await peers.serve(() => new Echo())
      const directory = mkdtempSync(join(tmpdir(), 'weft-tls-'))
      peers.atEnd(() => rmSync(directory, { recursive: true }))
      const file = (name: string, text: string): string => {
        writeFileSync(join(directory, name), text, { mode: 0o600 })
        return join(directory, name)
      }
      const child = spawn(
        'openssl',
        [
          ...['s_client', '-connect', `127.0.0.1:${port}`, '-alpn', 'h2', '-verify_return_error', '-noservername'],
          ...[
            '-cert',
            file('cert.pem', peers.clientMaterial.certificateChain),
            '-key',
            file('key.pem', peers.clientMaterial.key),
          ],
          ...['-CAfile', file('ca.pem', peers.authority.bundle)],
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
