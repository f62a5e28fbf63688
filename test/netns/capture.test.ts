/** Steering with the real kernel: which connections come to the agent, and what it knows of them. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Socket } from 'node:net'
import { after, before, describe, it } from 'node:test'
import { ROLE_HBONE, ROLE_INBOUND, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { FAMILY_IPV4, FAMILY_IPV6 } from '../../src/base/address.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { type Answer, AnsweringPod, answerIn, CLIENT_PROGRAM, runClient, startApp } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'
import { openPodSocket } from '../support/open-pod-socket.ts'

const APP_PORT = 8080

describe('eBPF capture', needsRoot, () => {
  let network: TestNetwork
  let capture: EbpfCapture
  /** Enrolled, with two data workers. */
  let a: TestPod
  let answering: AnsweringPod
  /** Not enrolled. */
  let b: TestPod

  before(async () => {
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    network.join()
    const pinDirectory = `/run/${network.prefix}`
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog })
    answering = await AnsweringPod.enrol(capture, a, 2)
    await startApp(network, a, APP_PORT)
    await startApp(network, b, APP_PORT)
  })

  after(async () => {
    await network?.close(
      () => answering?.close(),
      () => capture?.close(),
    )
  })

  /** Runs a client in pod a; its lines after `connect`. */
  async function connectFromA(steps: readonly string[]): Promise<string[]> {
    const lines = await runClient(network, a, steps)
    return lines.slice(lines.findIndex((line) => line.startsWith('connect') || line.startsWith('fastopen')))
  }

  for (const family of [4, 6] as const) {
    it(`gives thousands of IPv${family} connections with their exact destination and peer, over both workers`, async () => {
      answering.answers.length = 0
      const count = 2000
      const program = `
        const net = require('node:net')
        const text = (address, port) => net.isIPv6(address) ? '[' + address + ']:' + port : address + ':' + port
        let started = 0, ended = 0, wrong = 0
        function next() {
          if (started === ${count}) return
          const i = started++
          const host = ${family} === 4 ? '198.19.' + (i >> 8) + '.' + (i & 255) : 'fd99::' + (i + 1).toString(16)
          const port = 1 + (i * 7919) % 65535
          const socket = net.connect({ host, port })
          let answer = ''
          socket.on('data', (chunk) => {
            answer += chunk
            if (!answer.endsWith('\\n')) return
            const { destination, peer } = JSON.parse(answer)
            if (destination !== text(host, port) || peer !== text(socket.localAddress, socket.localPort)) wrong++
            socket.destroy()
          })
          socket.on('error', () => wrong++)
          socket.on('close', () => {
            if (answer === '') wrong++
            if (++ended === ${count}) console.log(JSON.stringify({ ended, wrong }))
            next()
          })
        }
        for (let i = 0; i < 64; i++) next()`
      const { stdout, stderr } = await network.run(a, [process.execPath, '-e', program])
      assert.deepEqual(JSON.parse(stdout || '{}'), { ended: count, wrong: 0 }, stderr)
      assert.equal(answering.answers.length, count)
      const perWorker = [0, 1].map((worker) => answering.answers.filter((answer) => answer.worker === worker).length)
      assert.ok(Math.min(...perWorker) > count / 4, `spread ${perWorker}`)
      assert.ok(answering.answers.every(({ role }) => role === ROLE_OUTBOUND))
    })
  }

  it('leaves the application its natural view: own address as local, dialled address as remote', async () => {
    const [connected, read] = await connectFromA(['4', 'connect', '198.19.0.1', '80', 'read'])
    const { peer } = answerIn(read)
    assert.equal(connected, `connect ok local ${peer} remote 198.19.0.1:80`)
  })

  it('captures IPv4-mapped, fast-open and MPTCP connections', async () => {
    const [, mapped] = await connectFromA(['6', 'connect', '::ffff:198.19.0.2', '81', 'read'])
    assert.equal(answerIn(mapped).destination, '198.19.0.2:81')
    const [, fastOpen] = await connectFromA(['4', 'fastopen', '198.19.0.3', '82', 'read'])
    assert.equal(answerIn(fastOpen).destination, '198.19.0.3:82')
    const [, multipath] = await connectFromA(['mptcp', 'connect', '198.19.0.4', '83', 'read'])
    assert.equal(answerIn(multipath).destination, '198.19.0.4:83')
  })

  it('captures a socket that is bound to a local address', async () => {
    const [, read] = await connectFromA(['4', 'bind', a.ipv4, 'connect', '198.19.0.5', '84', 'read'])
    assert.match(answerIn(read).peer, new RegExp(`^${a.ipv4}:`))
    const [, loopback] = await connectFromA(['4', 'bind', '127.0.0.1', 'connect', '198.19.0.5', '84', 'read'])
    assert.match(answerIn(loopback).peer, /^127\.0\.0\.1:/)
  })

  for (const privileges of [[], ['unprivileged']]) {
    it(`captures a socket bound to an interface${privileges.length > 0 ? ' by a process without privileges' : ''}`, async () => {
      const bind = [...privileges, 'bind-device', 'eth0']
      const [, ipv4] = await connectFromA(['4', ...bind, 'connect', '198.19.0.6', '85', 'read'])
      assert.equal(answerIn(ipv4).destination, '198.19.0.6:85')
      assert.equal(answerIn(ipv4).role, ROLE_OUTBOUND)
      const [, ipv6] = await connectFromA(['6', ...bind, 'connect', 'fd99::6', '85', 'read'])
      assert.equal(answerIn(ipv6).destination, '[fd99::6]:85')
    })
  }

  it('captures many sockets bound to an interface that connect to one destination at once', async () => {
    const steps = ['4', 'bind-device', 'eth0', 'connect', '198.19.0.6', '86', 'read']
    const clients = Array.from({ length: 40 }, () => connectFromA(steps))
    for (const [, read] of await Promise.all(clients)) assert.equal(answerIn(read).destination, '198.19.0.6:86')
  })

  it('refuses a socket bound to an interface that came after enrolment, from which it cannot be steered', async () => {
    network.ipIn(a, 'link add later0 type veth peer name later1')
    network.ipIn(a, 'link set later0 up')
    const refusedBefore = capture.stats().refused
    const lines = await connectFromA(['4', 'bind-device', 'later0', 'connect', '198.19.0.7', '86'])
    network.ipIn(a, 'link del later0')
    assert.deepEqual(lines, ['connect EPERM'])
    assert.equal(capture.stats().refused, refusedBefore + 1)
  })

  it('gives connections from outside, to any port, to the inbound listeners, and port 15008 to the HBONE ones', async () => {
    const expected: [string, number, number][] = [
      [a.ipv4, APP_PORT, ROLE_INBOUND],
      [a.ipv4, 1, ROLE_INBOUND],
      [a.ipv6, 65_535, ROLE_INBOUND],
      [a.ipv4, 15_008, ROLE_HBONE],
      [a.ipv6, 15_008, ROLE_HBONE],
    ]
    for (const [address, port, role] of expected) {
      const family = address.includes(':') ? '6' : '4'
      const [connected, read] = await runClient(network, b, [family, 'connect', address, String(port), 'read'])
      const answer = answerIn(read)
      assert.equal(answer.role, role)
      assert.equal(answer.destination, address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`)
      const peer = /local (\S+) /.exec(connected!)![1]!
      assert.equal(answer.peer, address.includes(':') ? peer.replace(/(.*):/, '[$1]:') : peer)
    }
  })

  it('captures connections to addresses that the agent was not told of, link-local ones as well', async () => {
    network.ipIn(a, 'addr add 198.18.0.77/24 dev eth0')
    const steps = ['4', 'connect', '198.18.0.77', String(APP_PORT), 'read']
    const [, read] = await runClient(network, b, steps)
    const [, fromInside] = await connectFromA(steps)
    const [, bound] = await connectFromA(['4', 'bind-device', 'eth0', ...steps.slice(1)])
    const addon = loadAddon()
    const dialed = new Socket({ fd: openPodSocket(addon, answering.captured.dialing, FAMILY_IPV4) })
    dialed.connect(APP_PORT, '198.18.0.77')
    const [fromAgent] = (await once(dialed, 'data')) as [Buffer]
    dialed.destroy()
    network.ipIn(a, 'addr del 198.18.0.77/24 dev eth0')
    assert.match(fromInside!, /^read app a/)
    // Bound to an interface it is steered; the agent's own dial that follows must not be.
    assert.equal(answerIn(bound).role, ROLE_OUTBOUND)
    assert.match(String(fromAgent), /^app a/)
    assert.equal(answerIn(read).role, ROLE_INBOUND)
    assert.equal(answerIn(read).destination, `198.18.0.77:${APP_PORT}`)

    const linkLocal = /inet6 (fe80::\S+)\//.exec(network.ipIn(a, '-6 addr show dev eth0 scope link'))![1]!
    const program = `
      const socket = require('node:net').connect({ host: '${linkLocal}%eth0', port: ${APP_PORT} })
      socket.on('data', (chunk) => { console.log(String(chunk)); socket.destroy() })
      socket.on('error', (error) => console.log(error.code))`
    const { stdout } = await network.run(b, [process.execPath, '-e', program])
    assert.equal(answerIn(stdout).role, ROLE_INBOUND)
  })

  it('leaves traffic within the pod alone: loopback and the own addresses', async () => {
    answering.answers.length = 0
    for (const [family, address] of [
      ['4', '127.0.0.1'],
      ['6', '::1'],
      ['4', a.ipv4],
      ['6', a.ipv6],
      ['6', `::ffff:${a.ipv4}`],
      ['4', '0.0.0.0'],
    ] as const) {
      const lines = await connectFromA([family, 'connect', address, String(APP_PORT), 'read', 'mark'])
      assert.match(lines[1]!, /^read app a /, `${address}: ${lines}`)
      assert.equal(lines[2], 'mark 0')
    }
    assert.deepEqual(answering.answers, [])
  })

  it('keeps the agent’s ports closed to whoever dials them by number', async () => {
    for (const port of ['15001', '15006', '15008']) {
      for (const address of ['127.0.0.1', a.ipv4]) {
        assert.deepEqual(await connectFromA(['4', 'connect', address, port]), ['connect ECONNREFUSED'])
      }
    }
    for (const port of ['15001', '15006']) {
      assert.deepEqual(await runClient(network, b, ['4', 'connect', a.ipv4, port]), ['connect ECONNREFUSED'])
    }
  })

  it('does not capture the sockets that the agent opens in the pod, towards others and towards the app', async () => {
    answering.answers.length = 0
    const addon = loadAddon()
    for (const [family, address, expected] of [
      [FAMILY_IPV4, b.ipv4, `app b ${a.ipv4}`],
      [FAMILY_IPV6, b.ipv6, `app b ${a.ipv6}`],
      [FAMILY_IPV4, a.ipv4, `app a ${a.ipv4}`],
      [FAMILY_IPV6, a.ipv6, `app a ${a.ipv6}`],
    ] as const) {
      const socket = new Socket({ fd: openPodSocket(addon, answering.captured.dialing, family) })
      try {
        socket.connect(APP_PORT, address)
        const [line] = (await once(socket, 'data')) as [Buffer]
        assert.equal(String(line).trim(), expected)
      } finally {
        socket.destroy()
      }
    }
    assert.deepEqual(answering.answers, [])
  })

  it('does not capture processes outside of its cgroup, nor pods that are not enrolled', async () => {
    const [, fromB] = await runClient(network, b, ['4', 'connect', b.ipv4, String(APP_PORT), 'read'])
    assert.match(fromB!, /^read app b/)
    const steps = ['4', 'connect', b.ipv4, String(APP_PORT), 'read']
    const { stdout } = await network.runOutside(a, [CLIENT_PROGRAM, ...steps])
    assert.match(stdout, /read app b/)
  })

  it('gives a socket its own mark back when it is connected anew to where no steering is due', async () => {
    const steps = ['set-mark', '7', 'connect', '198.19.0.8', '87', 'mark', 'disconnect']
    const lines = await connectFromA(['4', ...steps, 'connect', '127.0.0.1', String(APP_PORT), 'read', 'mark'])
    assert.match(lines[1]!, /^mark (?!7$)/)
    assert.match(lines[4]!, /^read app a/)
    assert.equal(lines[5], 'mark 7')
  })

  it('steers a socket that is connected anew to another destination', async () => {
    const again = ['disconnect', 'connect', '198.19.0.10', '89', 'read']
    const atLast = ['disconnect', 'connect', '127.0.0.1', String(APP_PORT), 'mark']
    const lines = await connectFromA(['4', 'connect', '198.19.0.9', '88', 'read', ...again, ...atLast])
    assert.equal(lines.at(-1), 'mark 0')
    const destinations = lines.filter((line) => line.startsWith('read')).map((line): Answer => answerIn(line))
    assert.deepEqual(
      destinations.map(({ destination }) => destination),
      ['198.19.0.9:88', '198.19.0.10:89'],
    )
  })

  it('counts what it captured, by direction', async () => {
    const before = capture.stats()
    await connectFromA(['4', 'connect', '198.19.0.11', '90', 'read'])
    await runClient(network, b, ['4', 'connect', a.ipv4, '90', 'read'])
    const { outboundCaptured, inboundCaptured, enrolledPods } = capture.stats()
    assert.equal(outboundCaptured - before.outboundCaptured, 1)
    assert.equal(inboundCaptured - before.inboundCaptured, 1)
    assert.equal(enrolledPods, 1)
  })
})
