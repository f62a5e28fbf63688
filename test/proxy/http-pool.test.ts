import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import type { ClientStream, HttpClientConnection, ResponseReceiver } from '../../src/http/codec.ts'
import { DEFAULT_POOL_LIMITS, type PoolLimits } from '../../src/model/service.ts'
import { ClusterState } from '../../src/proxy/cluster.ts'
import { HttpPool, type HttpUpstream, type PoolWaiter } from '../../src/proxy/http-pool.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { PATH_PLAIN } from '../../src/proxy/upstreams.ts'
import type { Conn, Handler } from '../../src/transport/conn.ts'
import { FakeSink } from '../support/fake-sink.ts'
import { latin1, requestHead } from '../support/h1-recorders.ts'
import { clusterOf } from '../support/proxy-objects.ts'
import { goAwayFrame, resetFrame, settingsFrame } from '../support/scripted-h2-peer.ts'

const TICK_MS = 1000
const IDLE_TICKS = 55
const LATE_TICKS = 2
const SETTING_STREAMS_MAX = 3

/** A connection whose far end is the test. */
class FakeConn extends FakeSink {
  readonly handler: Handler
  isClosed = false

  constructor(handler: Handler) {
    super()
    this.handler = handler
  }

  get conn(): Conn {
    return this as unknown as Conn
  }

  open(): this {
    this.handler.onOpen(this.conn)
    return this
  }

  receive(...pieces: Uint8Array[]): void {
    const bytes = new Uint8Array(Buffer.concat(pieces))
    this.handler.onBytes(this.conn, bytes, 0, bytes.length)
  }

  override close(): void {
    super.close()
    this.isClosed = true
    this.handler.onClose(this.conn, null)
  }

  fail(message: string): void {
    this.isClosed = true
    this.handler.onClose(this.conn, new WeftError('WEFT_CONNECT', message))
  }
}

const IGNORE: ResponseReceiver = {
  onInformational: () => {},
  onResponseHead: () => {},
  onResponseBody: () => {},
  onResponseEnd: () => {},
  onResponseReset: () => {},
  onRequestDrain: () => {},
}

/** An exchange that opens a stream as soon as it has a connection. */
class Waiter implements PoolWaiter {
  upstream: HttpUpstream | null = null
  stream: ClientStream | null = null
  failure: string | null = null

  onUpstream(upstream: HttpUpstream): void {
    this.upstream = upstream
    upstream.servedCount++
    this.stream = (upstream.codec as HttpClientConnection).open(requestHead(), IGNORE)
  }

  onUpstreamFailed(error: WeftError, isOverflow: boolean): void {
    this.failure = `${error.message}${isOverflow ? ' (overflow)' : ''}`
  }
}

function setUp(speaksHttp2: boolean, limits: Partial<PoolLimits> = {}) {
  const conns: FakeConn[] = []
  const timers = new TimerWheel(TICK_MS)
  const flushables: { isFlushPending: boolean; flush(): void }[] = []
  const transport = {
    atBatchEnd: (flushable: { isFlushPending: boolean; flush(): void }) => flushables.push(flushable),
  }
  const parts = { timers, transport, nowMs: () => 0 } as unknown as ProxyParts
  const allLimits = { ...DEFAULT_POOL_LIMITS, ...limits }
  const state = new ClusterState(clusterOf({ limits: allLimits }), () => 0, Math.random)
  const dial = {
    open: (handler: Handler): Conn => {
      const conn = new FakeConn(handler)
      conns.push(conn)
      return conn.conn
    },
  }
  const pool = new HttpPool(parts, dial, allLimits, state, PATH_PLAIN, speaksHttp2)
  const acquire = (): Waiter => {
    const waiter = new Waiter()
    pool.acquire(waiter)
    return waiter
  }
  const tick = (count: number): void => {
    for (let i = 0; i < count; i++) timers.advance()
  }
  const flush = (): void => {
    for (let one = flushables.shift(); one !== undefined; one = flushables.shift()) {
      one.isFlushPending = false
      one.flush()
    }
  }
  return { conns, pool, state, acquire, tick, flush }
}

test('exchanges over HTTP/2 share the connection that is being made, and then use it', () => {
  const { conns, acquire, state } = setUp(true)
  const waiters = Array.from({ length: 100 }, acquire)
  assert.equal(conns.length, 1)
  conns[0]!.open()
  for (const waiter of waiters) assert.ok(waiter.upstream?.conn === conns[0]!.conn)
  assert.equal(state.pendingActive, 0)
  conns[0]!.receive(settingsFrame())
  assert.ok(acquire().upstream?.conn === conns[0]!.conn)
  assert.equal(conns.length, 1)
})

test('more exchanges than one connection is sure to take get several', () => {
  const { conns, acquire } = setUp(true)
  const waiters = Array.from({ length: 250 }, acquire)
  assert.equal(conns.length, 3)
  for (const conn of conns) conn.open()
  const shares = conns.map((conn) => waiters.filter(({ upstream }) => upstream?.conn === conn.conn).length)
  assert.deepEqual(shares, [100, 100, 50])
})

