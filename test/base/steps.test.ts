import assert from 'node:assert/strict'
import { test } from 'node:test'
import { atOnce, inSlices, type Steps } from '../../src/base/steps.ts'

/** Counts to `end`, and takes a millisecond of `clock` for each number. */
function* counting(end: number, clock: { ms: number }): Steps<number> {
  let count = 0
  while (count < end) {
    count++
    clock.ms++
    yield
  }
  return count
}

test('work at once is done when the call returns', () => {
  assert.equal(atOnce(counting(1000, { ms: 0 })), 1000)
})

test('work in slices lets others have their turn, and ends with its result', async () => {
  const clock = { ms: 0 }
  const turns: number[] = []
  let isOver = false
  const look = (): void => {
    turns.push(clock.ms)
    if (!isOver) setImmediate(look)
  }
  setImmediate(look)
  assert.equal(await inSlices(counting(100, clock), () => clock.ms), 100)
  isOver = true
  const longest = Math.max(...turns.map((ms, i) => ms - (turns[i - 1] ?? 0)))
  assert.ok(turns.length >= 9 && longest <= 20, `${turns}`)
})

test('work that takes less than a slice is done without a turn of anybody else', async () => {
  const clock = { ms: 0 }
  const result = inSlices(counting(5, clock), () => clock.ms)
  assert.equal(clock.ms, 5)
  assert.equal(await result, 5)
})

test('what fails on the way fails the whole', async () => {
  const failing = function* (): Steps<number> {
    yield
    throw new Error('no')
  }
  await assert.rejects(inSlices(failing()), /no/)
})
