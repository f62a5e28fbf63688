/** Who gets how far without a certificate, over real gRPC. */
import assert from 'node:assert/strict'
import { type ClientHttp2Stream, connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import test from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { Metadata } from '@grpc/grpc-js'
import { requestByToken } from '../../src/agent/controller-link.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import {
  CallError,
  STATUS_DEADLINE_EXCEEDED,
  STATUS_PERMISSION_DENIED,
  STATUS_UNAUTHENTICATED,
  STATUS_UNAVAILABLE,
} from '../../src/wire/channel.ts'
import { ControlClient } from '../../src/wire/client.ts'
import { bearerTokenOf, MESSAGE_MS_MAX } from '../../src/wire/token-admission.ts'
import { TestAuthority } from '../support/certificates.ts'
import { TRUST_DOMAIN } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { TokenController, type TokenControllerOptions } from '../support/token-controller.ts'

const NODE_1 = formatNodeIdentity(TRUST_DOMAIN, 'node1')
const WEB = formatIdentity(TRUST_DOMAIN, 'shop', 'web')

async function setUp(t: test.TestContext, options: TokenControllerOptions = {}): Promise<TokenController> {
  const controller = await TokenController.start(t, options)
  controller.tokens.nodes.set('good', 'node1')
  controller.setWorkloads([{ node: 'node1', trustDomain: TRUST_DOMAIN, namespace: 'shop', serviceAccount: 'web' }])
  return controller
}

function ask(controller: TokenController, token: string, identity = NODE_1, trustDomain = TRUST_DOMAIN) {
  const csr = createSigningRequest(createKey(), identity)
  const roots = controller.authority.bundle
  return requestByToken({ address: controller.address, trustDomain, csr, identity, token, roots })
}

async function assertRefused(attempt: Promise<unknown>, status: number, pattern: RegExp): Promise<void> {
  await assert.rejects(attempt, (error: Error) => {
    const cause = error.cause
    assert.ok(cause instanceof CallError, String(error))
    assert.equal(cause.status, status, cause.message)
    assert.match(cause.message, pattern)
    return true
  })
}

test('a token gets the certificate of its node', async (t) => {
  const controller = await setUp(t)
  const texts = await ask(controller, 'good')
  assert.equal(texts.at(-1), controller.authority.bundle)
  assert.deepEqual(controller.tokens.reviewed, ['good'])
})

test('a token gets no other node’s certificate, and no workload’s, not even of its own node', async (t) => {
  const controller = await setUp(t)
  for (const identity of [formatNodeIdentity(TRUST_DOMAIN, 'node2'), WEB, 'spiffe://cluster.local/controller']) {
    await assertRefused(ask(controller, 'good', identity), STATUS_PERMISSION_DENIED, /own certificate only/)
  }
})

test('a token that is nobody’s gets nothing', async (t) => {
  await assertRefused(ask(await setUp(t), 'bad'), STATUS_UNAUTHENTICATED, /nobody/)
})

/** A certificate request of somebody who shows `token` and says what it likes afterwards, as bare HTTP/2. */
function openCall(
  t: test.TestContext,
  controller: TokenController,
  token: string,
): { call: ClientHttp2Stream; socket: TLSSocket } {
  const socket = dial(t, controller, {})
  const session = connectHttp2('https://weft-controller', { createConnection: () => socket })
  t.after(() => session.destroy())
  session.on('error', () => {})
  const call = session.request({
    ':method': 'POST',
    ':path': '/istio.v1.auth.IstioCertificateService/CreateCertificate',
    'content-type': 'application/grpc',
    te: 'trailers',
    authorization: `Bearer ${token}`,
  })
  call.on('error', () => {})
  return { call, socket }
}

/** How the call ends, by the server's word. */
async function endOf(call: ClientHttp2Stream): Promise<{ status: number; message: string }> {
  const headers = await new Promise<IncomingHttpHeaders>((resolve) => {
    call.on('response', (head) => head['grpc-status'] !== undefined && resolve(head))
    call.on('trailers', resolve)
  })
  return { status: Number(headers['grpc-status']), message: decodeURI(String(headers['grpc-message'])) }
}

/** Windows of a stream and a connection of HTTP/2, and the handshake, four times over. */
const TAKEN_BYTES_MAX = 524_288

