/** Upgrades of an agent under load, with real processes: what clients see of them is nothing. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import type { Child } from '../../src/cli/demo/children.ts'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'

describe('an agent that is started beside a running one', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
      ],
      services: ['near', 'far'],
      agentFlags: ['--handover-drain', '60s'],
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
})
