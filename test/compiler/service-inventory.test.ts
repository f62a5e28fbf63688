import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ENDPOINT_DRAINING, ENDPOINT_UNREADY, TUNNEL_NONE } from '../../src/model/workload.ts'
import {
  assertQuiet,
  CART,
  compileTrees,
  destinationRule,
  messagesWith,
  namespace,
  pod,
  service,
  type Tree,
  tree,
  virtualService,
  workloadOf,
} from './builders.ts'

function slice(name: string, service: string, content: Tree): Tree {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'shop', labels: { 'kubernetes.io/service-name': service } },
    addressType: 'IPv4',
    ...content,
  }
}

// --- services ---

test('a service has canonical virtual IPs and ports in order', () => {
  const result = compileTrees([
    service(
      'dns',
      [
        { name: 'dns', port: 53, protocol: 'UDP' },
        { name: 'dns-tcp', port: 53, protocol: 'TCP' },
        { name: 'http', port: 8080, targetPort: 'web' },
        { name: 'a', port: 80 },
      ],
      {},
      { clusterIP: '198.19.9.1', clusterIPs: ['198.19.9.1', 'FD00:0::5'] },
    ),
  ])
  assertQuiet(result)
  const [one] = result.state.services
  assert.deepEqual(one!.addresses, ['198.19.9.1', 'fd00::5'])
  assert.equal(one!.hostname, 'dns.shop.svc.cluster.local')
  assert.deepEqual(
    one!.ports.map(({ number, name, targetPort }) => [number, name, targetPort]),
    [
      [53, 'dns-tcp', 53],
      [80, 'a', 80],
      // A named target port is what each pod says it is.
      [8080, 'http', 0],
    ],
  )
})

test('a headless service has no virtual IP', () => {
  const result = compileTrees([service('db', [{ port: 5432 }], {}, { clusterIP: 'None' })])
  assert.deepEqual(result.state.services[0]!.addresses, [])
  assertQuiet(result)
})

test('a service without clusterIP is headless, and says so', () => {
  const result = compileTrees([service('db', [{ port: 5432 }], {}, { clusterIP: null })])
  assert.deepEqual(result.state.services[0]!.addresses, [])
  assert.equal(messagesWith(result, 'WEFT0105').length, 1)
})

test('a service of type ExternalName is another name for a host, and nothing else', () => {
  const external = { type: 'ExternalName', clusterIP: null, externalName: 'DB.example.com.' }
  const result = compileTrees([service('db', [{ port: 80 }], {}, external), pod('a', { app: 'db' })])
  const [one] = result.state.services
  assert.deepEqual([one!.hostname, one!.alias], ['db.shop.svc.cluster.local', 'db.example.com'])
  assert.deepEqual([one!.addresses, one!.ports], [[], []])
  assert.deepEqual(workloadOf(result, 'a').services, [])
  assertQuiet(result)
})

test('an ExternalName that is no host name is an error', () => {
  const result = compileTrees([service('db', [], {}, { type: 'ExternalName', externalName: 'a_b..c' })])
  assert.deepEqual(result.state.services, [])
  assert.deepEqual(
    result.messages.map(({ severity, field }) => [severity, field]),
    [['error', 'spec.externalName']],
  )
})

test('rules for a service of type ExternalName are told that they have no effect', () => {
  const result = compileTrees([
    namespace('shop'),
    service('db', [], {}, { type: 'ExternalName', externalName: 'db.example.com' }),
    virtualService('db', { hosts: ['db'], http: [{ route: [{ destination: { host: 'db' } }] }] }),
    destinationRule('db', { host: 'db' }),
  ])
  assert.deepEqual(
    messagesWith(result, 'WEFT0128').map(({ object, field }) => [object.split('.')[0], field]),
    [
      ['DestinationRule', 'spec.host'],
      ['VirtualService', 'spec.hosts[0]'],
      ['VirtualService', 'spec.http[0].route[0].destination.host'],
    ],
  )
})

