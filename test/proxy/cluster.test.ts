import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  BALANCE_LEAST_REQUEST,
  type Cluster,
  DEFAULT_POOL_LIMITS,
  type PoolLimits,
  type Service,
} from '../../src/model/service.ts'
import type { Workload } from '../../src/model/workload.ts'
import { ClusterState } from '../../src/proxy/cluster.ts'
import { clusterOf, OUTLIER, SERVICE, TestClock, workloadOf } from '../support/proxy-objects.ts'

const clock = new TestClock()

function stateOf(cluster: Cluster, workloads: readonly Workload[], service: Service | null = SERVICE): ClusterState {
  const state = new ClusterState(cluster, clock.read, () => 0)
  state.update(cluster, service, workloads)
  return state
}

function names(state: ClusterState): string[] {
  return state.endpoints.map((endpoint) => endpoint.workload.name)
}

/** Who is picked in `count` picks. */
function picks(state: ClusterState, count: number): Set<string> {
  const picked = new Set<string>()
  for (let i = 0; i < count; i++) picked.add(state.pick(null)?.workload.name ?? 'none')
  return picked
}

const A = workloadOf('a', { addresses: ['198.18.1.1', 'fd77:1::1'] })
const B = workloadOf('b', { addresses: ['198.18.1.2'] })
const C = workloadOf('c', { addresses: ['198.18.1.3'] })

describe('the endpoints of a cluster', () => {
  test('are the healthy workloads of the service, at their preferred address', () => {
    const state = stateOf(clusterOf(), [A, { ...B, isHealthy: false }, C])
    assert.deepEqual(names(state), ['a', 'c'])
    assert.equal(state.endpointCount, 2)
    assert.equal(state.endpoints[0]!.address, '198.18.1.1')
  })

  test('are those of the subset only', () => {
    const state = stateOf(clusterOf({ members: [B.uid, 'someone else'] }), [A, B, C])
    assert.deepEqual(names(state), ['b'])
    assert.deepEqual(names(stateOf(clusterOf({ members: [] }), [A])), [])
  })

  test('have weight by capacity; capacity 0 takes no traffic', () => {
    const state = stateOf(clusterOf(), [
      { ...A, capacity: 3 },
      { ...B, capacity: 0 },
    ])
    assert.deepEqual(
      state.endpoints.map((endpoint) => endpoint.weight),
      [3],
    )
  })

  test("listen at the port that the workload maps, else at the service's target port", () => {
    const own = { ...A, services: [{ service: SERVICE.key, ports: [{ servicePort: 80, targetPort: 7777 }] }] }
    const none = { ...B, services: [{ service: SERVICE.key, ports: [] }] }
    const other = { ...C, services: [{ service: 'shop/other', ports: [{ servicePort: 80, targetPort: 1 }] }] }
    const ports = stateOf(clusterOf(), [own, none, other]).endpoints.map((endpoint) => endpoint.port)
    assert.deepEqual(ports, [7777, 9080, 9080])
  })

  test('without address or port are left out', () => {
    assert.deepEqual(names(stateOf(clusterOf(), [{ ...A, addresses: [] }, B])), ['b'])
    assert.deepEqual(names(stateOf(clusterOf({ port: 81 }), [A])), [])
    assert.deepEqual(names(stateOf(clusterOf(), [A, { ...B, services: [] }], null)), ['a'])
  })

  test('that stay keep their counters, new ones begin at 0, and who left can still be released', () => {
    const state = stateOf(clusterOf(), [A, B])
    const [a, b] = state.endpoints
    a!.onRequestStart()
    b!.onRequestStart()
    const renewed = { ...A, canonicalRevision: 'v2', capacity: 4 }
    state.update(state.cluster, SERVICE, [renewed, C])
    assert.equal(state.endpoints[0], a)
    assert.equal(a!.requestsActive, 1)
    assert.equal(a!.workload, renewed)
    assert.equal(a!.weight, 4)
    assert.equal(state.endpoints[1]!.requestsActive, 0)
    b!.onRequestEnd()
    assert.equal(b!.requestsActive, 0)
    assert.deepEqual(picks(state, 10), new Set(['a', 'c']))
  })

  test('a pod that came back under its name with another address is another endpoint', () => {
    const state = stateOf(clusterOf(), [A])
    const before = state.endpoints[0]
    state.update(state.cluster, SERVICE, [{ ...A, addresses: ['198.18.1.9'] }])
    assert.notEqual(state.endpoints[0], before)
  })

  test('an endpoint that left and came back begins anew', () => {
    const state = stateOf(clusterOf(), [A, B])
    const before = state.endpoints[0]
    state.update(state.cluster, SERVICE, [B])
    state.update(state.cluster, SERVICE, [A, B])
    assert.notEqual(state.endpoints[0], before)
  })

  test('without any, nothing is picked', () => {
    assert.equal(stateOf(clusterOf(), []).pick(null), null)
    assert.equal(new ClusterState(clusterOf(), clock.read, Math.random).pick(null), null)
  })
})

