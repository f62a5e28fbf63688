/** Connections that the kernel carries without the agent, with the real kernel and real processes. */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import {
  OUTCOME_FAILED,
  ROLE_INBOUND,
  STAT_BYPASSED,
  STAT_INBOUND_CAPTURED,
  STAT_KERNEL_CARRIED,
  STAT_KERNEL_DENIED,
} from '../../src/kernel/layout.generated.ts'
import { AnsweringPod, answerIn, CLIENT_PROGRAM, runClient, startApp } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = 8080
const VIP4 = '198.19.0.1'
const VIP6 = 'fd77:99::1'

describe('connections that the kernel carries', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let capture: EbpfCapture
  let programs: CapturePrograms
  let pods: AnsweringPod[]

  before(async () => {
    network = TestNetwork.create(['a', 'b', 'c'])
    a = network.pod('a')
    b = network.pod('b')
    await startApp(network, b, APP_PORT)
    await startApp(network, network.pod('c'), APP_PORT)
    const pinDirectory = `/run/${network.prefix}-carry`
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog })
    programs = (capture as unknown as { programs: CapturePrograms }).programs
    pods = [await AnsweringPod.enrol(capture, a), await AnsweringPod.enrol(capture, b, 1, true)]
    for (const [service, address, target] of [
      [1, VIP4, b.ipv4],
      [2, VIP6, b.ipv6],
    ] as const) {
      programs.backends.insert(service, 0, { address: target, port: APP_PORT, pod: 2 })
      programs.frontends.insert({ address, port: 80, scope: 1 }, service, 1)
    }
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, true, 0)
  })

  after(async () => {
    await network?.close(...(pods ?? []).map((pod) => () => pod.close()), () => capture?.close())
  })

  for (const [family, vip, address] of [
    ['4', VIP4, () => a.ipv4],
    ['6', VIP6, () => a.ipv6],
  ] as const) {
    it(`go straight to the app; the app sees the pod, the client sees the service, over IPv${family}`, async () => {
      for (const pod of pods) pod.answers.length = 0
      const [connect, read] = await runClient(network, a, [family, 'connect', vip, '80', 'read'])
      assert.equal(read, `read app b ${address()}`)
      assert.ok(connect!.endsWith(`remote ${vip}:80`), connect)
      assert.deepEqual(
        pods.flatMap(({ answers }) => answers),
        [],
      )
    })
  }

  it('are counted, bytes in both directions', () => {
    assert.ok(programs.stats.read(STAT_KERNEL_CARRIED) >= 2)
    for (const service of [1, 2]) {
      const totals = programs.edges.read(1, 2, service)
      assert.ok(totals !== null)
      assert.deepEqual([totals.opened, totals.ended[OUTCOME_FAILED]], [1, 0])
    }
  })

  it('work for MPTCP sockets and for IPv4 addresses that are dialled from an IPv6 socket', async () => {
    const [, multipath] = await runClient(network, a, ['mptcp', 'connect', VIP4, '80', 'read'])
    assert.equal(multipath, `read app b ${a.ipv4}`)
    const [mapped, read] = await runClient(network, a, ['6', 'connect', `::ffff:${VIP4}`, '80', 'read'])
    assert.equal(read, `read app b ${a.ipv4}`)
    assert.ok(mapped!.includes(VIP4), mapped)
  })

  for (const family of ['4', '6'] as const) {
    it(`are those alone that connect() has recorded: others come to the agent, over IPv${family}`, async () => {
      const target = family === '4' ? b.ipv4 : b.ipv6
      const dial = [family, 'connect', target, String(APP_PORT), 'read']
      // A process of the pod that the programs do not see, and a pod that is not in the mesh.
      const unseen = await network.runOutside(a, [CLIENT_PROGRAM, ...dial])
      for (const read of [
        unseen.stdout.trimEnd().split('\n')[1],
        (await runClient(network, network.pod('c'), dial))[1],
      ]) {
        assert.deepEqual([answerIn(read).pod, answerIn(read).role], ['b', ROLE_INBOUND], read)
      }
      // Somebody else who says he is pod a: its answers go to pod a, but what it opens must not be the app.
      const before = programs.stats.read(STAT_INBOUND_CAPTURED)
      const forged = ['transparent', 'bind', family === '4' ? a.ipv4 : a.ipv6, 'connect', target, String(APP_PORT)]
      const forger = network.start(network.pod('c'), [CLIENT_PROGRAM, family, ...forged])
      while (programs.stats.read(STAT_INBOUND_CAPTURED) === before && forger.exitCode === null) await delay(5)
      assert.ok(programs.stats.read(STAT_INBOUND_CAPTURED) > before, 'the forged SYN came to the agent')
      forger.kill('SIGKILL')
    })
  }

  it('are refused where policy says so', async () => {
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, false, 3)
    const [refused] = await runClient(network, a, ['4', 'connect', VIP4, '80', 'read'])
    assert.equal(refused, 'connect ECONNREFUSED')
    assert.equal(programs.stats.read(STAT_KERNEL_DENIED), 1)
    programs.verdicts.delete({ source: 1, destination: 2, port: APP_PORT })
    const [, read] = await runClient(network, a, ['4', 'connect', VIP4, '80', 'read'])
    assert.equal(answerIn(read).pod, 'a')
  })

  describe('with nobody who serves', () => {
    const FALLBACK4 = '198.19.0.7'
    const FALLBACK6 = 'fd77:99::7'

    before(() => {
      for (const pod of pods) pod.stopBeating()
      programs.servingWorkers.set([])
      for (const [service, address, target] of [
        [7, FALLBACK4, network.pod('c').ipv4],
        [8, FALLBACK6, network.pod('c').ipv6],
      ] as const) {
        programs.backends.insert(service, 0, { address: target, port: APP_PORT, pod: 0 })
        programs.frontends.insert({ address, port: 80, scope: 0 }, service, 1, true)
      }
    })

    for (const [family, vip, address] of [
      ['4', FALLBACK4, () => a.ipv4],
      ['6', FALLBACK6, () => a.ipv6],
    ] as const) {
      it(`connections to services go to an endpoint, counted as let by; the client sees the service, over IPv${family}`, async () => {
        const [bypassed, carried] = [STAT_BYPASSED, STAT_KERNEL_CARRIED].map((stat) => programs.stats.read(stat))
        const [connect, read] = await runClient(network, a, [family, 'connect', vip, '80', 'read'])
        assert.equal(read, `read app c ${address()}`)
        assert.ok(connect!.endsWith(`remote ${vip}:80`), connect)
        assert.equal(programs.stats.read(STAT_BYPASSED), bypassed! + 1)
        assert.equal(programs.stats.read(STAT_KERNEL_CARRIED), carried)
      })
    }

    it('what is carried is carried still, and what is denied is denied', async () => {
      programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, true, 0)
      const [, read] = await runClient(network, a, ['4', 'connect', VIP4, '80', 'read'])
      assert.equal(read, `read app b ${a.ipv4}`)
      programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, false, 3)
      programs.backends.insert(7, 0, { address: network.pod('b').ipv4, port: APP_PORT, pod: 2 })
      for (const vip of [VIP4, FALLBACK4]) {
        const [refused] = await runClient(network, a, ['4', 'connect', vip, '80', 'read'])
        assert.equal(refused, 'connect ECONNREFUSED')
      }
    })

    it('an endpoint that policy has not judged is asked without a voucher: a strict one refuses', async () => {
      programs.verdicts.delete({ source: 1, destination: 2, port: APP_PORT })
      const [refused] = await runClient(network, a, ['4', 'connect', FALLBACK4, '80', 'read'])
      assert.equal(refused, 'connect ECONNREFUSED')
    })

    it('a strict pod is refused at once', async () => {
      const [refused] = await runClient(network, network.pod('b'), ['4', 'connect', FALLBACK4, '80', 'read'])
      assert.equal(refused, 'connect EPERM')
    })

    it('an endpoint of the other family is not dialled: the connection goes as it was', async () => {
      programs.backends.insert(7, 0, { address: network.pod('c').ipv6, port: APP_PORT, pod: 0 })
      network.ipIn(a, `route add unreachable ${FALLBACK4}`)
      const [outcome] = await runClient(network, a, ['4', 'connect', FALLBACK4, '80'])
      assert.equal(outcome, 'connect EHOSTUNREACH')
    })
  })
})
