/** HBONE over real sockets and TLS 1.3, against node:http2 at the other end in both directions. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { after, describe, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import { TunnelError } from '../../src/proxy/hbone.ts'
import { TunnelClient } from '../../src/proxy/hbone-client.ts'
import { TunnelServer } from '../../src/proxy/hbone-server.ts'
import { BACKLOG_HIGH, ORIGIN_ANY } from '../../src/transport/conn.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'
import { TestAuthority } from '../support/certificates.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { REQUEST, TestTunnelAcceptor } from '../support/tunnel-pair.ts'

const TEST = { timeout: 20_000 }
const BULK_BYTES = 16 << 20

const authority = new TestAuthority()
const clientLeaf = authority.leaf('shop', 'client')
const serverLeaf = authority.leaf('shop', 'server')
const transport = new NodeTransport()
const parts = { transport, log: silentLog, timers: new TimerWheel(), nowMs: () => performance.now() }
const closers: (() => void)[] = []

after(() => {
  for (const close of closers) close()
})

/** Echoes with back-pressure. */
class PacedEcho extends Echo {
  override onBytes(...parameters: Parameters<Echo['onBytes']>): void {
    const [conn, bytes, offset, end] = parameters
    if (conn.write(bytes, offset, end - offset) > BACKLOG_HIGH) conn.pauseReading()
  }

  override onDrain(...parameters: Parameters<Echo['onDrain']>): void {
    parameters[0].resumeReading()
  }
}

/** A TunnelServer's port; tunnels are echoed. */
async function serveTunnels() {
  const servers = new Set<TunnelServer>()
  const tunnels = new TestTunnelAcceptor(() => new PacedEcho())
  const acceptor = new AcceptRecorder(() => new ConnRecorder())
  acceptor.onAccept = (conn) => {
    const server = new TunnelServer(conn, parts, tunnels, servers)
    servers.add(server)
    return server
  }
  const tls = transport.tlsContext(serverLeaf)
  const target = { address: '127.0.0.1', port: 0, isShared: false }
  const listener = await transport.listen(target, { current: () => tls }, acceptor)
  closers.push(() => {
    listener.close()
    for (const server of servers) server.close()
  })
  return { port: listener.port, tunnels, servers }
}

function dial(port: number): TunnelClient {
  const options = {
    address: '127.0.0.1',
    port,
    origin: ORIGIN_ANY,
    timeoutMs: 5000,
    tls: transport.tlsContext(clientLeaf),
    expectedIdentities: [serverLeaf.identity],
  }
  const client = new TunnelClient(parts, options, {
    onConnected(): void {},
    onUnusable(): void {},
    onTunnelClosed(): void {},
  })
  closers.push(() => client.close())
  return client
}

function nodeClient(port: number): http2.ClientHttp2Session {
  const session = http2.connect(`https://127.0.0.1:${port}`, {
    ca: authority.bundle,
    cert: clientLeaf.certificateChain,
    key: clientLeaf.key,
    ALPNProtocols: ['h2'],
    checkServerIdentity: () => undefined,
  })
  session.on('error', () => {})
  closers.push(() => session.destroy())
  return session
}

