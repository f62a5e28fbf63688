import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, TUNNEL_HBONE, TUNNEL_NONE } from '../../src/model/workload.ts'
import { LocalPods } from '../../src/proxy/local-pods.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { PATH_ONE_HOP, PATH_PLAIN, PATH_TUNNEL, Upstreams } from '../../src/proxy/upstreams.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const pods = new LocalPods()
const upstreams = new Upstreams()
// Paths are decided from the node's name, its captured pods and what is said of its pods alone.
const parts = { pods, node: 'node1', snapshot: Snapshot.empty } as ProxyParts
upstreams.bind(parts)

test('an endpoint elsewhere is reached by tunnel, unless it or the client has none', () => {
  const far = workloadOf('far', { node: 'node2', tunnelProtocol: TUNNEL_HBONE })
  assert.equal(upstreams.pathTo(far, true), PATH_TUNNEL)
  assert.equal(upstreams.pathTo(far, false), PATH_PLAIN)
  assert.equal(upstreams.pathTo({ ...far, tunnelProtocol: TUNNEL_NONE }, true), PATH_PLAIN)
  assert.equal(upstreams.pathTo(null, true), PATH_PLAIN)
})

test('a pod of this node is reached directly until it is captured, and then in one hop', () => {
  const near = workloadOf('near', { node: 'node1', tunnelProtocol: TUNNEL_HBONE })
  assert.equal(upstreams.pathTo(near, true), PATH_PLAIN)
  pods.add({ uid: near.uid, identity: 'spiffe://cluster.local/ns/default/sa/near' })
  assert.equal(upstreams.pathTo(near, true), PATH_ONE_HOP)
  assert.equal(upstreams.pathTo(near, false), PATH_ONE_HOP)
  pods.remove(near.uid)
  assert.equal(upstreams.pathTo(near, true), PATH_PLAIN)
})

test('a pod of this node that wants encryption is reached by tunnel, captured or not, but not by itself', () => {
  const near = workloadOf('near', { node: 'node1', tunnelProtocol: TUNNEL_HBONE })
  const local = { uid: near.uid, identity: 'spiffe://cluster.local/ns/default/sa/near' }
  const pod = { uid: near.uid, netns: '', scope: '*', failureMode: FAILURE_BY_POLICY, mustEncrypt: true } as const
  parts.snapshot = Snapshot.empty.apply({ ...EMPTY_DELTA, workloads: [near], pods: [pod] })
  assert.equal(upstreams.pathTo(near, true), PATH_TUNNEL)
  pods.add(local)
  assert.equal(upstreams.pathTo(near, true), PATH_TUNNEL)
  assert.equal(upstreams.pathTo(near, false), PATH_TUNNEL)
  assert.equal(upstreams.pathTo(near, true, local), PATH_ONE_HOP)
  pods.remove(near.uid)
})