test('a full connection makes room for another one, and is used again when it has room', () => {
  const { conns, acquire } = setUp(true)
  const first = acquire()
  conns[0]!.open().receive(settingsFrame(SETTING_STREAMS_MAX, 2))
  acquire()
  const third = acquire()
  assert.equal(conns.length, 2)
  first.stream!.reset()
  assert.ok(third.upstream?.conn === conns[0]!.conn, 'whoever waits takes what is free first')
  conns[1]!.open()
  assert.ok(acquire().upstream?.conn === conns[1]!.conn)
})

test('settings that make room serve those who wait when no other connection is allowed', () => {
  const { conns, acquire } = setUp(true, { connectionsMax: 1 })
  const waiters = Array.from({ length: 150 }, acquire)
  assert.equal(conns.length, 1)
  conns[0]!.open()
  assert.equal(waiters.filter(({ upstream }) => upstream !== null).length, 100)
  conns[0]!.receive(settingsFrame())
  assert.equal(waiters.filter(({ upstream }) => upstream !== null).length, 150)
})

test('a connection that cannot be made fails all who waited for it', () => {
  const { conns, acquire, state, pool } = setUp(true)
  const waiters = Array.from({ length: 3 }, acquire)
  conns[0]!.fail('refused')
  assert.deepEqual(
    waiters.map(({ failure }) => failure),
    ['refused', 'refused', 'refused'],
  )
  assert.equal(state.pendingActive, 0)
  assert.equal(state.connectionsActive, 0)
  assert.equal(pool.isEmpty, true)
})

test('after GOAWAY a connection gets nothing new and closes with its last exchange', () => {
  const { conns, acquire, flush } = setUp(true)
  const first = acquire()
  const second = acquire()
  conns[0]!.open().receive(settingsFrame(), goAwayFrame(3, 0))
  acquire()
  assert.equal(conns.length, 2)
  conns[0]!.receive(resetFrame(1, 8))
  assert.deepEqual(conns[0]!.endings, [])
  second.stream!.reset()
  flush()
  assert.deepEqual(conns[0]!.endings, ['close'])
  assert.ok(first.upstream !== null)
})

test('a connection is done with after as many exchanges as the user allows', () => {
  const { conns, acquire } = setUp(true, { requestsPerConnectionMax: 2 })
  const waiters = Array.from({ length: 3 }, acquire)
  conns[0]!.open().receive(settingsFrame())
  assert.equal(conns.length, 2, 'the third needs another one')
  conns[1]!.open()
  assert.ok(waiters[2]!.upstream?.conn === conns[1]!.conn)
  waiters[0]!.stream!.reset()
  assert.deepEqual(conns[0]!.endings, [])
  waiters[1]!.stream!.reset()
  assert.deepEqual(conns[0]!.endings, ['close'])
})

test('the clock of an idle connection runs only while it carries nothing', () => {
  const { conns, acquire, tick, pool } = setUp(true)
  const first = acquire()
  conns[0]!.open().receive(settingsFrame())
  tick(2 * IDLE_TICKS)
  assert.deepEqual(conns[0]!.endings, [])
  first.stream!.reset()
  tick(IDLE_TICKS - 1)
  const second = acquire()
  assert.ok(second.upstream?.conn === conns[0]!.conn)
  tick(2 * IDLE_TICKS)
  second.stream!.reset()
  tick(IDLE_TICKS + LATE_TICKS)
  assert.deepEqual(conns[0]!.endings, ['close'])
  assert.equal(pool.isEmpty, true)
})

test('a pool that is closed lets exchanges finish, then closes their connections', () => {
  const { conns, acquire, pool } = setUp(true)
  const waiter = acquire()
  conns[0]!.open().receive(settingsFrame())
  pool.close()
  assert.deepEqual(conns[0]!.endings, [])
  waiter.stream!.reset()
  assert.deepEqual(conns[0]!.endings, ['close'])
})

test('an adopted connection of HTTP/2 gets what its server has said already', () => {
  const { pool, acquire } = setUp(true)
  const conn = new FakeConn({ onOpen() {}, onBytes() {}, onEnd() {}, onDrain() {}, onClose() {} })
  pool.adopt(conn.conn, settingsFrame(SETTING_STREAMS_MAX, 1))
  assert.ok(acquire().upstream?.conn === conn.conn)
  assert.ok(acquire().upstream === null, 'the limit of the settings holds')
})

test('HTTP/1 makes a connection for each exchange and takes the one that was used last', () => {
  const { conns, acquire } = setUp(false)
  const waiters = [acquire(), acquire()]
  assert.equal(conns.length, 2)
  for (const conn of conns) conn.open()
  const answer = latin1('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
  conns[1]!.receive(answer)
  conns[0]!.receive(answer)
  assert.ok(waiters[0]!.upstream !== waiters[1]!.upstream)
  assert.ok(acquire().upstream?.conn === conns[0]!.conn)
  assert.ok(acquire().upstream?.conn === conns[1]!.conn)
  assert.equal(conns.length, 2)
})

test('HTTP/1: a failed connection fails one exchange; limits on connections and on waiting hold', () => {
  const { conns, acquire } = setUp(false, { connectionsMax: 1, pendingRequestsMax: 2 })
  const first = acquire()
  const second = acquire()
  const third = acquire()
  assert.equal(conns.length, 1)
  assert.equal(third.failure, 'too many requests wait for a connection (overflow)')
  conns[0]!.fail('refused')
  assert.equal(first.failure, 'refused')
  assert.equal(second.failure, null)
})
