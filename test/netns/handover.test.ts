/** Upgrades of an agent under load, with real processes: what clients see of them is nothing. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Child } from '../../src/cli/demo/children.ts'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { MixedLoad } from '../support/mixed-load.ts'
import { needsRoot } from '../support/netns.ts'
import { OtherBuild } from '../support/other-build.ts'

const DEBUGGER = fileURLToPath(new URL('../support/live-debugger.ts', import.meta.url))

describe('an agent that is started beside a running one', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'mixed1', node: 'node1' },
        { name: 'mixed2', node: 'node2' },
      ],
      services: ['near', 'far', 'mixed1', 'mixed2'],
      // Longer than everything here takes on a busy machine: what is open must never be cut off by it.
      agentFlags: ['--handover-drain', '10m'],
    })
  })

  after(async () => {
    await mesh?.close()
  })

  it('takes over under load, twice in a row and on both nodes, and no request is lost', async () => {
    const traffics = ['near', 'far'].flatMap((server) =>
      [true, false].map((isFresh) => mesh.traffic('client', { url: `http://${server}:8080/`, isFresh, pauseMs: 1 })),
    )
    const talkers = ['near', 'far'].map((host) => new Talker(mesh, 'client', host))
    for (const talker of talkers) assert.equal(await talker.say('first'), 'hello first')
    const olds: Child[] = []
    for (const round of [1, 2]) {
      for (const node of NODES) {
        const before = await mesh.metric(node, 'istio_requests_total')
        const old = await mesh.upgradeAgent(node)
        assert.ok((await mesh.metric(node, 'istio_requests_total')) >= before, 'counters go on')
        for (const talker of talkers) assert.equal(await talker.say(`round ${round}`), `hello round ${round}`)
        olds.push(old)
      }
    }
    for (const traffic of traffics) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
      assert.ok(requests > 100, `only ${requests} requests`)
    }
    // What has no end of its own keeps an agent for as long as the drain may last.
    for (const old of olds.slice(0, 2)) assert.ok(old.isRunning)
    for (const talker of talkers) await talker.close()
    for (const old of olds) assert.equal(await old.ended, 'exit code 0')
  })

  it('goes on alone when a data worker of the one before it crashes in its drain: nothing else is reset', async () => {
    const traffics = ['near', 'far'].map((server) =>
      mesh.traffic('client', { url: `http://${server}:8080/`, isFresh: true, pauseMs: 1 }),
    )
    const proxied = new Talker(mesh, 'client', 'far')
    assert.equal(await proxied.say('first'), 'hello first')
    const old = await mesh.upgradeAgent('node1')
    const after = new Talker(mesh, 'client', 'far')
    assert.equal(await after.say('first'), 'hello first')
    assert.equal(await mesh.onNode('node1', [process.execPath, DEBUGGER, String(old.pid), 'end']), 'done\n')
    assert.match(await proxied.ended, /ECONNRESET|end/)
    assert.equal(await old.ended, 'exit code 0')
    assert.equal(await after.say('still'), 'hello still')
    for (const traffic of traffics) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
    await after.close()
  })

  it('may be of another version: up and down again, and no request is lost', async () => {
    const thisBuild = mesh.program
    const other = new OtherBuild('0.0.9')
    try {
      const traffics = ['near', 'far'].flatMap((server) =>
        [true, false].map((isFresh) => mesh.traffic('client', { url: `http://${server}:8080/`, isFresh, pauseMs: 1 })),
      )
      const olds: Child[] = []
      for (const [program, version] of [
        [other.program, '0.0.9'],
        [thisBuild, '0.1.0'],
      ] as const) {
        mesh.program = program
        for (const node of NODES) {
          olds.push(await mesh.upgradeAgent(node))
          const build = await mesh.metrics(node)
          assert.match(build, new RegExp(`istio_build\\{[^}]*tag="${version}"`))
        }
      }
      for (const traffic of traffics) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
        assert.ok(requests > 100, `only ${requests} requests`)
      }
      for (const old of olds) assert.equal(await old.ended, 'exit code 0')
    } finally {
      mesh.program = thisBuild
      other.close()
    }
  })

  it('loses and repeats nothing of any protocol, on one node and between nodes, IPv4 and IPv6', async () => {
    const load = await MixedLoad.start(mesh, 'client', ['mixed1', 'mixed2'])
    const olds: Child[] = []
    for (const node of NODES) olds.push(await mesh.upgradeAgent(node))
    await load.stop()
    for (const old of olds) assert.equal(await old.ended, 'exit code 0')
  })
})
