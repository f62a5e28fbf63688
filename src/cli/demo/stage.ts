/**
 * Sets the demo up and takes it down: the places of the plan, then controller, agents, the pods' programs and our hands
 * inside them. Order matters twice: the wire is watched before anybody can use it, and pods start only when their
 * agents are ready, so that every connection of theirs goes through the mesh from the first packet.
 */
import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { WeftError } from '../../base/errors.ts'
import { Child, type Enclosure } from './children.ts'
import { Hands } from './hands.ts'
import { manifests } from './manifests.ts'
import { PcapReader } from './pcap.ts'
import { type DemoNode, type DemoPlan, type DemoPod, hostNames, isMeshed, podNamed } from './plan.ts'
import { run, SEARCH_PATH } from './shell.ts'
import { createTopology, type DemoPlaces, NODE_LINK, removeTopology } from './topology.ts'
import { WireWatch } from './wire.ts'

/** Pods into which hands are put, for checks. */
const HANDS_IN = ['client', 'outsider', 'productpage'] as const

/** Longest wait for a part to become ready. A machine with one slow core needs some seconds for the slowest. */
const READY_TIMEOUT_MS = 60_000
const POLL_MS = 100

/** What is read of the wire. The demo's own load is some 100 kB/s; a user's load test would cost a core to follow. */
const WIRE_BYTES_MAX = 268_435_456

const METRICS_PORT = 15_020
const READINESS_PORT = 15_021
const ADMIN_PORT = 15_000
const CONTROLLER_ADMIN_PORT = 15_014
/** Ports on which TCP between the nodes may be seen: tunnels, and the agents' stream to the controller. */
const WIRE_PORTS = [15_008, 15_012]

/** What the stage tells while it is being set up. */
export type Progress = (line: string) => void

export class Stage {
  readonly plan: DemoPlan
  readonly runDirectory: string
  /** The working copy of the YAML, which the controller watches. */
  readonly meshDirectory: string
  /** Null where packets cannot be captured. */
  readonly wire: WireWatch | null
  private readonly progress: Progress
  private readonly onLost: (error: WeftError) => void
  private readonly children: Child[] = []
  private readonly handsByName = new Map<string, Hands>()
  private places: DemoPlaces | null = null
  private load: Child | null = null

  /** `onLost` is told when a part ends unasked. */
  constructor(plan: DemoPlan, runDirectory: string, progress: Progress, onLost: (error: WeftError) => void) {
    this.plan = plan
    this.runDirectory = runDirectory
    this.meshDirectory = join(runDirectory, 'mesh')
    this.progress = progress
    this.onLost = onLost
    const strangers = plan.pods.filter((pod) => !isMeshed(plan, pod)).flatMap((pod) => pod.addresses)
    this.wire = plan.kind === 'ebpf' ? new WireWatch(WIRE_PORTS, strangers) : null
  }

  /** Rejects when a part fails or `signal` is aborted; `takeDown` is due in every case. */
  async setUp(signal: AbortSignal): Promise<void> {
    await this.clearRemains()
    mkdirSync(join(this.runDirectory, 'logs'), { recursive: true, mode: 0o700 })
    if (this.plan.kind === 'ebpf') {
      this.progress(`namespaces for ${this.plan.nodes.length} nodes and ${this.plan.pods.length} pods`)
      this.places = await createTopology(this.plan, this.runDirectory)
      signal.throwIfAborted()
      await this.watchWire(signal)
    }
    this.writeMesh()
    signal.throwIfAborted()
    for (const node of this.plan.nodes) this.handsByName.set(node.name, this.startHands(node.name, null, node))
    await this.startController(signal)
    for (const node of this.plan.nodes) await this.startAgent(node, signal)
    await this.waitForAgents(signal)
    this.progress('programs of the pods')
    for (const pod of this.plan.pods) if (pod.program !== 'load') this.startProgram(pod)
    for (const name of HANDS_IN) {
      this.handsByName.set(name, this.startHands(name, podNamed(this.plan, name)))
    }
    await this.waitForPage(signal)
  }

