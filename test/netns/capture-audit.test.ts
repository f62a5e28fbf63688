/**
 * Pods whose capture somebody has damaged, in the real kernel: what the agent sees of it and repairs, and what
 * `weft check --node` tells, with an agent and without one.
 */
import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, beforeEach, describe, it } from 'node:test'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { checkNode, type NodeReport } from '../../src/agent/node-check.ts'
import type { AgentAnswer, WantedPod } from '../../src/agent/wanted-pods.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { HeartbeatMap, KernelMap, PodMap } from '../../src/kernel/maps.ts'
import { AnsweringPod, answerIn, podToCapture, runClient, startApp, TestClient } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = '8080'

describe('a pod that is captured late', needsRoot, () => {
  it('had connections already, which are counted: those with others, of either family', async () => {
    const network = TestNetwork.create(['a', 'b'])
    const [a, b] = [network.pod('a'), network.pod('b')]
    const directory = `/run/${network.prefix}-late`
    const capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory: directory, log: silentLog })
    try {
      for (const pod of [a, b]) await startApp(network, pod, Number(APP_PORT))
      for (const [family, address] of [
        ['4', b.ipv4],
        ['6', b.ipv6],
        // Within the pod.
        ['4', a.ipv4],
        ['4', '127.0.0.1'],
        ['6', '::1'],
      ] as const) {
        const client = TestClient.start(network, a, [family, 'connect', address, APP_PORT, 'wait'])
        assert.match(await client.line(), /^connect ok/)
      }
      const { uid } = await capture.enrol(podToCapture(a), 1)
      assert.equal(capture.connectionsBefore(uid), 2)
      capture.begin(uid)
      assert.equal(capture.connectionsBefore(uid), 0)
    } finally {
      await capture.close()
      await network.close()
    }
  })
})

