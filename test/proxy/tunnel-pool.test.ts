import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { TUNNELS_MAX } from '../../src/proxy/hbone-client.ts'
import { STALLED_MS } from '../../src/proxy/hbone-connection.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { TunnelCounters } from '../../src/proxy/tunnel-destination.ts'
import { TunnelPool } from '../../src/proxy/tunnel-pool.ts'
import { PATH_TUNNEL, type UpstreamTarget } from '../../src/proxy/upstreams.ts'
import type { Conn, ConnectOrigin, TlsContext } from '../../src/transport/conn.ts'
import { ConnRecorder } from '../support/conn-recorder.ts'
import { MiserlyProxy } from '../support/miserly-proxy.ts'
import { workloadOf } from '../support/proxy-objects.ts'
import {
  CLIENT_ADDRESS,
  CLIENT_IDENTITY,
  SERVER_ADDRESS,
  settle,
  type TunnelPair,
  tunnelPair,
} from '../support/tunnel-pair.ts'

const TEST = { timeout: 20_000 }
/** More than a connection's window before anybody has raised it. */
const MUCH = new Uint8Array(100_000)
/** Longer than an unused connection is kept. */
const LONG_MS = 310_000
/** Longer than a tunnel may wait for its answer: 1 s to connect and half a second. */
const ANSWER_MS = 2000
/** Longer than pings may be without answer. */
const PING_MS = 31_000

const SOURCE = { uid: 'Kubernetes//Pod/shop/client', identity: CLIENT_IDENTITY }
const SERVER = workloadOf('server', { serviceAccount: 'server', addresses: [SERVER_ADDRESS] })
const TARGET: UpstreamTarget = {
  workload: SERVER,
  address: SERVER_ADDRESS,
  port: 8080,
  host: 'reviews.shop.svc.cluster.local',
  forwardedFor: '198.18.1.2:40000',
  path: PATH_TUNNEL,
  connectTimeoutMs: 1000,
}

