import assert from 'node:assert/strict'
import { test } from 'node:test'
import { calicoRequirements, ciliumRequirements, pluginsOf } from '../../../src/cli/check/cni.ts'
import { clockRequirement, nodeRequirements } from '../../../src/cli/check/nodes.ts'
import type { KubernetesObject } from '../../../src/kubernetes/object.ts'

const isMetBy = (rows: readonly { name: string; isMet: boolean }[], name: RegExp): boolean | undefined =>
  rows.find((row) => name.test(row.name))?.isMet

test('socket load balancing of Cilium in pods is wrong, with the setting that changes it', () => {
  for (const [settings, isMet] of [
    [{}, true],
    [{ 'bpf-lb-sock': 'false', 'kube-proxy-replacement': 'true' }, true],
    [{ 'bpf-lb-sock': 'true' }, false],
    [{ 'kube-proxy-replacement': 'true' }, false],
    [{ 'kube-proxy-replacement': 'strict' }, false],
    [{ 'kube-proxy-replacement': 'true', 'bpf-lb-sock-hostns-only': 'true' }, true],
    [{ 'bpf-lb-sock': 'true', 'bpf-lb-sock-hostns-only': 'false' }, false],
  ] as const) {
    assert.equal(isMetBy(ciliumRequirements(settings), /socket/), isMet, JSON.stringify(settings))
  }
  assert.match(
    ciliumRequirements({ 'bpf-lb-sock': 'true' })[0]!.detail,
    /socketLB\.hostNamespaceOnly=true.*bpf-lb-sock-hostns-only/,
  )
})

test('a Cilium that removes the CNI configurations of others is told of, and one that does not is fine', () => {
  assert.equal(isMetBy(ciliumRequirements({ 'cni-exclusive': 'true' }), /CNI configuration/), false)
  assert.equal(isMetBy(ciliumRequirements({ 'cni-exclusive': 'false' }), /CNI configuration/), true)
})

test('connect-time load balancing of Calico counts only in its eBPF mode', () => {
  assert.equal(isMetBy(calicoRequirements({}), /Calico/), true)
  assert.equal(isMetBy(calicoRequirements({ bpfEnabled: true }), /Calico/), false)
  assert.equal(
    isMetBy(calicoRequirements({ bpfEnabled: true, bpfConnectTimeLoadBalancing: 'Disabled' }), /Calico/),
    true,
  )
  assert.equal(
    isMetBy(calicoRequirements({ bpfEnabled: true, bpfConnectTimeLoadBalancingEnabled: false }), /Calico/),
    true,
  )
})

test('plugins are known by their DaemonSets', () => {
  assert.deepEqual(pluginsOf(['kube-proxy', 'calico-node', 'kube-flannel-ds']), ['Calico', 'Flannel'])
  assert.deepEqual(pluginsOf(['kube-proxy', 'cilium-envoy']), [])
})

function node(name: string, kernelVersion: string, more: Record<string, string> = {}): KubernetesObject {
  const nodeInfo = { kernelVersion, operatingSystem: 'linux', architecture: 'amd64', ...more }
  return { apiVersion: 'v1', kind: 'Node', metadata: { name }, status: { nodeInfo } }
}

test('nodes with an old kernel are named, with what they have', () => {
  const rows = nodeRequirements([node('a', '6.1.0-13-amd64'), node('b', '5.15.0-1041-azure'), node('c', '5.17.0')])
  assert.equal(rows[0]!.isMet, false)
  assert.match(rows[0]!.detail, /^b has 5\.15\.0-1041-azure: upgrade them/)
  assert.equal(nodeRequirements([node('a', '5.17.0'), node('b', '10.0')])[0]!.isMet, true)
})

test('nodes of other architectures and of Windows are told of', () => {
  const rows = nodeRequirements([
    node('a', '6.1', { architecture: 's390x' }),
    node('w', '10.0', { operatingSystem: 'windows' }),
  ])
  assert.equal(isMetBy(rows, /architectures/), false)
  assert.match(rows.at(-1)!.detail, /^1: their pods stay outside/)
})

test('a clock is compared with that of the API server, by the lease of the node', () => {
  const nowMs = Date.parse('2026-01-01T00:00:00Z')
  const lease = (name: string, atMs: number): KubernetesObject => ({
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { name },
    spec: { renewTime: new Date(nowMs + atMs).toISOString() },
  })
  assert.equal(clockRequirement([lease('a', -9000), lease('b', 2000)], nowMs).isMet, true)
  const { isMet, detail } = clockRequirement([lease('a', 90_000), lease('b', -300_000), lease('c', 0)], nowMs)
  assert.equal(isMet, false)
  assert.match(detail, /a is 90 s ahead, b is 300 s behind/)
})
