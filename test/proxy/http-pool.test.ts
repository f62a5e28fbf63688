import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import type { ClientStream, HttpClientConnection, ResponseReceiver } from '../../src/http/codec.ts'
import { FLAG_ACK, FRAME_SETTINGS } from '../../src/http/h2/frame.ts'
import { DEFAULT_POOL_LIMITS, type PoolLimits } from '../../src/model/service.ts'
import { ClusterState, Endpoint } from '../../src/proxy/cluster.ts'
import { TunnelError } from '../../src/proxy/hbone.ts'
import { HttpPool, type PoolWaiter, WAIT_BEYOND_CONNECT_MS, WAITING_MAX } from '../../src/proxy/http-pool.ts'
import type { HttpUpstream } from '../../src/proxy/http-upstream.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { PATH_PLAIN } from '../../src/proxy/upstreams.ts'
import type { Conn, Handler } from '../../src/transport/conn.ts'
import { FakeSink } from '../support/fake-sink.ts'
import { latin1, requestHead } from '../support/h1-recorders.ts'
import { clusterOf, workloadOf } from '../support/proxy-objects.ts'
import { frame, goAwayFrame, resetFrame, settingsFrame } from '../support/scripted-h2-peer.ts'

const TICK_MS = 1000
const FINE_TICK_MS = 10
const IDLE_TICKS = 55
const LATE_TICKS = 2
const SETTING_STREAMS_MAX = 3
const ANSWER = latin1('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')

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
    if (this.isClosed) return
    super.close()
    this.isClosed = true
    this.handler.onClose(this.conn, null)
  }

  fail(failure: string | WeftError): void {
    this.isClosed = true
    const error = typeof failure === 'string' ? new WeftError('WEFT_CONNECT', failure) : failure
    this.handler.onClose(this.conn, error)
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
  const deadlines = new TimerWheel(FINE_TICK_MS)
  let nowMs = 1000
  /** By how much the clock moves on whenever somebody looks at it. */
  let driftMs = 0
  const flushables: { isFlushPending: boolean; flush(): void }[] = []
  const transport = {
    atBatchEnd: (flushable: { isFlushPending: boolean; flush(): void }) => flushables.push(flushable),
  }
  const parts = {
    timers,
    deadlines,
    transport,
    nowMs: () => (nowMs += driftMs),
    random: () => 0.999,
  } as unknown as ProxyParts
  const allLimits = { ...DEFAULT_POOL_LIMITS, ...limits }
  const state = new ClusterState(clusterOf({ limits: allLimits }), () => 0, Math.random)
  const endpoint = new Endpoint('a', workloadOf('a'), '198.18.1.1', 9080)
  const dial = {
    open: (handler: Handler): Conn => {
      const conn = new FakeConn(handler)
      conns.push(conn)
      return conn.conn
    },
  }
  const pool = new HttpPool(parts, dial, allLimits, state, endpoint, PATH_PLAIN, speaksHttp2)
  const acquire = (): Waiter => {
    const waiter = new Waiter()
    pool.acquire(waiter)
    return waiter
  }
  const tick = (count: number): void => {
    for (let i = 0; i < count; i++) {
      nowMs += TICK_MS
      timers.advance()
    }
  }
  /** Less than a tick of the coarse wheel. */
  const pass = (ms: number): void => {
    for (let passed = 0; passed < ms; passed += FINE_TICK_MS) {
      nowMs += FINE_TICK_MS
      deadlines.advance()
    }
  }
  const drift = (ms: number): void => {
    driftMs = ms
  }
  /** One failure, which costs nothing yet. */
  const failFirst = (): void => {
    acquire()
    conns.at(-1)!.fail('refused')
    pass(FINE_TICK_MS)
  }
  const flush = (): void => {
    for (let one = flushables.shift(); one !== undefined; one = flushables.shift()) {
      one.isFlushPending = false
      one.flush()
    }
  }
  return { conns, pool, state, endpoint, acquire, tick, pass, flush, failFirst, drift }
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
  conns[0]!.open().receive(settingsFrame(), frame(FRAME_SETTINGS, FLAG_ACK, 0))
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

test('when its endpoint is gone a connection ends with the exchange that is under way', () => {
  const { conns, acquire, pool, endpoint } = setUp(true)
  const waiters = [acquire(), acquire()]
  conns[0]!.open().receive(settingsFrame())
  endpoint.isRemoved = true
  waiters[0]!.stream!.reset()
  assert.deepEqual(conns[0]!.endings, [])
  waiters[1]!.stream!.reset()
  assert.deepEqual(conns[0]!.endings, ['close'])
  assert.equal(pool.isEmpty, true)
})

test('a connection whose way drains is not kept: idle it closes now, busy after the exchange', () => {
  const { conns, acquire } = setUp(false)
  const waiters = [acquire(), acquire()]
  for (const conn of conns) conn.open()
  conns[0]!.receive(ANSWER)
  for (const conn of conns) conn.handler.onRetiring!(conn.conn)
  assert.deepEqual(
    conns.map(({ endings }) => endings),
    [['close'], []],
  )
  conns[1]!.receive(ANSWER)
  assert.deepEqual(conns[1]!.endings, ['close'])
  assert.ok(waiters.every(({ failure }) => failure === null))
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
  conns[1]!.receive(ANSWER)
  conns[0]!.receive(ANSWER)
  assert.ok(waiters[0]!.upstream !== waiters[1]!.upstream)
  assert.ok(acquire().upstream?.conn === conns[0]!.conn)
  assert.ok(acquire().upstream?.conn === conns[1]!.conn)
  assert.equal(conns.length, 2)
})

test('HTTP/1: a failed connection fails one exchange, the next has another made; limits on connections and waiting hold', () => {
  const { conns, acquire } = setUp(false, { connectionsMax: 1, pendingRequestsMax: 2 })
  const first = acquire()
  const second = acquire()
  const third = acquire()
  assert.equal(conns.length, 1)
  assert.equal(third.failure, 'too many requests wait for a connection (overflow)')
  conns[0]!.fail('refused')
  assert.equal(first.failure, 'refused')
  assert.equal(second.failure, null)
  assert.equal(conns.length, 2)
  conns[1]!.open()
  assert.ok(second.upstream?.conn === conns[1]!.conn)
})

// --- waiting ---

const WAIT_TICKS = (DEFAULT_POOL_LIMITS.connectTimeoutMs + WAIT_BEYOND_CONNECT_MS) / TICK_MS

test('an exchange waits for a busy connection only so long, and is told why it was in vain', () => {
  const { conns, acquire, tick, state } = setUp(false, { connectionsMax: 1 })
  acquire()
  conns[0]!.open()
  const early = acquire()
  tick(4)
  const late = acquire()
  tick(WAIT_TICKS - 4 - 1)
  assert.equal(early.failure, null)
  tick(LATE_TICKS)
  assert.equal(early.failure, 'no connection within 11000 ms: all connections stayed busy (overflow)')
  assert.equal(late.failure, null, 'who came later may wait as long')
  tick(3 + LATE_TICKS)
  assert.match(late.failure!, /^no connection within/)
  assert.equal(state.pendingActive, 0)
  assert.equal(state.pendingTimedOut, 2)
})

test('an exchange whose connection is never made nor refused is told that it is the endpoint', () => {
  const { acquire, tick } = setUp(true)
  const waiter = acquire()
  tick(WAIT_TICKS + LATE_TICKS)
  assert.equal(waiter.failure, 'no connection within 11000 ms: the endpoint did not take the connection')
})

test('who was served or has left is not told anything later', () => {
  const { conns, pool, acquire, tick } = setUp(false, { connectionsMax: 1 })
  acquire()
  conns[0]!.open()
  const served = acquire()
  const left = acquire()
  pool.cancel(left)
  conns[0]!.receive(ANSWER)
  assert.ok(served.upstream !== null)
  tick(3 * WAIT_TICKS)
  assert.deepEqual([served.failure, left.failure], [null, null])
})

test('the queue is served in order, whoever leaves it from wherever', () => {
  const { conns, pool, acquire, state } = setUp(false, { connectionsMax: 1 })
  acquire()
  conns[0]!.open()
  const waiters = Array.from({ length: 6 }, acquire)
  for (const index of [0, 3, 5]) pool.cancel(waiters[index]!)
  pool.cancel(waiters[3]!)
  assert.equal(state.pendingActive, 3)
  const served: number[] = []
  for (let turn = 0; turn < 4; turn++) {
    conns[0]!.receive(ANSWER)
    for (const [index, waiter] of waiters.entries()) {
      if (waiter.upstream !== null && !served.includes(index)) served.push(index)
    }
  }
  assert.deepEqual(served, [1, 2, 4])
  assert.equal(state.pendingActive, 0)
})

test('more than a thousand do not wait for one endpoint', () => {
  const { conns, acquire } = setUp(false, { connectionsMax: 1 })
  acquire()
  conns[0]!.open()
  const waiters = Array.from({ length: WAITING_MAX + 1 }, acquire)
  assert.deepEqual(
    waiters.map(({ failure }) => failure).filter((failure) => failure !== null),
    ['too many requests wait for a connection (overflow)'],
  )
})

test('HTTP/1: a repeat does not take a connection that has been idle, nor wait behind it when no more are allowed', () => {
  const { conns, pool, acquire } = setUp(false, { connectionsMax: 1 })
  acquire()
  conns[0]!.open().receive(ANSWER)
  const repeat = new Waiter()
  pool.acquireFresh(repeat)
  assert.deepEqual(conns[0]!.endings, ['close'])
  assert.equal(conns.length, 2)
  conns[1]!.open()
  assert.ok(repeat.upstream?.conn === conns[1]!.conn)
})

// --- age ---

test('a connection that has grown too old takes nothing new and closes with its last exchange', () => {
  const { conns, acquire, tick } = setUp(true, { connectionAgeMsMax: 20_000 })
  const first = acquire()
  conns[0]!.open().receive(settingsFrame())
  tick(17)
  acquire().stream!.reset()
  assert.equal(conns.length, 1)
  tick(1 + LATE_TICKS)
  assert.deepEqual(conns[0]!.endings, [], 'an exchange is under way')
  const second = acquire()
  assert.equal(conns.length, 2)
  conns[1]!.open()
  assert.ok(second.upstream?.conn === conns[1]!.conn)
  first.stream!.reset()
  assert.deepEqual(conns[0]!.endings, ['close'])
})

test('HTTP/1: a connection that has grown too old while idle closes at once, one that is busy after its answer', () => {
  const { conns, acquire, tick } = setUp(false, { connectionAgeMsMax: 20_000 })
  acquire()
  acquire()
  for (const conn of conns) conn.open()
  conns[0]!.receive(ANSWER)
  tick(18 + LATE_TICKS)
  assert.deepEqual(
    conns.map(({ endings }) => endings),
    [['close'], []],
  )
  conns[1]!.receive(ANSWER)
  assert.deepEqual(conns[1]!.endings, ['close'])
})

// --- back-off ---

test('an endpoint that refuses twice is left alone for a moment, and who asks meanwhile hears why', () => {
  const { conns, acquire, pass, failFirst } = setUp(false)
  failFirst()
  acquire()
  conns[1]!.fail('refused')
  assert.match(acquire().failure!, /^not tried again for \d+ ms after: refused$/)
  assert.equal(conns.length, 2)
  pass(30)
  const next = acquire()
  assert.equal(conns.length, 3)
  conns[2]!.open()
  assert.ok(next.upstream !== null)
})

test('a pause that ends while an exchange asks is not taken for a limit', () => {
  const { conns, acquire, failFirst, drift } = setUp(false)
  failFirst()
  acquire()
  conns[1]!.fail('refused')
  drift(10)
  for (let i = 0; i < 20; i++) assert.doesNotMatch(acquire().failure ?? '', /overflow/)
})

test('the pause doubles with each failure up to half a second, and is forgotten with the first success', () => {
  const { conns, acquire, pass, failFirst } = setUp(false)
  /** Fails the connection that is being made, and asks until another is made. */
  const pauseAfterFailure = (): number => {
    const count = conns.length
    conns.at(-1)!.fail('refused')
    let pausedMs = 0
    while (acquire().failure !== null) {
      pass(FINE_TICK_MS)
      pausedMs += FINE_TICK_MS
    }
    assert.equal(conns.length, count + 1)
    return pausedMs
  }
  failFirst()
  acquire()
  assert.deepEqual(Array.from({ length: 7 }, pauseAfterFailure), [30, 50, 100, 200, 400, 500, 500])
  conns.at(-1)!.open().close()
  failFirst()
  acquire()
  assert.equal(pauseAfterFailure(), 30)
})

test('connects that were under way together are one failure', () => {
  const { conns, acquire, pass, failFirst } = setUp(false)
  failFirst()
  for (let i = 0; i < 20; i++) acquire()
  for (const conn of conns.slice(1)) conn.fail('refused')
  pass(30)
  acquire()
  assert.equal(conns.length, 22)
})

test('what is open goes on being used while the endpoint takes no more, and it is dialled again for those who wait', () => {
  const { conns, acquire, pass, failFirst } = setUp(false)
  acquire()
  conns[0]!.open()
  failFirst()
  acquire()
  conns[2]!.fail('refused')
  const waiters = [acquire(), acquire()]
  assert.equal(conns.length, 3)
  conns[0]!.receive(ANSWER)
  assert.ok(waiters[0]!.upstream?.conn === conns[0]!.conn)
  pass(40)
  assert.equal(conns.length, 4)
  conns[3]!.open()
  assert.ok(waiters[1]!.upstream?.conn === conns[3]!.conn)
})

test('a missing certificate is no fault of the endpoint', () => {
  const { conns, acquire } = setUp(false)
  for (let i = 0; i < 3; i++) {
    acquire()
    conns[i]!.fail(new WeftError('WEFT_CERTIFICATE', 'no certificate yet'))
  }
  acquire()
  assert.equal(conns.length, 4)
})

test('a tunnel that a departing proxy has not looked at is asked for again, once', () => {
  const { conns, acquire } = setUp(true)
  const waiter = acquire()
  const unprocessed = new TunnelError('WEFT_CONNECT', 'shutting down', 0, true)
  conns[0]!.fail(unprocessed)
  assert.equal(waiter.failure, null)
  assert.equal(conns.length, 2)
  conns[1]!.fail(unprocessed)
  assert.equal(waiter.failure, 'shutting down')
  assert.equal(conns.length, 2)
})
