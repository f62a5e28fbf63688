import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { PROTOCOL_DETECT, PROTOCOL_HTTP1, PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { resolveDestination, resolveTargetPort } from '../../src/proxy/destination.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

/** A second service over the same pods and target port, declared as TCP. */
const RAW: Service = {
  ...SERVICE,
  key: 'shop/raw.shop.svc.cluster.local',
  name: 'raw',
  hostname: 'raw.shop.svc.cluster.local',
  addresses: ['198.19.0.2'],
  ports: [{ number: 81, targetPort: 9080, name: 'tcp', protocol: PROTOCOL_TCP }],
}

const WORKLOAD = workloadOf('a', {
  services: [
    { service: SERVICE.key, ports: [{ servicePort: 80, targetPort: 9080 }] },
    { service: RAW.key, ports: [{ servicePort: 81, targetPort: 9080 }] },
    { service: 'shop/unknown', ports: [{ servicePort: 1, targetPort: 7 }] },
  ],
})

const SNAPSHOT = Snapshot.empty.apply({ ...EMPTY_DELTA, workloads: [WORKLOAD], services: [SERVICE, RAW] })

test('a virtual IP is its service and port', () => {
  const found = resolveDestination(SNAPSHOT, '198.19.0.1', 80)
  assert.deepEqual(found, { service: SERVICE, port: SERVICE.ports[0], workload: null, protocol: PROTOCOL_HTTP1 })
})

test('a port that the service does not have is plain TCP of that service', () => {
  const found = resolveDestination(SNAPSHOT, '198.19.0.1', 8081)
  assert.deepEqual(found, { service: SERVICE, port: null, workload: null, protocol: PROTOCOL_TCP })
})

test("a pod's own address is its workload, with the protocol that a service declares for the port", () => {
  assert.deepEqual(resolveDestination(SNAPSHOT, '198.18.1.1', 9080), {
    service: null,
    port: null,
    workload: WORKLOAD,
    protocol: PROTOCOL_HTTP1,
  })
  assert.equal(resolveDestination(SNAPSHOT, '198.18.1.1', 9999).protocol, PROTOCOL_DETECT)
})

test('an address that nobody knows is plain TCP', () => {
  assert.deepEqual(resolveDestination(SNAPSHOT, '192.0.2.1', 80), {
    service: null,
    port: null,
    workload: null,
    protocol: PROTOCOL_TCP,
  })
})

test('the host picks among the services of a target port, and only among those of the workload', () => {
  assert.equal(resolveTargetPort(SNAPSHOT, WORKLOAD, 9080, RAW.hostname).service, RAW)
  assert.equal(resolveTargetPort(SNAPSHOT, WORKLOAD, 9080, '').service, SERVICE)
  assert.equal(resolveTargetPort(SNAPSHOT, WORKLOAD, 9080, 'evil.example').service, SERVICE)
  const lonely = { ...WORKLOAD, services: [WORKLOAD.services[0]!] }
  assert.equal(resolveTargetPort(SNAPSHOT, lonely, 9080, RAW.hostname).service, SERVICE)
})

test('a target port of a service that is not known yet is detected', () => {
  assert.deepEqual(resolveTargetPort(SNAPSHOT, WORKLOAD, 7, ''), { service: null, protocol: PROTOCOL_DETECT })
})
