/** What only the reactor can do or must guard against: its native side, called and treated as nobody should. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import net from 'node:net'
import { after, describe, test } from 'node:test'
import tls from 'node:tls'
import { Worker } from 'node:worker_threads'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import { type Conn, ORIGIN_ANY, type Transport } from '../../src/transport/conn.ts'
import type { Reactor } from '../../src/transport/reactor-addon.ts'
import { TestAuthority } from '../support/certificates.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { reactorAddon, reactorKind } from '../support/transports.ts'

const TEST = { timeout: 30_000, skip: reactorKind.skip }
const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
const closers: (() => void)[] = []

after(() => {
  for (const close of closers) close()
})

async function listen(transport: Transport, create: () => ConnRecorder) {
  const acceptor = new AcceptRecorder(create)
  const listener = await transport.listen({ address: '127.0.0.1', port: 0, isShared: false }, null, acceptor)
  closers.push(() => listener.close())
  return { acceptor, listener, port: listener.port }
}

function dial(transport: Transport, port: number, handler: ConnRecorder): Conn {
  const options = {
    address: '127.0.0.1',
    port,
    origin: ORIGIN_ANY,
    timeoutMs: 5_000,
    tls: null,
    expectedIdentities: [],
  }
  return transport.connect(options, handler)
}

test('a reactor that is not there is reported with what to do', () => {
  assert.throws(() => loadReactor('/nowhere/reactor.node'), {
    code: 'WEFT_UNSUPPORTED',
    message: /\/nowhere\/reactor\.node cannot be loaded .*make -C native/,
  })
})

describe('the native side', TEST, () => {
  function create(): { reactor: Reactor; arena: Uint8Array } {
    const arena = new Uint8Array(262_144)
    const reactor = reactorAddon!.createReactor(arena, new Int32Array(256), () => {}, 65_536, 180, true)
    assert.ok(typeof reactor === 'object')
    return { reactor, arena }
  }

  test('refuses bytes that are not there', () => {
    const { reactor, arena } = create()
    const id = reactor.listen(-1, '127.0.0.1', 0, false, false, 16)
    const bytes = new Uint8Array(100)
    for (const [offset, length] of [
      [-1, 1],
      [0, -1],
      [0, 101],
      [100, 1],
      [101, 0],
      [2_147_483_647, 2_147_483_647],
    ] as const) {
      assert.throws(() => reactor.write(id, bytes, offset, length), RangeError)
      const shift = arena.length - bytes.length
      if (offset >= 0) assert.throws(() => reactor.writeArena(id, offset + shift, length), RangeError)
    }
    assert.throws(() => reactor.write(id, new Uint16Array(4) as never, 0, 1), TypeError)
    assert.throws(() => reactor.write(id, 'text' as never, 0, 1), TypeError)
    assert.throws(() => reactor.write('1' as never, bytes, 0, 1), TypeError)
    assert.throws(() => (reactor.write as unknown as (id: number) => void)(id), TypeError)
    reactor.close(id, false)
  })

  test('refuses an arena that is too small, and credentials that are none', () => {
    const tooSmall = reactorAddon!.createReactor(new Uint8Array(64), new Int32Array(256), () => {}, 1, 1, false)
    assert.ok(typeof tooSmall === 'number' && tooSmall < 0)
    const { reactor } = create()
    for (const bad of [{}, reactor, 1]) {
      assert.throws(() => reactor.connect(-1, '127.0.0.1', 1, '', bad as never), TypeError)
    }
    assert.throws(
      () => reactorAddon!.createTlsContext('', '', '', Uint8Array.of(2, 104, 50), null),
      /certificate chain/,
    )
  })

  test('has no ends of a listener to tell, and writes none where there is no room', () => {
    const { reactor } = create()
    const listener = reactor.listen(-1, '127.0.0.1', 0, false, false, 16)
    const ends = new Int32Array(4)
    assert.equal(reactor.ipv4Ends(listener, ends), false)
    assert.equal(reactor.ipv4Ends(-1, ends), false)
    assert.throws(() => reactor.ipv4Ends(listener, new Int32Array(3)), TypeError)
    assert.throws(() => reactor.ipv4Ends(listener, new Uint8Array(16) as unknown as Int32Array), TypeError)
    reactor.close(listener, false)
    assert.equal(reactor.ipv4Ends(listener, ends), false)
  })

  test('does nothing with the id of a connection that is gone, though another has its place', () => {
    const { reactor } = create()
    const first = reactor.listen(-1, '127.0.0.1', 0, false, false, 16)
    reactor.close(first, false)
    const second = reactor.listen(-1, '127.0.0.1', 0, false, false, 16)
    assert.notEqual(second, first)
    assert.equal(second & 0xf_ffff, first & 0xf_ffff, 'the same place')
    reactor.close(first, false)
    reactor.end(first)
    reactor.discard(first)
    assert.deepEqual(reactor.endpoints(first), ['', 0, '', 0])
    assert.equal(reactor.write(first, new Uint8Array(1), 0, 1), 0)
    assert.equal(reactor.connectionCount(), 1)
    for (const id of [-1, -2_147_483_648, 2_147_483_647, first + 1]) reactor.close(id, false)
    assert.equal(reactor.connectionCount(), 1)
    reactor.close(second, false)
    assert.equal(reactor.connectionCount(), 0)
  })

  test('answers with the errno where the kernel refuses', () => {
    const { reactor } = create()
    assert.ok(reactor.listen(-1, 'no address', 0, false, false, 16) < 0)
    assert.ok(reactor.listen(0, '', 0, false, false, 16) < 0, 'standard input is no socket')
    assert.ok(reactor.connect(-1, '127.0.0.1', 1, 'no address', null) < 0)
    assert.equal(reactor.connectionCount(), 0)
  })
})

test('bytes that a handler keeps instead of copying are overwritten after the batch', TEST, async () => {
  const transport = reactorKind.create()
  let kept: Uint8Array | null = null
  class Keeper extends ConnRecorder {
    override onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
      kept = bytes.subarray(offset, end)
      super.onBytes(conn, bytes, offset, end)
    }
  }
  const { acceptor, port } = await listen(transport, () => new Keeper())
  const conn = dial(transport, port, new ConnRecorder())
  writeText(conn, 'kept')
  const server = await acceptor.handler(0)
  await server.seen('bytes')
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual([...kept!], [0xdd, 0xdd, 0xdd, 0xdd])
  conn.abort()
})

describe('the end of a TLS connection', TEST, () => {
  const authority = new TestAuthority()
  const serverMaterial = authority.leaf('shop', 'server')
  const clientMaterial = authority.leaf('shop', 'client')
  const identity = { key: clientMaterial.key, cert: clientMaterial.certificateChain, ca: authority.bundle }

  test('of the peer counts only with close_notify: a bare FIN is a reset', async () => {
    const transport = reactorKind.create()
    const acceptor = new AcceptRecorder(() => new ConnRecorder())
    const context = transport.tlsContext(serverMaterial)
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await transport.listen(target, { current: () => context }, acceptor)
    closers.push(() => listener.close())
    for (const [index, isOrderly] of [true, false].entries()) {
      const raw = net.connect(listener.port, '127.0.0.1')
      const options = { ...identity, ALPNProtocols: ['h2'], checkServerIdentity: () => undefined }
      const client = tls.connect({ socket: raw, ...options })
      client.on('error', () => {})
      client.write('whole?')
      const server = await acceptor.handler(index)
      await server.seen('bytes')
      if (isOrderly) client.end()
      else raw.end()
      if (isOrderly) {
        await server.seen('end')
        server.conn!.end()
      }
      await server.seen('close')
      assert.equal(server.events.includes('end'), isOrderly)
      assert.equal(server.error?.code, isOrderly ? undefined : 'WEFT_RESET')
      assert.equal(server.text, 'whole?')
      raw.destroy()
    }
  })

  test('is reached in order after many megabytes both ways', async () => {
    const transport = reactorKind.create()
    const acceptor = new AcceptRecorder(() => new Echo())
    const context = transport.tlsContext(serverMaterial)
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await transport.listen(target, { current: () => context }, acceptor)
    closers.push(() => listener.close())
    const client = new ConnRecorder()
    const tlsClient = reactorKind.create()
    const conn = tlsClient.connect(
      {
        address: '127.0.0.1',
        port: listener.port,
        origin: ORIGIN_ANY,
        timeoutMs: 5_000,
        tls: tlsClient.tlsContext(clientMaterial),
        expectedIdentities: [SERVER],
      },
      client,
    )
    // More than one read, many records, output that waits for the kernel.
    const chunk = Buffer.alloc(1_000_000, 'k')
    await client.seen('open')
    let received = 0
    client.onBytes = (_conn, bytes, offset, end) => {
      assert.equal(bytes[offset], 0x6b)
      received += end - offset
      if (received === 20 * chunk.length) conn.end()
    }
    for (let i = 0; i < 20; i++) conn.write(chunk, 0, chunk.length)
    await client.seen('close')
    assert.equal(client.error, null)
    assert.equal(received, 20 * chunk.length)
  })
})

describe('a worker thread', TEST, () => {
  const script = `
    const { parentPort } = require('node:worker_threads')
    Promise.all([import(${JSON.stringify(new URL('../support/transports.ts', import.meta.url).href)}),
      import(${JSON.stringify(new URL('../support/conn-recorder.ts', import.meta.url).href)})]).then(async ([t, r]) => {
      const transport = t.reactorKind.create()
      const acceptor = new r.AcceptRecorder(() => new r.Echo())
      const listener = await transport.listen({ address: '127.0.0.1', port: 0, isShared: true }, null, acceptor)
      parentPort.on('message', (how) => how === 'throw' ? setImmediate(() => { throw new Error('on purpose') }) : process.exit(0))
      parentPort.postMessage(listener.port)
    })`

  test('leaves no descriptor and no connection behind, however it ends', async () => {
    const openDescriptors = (): number => readdirSync('/proc/self/fd').length
    let before = -1
    for (const how of ['exit', 'exit', 'terminate', 'throw', 'terminate', 'exit']) {
      const worker = new Worker(script, { eval: true })
      worker.on('error', () => {})
      const [port] = (await once(worker, 'message')) as [number]
      const client = net.connect(port, '127.0.0.1')
      client.write('x')
      await once(client, 'data')
      client.on('error', () => {})
      const isClosed = new Promise((resolve) => client.once('close', resolve))
      client.resume()
      // Not `once`: that rejects at the error, which comes before the exit.
      const hasExited = new Promise((resolve) => worker.once('exit', resolve))
      if (how === 'terminate') await worker.terminate()
      else worker.postMessage(how)
      await hasExited
      await isClosed
      // The first one loads things that stay.
      if (before < 0) before = openDescriptors()
      else assert.equal(openDescriptors(), before, how)
    }
  })
})

describe('a program of its own', TEST, () => {
  const prelude = `
    import { transport } from '${reactorKind.moduleUrl}'
    import { AcceptRecorder, ConnRecorder, Echo, writeText } from '${new URL('../support/conn-recorder.ts', import.meta.url).href}'
    const print = (value) => process.stdout.write(JSON.stringify(value) + '\\n')
    const listen = (acceptor) => transport.listen({ address: '127.0.0.1', port: 0, isShared: false }, null, acceptor)
    const dial = (port, handler) => transport.connect({ address: '127.0.0.1', port, origin: { fd: null, localAddress: null },
      timeoutMs: 5000, tls: null, expectedIdentities: [] }, handler)
  `

  async function run(script: string, limit = ''): Promise<unknown[]> {
    const command = `${limit} exec "$0" --input-type=module -e "$1"`
    const child = spawn('sh', ['-c', command, process.execPath, prelude + script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
    return output
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
  }

  test('ends by itself when its last connection and listener are closed', async () => {
    const lines = await run(`
      const acceptor = new AcceptRecorder(() => new Echo())
      const listener = await listen(acceptor)
      const client = new ConnRecorder()
      const conn = dial(listener.port, client)
      writeText(conn, 'over')
      conn.end()
      await client.seen('close')
      listener.close()
      print(client.text)
    `)
    assert.deepEqual(lines, ['over'])
  })

  test('without descriptors stops accepting, says so once, and goes on when there are some', async () => {
    const lines = await run(
      `
      const acceptor = new AcceptRecorder(() => new Echo())
      const listener = await listen(acceptor)
      const clients = []
      // Both ends are in this program; the kernel accepts what the program cannot.
      for (;;) {
        const conn = dial(listener.port, new ConnRecorder())
        if (conn.isClosed) break
        clients.push(conn)
      }
      const failure = await acceptor.failure(0)
      await new Promise((resolve) => setTimeout(resolve, 350))
      const reports = acceptor.errors.length
      const accepted = acceptor.handlers.length
      for (const conn of clients.splice(0, 20)) conn.abort()
      await acceptor.handler(accepted)
      print([failure.error.code, /EMFILE.*open files/.test(failure.error.message), reports])
      for (const conn of clients) conn.abort()
      listener.close()
    `,
      'ulimit -n 64;',
    )
    assert.deepEqual(lines, [['WEFT_SYSCALL', true, 1]])
  })

  test('that survives an exception in a handler gets all other events of the batch', async () => {
    const lines = await run(`
      let thrown = 0
      process.on('uncaughtException', () => { thrown++ })
      class Thrower extends Echo { onBytes(conn, bytes, offset, end) { super.onBytes(conn, bytes, offset, end); throw new Error('on purpose') } }
      const acceptor = new AcceptRecorder(() => new Thrower())
      const listener = await listen(acceptor)
      const clients = Array.from({ length: 20 }, () => new ConnRecorder())
      const conns = clients.map((client) => dial(listener.port, client))
      for (const conn of conns) writeText(conn, 'x')
      await Promise.all(clients.map((client) => client.seen('bytes')))
      print([thrown, clients.every((client) => client.text === 'x')])
      for (const conn of conns) conn.abort()
      listener.close()
    `)
    assert.deepEqual(lines, [[20, true]])
  })
})
