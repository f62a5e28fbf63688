import assert from 'node:assert/strict'
import test from 'node:test'
import { Backoff } from '../../src/base/backoff.ts'

const SETTINGS = { baseMs: 100, maxMs: 1000 }

function delays(random: () => number, count: number): number[] {
  const backoff = new Backoff(SETTINGS, random)
  return Array.from({ length: count }, () => backoff.nextMs())
}

test('the delay doubles up to the longest one', () => {
  assert.deepEqual(
    delays(() => 1, 6),
    [100, 200, 400, 800, 1000, 1000],
  )
})

test('jitter takes off up to half', () => {
  assert.deepEqual(
    delays(() => 0, 5),
    [50, 100, 200, 400, 500],
  )
})

test('a success begins anew', () => {
  const backoff = new Backoff(SETTINGS, () => 1)
  backoff.nextMs()
  backoff.nextMs()
  backoff.reset()
  assert.equal(backoff.nextMs(), 100)
})

test('a thousand failures do not overflow', () => {
  assert.equal(delays(() => 1, 1100).at(-1), 1000)
})
