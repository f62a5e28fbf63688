/**
 * Handovers that do not come to their end: each side is killed at every step, and successors fail for reasons of their
 * own. Whoever is left serves.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { HandoverTap } from '../support/handover-tap.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'

const NODE = 'node1'
const AGENT = `agent-${NODE}`

describe('a handover', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: NODE },
        { name: 'near', node: NODE, programs: ['web'] },
        { name: 'far', node: 'node2', programs: ['web'] },
      ],
      services: ['near', 'far'],
      agentFlags: ['--handover-drain', '2s'],
    })
  })

  after(async () => {
    await mesh?.close()
  })

  const secured = (): Promise<number> =>
    mesh.metric(NODE, 'istio_requests_total', { reporter: 'source', connection_security_policy: 'mutual_tls' })

  /** New connections are in the mesh. */
  async function serves(): Promise<void> {
    for (const host of ['near', 'far']) {
      await mesh.eventually(
        `${host} is served`,
        async () => (await mesh.code('client', `http://${host}:8080/`)) === '200',
      )
    }
    const before = await secured()
    assert.equal(await mesh.code('client', 'http://near:8080/'), '200')
    assert.ok((await secured()) > before, 'by the mesh')
  }

  async function traffics(): Promise<ReturnType<LiveMesh['traffic']>[]> {
    const all = ['near', 'far'].map((host) => {
      return mesh.traffic('client', { url: `http://${host}:8080/`, isFresh: true, pauseMs: 2 })
    })
    await mesh.eventually('traffic flows', async () => (await all[1]!.tally()).requests > 5)
    return all
  }

  for (const step of ['hello', 'take', 'released', 'commit', 'committed', 'serving']) {
    it(`whose successor is killed at "${step}" leaves the agent that runs as it was`, async () => {
      const load = await traffics()
      const tap = await HandoverTap.open(mesh.stateDirectory(NODE), step, () => {
        process.kill(doomed.pid, 'SIGKILL')
        tap.close(true)
      })
      const doomed = mesh.spawnDoomed(NODE)
      assert.equal(await doomed.ended, 'signal SIGKILL', tap.seen.join(' '))
      await serves()
      for (const traffic of load) {
        const { outcomes, requests } = await traffic.stop()
        // What the killed agent had accepted dies with it; before that step it had accepted nothing.
        if (step !== 'serving') assert.deepEqual(outcomes, { 200: requests })
      }
    })

    it(`whose agent is killed at "${step}" is completed by the successor alone`, async () => {
      const tap = await HandoverTap.open(mesh.stateDirectory(NODE), step, () => {
        process.kill(old.pid, 'SIGKILL')
        tap.close(false)
      })
      const old = mesh.child(AGENT)
      await mesh.upgradeAgent(NODE)
      assert.equal(await old.ended, 'signal SIGKILL')
      await serves()
    })
  }

  for (const step of ['take', 'commit']) {
    it(`whose successor is told to end (SIGTERM) at "${step}" leaves the agent that runs as it was`, async () => {
      const load = await traffics()
      const tap = await HandoverTap.open(mesh.stateDirectory(NODE), step, () => {
        process.kill(doomed.pid, 'SIGTERM')
        tap.close(true)
      })
      const doomed = mesh.spawnDoomed(NODE)
      await doomed.ended
      await serves()
      for (const traffic of load) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
      }
    })
  }

  it('from an agent that is told to end (SIGTERM) meanwhile is completed by the successor alone', async () => {
    const tap = await HandoverTap.open(mesh.stateDirectory(NODE), 'take', () => {
      tap.close(true)
      process.kill(old.pid, 'SIGTERM')
    })
    const old = mesh.child(AGENT)
    await mesh.upgradeAgent(NODE)
    assert.equal(await old.ended, 'exit code 0')
    await serves()
  })

  for (const step of ['take', 'released', 'commit', 'committed', 'serving']) {
    it(`from an agent that is told to end (SIGTERM) at "${step}", and can still speak, loses nothing`, async () => {
      const load = await traffics()
      const tap = await HandoverTap.open(mesh.stateDirectory(NODE), step, (passOn) => {
        process.kill(old.pid, 'SIGTERM')
        passOn()
      })
      const old = mesh.child(AGENT)
      await mesh.upgradeAgent(NODE)
      assert.equal(await old.ended, 'exit code 0', tap.seen.join(' '))
      tap.close(false)
      await serves()
      for (const traffic of load) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
      }
    })
  }

  it('to an agent that is told to end (SIGTERM) as soon as it serves is complete: the next one finds everything', async () => {
    const tap = await HandoverTap.open(mesh.stateDirectory(NODE), 'serving', (passOn) => {
      passOn()
      process.kill(doomed.pid, 'SIGTERM')
    })
    const old = mesh.spawnSuccessor(NODE)
    const doomed = mesh.child(AGENT)
    mesh.rename(doomed, 'doomed')
    await doomed.ended
    assert.equal(await old.ended, 'exit code 0', tap.seen.join(' '))
    tap.close(false)
    await mesh.startAgent(NODE)
    await serves()
  })

  it('is followed by the next one at once: a third agent takes over from the second before the first knows of that', async () => {
    const load = await traffics()
    const first = mesh.child(AGENT)
    let publish: () => void = () => {}
    const published = new Promise<void>((resolve) => {
      publish = resolve
    })
    let passOn: () => void = () => {}
    const tap = await HandoverTap.open(mesh.stateDirectory(NODE), 'serving', (pass) => {
      passOn = pass
      publish()
    })
    mesh.spawnSuccessor(NODE)
    await published
    const second = mesh.child(AGENT)
    await mesh.upgradeAgent(NODE)
    passOn()
    for (const old of [first, second]) assert.equal(await old.ended, 'exit code 0', tap.seen.join(' '))
    tap.close(false)
    await serves()
    for (const traffic of load) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
  })

  it('has one successor: of three that start at once one takes over, or one after the other', async () => {
    const load = await traffics()
    const old = mesh.child(AGENT)
    const rivals = [mesh.spawnDoomed(NODE), mesh.spawnDoomed(NODE)]
    mesh.spawnSuccessor(NODE)
    const all = [old, ...rivals, mesh.child(AGENT)]
    mesh.rename(mesh.child(AGENT), 'rival')
    // Everybody has taken over and given way, or was refused; one is left.
    await mesh.eventually('one is left', () => all.filter(({ isRunning }) => isRunning).length === 1)
    const [left] = all.filter(({ isRunning }) => isRunning)
    await mesh.eventually('it serves', () => left!.lastLines().includes('agent started'))
    assert.equal(await old.ended, 'exit code 0')
    await serves()
    for (const traffic of load) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
    mesh.rename(left!, AGENT)
  })

  it('to an agent whose port is taken is taken back, and nothing is lost', async () => {
    const load = await traffics()
    // The controller's.
    const doomed = mesh.spawnDoomed(NODE, ['--metrics', mesh.plan.controller])
    assert.equal(await doomed.ended, 'exit code 1')
    assert.match(doomed.lastLines(), /the metrics endpoint cannot listen/)
    await mesh.eventually('the agent goes on', () => /this agent goes on/.test(mesh.child(AGENT).lastLines()))
    await serves()
    for (const traffic of load) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
  })

  it('needs no controller: configuration is on disk, and keys come from the agent that runs', async () => {
    await mesh.kill('controller')
    const load = await traffics()
    await mesh.upgradeAgent(NODE)
    await serves()
    for (const traffic of load) {
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
    await mesh.startController()
  })

  it('is refused by an agent that hangs, which is named', async () => {
    const old = mesh.child(AGENT)
    process.kill(old.pid, 'SIGSTOP')
    const doomed = mesh.spawnDoomed(NODE)
    assert.equal(await doomed.ended, 'exit code 1')
    assert.match(doomed.lastLines(), /may hang; kill it/)
    process.kill(old.pid, 'SIGCONT')
    await serves()
  })

  it('is not needed after a killed agent: the next one starts at once', async () => {
    await mesh.kill(AGENT)
    await mesh.startAgent(NODE)
    await serves()
  })
})
