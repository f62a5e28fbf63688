import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { type Traffic, trafficKey } from '../../src/model/route.ts'
import { BALANCE_LEAST_REQUEST, BALANCE_RANDOM, type Cluster, PROTOCOL_HTTP1 } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, type LocalPod } from '../../src/model/workload.ts'
import { ClusterRegistry } from '../../src/proxy/cluster-registry.ts'
import { clusterOf, OUTLIER, SERVICE, snapshotOf, TestClock, workloadOf } from '../support/proxy-objects.ts'

const A = workloadOf('a', { addresses: ['198.18.1.1'] })
const B = workloadOf('b', { addresses: ['198.18.1.2'] })

function registryOf(): ClusterRegistry {
  return new ClusterRegistry(new TestClock().read, () => 0)
}

function trafficOf(scope: string, ...clusters: readonly Cluster[]): Traffic {
  return {
    key: trafficKey(scope, SERVICE.key, 80),
    scope,
    service: SERVICE.key,
    port: 80,
    protocol: PROTOCOL_HTTP1,
    defaultCluster: clusters[0]!.key,
    clusters,
    routes: [],
    tcpClusters: [],
  }
}

function after(snapshot: Snapshot, delta: Partial<Delta>): Snapshot {
  return snapshot.apply({ ...EMPTY_DELTA, ...delta })
}

