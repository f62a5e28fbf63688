import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { BALANCE_LEAST_REQUEST, BALANCE_RANDOM, BALANCE_ROUND_ROBIN, type Balance } from '../../src/model/service.ts'
import { Endpoint } from '../../src/proxy/endpoint.ts'
import { createPicker, type Picker } from '../../src/proxy/picker.ts'
import { workloadOf } from '../support/proxy-objects.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { isWithinThreeSigma } from '../support/statistics.ts'

const BALANCES: readonly [string, Balance][] = [
  ['round robin', BALANCE_ROUND_ROBIN],
  ['least request', BALANCE_LEAST_REQUEST],
  ['random', BALANCE_RANDOM],
]

function endpointsOf(...weights: readonly number[]): Endpoint[] {
  return weights.map(
    (capacity, index) => new Endpoint(`e${index}`, workloadOf(`w${index}`, { capacity }), '198.18.1.1', 80),
  )
}

function pickerOf(balance: Balance, endpoints: readonly Endpoint[], seed = 1): Picker {
  const random = new SeededRandom(seed)
  return createPicker(balance, endpoints, () => random.next())
}

/** How often each endpoint is picked in `trials`. */
function count(picker: Picker, endpoints: readonly Endpoint[], trials: number): number[] {
  const counts = new Map<Endpoint, number>()
  for (let i = 0; i < trials; i++) {
    const endpoint = picker.pick(null)!
    counts.set(endpoint, (counts.get(endpoint) ?? 0) + 1)
  }
  return endpoints.map((endpoint) => counts.get(endpoint) ?? 0)
}

for (const [name, balance] of BALANCES) {
  for (const weights of [
    [1, 1, 1],
    [3, 1, 2],
  ]) {
    describe(`${name} over weights ${weights}`, () => {
      test('picks nothing from nothing, and the only one from one', () => {
        assert.equal(pickerOf(balance, []).pick(null), null)
        const one = endpointsOf(weights[0]!)
        assert.equal(pickerOf(balance, one).pick(null), one[0])
        assert.equal(pickerOf(balance, one).pick(one), one[0])
      })

      test('avoids what was tried while there is another, and picks again when all were', () => {
        const endpoints = endpointsOf(...weights)
        const picker = pickerOf(balance, endpoints)
        for (let i = 0; i < 200; i++) {
          const tried: Endpoint[] = []
          for (let j = 0; j < endpoints.length; j++) {
            const endpoint = picker.pick(tried)!
            assert.ok(!tried.includes(endpoint), `pick ${j}`)
            tried.push(endpoint)
          }
          assert.ok(endpoints.includes(picker.pick(tried)!))
        }
      })

      test('avoids a tried endpoint however idle it is', () => {
        for (const count of [2, weights.length]) {
          const endpoints = endpointsOf(...weights.slice(0, count))
          for (const endpoint of endpoints.slice(1)) endpoint.requestsActive = 100
          const picker = pickerOf(balance, endpoints)
          for (let i = 0; i < 100; i++) assert.notEqual(picker.pick([endpoints[0]!]), endpoints[0])
        }
      })
    })
  }
}

describe('round robin', () => {
  test('picks in turn, from any beginning', () => {
    const endpoints = endpointsOf(1, 1, 1, 1)
    const picker = createPicker(BALANCE_ROUND_ROBIN, endpoints, () => 0.6)
    const keys = Array.from({ length: 6 }, () => picker.pick(null)!.key)
    assert.deepEqual(keys, ['e2', 'e3', 'e0', 'e1', 'e2', 'e3'])
  })

  test('by weight is exact over a turn, and does not burst', () => {
    const endpoints = endpointsOf(5, 1, 1)
    const picker = pickerOf(BALANCE_ROUND_ROBIN, endpoints)
    const keys = Array.from({ length: 14 }, () => picker.pick(null)!.key)
    assert.deepEqual(keys.slice(0, 7), keys.slice(7))
    assert.deepEqual(keys.slice(0, 7).sort(), ['e0', 'e0', 'e0', 'e0', 'e0', 'e1', 'e2'])
    assert.doesNotMatch(keys.join(), /e1,e2|e2,e1|e0,e0,e0,e0,e0/)
  })
})

describe('random and idle least request', () => {
  for (const balance of [BALANCE_RANDOM, BALANCE_LEAST_REQUEST] as const) {
    for (const weights of [
      [1, 1, 1, 1],
      [1, 2, 5],
    ]) {
      test(`${balance === BALANCE_RANDOM ? 'random' : 'least request'} meets the shares of ${weights} within three sigma`, () => {
        const endpoints = endpointsOf(...weights)
        const trials = 20_000
        const counts = count(pickerOf(balance, endpoints, 99), endpoints, trials)
        const total = weights.reduce((sum, weight) => sum + weight, 0)
        weights.forEach((weight, index) => {
          assert.ok(isWithinThreeSigma(counts[index]!, trials, weight / total), `${counts}`)
        })
      })
    }
  }
})

describe('least request', () => {
  test('takes the less busy of two', () => {
    const endpoints = endpointsOf(1, 1)
    endpoints[0]!.requestsActive = 3
    endpoints[1]!.requestsActive = 2
    const picker = pickerOf(BALANCE_LEAST_REQUEST, endpoints)
    assert.deepEqual(count(picker, endpoints, 100), [0, 100])
  })

  test('measures by weight: four requests are few for a weight of five', () => {
    const endpoints = endpointsOf(5, 1)
    endpoints[0]!.requestsActive = 4
    endpoints[1]!.requestsActive = 1
    const picker = pickerOf(BALANCE_LEAST_REQUEST, endpoints)
    assert.deepEqual(count(picker, endpoints, 100), [100, 0])
  })

  test('never takes the busiest of many', () => {
    const endpoints = endpointsOf(1, 1, 1, 1, 1)
    endpoints[3]!.requestsActive = 1
    const counts = count(pickerOf(BALANCE_LEAST_REQUEST, endpoints), endpoints, 1_000)
    assert.equal(counts[3], 0)
  })

  test('keeps the load level when requests are held open', () => {
    const endpoints = endpointsOf(1, 1, 1, 1)
    const picker = pickerOf(BALANCE_LEAST_REQUEST, endpoints)
    for (let i = 0; i < 400; i++) picker.pick(null)!.onRequestStart()
    const loads = endpoints.map((endpoint) => endpoint.requestsActive)
    assert.ok(Math.max(...loads) - Math.min(...loads) <= 3, `${loads}`)
  })
})
