/**
 * Agents that are killed while they replace the maps of another layout, at each step of it: whoever comes next finds
 * everything that was in force, and strict pods are closed all the time.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { answerIn } from '../support/answering-pod.ts'
import { CaptureSite, podsOf } from '../support/capture-site.ts'
import { needsRoot } from '../support/netns.ts'
import { OtherBuild } from '../support/other-build.ts'

/** More than there are: whoever has not died by then never does. */
const STEPS_MAX = 100

describe('an agent that is killed while it replaces maps of another layout', needsRoot, () => {
  let other: OtherBuild
  let site: CaptureSite

  before(() => {
    other = new OtherBuild('0.0.9', { hasOtherLayout: true })
  })

  after(() => {
    other?.close()
  })

  beforeEach(async () => {
    site = await CaptureSite.create()
  })

  afterEach(async () => {
    await site?.close()
  })

  /** Another build's agent, killed before that step; resolves with what it was about to do, or null when it got ready. */
  async function die(deathStep: number, isPredecessorServing: boolean): Promise<string | null> {
    const request = { pods: site.both, slotBase: 64, isPredecessorServing, deathStep }
    const agent = site.spawnAgent(request, other.directory)
    let said = ''
    agent.stderr!.on('data', (text) => {
      said += text
    })
    const [isReady] = await Promise.race([
      once(agent.stdout!, 'data').then(() => [true]),
      once(agent, 'close').then(() => [false]),
    ])
    if (!isReady) {
      assert.match(said, /^dies before: .*\n$/)
      return said
    }
    agent.kill('SIGKILL')
    await once(agent, 'exit')
    return null
  }

  it('leaves the agent before it everything: its maps, its links and its programs', async () => {
    const capture = site.open()
    for (const { isStrict, ...pod } of site.both) await site.enrol(capture, pod, isStrict)
    const [links, pods] = [site.pinnedLinks(), podsOf(capture)]
    const steps: string[] = []
    for (let step: string | null = '', number = 1; step !== null && number < STEPS_MAX; number++) {
      await capture.release(true)
      step = await die(number, true)
      await capture.resume()
      const when = step ?? 'it is ready'
      assert.deepEqual(site.pinnedLinks(), links, when)
      assert.deepEqual(podsOf(capture), pods, when)
      site.assertOneSet()
      for (const pod of site.answering) pod.answers.length = 0
      assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a', when)
      assert.equal(answerIn(await site.read(site.b, site.a)).pod, 'b', when)
      assert.equal(
        site.answering.reduce((sum, { answers }) => sum + answers.length, 0),
        2,
        when,
      )
      steps.push(when)
    }
    assert.equal(steps.at(-1), 'it is ready')
    for (const what of ['renameSync in maps', 'renameSync in pods', 'pinObject in maps', 'attachLink']) {
      assert.ok(
        steps.some((step) => step.includes(what)),
        `${what} is among ${steps.join('')}`,
      )
    }
  })

  it('leaves strict pods closed when the agent before it is dead as well, and the next one whole', async () => {
    const steps: string[] = []
    for (let step: string | null = '', number = 1; step !== null && number < STEPS_MAX; number++) {
      const capture = site.open()
      for (const { isStrict, ...pod } of site.both) await site.enrol(capture, pod, isStrict)
      assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a')
      site.assertOneSet()
      await site.release(capture)
      for (const pod of site.answering.splice(0)) pod.close()
      step = await die(number, false)
      const when = step ?? 'it is ready'
      assert.equal(await site.read(site.b, site.a), 'connect EPERM', when)
      assert.equal(await site.read(site.a, site.b), 'connect ECONNREFUSED', when)
      steps.push(when)
    }
    assert.equal(steps.at(-1), 'it is ready')
    assert.ok(
      steps.some((step) => step.includes('detachLink')),
      steps.join(''),
    )
  })
})
