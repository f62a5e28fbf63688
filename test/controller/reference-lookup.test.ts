import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { MeshObject } from '../../src/compiler/object.ts'
import { ReferenceLookup } from '../../src/controller/reference-lookup.ts'
import { KubernetesApi, type ResourceType } from '../../src/kubernetes/api.ts'
import { parse, virtualService } from '../compiler/builders.ts'
import { answerStatus, FakeApiServer } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const SERVICES: ResourceType = { group: '', version: 'v1', plural: 'services', isNamespaced: true }
const RULES: ResourceType = {
  group: 'networking.istio.io',
  version: 'v1',
  plural: 'destinationrules',
  isNamespaced: true,
}
const ENTRIES: ResourceType = { ...RULES, plural: 'serviceentries' }

describe('what a rule refers to and nobody has told of', () => {
  let server: FakeApiServer
  let api: KubernetesApi
  let clock: FakeClock
  let lookup: ReferenceLookup

  beforeEach(async () => {
    server = await FakeApiServer.start()
    server.addType(SERVICES, 'Service')
    server.addType(RULES, 'DestinationRule')
    server.addType(ENTRIES, 'ServiceEntry')
    api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
    clock = new FakeClock()
    lookup = new ReferenceLookup({ api, clusterDomain: 'cluster.local', clock })
  })
  afterEach(async () => {
    api.close()
    await server.stop()
  })

  function rule(hosts: readonly string[], destinations: readonly string[]): MeshObject {
    const http = destinations.map((host) => ({ route: [{ destination: { host, subset: 'v1' } }] }))
    return parse(virtualService('cart', { hosts, http }))
  }

  async function keys(candidate: MeshObject): Promise<readonly string[]> {
    return (await lookup.find(candidate)).map(({ key }) => key).sort()
  }

  function put(type: ResourceType, namespace: string, name: string): void {
    server.put(type, { metadata: { name, namespace }, spec: {} } as never)
  }

  test('is asked for by name, and rules where they may be', async () => {
    put(SERVICES, 'shop', 'cart')
    put(SERVICES, 'shop', 'other')
    put(SERVICES, 'stock', 'items')
    put(RULES, 'shop', 'a')
    put(RULES, 'stock', 'b')
    put(RULES, 'elsewhere', 'c')
    put(ENTRIES, 'shop', 'd')
    assert.deepEqual(await keys(rule(['cart'], ['cart', 'items.stock.svc.cluster.local', 'example.com'])), [
      'DestinationRule.networking.istio.io/shop/a',
      'DestinationRule.networking.istio.io/stock/b',
      'Service/shop/cart',
      'Service/stock/items',
      'ServiceEntry.networking.istio.io/shop/d',
    ])
    assert.equal(clock.pending, 0)
  })

  test('is nothing when the API server says nothing, or no', async () => {
    server.answer = (_, response) => {
      answerStatus(response, 403, 'Forbidden', 'no')
      return true
    }
    assert.deepEqual(await keys(rule(['cart'], ['cart'])), [])
    server.answer = () => true
    const asked = server.requests.length
    const found = keys(rule(['cart'], ['cart']))
    while (server.requests.length < asked + 3) await new Promise(setImmediate)
    clock.advance(1_000)
    assert.deepEqual(await found, [])
  })

  test('is asked for seldom, whoever makes us ask', async () => {
    put(SERVICES, 'shop', 'cart')
    for (let i = 0; i < 50; i++) assert.equal((await keys(rule(['cart'], []))).length, 1)
    const asked = server.requests.length
    for (let i = 0; i < 100; i++) assert.deepEqual(await keys(rule(['cart'], [])), [])
    assert.equal(server.requests.length, asked)
    clock.advance(1_000)
    assert.equal((await keys(rule(['cart'], []))).length, 1)
  })

  test('is so many hosts of one rule and no more, and nothing that is no name', async () => {
    await lookup.find(rule(['*', '*.shop.svc.cluster.local', '10.0.0.1', 'a.b.c.svc.cluster.local'], []))
    assert.ok(server.requests.every(({ path }) => !path.endsWith('/services')))
    const many = Array.from({ length: 1_000 }, (_, i) => `s${i}`)
    await lookup.find(rule([], many))
    assert.equal(server.requests.filter(({ path }) => path.endsWith('/services')).length, 8)
  })
})
