import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  compareAge,
  expandList,
  type MeshObject,
  objectKey,
  type Path,
  type Position,
  parseObject,
} from '../../src/compiler/object.ts'

/** Positions that tell only which path was asked for. */
function at(path: Path): Position {
  return { file: 'a.yaml', line: path.length + 1, column: 1 }
}

function parseGood(raw: unknown): MeshObject {
  const object = parseObject(raw, at)
  assert.ok(!Array.isArray(object), JSON.stringify(object))
  return object
}

const POD = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'cart', namespace: 'shop' } }

test('an object has its metadata, and one key in every version of its API', () => {
  const object = parseGood({
    apiVersion: 'networking.istio.io/v1beta1',
    kind: 'VirtualService',
    metadata: {
      name: 'cart',
      namespace: 'shop',
      uid: 'u-1',
      labels: { app: 'cart' },
      annotations: { note: 'x', empty: null },
      creationTimestamp: '2026-01-31T12:00:00Z',
    },
    spec: { hosts: ['cart'] },
  })
  assert.equal(object.key, 'VirtualService.networking.istio.io/shop/cart')
  assert.equal(object.group, 'networking.istio.io')
  assert.equal(object.uid, 'u-1')
  assert.equal(object.labels['app'], 'cart')
  assert.equal(object.annotations['empty'], '')
  assert.equal(object.creationTimestamp, Date.UTC(2026, 0, 31, 12))
  assert.deepEqual(object.spec, { hosts: ['cart'] })
  assert.equal(object.status, null)
  assert.equal(objectKey({ ...object, apiVersion: 'networking.istio.io/v1' }), object.key)
})

test('a namespaced kind without a namespace is in "default"; Namespace and Node are in none', () => {
  assert.equal(parseGood({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a' } }).key, 'Pod/default/a')
  assert.equal(parseGood({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'a', namespace: 'x' } }).key, 'Node/a')
  assert.equal(parseGood({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'a' } }).namespace, '')
})

test('a label may be called like a property of every object', () => {
  const object = parseGood(
    JSON.parse(JSON.stringify(POD).replace('"name"', '"labels":{"__proto__":"x","constructor":"y"},"name"')),
  )
  assert.equal(object.labels['constructor'], 'y')
  assert.equal(Object.hasOwn(object.labels, '__proto__'), true)
  assert.equal(object.labels['toString'], undefined)
})

for (const [what, raw, field] of [
  ['null', null, ''],
  ['a list', [], ''],
  ['text', 'kind: Pod', ''],
  ['no kind', { ...POD, kind: undefined }, 'kind'],
  ['a number as kind', { ...POD, kind: 3 }, 'kind'],
  ['no apiVersion', { ...POD, apiVersion: '' }, 'apiVersion'],
  ['no metadata', { ...POD, metadata: undefined }, 'metadata'],
  ['metadata that is a list', { ...POD, metadata: [] }, 'metadata'],
  ['no name', { ...POD, metadata: {} }, 'metadata.name'],
  ['an upper-case name', { ...POD, metadata: { name: 'Cart' } }, 'metadata.name'],
  ['a name that is too long', { ...POD, metadata: { name: 'a'.repeat(254) } }, 'metadata.name'],
  ['a namespace with a slash', { ...POD, metadata: { name: 'a', namespace: 'x/y' } }, 'metadata.namespace'],
  ['a label that is a number', { ...POD, metadata: { name: 'a', labels: { version: 1 } } }, 'metadata.labels.version'],
  ['labels that are a list', { ...POD, metadata: { name: 'a', labels: ['x'] } }, 'metadata.labels'],
  ['a bad time', { ...POD, metadata: { name: 'a', creationTimestamp: 'soon' } }, 'metadata.creationTimestamp'],
] as const) {
  test(`metadata is refused with the field named: ${what}`, () => {
    const messages = parseObject(raw, at)
    assert.ok(Array.isArray(messages))
    assert.equal(messages.length, 1)
    assert.equal(messages[0]!.severity, 'error')
    assert.equal(messages[0]!.field, field)
    assert.equal(messages[0]!.position?.file, 'a.yaml')
  })
}

test('messages about metadata name the object as soon as it has a kind and a name, and say what is missing', () => {
  const first = (raw: unknown) => {
    const messages = parseObject(raw, at)
    assert.ok(Array.isArray(messages))
    return messages[0]!
  }
  assert.equal(first({ kind: 'Pod', metadata: { name: 'a' } }).object, 'Pod/default/a')
  assert.equal(first({ kind: 'Pod', metadata: {} }).object, '')
  assert.equal(first({ metadata: { name: 'a' } }).object, '')
  assert.match(first({ kind: 'Pod', metadata: { name: 'a' } }).text, /apiVersion is missing/)
  assert.match(first({ kind: 'Pod', apiVersion: 1, metadata: { name: 'a' } }).text, /not text/)
})

test('all errors of the metadata come at once', () => {
  const messages = parseObject({ kind: 'Pod', metadata: { labels: { a: 1, b: true } } }, at)
  assert.ok(Array.isArray(messages))
  assert.deepEqual(messages.map(({ field }) => field).sort(), [
    'apiVersion',
    'metadata.labels.a',
    'metadata.labels.b',
    'metadata.name',
  ])
})

test('a List is expanded, its items know where they were written', () => {
  const documents = expandList({ apiVersion: 'v1', kind: 'List', items: [POD, { ...POD, kind: 'Service' }] }, at)
  assert.deepEqual(
    documents.map(({ raw }) => (raw as { kind: string }).kind),
    ['Pod', 'Service'],
  )
  // items, index, metadata: three keys deep in the list, one in the object.
  assert.equal(documents[1]!.positions(['metadata'])?.line, 4)
})

test('items of a typed list take kind and apiVersion from the list', () => {
  const [document] = expandList({ apiVersion: 'v1', kind: 'PodList', items: [{ metadata: { name: 'a' } }] }, at)
  assert.equal(parseGood(document!.raw).key, 'Pod/default/a')
})

test('what is no list comes back as it is', () => {
  for (const raw of [POD, null, 3, { kind: 'List' }, { kind: 'IpAllowList', items: 'x' }]) {
    assert.deepEqual(
      expandList(raw, at).map((document) => document.raw),
      [raw],
    )
  }
})

test('age order: oldest first, then namespace, then name; no timestamp is oldest', () => {
  const one = (creationTimestamp: number | null, namespace: string, name: string) => ({
    creationTimestamp,
    namespace,
    name,
  })
  const sorted = [one(5, 'a', 'z'), one(5, 'a', 'b'), one(5, 'Z', 'c'), one(1, 'z', 'z'), one(null, 'z', 'y')].sort(
    compareAge,
  )
  assert.deepEqual(
    sorted.map(({ name }) => name),
    ['y', 'z', 'c', 'b', 'z'],
  )
})
