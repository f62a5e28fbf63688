import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import { DEFAULT_RETRY, type Retry, type RetryCondition } from '../../src/model/route.ts'
import { DEFAULT_POOL_LIMITS } from '../../src/model/service.ts'
import type { Exchange, ExchangeOrigin } from '../../src/proxy/exchange.ts'
import { REPLAY_BYTES_MAX } from '../../src/proxy/held-body.ts'
import { HttpPool } from '../../src/proxy/http-pool.ts'
import { HttpSession } from '../../src/proxy/http-session.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { RetryPolicy } from '../../src/proxy/retry.ts'
import { PATH_PLAIN } from '../../src/proxy/upstreams.ts'
import type { Flushable, Handler } from '../../src/transport/conn.ts'
import { FakeConn } from '../support/fake-conn.ts'
import { goAwayFrame, resetFrame, settingsFrame } from '../support/scripted-h2-peer.ts'

const REFUSED_STREAM = 7
const TICK_MS = 10
/** Longer than any wait between tries here, those of a pool that could not connect among them. */
const BACKOFF_TICKS = 20
const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'
const UNAVAILABLE = 'HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n'

/** One client, one pool whose connections the test plays, and the rules of one route. */
class Bench implements ExchangeOrigin {
  readonly client = new FakeConn()
  readonly servers: FakeConn[] = []
  readonly deadlines = new TimerWheel(TICK_MS)
  private nowMs = 0
  private readonly unflushed: Flushable[] = []
  private readonly pool: HttpPool
  private readonly retry: RetryPolicy | null

  constructor(retry: Partial<Retry> | null, speaksHttp2 = false) {
    const parts = {
      timers: new TimerWheel(1000),
      deadlines: this.deadlines,
      transport: { atBatchEnd: (flushable: Flushable) => this.atBatchEnd(flushable) },
      isDraining: false,
      drainIdleMs: 1000,
      nowMs: () => this.nowMs,
      random: () => 0,
    } as unknown as ProxyParts
    const open = (handler: Handler): FakeConn => {
      const conn = new FakeConn()
      conn.handler = handler
      this.servers.push(conn)
      return conn
    }
    this.retry = retry === null ? null : RetryPolicy.compile({ ...DEFAULT_RETRY, on: [], backoffBaseMs: 1, ...retry })
    this.pool = new HttpPool(parts, { open }, DEFAULT_POOL_LIMITS, null, null, PATH_PLAIN, speaksHttp2)
    const owner = { onSessionClosed: () => {}, onViolation: () => {} }
    new HttpSession(
      parts,
      this.client,
      Object.assign(owner, {
        route: this.route,
        reroute: this.reroute,
        record() {},
        recordMessages() {},
        onResponseHead() {},
      }),
    )
  }

  readonly route = (exchange: Exchange): void => {
    exchange.retry = this.retry
    exchange.forward(this.pool)
  }

  readonly reroute = (exchange: Exchange): void => exchange.forward(this.pool)

  record(): void {}
  recordMessages(): void {}
  onResponseHead(): void {}

  private atBatchEnd(flushable: Flushable): void {
    if (!flushable.isFlushPending) this.unflushed.push(flushable)
    flushable.isFlushPending = true
  }

  endBatch(): void {
    for (let next = this.unflushed.shift(); next !== undefined; next = this.unflushed.shift()) {
      next.isFlushPending = false
      next.flush()
    }
  }

  /** The newest connection to the server, opened. */
  accept(): FakeConn {
    const server = this.servers.at(-1)!
    server.handler.onOpen(server)
    return server
  }

  /** A connection that has carried an exchange, and waits for the next. */
  warmUp(): FakeConn {
    this.client.deliver('GET / HTTP/1.1\r\nhost: web\r\n\r\n')
    const server = this.accept()
    server.deliver(OK)
    server.take()
    this.client.take()
    return server
  }

  backOff(): void {
    for (let i = 0; i < BACKOFF_TICKS; i++) {
      this.nowMs += TICK_MS
      this.deadlines.advance()
    }
  }

