/**
 * Session tickets of the reactor, with `openssl s_client` as the client that comes back: to another worker of the same
 * process, without showing its certificate again. Only a listener that says so gives tickets.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import type { TlsMaterial, TlsOptions } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { CLIENT } from '../support/tls-peers.ts'
import { reactorAddon, reactorKind } from '../support/transports.ts'

const TEST = { timeout: 60_000, skip: reactorKind.skip }
const RESUMABLE: TlsOptions = { alpn: ['h2'], isResumable: true }
const SECOND_MS = 1_000
/** Said by the client; its echo may come in the middle of a line that s_client prints about tickets. */
const WORD = 'thereandback'

/** The sanitizers' build can make time pass for the keys of tickets. */
const advanceTicketClock = (reactorAddon as unknown as { advanceTicketClock?: (seconds: number) => void } | null)
  ?.advanceTicketClock

const authority = new TestAuthority()
const server = authority.leaf('shop', 'server')
const client = authority.leaf('shop', 'client')
const directory = mkdtempSync(join(tmpdir(), 'weft-tickets-'))
const workers: Worker[] = []
after(async () => {
  for (const worker of workers) await worker.terminate()
  rmSync(directory, { recursive: true })
})

const SCRIPT = `
  const { parentPort, workerData } = require('node:worker_threads')
  Promise.all([import(${JSON.stringify(new URL('../support/transports.ts', import.meta.url).href)}),
    import(${JSON.stringify(new URL('../support/conn-recorder.ts', import.meta.url).href)})]).then(async ([t, r]) => {
    const transport = t.reactorKind.create()
    let context = transport.tlsContext(workerData.material, workerData.options)
    class Reporter extends r.Echo {
      onOpen(conn) { super.onOpen(conn); parentPort.postMessage(conn.peerIdentity) }
    }
    const acceptor = new r.AcceptRecorder(() => new Reporter())
    acceptor.onAcceptError = (error) => parentPort.postMessage(error.message)
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await transport.listen(target, { current: () => context }, acceptor)
    parentPort.on('message', (material) => {
      context = transport.tlsContext(material, workerData.options)
      parentPort.postMessage('changed')
    })
    parentPort.postMessage(listener.port)
  })`

/** A worker thread with a listener. */
interface Served {
  readonly port: number
  /** What its next connection proved to be, or why it was refused. */
  next(): Promise<string>
  change(material: TlsMaterial): Promise<void>
}

async function startWorker(material: TlsMaterial, options = RESUMABLE): Promise<Served> {
  const worker = new Worker(SCRIPT, { eval: true, workerData: { material, options } })
  workers.push(worker)
  const messages: (string | number)[] = []
  worker.on('message', (message) => messages.push(message))
  const next = async (): Promise<string | number> => {
    while (messages.length === 0) await once(worker, 'message')
    return messages.shift()!
  }
  const port = Number(await next())
  return {
    port,
    next: async () => String(await next()),
    change: async (changed) => {
      worker.postMessage(changed)
      await next()
    },
  }
}

let files = 0
function file(text: string): string {
  const path = join(directory, `${files++}.pem`)
  writeFileSync(path, text, { mode: 0o600 })
  return path
}

const roots = file(authority.bundle)

interface Visit {
  /** Shown certificate; without it the client has none to show. */
  readonly material?: TlsMaterial
  readonly sessionIn?: string
  readonly sessionOut?: string
}

/** One connection of s_client, to its echo; resolves with whether it resumed, or with null when it was refused. */
async function visit(port: number, { material, sessionIn, sessionOut }: Visit): Promise<boolean | null> {
  const args = ['s_client', '-connect', `127.0.0.1:${port}`, '-alpn', 'h2', '-noservername', '-CAfile', roots]
  if (material !== undefined) args.push('-cert', file(material.certificateChain), '-key', file(material.key))
  if (sessionIn !== undefined) args.push('-sess_in', sessionIn)
  if (sessionOut !== undefined) args.push('-sess_out', sessionOut)
  const child: ChildProcess = spawn('openssl', args, { stdio: ['pipe', 'pipe', 'ignore'] })
  let output = ''
  child.stdin!.on('error', () => {})
  child.stdin!.write(`${WORD}\n`)
  child.stdout!.on('data', (chunk) => {
    output += chunk
    if (output.includes(WORD)) child.stdin!.end()
  })
  await once(child, 'close')
  if (!output.includes(WORD)) return null
  return /^Reused, TLSv1\.3/m.test(output)
}

