import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CompileResult } from '../../src/compiler/compile.ts'
import {
  ACTION_ALLOW,
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  POLICY_SCOPE_GLOBAL,
  POLICY_SCOPE_NAMESPACE,
  POLICY_SCOPE_WORKLOAD,
  type Policy,
  type PolicyMatch,
  type PolicyRule,
} from '../../src/model/policy.ts'
import {
  assertQuiet,
  authorizationPolicy,
  compileTrees,
  type Metadata,
  namespace,
  pod,
  policyOf,
  service,
  shop,
  type Tree,
  workloadOf,
} from './builders.ts'

function compileOne(spec: object, metadata: Metadata = {}): CompileResult {
  return compileTrees([...shop(), authorizationPolicy('p', spec, metadata)])
}

/** The policy that a spec makes in namespace `shop`; fails on messages unless `codes` expects them. */
function policy(spec: object, codes: readonly string[] = []): Policy {
  const result = compileOne(spec)
  assert.deepEqual(
    result.messages.map(({ code }) => code),
    codes,
  )
  return policyOf(result, 'shop/p')
}

function rules(list: readonly object[], codes: readonly string[] = []): readonly PolicyRule[] {
  return policy({ rules: list }, codes).rules
}

/** The only match of a rule with one clause. */
function onlyMatch(rule: object): Partial<PolicyMatch> {
  const [read] = rules([rule])
  assert.equal(read!.clauses.length, 1)
  assert.equal(read!.clauses[0]!.matches.length, 1)
  const match = read!.clauses[0]!.matches[0]!
  return Object.fromEntries(Object.entries(match).filter(([, values]) => values.length > 0))
}

// --- emptiness and action ---

test('an empty spec allows nothing: an ALLOW policy without rules', () => {
  const { action, rules: list } = policy({})
  assert.deepEqual([action, list], [ACTION_ALLOW, []])
})

test('a spec that is missing altogether is an empty spec', () => {
  const result = compileTrees([...shop(), { ...authorizationPolicy('p', null), spec: undefined }])
  assert.deepEqual(policyOf(result, 'shop/p').rules, [])
})

test('an empty rule always matches', () => {
  assert.deepEqual(policy({ rules: [{}] }).rules, [{ clauses: [] }])
  assert.deepEqual(policy({ action: 'DENY', rules: [{}] }), { ...policy({ rules: [{}] }), action: ACTION_DENY })
})

// --- scope ---

test('a policy without selector is for its namespace, in the root namespace for the mesh', () => {
  assert.equal(policy({}).scope, POLICY_SCOPE_NAMESPACE)
  const result = compileOne({}, { namespace: 'istio-system' })
  assert.equal(policyOf(result, 'istio-system/p').scope, POLICY_SCOPE_GLOBAL)
  assert.deepEqual(workloadOf(result, 'cart-v1').policies, [])
})

test('a selector picks workloads of the namespace, which list the policy', () => {
  const result = compileTrees([
    ...shop(),
    namespace('guest'),
    pod('twin', { app: 'cart', version: 'v1' }, { namespace: 'guest' }),
    authorizationPolicy('p', { selector: { matchLabels: { app: 'cart', version: 'v1' } } }),
  ])
  assertQuiet(result)
  assert.equal(policyOf(result, 'shop/p').scope, POLICY_SCOPE_WORKLOAD)
  assert.deepEqual(
    result.state.workloads.map(({ name, policies }) => [name, policies]),
    [
      ['twin', []],
      ['cart-v1', ['shop/p']],
      ['cart-v2', []],
      ['web-1', []],
    ],
  )
})

test('a selector in the root namespace picks workloads everywhere', () => {
  const result = compileOne({ selector: { matchLabels: { app: 'cart' } } }, { namespace: 'istio-system' })
  assert.deepEqual(workloadOf(result, 'cart-v1').policies, ['istio-system/p'])
})

test('an empty selector is none', () => {
  assert.equal(policy({ selector: {} }).scope, POLICY_SCOPE_NAMESPACE)
})

test('a policy lists its workloads once, sorted with the others', () => {
  const selector = { matchLabels: { app: 'cart' } }
  const result = compileTrees([
    ...shop(),
    authorizationPolicy('b', { selector }),
    authorizationPolicy('a', { selector }),
  ])
  assert.deepEqual(workloadOf(result, 'cart-v1').policies, ['shop/a', 'shop/b'])
})

