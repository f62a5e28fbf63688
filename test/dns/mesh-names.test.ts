import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MeshNames } from '../../src/dns/mesh-names.ts'
import type { Service } from '../../src/model/service.ts'
import { clusterService, externalHost } from '../support/resolver-mesh.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const NAMESPACES = ['a', 'b', 'c']

function randomServices(random: SeededRandom): Map<string, Service> {
  const services = random.list(12, () => {
    const [name, namespace] = [random.pick(['x', 'y', 'z']), random.pick(NAMESPACES)]
    const addresses = random.list(2, () => `198.19.0.${random.integer(1, 9)}`)
    if (random.boolean()) return clusterService(name, namespace, addresses)
    const host = random.pick(['x.example.com', 'x.a', 'x.a.svc.cluster.local', '*.example.com'])
    return externalHost(
      host,
      namespace,
      addresses,
      ...(random.boolean() ? [] : [random.list(2, () => random.pick(NAMESPACES))]),
    )
  })
  return new Map(services.map((service) => [service.key, service]))
}

/** Everything that can be asked. */
function answers(names: MeshNames): string[] {
  const hosts = [
    'x',
    'y',
    'x.a',
    'x.a.svc',
    'y.b',
    'x.example.com',
    'x.a.svc.cluster.local',
    'y.c.svc.cluster.local',
    '*.example.com',
  ]
  return hosts.flatMap((host) =>
    NAMESPACES.map((namespace) => `${host} ${namespace} ${names.find(host, namespace)?.key}`),
  )
}

test('names after any changes are those of the services that are left', () => {
  const random = new SeededRandom(1035)
  for (let round = 0; round < 200; round++) {
    const changing = new MeshNames()
    let services = new Map<string, Service>()
    for (let step = 0; step < 6; step++) {
      const next = randomServices(random)
      // Some stay the same objects, as they do in snapshots.
      for (const [key, service] of services) if (random.boolean()) next.set(key, service)
      services = next
      changing.update(services)
      const fresh = new MeshNames()
      fresh.update(services)
      assert.deepEqual(answers(changing), answers(fresh))
      assert.equal(changing.size, fresh.size)
      for (const namespace of NAMESPACES) {
        assert.deepEqual(changing.visibleTo(namespace, 5), fresh.visibleTo(namespace, 5))
      }
    }
    changing.update(new Map())
    assert.equal(changing.size, 0)
    assert.ok(answers(changing).every((answer) => answer.endsWith('undefined')))
  }
})
