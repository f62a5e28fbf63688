import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { CompileResult } from '../../src/compiler/compile.ts'
import { MeshNames } from '../../src/dns/mesh-names.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { PROTOCOL_HTTP1, PROTOCOL_TCP, PROTOCOL_TLS, PROTOCOL_UDP, type Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { TUNNEL_HBONE, TUNNEL_NONE } from '../../src/model/workload.ts'
import { resolveDestination } from '../../src/proxy/destination.ts'
import {
  assertQuiet,
  compileTrees,
  type Metadata,
  namespace,
  pod,
  SETTINGS,
  service,
  shop,
  type Tree,
  tree,
} from './builders.ts'

const PORTS = [{ number: 443, name: 'https', protocol: 'TLS' }]
const ENDPOINTS = [{ address: '198.18.200.1' }]

function entry(name: string, hosts: readonly string[], spec: Tree = {}, metadata: Metadata = {}): Tree {
  const content = {
    hosts,
    ports: PORTS,
    resolution: 'STATIC',
    location: 'MESH_EXTERNAL',
    endpoints: ENDPOINTS,
    ...spec,
  }
  return tree('networking.istio.io/v1', 'ServiceEntry', name, content, metadata)
}

function codes({ messages }: CompileResult): string[] {
  return messages.map(({ code, severity }) => `${code} ${severity}`)
}

function hostOf({ state }: CompileResult, hostname: string): Service {
  const found = state.services.filter((one) => one.hostname === hostname)
  assert.equal(found.length, 1, hostname)
  return found[0]!
}