describe('a capture that somebody damages', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let c: TestPod
  let pinDirectory: string
  let stateDirectory: string
  let netnsDirectory: string
  let capture: EbpfCapture
  let inA: AnsweringPod
  let inB: AnsweringPod

  before(async () => {
    network = TestNetwork.create(['a', 'b', 'c'])
    a = network.pod('a')
    b = network.pod('b')
    c = network.pod('c')
    pinDirectory = `/run/${network.prefix}-audit`
    stateDirectory = `/run/${network.prefix}-state`
    netnsDirectory = join(stateDirectory, 'netns')
    // Other tests have namespaces of their own: only ours have names here.
    mkdirSync(netnsDirectory, { recursive: true })
    for (const pod of [a, b, c]) symlinkSync(pod.netns, join(netnsDirectory, pod.name))
    await startApp(network, b, Number(APP_PORT))
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, stateDirectory, log: silentLog })
    inA = await AnsweringPod.enrol(capture, a, 2)
    inB = await AnsweringPod.enrol(capture, b, 2, true)
  })

  after(async () => {
    await network?.close(
      ...[inA, inB].map((pod) => () => pod?.close()),
      () => capture?.close(),
      () => rmSync(stateDirectory, { recursive: true, force: true }),
    )
  })

  async function isCaptured(family: '4' | '6'): Promise<boolean> {
    const address = family === '4' ? b.ipv4 : b.ipv6
    const [connected, read] = await runClient(network, a, [family, 'connect', address, APP_PORT, 'read'])
    if (!connected!.startsWith('connect ok') || read!.startsWith('read app')) return false
    return answerIn(read).pod === 'a'
  }

  const answer = (pods: readonly TestPod[], directory = pinDirectory): AgentAnswer => ({
    kind: 'answer',
    pinDirectory: directory,
    wanted: { source: 'the test', pods: pods.map(wantedPod) },
  })

  const check = (agent: AgentAnswer): Promise<NodeReport> =>
    checkNode({ addon: loadAddon(), pinDirectory, stateDirectory, netnsDirectory, answer: agent })

  const problemsOf = (report: NodeReport): Record<string, readonly string[]> =>
    Object.fromEntries(report.pods.map(({ pod, problems }) => [pod, problems]))

  describe('while the agent serves', () => {
    beforeEach(async () => {
      assert.deepEqual(capture.audit(inA.uid), { uid: inA.uid, faults: [], left: [] })
      for (const family of ['4', '6'] as const) assert.equal(await isCaptured(family), true)
    })

    for (const [what, command, pieces] of [
      ['the IPv4 rule is removed', 'rule del pref 151', ['steering', 'steering']],
      ['the IPv6 rule is removed', '-6 rule del pref 151', ['steering', 'steering']],
      ['the IPv4 routes are removed', 'route flush table 151', ['steering', 'steering']],
      ['the IPv6 routes are removed', '-6 route flush table 151', ['steering', 'steering']],
      ['the route over lo is removed', 'route del local default dev lo table 151', ['steering']],
      ['the pod takes one more address', 'addr add 198.18.0.77/32 dev eth0', ['address']],
    ] as const) {
      it(`is seen and repaired when ${what}`, async () => {
        network.ipIn(a, command)
        const report = await check(answer([a, b]))
        assert.equal(report.ok, false)
        assert.equal(problemsOf(report)['test/a']!.length, pieces.length)
        assert.deepEqual(problemsOf(report)['test/b'], [])
        const { faults, left } = capture.audit(inA.uid)!
        assert.deepEqual(
          faults.map(({ piece }) => piece),
          pieces,
        )
        assert.deepEqual(left, [])
        assert.equal((await check(answer([a, b]))).ok, true)
      })
    }

    it('is repaired when a CNI plugin makes interfaces in the pod', async () => {
      network.ipIn(a, 'link add veth7 type veth peer name veth8')
      // No link-local addresses, which would come at any time.
      for (const name of ['veth7', 'veth8']) network.ipIn(a, `link set ${name} addrgenmode none`)
      assert.deepEqual(capture.audit(inA.uid)!.faults, [], 'nothing can be sent by an interface that is down')
      for (const name of ['veth7', 'veth8']) network.ipIn(a, `link set ${name} up`)
      network.ipIn(a, 'addr add 198.18.0.78/32 dev veth7')
      const { faults, left } = capture.audit(inA.uid)!
      const pieces = faults.map(({ piece }) => piece)
      assert.deepEqual(pieces, ['steering', 'steering', 'steering', 'steering', 'address'])
      assert.deepEqual(left, [])
      network.ipIn(a, 'link del veth7')
    })

    it('is told, and not taken for right, while a rule of somebody else comes first', async () => {
      network.ipIn(a, 'rule add pref 100 lookup main')
      try {
        assert.equal(capture.audit(inA.uid)!.left.length, 2)
        const [pod] = (await check(answer([a]))).pods
        assert.match(pod!.remedy, /remove the rule of somebody else that comes before rule 151/)
      } finally {
        network.ipIn(a, 'rule del pref 100')
      }
    })

    it('is switched on again when the entry of the pod is gone', async () => {
      const fd = loadAddon().openPinned(join(pinDirectory, 'maps', 'pods'))
      const netnsFd = loadAddon().openNetns(a.netns)
      new PodMap(new KernelMap(loadAddon(), fd)).delete(loadAddon().netnsCookie(netnsFd))
      assert.equal(await isCaptured('4'), false)
      assert.deepEqual(problemsOf(await check(answer([a]))), {
        'test/a': ['it is not enrolled: its connections go past the mesh'],
      })
      assert.deepEqual(
        capture.audit(inA.uid)!.faults.map(({ piece }) => piece),
        ['entry'],
      )
    })

    it('is told when a pod fails otherwise than it should', async () => {
      capture.setStrict(inA.uid, true)
      assert.deepEqual(problemsOf(await check(answer([a]))), {
        'test/a': ['it fails closed while no agent serves, and should fail open'],
      })
      assert.deepEqual(capture.audit(inA.uid)!.faults, [])
      capture.setStrict(inA.uid, false)
    })

    it('is told when a pod is wanted that is not enrolled, or is gone', async () => {
      const gone = { ...c, name: 'gone', netns: '/run/netns/weft-nowhere' }
      const report = await check(answer([a, b, c, gone]))
      assert.equal(report.ok, false)
      assert.deepEqual(problemsOf(report), {
        'test/a': [],
        'test/b': [],
        'test/c': ['it is not enrolled: its connections go past the mesh'],
        'test/gone': ['its network namespace /run/netns/weft-nowhere does not exist (any more)'],
      })
      assert.deepEqual(report.outside, [])
      assert.deepEqual((await check(answer([a, b]))).outside, [join(netnsDirectory, 'c')])
    })

    it('is told when nobody listens in a pod, which is not repaired in place', async () => {
      inA.closeListeners()
      const { faults, left } = capture.audit(inA.uid)!
      assert.deepEqual(left, faults)
      assert.deepEqual([...new Set(faults.map(({ piece }) => piece))], ['listener'])
      assert.match(problemsOf(await check(answer([a])))['test/a']![0]!, /nobody listens for outbound connections/)
      inA.close()
      await capture.withdraw(inA.uid)
      inA = await AnsweringPod.enrol(capture, a, 2)
    })

    it('is told when the main thread of the agent does not answer', async () => {
      const report = await check({ kind: 'silent' })
      assert.equal(report.ok, false)
      assert.match(detailsOf(report, 'agent'), /its main thread does not respond/)
      assert.match(detailsOf(report, 'configuration'), /nobody knows which pods/)
    })

    it('does not believe an agent that has other pins', async () => {
      const report = await check(answer([a, b, c], '/sys/fs/bpf/other'))
      assert.deepEqual(report.pods, [])
      assert.match(detailsOf(report, 'configuration'), /nobody knows which pods/)
    })
  })

  it('is told piece by piece when its pins are taken away', async () => {
    for (const directory of ['links', 'pods']) {
      for (const name of readdirSync(join(pinDirectory, directory))) {
        if (name.startsWith('weft_connect') || /^[0-9]+$/.test(name)) unlinkSync(join(pinDirectory, directory, name))
      }
    }
    const report = await check(answer([a]))
    assert.match(detailsOf(report, 'programs'), /weft_connect4 and weft_connect6 is not attached/)
    assert.deepEqual(problemsOf(report)['test/a'], [
      'connections in the pod do not reach the agent: its program is not attached',
    ])
  })

  it('is nothing where nothing is pinned', async () => {
    const empty = join(stateDirectory, 'empty')
    const report = await checkNode({
      addon: loadAddon(),
      pinDirectory: empty,
      stateDirectory,
      netnsDirectory,
      answer: { kind: 'absent' },
    })
    assert.equal(report.ok, false)
    assert.equal(report.agent.state, 'never')
    assert.match(detailsOf(report, 'programs'), /nothing is pinned in .*empty/)
    assert.deepEqual(
      report.outside,
      ['a', 'b', 'c'].map((name) => join(netnsDirectory, name)),
    )
  })

  it('tells since when nobody serves, what becomes of each pod, and which connections it has been', async () => {
    for (const pod of [inA, inB]) pod.stopBeating()
    const heartbeats = new HeartbeatMap(new KernelMap(loadAddon(), capture.heartbeatMapFd))
    for (const slot of [0, 1]) heartbeats.beat(slot, process.hrtime.bigint() - 7_000_000_000n)
    capture.unserved.takePods()
    await runClient(network, a, ['4', 'connect', b.ipv4, APP_PORT])
    const report = await check({ ...answer([a, b]), kind: 'absent' } as AgentAnswer)
    assert.equal(report.agent.state, 'silent')
    assert.ok(report.agent.silentMs >= 7000)
    assert.match(detailsOf(report, 'agent'), /^no agent serves \(for \d+\.\d s\): pods that fail open go past/)
    const away = await check(answer([a, b]))
    assert.match(detailsOf(away, 'agent'), /the agent runs and no data worker of it does/)
    assert.deepEqual(
      away.pods.map(({ pod, failureMode, unserved }) => [pod, failureMode, unserved]),
      [
        ['test/a', 'open', { bypassedOutbound: 1, bypassedInbound: 0, refusedOutbound: 0, refusedInbound: 0 }],
        ['test/b', 'closed', { bypassedOutbound: 0, bypassedInbound: 0, refusedOutbound: 0, refusedInbound: 1 }],
      ],
    )
  })
})

function wantedPod(pod: TestPod): WantedPod {
  return {
    uid: pod.name,
    name: `test/${pod.name}`,
    netns: pod.netns,
    addresses: [pod.ipv4, pod.ipv6],
    isStrict: pod.name === 'b',
  }
}

function detailsOf(report: NodeReport, subject: string): string {
  return report.findings
    .filter((finding) => finding.subject === subject)
    .map(({ detail }) => detail)
    .join('\n')
}
