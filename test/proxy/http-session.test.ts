import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FLAG_NONE } from '../../src/base/errors.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import type { ProtocolViolation } from '../../src/http/codec.ts'
import { HeaderList } from '../../src/http/headers.ts'
import type { Exchange } from '../../src/proxy/exchange.ts'
import { DRAIN_IDLE_MS, HttpSession, type HttpSessionOwner } from '../../src/proxy/http-session.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { FakeConn } from '../support/fake-conn.ts'

const TICK_MS = 1000
const MINUTE_TICKS = 60
const LINGER_TICKS = 5
/** The wheel fires at most two ticks late. */
const LATE_TICKS = 2

class Owner implements HttpSessionOwner {
  readonly violations: string[] = []
  readonly exchanges: Exchange[] = []

  route(exchange: Exchange): void {
    this.exchanges.push(exchange)
  }

  reroute(): void {}
  onResponseHead(): void {}
  record(): void {}
  recordMessages(): void {}
  onSessionClosed(): void {}

  onViolation(violation: ProtocolViolation): void {
    this.violations.push(violation.reason)
  }
}

function open(): { conn: FakeConn; owner: Owner; session: HttpSession; tick: (count: number) => void } {
  const timers = new TimerWheel(TICK_MS)
  // Nobody looks at what is written.
  const transport = { atBatchEnd: () => {} }
  const parts = { timers, transport, isDraining: false, drainIdleMs: 1000, nowMs: () => 0 } as unknown as ProxyParts
  const conn = new FakeConn()
  const owner = new Owner()
  const session = new HttpSession(parts, conn, owner)
  const tick = (count: number): void => {
    for (let i = 0; i < count; i++) timers.advance()
  }
  return { conn, owner, session, tick }
}

test('a head that comes in drops is given one minute from its first byte', () => {
  const { conn, owner, tick } = open()
  conn.deliver('GET / HTTP/1.1\r\n')
  for (let second = 0; second < MINUTE_TICKS; second++) {
    conn.deliver('a: b\r\n')
    tick(1)
  }
  assert.equal(conn.isAborted, false)
  tick(LATE_TICKS)
  assert.equal(conn.isAborted, true)
  assert.deepEqual(owner.violations, ['head_too_slow'])
})

test('a head that is complete in time stops the clock, for the time of the exchange as well', () => {
  const { conn, owner, tick } = open()
  conn.deliver('GET / HTTP/1.1\r\n')
  tick(MINUTE_TICKS - 1)
  conn.deliver('host: web\r\n\r\n')
  assert.equal(owner.exchanges.length, 1)
  tick(2 * MINUTE_TICKS)
  assert.equal(conn.isAborted, false)
})

test('a connection that has said nothing yet is only idle', () => {
  const { conn, tick } = open()
  tick(2 * MINUTE_TICKS)
  assert.equal(conn.isAborted, false)
})

test('a client that does not end after a refusal is reset within seconds, and no second violation is told', () => {
  const { conn, owner, tick } = open()
  conn.deliver('GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n')
  assert.equal(owner.violations.length, 1)
  conn.deliver('more')
  tick(LINGER_TICKS)
  assert.equal(conn.isAborted, false)
  tick(LATE_TICKS)
  assert.equal(conn.isAborted, true)
  assert.equal(owner.violations.length, 1)
})

test('a connection that closes takes its timer with it', () => {
  const { conn, owner, tick } = open()
  conn.deliver('GET / HT')
  conn.deliverClose()
  tick(2 * MINUTE_TICKS)
  assert.deepEqual(owner.violations, [])
  assert.equal(conn.isAborted, false)
})

/** Ticks of the quarter of an hour between two looks at an idle connection. */
const QUARTER_TICKS = 15 * MINUTE_TICKS + LATE_TICKS

