/**
 * Upgrades between builds whose maps are of different layouts, under load, with real processes: the new agent makes maps
 * of its own, and both sets are in force for a moment. Clients see nothing of it.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { Child } from '../../src/cli/demo/children.ts'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { MixedLoad } from '../support/mixed-load.ts'
import { needsRoot } from '../support/netns.ts'
import { OtherBuild } from '../support/other-build.ts'

/** Everything is refused that no agent vouches for. */
const STRICT = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
`

describe('an agent of a build with another layout of maps', needsRoot, () => {
  let mesh: LiveMesh
  let other: OtherBuild
  let thisBuild: string

  before(async () => {
    other = new OtherBuild('0.0.9', { hasOtherLayout: true })
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'mixed1', node: 'node1' },
        { name: 'mixed2', node: 'node2' },
      ],
      services: ['near', 'far', 'mixed1', 'mixed2'],
      rules: { 'strict.yaml': STRICT },
      agentFlags: ['--handover-drain', '10m'],
    })
    thisBuild = mesh.program
  })

  after(async () => {
    await mesh?.close()
    other?.close()
  })

  /** Both nodes to the other build, and back: resolves with the agents that were relieved. */
  async function upAndDown(afterEach: (program: string) => Promise<void> = async () => {}): Promise<Child[]> {
    const olds: Child[] = []
    for (const program of [other.program, thisBuild]) {
      mesh.program = program
      for (const node of NODES) {
        olds.push(await mesh.upgradeAgent(node))
        assert.match(mesh.log(`agent-${node}`), /another layout/)
        await afterEach(program)
      }
    }
    return olds
  }

  it('takes over and gives back under load: no connection is lost, and those that are open live on', async () => {
    const talkers = ['near', 'far'].map((host) => new Talker(mesh, 'client', host))
    for (const talker of talkers) assert.equal(await talker.say('first'), 'hello first')
    const carried = await mesh.metric('node1', 'weft_carried_connections_total')
    assert.ok(carried > 0, 'the kernel carries connections')
    const traffics = ['near', 'far'].flatMap((host) =>
      [
        { url: `http://${host}:8080/`, isFresh: true },
        { url: `http://${host}:8080/`, isFresh: true },
        { url: `http://${host}:8080/`, isFresh: false },
        { url: `tcp://${host}:9000`, isFresh: true },
      ].map((options) => mesh.traffic('client', { ...options, pauseMs: 1 })),
    )
    const olds = await upAndDown(async (program) => {
      for (const talker of talkers) assert.equal(await talker.say(program), `hello ${program}`)
    })
    for (const traffic of traffics) {
      const { outcomes, requests } = await traffic.stop()
      assert.ok(requests > 100, `only ${requests} requests`)
      assert.deepEqual(Object.keys(outcomes), ['echo' in outcomes ? 'echo' : '200'], JSON.stringify(outcomes))
    }
    for (const talker of talkers) await talker.close()
    for (const old of olds) assert.equal(await old.ended, 'exit code 0')
    for (const node of NODES) assert.doesNotMatch(mesh.log(`agent-${node}`), /met nobody who serves/)
  })

  it('loses and repeats nothing of any protocol, on one node and between nodes, IPv4 and IPv6', async () => {
    const load = await MixedLoad.start(mesh, 'client', ['mixed1', 'mixed2'])
    const olds = await upAndDown()
    await load.stop()
    for (const old of olds) assert.equal(await old.ended, 'exit code 0')
  })
})
