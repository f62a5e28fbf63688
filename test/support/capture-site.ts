/**
 * A network with pods a and b, and captures that the test opens on it, in its own process or in others. `close` ends and
 * removes all of it, also after a failure: nothing of it keeps the test from ending.
 */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { EbpfCapture, type EbpfCaptureOptions } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import type { Pod } from '../../src/kernel/maps.ts'
import { AnsweringPod, runClient, startApp } from './answering-pod.ts'
import type { AgentRequest } from './capture-agent.ts'
import { TestNetwork, type TestPod } from './netns.ts'

/** Of the apps in both pods. */
export const APP_PORT = 8080

/** Of this build. */
export const ROOT = `${import.meta.dirname}/../../`

/** A pod that an agent in another process is to enrol. */
export type AgentPod = AgentRequest['pods'][number]

export class CaptureSite {
  readonly network: TestNetwork
  readonly a: TestPod
  readonly b: TestPod
  /** Holds `pins` and `state`, once a capture has made them. */
  readonly directory: string
  /** All pods that were enrolled in this process. */
  readonly answering: AnsweringPod[] = []
  private readonly captures: EbpfCapture[] = []
  private readonly released = new Set<EbpfCapture>()

  private constructor(network: TestNetwork) {
    this.network = network
    this.a = network.pod('a')
    this.b = network.pod('b')
    this.directory = `/run/${network.prefix}`
    mkdirSync(this.directory)
  }

  /** With an app in both pods. */
  static async create(): Promise<CaptureSite> {
    const site = new CaptureSite(TestNetwork.create(['a', 'b']))
    for (const pod of [site.a, site.b]) await startApp(site.network, pod, APP_PORT)
    return site
  }

  /** Both pods, b strict. */
  get both(): AgentPod[] {
    return [
      { ...this.a, isStrict: false },
      { ...this.b, isStrict: true },
    ]
  }

  options(more: Partial<EbpfCaptureOptions> = {}): EbpfCaptureOptions {
    const places = { pinDirectory: `${this.directory}/pins`, stateDirectory: `${this.directory}/state` }
    mkdirSync(places.stateDirectory, { recursive: true })
    return { cgroupPath: this.network.cgroupPath, ...places, log: silentLog, ...more }
  }

  /** A capture in this process; `close` closes it. `Capture` may be that of another build. */
  open(more: Partial<EbpfCaptureOptions> = {}, Capture = EbpfCapture): EbpfCapture {
    const capture = Capture.open(this.options(more))
    this.captures.push(capture)
    return capture
  }

  /** It holds no pins any more, as if it was dead. */
  async release(capture: EbpfCapture): Promise<void> {
    await capture.release()
    this.released.add(capture)
  }

  async enrol(capture: EbpfCapture, pod: TestPod, isStrict = false): Promise<AnsweringPod> {
    const enrolled = await AnsweringPod.enrol(capture, pod, 1, isStrict)
    this.answering.push(enrolled)
    return enrolled
  }

  /** A whole agent in a process of its own, of this build or of the one in that directory. Not ready yet. */
  spawnAgent(request: Partial<AgentRequest> & Pick<AgentRequest, 'pods'>, build = ROOT): ChildProcess {
    const { log: _, addon: __, ...places } = this.options()
    const version = build === ROOT ? 'new' : 'old'
    const addonPath = `${NATIVE_BUILD_DIRECTORY}weft.node`
    const whole: AgentRequest = { mode: 'stay', addonPath, version, ...places, ...request }
    const node = { ...this.a, netns: `/var/run/netns/${this.network.nodeNetns}` }
    const program = `${build}/test/support/capture-agent.ts`
    return this.network.start(node, [process.execPath, program, JSON.stringify(whole)])
  }

  /** The same, when it has enrolled its pods. */
  async startAgent(pods: readonly AgentPod[], build = ROOT): Promise<ChildProcess> {
    const agent = this.spawnAgent({ pods }, build)
    let errors = ''
    agent.stderr!.on('data', (text) => {
      errors += text
    })
    await Promise.race([once(agent.stdout!, 'data'), once(agent, 'exit').then(() => assert.fail(errors))])
    return agent
  }

  /** What a client in one pod reads from the app's port of another; its error otherwise. */
  async read(from: TestPod, to: TestPod, family: '4' | '6' = '4'): Promise<string> {
    const address = family === '4' ? to.ipv4 : to.ipv6
    const steps = [family, 'connect', address, String(APP_PORT), 'read']
    const [connect, text] = await runClient(this.network, from, steps)
    return connect!.startsWith('connect ok') ? text! : connect!
  }

  /** What is pinned, by path below the pin directory: the kernel's numbers of each link and of the program it has. */
  pinnedLinks(): Map<string, { id: number; programId: number }> {
    const addon = loadAddon()
    const found = new Map<string, { id: number; programId: number }>()
    for (const kind of ['links', 'pods']) {
      for (const name of readdirSync(`${this.directory}/pins/${kind}`)) {
        const fd = addon.openPinned(`${this.directory}/pins/${kind}/${name}`)
        const { id, programId } = addon.describeLink(fd)
        found.set(`${kind}/${name}`, { id, programId })
        closeSync(fd)
      }
    }
    return found
  }

  /** Nothing of another layout is left; the kernel has files of its own in a bpf file system. */
  assertOneSet(): void {
    const entries = readdirSync(`${this.directory}/pins`).filter((name) => !name.endsWith('.debug'))
    assert.deepEqual(entries.sort(), ['links', 'maps', 'pods'])
  }

  /** Kills the agents, closes the captures and removes everything; what they have left behind fails. */
  async close(): Promise<void> {
    await this.network.close(
      ...this.answering.map((pod) => () => pod.close()),
      // What agents that were killed have left is taken over, to be removed.
      () => {
        const isLeft = this.captures.every((capture) => this.released.has(capture))
        if (existsSync(`${this.directory}/pins`) && isLeft) this.open()
      },
      ...[...this.captures, null].map((_, index) => () => this.captures[index]?.close()),
      () => {
        const left = readdirSync(this.directory).filter((name) => name !== 'state')
        assert.deepEqual(left, [], 'the pin directory is gone')
      },
      () => rmSync(this.directory, { recursive: true, force: true }),
    )
  }
}

/** What a capture has in the kernel. */
export function programsOf(capture: EbpfCapture): CapturePrograms {
  return (capture as unknown as { programs: CapturePrograms }).programs
}

/** The pods that are captured, by netns cookie. */
export function podsOf(capture: EbpfCapture): Map<bigint, Pod> {
  return programsOf(capture).pods.entries()
}
