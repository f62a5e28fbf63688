import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseAddress } from '../../src/base/address.ts'
import {
  ACTION_ALLOW,
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  PEER_AUTHENTICATION_PREFIX,
  POLICY_SCOPE_NAMESPACE,
  type Policy,
  type PolicyMatch,
  policyKey,
} from '../../src/model/policy.ts'
import type { StringMatch } from '../../src/model/route.ts'
import { Authorizer, type ConnectionFacts } from '../../src/proxy/authorize.ts'
import { type HeadFields, requestHead } from '../support/proxy-objects.ts'

const FACTS: ConnectionFacts = {
  principal: 'cluster.local/ns/shop/sa/productpage',
  namespace: 'shop',
  sourceIp: parseAddress('198.18.1.7')!,
  destinationIp: parseAddress('198.18.2.9')!,
  destinationPort: 9080,
}
const STRANGER: ConnectionFacts = { ...FACTS, principal: null, namespace: null }

function exact(...values: readonly string[]): StringMatch[] {
  return values.map((value) => ({ kind: 'exact', value }))
}

function prefix(value: string): StringMatch[] {
  return [{ kind: 'prefix', value }]
}

/** A policy with one rule of one clause per match. */
function policyOf(name: string, action: 0 | 1, ...clauses: readonly Partial<PolicyMatch>[]): Policy {
  const matches = clauses.map((clause) => ({ matches: [{ ...EMPTY_POLICY_MATCH, ...clause }] }))
  return {
    key: policyKey('shop', name),
    name,
    namespace: 'shop',
    scope: POLICY_SCOPE_NAMESPACE,
    action,
    isDryRun: false,
    rules: [{ clauses: matches }],
  }
}

function allow(...clauses: readonly Partial<PolicyMatch>[]): Policy {
  return policyOf('allow', ACTION_ALLOW, ...clauses)
}

function deny(...clauses: readonly Partial<PolicyMatch>[]): Policy {
  return policyOf('deny', ACTION_DENY, ...clauses)
}

const ALLOW_NOTHING: Policy = { ...allow(), name: 'nothing', key: 'shop/nothing', rules: [] }

function isExchangeAllowed(policies: readonly Policy[], head: HeadFields = {}, facts = FACTS): boolean {
  return Authorizer.compile(policies).authorizeExchange(facts, requestHead(head)).isAllowed
}

function isConnectionAllowed(policies: readonly Policy[], facts = FACTS): boolean {
  return Authorizer.compile(policies).authorizeConnection(facts).isAllowed
}

describe('the order of judgement', () => {
  const decide = (policies: readonly Policy[]) => {
    const { isAllowed, policy } = Authorizer.compile(policies).authorizeExchange(FACTS, requestHead())
    return [isAllowed, policy]
  }

  test('without policies everything is allowed', () => {
    assert.deepEqual(decide([]), [true, ''])
    assert.equal(Authorizer.compile([]).isEmpty, true)
    assert.equal(Authorizer.compile([allow()]).isEmpty, false)
  })

  test('an ALLOW policy that does not match denies, in no name', () => {
    assert.deepEqual(decide([allow({ namespaces: exact('other') })]), [false, ''])
  })

  test('any ALLOW policy that matches allows, in its name', () => {
    assert.deepEqual(decide([ALLOW_NOTHING, allow({ namespaces: exact('shop') })]), [true, 'shop/allow'])
  })

  test('a DENY policy that matches denies, whatever allows', () => {
    assert.deepEqual(decide([allow(), deny({ destinationPorts: [9080] })]), [false, 'shop/deny'])
  })

  test('DENY policies that do not match leave everything allowed', () => {
    assert.deepEqual(decide([deny({ destinationPorts: [1] })]), [true, ''])
  })

  test('an ALLOW policy without rules denies everything; a DENY policy without rules nothing', () => {
    assert.deepEqual(decide([ALLOW_NOTHING]), [false, ''])
    assert.deepEqual(decide([{ ...deny(), rules: [] }]), [true, ''])
  })
})

