import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isSameObject, shrink, type Tree } from '../../src/controller/kubernetes-objects.ts'

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: 'cart',
    namespace: 'shop',
    uid: 'u1',
    resourceVersion: '7',
    generation: 1,
    generateName: 'cart-',
    labels: { app: 'cart' },
    annotations: {
      'weft.dev/mesh': 'enabled',
      'kubectl.kubernetes.io/last-applied-configuration': '{}',
      'example.io/big': 'x'.repeat(2000),
    },
    managedFields: [{ manager: 'kubectl' }],
    ownerReferences: [{ kind: 'ReplicaSet', name: 'cart-1', controller: true }],
    deletionTimestamp: '2030-01-01T00:00:00Z',
  },
  spec: {
    nodeName: 'n1',
    serviceAccountName: 'cart',
    volumes: [{ name: 'v' }],
    tolerations: [],
    containers: [
      {
        name: 'c',
        image: 'i',
        env: [{ name: 'SECRET', value: 'x' }],
        ports: [{ name: 'http', containerPort: 80 }],
        readinessProbe: { httpGet: { port: 'http' } },
      },
    ],
    somethingNew: 1,
  },
  status: {
    phase: 'Running',
    podIP: '10.0.0.1',
    conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: '2030-01-01T00:00:00Z' }],
    containerStatuses: [{ restartCount: 3 }],
  },
}

test('of a pod stays what a mesh may read, and what it never heard of', () => {
  const before = structuredClone(POD)
  assert.deepEqual(shrink(POD), {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'cart',
      namespace: 'shop',
      uid: 'u1',
      labels: { app: 'cart' },
      annotations: { 'weft.dev/mesh': 'enabled' },
      ownerReferences: [{ kind: 'ReplicaSet', name: 'cart-1', controller: true }],
      deletionTimestamp: '2030-01-01T00:00:00Z',
    },
    spec: {
      nodeName: 'n1',
      serviceAccountName: 'cart',
      containers: [
        {
          name: 'c',
          ports: [{ name: 'http', containerPort: 80 }],
          readinessProbe: { httpGet: { port: 'http' } },
        },
      ],
      somethingNew: 1,
    },
    status: { phase: 'Running', podIP: '10.0.0.1', conditions: [{ type: 'Ready', status: 'True' }] },
  })
  assert.deepEqual(POD, before)
})

test('of nodes and namespaces stays little more than their labels', () => {
  const metadata = { name: 'n', labels: { zone: 'a' } }
  const spec = { podCIDR: '10.0.0.0/24' }
  const node = {
    apiVersion: 'v1',
    kind: 'Node',
    metadata,
    spec,
    status: { addresses: [], images: [1], conditions: [] },
  }
  assert.deepEqual(shrink(node), { apiVersion: 'v1', kind: 'Node', metadata, status: { addresses: [] } })
  const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata, spec, status: { phase: 'Active' } }
  assert.deepEqual(shrink(namespace), { apiVersion: 'v1', kind: 'Namespace', metadata })
})

test('of a rule goes only what no user has written', () => {
  const rule = {
    apiVersion: 'networking.istio.io/v1',
    kind: 'VirtualService',
    metadata: {
      name: 'a',
      resourceVersion: '5',
      managedFields: [],
      annotations: { long: 'x'.repeat(2000), 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
    },
    spec: { volumes: 'an unknown field stays, to be reported' },
    status: { conditions: [{ message: 'm' }] },
  }
  assert.deepEqual(shrink(rule), {
    ...rule,
    metadata: { name: 'a', resourceVersion: '5', annotations: { long: 'x'.repeat(2000) } },
  })
})

test('what is not an object at all is left for the compiler to report', () => {
  const odd = { kind: 'Pod', metadata: 'none', spec: [1], status: 2 }
  assert.deepEqual(shrink(odd), odd)
  assert.deepEqual(shrink({ kind: 'Pod', spec: { containers: [null, 1, { env: 1 }] } }), {
    kind: 'Pod',
    spec: { containers: [null, 1, {}] },
  })
})

test('two versions are the same when nothing differs that we read', () => {
  const same = (a: Tree, b: Tree): boolean => isSameObject(shrink(a), shrink(b))
  const newer = { ...POD, metadata: { ...POD.metadata, resourceVersion: '8' } }
  assert.equal(same(POD, newer), true)
  assert.equal(same(POD, { ...POD, status: { ...POD.status, podIP: '10.0.0.2' } }), false)
  assert.equal(same(POD, { ...POD, status: { ...POD.status, phase: undefined } }), false)
  const { deletionTimestamp: _, ...metadata } = POD.metadata
  assert.equal(same(POD, { ...POD, metadata: metadata as never }), false)
  const rule = { kind: 'VirtualService', metadata: { name: 'a', generation: 1 }, spec: { hosts: ['a'] }, status: 1 }
  assert.equal(same(rule, { ...rule, status: 2, metadata: { name: 'a', generation: 2 } }), true)
  assert.equal(same(rule, { ...rule, spec: { hosts: ['b'] } }), false)
  assert.equal(same(rule, { ...rule, spec: { hosts: ['a', 'b'] } }), false)
})
