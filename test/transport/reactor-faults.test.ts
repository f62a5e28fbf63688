/**
 * Memory that is not there: each allocation of the reactor fails once, in turn, while connections are made, prove
 * themselves, carry more than the kernel takes at once, and end. A connection may then be closed with an error; what it
 * delivered is true, nothing else suffers, and the process lives. Only the sanitizers' build can make allocations fail:
 * reactor-sanitizers.test.ts runs this.
 */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { type Conn, ORIGIN_ANY } from '../../src/transport/conn.ts'
import type { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { AcceptRecorder, ConnRecorder, Echo } from '../support/conn-recorder.ts'
import { SERVER, TlsPeers } from '../support/tls-peers.ts'
import { reactorAddon, reactorKind } from '../support/transports.ts'

const failAllocation = (reactorAddon as unknown as { failAllocation?: (behind: number) => number } | null)
  ?.failAllocation

/** More than the kernel takes of a writer whose reader is paused for a moment, and several steps of the queue's growth. */
const BYTES = Buffer.alloc(6_000_000, 'm')

/** The first allocations fail one by one; of those that follow, which are of the queues, one in so many. */
const CLOSELY = 30
const STRIDE = 41
const ALLOCATIONS_MAX = 400

if (failAllocation !== undefined) testFaults(failAllocation, new TlsPeers(reactorKind))

/** Pauses until it is told, so that its writer has to queue. */
class SlowEcho extends Echo {
  override onOpen(conn: Conn): void {
    conn.pauseReading()
    super.onOpen(conn)
    setImmediate(() => conn.resumeReading())
  }
}

function testFaults(failAllocation: (behind: number) => number, peers: TlsPeers): void {
  after(() => peers.close())

  for (const isTls of [false, true]) {
    describe(isTls ? 'TLS without memory' : 'a plain connection without memory', { timeout: 90_000 }, () => {
      test('is closed with an error or not harmed at all, and the next one is served', async () => {
        const transport = peers.kind.create() as ReactorTransport
        const server = isTls ? transport.tlsContext(peers.serverMaterial) : null
        const client = isTls ? transport.tlsContext(peers.clientMaterial) : null
        const acceptor = new AcceptRecorder(() => new SlowEcho())
        const target = { address: '127.0.0.1', port: 0, isShared: false }
        const source = isTls ? { current: () => server } : null
        const listener = await transport.listen(target, source, acceptor)
        peers.atEnd(() => listener.close())

        const converse = async (bytes: Buffer): Promise<ConnRecorder> => {
          const handler = new ConnRecorder()
          let received = 0
          handler.onBytes = (conn, _bytes, offset, end) => {
            received += end - offset
            if (received === bytes.length) conn.end()
          }
          const options = { address: '127.0.0.1', port: listener.port, origin: ORIGIN_ANY, timeoutMs: 5_000 }
          const conn = transport.connect({ ...options, tls: client, expectedIdentities: [SERVER] }, handler)
          conn.write(bytes, 0, bytes.length)
          await handler.seen('close')
          assert.ok(handler.error !== null || received === bytes.length, `ended in order after ${received} bytes`)
          return handler
        }

        let faults = 0
        let harmed = 0
        for (let behind = 0; behind < ALLOCATIONS_MAX; behind += behind < CLOSELY ? 1 : STRIDE) {
          failAllocation(behind)
          const { error } = await converse(BYTES)
          if (failAllocation(-1) >= 0) {
            assert.equal(error, null, 'nothing failed')
            break
          }
          faults++
          if (error !== null) harmed++
          assert.equal((await converse(Buffer.from('well again'))).error, null, `after the fault behind ${behind}`)
        }
        assert.ok(faults >= 3, `${faults} places were tried`)
        assert.ok(harmed > 0, 'some of them matter')
      })
    })
  }
}
