import assert from 'node:assert/strict'
import { test } from 'node:test'
import { compile } from '../../src/compiler/compile.ts'
import { parseObject } from '../../src/compiler/object.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import {
  assertQuiet,
  authorizationPolicy,
  CART,
  compileTrees,
  destinationRule,
  namespace,
  parse,
  peerAuthentication,
  pod,
  SETTINGS,
  service,
  shop,
  type Tree,
  trafficOf,
  tree,
  virtualService,
} from './builders.ts'

// --- kinds ---

for (const apiVersion of ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3']) {
  test(`VirtualService and DestinationRule are read in ${apiVersion}`, () => {
    const rule = {
      ...virtualService('x', { hosts: ['cart'], http: [{ route: [{ destination: { host: 'cart' } }] }] }),
      apiVersion,
    }
    const limits = { host: 'cart', trafficPolicy: { loadBalancer: { simple: 'RANDOM' } } }
    const result = compileTrees([...shop(), rule, { ...destinationRule('x', limits), apiVersion }])
    assertQuiet(result)
    const traffic = trafficOf(result, 'web-1', CART, 80)!
    assert.equal(traffic.routes.length, 1)
    assert.equal(traffic.clusters[0]!.balance, 2)
  })
}

for (const apiVersion of ['security.istio.io/v1', 'security.istio.io/v1beta1']) {
  test(`PeerAuthentication and AuthorizationPolicy are read in ${apiVersion}`, () => {
    const strict = { ...peerAuthentication('a', { mtls: { mode: 'STRICT' } }), apiVersion }
    const result = compileTrees([...shop(), strict, { ...authorizationPolicy('b', {}), apiVersion }])
    assertQuiet(result)
    assert.deepEqual(
      result.state.policies.map(({ key }) => key),
      ['shop/b', 'shop/istio_converted_a'],
    )
  })
}

test('a misspelled field beside the spec is an error: a policy without its spec would mean something else', () => {
  const { spec, ...rest } = authorizationPolicy('a', { action: 'DENY', rules: [{}] })
  const result = compileTrees([...shop(), { ...rest, specs: spec }])
  assert.deepEqual(result.state.policies, [])
  assert.deepEqual(
    result.messages.map(({ severity, field, fix }) => [severity, field, fix]),
    [['error', 'specs', 'Did you mean spec?']],
  )
})

for (const [apiVersion, kind, code, severity] of [
  ['v1', 'ConfigMap', null, null],
  ['v1', 'ServiceAccount', null, null],
  ['apps/v1', 'Deployment', null, null],
  ['example.com/v1', 'VirtualService', null, null],
  ['serving.knative.dev/v1', 'Service', null, null],
  ['networking.istio.io/v1', 'Gateway', 'WEFT0003', 'warning'],
  ['networking.istio.io/v1', 'WorkloadEntry', 'WEFT0003', 'warning'],
  ['networking.istio.io/v1', 'Sidecar', 'WEFT0003', 'warning'],
  ['networking.istio.io/v1alpha3', 'EnvoyFilter', 'WEFT0003', 'warning'],
  ['security.istio.io/v1', 'RequestAuthentication', 'WEFT0003', 'warning'],
  ['telemetry.istio.io/v1', 'Telemetry', 'WEFT0003', 'warning'],
  ['gateway.networking.k8s.io/v1', 'HTTPRoute', 'WEFT0003', 'warning'],
  ['split.smi-spec.io/v1alpha4', 'TrafficSplit', 'WEFT0003', 'warning'],
  ['networking.istio.io/v2', 'VirtualService', 'WEFT0004', 'error'],
  ['v1', 'VirtualService', 'WEFT0004', 'error'],
  ['security.istio.io/v1', 'VirtualService', 'WEFT0004', 'error'],
  ['networking.istio.io/v1', 'VirtualServce', 'WEFT0004', 'error'],
  ['gateway.networking.k8s.io/v1', 'HttpRoute', 'WEFT0004', 'error'],
] as const) {
  test(`${kind} of ${apiVersion}: ${code ?? 'none of our business'}`, () => {
    const { messages, state } = compileTrees([tree(apiVersion, kind, 'x', {})])
    assert.deepEqual(
      messages.map((message) => [message.code, message.severity]),
      code === null ? [] : [[code, severity]],
    )
    assert.deepEqual(state, { workloads: [], services: [], policies: [], traffic: [], pods: [], namespaces: [] })
  })
}

