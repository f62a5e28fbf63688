/** Which rules a client follows: hosts, visibility, order, ports, clients, destinations, scopes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CompileResult } from '../../src/compiler/compile.ts'
import {
  assertQuiet,
  CART,
  compileTrees,
  destinationRule,
  type Metadata,
  messagesWith,
  namespace,
  pod,
  scopeOf,
  service,
  shop,
  type Tree,
  trafficOf,
  virtualService,
} from './builders.ts'

const WEB = 'shop/web.shop.svc.cluster.local'

/** A VirtualService for `hosts` that can be told by its time-out. */
function timed(
  name: string,
  hosts: readonly string[],
  timeout: string,
  metadata: Metadata = {},
  spec: Tree = {},
): Tree {
  return virtualService(
    name,
    { hosts, http: [{ route: [{ destination: { host: 'cart.shop.svc.cluster.local' } }], timeout }], ...spec },
    metadata,
  )
}

/** Milliseconds of the rule that `client` follows to cart:80; null without rules. */
function timeoutOf(result: CompileResult, client = 'web-1'): number | null {
  return trafficOf(result, client, CART, 80)?.routes[0]?.timeoutMs ?? null
}

/** The shop, and the namespace `guest` with the client `visitor`. */
function town(): Tree[] {
  return [...shop(), namespace('guest'), pod('visitor', { app: 'visitor' }, { namespace: 'guest' })]
}

// --- hosts ---

for (const [host, where, applies] of [
  ['cart', 'shop', true],
  ['CART', 'shop', true],
  ['cart', 'guest', false],
  ['cart.shop', 'guest', false],
  ['cart.shop.svc.cluster.local', 'guest', true],
  ['*.shop.svc.cluster.local', 'guest', true],
  ['*.local', 'guest', true],
  ['*.cart.shop.svc.cluster.local', 'guest', false],
  ['198.19.0.1', 'guest', false],
] as const) {
  test(`host ${host} written in namespace ${where} ${applies ? 'governs' : 'does not govern'} cart.shop`, () => {
    const result = compileTrees([...town(), timed('x', [host], '1s', { namespace: where })])
    assert.equal(timeoutOf(result), applies ? 1000 : null)
    assert.equal(messagesWith(result, 'WEFT0201').length, applies ? 0 : 1)
  })
}

test('a host with one dot is not completed, and the message says what to write', () => {
  const result = compileTrees([...town(), timed('x', ['cart.shop'], '1s')])
  assert.match(messagesWith(result, 'WEFT0201')[0]!.fix, /write cart\.shop\.svc\.cluster\.local/)
})

test('an exact host beats a wildcard, and a longer wildcard a shorter one, whatever their age', () => {
  const rules = [
    timed('short', ['*.local'], '1s', { age: 1 }),
    timed('long', ['*.svc.cluster.local'], '2s', { age: 2 }),
    timed('exact', ['cart'], '3s', { age: 3 }),
  ]
  const result = compileTrees([...town(), ...rules])
  assert.equal(timeoutOf(result), 3000)
  assert.equal(trafficOf(result, 'web-1', WEB, 80)!.routes[0]!.timeoutMs, 2000)
  assert.deepEqual(messagesWith(result, 'IST0109'), [])
})

// --- which of several ---

test('of two VirtualServices for one host the older governs alone, and the other is told (IST0109)', () => {
  const result = compileTrees([
    ...town(),
    timed('a', ['cart'], '1s', { age: 2 }),
    virtualService(
      'b',
      { hosts: ['cart'], http: [{ match: [{ uri: { prefix: '/b' } }], route: [{ destination: { host: 'cart' } }] }] },
      { age: 1 },
    ),
  ])
  assert.deepEqual(
    trafficOf(result, 'web-1', CART, 80)!.routes.map(({ source }) => source),
    ['shop/b'],
  )
  assert.deepEqual(
    messagesWith(result, 'IST0109').map(({ object, field }) => [object, field]),
    [['VirtualService.networking.istio.io/shop/a', 'spec.hosts[0]']],
  )
})

test('without ages namespace and name decide', () => {
  const result = compileTrees([
    ...town(),
    timed('b', ['cart.shop.svc.cluster.local'], '1s', { namespace: 'guest' }),
    timed('a', ['cart'], '2s'),
  ])
  assert.equal(timeoutOf(result), 1000)
})

