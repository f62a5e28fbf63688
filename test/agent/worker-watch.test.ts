import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import { WATCH_INTERVAL_MS, WorkerWatch } from '../../src/agent/worker-watch.ts'

/** The time of the watch in these tests, in looks. */
const SECOND = 1000 / WATCH_INTERVAL_MS

describe('the watch over data workers', () => {
  let beats: Int32Array
  let seen: string[]
  let watch: WorkerWatch
  let nowMs: number

  beforeEach(() => {
    beats = new Int32Array(new SharedArrayBuffer(8))
    seen = []
    watch = new WorkerWatch(beats, {
      onSilent: (index) => seen.push(`silent ${index}`),
      onHeardAgain: (index, silentMs) => seen.push(`again ${index} after ${silentMs}`),
      onStuck: (index) => seen.push(`stuck ${index}`),
    })
    nowMs = 10_000
    for (const index of [0, 1]) watch.begin(index, nowMs)
  })

  /** So many looks, with beats of the given workers before each. */
  function look(times: number, ...alive: number[]): void {
    for (let i = 0; i < times; i++) {
      for (const index of alive) beats[index]!++
      nowMs += WATCH_INTERVAL_MS
      watch.check(nowMs)
    }
  }

  it('says nothing of workers that beat, however long', () => {
    look(300 * SECOND, 0, 1)
    assert.deepEqual(seen, [])
    assert.equal(watch.silentCount, 0)
  })

  it('reports a silent worker once, within two seconds, and its return', () => {
    look(1, 0, 1)
    look(2 * SECOND, 0)
    assert.deepEqual(seen, ['silent 1'])
    assert.equal(watch.silentCount, 1)
    assert.deepEqual([watch.isSilent(0), watch.isSilent(1)], [false, true])
    look(8 * SECOND, 0)
    look(1, 0, 1)
    assert.deepEqual(seen, ['silent 1', 'again 1 after 10500'])
    assert.equal(watch.silentCount, 0)
  })

  it('reports a worker that stays silent for half a minute as stuck, and forgets it until its successor begins', () => {
    look(31 * SECOND, 0)
    assert.deepEqual(seen, ['silent 1', 'stuck 1'])
    look(60 * SECOND, 0)
    assert.equal(seen.length, 2)
    assert.equal(watch.silentCount, 0)
    watch.begin(1, nowMs)
    look(1 * SECOND, 0)
    assert.equal(seen.length, 2)
    look(1 * SECOND, 0)
    assert.deepEqual(seen.slice(2), ['silent 1'])
  })

  it('does not watch a worker that has ended', () => {
    watch.end(1)
    look(60 * SECOND, 0)
    assert.deepEqual(seen, [])
  })

  it('blames no worker for a time in which the whole process stood still', () => {
    look(2, 0, 1)
    nowMs += 120_000
    watch.check(nowMs)
    assert.deepEqual(seen, [])
    look(2, 0, 1)
    assert.deepEqual(seen, [])
    look(2 * SECOND, 0)
    assert.deepEqual(seen, ['silent 1'])
  })
})