test('an object that is written twice is in force once, as written first', () => {
  const at = (file: string, line: number, spec: object) => {
    const raw = virtualService('x', {
      hosts: ['cart'],
      http: [{ route: [{ destination: { host: 'cart' } }], ...spec }],
    })
    const object = parseObject(raw, (path) => (path.length === 0 ? { file, line, column: 1 } : null))
    assert.ok(!Array.isArray(object))
    return object
  }
  const first = at('a.yaml', 7, { timeout: '1s' })
  for (const second of [at('b.yaml', 1, { timeout: '2s' }), at('a.yaml', 70, { timeout: '2s' })]) {
    for (const order of [
      [first, second],
      [second, first],
    ]) {
      const result = compile([...shop().map(parse), ...order], SETTINGS)
      assert.equal(trafficOf(result, 'web-1', CART, 80)!.routes[0]!.timeoutMs, 1000)
      const [message] = result.messages
      assert.deepEqual([message!.code, message!.severity], ['WEFT0005', 'warning'])
      assert.deepEqual(message!.position, second.positionOf([]))
      assert.match(message!.text, /a\.yaml:7/)
    }
  }
})

// --- determinism ---

/** Some of everything, with conflicts in it. */
function everything(): Tree[] {
  const route = [{ destination: { host: 'cart', subset: 'v1' } }]
  return [
    ...shop(),
    namespace('guest'),
    namespace('istio-system'),
    pod('visitor', { app: 'visitor' }, { namespace: 'guest' }),
    pod('twin', { app: 'cart' }, {}, {}, { podIP: '198.18.250.1' }),
    pod('twin-2', { app: 'cart' }, {}, {}, { podIP: '198.18.250.1' }),
    service('db', [{ name: 'tcp', port: 5432 }], { namespace: 'guest' }),
    virtualService('a', {
      hosts: ['cart'],
      http: [{ match: [{ sourceLabels: { app: 'web' } }], route, timeout: '1s' }],
    }),
    virtualService('b', { hosts: ['cart'], http: [{ route }] }),
    virtualService(
      'c',
      { hosts: ['*.svc.cluster.local'], http: [{ route: [{ destination: { host: 'gone' } }] }] },
      { namespace: 'guest' },
    ),
    virtualService('bad', { hosts: ['cart'], http: [{ rout: [] }] }),
    destinationRule('a', { host: 'cart', subsets: [{ name: 'v1', labels: { version: 'v1' } }] }),
    destinationRule('b', { host: 'cart', trafficPolicy: { loadBalancer: { simple: 'RANDOM' } } }),
    destinationRule('c', { host: '*.local', trafficPolicy: { tls: {} } }, { namespace: 'istio-system' }),
    peerAuthentication('a', { mtls: { mode: 'STRICT' } }),
    peerAuthentication('b', { mtls: { mode: 'PERMISSIVE' } }),
    peerAuthentication('c', {
      selector: { matchLabels: { app: 'cart' } },
      portLevelMtls: { 1: { mode: 'PERMISSIVE' } },
    }),
    authorizationPolicy('a', { selector: { matchLabels: { app: 'cart' } } }),
    authorizationPolicy('b', { action: 'DENY', rules: [{ from: [{ source: { requestPrincipals: ['*'] } }] }] }),
    tree('networking.istio.io/v1', 'Gateway', 'g', {}),
  ]
}

test('the order of the objects does not matter', () => {
  const trees = everything()
  const expected = JSON.stringify(compileTrees(trees))
  const random = new SeededRandom(7)
  for (let round = 0; round < 20; round++) {
    const shuffled = trees.map((value) => ({ value, rank: random.next() })).sort((a, b) => a.rank - b.rank)
    assert.equal(JSON.stringify(compileTrees(shuffled.map(({ value }) => value))), expected)
  }
})

