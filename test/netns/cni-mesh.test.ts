/**
 * New pods of a mesh whose nodes have the CNI plugin: the test calls it as a container runtime would, before anything runs
 * in the pod, and publishes addresses afterwards, as a kubelet does.
 */
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { addPod } from '../../src/cli/demo/topology.ts'
import { callCni, resultOf } from '../support/cni-call.ts'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { type Finished, needsRoot } from '../support/netns.ts'

const UID = '0f0e1d2c-3b4a-5968-7786-95a4b3c2d1e0'

describe('pods that the CNI plugin tells of', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web'] },
        { name: 'vault', node: 'node2', namespace: 'vault', programs: ['web'] },
      ],
      services: ['near', 'vault'],
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
      },
      flagsOf: (node) => {
        mkdirSync(directory(node, 'net.d'), { recursive: true })
        mkdirSync(directory(node, 'bin'), { recursive: true })
        writeFileSync(
          join(directory(node, 'net.d'), '10-bridge.conflist'),
          JSON.stringify({ cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'bridge' }] }),
        )
        return [
          ...['--cni-conf-directory', directory(node, 'net.d'), '--cni-bin-directory', directory(node, 'bin')],
          ...['--cni-socket', socketOf(node)],
        ]
      },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  function directory(node: NodeName, name: string): string {
    return join(runDirectory(), `cni-${node}`, name)
  }

  const runDirectory = (): string => `/run/weft-live${process.pid}-1`
  const socketOf = (node: NodeName): string => join(runDirectory(), `cni-${node}`, 'cni.sock')
  const namespacesOf = (node: NodeName): string => join(mesh.stateDirectory(node), 'cni-namespaces')

  interface NewPod {
    readonly name: string
    readonly namespace: string
    readonly node: NodeName
    readonly addresses: readonly string[]
    readonly netns: string
  }

  /** A network without anything in it. */
  async function makeNetwork(name: string, node: NodeName, namespace = 'default'): Promise<NewPod> {
    const pod = mesh.plan.addPod({ name, node, namespace })
    await addPod(mesh.plan, pod)
    return { name, namespace, node, addresses: pod.addresses, netns: `/run/netns/${pod.netns}` }
  }

  /** What the API server has of a pod: scheduled, and from `isStarted` on with its addresses. */
  function publish(pod: NewPod, isStarted: boolean, uid = UID, extra = ''): void {
    const status = isStarted
      ? `status: { phase: Running, podIP: "${pod.addresses[0]}", podIPs: [${pod.addresses.map((ip) => `{ ip: "${ip}" }`).join(', ')}] }`
      : 'status: { phase: Pending }'
    mesh.writeRules(
      `pod-${pod.name}.yaml`,
      `apiVersion: v1
kind: Pod
metadata: { name: ${pod.name}, namespace: ${pod.namespace}, uid: ${uid}, labels: { app: ${pod.name}${extra} } }
spec: { nodeName: ${pod.node}, serviceAccountName: ${pod.name}, containers: [{ name: a }] }
${status}
`,
    )
  }

  function call(pod: NewPod, command = 'ADD', containerId = `c-${pod.name}`, uid = UID): Promise<Finished> {
    return callCni({
      command,
      containerId,
      netns: pod.netns,
      args: { K8S_POD_NAMESPACE: pod.namespace, K8S_POD_NAME: pod.name, K8S_POD_UID: uid },
      addresses: pod.addresses,
      socket: socketOf(pod.node),
      namespaces: namespacesOf(pod.node),
    })
  }

  const enrolled = async (pod: NewPod): Promise<number> => {
    return (
      mesh.log(`agent-${pod.node}`).match(new RegExp(`"pod enrolled".*"pod":"${pod.namespace}/${pod.name}"`, 'g')) ?? []
    ).length
  }

  it('the agents have chained the plugin, and written down who is in the mesh', () => {
    for (const node of NODES) {
      const chained = JSON.parse(readFileSync(join(directory(node, 'net.d'), '00-00-weft.conflist'), 'utf8'))
      assert.deepEqual(
        chained.plugins.map(({ type }: { type: string }) => type),
        ['bridge', 'weft-cni'],
      )
      assert.equal(readFileSync(namespacesOf(node), 'utf8'), 'weft-cni 1\ndefault open\nvault closed\nend\n')
    }
  })

  it('a pod is captured when ADD ends, before its addresses are published, and stays so when they are', async () => {
    const pod = await makeNetwork('fresh', 'node2')
    publish(pod, false)
    const { status, stdout, stderr } = await call(pod)
    assert.equal(status, 0, stdout + stderr)
    assert.deepEqual(JSON.parse(stdout), resultOf(pod.addresses, pod.netns))
    // The very first connection of the pod is in the mesh: the vault takes no other.
    assert.equal(await mesh.code('fresh', 'http://vault.vault:8080/'), '200')
    publish(pod, true)
    await mesh.eventually('its addresses are known', async () => {
      const { workloads } = (await mesh.configDump('node1')) as { workloads: { name: string; addresses: string[] }[] }
      return workloads.some(({ name, addresses }) => name === 'fresh' && addresses.length === 2)
    })
    assert.equal(await mesh.code('fresh', 'http://vault.vault:8080/'), '200')
    assert.equal(await enrolled(pod), 1, 'it was enrolled once')
  })

  it('a pod of which the controller tells only later is waited for', async () => {
    const pod = await makeNetwork('late', 'node2')
    const added = call(pod)
    const first = await Promise.race([added.then(() => 'ended'), new Promise((resolve) => setTimeout(resolve, 300))])
    assert.equal(first, undefined, 'ADD waits')
    publish(pod, false)
    assert.equal((await added).status, 0)
    assert.equal(await mesh.code('late', 'http://vault.vault:8080/'), '200')
  })

  it('a pod of a namespace outside the mesh is never waited for', async () => {
    const pod = await makeNetwork('stranger', 'node2', 'outside')
    const { status, stdout } = await call(pod)
    assert.equal(status, 0)
    assert.deepEqual(JSON.parse(stdout), resultOf(pod.addresses, pod.netns))
    assert.equal(await mesh.code('stranger', `http://[${mesh.plan.pod('vault').addresses[1]}]:8080/`), '000')
  })

  it('the first pod that labels itself in a namespace outside the mesh is captured when ADD ends', async () => {
    const pod = await makeNetwork('pioneer', 'node2', 'frontier')
    publish(pod, false, UID, ', weft.dev/mesh: enabled')
    // Nobody has been told of it yet: the controller looks when the agent asks.
    const { status, stdout, stderr } = await call(pod)
    assert.equal(status, 0, stdout + stderr)
    const results = async (result: string): Promise<number> => {
      return await mesh.metric('node2', 'weft_cni_requests_total', { result })
    }
    assert.deepEqual([await results('expected'), await results('let_by')], [1, 0])
    assert.equal(await mesh.code('pioneer', `http://${mesh.plan.pod('vault').addresses[0]}:8080/`), '200')
  })

  it('a pod of the mesh that is labelled out passes as soon as that is known', async () => {
    const pod = await makeNetwork('optout', 'node1')
    publish(pod, false, UID, ', weft.dev/mesh: disabled')
    assert.equal((await call(pod)).status, 0)
    const results = async (result: string): Promise<number> => {
      return await mesh.metric('node1', 'weft_cni_requests_total', { result })
    }
    assert.deepEqual([await results('unmeshed'), await results('let_by')], [1, 0])
    assert.equal(await enrolled(pod), 0)
  })

  it('a pod of a closed namespace that nobody tells of does not start', async () => {
    const pod = await makeNetwork('unknown', 'node2', 'vault')
    const { status, stdout } = await call(pod)
    assert.equal(status, 1)
    const { code, msg, cniVersion } = JSON.parse(stdout) as { code: number; msg: string; cniVersion: string }
    assert.deepEqual([code, cniVersion], [11, '1.0.0'])
    assert.match(msg, /pod vault\/unknown must not start unmeshed .* the controller has not told of it within 5 s/)
  })

  it('a pod that is deleted is withdrawn when DEL ends, and another one of its name is captured anew', async () => {
    const first = await makeNetwork('again', 'node1')
    publish(first, false)
    assert.equal((await call(first)).status, 0)
    assert.equal((await call(first, 'DEL')).status, 0)
    await mesh.eventually('it is withdrawn', () => /"pod withdrawn".*default\/again/.test(mesh.log('agent-node1')))
    await mesh.onNode('node1', ['ip', 'netns', 'del', first.netns.slice('/run/netns/'.length)])
    mesh.plan.removePod('again')
    await mesh.eventually('nobody holds its netns', async () => !(await mesh.hasWire('node1', 'again')))

    const uid = '11111111-2222-3333-4444-555555555555'
    const second = await makeNetwork('again', 'node1')
    publish(second, false, uid)
    assert.equal((await call(second, 'ADD', 'c-second', uid)).status, 0)
    // The runtime cleans the first one up again, as kubelets make it do.
    assert.equal((await call({ ...second, netns: '' }, 'DEL', 'c-again', uid)).status, 0)
    assert.equal(await mesh.code('again', 'http://vault.vault:8080/'), '200')
  })

  it('without an agent, pods start or do not as their namespace says, and the agent captures them when it is back', async () => {
    await mesh.kill('agent-node2')
    const open = await makeNetwork('open', 'node2')
    const closed = await makeNetwork('closed', 'node2', 'vault')
    const outside = await makeNetwork('outside2', 'node2', 'outside')
    publish(open, true)
    const began = performance.now()
    assert.equal((await call(outside)).status, 0)
    const outsideMs = performance.now() - began
    const [opened, refused] = await Promise.all([call(open), call(closed)])
    assert.equal(opened.status, 0)
    assert.match(opened.stderr, /the agent does not run; the pod starts unmeshed, as namespace default allows/)
    assert.ok(outsideMs < performance.now() - began - outsideMs, 'the stranger waited for nobody')
    assert.equal(refused.status, 1)
    assert.match(
      (JSON.parse(refused.stdout) as { msg: string }).msg,
      /the weft agent of this node does not run, and pods of namespace vault must not start without it/,
    )
    assert.equal((await call(open, 'DEL', 'unknown')).status, 0)
    publish(closed, false)
    await mesh.startAgent('node2')
    assert.equal((await call(closed)).status, 0)
    assert.equal(await mesh.code('closed', 'http://vault.vault:8080/'), '200')
  })

  it('a pod that could not start for want of an agent starts when the kubelet tries again', async () => {
    const pod = await makeNetwork('patient', 'node2', 'vault')
    await mesh.kill('agent-node2')
    publish(pod, false)
    const isStarted = mesh.startAgent('node2')
    // ADD waits for a while, as long as an agent needs to start on a machine that is not busy.
    await mesh.eventually('ADD passes', async () => (await call(pod)).status === 0)
    assert.equal(await mesh.code('patient', 'http://vault.vault:8080/'), '200')
    await isStarted
  })
})
