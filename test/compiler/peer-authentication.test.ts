import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { CompileResult } from '../../src/compiler/compile.ts'
import { ACTION_DENY, isPeerAuthentication, POLICY_SCOPE_WORKLOAD } from '../../src/model/policy.ts'
import {
  assertQuiet,
  compileTrees,
  namespace,
  peerAuthentication,
  pod,
  policyOf,
  type Tree,
  workloadOf,
} from './builders.ts'

const ROOT = { namespace: 'istio-system' }

function mode(value: string): object {
  return { mtls: { mode: value } }
}

function forCart(spec: object): object {
  return { selector: { matchLabels: { app: 'cart' } }, ...spec }
}

function compilePeers(...rules: Tree[]): CompileResult {
  return compileTrees([
    namespace('shop'),
    pod('cart', { app: 'cart' }),
    pod('web', { app: 'web' }),
    namespace('guest'),
    pod('visitor', { app: 'visitor' }, { namespace: 'guest' }),
    ...rules,
  ])
}

/** Which plaintext a workload takes: `all`, `none`, `only 1,2` or `not 1,2` (container ports). */
function plaintext(result: CompileResult, name: string): string {
  const keys = workloadOf(result, name).policies
  if (keys.length === 0) return 'all'
  assert.equal(keys.length, 1)
  const policy = policyOf(result, keys[0]!)
  assert.ok(isPeerAuthentication(policy))
  assert.equal(policy.action, ACTION_DENY)
  assert.equal(policy.scope, POLICY_SCOPE_WORKLOAD)
  const match = policy.rules[0]!.clauses[0]!.matches[0]!
  assert.deepEqual(match.notPrincipals, [{ kind: 'present' }])
  if (match.destinationPorts.length > 0) return `not ${match.destinationPorts}`
  return match.notDestinationPorts.length > 0 ? `only ${match.notDestinationPorts}` : 'none'
}

test('without PeerAuthentication plaintext is taken', () => {
  assert.equal(plaintext(compilePeers(), 'cart'), 'all')
})

for (const [what, rules, cart, web, visitor] of [
  ['mesh STRICT', [['default', mode('STRICT'), ROOT]], 'none', 'none', 'none'],
  ['mesh UNSET', [['default', mode('UNSET'), ROOT]], 'all', 'all', 'all'],
  ['mesh without a mode', [['default', {}, ROOT]], 'all', 'all', 'all'],
  ['namespace STRICT', [['default', mode('STRICT')]], 'none', 'none', 'all'],
  [
    'mesh STRICT, namespace PERMISSIVE',
    [
      ['default', mode('STRICT'), ROOT],
      ['default', mode('PERMISSIVE')],
    ],
    'all',
    'all',
    'none',
  ],
  [
    'mesh STRICT, namespace UNSET',
    [
      ['default', mode('STRICT'), ROOT],
      ['default', mode('UNSET')],
    ],
    'none',
    'none',
    'none',
  ],
  [
    'mesh STRICT, workload PERMISSIVE',
    [
      ['default', mode('STRICT'), ROOT],
      ['cart', forCart(mode('PERMISSIVE'))],
    ],
    'all',
    'none',
    'none',
  ],
  ['workload STRICT', [['cart', forCart(mode('STRICT'))]], 'none', 'all', 'all'],
  [
    'namespace STRICT, workload UNSET',
    [
      ['default', mode('STRICT')],
      ['cart', forCart(mode('UNSET'))],
    ],
    'none',
    'none',
    'all',
  ],
  [
    'workload STRICT with permissive ports',
    [
      [
        'cart',
        forCart({ ...mode('STRICT'), portLevelMtls: { 9001: { mode: 'PERMISSIVE' }, 9000: { mode: 'PERMISSIVE' } } }),
      ],
    ],
    'only 9000,9001',
    'all',
    'all',
  ],
  [
    'workload STRICT with a disabled port',
    [['cart', forCart({ ...mode('STRICT'), portLevelMtls: { 9000: { mode: 'DISABLE' } } })]],
    'only 9000',
    'all',
    'all',
  ],
  [
    'workload PERMISSIVE with a strict port',
    [['cart', forCart({ ...mode('PERMISSIVE'), portLevelMtls: { 9000: { mode: 'STRICT' } } })]],
    'not 9000',
    'all',
    'all',
  ],
  [
    'a port that repeats the mode',
    [['cart', forCart({ ...mode('STRICT'), portLevelMtls: { 9000: { mode: 'STRICT' } } })]],
    'none',
    'all',
    'all',
  ],
  [
    'a port UNSET inherits the workload',
    [['cart', forCart({ ...mode('STRICT'), portLevelMtls: { 9000: {} } })]],
    'none',
    'all',
    'all',
  ],
  [
    'mesh STRICT with permissive workload ports',
    [
      ['default', mode('STRICT'), ROOT],
      ['cart', forCart({ portLevelMtls: { 9000: { mode: 'PERMISSIVE' } } })],
    ],
    'only 9000',
    'none',
    'none',
  ],
] as const) {
  test(`plaintext under ${what}`, () => {
    const result = compilePeers(
      ...rules.map(([name, spec, metadata]) => peerAuthentication(name, spec, metadata ?? {})),
    )
    assert.deepEqual(
      [plaintext(result, 'cart'), plaintext(result, 'web'), plaintext(result, 'visitor')],
      [cart, web, visitor],
    )
  })
}

