/**
 * Descriptors that others opened (the capture, in a pod's network namespace): dialled from and listened on. Each test
 * is a process of its own, which inherits the descriptor as number 3, as nobody else's.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { describe, test } from 'node:test'

import { nativeProgram, needsNativeBuild } from '../support/native-build.ts'
import type { TransportKind } from '../support/transports.ts'

/** native/test/with-socket.c: Node.js itself cannot make an unconnected socket, except in some versions. */
const LAUNCHER = nativeProgram('with-socket')

/** Tests of inherited descriptors. */
export function testDescriptors(kind: TransportKind): void {
  /** Each test starts a process, which the sanitizers make ten times slower, and a busy machine that again. */
  const TEST = { timeout: 200_000, ...needsNativeBuild }

  const recorderUrl = new URL('../support/conn-recorder.ts', import.meta.url).href
  const PRELUDE = `
  import { existsSync } from 'node:fs'
  import { transport } from '${kind.moduleUrl}'
  import { AcceptRecorder, ConnRecorder, Echo, writeText } from '${recorderUrl}'
  const print = (value) => process.stdout.write(JSON.stringify(value) + '\\n')
  const isOpen = () => existsSync('/proc/self/fd/3')
  const options = (address, port) => ({ address, port, origin: { fd: 3, localAddress: null }, timeoutMs: 5000,
    tls: null, expectedIdentities: [] })
`

  /** Runs `script` with a bound, unconnected socket as descriptor 3; resolves with the lines that it printed. */
  async function run(script: string, onLine: (line: unknown) => void = () => {}): Promise<unknown[]> {
    const child = spawn(LAUNCHER, [process.execPath, '--input-type=module', '-e', PRELUDE + script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const lines: unknown[] = []
    let rest = ''
    child.stdout!.on('data', (chunk: Buffer) => {
      rest += chunk
      const complete = rest.split('\n')
      rest = complete.pop()!
      for (const line of complete) {
        const value: unknown = JSON.parse(line)
        lines.push(value)
        onLine(value)
      }
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
    return lines
  }

  async function echoServer(): Promise<{ readonly port: number; close(): void }> {
    const server = net.createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return { port: (server.address() as net.AddressInfo).port, close: () => server.close() }
  }

  describe('a connection from an inherited descriptor', TEST, () => {
    test('connects, carries bytes both ways, and closes the descriptor at its end', async () => {
      const server = await echoServer()
      const lines = await run(`
      const client = new ConnRecorder()
      const conn = transport.connect(options('127.0.0.1', ${server.port}), client)
      await client.seen('open')
      writeText(conn, 'through three')
      conn.end()
      await client.seen('close')
      print([client.text, client.error, conn.localAddress, conn.remotePort === ${server.port}, isOpen()])
    `)
      assert.deepEqual(lines, [['through three', null, '127.0.0.1', true, false]])
      server.close()
    })

    test('a refusal closes the descriptor too', async () => {
      const server = await echoServer()
      server.close()
      const lines = await run(`
      const client = new ConnRecorder()
      transport.connect(options('127.0.0.1', ${server.port}), client)
      await client.seen('close')
      print([client.events, client.error.code, isOpen()])
    `)
      assert.deepEqual(lines, [[['close'], 'WEFT_CONNECT', false]])
    })

    test('an abort before it is open closes the descriptor', async () => {
      const server = await echoServer()
      const lines = await run(`
      const client = new ConnRecorder()
      transport.connect(options('127.0.0.1', ${server.port}), client).abort()
      await client.seen('close')
      print([client.events, client.error, isOpen()])
    `)
      assert.deepEqual(lines, [[['close'], null, false]])
      server.close()
    })

    test('an address of the other family is an error of the connection, and closes the descriptor', async () => {
      const lines = await run(`
      const client = new ConnRecorder()
      transport.connect(options('::1', 1), client)
      await client.seen('close')
      print([client.events, client.error.code, isOpen()])
    `)
      assert.deepEqual(lines, [[['close'], 'WEFT_CONNECT', false]])
    })
  })

  describe('a listener on an inherited descriptor', TEST, () => {
    test('accepts on the address it was bound to, and closing it closes the descriptor but no connection', async () => {
      let received = ''
      const lines = await run(
        `
      const acceptor = new AcceptRecorder(() => new Echo())
      const listener = await transport.listen({ fd: 3 }, null, acceptor)
      print(listener.port)
      const server = await acceptor.handler(0)
      listener.close()
      await server.seen('bytes')
      print([listener.address, server.conn.localPort === listener.port, isOpen()])
      await server.seen('close')
      print([server.text, server.error])
    `,
        (line) => {
          if (typeof line !== 'number') return
          const socket = net.connect(line, '127.0.0.1')
          socket.on('data', (chunk) => {
            received += chunk
          })
          socket.once('connect', () => socket.end('to the listener'))
        },
      )
      assert.deepEqual(lines.slice(1), [
        ['127.0.0.1', true, false],
        ['to the listener', null],
      ])
      assert.equal(received, 'to the listener')
    })

    test('a descriptor that is no socket is refused', async () => {
      const lines = await run(`
      const failure = await transport.listen({ fd: 77 }, null, new AcceptRecorder(() => new Echo())).catch((error) => error)
      print([failure.code, failure.message.includes('descriptor 77')])
    `)
      assert.deepEqual(lines, [['WEFT_SYSCALL', true]])
    })
  })
}
