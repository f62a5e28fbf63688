import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_RETRY, type Route } from '../../src/model/route.ts'
import { assertQuiet, CART, compileTrees, messagesWith, shop, trafficOf, virtualService } from './builders.ts'

const TO_CART = [{ destination: { host: 'cart' } }]

/** The routes that `web-1` follows to cart:80 under these http rules. Fails on messages unless `codes` expects them. */
function routes(http: readonly unknown[], codes: readonly string[] = []): readonly Route[] {
  const result = compileTrees([...shop(), virtualService('rules', { hosts: ['cart'], http })])
  assert.deepEqual(
    result.messages.map(({ code }) => code),
    codes,
  )
  return trafficOf(result, 'web-1', CART, 80)!.routes
}

function route(rule: object, codes: readonly string[] = []): Route {
  const [first] = routes([{ route: TO_CART, ...rule }], codes)
  assert.ok(first)
  return first
}

const NO_MATCH = { path: null, method: null, scheme: null, authority: null, headers: [], query: [] }

test('a plain route has the defaults of the API', () => {
  const { clusters, ...rest } = route({ name: 'main' })
  assert.deepEqual(clusters, [
    { cluster: `${CART}||80`, weight: 1, requestEdits: null, responseEdits: null, authority: null },
  ])
  assert.deepEqual(rest, {
    source: 'shop/rules',
    name: 'main',
    matches: [],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: DEFAULT_RETRY,
    fault: null,
    mirrors: [],
  })
})

// --- matches ---

for (const [what, match, expected] of [
  ['an exact path', { uri: { exact: '/a' } }, { path: { kind: 'exact', value: '/a', ignoreCase: false } }],
  ['a prefix', { uri: { prefix: '/a' } }, { path: { kind: 'prefix', value: '/a', ignoreCase: false } }],
  [
    'a prefix in any case',
    { uri: { prefix: '/A' }, ignoreUriCase: true },
    { path: { kind: 'prefix', value: '/A', ignoreCase: true } },
  ],
  [
    'a path pattern',
    { uri: { regex: '/a/[0-9]+' } },
    { path: { kind: 'regex', value: '/a/[0-9]+', ignoreCase: false } },
  ],
  [
    'a path pattern, where ignoreUriCase has no effect',
    { uri: { regex: '/a' }, ignoreUriCase: true },
    { path: { kind: 'regex', value: '/a', ignoreCase: false } },
  ],
  ['a method', { method: { exact: 'GET' } }, { method: { kind: 'exact', value: 'GET' } }],
  ['a scheme', { scheme: { exact: 'https' } }, { scheme: { kind: 'exact', value: 'https' } }],
  ['an authority', { authority: { prefix: 'cart' } }, { authority: { kind: 'prefix', value: 'cart' } }],
  [
    'a header',
    { headers: { 'End-User': { exact: 'jason' } } },
    { headers: [{ name: 'end-user', match: { kind: 'exact', value: 'jason' }, isNegated: false }] },
  ],
  [
    'a pseudo header',
    { headers: { ':method': { exact: 'GET' } } },
    { headers: [{ name: ':method', match: { kind: 'exact', value: 'GET' }, isNegated: false }] },
  ],
  [
    'a header that is present',
    { headers: { a: {} } },
    { headers: [{ name: 'a', match: { kind: 'present' }, isNegated: false }] },
  ],
  [
    'a header that is present, written as a pattern',
    { headers: { a: { regex: '*' } } },
    { headers: [{ name: 'a', match: { kind: 'present' }, isNegated: false }] },
  ],
  [
    'a header that is not so',
    { withoutHeaders: { a: { exact: 'b' } } },
    { headers: [{ name: 'a', match: { kind: 'exact', value: 'b' }, isNegated: true }] },
  ],
  [
    'a header that is absent',
    { withoutHeaders: { a: {} } },
    { headers: [{ name: 'a', match: { kind: 'present' }, isNegated: true }] },
  ],
  [
    'a query parameter',
    { queryParams: { Page: { exact: '1' } } },
    { query: [{ name: 'Page', match: { kind: 'exact', value: '1' }, isNegated: false }] },
  ],
  [
    'a bare query key',
    { queryParams: { debug: { exact: '' } } },
    { query: [{ name: 'debug', match: { kind: 'exact', value: '' }, isNegated: false }] },
  ],
  [
    'a query parameter that is present',
    { queryParams: { a: {} } },
    { query: [{ name: 'a', match: { kind: 'present' }, isNegated: false }] },
  ],
] as const) {
  test(`a match on ${what}`, () => {
    assert.deepEqual(route({ match: [match] }).matches, [{ ...NO_MATCH, ...expected }])
  })
}