test('a targetRef to a service is for the pods of the service', () => {
  const result = compileOne({ targetRefs: [{ kind: 'Service', group: '', name: 'cart' }] })
  assert.equal(policyOf(result, 'shop/p').scope, POLICY_SCOPE_WORKLOAD)
  assert.deepEqual(workloadOf(result, 'cart-v1').policies, ['shop/p'])
  assert.deepEqual(workloadOf(result, 'web-1').policies, [])
  assert.deepEqual(
    result.messages.map(({ code, severity }) => [code, severity]),
    [['WEFT0306', 'info']],
  )
})

test('a targetRef to a service that is not there, or to another kind, is reported', () => {
  const gone = compileOne({ targetRefs: [{ kind: 'Service', group: '', name: 'gone' }] })
  assert.deepEqual(gone.messages.map(({ code }) => code).sort(), ['IST0101', 'IST0127', 'WEFT0306'])
  const gateway = compileOne({ targetRef: { kind: 'Gateway', group: 'gateway.networking.k8s.io', name: 'g' } })
  assert.deepEqual(
    gateway.messages.map(({ code }) => code),
    ['WEFT0305'],
  )
  assert.deepEqual(gateway.state.policies, [])
})

test('a selector that matches nothing, or nothing in the mesh, is reported', () => {
  assert.deepEqual(
    compileOne({ selector: { matchLabels: { app: 'nobody' } } }).messages.map(({ code }) => code),
    ['IST0127'],
  )
  const outside = compileTrees([
    pod('a', { app: 'a' }),
    authorizationPolicy('p', { selector: { matchLabels: { app: 'a' } } }),
  ])
  assert.deepEqual(
    outside.messages.map(({ code }) => code),
    ['IST0167'],
  )
})

// --- attributes ---

for (const [what, rule, expected] of [
  [
    'an exact principal',
    { from: [{ source: { principals: ['cluster.local/ns/a/sa/b'] } }] },
    { principals: [{ kind: 'exact', value: 'cluster.local/ns/a/sa/b' }] },
  ],
  [
    'a principal with a prefix',
    { from: [{ source: { principals: ['cluster.local/ns/a/*'] } }] },
    { principals: [{ kind: 'prefix', value: 'cluster.local/ns/a/' }] },
  ],
  [
    'a principal with a suffix',
    { from: [{ source: { principals: ['*/sa/b'] } }] },
    { principals: [{ kind: 'suffix', value: '/sa/b' }] },
  ],
  ['any principal', { from: [{ source: { principals: ['*'] } }] }, { principals: [{ kind: 'present' }] }],
  ['no principal', { from: [{ source: { notPrincipals: ['*'] } }] }, { notPrincipals: [{ kind: 'present' }] }],
  [
    'namespaces',
    { from: [{ source: { namespaces: ['a', 'b*'], notNamespaces: ['bad'] } }] },
    {
      namespaces: [
        { kind: 'exact', value: 'a' },
        { kind: 'prefix', value: 'b' },
      ],
      notNamespaces: [{ kind: 'exact', value: 'bad' }],
    },
  ],
  [
    'a service account of the own namespace',
    { from: [{ source: { serviceAccounts: ['till'] } }] },
    { principals: [{ kind: 'suffix', value: '/ns/shop/sa/till' }] },
  ],
  [
    'a service account of another namespace',
    { from: [{ source: { notServiceAccounts: ['guest/till'] } }] },
    { notPrincipals: [{ kind: 'suffix', value: '/ns/guest/sa/till' }] },
  ],
  [
    'address blocks',
    { from: [{ source: { ipBlocks: ['10.0.0.0/8', '1.2.3.4'], notIpBlocks: ['FD00:0::/8'] } }] },
    { sourceIps: ['10.0.0.0/8', '1.2.3.4/32'], notSourceIps: ['fd00::/8'] },
  ],
  [
    'hosts, in lower case',
    { to: [{ operation: { hosts: ['A.Example', '*.B'], notHosts: ['c'] } }] },
    {
      hosts: [
        { kind: 'exact', value: 'a.example' },
        { kind: 'suffix', value: '.b' },
      ],
      notHosts: [{ kind: 'exact', value: 'c' }],
    },
  ],
  [
    'methods, as written',
    { to: [{ operation: { methods: ['GET'], notMethods: ['post'] } }] },
    { methods: [{ kind: 'exact', value: 'GET' }], notMethods: [{ kind: 'exact', value: 'post' }] },
  ],
  [
    'paths',
    { to: [{ operation: { paths: ['/a', '/b*', '*/c'], notPaths: ['/d'] } }] },
    {
      paths: [
        { kind: 'exact', value: '/a' },
        { kind: 'prefix', value: '/b' },
        { kind: 'suffix', value: '/c' },
      ],
      notPaths: [{ kind: 'exact', value: '/d' }],
    },
  ],
  [
    'path templates',
    { to: [{ operation: { paths: ['/a.b/{*}/c', '/d/{**}'] } }] },
    {
      paths: [
        { kind: 'regex', value: '/a\\.b/[^/]+/c' },
        { kind: 'regex', value: '/d/.*' },
      ],
    },
  ],
  [
    'ports',
    { to: [{ operation: { ports: ['80'], notPorts: ['9000'] } }] },
    { destinationPorts: [80], notDestinationPorts: [9000] },
  ],
  [
    'the condition source.ip',
    { when: [{ key: 'source.ip', values: ['10.0.0.1'], notValues: ['10.0.0.2'] }] },
    { sourceIps: ['10.0.0.1/32'], notSourceIps: ['10.0.0.2/32'] },
  ],
  [
    'the condition source.namespace',
    { when: [{ key: 'source.namespace', values: ['a'] }] },
    { namespaces: [{ kind: 'exact', value: 'a' }] },
  ],
  [
    'the condition source.principal',
    { when: [{ key: 'source.principal', notValues: ['*'] }] },
    { notPrincipals: [{ kind: 'present' }] },
  ],
  [
    'the condition source.serviceAccount',
    { when: [{ key: 'source.serviceAccount', values: ['a/b'] }] },
    { principals: [{ kind: 'suffix', value: '/ns/a/sa/b' }] },
  ],
  [
    'the condition destination.ip',
    { when: [{ key: 'destination.ip', values: ['10.0.0.0/8'] }] },
    { destinationIps: ['10.0.0.0/8'] },
  ],
  [
    'the condition destination.port',
    { when: [{ key: 'destination.port', values: ['80'], notValues: ['81'] }] },
    { destinationPorts: [80], notDestinationPorts: [81] },
  ],
  [
    'a condition on a header',
    { when: [{ key: 'request.headers[X-Token]', values: ['a*'], notValues: ['ab'] }] },
    {
      headers: [
        { name: 'x-token', values: [{ kind: 'prefix', value: 'a' }], notValues: [{ kind: 'exact', value: 'ab' }] },
      ],
    },
  ],
] as const) {
  test(`a rule on ${what}`, () => {
    assert.deepEqual(onlyMatch(rule), expected)
  })
}