test('a message is not read before its token was found good: what is sent with a bad one stays on the way', async (t) => {
  const controller = await setUp(t)
  let judge = (_: Error): void => {}
  const judged = new Promise<string>((_, reject) => {
    judge = reject
  })
  controller.tokens.nodeOf = (token) => {
    controller.tokens.reviewed.push(token)
    return judged
  }
  const { call, socket } = openCall(t, controller, 'bad')
  // 15 MiB of one message of as much, in its frame.
  const size = 15 * 1_048_576
  const head = Buffer.alloc(5)
  head.writeUInt32BE(size, 1)
  call.write(head)
  call.write(Buffer.alloc(size))
  while (controller.tokens.reviewed.length === 0) await new Promise(setImmediate)
  let before = -1
  // Until no more goes out.
  while (socket.bytesWritten !== before) {
    before = socket.bytesWritten
    await delay(50)
  }
  assert.ok(before < TAKEN_BYTES_MAX, `${before} bytes were taken before the token was judged`)
  judge(new CallError(STATUS_UNAUTHENTICATED, 'the token is nobody’s'))
  await new Promise((resolve) => call.on('close', resolve))
  assert.ok(socket.bytesWritten < TAKEN_BYTES_MAX)
  assert.deepEqual(controller.peers, [])
  assert.equal(controller.certificates.status().denied, 1)
})

test('who was let in by a token and does not say what it wants is sent away', async (t) => {
  const clock = new FakeClock()
  const controller = await setUp(t, { clock })
  const { call } = openCall(t, controller, 'good')
  const ended = endOf(call)
  call.write(Buffer.from([0, 0, 0]))
  while (clock.pending === 0) await new Promise(setImmediate)
  clock.advance(MESSAGE_MS_MAX)
  const { status, message } = await ended
  assert.equal(status, STATUS_DEADLINE_EXCEEDED)
  assert.match(message, /did not come within 10 s after its token/)
  assert.deepEqual(controller.peers, [])
  assert.equal(clock.pending, 0)
})

test('no time runs any more for who has said what it wants, or has gone', async (t) => {
  const clock = new FakeClock()
  const controller = await setUp(t, { clock })
  await ask(controller, 'good')
  assert.equal(clock.pending, 0)
  const { call } = openCall(t, controller, 'good')
  while (clock.pending === 0) await new Promise(setImmediate)
  call.close()
  while (clock.pending > 0) await new Promise(setImmediate)
})

test('where tokens are not accepted, the handshake fails and no token is looked at', async (t) => {
  const controller = await setUp(t, { acceptsTokens: false })
  await assertRefused(ask(controller, 'good'), STATUS_UNAVAILABLE, /./)
  assert.deepEqual(controller.tokens.reviewed, [])
})

test('the token is not sent to a server that is not the controller of the trust domain', async (t) => {
  const workload = await setUp(t, { identity: WEB })
  await assertRefused(ask(workload, 'good'), STATUS_UNAVAILABLE, /sa\/web, not spiffe:\/\/cluster\.local\/controller/)
  const controller = await setUp(t)
  await assertRefused(
    ask(controller, 'good', NODE_1, 'other.domain'),
    STATUS_UNAVAILABLE,
    /not spiffe:\/\/other\.domain/,
  )
  assert.deepEqual([workload.peers, controller.peers], [[], []])
})

test('the token is not sent to a server of other roots', async (t) => {
  const controller = await setUp(t)
  const csr = createSigningRequest(createKey(), NODE_1)
  const roots = new TestAuthority().bundle
  const attempt = requestByToken({
    ...{ address: controller.address, trustDomain: TRUST_DOMAIN, csr, identity: NODE_1, token: 'good', roots },
  })
  await assertRefused(attempt, STATUS_UNAVAILABLE, /certificate/)
  assert.deepEqual(controller.peers, [])
})

/** A connection of somebody, as bare gRPC. */
function client(
  t: test.TestContext,
  controller: TokenController,
  own: { certificateChain: string; key: string } | null,
) {
  const bundle = controller.authority.bundle
  const credential = own === null ? { bundle } : { ...own, bundle }
  const made = new ControlClient({ address: controller.address, credential, refusePeer: () => null })
  t.after(() => made.close())
  return made
}

test('a discovery stream needs a certificate; a token does not open one', async (t) => {
  const controller = await setUp(t)
  const { code, message } = await new Promise<Error & { code: string }>((resolve) => {
    const call = client(t, controller, null).openDiscovery({ onResponse: () => {}, onEnd: resolve as never })
    call.send({ typeUrl: 'x' } as never)
  })
  assert.equal(code, 'WEFT_CONTROLLER')
  assert.match(message, /UNAUTHENTICATED/)
  assert.equal(controller.streams, 0)
})