test('match elements are alternatives, their fields are conditions', () => {
  const { matches } = route({
    match: [{ uri: { prefix: '/a' }, method: { exact: 'GET' }, headers: { x: {} } }, { uri: { exact: '/b' } }],
  })
  assert.equal(matches.length, 2)
  assert.equal(matches[0]!.method?.kind, 'exact')
  assert.equal(matches[0]!.headers.length, 1)
})

test('an empty match element takes everything', () => {
  assert.deepEqual(route({ match: [{}] }).matches, [])
})

test('a path prefix beside a match of everything is kept: a rewrite needs to know it', () => {
  const { matches } = route({ match: [{ uri: { prefix: '/a' } }, {}], rewrite: { uri: '/' } })
  assert.equal(matches.length, 2)
})

test('a header key that has a field of its own is never matched, and says so', () => {
  const { matches } = route({ match: [{ headers: { uri: { exact: '/a' }, b: {} } }] }, ['IST0133'])
  assert.deepEqual(
    matches[0]!.headers.map(({ name }) => name),
    ['b'],
  )
})

test('rules keep their order, and a rule that takes everything ends the list', () => {
  const list = routes(
    [
      { name: 'a', match: [{ uri: { prefix: '/a' } }], route: TO_CART },
      { name: 'b', match: [{ uri: { prefix: '/' } }], route: TO_CART },
      { name: 'c', match: [{ uri: { prefix: '/c' } }], route: TO_CART },
    ],
    ['IST0130'],
  )
  assert.deepEqual(
    list.map(({ name }) => name),
    ['a', 'b'],
  )
})

for (const [match, isEnd] of [
  [{ uri: { prefix: '/' } }, true],
  [{ uri: { regex: '.*' } }, true],
  [{}, true],
  [{ uri: { prefix: '/a' } }, false],
  [{ uri: { prefix: '/' }, headers: { a: {} } }, false],
  [{ uri: { prefix: '/' }, queryParams: { a: {} } }, false],
  [{ method: { exact: 'GET' } }, false],
  [{ withoutHeaders: { a: {} } }, false],
] as const) {
  test(`a rule after one for ${JSON.stringify(match)} is ${isEnd ? 'not ' : ''}reached`, () => {
    const list = routes(
      [
        { match: [match], route: TO_CART },
        { name: 'last', route: TO_CART },
      ],
      isEnd ? ['IST0130'] : [],
    )
    assert.equal(list.length, isEnd ? 1 : 2)
  })
}

test('a match that is written twice is pointed out', () => {
  const match = [{ uri: { prefix: '/a' } }]
  routes(
    [
      { match, route: TO_CART },
      { match, route: TO_CART },
    ],
    ['IST0131'],
  )
})

// --- actions ---

test('weights: zero gets nothing, one destination gets everything whatever it says', () => {
  const weights = (entries: readonly (number | undefined)[]): number[] =>
    route({
      route: entries.map((weight) => ({ destination: { host: 'cart', port: { number: 80 } }, weight })),
    }).clusters.map(({ weight }) => weight)
  assert.deepEqual(weights([0]), [1])
  assert.deepEqual(weights([undefined]), [1])
  assert.deepEqual(weights([7]), [1])
  assert.deepEqual(weights([90, 10]), [90, 10])
  assert.deepEqual(weights([1, 0, 2]), [1, 2])
  assert.deepEqual(weights([1, undefined]), [1])
})

for (const [what, retries, expected] of [
  ['no block', undefined, DEFAULT_RETRY],
  ['an empty block', {}, { ...DEFAULT_RETRY, attempts: 0 }],
  ['attempts 0', { attempts: 0 }, { ...DEFAULT_RETRY, attempts: 0 }],
  ['attempts alone', { attempts: 3 }, { ...DEFAULT_RETRY, attempts: 3 }],
  [
    'a time-out per try',
    { attempts: 1, perTryTimeout: '2s' },
    { ...DEFAULT_RETRY, attempts: 1, perTryTimeoutMs: 2000 },
  ],
  ['conditions', { attempts: 1, retryOn: '5xx,reset' }, { ...DEFAULT_RETRY, attempts: 1, on: ['5xx', 'reset'] }],
  [
    'conditions with spaces',
    { attempts: 1, retryOn: '5xx, reset' },
    { ...DEFAULT_RETRY, attempts: 1, on: ['5xx', 'reset'] },
  ],
  [
    'statuses',
    { attempts: 1, retryOn: '503,429,retriable-status-codes' },
    { ...DEFAULT_RETRY, attempts: 1, on: [], statuses: [503, 429] },
  ],
  ['a backoff', { attempts: 1, backoff: '100ms' }, { ...DEFAULT_RETRY, attempts: 1, backoffBaseMs: 100 }],
  [
    'hosts that may be tried again',
    { attempts: 1, retryIgnorePreviousHosts: false },
    { ...DEFAULT_RETRY, attempts: 1, avoidsPreviousHosts: false },
  ],
] as const) {
  test(`retries: ${what}`, () => {
    assert.deepEqual(route({ retries }).retry, expected)
  })
}

