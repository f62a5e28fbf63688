import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TimerWheel } from '../../src/base/timers.ts'
import type { ProtocolViolation } from '../../src/http/codec.ts'
import type { Exchange } from '../../src/proxy/exchange.ts'
import { HttpSession, type HttpSessionOwner } from '../../src/proxy/http-session.ts'
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
  onSessionClosed(): void {}

  onViolation(violation: ProtocolViolation): void {
    this.violations.push(violation.reason)
  }
}

function open(): { conn: FakeConn; owner: Owner; tick: (count: number) => void } {
  const timers = new TimerWheel(TICK_MS)
  const parts = { timers, isDraining: false, nowMs: () => 0 } as unknown as ProxyParts
  const conn = new FakeConn()
  const owner = new Owner()
  new HttpSession(parts, conn, owner)
  const tick = (count: number): void => {
    for (let i = 0; i < count; i++) timers.advance()
  }
  return { conn, owner, tick }
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
  assert.deepEqual(owner.violations, ['head-too-slow'])
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
