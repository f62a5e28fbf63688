/** What agents are told of pods that are about to start: whose they are, by the newest objects that anybody has. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { type MeshObject, parseObject } from '../../src/compiler/object.ts'
import { parseControllerConfig } from '../../src/controller/config.ts'
import { PodMemberships } from '../../src/controller/pod-memberships.ts'
import type { ObjectSearch } from '../../src/controller/source.ts'
import { POD_MESHED, POD_OUTSIDE, POD_UNKNOWN, type PodMembership } from '../../src/model/pod-membership.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN } from '../../src/model/workload.ts'

type Metadata = Readonly<Record<string, unknown>>

/** A source that has seen some objects, and whose origin has others by now. */
class Origin implements ObjectSearch {
  readonly seen = new Map<string, MeshObject>()
  readonly held = new Map<string, MeshObject>()
  readonly fetched: string[] = []

  newest(kind: string, namespace: string, name: string): MeshObject | null {
    return this.seen.get(`${kind} ${namespace}/${name}`) ?? null
  }

  async fetch(kind: string, namespace: string, name: string): Promise<MeshObject | null> {
    this.fetched.push(`${kind} ${namespace}/${name}`)
    return this.held.get(`${kind} ${namespace}/${name}`) ?? null
  }
}

function object(kind: string, metadata: Metadata, spec: object = {}, status: object = {}): [string, MeshObject] {
  const parsed = parseObject({ apiVersion: 'v1', kind, metadata, spec, status }, () => null)
  assert.ok(!Array.isArray(parsed))
  return [`${kind} ${metadata['namespace'] ?? ''}/${String(metadata['name'])}`, parsed as MeshObject]
}

const namespace = (labels: Metadata = {}, annotations: Metadata = {}): [string, MeshObject] =>
  object('Namespace', { name: 'shop', labels, annotations })

const pod = (labels: Metadata = {}, nodeName: string | null = 'node1', extra: Metadata = {}): [string, MeshObject] =>
  object('Pod', { namespace: 'shop', name: 'web', uid: 'u1', labels, ...extra }, nodeName === null ? {} : { nodeName })

const STARTING = { namespace: 'shop', name: 'web', uid: 'u1' }
const MESHED = { 'weft.dev/mesh': 'enabled' }

function ask(
  origin: Origin,
  starting = STARTING,
  node = 'node1',
  flags: readonly string[] = [],
): Promise<PodMembership> {
  const config = parseControllerConfig(['--source', 'kubernetes', ...flags], {})
  return new PodMemberships(origin, config).of(starting, node)
}

function seen(...objects: readonly [string, MeshObject][]): Origin {
  const origin = new Origin()
  for (const [key, one] of objects) origin.seen.set(key, one)
  return origin
}

test('labels of the pod and of its namespace say whose a pod is, and nobody asks the API server', async () => {
  // biome-ignore format: a table
  const rows: readonly [Metadata, Metadata, number][] = [
    [{}, {}, POD_OUTSIDE],
    [{}, MESHED, POD_MESHED],
    [MESHED, {}, POD_MESHED],
    [MESHED, { 'weft.dev/mesh': 'disabled' }, POD_OUTSIDE],
    [{}, { ...MESHED, 'weft.dev/rev': 'other' }, POD_OUTSIDE],
    [{}, { 'istio.io/dataplane-mode': 'ambient' }, POD_OUTSIDE],
  ]
  for (const [ofNamespace, ofPod, state] of rows) {
    const origin = seen(namespace(ofNamespace), pod(ofPod))
    assert.deepEqual(await ask(origin), { state, failureMode: FAILURE_BY_POLICY })
    assert.deepEqual(origin.fetched, [])
  }
})

test('what has not been seen yet is asked of the API server: the pod, its node, its label, its namespace', async () => {
  const origin = seen()
  origin.held.set(...namespace())
  origin.held.set(...pod(MESHED))
  assert.equal((await ask(origin)).state, POD_MESHED)
  assert.deepEqual(origin.fetched.sort(), ['Namespace /shop', 'Pod shop/web'])
  // Seen before it was scheduled, and an earlier pod of that name.
  for (const earlier of [pod({}, null), pod({}, 'node1', { uid: 'u0' })]) {
    const behind = seen(namespace(), earlier)
    behind.held.set(...pod(MESHED))
    assert.equal((await ask(behind)).state, POD_MESHED)
  }
})

test('a node hears nothing of pods of other nodes, nor of one that nobody has', async () => {
  const origin = seen(namespace(MESHED, { 'weft.dev/failure-mode': 'closed' }), pod())
  assert.deepEqual(await ask(origin, STARTING, 'node2'), { state: POD_UNKNOWN, failureMode: FAILURE_CLOSED })
  assert.equal((await ask(origin, { ...STARTING, uid: 'u2' })).state, POD_UNKNOWN)
  assert.equal((await ask(origin, { ...STARTING, name: 'other' })).state, POD_UNKNOWN)
  assert.equal((await ask(seen())).state, POD_UNKNOWN)
  // A runtime that does not say the uid.
  assert.equal((await ask(origin, { ...STARTING, uid: '' })).state, POD_MESHED)
})

test('the failure mode is the pod’s own, or its namespace’s', async () => {
  const closed = namespace({}, { 'weft.dev/failure-mode': 'closed' })
  assert.equal((await ask(seen(closed, pod(MESHED)))).failureMode, FAILURE_CLOSED)
  const open = pod(MESHED, 'node1', { annotations: { 'weft.dev/failure-mode': 'open' } })
  assert.equal((await ask(seen(closed, open))).failureMode, FAILURE_OPEN)
})

test('Istio’s labels count where the installation says so, and revisions are another control plane’s', async () => {
  const ambient = seen(namespace({ 'istio.io/dataplane-mode': 'ambient' }), pod())
  assert.equal((await ask(ambient, STARTING, 'node1', ['--istio-labels'])).state, POD_MESHED)
  const canary = seen(namespace({ ...MESHED, 'weft.dev/rev': 'canary' }), pod())
  assert.equal((await ask(canary)).state, POD_OUTSIDE)
  assert.equal((await ask(canary, STARTING, 'node1', ['--revision', 'canary'])).state, POD_MESHED)
})
