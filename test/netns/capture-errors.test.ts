/**
 * What keeps a capture from working, or from working in full, with the real kernel: each case says what it is, whom it
 * concerns and what follows; what can go on without goes on, and connections that are open are not harmed.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, readdirSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { EbpfCapture, type EbpfCaptureOptions } from '../../src/agent/capture-ebpf.ts'
import { Logger } from '../../src/base/log.ts'
import { type Addon, loadAddon } from '../../src/kernel/addon.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import { LISTENERS_MAX, OWN_ADDRESSES_MAX, PODS_MAX } from '../../src/kernel/layout.generated.ts'
import { AnsweringPod, answerIn, podToCapture, runClient, startApp, TestClient } from '../support/answering-pod.ts'
import { nativeProgram } from '../support/native-build.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const APP_PORT = 8080

// Numbers of `enum bpf_attach_type`.
const GETPEERNAME = [29, 30]
const SOCK_OPS = 3

describe('a capture that cannot have everything', needsRoot, () => {
  const addon = loadAddon()
  let network: TestNetwork
  let a: TestPod
  let b: TestPod
  let directory: string
  let captures: EbpfCapture[]
  let answering: AnsweringPod[]
  let lines: string[]

  beforeEach(async () => {
    captures = []
    answering = []
    lines = []
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    b = network.pod('b')
    directory = `/run/${network.prefix}`
    mkdirSync(directory)
    await startApp(network, b, APP_PORT)
  })

  afterEach(async () => {
    await network?.close(...[...answering, ...captures].map((opened) => () => opened.close()))
    rmSync(directory, { recursive: true, force: true })
  })

  function options(more: Partial<EbpfCaptureOptions> = {}): EbpfCaptureOptions {
    const log = new Logger('test', 'warn', (line) => lines.push(line))
    return { cgroupPath: network.cgroupPath, pinDirectory: `${directory}/pins`, log, ...more }
  }

  function open(more: Partial<EbpfCaptureOptions> = {}): EbpfCapture {
    const capture = EbpfCapture.open(options(more))
    captures.push(capture)
    return capture
  }

  async function enrol(capture: EbpfCapture, pod: TestPod): Promise<AnsweringPod> {
    const enrolled = await AnsweringPod.enrol(capture, pod)
    answering.push(enrolled)
    return enrolled
  }

  async function assertCaptured(): Promise<void> {
    for (const [family, address] of [
      ['4', b.ipv4],
      ['6', b.ipv6],
    ] as const) {
      const [, read] = await runClient(network, a, [family, 'connect', address, String(APP_PORT), 'read'])
      assert.equal(answerIn(read).pod, 'a')
    }
  }

  function programsOf(capture: EbpfCapture): CapturePrograms {
    return (capture as unknown as { programs: CapturePrograms }).programs
  }

  /** The kernel without something: calls for which `isRefused` holds fail as they do where it is unknown. */
  function kernelWithout<K extends keyof Addon>(name: K, isRefused: (...args: Parameters<Addon[K]>) => boolean): Addon {
    const real = addon[name] as (...args: Parameters<Addon[K]>) => unknown
    const call = (...args: Parameters<Addon[K]>): unknown => {
      if (!isRefused(...args)) return real(...args)
      throw Object.assign(new Error(`bpf: EINVAL (Invalid argument)`), { errno: 22, code: 'EINVAL', syscall: 'bpf' })
    }
    return { ...addon, [name]: call }
  }

  // --- an old kernel ---

  const olderKernels: [string, () => Addon, RegExp, RegExp][] = [
    [
      'getpeername hooks, which cannot be loaded',
      () =>
        kernelWithout('loadObject', (path, _maps, _constants, leftOut) => {
          return path.endsWith('connect.bpf.o') && leftOut?.includes('weft_getpeername4') !== true
        }),
      /"piece":"getpeername hooks"/,
      /the proxy carries every connection of pods/,
    ],
    [
      'getpeername hooks, which cannot be attached',
      () => kernelWithout('attachLink', (_program, _target, type) => GETPEERNAME.includes(type)),
      /"piece":"getpeername hooks"/,
      /the proxy carries every connection of pods/,
    ],
    [
      'sockops, which cannot be loaded',
      () => kernelWithout('loadObject', (path) => path.endsWith('sockops.bpf.o')),
      /"piece":"sockops"/,
      /the proxy carries every connection of pods/,
    ],
    [
      'sockops, which cannot be attached',
      () => kernelWithout('attachLink', (_program, _target, type) => type === SOCK_OPS),
      /"piece":"sockops"/,
      /the proxy carries every connection of pods/,
    ],
  ]

  for (const [what, kernel, piece, fallback] of olderKernels) {
    it(`does without ${what}: says so, and the kernel carries nothing by itself`, async () => {
      const capture = open({ addon: kernel() })
      assert.equal(lines.length, 1, lines.join('\n'))
      assert.match(lines[0]!, piece)
      assert.match(lines[0]!, fallback)
      assert.match(lines[0]!, /EINVAL/)
      assert.equal(capture.carrier, null)
      await enrol(capture, a)
      await assertCaptured()
    })
  }

  it('takes over without updating links: says so, and pods are captured as before', async () => {
    const stateDirectory = directory
    const first = open({ stateDirectory })
    await enrol(first, a)
    await first.release()
    const capture = open({ stateDirectory, addon: kernelWithout('updateLink', () => true) })
    assert.match(lines[0]!, /"piece":"updating links".*attached beside those of the old one.*EINVAL/)
    await enrol(capture, a)
    await assertCaptured()
    assert.equal(readdirSync(`${directory}/pins/links`).filter((name) => name.endsWith('-new')).length, 0)
  })

  it('is refused when what it cannot do without is not there, by name', () => {
    const kernel = kernelWithout('loadObject', (path) => path.endsWith('connect.bpf.o'))
    assert.throws(() => open({ addon: kernel }), { code: 'WEFT_BPF', message: /connect\.bpf\.o cannot be loaded/ })
    assert.equal(existsSync(`${directory}/pins`), false)
  })

  // --- the pin directory ---

  it('is refused with a pin directory that is no directory, cannot be written or is read-only, each as what it is', () => {
    writeFileSync(`${directory}/file`, '')
    for (const pinDirectory of [`${directory}/file`, `${directory}/file/pins`]) {
      assert.throws(() => open({ pinDirectory }), {
        code: 'WEFT_CONFIG',
        message: new RegExp(`^the pin directory ${pinDirectory} cannot be used: it is not a directory`),
      })
    }
    assert.throws(() => open({ pinDirectory: '/sys/kernel/weft-pins' }), {
      code: 'WEFT_CONFIG',
      message: /^the pin directory \/sys\/kernel\/weft-pins cannot be used: it cannot be written/,
    })
    const frozen = `${directory}/frozen`
    mkdirSync(frozen)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'ro', 'frozen', frozen])
    try {
      assert.throws(() => open({ pinDirectory: `${frozen}/pins` }), {
        code: 'WEFT_CONFIG',
        message: /cannot be used: its file system is mounted read-only/,
      })
    } finally {
      execFileSync('umount', [frozen])
    }
  })

  it('is refused by a kernel without bpf file systems', () => {
    const kernel = {
      ...addon,
      mountBpfFilesystem: () => {
        throw Object.assign(new Error('mount: ENODEV'), { errno: 19, code: 'ENODEV', syscall: 'mount' })
      },
    }
    assert.throws(() => open({ addon: kernel }), {
      code: 'WEFT_UNSUPPORTED',
      message: /the kernel has no bpf file system; see weft check/,
    })
    rmdirSync(`${directory}/pins`)
  })

  it('names what others have put into its pin directory, and never removes it, also when it is in the way', async () => {
    const capture = open()
    await enrol(capture, a)
    const { heartbeatMapFd } = capture
    const strangers = [`${directory}/pins/maps/theirs`, `${directory}/pins/theirs`]
    for (const path of strangers) addon.pinObject(heartbeatMapFd, path)
    await capture.release()
    const next = open()
    for (const path of strangers)
      assert.ok(
        lines.some((line) => line.includes(`"path":"${path}"`)),
        lines.join('\n'),
      )
    await next.release()

    const inTheWay = `${directory}/pins/links/weft_connect4`
    unlinkSync(inTheWay)
    addon.pinObject(heartbeatMapFd, inTheWay)
    assert.throws(() => open(), { code: 'WEFT_CONFIG', message: new RegExp(`^${inTheWay} is in the way`) })
    for (const path of [...strangers, inTheWay]) {
      assert.ok(existsSync(path))
      unlinkSync(path)
    }
    open()
  })

  // --- the cgroup ---

  it('is refused by a program of somebody else that allows no others, which it names', async () => {
    const loner = network.start(a, [nativeProgram('attach-alone'), network.cgroupPath])
    await once(loner.stdout!, 'data')
    assert.throws(() => open(), {
      code: 'WEFT_CONFIG',
      message:
        /^program weft_connect4 cannot be attached to .*: program loner \(id [0-9]+\) is attached to it or above/,
    })
    const inside = `${network.cgroupPath}/inside`
    mkdirSync(inside)
    assert.throws(() => open({ cgroupPath: inside }), {
      code: 'WEFT_CONFIG',
      message: /another program is attached to it or above/,
    })
    rmdirSync(inside)
    const ended = once(loner, 'exit')
    loner.stdin!.end()
    await ended
    const capture = open()
    await enrol(capture, a)
    await assertCaptured()
  })

  // --- full maps ---

  it('refuses a pod when a map is full, naming both; open connections and other pods are not harmed', async () => {
    const capture = open()
    await enrol(capture, a)
    const steps = ['4', 'connect', b.ipv4, String(APP_PORT), 'read', 'wait', 'write', 'still here', 'read']
    const client = TestClient.start(network, a, steps)
    assert.match(await client.line(), /^connect ok/)
    answerIn(await client.line())
    const programs = programsOf(capture)
    const refusal = (map: string) => ({
      code: 'WEFT_LIMIT',
      message: new RegExp(`^pod test/b cannot be captured: the kernel's map ${map} is full`),
    })
    const enrolB = () => capture.enrol(podToCapture(b), 1)

    const fill = (max: number, insert: (i: number) => void): number => {
      let i = 0
      for (; i < max; i++) {
        try {
          insert(i)
        } catch {
          return i
        }
      }
      return i
    }
    // Keys of no pod: cookies are counted from the start of the machine, and never get so far.
    const far = 1n << 60n
    const addresses = fill(OWN_ADDRESSES_MAX, (i) => programs.ownAddresses.insert(far + BigInt(i), '10.0.0.1'))
    await assert.rejects(enrolB(), refusal('own_addresses'))
    for (let i = 0; i < addresses; i++) programs.ownAddresses.delete(far + BigInt(i), '10.0.0.1')

    const fd = answering[0]!.captured.listeners[0]!.fds![0]!
    const listeners = fill(LISTENERS_MAX, (i) => programs.listeners.insert(far + BigInt(i), 0, 0, fd))
    await assert.rejects(enrolB(), refusal('listeners'))
    for (let i = 0; i < listeners; i++) programs.listeners.delete(far + BigInt(i), 0, 0)

    const pod = { id: 99, scope: 0, isStrict: false, isUnserved: false, isSteeringIpv4: false, isSteeringIpv6: false }
    const pods = fill(PODS_MAX, (i) => programs.pods.insert(far + BigInt(i), { ...pod, interfaces: [] }))
    const { uid, listeners: opened } = await enrolB()
    assert.throws(() => capture.begin(uid), refusal('pods'))
    await capture.withdraw(uid)
    const [, read] = await runClient(network, a, ['4', 'connect', b.ipv4, String(APP_PORT), 'read'])
    assert.equal(answerIn(read).pod, 'a')
    for (let i = 0; i < pods; i++) programs.pods.delete(far + BigInt(i))
    for (const { fds: unused } of opened) for (const fd of unused!) closeSync(fd)

    client.proceed()
    assert.equal(await client.line(), 'write ok')
    assert.equal(await client.line(), 'read still here')
    await enrol(capture, b)
    const [, inbound] = await runClient(network, b, ['4', 'connect', '198.19.0.1', '80', 'read'])
    assert.equal(answerIn(inbound).pod, 'b')
  })
})