test('timeout: absent and 0s are none', () => {
  assert.equal(route({}).timeoutMs, 0)
  assert.equal(route({ timeout: '0s' }).timeoutMs, 0)
  assert.equal(route({ timeout: '1.5s' }).timeoutMs, 1500)
})

for (const [what, fault, expected, codes] of [
  ['a delay', { delay: { fixedDelay: '7s', percentage: { value: 100 } } }, { delayMs: 7000, delayPpm: 1_000_000 }, []],
  ['an abort', { abort: { httpStatus: 500, percentage: { value: 0.0001 } } }, { abortStatus: 500, abortPpm: 1 }, []],
  [
    'a gRPC abort',
    { abort: { grpcStatus: 'UNAVAILABLE', percentage: { value: 50 } } },
    { abortGrpcStatus: 14, abortPpm: 500_000 },
    [],
  ],
  [
    'the deprecated percent',
    { delay: { fixedDelay: '1s', percent: 25 } },
    { delayMs: 1000, delayPpm: 250_000 },
    ['IST0002'],
  ],
  [
    'percentage before percent',
    { delay: { fixedDelay: '1s', percent: 25, percentage: { value: 5 } } },
    { delayMs: 1000, delayPpm: 50_000 },
    ['IST0002'],
  ],
  [
    'both',
    { delay: { fixedDelay: '1s', percentage: { value: 1 } }, abort: { httpStatus: 503, percentage: { value: 2 } } },
    { delayMs: 1000, delayPpm: 10_000, abortStatus: 503, abortPpm: 20_000 },
    [],
  ],
] as const) {
  test(`fault: ${what}`, () => {
    const none = { delayMs: 0, delayPpm: 0, abortStatus: 0, abortGrpcStatus: null, abortPpm: 0 }
    assert.deepEqual(route({ fault }, codes).fault, { ...none, ...expected })
  })
}

test('a fault without a percentage hits nobody, and says so', () => {
  assert.equal(route({ fault: { abort: { httpStatus: 500 } } }, ['IST0133']).fault, null)
  assert.equal(route({ fault: { delay: { fixedDelay: '1s' } } }, ['IST0133']).fault, null)
})

for (const [what, rule, ppm, codes] of [
  ['no percentage is all', { mirror: { host: 'web' } }, [1_000_000], []],
  ['a percentage', { mirror: { host: 'web' }, mirrorPercentage: { value: 12.5 } }, [125_000], []],
  ['zero is none', { mirror: { host: 'web' }, mirrorPercentage: { value: 0 } }, [], []],
  ['the deprecated mirrorPercent', { mirror: { host: 'web' }, mirrorPercent: 50 }, [500_000], ['IST0002']],
  ['its old spelling', { mirror: { host: 'web' }, mirror_percent: 50 }, [500_000], ['IST0002']],
  [
    'several',
    { mirrors: [{ destination: { host: 'web' } }, { destination: { host: 'cart' }, percentage: { value: 1 } }] },
    [1_000_000, 10_000],
    [],
  ],
] as const) {
  test(`mirror: ${what}`, () => {
    const { mirrors } = route(rule, codes)
    assert.deepEqual(
      mirrors.map((mirror) => mirror.ppm),
      ppm,
    )
  })
}

test('a mirror has a cluster of its own', () => {
  const result = compileTrees([
    ...shop(),
    virtualService('x', { hosts: ['cart'], http: [{ route: TO_CART, mirror: { host: 'web' } }] }),
  ])
  assertQuiet(result)
  const traffic = trafficOf(result, 'web-1', CART, 80)!
  assert.deepEqual(traffic.routes[0]!.mirrors, [{ cluster: 'shop/web.shop.svc.cluster.local||80', ppm: 1_000_000 }])
  assert.ok(traffic.clusters.some(({ key }) => key === 'shop/web.shop.svc.cluster.local||80'))
})

test('header operations: names in lower case, %% is a percent sign, a variable is left out and reported', () => {
  const edits = route(
    {
      headers: {
        request: { set: { 'x-id': '%REQ(x-request-id)%', 'X-A': '100%%' }, add: { b: '2' }, remove: ['C'] },
        response: { add: { d: '4' } },
      },
    },
    ['WEFT0001'],
  )
  assert.deepEqual(edits.requestEdits, {
    set: [{ name: 'x-a', value: '100%' }],
    add: [{ name: 'b', value: '2' }],
    remove: ['c'],
  })
  assert.deepEqual(edits.responseEdits, { set: [], add: [{ name: 'd', value: '4' }], remove: [] })
})

