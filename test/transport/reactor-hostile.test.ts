/**
 * Hostile peers of the reactor's TLS side, from seeds: garbage, handshakes cut or altered anywhere, records in pieces.
 * Whatever arrives, nothing reaches a handler that a proved peer did not send, every connection ends, and both sides
 * go on serving.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { after, describe, test } from 'node:test'
import { type Conn, ORIGIN_ANY } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { reactorKind } from '../support/transports.ts'

const TEST = { timeout: 60_000, skip: reactorKind.skip }
const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
const ROUNDS = 120
const SEED = 20_260_101
/** What the client says, and what comes back. */
const WORDS = 'nothing but the truth '.repeat(200)

const authority = new TestAuthority()
const closers: (() => void)[] = []
after(() => {
  for (const close of closers) close()
})

async function serve() {
  const transport = reactorKind.create({ handshakeTimeoutMs: 400, lingerMs: 100 })
  const context = transport.tlsContext(authority.leaf('shop', 'server'))
  const acceptor = new AcceptRecorder(() => new Echo())
  const target = { address: '127.0.0.1', port: 0, isShared: false }
  const listener = await transport.listen(target, { current: () => context }, acceptor)
  closers.push(() => listener.close())
  const tlsContext = transport.tlsContext(authority.leaf('shop', 'client'))
  const dial = (port: number, handler: ConnRecorder): Conn =>
    transport.connect(
      {
        address: '127.0.0.1',
        port,
        origin: ORIGIN_ANY,
        timeoutMs: 400,
        tls: tlsContext,
        expectedIdentities: [SERVER],
      },
      handler,
    )
  return { acceptor, port: listener.port, dial }
}

/** What stands between: gets each chunk of one direction with the number of bytes before it, gives what goes on. */
type Tamper = (chunk: Buffer, before: number) => readonly Buffer[] | 'cut' | 'end'

class Middle {
  readonly server: net.Server
  tamperToServer: Tamper = (chunk) => [chunk]
  tamperToClient: Tamper = (chunk) => [chunk]

  constructor(port: number) {
    this.server = net.createServer({ allowHalfOpen: true }, (client) => {
      const upstream = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
      forward(client, upstream, this.tamperToServer)
      forward(upstream, client, this.tamperToClient)
    })
    closers.push(() => this.server.close())
  }

  async listen(): Promise<number> {
    this.server.listen(0, '127.0.0.1')
    await once(this.server, 'listening')
    return (this.server.address() as net.AddressInfo).port
  }
}

function forward(from: net.Socket, to: net.Socket, tamper: Tamper): void {
  let before = 0
  from.setNoDelay(true)
  from.on('error', () => to.destroy())
  from.on('close', () => to.destroy())
  from.on('end', () => to.end())
  from.on('data', (chunk) => {
    const parts = tamper(chunk, before)
    before += chunk.length
    if (parts === 'cut') {
      from.resetAndDestroy()
      to.resetAndDestroy()
    } else if (parts === 'end') {
      to.end()
    } else {
      for (const part of parts) to.write(part)
    }
  })
}

/** True when both sides end, whatever became of the words. */
async function converse(dial: (handler: ConnRecorder) => Conn): Promise<ConnRecorder> {
  const client = new ConnRecorder()
  const conn = dial(client)
  writeText(conn, WORDS)
  conn.end()
  // A peer that is kept waiting for bytes that somebody took away waits for ever: that is for idle timeouts.
  conn.setIdleTimeout(300)
  await client.seen('close')
  return client
}

function assertTruth(received: string): void {
  assert.ok(WORDS.startsWith(received), `a handler got ${JSON.stringify(received.slice(0, 80))}`)
}

