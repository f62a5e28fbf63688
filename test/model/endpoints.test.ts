import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { NO_PLACE, type Place, placeOf, usableEndpoints } from '../../src/model/endpoints.ts'
import type { Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import {
  ENDPOINT_DRAINING,
  ENDPOINT_UNREADY,
  FAILURE_BY_POLICY,
  type LocalPod,
  type Workload,
  type WorkloadService,
} from '../../src/model/workload.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const HERE: Place = { node: 'node1', zone: 'west' }

function endpoint(name: string, membership: Partial<WorkloadService> = {}, fields: Partial<Workload> = {}): Workload {
  const services = [{ service: SERVICE.key, ports: [], ...membership }]
  return workloadOf(name, { services, ...fields })
}

function usable(workloads: readonly Workload[], service: Partial<Service> = {}, place: Place = HERE): string[] {
  return usableEndpoints(SERVICE.key, { ...SERVICE, ...service }, workloads, place).map(({ name }) => name)
}

const READY = endpoint('ready')
const SICK = endpoint('sick', {}, { isHealthy: false })
const UNREADY = endpoint('unready', { readiness: ENDPOINT_UNREADY })
const DRAINING = endpoint('draining', { readiness: ENDPOINT_DRAINING }, { isHealthy: false })

test('endpoints that are ready are used; those that drain only when there is no other', () => {
  assert.deepEqual(usable([DRAINING, READY, SICK, UNREADY]), ['ready'])
  assert.deepEqual(usable([DRAINING, SICK, UNREADY]), ['draining'])
  assert.deepEqual(usable([SICK, UNREADY]), [])
  assert.deepEqual(usable([endpoint('none', {}, { capacity: 0 })]), [])
})

test('a service that publishes unready endpoints does not ask for their health', () => {
  assert.deepEqual(usable([READY, SICK, UNREADY], { isPublishingUnready: true }), ['ready', 'sick'])
})

test('a service that is local to the node has the endpoints of the node, or none', () => {
  const far = endpoint('far', {}, { node: 'node2' })
  assert.deepEqual(usable([far, READY], { isNodeLocal: true }), ['ready'])
  assert.deepEqual(usable([far, DRAINING], { isNodeLocal: true }), ['draining'])
  assert.deepEqual(usable([far], { isNodeLocal: true }), [])
  assert.deepEqual(usable([far], { isNodeLocal: true }, NO_PLACE), [])
})

test('hints for zones are followed when every endpoint has one and this zone has an endpoint', () => {
  const west = endpoint('west', { zones: ['west'] })
  const east = endpoint('east', { zones: ['east', 'north'] })
  assert.deepEqual(usable([west, east]), ['west'])
  assert.deepEqual(usable([west, east], {}, { node: 'n', zone: 'north' }), ['east'])
  assert.deepEqual(usable([west, east], {}, { node: 'n', zone: 'south' }), ['west', 'east'])
  assert.deepEqual(usable([west, east], {}, { node: 'n', zone: '' }), ['west', 'east'])
  assert.deepEqual(usable([west, east, READY]), ['west', 'east', 'ready'])
  const sick = endpoint('sick', { zones: ['west'] }, { isHealthy: false })
  assert.deepEqual(usable([sick, east]), ['east'])
})

test('hints for nodes come before those for zones', () => {
  const near = endpoint('near', { zones: ['west'], nodes: ['node1'] })
  const other = endpoint('other', { zones: ['west'], nodes: ['node2'] })
  assert.deepEqual(usable([near, other]), ['near'])
  assert.deepEqual(usable([near, other], {}, { node: 'node3', zone: 'west' }), ['near', 'other'])
})

test('the place of an agent is that of its pods', () => {
  const workload = workloadOf('a', { node: 'node7', locality: { region: 'r', zone: 'z', subzone: '' } })
  const pod: LocalPod = { uid: workload.uid, netns: '', scope: '*', failureMode: FAILURE_BY_POLICY }
  assert.equal(placeOf(Snapshot.empty), NO_PLACE)
  const missing = Snapshot.empty.apply({ ...EMPTY_DELTA, pods: [pod] })
  assert.equal(placeOf(missing), NO_PLACE)
  const known = missing.apply({ ...EMPTY_DELTA, workloads: [workload] })
  assert.deepEqual(placeOf(known), { node: 'node7', zone: 'z' })
})
