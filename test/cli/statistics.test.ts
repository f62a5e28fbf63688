import assert from 'node:assert/strict'
import { test } from 'node:test'
import { histogramQuantile, quantile, shareDeviations } from '../../src/cli/demo/statistics.ts'

test('a quantile is the smallest value that the share does not exceed', () => {
  const values = [5, 1, 4, 2, 3]
  assert.equal(quantile(values, 0.5), 3)
  assert.equal(quantile(values, 0.99), 5)
  assert.equal(quantile(values, 0), 1)
  assert.equal(quantile([7], 0.5), 7)
  assert.equal(quantile([], 0.5), null)
  assert.deepEqual(values, [5, 1, 4, 2, 3])
})

test('a histogram is interpolated inside the bucket that has the rank', () => {
  const histogram = { bounds: [1, 5, 10, Number.POSITIVE_INFINITY], counts: [0, 50, 100, 100] }
  assert.equal(histogramQuantile(histogram, 0.5), 5)
  assert.equal(histogramQuantile(histogram, 0.25), 3)
  assert.equal(histogramQuantile(histogram, 0.75), 7.5)
})

test('beyond the last finite bound a quantile is that bound, and without observations there is none', () => {
  assert.equal(histogramQuantile({ bounds: [1, Number.POSITIVE_INFINITY], counts: [0, 10] }, 0.5), 1)
  assert.equal(histogramQuantile({ bounds: [1, Number.POSITIVE_INFINITY], counts: [0, 0] }, 0.5), null)
  assert.equal(histogramQuantile({ bounds: [], counts: [] }, 0.5), null)
})

test('deviations are in standard deviations of the share', () => {
  const weights = new Map([
    ['a', 50],
    ['b', 50],
  ])
  const deviations = shareDeviations(
    new Map([
      ['a', 65],
      ['b', 35],
    ]),
    weights,
  )
  assert.deepEqual(
    deviations.map(({ name, expected, observed, sigmas }) => [name, expected, observed, sigmas]),
    [
      ['a', 50, 65, 3],
      ['b', 50, 35, 3],
    ],
  )
})

test('weights need not add up to 100, and weight 0 must get nothing', () => {
  const weights = new Map([
    ['a', 1],
    ['b', 0],
  ])
  assert.deepEqual(
    shareDeviations(new Map([['a', 10]]), weights).map(({ sigmas }) => sigmas),
    [0, 0],
  )
  assert.deepEqual(
    shareDeviations(
      new Map([
        ['a', 9],
        ['b', 1],
      ]),
      weights,
    ).map(({ sigmas }) => sigmas),
    [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
  )
})
