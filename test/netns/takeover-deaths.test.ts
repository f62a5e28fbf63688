/**
 * Agents that are killed while they replace the maps of another layout, at each step of it: whoever comes next finds
 * everything that was in force, and strict pods are closed all the time.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { loadAddon } from '../../src/kernel/addon.ts'
import { answerIn } from '../support/answering-pod.ts'
import type { AgentRequest } from '../support/capture-agent.ts'
import { CaptureSite, podsOf, ROOT } from '../support/capture-site.ts'
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

  /** An agent, the other build's, killed before that step: resolves with what it was about to do, null when it got ready. */
  async function die(
    request: Partial<AgentRequest>,
    build: string | undefined = other.directory,
  ): Promise<string | null> {
    const agent = site.spawnAgent({ pods: site.both, ...request }, build)
    let said = ''
    agent.stderr!.on('data', (text) => {
      said += text
    })
    // With no pods it ends by itself.
    const closed = once(agent, 'close')
    const isReady = await Promise.race([once(agent.stdout!, 'data').then(() => true), closed.then(() => false)])
    if (!isReady) {
      assert.match(said, /^dies before: .*\n$/)
      return said
    }
    agent.kill('SIGKILL')
    await closed
    return null
  }

  /** Captures both pods as this build does; resolves when nobody holds the pins. */
  async function leavePods(): Promise<void> {
    const capture = site.open()
    for (const { isStrict, ...pod } of site.both) await site.enrol(capture, pod, isStrict)
    assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a')
    site.assertOneSet()
    await site.release(capture)
    for (const pod of site.answering.splice(0)) pod.close()
  }

  async function assertClosed(when: string): Promise<void> {
    assert.equal(await site.read(site.b, site.a), 'connect EPERM', when)
    assert.equal(await site.read(site.a, site.b), 'connect ECONNREFUSED', when)
  }

  const linkIds = (): number[] => [...site.pinnedLinks().values()].map(({ id }) => id)

  it('leaves the agent before it everything: its maps, its links and its programs', async () => {
    const capture = site.open()
    for (const { isStrict, ...pod } of site.both) await site.enrol(capture, pod, isStrict)
    const [links, pods] = [site.pinnedLinks(), podsOf(capture)]
    const steps: string[] = []
    for (let step: string | null = '', number = 1; step !== null && number < STEPS_MAX; number++) {
      await capture.release(true)
      step = await die({ slotBase: 64, isPredecessorServing: true, deathStep: number })
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
    const isKept: boolean[] = []
    for (let step: string | null = '', number = 1; step !== null && number < STEPS_MAX; number++) {
      await leavePods()
      const ids = linkIds()
      step = await die({ deathStep: number })
      const when = step ?? 'it is ready'
      await assertClosed(when)
      await site.release(site.open())
      await assertClosed(when)
      isKept.push(linkIds().join() === ids.join())
      steps.push(when)
    }
    assert.equal(steps.at(-1), 'it is ready')
    assert.ok(
      steps.some((step) => step.includes('detachLink')),
      steps.join(''),
    )
    const isUsed = steps.findIndex((step) => step.includes('pinObject in pods'))
    assert.ok(isUsed > 10, steps.join(''))
    const detached = steps.filter((_, index) => index < isUsed && !isKept[index])
    assert.deepEqual(detached, [], 'what was never in use gives way to the set before it, which stays attached')
  })

  it('leaves pods that it had half captured closed, for the next one of its own build, too', async () => {
    for (const deathStep of ['pinObject in maps', 'pinObject in links', 'pinObject in pods', 'detachLink']) {
      await leavePods()
      assert.match((await die({ deathStep })) ?? '', new RegExp(deathStep))
      // It captures by its records: no pod is enrolled.
      assert.equal(await die({ pods: [] }), null)
      await assertClosed(deathStep)
    }
    // As if it was killed when its maps had the first pod, and the older programs were still attached.
    await leavePods()
    const { EbpfCapture: OtherCapture } =
      await other.load<typeof import('../../src/agent/capture-ebpf.ts')>('src/agent/capture-ebpf.ts')
    const { AnsweringPod: OtherPod } = await other.load<typeof import('../support/answering-pod.ts')>(
      'test/support/answering-pod.ts',
    )
    const capture = site.open({ addon: loadAddon(), isPredecessorServing: true, slotBase: 64 }, OtherCapture)
    const pods: Awaited<ReturnType<typeof OtherPod.enrol>>[] = []
    for (const { isStrict, ...pod } of site.both) pods.push(await OtherPod.enrol(capture, pod, 1, isStrict))
    ;(capture as unknown as { enrolling: { isWaiting: boolean } }).enrolling.isWaiting = false
    capture.begin(pods[0]!.uid)
    await site.release(capture)
    for (const pod of pods) pod.close()
    assert.equal(await die({ pods: [] }), null)
    await assertClosed('one pod is in the maps')
  })

  it('may be followed by one that is killed while it goes back to the older maps', async () => {
    const steps: string[] = []
    await leavePods()
    const ids = linkIds()
    for (let step: string | null = '', number = 1; step !== null && number < STEPS_MAX; number++) {
      assert.match((await die({ deathStep: 'pinObject in links' })) ?? '', /pinObject in links/)
      step = await die({ pods: [], deathStep: number }, ROOT)
      steps.push(step ?? 'it is ready')
      await assertClosed(steps.at(-1)!)
      await site.release(site.open())
      assert.deepEqual(linkIds(), ids, `${steps.at(-1)}: nothing was detached`)
      site.assertOneSet()
    }
    assert.equal(steps.at(-1), 'it is ready')
    for (const what of ['unlinkSync in maps', 'renameSync in maps-old', 'renameSync in links-old']) {
      assert.ok(
        steps.some((step) => step.includes(what)),
        `${what} is among ${steps.join('')}`,
      )
    }
  })
})