test('from, to and each condition are clauses (AND); sources and operations are alternatives (OR)', () => {
  const [rule] = rules([
    {
      from: [{ source: { namespaces: ['a'] } }, { source: { principals: ['p'] } }],
      to: [{ operation: { methods: ['GET'], ports: ['80'] } }],
      when: [
        { key: 'request.headers[a]', values: ['1'] },
        { key: 'request.headers[b]', values: ['2'] },
      ],
    },
  ])
  assert.deepEqual(
    rule!.clauses.map(({ matches }) => matches.length),
    [2, 1, 1, 1],
  )
  assert.deepEqual(rule!.clauses[1]!.matches[0], {
    ...EMPTY_POLICY_MATCH,
    methods: [{ kind: 'exact', value: 'GET' }],
    destinationPorts: [80],
  })
})

// --- dry run ---

test('dry-run is an annotation with a boolean', () => {
  const dry = (value: string) => compileOne({ rules: [{}] }, { annotations: { 'istio.io/dry-run': value } })
  assert.equal(policyOf(dry('true'), 'shop/p').isDryRun, true)
  assert.equal(policyOf(dry('false'), 'shop/p').isDryRun, false)
  const bad = dry('yes')
  assert.deepEqual(bad.state.policies, [])
  assert.deepEqual(
    bad.messages.map(({ severity, field }) => [severity, field]),
    [['error', 'metadata.annotations["istio.io/dry-run"]']],
  )
})

// --- what is not supported yet: never weaker than written ---

const UNSUPPORTED: readonly Tree[] = [
  { from: [{ source: { requestPrincipals: ['*'], namespaces: ['a'] } }] },
  { from: [{ source: { notRequestPrincipals: ['*'], namespaces: ['a'] } }] },
  { from: [{ source: { remoteIpBlocks: ['10.0.0.0/8'], namespaces: ['a'] } }] },
  { from: [{ source: { namespaces: ['a'] } }], when: [{ key: 'request.auth.claims[group]', values: ['x'] }] },
  { from: [{ source: { namespaces: ['a'] } }], when: [{ key: 'connection.sni', notValues: ['x'] }] },
  { from: [{ source: { namespaces: ['a'] } }], when: [{ key: 'experimental.envoy.filters.a.b[c]', values: ['x'] }] },
]

