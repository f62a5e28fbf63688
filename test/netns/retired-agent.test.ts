/** A retired agent under a supervisor that starts again whatever ends by itself, as Kubernetes does. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'

/** Where the first agent answers, and where its successor does: in a cluster each has a network namespace of its own. */
const FIRST = 15_021
const SECOND = 15_031

describe('a retired agent that waits for SIGTERM', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
      ],
      services: ['near'],
      agentFlags: ['--when-retired', 'wait'],
    })
  })

  after(async () => {
    await mesh?.close()
  })

  it('lives, says that it is not ready, serves what is open, and ends in order when it is told to', async () => {
    const traffic = mesh.traffic('client', { url: 'http://near:8080/', isFresh: true, pauseMs: 1 })
    const first = mesh.spawnSuccessor('node1', ['--readiness', `127.0.0.1:${SECOND}`])
    await mesh.eventually('the successor is ready', async () => (await health(SECOND, 'ready')) === 'ready')
    // Everything that it had open has ended, and it has let go of what it had.
    await mesh.eventually('it has drained', () => first.lastLines().includes('agent is stopping'))
    assert.equal(await health(FIRST, 'live'), 'alive')
    assert.equal(await health(FIRST, 'ready'), 'another agent has taken over')
    assert.ok(first.isRunning)
    assert.match(await mesh.metrics('node1'), /istio_requests_total/)
    await first.end()
    assert.equal(await first.ended, 'exit code 0')
    assert.equal(await health(SECOND, 'ready'), 'ready')
    const { outcomes, requests } = await traffic.stop()
    assert.deepEqual(outcomes, { 200: requests })
  })

  async function health(port: number, what: string): Promise<string> {
    return (await mesh.get('node1', port, `/healthz/${what}`).catch(() => '')).trim()
  }
})
