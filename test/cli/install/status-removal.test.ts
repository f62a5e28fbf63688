/** What of a status is the controller's, and goes with it. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { statusWithoutOurs } from '../../../src/cli/install/status-removal.ts'
import type { KubernetesObject } from '../../../src/kubernetes/object.ts'

const OURS = [
  { type: 'weft.dev/Accepted', status: 'True' },
  { type: 'weft.dev/Programmed', status: 'True' },
]
const THEIRS = { type: 'Reconciled', status: 'True' }

function object(status: object | undefined, ownFields: readonly string[] = []): KubernetesObject {
  const fields = Object.fromEntries(ownFields.map((field) => [`f:${field}`, {}]))
  const managedFields = [
    { manager: 'kubectl', fieldsV1: { 'f:spec': {} } },
    { manager: 'weft', fieldsV1: { 'f:status': fields } },
  ]
  const metadata = { name: 'web', namespace: 'shop', managedFields }
  return { apiVersion: 'v1', kind: 'VirtualService', metadata, ...(status === undefined ? {} : { status }) } as never
}

test('a status of ours alone goes altogether', () => {
  const whole = { conditions: OURS, observedGeneration: 2, validationMessages: [] }
  const fields = ['conditions', 'observedGeneration', 'validationMessages']
  assert.equal(statusWithoutOurs(object(whole, fields)), null)
  assert.equal(statusWithoutOurs(object({ conditions: OURS })), null)
})

test('what others have written stays, also in the fields that we have written before them', () => {
  const shared = { conditions: [THEIRS, ...OURS], observedGeneration: 3, validationMessages: [{}], other: 1 }
  assert.deepEqual(statusWithoutOurs(object(shared, ['conditions', 'validationMessages'])), {
    conditions: [THEIRS],
    observedGeneration: 3,
    other: 1,
  })
})

test('a status without anything of ours is not touched, and neither is one that is not there', () => {
  assert.equal(statusWithoutOurs(object({ conditions: [THEIRS], observedGeneration: 1 })), undefined)
  assert.equal(statusWithoutOurs(object({ conditions: 'none' })), undefined)
  assert.equal(statusWithoutOurs(object(undefined)), undefined)
})