for (const rule of UNSUPPORTED) {
  test(`ALLOW: a rule with an unsupported attribute allows nothing: ${JSON.stringify(rule)}`, () => {
    const result = compileOne({ rules: [rule, { from: [{ source: { namespaces: ['b'] } }] }] })
    assert.equal(policyOf(result, 'shop/p').rules.length, 1)
    assert.deepEqual(
      result.messages.map(({ code, severity }) => [code, severity]),
      [['WEFT0302', 'warning']],
    )
  })

  test(`DENY: an unsupported attribute counts as true, and the object has an error: ${JSON.stringify(rule)}`, () => {
    const result = compileOne({ action: 'DENY', rules: [rule] })
    const [read] = policyOf(result, 'shop/p').rules
    assert.deepEqual(read!.clauses, [
      { matches: [{ ...EMPTY_POLICY_MATCH, namespaces: [{ kind: 'exact', value: 'a' }] }] },
    ])
    assert.deepEqual(
      result.messages.map(({ code, severity }) => [code, severity]),
      [['WEFT0303', 'error']],
    )
  })
}

test('DENY: an alternative of which nothing is left makes the whole clause true', () => {
  const result = compileOne({
    action: 'DENY',
    rules: [
      {
        from: [{ source: { namespaces: ['a'] } }, { source: { requestPrincipals: ['x'] } }],
        to: [{ operation: { ports: ['80'] } }],
      },
    ],
  })
  assert.deepEqual(policyOf(result, 'shop/p').rules[0]!.clauses, [
    { matches: [{ ...EMPTY_POLICY_MATCH, destinationPorts: [80] }] },
  ])
})

test('ALLOW: a policy of which no rule is left allows nothing', () => {
  assert.deepEqual(rules([UNSUPPORTED[0]!], ['WEFT0302']), [])
})

test('CUSTOM denies what its rules match, and is an error', () => {
  const spec = { action: 'CUSTOM', provider: { name: 'ext' }, rules: [{ to: [{ operation: { ports: ['80'] } }] }] }
  const result = compileOne(spec)
  assert.equal(policyOf(result, 'shop/p').action, ACTION_DENY)
  assert.deepEqual(
    result.messages.map(({ code, severity }) => [code, severity]),
    [['WEFT0304', 'error']],
  )
})

test('AUDIT has no effect, and says so', () => {
  const result = compileOne({ action: 'AUDIT', rules: [{}] })
  assert.deepEqual(result.state.policies, [])
  assert.deepEqual(
    result.messages.map(({ code, severity }) => [code, severity]),
    [['WEFT0001', 'warning']],
  )
})

test('a DENY rule with HTTP attributes alone is pointed out where workloads serve TCP: there it denies everything', () => {
  const methods = { methods: ['GET'] }
  const deny = (operation: object, app: string) => ({
    selector: { matchLabels: { app } },
    action: 'DENY',
    rules: [{ to: [{ operation }] }],
  })
  policy(deny(methods, 'cart'), ['IST0133'])
  policy(deny(methods, 'web'), [])
  policy(deny({ ...methods, ports: ['80'] }, 'cart'), [])
  policy({ ...deny(methods, 'cart'), selector: undefined }, ['IST0133'])
})

// --- errors ---

function source(fields: object): object {
  return { rules: [{ from: [{ source: fields }] }] }
}

function operation(fields: object): object {
  return { rules: [{ to: [{ operation: fields }] }] }
}

const SOURCE = 'spec.rules[0].from[0].source'
const OPERATION = 'spec.rules[0].to[0].operation'
const WHEN = 'spec.rules[0].when[0]'