test('the policy has the name of the object that decided', () => {
  const result = compilePeers(
    peerAuthentication('mesh', mode('STRICT'), ROOT),
    peerAuthentication('own', forCart({ portLevelMtls: { 9000: { mode: 'PERMISSIVE' } } })),
  )
  assert.deepEqual(workloadOf(result, 'cart').policies, ['shop/istio_converted_own'])
  assert.deepEqual(workloadOf(result, 'web').policies, ['istio-system/istio_converted_mesh'])
  assertQuiet(result)
})

test('DISABLE acts like PERMISSIVE, and says so', () => {
  const result = compilePeers(
    peerAuthentication('default', mode('STRICT'), ROOT),
    peerAuthentication('cart', forCart(mode('DISABLE'))),
  )
  assert.equal(plaintext(result, 'cart'), 'all')
  assert.deepEqual(
    result.messages.map(({ code, field }) => [code, field]),
    [['WEFT0301', 'spec.mtls.mode']],
  )
})

test('of two objects with one scope the older counts, and the other is told', () => {
  const result = compilePeers(
    peerAuthentication('a', mode('STRICT'), { age: 2 }),
    peerAuthentication('b', mode('PERMISSIVE'), { age: 1 }),
  )
  assert.equal(plaintext(result, 'web'), 'all')
  assert.deepEqual(
    result.messages.map(({ code, object }) => [code, object]),
    [['IST0167', 'PeerAuthentication.security.istio.io/shop/a']],
  )
})

test('of two objects that select a workload the older counts', () => {
  const result = compilePeers(
    peerAuthentication('a', forCart(mode('STRICT')), { age: 2 }),
    peerAuthentication('b', forCart(mode('PERMISSIVE')), { age: 1 }),
  )
  assert.equal(plaintext(result, 'cart'), 'all')
})

test('a selector in the root namespace has no effect, and says so', () => {
  const result = compilePeers(peerAuthentication('cart', forCart(mode('STRICT')), ROOT))
  assert.equal(plaintext(result, 'cart'), 'all')
  assert.deepEqual(
    result.messages.map(({ code }) => code),
    ['IST0167'],
  )
})

test('a selector that matches nothing, or nothing in the mesh, is reported', () => {
  const nothing = compilePeers(
    peerAuthentication('x', { selector: { matchLabels: { app: 'nobody' } }, ...mode('STRICT') }),
  )
  assert.deepEqual(
    nothing.messages.map(({ code }) => code),
    ['IST0127'],
  )
  const outside = compilePeers(
    pod('bare', { app: 'bare' }, { namespace: 'outside' }),
    peerAuthentication(
      'x',
      { selector: { matchLabels: { app: 'bare' } }, ...mode('STRICT') },
      { namespace: 'outside' },
    ),
  )
  assert.deepEqual(
    outside.messages.map(({ code }) => code),
    ['IST0167'],
  )
  assert.deepEqual(workloadOf(outside, 'bare').policies, [])
})

for (const [spec, field] of [
  [{ mtls: { mode: 'STRICKT' } }, 'spec.mtls.mode'],
  [{ mtls: 'STRICT' }, 'spec.mtls'],
  [{ mTLS: { mode: 'STRICT' } }, 'spec.mTLS'],
  [{ portLevelMtls: { 80: { mode: 'STRICT' } } }, 'spec.portLevelMtls'],
  [{ selector: {}, portLevelMtls: { 80: { mode: 'STRICT' } } }, 'spec.portLevelMtls'],
  [forCart({ portLevelMtls: { http: { mode: 'STRICT' } } }), 'spec.portLevelMtls.http'],
  [forCart({ portLevelMtls: { 70000: { mode: 'STRICT' } } }), 'spec.portLevelMtls["70000"]'],
  [{ selector: { matchLabels: { app: 'c*' } } }, 'spec.selector.matchLabels.app'],
  [{ selector: { app: 'cart' } }, 'spec.selector.app'],
] as const) {
  test(`refused: ${field} of ${JSON.stringify(spec)}`, () => {
    const result = compilePeers(peerAuthentication('bad', spec))
    assert.deepEqual(
      result.messages.map((message) => [message.severity, message.field]),
      [['error', field]],
    )
    assert.deepEqual(result.state.policies, [])
  })
}
