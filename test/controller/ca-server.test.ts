/** CreateCertificate over real gRPC: who may have what. */
import assert from 'node:assert/strict'
import { createPublicKey, X509Certificate } from 'node:crypto'
import test, { type TestContext } from 'node:test'
import { connect } from 'node:tls'
import type { ControllerLink } from '../../src/agent/controller-link.ts'
import { Logger } from '../../src/base/log.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { readCredentialFiles } from '../../src/security/credential-files.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import {
  CallError,
  STATUS_INVALID_ARGUMENT,
  STATUS_PERMISSION_DENIED,
  STATUS_UNAUTHENTICATED,
} from '../../src/wire/channel.ts'
import { TestAuthority } from '../support/certificates.ts'
import { linkTo, pod, SHOP, TestController } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'

const WEB_1 = formatIdentity('cluster.local', 'shop', 'web-1')
const WEB_2 = formatIdentity('cluster.local', 'shop', 'web-2')
const NODE_1 = formatNodeIdentity('cluster.local', 'node1')

async function assertRefused(attempt: Promise<unknown>, status: number, pattern: RegExp): Promise<void> {
  await assert.rejects(attempt, (error: Error) => {
    const cause = error.cause
    assert.ok(cause instanceof CallError, String(error))
    assert.equal(cause.status, status, cause.message)
    assert.match(cause.message, pattern)
    return true
  })
}

/** Asks for `identity` with a request for `named`. */
function request(link: ControllerLink, identity: string, named = identity, seconds = 0): Promise<readonly string[]> {
  return link.requestCertificate(createSigningRequest(createKey(), named), identity, seconds)
}

async function setUp(t: TestContext): Promise<{ mesh: TestController; link: ControllerLink; lines: string[] }> {
  const lines: string[] = []
  const log = new Logger('controller', 'info', (line) => lines.push(line))
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP }, { log })
  return { mesh, link: await mesh.link(t, 'node1'), lines }
}

test('a node gets a certificate for a workload that runs on it: leaf first, roots last', async (t) => {
  const { link } = await setUp(t)
  const key = createKey()
  const texts = await link.requestCertificate(createSigningRequest(key, WEB_1), WEB_1, 3600)
  const leaf = new X509Certificate(texts[0]!)
  const root = new X509Certificate(texts.at(-1)!)
  assert.equal(leaf.subjectAltName, `URI:${WEB_1}`)
  assert.ok(leaf.checkIssued(root) && leaf.verify(root.publicKey))
  assert.ok(leaf.publicKey.equals(createPublicKey(key)))
  const lifetimeMs = Date.parse(leaf.validTo) - Date.now()
  assert.ok(Math.abs(lifetimeMs - 3_600_000) < 60_000, `${lifetimeMs}`)
})

test('a lifetime beyond the limit is cut to it; none asked for means the limit', async (t) => {
  const { link } = await setUp(t)
  for (const seconds of [0, 10_000_000]) {
    const texts = await request(link, WEB_1, WEB_1, seconds)
    const lifetimeMs = Date.parse(new X509Certificate(texts[0]!).validTo) - Date.now()
    assert.ok(Math.abs(lifetimeMs - 86_400_000) < 60_000, `${lifetimeMs}`)
  }
})

test('a node may renew its own identity, and not that of another', async (t) => {
  const { link } = await setUp(t)
  const texts = await request(link, NODE_1)
  assert.equal(new X509Certificate(texts[0]!).subjectAltName, `URI:${NODE_1}`)
  const other = formatNodeIdentity('cluster.local', 'node2')
  await assertRefused(
    request(link, other),
    STATUS_PERMISSION_DENIED,
    /no workload of node node1 has the identity .*node2/,
  )
})

test('the identity of a workload on another node is denied, and logged', async (t) => {
  const { link, lines } = await setUp(t)
  await assertRefused(
    request(link, WEB_2),
    STATUS_PERMISSION_DENIED,
    /no workload of node node1 has the identity .*web-2/,
  )
  const line = lines.find((one) => one.includes('certificate refused'))
  assert.ok(line?.includes('node1') && line.includes('web-2'), lines.join('\n'))
})

test('identities that exist nowhere, of other trust domains, or of the controller itself are denied', async (t) => {
  const { link } = await setUp(t)
  for (const identity of [
    formatIdentity('cluster.local', 'shop', 'nobody'),
    formatIdentity('other.domain', 'shop', 'web-1'),
    'spiffe://cluster.local/controller',
  ]) {
    await assertRefused(request(link, identity), STATUS_PERMISSION_DENIED, /no workload of node node1/)
  }
})

