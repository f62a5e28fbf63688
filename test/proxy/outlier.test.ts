import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { OutlierDetection } from '../../src/model/service.ts'
import { Endpoint } from '../../src/proxy/endpoint.ts'
import { EJECTION_MS_MAX, OutlierDetector, type OutlierOwner } from '../../src/proxy/outlier.ts'
import { OUTLIER, workloadOf } from '../support/proxy-objects.ts'

class WatchedCluster implements OutlierOwner {
  readonly endpoints: readonly Endpoint[]
  readonly detector: OutlierDetector
  changes = 0

  constructor(count: number, settings: Partial<OutlierDetection> = {}) {
    this.detector = new OutlierDetector({ ...OUTLIER, ...settings }, this)
    this.endpoints = Array.from({ length: count }, (_, index) => {
      const endpoint = new Endpoint(`e${index}`, workloadOf(`w${index}`), '198.18.1.1', 80)
      endpoint.observer = this.detector
      return endpoint
    })
  }

  onEjectionsChanged(): void {
    this.changes++
  }

  fail(index: number, times: number, nowMs = 0, isGatewayError = false): void {
    for (let i = 0; i < times; i++) this.endpoints[index]!.onFailure(isGatewayError, nowMs)
  }

  get ejected(): number[] {
    return this.endpoints.flatMap((endpoint, index) => (endpoint.isEjected ? [index] : []))
  }
}

describe('outlier detection', () => {
  test('ejects after that many failures in a row', () => {
    const cluster = new WatchedCluster(3)
    cluster.fail(1, 2)
    assert.deepEqual(cluster.ejected, [])
    cluster.fail(1, 1)
    assert.deepEqual(cluster.ejected, [1])
    assert.equal(cluster.changes, 1)
  })

  test('a success in between starts the count again', () => {
    const cluster = new WatchedCluster(3)
    cluster.fail(1, 2)
    cluster.endpoints[1]!.onSuccess(0)
    cluster.fail(1, 2)
    assert.deepEqual(cluster.ejected, [])
  })

  test('failures of different endpoints do not add up', () => {
    const cluster = new WatchedCluster(3)
    for (const index of [0, 1, 2]) cluster.fail(index, 2)
    assert.deepEqual(cluster.ejected, [])
  })

  test('gateway errors have a trigger of their own, which another 5xx resets', () => {
    const cluster = new WatchedCluster(3, { consecutive5xx: 0, consecutiveGatewayErrors: 2 })
    cluster.fail(0, 5)
    cluster.fail(1, 1, 0, true)
    cluster.fail(1, 1, 0, false)
    cluster.fail(1, 1, 0, true)
    assert.deepEqual(cluster.ejected, [])
    cluster.fail(1, 1, 0, true)
    assert.deepEqual(cluster.ejected, [1])
  })

  test('gateway errors count as 5xx', () => {
    const cluster = new WatchedCluster(3)
    cluster.fail(0, 3, 0, true)
    assert.deepEqual(cluster.ejected, [0])
  })

  test('a trigger of 0 is off', () => {
    const cluster = new WatchedCluster(3, { consecutive5xx: 0, consecutiveGatewayErrors: 0 })
    cluster.fail(0, 100, 0, true)
    assert.deepEqual(cluster.ejected, [])
  })

  test('an endpoint returns at the end of an interval, once its time is over', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 15_000, intervalMs: 10_000 })
    cluster.fail(0, 3, 1_000)
    cluster.detector.sweep(11_000)
    assert.deepEqual(cluster.ejected, [0])
    // The time is over, but not the interval.
    cluster.detector.sweep(16_500)
    assert.deepEqual(cluster.ejected, [0])
    cluster.detector.sweep(21_000)
    assert.deepEqual(cluster.ejected, [])
    assert.equal(cluster.changes, 2)
  })

  test('the interval runs from the first ejection after a quiet time', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 5_000, intervalMs: 10_000 })
    cluster.fail(0, 3, 1_000_000)
    cluster.detector.sweep(1_009_999)
    assert.deepEqual(cluster.ejected, [0])
    cluster.detector.sweep(1_010_000)
    assert.deepEqual(cluster.ejected, [])
  })

  test('the time grows with each ejection, up to a limit', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 100_000, intervalMs: 1 })
    let nowMs = 0
    const times: number[] = []
    for (let i = 0; i < 5; i++) {
      cluster.fail(0, 3, nowMs)
      const ejectedAtMs = nowMs
      while (cluster.ejected.length > 0) {
        nowMs += 1_000
        cluster.detector.sweep(nowMs)
      }
      times.push(nowMs - ejectedAtMs)
    }
    assert.deepEqual(times, [100_000, 200_000, 300_000, EJECTION_MS_MAX, EJECTION_MS_MAX])
  })

  test('a base above the limit is kept', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 2 * EJECTION_MS_MAX, intervalMs: 1 })
    cluster.fail(0, 3)
    cluster.detector.sweep(2 * EJECTION_MS_MAX - 1)
    assert.deepEqual(cluster.ejected, [0])
    cluster.detector.sweep(2 * EJECTION_MS_MAX)
    assert.deepEqual(cluster.ejected, [])
  })

  test('good behaviour is remembered: each interval takes one ejection off', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 10_000, intervalMs: 10_000 })
    cluster.fail(0, 3, 0)
    cluster.detector.sweep(10_000)
    assert.equal(cluster.endpoints[0]!.ejectionCount, 1)
    assert.equal(cluster.detector.isArmed, true)
    cluster.detector.sweep(20_000)
    assert.equal(cluster.endpoints[0]!.ejectionCount, 0)
    assert.equal(cluster.detector.isArmed, false)
  })

  test('intervals that nobody looked at count as well', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 10_000, intervalMs: 10_000 })
    for (const nowMs of [0, 10_000, 30_000]) {
      cluster.fail(0, 3, nowMs)
      cluster.detector.sweep(nowMs + 100_000)
      cluster.endpoints[0]!.isEjected = false
    }
    assert.equal(cluster.endpoints[0]!.ejectionCount, 3)
    cluster.detector.sweep(1_000_000)
    assert.equal(cluster.endpoints[0]!.ejectionCount, 0)
  })

  test('failures of an ejected endpoint are late news', () => {
    const cluster = new WatchedCluster(3)
    cluster.fail(0, 30)
    assert.equal(cluster.endpoints[0]!.ejectionCount, 1)
    assert.equal(cluster.changes, 1)
  })

  test('an endpoint that returns begins at 0', () => {
    const cluster = new WatchedCluster(3, { baseEjectionMs: 10_000 })
    cluster.fail(0, 5, 0)
    cluster.detector.sweep(10_000)
    cluster.fail(0, 2, 10_001)
    assert.deepEqual(cluster.ejected, [])
  })

  const limits: readonly [percent: number, endpoints: number, ejected: number][] = [
    [0, 10, 0],
    [10, 10, 1],
    [10, 3, 1],
    [10, 2, 1],
    [10, 1, 0],
    [50, 4, 2],
    [50, 3, 1],
    [50, 5, 2],
    [99, 3, 2],
    [100, 3, 3],
    [100, 1, 1],
  ]
  for (const [percent, count, expected] of limits) {
    test(`${percent} % of ${count} endpoints lets ${expected} be ejected`, () => {
      const cluster = new WatchedCluster(count, { ejectionPercentMax: percent })
      for (let i = 0; i < count; i++) cluster.fail(i, 3)
      assert.equal(cluster.ejected.length, expected)
      assert.equal(cluster.detector.ejectionsRefused, count - expected)
    })
  }
})
