/** The kernel's side of an agent's end: what stays in force, and how the next agent takes it over, with the real kernel. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { EbpfCapture, type EbpfCaptureOptions } from '../../src/agent/capture-ebpf.ts'
import { Logger, silentLog } from '../../src/base/log.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import type { Pod } from '../../src/kernel/maps.ts'
import { AnsweringPod, answerIn, podToCapture, runClient, startApp } from '../support/answering-pod.ts'
import type { FloodCounts } from '../support/connect-flood.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = 8080
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FLOOD = `${ROOT}test/support/connect-flood.ts`

/** A dismissed agent still accepts what the kernel has given it: so long it listens on. */
const LINGER_MS = 200

describe('an agent that follows another one', needsRoot, () => {
  const addon = loadAddon()
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let directory: string
  let captures: EbpfCapture[]
  let answering: AnsweringPod[]

  beforeEach(async () => {
    captures = []
    answering = []
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    directory = `/run/${network.prefix}`
    mkdirSync(`${directory}/state`, { recursive: true })
    await startApp(network, a, APP_PORT)
    await startApp(network, b, APP_PORT)
  })

  afterEach(async () => {
    for (const pod of answering) pod.close()
    // What agents that were killed have left is taken over, to be removed.
    if (existsSync(`${directory}/pins`) && captures.every((capture) => capture.stats === released)) open()
    for (const capture of captures) await capture.close()
    await network.close()
    assert.deepEqual(readdirSync(directory), ['state'], 'the pin directory is gone')
    rmSync(directory, { recursive: true })
  })

  /** Stands for captures that hold no pins any more. */
  const released = (): never => assert.fail('released')

  function options(more: Partial<EbpfCaptureOptions> = {}): EbpfCaptureOptions {
    const places = { pinDirectory: `${directory}/pins`, stateDirectory: `${directory}/state` }
    return { cgroupPath: network.cgroupPath, ...places, log: silentLog, ...more }
  }

  function open(more: Partial<EbpfCaptureOptions> = {}): EbpfCapture {
    const capture = EbpfCapture.open(options(more))
    captures.push(capture)
    return capture
  }

  async function release(capture: EbpfCapture): Promise<void> {
    await capture.release()
    capture.stats = released
  }

  async function enrol(capture: EbpfCapture, pod: TestPod, isStrict = false): Promise<AnsweringPod> {
    const enrolled = await AnsweringPod.enrol(capture, pod, 1, isStrict)
    answering.push(enrolled)
    return enrolled
  }

  function programsOf(capture: EbpfCapture): CapturePrograms {
    return (capture as unknown as { programs: CapturePrograms }).programs
  }

  /** The whole agent in a process of its own, of this build or another one. */
  async function startAgent(pods: readonly (TestPod & { isStrict: boolean })[], build = ROOT): Promise<ChildProcess> {
    const { log: _, ...places } = options()
    const addonPath = `${NATIVE_BUILD_DIRECTORY}weft.node`
    const request = { mode: 'stay', addonPath, version: build === ROOT ? 'new' : 'old', pods, ...places }
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    const program = `${build}/test/support/capture-agent.ts`
    const agent = network.start(node, [process.execPath, program, JSON.stringify(request)])
    let errors = ''
    agent.stderr!.on('data', (text) => {
      errors += text
    })
    await Promise.race([once(agent.stdout!, 'data'), once(agent, 'exit').then(() => assert.fail(errors))])
    return agent
  }

  async function kill(agent: ChildProcess): Promise<void> {
    const exited = once(agent, 'exit')
    agent.kill('SIGKILL')
    await exited
  }

  /** What a client in one pod reads from the app's port of another; its error otherwise. */
  async function read(from: TestPod, to: TestPod, family: '4' | '6' = '4'): Promise<string> {
    const address = family === '4' ? to.ipv4 : to.ipv6
    const [connect, text] = await runClient(network, from, [family, 'connect', address, String(APP_PORT), 'read'])
    return connect!.startsWith('connect ok') ? text! : connect!
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

  /** What is pinned, by path below the pin directory: the kernel's numbers of each link and of the program it has. */
  function pinnedLinks(): Map<string, { id: number; programId: number }> {
    const found = new Map<string, { id: number; programId: number }>()
    for (const kind of ['links', 'pods']) {
      for (const name of readdirSync(`${directory}/pins/${kind}`)) {
        const fd = addon.openPinned(`${directory}/pins/${kind}/${name}`)
        const { id, programId } = addon.describeLink(fd)
        found.set(`${kind}/${name}`, { id, programId })
        closeSync(fd)
      }
    }
    return found
  }

  /** Nothing of another layout is left; the kernel has files of its own in a bpf file system. */
  function assertOneSet(): void {
    const entries = readdirSync(`${directory}/pins`).filter((name) => !name.endsWith('.debug'))
    assert.deepEqual(entries.sort(), ['links', 'maps', 'pods'])
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

  function podsOf(capture: EbpfCapture): Map<bigint, Pod> {
    return programsOf(capture).pods.entries()
  }

  const both = (): (TestPod & { isStrict: boolean })[] => [
    { ...a, isStrict: false },
    { ...b, isStrict: true },
  ]

  it('takes over what a killed one left, twice in a row: links, pods and their numbers stay, programs are new', async () => {
    let agent = await startAgent(both())
    const first = pinnedLinks()
    for (let round = 0; round < 2; round++) {
      await kill(agent)
      // As without an agent: b is strict, inbound and outbound.
      for (const family of ['4', '6'] as const) {
        assert.equal(await read(a, b, family), 'connect ECONNREFUSED')
        assert.equal(await read(b, a, family), 'connect EPERM')
      }
      const before = pinnedLinks()
      agent = await startAgent(both())
      const after = pinnedLinks()
      assert.deepEqual([...after.keys()], [...first.keys()])
      for (const [name, { id, programId }] of after) {
        assert.equal(id, first.get(name)!.id, `${name} was never detached`)
        assert.notEqual(programId, before.get(name)!.programId, `${name} has the new agent's program`)
      }
      for (const family of ['4', '6'] as const) {
        assert.equal(answerIn(await read(a, b, family)).pod, 'a')
        assert.equal(answerIn(await read(b, a, family)).pod, 'b')
      }
    }
    await kill(agent)
    const capture = open()
    assert.deepEqual([...podsOf(capture).values()].map(({ id, isStrict }) => [id, isStrict]).sort(), [
      [1, false],
      [2, true],
    ])
    const c = await enrol(capture, network.addPod('c'))
    assert.deepEqual(podsOf(capture).get(c.captured.dialing.netnsCookie)!.id, 3)
  })

  it('never lets a connection of a strict pod by, from the death of one agent to the service of the next', async () => {
    const strict = both().map((pod) => ({ ...pod, isStrict: true }))
    const agent = await startAgent(strict)
    const stop = await flood()
    await kill(agent)
    const capture = open()
    await enrol(capture, b, true)
    await enrol(capture, a, true)
    await read(a, b)
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
    const first = open()
    const old = [await enrol(first, b), await enrol(first, a)]
    const stop = await flood()
    let before = first
    let servers = old
    for (const slotBase of [64, 0]) {
      await release(before)
      const next = open({ slotBase, isPredecessorServing: true })
      const now = [await enrol(next, b), await enrol(next, a)]
      const links = pinnedLinks()
      next.dismissPredecessor()
      await delay(LINGER_MS)
      for (const pod of servers) pod.close()
      assert.deepEqual(pinnedLinks(), links)
      before = next
      servers = now
    }
    const { agent, app, refused, other } = await stop()
    assert.deepEqual([app, refused, other], [0, 0, {}])
    assert.ok(agent > 20, `${agent} connections`)
    assert.ok(servers.some(({ answers }) => answers.length > 0))
  })

  it('fails as the configuration now says, also where pods are not enrolled again yet', async () => {
    const agent = await startAgent(both().map((pod) => ({ ...pod, isStrict: false })))
    await kill(agent)
    const capture = open()
    const isStrict = (): boolean[] => [...podsOf(capture).values()].map((pod) => pod.isStrict)
    assert.deepEqual(isStrict(), [false, false])
    const { uid } = podToCapture(a).pod
    capture.setFoundStrict(uid, true)
    assert.deepEqual(isStrict().sort(), [false, true])
    await release(capture)
    const next = open()
    assert.deepEqual([...podsOf(next).values()].map((pod) => pod.isStrict).sort(), [false, true])
    next.setFoundStrict(uid, false)
    assert.deepEqual(
      [...podsOf(next).values()].map((pod) => pod.isStrict),
      [false, false],
    )
  })

  it('writes nothing any more when it has released everything', async () => {
    const capture = open()
    const enrolled = await enrol(capture, a)
    await release(capture)
    const next = open()
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
      pinnedLinks().size,
      programsOf(next).attachedPods().length + readdirSync(`${directory}/pins/links`).length,
    )
    assert.match(network.ipIn(a, 'rule'), /fwmark/)
  })

  it('removes what belonged to pods that have vanished, and lets go those that are wanted no more', async () => {
    const c = network.addPod('c')
    const agent = await startAgent([...both(), { ...c, isStrict: false }])
    const steered = network.start(a, ['sleep', '60'])
    await kill(agent)
    network.deletePod('c')
    // The kernel frees a netns, and with it our link, a moment after its name is gone.
    while (network.nodeHas('v3')) await delay(5)
    const records = readdirSync(`${directory}/state/captured`).length
    const capture = open()
    const programs = programsOf(capture)
    assert.equal(records - readdirSync(`${directory}/state/captured`).length, 1)
    assert.equal(programs.attachedPods().length, 2)
    assert.deepEqual([...podsOf(capture).values()].map(({ id }) => id).sort(), [1, 2])

    const inA = await enrol(capture, a)
    await capture.retain(new Set([inA.uid]))
    assert.doesNotMatch(network.ipIn(b, 'rule'), /fwmark/)
    assert.equal(network.ipIn(b, 'route show table all').includes('table 151'), false)
    assert.equal(programs.attachedPods().length, 1)
    assert.deepEqual(
      [...podsOf(capture).values()].map(({ id }) => id),
      [1],
    )
    // Outbound b's own, and inbound the agent's of a.
    assert.equal(answerIn(await read(b, a)).pod, 'a')
    assert.equal(answerIn(await read(a, b)).pod, 'a')
    steered.kill()
  })

  it('takes back what a dead successor had: pods that went meanwhile are let go, and no number is given twice', async () => {
    const capture = open()
    const [inA, inB] = [await enrol(capture, a), await enrol(capture, b)]
    const c = network.addPod('c')
    const d = network.addPod('d')
    await capture.release(true)
    const successor = await startAgent([...both(), { ...c, isStrict: false }])
    // A link that is open would keep the program in the pod.
    const links = openLinks()
    await capture.withdraw(inA.uid)
    assert.equal(openLinks(), links - 1)
    const e = network.addPod('e')
    await kill(successor)
    await capture.resume()
    const inD = await enrol(capture, d)
    const inC = await enrol(capture, c)
    const idOf = (pod: AnsweringPod): number => podsOf(capture).get(pod.captured.dialing.netnsCookie)!.id
    assert.deepEqual([idOf(inB), idOf(inC), idOf(inD)], [2, 3, 4])
    assert.equal(podsOf(capture).size, 4)

    await capture.retain(new Set([inB, inC, inD].map(({ uid }) => uid)))
    assert.deepEqual([...podsOf(capture).values()].map(({ id }) => id).sort(), [2, 3, 4])
    assert.equal(programsOf(capture).attachedPods().length, 3)
    assert.doesNotMatch(network.ipIn(a, 'rule'), /fwmark/)
    assert.equal(readdirSync(`${directory}/state/captured`).length, 3)
    assert.equal(answerIn(await read(e, c)).pod, 'c')
  })

  it('makes whole what was half-written', async () => {
    const agent = await startAgent(both())
    await kill(agent)
    const looking = open()
    const [cookieA, cookieB] = [...podsOf(looking).keys()].sort() as [bigint, bigint]
    // As if it was killed while it enrolled one (the link is missing) and withdrew the other (the entry is missing).
    programsOf(looking).pods.delete(cookieB)
    await release(looking)
    unlinkSync(`${directory}/pins/pods/${cookieA}`)
    writeFileSync(`${directory}/state/captured/7.json`, '{"format":1')
    writeFileSync(`${directory}/state/captured/8.json~`, '')

    const capture = open()
    for (const pod of [a, b]) await enrol(capture, pod)
    assert.equal(answerIn(await read(a, b)).pod, 'a')
    assert.equal(answerIn(await read(b, a)).pod, 'b')
    assert.deepEqual(readdirSync(`${directory}/state/captured`).sort(), [`${cookieA}.json`, `${cookieB}.json`].sort())
  })

  it('keeps pods captured that it knows nothing of, and lets them go without a record', async () => {
    const agent = await startAgent(both())
    await kill(agent)
    rmSync(`${directory}/state/captured`, { recursive: true })
    const capture = open()
    assert.equal(await read(b, a), 'connect EPERM')
    await enrol(capture, a)
    assert.equal(answerIn(await read(a, b)).pod, 'a')
    await capture.retain(new Set(['test//Pod/test/a']))
    assert.doesNotMatch(network.ipIn(b, 'rule'), /fwmark/)
    assert.match(network.ipIn(a, 'rule'), /fwmark/)
  })

  it('attaches to another cgroup when it is told to, and leaves the one before', async () => {
    const other = `${network.cgroupPath}/other`
    mkdirSync(other)
    try {
      const first = open({ cgroupPath: other })
      await enrol(first, a)
      await release(first)
      const capture = open()
      await enrol(capture, a)
      assert.equal(answerIn(await read(a, b)).pod, 'a')
      const fd = addon.openPinned(`${directory}/pins/links/weft_connect4`)
      const { target } = addon.describeLink(fd)
      closeSync(fd)
      assert.equal(target, BigInt(execFileSync('stat', ['-c', '%i', network.cgroupPath], { encoding: 'utf8' }).trim()))
    } finally {
      execFileSync('rmdir', [other])
    }
  })

  describe('of a build with another layout', () => {
    /** This build with the fields of `struct pod` in another order: sizes alone would not tell. */
    function buildOlder(): string {
      const build = `${directory}/older`
      for (const path of ['src', 'test/support', 'native/bpf', 'native/Makefile', 'package.json']) {
        cpSync(`${ROOT}${path}`, `${build}/${path}`, { recursive: true })
      }
      symlinkSync(`${ROOT}node_modules`, `${build}/node_modules`)
      const maps = `${build}/native/bpf/include/weft/maps.h`
      const text = readFileSync(maps, 'utf8')
      const flags = '  __u32 flags;\n'
      const scope = '  __u32 scope;\n'
      writeFileSync(maps, text.replace(`struct pod {\n${flags}`, 'struct pod {\n').replace(scope, scope + flags))
      mkdirSync(`${build}/native/build`)
      cpSync(`${NATIVE_BUILD_DIRECTORY}weft.node`, `${build}/native/build/weft.node`)
      execFileSync('make', ['-C', `${build}/native`, '-s', 'build/layout.stamp'], { stdio: 'pipe' })
      const generated = 'src/kernel/layout.generated.ts'
      assert.notEqual(readFileSync(`${build}/${generated}`, 'utf8'), readFileSync(`${ROOT}${generated}`, 'utf8'))
      return build
    }

    afterEach(() => {
      rmSync(`${directory}/older`, { recursive: true, force: true })
    })

    it('is refused while it lives, and replaced when it is dead, up and down: strict pods are closed all the time', async () => {
      const older = buildOlder()
      let agent = await startAgent(both(), older)
      assert.throws(() => open(), {
        code: 'WEFT_CONFIG',
        message: `another agent (weft old) is using the pin directory ${directory}/pins; end it first, or give each agent its own`,
      })
      await kill(agent)
      const lines: string[] = []
      const capture = open({ log: new Logger('test', 'warn', (line) => lines.push(line)) })
      assert.match(lines[0]!, /another layout: counters restart and pods are enrolled anew.*"version":"old"/)
      assertOneSet()
      for (const family of ['4', '6'] as const) {
        assert.equal(await read(a, b, family), 'connect ECONNREFUSED')
        assert.equal(await read(b, a, family), 'connect EPERM')
      }
      for (const { isStrict, ...pod } of both()) await enrol(capture, pod, isStrict)
      for (const family of ['4', '6'] as const) {
        assert.equal(answerIn(await read(a, b, family)).pod, 'a')
        assert.equal(answerIn(await read(b, a, family)).pod, 'b')
      }
      await release(capture)
      for (const pod of answering.splice(0)) pod.close()

      agent = await startAgent(both(), older)
      assert.equal(answerIn(await read(b, a)).pod, 'b')
      await kill(agent)
      assert.equal(await read(b, a), 'connect EPERM')
    })

    it('is replaced without a connection lost when it has released everything and serves until it is dismissed', async () => {
      const older = buildOlder()
      const { EbpfCapture: OlderCapture } = (await import(`${older}/src/agent/capture-ebpf.ts`)) as {
        EbpfCapture: typeof EbpfCapture
      }
      const { AnsweringPod: OlderPod } = (await import(`${older}/test/support/answering-pod.ts`)) as {
        AnsweringPod: typeof AnsweringPod
      }
      const first = OlderCapture.open({ ...options(), addon })
      captures.push(first)
      const old = [await OlderPod.enrol(first, b, 1, true), await OlderPod.enrol(first, a, 1, true)]
      const stop = await flood()
      await release(first)
      const next = open({ isPredecessorServing: true })
      for (const pod of [b, a]) await enrol(next, pod, true)
      next.dismissPredecessor()
      next.settle()
      await delay(LINGER_MS)
      for (const pod of old) pod.close()
      assert.equal(answerIn(await read(a, b)).pod, 'a')
      const { agent, app, refused, other } = await stop()
      assert.deepEqual([app, refused, other], [0, 0, {}])
      assert.ok(agent > 20, `${agent} connections`)
      assertOneSet()
    })
  })
})