test('a workload that moves to another node takes its identity along', async (t) => {
  const { mesh, link } = await setUp(t)
  const second = await mesh.link(t, 'node2')
  await request(link, WEB_1)
  const generation = (): number => (mesh.running.status() as { generation: number }).generation
  const before = generation()
  await mesh.write(
    'shop.yaml',
    SHOP.replace(pod('shop', 'web-1', 'node1', '10.0.1.1', 'web'), pod('shop', 'web-1', 'node2', '10.0.2.7', 'web')),
  )
  while (generation() === before) await new Promise((resolve) => setImmediate(resolve))
  await assertRefused(request(link, WEB_1), STATUS_PERMISSION_DENIED, /no workload of node node1/)
  await request(second, WEB_1)
})

test('a call for one identity with a request for another is refused', async (t) => {
  const { link } = await setUp(t)
  await assertRefused(
    request(link, WEB_1, WEB_2),
    STATUS_INVALID_ARGUMENT,
    /request is for .*web-2, the call for .*web-1/,
  )
})

test('a request that is no request, or has been tampered with, is refused', async (t) => {
  const { link } = await setUp(t)
  const good = createSigningRequest(createKey(), WEB_1)
  for (const csr of ['', 'hello', good.slice(0, 200), tampered(good), good.repeat(100)]) {
    const attempt = link.requestCertificate(csr, WEB_1, 0)
    await assertRefused(attempt, STATUS_INVALID_ARGUMENT, /certificate (signing )?request|is not valid DER/)
  }
})

/** The same request with one bit of its signature changed. */
function tampered(csr: string): string {
  const der = Buffer.from(csr.replace(/-----[^-]+-----|\s/g, ''), 'base64')
  der[der.length - 1]! ^= 1
  return `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`
}

test('a lifetime too short to be renewed is refused', async (t) => {
  const { link } = await setUp(t)
  await assertRefused(request(link, WEB_1, WEB_1, 5), STATUS_INVALID_ARGUMENT, /lifetime/)
})

test('a certificate of a workload does not make its holder an agent', async (t) => {
  const { mesh, link } = await setUp(t)
  const key = createKey()
  const texts = await link.requestCertificate(createSigningRequest(key, WEB_1), WEB_1, 0)
  const stolen = linkTo(t, mesh.address, {
    certificateChain: texts[0]!,
    key: key.export({ format: 'pem', type: 'pkcs8' }).toString(),
    bundle: texts.at(-1)!,
  })
  await assertRefused(
    request(stolen, WEB_1),
    STATUS_PERMISSION_DENIED,
    /web-1 is no node of trust domain cluster\.local/,
  )
})

test('without a client certificate, or with one of other roots, the handshake fails', async (t) => {
  const { mesh } = await setUp(t)
  const stranger = new TestAuthority().leafFor(NODE_1)
  for (const credential of [{}, { cert: stranger.certificateChain, key: stranger.key }]) {
    const socket = connect({
      host: '127.0.0.1',
      port: mesh.running.port,
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
      ...credential,
    })
    t.after(() => socket.destroy())
    // With TLS 1.3 the client learns of the refusal by its first read.
    const outcome = await new Promise<string>((resolve) => {
      socket.on('data', () => resolve('data'))
      socket.on('error', (error) => resolve(error.message))
      socket.on('close', () => resolve('closed'))
    })
    assert.notEqual(outcome, 'data')
  }
})

test('TLS below 1.3 is refused, even to a node', async (t) => {
  const { mesh } = await setUp(t)
  const { certificateChain, key, bundle } = await readCredentialFiles(await mesh.issue('node1'))
  const outcomeWith = (maxVersion: 'TLSv1.2' | 'TLSv1.3'): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({
        ...{ host: '127.0.0.1', port: mesh.running.port, cert: certificateChain, key, ca: bundle, maxVersion },
        checkServerIdentity: () => undefined,
        ALPNProtocols: ['h2'],
      })
      t.after(() => socket.destroy())
      socket.on('error', (error) => resolve(error.message))
      socket.on('secureConnect', () => resolve('connected'))
    })
  assert.equal(await outcomeWith('TLSv1.3'), 'connected')
  assert.match(await outcomeWith('TLSv1.2'), /protocol version/)
})

test('a credential that expired since the handshake is worth nothing', async (t) => {
  const clock = new FakeClock(Date.now())
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP }, { clock })
  const link = await mesh.link(t, 'node1')
  await request(link, WEB_1)
  clock.advance(2 * 86_400_000)
  await assertRefused(request(link, WEB_1), STATUS_UNAUTHENTICATED, /has expired/)
})

test("the controller's own certificate is renewed while it serves; old and new connections work", async (t) => {
  const clock = new FakeClock(Date.now())
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP }, { clock })
  const open = await mesh.link(t, 'node1')
  await request(open, WEB_1)
  const serialOf = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port: mesh.running.port, rejectUnauthorized: false }, () => {
        resolve(socket.getPeerCertificate().serialNumber)
        socket.destroy()
      })
      socket.on('error', reject)
    })
  const before = await serialOf()
  clock.advance(43_200_000)
  assert.notEqual(await serialOf(), before)
  await request(open, WEB_1)
})