describe('session tickets', TEST, () => {
  const session = join(directory, 'session.pem')
  let first: Served
  let second: Served

  test('let a client come back to another worker, as who it proved to be at first', async () => {
    first = await startWorker(server)
    second = await startWorker(server)
    assert.equal(await visit(first.port, { material: client, sessionOut: session }), false)
    assert.equal(await first.next(), CLIENT)
    // It shows no certificate now, and is known all the same.
    assert.equal(await visit(second.port, { sessionIn: session }), true)
    assert.equal(await second.next(), CLIENT)
    assert.equal(await visit(first.port, { sessionIn: session }), true)
    assert.equal(await first.next(), CLIENT)
  })

  test('of a client prove that client, whatever certificate somebody else shows with them', async () => {
    const other = authority.leaf('shop', 'other')
    assert.equal(await visit(second.port, { material: other, sessionIn: session }), true)
    assert.equal(await second.next(), CLIENT)
  })

  test('are no good at a listener of another identity, or of other protocols', async () => {
    const elsewhere = await startWorker(authority.leaf('shop', 'elsewhere'))
    assert.equal(await visit(elsewhere.port, { sessionIn: session }), null)
    assert.match(await elsewhere.next(), /was refused: it showed none/)
    assert.equal(await visit(elsewhere.port, { material: client, sessionIn: session }), false)
    const wider = await startWorker(server, { alpn: ['h2', 'http/1.1'], isResumable: true })
    assert.equal(await visit(wider.port, { sessionIn: session }), null)
  })

  test('end with the bundle of roots that they were given under', async () => {
    const changing = await startWorker(server)
    assert.equal(await visit(changing.port, { sessionIn: session }), true)
    assert.equal(await changing.next(), CLIENT)
    const next = new TestAuthority()
    await changing.change(authority.leaf('shop', 'server', { bundle: authority.bundle + next.bundle }))
    assert.equal(await visit(changing.port, { sessionIn: session }), null)
    assert.match(await changing.next(), /was refused: it showed none/)
    // With a certificate it is let in, by a full handshake.
    assert.equal(await visit(changing.port, { material: client, sessionIn: session }), false)
    // A new certificate under the same roots is no change of trust.
    await changing.next()
    await changing.change(authority.leaf('shop', 'server'))
    assert.equal(await visit(changing.port, { sessionIn: session }), true)
  })

  test("end with the client's certificate", async () => {
    const short = join(directory, 'short.pem')
    // The shortest lifetime there is, most of it over.
    const nowMs = Date.now() - 8 * SECOND_MS
    const brief = authority.leaf('shop', 'brief', { nowMs, lifetimeMs: 10 * SECOND_MS })
    assert.equal(await visit(first.port, { material: brief, sessionOut: short }), false)
    assert.equal(await first.next(), 'spiffe://cluster.local/ns/shop/sa/brief')
    assert.equal(await visit(first.port, { sessionIn: short }), true)
    await first.next()
    // Certificates end at whole seconds.
    await new Promise((resolve) => setTimeout(resolve, nowMs + 11 * SECOND_MS - Date.now()))
    assert.equal(await visit(first.port, { sessionIn: short }), null)
    assert.match(await first.next(), /was refused: it showed none/)
  })

  test('of another process, as after an upgrade, are not taken: a client that shows its certificate makes a whole handshake', async () => {
    const program = `
      const { Worker } = require('node:worker_threads')
      const worker = new Worker(process.argv[1], { eval: true, workerData: JSON.parse(process.argv[2]) })
      worker.on('message', (message) => console.log(message))`
    const values = JSON.stringify({ material: server, options: RESUMABLE })
    const successor = spawn(process.execPath, ['-e', program, SCRIPT, values], { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      const lines = createInterface({ input: successor.stdout })[Symbol.asyncIterator]()
      const port = Number((await lines.next()).value)
      assert.equal(await visit(port, { material: client, sessionIn: session }), false)
      assert.equal((await lines.next()).value, 'spiffe://cluster.local/ns/shop/sa/client')
      assert.equal(await visit(port, { sessionIn: session }), null)
      assert.match((await lines.next()).value!, /was refused: it showed none/)
    } finally {
      successor.kill('SIGKILL')
    }
  })

  test('are not given by the listeners of tunnels, and not taken', async () => {
    const tunnels = await startWorker(server, { alpn: ['h2'], isResumable: false })
    const none = join(directory, 'none.pem')
    assert.equal(await visit(tunnels.port, { material: client, sessionOut: none }), false)
    assert.ok(!existsSync(none))
    await tunnels.next()
    assert.equal(await visit(tunnels.port, { sessionIn: session }), null)
    assert.match(await tunnels.next(), /was refused: it showed none/)
  })

  if (advanceTicketClock !== undefined) {
    test('outlive one change of their keys, which come every hour, and not the second', async () => {
      const HOUR_S = 3_600
      const aged = join(directory, 'aged.pem')
      assert.equal(await visit(first.port, { material: client, sessionOut: aged }), false)
      advanceTicketClock(HOUR_S)
      assert.equal(await visit(second.port, { sessionIn: aged }), true)
      const renewed = join(directory, 'renewed.pem')
      assert.equal(await visit(second.port, { sessionIn: aged, sessionOut: renewed }), true)
      advanceTicketClock(HOUR_S)
      assert.equal(await visit(second.port, { sessionIn: aged }), null)
      assert.equal(await visit(first.port, { sessionIn: renewed }), true, 'a ticket of the newer key')
      advanceTicketClock(2 * HOUR_S)
      assert.equal(await visit(first.port, { sessionIn: renewed }), null, 'nothing was asked for in two hours')
    })
  }
})