describe('HBONE over TLS', TEST, () => {
  test('serves node:http2: CONNECT, bulk both ways, half-close', async () => {
    const { port, tunnels } = await serveTunnels()
    const request = nodeClient(port).request({ ':method': 'CONNECT', ':authority': REQUEST.authority })
    const [headers] = await once(request, 'response')
    assert.equal(headers[':status'], 200)
    assert.equal(tunnels.pending[0]?.peerIdentity, clientLeaf.identity)
    let received = 0
    request.on('data', (bytes: Buffer) => {
      received += bytes.length
    })
    const chunk = Buffer.alloc(65_536, 'x')
    for (let sent = 0; sent < BULK_BYTES; sent += chunk.length) {
      if (!request.write(chunk)) await once(request, 'drain')
    }
    request.end()
    await once(request, 'end')
    assert.equal(received, BULK_BYTES)
  })

  test('keeps what node:http2 sends before the 200', async () => {
    const { port, tunnels } = await serveTunnels()
    tunnels.create = null
    const session = nodeClient(port)
    const request = session.request({ ':method': 'CONNECT', ':authority': REQUEST.authority })
    request.end('early')
    const pending = await tunnels.tunnel(0)
    // Its answer comes after everything sent before it has been read.
    await new Promise<void>((resolve) => session.ping(() => resolve()))
    const far = tunnels.accept(pending, new ConnRecorder())
    await far.seen('end')
    assert.deepEqual(far.events, ['open', 'bytes', 'end'])
    assert.equal(far.text, 'early')
  })

  test('refuses what is no tunnel with 400, and the connection lives on', async () => {
    const { port, tunnels } = await serveTunnels()
    const session = nodeClient(port)
    const REFUSED: readonly http2.OutgoingHttpHeaders[] = [
      { ':method': 'GET', ':path': '/' },
      { ':method': 'CONNECT', ':authority': '198.18.1.2' },
      { ':method': 'CONNECT', ':authority': '198.18.1.2:0' },
      { ':method': 'CONNECT', ':authority': '198.18.1.2:70000' },
      { ':method': 'CONNECT', ':authority': 'fd00::1:80' },
      { ':method': 'CONNECT', ':authority': ':80' },
    ]
    for (const headers of REFUSED) {
      const request = session.request(headers)
      request.on('error', () => {})
      const [response] = await once(request, 'response')
      assert.equal(response[':status'], 400)
      request.close()
    }
    assert.equal(tunnels.pending.length, 0)
    const request = session.request({ ':method': 'CONNECT', ':authority': '[fd00::1]:80' })
    const [response] = await once(request, 'response')
    assert.equal(response[':status'], 200)
    assert.deepEqual([tunnels.pending[0]?.host, tunnels.pending[0]?.port], ['fd00::1', 80])
  })

  test('dials node:http2: CONNECT, bulk both ways, half-close, refusal, reset', async () => {
    const server = http2.createSecureServer({
      ca: authority.bundle,
      cert: serverLeaf.certificateChain,
      key: serverLeaf.key,
      requestCert: true,
      ALPNProtocols: ['h2'],
    })
    server.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      if (headers[':authority'] === 'deny:1') {
        stream.respond({ ':status': 401 }, { endStream: true })
        return
      }
      stream.respond({ ':status': 200, baggage: 'k8s.namespace.name=far' })
      if (headers[':authority'] === 'reset:1') stream.close(http2.constants.NGHTTP2_CONNECT_ERROR)
      else stream.pipe(stream)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    closers.push(() => server.close())
    const client = dial((server.address() as AddressInfo).port)

    const near = new ConnRecorder()
    const conn = client.openTunnel(REQUEST, near)
    await near.seen('open')
    const chunk = Buffer.alloc(65_536, 'x')
    let drains = 0
    near.onDrain = () => {
      drains++
      near.events.push('drain')
    }
    let received = 0
    near.onBytes = (_conn, _bytes, offset, end) => {
      received += end - offset
    }
    for (let sent = 0; sent < BULK_BYTES; sent += chunk.length) {
      if (conn.write(chunk, 0, chunk.length) <= BACKLOG_HIGH) continue
      const before = drains
      while (drains === before) await new Promise<void>((resolve) => setImmediate(resolve))
    }
    conn.end()
    await near.seen('close')
    assert.equal(near.error, null)
    assert.equal(received, BULK_BYTES)

    const denied = new ConnRecorder()
    client.openTunnel({ ...REQUEST, authority: 'deny:1' }, denied)
    await denied.seen('close')
    assert.ok(denied.error instanceof TunnelError)
    assert.equal(denied.error.status, 401)
    const reset = new ConnRecorder()
    client.openTunnel({ ...REQUEST, authority: 'reset:1' }, reset)
    await reset.seen('close')
    assert.equal(reset.error?.code, 'WEFT_RESET')
  })

  test('dials our own server, many tunnels at once', async () => {
    const { port } = await serveTunnels()
    const client = dial(port)
    const sides = Array.from({ length: 100 }, (_, i) => {
      const near = new ConnRecorder()
      const conn = client.openTunnel(REQUEST, near)
      writeText(conn, `${i} `.repeat(i * 10))
      conn.end()
      return near
    })
    for (const [i, near] of sides.entries()) {
      await near.seen('close')
      assert.equal(near.error, null)
      assert.equal(near.text, `${i} `.repeat(i * 10))
    }
    assert.equal(client.activeCount, 0)
  })
})
