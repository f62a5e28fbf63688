/** Plain connections: the rules of conn.ts, one test each. Every transport that opens sockets must pass them. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { after, describe, test } from 'node:test'
import { BACKLOG_HIGH, type Conn, type Flushable, type ListenerHandle, ORIGIN_ANY } from '../../src/transport/conn.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import type { TransportKind } from '../support/transports.ts'

/** Tests of plain connections. */
export function testPlainConnections(kind: TransportKind): void {
  const transport = kind.create()
  const listeners: ListenerHandle[] = []
  const TEST = { timeout: 20_000 }

  after(() => {
    for (const listener of listeners) listener.close()
  })

  async function listen<H extends ConnRecorder>(create: () => H, address = '127.0.0.1', by = transport) {
    const acceptor = new AcceptRecorder(create)
    const listener = await by.listen({ address, port: 0, isShared: false }, null, acceptor)
    listeners.push(listener)
    return { acceptor, listener, port: listener.port }
  }

  function connect(port: number, handler: ConnRecorder, address = '127.0.0.1', by = transport): Conn {
    const options = { address, port, origin: ORIGIN_ANY, timeoutMs: 5_000, tls: null, expectedIdentities: [] }
    return by.connect(options, handler)
  }

  /** What the kernel knows of the connection's socket: its line in /proc/net/tcp while a process holds it; else ''. */
  function descriptorOf(conn: Conn): string {
    const hex = (port: number): string => `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
    const ends = `: ${hex(conn.localPort)} ${hex(conn.remotePort)} `
    const inodes = readFileSync('/proc/net/tcp', 'utf8')
      .split('\n')
      .filter((line) => line.includes(ends))
      .map((line) => line.trim().split(/\s+/)[9]!)
    return inodes.find((inode) => inode !== '0') ?? ''
  }

  /** Both ends of a new connection. */
  async function pair(by = transport) {
    const { acceptor, port, listener } = await listen(() => new ConnRecorder(), '127.0.0.1', by)
    const client = new ConnRecorder()
    const clientConn = connect(port, client, '127.0.0.1', by)
    const server = await acceptor.handler(0)
    await client.seen('open')
    return { client, clientConn, server, serverConn: server.conn!, listener }
  }

  describe('a plain connection', TEST, () => {
    test('opens once, never inside the call that made it, and before anything else', async () => {
      const { port, acceptor } = await listen(() => new Echo())
      const client = new ConnRecorder()
      const conn = connect(port, client)
      assert.deepEqual(client.events, [])
      writeText(conn, 'x')
      await client.seen('bytes')
      conn.end()
      await client.seen('close')
      assert.deepEqual(client.events, ['open', 'bytes', 'end', 'close'])
      assert.equal(client.error, null)
      const server = await acceptor.handler(0)
      await server.seen('close')
      assert.deepEqual(server.events, ['open', 'bytes', 'end', 'close'])
      assert.equal(server.error, null)
    })

    test('tells canonical addresses of both ends, IPv4-mapped ones as IPv4', async () => {
      const { port, acceptor } = await listen(() => new Echo(), '::')
      for (const address of ['127.0.0.1', '::1']) {
        const client = new ConnRecorder()
        const conn = connect(port, client, address)
        await client.seen('open')
        const server = (await acceptor.handler(address === '::1' ? 1 : 0)).conn!
        assert.deepEqual([conn.remoteAddress, conn.remotePort], [address, port])
        assert.deepEqual([server.localAddress, server.localPort], [address, port])
        assert.deepEqual([server.remoteAddress, server.remotePort], [conn.localAddress, conn.localPort])
        assert.equal(conn.peerIdentity, null)
        conn.abort()
      }
    })

    test('takes bytes before write returns: the buffer may change at once, in any order and size', async () => {
      const { port } = await listen(() => new Echo())
      const handlers: ConnRecorder[] = []
      const conns: Conn[] = []
      for (let i = 0; i < 3; i++) {
        const handler = new ConnRecorder()
        handlers.push(handler)
        conns.push(connect(port, handler))
      }
      const expected = conns.map(() => [] as Buffer[])
      const shared = Buffer.alloc(200_000)
      const writeAll = (sizes: readonly number[]): void => {
        sizes.forEach((size, step) => {
          conns.forEach((conn, index) => {
            shared.fill(1 + ((step * 7 + index * 31 + size) % 250))
            expected[index]!.push(Buffer.from(shared.subarray(3, 3 + size)))
            conn.write(shared, 3, size)
          })
        })
        shared.fill(0)
      }
      writeAll([1, 100, 40_000])
      await Promise.all(handlers.map((handler) => handler.seen('open')))
      writeAll([5, 1, 70_000, 2, 33_000, 31_000, 10, 150_000, 0, 7])
      for (const [index, handler] of handlers.entries()) {
        const whole = Buffer.concat(expected[index]!)
        await handler.until(() => handler.received.length >= whole.length)
        assert.ok(handler.received.equals(whole), `connection ${index} got other bytes than were written`)
        conns[index]!.abort()
      }
    })

    test('gathers the writes of one turn into one', async () => {
      const chunks: Buffer[] = []
      const peer = net.createServer((socket) => socket.on('data', (chunk) => chunks.push(chunk)))
      listeners.push({ port: 0, address: '', close: () => peer.close() })
      peer.listen(0, '127.0.0.1')
      await once(peer, 'listening')
      const client = new ConnRecorder()
      const conn = connect((peer.address() as net.AddressInfo).port, client)
      await client.seen('open')
      for (let i = 0; i < 1_000; i++) writeText(conn, `line ${i}\n`)
      conn.end()
      await client.seen('end')
      assert.equal(chunks.length, 1)
      assert.equal(Buffer.concat(chunks).toString().split('\n').length, 1_001)
    })

    test('half-closes: after its end it still receives, and the peer still sends', async () => {
      const { client, clientConn, server, serverConn } = await pair()
      writeText(clientConn, 'request')
      clientConn.end()
      await server.seen('end')
      assert.equal(server.text, 'request')
      assert.equal(writeText(clientConn, 'ignored'), 0)
      for (let i = 0; i < 5; i++) {
        writeText(serverConn, 'part ')
        await client.until(() => client.received.length === 5 * (i + 1))
      }
      assert.ok(!client.events.includes('close'))
      serverConn.end()
      await client.seen('close')
      await server.seen('close')
      assert.equal(client.text, 'part part part part part ')
      assert.equal(client.error, null)
      assert.equal(server.error, null)
      assert.equal(server.text, 'request')
    })

    test('delivers a reset as an error and never as an end; who aborted gets none', async () => {
      const { client, clientConn, server } = await pair()
      clientConn.abort()
      assert.ok(clientConn.isClosed)
      assert.ok(!client.events.includes('close'), 'not told inside the call')
      await server.seen('close')
      await client.seen('close')
      assert.equal(server.error?.code, 'WEFT_RESET')
      assert.ok(!server.events.includes('end'))
      assert.equal(client.error, null)
    })

    test('can be aborted right after its end, with and without output queued, and leaks no descriptor', async () => {
      for (const size of [1, 8_000_000]) {
        const { client, clientConn, server, serverConn } = await pair()
        let descriptor = ''
        // The file may skip a line while other connections come and go.
        while (descriptor === '') descriptor = descriptorOf(clientConn)
        serverConn.pauseReading()
        clientConn.write(Buffer.alloc(size, 1), 0, size)
        clientConn.end()
        clientConn.abort()
        await client.seen('close')
        assert.equal(client.error, null)
        assert.notEqual(descriptorOf(clientConn), descriptor)
        serverConn.resumeReading()
        // With one byte the end may be on its way before the reset; with many it was not, and must not be seen.
        await server.until(() => server.events.includes('close') || (size === 1 && server.events.includes('end')))
        if (server.events.includes('close')) assert.equal(server.error?.code, 'WEFT_RESET')
        serverConn.abort()
      }
    })

    test('close sends what was written, then ends for good, and nothing but onClose follows', async () => {
      const { client, clientConn, server, serverConn } = await pair()
      const big = Buffer.alloc(3_000_000, 'b')
      serverConn.write(big, 0, big.length)
      writeText(serverConn, 'last')
      serverConn.close()
      assert.ok(serverConn.isClosed)
      writeText(clientConn, 'not heard')
      await client.seen('end')
      assert.equal(client.received.length, big.length + 4)
      clientConn.end()
      await client.seen('close')
      await server.seen('close')
      assert.deepEqual(server.events, ['open', 'close'])
      assert.equal(server.error, null)
      assert.equal(client.error, null)
    })

    test('close does not destroy its last answer at a peer that is still sending', async () => {
      const { client, clientConn, server, serverConn } = await pair()
      const chunk = Buffer.alloc(100_000)
      clientConn.write(chunk, 0, chunk.length)
      await server.seen('bytes')
      serverConn.pauseReading()
      for (let i = 0; i < 3; i++) clientConn.write(chunk, 0, chunk.length)
      writeText(serverConn, 'enough')
      serverConn.close()
      await client.seen('end')
      clientConn.write(chunk, 0, chunk.length)
      assert.equal(client.text, 'enough')
      clientConn.end()
      await client.seen('close')
      assert.equal(client.error, null)
    })

    test('a closed connection is given up when its peer never ends', async () => {
      const quick = kind.create({ lingerMs: 50 })
      const { client, clientConn, server, serverConn } = await pair(quick)
      serverConn.close()
      await server.seen('close')
      await client.seen('end')
      while (clientConn.isClosed === false) {
        writeText(clientConn, 'x')
        await new Promise((resolve) => setImmediate(resolve))
      }
      assert.equal(client.error?.code, 'WEFT_RESET')
    })

    test('a closing connection whose peer takes nothing is reset', async () => {
      const quick = kind.create({ closeStallMs: 100 })
      const { client, clientConn, server, serverConn } = await pair(quick)
      clientConn.pauseReading()
      const big = Buffer.alloc(30_000_000)
      serverConn.write(big, 0, big.length)
      serverConn.close()
      await server.seen('close')
      assert.equal(server.error?.code, 'WEFT_TIMEOUT')
      clientConn.resumeReading()
      await client.seen('close')
      assert.equal(client.error?.code, 'WEFT_RESET')
    })

    test('does nothing when called after its close', async () => {
      const { client, clientConn, server } = await pair()
      clientConn.abort()
      await client.seen('close')
      await server.seen('close')
      assert.equal(writeText(clientConn, 'x'), 0)
      clientConn.end()
      clientConn.abort()
      clientConn.close()
      clientConn.pauseReading()
      clientConn.resumeReading()
      clientConn.setIdleTimeout(1)
      await new Promise((resolve) => setImmediate(resolve))
      assert.deepEqual(client.events, ['open', 'close'])
    })

    test('counts pauses: bytes come only when every pause has its resume', async () => {
      const { clientConn, server, serverConn } = await pair()
      serverConn.pauseReading()
      serverConn.pauseReading()
      writeText(clientConn, 'held back')
      serverConn.resumeReading()
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
      assert.equal(server.text, '')
      serverConn.resumeReading()
      await server.seen('bytes')
      assert.equal(server.text, 'held back')
      clientConn.abort()
    })

    test('can be paused before it is open', async () => {
      const { port } = await listen(() => new Greeter())
      const client = new ConnRecorder()
      const conn = connect(port, client)
      conn.pauseReading()
      await client.seen('open')
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
      assert.equal(client.text, '')
      conn.resumeReading()
      await client.seen('bytes')
      assert.equal(client.text, 'hello')
      conn.abort()
    })

    test('a slow reader stops its writer, and the memory in between is bounded', async () => {
      const { client, clientConn, server, serverConn } = await pair()
      serverConn.pauseReading()
      const chunk = Buffer.alloc(50_000, 'c')
      let written = 0
      const fill = (): void => {
        while (clientConn.write(chunk, 0, chunk.length) <= BACKLOG_HIGH) written += chunk.length
        written += chunk.length
      }
      let rounds = 0
      do {
        fill()
        rounds++
        for (let i = 0; i < 30; i++) await new Promise((resolve) => setImmediate(resolve))
      } while (clientConn.backlog === 0 && rounds < 200)
      assert.ok(clientConn.backlog > 0, 'the writer is held back')
      assert.ok(clientConn.backlog <= BACKLOG_HIGH + 2 * chunk.length, `${clientConn.backlog} bytes are queued`)
      assert.ok(written < 32_000_000, `${written} bytes went into buffers`)
      const drains = client.events.filter((event) => event === 'drain').length
      serverConn.resumeReading()
      await client.until(() => client.events.filter((event) => event === 'drain').length > drains)
      assert.equal(clientConn.backlog, 0)
      await server.until(() => server.received.length === written)
      clientConn.abort()
    })

    test('resets an idle connection after its idle time-out', async () => {
      const { client, clientConn, server } = await pair()
      clientConn.setIdleTimeout(30)
      await client.seen('close')
      await server.seen('close')
      assert.equal(client.error?.code, 'WEFT_TIMEOUT')
      assert.equal(server.error?.code, 'WEFT_RESET')
    })

    test('sees the death of its peer as a reset when bytes were unread', async () => {
      const { acceptor, port } = await listen(() => new ConnRecorder())
      const script = `const s=require('net').connect(${port},'127.0.0.1');s.pause();s.on('connect',()=>s.write('hi'))`
      const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' })
      const server = await acceptor.handler(0)
      await server.seen('bytes')
      const big = Buffer.alloc(1_000_000)
      server.conn!.write(big, 0, big.length)
      for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve))
      child.kill('SIGKILL')
      await server.seen('close')
      assert.equal(server.error?.code, 'WEFT_RESET')
    })
  })

  class Greeter extends ConnRecorder {
    override onOpen(conn: Conn): void {
      writeText(conn, 'hello')
      super.onOpen(conn)
    }
  }

  describe('connecting', TEST, () => {
    test('a refusal is reported to the handler and names the address', async () => {
      const server = net.createServer().listen(0, '127.0.0.1')
      await once(server, 'listening')
      const { port } = server.address() as net.AddressInfo
      server.close()
      await once(server, 'close')
      const client = new ConnRecorder()
      const conn = connect(port, client)
      writeText(conn, 'never sent')
      await client.seen('close')
      assert.deepEqual(client.events, ['close'])
      assert.equal(client.error?.code, 'WEFT_CONNECT')
      assert.match(client.error!.message, new RegExp(`127\\.0\\.0\\.1:${port}.*ECONNREFUSED`))
      assert.ok(conn.isClosed)
    })

    test('can be aborted and closed before it is open; the handler hears only onClose', async () => {
      const { port } = await listen(() => new Echo())
      for (const act of ['abort', 'close'] as const) {
        const client = new ConnRecorder()
        connect(port, client)[act]()
        await client.seen('close')
        assert.deepEqual(client.events, ['close'])
        assert.equal(client.error, null)
      }
    })

    test('an end before the opening waits: what was written first arrives first', async () => {
      const { port, acceptor } = await listen(() => new Echo())
      const client = new ConnRecorder()
      const conn = connect(port, client)
      writeText(conn, 'early')
      conn.end()
      await client.seen('close')
      assert.equal(client.text, 'early')
      assert.equal(client.error, null)
      assert.equal((await acceptor.handler(0)).text, 'early')
    })

    test('starts from a given local address', async () => {
      const { port, acceptor } = await listen(() => new Echo())
      const client = new ConnRecorder()
      const origin = { fd: null, localAddress: '127.0.0.77' }
      const options = { address: '127.0.0.1', port, origin, timeoutMs: 5_000, tls: null, expectedIdentities: [] }
      const conn = transport.connect(options, client)
      await client.seen('open')
      assert.equal(conn.localAddress, '127.0.0.77')
      assert.equal((await acceptor.handler(0)).conn!.remoteAddress, '127.0.0.77')
      conn.abort()
    })

    test('a descriptor that is no socket is an error of the connection, not a throw', async () => {
      const client = new ConnRecorder()
      const options = { address: '127.0.0.1', port: 1, timeoutMs: 5_000, tls: null, expectedIdentities: [] }
      transport.connect({ ...options, origin: { fd: 987_654, localAddress: null } }, client)
      assert.deepEqual(client.events, [])
      await client.seen('close')
      assert.equal(client.error?.code, 'WEFT_CONNECT')
    })

    test('gives up after its time-out, names the address, and suspects a NetworkPolicy at port 15008', async () => {
      for (const [address, port, hint] of [
        ['127.77.15.8', 15_008, true],
        ['127.77.15.9', 0, false],
      ] as const) {
        const deaf = await DeafServer.start(address, port)
        try {
          await deaf.fill()
          const client = new ConnRecorder()
          const options = { address, port: deaf.port, origin: ORIGIN_ANY, tls: null, expectedIdentities: [] }
          transport.connect({ ...options, timeoutMs: 50 }, client)
          await client.seen('close')
          assert.deepEqual(client.events, ['close'])
          assert.equal(client.error?.code, 'WEFT_CONNECT')
          assert.ok(client.error?.message.includes(`${address}:${deaf.port}`), client.error?.message)
          assert.equal(client.error?.message.includes('NetworkPolicy'), hint)
        } finally {
          deaf.stop()
        }
      }
    })
  })

  /** A listening process that is stopped, so that its kernel drops connects once the accept queue is full. */
  class DeafServer {
    readonly port: number
    private readonly address: string
    private readonly child: ChildProcess
    private readonly fillers: net.Socket[] = []

    private constructor(child: ChildProcess, address: string, port: number) {
      this.child = child
      this.address = address
      this.port = port
    }

    static async start(address: string, port: number): Promise<DeafServer> {
      const script = `const s=require('net').createServer();s.listen({port:${port},host:'${address}',backlog:1},()=>{
      require('fs').writeSync(1,String(s.address().port));process.kill(process.pid,'SIGSTOP')})`
      const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
      const [text] = await once(child.stdout!, 'data')
      return new DeafServer(child, address, Number(text))
    }

    /** Connects until nobody answers any more: a queue of 1 takes two. */
    async fill(): Promise<void> {
      for (let i = 0; i < 2; i++) {
        const socket = net.connect(this.port, this.address)
        this.fillers.push(socket)
        await once(socket, 'connect')
      }
    }

    stop(): void {
      this.child.kill('SIGKILL')
      for (const socket of this.fillers) socket.on('error', () => {}).destroy()
    }
  }

  describe('listening', TEST, () => {
    test('an address that cannot be bound rejects with the address in the message', async () => {
      const { port } = await listen(() => new Echo())
      const target = { address: '127.0.0.1', port, isShared: false }
      await assert.rejects(transport.listen(target, null, new AcceptRecorder(() => new Echo())), {
        code: 'WEFT_SYSCALL',
        message: new RegExp(`127\\.0\\.0\\.1:${port}.*EADDRINUSE`),
      })
    })

    test('several listeners share one port when asked to', async () => {
      const acceptor = new AcceptRecorder(() => new Echo())
      const first = await transport.listen({ address: '127.0.0.1', port: 0, isShared: true }, null, acceptor)
      const shared = { address: '127.0.0.1', port: first.port, isShared: true }
      const second = await kind.create().listen(shared, null, acceptor)
      first.close()
      const client = new ConnRecorder()
      const conn = connect(second.port, client)
      await client.seen('open')
      conn.abort()
      second.close()
    })

    test('close stops accepting and leaves open connections alone', async () => {
      const { client, clientConn, server, listener } = await pair()
      listener.close()
      const late = new ConnRecorder()
      connect(listener.port, late)
      await late.seen('close')
      assert.equal(late.error?.code, 'WEFT_CONNECT')
      writeText(clientConn, 'still here')
      await server.seen('bytes')
      assert.ok(!client.events.includes('close'))
      clientConn.abort()
    })

    test('an acceptor may abort what it accepts', async () => {
      const acceptor = {
        onAccept(conn: Conn): ConnRecorder {
          conn.abort()
          return handler
        },
        onAcceptError(): void {},
      }
      const handler = new ConnRecorder()
      const listener = await transport.listen({ address: '127.0.0.1', port: 0, isShared: false }, null, acceptor)
      listeners.push(listener)
      const client = new ConnRecorder()
      connect(listener.port, client)
      await client.seen('close')
      await handler.seen('close')
      assert.deepEqual(handler.events, ['close'])
      // The reset may come before or after the client has seen the connection open.
      assert.match(client.error!.message, /reset|ECONNRESET/)
    })
  })

  describe('the end of a batch', TEST, () => {
    class Counting implements Flushable {
      isFlushPending = false
      flushes = 0
      again = false

      flush(): void {
        this.flushes++
        if (this.again) {
          this.again = false
          transport.atBatchEnd(this)
        }
      }
    }

    test('flushes an object once, however often it is queued', async () => {
      const one = new Counting()
      for (let i = 0; i < 5; i++) transport.atBatchEnd(one)
      assert.ok(one.isFlushPending)
      assert.equal(one.flushes, 0)
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(one.flushes, 1)
      assert.ok(!one.isFlushPending)
    })

    test('leaves to the next batch what is queued while flushing', async () => {
      const one = new Counting()
      one.again = true
      transport.atBatchEnd(one)
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(one.flushes, 1)
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(one.flushes, 2)
    })

    test('sends in the same batch what a flush writes', async () => {
      const { client, clientConn, server } = await pair()
      const writer: Flushable = {
        isFlushPending: false,
        flush: () => {
          writeText(clientConn, 'flushed')
        },
      }
      transport.atBatchEnd(writer)
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(clientConn.backlog, 0, 'it is with the kernel')
      await server.seen('bytes')
      assert.equal(server.text, 'flushed')
      assert.ok(!client.events.includes('close'))
      clientConn.abort()
    })
  })
}