test('a rule private to the client comes before one exported to it, and that before a public one', () => {
  const host = ['cart.shop.svc.cluster.local']
  const everyone = timed('public', host, '1s', { age: 1 })
  const exported = timed('exported', host, '2s', { age: 2 }, { exportTo: ['guest'] })
  const own = timed('own', host, '3s', { namespace: 'guest', age: 3 }, { exportTo: ['.'] })
  assert.equal(timeoutOf(compileTrees([...town(), everyone, exported, own]), 'visitor'), 3000)
  assert.equal(timeoutOf(compileTrees([...town(), everyone, exported]), 'visitor'), 2000)
  const result = compileTrees([...town(), everyone, exported, own])
  assert.equal(timeoutOf(result, 'web-1'), 1000)
  assertQuiet(result)
})

test('a rule that a client does not see does not hide the rules after it', () => {
  const hidden = timed('a', ['cart'], '1s', { age: 1 }, { exportTo: ['elsewhere'] })
  assert.equal(timeoutOf(compileTrees([...town(), hidden, timed('b', ['cart'], '2s', { age: 2 })])), 2000)
})

test('exportTo "." hides a rule from other namespaces', () => {
  const result = compileTrees([...town(), timed('x', ['cart'], '1s', {}, { exportTo: ['.'] })])
  assert.equal(timeoutOf(result, 'web-1'), 1000)
  assert.equal(timeoutOf(result, 'visitor'), null)
})

// --- gateways ---

for (const [gateways, applies] of [
  [undefined, true],
  [['mesh'], true],
  [['mesh', 'shop/front'], true],
  [['shop/front'], false],
] as const) {
  test(`gateways ${JSON.stringify(gateways)} ${applies ? 'include' : 'leave out'} clients in the mesh`, () => {
    const result = compileTrees([...town(), timed('x', ['cart'], '1s', {}, { gateways })])
    assert.equal(timeoutOf(result), applies ? 1000 : null)
    assert.equal(messagesWith(result, 'WEFT0202').length, applies ? 0 : 1)
  })
}

test('a match that lists gateways is judged by them alone: its client conditions do not count', () => {
  const rule = (match: object) =>
    virtualService('x', {
      hosts: ['cart'],
      http: [{ match: [match], route: [{ destination: { host: 'cart' } }], timeout: '1s' }],
    })
  const labels = { sourceLabels: { app: 'nobody' }, sourceNamespace: 'nowhere' }
  assert.equal(timeoutOf(compileTrees([...town(), rule(labels)])), null)
  assert.equal(timeoutOf(compileTrees([...town(), rule({ ...labels, gateways: ['mesh'] })])), 1000)
  assert.equal(timeoutOf(compileTrees([...town(), rule({ gateways: ['front'] })])), null)
})

// --- clients and ports ---

test('sourceNamespace and sourceLabels choose clients when rules are compiled', () => {
  const to = [{ destination: { host: 'cart' } }]
  const result = compileTrees([
    ...town(),
    pod('clerk', { app: 'clerk', shift: 'night' }),
    virtualService('x', {
      hosts: ['cart'],
      http: [
        { match: [{ sourceNamespace: 'guest' }], route: to, timeout: '1s' },
        { match: [{ sourceLabels: { app: 'clerk' } }], route: to, timeout: '2s' },
        { match: [{ sourceLabels: { app: 'web', version: 'v2' } }], route: to, timeout: '3s' },
        { route: to, timeout: '4s' },
      ],
    }),
  ])
  assert.equal(timeoutOf(result, 'visitor'), 1000)
  assert.equal(timeoutOf(result, 'clerk'), 2000)
  assert.equal(timeoutOf(result, 'web-1'), 4000)
  // What is left of the match takes everything: nothing behind it is reached, and it needs no conditions.
  assert.equal(trafficOf(result, 'visitor', CART, 80)!.routes.length, 1)
  assert.deepEqual(trafficOf(result, 'visitor', CART, 80)!.routes[0]!.matches, [])
  assert.equal(trafficOf(result, 'clerk', CART, 80)!.routes.length, 1)
})

test('a match for another port is dropped, and a rule of which nothing is left as well', () => {
  const to = [{ destination: { host: 'api', port: { number: 80 } } }]
  const result = compileTrees([
    ...town(),
    service('api', [
      { name: 'http', port: 80 },
      { name: 'http-admin', port: 81 },
    ]),
    virtualService('x', {
      hosts: ['api'],
      http: [
        {
          match: [
            { port: 81, uri: { prefix: '/a' } },
            { port: 81, uri: { prefix: '/b' } },
          ],
          route: to,
        },
      ],
    }),
  ])
  const key = 'shop/api.shop.svc.cluster.local'
  assert.equal(trafficOf(result, 'web-1', key, 80), null)
  assert.equal(trafficOf(result, 'web-1', key, 81)!.routes[0]!.matches.length, 2)
})

