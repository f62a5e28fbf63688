import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { PathMatch, Route, RouteMatch, StringMatch } from '../../src/model/route.ts'
import { RouteTable } from '../../src/proxy/route-table.ts'
import { ANY_MATCH, destination, type HeadFields, NO_EDITS, requestHead, routeOf } from '../support/proxy-objects.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { isWithinThreeSigma } from '../support/statistics.ts'

function exact(value: string): StringMatch {
  return { kind: 'exact', value }
}

function prefix(value: string): PathMatch {
  return { kind: 'prefix', value, ignoreCase: false }
}

function named(name: string, match: StringMatch, isNegated = false): RouteMatch['headers'][number] {
  return { name, match, isNegated }
}

/** Names of the routes that take each request. */
function winners(routes: readonly Route[], heads: readonly HeadFields[]): (string | null)[] {
  const table = new RouteTable(routes)
  return heads.map((head) => table.match(requestHead(head))?.route.name ?? null)
}

describe('a route table', () => {
  test('is empty without routes, and matches nothing', () => {
    const table = new RouteTable([])
    assert.equal(table.isEmpty, true)
    assert.equal(table.match(requestHead()), null)
    assert.equal(new RouteTable([routeOf()]).isEmpty, false)
  })

  test('takes the first route in the order written, not the longest prefix', () => {
    const routes = [
      routeOf({ name: 'short', matches: [{ ...ANY_MATCH, path: prefix('/a') }] }),
      routeOf({ name: 'long', matches: [{ ...ANY_MATCH, path: prefix('/a/b') }] }),
      routeOf({ name: 'rest' }),
    ]
    assert.deepEqual(winners(routes, [{ target: '/a/b' }, { target: '/b' }]), ['short', 'rest'])
  })

  test('a route without matches takes everything, one with several takes any of them', () => {
    const routes = [
      routeOf({
        name: 'either',
        matches: [
          { ...ANY_MATCH, path: prefix('/a') },
          { ...ANY_MATCH, method: exact('POST') },
        ],
      }),
    ]
    const heads = [{ target: '/a' }, { method: 'POST', target: '/b' }, { target: '/b' }]
    assert.deepEqual(winners(routes, heads), ['either', 'either', null])
  })

  test('all conditions of a match must hold', () => {
    const match: RouteMatch = {
      path: prefix('/a'),
      method: exact('POST'),
      scheme: exact('http'),
      authority: { kind: 'suffix', value: '.example.com' },
      headers: [named('x-user', exact('jason')), named('x-beta', { kind: 'present' }, true)],
      query: [named('v', exact('2'))],
    }
    const head = {
      target: '/a/1?v=2',
      method: 'POST',
      authority: 'a.example.com',
      headers: [['x-user', 'jason']] as const,
    }
    const routes = [routeOf({ name: 'all', matches: [match] })]
    const heads: HeadFields[] = [
      head,
      { ...head, target: '/b?v=2' },
      { ...head, target: '/a?v=1' },
      { ...head, target: '/a' },
      { ...head, method: 'GET' },
      { ...head, scheme: 'https' },
      { ...head, authority: 'a.example.com:80' },
      { ...head, headers: [] },
      { ...head, headers: [...head.headers, ['x-beta', '']] },
    ]
    assert.deepEqual(winners(routes, heads), ['all', ...heads.slice(1).map(() => null)])
  })

  test('the authority is judged as sent, port and case included', () => {
    const routes = [routeOf({ name: 'host', matches: [{ ...ANY_MATCH, authority: exact('a.com') }] })]
    const heads = [{ authority: 'a.com' }, { authority: 'a.com:80' }, { authority: 'A.com' }]
    assert.deepEqual(winners(routes, heads), ['host', null, null])
  })

  test('inverted conditions hold for absent headers', () => {
    const routes = [routeOf({ name: 'not-a', matches: [{ ...ANY_MATCH, headers: [named('x', exact('a'), true)] }] })]
    assert.deepEqual(winners(routes, [{}, { headers: [['x', 'a']] }, { headers: [['x', 'b']] }]), [
      'not-a',
      null,
      'not-a',
    ])
  })

  test('a route with a regular expression that cannot be read matches nothing', () => {
    const routes = [
      routeOf({ name: 'bad', matches: [{ ...ANY_MATCH, path: { kind: 'regex', value: '[', ignoreCase: false } }] }),
      routeOf({
        name: 'bad header',
        matches: [{ ...ANY_MATCH, headers: [named('x', { kind: 'regex', value: '[' }, true)] }],
      }),
      routeOf({ name: 'rest' }),
    ]
    assert.deepEqual(winners(routes, [{ target: '/' }]), ['rest'])
  })

  test('names routes by object and rule', () => {
    const table = new RouteTable([
      routeOf({ source: 'shop/reviews', name: 'v2', matches: [{ ...ANY_MATCH, path: prefix('/v2') }] }),
      routeOf(),
    ])
    assert.equal(table.match(requestHead({ target: '/v2' }))!.name, 'shop/reviews/v2')
    assert.equal(table.match(requestHead())!.name, 'shop/reviews')
  })
})