  /** Starts the load; `onOutput` takes its reports. */
  startLoad(onOutput: (output: Readable) => void): void {
    this.load = this.startProgram(podNamed(this.plan, 'client'), onOutput)
  }

  /** Ends the load; everything else goes on. */
  async endLoad(): Promise<void> {
    await this.load?.end()
  }

  /** Hands in a pod or on a node. Throws when there are none. */
  hands(name: string): Hands {
    const hands = this.handsByName.get(name)
    if (hands === undefined) throw new Error(`the demo has no hands in ${name}`)
    return hands
  }

  /** Text of an agent's `/metrics`. */
  async metrics(node: DemoNode): Promise<string> {
    const answer = await this.hands(node.name).get({ host: nodeHost(node), port: METRICS_PORT, path: '/metrics' })
    if (answer.status === 200) return answer.body
    throw new WeftError('WEFT_CLOSED', `the agent of ${node.name} gives no metrics: ${answer.error ?? answer.status}`)
  }

  /** Ends every process and removes everything. Resolves with what could not be removed. */
  async takeDown(): Promise<readonly string[]> {
    // The youngest first: load before programs, agents (which remove their capture) before the controller.
    const stages = [...this.children].reverse()
    const isAgent = (child: Child) => child.name.startsWith('agent-')
    const isControl = (child: Child) => isAgent(child) || child.name === 'controller'
    await Promise.all(stages.filter((child) => !isControl(child)).map((child) => child.end()))
    await Promise.all(stages.filter(isAgent).map((child) => child.end()))
    await Promise.all(stages.map((child) => child.end()))
    return await this.remove()
  }

  // --- places ---

  private async clearRemains(): Promise<void> {
    const left = await this.remove()
    if (left.length > 0) {
      throw new WeftError('WEFT_SYSCALL', `what an earlier demo left cannot be removed: ${left.join('; ')}`)
    }
  }

  private async remove(): Promise<readonly string[]> {
    if (this.plan.kind === 'ebpf') return await removeTopology(this.runDirectory)
    rmSync(this.runDirectory, { recursive: true, force: true })
    return []
  }

  private writeMesh(): void {
    mkdirSync(this.meshDirectory, { recursive: true })
    for (const [name, text] of manifests(this.plan)) writeFileSync(join(this.meshDirectory, name), text)
    const rules = fileURLToPath(deployPath('mesh'))
    for (const name of readdirSync(rules)) copyFileSync(join(rules, name), join(this.meshDirectory, name))
    if (this.places !== null) this.writeEnterScript(this.places)
  }

  /** Enters a pod completely: its namespace as well as the cgroup whose connections are captured. */
  private writeEnterScript(places: DemoPlaces): void {
    const path = this.enterScript
    const lines = [
      '#!/bin/sh',
      '# Runs a program inside a pod of the demo: in POD PROGRAM [ARGUMENTS]',
      `echo $$ >'${places.cgroup}/cgroup.procs' || exit`,
      'pod=$1 && shift && exec ip netns exec "weft-demo-$pod" "$@"',
    ]
    writeFileSync(path, `${lines.join('\n')}\n`)
    chmodSync(path, 0o755)
  }

  private get controllerState(): string {
    return join(this.runDirectory, 'controller')
  }

  get enterScript(): string {
    return join(this.runDirectory, 'in')
  }

  // --- processes ---

