/**
 * A process without descriptors: what is dialled fails with what to do, what is accepted waits, and both go on when
 * there are descriptors again. Each test is a process of its own, as its limit is.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import type { TransportKind } from '../support/transports.ts'

const DESCRIPTORS = 64

/** Tests of a transport at the limit of open files. */
export function testShortages(kind: TransportKind): void {
  const support = (file: string): string => new URL(`../support/${file}`, import.meta.url).href
  const PRELUDE = `
    import { ${kind.name}Kind as kind } from '${support('transports.ts')}'
    import { AcceptRecorder, ConnRecorder, Echo, writeText } from '${support('conn-recorder.ts')}'
    import { TestAuthority } from '${support('certificates.ts')}'
    import { ReactorListener } from '${new URL('../../src/transport/reactor-listener.ts', import.meta.url).href}'
    import { openSync, closeSync } from 'node:fs'
    const print = (value) => process.stdout.write(JSON.stringify(value) + '\\n')
    const authority = new TestAuthority()
    const start = async (settings, isTls) => {
      const transport = kind.create(settings)
      const context = isTls ? transport.tlsContext(authority.leaf('shop', 'server')) : null
      const acceptor = new AcceptRecorder(() => new Echo())
      const target = { address: '127.0.0.1', port: 0, isShared: false }
      const listener = await transport.listen(target, isTls ? { current: () => context } : null, acceptor)
      const dial = (handler) => transport.connect({ address: '127.0.0.1', port: listener.port,
        origin: { fd: null, localAddress: null }, timeoutMs: 5000,
        tls: isTls ? transport.tlsContext(authority.leaf('shop', 'client')) : null,
        expectedIdentities: ['spiffe://cluster.local/ns/shop/sa/server'] }, handler)
      return { transport, acceptor, listener, dial }
    }
    /** Takes what descriptors there are, but for some. */
    const takeAll = (left) => {
      const taken = []
      try { for (;;) taken.push(openSync('/dev/null')) } catch {}
      for (const fd of taken.splice(0, left)) closeSync(fd)
      return taken
    }
    const release = (taken) => { for (const fd of taken.splice(0)) closeSync(fd) }
  `

  async function run(script: string): Promise<unknown[]> {
    const command = `ulimit -n ${DESCRIPTORS}; exec "$0" --input-type=module -e "$1"`
    const child = spawn('sh', ['-c', command, process.execPath, PRELUDE + script], {
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

  describe('a process without descriptors', { timeout: 30_000 }, () => {
    test('tells who dials what is missing, and dials again when there are some', async () => {
      const lines = await run(`
        const { listener, dial } = await start({}, false)
        const taken = takeAll(0)
        const client = new ConnRecorder()
        const conn = dial(client)
        print(client.events)
        await client.seen('close')
        print([client.events, client.error.code, client.error.message.replace(/:\\d+:/, '::')])
        release(taken)
        const again = new ConnRecorder()
        const second = dial(again)
        writeText(second, 'again')
        second.end()
        await again.seen('close')
        print([again.text, again.error])
        listener.close()
      `)
      const reason = 'EMFILE (no descriptor is left to the process: raise its limit of open files)'
      assert.deepEqual(lines, [
        [],
        [['close'], 'WEFT_CONNECT', `cannot connect to 127.0.0.1:: ${reason}`],
        ['again', null],
      ])
    })

    if (kind.name === 'reactor') {
      for (const isTls of [false, true]) {
        test(`accepts nothing${isTls ? ' for TLS' : ''}, says so once in a while, does not spin, and goes on`, async () => {
          const lines = await run(`
            const { acceptor, listener, dial } = await start({ acceptReportMs: 2000 }, ${isTls})
            const clients = []
            // The first of them is served, which loads what TLS reads from files.
            const first = new ConnRecorder()
            clients.push(dial(first))
            await first.seen('open')
            await acceptor.handler(0)
            // Room for the dialling end alone: the kernel accepts what this program cannot.
            const taken = takeAll(1)
            const waiting = new ConnRecorder()
            const conn = dial(waiting)
            writeText(conn, 'patience')
            clients.push(conn)
            const failure = await acceptor.failure(0)
            // It is tried ten times a second: hundreds would be a spin.
            let tries = 0
            const { acceptFailed } = ReactorListener.prototype
            ReactorListener.prototype.acceptFailed = function (errno) {
              tries++
              acceptFailed.call(this, errno)
            }
            await new Promise((resolve) => setTimeout(resolve, 500))
            print([failure.error.code, failure.error.message.replace(/port \\d+/, 'port N'), tries > 0 && tries < 20])
            // One comes and goes: it fails, accepts and fails again, without another word.
            release(taken)
            await waiting.seen('bytes')
            print([waiting.text, acceptor.errors.length])
            const retaken = takeAll(1)
            const late = new ConnRecorder()
            clients.push(dial(late))
            await new Promise((resolve) => setTimeout(resolve, 300))
            print([acceptor.handlers.length, acceptor.errors.length])
            // Past the time for which one sentence is enough.
            await acceptor.failure(1)
            release(retaken)
            await acceptor.handler(2)
            for (const conn of clients) conn.abort()
            listener.close()
          `)
          const reason = 'EMFILE (no descriptor is left to the process: raise its limit of open files)'
          const text = `cannot accept on port N: ${reason}; connections wait in the kernel meanwhile`
          assert.deepEqual(lines, [
            ['WEFT_SYSCALL', text, true],
            ['patience', 1],
            [2, 1],
          ])
        })
      }
    } else {
      test('serves again when there are some, and those that it accepted live on', async () => {
        const lines = await run(`
          const { acceptor, listener, dial } = await start({}, false)
          const first = new ConnRecorder()
          const conn = dial(first)
          await first.seen('open')
          await acceptor.handler(0)
          const taken = takeAll(1)
          // libuv takes it by a descriptor in reserve, and ends it at once.
          const refused = new ConnRecorder()
          const ended = dial(refused)
          await refused.until(() => refused.events.includes('end') || refused.events.includes('close'))
          ended.abort()
          release(taken)
          writeText(conn, 'still here')
          await first.seen('bytes')
          const last = new ConnRecorder()
          const next = dial(last)
          writeText(next, 'next')
          await last.seen('bytes')
          print([first.text, last.text])
          conn.abort()
          next.abort()
          listener.close()
        `)
        assert.deepEqual(lines, [['still here', 'next']])
      })
    }
  })
}