test('of two services with one virtual IP the older keeps it', () => {
  const ip = { clusterIP: '198.19.7.7' }
  const result = compileTrees([
    service('a', [{ port: 80 }], { age: 2 }, ip),
    service('b', [{ port: 80 }], { age: 1 }, ip),
  ])
  assert.deepEqual(
    result.state.services.map(({ name }) => name),
    ['b'],
  )
  assert.deepEqual(
    result.messages.map(({ code, object }) => [code, object]),
    [['WEFT0103', 'Service/shop/a']],
  )
})

for (const [what, spec, field] of [
  ['a bad virtual IP', { clusterIP: '1.2.3' }, 'spec.clusterIP'],
  ['a port without a number', { ports: [{ name: 'http' }] }, 'spec.ports[0]'],
  ['a port beyond 65535', { ports: [{ port: 70_000 }] }, 'spec.ports[0].port'],
  ['a port listed twice', { ports: [{ port: 80 }, { port: 80 }] }, 'spec.ports[1]'],
  ['a selector that is no text', { selector: { app: 1 } }, 'spec.selector.app'],
] as const) {
  test(`a service with ${what} is left out, the field is named`, () => {
    const result = compileTrees([service('a', [{ port: 80 }], {}, spec)])
    assert.deepEqual(result.state.services, [])
    assert.deepEqual(
      result.messages.map(({ severity, field }) => [severity, field]),
      [['error', field]],
    )
  })
}

// --- endpoints ---

test('without slices the endpoints are the pods that the selector selects, with named target ports resolved', () => {
  const ports = { containers: [{ ports: [{ name: 'web', containerPort: 8443 }] }] }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80, targetPort: 'web' }]),
    pod('a', { app: 'cart' }, {}, ports),
    pod('b', { app: 'cart' }),
    pod('c', { app: 'other' }),
    pod('d', { app: 'cart' }, { namespace: 'elsewhere' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8443 }] },
  ])
  assert.deepEqual(workloadOf(result, 'b').services, [{ service: CART, ports: [] }])
  assert.deepEqual(workloadOf(result, 'c').services, [])
  assert.deepEqual(workloadOf(result, 'd').services, [])
  assert.equal(messagesWith(result, 'WEFT0106').length, 1)
})

test('a service without selector and slices has no endpoints', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ port: 80 }], {}, { selector: null }),
    pod('a', { app: 'cart' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [])
})

test('slices, where there are any, decide about endpoints, ports and readiness', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    pod('a', { app: 'cart' }),
    pod('b', { app: 'cart' }),
    pod('c', { app: 'cart' }),
    slice('cart-1', 'cart', {
      endpoints: [
        { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'a' } },
        { addresses: ['198.18.200.2'], targetRef: { kind: 'Pod', name: 'b' }, conditions: { ready: false } },
      ],
      ports: [
        { name: 'http', port: 8080 },
        { name: 'other', port: 1 },
      ],
    }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] },
  ])
  assert.equal(workloadOf(result, 'a').isHealthy, true)
  assert.equal(workloadOf(result, 'b').isHealthy, false)
  assert.deepEqual(workloadOf(result, 'c').services, [])
})

for (const [conditions, readiness, isHealthy] of [
  [{}, undefined, true],
  [{ ready: true, serving: true, terminating: false }, undefined, true],
  [{ ready: true, serving: true, terminating: true }, undefined, true],
  [{ ready: false, serving: true, terminating: true }, ENDPOINT_DRAINING, false],
  [{ ready: false, serving: false, terminating: true }, ENDPOINT_UNREADY, false],
  [{ ready: false, serving: false, terminating: false }, ENDPOINT_UNREADY, false],
  [{ ready: false }, ENDPOINT_UNREADY, false],
] as const) {
  test(`an endpoint with the conditions ${JSON.stringify(conditions)} is of readiness ${readiness ?? 'ready'}`, () => {
    const result = compileTrees([
      namespace('shop'),
      service('cart', [{ name: 'http', port: 80 }]),
      pod('a', { app: 'cart' }),
      slice('cart-1', 'cart', {
        endpoints: [{ addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'a' }, conditions }],
        ports: [{ name: 'http', port: 8080 }],
      }),
    ])
    const workload = workloadOf(result, 'a')
    assert.deepEqual([workload.services[0]!.readiness, workload.isHealthy], [readiness, isHealthy])
  })
}

