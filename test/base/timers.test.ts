import assert from 'node:assert/strict'
import { afterEach, test } from 'node:test'
import { TimerEntry, type TimerTarget, TimerWheel } from '../../src/base/timers.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const TICK_MS = 1_000_000
const SLOTS = 512
let wheel: TimerWheel

class Target implements TimerTarget {
  fired = 0
  firedAt = -1
  onFire: (entry: TimerEntry) => void = () => {}
  onTimer(entry: TimerEntry): void {
    this.fired++
    this.firedAt = tick
    this.onFire(entry)
  }
}

let tick = 0

function begin(): void {
  wheel = new TimerWheel(TICK_MS)
  tick = 0
}

function advance(count: number): void {
  for (let i = 0; i < count; i++) {
    tick++
    wheel.advance()
  }
}

afterEach(() => wheel.stop())

test('a timeout never fires early, and at most two ticks late', () => {
  begin()
  for (const ticks of [0, 0.5, 1, 2, 511, 512, 513, 1024, 2000]) {
    const target = new Target()
    const startedAt = tick
    wheel.start(new TimerEntry(target), ticks * TICK_MS)
    advance(ticks + 2)
    assert.equal(target.fired, 1, `${ticks} ticks`)
    assert.ok(target.firedAt - startedAt >= ticks, `${ticks} ticks`)
    advance(SLOTS)
    assert.equal(target.fired, 1, 'once only')
  }
})

test('a timeout that is cleared does not fire; clearing twice does nothing', () => {
  begin()
  const target = new Target()
  const entry = new TimerEntry(target)
  wheel.start(entry, TICK_MS)
  assert.equal(entry.isRunning, true)
  wheel.clear(entry)
  wheel.clear(entry)
  assert.equal(entry.isRunning, false)
  advance(SLOTS + 2)
  assert.equal(target.fired, 0)
})

test('starting again moves the timeout', () => {
  begin()
  const target = new Target()
  const entry = new TimerEntry(target)
  wheel.start(entry, 2 * TICK_MS)
  advance(1)
  wheel.start(entry, 5 * TICK_MS)
  advance(4)
  assert.equal(target.fired, 0)
  advance(2)
  assert.equal(target.fired, 1)
})

test('a callback may start its own timeout again, and end those of others that are due at the same time', () => {
  begin()
  const [first, second, third] = [new Target(), new Target(), new Target()]
  const entries = [first, second, third].map((target) => new TimerEntry(target))
  for (const entry of entries) wheel.start(entry, TICK_MS)
  let left = 3
  for (const target of [first, second, third]) {
    target.onFire = (entry) => {
      left--
      for (const other of entries) if (other !== entry) wheel.clear(other)
      if (left > 0) wheel.start(entry, TICK_MS)
    }
  }
  advance(2)
  assert.equal(first.fired + second.fired + third.fired, 1)
  advance(2)
  assert.equal(first.fired + second.fired + third.fired, 2)
})

test('thousands of timeouts that come and go fire exactly when they should', () => {
  begin()
  const random = new SeededRandom(11)
  const targets = Array.from({ length: 400 }, () => new Target())
  const entries = targets.map((target) => new TimerEntry(target))
  const dueFrom = new Map<Target, number>()
  let fired = 0
  for (const target of targets) {
    target.onFire = () => {
      fired++
      const due = dueFrom.get(target)!
      assert.ok(tick >= due && tick <= due + 2, `due at ${due}, fired at ${tick}`)
      dueFrom.delete(target)
    }
  }
  for (let round = 0; round < 3000; round++) {
    const index = random.integer(0, targets.length - 1)
    if (random.next() < 0.3) {
      wheel.clear(entries[index]!)
      dueFrom.delete(targets[index]!)
    } else {
      const ticks = random.integer(0, 1199)
      wheel.start(entries[index]!, ticks * TICK_MS)
      dueFrom.set(targets[index]!, tick + ticks)
    }
    advance(random.integer(0, 3))
    for (const [target, due] of dueFrom) assert.ok(tick <= due + 2, `${targets.indexOf(target)} is overdue`)
  }
  assert.ok(fired > 100)
})

test('a callback may move a timeout that is due at the same time, and the others still fire', () => {
  begin()
  const targets = [new Target(), new Target(), new Target()]
  const entries = targets.map((target) => new TimerEntry(target))
  for (const entry of entries) wheel.start(entry, TICK_MS)
  // The order within a tick is the wheel's: whoever fires first moves its neighbour in the middle.
  targets[0]!.onFire = targets[2]!.onFire = () => {
    if (targets[1]!.fired === 0) wheel.start(entries[1]!, 10 * TICK_MS)
  }
  advance(2)
  assert.deepEqual(
    targets.map((target) => target.fired),
    [1, 0, 1],
  )
  advance(12)
  assert.equal(targets[1]!.fired, 1)
})
