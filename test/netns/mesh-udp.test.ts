/** UDP between pods of a live mesh: it passes unchanged, and both nodes tell what they saw of it. */
import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { after, before, describe, it } from 'node:test'
import { loadAddon } from '../../src/kernel/addon.ts'
import { TCX_EGRESS, TCX_INGRESS } from '../../src/kernel/layout.generated.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { nativeProgram } from '../support/native-build.ts'
import { finished, needsRoot } from '../support/netns.ts'

const UDP_TALK = nativeProgram('udp-talk')
const PORT = '4000'
const FROM_CLIENT = { source_workload: 'client', request_protocol: 'udp' }

describe('UDP of a mesh', needsRoot, () => {
  const addon = loadAddon()
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1' },
        { name: 'far', node: 'node2' },
        { name: 'outsider', node: 'node1', namespace: 'outside' },
      ],
      services: ['near', 'far'],
    })
    for (const pod of ['client', 'near', 'far']) {
      await mesh.eventually(`${pod} is metered`, () => isMetered(pod, TCX_EGRESS) && isMetered(pod, TCX_INGRESS))
    }
  })

  after(async () => {
    await mesh?.close()
  })

  /** True when a program of ours is attached to the pod's interface; also when that is so without an agent. */
  function isMetered(pod: string, direction: number): boolean {
    const netnsFd = addon.openNetns(`/run/netns/${mesh.plan.pod(pod).netns}`)
    try {
      const { index } = addon.netnsInterfaces(netnsFd).find(({ name }) => name === 'eth0')!
      return addon.interfacePrograms(netnsFd, index, direction).some((name) => name.startsWith('weft_udp_'))
    } finally {
      closeSync(netnsFd)
    }
  }

  /** Sends datagrams from one pod to another; what that one's program got. */
  async function talk(from: string, to: string, bytes: number, count: number, family = 0): Promise<string> {
    const receiver = mesh.spawnIn(to, [UDP_TALK, 'receive', PORT, String(count)])
    const end = finished(receiver)
    await new Promise((resolve) => receiver.stdout.once('data', resolve))
    const address = mesh.plan.pod(to).addresses[family]!
    const sent = await mesh.run(from, [UDP_TALK, 'send', address, PORT, String(bytes), String(count), '0'])
    assert.equal(sent.status, 0, sent.stderr)
    return (await end).stdout.split('\n')[1]!
  }

  async function counted(node: NodeName, direction: 'sent' | 'received', labels: Readonly<Record<string, string>>) {
    return await Promise.all([
      mesh.metric(node, `weft_udp_${direction}_bytes_total`, labels),
      mesh.metric(node, `weft_udp_${direction}_packets_total`, labels),
    ])
  }

  it('is told by the node of the sender and by that of the receiver', async () => {
    assert.equal(await talk('client', 'far', 100, 50), 'datagrams 50 bytes 5000 damaged 0')
    assert.equal(await talk('client', 'far', 10, 10, 1), 'datagrams 10 bytes 100 damaged 0')
    const labels = { ...FROM_CLIENT, destination_workload: 'far' }
    assert.deepEqual(await counted('node1', 'sent', { ...labels, reporter: 'source' }), [5_100, 60])
    assert.deepEqual(await counted('node2', 'received', { ...labels, reporter: 'destination' }), [5_100, 60])
    assert.deepEqual(await counted('node1', 'received', labels), [0, 0])
  })

  it('is told twice by one node that has both, and once when only one is in the mesh', async () => {
    assert.equal(await talk('client', 'near', 10, 5), 'datagrams 5 bytes 50 damaged 0')
    assert.equal(await talk('outsider', 'near', 20, 5), 'datagrams 5 bytes 100 damaged 0')
    const near = { destination_workload: 'near' }
    assert.deepEqual(await counted('node1', 'sent', { ...FROM_CLIENT, ...near }), [50, 5])
    assert.deepEqual(await counted('node1', 'received', { ...FROM_CLIENT, ...near }), [50, 5])
    assert.deepEqual(await counted('node1', 'received', { source_workload: 'outsider', ...near }), [100, 5])
    assert.deepEqual(await counted('node1', 'sent', { source_workload: 'outsider' }), [0, 0])
  })

  it('is counted while there is no agent, and told once by the next one', async () => {
    await mesh.kill('agent-node1')
    assert.equal(await talk('client', 'far', 100, 7), 'datagrams 7 bytes 700 damaged 0')
    await mesh.startAgent('node1')
    const labels = { ...FROM_CLIENT, destination_workload: 'far' }
    assert.deepEqual(await counted('node1', 'sent', labels), [700, 7])
    await mesh.end('agent-node1')
    assert.equal(await talk('client', 'far', 100, 2), 'datagrams 2 bytes 200 damaged 0')
    await mesh.startAgent('node1')
    assert.equal(await talk('client', 'far', 100, 3), 'datagrams 3 bytes 300 damaged 0')
    assert.deepEqual(await counted('node1', 'sent', labels), [500, 5])
  })

  it('goes on being counted where it was when one agent hands over to the next', async () => {
    const labels = { ...FROM_CLIENT, destination_workload: 'far' }
    const [bytes, packets] = (await counted('node1', 'sent', labels)) as [number, number]
    assert.ok(packets > 0)
    assert.equal(await talk('client', 'far', 100, 4), 'datagrams 4 bytes 400 damaged 0')
    const old = await mesh.upgradeAgent('node1')
    assert.equal(await talk('client', 'far', 100, 3), 'datagrams 3 bytes 300 damaged 0')
    assert.deepEqual(await counted('node1', 'sent', labels), [bytes + 700, packets + 7])
    assert.equal(await old.ended, 'exit code 0')
    assert.deepEqual(await counted('node1', 'sent', labels), [bytes + 700, packets + 7])
  })

  it('is not metered any more in a pod that has left the mesh', async () => {
    assert.ok(isMetered('near', TCX_EGRESS))
    mesh.plan.label('near', { 'weft.dev/mesh': 'disabled' })
    mesh.writeObjects()
    await mesh.eventually('the meter is gone', () => !isMetered('near', TCX_EGRESS) && !isMetered('near', TCX_INGRESS))
    assert.equal(await talk('outsider', 'near', 10, 1), 'datagrams 1 bytes 10 damaged 0')
  })
})