test('a pod that is being deleted drains, also where its slice does not know it yet, and where there is none', () => {
  const dying = (name: string, labels: Record<string, string>): Tree => {
    const one = pod(name, labels)
    ;(one['metadata'] as Tree)['deletionTimestamp'] = '2026-01-01T00:00:00Z'
    return one
  }
  const targetRef = { kind: 'Pod', name: 'a' }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    service('all', [{ name: 'http', port: 80 }], {}, { publishNotReadyAddresses: true }),
    service('selected'),
    dying('a', {}),
    dying('b', { app: 'selected' }),
    ...['cart', 'all'].map((name) =>
      slice(name, name, {
        endpoints: [{ addresses: ['198.18.200.1'], targetRef, conditions: { ready: true } }],
        ports: [{ name: 'http', port: 8080 }],
      }),
    ),
  ])
  const readiness = (name: string) =>
    workloadOf(result, name).services.map((one) => [one.service.split('/')[1]!.split('.')[0], one.readiness])
  assert.deepEqual(readiness('a'), [
    ['all', undefined],
    ['cart', ENDPOINT_DRAINING],
  ])
  assert.deepEqual(readiness('b'), [['selected', ENDPOINT_DRAINING]])
})

test('slices say whose clients an endpoint is for, and its name below the service', () => {
  const hints = { forZones: [{ name: 'west' }, { name: 'east' }], forNodes: [{ name: 'node1' }] }
  const result = compileTrees([
    namespace('shop'),
    service('db', [{ name: 'tcp', port: 80 }], {}, { clusterIP: 'None' }),
    pod('db-0', {}),
    slice('db', 'db', {
      endpoints: [
        { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'db-0' }, hostname: 'zero', hints },
        { addresses: ['198.18.200.2'], hostname: 'one' },
      ],
      ports: [{ name: 'tcp', port: 8080 }],
    }),
  ])
  assertQuiet(result)
  const members = result.state.workloads.map(({ services }) => services[0]!)
  assert.deepEqual(
    members.map(({ hostname, zones, nodes }) => [hostname, zones, nodes]),
    [
      ['zero', ['west', 'east'], ['node1']],
      ['one', undefined, undefined],
    ],
  )
})

test('without slices a pod has its name below the headless service that its subdomain names', () => {
  const named = (name: string, subdomain: string) => pod(name, { app: 'db' }, {}, { hostname: name, subdomain })
  const headless = service('db', [{ port: 80 }], {}, { clusterIP: 'None' })
  const result = compileTrees([namespace('shop'), headless, named('db-0', 'db'), named('db-1', 'other')])
  assert.deepEqual(
    ['db-0', 'db-1'].map((name) => workloadOf(result, name).services[0]!.hostname),
    ['db-0', undefined],
  )
})

test('an endpoint whose pod is not there, or another one of that name, is not used', () => {
  const made = pod('a', {})
  ;(made['metadata'] as Tree)['uid'] = 'new'
  const endpoint = (name: string, podUid: string) => {
    return { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name, uid: podUid } }
  }
  const ports = [{ name: 'http', port: 8080 }]
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    made,
    slice('cart-1', 'cart', { endpoints: [endpoint('a', 'old'), endpoint('gone', 'x')], ports }),
  ])
  assert.deepEqual(
    result.state.workloads.map(({ name, services }) => [name, services.length]),
    [['a', 0]],
  )
  assert.deepEqual(
    messagesWith(result, 'WEFT0114').map(({ severity, object }) => [severity, object.split('.')[0]]),
    [
      ['info', 'EndpointSlice'],
      ['info', 'EndpointSlice'],
    ],
  )
})

