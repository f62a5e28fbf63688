/** Pods that come and go a thousand times, and under load, with the real kernel: nothing of them may be left behind. */
import assert from 'node:assert/strict'
import { closeSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { AnsweringPod, podToCapture, startApp } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = 8080
const FLOOD = fileURLToPath(new URL('../support/connect-flood.ts', import.meta.url))

/** Pods at one time, and how often they come and go: a thousand enrolments. */
const PODS = 4
const ROUNDS = 250

/** Longest wait for what the kernel does in its own time. Only a failing test waits so long. */
const PATIENCE_MS = 20_000

/** Maps with entries by pod. */
const POD_MAPS = ['pods', 'own_addresses', 'unserved', 'verdicts', 'edges', 'edges_accounted', 'dns_pods', 'resolvers']

describe('pods that come and go', needsRoot, () => {
  const addon = loadAddon()
  let network: TestNetwork
  let pods: TestPod[]
  let capture: EbpfCapture
  let directory: string

  before(async () => {
    const names = Array.from({ length: PODS }, (_, i) => `p${i}`)
    network = TestNetwork.create(names)
    pods = names.map((name) => network.pod(name))
    directory = `/run/${network.prefix}`
    mkdirSync(directory)
    const places = { pinDirectory: `${directory}/pins`, stateDirectory: directory }
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, ...places, log: silentLog })
  })

  after(async () => {
    await network?.close(() => capture?.close())
    rmSync(directory, { recursive: true, force: true })
  })

  /** Everything that there may be of a pod, outside of its netns. */
  function traces(): unknown {
    const entries = POD_MAPS.map((name) => {
      const fd = addon.openPinned(`${directory}/pins/maps/${name}`)
      const { keys } = addon.mapEntries(fd)
      closeSync(fd)
      return [name, keys.length]
    })
    return {
      entries,
      pins: readdirSync(`${directory}/pins/pods`),
      records: readdirSync(`${directory}/captured`),
      descriptors: readdirSync('/proc/self/fd').length,
      namespaces: readdirSync('/run/netns').filter((name) => name.startsWith(network.prefix)).length,
    }
  }

  function assertUntouched(pod: TestPod): void {
    for (const family of ['-4', '-6']) {
      assert.doesNotMatch(network.ipIn(pod, `${family} rule`), /fwmark/)
      assert.doesNotMatch(network.ipIn(pod, `${family} route show table all`), /table 151|127\.83\./)
    }
  }

  it(`leave no map entry, descriptor, rule, route, pin, note or netns behind, ${PODS * ROUNDS} of them`, async () => {
    const comeAndGo = async (pod: TestPod): Promise<void> => {
      const captured = await capture.enrol({ ...podToCapture(pod), isDnsCaptured: true }, 1)
      capture.begin(captured.uid)
      await capture.withdraw(captured.uid)
      for (const { fds } of captured.listeners) for (const fd of fds!) closeSync(fd)
    }
    // The first ones load what stays: the library of the resolver, file descriptors of Node's own.
    await Promise.all(pods.map(comeAndGo))
    const clean = traces()
    for (let round = 1; round < ROUNDS; round++) await Promise.all(pods.map(comeAndGo))
    assert.deepEqual(traces(), clean)
    for (const pod of pods) assertUntouched(pod)
    assert.deepEqual(
      (clean as { entries: unknown }).entries,
      POD_MAPS.map((name) => [name, 0]),
    )
  })

  it('free their netns when it is deleted while they connect all the time, twice', async () => {
    const [server] = pods as [TestPod]
    await startApp(network, server, APP_PORT)
    const clean = traces()
    for (let round = 0; round < 2; round++) {
      const pod = network.addPod('doomed')
      const wire = `v${PODS + 1}`
      const enrolled = await AnsweringPod.enrol(capture, pod)
      const flood = network.start(pod, [process.execPath, FLOOD, server.ipv4, server.ipv6, String(APP_PORT)])
      const begun = new Promise((resolve) => flood.stdout!.once('data', resolve))
      await begun
      network.deletePod('doomed')
      const withdrawn = capture.withdraw(enrolled.uid)
      const ended = new Promise((resolve) => flood.once('exit', resolve))
      flood.kill('SIGKILL')
      await Promise.all([withdrawn, ended])
      enrolled.close()
      for (const end = Date.now() + PATIENCE_MS; network.nodeHas(wire); ) {
        assert.ok(Date.now() < end, 'the netns is freed')
        await delay(20)
      }
    }
    for (const end = Date.now() + PATIENCE_MS; ; ) {
      try {
        assert.deepEqual(traces(), clean)
        break
      } catch (error) {
        // Node closes the sockets of the last connections in its own time.
        if (Date.now() > end) throw error
        await delay(20)
      }
    }
    assert.equal(existsSync(`/run/netns/${network.prefix}-doomed`), false)
  })
})
