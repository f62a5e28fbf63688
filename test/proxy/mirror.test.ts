import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TimerWheel } from '../../src/base/timers.ts'
import type { HttpPool, PoolWaiter } from '../../src/proxy/http-pool.ts'
import type { HttpUpstream } from '../../src/proxy/http-upstream.ts'
import { MirroredRequest } from '../../src/proxy/mirror.ts'
import { requestHead } from '../support/h1-recorders.ts'

/** One more than the minute that a mirrored request may take, in ticks of a second, and what a wheel may be late. */
const MINUTE_TICKS = 63

function make(): { mirror: MirroredRequest; events: string[]; timers: TimerWheel; connect: () => void } {
  const events: string[] = []
  const timers = new TimerWheel(1000)
  let waiter: PoolWaiter | null = null
  const client = {
    writeBody: (bytes: Uint8Array, _offset: number, length: number) => {
      events.push(`body ${Buffer.from(bytes).toString()}`)
      return length
    },
    end: () => events.push('end'),
    reset: () => events.push('reset'),
  }
  const pool = {
    parts: { timers },
    acquire: (one: PoolWaiter) => {
      waiter = one
    },
    cancel: () => events.push('cancel'),
  }
  const connect = (): void => {
    waiter?.onUpstream({ servedCount: 0, codec: { open: () => client } } as unknown as HttpUpstream)
  }
  return { mirror: new MirroredRequest(requestHead({}), pool as unknown as HttpPool), events, timers, connect }
}

function turn(timers: TimerWheel, count: number): void {
  for (let i = 0; i < count; i++) timers.advance()
}

test('a mirrored stream that nobody ends is ended after a minute', () => {
  const { mirror, events, timers, connect } = make()
  mirror.add(Buffer.from('abc'), 0, 3)
  mirror.send()
  connect()
  assert.deepEqual(events, ['body abc', 'end'])
  turn(timers, MINUTE_TICKS - 10)
  assert.equal(events.includes('reset'), false)
  turn(timers, 10)
  assert.equal(events.includes('reset'), true)
})

test('a mirrored request that waits for a connection waits a minute', () => {
  const { mirror, events, timers } = make()
  mirror.send()
  turn(timers, MINUTE_TICKS)
  assert.deepEqual(events, ['cancel'])
})

test('a mirrored request that was answered is left alone', () => {
  const { mirror, events, timers, connect } = make()
  mirror.send()
  connect()
  mirror.onResponseEnd()
  turn(timers, MINUTE_TICKS)
  assert.deepEqual(events, [])
})