test('an idle connection is ended after an hour, and not before', () => {
  const { conn, tick } = open()
  conn.deliver('GET / HT')
  const { conn: other, owner, tick: tickOther } = open()
  conn.deliverClose()
  tick(5 * QUARTER_TICKS)
  assert.equal(conn.isAborted, false)
  tickOther(3 * QUARTER_TICKS)
  other.deliver('GET / HTTP/1.1\r\nhost: web\r\n\r\n')
  owner.exchanges[0]!.stream.writeHead({ status: 204, headers: new HeaderList(), bodyLength: 0 })
  owner.exchanges[0]!.stream.end(null)
  tickOther(3 * QUARTER_TICKS)
  assert.equal(other.isClosed, false)
  tickOther(2 * QUARTER_TICKS)
  assert.equal(other.isClosed, true)
})

test('a silent connection lives as long as an exchange on it', () => {
  const { conn, owner, tick } = open()
  conn.deliver('GET / HTTP/1.1\r\nhost: web\r\n\r\n')
  assert.equal(owner.exchanges.length, 1)
  tick(24 * 4 * QUARTER_TICKS)
  assert.equal(conn.isAborted, false)
  assert.equal(conn.isClosed, false)
})

test('the first letters of a version are a head that has begun', () => {
  const { conn, owner, tick } = open()
  conn.deliver('PR')
  tick(MINUTE_TICKS - 1)
  assert.equal(conn.isAborted, false)
  tick(1 + LATE_TICKS)
  assert.equal(conn.isAborted, true)
  assert.deepEqual(owner.violations, ['head_too_slow'])
})

test('a client of HTTP/2 has a minute for its settings, and its clock stops with the connection', () => {
  const { conn, owner, tick } = open()
  conn.deliver('PRI * HTTP/2.0\r\n')
  tick(MINUTE_TICKS - 1)
  assert.deepEqual(owner.violations, [])
  // Twelve beats, of which each may be two ticks late.
  tick(12 * LATE_TICKS + 1)
  assert.deepEqual(owner.violations, ['settings_missing'])
  assert.deepEqual(conn.endings, ['close'])
  conn.deliverClose()
  tick(10 * MINUTE_TICKS)
  assert.deepEqual(conn.endings, ['close'])
})

const REQUEST = 'GET / HTTP/1.1\r\nhost: web\r\n\r\n'
const DRAIN_TICKS = DRAIN_IDLE_MS / TICK_MS

/** Answers the newest request. */
function answer(owner: Owner): void {
  owner.exchanges.at(-1)!.reply({ status: 200, flag: FLAG_NONE, body: 'ok' }, null, '')
}

test('an idle connection that drains serves the request that was on its way, and says that it was the last', () => {
  const { conn, owner, session, tick } = open()
  conn.deliver(REQUEST)
  answer(owner)
  session.drain()
  assert.equal(conn.isClosed, false)
  conn.deliver(REQUEST)
  answer(owner)
  assert.match(conn.text.slice(conn.text.lastIndexOf('HTTP/1.1 200')), /connection: close/i)
  tick(DRAIN_TICKS + LATE_TICKS)
  assert.equal(owner.exchanges.length, 2)
})

test('a connection that drains before its first byte serves the first request', () => {
  const { conn, owner, session } = open()
  session.drain()
  conn.deliver(REQUEST)
  answer(owner)
  assert.match(conn.text, /^HTTP\/1\.1 200 .*connection: close/is)
})

test('an idle connection that drains is closed when nothing has come for a second', () => {
  for (const isUsed of [false, true]) {
    const { conn, owner, session, tick } = open()
    if (isUsed) {
      conn.deliver(REQUEST)
      answer(owner)
    }
    session.drain()
    tick(DRAIN_TICKS + LATE_TICKS)
    assert.deepEqual(conn.endings, ['close'])
  }
})

test('an exchange that is under way when its connection drains is not cut off, however long it takes', () => {
  const { conn, owner, session, tick } = open()
  conn.deliver(REQUEST)
  session.drain()
  tick(2 * MINUTE_TICKS)
  assert.deepEqual(conn.endings, [])
  answer(owner)
  assert.match(conn.text, /^HTTP\/1\.1 200 .*connection: close/is)
})
