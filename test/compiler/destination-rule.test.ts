import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CompileResult } from '../../src/compiler/compile.ts'
import type { Cluster } from '../../src/model/service.ts'
import {
  BALANCE_LEAST_REQUEST,
  BALANCE_RANDOM,
  BALANCE_ROUND_ROBIN,
  DEFAULT_POOL_LIMITS,
} from '../../src/model/service.ts'
import {
  assertQuiet,
  CART,
  compileTrees,
  destinationRule,
  messagesWith,
  namespace,
  pod,
  shop,
  type Tree,
  trafficOf,
  uid,
  virtualService,
} from './builders.ts'

/** Routes to both subsets of cart, so that their clusters exist. */
const SPLIT = virtualService('split', {
  hosts: ['cart'],
  http: [
    {
      route: [
        { destination: { host: 'cart', subset: 'v1' }, weight: 1 },
        { destination: { host: 'cart', subset: 'v2' }, weight: 1 },
      ],
    },
  ],
})

const SUBSETS = [
  { name: 'v1', labels: { version: 'v1' } },
  { name: 'v2', labels: { version: 'v2' } },
]

function clusterOf(result: CompileResult, subset = '', port = 80, client = 'web-1'): Cluster | null {
  const traffic = trafficOf(result, client, CART, port)
  return traffic?.clusters.find(({ key }) => key === `${CART}|${subset}|${port}`) ?? null
}

/** The default cluster of cart:80 under a trafficPolicy; null when nothing differs from the defaults. */
function under(trafficPolicy: object, codes: readonly string[] = [], port = 80): Cluster | null {
  const result = compileTrees([...shop(), destinationRule('x', { host: 'cart', trafficPolicy })])
  assert.deepEqual(
    result.messages.map(({ code }) => code),
    codes,
  )
  return clusterOf(result, '', port)
}

// --- settings ---

for (const [simple, balance, codes] of [
  ['ROUND_ROBIN', BALANCE_ROUND_ROBIN, []],
  ['RANDOM', BALANCE_RANDOM, []],
  ['LEAST_REQUEST', null, []],
  ['LEAST_CONN', null, ['IST0002']],
  ['UNSPECIFIED', null, []],
  ['PASSTHROUGH', null, ['WEFT0001']],
] as const) {
  test(`loadBalancer ${simple}`, () => {
    // Null: the default, for which there is nothing to tell agents.
    assert.equal(under({ loadBalancer: { simple } }, codes)?.balance ?? null, balance)
  })
}

test('a load balancer that is not supported yet falls back to least request, and says so', () => {
  assert.equal(under({ loadBalancer: { consistentHash: { useSourceIp: true } } }, ['WEFT0001']), null)
})

for (const [what, connectionPool, limits] of [
  ['connections', { tcp: { maxConnections: 5 } }, { connectionsMax: 5 }],
  ['the connect time-out', { tcp: { connectTimeout: '250ms' } }, { connectTimeoutMs: 250 }],
  ['pending requests', { http: { http1MaxPendingRequests: 1 } }, { pendingRequestsMax: 1 }],
  ['requests', { http: { http2MaxRequests: 100 } }, { requestsMax: 100 }],
  ['requests per connection', { http: { maxRequestsPerConnection: 1 } }, { requestsPerConnectionMax: 1 }],
  ['retries', { http: { maxRetries: 3 } }, { retriesMax: 3 }],
  ['idle time of tcp', { tcp: { idleTimeout: '5s' } }, { idleTimeoutMs: 5000 }],
  [
    'idle time of http, which wins',
    { tcp: { idleTimeout: '5s' }, http: { idleTimeout: '9s' } },
    { idleTimeoutMs: 9000 },
  ],
  ['age of connections', { tcp: { maxConnectionDuration: '90s' } }, { connectionAgeMsMax: 90_000 }],
  ['no idle time', { http: { idleTimeout: '0s' } }, { idleTimeoutMs: 0 }],
] as const) {
  test(`connectionPool: ${what}`, () => {
    assert.deepEqual(under({ connectionPool })?.limits, { ...DEFAULT_POOL_LIMITS, ...limits })
  })
}

test('connectionPool: zero means no limit', () => {
  const pool = { tcp: { maxConnections: 0 }, http: { http1MaxPendingRequests: 0, maxRequestsPerConnection: 0 } }
  assert.equal(under({ connectionPool: pool }), null)
})

