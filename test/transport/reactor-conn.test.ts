/** The times of a connection, on a wheel that the test turns. What needs sockets is in the suites of all transports. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TICK_COARSE_MS, TimerWheel } from '../../src/base/timers.ts'
import { DEFAULT_NODE_TRANSPORT_SETTINGS } from '../../src/transport/node-settings.ts'
import type { Reactor, ReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorConn, type ReactorConnOwner } from '../../src/transport/reactor-conn.ts'
import { ConnRecorder } from '../support/conn-recorder.ts'

const IDLE_TICKS = 5
/** The wheel fires at most two ticks late. */
const LATE_TICKS = 2

function open() {
  const timers = new TimerWheel(TICK_COARSE_MS)
  const closed: number[] = []
  const reactor = { write: () => 0, close: (id: number) => closed.push(id) } as unknown as Reactor
  const owner: ReactorConnOwner = {
    addon: {} as ReactorAddon,
    reactor,
    arena: new Uint8Array(1),
    settings: DEFAULT_NODE_TRANSPORT_SETTINGS,
    timers,
    armBatchEnd: () => {},
    callAfterBatch: () => {},
    forget: () => {},
  }
  const handler = new ConnRecorder()
  const conn = new ReactorConn(owner, handler, 1)
  conn.opened()
  conn.setIdleTimeout(IDLE_TICKS * TICK_COARSE_MS)
  const tick = (count: number): void => {
    for (let i = 0; i < count; i++) timers.advance()
  }
  return { conn, tick, closed, timers }
}

test('a connection on which nothing moves is reset when its idle time is over', () => {
  const { conn, tick, closed } = open()
  tick(IDLE_TICKS)
  assert.deepEqual(closed, [])
  tick(LATE_TICKS)
  assert.deepEqual(closed, [1])
  assert.equal(conn.isClosed, true)
})

test('what is received or sent puts the end off by the whole idle time', () => {
  for (const move of [(conn: ReactorConn) => conn.received(0, 1), sendOne]) {
    const { conn, tick, closed } = open()
    for (let i = 0; i < 3 * IDLE_TICKS; i++) {
      tick(IDLE_TICKS - 1)
      move(conn)
    }
    tick(IDLE_TICKS)
    assert.deepEqual(closed, [])
    tick(LATE_TICKS)
    assert.deepEqual(closed, [1])
  }
})

test('an idle time that is taken back resets nothing', () => {
  const { conn, tick, closed } = open()
  conn.setIdleTimeout(0)
  tick(3 * IDLE_TICKS)
  assert.deepEqual(closed, [])
  conn.abort()
})

function sendOne(conn: ReactorConn): void {
  conn.write(new Uint8Array(1), 0, 1)
}
