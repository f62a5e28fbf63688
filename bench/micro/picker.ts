/** Picking an endpoint, by scheme and number of endpoints. */
import { BALANCE_LEAST_REQUEST, BALANCE_RANDOM, BALANCE_ROUND_ROBIN, type Balance } from '../../src/model/service.ts'
import { Endpoint } from '../../src/proxy/endpoint.ts'
import { createPicker } from '../../src/proxy/picker.ts'
import { workloadOf } from '../../test/support/proxy-objects.ts'
import { measure } from './measure.ts'

const CALLS = 300_000

const schemes: readonly [string, Balance][] = [
  ['round robin', BALANCE_ROUND_ROBIN],
  ['least request', BALANCE_LEAST_REQUEST],
  ['random', BALANCE_RANDOM],
]

for (const count of [3, 100]) {
  const equal = Array.from({ length: count }, (_, i) => new Endpoint(`e${i}`, workloadOf(`w${i}`), '198.18.1.1', 80))
  const weighted = Array.from(
    { length: count },
    (_, i) => new Endpoint(`e${i}`, workloadOf(`w${i}`, { capacity: 1 + (i % 3) }), '198.18.1.1', 80),
  )
  for (const [name, balance] of schemes) {
    const picker = createPicker(balance, equal, Math.random)
    const weightedPicker = createPicker(balance, weighted, Math.random)
    const tried = [equal[0]!]
    measure(`picker: ${name}, ${count} endpoints`, CALLS, () => picker.pick(null)!.port)
    measure(`picker: ${name}, ${count} endpoints, one tried`, CALLS, () => picker.pick(tried)!.port)
    measure(`picker: ${name}, ${count} weighted endpoints`, CALLS, () => weightedPicker.pick(null)!.port)
  }
}
