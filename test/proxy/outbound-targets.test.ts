import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { OutboundTargets, TARGETS_MAX } from '../../src/proxy/outbound-targets.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const CLIENT = workloadOf('client')
const SNAPSHOT = Snapshot.empty.apply({ ...EMPTY_DELTA, workloads: [CLIENT], services: [SERVICE] })
const SOURCE = { uid: CLIENT.uid, identity: 'spiffe://cluster.local/ns/shop/sa/client' }
const ADDRESS = SERVICE.addresses[0]!

test('connections of one pod to one address and port share what was found', () => {
  const targets = new OutboundTargets()
  const first = targets.of(SNAPSHOT, SOURCE, ADDRESS, 80)
  assert.equal(first.destination.service, SERVICE)
  assert.equal(first.sourceWorkload, CLIENT)
  assert.equal(targets.of(SNAPSHOT, SOURCE, ADDRESS, 80) === first, true)
  assert.equal(targets.of(SNAPSHOT, SOURCE, ADDRESS, 81) === first, false)
  assert.equal(targets.of(SNAPSHOT, SOURCE, '198.19.0.99', 80) === first, false)
})

test('another pod has its own, since other rules may hold for it', () => {
  const targets = new OutboundTargets()
  const other = { ...SOURCE, uid: 'other' }
  const first = targets.of(SNAPSHOT, SOURCE, ADDRESS, 80)
  assert.equal(targets.of(SNAPSHOT, other, ADDRESS, 80) === first, false)
  assert.equal(targets.of(SNAPSHOT, other, ADDRESS, 80).sourceWorkload, null)
})

test('a new snapshot drops all, and who has one keeps what it began with', () => {
  const targets = new OutboundTargets()
  const before = targets.of(SNAPSHOT, SOURCE, ADDRESS, 80)
  const next = SNAPSHOT.apply({ ...EMPTY_DELTA, removedServices: [SERVICE.key] })
  const after = targets.of(next, SOURCE, ADDRESS, 80)
  assert.equal(after.destination.service, null)
  assert.equal(after.snapshot, next)
  assert.equal(before.destination.service, SERVICE)
})

test('an app that dials one address after the other fills no memory', () => {
  const targets = new OutboundTargets()
  const first = targets.of(SNAPSHOT, SOURCE, ADDRESS, 80)
  for (let port = 1; port < TARGETS_MAX; port++) targets.of(SNAPSHOT, SOURCE, '198.19.0.99', port)
  assert.equal(targets.of(SNAPSHOT, SOURCE, ADDRESS, 80) === first, false)
})