  private async watchWire(signal: AbortSignal): Promise<void> {
    const node = this.plan.nodes[0]!
    const wire = this.wire!
    const reader = new PcapReader((segment) => wire.add(segment))
    const child = this.start(
      'tcpdump',
      this.enclosureOf(node),
      // Unbuffered, whole packets: records are followed through their lengths.
      ['tcpdump', '-i', NODE_LINK, '-U', '-n', '-s', '0', '-B', '65536', '-w', '-', 'tcp'],
      {},
      (output) => {
        let left = WIRE_BYTES_MAX
        output.on('data', (bytes: Buffer) => {
          left -= bytes.length
          if (left >= 0) return reader.push(bytes)
          wire.cut()
          // The end of the process is waited for at take-down.
          void child.end()
        })
      },
    )
    await waitUntil(
      signal,
      () => child.lastLines().includes('listening on'),
      'tcpdump',
      () => child.lastLines(),
    )
  }

  private async startController(signal: AbortSignal): Promise<void> {
    this.progress('controller')
    const node = this.plan.nodes[0]!
    const places = ['--source-directory', this.meshDirectory, '--state', this.controllerState]
    const ports = ['--listen', this.plan.controller, '--admin', `${nodeHost(node)}:${CONTROLLER_ADMIN_PORT}`]
    this.startWeft('controller', node, ['controller', ...places, ...ports])
    await this.waitForAnswer(node, CONTROLLER_ADMIN_PORT, 'the controller', signal)
  }

  private async startAgent(node: DemoNode, signal: AbortSignal): Promise<void> {
    const credentials = join(this.runDirectory, 'credentials', node.name)
    const issue = ['controller', 'issue', '--node', node.name, '--out', credentials]
    await run(process.execPath, [weftScript(), ...issue, '--state', this.controllerState])
    signal.throwIfAborted()
    this.progress(`agent of ${node.name}`)
    const places: string[] = []
    if (this.places !== null) {
      const pins = join(this.places.bpf, node.name)
      places.push('--cgroup', this.places.cgroup, '--pin-directory', pins)
    }
    if (node.serviceBlock !== null) places.push('--loopback-block', node.serviceBlock)
    const host = nodeHost(node)
    this.startWeft(`agent-${node.name}`, node, [
      'agent',
      ...['--node', node.name, '--controller', this.plan.controller, '--credentials', credentials],
      ...['--state', join(this.runDirectory, 'state', node.name), '--capture', this.plan.kind, ...places],
      ...['--metrics', `${host}:${METRICS_PORT}`, '--readiness', `${host}:${READINESS_PORT}`],
      ...['--admin', `${host}:${ADMIN_PORT}`],
      // Two agents, their controller and ten programs share this machine.
      ...['--workers', '1', '--drain', '2s'],
    ])
  }

  private async waitForAgents(signal: AbortSignal): Promise<void> {
    for (const node of this.plan.nodes) {
      await this.waitForAnswer(node, READINESS_PORT, `the agent of ${node.name}`, signal)
    }
  }

  private async waitForAnswer(node: DemoNode, port: number, what: string, signal: AbortSignal): Promise<void> {
    let reason = ''
    const isReady = async () => {
      const order = { host: nodeHost(node), port, path: '/healthz/ready', timeoutMs: 1000, isFresh: true }
      const answer = await this.hands(node.name).get(order)
      reason = answer.error ?? `${answer.status} ${answer.body}`
      return answer.status === 200
    }
    await waitUntil(signal, isReady, what, () => reason)
  }

  /** The first whole page is the proof that everything is in place. */
  private async waitForPage(signal: AbortSignal): Promise<void> {
    this.progress('first page through the mesh')
    let reason = ''
    const isServed = async () => {
      const order = { host: 'productpage', port: 9080, path: '/productpage', timeoutMs: 2000, isFresh: true }
      const answer = await this.hands('client').get(order)
      reason = answer.error ?? `${answer.status} ${answer.body.slice(0, 300)}`
      return answer.status === 200 && !answer.body.includes('Error fetching')
    }
    await waitUntil(signal, isServed, 'the product page', () => reason)
  }

  private startProgram(pod: DemoPod, onOutput: ((output: Readable) => void) | null = null): Child {
    const script = fileURLToPath(deployPath(pod.program))
    return this.startNode(pod.name, this.enclosureOf(pod), [script], this.podEnvironment(pod), onOutput)
  }