describe('the shape of a rule', () => {
  const hit = { ...EMPTY_POLICY_MATCH, destinationPorts: [9080] }
  const miss = { ...EMPTY_POLICY_MATCH, destinationPorts: [1] }
  const rules = (...list: readonly (readonly PolicyMatch[])[][]): Policy => ({
    ...allow(),
    rules: list.map((clauses) => ({ clauses: clauses.map((matches) => ({ matches })) })),
  })

  test('a rule without clauses always matches', () => assert.equal(isExchangeAllowed([rules([])]), true))
  test('a clause without matches never does', () => assert.equal(isExchangeAllowed([rules([[]])]), false))
  test('a match with nothing in it never does', () => {
    assert.equal(isExchangeAllowed([rules([[EMPTY_POLICY_MATCH]])]), false)
    assert.equal(isExchangeAllowed([{ ...rules([[EMPTY_POLICY_MATCH]]), action: ACTION_DENY }]), true)
  })
  test('matches of a clause are alternatives', () => assert.equal(isExchangeAllowed([rules([[miss, hit]])]), true))
  test('clauses of a rule must all match', () => {
    assert.equal(isExchangeAllowed([rules([[hit], [miss]])]), false)
    assert.equal(isExchangeAllowed([rules([[hit], [hit]])]), true)
  })
  test('rules are alternatives', () => assert.equal(isExchangeAllowed([rules([[miss]], [[hit]])]), true))
  test('kinds of a match must all hold', () => {
    assert.equal(isExchangeAllowed([allow({ destinationPorts: [9080], namespaces: exact('other') })]), false)
  })
})

/** Each match must hold for FACTS and the head below it, or must not. */
describe('attributes of the connection', () => {
  const cases: readonly [match: Partial<PolicyMatch>, holds: boolean, holdsForStranger: boolean][] = [
    [{ principals: exact('cluster.local/ns/shop/sa/productpage') }, true, false],
    [{ principals: exact('cluster.local/ns/shop/sa/other', 'cluster.local/ns/shop/sa/productpage') }, true, false],
    [{ principals: exact('spiffe://cluster.local/ns/shop/sa/productpage') }, false, false],
    [{ principals: prefix('cluster.local/ns/shop/') }, true, false],
    [{ principals: [{ kind: 'suffix', value: '/sa/productpage' }] }, true, false],
    [{ principals: [{ kind: 'regex', value: '.*/ns/sh.p/.*' }] }, true, false],
    [{ principals: [{ kind: 'present' }] }, true, false],
    [{ notPrincipals: [{ kind: 'present' }] }, false, true],
    [{ notPrincipals: exact('cluster.local/ns/shop/sa/productpage') }, false, true],
    [{ notPrincipals: exact('cluster.local/ns/shop/sa/other') }, true, true],
    [{ namespaces: exact('shop') }, true, false],
    [{ namespaces: prefix('sh') }, true, false],
    [{ namespaces: exact('Shop') }, false, false],
    [{ notNamespaces: exact('shop') }, false, true],
    [{ sourceIps: ['198.18.1.0/24'] }, true, true],
    [{ sourceIps: ['198.18.2.0/24', '198.18.1.7'] }, true, true],
    [{ sourceIps: ['fd00::/8'] }, false, false],
    [{ sourceIps: ['0.0.0.0/0'] }, true, true],
    [{ notSourceIps: ['198.18.1.7/32'] }, false, false],
    [{ notSourceIps: ['198.18.1.8/32'] }, true, true],
    [{ destinationIps: ['198.18.2.9'] }, true, true],
    [{ notDestinationIps: ['198.18.2.0/24'] }, false, false],
    [{ destinationPorts: [80, 9080] }, true, true],
    [{ destinationPorts: [80] }, false, false],
    [{ notDestinationPorts: [9080] }, false, false],
    [{ notDestinationPorts: [80] }, true, true],
    [{ notPrincipals: [{ kind: 'present' }], notDestinationPorts: [9080] }, false, false],
  ]
  for (const [match, holds, holdsForStranger] of cases) {
    test(JSON.stringify(match), () => {
      for (const [facts, expected] of [
        [FACTS, holds],
        [STRANGER, holdsForStranger],
      ] as const) {
        assert.equal(isExchangeAllowed([allow(match)], {}, facts), expected)
        assert.equal(isExchangeAllowed([deny(match)], {}, facts), !expected)
        assert.equal(isConnectionAllowed([allow(match)], facts), expected)
        assert.equal(isConnectionAllowed([deny(match)], facts), !expected)
      }
    })
  }

  test('a value that cannot be read never allows and always denies', () => {
    for (const broken of [
      { sourceIps: ['x'] },
      { destinationIps: ['1.2.3.4/40'] },
      { principals: [{ kind: 'regex', value: '(' }] as StringMatch[] },
    ]) {
      assert.equal(isExchangeAllowed([allow(broken)]), false)
      assert.equal(isExchangeAllowed([deny(broken)]), false)
    }
    const header = {
      headers: [{ name: 'x-none', values: [{ kind: 'regex', value: '(' }] as StringMatch[], notValues: [] }],
    }
    assert.equal(isExchangeAllowed([allow(header)]), false)
    assert.equal(isExchangeAllowed([deny(header)]), false)
    const exempted = { destinationPorts: [9080], notSourceIps: ['x'] }
    assert.equal(isExchangeAllowed([allow(exempted)]), false)
    assert.equal(isExchangeAllowed([deny(exempted)]), false)
  })
})

