import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Carriage } from '../../src/agent/carriage.ts'
import { type CarriagePlan, EMPTY_PLAN, frontendKey } from '../../src/agent/carriage-plan.ts'
import { Logger } from '../../src/base/log.ts'
import { BackendMap, FrontendMap, VerdictMap } from '../../src/kernel/carry-maps.ts'
import {
  BACKEND,
  BACKEND_KEY,
  FRONTEND,
  FRONTEND_KEY,
  VERDICT_KEY,
  VERDICT_VALUE,
} from '../../src/kernel/layout.generated.ts'
import { MemoryMap } from '../support/memory-map.ts'

/** Maps of that many entries, a carriage on them, and what it logs. */
function carriageWith(frontends: number, backends: number, verdicts: number) {
  const maps = {
    frontends: new FrontendMap(new MemoryMap(FRONTEND_KEY.bytes, FRONTEND.bytes, frontends)),
    backends: new BackendMap(new MemoryMap(BACKEND_KEY.bytes, BACKEND.bytes, backends)),
    verdicts: new VerdictMap(new MemoryMap(VERDICT_KEY.bytes, VERDICT_VALUE.bytes, verdicts)),
  }
  const lines: string[] = []
  const log = new Logger('carriage', 'info', (line) => lines.push(line))
  return { maps, lines, carriage: new Carriage(maps, log) }
}

/** Services 1, 2, ...: each with one address and that many slots, all of pod 7, which pod 1 may reach. */
function planOf(slots: readonly number[], fallbacks: readonly number[] = [], isAllowed = true): CarriagePlan {
  const plan = { frontends: new Map(), backends: new Map(), verdicts: new Map(), carried: new Map() }
  for (const [index, count] of slots.entries()) {
    const service = index + 1
    const frontend = { address: `198.19.0.${service}`, port: 80, scope: 0 }
    const isFallback = fallbacks.includes(service)
    const carriedKey = `service ${service}`
    plan.frontends.set(frontendKey(frontend), { frontend, service, slots: count, isFallback, carriedKey })
    if (!isFallback) plan.carried.set(carriedKey, ['pod'])
    for (let slot = 0; slot < count; slot++) {
      const backend = { address: '198.18.0.7', port: 8080, pod: isFallback ? 0 : 7 }
      plan.backends.set(`${service} ${slot}`, { service, slot, backend })
    }
  }
  const pair = { source: 1, destination: 7, port: 8080 }
  plan.verdicts.set('1 7 8080', { pair, isAllowed, policy: isAllowed ? 0 : 3 })
  return plan
}

/** Services whose frontend is there, with the number of their slots that are. */
function inMaps({ frontends, backends }: ReturnType<typeof carriageWith>['maps']): string[] {
  const slots = [...backends.entries()]
  const counts = [...frontends.entries()].map(
    ({ service }) => `${service}: ${slots.filter((slot) => slot.service === service).length}`,
  )
  return counts.sort()
}

test('a plan fills the maps, and the next one leaves only what it has', () => {
  const { maps, carriage } = carriageWith(10, 10, 10)
  carriage.apply(planOf([2, 3]))
  assert.deepEqual(inMaps(maps), ['1: 2', '2: 3'])
  carriage.apply(planOf([3]))
  assert.deepEqual(inMaps(maps), ['1: 3'])
  assert.equal([...maps.backends.entries()].length, 3)
  carriage.apply(EMPTY_PLAN)
  assert.deepEqual([...maps.frontends.entries(), ...maps.backends.entries(), ...maps.verdicts.entries()], [])
})

for (const [name, frontends, backends] of [
  ['frontends', 2, 100],
  ['slots', 100, 5],
] as const) {
  test(`with no room for more ${name}, who came first stays, the others are the agent's, and the log says so once`, () => {
    const { maps, lines, carriage } = carriageWith(frontends, backends, 10)
    carriage.apply(planOf([2, 3]))
    carriage.apply(planOf([2, 3, 2]))
    assert.deepEqual(inMaps(maps), ['1: 2', '2: 3'])
    assert.equal([...maps.backends.entries()].length, 5, 'half a service takes no room')
    assert.deepEqual([...carriage.carried.keys()], ['service 1', 'service 2'])
    carriage.apply(planOf([2, 3, 2]))
    assert.equal(lines.length, 1, lines.join('\n'))
    assert.match(lines[0]!, /"level":"error".*no room for some connections.*"services":1/)
    // When somebody goes, the next one finds room.
    const rest = planOf([2, 3, 2])
    carriage.apply({
      ...rest,
      frontends: new Map([...rest.frontends].filter(([, { service }]) => service !== 1)),
      backends: new Map([...rest.backends].filter(([, { service }]) => service !== 1)),
    })
    assert.deepEqual(inMaps(maps), ['2: 3', '3: 2'])
    assert.match(lines.at(-1)!, /has room for all connections again/)
  })
}

test('a verdict that finds no room is none: the agent decides', () => {
  const { maps, lines, carriage } = carriageWith(10, 10, 1)
  const pair = { source: 2, destination: 7, port: 8080 }
  const plan = planOf([1])
  const verdicts = new Map([...plan.verdicts, ['2 7 8080', { pair, isAllowed: false, policy: 3 }] as const])
  carriage.apply({ ...plan, verdicts })
  assert.deepEqual(
    [...maps.verdicts.entries()].map((entry) => entry.pair.source),
    [1],
  )
  assert.match(lines[0]!, /"verdicts":1/)
})

test('a verdict that changes is replaced, also in a full map', () => {
  const { maps, carriage } = carriageWith(1, 1, 1)
  carriage.apply(planOf([1]))
  carriage.apply(planOf([1], [], false))
  assert.deepEqual(
    [...maps.verdicts.entries()].map(({ isAllowed, policy }) => [isAllowed, policy]),
    [[false, 3]],
  )
})

test('a pod that leaves is in no slot and no verdict', () => {
  const { maps, carriage } = carriageWith(10, 10, 10)
  carriage.apply(planOf([2, 1]))
  carriage.leave(7)
  assert.deepEqual(inMaps(maps), ['1: 2', '2: 1'])
  assert.ok([...maps.backends.entries()].every(({ backend }) => backend.pod === 0))
  assert.deepEqual([...maps.verdicts.entries()], [])
  // It comes back with the next plan that has it.
  carriage.apply(planOf([2, 1]))
  assert.ok([...maps.backends.entries()].every(({ backend }) => backend.pod === 7))
  assert.equal([...maps.verdicts.entries()].length, 1)
})

test('what an earlier agent has left is taken for what is in force', () => {
  const { maps, carriage } = carriageWith(10, 10, 10)
  carriage.apply(planOf([2, 3], [2]))
  const next = new Carriage(maps, new Logger('carriage', 'info', () => {}))
  next.apply(planOf([2]))
  assert.deepEqual(inMaps(maps), ['1: 2'])
  assert.equal([...maps.backends.entries()].length, 2)
})
