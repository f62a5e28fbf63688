import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { ACTION_DENY, POLICY_SCOPE_WORKLOAD, type Policy, policyKey } from '../../src/model/policy.ts'
import { Policies } from '../../src/proxy/policies.ts'
import { snapshotOf, workloadOf } from '../support/proxy-objects.ts'

const DENY_ALL: Policy = {
  key: policyKey('shop', 'deny-all'),
  name: 'deny-all',
  namespace: 'shop',
  scope: POLICY_SCOPE_WORKLOAD,
  action: ACTION_DENY,
  isDryRun: false,
  rules: [{ clauses: [] }],
}

test('a policy that newly selects a workload holds for who still has the workload of an older snapshot', () => {
  const workload = workloadOf('reviews-1')
  const before = snapshotOf([workload])
  const after = before.apply({
    ...EMPTY_DELTA,
    policies: [DENY_ALL],
    workloads: [{ ...workload, policies: [DENY_ALL.key] }],
  })
  const policies = new Policies()
  assert.equal(policies.authorizerOf(before, workload).isEmpty, true)
  assert.equal(policies.authorizerOf(after, workload).isEmpty, false)
  assert.equal(policies.authorizerOf(before, workload).isEmpty, true, 'the older snapshot stays as it was')
})

test('one authorizer serves a workload as long as its snapshot is the newest', () => {
  const workload = workloadOf('reviews-1')
  const snapshot = snapshotOf([workload])
  const policies = new Policies()
  const authorizer = policies.authorizerOf(snapshot, workload)
  assert.equal(policies.authorizerOf(snapshot, { ...workload }), authorizer)
})