test('http rules leave TCP and TLS ports alone, tcp rules leave HTTP ports alone; a detected port takes both', () => {
  const to = [{ destination: { host: 'api', port: { number: 1 } } }]
  const result = compileTrees([
    ...town(),
    service('api', [
      { name: 'http', port: 1 },
      { name: 'tcp', port: 2 },
      { name: 'https', port: 3 },
      { name: 'any', port: 4 },
      { name: 'dns', port: 5, protocol: 'UDP' },
    ]),
    virtualService('x', { hosts: ['api'], http: [{ route: to }], tcp: [{ route: to }] }),
  ])
  const counts = [1, 2, 3, 4, 5].map((port) => {
    const traffic = trafficOf(result, 'web-1', 'shop/api.shop.svc.cluster.local', port)
    return traffic === null ? null : [traffic.routes.length, traffic.tcpClusters.length]
  })
  assert.deepEqual(counts, [[1, 0], [0, 1], null, [1, 1], null])
})

test('tcp: the first rule that matches port, subnet and client decides', () => {
  const to = (host: string) => [{ destination: { host, port: { number: 80 } } }]
  const first = (match: readonly object[] | undefined): string | null => {
    const result = compileTrees([
      ...town(),
      service('db', [{ name: 'tcp', port: 5432 }], {}, { clusterIP: '198.19.77.1' }),
      virtualService('x', { hosts: ['db'], tcp: [{ match, route: to('web') }, { route: to('cart') }] }),
    ])
    assertQuiet(result)
    return trafficOf(result, 'web-1', 'shop/db.shop.svc.cluster.local', 5432)!.tcpClusters[0]!.cluster
  }
  const [web, cart] = [`${WEB}||80`, `${CART}||80`]
  assert.equal(first(undefined), web)
  assert.equal(first([{ port: 5432 }]), web)
  assert.equal(first([{ port: 5433 }]), cart)
  assert.equal(first([{ destinationSubnets: ['198.19.77.0/24'] }]), web)
  assert.equal(first([{ destinationSubnets: ['198.19.78.0/24'] }]), cart)
  assert.equal(first([{ sourceNamespace: 'shop', sourceLabels: { app: 'web' } }]), web)
  assert.equal(first([{ sourceNamespace: 'guest' }]), cart)
  assert.equal(first([{ port: 1 }, { port: 5432 }]), web)
})

test('tcp weights are kept', () => {
  const result = compileTrees([
    ...shop(),
    virtualService('x', {
      hosts: ['cart'],
      tcp: [
        {
          route: [
            { destination: { host: 'cart', port: { number: 9000 } }, weight: 20 },
            { destination: { host: 'web', port: { number: 80 } }, weight: 80 },
          ],
        },
      ],
    }),
  ])
  assert.deepEqual(
    trafficOf(result, 'web-1', CART, 9000)!.tcpClusters.map(({ cluster, weight }) => [cluster, weight]),
    [
      [`${CART}||9000`, 20],
      [`${WEB}||80`, 80],
    ],
  )
})

// --- destinations ---

for (const [what, destination, cluster, code] of [
  [
    'without port goes to the only port of the other service',
    { host: 'single' },
    'shop/single.shop.svc.cluster.local||8080',
    null,
  ],
  ['without port stays on the port of the same service', { host: 'cart' }, `${CART}||80`, null],
  [
    'without port of a service with several is ambiguous',
    { host: 'double' },
    'shop/double.shop.svc.cluster.local||80',
    'IST0112',
  ],
  ['with a port goes there', { host: 'double', port: { number: 81 } }, 'shop/double.shop.svc.cluster.local||81', null],
] as const) {
  test(`a destination ${what}`, () => {
    const result = compileTrees([
      ...shop(),
      service('single', [{ name: 'http', port: 8080 }]),
      service('double', [
        { name: 'http', port: 80 },
        { name: 'http-b', port: 81 },
      ]),
      virtualService('x', { hosts: ['cart'], http: [{ route: [{ destination }] }] }),
    ])
    const traffic = trafficOf(result, 'web-1', CART, 80)!
    assert.equal(traffic.routes[0]!.clusters[0]!.cluster, cluster)
    assert.ok(traffic.clusters.some(({ key }) => key === cluster))
    assert.deepEqual(
      result.messages.map((message) => message.code),
      code === null ? [] : [code],
    )
  })
}

