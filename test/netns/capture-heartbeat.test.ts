/** Data workers that stand still, seen by the real kernel: their listeners are open, and yet they get no connections. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { ROLE_INBOUND, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { HEARTBEAT_INTERVAL_MS, HEARTBEAT_MS_MAX, WORKER_SLOTS_MAX } from '../../src/kernel/layout.generated.ts'
import { encodeSlot, HeartbeatMap, KernelMap } from '../../src/kernel/maps.ts'
import { AnsweringPod, answerIn, runClient, startApp, TestClient } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = '8080'
const HOLDER_PROGRAM = new URL('../support/life-sign-holder.ts', import.meta.url).pathname
const AGENT_PROGRAM = new URL('../support/capture-agent.ts', import.meta.url).pathname

/** Longest wait for what the kernel should notice within seconds. Only a failing test waits so long. */
const PATIENCE_MS = 20_000

/** A time after which no beat of before counts. */
const FORGOTTEN_MS = HEARTBEAT_MS_MAX + HEARTBEAT_INTERVAL_MS

describe('heartbeats of data workers', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let b: TestPod

  before(async () => {
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    await startApp(network, b, Number(APP_PORT))
  })

  after(async () => {
    await network?.close()
  })

  /** What a client in pod a reads from b's port; its error otherwise. */
  async function readFromB(family: '4' | '6' = '4'): Promise<string> {
    const lines = await runClient(network, a, [family, 'connect', family === '4' ? b.ipv4 : b.ipv6, APP_PORT, 'read'])
    return lines[1]?.startsWith('read ENOTCONN') === false ? lines[1] : lines[0]!
  }

  describe('of one agent', () => {
    let capture: EbpfCapture
    let inA: AnsweringPod
    let inB: AnsweringPod
    let heartbeats: HeartbeatMap

    before(async () => {
      const pinDirectory = `/run/${network.prefix}-heartbeat`
      capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog })
      inA = await AnsweringPod.enrol(capture, a, 2)
      inB = await AnsweringPod.enrol(capture, b, 2)
      for (const pod of [inA, inB]) pod.stopBeating()
      heartbeats = new HeartbeatMap(new KernelMap(loadAddon(), capture.heartbeatMapFd))
    })

    after(async () => {
      for (const pod of [inA, inB]) pod.close()
      await capture.close()
    })

    function beat(...workers: readonly number[]): void {
      for (const worker of [0, 1]) heartbeats.clear(worker)
      // A time to come: it holds for the whole test, whatever the machine does.
      for (const worker of workers) heartbeats.beat(worker, process.hrtime.bigint() + 60_000_000_000n)
    }

    /** Workers that answered `count` connections out of a, and as many into it. */
    async function workersOf(count: number): Promise<{ outbound: number[]; inbound: number[] }> {
      for (const pod of [inA, inB]) pod.answers.length = 0
      const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
      for (let i = 0; i < count; i++) {
        answerIn(await readFromB(i % 2 === 0 ? '4' : '6'))
        const [, read] = await runClient(network, node, ['4', 'connect', b.ipv4, String(8100 + i), 'read'])
        answerIn(read)
      }
      const workersIn = (pod: AnsweringPod, role: number): number[] =>
        pod.answers.filter((answer) => answer.role === role).map(({ worker }) => worker)
      return { outbound: workersIn(inA, ROLE_OUTBOUND), inbound: workersIn(inB, ROLE_INBOUND) }
    }

    it('spread connections over all workers that are alive, in both directions', async () => {
      beat(0, 1)
      const { outbound, inbound } = await workersOf(24)
      for (const workers of [outbound, inbound]) {
        assert.equal(workers.length, 24)
        for (const worker of [0, 1]) {
          const share = workers.filter((other) => other === worker).length
          assert.ok(share >= 4, `worker ${worker} got ${share} of 24 connections`)
        }
      }
    })

    for (const alive of [0, 1]) {
      it(`keep a silent worker out, though its listeners are open: all go to worker ${alive}`, async () => {
        beat(alive)
        const { outbound, inbound } = await workersOf(10)
        assert.deepEqual(outbound, Array(10).fill(alive))
        assert.deepEqual(inbound, Array(10).fill(alive))
      })
    }

    it('let a permissive pod by, and refuse a strict one, when all workers are silent, and serve again at once', async () => {
      beat()
      const { takePods, totals } = { takePods: () => capture.unserved.takePods(), totals: capture.unserved.totals() }
      takePods()
      for (const family of ['4', '6'] as const) assert.match(await readFromB(family), /^read app b /)
      for (const pod of [inA, inB]) capture.setStrict(pod.uid, true)
      for (const family of ['4', '6'] as const) assert.equal(await readFromB(family), 'connect EPERM')
      const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
      for (const [family, address] of [
        ['4', b.ipv4],
        ['6', b.ipv6],
      ] as const) {
        assert.deepEqual(await runClient(network, node, [family, 'connect', address, APP_PORT]), [
          'connect ECONNREFUSED',
        ])
      }
      // What came out of a went into b, past both.
      assert.deepEqual(Object.fromEntries(takePods()), {
        'test/a': { bypassedOutbound: 2, bypassedInbound: 0, refusedOutbound: 2, refusedInbound: 0 },
        'test/b': { bypassedOutbound: 0, bypassedInbound: 2, refusedOutbound: 0, refusedInbound: 2 },
      })
      assert.equal(takePods().size, 0)
      const { bypassed, refused } = capture.unserved.totals()
      assert.deepEqual([bypassed - totals.bypassed, refused - totals.refused], [4, 4])
      beat(1)
      assert.equal(answerIn(await readFromB()).worker, 1)
      for (const pod of [inA, inB]) capture.setStrict(pod.uid, false)
    })

    it('do not count once they are older than the limit, and count while they are younger', async () => {
      for (const worker of [0, 1]) heartbeats.clear(worker)
      const now = process.hrtime.bigint()
      heartbeats.beat(0, now - BigInt(HEARTBEAT_MS_MAX + 1) * 1_000_000n)
      assert.match(await readFromB(), /^read app b /)
      heartbeats.beat(0, process.hrtime.bigint() - BigInt(HEARTBEAT_MS_MAX) * 500_000n)
      assert.equal(answerIn(await readFromB()).worker, 0)
    })

    describe('and signs of life', () => {
      const holders: ChildProcess[] = []

      after(() => {
        for (const holder of holders) holder.kill('SIGKILL')
        const threads = new KernelMap(loadAddon(), capture.threadMapFd)
        for (const worker of [0, 1]) threads.update(encodeSlot(worker), new Uint8Array(4))
      })

      /** A process whose thread is that of a worker. */
      async function live(worker: number): Promise<ChildProcess> {
        const stdio = ['pipe', 'pipe', 'inherit', capture.threadMapFd] as const
        const holder = spawn(process.execPath, [HOLDER_PROGRAM, String(worker)], { stdio: [...stdio] })
        holders.push(holder)
        assert.equal(String((await once(holder.stdout!, 'data'))[0]), 'given\n')
        return holder
      }

      async function end(holder: ChildProcess, how: 'killed' | 'in order'): Promise<void> {
        const exited = once(holder, 'exit')
        if (how === 'killed') holder.kill('SIGKILL')
        else holder.stdin!.end()
        await exited
      }

      for (const how of ['killed', 'in order'] as const) {
        it(`leave a worker out at once whose thread has ended (${how}), though its sockets are open and its beat is fresh`, async () => {
          beat(0, 1)
          const [first, second] = [await live(0), await live(1)]
          await end(first, how)
          const { outbound, inbound } = await workersOf(10)
          assert.deepEqual(outbound, Array(10).fill(1))
          assert.deepEqual(inbound, Array(10).fill(1))
          await end(second, how)
          for (const family of ['4', '6'] as const) assert.match(await readFromB(family), /^read app b /)
          for (const pod of [inA, inB]) capture.setStrict(pod.uid, true)
          for (const family of ['4', '6'] as const) assert.equal(await readFromB(family), 'connect EPERM')
          for (const pod of [inA, inB]) capture.setStrict(pod.uid, false)
          // Who comes next in the slot lives.
          await live(0)
          assert.deepEqual((await workersOf(6)).outbound, Array(6).fill(0))
        })
      }

      it('leave a worker in that has withdrawn its sign before it ended: the slot may be a successor’s', async () => {
        beat(0)
        const holder = await live(0)
        holder.stdin!.write('\n')
        assert.equal(String((await once(holder.stdout!, 'data'))[0]), 'withdrawn\n')
        await end(holder, 'killed')
        assert.deepEqual((await workersOf(6)).outbound, Array(6).fill(0))
      })

      it('are refused in another kind of map, and past its end', () => {
        const addon = loadAddon()
        assert.throws(() => addon.giveLifeSign(capture.heartbeatMapFd, 0), { code: 'EINVAL' })
        assert.throws(() => addon.giveLifeSign(capture.threadMapFd, WORKER_SLOTS_MAX), { code: 'EINVAL' })
        assert.throws(() => addon.giveLifeSign(capture.threadMapFd, -1), RangeError)
        assert.throws(() => addon.giveLifeSign(-1, 0), { object: 'map descriptor -1' })
      })
    })

    it('do not help a worker that is not among those that serve', async () => {
      beat(0, 1)
      capture.setServing([1])
      const { outbound } = await workersOf(6)
      assert.deepEqual(outbound, Array(6).fill(1))
      capture.setServing([])
      assert.match(await readFromB(), /^read app b /)
      capture.setServing([0, 1])
    })
  })

  describe('of an agent in a process of its own', () => {
    let agent: ChildProcess
    const node = (): TestPod => ({ ...a, netns: `/var/run/netns/${network.nodeNetns}` })

    async function start(name: string, isStrict: boolean): Promise<string> {
      const pinDirectory = `/run/${network.prefix}-${name}`
      const pods = [a, b].map((pod) => ({ ...pod, isStrict }))
      const addonPath = `${NATIVE_BUILD_DIRECTORY}weft.node`
      const request = { mode: 'stay', addonPath, cgroupPath: network.cgroupPath, pinDirectory, pods }
      agent = network.start(node(), [process.execPath, AGENT_PROGRAM, JSON.stringify(request)])
      await once(agent.stdout!, 'data')
      return pinDirectory
    }

    async function kill(): Promise<void> {
      const exited = once(agent, 'exit')
      agent.kill('SIGKILL')
      await exited
    }

    /** Removes what the killed agent has left. */
    async function clean(pinDirectory: string): Promise<void> {
      await EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog }).close()
    }

    /** Stops the agent. What a client of b will read whose connection waits in the agent's queue by then. */
    async function queue(family: '4' | '6'): Promise<{ readonly line: Promise<string> }> {
      for (let tries = 0; ; tries++) {
        agent.kill('SIGSTOP')
        const address = family === '4' ? b.ipv4 : b.ipv6
        const client = TestClient.start(network, a, [family, 'connect', address, APP_PORT, 'read'])
        if (!(await client.line()).startsWith('connect ok')) assert.ok(tries < 5)
        const line = client.line()
        const first = await Promise.race([line, delay(FORGOTTEN_MS, 'waits')])
        // Else the machine is so slow that the connection came when the agent was known to be silent.
        if (first === 'waits') return { line }
        assert.ok(tries < 5, first)
        agent.kill('SIGCONT')
        await delay(FORGOTTEN_MS)
      }
    }

    for (const family of ['4', '6'] as const) {
      it(`decide while it is stopped, at once, and not for what was in its queue before (IPv${family})`, async () => {
        const pinDirectory = await start(`queue${family}`, true)
        const waiting = await queue(family)
        const address = family === '4' ? b.ipv4 : b.ipv6
        assert.equal(await readFromB(family), 'connect EPERM')
        assert.deepEqual(await runClient(network, node(), [family, 'connect', address, APP_PORT]), [
          'connect ECONNREFUSED',
        ])
        agent.kill('SIGCONT')
        assert.equal(answerIn(await waiting.line).pod, 'a')
        const end = Date.now() + PATIENCE_MS
        while (!(await readFromB(family)).includes('"pod":"a"')) assert.ok(Date.now() < end, 'the agent serves again')

        const lost = await queue(family)
        await kill()
        assert.equal(await lost.line, 'read ECONNRESET')
        assert.equal(await readFromB(family), 'connect EPERM')
        await clean(pinDirectory)
      })
    }

    it('are not waited for when it is killed: the very next connection goes on without it', async () => {
      const pinDirectory = await start('killed', false)
      assert.equal(answerIn(await readFromB()).pod, 'a')
      await kill()
      for (const family of ['4', '6'] as const) {
        assert.match(await readFromB(family), /^read app b /)
        const address = family === '4' ? b.ipv4 : b.ipv6
        const [, read] = await runClient(network, node(), [family, 'connect', address, APP_PORT, 'read'])
        assert.match(read!, /^read app b /)
      }
      await clean(pinDirectory)
    })
  })

  it('tell the kernel when a whole agent is stopped: pods go on without it, and with it when it runs again', async () => {
    const request = {
      mode: 'stay',
      addonPath: `${NATIVE_BUILD_DIRECTORY}weft.node`,
      cgroupPath: network.cgroupPath,
      pinDirectory: `/run/${network.prefix}-stopped`,
      pods: [{ ...a, isStrict: false }],
    }
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    const agent: ChildProcess = network.start(node, [process.execPath, AGENT_PROGRAM, JSON.stringify(request)])
    await once(agent.stdout!, 'data')
    assert.equal(answerIn(await readFromB()).pod, 'a')

    agent.kill('SIGSTOP')
    await delay(FORGOTTEN_MS)
    for (let i = 0; i < 5; i++) assert.match(await readFromB(), /^read app b /)
    agent.kill('SIGCONT')
    const end = Date.now() + PATIENCE_MS
    while (!(await readFromB()).includes('"pod":"a"')) assert.ok(Date.now() < end, 'the agent serves again')

    const exited = once(agent, 'exit')
    agent.kill('SIGKILL')
    await exited
    const capture = EbpfCapture.open({
      cgroupPath: network.cgroupPath,
      pinDirectory: request.pinDirectory,
      log: silentLog,
    })
    await capture.close()
  })
})
