import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HeaderList } from '../../src/http/headers.ts'
import { DEFAULT_RETRY } from '../../src/model/route.ts'
import { OVERRIDE_RETRIES_MAX, OVERRIDE_TIMEOUT_MS_MAX, RequestOverrides } from '../../src/proxy/request-overrides.ts'
import { RetryPolicy } from '../../src/proxy/retry.ts'

const NEVER = RetryPolicy.compile({ ...DEFAULT_RETRY, attempts: 0, on: [] })
const ON_503 = RetryPolicy.compile({ ...DEFAULT_RETRY, attempts: 3, on: ['connect-failure'], statuses: [503] })

function overrides(headers: Record<string, string>): RequestOverrides {
  return RequestOverrides.take(HeaderList.of(Object.entries(headers)))
}

test('overrides are read and taken out; nothing else is', () => {
  const list = HeaderList.of([
    ['x-envoy-upstream-rq-timeout-ms', '250'],
    ['x-envoy-max-retries', '4'],
    ['x-envoy-retry-on', '5xx, reset'],
    ['x-envoy-retry-grpc-on', 'unavailable'],
    ['x-envoy-retriable-status-codes', '429,409'],
    ['x-envoy-upstream-rq-per-try-timeout-ms', '100'],
    ['x-kept', '1'],
  ])
  const read = RequestOverrides.take(list)
  assert.equal(list.length, 1)
  assert.deepEqual([read.timeoutMs, read.tryTimeoutMs, read.retries], [250, 100, 4])
  assert.deepEqual(
    [read.on, read.statuses],
    [
      ['5xx', 'reset', 'unavailable'],
      [429, 409],
    ],
  )
})

test('a time-out takes the place of the rule, longer or shorter; 0 is none; a day is the most', () => {
  const over = (text: string, routeMs: number): number =>
    overrides({ 'x-envoy-upstream-rq-timeout-ms': text }).timeoutOver(routeMs)
  assert.equal(over('250', 1000), 250)
  assert.equal(over('5000', 1000), 5000)
  assert.equal(over('250', 0), 250)
  assert.equal(over('0', 1000), 0)
  assert.equal(over('999999999', 1000), OVERRIDE_TIMEOUT_MS_MAX)
})

test('a value that is no number counts as absent', () => {
  for (const bad of ['', '-1', '1.5', '1e3', ' 5 5', '0x10', '9999999999', 'soon', '1, 2']) {
    const read = overrides({
      'x-envoy-upstream-rq-timeout-ms': bad,
      'x-envoy-upstream-rq-per-try-timeout-ms': bad,
      'x-envoy-max-retries': bad,
    })
    assert.equal(read.timeoutOver(1000), 1000, bad)
    assert.equal(read.retryOver(ON_503, 1000), ON_503, bad)
  }
})

test('a time-out per try takes the place of the rule; one that is not below the whole is no time-out', () => {
  const rule = RetryPolicy.compile({ ...DEFAULT_RETRY, perTryTimeoutMs: 300 })
  const over = (text: string, wholeMs: number): number =>
    overrides({ 'x-envoy-upstream-rq-per-try-timeout-ms': text }).retryOver(rule, wholeMs).perTryTimeoutMs
  assert.equal(over('100', 1000), 100)
  assert.equal(over('500', 1000), 500)
  assert.equal(over('1000', 1000), 0)
  assert.equal(over('100', 0), 100)
  assert.equal(over('999999999', 0), OVERRIDE_TIMEOUT_MS_MAX)
  assert.equal(overrides({ 'x-envoy-max-retries': '1' }).retryOver(rule, 1000).perTryTimeoutMs, 300)
})

test('conditions and statuses are added to those of the rule', () => {
  const policy = overrides({
    'x-envoy-retry-on': '5xx,retriable-status-codes,, nonsense , __proto__',
    'x-envoy-retriable-status-codes': '429, 99, 600, x, 409',
  }).retryOver(ON_503, 0)
  assert.equal(policy.attempts, 3)
  for (const status of [500, 503, 429, 409]) assert.equal(policy.shouldRetryStatus(status, -1), true, String(status))
  for (const status of [404, 99, 600]) assert.equal(policy.shouldRetryStatus(status, -1), false, String(status))
  assert.equal(policy.shouldRetryConnectFailure, true)
  assert.equal(ON_503.shouldRetryStatus(500, -1), false, 'the policy of the rule is as it was')
})

test('conditions of gRPC are read from both headers', () => {
  const policy = overrides({ 'x-envoy-retry-grpc-on': 'unavailable,internal' }).retryOver(NEVER, 0)
  assert.equal(policy.shouldRetryStatus(200, 14), true)
  assert.equal(policy.shouldRetryStatus(200, 13), true)
  assert.equal(policy.shouldRetryStatus(200, 8), false)
})

test('a number of retries takes the place of that of the rule, within bounds', () => {
  const attempts = (text: string, policy: RetryPolicy): number =>
    overrides({ 'x-envoy-max-retries': text }).retryOver(policy, 0).attempts
  assert.equal(attempts('1', ON_503), 1)
  assert.equal(attempts('0', ON_503), 0)
  assert.equal(attempts('999', ON_503), OVERRIDE_RETRIES_MAX)
  const many = RetryPolicy.compile({ ...DEFAULT_RETRY, attempts: 20 })
  assert.equal(attempts('999', many), 20, 'never fewer than the rule itself allows')
  assert.equal(
    overrides({ 'x-envoy-retry-on': 'reset' }).retryOver(NEVER, 0).attempts,
    1,
    'one where the rule has none',
  )
})

test('a list is read up to a bound', () => {
  const codes = Array.from({ length: 500 }, (_, index) => 100 + index)
  assert.equal(overrides({ 'x-envoy-retriable-status-codes': codes.join(',') }).statuses.length, 16)
  assert.equal(overrides({ 'x-envoy-retry-on': ','.repeat(5000) }).on.length, 0)
})