test('a TCP port takes the idle time of tcp, not of http', () => {
  const pool = { tcp: { idleTimeout: '5s' }, http: { idleTimeout: '9s' } }
  assert.equal(under({ connectionPool: pool }, [], 9000)?.limits.idleTimeoutMs, 5000)
})

test('outlierDetection: the defaults of the API, and what is written', () => {
  assert.deepEqual(under({ outlierDetection: {} })?.outlier, {
    consecutive5xx: 5,
    consecutiveGatewayErrors: 0,
    intervalMs: 10_000,
    baseEjectionMs: 30_000,
    ejectionPercentMax: 10,
    healthPercentMin: 0,
  })
  const written = {
    consecutive5xxErrors: 0,
    consecutiveGatewayErrors: 3,
    interval: '1s',
    baseEjectionTime: '2s',
    maxEjectionPercent: 100,
    minHealthPercent: 50,
  }
  assert.deepEqual(under({ outlierDetection: written })?.outlier, {
    consecutive5xx: 0,
    consecutiveGatewayErrors: 3,
    intervalMs: 1000,
    baseEjectionMs: 2000,
    ejectionPercentMax: 100,
    healthPercentMin: 50,
  })
})

for (const [tls, isMutualTls, codes] of [
  [{ mode: 'DISABLE' }, false, []],
  [{}, false, []],
  [{ mode: 'ISTIO_MUTUAL' }, true, []],
  [{ mode: 'SIMPLE', sni: 'a' }, true, ['WEFT0001']],
  [{ mode: 'MUTUAL' }, true, ['WEFT0001']],
] as const) {
  test(`tls ${JSON.stringify(tls)} ${isMutualTls ? 'keeps' : 'switches off'} mutual TLS`, () => {
    assert.equal(under({ tls }, codes)?.isMutualTls ?? true, isMutualTls)
  })
}

test('fields without effect yet are named one by one', () => {
  const result = compileTrees([
    ...shop(),
    destinationRule('x', {
      host: 'cart',
      trafficPolicy: {
        loadBalancer: { simple: 'RANDOM', warmup: { duration: '1s' }, localityLbSetting: {} },
        connectionPool: { tcp: { tcpKeepalive: {} }, http: { h2UpgradePolicy: 'UPGRADE' } },
        outlierDetection: { splitExternalLocalOriginErrors: true, consecutiveErrors: 5 },
        tunnel: {},
      },
    }),
  ])
  assert.ok(result.messages.every(({ severity }) => severity === 'warning'))
  assert.deepEqual(
    result.messages.map(({ code, field }) => [code, field.slice('spec.trafficPolicy.'.length)]),
    [
      ['WEFT0001', 'connectionPool.http.h2UpgradePolicy'],
      ['WEFT0001', 'connectionPool.tcp.tcpKeepalive'],
      ['WEFT0001', 'loadBalancer.localityLbSetting'],
      ['WEFT0001', 'loadBalancer.warmup'],
      ['IST0002', 'outlierDetection.consecutiveErrors'],
      ['WEFT0001', 'outlierDetection.splitExternalLocalOriginErrors'],
      ['WEFT0001', 'tunnel'],
    ],
  )
  assert.equal(clusterOf(result)?.balance, BALANCE_RANDOM)
})

// --- subsets and layers ---

test('a subset has the endpoints with its labels; empty labels have all', () => {
  const result = compileTrees([
    ...shop(),
    SPLIT,
    destinationRule('x', { host: 'cart', subsets: [SUBSETS[0], { name: 'v2', labels: {} }] }),
  ])
  assertQuiet(result)
  assert.deepEqual(clusterOf(result, 'v1')?.members, [uid('cart-v1')])
  assert.equal(clusterOf(result, 'v2')?.members, null)
  assert.equal(clusterOf(result)?.members, null)
})

test('a subset that no route names is inert', () => {
  const result = compileTrees([
    ...shop(),
    destinationRule('x', {
      host: 'cart',
      subsets: [{ ...SUBSETS[0], trafficPolicy: { loadBalancer: { simple: 'RANDOM' } } }],
    }),
  ])
  assert.equal(trafficOf(result, 'web-1', CART, 80), null)
  assertQuiet(result)
})