  send(method: string, body: string): void {
    this.client.deliver(`${method} / HTTP/1.1\r\nhost: web\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
  }
}

const SHORT = 'a body that fits'
const LONG = 'x'.repeat(REPLAY_BYTES_MAX + 1)

function statusOf(conn: FakeConn): string {
  return conn.take().slice(9, 12)
}

/** Conditions under which a try is tried again after an upstream has answered 503 to a whole request. */
const REPEATING: readonly RetryCondition[] = ['5xx', 'gateway-error']

for (const on of REPEATING) {
  test(`a body is sent again where the rule retries on ${on}`, () => {
    const bench = new Bench({ on: [on] })
    bench.send('POST', SHORT)
    const first = bench.accept()
    assert.ok(first.take().endsWith(SHORT))
    first.deliver(UNAVAILABLE)
    bench.backOff()
    const second = bench.servers.at(-1)!
    if (second !== first) second.handler.onOpen(second)
    assert.ok(second.take().endsWith(SHORT))
    second.deliver(OK)
    assert.equal(statusOf(bench.client), '200')
  })
}

test('a listed status repeats a body as well', () => {
  const bench = new Bench({ statuses: [503] })
  bench.send('POST', SHORT)
  bench.accept().deliver(UNAVAILABLE)
  bench.backOff()
  assert.ok(bench.accept().take().endsWith(SHORT))
})

test('a body in two parts is sent again in whole, also when only one came before the failure', () => {
  const bench = new Bench({ on: ['reset'] })
  bench.client.deliver('POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 6\r\n\r\nabc')
  const first = bench.accept()
  assert.ok(first.take().endsWith('abc'))
  first.deliverClose(new WeftError('WEFT_CONNECT', 'reset'))
  bench.client.deliver('def')
  bench.backOff()
  const second = bench.accept()
  assert.ok(second.take().endsWith('abcdef'))
  second.deliver(OK)
  assert.equal(statusOf(bench.client), '200')
})

test('a body longer than may be held is never sent again', () => {
  const bench = new Bench({ on: ['5xx', 'reset'] })
  bench.send('POST', LONG)
  const server = bench.accept()
  assert.ok(server.take().endsWith(LONG))
  server.deliver(UNAVAILABLE)
  bench.backOff()
  assert.equal(bench.servers.length, 1)
  assert.equal(statusOf(bench.client), '503')
})

test('a body that grew too long after the connection came is never sent again, not even its beginning', () => {
  const bench = new Bench({ on: ['5xx', 'reset'] })
  bench.client.deliver(`POST / HTTP/1.1\r\nhost: web\r\ncontent-length: ${SHORT.length + LONG.length}\r\n\r\n${SHORT}`)
  const server = bench.accept()
  bench.client.deliver(LONG)
  server.deliverClose(new WeftError('WEFT_CONNECT', 'reset'))
  bench.backOff()
  assert.equal(bench.servers.length, 1)
  assert.equal(statusOf(bench.client), '503')
})

test('a body that is not held because no rule could send it again makes its request unrepeatable', () => {
  for (const retry of [null, {}, { on: ['connect-failure', 'refused-stream', 'reset-before-request'] as const }]) {
    const bench = new Bench(retry)
    const server = bench.warmUp()
    bench.send('PUT', SHORT)
    assert.ok(server.take().endsWith(SHORT))
    server.deliverClose(new WeftError('WEFT_CONNECT', 'reset'))
    bench.backOff()
    assert.equal(bench.servers.length, 1)
    assert.equal(statusOf(bench.client), '503')
  }
})

test('what was read before there was a connection is held for one that fails to come', () => {
  const bench = new Bench({ on: ['connect-failure'] })
  bench.send('POST', SHORT)
  bench.servers[0]!.deliverClose(new WeftError('WEFT_CONNECT', 'refused'))
  bench.backOff()
  const second = bench.accept()
  assert.ok(second.take().endsWith(SHORT))
  second.deliver(OK)
  assert.equal(statusOf(bench.client), '200')
})

test('an idempotent request is repeated at once on a new connection when a kept one ends before its body was sent', () => {
  const bench = new Bench(null)
  const server = bench.warmUp()
  bench.client.deliver(`PUT / HTTP/1.1\r\nhost: web\r\ncontent-length: ${SHORT.length}\r\n\r\n`)
  server.deliverClose()
  bench.client.deliver(SHORT)
  const second = bench.accept()
  assert.equal(bench.servers.length, 2)
  assert.ok(second.take().endsWith(SHORT))
  second.deliver(OK)
  assert.equal(statusOf(bench.client), '200')
})

test('a request that is not idempotent is not repeated, whatever it carries', () => {
  const bench = new Bench(null)
  const server = bench.warmUp()
  bench.client.deliver(`POST / HTTP/1.1\r\nhost: web\r\ncontent-length: ${SHORT.length}\r\n\r\n`)
  server.deliverClose()
  assert.equal(bench.servers.length, 1)
  assert.equal(statusOf(bench.client), '503')
})

test('over HTTP/2 a refused stream repeats a body once without any rule, since it is certain', () => {
  for (const refusal of [resetFrame(1, REFUSED_STREAM), goAwayFrame(0, 0)]) {
    const bench = new Bench(null, true)
    bench.send('POST', SHORT)
    const server = bench.accept()
    server.deliver(settingsFrame().toString('latin1'))
    bench.endBatch()
    assert.ok(server.take().includes(SHORT))
    server.deliver(refusal.toString('latin1'))
    const next = bench.servers.at(-1)!
    if (next !== server) next.handler.onOpen(next)
    bench.endBatch()
    assert.ok(next.take().includes(SHORT))
  }
})

test('over HTTP/2 a body that was too long to hold is not repeated, even when it is certain', () => {
  const bench = new Bench(null, true)
  bench.send('POST', LONG)
  const server = bench.accept()
  server.deliver(settingsFrame().toString('latin1'))
  bench.endBatch()
  server.deliver(resetFrame(1, REFUSED_STREAM).toString('latin1'))
  assert.equal(bench.servers.length, 1)
  assert.equal(statusOf(bench.client), '503')
})

test('what arrives after the response has begun is passed on and not held', () => {
  const bench = new Bench({ on: ['5xx', 'reset'] })
  bench.client.deliver(`POST / HTTP/1.1\r\nhost: web\r\ncontent-length: ${2 * SHORT.length}\r\n\r\n${SHORT}`)
  const server = bench.accept()
  server.take()
  server.deliver('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na')
  bench.client.deliver(SHORT)
  assert.equal(server.take(), SHORT)
  server.deliver('b')
  assert.ok(bench.client.take().endsWith('ab'))
})