describe('attributes of HTTP', () => {
  const head: HeadFields = {
    method: 'GET',
    target: '/reviews/17?full',
    authority: 'reviews.shop',
    headers: [['x-user', 'jason']],
  }
  const header = (name: string, values: StringMatch[], notValues: StringMatch[] = []) => ({
    headers: [{ name, values, notValues }],
  })
  const cases: readonly [match: Partial<PolicyMatch>, holds: boolean][] = [
    [{ methods: exact('GET') }, true],
    [{ methods: exact('get') }, false],
    [{ methods: exact('POST', 'GET') }, true],
    [{ notMethods: exact('GET') }, false],
    [{ notMethods: exact('POST') }, true],
    [{ paths: exact('/reviews/17') }, true],
    [{ paths: exact('/reviews/17?full') }, false],
    [{ paths: prefix('/reviews/') }, true],
    [{ paths: prefix('/Reviews/') }, false],
    [{ paths: [{ kind: 'suffix', value: '/17' }] }, true],
    [{ paths: [{ kind: 'regex', value: '/reviews/[0-9]+' }] }, true],
    [{ paths: [{ kind: 'present' }] }, true],
    [{ notPaths: prefix('/reviews') }, false],
    [{ notPaths: prefix('/admin') }, true],
    [{ hosts: exact('reviews.shop') }, true],
    [{ hosts: exact('REVIEWS.Shop') }, true],
    [{ hosts: prefix('reviews.') }, true],
    [{ hosts: [{ kind: 'regex', value: 'Reviews\\..*' }] }, true],
    [{ hosts: exact('other') }, false],
    [{ notHosts: exact('reviews.shop') }, false],
    [{ notHosts: exact('other') }, true],
    [header('x-user', exact('jason')), true],
    [header('X-User', prefix('ja')), true],
    [header('x-user', [{ kind: 'present' }]), true],
    [header('x-user', exact('Jason')), false],
    [header('x-none', exact('')), false],
    [header('x-none', [{ kind: 'present' }]), false],
    [header('x-user', [], exact('jason')), false],
    [header('x-none', [], exact('jason')), true],
    [header(':method', exact('GET')), true],
    [header('host', exact('reviews.shop')), true],
    [{ ...header('x-user', exact('jason')), methods: exact('POST') }, false],
  ]
  for (const [match, holds] of cases) {
    test(JSON.stringify(match), () => {
      assert.equal(isExchangeAllowed([allow(match)], head), holds)
      assert.equal(isExchangeAllowed([deny(match)], head), !holds)
    })
  }

  test('say that exchanges must be judged one by one', () => {
    assert.equal(Authorizer.compile([allow({ methods: exact('GET') })]).needsHttp, true)
    assert.equal(Authorizer.compile([allow({ destinationPorts: [1] })]).needsHttp, false)
  })
})

