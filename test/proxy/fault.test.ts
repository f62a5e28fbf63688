import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Fault } from '../../src/model/route.ts'
import { decideFault } from '../../src/proxy/fault.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { isWithinThreeSigma } from '../support/statistics.ts'

const NONE: Fault = { delayMs: 50, delayPpm: 0, abortStatus: 503, abortGrpcStatus: null, abortPpm: 0 }

function decide(fault: Fault, ...rolls: readonly number[]): [number, number, number] {
  let next = 0
  const { delayMs, abortStatus, abortGrpcStatus } = decideFault(fault, () => rolls[next++] ?? 0)
  return [delayMs, abortStatus, abortGrpcStatus]
}

describe('an injected fault', () => {
  test('0 % never happens, 100 % always', () => {
    assert.deepEqual(decide(NONE, 0, 0), [0, 0, -1])
    assert.deepEqual(decide({ ...NONE, delayPpm: 1_000_000, abortPpm: 1_000_000 }, 0.999999, 0.999999), [50, 503, -1])
  })

  test('delay and abort are rolled independently', () => {
    const half = { ...NONE, delayPpm: 500_000, abortPpm: 500_000 }
    assert.deepEqual(decide(half, 0.1, 0.9), [50, 0, -1])
    assert.deepEqual(decide(half, 0.9, 0.1), [0, 503, -1])
    assert.deepEqual(decide(half, 0.1, 0.1), [50, 503, -1])
    assert.deepEqual(decide(half, 0.9, 0.9), [0, 0, -1])
  })

  test('a gRPC abort has a gRPC status only, OK included', () => {
    const abort = { ...NONE, abortStatus: 0, abortGrpcStatus: 14, abortPpm: 1_000_000 }
    assert.deepEqual(decide(abort, 0, 0), [0, 0, 14])
    assert.deepEqual(decide({ ...abort, abortGrpcStatus: 0 }, 0, 0), [0, 0, 0])
  })

  test('one part per million is kept apart from none', () => {
    assert.deepEqual(decide({ ...NONE, abortPpm: 1 }, 0, 0.000_000_9), [0, 503, -1])
    assert.deepEqual(decide({ ...NONE, abortPpm: 1 }, 0, 0.000_001), [0, 0, -1])
  })

  test('shares are met within three sigma, and one decision does not leak into the next', () => {
    const random = new SeededRandom(5)
    const fault = { ...NONE, delayPpm: 300_000, abortPpm: 100_000 }
    const trials = 20_000
    let delayed = 0
    let aborted = 0
    let both = 0
    for (let i = 0; i < trials; i++) {
      const { delayMs, abortStatus } = decideFault(fault, () => random.next())
      if (delayMs > 0) delayed++
      if (abortStatus > 0) aborted++
      if (delayMs > 0 && abortStatus > 0) both++
    }
    assert.ok(isWithinThreeSigma(delayed, trials, 0.3), `${delayed}`)
    assert.ok(isWithinThreeSigma(aborted, trials, 0.1), `${aborted}`)
    assert.ok(isWithinThreeSigma(both, trials, 0.03), `${both}`)
  })
})