test('a subset without endpoints keeps its empty cluster, and is reported (IST0173)', () => {
  const result = compileTrees([
    ...shop(),
    virtualService('v', { hosts: ['cart'], http: [{ route: [{ destination: { host: 'cart', subset: 'v9' } }] }] }),
    destinationRule('x', { host: 'cart', subsets: [{ name: 'v9', labels: { version: 'v9' } }] }),
  ])
  assert.deepEqual(clusterOf(result, 'v9')?.members, [])
  assert.deepEqual(
    messagesWith(result, 'IST0173').map(({ field }) => field),
    ['spec.subsets[0].labels'],
  )
})

test("a subset's block replaces the rule's block as a whole, blocks it does not write stay", () => {
  const result = compileTrees([
    ...shop(),
    SPLIT,
    destinationRule('x', {
      host: 'cart',
      trafficPolicy: {
        loadBalancer: { simple: 'RANDOM' },
        connectionPool: { tcp: { maxConnections: 5 }, http: { http2MaxRequests: 6 } },
      },
      subsets: [{ ...SUBSETS[0], trafficPolicy: { connectionPool: { tcp: { connectTimeout: '1s' } } } }, SUBSETS[1]],
    }),
  ])
  const [one, two] = [clusterOf(result, 'v1')!, clusterOf(result, 'v2')!]
  assert.equal(one.balance, BALANCE_RANDOM)
  assert.deepEqual(one.limits, { ...DEFAULT_POOL_LIMITS, connectTimeoutMs: 1000 })
  assert.equal(two.limits.connectionsMax, 5)
  assert.equal(two.limits.requestsMax, 6)
})

test('settings of a port replace all blocks: what they leave out is the default, not the rule', () => {
  const policy = {
    loadBalancer: { simple: 'RANDOM' },
    outlierDetection: {},
    tls: { mode: 'DISABLE' },
    portLevelSettings: [{ port: { number: 80 }, connectionPool: { tcp: { maxConnections: 7 } } }],
  }
  const http = under(policy)!
  assert.equal(http.limits.connectionsMax, 7)
  assert.deepEqual([http.balance, http.outlier, http.isMutualTls], [BALANCE_LEAST_REQUEST, null, true])
  const tcp = under(policy, [], 9000)!
  assert.deepEqual([tcp.balance, tcp.isMutualTls, tcp.limits.connectionsMax], [BALANCE_RANDOM, false, null])
})

test('the order of layers: port of the subset, subset, port of the rule, rule', () => {
  const balanceOf = (subsetPolicy: object | undefined, rulePolicy: object): number => {
    const result = compileTrees([
      ...shop(),
      SPLIT,
      destinationRule('x', {
        host: 'cart',
        trafficPolicy: rulePolicy,
        subsets: [{ ...SUBSETS[0], trafficPolicy: subsetPolicy }, SUBSETS[1]],
      }),
    ])
    return clusterOf(result, 'v1')!.balance
  }
  const simple = (value: string) => ({ loadBalancer: { simple: value } })
  const atPort = (value: string) => ({ portLevelSettings: [{ port: { number: 80 }, ...simple(value) }] })
  const rule = { ...simple('LEAST_REQUEST'), ...atPort('RANDOM') }
  assert.equal(balanceOf(undefined, rule), BALANCE_RANDOM)
  assert.equal(balanceOf(simple('ROUND_ROBIN'), rule), BALANCE_ROUND_ROBIN)
  assert.equal(balanceOf({ ...simple('RANDOM'), ...atPort('ROUND_ROBIN') }, rule), BALANCE_ROUND_ROBIN)
  // The subset sets nothing for the port's block: the rule's port still counts.
  assert.equal(balanceOf({ tls: { mode: 'ISTIO_MUTUAL' } }, rule), BALANCE_RANDOM)
})

// --- look-up ---

const HOST = 'cart.shop.svc.cluster.local'

function limited(name: string, host: string, connections: number, metadata = {}, spec: Tree = {}): Tree {
  const trafficPolicy = { connectionPool: { tcp: { maxConnections: connections } } }
  return destinationRule(name, { host, trafficPolicy, ...spec }, metadata)
}

