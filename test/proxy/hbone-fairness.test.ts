import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { TUNNELS_MAX, type TunnelClient } from '../../src/proxy/hbone-client.ts'
import { BACKLOG_HIGH, type Conn } from '../../src/transport/conn.ts'
import { ConnRecorder } from '../support/conn-recorder.ts'
import { REQUEST, settle, type TunnelPair, tunnelPair } from '../support/tunnel-pair.ts'

const TEST = { timeout: 20_000 }
const BULK_TUNNELS = 8
const MESSAGES = 20
const CHUNK = new Uint8Array(65_536)
const MESSAGE = new Uint8Array(100).fill(7)

/** What one tunnel sends in its turn, and what leaves in one write to the connection. */
const QUANTUM_BYTES = 16_384
const FLUSH_BYTES = 65_536

/**
 * Most bytes of others that may be served between a message's writing and its arrival: what is with the connection
 * already (its backlog, one write beyond it, and as much again on the wire of the test), and one turn of everybody.
 */
const AHEAD_BYTES_MAX = 2 * (BACKLOG_HIGH + FLUSH_BYTES) + BULK_TUNNELS * QUANTUM_BYTES

/** Writes for as long as it is let, and goes on when it drains. */
class Bulk extends ConnRecorder {
  isStopped = false

  override onOpen(conn: Conn): void {
    super.onOpen(conn)
    this.pump(conn)
  }

  override onDrain(conn: Conn): void {
    this.pump(conn)
  }

  private pump(conn: Conn): void {
    while (!this.isStopped && conn.write(CHUNK, 0, CHUNK.length) <= BACKLOG_HIGH);
  }
}

/** Counts what arrives, by tunnel. */
class Meter extends ConnRecorder {
  count = 0

  override onBytes(conn: Conn, _bytes: Uint8Array, offset: number, end: number): void {
    this.count += end - offset
    super.onBytes(conn, EMPTY, 0, 0)
  }
}

/** Reads nothing. */
class Stopped extends Meter {
  override onOpen(conn: Conn): void {
    super.onOpen(conn)
    conn.pauseReading()
  }
}

const EMPTY = new Uint8Array(0)

async function openBulk(pair: TunnelPair, client: TunnelClient, count: number) {
  const bulks: Bulk[] = []
  for (let i = 0; i < count; i++) {
    const bulk = new Bulk()
    bulk.conn = client.openTunnel(REQUEST, bulk)
    bulks.push(bulk)
    await bulk.seen('open')
  }
  return { bulks, meters: pair.acceptor.accepted.slice(-count) as Meter[] }
}

function total(meters: readonly Meter[]): number {
  return meters.reduce((sum, meter) => sum + meter.count, 0)
}

describe('tunnels of one connection', TEST, () => {
  test('a small message is not held up by bulk for more than a bounded number of bytes', async () => {
    const pair = await tunnelPair(() => new Meter())
    const client = pair.dial()
    const { conn, far } = await pair.open(client)
    const { bulks, meters } = await openBulk(pair, client, BULK_TUNNELS)
    let longest = 0
    for (let i = 1; i <= MESSAGES; i++) {
      // The bulk is in full flow when the message is written.
      const start = total(meters)
      while (total(meters) < start + 4 * AHEAD_BYTES_MAX) await new Promise((resolve) => setImmediate(resolve))
      const before = total(meters)
      conn.write(MESSAGE, 0, MESSAGE.length)
      const meter = far as Meter
      let after = 0
      while (meter.count < i * MESSAGE.length) {
        after = total(meters)
        await new Promise((resolve) => setImmediate(resolve))
      }
      longest = Math.max(longest, after - before)
    }
    for (const bulk of bulks) bulk.isStopped = true
    assert.ok(longest <= AHEAD_BYTES_MAX, `${longest} bytes of others went first, ${AHEAD_BYTES_MAX} may`)
  })

  test('bulk shares the connection evenly', async () => {
    const pair = await tunnelPair(() => new Meter())
    const { bulks, meters } = await openBulk(pair, pair.dial(), BULK_TUNNELS)
    const start = meters.map(({ count }) => count)
    while (total(meters) < 64 << 20) await new Promise((resolve) => setImmediate(resolve))
    const shares = meters.map(({ count }, i) => count - start[i]!)
    for (const bulk of bulks) bulk.isStopped = true
    const spread = Math.max(...shares) - Math.min(...shares)
    assert.ok(spread <= AHEAD_BYTES_MAX, `shares of ${shares.join(', ')}`)
  })

  for (const count of [BULK_TUNNELS, TUNNELS_MAX - 1]) {
    test(`${count} readers that have stopped hold nobody else up`, async () => {
      const pair = await tunnelPair(() => new Meter())
      const client = pair.dial()
      const { conn, far } = await pair.open(client)
      pair.acceptor.create = () => new Stopped()
      const { bulks } = await openBulk(pair, client, count)
      const backlogs = () => bulks.map(({ conn: bulk }) => bulk!.backlog)
      let before: number[] = []
      while (backlogs().some((backlog, i) => backlog === 0 || backlog !== before[i])) {
        before = backlogs()
        await settle()
      }
      conn.write(MESSAGE, 0, MESSAGE.length)
      await settle()
      assert.equal((far as Meter).count, MESSAGE.length)
      assert.equal(client.isStalled, false)
      for (const bulk of bulks) bulk.isStopped = true
    })
  }
})
