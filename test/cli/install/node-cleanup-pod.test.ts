import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nodeCleanupPod } from '../../../src/cli/install/node-cleanup-pod.ts'
import { installObjects } from '../../../src/cli/install/objects.ts'
import type { GivenValues } from '../../../src/cli/install/value-rows.ts'
import { installValues } from '../../../src/cli/install/values.ts'

interface Spec {
  readonly nodeName: string
  readonly hostPID: boolean
  readonly containers: readonly {
    args: string[]
    image: string
    securityContext: unknown
    volumeMounts: { name: string }[]
  }[]
  readonly volumes: readonly { name: string }[]
}

function podOf(given: GivenValues): Spec {
  const plan = { values: installValues(given), namespace: 'weft-system', version: '1.2.3' }
  const agents = installObjects(plan).find(({ kind }) => kind === 'DaemonSet')!
  return nodeCleanupPod(agents, 'node1', 'weft-node-cleanup-node1')['spec'] as Spec
}

test('a node is cleaned up with the paths of the node, whatever the agent calls them', () => {
  const [container] = podOf({
    agent: { paths: { state: '/srv/weft/state', cniConfiguration: '/etc/k3s/net.d' } },
  }).containers
  assert.deepEqual(container!.args, [
    'agent',
    '--cleanup',
    '--kubernetes',
    '--state=/host/srv/weft/state',
    '--cni-conf-directory=/host/etc/k3s/net.d',
    '--cni-bin-directory=/host/opt/cni/bin',
    '--cni-socket=/host/run/weft/cni.sock',
  ])
})

test('without the CNI plugin nothing of it is looked for', () => {
  const [container] = podOf({ agent: { cni: false } }).containers
  assert.deepEqual(container!.args, ['agent', '--cleanup', '--kubernetes', '--state=/host/var/lib/weft/agent'])
})

test('it has the image and the permissions of the agent, and needs nothing of the controller', () => {
  const { containers, volumes, nodeName, hostPID } = podOf({ image: { tag: '9.9.9' } })
  assert.equal(nodeName, 'node1')
  assert.equal(hostPID, true)
  assert.equal(containers[0]!.image, 'weft:9.9.9')
  assert.match(JSON.stringify(containers[0]!.securityContext), /"drop":\["ALL"\],"add":\["NET_ADMIN","SYS_ADMIN"/)
  const names = volumes.map(({ name }) => name)
  assert.ok(!names.includes('credentials'))
  assert.deepEqual(containers[0]!.volumeMounts.map(({ name }) => name).sort(), [...names].sort())
})
