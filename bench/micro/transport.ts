/**
 * Both transports side by side: plain echo, mutual TLS echo, and bulk over TLS, each in this one process, so that a
 * figure is the cost of both ends. CPU time is the process's, user and system; rounds are interleaved; medians.
 *
 *   node bench/micro/transport.ts [seconds per round]
 */
import type { WeftError } from '../../src/base/errors.ts'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import {
  BACKLOG_HIGH,
  type Conn,
  type Handler,
  ORIGIN_ANY,
  type TlsContext,
  type Transport,
} from '../../src/transport/conn.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'
import { asReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { TestAuthority } from '../../test/support/certificates.ts'

const ROUNDS = 5
const roundMs = Number(process.argv[2] ?? 1) * 1_000
const SERVER = 'spiffe://cluster.local/ns/bench/sa/server'
/** Bytes of an echoed message: a small request. */
const MESSAGE_BYTES = 512
const BULK_BYTES = 65_536

const authority = new TestAuthority()
const transports: readonly (readonly [string, Transport])[] = [
  ['node', new NodeTransport()],
  ['reactor', new ReactorTransport(asReactorAddon(loadReactor()))],
]

class Quiet implements Handler {
  onOpen(_conn: Conn): void {}
  onBytes(_conn: Conn, _bytes: Uint8Array, _offset: number, _end: number): void {}
  onEnd(_conn: Conn): void {}
  onDrain(_conn: Conn): void {}
  onClose(_conn: Conn, error: WeftError | null): void {
    if (error !== null) throw error
  }
}

class Echo extends Quiet {
  override onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    conn.write(bytes, offset, end - offset)
  }
}

/** What is counted in a round. */
const counted = { trips: 0, bytes: 0, isRunning: false }

class Pinger extends Quiet {
  private readonly message = new Uint8Array(MESSAGE_BYTES)
  private missing = 0

  ping(conn: Conn): void {
    this.missing = MESSAGE_BYTES
    conn.write(this.message, 0, MESSAGE_BYTES)
  }

  override onBytes(conn: Conn, _bytes: Uint8Array, offset: number, end: number): void {
    this.missing -= end - offset
    if (this.missing > 0) return
    counted.trips++
    if (counted.isRunning) this.ping(conn)
  }
}

class Source extends Quiet {
  private readonly chunk = new Uint8Array(BULK_BYTES)

  fill(conn: Conn): void {
    while (counted.isRunning && conn.write(this.chunk, 0, BULK_BYTES) <= BACKLOG_HIGH) {
      // A kernel that takes everything at once must not keep the loop from the reader in the same process.
      if (conn.backlog === 0) {
        setImmediate(() => this.fill(conn))
        return
      }
    }
  }

  override onDrain(conn: Conn): void {
    this.fill(conn)
  }
}

class Sink extends Quiet {
  override onBytes(_conn: Conn, _bytes: Uint8Array, offset: number, end: number): void {
    counted.bytes += end - offset
  }
}

async function pairs<H extends Quiet>(
  transport: Transport,
  isTls: boolean,
  count: number,
  server: Handler,
  client: () => H,
): Promise<(readonly [Conn, H])[]> {
  const serverContext = isTls ? transport.tlsContext(authority.leaf('bench', 'server')) : null
  const clientContext: TlsContext | null = isTls ? transport.tlsContext(authority.leaf('bench', 'client')) : null
  const acceptor = {
    onAccept: () => server,
    onAcceptError: (error: WeftError) => {
      throw error
    },
  }
  const source = serverContext === null ? null : { current: () => serverContext }
  const listener = await transport.listen({ address: '127.0.0.1', port: 0, isShared: false }, source, acceptor)
  const options = {
    address: '127.0.0.1',
    port: listener.port,
    origin: ORIGIN_ANY,
    timeoutMs: 5_000,
    tls: clientContext,
    expectedIdentities: [SERVER],
  }
  const opened: Promise<readonly [Conn, H]>[] = []
  for (let i = 0; i < count; i++) {
    const handler = client()
    opened.push(
      new Promise((resolve) => {
        handler.onOpen = (conn) => resolve([conn, handler])
        transport.connect(options, handler)
      }),
    )
  }
  return await Promise.all(opened)
}

/** Runs for one round; returns CPU microseconds and what was counted. */
async function round(start: () => void): Promise<{ cpuUs: number; ms: number; trips: number; bytes: number }> {
  counted.trips = 0
  counted.bytes = 0
  counted.isRunning = true
  const before = process.cpuUsage()
  const startedAt = performance.now()
  start()
  await new Promise((resolve) => setTimeout(resolve, roundMs))
  counted.isRunning = false
  const { trips, bytes } = counted
  const cpu = process.cpuUsage(before)
  const ms = performance.now() - startedAt
  // What is under way arrives before the next round begins.
  await new Promise((resolve) => setTimeout(resolve, 100))
  return { cpuUs: cpu.user + cpu.system, ms, trips, bytes }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!
}

interface Case {
  readonly name: string
  readonly unit: string
  /** Prepares one transport; the result starts a round. */
  prepare(transport: Transport): Promise<() => void>
  value(result: { cpuUs: number; trips: number; bytes: number }): number
}

const echo = (isTls: boolean, count: number): Case => ({
  name: `${isTls ? 'TLS' : 'plain'} echo, ${MESSAGE_BYTES} bytes, ${count} connections`,
  unit: 'CPU us per round trip',
  prepare: async (transport) => {
    const conns = await pairs(transport, isTls, count, new Echo(), () => new Pinger())
    return () => {
      for (const [conn, pinger] of conns) pinger.ping(conn)
    }
  },
  value: ({ cpuUs, trips }) => cpuUs / trips,
})

const bulk = (isTls: boolean): Case => ({
  name: `${isTls ? 'TLS' : 'plain'} bulk, one connection`,
  unit: 'CPU ms per GB',
  prepare: async (transport) => {
    const [[conn, source]] = (await pairs(transport, isTls, 1, new Sink(), () => new Source())) as [[Conn, Source]]
    return () => source.fill(conn)
  },
  value: ({ cpuUs, bytes }) => cpuUs / 1_000 / (bytes / 1e9),
})

for (const each of [echo(false, 32), echo(true, 32), echo(true, 1), bulk(false), bulk(true)]) {
  const starts = new Map<string, () => void>()
  for (const [name, transport] of transports) starts.set(name, await each.prepare(transport))
  const values = new Map<string, number[]>(transports.map(([name]) => [name, []]))
  for (let i = 0; i <= ROUNDS; i++) {
    for (const [name, start] of starts) {
      const result = await round(start)
      // The first round only warms up.
      if (i > 0) values.get(name)!.push(each.value(result))
    }
  }
  const [node, reactor] = ['node', 'reactor'].map((name) => median(values.get(name)!)) as [number, number]
  const columns = `node ${node.toFixed(2).padStart(9)}  reactor ${reactor.toFixed(2).padStart(9)}`
  console.log(`${each.name.padEnd(38)} ${columns}  ${each.unit.padEnd(22)} reactor/node ${(reactor / node).toFixed(2)}`)
}
process.exit(0)
