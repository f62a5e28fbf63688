/** `weft agent --cleanup`, with the real kernel: every trace of an agent goes, and nothing else does. */
import assert from 'node:assert/strict'
import { closeSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import { EXIT_FAILED, EXIT_OK } from '../../src/cli/command.ts'
import { main } from '../../src/cli/main.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { TCX_EGRESS, TCX_INGRESS } from '../../src/kernel/layout.generated.ts'
import { AnsweringPod, runClient, startApp } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = 8080

/** Longest wait for what an agent does after a pod is enrolled. Only a failing test waits so long. */
const PATIENCE_MS = 20_000

describe('weft agent --cleanup', needsRoot, () => {
  const addon = loadAddon()
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let directory: string
  let pins: string
  let state: string

  beforeEach(async () => {
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    directory = `/run/${network.prefix}`
    pins = `${directory}/pins`
    state = `${directory}/state`
    mkdirSync(state, { recursive: true })
    writeFileSync(`${state}/cert.pem`, 'a credential')
    writeFileSync(`${state}/snapshot.json`, '{}')
    await startApp(network, b, APP_PORT)
  })

  afterEach(async () => {
    await network?.close()
    rmSync(directory, { recursive: true, force: true })
  })

  /** An agent that has ended, and left two pods captured: b is strict. */
  async function leaveBehind(): Promise<void> {
    const capture = openCapture()
    const pods = [await AnsweringPod.enrol(capture, a), await AnsweringPod.enrol(capture, b, 1, true)]
    for (const end = Date.now() + PATIENCE_MS; meters(a).length + meters(b).length < 4; await delay(20)) {
      assert.ok(Date.now() < end, 'both pods are metered')
    }
    await capture.release()
    for (const pod of pods) pod.close()
    await capture.close()
  }

  function openCapture(): EbpfCapture {
    const places = { cgroupPath: network.cgroupPath, pinDirectory: pins, stateDirectory: state }
    return EbpfCapture.open({ ...places, log: silentLog })
  }

  async function cleanUp(...flags: readonly string[]): Promise<{ code: number; out: string; err: string }> {
    let [out, err] = ['', '']
    const streams = {
      out: (text: string) => {
        out += text
      },
      err: (text: string) => {
        err += text
      },
      isTerminal: false,
      rows: () => 24,
    }
    const code = await main(['agent', '--cleanup', '--pin-directory', pins, '--state', state, ...flags], streams, {})
    return { code, out, err }
  }

  /** Programs on the interface of a pod, in both directions. */
  function meters({ netns }: TestPod): string[] {
    const netnsFd = addon.openNetns(netns)
    try {
      const { index } = addon.netnsInterfaces(netnsFd).find(({ name }) => name === 'eth0')!
      return [TCX_EGRESS, TCX_INGRESS].flatMap((type) => addon.interfacePrograms(netnsFd, index, type))
    } finally {
      closeSync(netnsFd)
    }
  }

  async function assertNoTrace(): Promise<void> {
    assert.equal(existsSync(pins), false)
    assert.deepEqual(readdirSync(state), ['cert.pem'])
    assert.equal(readFileSync('/proc/self/mounts', 'utf8').includes(pins), false)
    for (const pod of [a, b]) {
      assert.deepEqual(meters(pod), [])
      for (const family of ['-4', '-6']) {
        assert.doesNotMatch(network.ipIn(pod, `${family} rule`), /fwmark/)
        assert.doesNotMatch(network.ipIn(pod, `${family} route show table all`), /table 151/)
      }
    }
    const lines = await runClient(network, a, ['4', 'connect', b.ipv4, String(APP_PORT), 'read'])
    assert.equal(lines[1], `read app b ${a.ipv4}`)
  }

  it('removes what an agent has left, and says what; the second time there is nothing', async () => {
    await leaveBehind()
    const { code, out } = await cleanUp()
    const lines = out.trimEnd().split('\n')
    assert.match(lines[0]!, /^removed [0-9]+ programs attached to a cgroup$/)
    assert.equal(lines[1], 'removed the programs in 2 pods')
    assert.match(lines[2]!, /^removed [0-9]+ maps$/)
    assert.deepEqual(lines.slice(3), [
      `removed mount and directory ${pins}`,
      'removed routes and rules of pod test/a',
      'removed routes and rules of pod test/b',
      `removed ${state}/captured`,
      `removed ${state}/snapshot.json`,
    ])
    assert.equal(code, EXIT_OK)
    await assertNoTrace()
    assert.deepEqual(await cleanUp(), { code: EXIT_OK, out: 'there is nothing to remove\n', err: '' })
  })

  it('needs neither maps that it can read nor notes of the agent', async () => {
    await leaveBehind()
    unlinkSync(`${pins}/maps/layout`)
    unlinkSync(`${pins}/maps/pods`)
    rmSync(`${state}/captured`, { recursive: true })
    writeFileSync(`${state}/carried-numbers.json`, 'not JSON')
    const { code, out } = await cleanUp('-o', 'json')
    assert.equal(code, EXIT_OK)
    const { removed, left } = JSON.parse(out) as { removed: string[]; left: string[] }
    assert.equal(removed.filter((what) => /^routes and rules of pod of netns cookie/.test(what)).length, 2)
    assert.deepEqual(left, [])
    await assertNoTrace()
  })

  it('refuses while an agent runs, and does it all the same when it is forced', async () => {
    const capture = openCapture()
    const pod = await AnsweringPod.enrol(capture, a)
    const { code, err } = await cleanUp()
    assert.equal(code, EXIT_FAILED)
    assert.match(err, /another agent is using the pin directory .*; end it first/)
    assert.ok(existsSync(`${pins}/maps/pods`))
    assert.match(network.ipIn(a, 'rule'), /fwmark/)

    const forced = await cleanUp('--force')
    assert.equal(forced.code, EXIT_OK, forced.err)
    assert.doesNotMatch(network.ipIn(a, 'rule'), /fwmark/)
    pod.close()
    await capture.release()
    await capture.close()
    await assertNoTrace()
  })

  it('leaves what is not an agent’s, and names it', async () => {
    await leaveBehind()
    const { maps, programs } = addon.loadObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`, {}, null)
    const strangers = [`${pins}/maps/precious`, `${pins}/other`]
    for (const path of strangers) addon.pinObject(maps['stats']!, path)
    for (const fd of [...Object.values(maps), ...Object.values(programs)]) closeSync(fd)
    const { code, out } = await cleanUp()
    assert.equal(code, EXIT_FAILED)
    for (const path of strangers) {
      assert.ok(out.includes(`left    ${path}: not an agent's\n`), out)
      assert.ok(existsSync(path))
    }
    assert.doesNotMatch(network.ipIn(a, 'rule'), /fwmark/)
    for (const path of strangers) unlinkSync(path)
    assert.equal((await cleanUp()).code, EXIT_OK)
    await assertNoTrace()
  })

  it('takes the settings of an agent, and no others', async () => {
    const given = ['--controller', 'weft:15012', '--credentials', '/nowhere', '--workers', '2']
    assert.deepEqual(await cleanUp(...given), { code: EXIT_OK, out: `removed ${state}/snapshot.json\n`, err: '' })
    const { err } = await cleanUp('--all')
    assert.match(err, /unknown flag --all/)
  })
})