test('a certificate request without a certificate and without a token ends before its message is read', async (t) => {
  const controller = await setUp(t)
  const csr = createSigningRequest(createKey(), NODE_1)
  const attempt = client(t, controller, null).createCertificate(csr, NODE_1, 0, 5_000)
  await assertRefused(attempt, STATUS_UNAUTHENTICATED, /certificate of the mesh is required, or the token/)
  assert.deepEqual(controller.peers, [])
})

test('a certificate of other roots counts as none', async (t) => {
  const controller = await setUp(t)
  const stranger = new TestAuthority().leafFor(NODE_1)
  const csr = createSigningRequest(createKey(), NODE_1)
  const attempt = client(t, controller, stranger).createCertificate(csr, NODE_1, 0, 5_000)
  await assertRefused(attempt, STATUS_UNAUTHENTICATED, /is required/)
  // With a token the caller is who the token says, whatever the certificate claims.
  await assertRefused(
    client(t, controller, stranger).createCertificate(csr, NODE_1, 0, 5_000, 'bad'),
    STATUS_UNAUTHENTICATED,
    /nobody/,
  )
  assert.deepEqual(controller.peers, [])
  await client(t, controller, stranger).createCertificate(csr, NODE_1, 0, 5_000, 'good')
  assert.deepEqual(
    controller.peers.map(({ certificate, tokenNode }) => [certificate, tokenNode]),
    [[null, 'node1']],
  )
})

test('a certificate of the mesh counts, and a token beside it is not looked at', async (t) => {
  const controller = await setUp(t)
  const own = controller.authority.issue(formatNodeIdentity(TRUST_DOMAIN, 'node2'), 3_600_000)
  const csr = createSigningRequest(createKey(), NODE_1)
  const attempt = client(t, controller, { certificateChain: own.chain, key: own.keyPem() }).createCertificate(
    ...([csr, NODE_1, 0, 5_000, 'good'] as const),
  )
  await assertRefused(attempt, STATUS_PERMISSION_DENIED, /no workload of node node2/)
  assert.deepEqual(controller.tokens.reviewed, [])
})

test('a resumed TLS session is worth no more than the one it began as', async (t) => {
  const controller = await setUp(t)
  const stranger = new TestAuthority().leafFor(NODE_1)
  for (const own of [{}, { cert: stranger.certificateChain, key: stranger.key }]) {
    const session = await new Promise<Buffer>((resolve) => {
      const socket = dial(t, controller, own)
      socket.on('session', resolve)
    })
    const status = await new Promise<number>((resolve) => {
      const socket = dial(t, controller, { ...own, session })
      socket.on('secureConnect', () => {
        assert.ok(socket.isSessionReused())
        resolve(statusOf(socket))
      })
    })
    assert.equal(status, STATUS_UNAUTHENTICATED)
  }
})

function dial(t: test.TestContext, controller: TokenController, own: ConnectionOptions): TLSSocket {
  const socket = connect({
    ...{ host: '127.0.0.1', port: controller.port, ca: controller.authority.bundle, ALPNProtocols: ['h2'] },
    checkServerIdentity: () => undefined,
    ...own,
  })
  socket.on('error', () => {})
  t.after(() => socket.destroy())
  return socket
}

/** gRPC status of a certificate request on `socket`. */
async function statusOf(socket: TLSSocket): Promise<number> {
  const session = connectHttp2('https://weft-controller', { createConnection: () => socket })
  return await new Promise((resolve, reject) => {
    const request = session.request({
      ':method': 'POST',
      ':path': '/istio.v1.auth.IstioCertificateService/CreateCertificate',
      'content-type': 'application/grpc',
      te: 'trailers',
    })
    request.on('response', (headers) => {
      if (headers['grpc-status'] !== undefined) resolve(Number(headers['grpc-status']))
    })
    request.on('trailers', (headers) => resolve(Number(headers['grpc-status'])))
    request.on('error', reject)
    request.end(Buffer.from([0, 0, 0, 0, 0]))
  })
}

const HEADERS: readonly [string, readonly string[], string | null][] = [
  ['a token', ['Bearer abc.def-_.x'], 'abc.def-_.x'],
  ['another case of the scheme', ['bearer abc'], 'abc'],
  ['nothing', [], null],
  ['two', ['Bearer a', 'Bearer b'], null],
  ['another scheme', ['Basic YWJj'], null],
  ['no token behind the scheme', ['Bearer '], null],
  ['what is more than a token', ['Bearer a b'], null],
  ['a token beyond the limit', [`Bearer ${'a'.repeat(8_192)}`], null],
]

for (const [what, values, token] of HEADERS) {
  test(`${what} in the header`, () => {
    const headers = new Metadata()
    for (const value of values) headers.add('authorization', value)
    assert.equal(bearerTokenOf(headers), token)
  })
}
