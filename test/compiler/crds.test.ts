/**
 * The CRDs in deploy/crds are what the field tables say. `UPDATE=1 node --test test/compiler/crds.test.ts` writes them anew;
 * look at the difference. That a real API server takes them, and objects by them, is in test/cluster/crds.test.ts.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { MESH_GROUPS } from '../../src/cli/install/mesh-kinds.ts'
import { crdOf } from '../../src/compiler/crd.ts'
import type { Form } from '../../src/compiler/form.ts'
import { MESH_KINDS } from '../../src/compiler/mesh-kinds.ts'
import { KEEP_UNKNOWN, type OpenApi, openApiOf } from '../../src/compiler/open-api.ts'
import { duration, integer, list, map, object, oneOf, required, text, unsupported } from '../../src/compiler/schema.ts'
import { stringMatch } from '../../src/compiler/strings.ts'

const folder = fileURLToPath(new URL('../../deploy/crds', import.meta.url))
const isUpdate = process.env['UPDATE'] === '1'

const HEAD = `# What the API server takes as objects of this kind. Unknown fields are kept, so that the mesh can name them.
# Printed from the field tables in src/compiler: change them there, then run UPDATE=1 node --test test/compiler/crds.test.ts
`

const LABELS = { 'app.kubernetes.io/name': 'weft', 'app.kubernetes.io/part-of': 'weft' }

function fileOf(kind: (typeof MESH_KINDS)[number]): string {
  return `${kind.plural}.${kind.group}.yaml`
}

for (const kind of MESH_KINDS) {
  test(`deploy/crds has ${kind.kind} as its field table says`, () => {
    const printed = HEAD + stringify(crdOf(kind, LABELS), { lineWidth: 0, aliasDuplicateObjects: false })
    const path = join(folder, fileOf(kind))
    if (isUpdate) writeFileSync(path, printed)
    assert.equal(readFileSync(path, 'utf8'), printed)
  })
}

test('deploy/crds has no other files', () => {
  const expected = MESH_KINDS.map(fileOf).sort()
  const extra = readdirSync(folder).filter((name) => !expected.includes(name))
  if (isUpdate) for (const name of extra) rmSync(join(folder, name))
  assert.deepEqual(readdirSync(folder).sort(), expected)
})

test('the kinds that are installed, watched and validated are those that have CRDs', () => {
  const groups = [...new Set(MESH_KINDS.map(({ group }) => group))]
  assert.deepEqual(
    MESH_GROUPS,
    groups.map((group) => ({
      group,
      resources: MESH_KINDS.filter((kind) => kind.group === group).map(({ plural }) => plural),
    })),
  )
})

test('one version is stored, all are served with one schema', () => {
  for (const kind of MESH_KINDS) {
    const { versions } = (
      crdOf(kind) as { spec: { versions: { storage: boolean; served: boolean; schema: unknown }[] } }
    ).spec
    assert.deepEqual(
      versions.map(({ storage }) => storage),
      versions.map((_, i) => i === 0),
    )
    for (const { served, schema } of versions) {
      assert.equal(served, true)
      assert.deepEqual(schema, versions[0]!.schema)
    }
  }
})

test('every object keeps unknown fields, and every node has a type or keeps them', () => {
  const visit = (node: OpenApi, path: string): void => {
    const isOpen = node[KEEP_UNKNOWN] === true
    assert.ok(isOpen || 'type' in node || 'x-kubernetes-int-or-string' in node, path)
    if ('properties' in node) assert.ok(isOpen, path)
    for (const [name, child] of Object.entries((node['properties'] ?? {}) as Record<string, OpenApi>)) {
      visit(child, `${path}.${name}`)
    }
    for (const name of ['items', 'additionalProperties']) {
      if (node[name] !== undefined) visit(node[name] as OpenApi, `${path}.${name}`)
    }
  }
  for (const { kind, spec } of MESH_KINDS) visit(openApiOf(spec.form), kind)
})

test('forms say what shapes take', () => {
  const form: Form = object({
    name: required(text),
    count: integer(1, 5),
    mode: oneOf(['A', 'B']),
    pause: duration('zero'),
    names: list(text, 3),
    labels: map(text),
    old: unsupported('old', 'nothing happens'),
    match: stringMatch('uri'),
  }).form
  const api = openApiOf(form) as { required: string[]; properties: Record<string, OpenApi> }
  assert.deepEqual(api.required, ['name'])
  const { count, mode, names, labels, old, match, pause } = api.properties
  assert.deepEqual(count, { type: 'integer', format: 'int32', minimum: 1, maximum: 5 })
  assert.deepEqual(mode, { type: 'string', enum: ['A', 'B'] })
  assert.deepEqual(names, { type: 'array', maxItems: 3, items: { type: 'string' } })
  assert.deepEqual(labels, { type: 'object', maxProperties: 4096, additionalProperties: { type: 'string' } })
  assert.deepEqual(old, { description: 'Not supported yet: nothing happens.', [KEEP_UNKNOWN]: true })
  const pairs = (match as { not: { anyOf: { required: string[] }[] } }).not.anyOf
  assert.deepEqual(
    pairs.map(({ required }) => required.join()),
    ['exact,prefix', 'exact,regex', 'prefix,regex'],
  )
  const pattern = new RegExp((pause as { pattern: string }).pattern)
  for (const good of ['0', '1s', '1.5s', '1h30m', '100ms', '5us']) assert.match(good, pattern)
  for (const bad of ['1', '', 's', '1d', '-1s', '1 s', 'x0']) assert.doesNotMatch(bad, pattern)
})