for (const [spec, field, words] of [
  [{ action: 'DENY' }, 'spec', /denies nothing/],
  [{ action: 'DENI', rules: [{}] }, 'spec.action', /Did you mean DENY/],
  [{ action: 'CUSTOM', rules: [{}] }, 'spec', /provider/],
  [{ provider: { name: 'a' } }, 'spec.provider', /Only CUSTOM/],
  [{ rules: [null] }, 'spec.rules[0]', /empty/],
  [{ rules: {} }, 'spec.rules', /list/],
  [{ rule: [] }, 'spec.rule', /Did you mean rules/],
  [{ rules: [{ from: [{}] }] }, 'spec.rules[0].from[0]', /source is missing/],
  [
    { rules: [{ from: [{ namespaces: ['a'], source: { namespaces: ['a'] } }] }] },
    'spec.rules[0].from[0].namespaces',
    /no field/,
  ],
  [{ rules: [{ to: [{ operation: {} }] }] }, OPERATION, /empty/],
  [source({}), SOURCE, /empty/],
  [source({ principals: [] }), SOURCE, /empty/],
  [source({ principals: [''] }), `${SOURCE}.principals[0]`, /empty/],
  [source({ principals: ['a*b'] }), `${SOURCE}.principals[0]`, /middle/],
  [source({ principals: ['*a*'] }), `${SOURCE}.principals[0]`, /both ends/],
  [source({ principals: ['spiffe://cluster.local/ns/a/sa/b'] }), `${SOURCE}.principals[0]`, /without spiffe/],
  [source({ principal: ['a'] }), `${SOURCE}.principal`, /Did you mean principals/],
  [source({ namespaces: 'a' }), `${SOURCE}.namespaces`, /list/],
  [source({ serviceAccounts: ['a/b/c'] }), `${SOURCE}.serviceAccounts[0]`, /service account/],
  [source({ serviceAccounts: ['a*'] }), `${SOURCE}.serviceAccounts[0]`, /service account/],
  [source({ serviceAccounts: ['a'], namespaces: ['b'] }), SOURCE, /cannot stand beside/],
  [source({ ipBlocks: ['10.0.0/8'] }), `${SOURCE}.ipBlocks[0]`, /address block/],
  [operation({ ports: [80] }), `${OPERATION}.ports[0]`, /quotes: "80"/],
  [operation({ ports: ['http'] }), `${OPERATION}.ports[0]`, /not a port/],
  [operation({ ports: ['70000'] }), `${OPERATION}.ports[0]`, /not a port/],
  [operation({ paths: ['/a/{*}b'] }), `${OPERATION}.paths[0]`, /template/],
  [operation({ paths: ['/{**}/a'] }), `${OPERATION}.paths[0]`, /template/],
  [operation({ paths: ['a/{*}'] }), `${OPERATION}.paths[0]`, /template/],
  [operation({ paths: ['/a}'] }), `${OPERATION}.paths[0]`, /template/],
  [operation({ method: ['GET'] }), `${OPERATION}.method`, /Did you mean methods/],
  [{ rules: [{ when: [{ key: 'source.ip' }] }] }, WHEN, /no values/],
  [{ rules: [{ when: [{ values: ['a'] }] }] }, WHEN, /key is missing/],
  [{ rules: [{ when: [{ key: 'source.ips', values: ['a'] }] }] }, `${WHEN}.key`, /Did you mean source.ip/],
  [{ rules: [{ when: [{ key: 'request.headers', values: ['a'] }] }] }, `${WHEN}.key`, /not one of/],
  [{ rules: [{ when: [{ key: 'request.headers[]', values: ['a'] }] }] }, `${WHEN}.key`, /not one of/],
  [{ rules: [{ when: [{ key: 'source.ip', values: ['a'] }] }] }, `${WHEN}.values[0]`, /address block/],
  [{ rules: [{ when: [{ key: 'destination.port', notValues: ['x'] }] }] }, `${WHEN}.notValues[0]`, /not a port/],
  [{ selector: { matchLabels: { a: 'b' } }, targetRefs: [{ kind: 'Service', name: 'a' }] }, 'spec', /both given/],
  [{ targetRefs: [{ kind: 'Pod', name: 'a' }] }, 'spec.targetRefs[0].kind', /not one of/],
  [
    { targetRefs: [{ kind: 'Service', name: 'a', namespace: 'b' }] },
    'spec.targetRefs[0].namespace',
    /namespace of the policy/,
  ],
  [{ targetRefs: Array(17).fill({ kind: 'Service', name: 'a' }) }, 'spec.targetRefs', /17/],
] as const) {
  test(`refused: ${field} of ${JSON.stringify(spec).slice(0, 120)}`, () => {
    const result = compileOne(spec)
    assert.deepEqual(
      result.messages.map((message) => [message.severity, message.field]),
      [['error', field]],
    )
    const [message] = result.messages
    assert.match(`${message!.text} ${message!.fix}`, words)
    assert.deepEqual(result.state.policies, [])
  })
}

test('a service in a targetRef must be in the core group', () => {
  const result = compileTrees([
    service('cart'),
    authorizationPolicy('p', { targetRefs: [{ kind: 'Service', group: 'apps', name: 'cart' }] }),
  ])
  assert.deepEqual(
    result.messages.map(({ field }) => field),
    ['spec.targetRefs[0].group'],
  )
})