describe('ejection', () => {
  function failing(count: number, cluster: Cluster, ...indexes: readonly number[]): ClusterState {
    const workloads = [A, B, C].slice(0, count)
    const state = stateOf(cluster, workloads)
    for (const index of indexes) for (let i = 0; i < 3; i++) state.endpoints[index]!.onFailure(false, clock.nowMs)
    return state
  }

  test('an ejected endpoint gets nothing until it returns', () => {
    const state = failing(3, clusterOf({ outlier: OUTLIER }), 1)
    assert.deepEqual(picks(state, 20), new Set(['a', 'c']))
    clock.nowMs += OUTLIER.baseEjectionMs
    assert.deepEqual(picks(state, 20), new Set(['a', 'b', 'c']))
  })

  test('with all ejected, nothing is picked', () => {
    assert.equal(failing(2, clusterOf({ outlier: OUTLIER }), 0, 1).pick(null), null)
  })

  test('below the least healthy share, ejection is ignored', () => {
    const outlier = { ...OUTLIER, healthPercentMin: 50 }
    assert.deepEqual(picks(failing(3, clusterOf({ outlier }), 0), 20), new Set(['b', 'c']))
    assert.deepEqual(picks(failing(3, clusterOf({ outlier }), 0, 1), 20), new Set(['a', 'b', 'c']))
    assert.deepEqual(picks(failing(2, clusterOf({ outlier }), 0), 20), new Set(['b']))
  })

  test('without outlier detection failures are not counted', () => {
    assert.deepEqual(picks(failing(2, clusterOf(), 0), 20), new Set(['a', 'b']))
  })

  test('survives a change of endpoints, and ends with the rule that caused it', () => {
    const cluster = clusterOf({ outlier: OUTLIER })
    const state = failing(2, cluster, 0)
    state.update(cluster, SERVICE, [A, B, C])
    assert.deepEqual(picks(state, 20), new Set(['b', 'c']))
    state.update(clusterOf({ outlier: { ...OUTLIER, consecutive5xx: 7 } }), SERVICE, [A, B, C])
    assert.deepEqual(picks(state, 20), new Set(['a', 'b', 'c']))
    for (let i = 0; i < 3; i++) state.endpoints[0]!.onFailure(false, clock.nowMs)
    assert.equal(state.endpoints[0]!.isEjected, false)
  })

  test('survives a renewed object with the same rule', () => {
    const state = failing(2, clusterOf({ outlier: OUTLIER }), 0)
    state.update(clusterOf({ outlier: { ...OUTLIER } }), SERVICE, [A, B])
    assert.deepEqual(picks(state, 20), new Set(['b']))
  })

  test('an endpoint that left reports to nobody', () => {
    const cluster = clusterOf({ outlier: OUTLIER })
    const state = failing(2, cluster)
    const gone = state.endpoints[0]!
    state.update(cluster, SERVICE, [B])
    for (let i = 0; i < 3; i++) gone.onFailure(false, clock.nowMs)
    assert.equal(gone.isEjected, false)
  })
})

describe('circuit breaking', () => {
  type Kind = 'Request' | 'Pending' | 'Retry' | 'Connection'
  const kinds: readonly [Kind, keyof PoolLimits, 'requests' | 'pending' | 'retries' | 'connections'][] = [
    ['Request', 'requestsMax', 'requests'],
    ['Pending', 'pendingRequestsMax', 'pending'],
    ['Retry', 'retriesMax', 'retries'],
    ['Connection', 'connectionsMax', 'connections'],
  ]
  for (const [kind, limit, counter] of kinds) {
    test(`${counter} are refused beyond ${limit}, counted, and free again after release`, () => {
      const state = stateOf(clusterOf({ limits: { ...DEFAULT_POOL_LIMITS, [limit]: 2 } }), [A])
      const outcomes = [1, 2, 3, 4].map(() => state[`tryAcquire${kind}`]())
      assert.deepEqual(outcomes, [true, true, false, false])
      assert.equal(state[`${counter}Active`], 2)
      assert.equal(state[`${counter}Overflow`], 2)
      state[`release${kind}`]()
      assert.equal(state[`tryAcquire${kind}`](), true)
    })

    test(`${counter} are only counted without ${limit}`, () => {
      const state = stateOf(clusterOf(), [A])
      for (let i = 0; i < 1_000; i++) assert.equal(state[`tryAcquire${kind}`](), true)
      assert.equal(state[`${counter}Active`], 1_000)
      assert.equal(state[`${counter}Overflow`], 0)
    })
  }

  test('workers share the limits of a cluster, each at least one of everything; connections are as they were', () => {
    const limits: PoolLimits = {
      ...DEFAULT_POOL_LIMITS,
      connectionsMax: 10,
      pendingRequestsMax: 9,
      requestsMax: 1,
      requestsPerConnectionMax: 100,
    }
    const share = new ClusterState(clusterOf({ limits }), () => 0, Math.random, 3).limits
    assert.deepEqual(share, { ...limits, connectionsMax: 4, pendingRequestsMax: 3, requestsMax: 1 })
    assert.equal(share.retriesMax, null)
  })

  test('limits stay the same object while they say the same, so that what is pooled under them stays', () => {
    const limits = { ...DEFAULT_POOL_LIMITS, requestsMax: 5 }
    const state = new ClusterState(clusterOf({ limits }), () => 0, Math.random, 2)
    const before = state.limits
    state.update(clusterOf({ limits: { ...limits } }), SERVICE, [A])
    assert.ok(state.limits === before)
    state.update(clusterOf({ limits: { ...limits, requestsMax: 6 } }), SERVICE, [A])
    assert.equal(state.limits.requestsMax, 3)
  })

  test('an endpoint that the cluster has no more is marked, one that stays is not', () => {
    const state = stateOf(clusterOf(), [A, B])
    const [a, b] = state.endpoints
    state.update(clusterOf(), SERVICE, [B])
    assert.deepEqual([a!.isRemoved, b!.isRemoved], [true, false])
  })

  test('a new limit holds at once, for what is already in flight as well', () => {
    const state = stateOf(clusterOf({ balance: BALANCE_LEAST_REQUEST }), [A])
    for (let i = 0; i < 3; i++) state.tryAcquireRequest()
    state.update(clusterOf({ limits: { ...DEFAULT_POOL_LIMITS, requestsMax: 3 } }), SERVICE, [A])
    assert.equal(state.tryAcquireRequest(), false)
  })
})