describe('a ServiceEntry', () => {
  test('becomes a service with its addresses, ports and endpoints', () => {
    const result = compileTrees([
      namespace('shop'),
      entry('api', ['API.example.com'], {
        addresses: ['198.19.200.1', 'FD00::C8:1'],
        ports: [
          { number: 80, name: 'web', protocol: 'HTTP', targetPort: 8080 },
          { number: 443, name: 'https', protocol: 'HTTPS' },
          { number: 25, name: 'mail', protocol: 'TCP' },
          { number: 123, name: 'time', protocol: 'UDP' },
        ],
        endpoints: [
          { address: '198.18.200.1', weight: 3, locality: 'eu/a/b', labels: { version: 'v1' } },
          { address: 'FD00::2:1', ports: { web: 9090 } },
        ],
      }),
    ])
    assertQuiet(result)
    const { addresses, ports, key, namespace: owner, exportTo } = hostOf(result, 'api.example.com')
    assert.deepEqual([key, owner, exportTo], ['shop/api.example.com', 'shop', undefined])
    assert.deepEqual(addresses, ['198.19.200.1', 'fd00::c8:1'])
    assert.deepEqual(
      ports.map(({ number, protocol }) => [number, protocol]),
      [
        [25, PROTOCOL_TCP],
        [80, PROTOCOL_HTTP1],
        [123, PROTOCOL_UDP],
        [443, PROTOCOL_TLS],
      ],
    )
    const [first, second] = result.state.workloads
    assert.deepEqual([first!.addresses, first!.capacity, first!.tunnelProtocol], [['198.18.200.1'], 3, TUNNEL_NONE])
    assert.equal(first!.uid, 'Kubernetes/networking.istio.io/ServiceEntry/shop/api/198.18.200.1')
    assert.deepEqual(first!.locality, { region: 'eu', zone: 'a', subzone: 'b' })
    assert.deepEqual(
      first!.services[0]!.ports.find(({ servicePort }) => servicePort === 80),
      { servicePort: 80, targetPort: 8080 },
    )
    assert.deepEqual(
      second!.services[0]!.ports.find(({ servicePort }) => servicePort === 80),
      { servicePort: 80, targetPort: 9090 },
    )
    assert.deepEqual(result.state.pods, [])
  })

  test('without addresses gets virtual IPs of both families, by which pods reach it', () => {
    const result = compileTrees([...shop(), entry('api', ['api.example.com', 'api2.example.com'])])
    assertQuiet(result)
    const [first, second] = [hostOf(result, 'api.example.com'), hostOf(result, 'api2.example.com')]
    for (const { addresses } of [first, second]) {
      assert.match(addresses[0]!, /^198\.19\.2(4[0-9]|5[0-5])\.[0-9]+$/)
      assert.match(addresses[1]!, /^fd00:240:/)
    }
    assert.notEqual(first.addresses[0], second.addresses[0])
    const { services, workloads } = result.state
    const snapshot = Snapshot.empty.apply({ ...EMPTY_DELTA, services, workloads })
    const names = new MeshNames()
    names.update(snapshot.services)
    const name = names.find('api.example.com', 'shop')!
    for (const address of name.addresses) {
      const destination = resolveDestination(snapshot, address, 443)
      assert.equal(destination.service?.hostname, 'api.example.com')
      assert.equal(destination.protocol, PROTOCOL_TLS)
      assert.deepEqual(
        snapshot.endpointsOf(destination.service!.key).map(({ addresses }) => addresses[0]),
        ['198.18.200.1'],
      )
    }
  })

  test('with resolution DNS has endpoints by name: those it lists, else its hosts', () => {
    const listed = compileTrees([
      entry('api', ['api.example.com'], {
        resolution: 'DNS',
        endpoints: [{ address: 'EU.example.com', weight: 2 }, { address: '198.18.200.1' }],
      }),
    ])
    assertQuiet(listed)
    assert.deepEqual(
      listed.state.workloads.map(({ uid, addresses, hostname, capacity }) => [uid, addresses, hostname, capacity]),
      [
        ['Kubernetes/networking.istio.io/ServiceEntry/shop/api/198.18.200.1', ['198.18.200.1'], undefined, 1],
        ['Kubernetes/networking.istio.io/ServiceEntry/shop/api/eu.example.com', [], 'eu.example.com', 2],
      ],
    )
    for (const resolution of ['DNS', 'DNS_ROUND_ROBIN']) {
      const own = compileTrees([entry('api', ['a.example.com', 'b.example.com'], { resolution, endpoints: [] })])
      assertQuiet(own)
      assert.deepEqual(
        own.state.workloads.map(({ hostname, services }) => [hostname, services.map(({ service }) => service)]),
        [
          ['a.example.com', ['shop/a.example.com']],
          ['b.example.com', ['shop/b.example.com']],
        ],
      )
      assert.equal(hostOf(own, 'a.example.com').addresses.length, 2)
    }
    const bad = compileTrees([entry('api', ['a.example.com'], { resolution: 'DNS', endpoints: [{ address: 'a b' }] })])
    assert.deepEqual(codes(bad), ['IST0106 error'])
  })

  test('keeps its virtual IPs in every order of input and whatever else there is', () => {
    const one = entry('api', ['api.example.com'], {}, { age: 1 })
    const others = Array.from({ length: 200 }, (_, i) => entry(`e${i}`, [`h${i}.example.com`], {}, { age: 2 + i }))
    const alone = hostOf(compileTrees([namespace('shop'), one]), 'api.example.com').addresses
    const [forth, back] = [[one, ...others], [...others].reverse().concat(one)].map((trees) =>
      compileTrees([namespace('shop'), ...trees]),
    )
    assert.deepEqual(forth!.state, back!.state)
    assert.deepEqual(hostOf(forth!, 'api.example.com').addresses, alone)
    const all = forth!.state.services.flatMap(({ addresses }) => addresses)
    assert.equal(new Set(all).size, 2 * 201)
  })

  test('does not get addresses that somebody has', () => {
    const wanted = hostOf(compileTrees([entry('api', ['api.example.com'])]), 'api.example.com').addresses[0]!
    for (const other of [
      service('web', [{ port: 80 }], {}, { clusterIP: wanted }),
      pod('web', {}, {}, {}, { podIP: wanted }),
      entry('other', ['other.example.com'], { addresses: [wanted] }, { age: 9 }),
    ]) {
      const result = compileTrees([namespace('shop'), other, entry('api', ['api.example.com'])])
      assert.notEqual(hostOf(result, 'api.example.com').addresses[0], wanted)
    }
  })

  test('a pod that it lists as an endpoint stays that pod', () => {
    const result = compileTrees([
      namespace('shop'),
      pod('db', { app: 'db' }, {}, {}, { podIP: '198.18.200.1' }),
      entry('db', ['db.example.com'], { location: 'MESH_INTERNAL' }),
    ])
    assertQuiet(result)
    assert.equal(result.state.workloads.length, 1)
    assert.equal(result.state.workloads[0]!.tunnelProtocol, TUNNEL_HBONE)
    assert.equal(result.state.workloads[0]!.services[0]!.service, 'shop/db.example.com')
  })

  test('is seen by the namespaces that exportTo names, and so is a service', () => {
    const seen = (spec: Tree): readonly string[] | undefined =>
      hostOf(compileTrees([entry('api', ['api.example.com'], spec)]), 'api.example.com').exportTo
    assert.equal(seen({}), undefined)
    assert.equal(seen({ exportTo: ['*'] }), undefined)
    assert.deepEqual(seen({ exportTo: ['.', 'other'] }), ['other', 'shop'])
    for (const [annotation, expected] of [
      ['*', undefined],
      ['., other', ['other', 'shop']],
      ['~', []],
    ] as const) {
      const annotations = { 'networking.istio.io/exportTo': annotation }
      const result = compileTrees([namespace('shop'), service('web', [{ port: 80 }], { annotations })])
      assertQuiet(result)
      assert.deepEqual(result.state.services[0]!.exportTo, expected)
    }
    const annotations = { 'networking.istio.io/exportTo': 'Other' }
    const bad = compileTrees([namespace('shop'), service('web', [{ port: 80 }], { annotations })])
    assert.deepEqual([codes(bad), bad.state.services[0]!.exportTo], [['WEFT0126 warning'], undefined])
  })

  test('cannot take the host or the address of another', () => {
    const host = compileTrees([...shop(), entry('web', ['web.shop.svc.cluster.local'])])
    assert.deepEqual(codes(host), ['WEFT0124 warning'])
    assert.equal(hostOf(host, 'web.shop.svc.cluster.local').name, 'web')
    const twice = compileTrees([
      entry('young', ['api.example.com'], { ports: [{ number: 1, name: 'a' }] }, { age: 2 }),
      entry('old', ['api.example.com'], {}, { age: 1 }),
    ])
    assert.deepEqual(codes(twice), ['WEFT0124 warning'])
    assert.equal(hostOf(twice, 'api.example.com').ports[0]!.number, 443)
    const clash = compileTrees([
      entry('young', ['b.example.com'], { addresses: ['198.19.200.1'] }, { age: 2 }),
      entry('old', ['a.example.com'], { addresses: ['198.19.200.1'] }, { age: 1 }),
    ])
    assert.deepEqual(codes(clash), ['WEFT0103 error'])
    assert.equal(clash.state.services.length, 1)
    const shared = compileTrees([entry('api', ['a.example.com', 'b.example.com'], { addresses: ['198.19.200.1'] })])
    assert.deepEqual(codes(shared), ['WEFT0123 warning'])
    assert.deepEqual(hostOf(shared, 'a.example.com').addresses, ['198.19.200.1'])
    assert.notDeepEqual(hostOf(shared, 'b.example.com').addresses, ['198.19.200.1'])
  })

  test('of two namespaces with one host are two services, with addresses of their own', () => {
    const result = compileTrees([
      entry('a', ['api.example.com']),
      entry('a', ['api.example.com'], {}, { namespace: 'other' }),
    ])
    assertQuiet(result)
    const [first, second] = result.state.services
    assert.deepEqual([first!.key, second!.key], ['other/api.example.com', 'shop/api.example.com'])
    assert.notEqual(first!.addresses[0], second!.addresses[0])
  })

  for (const [what, spec, code] of [
    ['resolution NONE', { resolution: 'NONE', endpoints: [] }, 'WEFT0121 warning'],
    ['no resolution', { resolution: null, endpoints: [] }, 'WEFT0121 warning'],
    ['DYNAMIC_DNS', { resolution: 'DYNAMIC_DNS', endpoints: [] }, 'WEFT0121 warning'],
    ['a wildcard', { hosts: ['*.example.com'] }, 'WEFT0122 warning'],
  ] as const) {
    test(`${what} has no effect, and says so`, () => {
      const result = compileTrees([entry('api', ['api.example.com'], spec)])
      assert.deepEqual(codes(result), [code])
      assert.deepEqual(result.state.services, [])
    })
  }

  for (const [what, spec] of [
    ['a bare *', { hosts: ['*'] }],
    ['no host', { hosts: [] }],
    ['an address as host', { hosts: ['198.18.0.1'] }],
    ['a block', { addresses: ['198.18.0.0/16'] }],
    ['a port twice', { ports: [...PORTS, { number: 443, name: 'other' }] }],
    ['a port name twice', { ports: [...PORTS, { number: 444, name: 'https' }] }],
    ['an endpoint by name', { endpoints: [{ address: 'db.example.com' }] }],
    ['a port that the entry does not have', { endpoints: [{ address: '198.18.0.1', ports: { http: 1 } }] }],
    ['an unknown field', { adresses: [] }],
  ] as const) {
    test(`${what} is an error`, () => {
      const result = compileTrees([entry('api', ['api.example.com'], spec)])
      assert.deepEqual(codes(result), ['IST0106 error'])
      assert.deepEqual(result.state.services, [])
    })
  }

  test('without ports or endpoints has no virtual IP: its host is looked up elsewhere', () => {
    for (const spec of [{ ports: [] }, { endpoints: [] }]) {
      assert.deepEqual(hostOf(compileTrees([entry('api', ['api.example.com'], spec)]), 'api.example.com').addresses, [])
    }
  })

  test('with a UDP port keeps the addresses that it has elsewhere, once for all its hosts', () => {
    const ports = [...PORTS, { number: 123, name: 'time', protocol: 'UDP' }]
    const result = compileTrees([entry('time', ['a.example.com', 'b.example.com'], { ports })])
    assert.deepEqual(codes(result), ['WEFT0127 warning'])
    assert.equal(result.messages[0]!.field, 'spec.ports[1]')
    for (const { addresses } of result.state.services) assert.deepEqual(addresses, [])
    const given = compileTrees([entry('time', ['a.example.com'], { ports, addresses: ['198.19.200.1'] })])
    assertQuiet(given)
    assert.deepEqual(given.state.services[0]!.addresses, ['198.19.200.1'])
  })

  test('is told when the blocks are full', () => {
    const entries = Array.from({ length: 15 }, (_, i) => entry(`e${i}`, [`h${i}.example.com`], {}, { age: i }))
    const blocks = { ipv4: '198.19.240.0/28', ipv6: 'fd00:240::/48' }
    const result = compileTrees(entries, { ...SETTINGS, virtualIpBlocks: blocks })
    assert.deepEqual(codes(result), ['WEFT0125 error'])
    assert.equal(result.messages[0]!.object, 'ServiceEntry.networking.istio.io/shop/e14')
  })
})
