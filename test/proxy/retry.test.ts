import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HeaderList } from '../../src/http/headers.ts'
import { DEFAULT_RETRY, type Retry, type RetryCondition } from '../../src/model/route.ts'
import { pushbackMsOf, RetryPolicy } from '../../src/proxy/retry.ts'

function policyOn(...on: readonly RetryCondition[]): RetryPolicy {
  return RetryPolicy.compile({ ...DEFAULT_RETRY, on })
}

function policyOf(fields: Partial<Retry>): RetryPolicy {
  return RetryPolicy.compile({ ...DEFAULT_RETRY, on: [], ...fields })
}

/** What each condition asks for: statuses, gRPC statuses, no connection, time-out, reset (processed, not processed). */
const CASES: readonly [
  on: RetryCondition,
  statuses: readonly number[],
  grpc: readonly number[],
  connect: boolean,
  timeout: boolean,
  resetProcessed: boolean,
  resetUnprocessed: boolean,
][] = [
  ['5xx', [500, 501, 502, 503, 504, 599], [], true, true, true, true],
  ['gateway-error', [502, 503, 504], [], true, true, true, true],
  ['reset', [], [], true, true, true, true],
  ['reset-before-request', [], [], true, false, false, true],
  ['connect-failure', [], [], true, false, false, false],
  ['refused-stream', [], [], false, false, false, true],
  ['retriable-4xx', [409], [], false, false, false, false],
  ['cancelled', [], [1], false, false, false, false],
  ['deadline-exceeded', [], [4], false, false, false, false],
  ['resource-exhausted', [], [8], false, false, false, false],
  ['internal', [], [13], false, false, false, false],
  ['unavailable', [], [14], false, false, false, false],
]

describe('retrying', () => {
  for (const [on, statuses, grpc, connect, timeout, resetProcessed, resetUnprocessed] of CASES) {
    test(`on ${on}`, () => {
      const policy = policyOn(on)
      const tried = [200, 204, 301, 400, 404, 409, 429, 500, 501, 502, 503, 504, 599, 600]
      assert.deepEqual(
        tried.filter((status) => policy.shouldRetryStatus(status, -1)),
        statuses,
      )
      const grpcTried = Array.from({ length: 40 }, (_, index) => index - 1)
      assert.deepEqual(
        grpcTried.filter((status) => policy.shouldRetryStatus(200, status)),
        grpc,
      )
      assert.equal(policy.shouldRetryConnectFailure, connect)
      assert.equal(policy.shouldRetryTimeout, timeout)
      assert.equal(policy.shouldRetryReset(true, false), resetProcessed)
      assert.equal(policy.shouldRetryReset(false, false), resetUnprocessed)
    })
  }

  test('of what an upstream may have acted on needs a condition that says so', () => {
    for (const [on, statuses, grpc, , timeout, resetProcessed] of CASES) {
      const needsBody = statuses.length > 0 || timeout || resetProcessed
      assert.equal(policyOn(on).mayRetryProcessed(false), needsBody, on)
      assert.equal(policyOn(on).mayRetryProcessed(true), needsBody || grpc.length > 0, on)
      assert.equal(policyOf({ on: [on], attempts: 0 }).mayRetryProcessed(true), false)
    }
    assert.equal(policyOf({ statuses: [503] }).mayRetryProcessed(false), true)
  })

  test('never happens once a response has begun', () => {
    const policy = policyOn('5xx', 'reset', 'refused-stream')
    assert.equal(policy.shouldRetryReset(true, true), false)
    assert.equal(policy.shouldRetryReset(false, true), false)
  })

  test('by default takes no answer of an upstream for a failure, but a connection that failed', () => {
    const policy = RetryPolicy.compile(DEFAULT_RETRY)
    assert.equal(policy.attempts, 2)
    assert.equal(policy.shouldRetryStatus(503, -1), false)
    assert.equal(policy.shouldRetryStatus(200, 14), true)
    assert.equal(policy.shouldRetryConnectFailure, true)
    assert.equal(policy.shouldRetryReset(false, false), true)
    assert.equal(policy.shouldRetryReset(true, false), false)
  })

  test('takes the statuses that are listed, and no others', () => {
    const policy = policyOf({ statuses: [418, 503] })
    assert.deepEqual(
      [200, 418, 500, 503].filter((status) => policy.shouldRetryStatus(status, -1)),
      [418, 503],
    )
    assert.equal(policy.shouldRetryConnectFailure, false)
    assert.equal(policy.shouldRetryReset(true, false), false)
  })

  test('conditions add up', () => {
    const policy = policyOn('retriable-4xx', 'unavailable', 'connect-failure')
    assert.equal(policy.shouldRetryStatus(409, -1), true)
    assert.equal(policy.shouldRetryStatus(200, 14), true)
    assert.equal(policy.shouldRetryStatus(200, 13), false)
    assert.equal(policy.shouldRetryConnectFailure, true)
  })

  test('a try with a limit that a gRPC upstream saw first is one that took too long', () => {
    const limited = policyOf({ on: ['5xx'], perTryTimeoutMs: 100 })
    assert.equal(limited.shouldRetryStatus(200, 4), true)
    assert.equal(policyOf({ on: ['5xx'] }).shouldRetryStatus(200, 4), false)
    assert.equal(policyOf({ on: ['unavailable'], perTryTimeoutMs: 100 }).shouldRetryStatus(200, 4), false)
  })

  test('waits as long as a gRPC server asks, and not at all for one that asks for no more', () => {
    const asked: readonly [string | null, number][] = [
      [null, 0],
      ['0', 0],
      ['250', 250],
      ['10000', 10_000],
      ['10001', -1],
      ['-1', -1],
      ['', -1],
      ['soon', -1],
      ['99999999999999999999', -1],
    ]
    for (const [text, waitMs] of asked) {
      const headers = HeaderList.of(text === null ? [] : [['grpc-retry-pushback-ms', text]])
      assert.equal(pushbackMsOf(headers), waitMs, String(text))
    }
  })

  test('waits from the base upwards, doubling, at most ten times the base and half as much again', () => {
    const policy = policyOf({ backoffBaseMs: 100 })
    assert.deepEqual(
      [1, 2, 3, 4, 5, 6, 40].map((attempt) => policy.backoffMs(attempt, 0)),
      [100, 200, 400, 800, 1000, 1000, 1000],
    )
    assert.equal(policy.backoffMs(1, 0.5), 125)
    assert.equal(policy.backoffMs(1, 0.999999), 150)
  })

  test('negative attempts are none, and no per-try limit is 0', () => {
    assert.equal(policyOf({ attempts: -1 }).attempts, 0)
    assert.equal(policyOf({}).perTryTimeoutMs, 0)
    assert.equal(policyOf({ perTryTimeoutMs: 250 }).perTryTimeoutMs, 250)
  })
})
