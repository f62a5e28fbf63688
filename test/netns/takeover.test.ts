/** The kernel's side of an agent's end: what stays in force, and how the next agent takes it over, with the real kernel. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, readdirSync, readlinkSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Logger } from '../../src/base/log.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { type AnsweringPod, answerIn, podToCapture } from '../support/answering-pod.ts'
import { APP_PORT, CaptureSite, podsOf, programsOf } from '../support/capture-site.ts'
import type { FloodCounts } from '../support/connect-flood.ts'
import { needsRoot, type TestNetwork, type TestPod } from '../support/netns.ts'
import { OtherBuild } from '../support/other-build.ts'

const FLOOD = fileURLToPath(new URL('../support/connect-flood.ts', import.meta.url))

/** A dismissed agent still accepts what the kernel has given it: so long it listens on. */
const LINGER_MS = 200

describe('an agent that follows another one', needsRoot, () => {
  const addon = loadAddon()
  let site: CaptureSite
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let directory: string

  beforeEach(async () => {
    site = await CaptureSite.create()
    ;({ network, a, b, directory } = site)
  })

  afterEach(async () => {
    await site?.close()
  })

  async function kill(agent: ChildProcess): Promise<void> {
    const exited = once(agent, 'exit')
    agent.kill('SIGKILL')
    await exited
  }

  /** Connects from a to b all the time; the function returned ends that, and tells what became of the connections. */
  async function flood(): Promise<() => Promise<FloodCounts>> {
    const child = network.start(a, [process.execPath, FLOOD, b.ipv4, b.ipv6, String(APP_PORT)])
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
    await lines.next()
    return async () => {
      child.stdin!.end()
      const { value } = await lines.next()
      return JSON.parse(value!) as FloodCounts
    }
  }

  /** Links of which this process has a descriptor. */
  function openLinks(): number {
    const targets = readdirSync('/proc/self/fd').map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`)
      } catch {
        // The descriptor by which the directory was read.
        return ''
      }
    })
    return targets.filter((target) => target === 'anon_inode:bpf_link').length
  }

  it('takes over what a killed one left, twice in a row: links, pods and their numbers stay, programs are new', async () => {
    let agent = await site.startAgent(site.both)
    const first = site.pinnedLinks()
    for (let round = 0; round < 2; round++) {
      await kill(agent)
      // As without an agent: b is strict, inbound and outbound.
      for (const family of ['4', '6'] as const) {
        assert.equal(await site.read(a, b, family), 'connect ECONNREFUSED')
        assert.equal(await site.read(b, a, family), 'connect EPERM')
      }
      const before = site.pinnedLinks()
      agent = await site.startAgent(site.both)
      const after = site.pinnedLinks()
      assert.deepEqual([...after.keys()], [...first.keys()])
      for (const [name, { id, programId }] of after) {
        assert.equal(id, first.get(name)!.id, `${name} was never detached`)
        assert.notEqual(programId, before.get(name)!.programId, `${name} has the new agent's program`)
      }
      for (const family of ['4', '6'] as const) {
        assert.equal(answerIn(await site.read(a, b, family)).pod, 'a')
        assert.equal(answerIn(await site.read(b, a, family)).pod, 'b')
      }
    }
    await kill(agent)
    const capture = site.open()
    assert.deepEqual([...podsOf(capture).values()].map(({ id, isStrict }) => [id, isStrict]).sort(), [
      [1, false],
      [2, true],
    ])
    const c = await site.enrol(capture, network.addPod('c'))
    assert.deepEqual(podsOf(capture).get(c.captured.dialing.netnsCookie)!.id, 3)
  })

  it('never lets a connection of a strict pod by, from the death of one agent to the service of the next', async () => {
    const strict = site.both.map((pod) => ({ ...pod, isStrict: true }))
    const agent = await site.startAgent(strict)
    const stop = await flood()
    await kill(agent)
    const capture = site.open()
    await site.enrol(capture, b, true)
    await site.enrol(capture, a, true)
    await site.read(a, b)
    const { agent: answered, app, refused, other } = await stop()
    assert.equal(app, 0)
    // What was open when the agent died.
    assert.ok(
      Object.keys(other).every((what) => what === 'ECONNRESET' || what === 'closed'),
      JSON.stringify(other),
    )
    assert.ok(answered > 0 && refused > 0, `${answered} answered, ${refused} refused`)
  })

  it('loses no connection when the one before has released everything and serves until it is dismissed', async () => {
    const first = site.open()
    const old = [await site.enrol(first, b), await site.enrol(first, a)]
    const stop = await flood()
    let before = first
    let servers = old
    for (const slotBase of [64, 0]) {
      await site.release(before)
      const next = site.open({ slotBase, isPredecessorServing: true })
      const now = [await site.enrol(next, b), await site.enrol(next, a)]
      const links = site.pinnedLinks()
      next.dismissPredecessor()
      await delay(LINGER_MS)
      for (const pod of servers) pod.close()
      assert.deepEqual(site.pinnedLinks(), links)
      before = next
      servers = now
    }
    const { agent, app, refused, other } = await stop()
    assert.deepEqual([app, refused, other], [0, 0, {}])
    assert.ok(agent > 20, `${agent} connections`)
    assert.ok(servers.some(({ answers }) => answers.length > 0))
  })

  it('fails as the configuration now says, also where pods are not enrolled again yet', async () => {
    const agent = await site.startAgent(site.both.map((pod) => ({ ...pod, isStrict: false })))
    await kill(agent)
    const capture = site.open()
    const isStrict = (): boolean[] => [...podsOf(capture).values()].map((pod) => pod.isStrict)
    assert.deepEqual(isStrict(), [false, false])
    const { uid } = podToCapture(a).pod
    capture.setFoundStrict(uid, true)
    assert.deepEqual(isStrict().sort(), [false, true])
    await site.release(capture)
    const next = site.open()
    assert.deepEqual([...podsOf(next).values()].map((pod) => pod.isStrict).sort(), [false, true])
    next.setFoundStrict(uid, false)
    assert.deepEqual(
      [...podsOf(next).values()].map((pod) => pod.isStrict),
      [false, false],
    )
  })

  it('writes nothing any more when it has released everything', async () => {
    const capture = site.open()
    const enrolled = await site.enrol(capture, a)
    await site.release(capture)
    const next = site.open()
    const before = podsOf(next)
    capture.setStrict(enrolled.uid, true)
    capture.setServing([0, 1])
    await capture.retain(new Set())
    await capture.drain()
    await capture.withdraw(enrolled.uid)
    await capture.close()
    assert.deepEqual(podsOf(next), before)
    assert.deepEqual(programsOf(next).servingWorkers.read(), [])
    assert.equal(
      site.pinnedLinks().size,
      programsOf(next).attachedPods().length + readdirSync(`${directory}/pins/links`).length,
    )
    assert.match(network.ipIn(a, 'rule'), /fwmark/)
  })

  it('removes what belonged to pods that have vanished, and lets go those that are wanted no more', async () => {
    const c = network.addPod('c')
    const agent = await site.startAgent([...site.both, { ...c, isStrict: false }])
    const steered = network.start(a, ['sleep', '60'])
    await kill(agent)
    network.deletePod('c')
    // The kernel frees a netns, and with it our link, a moment after its name is gone.
    while (network.nodeHas('v3')) await delay(5)
    const records = readdirSync(`${directory}/state/captured`).length
    const capture = site.open()
    const programs = programsOf(capture)
    assert.equal(records - readdirSync(`${directory}/state/captured`).length, 1)
    assert.equal(programs.attachedPods().length, 2)
    assert.deepEqual([...podsOf(capture).values()].map(({ id }) => id).sort(), [1, 2])

    const inA = await site.enrol(capture, a)
    await capture.retain(new Set([inA.uid]))
    assert.doesNotMatch(network.ipIn(b, 'rule'), /fwmark/)
    assert.equal(network.ipIn(b, 'route show table all').includes('table 151'), false)
    assert.equal(programs.attachedPods().length, 1)
    assert.deepEqual(
      [...podsOf(capture).values()].map(({ id }) => id),
      [1],
    )
    // Outbound b's own, and inbound the agent's of a.
    assert.equal(answerIn(await site.read(b, a)).pod, 'a')
    assert.equal(answerIn(await site.read(a, b)).pod, 'a')
    steered.kill()
  })

  it('takes back what a dead successor had: pods that went meanwhile are let go, and no number is given twice', async () => {
    const capture = site.open()
    const [inA, inB] = [await site.enrol(capture, a), await site.enrol(capture, b)]
    const c = network.addPod('c')
    const d = network.addPod('d')
    await capture.release(true)
    const successor = await site.startAgent([...site.both, { ...c, isStrict: false }])
    // A link that is open would keep the program in the pod.
    const links = openLinks()
    await capture.withdraw(inA.uid)
    assert.equal(openLinks(), links - 1)
    const e = network.addPod('e')
    await kill(successor)
    await capture.resume()
    const inD = await site.enrol(capture, d)
    const inC = await site.enrol(capture, c)
    const idOf = (pod: AnsweringPod): number => podsOf(capture).get(pod.captured.dialing.netnsCookie)!.id
    assert.deepEqual([idOf(inB), idOf(inC), idOf(inD)], [2, 3, 4])
    assert.equal(podsOf(capture).size, 4)

    await capture.retain(new Set([inB, inC, inD].map(({ uid }) => uid)))
    assert.deepEqual([...podsOf(capture).values()].map(({ id }) => id).sort(), [2, 3, 4])
    assert.equal(programsOf(capture).attachedPods().length, 3)
    assert.doesNotMatch(network.ipIn(a, 'rule'), /fwmark/)
    assert.equal(readdirSync(`${directory}/state/captured`).length, 3)
    assert.equal(answerIn(await site.read(e, c)).pod, 'c')
  })

  it('takes back everything from a successor without pods, which removes nothing of it', async () => {
    const capture = site.open()
    await capture.release(true)
    const links = site.pinnedLinks()
    const successor = site.open({ isPredecessorServing: true, slotBase: 64 })
    await site.release(successor)
    await capture.resume()
    assert.deepEqual([...site.pinnedLinks().keys()], [...links.keys()])
    for (const pod of [a, b]) await site.enrol(capture, pod)
    assert.equal(answerIn(await site.read(a, b)).pod, 'a')
  })

  it('makes whole what was half-written', async () => {
    const agent = await site.startAgent(site.both)
    await kill(agent)
    const looking = site.open()
    const [cookieA, cookieB] = [...podsOf(looking).keys()].sort() as [bigint, bigint]
    // As if it was killed while it enrolled one (the link is missing) and withdrew the other (the entry is missing).
    programsOf(looking).pods.delete(cookieB)
    await site.release(looking)
    unlinkSync(`${directory}/pins/pods/${cookieA}`)
    writeFileSync(`${directory}/state/captured/7.json`, '{"format":1')
    writeFileSync(`${directory}/state/captured/8.json~`, '')

    const capture = site.open()
    for (const pod of [a, b]) await site.enrol(capture, pod)
    assert.equal(answerIn(await site.read(a, b)).pod, 'a')
    assert.equal(answerIn(await site.read(b, a)).pod, 'b')
    assert.deepEqual(readdirSync(`${directory}/state/captured`).sort(), [`${cookieA}.json`, `${cookieB}.json`].sort())
  })

  it('keeps pods captured that it knows nothing of, and lets them go without a record', async () => {
    const agent = await site.startAgent(site.both)
    await kill(agent)
    rmSync(`${directory}/state/captured`, { recursive: true })
    const capture = site.open()
    assert.equal(await site.read(b, a), 'connect EPERM')
    await site.enrol(capture, a)
    assert.equal(answerIn(await site.read(a, b)).pod, 'a')
    await capture.retain(new Set(['test//Pod/test/a']))
    assert.doesNotMatch(network.ipIn(b, 'rule'), /fwmark/)
    assert.match(network.ipIn(a, 'rule'), /fwmark/)
  })

  it('attaches to another cgroup when it is told to, and leaves the one before', async () => {
    const other = `${network.cgroupPath}/other`
    mkdirSync(other)
    try {
      const first = site.open({ cgroupPath: other })
      await site.enrol(first, a)
      await site.release(first)
      const capture = site.open()
      await site.enrol(capture, a)
      assert.equal(answerIn(await site.read(a, b)).pod, 'a')
      const fd = addon.openPinned(`${directory}/pins/links/weft_connect4`)
      const { target } = addon.describeLink(fd)
      closeSync(fd)
      assert.equal(target, BigInt(execFileSync('stat', ['-c', '%i', network.cgroupPath], { encoding: 'utf8' }).trim()))
    } finally {
      execFileSync('rmdir', [other])
    }
  })

  describe('of a build with another layout', () => {
    let older: OtherBuild

    before(() => {
      older = new OtherBuild('0.0.9', { hasOtherLayout: true })
    })

    after(() => {
      older?.close()
    })

    it('is refused while it lives, and replaced when it is dead, up and down: strict pods are closed all the time', async () => {
      let agent = await site.startAgent(site.both, older.directory)
      assert.throws(() => site.open(), {
        code: 'WEFT_CONFIG',
        message: `another agent (weft old) is using the pin directory ${directory}/pins; end it first, or give each agent its own`,
      })
      await kill(agent)
      const lines: string[] = []
      const capture = site.open({ log: new Logger('test', 'warn', (line) => lines.push(line)) })
      assert.match(lines[0]!, /another layout: counters restart and pods are enrolled anew.*"version":"old"/)
      site.assertOneSet()
      for (const family of ['4', '6'] as const) {
        assert.equal(await site.read(a, b, family), 'connect ECONNREFUSED')
        assert.equal(await site.read(b, a, family), 'connect EPERM')
      }
      for (const { isStrict, ...pod } of site.both) await site.enrol(capture, pod, isStrict)
      for (const family of ['4', '6'] as const) {
        assert.equal(answerIn(await site.read(a, b, family)).pod, 'a')
        assert.equal(answerIn(await site.read(b, a, family)).pod, 'b')
      }
      await site.release(capture)
      for (const pod of site.answering.splice(0)) pod.close()

      agent = await site.startAgent(site.both, older.directory)
      assert.equal(answerIn(await site.read(b, a)).pod, 'b')
      await kill(agent)
      assert.equal(await site.read(b, a), 'connect EPERM')
    })

    it('is replaced without a connection lost when it has released everything and serves until it is dismissed', async () => {
      const { EbpfCapture: OlderCapture } =
        await older.load<typeof import('../../src/agent/capture-ebpf.ts')>('src/agent/capture-ebpf.ts')
      const { AnsweringPod: OlderPod } = await older.load<typeof import('../support/answering-pod.ts')>(
        'test/support/answering-pod.ts',
      )
      const first = site.open({ addon }, OlderCapture)
      const old = [await OlderPod.enrol(first, b, 1, true), await OlderPod.enrol(first, a, 1, true)]
      const stop = await flood()
      await site.release(first)
      const next = site.open({ isPredecessorServing: true })
      for (const pod of [b, a]) await site.enrol(next, pod, true)
      next.dismissPredecessor()
      next.settle()
      await delay(LINGER_MS)
      for (const pod of old) pod.close()
      assert.equal(answerIn(await site.read(a, b)).pod, 'a')
      const { agent, app, refused, other } = await stop()
      assert.deepEqual([app, refused, other], [0, 0, {}])
      assert.ok(agent > 20, `${agent} connections`)
      site.assertOneSet()
    })
  })
})