describe('a request that can be read in two ways', () => {
  const evasions = [
    '/admin',
    '/admin?x',
    '//admin',
    '/./admin',
    '/x/../admin',
    '/x/%2e%2e/admin',
    '/%61dmin',
    '/%2561dmin',
    '/%%361dmin',
    '/x/..%2fadmin',
    '/x/..%2Fadmin',
    '/x/..%5cadmin',
    '/x/..\\admin',
    '\\admin',
    '/x%2f..%2fadmin',
    '/x/..;/admin',
    '/x/..;a=b/admin',
    '/admin;x=1',
    '/admin%3bx',
    '/admin#x',
    '/;x/admin',
    '/x//..//..//admin',
  ]
  for (const target of evasions) {
    test(`${target} does not get past a DENY of /admin, nor in by an exception for it`, () => {
      assert.equal(isExchangeAllowed([deny({ paths: exact('/admin') })], { target }), false)
      assert.equal(isExchangeAllowed([allow({ notPaths: exact('/admin') })], { target }), false)
      assert.equal(isExchangeAllowed([allow({ paths: prefix('/x') })], { target }), false)
    })
  }

  test('a DENY of everything but a path is not evaded either', () => {
    const policies = [deny({ notPaths: prefix('/public/') })]
    assert.equal(isExchangeAllowed(policies, { target: '/public/a' }), true)
    for (const target of ['/admin', '/public/../admin', '/public/..%2fadmin', '/public/..;/admin']) {
      assert.equal(isExchangeAllowed(policies, { target }), false, target)
    }
  })

  test('ordinary paths are read in one way only', () => {
    const policies = [allow({ paths: prefix('/api/') })]
    for (const target of [
      '/api/',
      '/api/a/b',
      '/api/a%20b',
      '/api/a%2Fb',
      '/api//a',
      '/api/a;v=1',
      '/api/%E2%82%AC',
      '/api/?q=../..',
    ]) {
      assert.equal(isExchangeAllowed(policies, { target }), true, target)
    }
  })

  test('a path of a policy may itself be encoded', () => {
    const policies = [allow({ paths: exact('/a%2Fb;c//d') })]
    assert.equal(isExchangeAllowed(policies, { target: '/a%2Fb;c//d' }), true)
    assert.equal(isExchangeAllowed(policies, { target: '/a/b/d' }), false)
    assert.equal(isExchangeAllowed([deny({ paths: exact('/a%2Fb') })], { target: '/a%2fb' }), false)
  })

  test('a DENY of a host holds with any port, with a closing dot and in any case', () => {
    for (const authority of ['a.com', 'A.com:8080', 'a.com.', 'a.com.:80']) {
      assert.equal(isExchangeAllowed([deny({ hosts: exact('a.com') })], { authority }), false, authority)
      assert.equal(isExchangeAllowed([allow({ notHosts: exact('a.com') })], { authority }), false, authority)
    }
    assert.equal(isExchangeAllowed([deny({ hosts: exact('[fd00::1]') })], { authority: '[fd00::1]:80' }), false)
  })

  test('an ALLOW of a host takes the host as sent, port included', () => {
    assert.equal(isExchangeAllowed([allow({ hosts: exact('a.com') })], { authority: 'a.com' }), true)
    assert.equal(isExchangeAllowed([allow({ hosts: exact('a.com') })], { authority: 'a.com:8080' }), false)
    assert.equal(isExchangeAllowed([allow({ hosts: exact('a.com:8080') })], { authority: 'a.com:8080' }), true)
    assert.equal(isExchangeAllowed([deny({ notHosts: exact('a.com') })], { authority: 'a.com:8080' }), false)
  })

  test('a header sent twice is judged joined and, where that denies, one by one', () => {
    const headers = [
      ['x-role', 'guest'],
      ['x-role', 'banned'],
    ] as const
    const role = (value: string) => ({ headers: [{ name: 'x-role', values: exact(value), notValues: [] }] })
    const notRole = (value: string) => ({ headers: [{ name: 'x-role', values: [], notValues: exact(value) }] })
    assert.equal(isExchangeAllowed([deny(role('banned'))], { headers }), false)
    assert.equal(isExchangeAllowed([allow(notRole('banned'))], { headers }), false)
    assert.equal(isExchangeAllowed([allow(role('guest'))], { headers }), false)
    assert.equal(isExchangeAllowed([deny(notRole('guest'))], { headers }), false)
  })
})

describe('opaque connections', () => {
  test('an ALLOW rule with an attribute of HTTP never matches, even if another alternative could', () => {
    assert.equal(isConnectionAllowed([allow({ methods: exact('GET') })]), false)
    assert.equal(isConnectionAllowed([allow({ namespaces: exact('shop') }, { paths: exact('/') })]), false)
    const either: Policy = {
      ...allow(),
      rules: [
        {
          clauses: [
            {
              matches: [
                { ...EMPTY_POLICY_MATCH, destinationPorts: [9080] },
                { ...EMPTY_POLICY_MATCH, methods: exact('GET') },
              ],
            },
          ],
        },
      ],
    }
    assert.equal(isConnectionAllowed([either]), false)
    assert.equal(isConnectionAllowed([either, { ...allow({ destinationPorts: [9080] }), name: 'l4' }]), true)
  })

  test('a DENY rule matches as if every attribute of HTTP did, negative ones as well', () => {
    assert.equal(isConnectionAllowed([deny({ methods: exact('GET') })]), false)
    assert.equal(isConnectionAllowed([deny({ notPaths: exact('/') })]), false)
    assert.equal(isConnectionAllowed([deny({ namespaces: exact('shop') }, { paths: exact('/') })]), false)
  })

  test('the other attributes of a DENY rule still count', () => {
    assert.equal(isConnectionAllowed([deny({ methods: exact('GET'), destinationPorts: [1] })]), true)
    assert.equal(isConnectionAllowed([deny({ namespaces: exact('other') }, { paths: exact('/') })]), true)
  })
})

