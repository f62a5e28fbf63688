/** Beginning and ending capture with the real kernel: what goes on, what is refused, and what must be left behind: nothing. */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { ROLE_INBOUND, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY, type SyscallError } from '../../src/kernel/addon.ts'
import { STEER_MARK } from '../../src/kernel/layout.generated.ts'
import { AnsweringPod, answerIn, podToCapture, runClient, startApp, TestClient } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'
import { openPodSocket } from '../support/open-pod-socket.ts'

const APP_PORT = '8080'
const AGENT_PROGRAM = new URL('../support/capture-agent.ts', import.meta.url).pathname

/** Longest wait for the kernel or another process to do what it was told. Only a failing test waits so long. */
const PATIENCE_MS = 20_000

describe('life of an eBPF capture', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let captures: EbpfCapture[]
  let answering: AnsweringPod[]

  beforeEach(async () => {
    captures = []
    answering = []
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    await startApp(network, b, Number(APP_PORT))
  })

  afterEach(async () => {
    await network?.close(...[...answering, ...captures].map((opened) => () => opened.close()))
  })

  function pinDirectory(name: string): string {
    return `/run/${network.prefix}-${name}`
  }

  /** Mounts of this test; others may run at the same time. */
  function ownMounts(): string[] {
    const lines = readFileSync('/proc/self/mounts', 'utf8').split('\n')
    return lines.filter((line) => line.includes(`/${network.prefix}-`))
  }

  function open(name = 'agent'): EbpfCapture {
    const options = { cgroupPath: network.cgroupPath, pinDirectory: pinDirectory(name), log: silentLog }
    const capture = EbpfCapture.open(options)
    captures.push(capture)
    return capture
  }

  async function enrol(capture: EbpfCapture, pod: TestPod, isStrict = false): Promise<AnsweringPod> {
    const enrolled = await AnsweringPod.enrol(capture, pod, 1, isStrict)
    answering.push(enrolled)
    return enrolled
  }

  /** What a client in pod a reads from the app in pod b (or from the agent, if captured); its error otherwise. */
  async function readFromB(): Promise<string> {
    const lines = await runClient(network, a, ['4', 'connect', b.ipv4, APP_PORT, 'read'])
    return lines[1]?.startsWith('read ENOTCONN') === false ? lines[1] : lines[0]!
  }

  function assertNoRoutes(pod: TestPod): void {
    for (const family of ['-4', '-6']) {
      assert.doesNotMatch(network.ipIn(pod, `${family} rule`), /fwmark/)
      assert.equal(network.ipIn(pod, `${family} route show table all`).includes('table 151'), false)
    }
  }

  it('leaves open connections alone when pods are enrolled, withdrawn and enrolled again', async () => {
    const client = TestClient.start(network, a, [
      ...['4', 'connect', b.ipv4, APP_PORT, 'read'],
      ...['wait', 'write', 'one', 'read', 'wait', 'write', 'two', 'read', 'wait', 'write', 'three', 'read'],
    ])
    assert.match(await client.line(), /^connect ok/)
    assert.equal(await client.line(), `read app b ${a.ipv4}`)
    const capture = open()
    const enrolled = [await enrol(capture, a), await enrol(capture, b)]
    for (const word of ['one', 'two', 'three']) {
      client.proceed()
      assert.equal(await client.line(), 'write ok')
      assert.equal(await client.line(), `read ${word}`)
      if (word === 'one') {
        for (const pod of enrolled) {
          await capture.withdraw(pod.uid)
          pod.close()
        }
      }
      if (word === 'two') await enrol(capture, a)
    }
    assert.deepEqual(
      answering.flatMap((pod) => pod.answers),
      [],
    )
  })

  it('stops capturing at withdrawal, while steered connections go on with their routes until they end', async () => {
    const capture = open()
    const enrolled = await enrol(capture, a)
    const steps = ['4', 'connect', b.ipv4, APP_PORT, 'read', 'wait', 'write', 'still here', 'read', 'wait']
    const client = TestClient.start(network, a, steps)
    assert.match(await client.line(), /^connect ok/)
    assert.equal(answerIn(await client.line()).role, ROLE_OUTBOUND)

    await capture.withdraw(enrolled.uid)
    enrolled.closeListeners()
    assert.equal(await readFromB(), `read app b ${a.ipv4}`)
    client.proceed()
    assert.equal(await client.line(), 'write ok')
    assert.equal(await client.line(), 'read still here')
    assert.match(network.ipIn(a, 'rule'), /fwmark/)

    client.proceed()
    assert.equal(await client.line(), '')
    enrolled.close()
    await eventually(() => !network.ipIn(a, 'rule').includes('fwmark'), 'the routes are removed')
    assertNoRoutes(a)
    assert.equal(capture.stats().enrolledPods, 0)
    await capture.withdraw(enrolled.uid)
  })

  it('drains: captures nothing new in any pod, while steered connections go on until it is closed', async () => {
    const capture = open()
    await enrol(capture, a)
    const client = TestClient.start(network, a, [
      '4',
      'connect',
      b.ipv4,
      APP_PORT,
      'read',
      'wait',
      'write',
      'x',
      'read',
    ])
    assert.match(await client.line(), /^connect ok/)
    answerIn(await client.line())
    await capture.drain()
    assert.equal(await readFromB(), `read app b ${a.ipv4}`)
    client.proceed()
    assert.equal(await client.line(), 'write ok')
    assert.equal(await client.line(), 'read x')
  })

  it('captures again when a pod is enrolled again', async () => {
    const capture = open()
    const first = await enrol(capture, a)
    await capture.withdraw(first.uid)
    first.close()
    await enrol(capture, a)
    assert.equal(answerIn(await readFromB()).role, ROLE_OUTBOUND)
  })

  it('keeps two agents on one kernel apart', async () => {
    const [first, second] = [open('first'), open('second')]
    const inA = await enrol(first, a)
    const inB = await enrol(second, b)
    assert.equal(answerIn(await readFromB()).pod, 'a')
    // From a's agent, by its own socket, to b: inbound there, with the second agent.
    const [, fromNode] = await runClient(network, { ...a, netns: `/var/run/netns/${network.nodeNetns}` }, [
      ...['4', 'connect', b.ipv4, APP_PORT, 'read'],
    ])
    assert.equal(answerIn(fromNode).pod, 'b')
    assert.equal(second.stats().outboundCaptured, 0)
    assert.equal(first.stats().inboundCaptured, 0)

    await first.withdraw(inA.uid)
    inA.close()
    await first.close()
    const [, fromB] = await runClient(network, b, ['4', 'connect', '198.19.0.1', '80', 'read'])
    assert.equal(answerIn(fromB).pod, 'b')
    assert.equal(inB.answers.length, 2)
  })

  it('gives a withdrawn pod everything back: its ports, its strictness, the marks of its sockets', async () => {
    const capture = open()
    const enrolled = await enrol(capture, a, true)
    const connect = ['connect', b.ipv4, APP_PORT, 'read']
    const client = TestClient.start(network, a, ['4', ...connect, 'disconnect', 'wait', ...connect, 'mark'])
    await client.line()
    assert.equal(answerIn(await client.line()).pod, 'a')
    assert.equal(await client.line(), 'disconnect ok')
    await capture.withdraw(enrolled.uid)
    enrolled.close()
    client.proceed()
    assert.match(await client.line(), /^connect ok/)
    assert.equal(await client.line(), `read app b ${a.ipv4}`)
    assert.equal(await client.line(), 'mark 0')
    const { refused, bypassed } = capture.stats()
    assert.deepEqual({ refused, bypassed }, { refused: 0, bypassed: 0 })

    await startApp(network, a, 15_001)
    const [, read] = await runClient(network, b, ['4', 'connect', a.ipv4, '15001', 'read'])
    assert.equal(read, `read app a ${b.ipv4}`)
  })

  it('still takes a connection that was steered just before the pod was switched off', async () => {
    const capture = open()
    await enrol(capture, a)
    capture.drain()
    // The mark stands for a connect() that the hook had seen when the pod was still switched on.
    const steps = ['set-mark', String(STEER_MARK), 'connect', b.ipv4, APP_PORT, 'read']
    const [, , read] = await runClient(network, a, ['4', ...steps])
    assert.equal(answerIn(read).role, ROLE_OUTBOUND)
  })

  it('lets a permissive pod by, and refuses a strict one, when no data worker listens any more', async () => {
    const capture = open()
    const enrolled = [await enrol(capture, a), await enrol(capture, b)]
    for (const pod of enrolled) pod.closeListeners()
    assert.equal(await readFromB(), `read app b ${a.ipv4}`)
    assert.ok(capture.stats().bypassed >= 2)

    for (const pod of enrolled) capture.setStrict(pod.uid, true)
    assert.equal(await readFromB(), 'connect EPERM')
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    assert.deepEqual(await runClient(network, node, ['4', 'connect', b.ipv4, APP_PORT]), ['connect ECONNREFUSED'])
    assert.ok(capture.stats().refused >= 2)
    const own = await runClient(network, b, ['4', 'connect', b.ipv4, APP_PORT, 'read'])
    assert.equal(own[1], `read app b ${b.ipv4}`)
  })

  it('outlives an agent that is killed, failing open or closed, until the next agent has enrolled each pod', async () => {
    const request = {
      mode: 'stay',
      addonPath: `${NATIVE_BUILD_DIRECTORY}weft.node`,
      cgroupPath: network.cgroupPath,
      pinDirectory: pinDirectory('agent'),
      pods: [
        { ...a, isStrict: false },
        { ...b, isStrict: true },
      ],
    }
    // In the test's cgroup and the node's netns, as in real life.
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    const agent = network.start(node, [process.execPath, AGENT_PROGRAM, JSON.stringify(request)])
    await once(agent.stdout!, 'data')
    assert.equal(answerIn(await readFromB()).pod, 'a')
    assert.throws(() => open('agent'), /another agent is using the pin directory/)

    const exited = once(agent, 'exit')
    agent.kill('SIGKILL')
    await exited
    assert.match(await readFromB(), /^connect ECONNREFUSED$/)
    const [fromB] = await runClient(network, b, ['4', 'connect', a.ipv4, '80'])
    assert.equal(fromB, 'connect EPERM')

    const capture = open('agent')
    assert.match(await readFromB(), /^connect ECONNREFUSED$/)
    assert.deepEqual(await runClient(network, b, ['4', 'connect', a.ipv4, '80']), ['connect EPERM'])
    await enrol(capture, a)
    assert.equal(answerIn(await readFromB()).pod, 'a')
    await enrol(capture, b, true)
    const [, read] = await runClient(network, b, ['4', 'connect', '198.19.0.1', '80', 'read'])
    assert.equal(answerIn(read).pod, 'b')
  })

  it('lets a deleted network namespace go', async () => {
    const capture = open()
    const c = network.addPod('c')
    const enrolled = await enrol(capture, c)
    const client = TestClient.start(network, c, ['4', 'connect', b.ipv4, APP_PORT, 'read', 'wait'])
    await client.line()
    assert.equal(answerIn(await client.line()).pod, 'c')
    network.deletePod('c')
    client.proceed()
    assert.equal(await client.line(), '')
    await capture.withdraw(enrolled.uid)
    enrolled.close()
    // The kernel removes the pod's veth pair when nobody holds the netns any more.
    await eventually(() => !network.nodeHas('v3'), 'the namespace is freed')
    const gone = capture.enrol(podToCapture(c), 1)
    await assert.rejects(gone, { code: 'WEFT_SYSCALL', message: /pod test\/c does not exist/ })
  })

  it('leaves nothing behind when it is closed: no pin, mount, rule, route, listener or descriptor', async () => {
    const mountsBefore = ownMounts()
    const descriptorsBefore = readdirSync('/proc/self/fd').length
    const capture = open()
    const enrolled = [await enrol(capture, a), await enrol(capture, b)]
    assert.equal(answerIn(await readFromB()).pod, 'a')
    assert.deepEqual(readdirSync(`${pinDirectory('agent')}/links`).sort(), [
      'weft_connect4',
      'weft_connect6',
      'weft_getpeername4',
      'weft_getpeername6',
      'weft_recvmsg4',
      'weft_recvmsg6',
      'weft_sendmsg4',
      'weft_sendmsg6',
      'weft_sockops',
    ])
    assert.equal(readdirSync(`${pinDirectory('agent')}/pods`).length, 2)
    for (const pod of enrolled) pod.close()
    await capture.close()
    captures.pop()
    assert.equal(existsSync(pinDirectory('agent')), false)
    assert.deepEqual(ownMounts(), mountsBefore)
    for (const pod of [a, b]) assertNoRoutes(pod)
    assert.equal(await readFromB(), `read app b ${a.ipv4}`)
    await eventually(() => readdirSync('/proc/self/fd').length <= descriptorsBefore, 'all descriptors are closed')
  })

  it('pins into a directory of an existing bpf file system without touching its neighbours', async () => {
    const addon = loadAddon()
    const root = pinDirectory('host')
    mkdirSync(root)
    addon.mountBpfFilesystem(root)
    try {
      const capture = EbpfCapture.open({
        cgroupPath: network.cgroupPath,
        pinDirectory: `${root}/neighbour`,
        log: silentLog,
      })
      const mounts = ownMounts()
      open('host/agent')
      assert.deepEqual(ownMounts(), mounts)
      await captures.pop()!.close()
      assert.equal(existsSync(`${root}/agent`), false)
      assert.ok(existsSync(`${root}/neighbour/maps/pods`))
      await capture.close()
    } finally {
      addon.unmount(root)
      rmdirSync(root)
    }
  })

  // --- what cannot work is said, and nothing is left of it ---

  it('refuses a pod that uses a port Weft needs, by name, and undoes what it had done', async () => {
    const capture = open()
    await startApp(network, a, 15_006)
    const descriptors = readdirSync('/proc/self/fd').length
    const failed = capture.enrol(podToCapture(a), 2)
    await assert.rejects(failed, (error: Error) => {
      assert.match(error.message, /^port 15006 of pod test\/a is in use by the pod/)
      const { syscall, code, errno } = error.cause as SyscallError
      assert.deepEqual({ syscall, code, errno }, { syscall: 'bind', code: 'EADDRINUSE', errno: 98 })
      return true
    })
    assertNoRoutes(a)
    assert.equal(readdirSync('/proc/self/fd').length, descriptors)
    assert.equal(await readFromB(), `read app b ${a.ipv4}`)
  })

  it('refuses a pod whose loopback interface is down', async () => {
    const capture = open()
    network.ipIn(a, 'link set lo down')
    const failed = capture.enrol(podToCapture(a), 1)
    await assert.rejects(failed, { code: 'WEFT_SYSCALL', message: /an interface of pod test\/a is down/ })
    assertNoRoutes(a)
  })

  it('refuses pods that share a network namespace, with each other or with the node', async () => {
    const capture = open()
    await enrol(capture, a)
    const { pod, ...rest } = podToCapture(a)
    const twin = { ...rest, pod: { ...pod, uid: 'twin' }, displayName: 'test/twin' }
    await assert.rejects(capture.enrol(twin, 1), /pods test\/twin and test\/a share a network namespace/)
    const host = { ...rest, pod: { ...pod, uid: 'host', netns: '/proc/self/ns/net' }, displayName: 'test/host' }
    await assert.rejects(capture.enrol(host, 1), /pod test\/host uses the network namespace of the node/)
  })

  it('enrols a pod without IPv6', async () => {
    network.ipIn(a, '-6 addr flush dev eth0')
    const capture = open()
    const enrolled = await AnsweringPod.enrol(capture, { ...a, ipv6: a.ipv4 }, 1)
    answering.push(enrolled)
    assert.equal(answerIn(await readFromB()).role, ROLE_OUTBOUND)
    assert.doesNotMatch(network.ipIn(a, '-6 rule'), /fwmark/)
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    const [, inbound] = await runClient(network, node, ['4', 'connect', a.ipv4, '80', 'read'])
    assert.equal(answerIn(inbound).role, ROLE_INBOUND)
  })

  it('refuses to attach to what is not a cgroup, and leaves nothing', () => {
    const options = { cgroupPath: '/run', pinDirectory: pinDirectory('agent'), log: silentLog }
    assert.throws(() => EbpfCapture.open(options), {
      code: 'WEFT_BPF',
      message: /weft_connect4 cannot be attached to \/run/,
    })
    assert.equal(existsSync(pinDirectory('agent')), false)
    const missing = { ...options, cgroupPath: `${network.cgroupPath}/missing` }
    assert.throws(() => EbpfCapture.open(missing), { code: 'WEFT_SYSCALL', message: /ENOENT/ })
    assert.equal(existsSync(pinDirectory('agent')), false)
  })

  it('does not dial from another pod when the descriptor of a withdrawn one has been taken', async () => {
    const capture = open()
    const enrolled = await enrol(capture, a)
    const { dialing } = enrolled.captured
    await capture.withdraw(enrolled.uid)
    const addon = loadAddon()
    assert.throws(() => openPodSocket(addon, dialing, FAMILY_IPV4), /not enrolled any more/)
    // The kernel gives the lowest free number: the same one as before.
    const taken: number[] = []
    do taken.push(openSync(b.netns, 'r'))
    while (taken.at(-1)! < dialing.netnsFd)
    assert.throws(() => openPodSocket(addon, dialing, FAMILY_IPV4), { code: 'WEFT_SYSCALL', message: /ESTALE/ })
    for (const fd of taken) closeSync(fd)
  })

  it('carries the verifier’s log in the error', () => {
    assert.throws(
      () => loadAddon().loadObject(`${NATIVE_BUILD_DIRECTORY}rejected.bpf.o`, {}, null),
      (error: SyscallError) => {
        assert.equal(error.code, 'EACCES')
        assert.match(error.object, /rejected\.bpf\.o$/)
        assert.match(error.log!, /weft_rejected/)
        assert.match(error.log!, /invalid mem access 'scalar'/)
        return true
      },
    )
  })

  it('goes through every function of the addon under AddressSanitizer', async () => {
    const request = {
      mode: 'exercise',
      addonPath: `${NATIVE_BUILD_DIRECTORY}asan/weft.node`,
      cgroupPath: network.cgroupPath,
      pinDirectory: pinDirectory('asan'),
      pods: [
        { ...a, isStrict: false },
        { ...b, isStrict: false },
      ],
    }
    const library = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
    // Node itself never frees what it needs until its end: leaks are not looked for.
    const settings = [`LD_PRELOAD=${library}`, 'ASAN_OPTIONS=detect_leaks=0', 'UBSAN_OPTIONS=halt_on_error=1']
    const node = { ...a, netns: `/var/run/netns/${network.nodeNetns}` }
    const command = ['env', ...settings, process.execPath, AGENT_PROGRAM, JSON.stringify(request)]
    assert.deepEqual(await network.run(node, command), { status: 0, stdout: 'done\n', stderr: '' })
    assert.equal(existsSync(pinDirectory('asan')), false)
  })
})

/** Waits for what the kernel, or another process, does in its own time. */
async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; ) {
    if (condition()) return
    await delay(20)
  }
  assert.fail(`not in ${PATIENCE_MS} ms: ${what}`)
}