test("who writes slices in another namespace says nothing about a pod's own health", () => {
  const foreign = slice('evil', 'evil', {
    endpoints: [{ addresses: ['198.18.77.1'], conditions: { ready: false } }],
    ports: [{ name: 'http', port: 8080 }],
  })
  ;(foreign['metadata'] as Tree)['namespace'] = 'evil'
  const result = compileTrees([
    namespace('shop'),
    pod('a', {}, {}, {}, { podIP: '198.18.77.1' }),
    service('evil', [{ name: 'http', port: 80 }], { namespace: 'evil' }, { selector: null }),
    foreign,
  ])
  const workload = workloadOf(result, 'a')
  assert.equal(workload.isHealthy, true)
  assert.equal(workload.services[0]!.readiness, ENDPOINT_UNREADY)
})

for (const [spec, expected] of [
  [{ sessionAffinity: 'ClientIP' }, { affinityMs: 10_800_000 }],
  [
    { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } } },
    { affinityMs: 60_000 },
  ],
  [{ sessionAffinity: 'None' }, {}],
  [{ internalTrafficPolicy: 'Local' }, { isNodeLocal: true }],
  [{ internalTrafficPolicy: 'Cluster' }, {}],
  [{ publishNotReadyAddresses: true }, { isPublishingUnready: true }],
  [{ clusterIP: 'None' }, { isHeadless: true }],
  [{ type: 'LoadBalancer', externalTrafficPolicy: 'Local' }, {}],
  [{ type: 'NodePort' }, {}],
] as const) {
  test(`a service with ${JSON.stringify(spec)} is so in the mesh`, () => {
    const result = compileTrees([service('cart', [{ name: 'http', port: 80 }], {}, spec)])
    assertQuiet(result)
    const { affinityMs, isNodeLocal, isPublishingUnready, isHeadless } = result.state.services[0]!
    const said = Object.entries({ affinityMs, isNodeLocal, isPublishingUnready, isHeadless })
    assert.deepEqual(Object.fromEntries(said.filter(([, value]) => value !== undefined)), expected)
  })
}

test('an endpoint that is no pod is a workload outside the mesh', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }], {}, { selector: null }),
    slice('cart-1', 'cart', {
      endpoints: [{ addresses: ['198.18.200.1'], nodeName: 'n', zone: 'z' }],
      ports: [{ name: 'http', port: 8080 }],
    }),
  ])
  const [workload] = result.state.workloads
  assert.equal(workload!.uid, 'Kubernetes/discovery.k8s.io/EndpointSlice/shop/cart-1/198.18.200.1')
  assert.deepEqual(workload!.addresses, ['198.18.200.1'])
  assert.equal(workload!.tunnelProtocol, TUNNEL_NONE)
  assert.equal(workload!.locality.zone, 'z')
  assert.deepEqual(workload!.services, [{ service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] }])
})

test('a pod in two slices of one service (two address families) is one endpoint', () => {
  const ports = [{ name: 'http', port: 8080 }]
  const targetRef = { kind: 'Pod', name: 'a' }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    pod('a', { app: 'cart' }),
    slice('cart-4', 'cart', { endpoints: [{ addresses: ['198.18.200.1'], targetRef }], ports }),
    slice('cart-6', 'cart', { endpoints: [{ addresses: ['fd00::1'], targetRef }], ports, addressType: 'IPv6' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] },
  ])
  assert.equal(result.state.workloads.length, 1)
})

test('a slice with a bad address is left out, one without a service is reported', () => {
  const bad = slice('bad', 'cart', { endpoints: [{ addresses: ['x'] }], ports: [] })
  const orphan = tree('discovery.k8s.io/v1', 'EndpointSlice', 'orphan', null)
  const result = compileTrees([bad, { ...orphan, endpoints: [], ports: [] }])
  assert.deepEqual(
    result.messages.map(({ object, field }) => [object, field]),
    [
      ['EndpointSlice.discovery.k8s.io/shop/bad', 'endpoints[0].addresses[0]'],
      ['EndpointSlice.discovery.k8s.io/shop/orphan', 'metadata.labels'],
    ],
  )
})
