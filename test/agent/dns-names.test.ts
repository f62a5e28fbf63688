import assert from 'node:assert/strict'
import { test } from 'node:test'
import { jsonAnswer } from '../../src/agent/admin.ts'
import { describeNames, NAMES_SHOWN_MAX, NAMESPACES_SHOWN_MAX } from '../../src/agent/dns-names.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import type { Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, type LocalPod, type Workload } from '../../src/model/workload.ts'
import { workloadOf } from '../support/proxy-objects.ts'
import { CLIENT, clusterService, externalHost, SERVICES, STRANGER } from '../support/resolver-mesh.ts'

function snapshotOf(services: readonly Service[], workloads: readonly Workload[]): Snapshot {
  const pods = workloads.map(({ uid }): LocalPod => ({ uid, netns: '', scope: '*', failureMode: FAILURE_BY_POLICY }))
  return Snapshot.empty.apply({ ...EMPTY_DELTA, services, workloads, pods })
}

test('shows the names that pods of this node may ask for, by their namespace', () => {
  const { namespaces, nameCount, isCut } = describeNames(snapshotOf(SERVICES, [CLIENT, STRANGER]))
  assert.deepEqual(Object.keys(namespaces), ['other', 'shop'])
  const everyone = ['api.example.com', 'billing.other.svc.cluster.local', 'ratings.shop.svc.cluster.local']
  assert.deepEqual(Object.keys(namespaces['other']!), [...everyone, 'reviews.shop.svc.cluster.local'])
  assert.deepEqual(namespaces['shop']!['private.example.com'], ['198.19.240.2'])
  assert.deepEqual([nameCount, isCut], [6, false])
})

test('shows the addresses of the namespace that asks when several describe a host', () => {
  const services = [
    externalHost('db.example.com', 'aaa', ['198.19.240.10']),
    externalHost('db.example.com', 'shop', ['198.19.240.11']),
  ]
  const { namespaces } = describeNames(snapshotOf(services, [CLIENT, STRANGER]))
  assert.deepEqual(namespaces['shop']!['db.example.com'], ['198.19.240.11'])
  assert.deepEqual(namespaces['other']!['db.example.com'], ['198.19.240.10'])
})

test('is cut where it is long, and says so', () => {
  const services = Array.from({ length: NAMES_SHOWN_MAX + 1 }, (_, i) =>
    clusterService(`s${i}`, 'shop', [`198.19.1.${i}`]),
  )
  const many = describeNames(snapshotOf(services, [CLIENT]))
  assert.deepEqual([Object.keys(many.namespaces['shop']!).length, many.isCut], [NAMES_SHOWN_MAX, true])
  assert.equal(describeNames(snapshotOf(services.slice(1), [CLIENT])).isCut, false)
  const pods = Array.from({ length: NAMESPACES_SHOWN_MAX + 1 }, (_, i) =>
    workloadOf('p', { uid: `p${i}`, namespace: `ns${i}` }),
  )
  const wide = describeNames(snapshotOf([], pods))
  assert.deepEqual([Object.keys(wide.namespaces).length, wide.isCut], [NAMESPACES_SHOWN_MAX, true])
})

test('a namespace or host may have any name', () => {
  const pod = workloadOf('p', { uid: 'p', namespace: '__proto__' })
  const names = describeNames(snapshotOf([externalHost('__proto__', '__proto__', ['198.19.240.1'])], [pod]))
  assert.match(jsonAnswer(names).body, /"__proto__": \{\s*"__proto__": \[\s*"198\.19\.240\.1"/)
})
