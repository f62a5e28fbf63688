/** A kubelet's probes: processes of a node reach the ports of its pods that are probed, whatever policy says of others. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { needsRoot } from '../support/netns.ts'

describe('probes of a node', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'vault', node: 'node2', namespace: 'vault', programs: ['web', 'talk'] },
        { name: 'outsider', node: 'node2', namespace: 'outside' },
      ],
      services: ['vault'],
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
      },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  /** Writes the pods; the vault's has these probes. */
  function publish(...probes: readonly string[]): void {
    const text = manifests(mesh.plan).get('pods.yaml')!
    const [before, own] = text.split(/(?<=\n)(?=apiVersion: v1\nkind: Pod\nmetadata:\n {2}name: vault\n)/)
    assert.ok(before !== undefined && own !== undefined)
    const lines = probes.map((probe) => `      ${probe}\n`).join('')
    mesh.writeRules('pods.yaml', before + own.replace(/^( {4}- name: .*\n {6}image: .*\n)/m, `$1${lines}`))
  }

  const addresses = (): readonly string[] => {
    return mesh.plan.pod('vault').addresses.map((address) => (address.includes(':') ? `[${address}]` : address))
  }

  const CURL = ['curl', '-s', '-o', '/dev/null', '--max-time', '10', '-w', '%{http_code}']

  /** Status codes of a GET to each address of the vault by a process of the node. */
  async function probe(node: NodeName = 'node2', port = 8080): Promise<readonly string[]> {
    const urls = addresses().map((address) => `http://${address}:${port}/`)
    return await Promise.all(urls.map(async (url) => (await mesh.runOnNode(node, [...CURL, url])).stdout))
  }

  /** What the vault's server on 7000 says first; empty when the connection is refused. */
  async function greeting(): Promise<string> {
    return (await mesh.runOnNode('node2', ['curl', '-s', '--max-time', '2', `telnet://${addresses()[0]}:7000`])).stdout
  }

  async function dial(pod: string): Promise<readonly string[]> {
    return await Promise.all(addresses().map((address) => mesh.code(pod, `http://${address}:8080/`)))
  }

  const PASSED = ['200', '200']
  const REFUSED = ['000', '000']

  it('a STRICT pod without probes refuses its node like everyone', async () => {
    assert.deepEqual(await probe(), REFUSED)
  })

  it('a port that is probed answers its node over both families, and nobody else', async () => {
    publish('livenessProbe: { httpGet: { path: /, port: 8080 } }')
    await mesh.eventually('probes pass', async () => (await probe()).join() === PASSED.join())
    assert.deepEqual(await dial('outsider'), REFUSED, 'a pod of the same node that is not in the mesh')
    assert.deepEqual(await probe('node1'), REFUSED, 'a process of another node')
    assert.deepEqual(await dial('client'), PASSED, 'a pod of the mesh')
  })

  it('the other ports of the pod stay closed to its node', async () => {
    assert.equal(await greeting(), '')
  })

  it('the source is what the kernel knows: no address is rewritten, and the app sees its node', async () => {
    const { stdout } = await mesh.runOnNode('node2', ['curl', '-s', `http://${addresses()[0]}:8080/`])
    const bridge = mesh.plan.nodes[1]!.bridge!.ipv4.split('/')[0]!
    assert.ok(stdout.includes(bridge), `${stdout} has ${bridge}`)
  })

  it('a policy that denies everything to everyone does not fail probes', async () => {
    mesh.writeRules(
      'deny.yaml',
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: none, namespace: vault }\nspec: {}\n',
    )
    await mesh.eventually('the mesh is refused', async () => !(await dial('client')).includes('200'))
    assert.deepEqual(await probe(), PASSED)
    mesh.removeRules('deny.yaml')
    await mesh.eventually('the mesh is served', async () => (await dial('client')).join() === PASSED.join())
  })

  it('probes pass without an agent, and others are refused as before', async () => {
    await mesh.kill('agent-node2')
    assert.deepEqual(await probe(), PASSED)
    assert.deepEqual(await dial('outsider'), REFUSED)
    await mesh.startAgent('node2')
    assert.deepEqual(await probe(), PASSED)
  })

  it('an agent that is upgraded meanwhile fails none', async () => {
    let isOver = false
    const codes = (async () => {
      const seen: string[] = []
      while (!isOver) seen.push(...(await probe()))
      return seen
    })()
    await mesh.upgradeAgent('node2')
    isOver = true
    assert.deepEqual([...new Set(await codes)], ['200'])
  })

  it('ports follow what the pod says, and are closed when it is probed no more', async () => {
    publish('readinessProbe: { tcpSocket: { port: 7000 } }')
    await mesh.eventually('the old port is closed', async () => (await probe()).join() === REFUSED.join())
    await mesh.eventually('the new one is open', async () => (await greeting()) !== '')
    publish()
    await mesh.eventually('it is closed as well', async () => (await greeting()) === '')
  })
})
