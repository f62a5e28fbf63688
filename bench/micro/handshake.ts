/**
 * Full mutual TLS handshakes through both transports, client and server in this one process: CPU time of both ends
 * together, TCP's connect and close included; rounds are interleaved; medians.
 *
 *   node bench/micro/handshake.ts [handshakes per round]
 */
import type { WeftError } from '../../src/base/errors.ts'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import { type Conn, type Handler, ORIGIN_ANY, type Transport } from '../../src/transport/conn.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'
import { asReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { TestAuthority } from '../../test/support/certificates.ts'

const ROUNDS = 7
const count = Number(process.argv[2] ?? 300)
const SERVER = 'spiffe://cluster.local/ns/bench/sa/server'
const authority = new TestAuthority()

/** Closes as soon as it is open; `closed` is told. */
class Brief implements Handler {
  private readonly closed: () => void

  constructor(closed: () => void) {
    this.closed = closed
  }

  onOpen(conn: Conn): void {
    conn.close()
  }
  onBytes(): void {}
  onEnd(conn: Conn): void {
    conn.close()
  }
  onDrain(): void {}
  onClose(_conn: Conn, error: WeftError | null): void {
    if (error !== null) throw error
    this.closed()
  }
}

async function prepare(transport: Transport): Promise<() => Promise<void>> {
  const server = transport.tlsContext(authority.leaf('bench', 'server'))
  const tls = transport.tlsContext(authority.leaf('bench', 'client'))
  const target = { address: '127.0.0.1', port: 0, isShared: false }
  const acceptor = {
    onAccept: () => new Brief(() => {}),
    onAcceptError: (error: WeftError) => {
      throw error
    },
  }
  const { port } = await transport.listen(target, { current: () => server }, acceptor)
  const options = {
    address: '127.0.0.1',
    port,
    origin: ORIGIN_ANY,
    timeoutMs: 5_000,
    tls,
    expectedIdentities: [SERVER],
  }
  return () => new Promise((resolve) => transport.connect(options, new Brief(resolve)))
}

const systems = [
  { name: 'node', once: await prepare(new NodeTransport()), costs: [] as number[] },
  { name: 'reactor', once: await prepare(new ReactorTransport(asReactorAddon(loadReactor()))), costs: [] as number[] },
]
// Round -1 warms up.
for (let round = -1; round < ROUNDS; round++) {
  for (const { once, costs } of systems) {
    const before = process.cpuUsage()
    for (let index = 0; index < count; index++) await once()
    const { user, system } = process.cpuUsage(before)
    if (round >= 0) costs.push((user + system) / count)
  }
}
for (const { name, costs } of systems) {
  const median = costs.sort((a, b) => a - b)[costs.length >> 1]!
  console.log(`${name.padEnd(8)} ${median.toFixed(0)} us of CPU per handshake, both ends`)
}
process.exit(0)