test('header operations of a destination stay with it', () => {
  const { clusters } = route({
    route: [{ destination: { host: 'cart' }, headers: { response: { remove: ['server'] } } }],
  })
  assert.deepEqual(clusters[0]!.responseEdits, { set: [], add: [], remove: ['server'] })
})

test('a header that frames the message cannot be edited, and the rule says so', () => {
  route({ headers: { request: { set: { 'Content-Length': '0' } } } }, ['IST0133'])
})

test('setting the host is a rewrite of the authority', () => {
  const byRule = route({ headers: { request: { set: { Host: 'a.example' } } } })
  assert.deepEqual(byRule.rewrite, { authority: 'a.example', path: null, regex: null })
  assert.equal(byRule.requestEdits, null)
  const one = route({
    route: [{ destination: { host: 'cart' }, headers: { request: { set: { ':authority': 'b.example' } } } }],
  })
  assert.equal(one.rewrite?.authority, 'b.example')
  assert.equal(one.clusters[0]!.authority, null)
})

test("a rule's authority wins over that of a single destination, several destinations have their own", () => {
  const entry = (authority: string, weight: number) => ({
    destination: { host: 'cart' },
    weight,
    headers: { request: { set: { host: authority } } },
  })
  const single = route({ rewrite: { authority: 'r.example' }, route: [entry('a.example', 1)] })
  assert.equal(single.rewrite?.authority, 'r.example')
  const several = route({ rewrite: { authority: 'r.example' }, route: [entry('a.example', 1), entry('b.example', 1)] })
  assert.equal(several.rewrite?.authority, 'r.example')
  assert.deepEqual(
    several.clusters.map(({ authority }) => authority),
    ['a.example', 'b.example'],
  )
})

test('rewrite of the path, as text and by pattern', () => {
  assert.deepEqual(route({ rewrite: { uri: '/v2' } }).rewrite, { authority: null, path: '/v2', regex: null })
  assert.deepEqual(route({ rewrite: { uriRegexRewrite: { match: '^/a/(.*)$', rewrite: '/b/\\1' } } }).rewrite, {
    authority: null,
    path: null,
    regex: { pattern: '^/a/(.*)$', substitution: '/b/\\1' },
  })
})

test('redirect: 301 unless another code is written', () => {
  const redirect = (fields: object) => route({ route: undefined, redirect: fields }).redirect
  const none = { path: null, prefixRewrite: null, authority: null, scheme: null, port: null, derivePort: null }
  assert.deepEqual(redirect({ uri: '/new' }), { ...none, status: 301, path: '/new' })
  assert.deepEqual(redirect({ authority: 'a.example', scheme: 'https', port: 8443, redirectCode: 308 }), {
    ...none,
    status: 308,
    authority: 'a.example',
    scheme: 'https',
    port: 8443,
  })
  assert.equal(redirect({ derivePort: 'FROM_REQUEST_PORT' })?.derivePort, 'request')
  assert.equal(redirect({ derivePort: 'FROM_PROTOCOL_DEFAULT' })?.derivePort, 'protocol')
})

test('a redirect of a prefix needs prefix matches', () => {
  const rule = { route: undefined, match: [{ uri: { prefix: '/a' } }], redirect: { prefixRewrite: '/b' } }
  assert.equal(route(rule).redirect?.prefixRewrite, '/b')
})

test('a direct response has a status and a body, as text or as base64', () => {
  const reply = (body: object | undefined) =>
    route({ route: undefined, directResponse: { status: 418, body } }).directResponse
  assert.deepEqual(reply(undefined), { status: 418, body: '' })
  assert.deepEqual(reply({ string: 'tea' }), { status: 418, body: 'tea' })
  assert.deepEqual(reply({ bytes: 'dMOpYQ==' }), { status: 418, body: 'téa' })
})

test('a large body is pointed out', () => {
  route({ route: undefined, directResponse: { status: 200, body: { string: 'x'.repeat(200_000) } } }, ['IST0133'])
})

test('fields without effect yet are reported, the rest of the rule is in force', () => {
  const result = compileTrees([
    ...shop(),
    virtualService('x', {
      hosts: ['cart'],
      http: [{ route: TO_CART, timeout: '1s', corsPolicy: { allowOrigins: [{ exact: '*' }] } }],
      tls: [{ match: [{ sniHosts: ['cart'] }], route: TO_CART }],
    }),
  ])
  assert.deepEqual(
    messagesWith(result, 'WEFT0001').map(({ field, severity }) => [field, severity]),
    [
      ['spec.http[0].corsPolicy', 'warning'],
      ['spec.tls', 'warning'],
    ],
  )
  assert.equal(trafficOf(result, 'web-1', CART, 80)!.routes[0]!.timeoutMs, 1000)
})