describe('peer authentication', () => {
  const strict: Policy = {
    ...deny({ notPrincipals: [{ kind: 'present' }] }),
    name: `${PEER_AUTHENTICATION_PREFIX}strict`,
    key: policyKey('shop', `${PEER_AUTHENTICATION_PREFIX}strict`),
  }

  test('is judged when the connection arrives, and alone', () => {
    const authorizer = Authorizer.compile([strict, ALLOW_NOTHING, deny({ destinationPorts: [9080] })])
    assert.equal(authorizer.authorizeTransport(FACTS).isAllowed, true)
    assert.equal(authorizer.authorizeTransport(STRANGER).isAllowed, false)
    assert.equal(authorizer.authorizeTransport(STRANGER).policy, strict.key)
  })

  test('is judged with everything else as well', () => {
    assert.equal(isConnectionAllowed([strict], STRANGER), false)
    assert.equal(isExchangeAllowed([strict], {}, STRANGER), false)
    assert.equal(isExchangeAllowed([strict]), true)
  })

  test('is not enforced in a dry run', () => {
    const authorizer = Authorizer.compile([{ ...strict, isDryRun: true }])
    assert.equal(authorizer.authorizeTransport(STRANGER).isAllowed, true)
  })
})

describe('dry-run policies', () => {
  const dry = (policy: Policy): Policy => ({
    ...policy,
    name: `dry-${policy.name}`,
    key: `shop/dry-${policy.name}`,
    isDryRun: true,
  })
  const rehearse = (policies: readonly Policy[]) => {
    const decision = Authorizer.compile(policies).authorizeExchange(FACTS, requestHead())
    return [decision.isAllowed, decision.isDryRunDenied, decision.isDryRunAllowed, decision.dryRunPolicy]
  }
  const hit = { destinationPorts: [9080] }
  const miss = { destinationPorts: [1] }
  const cases: readonly [name: string, policies: readonly Policy[], expected: readonly (boolean | string)[]][] = [
    ['a DENY that matches would deny', [dry(deny(hit))], [true, true, false, 'shop/dry-deny']],
    ['a DENY that does not match changes nothing', [dry(deny(miss))], [true, false, false, '']],
    ['an ALLOW that does not match would deny', [dry(allow(miss))], [true, true, false, '']],
    ['an ALLOW that matches changes nothing when all is allowed', [dry(allow(hit))], [true, false, false, '']],
    ['an ALLOW that matches would allow', [dry(allow(hit)), allow(miss)], [false, false, true, 'shop/dry-allow']],
    ['an ALLOW changes nothing beside one that matches', [dry(allow(miss)), allow(hit)], [true, false, false, '']],
    ['an ALLOW changes nothing after a DENY', [dry(allow(hit)), deny(hit)], [false, false, false, '']],
    ['a DENY changes nothing when all is denied', [dry(deny(hit)), allow(miss)], [false, false, false, '']],
    ['a DENY keeps an ALLOW from allowing', [dry(deny(hit)), dry(allow(hit)), allow(miss)], [false, false, false, '']],
  ]
  for (const [name, policies, expected] of cases) {
    test(name, () => assert.deepEqual(rehearse(policies), expected))
  }
})

test('decisions are made once and shared', () => {
  const authorizer = Authorizer.compile([allow({ destinationPorts: [9080] }), deny({ methods: exact('POST') })])
  const head = requestHead()
  assert.equal(authorizer.authorizeExchange(FACTS, head), authorizer.authorizeExchange(FACTS, head))
  assert.notEqual(
    authorizer.authorizeExchange(FACTS, head),
    authorizer.authorizeExchange(FACTS, requestHead({ method: 'POST' })),
  )
})