describe('the cluster registry', () => {
  test('gives one state for one cluster, with the endpoints of the snapshot', () => {
    const registry = registryOf()
    const snapshot = snapshotOf([A, B])
    const cluster = clusterOf()
    const state = registry.get(cluster, snapshot)
    assert.equal(registry.get(cluster, snapshot), state)
    assert.equal(state.endpointCount, 2)
  })

  test('brings a state up to date when the snapshot has changed', () => {
    const registry = registryOf()
    const first = snapshotOf([A])
    const cluster = clusterOf()
    const state = registry.get(cluster, first)
    const kept = state.endpoints[0]
    assert.equal(registry.get(cluster, after(first, { workloads: [B] })), state)
    assert.equal(state.endpointCount, 2)
    assert.equal(state.endpoints[0], kept)
  })

  test('knows where its clients are from the pods of the node, as soon as there is one', () => {
    const registry = registryOf()
    const far = { ...B, node: 'node2' }
    const local = { ...SERVICE, isNodeLocal: true }
    const first = after(snapshotOf([A, far]), { services: [local] })
    const cluster = clusterOf()
    const state = registry.get(cluster, first)
    assert.equal(state.endpointCount, 0)
    const pods: LocalPod[] = [{ uid: A.uid, netns: '', scope: '*', failureMode: FAILURE_BY_POLICY }]
    registry.get(cluster, after(first, { pods }))
    assert.deepEqual(
      state.endpoints.map(({ workload }) => workload.name),
      ['a'],
    )
  })

  test('does nothing for a snapshot that changed elsewhere', () => {
    const registry = registryOf()
    const first = snapshotOf([A])
    const cluster = clusterOf()
    const { endpoints } = registry.get(cluster, first)
    assert.equal(registry.get(cluster, after(first, { traffic: [trafficOf('s', clusterOf())] })).endpoints, endpoints)
  })

  test('a connection with an old snapshot does not turn the clock back', () => {
    const registry = registryOf()
    const old = snapshotOf([A])
    const cluster = clusterOf()
    const state = registry.get(cluster, after(old, { workloads: [B] }))
    assert.equal(registry.get(cluster, old), state)
    assert.equal(state.endpointCount, 2)
  })

  test('a service that is not known has no endpoints', () => {
    assert.equal(registryOf().get(clusterOf({ service: 'shop/none' }), snapshotOf([A])).endpointCount, 0)
  })

  test('two scopes with different settings for one key have two states', () => {
    const registry = registryOf()
    const one = clusterOf()
    const two = clusterOf({ balance: BALANCE_RANDOM })
    const snapshot = after(snapshotOf([A]), { traffic: [trafficOf('one', one), trafficOf('two', two)] })
    const stateOne = registry.get(one, snapshot)
    const stateTwo = registry.get(two, snapshot)
    assert.notEqual(stateOne, stateTwo)
    assert.equal(registry.get(one, snapshot), stateOne)
    assert.equal(stateTwo.cluster.balance, BALANCE_RANDOM)
  })

  test('a renewed cluster object takes over the state, its counters and its ejections', () => {
    const registry = registryOf()
    const first = after(snapshotOf([A, B]), { traffic: [trafficOf('one', clusterOf({ outlier: OUTLIER }))] })
    const state = registry.get(first.trafficOf('one', SERVICE.key, 80)!.clusters[0]!, first)
    state.tryAcquireRequest()
    for (let i = 0; i < 3; i++) state.endpoints[0]!.onFailure(false, 0)
    const renewed = clusterOf({ outlier: { ...OUTLIER } })
    const second = after(first, { traffic: [trafficOf('one', renewed)] })
    assert.equal(registry.get(renewed, second), state)
    assert.equal(state.requestsActive, 1)
    assert.equal(state.endpoints[0]!.isEjected, true)
    assert.equal(registry.states().length, 1)
  })

  test('changed settings take over the state that is gone, never one that is in use', () => {
    const registry = registryOf()
    const one = clusterOf()
    const two = clusterOf({ balance: BALANCE_RANDOM })
    const first = after(snapshotOf([A]), { traffic: [trafficOf('one', one), trafficOf('two', two)] })
    const stateOne = registry.get(one, first)
    const stateTwo = registry.get(two, first)
    const changed = clusterOf({ isMutualTls: false })
    const second = after(first, { traffic: [trafficOf('two', changed)] })
    assert.equal(registry.get(changed, second), stateTwo)
    assert.equal(stateTwo.isMutualTls, false)
    assert.equal(registry.get(one, second), stateOne)
    assert.equal(stateOne.isMutualTls, true)
  })

  test('of several that are gone, the one with equal settings is taken over', () => {
    const registry = registryOf()
    const one = clusterOf()
    const two = clusterOf({ balance: BALANCE_RANDOM })
    const first = after(snapshotOf([A]), { traffic: [trafficOf('one', one), trafficOf('two', two)] })
    const stateOne = registry.get(one, first)
    const stateTwo = registry.get(two, first)
    const newOne = clusterOf()
    const newTwo = clusterOf({ balance: BALANCE_RANDOM })
    const second = after(first, { traffic: [trafficOf('one', newOne), trafficOf('two', newTwo)] })
    assert.equal(registry.get(newTwo, second), stateTwo)
    assert.equal(registry.get(newOne, second), stateOne)
  })

  test('the default cluster of a service port is always the same object, and least request', () => {
    const registry = registryOf()
    const cluster = registry.defaultCluster(SERVICE, 80)
    assert.equal(registry.defaultCluster(SERVICE, 80), cluster)
    assert.notEqual(registry.defaultCluster(SERVICE, 81), cluster)
    assert.equal(cluster.key, clusterOf().key)
    assert.equal(cluster.balance, BALANCE_LEAST_REQUEST)
    assert.equal(cluster.isMutualTls, true)
  })

  test('the default cluster of a renewed service keeps its state', () => {
    const registry = registryOf()
    const first = snapshotOf([A])
    const state = registry.get(registry.defaultCluster(SERVICE, 80), first)
    const renewed = { ...SERVICE, addresses: ['198.19.0.2'] }
    const second = after(first, { services: [renewed] })
    assert.equal(registry.get(registry.defaultCluster(renewed, 80), second), state)
  })

  test('sweeping forgets what the snapshot has no more, and nothing else', () => {
    const registry = registryOf()
    const kept = clusterOf()
    const dropped = clusterOf({ balance: BALANCE_RANDOM })
    const first = after(snapshotOf([A]), { traffic: [trafficOf('one', kept), trafficOf('two', dropped)] })
    const states = [registry.get(kept, first), registry.get(registry.defaultCluster(SERVICE, 80), first)]
    registry.get(dropped, first)
    const second = after(first, { removedTraffic: [trafficKey('two', SERVICE.key, 80)] })
    registry.sweep(second)
    assert.deepEqual(registry.states(), states)
    registry.sweep(
      after(second, { removedServices: [SERVICE.key], removedTraffic: [trafficKey('one', SERVICE.key, 80)] }),
    )
    assert.deepEqual(registry.states(), [])
  })

  test('what was swept away is made anew when it is asked for again', () => {
    const registry = registryOf()
    const snapshot = snapshotOf([A])
    const cluster = clusterOf()
    const state = registry.get(cluster, snapshot)
    registry.sweep(snapshot)
    assert.notEqual(registry.get(cluster, snapshot), state)
    assert.equal(registry.get(cluster, snapshot).endpointCount, 1)
  })

  test('the empty snapshot has nothing', () => {
    assert.equal(registryOf().get(clusterOf(), Snapshot.empty).pick(null), null)
  })
})