describe('hostile peers', TEST, () => {
  test('who send garbage get no answer but an alert, and each is reported once', async () => {
    const random = new SeededRandom(SEED)
    const { acceptor, port, dial } = await serve()
    for (let round = 0; round < ROUNDS; round++) {
      const bytes = Buffer.from(Array.from({ length: random.integer(1, 600) }, () => random.integer(0, 255)))
      // Half of them look like TLS records of every kind at first.
      if (random.boolean() && bytes.length > 5) {
        bytes[0] = random.integer(20, 24)
        bytes[1] = 3
        bytes[2] = random.integer(0, 4)
        bytes.writeUInt16BE(random.boolean() ? Math.max(0, bytes.length - 5) : random.integer(0, 65_535), 3)
      }
      const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
      socket.on('error', () => {})
      socket.end(bytes)
      await acceptor.failure(round)
      socket.destroy()
    }
    assert.deepEqual(acceptor.handlers, [])
    assert.equal(acceptor.errors.length, ROUNDS)
    const client = await converse((handler) => dial(port, handler))
    assert.equal(client.text, WORDS)
  })

  test('between both sides cannot alter, cut, drop, repeat or insert a byte unnoticed', async () => {
    const random = new SeededRandom(SEED + 1)
    const { acceptor, port, dial } = await serve()
    let whole = 0
    for (let round = 0; round < ROUNDS; round++) {
      const middle = new Middle(port)
      const viaPort = await middle.listen()
      // The handshake is about 1.5 KB each way, the words are 4.4 KB.
      const at = random.integer(0, 7_000)
      const tamper = tamperAt(random, at)
      if (random.boolean()) middle.tamperToServer = tamper
      else middle.tamperToClient = tamper
      const client = await converse((handler) => dial(viaPort, handler))
      assertTruth(client.text)
      if (client.error === null) {
        assert.equal(client.text, WORDS, 'an end in order is the end of everything')
        whole++
      }
      middle.server.close()
    }
    for (const handler of acceptor.handlers) {
      assertTruth(handler.text)
      // An end that was seen is a true one.
      if (handler.events.includes('end')) assert.equal(handler.text, WORDS)
    }
    assert.ok(whole < ROUNDS / 2, `${whole} of ${ROUNDS} were not harmed`)
    const client = await converse((handler) => dial(port, handler))
    assert.equal(client.text, WORDS)
  })

  test('or slow networks may deliver records in pieces of any size', async () => {
    const random = new SeededRandom(SEED + 2)
    const { port, dial } = await serve()
    for (const size of [1, 2, 3, 5, 7, 64, 1_000]) {
      const middle = new Middle(port)
      const viaPort = await middle.listen()
      const pieces: Tamper = (chunk) => {
        const parts: Buffer[] = []
        for (let start = 0; start < chunk.length; ) {
          const end = start + Math.max(1, random.integer(1, size))
          parts.push(chunk.subarray(start, end))
          start = end
        }
        return parts
      }
      middle.tamperToServer = pieces
      middle.tamperToClient = pieces
      const client = await converse((handler) => dial(viaPort, handler))
      assert.equal(client.error, null)
      assert.equal(client.text, WORDS)
      middle.server.close()
    }
  })
})

/** Does one thing to the byte `at`, or at it. */
function tamperAt(random: SeededRandom, at: number): Tamper {
  const act = random.pick(['flip', 'cut', 'end', 'drop', 'repeat', 'insert'])
  const garbage = Buffer.from(Array.from({ length: random.integer(1, 40) }, () => random.integer(0, 255)))
  const bit = 1 << random.integer(0, 7)
  return (chunk, before) => {
    const index = at - before
    if (index < 0 || index >= chunk.length) return [chunk]
    const head = chunk.subarray(0, index)
    const tail = chunk.subarray(index)
    switch (act) {
      case 'flip': {
        const altered = Buffer.from(chunk)
        altered[index]! ^= bit
        return [altered]
      }
      case 'cut':
        return 'cut'
      case 'end':
        return 'end'
      case 'drop':
        return [head, tail.subarray(1)]
      case 'repeat':
        return [head, tail.subarray(0, 1), tail]
      default:
        return [head, garbage, tail]
    }
  }
}
