/**
 * Search lists and ndots belong to the client: what arrives is one name after the other. These tests run the rule of
 * resolv.conf(5) against our resolver and against the pod's own alone, and compare what the client finds.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { address, addressesOf, message, REPLY, rcodeOf, readMessage, soa } from '../support/dns-messages.ts'
import type { Forwarded } from '../support/fake-upstream.ts'
import { CLIENT, externalHost, ResolverMesh, SERVICES } from '../support/resolver-mesh.ts'

const KUBERNETES = ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local', 'corp.example']

/** What the pod's own resolver knows: the cluster's names, with addresses that differ from the mesh's, and the world's. */
const KNOWN: Readonly<Record<string, string>> = {
  'reviews.shop.svc.cluster.local': '198.18.77.1',
  'headless.shop.svc.cluster.local': '198.18.77.2',
  'www.example.org': '198.18.77.3',
  'api.example.com': '198.18.77.4',
  'printer.corp.example': '198.18.77.5',
  'reviews.corp.example': '198.18.77.6',
  'reviews.shop': '198.18.77.7',
}

/** Names that a client with this resolv.conf asks for, in order. */
function namesToAsk(name: string, search: readonly string[], ndots: number): string[] {
  if (name.endsWith('.')) return [name.slice(0, -1)]
  const completed = search.map((domain) => `${name}.${domain}`)
  return name.split('.').length - 1 >= ndots ? [name, ...completed] : [...completed, name]
}

function answerLikeTheWorld(forwarded: Forwarded): void {
  const { name } = readMessage(forwarded.bytes).questions[0]!
  const known = KNOWN[name]
  forwarded.reply(
    known === undefined
      ? message({ name, flags: REPLY | 3, authorities: [soa('example', 30, 30)] })
      : message({ name, flags: REPLY, answers: [address(name, known, 30)] }),
  )
}

/** What the client finds, and after how many questions. */
function lookUp(mesh: ResolverMesh, name: string, search: readonly string[], ndots: number): [string, number] {
  mesh.upstream.onForward = answerLikeTheWorld
  let asked = 0
  for (const candidate of namesToAsk(name, search, ndots)) {
    asked++
    const answer = mesh.ask(message({ name: candidate }), CLIENT)!
    if (rcodeOf(answer) === 3) continue
    return [addressesOf(answer).join(), asked]
  }
  return ['not found', asked]
}

const MESH_REVIEWS = '198.19.0.1'

describe('a client with a search list', () => {
  for (const [name, search, ndots, expected, asked] of [
    // The usual pod: short names are completed first.
    ['reviews', KUBERNETES, 5, MESH_REVIEWS, 1],
    ['reviews.shop', KUBERNETES, 5, MESH_REVIEWS, 2],
    ['reviews.shop.svc', KUBERNETES, 5, MESH_REVIEWS, 3],
    ['reviews.shop.svc.cluster.local', KUBERNETES, 5, MESH_REVIEWS, 5],
    ['reviews.shop.svc.cluster.local.', KUBERNETES, 5, MESH_REVIEWS, 1],
    ['billing.other', KUBERNETES, 5, '198.19.0.3', 2],
    ['api.example.com', KUBERNETES, 5, '198.19.240.1', 5],
    ['api.example.com.', KUBERNETES, 5, '198.19.240.1', 1],
    ['headless', KUBERNETES, 5, '198.18.77.2', 1],
    ['www.example.org', KUBERNETES, 5, '198.18.77.3', 5],
    ['printer', KUBERNETES, 5, '198.18.77.5', 4],
    ['nobody', KUBERNETES, 5, 'not found', 5],
    // ndots:1, as on a machine: names with a dot are asked as they are first.
    ['reviews.shop', KUBERNETES, 1, MESH_REVIEWS, 1],
    ['api.example.com', KUBERNETES, 1, '198.19.240.1', 1],
    ['reviews', KUBERNETES, 1, MESH_REVIEWS, 1],
    ['www.example.org', KUBERNETES, 1, '198.18.77.3', 1],
    // Another list wins over the mesh's short name when it leads somewhere.
    ['reviews', ['corp.example'], 5, '198.18.77.6', 1],
    ['ratings', ['corp.example'], 5, '198.19.0.2', 2],
    // No list at all, and ndots:0.
    ['reviews', [], 1, MESH_REVIEWS, 1],
    ['reviews', KUBERNETES, 0, MESH_REVIEWS, 1],
    ['billing', [], 1, 'not found', 1],
  ] as const) {
    const list = search.length === KUBERNETES.length ? 'the list of Kubernetes' : search.join(' ') || 'no list'
    test(`${name} with ${list} and ndots:${ndots} is ${expected} at question ${asked}`, () => {
      assert.deepEqual(lookUp(new ResolverMesh(), name, search, ndots), [expected, asked])
    })
  }

  test('finds everything that is not of the mesh exactly as without us', () => {
    const names = [
      ...Object.keys(KNOWN),
      'printer',
      'nobody',
      'headless',
      'www',
      'a.b.c.d.e.f',
      'shop',
      'svc.cluster.local',
    ]
    for (const ndots of [0, 1, 2, 5, 15]) {
      for (const search of [[], KUBERNETES, ['corp.example'], ['example.com', 'corp.example']]) {
        for (const name of names) {
          const withMesh = lookUp(new ResolverMesh(), name, search, ndots)
          const alone = lookUp(new ResolverMesh([]), name, search, ndots)
          // An address of the mesh is what the mesh is for; all else must be the same, and be found as soon.
          if (!withMesh[0].startsWith('198.19.')) assert.deepEqual(withMesh, alone, `${name} ${search} ${ndots}`)
          else assert.ok(withMesh[1] <= alone[1], `${name} ${search} ${ndots}`)
        }
      }
    }
  })

  test('a name of the mesh without an address of the family ends the search like any name that exists', () => {
    const mesh = new ResolverMesh([...SERVICES, externalHost('only4.example.com', 'shop', ['198.19.240.50'])])
    mesh.upstream.onForward = answerLikeTheWorld
    const answer = mesh.ask(message({ name: 'only4.example.com', type: 28 }))!
    assert.deepEqual([rcodeOf(answer), addressesOf(answer)], [0, []])
  })
})