describe('a tunnel pool', TEST, () => {
  let pair: TunnelPair
  let pool: TunnelPool
  let credential: TlsContext | null
  let origin: () => ConnectOrigin
  let counters: TunnelCounters

  beforeEach(async () => {
    pair = await tunnelPair(() => new ConnRecorder())
    credential = pair.options().tls
    origin = () => ({ fd: null, localAddress: CLIENT_ADDRESS })
    const parts = {
      ...pair.parts,
      snapshot: Snapshot.empty,
      random: () => 0.5,
      credentials: { contextOf: () => credential },
      sockets: { originIn: () => origin(), appAddress: (_uid: string, address: string) => address },
    } as unknown as ProxyParts
    counters = new TunnelCounters()
    pool = new TunnelPool(parts, SOURCE, counters)
  })

  afterEach(() => pair.timers.stop())

  async function open(): Promise<ConnRecorder> {
    const near = new ConnRecorder()
    near.conn = pool.open(TARGET, near)
    await near.until(() => near.events.length > 0)
    return near
  }

  /** Open tunnels by connection. */
  function activeCounts(): number[] {
    return [...pair.servers].map((server) => server.activeCount)
  }

  async function openMany(count: number): Promise<ConnRecorder[]> {
    return Promise.all(Array.from({ length: count }, open))
  }

  async function failure(): Promise<string> {
    const near = await open()
    assert.deepEqual(near.events, ['close'])
    return `${near.error?.code}: ${near.error?.message}`
  }

  test('carries many tunnels on one connection, and says for whom they are', async () => {
    for (let i = 0; i < 10; i++) await open()
    assert.equal(pair.serverConns.length, 1)
    const pending = pair.acceptor.pending[0]!
    assert.deepEqual([pending.host, pending.port], [SERVER_ADDRESS, 8080])
    assert.equal(pending.forwarded, 'for="198.18.1.2:40000";host=reviews.shop.svc.cluster.local')
    assert.equal(pending.peerIdentity, CLIENT_IDENTITY)
  })

  test('adds a connection when the first is full, and goes back to the fuller one when there is room', async () => {
    const tunnels: ConnRecorder[] = []
    for (let i = 0; i <= TUNNELS_MAX; i++) tunnels.push(await open())
    assert.equal(pair.serverConns.length, 2)
    tunnels[0]!.conn!.abort()
    await settle()
    await open()
    const [first, second] = [...pair.servers].map((server) => server.activeCount)
    assert.deepEqual([first, second], [TUNNELS_MAX, 1])
  })

  test('uses a new connection after a rotation, and lets the old one end with its last tunnel', async () => {
    const old = await open()
    pool.rotate()
    await settle()
    await open()
    assert.equal(pair.serverConns.length, 2)
    assert.deepEqual(activeCounts(), [1, 1])
    assert.equal(pair.serverConns[0]!.isClosed, false)
    old.conn!.abort()
    await settle()
    assert.deepEqual(
      pair.serverConns.map(({ isClosed }) => isClosed),
      [true, false],
    )
  })

  test('releases a connection that nothing has used for minutes, and not one that is in use', async () => {
    const near = await open()
    await pair.pass(LONG_MS)
    assert.equal(pair.serverConns[0]!.isClosed, false)
    near.conn!.abort()
    await settle()
    await pair.pass(LONG_MS)
    assert.equal(pair.serverConns[0]!.isClosed, true)
    assert.equal(pool.isEmpty, false)
    pool.sweep()
    assert.equal(pool.isEmpty, true)
  })

  test('reports a missing certificate like any failed connection', async () => {
    credential = null
    assert.match(
      await failure(),
      /^WEFT_CERTIFICATE: no certificate for .*sa\/client yet, so no tunnel to shop\/server at /,
    )
  })

  test('reports a pod that cannot be dialled from', async () => {
    origin = () => {
      throw new WeftError('WEFT_SYSCALL', 'the pod is gone')
    }
    assert.equal(await failure(), 'WEFT_SYSCALL: the pod is gone')
  })

  test('keeps connections to one address apart by who must be there', async () => {
    await open()
    const near = new ConnRecorder()
    pool.open({ ...TARGET, workload: { ...SERVER, serviceAccount: 'other' } }, near)
    await near.seen('close')
    assert.equal(near.error?.code, 'WEFT_PEER_IDENTITY')
  })

  // --- ahead of need ---

  test('dials another connection before the last room is taken, and one is enough', async () => {
    await openMany(TUNNELS_MAX * 0.8 - 1)
    assert.equal(pair.serverConns.length, 1)
    await openMany(10)
    await settle()
    assert.equal(pair.serverConns.length, 2)
    assert.deepEqual(activeCounts(), [89, 0], 'it is only used when the first is full')
    assert.deepEqual({ ...counters }, { dialled: 2, prefetched: 1, failed: 0, lost: 0 })
  })

  test('has room for who comes when a connection is full without a handshake', async () => {
    await openMany(TUNNELS_MAX)
    await settle()
    let hasShaken = false
    const { onAccept } = pair
    pair.onAccept = (conn) => {
      hasShaken = true
      return onAccept.call(pair, conn)
    }
    await openMany(50)
    assert.equal(hasShaken, false)
    assert.deepEqual(activeCounts(), [100, 50])
  })

  test('releases a connection that was dialled ahead and never needed', async () => {
    const tunnels = await openMany(85)
    await settle()
    for (const tunnel of tunnels.slice(10)) tunnel.conn!.abort()
    await pair.pass(2 * LONG_MS)
    assert.deepEqual(
      pair.serverConns.map(({ isClosed }) => isClosed),
      [false, true],
    )
  })

  test('goes on using the old connection until the one with the new credential is up', async () => {
    await open()
    pool.rotate()
    const during = new ConnRecorder()
    pool.open(TARGET, during)
    await settle()
    assert.deepEqual(during.events, ['open'])
    assert.deepEqual(activeCounts(), [2, 0])
    await open()
    assert.deepEqual(activeCounts(), [2, 1], 'and then no more')
    assert.equal(counters.prefetched, 1)
  })

  test('drains the old connection at a rotation also when the new one cannot be made', async () => {
    await open()
    credential = null
    pool.rotate()
    assert.match(await failure(), /^WEFT_CERTIFICATE/)
  })

  test('gives an unused connection no successor at a rotation', async () => {
    const near = await open()
    near.conn!.abort()
    await settle()
    pool.rotate()
    await settle()
    assert.deepEqual(
      pair.serverConns.map(({ isClosed }) => isClosed),
      [true],
    )
  })

  test('tells who keeps a tunnel for later that its connection drains', async () => {
    const retired: string[] = []
    class Keeper extends ConnRecorder {
      onRetiring(conn: Conn): void {
        retired.push(`${conn.remoteAddress}:${conn.remotePort}`)
      }
    }
    const keeper = new Keeper()
    pool.open(TARGET, keeper)
    await keeper.seen('open')
    pair.acceptor.create = null
    const late = new Keeper()
    pool.open({ ...TARGET, port: 8081 }, late)
    const pending = await pair.acceptor.tunnel(1)
    pair.server.drain()
    await settle()
    assert.deepEqual(retired, [`${SERVER_ADDRESS}:8080`])
    assert.deepEqual(keeper.events, ['open'], 'and it goes on')
    pair.acceptor.accept(pending, new ConnRecorder())
    await late.seen('open')
    assert.deepEqual(retired, [`${SERVER_ADDRESS}:8080`, `${SERVER_ADDRESS}:8081`])
  })

  // --- health ---

  test('gives a tunnel up that is not answered, and asks elsewhere when nothing else comes from there either', async () => {
    const first = await open()
    pair.serverConns[0]!.pauseReading()
    const near = new ConnRecorder()
    pool.open(TARGET, near)
    await pair.pass(ANSWER_MS)
    assert.deepEqual(near.events, ['close'])
    assert.equal(near.error?.code, 'WEFT_TIMEOUT')
    assert.match(near.error!.message, /has not answered for the tunnel to 198\.18\.2\.2:8080 in time$/)
    assert.deepEqual((await open()).events, ['open'])
    assert.equal(pair.serverConns.length, 2)
    await pair.pass(PING_MS)
    assert.deepEqual(first.events, ['open', 'close'])
    assert.equal(first.error?.code, 'WEFT_RESET')
    assert.equal(counters.lost, 1)
  })

  test('takes another connection when a peer lets nothing through, and goes back when it does', async () => {
    const proxy = new MiserlyProxy()
    pair.serverHandler = proxy
    const first = await open()
    first.conn!.write(MUCH, 0, MUCH.length)
    pair.serverHandler = null
    await pair.pass(STALLED_MS - 200)
    await open()
    assert.equal(pair.serverConns.length, 1, 'it may only be busy')
    proxy.give(1000)
    await pair.pass(STALLED_MS - 200)
    await open()
    assert.equal(pair.serverConns.length, 1, 'something went through')
    await pair.pass(400)
    await openMany(3)
    assert.equal(pair.serverConns.length, 2)
    assert.deepEqual(activeCounts(), [3])
    proxy.give(MUCH.length)
    await settle()
    await openMany(3)
    assert.deepEqual(activeCounts(), [3], 'the fuller one is of use again')
  })

  test('goes back to a connection that is heard again', async () => {
    await open()
    const [conn] = pair.serverConns
    conn!.pauseReading()
    const { create } = pair.acceptor
    pair.acceptor.create = null
    const near = new ConnRecorder()
    pool.open(TARGET, near)
    await pair.pass(ANSWER_MS)
    conn!.resumeReading()
    await settle()
    pair.acceptor.create = create
    await settle()
    await open()
    assert.equal(pair.serverConns.length, 1)
  })

  test('does not blame the connection for an application that is not answered for', async () => {
    pair.acceptor.create = null
    const next = new ConnRecorder()
    class Retrying extends ConnRecorder {
      override onClose(conn: Conn, error: WeftError | null): void {
        super.onClose(conn, error)
        pool.open(TARGET, next)
      }
    }
    const near = new Retrying()
    pool.open(TARGET, near)
    await settle()
    const other = new ConnRecorder()
    await pair.pass(1000)
    pool.open(TARGET, other)
    const pending = await pair.acceptor.tunnel(1)
    pending.refuse(503, 'no app')
    await pair.pass(ANSWER_MS - 1000)
    assert.equal(near.error?.code, 'WEFT_TIMEOUT')
    await pair.acceptor.tunnel(2)
    assert.equal(pair.serverConns.length, 1)
  })

  test('leaves a destination alone for a moment that proves to be another', async () => {
    const target = { ...TARGET, workload: { ...SERVER, serviceAccount: 'other' } }
    const attempt = async (): Promise<string> => {
      const near = new ConnRecorder()
      pool.open(target, near)
      await near.seen('close')
      return near.error!.message
    }
    await attempt()
    await pair.pass(100)
    await attempt()
    assert.match(await attempt(), /^not tried again for \d+ ms after: /)
    assert.deepEqual([counters.dialled, counters.failed], [2, 2])
    await pair.pass(100)
    assert.doesNotMatch(await attempt(), /^not tried again/)
    assert.equal(counters.dialled, 3)
  })
})