/** The shop with clients `visitor` in `guest` and `chief` in the root namespace; connections that each may open. */
function limitsIn(...rules: Tree[]): {
  web: number | null
  visitor: number | null
  chief: number | null
  result: CompileResult
} {
  const result = compileTrees([
    ...shop(),
    namespace('guest'),
    pod('visitor', { app: 'visitor' }, { namespace: 'guest' }),
    namespace('istio-system'),
    pod('chief', { app: 'chief' }, { namespace: 'istio-system' }),
    ...rules,
  ])
  const limit = (client: string) => clusterOf(result, '', 80, client)?.limits.connectionsMax ?? null
  return { web: limit('web-1'), visitor: limit('visitor'), chief: limit('chief'), result }
}

test("the client's namespace comes before the service's, and that before the root namespace", () => {
  const root = limited('r', HOST, 1, { namespace: 'istio-system' })
  const service = limited('s', 'cart', 2)
  const client = limited('c', HOST, 3, { namespace: 'guest' })
  const all = limitsIn(root, service, client)
  assert.deepEqual([all.web, all.visitor, all.chief], [2, 3, 2])
  const noClient = limitsIn(root, service)
  assert.deepEqual([noClient.web, noClient.visitor, noClient.chief], [2, 2, 2])
  const onlyRoot = limitsIn(root)
  assert.deepEqual([onlyRoot.web, onlyRoot.visitor, onlyRoot.chief], [1, 1, 1])
})

test('a rule of the root namespace that is private to it counts for clients there first', () => {
  const own = limited('r', HOST, 1, { namespace: 'istio-system' }, { exportTo: ['.'] })
  const { web, visitor, chief } = limitsIn(own, limited('s', 'cart', 2))
  assert.deepEqual([web, visitor, chief], [2, 2, 1])
})

test('the first level with a hit wins entirely: nothing is inherited', () => {
  const { result } = limitsIn(
    limited('s', 'cart', 2),
    destinationRule('c', { host: HOST, trafficPolicy: { loadBalancer: { simple: 'RANDOM' } } }, { namespace: 'guest' }),
  )
  const cluster = clusterOf(result, '', 80, 'visitor')!
  assert.deepEqual([cluster.balance, cluster.limits.connectionsMax], [BALANCE_RANDOM, null])
})

test('exportTo hides a rule from other namespaces', () => {
  assert.deepEqual(limitsIn(limited('s', 'cart', 2, {}, { exportTo: ['.'] })).visitor, null)
  assert.deepEqual(limitsIn(limited('s', 'cart', 2, {}, { exportTo: ['guest'] })).visitor, 2)
  assert.deepEqual(limitsIn(limited('s', 'cart', 2, {}, { exportTo: ['guest'] })).web, null)
})

test('in a level the most specific host wins, whatever its age', () => {
  const wide = limited('a', '*.local', 1, { age: 1 })
  const narrow = limited('b', '*.shop.svc.cluster.local', 2, { age: 2 })
  const exact = limited('c', 'cart', 3, { age: 3 })
  assert.equal(limitsIn(wide).web, 1)
  assert.equal(limitsIn(wide, narrow).web, 2)
  assert.equal(limitsIn(wide, narrow, exact).web, 3)
})

test('a host that differs in one letter is another host', () => {
  assert.equal(limitsIn(limited('x', 'dart.shop.svc.cluster.local', 1)).web, null)
})

test('rules for one host are merged: subsets add up, the oldest policy is in force, the rest is told', () => {
  const result = compileTrees([
    ...shop(),
    SPLIT,
    limited(
      'young',
      'cart',
      9,
      { age: 3 },
      {
        subsets: [
          { name: 'v2', labels: { version: 'v2' } },
          { name: 'v1', labels: {} },
        ],
      },
    ),
    limited('old', HOST, 5, { age: 2 }, { subsets: [{ name: 'v1', labels: { version: 'v1' } }] }),
    destinationRule('oldest', { host: 'cart' }, { age: 1 }),
  ])
  assert.equal(clusterOf(result)?.limits.connectionsMax, 5)
  assert.deepEqual(clusterOf(result, 'v1')?.members, [uid('cart-v1')])
  assert.deepEqual(clusterOf(result, 'v2')?.members, [uid('cart-v2')])
  assert.deepEqual(
    result.messages.map(({ object, field }) => [object.split('/').pop(), field]),
    [
      ['young', 'spec.subsets[1]'],
      ['young', 'spec.trafficPolicy'],
    ],
  )
})

