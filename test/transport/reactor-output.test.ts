/**
 * What the reactor sends is what was written, byte for byte: its connections share the memory in which TLS records are
 * made and the arena from which relayed bytes leave, and the kernel takes output in parts. Bulk in random pieces goes
 * through both, over several connections of one loop at a time, to readers that stop at random.
 */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import type { WeftError } from '../../src/base/errors.ts'
import {
  type Acceptor,
  BACKLOG_HIGH,
  type Conn,
  type Handler,
  ORIGIN_ANY,
  type TlsContext,
  type Transport,
} from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { reactorKind } from '../support/transports.ts'

const TEST = { timeout: 60_000, skip: reactorKind.skip }
const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
const SEED = 20_261_122
const CONNECTIONS = 5
/** Of each connection: many times what the kernel and all queues on the way hold. */
const BYTES = 6_000_000

/** What everybody sends, from a place of their own and again from the start; of no size that anything else has. */
const pattern = Buffer.alloc(1_000_003)
const random = new SeededRandom(SEED)
for (let i = 0; i < pattern.length; i++) pattern[i] = random.integer(0, 255)

const closers: (() => void)[] = []
after(() => {
  for (const close of closers) close()
})

/** Sends `BYTES` of the pattern in pieces, then ends. */
class Writer implements Handler {
  private sent = 0
  private readonly shift: number
  private readonly random: SeededRandom

  constructor(shift: number) {
    this.shift = shift
    this.random = new SeededRandom(SEED + shift)
  }

  onOpen(conn: Conn): void {
    this.pump(conn)
  }

  pump(conn: Conn): void {
    while (this.sent < BYTES) {
      const start = (this.shift + this.sent) % pattern.length
      const wanted = this.random.integer(1, this.random.pick([50, 5_000, 60_000, 600_000]))
      const length = Math.min(wanted, BYTES - this.sent, pattern.length - start)
      this.sent += length
      if (conn.write(pattern, start, length) > BACKLOG_HIGH) return
      if (this.random.next() < 0.1) {
        setImmediate(() => this.pump(conn))
        return
      }
    }
    conn.end()
  }

  onBytes(): void {}
  onEnd(): void {}
  onDrain(conn: Conn): void {
    this.pump(conn)
  }
  onClose(_conn: Conn, error: WeftError | null): void {
    if (error !== null) throw error
  }
}

/** Compares what it gets with the pattern, and stops reading now and then. */
class Reader implements Handler {
  received = 0
  readonly closed: Promise<WeftError | null>
  private shift = -1
  private readonly random = new SeededRandom(SEED)
  private resolve!: (error: WeftError | null) => void

  constructor() {
    this.closed = new Promise((resolve) => {
      this.resolve = resolve
    })
  }

  onOpen(): void {}

  onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    // The first piece tells whose bytes these are: places are far from one another.
    if (this.shift < 0) this.shift = placeOf(bytes.subarray(offset, Math.min(end, offset + 16)))
    for (let at = offset; at < end; ) {
      const start = (this.shift + this.received) % pattern.length
      const length = Math.min(end - at, pattern.length - start)
      const expected = pattern.subarray(start, start + length)
      if (expected.compare(bytes, at, at + length) !== 0) {
        assert.fail(`other bytes than were written, in ${length} from ${this.received}`)
      }
      this.received += length
      at += length
    }
    if (this.random.next() > 0.2) return
    conn.pauseReading()
    this.resumeAfter(conn, this.random.integer(1, 20))
  }

  private resumeAfter(conn: Conn, turns: number): void {
    if (turns === 0) conn.resumeReading()
    else setImmediate(() => this.resumeAfter(conn, turns - 1))
  }

  onEnd(conn: Conn): void {
    conn.end()
  }
  onDrain(): void {}
  onClose(_conn: Conn, error: WeftError | null): void {
    this.resolve(error)
  }
}

function placeOf(first: Uint8Array): number {
  for (let index = 0; index < CONNECTIONS; index++) {
    if (pattern.subarray(index * 100_000).compare(first, 0, 1, 0, 1) !== 0) continue
    if (pattern.compare(first, 0, first.length, index * 100_000, index * 100_000 + first.length) === 0) {
      return index * 100_000
    }
  }
  assert.fail('the first bytes are nobody`s')
}

