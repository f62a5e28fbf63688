import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Service } from '../../src/model/service.ts'
import { Affinity, CLIENTS_MAX } from '../../src/proxy/affinity.ts'
import { ClusterState } from '../../src/proxy/cluster.ts'
import { Endpoint } from '../../src/proxy/endpoint.ts'
import { clusterOf, OUTLIER, SERVICE, TestClock, workloadOf } from '../support/proxy-objects.ts'

const AFFINITY_MS = 10_000

function endpointOf(name: string, capacity = 1): Endpoint {
  const workload = workloadOf(name, { capacity })
  return new Endpoint(`${workload.uid}@198.18.1.1:80`, workload, '198.18.1.1', 80)
}

const clients = Array.from({ length: 400 }, (_, i) => `Kubernetes//Pod/shop/client-${i}`)

function choices(affinity: Affinity, endpoints: readonly Endpoint[], nowMs = 0): Endpoint[] {
  return clients.map((client) => affinity.pick(client, endpoints, null, nowMs)!)
}

const [A, B, C] = ['a', 'b', 'c'].map((name) => endpointOf(name)) as [Endpoint, Endpoint, Endpoint]

describe('session affinity', () => {
  test('keeps every client with its endpoint, and spreads clients', () => {
    const affinity = new Affinity(AFFINITY_MS)
    const first = choices(affinity, [A, B, C])
    assert.deepEqual(choices(affinity, [A, B, C]), first)
    for (const endpoint of [A, B, C]) {
      const count = first.filter((one) => one === endpoint).length
      assert.ok(count > 80 && count < 190, `${endpoint.key} has ${count} of 400`)
    }
  })

  test('spreads by weight', () => {
    const heavy = endpointOf('heavy', 3)
    const chosen = choices(new Affinity(AFFINITY_MS), [heavy, B])
    const count = chosen.filter((one) => one === heavy).length
    assert.ok(count > 255 && count < 345, `${count} of 400 for three quarters`)
  })

  test('is the same in every worker', () => {
    const [one, other] = [new Affinity(AFFINITY_MS), new Affinity(AFFINITY_MS)]
    assert.deepEqual(choices(one, [A, B, C]), choices(other, [C, A, B]))
  })

  test('is kept when endpoints come, and when others go', () => {
    const affinity = new Affinity(AFFINITY_MS)
    const first = choices(affinity, [A, B])
    assert.deepEqual(choices(affinity, [A, B, C]), first)
    const fewer = choices(affinity, [A, C])
    for (const [i, endpoint] of first.entries()) if (endpoint === A) assert.equal(fewer[i], A)
  })

  test('ends when it was not used for its time', () => {
    const affinity = new Affinity(AFFINITY_MS)
    const first = choices(affinity, [A])
    assert.ok(first.every((one) => one === A))
    assert.ok(choices(affinity, [A, B, C], AFFINITY_MS).every((one) => one === A))
    const later = choices(affinity, [A, B, C], 2 * AFFINITY_MS + 1)
    assert.ok(later.some((one) => one !== A))
  })

  test('lasts as long as it is used', () => {
    const affinity = new Affinity(AFFINITY_MS)
    const first = choices(affinity, [A, B])
    for (let nowMs = 0; nowMs <= 5 * AFFINITY_MS; nowMs += AFFINITY_MS - 1) {
      assert.deepEqual(choices(affinity, [A, B, C], nowMs), first)
    }
  })

  test('a try that failed goes elsewhere, and the client comes back', () => {
    const affinity = new Affinity(AFFINITY_MS)
    const own = affinity.pick('client', [A, B, C], null, 0)!
    const second = affinity.pick('client', [A, B, C], [own], 0)!
    assert.notEqual(second, own)
    assert.notEqual(affinity.pick('client', [A, B, C], [own, second], 0), own)
    assert.equal(affinity.pick('client', [A, B, C], null, 0), own)
    assert.equal(affinity.pick('client', [own], [own], 0), own)
    assert.equal(affinity.pick('other', [], null, 0), null)
  })

  test('remembers so many clients and no more, and forgets who is gone', () => {
    const affinity = new Affinity(AFFINITY_MS)
    for (let i = 0; i < CLIENTS_MAX; i++) affinity.pick(`c${i}`, [A], null, 0)
    assert.equal(affinity.clientCount, CLIENTS_MAX)
    affinity.pick('one more', [A], null, 5)
    assert.equal(affinity.clientCount, 1)
    affinity.sweep(AFFINITY_MS + 5)
    assert.equal(affinity.clientCount, 1)
    affinity.sweep(AFFINITY_MS + 6)
    assert.equal(affinity.clientCount, 0)
  })
})

describe('a cluster of a service with affinity', () => {
  const service: Service = { ...SERVICE, affinityMs: AFFINITY_MS }
  const workloads = ['a', 'b', 'c'].map((name, i) => workloadOf(name, { addresses: [`198.18.1.${i}`] }))

  function stateOf(fields = {}): { state: ClusterState; clock: TestClock } {
    const clock = new TestClock()
    const state = new ClusterState(clusterOf(fields), clock.read, () => 0)
    state.update(clusterOf(fields), service, workloads)
    return { state, clock }
  }

  test('gives a pod the same endpoint each time, and others to other pods', () => {
    const { state } = stateOf()
    const own = state.pick(null, 'client')
    for (let i = 0; i < 10; i++) assert.equal(state.pick(null, 'client'), own)
    assert.equal(new Set(clients.map((client) => state.pick(null, client))).size, 3)
  })

  test('leaves an endpoint that is ejected or gone', () => {
    const { state, clock } = stateOf({ outlier: { ...OUTLIER, consecutive5xx: 1 } })
    const own = state.pick(null, 'client')!
    own.onFailure(false, clock.read())
    const second = state.pick(null, 'client')!
    assert.notEqual(second, own)
    const left = workloads.filter(({ uid }) => uid !== second.workload.uid)
    state.update(state.cluster, service, left)
    assert.notEqual(state.pick(null, 'client'), second)
  })

  test('has none when the service has none any more', () => {
    const { state } = stateOf()
    state.update(state.cluster, SERVICE, workloads)
    assert.equal(state.affinity, null)
    assert.equal(new Set(Array.from({ length: 6 }, () => state.pick(null, 'client'))).size, 3)
  })
})
