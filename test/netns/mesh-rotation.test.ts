/** Certificates that live ten seconds, the shortest allowed: renewed every five, under traffic, at no request's cost. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import type { NodeName } from '../support/live-plan.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'

/** Renewals of every certificate that the test waits for. */
const RENEWALS = 3

describe('certificates that live ten seconds', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
      ],
      services: ['near', 'far'],
      controllerFlags: ['--certificate-lifetime', '10s'],
    })
  })

  after(async () => {
    await mesh?.close()
  })

  it('are renewed several times under keep-alive and fresh connections without one failed request', async () => {
    const traffics = ['near', 'far'].flatMap((server) =>
      [true, false].map((isFresh) => {
        return mesh.traffic('client', { url: `http://${server}:8080/`, isFresh, pauseMs: 2 })
      }),
    )
    // A tunnel that is open all the time lives on over renewals, until it ends by itself.
    const talker = new Talker(mesh, 'client', 'far')
    assert.equal(await talker.say('first'), 'hello first')
    const serials = new Map<string, Set<string>>()
    await eventually(async () => {
      for (const node of NODES) {
        for (const { identity, serial, notAfterMs } of await certificatesOf(node)) {
          assert.ok(notAfterMs > Date.now(), `${identity} has expired`)
          const seen = serials.get(`${node} ${identity}`) ?? new Set()
          serials.set(`${node} ${identity}`, seen.add(serial))
        }
      }
      return serials.size === 3 && [...serials.values()].every((seen) => seen.size > RENEWALS)
    })
    assert.equal(await talker.say('last'), 'hello last')
    await talker.close()
    for (const traffic of traffics) {
      await mesh.eventually('there were many requests', async () => (await traffic.tally()).requests > 500)
      const { outcomes, requests } = await traffic.stop()
      assert.deepEqual(outcomes, { 200: requests })
    }
  })

  it('are not renewed while the controller is away, and in time when it is back', async () => {
    const traffic = mesh.traffic('client', { url: 'http://far:8080/', isFresh: true, pauseMs: 5 })
    const [before] = await certificatesOf('node2')
    await mesh.kill('controller')
    await mesh.eventually('a renewal has failed', async () => {
      return (await certificatesOf('node2')).some(({ lastError }) => lastError !== null)
    })
    await mesh.startController()
    await mesh.eventually('it is renewed', async () => (await certificatesOf('node2'))[0]!.serial !== before!.serial)
    const { outcomes, requests } = await traffic.stop()
    assert.deepEqual(outcomes, { 200: requests })
  })

  interface Status {
    readonly identity: string
    readonly serial: string
    readonly notAfterMs: number
    readonly lastError: string | null
  }

  /** Those of pods, as the agent of a node shows them. */
  async function certificatesOf(node: NodeName): Promise<readonly Status[]> {
    const all = JSON.parse(await mesh.get(node, 15_000, '/certificates')) as Status[]
    return all.filter(({ identity }) => identity.includes('/sa/'))
  }

  /** Renewals are waited for at their own pace: one look a second. */
  async function eventually(condition: () => Promise<boolean>): Promise<void> {
    for (let looks = 0; looks < 40; looks++) {
      if (await condition()) return
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
    assert.fail('the certificates were not renewed often enough within 40 s')
  }
})