/** Relays one way, in random parts: some as they lie in the lent bytes, some from memory of its own. */
class Cutter implements Handler {
  private readonly downstream: Conn
  private readonly upstream: Conn
  private readonly random = new SeededRandom(SEED)

  constructor(downstream: Conn, upstream: Conn) {
    this.downstream = downstream
    this.upstream = upstream
    downstream.handler = this
    upstream.handler = this
  }

  onOpen(): void {}

  onBytes(_conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    let backlog = 0
    for (let at = offset; at < end; ) {
      const wanted = this.random.integer(1, this.random.pick([50, 5_000, 50_000, 300_000]))
      const length = Math.min(wanted, end - at)
      backlog = this.random.boolean()
        ? this.upstream.write(bytes, at, length)
        : this.upstream.write(bytes.slice(at, at + length), 0, length)
      at += length
    }
    if (backlog > BACKLOG_HIGH) this.downstream.pauseReading()
  }

  onEnd(conn: Conn): void {
    if (conn === this.downstream) this.upstream.end()
    else this.downstream.end()
  }

  onDrain(): void {
    this.downstream.resumeReading()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    assert.equal(error, null)
  }
}

/** Of a connection that is not relayed yet. */
const SILENT: Handler = {
  onOpen: () => {},
  onBytes: () => assert.fail('bytes before anyone reads'),
  onEnd: () => {},
  onDrain: () => {},
  onClose: (_conn, error) => assert.fail(String(error)),
}

/** Relays every connection to one that it dials. */
class Forwarder implements Acceptor {
  private readonly dial: (handler: Handler) => Conn

  constructor(dial: (handler: Handler) => Conn) {
    this.dial = dial
  }

  onAccept(downstream: Conn): Handler {
    downstream.pauseReading()
    this.dial({
      ...SILENT,
      onOpen: (upstream) => {
        new Cutter(downstream, upstream)
        downstream.resumeReading()
      },
    })
    return SILENT
  }

  onAcceptError(error: WeftError): void {
    throw error
  }
}

class Readers implements Acceptor {
  readonly all: Reader[] = []

  onAccept(): Handler {
    const reader = new Reader()
    this.all.push(reader)
    return reader
  }

  onAcceptError(error: WeftError): void {
    throw error
  }
}

class Site {
  private readonly transport: Transport
  private readonly server: TlsContext
  private readonly client: TlsContext

  constructor() {
    const authority = new TestAuthority()
    this.transport = reactorKind.create()
    this.server = this.transport.tlsContext(authority.leaf('shop', 'server'))
    this.client = this.transport.tlsContext(authority.leaf('shop', 'client'))
  }

  async listen(acceptor: Acceptor, isTls: boolean): Promise<number> {
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const source = isTls ? { current: () => this.server } : null
    const listener = await this.transport.listen(target, source, acceptor)
    closers.push(() => listener.close())
    return listener.port
  }

  dial(port: number, isTls: boolean, handler: Handler): Conn {
    const tls = isTls ? this.client : null
    const options = { address: '127.0.0.1', port, origin: ORIGIN_ANY, timeoutMs: 5_000, tls }
    return this.transport.connect({ ...options, expectedIdentities: [SERVER] }, handler)
  }
}

/** Writers and readers with relays between them; each hop is TLS or not. */
async function carry(hops: readonly boolean[]): Promise<void> {
  const site = new Site()
  const readers = new Readers()
  let port = await site.listen(readers, hops.at(-1)!)
  for (let index = hops.length - 2; index >= 0; index--) {
    const [to, isTls] = [port, hops[index + 1]!]
    port = await site.listen(new Forwarder((handler) => site.dial(to, isTls, handler)), hops[index]!)
  }
  const open: Handler[] = []
  for (let index = 0; index < CONNECTIONS; index++) {
    const writer = new Writer(index * 100_000)
    open.push(writer)
    site.dial(port, hops[0]!, writer)
  }
  while (readers.all.length < CONNECTIONS) await new Promise((resolve) => setImmediate(resolve))
  for (const reader of readers.all) assert.equal(await reader.closed, null)
  assert.deepEqual(
    readers.all.map(({ received }) => received),
    open.map(() => BYTES),
  )
}

describe('output in parts', TEST, () => {
  test('records of several connections are theirs alone, in order', () => carry([true]))
  test('plain bytes of several connections too', () => carry([false]))
  test('relayed out of the arena, from TLS to plain and from plain to TLS', () => carry([true, false, true]))
})