test('rules for one host with different exportTo stay apart: the older one that is visible counts', () => {
  const narrow = limited('a', 'cart', 1, { age: 1 }, { exportTo: ['.'] })
  const wide = limited('b', 'cart', 2, { age: 2 })
  const { web, visitor } = limitsIn(narrow, wide)
  assert.deepEqual([web, visitor], [1, 2])
})

test('workloadSelector: a rule for some clients of its namespace comes before the rule for all', () => {
  const all = limited('all', 'cart', 1, { age: 1 })
  const some = limited('some', 'cart', 2, { age: 2 }, { workloadSelector: { matchLabels: { app: 'web' } } })
  const { result, web, visitor } = limitsIn(all, some)
  assert.deepEqual([web, visitor], [2, 1])
  assert.equal(clusterOf(result, '', 80, 'cart-v1')?.limits.connectionsMax, 1)
  assert.equal(limitsIn(some).visitor, null)
})

test('a host that names no service is reported (IST0174)', () => {
  const result = compileTrees([...shop(), limited('x', 'crat', 1), limited('y', '*.example.com', 1)])
  assert.deepEqual(
    messagesWith(result, 'IST0174').map(({ object, field }) => [object.split('/').pop(), field]),
    [
      ['x', 'spec.host'],
      ['y', 'spec.host'],
    ],
  )
  assert.match(messagesWith(result, 'IST0174')[0]!.fix, /cart\.shop/)
})

// --- errors ---

for (const [spec, field] of [
  [{ subsets: [] }, 'spec'],
  [{ host: 'a.*' }, 'spec.host'],
  [{ host: 'cart', subset: [] }, 'spec.subset'],
  [{ host: 'cart', trafficPolicy: {} }, 'spec.trafficPolicy'],
  [{ host: 'cart', trafficPolicy: { connectionPool: {} } }, 'spec.trafficPolicy.connectionPool'],
  [
    { host: 'cart', trafficPolicy: { connectionPool: { tcp: { maxConnections: '5' } } } },
    'spec.trafficPolicy.connectionPool.tcp.maxConnections',
  ],
  [
    { host: 'cart', trafficPolicy: { connectionPool: { tcp: { maxConnection: 5 } } } },
    'spec.trafficPolicy.connectionPool.tcp.maxConnection',
  ],
  [
    { host: 'cart', trafficPolicy: { loadBalancer: { simple: 'ROUNDROBIN' } } },
    'spec.trafficPolicy.loadBalancer.simple',
  ],
  [
    { host: 'cart', trafficPolicy: { outlierDetection: { maxEjectionPercent: 101 } } },
    'spec.trafficPolicy.outlierDetection.maxEjectionPercent',
  ],
  [
    { host: 'cart', trafficPolicy: { outlierDetection: { interval: '0s' } } },
    'spec.trafficPolicy.outlierDetection.interval',
  ],
  [{ host: 'cart', trafficPolicy: { tls: { mode: 'STRICT' } } }, 'spec.trafficPolicy.tls.mode'],
  [
    { host: 'cart', trafficPolicy: { portLevelSettings: [{ loadBalancer: { simple: 'RANDOM' } }] } },
    'spec.trafficPolicy.portLevelSettings[0]',
  ],
  [{ host: 'cart', subsets: [{ labels: {} }] }, 'spec.subsets[0]'],
  [{ host: 'cart', subsets: [{ name: 'V1' }] }, 'spec.subsets[0].name'],
  [{ host: 'cart', subsets: [{ name: 'v1' }, { name: 'v1' }] }, 'spec.subsets[1].name'],
  [{ host: 'cart', subsets: [{ name: 'v1', labels: { version: 1 } }] }, 'spec.subsets[0].labels.version'],
  [{ host: 'cart', workloadSelector: { matchLabels: { a: 'b' } }, exportTo: ['*'] }, 'spec.exportTo'],
] as const) {
  test(`refused: ${field} of ${JSON.stringify(spec)}`, () => {
    const result = compileTrees([...shop(), destinationRule('bad', spec)])
    assert.deepEqual(
      result.messages.map((message) => [message.severity, message.field]),
      [['error', field]],
    )
    assert.deepEqual(result.state.traffic, [])
  })
}
