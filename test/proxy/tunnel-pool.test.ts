import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { TUNNELS_MAX } from '../../src/proxy/hbone-client.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { TunnelPool } from '../../src/proxy/tunnel-pool.ts'
import { PATH_TUNNEL, type UpstreamTarget } from '../../src/proxy/upstreams.ts'
import type { ConnectOrigin, TlsContext } from '../../src/transport/conn.ts'
import { ConnRecorder } from '../support/conn-recorder.ts'
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
/** Longer than an unused connection is kept. */
const LONG_MS = 310_000

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

  beforeEach(async () => {
    pair = await tunnelPair(() => new ConnRecorder())
    credential = pair.options().tls
    origin = () => ({ fd: null, localAddress: CLIENT_ADDRESS })
    const parts = {
      ...pair.parts,
      snapshot: Snapshot.empty,
      credentials: { contextOf: () => credential },
      sockets: { originIn: () => origin(), appAddress: (_uid: string, address: string) => address },
    } as unknown as ProxyParts
    pool = new TunnelPool(parts, SOURCE)
  })

  afterEach(() => pair.timers.stop())

  async function open(): Promise<ConnRecorder> {
    const near = new ConnRecorder()
    near.conn = pool.open(TARGET, near)
    await near.until(() => near.events.length > 0)
    return near
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
    await open()
    assert.equal(pair.serverConns.length, 2)
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
})