  private startHands(name: string, pod: DemoPod | null, node?: DemoNode): Hands {
    const script = fileURLToPath(deployPath('hands'))
    const enclosure = this.enclosureOf(pod ?? node!)
    const environment = pod === null ? {} : this.podEnvironment(pod)
    return new Hands(name, (onOutput) => this.startNode(`hands-${name}`, enclosure, [script], environment, onOutput))
  }

  private startWeft(name: string, node: DemoNode, args: readonly string[]): Child {
    const netns = node.netns
    const enclosure: Enclosure = netns === null ? { kind: 'none' } : { kind: 'node', netns }
    return this.startNode(name, enclosure, [weftScript(), ...args], {}, null)
  }

  private startNode(
    name: string,
    enclosure: Enclosure,
    args: readonly string[],
    environment: Readonly<Record<string, string>>,
    onOutput: ((output: Readable) => void) | null,
  ): Child {
    const tether = deployPath('tether').href
    return this.start(name, enclosure, [process.execPath, '--import', tether, ...args], environment, onOutput)
  }

  private start(
    name: string,
    enclosure: Enclosure,
    command: readonly [string, ...string[]],
    environment: Readonly<Record<string, string>>,
    onOutput: ((output: Readable) => void) | null,
  ): Child {
    const cgroup = this.places?.cgroup ?? null
    const child = new Child(
      { name, enclosure, cgroup, command, environment, onOutput },
      join(this.runDirectory, 'logs'),
    )
    child.whenLost(this.onLost)
    this.children.push(child)
    return child
  }

  private enclosureOf(place: DemoNode | DemoPod): Enclosure {
    return place.netns === null ? { kind: 'none' } : { kind: 'pod', netns: place.netns }
  }

  private podEnvironment(pod: DemoPod): Readonly<Record<string, string>> {
    const environment = { ...pod.environment, HOSTNAME: pod.name, PATH: SEARCH_PATH }
    if (pod.appAddress === null) return environment
    return {
      ...environment,
      WEFT_DEMO_LISTEN: pod.appAddress,
      WEFT_DEMO_SOURCE: pod.addresses[0]!,
      WEFT_DEMO_HOSTS: JSON.stringify(Object.fromEntries(hostNames(this.plan, pod.node))),
    }
  }
}

/** Where a node's own ports are found from inside the node. */
export function nodeHost(node: DemoNode): string {
  return node.netns === null ? node.address : '127.0.0.1'
}

/** Polls `condition` until it holds. Rejects with WEFT_TIMEOUT and the last reason when it does not in time. */
export async function waitUntil(
  signal: AbortSignal,
  condition: () => boolean | Promise<boolean>,
  what: string,
  reason: () => string,
): Promise<void> {
  const deadlineMs = performance.now() + READY_TIMEOUT_MS
  while (!(await condition())) {
    signal.throwIfAborted()
    if (performance.now() > deadlineMs) {
      const seconds = READY_TIMEOUT_MS / 1000
      throw new WeftError('WEFT_TIMEOUT', `${what} is not ready after ${seconds} s. Last seen:\n${reason()}`)
    }
    await delay(POLL_MS, undefined, { signal })
  }
}

// --- files of our own, as sources or compiled ---

const isCompiled = import.meta.url.endsWith('.js')

/** A program under deploy/demo, or its directory of rules. */
function deployPath(name: string): URL {
  const directory = new URL(isCompiled ? '../../deploy/demo/' : '../../../deploy/demo/', import.meta.url)
  if (name === 'mesh') return new URL('mesh/', directory)
  return new URL(`${name}.${isCompiled ? 'js' : 'ts'}`, directory)
}

function weftScript(): string {
  return fileURLToPath(new URL(isCompiled ? '../main.js' : '../main.ts', import.meta.url))
}
