import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HEADLESS_TTL_S, MESH_TTL_S } from '../../src/dns/reply.ts'
import type { Service } from '../../src/model/service.ts'
import { ENDPOINT_DRAINING, type Workload, type WorkloadService } from '../../src/model/workload.ts'
import { addressesOf, message, type ReadMessage, TYPES } from '../support/dns-messages.ts'
import { workloadOf } from '../support/proxy-objects.ts'
import { CLIENT, CLIENT_V4, clusterService, externalHost, ResolverMesh, STRANGER } from '../support/resolver-mesh.ts'

const TC = 0x0200
const DB: Service = { ...clusterService('db', 'shop', []), isHeadless: true }
const HOST = 'db.shop.svc.cluster.local'

function db(index: number, membership: Partial<WorkloadService> = {}, fields: Partial<Workload> = {}): Workload {
  return workloadOf(`db-${index}`, {
    addresses: [`198.18.3.${index}`, `fd00::3:${index}`],
    services: [{ service: DB.key, ports: [], hostname: `db-${index}`, ...membership }],
    ...fields,
  })
}

function answered(mesh: ResolverMesh, name: string, type: number = TYPES.A, pod = CLIENT): string[] | null {
  const answer = mesh.ask(message({ name, type }), pod)
  return answer === null ? null : addressesOf(answer).sort()
}

describe('a headless service', () => {
  test('is answered with the addresses of its ready endpoints, for a short time', () => {
    const sick = db(3, {}, { isHealthy: false })
    const draining = db(4, { readiness: ENDPOINT_DRAINING })
    const mesh = new ResolverMesh([DB], [db(1), db(2), sick, draining])
    for (const name of [HOST, 'db.shop.svc', 'db.shop', 'db']) {
      assert.deepEqual(answered(mesh, name), ['198.18.3.1', '198.18.3.2'], name)
    }
    assert.equal(answered(mesh, HOST, TYPES.AAAA)!.length, 2)
    const { records } = mesh.ask(message({ name: HOST }))!
    assert.ok(records.every(({ ttl }) => ttl === HEADLESS_TTL_S))
  })

  test('that publishes unready endpoints is answered with them, too', () => {
    const mesh = new ResolverMesh([{ ...DB, isPublishingUnready: true }], [db(1), db(3, {}, { isHealthy: false })])
    assert.deepEqual(answered(mesh, HOST), ['198.18.3.1', '198.18.3.3'])
    assert.deepEqual(answered(mesh, `db-3.${HOST}`), ['198.18.3.3'])
  })

  test('has a name for each endpoint that has one', () => {
    const mesh = new ResolverMesh([DB], [db(0), db(1)])
    for (const name of [`db-1.${HOST}`, 'db-1.db.shop.svc', 'db-1.db.shop', 'db-1.db']) {
      assert.deepEqual(answered(mesh, name), ['198.18.3.1'], name)
    }
    assert.equal(answered(mesh, 'db-1.db', TYPES.A, STRANGER), null)
    assert.deepEqual(answered(mesh, 'db-1.db.shop', TYPES.A, STRANGER), ['198.18.3.1'])
  })

  test('says what its endpoints are now, not what they were', () => {
    const mesh = new ResolverMesh([DB], [db(1)])
    assert.deepEqual(answered(mesh, `db-1.${HOST}`), ['198.18.3.1'])
    mesh.setServices([DB], [{ ...db(1), addresses: ['198.18.3.9'] }, db(2)])
    assert.deepEqual(answered(mesh, `db-1.${HOST}`), ['198.18.3.9'])
    assert.deepEqual(answered(mesh, `db-2.${HOST}`), ['198.18.3.2'])
    mesh.setServices([DB], [])
    assert.equal(answered(mesh, `db-1.${HOST}`), null)
  })

  test('leaves to the resolver what the mesh does not know, and does not turn its denials', () => {
    const mesh = new ResolverMesh([DB, clusterService('web', 'shop', ['198.19.0.1'])], [db(1)])
    for (const [name, type] of [
      [`db-7.${HOST}`, TYPES.A],
      [`198-18-3-1.${HOST}`, TYPES.A],
      [`x.db-1.${HOST}`, TYPES.A],
      [`db-1.web.shop.svc.cluster.local`, TYPES.A],
      [HOST, TYPES.SRV],
      [`_tcp._tcp.${HOST}`, TYPES.SRV],
      [HOST, TYPES.TXT],
    ] as const) {
      assert.equal(mesh.ask(message({ name, type })), null, name)
    }
    assert.equal(mesh.upstream.sent.length, 7)
    const none = new ResolverMesh([DB], [db(1, {}, { isHealthy: false })])
    assert.equal(answered(none, HOST), null)
  })

  test('gives each client another first address', () => {
    const mesh = new ResolverMesh([DB], [db(1), db(2), db(3)])
    const first = new Set(Array.from({ length: 6 }, () => addressesOf(mesh.ask(message({ name: HOST }))!)[0]))
    assert.equal(first.size, 3)
  })

  test('with more endpoints than the client takes gives as many as fit, with TC, and all over TCP', () => {
    const endpoints = Array.from({ length: 100 }, (_, i) => db(i + 1))
    const mesh = new ResolverMesh([DB], endpoints)
    const [bytes] = mesh.send(message({ name: HOST }))
    const answer = mesh.ask(message({ name: HOST }))!
    assert.equal(addressesOf(answer).length, Math.floor((512 - 12 - HOST.length - 2 - 4) / 16))
    assert.notEqual(answer.flags & TC, 0)
    assert.ok(bytes!.length <= 512)
    assert.equal(addressesOf(mesh.ask(message({ name: HOST }), CLIENT, true)!).length, 100)
  })
})

