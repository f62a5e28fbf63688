import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MESH_TTL_S } from '../../src/dns/reply.ts'
import { addressesOf, ednsOf, message, RD, rcodeOf, readMessage, TYPES, uint16 } from '../support/dns-messages.ts'
import {
  CLIENT,
  CLIENT_V4,
  clusterService,
  externalHost,
  NEWCOMER,
  ResolverMesh,
  SERVICES,
  STRANGER,
} from '../support/resolver-mesh.ts'

const AA = 0x0400
const TC = 0x0200
const RA = 0x0080
const CD = 0x0010

describe('names of the mesh', () => {
  test('are answered with the virtual IPs of the family that was asked for', () => {
    const mesh = new ResolverMesh()
    for (const [name, type, expected] of [
      ['reviews.shop.svc.cluster.local', TYPES.A, ['198.19.0.1']],
      ['reviews.shop.svc.cluster.local', TYPES.AAAA, ['fd00:0000:0000:0000:0000:0000:0001:0001']],
      ['reviews.shop.svc.cluster.local', TYPES.ANY, ['198.19.0.1', 'fd00:0000:0000:0000:0000:0000:0001:0001']],
      ['reviews.shop.svc', TYPES.A, ['198.19.0.1']],
      ['reviews.shop', TYPES.A, ['198.19.0.1']],
      ['reviews', TYPES.A, ['198.19.0.1']],
      ['billing.other.svc.cluster.local', TYPES.A, ['198.19.0.3']],
      ['billing.other', TYPES.A, ['198.19.0.3']],
      ['api.example.com', TYPES.A, ['198.19.240.1']],
      ['api.example.com', TYPES.AAAA, ['fd00:0000:0000:0000:0000:0000:0240:0001']],
    ] as const) {
      const answer = mesh.ask(message({ name, type }))
      assert.ok(answer !== null, `${name} ${type} is answered`)
      assert.deepEqual(addressesOf(answer), expected, `${name} ${type}`)
      assert.equal(rcodeOf(answer), 0)
      assert.equal(answer.id, 0x1234)
      assert.deepEqual(answer.questions, [{ name, type, class: 1 }])
      for (const record of answer.records) {
        assert.equal(record.name, name)
        assert.equal(record.ttl, MESH_TTL_S)
        assert.equal(record.class, 1)
      }
    }
    assert.equal(mesh.upstream.sent.length, 0)
    assert.deepEqual(mesh.counted(), ['mesh/answered 10'])
  })

  test('are passed on when the mesh does not know them', () => {
    for (const [name, type, pod] of [
      ['billing', TYPES.A, CLIENT], // a service of another namespace
      ['reviews', TYPES.A, STRANGER],
      ['reviews.shop.svc.cluster', TYPES.A, CLIENT],
      ['reviews.shop.pod', TYPES.A, CLIENT],
      ['reviews.shop.svc.cluster.local.shop.svc.cluster.local', TYPES.A, CLIENT],
      ['reviews.shop.shop.svc.cluster.local', TYPES.A, CLIENT],
      ['headless.shop.svc.cluster.local', TYPES.A, CLIENT],
      ['db-0.headless.shop.svc.cluster.local', TYPES.A, CLIENT],
      ['_http._tcp.reviews.shop.svc.cluster.local', TYPES.SRV, CLIENT],
      ['a.wild.example.com', TYPES.A, CLIENT],
      ['*.wild.example.com', TYPES.A, CLIENT],
      ['api.example.com.shop.svc.cluster.local', TYPES.A, CLIENT],
      ['sub.api.example.com', TYPES.A, CLIENT],
      ['1.0.19.198.in-addr.arpa', TYPES.PTR, CLIENT],
      ['', TYPES.NS, CLIENT],
    ] as const) {
      const mesh = new ResolverMesh()
      assert.equal(mesh.ask(message({ name, type }), pod), null, name)
      assert.equal(mesh.upstream.sent.length, 1, name)
    }
  })

  test('are those that the asking pod may see', () => {
    const mesh = new ResolverMesh()
    const isAnswered = (name: string, pod = CLIENT): boolean => mesh.ask(message({ name }), pod) !== null
    assert.equal(isAnswered('private.example.com'), true)
    assert.equal(isAnswered('private.example.com', STRANGER), false)
    assert.equal(isAnswered('hidden.example.com'), false)
    assert.equal(isAnswered('api.example.com', STRANGER), true)
    const unknown = { ...CLIENT, uid: 'Kubernetes//Pod/shop/gone' }
    assert.equal(isAnswered('private.example.com', unknown), false, 'nobody knows where this pod belongs')
    assert.equal(isAnswered('api.example.com', unknown), true)
  })

  test('of services are hidden from others in their short forms as well', () => {
    const mesh = new ResolverMesh([{ ...clusterService('vault', 'shop', ['198.19.0.8']), exportTo: ['shop'] }])
    for (const name of ['vault.shop', 'vault.shop.svc', 'vault.shop.svc.cluster.local']) {
      assert.notEqual(mesh.ask(message({ name })), null, name)
      assert.equal(mesh.ask(message({ name }), STRANGER), null, name)
    }
  })

  test('mean the service of the own namespace when several namespaces describe one host', () => {
    const mesh = new ResolverMesh([
      externalHost('db.example.com', 'aaa', ['198.19.240.10'], ['aaa']),
      externalHost('db.example.com', 'shop', ['198.19.240.11']),
      externalHost('db.example.com', 'bbb', ['198.19.240.12']),
    ])
    assert.deepEqual(addressesOf(mesh.ask(message({ name: 'db.example.com' }))!), ['198.19.240.11'])
    assert.deepEqual(addressesOf(mesh.ask(message({ name: 'db.example.com' }), STRANGER)!), ['198.19.240.12'])
  })

  test('exist whatever is asked of them: another type is an answer without records, never NXDOMAIN', () => {
    const mesh = new ResolverMesh()
    for (const [name, type] of [
      ['ratings.shop.svc.cluster.local', TYPES.AAAA],
      ['ratings.shop.svc.cluster.local', TYPES.TXT],
      ['ratings.shop.svc.cluster.local', TYPES.HTTPS],
      ['ratings.shop.svc.cluster.local', 65_280],
      ['api.example.com', TYPES.HTTPS],
    ] as const) {
      const answer = mesh.ask(message({ name, type }))!
      assert.equal(rcodeOf(answer), 0)
      assert.deepEqual(
        answer.records.map(({ section, type, name: owner, ttl }) => ({ section, type, owner, ttl })),
        [{ section: 'authority', type: TYPES.SOA, owner: name, ttl: MESH_TTL_S }],
      )
      const { content } = answer.records[0]!
      assert.equal(content.readUInt32BE(content.length - 4), MESH_TTL_S, 'the minimum')
    }
    assert.equal(mesh.upstream.sent.length, 0)
    assert.deepEqual(mesh.counted(), ['mesh/nodata 5'])
  })

  test('of hosts outside keep their other records, and are not denied by a resolver that does not know them', () => {
    for (const type of [TYPES.MX, TYPES.TXT, TYPES.SOA, TYPES.NS]) {
      const mesh = new ResolverMesh()
      const answers = mesh.send(message({ name: 'api.example.com', type }))
      mesh.upstream.last.reply(message({ name: 'api.example.com', type, flags: 0x8183 }))
      assert.equal(rcodeOf(readMessage(answers[0]!)), 0)
    }
    const mesh = new ResolverMesh()
    const answers = mesh.send(message({ name: 'www.example.com', type: TYPES.MX }))
    mesh.upstream.last.reply(message({ name: 'www.example.com', type: TYPES.MX, flags: 0x8183 }))
    assert.equal(rcodeOf(readMessage(answers[0]!)), 3)
  })

  test('have no addresses of a family that the asking pod does not have', () => {
    const mesh = new ResolverMesh()
    const answer = mesh.ask(message({ name: 'reviews', type: TYPES.AAAA }), CLIENT_V4)!
    assert.deepEqual(addressesOf(answer), [])
    assert.equal(rcodeOf(answer), 0)
    assert.deepEqual(addressesOf(mesh.ask(message({ name: 'reviews', type: TYPES.ANY }), CLIENT_V4)!), ['198.19.0.1'])
  })

  test('have all addresses for a pod whose own are not published yet', () => {
    const mesh = new ResolverMesh()
    for (const type of [TYPES.A, TYPES.AAAA]) {
      const addresses = addressesOf(mesh.ask(message({ name: 'reviews', type }), NEWCOMER)!)
      assert.equal(addresses.length, 1)
      assert.deepEqual(addresses, addressesOf(mesh.ask(message({ name: 'reviews', type }))!))
    }
  })

  test('are compared without case, and answered in the case they were asked', () => {
    const mesh = new ResolverMesh()
    const name = 'rEvIeWs.ShOp.SVC.cluster.LOCAL'
    const answer = mesh.ask(message({ name }))!
    assert.equal(answer.questions[0]!.name, name)
    assert.deepEqual(addressesOf(answer), ['198.19.0.1'])
  })

  test('are found by their labels, not by their text', () => {
    const mesh = new ResolverMesh()
    const bytes = message({ name: 'reviews-shop-svc.cluster.local' })
    // One label "reviews.shop.svc" with dots in it is no name of ours.
    for (const at of [12 + 1 + 7, 12 + 1 + 12]) bytes[at] = 0x2e
    assert.equal(mesh.ask(bytes), null)
    assert.equal(mesh.upstream.sent.length, 1)
  })

  test('are of class IN and asked with opcode QUERY', () => {
    for (const fields of [{ class: 3 }, { class: 255 }, { flags: RD | (5 << 11) }, { flags: RD | (4 << 11) }]) {
      const mesh = new ResolverMesh()
      assert.equal(mesh.ask(message(fields)), null)
      assert.equal(mesh.upstream.sent.length, 1)
    }
  })

  test('answers repeat what flags and EDNS of the query ask for', () => {
    const mesh = new ResolverMesh()
    assert.equal(mesh.ask(message({ flags: RD }))!.flags, 0x8000 | AA | RD | RA)
    assert.equal(mesh.ask(message({ flags: 0 }))!.flags, 0x8000 | AA | RA)
    assert.equal(mesh.ask(message({ flags: RD | CD | 0x20 }))!.flags, 0x8000 | AA | RD | RA | CD, 'never AD')
    assert.equal(mesh.ask(message())!.records.length, 1, 'no OPT for who sent none')
    const plain = ednsOf(mesh.ask(message({ edns: {} }))!)
    assert.equal(plain.class, 4096)
    assert.equal(plain.ttl, 0)
    assert.equal(plain.content.length, 0)
    assert.equal(ednsOf(mesh.ask(message({ edns: { isDnssecOk: true } }))!).ttl, 0x8000)
    const cookie = Buffer.concat([uint16(10), uint16(8), Buffer.alloc(8, 7)])
    assert.equal(ednsOf(mesh.ask(message({ edns: { options: cookie } }))!).content.length, 0, 'options are not echoed')
  })

  test('another version of EDNS gets BADVERS', () => {
    const mesh = new ResolverMesh()
    const answer = mesh.ask(message({ edns: { version: 1 } }))!
    assert.deepEqual(addressesOf(answer), [])
    assert.equal(ednsOf(answer).ttl, 1 << 24)
  })

  test('answers that are too large for the client over UDP are cut to nothing with TC, and whole over TCP', () => {
    const addresses = Array.from({ length: 100 }, (_, i) => `198.19.1.${i}`)
    const mesh = new ResolverMesh([clusterService('many', 'shop', addresses)])
    const name = 'many.shop.svc.cluster.local'
    const size = 12 + 29 + 4 + 100 * 16
    for (const [edns, isCut] of [
      [null, true],
      [{ udpBytes: 512 }, true],
      [{ udpBytes: 0 }, true],
      [{ udpBytes: size + 11 - 1 }, true],
      [{ udpBytes: size + 11 }, false],
      [{ udpBytes: 65_535 }, false],
    ] as const) {
      const [answer] = mesh.send(message({ name, edns }))
      const read = readMessage(answer!)
      assert.equal((read.flags & TC) !== 0, isCut, JSON.stringify(edns))
      assert.equal(addressesOf(read).length, isCut ? 0 : 100)
      assert.ok(answer!.length <= Math.max(512, edns?.udpBytes ?? 0))
    }
    const overTcp = mesh.ask(message({ name }), CLIENT, true)!
    assert.equal(addressesOf(overTcp).length, 100)
    assert.equal(overTcp.flags & TC, 0)
  })

  test('an answer of exactly 512 bytes needs no EDNS', () => {
    // Header, a question of 32 and 4 bytes, 29 records of 16 bytes.
    const addresses = Array.from({ length: 29 }, (_, i) => `198.19.1.${i}`)
    for (const [name, bytes] of [
      ['abcdefghijklmnopqr.example.com', 512],
      ['abcdefghijklmnopqrs.example.com', 12 + 33 + 4],
    ] as const) {
      const mesh = new ResolverMesh([externalHost(name, 'shop', addresses)])
      assert.equal(mesh.send(message({ name }))[0]!.length, bytes)
    }
  })

  test('change with the mesh', () => {
    const mesh = new ResolverMesh([])
    assert.equal(mesh.ask(message()), null)
    mesh.setServices(SERVICES)
    assert.deepEqual(addressesOf(mesh.ask(message())!), ['198.19.0.1'])
    mesh.setServices([])
    assert.equal(mesh.ask(message()), null)
  })

  test('a broken record after the question of a name of the mesh is an error', () => {
    const mesh = new ResolverMesh()
    const whole = message({ edns: {} })
    const answer = mesh.ask(whole.subarray(0, whole.length - 1))!
    assert.equal(rcodeOf(answer), 1)
    assert.deepEqual(mesh.counted(), ['none/malformed 1'])
  })
})
