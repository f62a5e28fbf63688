/** The CRDs of deploy/crds on a real API server: it takes them as structural, and objects by them. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parseAllDocuments } from 'yaml'
import { readCrds } from '../../src/cli/install/crds.ts'
import { MESH_KINDS, meshKindOf } from '../../src/compiler/mesh-kinds.ts'
import { groupOf } from '../../src/compiler/object.ts'
import { needsRoot } from '../support/netns.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'

interface Tree {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string; readonly namespace?: string }
  readonly spec?: unknown
}

interface Conditions {
  readonly metadata: { readonly name: string }
  readonly status: { readonly conditions: readonly { readonly type: string; readonly status: string }[] }
}

/** Objects of the mesh's kinds in the YAML files of a folder. */
function meshObjects(folder: string, isWanted: (name: string) => boolean = () => true): Tree[] {
  const path = fileURLToPath(new URL(`../../${folder}`, import.meta.url))
  return readdirSync(path)
    .filter((name) => name.endsWith('.yaml') && isWanted(name))
    .flatMap((name) => parseAllDocuments(readFileSync(join(path, name), 'utf8')))
    .map((document) => document.toJS() as Tree)
    .filter((tree) => tree !== null && meshKindOf(groupOf(tree.apiVersion), tree.kind) !== null)
}

function rule(name: string, spec: unknown, apiVersion = 'networking.istio.io/v1', kind = 'VirtualService'): Tree {
  return { apiVersion, kind, metadata: { name, namespace: 'default' }, spec }
}

describe('the CRDs', needsRoot, () => {
  let cluster: Cluster
  before(async () => {
    cluster = await startControlPlane()
    await cluster.apply(...readCrds())
    await cluster.kubectl(['wait', '--for=condition=Established', 'crd', '--all', '--timeout=30s'])
  })
  after(() => cluster?.stop())

  /** What the API server says to an object that it refuses. */
  async function refusal(tree: Tree): Promise<string> {
    try {
      await cluster.kubectl(['create', '--dry-run=server', '-f', '-'], JSON.stringify(tree))
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }

  test('are structural, and every version is served', async () => {
    const { items } = await cluster.get<{ items: Conditions[] }>('crd')
    assert.equal(items.length, MESH_KINDS.length)
    for (const { metadata, status } of items) {
      const bad = status.conditions.filter(({ type }) => type === 'NonStructuralSchema' || type === 'Terminating')
      assert.deepEqual(bad, [], metadata.name)
    }
    for (const { group, versions, plural } of MESH_KINDS) {
      for (const version of versions) {
        const list = JSON.parse(await cluster.kubectl(['get', '--raw', `/apis/${group}/${version}/${plural}`]))
        assert.equal(list.apiVersion, `${group}/${version}`)
      }
    }
  })

  test('take every example', async () => {
    const examples = [
      ...meshObjects('test/golden/bookinfo', (name) => name !== 'mistakes.yaml'),
      ...meshObjects('deploy/demo/mesh'),
    ]
    assert.ok(examples.length > 15, `${examples.length} examples`)
    for (const { metadata, ...rest } of examples) {
      const tree = { ...rest, metadata: { ...metadata, namespace: 'default' } }
      const { versions } = meshKindOf(groupOf(tree.apiVersion), tree.kind)!
      for (const version of versions) {
        const apiVersion = `${groupOf(tree.apiVersion)}/${version}`
        assert.equal(await refusal({ ...tree, apiVersion }), '', JSON.stringify(tree))
      }
    }
  })

  test('keep unknown fields, so that somebody can name them', async () => {
    const route = [{ destination: { host: 'a', prot: 1 }, weihgt: 3 }]
    await cluster.apply(rule('typo', { hosts: ['a'], http: [{ route }], x: { y: 1 } }))
    const { spec } = await cluster.get<{ spec: unknown }>('vs', 'typo')
    assert.deepEqual(spec, { hosts: ['a'], http: [{ route }], x: { y: 1 } })
    const policy = {
      ...rule('sepc', undefined, 'security.istio.io/v1', 'AuthorizationPolicy'),
      sepc: { action: 'DENY' },
    }
    await cluster.apply(policy)
    assert.deepEqual((await cluster.get<{ sepc: unknown }>('authorizationpolicy', 'sepc')).sepc, { action: 'DENY' })
  })

  for (const [what, tree, text] of [
    [
      'a word that is none',
      rule('a', { mtls: { mode: 'STRIKT' } }, 'security.istio.io/v1', 'PeerAuthentication'),
      /supported values: "UNSET", "DISABLE", "PERMISSIVE", "STRICT"/,
    ],
    ['a wrong type', rule('a', { hosts: 'a', http: [{}] }), /spec.hosts.*must be of type array/],
    [
      'a port that is none',
      rule('a', { hosts: ['a'], http: [{ match: [{ port: 70_000 }] }] }),
      /spec.http\[0\].match\[0\].port.*less than or equal to 65535/,
    ],
    [
      'a duration that is none',
      rule('a', { hosts: ['a'], http: [{ timeout: '5 s' }] }),
      /spec.http\[0\].timeout.*should match/,
    ],
    [
      'two kinds of one match',
      rule('a', { hosts: ['a'], http: [{ match: [{ uri: { exact: '/', prefix: '/' } }] }] }),
      /spec.http\[0\].match\[0\].uri/,
    ],
    ['a missing field', rule('a', {}, 'networking.istio.io/v1', 'DestinationRule'), /spec.host: Required value/],
    ['no spec', rule('a', undefined), /spec: Required value/],
    ['no rules', rule('a', { hosts: ['a'] }), /there are no rules; write http or tcp/],
    [
      'a DENY without rules',
      rule('a', { action: 'DENY' }, 'security.istio.io/v1', 'AuthorizationPolicy'),
      /denies nothing/,
    ],
    [
      'ports without a selector',
      rule('a', { portLevelMtls: { 80: { mode: 'STRICT' } } }, 'security.istio.io/v1', 'PeerAuthentication'),
      /needs a selector/,
    ],
    [
      'two targets',
      rule(
        'a',
        { selector: {}, targetRef: { kind: 'Service', name: 'a' } },
        'security.istio.io/v1',
        'AuthorizationPolicy',
      ),
      /write one of selector/,
    ],
  ] as const) {
    test(`make the API server refuse ${what}`, async () => {
      assert.match(await refusal(tree), text)
    })
  }

  test('have a status of their own, and columns that show it', async () => {
    await cluster.apply(
      rule('shown', { hosts: ['reviews'], http: [{ route: [{ destination: { host: 'reviews' } }] }] }),
    )
    const conditions = [{ type: 'weft.dev/Accepted', status: 'True', reason: 'Accepted', message: '' }]
    const patch = JSON.stringify({ status: { conditions } })
    await cluster.kubectl(['patch', 'vs', 'shown', '--subresource=status', '--type=merge', '-p', patch])
    const { metadata } = await cluster.get<{ metadata: { generation: number } }>('vs', 'shown')
    assert.equal(metadata.generation, 1)
    const [head, line] = (await cluster.kubectl(['get', 'vs', 'shown'])).split('\n')
    assert.match(head!, /^NAME +GATEWAYS +HOSTS +ACCEPTED +AGE$/)
    assert.match(line!, /^shown +\["reviews"\] +True +/)
  })
})