function cnames({ records }: ReadMessage): string[] {
  return records.filter(({ type }) => type === TYPES.CNAME).map(({ name, content }) => `${name} ${labels(content)}`)
}

function labels(content: Buffer): string {
  const parts: string[] = []
  for (let at = 0; content[at] !== 0; at += content[at]! + 1) {
    parts.push(content.toString('latin1', at + 1, at + 1 + content[at]!))
  }
  return parts.join('.')
}

describe('a service of type ExternalName', () => {
  const alias = (name: string, target: string): Service => ({ ...clusterService(name, 'shop', []), alias: target })
  const API = externalHost('api.example.com', 'shop', ['198.19.240.1', 'fd00::240:1'])

  test('is another name for a host of the mesh, with its addresses', () => {
    const mesh = new ResolverMesh([alias('api', 'api.example.com'), API])
    const answer = mesh.ask(message({ name: 'api.shop.svc.cluster.local' }))!
    assert.deepEqual(cnames(answer), ['api.shop.svc.cluster.local api.example.com'])
    assert.deepEqual(addressesOf(answer), ['198.19.240.1'])
    const [, address] = answer.records
    assert.deepEqual([address!.name, address!.ttl], ['api.example.com', MESH_TTL_S])
  })

  test('may stand for a service, headless or not, through others', () => {
    const mesh = new ResolverMesh(
      [alias('a', 'b.shop.svc.cluster.local'), alias('b', HOST), DB, alias('c', 'a.shop.svc.cluster.local')],
      [db(1)],
    )
    const answer = mesh.ask(message({ name: 'c.shop' }))!
    assert.deepEqual(cnames(answer), [`c.shop ${HOST}`])
    assert.deepEqual(addressesOf(answer), ['198.18.3.1'])
  })

  test('says that the host has no address of a family that it has not', () => {
    const mesh = new ResolverMesh([alias('api', 'api.example.com'), API])
    const answer = mesh.ask(message({ name: 'api.shop', type: TYPES.AAAA }), CLIENT_V4)!
    assert.deepEqual(addressesOf(answer), [])
    assert.deepEqual(
      answer.records.map(({ section, type, name }) => [section, type, name]),
      [
        ['answer', TYPES.CNAME, 'api.shop'],
        ['authority', TYPES.SOA, 'api.example.com'],
      ],
    )
  })

  test('for a host that the mesh does not know, or that others only may see, is asked of the resolver', () => {
    const hidden = externalHost('hidden.example.com', 'shop', ['198.19.240.3'], ['vault'])
    const mesh = new ResolverMesh([
      alias('out', 'www.example.org'),
      alias('hidden', 'hidden.example.com'),
      hidden,
      alias('short', 'reviews'),
      clusterService('reviews', 'shop', ['198.19.0.1']),
    ])
    for (const name of ['out.shop', 'hidden.shop', 'short.shop']) {
      assert.equal(mesh.ask(message({ name })), null, name)
    }
    const mail = new ResolverMesh([alias('api', 'api.example.com'), API])
    assert.equal(mail.ask(message({ name: 'api.shop', type: TYPES.MX })), null)
  })

  test('that stands for itself ends', () => {
    const mesh = new ResolverMesh([alias('a', 'b.shop.svc.cluster.local'), alias('b', 'a.shop.svc.cluster.local')])
    assert.equal(mesh.ask(message({ name: 'a.shop' })), null)
  })
})