describe('picking a destination', () => {
  function pickFrom(weights: readonly number[]): (random: number) => string | null {
    const clusters = weights.map((weight, index) => destination(`c${index}`, weight))
    const route = new RouteTable([routeOf({ clusters })]).match(requestHead())!
    return (random) => route.pickDestination(random)?.clusterKey ?? null
  }

  test('a single destination gets everything, even with weight 0', () => {
    assert.equal(pickFrom([0])(0.99), 'c0')
  })

  test('weights need not add up to 100, and each share begins where the last one ends', () => {
    const pick = pickFrom([1, 3, 4])
    assert.deepEqual([0, 0.124, 0.125, 0.499, 0.5, 0.999].map(pick), ['c0', 'c0', 'c1', 'c1', 'c2', 'c2'])
  })

  test('weight 0 gets nothing among several', () => {
    const pick = pickFrom([0, 1, 0])
    assert.deepEqual([0, 0.5, 0.999999].map(pick), ['c1', 'c1', 'c1'])
  })

  test('there is none without clusters, and none when all weights are 0', () => {
    assert.equal(pickFrom([])(0), null)
    assert.equal(pickFrom([0, 0])(0), null)
  })

  test('shares are met within three sigma', () => {
    const random = new SeededRandom(42)
    const pick = pickFrom([70, 20, 10])
    const counts = new Map<string | null, number>()
    const trials = 20_000
    for (let i = 0; i < trials; i++) {
      const key = pick(random.next())
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    for (const [key, share] of [
      ['c0', 0.7],
      ['c1', 0.2],
      ['c2', 0.1],
    ] as const) {
      assert.ok(isWithinThreeSigma(counts.get(key) ?? 0, trials, share), `${key}: ${counts.get(key)}`)
    }
  })
})

describe('the authority of a destination', () => {
  const host = (value: string) => ({ ...NO_EDITS, set: [{ name: 'Host', value }] })
  const rewrite = { authority: 'rewritten', path: null, regex: null }

  function authorities(fields: Partial<Route>): (string | null)[] {
    return new RouteTable([routeOf(fields)]).match(requestHead())!.destinations.map((each) => each.authority)
  }

  test("is the request's own unless a rule says otherwise", () => {
    assert.deepEqual(authorities({}), [null])
  })

  test('edits of the route count least, then those of the destination, then its own', () => {
    assert.deepEqual(authorities({ requestEdits: host('by-route') }), ['by-route'])
    const edited = destination('c', 1, { requestEdits: host('by-destination') })
    assert.deepEqual(authorities({ requestEdits: host('by-route'), clusters: [edited] }), ['by-destination'])
    assert.deepEqual(authorities({ clusters: [{ ...edited, authority: 'own' }] }), ['own'])
  })

  test('the rewrite of the route wins over a single destination, but not over one of several', () => {
    const own = destination('c', 1, { authority: 'own' })
    assert.deepEqual(authorities({ rewrite, clusters: [own] }), ['rewritten'])
    assert.deepEqual(authorities({ rewrite, clusters: [own, destination('d')] }), ['own', 'rewritten'])
  })
})
