/** Route matching: how the cost grows with the place of the route in the list, and with the kind of condition. */
import type { RouteMatch } from '../../src/model/route.ts'
import { RouteTable } from '../../src/proxy/route-table.ts'
import { ANY_MATCH, destination, requestHead, routeOf } from '../../test/support/proxy-objects.ts'
import { measure } from './measure.ts'

const CALLS = 300_000

const head = requestHead({
  target: '/reviews/17/pages?full=true&user=jason',
  headers: [
    ['user-agent', 'curl/8.5.0'],
    ['accept', '*/*'],
    ['x-user', 'jason'],
  ],
})

const catchAll = routeOf({ name: 'rest' })

function tableOf(count: number, match: (index: number) => Partial<RouteMatch>): RouteTable {
  const routes = Array.from({ length: count }, (_, index) => routeOf({ matches: [{ ...ANY_MATCH, ...match(index) }] }))
  return new RouteTable([...routes, catchAll])
}

const tables: readonly [string, RouteTable][] = [
  ['no condition', new RouteTable([catchAll])],
  ['prefix, first of 1', tableOf(1, () => ({ path: { kind: 'prefix', value: '/reviews', ignoreCase: false } }))],
  ['prefix, none of 10', tableOf(10, (i) => ({ path: { kind: 'prefix', value: `/s${i}/`, ignoreCase: false } }))],
  ['prefix, none of 100', tableOf(100, (i) => ({ path: { kind: 'prefix', value: `/s${i}/`, ignoreCase: false } }))],
  [
    'header, first of 1',
    tableOf(1, () => ({ headers: [{ name: 'x-user', match: { kind: 'exact', value: 'jason' }, isNegated: false }] })),
  ],
  [
    'header, none of 10',
    tableOf(10, (i) => ({ headers: [{ name: 'x-user', match: { kind: 'exact', value: `u${i}` }, isNegated: false }] })),
  ],
  [
    'query, first of 1',
    tableOf(1, () => ({ query: [{ name: 'user', match: { kind: 'exact', value: 'jason' }, isNegated: false }] })),
  ],
  [
    'regex, first of 1',
    tableOf(1, () => ({ path: { kind: 'regex', value: '/reviews/[0-9]+/.*', ignoreCase: false } })),
  ],
]

for (const [name, table] of tables) measure(`route-table: ${name}`, CALLS, () => table.match(head)!.name)
const weighted = new RouteTable([
  routeOf({ clusters: [destination('a', 70), destination('b', 20), destination('c', 10)] }),
])
const route = weighted.match(head)!
measure('route-table: one of three destinations', CALLS, (i) => route.pickDestination((i % 100) / 100)!.weight)