test('lists of the state are sorted by key', () => {
  const { state } = compileTrees(everything())
  for (const keys of [
    state.workloads.map(({ uid }) => uid),
    state.services.map(({ key }) => key),
    state.policies.map(({ key }) => key),
    state.traffic.map(({ key }) => key),
    state.pods.map(({ pod }) => pod.uid),
  ]) {
    assert.ok(keys.length > 1)
    assert.deepEqual(keys, [...keys].sort())
    assert.equal(new Set(keys).size, keys.length)
  }
})

test('the state is plain data that survives cloning and JSON', () => {
  const { state } = compileTrees(everything())
  assert.deepEqual(structuredClone(state), state)
  assert.deepEqual(JSON.parse(JSON.stringify(state)), state)
})

test('every cluster of a route names a service, every scope of a pod with rules exists', () => {
  const { state } = compileTrees(everything())
  const services = new Set(state.services.map(({ key }) => key))
  for (const traffic of state.traffic) {
    const keys = new Set(traffic.clusters.map(({ key }) => key))
    assert.ok(keys.has(traffic.defaultCluster))
    for (const cluster of traffic.clusters) assert.ok(services.has(cluster.service))
  }
  const scopes = new Set(state.pods.map(({ pod }) => pod.scope))
  for (const { scope } of state.traffic) assert.ok(scopes.has(scope))
})

// --- hostile input ---

const SCALARS: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  80,
  1e9,
  '',
  'a',
  '*',
  '5s',
  '10.0.0.1',
  '/x',
  '__proto__',
  'mesh',
  'cart',
]

/** A random tree, made of the field names of real objects as often as not. */
function randomTree(random: SeededRandom, words: readonly string[], depth: number): unknown {
  const kind = depth === 0 ? 0 : random.integer(0, 3)
  if (kind === 0) return random.pick(SCALARS)
  if (kind === 1) return random.list(4, () => randomTree(random, words, depth - 1))
  const result: Record<string, unknown> = {}
  for (let i = random.integer(0, 4); i > 0; i--) result[random.pick(words)] = randomTree(random, words, depth - 1)
  return result
}

/** A copy in which some values are replaced by random ones. */
function mutate(random: SeededRandom, value: unknown, words: readonly string[]): unknown {
  if (random.integer(0, 24) === 0) return randomTree(random, words, 2)
  if (Array.isArray(value)) return value.map((item) => mutate(random, item, words))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      random.integer(0, 39) === 0 ? random.pick(words) : key,
      mutate(random, item, words),
    ]),
  )
}

function wordsOf(value: unknown, words: Set<string>): Set<string> {
  if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      if (!Array.isArray(value)) words.add(key)
      wordsOf(item, words)
    }
  }
  return words
}

