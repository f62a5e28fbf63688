import assert from 'node:assert/strict'
import test from 'node:test'
import { type Delta, EMPTY_DELTA, isEmptyDelta } from '../../src/model/delta.ts'
import type { Policy } from '../../src/model/policy.ts'
import { POLICY_SCOPE_GLOBAL, POLICY_SCOPE_NAMESPACE, POLICY_SCOPE_WORKLOAD } from '../../src/model/policy.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const A = workloadOf('a', { addresses: ['198.18.1.1', 'fd77:1::1'] })
const B = workloadOf('b', { addresses: ['198.18.1.2'] })

function snapshotOf(...deltas: Partial<Delta>[]): Snapshot {
  return deltas.reduce((snapshot, delta) => snapshot.apply({ ...EMPTY_DELTA, ...delta }), Snapshot.empty)
}

function policy(name: string, scope: Policy['scope'], namespace: string): Policy {
  return { key: `${namespace}/${name}`, name, namespace, scope, action: 'deny', rules: [] } as unknown as Policy
}

test('workloads are found by each of their addresses, services by theirs', () => {
  const snapshot = snapshotOf({ workloads: [A, B], services: [SERVICE] })
  assert.equal(snapshot.workloadByAddress('fd77:1::1'), A)
  assert.equal(snapshot.workloadByAddress('198.18.1.2'), B)
  assert.equal(snapshot.workloadByAddress('198.19.0.1'), null)
  assert.equal(snapshot.serviceByAddress('198.19.0.1'), SERVICE)
  assert.equal(snapshot.serviceByAddress('198.18.1.1'), null)
})

test('a delta leaves the snapshot before it as it was', () => {
  const before = snapshotOf({ workloads: [A] })
  const after = before.apply({ ...EMPTY_DELTA, workloads: [B], removedWorkloads: [A.uid] })
  assert.deepEqual([before.version, after.version], [1, 2])
  assert.equal(before.workloadByAddress('198.18.1.1'), A)
  assert.equal(before.workloadByAddress('198.18.1.2'), null)
  assert.equal(after.workloadByAddress('198.18.1.1'), null)
  assert.equal(after.workloadByAddress('198.18.1.2'), B)
})

test('a workload that changes its address is not found at the old one', () => {
  const moved = { ...A, addresses: ['198.18.1.9'] }
  const snapshot = snapshotOf({ workloads: [A] }, { workloads: [moved] })
  assert.equal(snapshot.workloadByAddress('198.18.1.1'), null)
  assert.equal(snapshot.workloadByAddress('198.18.1.9'), moved)
})

test('an address that went from a deleted workload to a new one in the same delta belongs to the new one', () => {
  const heir = { ...B, addresses: A.addresses }
  const snapshot = snapshotOf({ workloads: [A] }, { workloads: [heir], removedWorkloads: [A.uid] })
  assert.equal(snapshot.workloadByAddress('198.18.1.1'), heir)
})

test('endpoints come in the order of their uid, whatever the order of arrival', () => {
  for (const order of [
    [A, B],
    [B, A],
  ]) {
    assert.deepEqual(snapshotOf({ workloads: order, services: [SERVICE] }).endpointsOf(SERVICE.key), [A, B])
  }
  assert.deepEqual(snapshotOf({}).endpointsOf('shop/none'), [])
})

test('what a delta does not touch is shared', () => {
  const before = snapshotOf({ workloads: [A], services: [SERVICE] })
  const after = before.apply({ ...EMPTY_DELTA, policies: [policy('p', POLICY_SCOPE_GLOBAL, 'istio-system')] })
  assert.equal(after.workloads, before.workloads)
  assert.equal(after.services, before.services)
  assert.equal(after.endpointsOf(SERVICE.key), before.endpointsOf(SERVICE.key))
})

test("a workload's policies are the mesh's, its namespace's, and those that select it", () => {
  const mesh = policy('mesh', POLICY_SCOPE_GLOBAL, 'istio-system')
  const own = policy('own', POLICY_SCOPE_NAMESPACE, 'shop')
  const foreign = policy('foreign', POLICY_SCOPE_NAMESPACE, 'bank')
  const selected = policy('selected', POLICY_SCOPE_WORKLOAD, 'shop')
  const unselected = policy('unselected', POLICY_SCOPE_WORKLOAD, 'shop')
  const workload = { ...A, policies: [selected.key, 'shop/not-there-yet'] }
  const all = [mesh, own, foreign, selected, unselected]
  assert.deepEqual(snapshotOf({ policies: all }).policiesOf(workload), [mesh, own, selected])
  assert.deepEqual(snapshotOf({ policies: all }, { removedPolicies: [mesh.key, own.key] }).policiesOf(workload), [
    selected,
  ])
})

test('a delta is empty exactly when nothing is in it', () => {
  assert.equal(isEmptyDelta(EMPTY_DELTA), true)
  for (const key of Object.keys(EMPTY_DELTA)) assert.equal(isEmptyDelta({ ...EMPTY_DELTA, [key]: ['x'] }), false, key)
})