for (const [what, destination, words] of [
  ['an unknown host', { host: 'crat' }, /No service has the host "crat\.shop.*Did you mean cart\.shop/],
  ['a host of another namespace written short', { host: 'visitor-api' }, /Did you mean visitor-api\.guest/],
  ['an unknown port', { host: 'cart', port: { number: 81 } }, /has no port 81: requests sent there get 503/],
  ['an unknown subset', { host: 'cart', subset: 'v3' }, /No DestinationRule declares subset "v3"/],
] as const) {
  test(`${what} leaves a route without a cluster (503), and is reported (IST0101)`, () => {
    const result = compileTrees([
      ...town(),
      service('visitor-api', [{ name: 'http', port: 80 }], { namespace: 'guest' }),
      virtualService('x', { hosts: ['cart'], http: [{ route: [{ destination }] }] }),
    ])
    const traffic = trafficOf(result, 'web-1', CART, 80)!
    const key = traffic.routes[0]!.clusters[0]!.cluster
    assert.ok(!traffic.clusters.some((cluster) => cluster.key === key))
    const [message] = messagesWith(result, 'IST0101')
    assert.equal(message?.severity, 'warning')
    assert.match(`${message.text} ${message.fix}`, words)
    assert.equal(messagesWith(result, 'IST0101').length, 1)
  })
}

test('a subset that another DestinationRule declares than the one clients follow is named as such', () => {
  const result = compileTrees([
    ...town(),
    virtualService('x', { hosts: ['cart'], http: [{ route: [{ destination: { host: 'cart', subset: 'v1' } }] }] }),
    destinationRule('all', { host: 'cart', subsets: [{ name: 'v1', labels: { version: 'v1' } }] }),
    destinationRule(
      'guests',
      { host: 'cart.shop.svc.cluster.local', trafficPolicy: { tls: {} } },
      { namespace: 'guest' },
    ),
  ])
  assert.deepEqual(
    messagesWith(result, 'IST0101').map(({ text }) => text),
    [
      'Clients in namespace guest follow a DestinationRule of cart.shop.svc.cluster.local without subset "v1": their requests get 503.',
    ],
  )
})

test('rules are checked before there is any client', () => {
  const result = compileTrees([
    service('cart'),
    virtualService('x', { hosts: ['cart'], http: [{ route: [{ destination: { host: 'gone' } }] }] }),
  ])
  assert.equal(messagesWith(result, 'IST0101').length, 1)
  assert.deepEqual(result.state.traffic, [])
})

// --- scopes ---

test('clients that nothing tells apart share the scope of everyone', () => {
  const result = compileTrees([...town(), timed('x', ['cart'], '1s')])
  assert.equal(scopeOf(result, 'web-1'), '*')
  assert.equal(scopeOf(result, 'visitor'), '*')
  assert.deepEqual(
    result.state.traffic.map(({ key }) => key),
    [`*|${CART}|80`],
  )
})

test('a namespace with rules of its own has a scope of its own, selected clients another', () => {
  const to = [{ destination: { host: 'cart' } }]
  const result = compileTrees([
    ...town(),
    pod('clerk', { app: 'clerk' }),
    timed('private', ['web'], '1s', {}, { exportTo: ['.'] }),
    virtualService('x', { hosts: ['cart'], http: [{ match: [{ sourceLabels: { app: 'clerk' } }], route: to }] }),
  ])
  assert.equal(scopeOf(result, 'visitor'), '*')
  assert.equal(scopeOf(result, 'web-1'), 'shop')
  assert.equal(scopeOf(result, 'clerk'), 'shop/app=clerk')
  assert.deepEqual(
    result.state.traffic.map(({ key }) => key),
    [`shop/app=clerk|${CART}|80`, `shop/app=clerk|${WEB}|80`, `shop|${WEB}|80`],
  )
})

test('a scope keeps its name while rules change', () => {
  const before = compileTrees([...town(), timed('x', ['cart'], '1s')])
  const after = compileTrees([...town(), timed('x', ['cart'], '2s'), timed('y', ['web'], '1s')])
  assert.equal(scopeOf(before, 'web-1'), scopeOf(after, 'web-1'))
})

test('pods outside the mesh have no scope, and nothing is compiled for them', () => {
  const result = compileTrees([namespace('shop', {}), pod('a', {}), service('cart'), timed('x', ['cart'], '1s')])
  assert.deepEqual(result.state.pods, [])
  assert.deepEqual(result.state.traffic, [])
})