/** An object with everything a VirtualService and a DestinationRule can say, so that mutation reaches all fields. */
function rich(): Tree[] {
  const destination = { host: 'cart', subset: 'v1', port: { number: 80 } }
  return [
    virtualService('rich', {
      hosts: ['cart', '*.shop.svc.cluster.local'],
      gateways: ['mesh'],
      exportTo: ['.', 'guest'],
      http: [
        {
          match: [
            {
              uri: { regex: '/a.*' },
              headers: { a: { exact: 'b' } },
              withoutHeaders: { c: {} },
              queryParams: { d: { prefix: 'e' } },
              port: 80,
              sourceLabels: { app: 'web' },
              sourceNamespace: 'shop',
              gateways: ['mesh'],
              ignoreUriCase: true,
            },
          ],
          route: [
            { destination, weight: 1, headers: { request: { set: { a: 'b' }, add: { c: 'd' }, remove: ['e'] } } },
            { destination, weight: 2 },
          ],
          rewrite: { uri: '/x', authority: 'y' },
          timeout: '1s',
          retries: { attempts: 2, perTryTimeout: '1s', retryOn: '5xx,503' },
          fault: {
            delay: { fixedDelay: '1s', percentage: { value: 1 } },
            abort: { httpStatus: 500, percentage: { value: 2 } },
          },
          mirror: destination,
          mirrorPercentage: { value: 5 },
        },
        { redirect: { prefixRewrite: '/b', redirectCode: 302 }, match: [{ uri: { prefix: '/a' } }] },
        { directResponse: { status: 200, body: { string: 'x' } } },
      ],
      tcp: [
        {
          match: [{ destinationSubnets: ['10.0.0.0/8'], port: 9000, sourceLabels: { a: 'b' } }],
          route: [{ destination, weight: 1 }],
        },
      ],
    }),
    destinationRule('rich', {
      host: 'cart',
      trafficPolicy: {
        loadBalancer: { simple: 'RANDOM' },
        connectionPool: { tcp: { maxConnections: 1, connectTimeout: '1s' }, http: { maxRetries: 1 } },
        outlierDetection: { interval: '1s' },
        tls: { mode: 'DISABLE' },
        portLevelSettings: [{ port: { number: 80 }, tls: { mode: 'ISTIO_MUTUAL' } }],
      },
      subsets: [{ name: 'v1', labels: { version: 'v1' }, trafficPolicy: { tls: { mode: 'DISABLE' } } }],
      workloadSelector: { matchLabels: { app: 'web' } },
      exportTo: ['.'],
    }),
    authorizationPolicy('rich', {
      selector: { matchLabels: { app: 'cart' } },
      action: 'DENY',
      rules: [
        {
          from: [
            { source: { principals: ['*'], notNamespaces: ['a'], ipBlocks: ['10.0.0.0/8'], requestPrincipals: ['x'] } },
          ],
          to: [{ operation: { hosts: ['a'], ports: ['80'], methods: ['GET'], paths: ['/a/{*}'] } }],
          when: [{ key: 'request.headers[a]', values: ['b'], notValues: ['c'] }],
        },
      ],
    }),
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'cart-1', namespace: 'shop', labels: { 'kubernetes.io/service-name': 'cart' } },
      endpoints: [
        { addresses: ['198.18.9.1'], conditions: { ready: true }, targetRef: { kind: 'Pod', name: 'cart-v1' } },
      ],
      ports: [{ name: 'http', port: 8080 }],
    },
  ]
}

test('mutated objects never make the compiler throw, and what fails has an error', () => {
  const random = new SeededRandom(42)
  const trees = [...everything(), ...rich()]
  const words = [...wordsOf(trees, new Set(['__proto__', 'constructor']))]
  let errors = 0
  for (let round = 0; round < 400; round++) {
    const objects = trees.flatMap((value) => {
      const object = parseObject(mutate(random, value, words), () => null)
      return Array.isArray(object) ? [] : [object]
    })
    const { state, messages } = compile(objects, SETTINGS)
    errors += messages.filter(({ severity }) => severity === 'error').length
    for (const message of messages) assert.ok(message.text.length > 0 && message.object !== '')
    assert.equal(
      JSON.stringify(compile([...objects].reverse(), SETTINGS).state.workloads),
      JSON.stringify(state.workloads),
    )
  }
  assert.ok(errors > 1000, `the mutations found only ${errors} errors`)
})

test('random trees as spec, status or whole object never make the compiler throw', () => {
  const random = new SeededRandom(43)
  const trees = [...everything(), ...rich()]
  const words = [...wordsOf(trees, new Set(['__proto__', 'constructor']))]
  for (let round = 0; round < 1500; round++) {
    const original = random.pick(trees)
    const whole = {
      ...original,
      [random.pick(['spec', 'status', 'metadata', 'kind', 'endpoints', 'ports'])]: randomTree(random, words, 5),
    }
    const object = parseObject(whole, () => null)
    if (Array.isArray(object)) assert.ok(object.length > 0)
    else assert.ok(compile([object, ...(round % 3 === 0 ? trees.map(parse) : [])], SETTINGS).messages)
  }
})

test('a tree that refers to itself does not hang the compiler', () => {
  const spec: Record<string, unknown> = { hosts: ['cart'] }
  spec['http'] = [spec]
  spec['spec'] = spec
  const result = compileTrees([virtualService('loop', spec)])
  assert.ok(result.messages.length > 0)
})
