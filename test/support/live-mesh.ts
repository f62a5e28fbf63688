/**
 * A whole mesh on the real kernel: a controller and two agents in processes of their own, pods in network namespaces
 * with unmodified programs, and YAML in a directory. The scenario reads as sentences:
 *
 *      const mesh = await LiveMesh.start({ pods: [{ name: 'client', node: 'node1' }, ...], services: ['near'] })
 *      await mesh.run('client', ['curl', 'http://near:8080/'])
 *      mesh.writeRules('deny.yaml', '...')
 *      await mesh.close()
 *
 * Everything bears the name of this process; eBPF is attached to a cgroup of the mesh's own. `close` removes all of it,
 * in every case, and says when a process has ended that should not have.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { silentLog } from '../../src/base/log.ts'
import { Child, type Enclosure } from '../../src/cli/demo/children.ts'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { PcapReader } from '../../src/cli/demo/pcap.ts'
import type { DemoPod } from '../../src/cli/demo/plan.ts'
import { run, SEARCH_PATH } from '../../src/cli/demo/shell.ts'
import { addPod, createTopology, type DemoPlaces, NODE_LINK, removeTopology } from '../../src/cli/demo/topology.ts'
import { type WireReport, WireWatch } from '../../src/cli/demo/wire.ts'
import { issueNodeCredential } from '../../src/controller/node-credential.ts'
import { LivePlan, type LivePodOptions, type NodeName, type PodProgram } from './live-plan.ts'
import { Traffic, type TrafficOptions } from './live-traffic.ts'
import { type Finished, finished } from './netns.ts'
import { writeNginxSite } from './nginx-site.ts'

export const NODES: readonly NodeName[] = ['node1', 'node2']

/** Longest wait for anything. Only a failing test waits so long. */
const PATIENCE_MS = 60_000
const POLL_MS = 50

/** Characters of a log that are shown when a request fails: its last seconds. */
const LOG_SHOWN = 4000

const WEFT = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
const TETHER = new URL('../../deploy/demo/tether.ts', import.meta.url).href
const DEBUGGER = fileURLToPath(new URL('./live-debugger.ts', import.meta.url))
const PREFIX = 'weft-live'

export interface LiveMeshOptions {
  readonly pods: readonly LivePodOptions[]
  /** Names of services; each stands for the pods of the same name, in their namespace. */
  readonly services?: readonly string[]
  /** File name and text of users' YAML. */
  readonly rules?: Readonly<Record<string, string>>
  readonly controllerFlags?: readonly string[]
  readonly agentFlags?: readonly string[]
  /** Further flags of one node's agent. */
  readonly flagsOf?: (node: NodeName) => readonly string[]
  readonly workers?: number
  /** False leaves the agents out: no mesh, for comparison. */
  readonly hasAgents?: boolean
}

let meshes = 0

export class LiveMesh {
  /** What is run as `weft` from now on: this build, or another one. */
  program = WEFT
  readonly plan: LivePlan
  readonly runDirectory: string
  private readonly options: LiveMeshOptions
  private readonly children = new Map<string, Child>()
  private readonly unasked: string[] = []
  /** Programs with pipes to the test: one that lives on keeps the test from ending. */
  private readonly piped = new Set<ChildProcessWithoutNullStreams>()
  private places!: DemoPlaces
  private wire: WireWatch | null = null
  private startedCount = 0

  private constructor(options: LiveMeshOptions) {
    this.options = options
    this.plan = new LivePlan(`${PREFIX}${process.pid}-${++meshes}`)
    this.runDirectory = `/run/${this.plan.name}`
    for (const pod of options.pods) this.plan.addPod(pod)
    for (const name of options.services ?? []) this.plan.addService(name, this.plan.pod(name).namespace)
  }

  /** Starts everything and resolves when both agents are ready and every program listens. */
  static async start(options: LiveMeshOptions): Promise<LiveMesh> {
    await removeRemains()
    const mesh = new LiveMesh(options)
    try {
      await mesh.open()
      return mesh
    } catch (error) {
      const logs = [...mesh.children.keys()].map((name) => `--- ${name}\n${mesh.log(name).slice(-2000)}`)
      await mesh.close().catch(() => {})
      throw new Error(`the mesh did not start; logs:\n${logs.join('\n')}`, { cause: error })
    }
  }

  private async open(): Promise<void> {
    const { plan, options } = this
    mkdirSync(join(this.runDirectory, 'logs'), { recursive: true, mode: 0o700 })
    mkdirSync(this.rulesDirectory)
    this.places = await createTopology(plan, this.runDirectory)
    this.writeObjects()
    for (const [name, text] of Object.entries(options.rules ?? {})) this.writeRules(name, text)
    for (const pod of options.pods) this.startPrograms(pod.name, pod.programs ?? [])
    if (options.hasAgents !== false) {
      await this.startController()
      await Promise.all(NODES.map((node) => this.issueCredential(node)))
      await Promise.all(NODES.map((node) => this.startAgent(node)))
    }
    for (const pod of options.pods) await this.programsListen(pod.name, pod.programs ?? [])
  }

  /** Ends every process and removes everything. Rejects when something stayed, or a process had ended unasked. */
  async close(): Promise<void> {
    for (const child of this.piped) child.kill('SIGKILL')
    const names = [...this.children.keys()].reverse()
    const isControl = (name: string) => name.startsWith('agent-') || name === 'controller'
    await Promise.all(names.filter((name) => !isControl(name)).map((name) => this.end(name)))
    await Promise.all(names.filter((name) => name.startsWith('agent-')).map((name) => this.end(name)))
    await Promise.all(names.map((name) => this.end(name)))
    const left = await removeTopology(this.runDirectory, this.plan.name)
    if (left.length > 0) throw new Error(`the mesh left behind: ${left.join('; ')}`)
    if (this.unasked.length > 0) throw new Error(this.unasked.join('\n'))
  }

  // --- rules and objects ---

  get rulesDirectory(): string {
    return join(this.runDirectory, 'mesh')
  }

  /** Directory of a node's credential: cert.pem, key.pem, root.pem. */
  credentials(node: NodeName): string {
    return join(this.runDirectory, 'credentials', node)
  }

  /** Directory of an agent's state. */
  stateDirectory(node: NodeName): string {
    return join(this.runDirectory, 'state', node)
  }

  /** Directory of an agent's pins. */
  pinDirectory(node: NodeName): string {
    return join(this.places.bpf, node)
  }

  /** Puts a file of YAML in place at once, as editors and configuration management do. */
  writeRules(name: string, text: string): void {
    const staged = join(this.runDirectory, 'staged')
    writeFileSync(staged, text)
    renameSync(staged, join(this.rulesDirectory, name))
  }

  removeRules(name: string): void {
    rmSync(join(this.rulesDirectory, name), { force: true })
  }

  /** Writes pods, services and namespaces as the plan has them now. */
  writeObjects(): void {
    for (const [name, text] of manifests(this.plan)) this.writeRules(name, text)
  }

  /** Adds a pod while the mesh runs: namespace and programs first, then its object, as in a cluster. */
  async addPod(options: LivePodOptions): Promise<DemoPod> {
    const pod = this.plan.addPod(options)
    await addPod(this.plan, pod)
    this.startPrograms(pod.name, options.programs ?? [])
    await this.programsListen(pod.name, options.programs ?? [])
    this.writeObjects()
    return pod
  }

  /** Deletes a pod: its processes end, its object and its namespace's name go, in that order. */
  async deletePod(name: string): Promise<void> {
    const pod = this.plan.pod(name)
    for (const child of [...this.children.keys()].filter((key) => key.startsWith(`${name}/`))) await this.end(child)
    this.plan.removePod(name)
    this.writeObjects()
    await run('ip', ['netns', 'del', pod.netns!])
  }

  hasPod(name: string): boolean {
    return this.plan.pods.some((pod) => pod.name === name)
  }

  /** True while a process of that name has not been ended by the test. */
  hasChild(name: string): boolean {
    return this.children.has(name)
  }

  /** True while the kernel still has the namespace of a deleted pod: its end of the wire is on the node's bridge. */
  async hasWire(node: NodeName, podName: string): Promise<boolean> {
    const links = await run('ip', ['-n', `${this.plan.name}-${node}`, '-br', 'link'])
    return links.split('\n').some((line) => line.startsWith(`${podName}@`))
  }

  // --- control ---

  async startController(): Promise<void> {
    this.startWeft('controller', 'node1', [
      'controller',
      ...['--source-directory', this.rulesDirectory, '--state', this.controllerState],
      ...['--listen', this.plan.controller, '--admin', '127.0.0.1:15014'],
      ...(this.options.controllerFlags ?? []),
    ])
    await this.answers('node1', 15_014, 'controller')
  }

  /** Starts a node's agent and resolves when it is ready: configured, and every pod captured. */
  async startAgent(node: NodeName): Promise<void> {
    this.spawnAgent(node)
    await this.answers(node, 15_021, `agent-${node}`)
  }

  /**
   * Starts another agent beside the one of a node, and resolves when it serves: with the old one, which may still drain
   * (see `ended`).
   */
  async upgradeAgent(node: NodeName, flags: readonly string[] = []): Promise<Child> {
    const old = this.spawnSuccessor(node, flags)
    await this.eventually(`another agent of ${node} serves`, () => {
      const child = this.children.get(`agent-${node}`)!
      if (!child.isRunning) throw new Error(`agent-${node} has ended:\n${this.log(`agent-${node}`)}`)
      return child.lastLines().includes('agent started')
    })
    await this.answers(node, 15_021, `agent-${node}`)
    return old
  }

  /** Starts another agent beside the one of a node, which is returned, without waiting for anything. */
  spawnSuccessor(node: NodeName, flags: readonly string[] = []): Child {
    const name = `agent-${node}`
    const old = this.children.get(name)!
    this.children.set(`${name}-${++this.startedCount}`, old)
    this.spawnAgent(node, flags)
    return old
  }

  /** The process of that name. */
  child(name: string): Child {
    return this.children.get(name)!
  }

  /** Starts another agent beside the one of a node, which is to fail, and returns it. */
  spawnDoomed(node: NodeName, flags: readonly string[] = []): Child {
    const name = `agent-${node}`
    const old = this.children.get(name)!
    this.spawnAgent(node, flags)
    const doomed = this.children.get(name)!
    this.children.set(`${name}-${++this.startedCount}`, doomed)
    this.children.set(name, old)
    return doomed
  }

  /** A process is known by that name from now on; what had it before has ended. */
  rename(child: Child, name: string): void {
    for (const [other, found] of this.children) if (found === child) this.children.delete(other)
    this.children.set(name, child)
  }

  /** Starts a node's agent without waiting for anything. */
  spawnAgent(node: NodeName, flags: readonly string[] = []): void {
    this.startWeft(`agent-${node}`, node, [
      'agent',
      ...['--node', node, '--controller', this.plan.controller, '--credentials', this.credentials(node)],
      ...['--state', this.stateDirectory(node), '--cgroup', this.places.cgroup],
      ...['--pin-directory', this.pinDirectory(node), '--drain', '10s'],
      ...['--workers', String(this.options.workers ?? 1)],
      ...(this.options.agentFlags ?? []),
      ...(this.options.flagsOf?.(node) ?? []),
      ...flags,
    ])
  }

  private async issueCredential(node: NodeName): Promise<void> {
    const order = { node, outDirectory: this.credentials(node), stateDirectory: this.controllerState }
    await issueNodeCredential({ ...order, given: null, trustDomain: 'cluster.local' }, silentLog)
  }

  private get controllerState(): string {
    return join(this.runDirectory, 'controller')
  }

  /** Asks a process to end (SIGTERM) and waits. */
  async end(name: string): Promise<void> {
    const child = this.children.get(name)
    this.children.delete(name)
    await child?.end()
  }

  /** Kills a process at once (SIGKILL) and waits. */
  async kill(name: string): Promise<void> {
    const child = this.children.get(name)!
    this.children.delete(name)
    process.kill(child.pid, 'SIGKILL')
    await child.end()
  }

  pid(name: string): number {
    return this.children.get(name)!.pid
  }

  /** Everything a process has logged. */
  log(name: string): string {
    const path = join(this.runDirectory, 'logs', `${name.replace('/', '-')}.log`)
    return existsSync(path) ? readFileSync(path, 'utf8') : ''
  }

  // --- what endpoints say ---

  async get(node: NodeName, port: number, path: string): Promise<string> {
    return await this.onNode(node, ['curl', '-sS', '--max-time', '5', `http://127.0.0.1:${port}${path}`])
  }

  async configDump(node: NodeName): Promise<Record<string, unknown>> {
    return JSON.parse(await this.get(node, 15_000, '/config_dump')) as Record<string, unknown>
  }

  async metrics(node: NodeName): Promise<string> {
    return await this.get(node, 15_020, '/metrics')
  }

  /** Sum of a family's values over the series that have all these labels. */
  async metric(node: NodeName, family: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    let sum = 0
    for (const line of (await this.metrics(node)).split('\n')) {
      if (!line.startsWith(family) || !/^[{ ]/.test(line.slice(family.length))) continue
      if (Object.entries(labels).every(([name, value]) => line.includes(`${name}="${value}"`))) {
        sum += Number(line.slice(line.lastIndexOf(' ')))
      }
    }
    return sum
  }

  async controllerStatus(): Promise<{
    readonly generation: string
    readonly messages: readonly { readonly severity: string }[]
  }> {
    return JSON.parse(await this.get('node1', 15_014, '/status'))
  }

  // --- programs ---

  /** Runs a program on a node, outside of any pod. */
  async onNode(node: NodeName, command: readonly [string, ...string[]]): Promise<string> {
    return await run('nsenter', [`--net=/run/netns/${this.plan.name}-${node}`, ...command])
  }

  /** Ends a data worker of a node's agent, as a bug would. */
  async endWorker(node: NodeName): Promise<void> {
    await this.debug(node, 'end')
  }

  /** Blocks a data worker, or the main thread, of a node's agent as a bug would; what is returned lets it go on. */
  async block(node: NodeName, thread: 'worker' | 'main'): Promise<() => void> {
    const gate = join(this.runDirectory, `blocked-${node}-${++this.startedCount}`)
    writeFileSync(gate, '')
    const open = (): void => rmSync(gate, { force: true })
    try {
      await this.debug(node, thread === 'main' ? 'block-main' : 'block', gate)
    } catch (error) {
      open()
      throw error
    }
    return open
  }

  private async debug(node: NodeName, ...what: readonly string[]): Promise<void> {
    await this.onNode(node, [process.execPath, DEBUGGER, String(this.pid(`agent-${node}`)), ...what])
  }

  /** Runs a program of a node's own, as a kubelet is one: in its network, and where the agents' programs see it. */
  runOnNode(node: NodeName, command: readonly string[]): Promise<Finished> {
    const netns = `${this.plan.name}-${node}`
    const script = 'echo $$ >"$0/cgroup.procs" && exec setpriv --pdeathsig KILL -- ip netns exec "$@"'
    const args = ['-c', script, this.places.cgroup, netns, ...command]
    return finished(spawn('sh', args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: SEARCH_PATH } }))
  }

  /** Runs a program inside a pod to its end; `input` is its standard input. */
  run(pod: string, command: readonly string[], input = ''): Promise<Finished> {
    const child = this.spawnIn(pod, command)
    child.stdin.end(input)
    return finished(child)
  }

  /** Starts a program inside a pod with pipes to it; it is killed by `close` at the latest. */
  spawnIn(pod: string, command: readonly string[]): ChildProcessWithoutNullStreams {
    const { netns } = this.plan.pod(pod)
    const script = 'echo $$ >"$0/cgroup.procs" && exec setpriv --pdeathsig KILL -- ip netns exec "$@"'
    const child = spawn('sh', ['-c', script, this.places.cgroup, netns!, ...command], {
      stdio: 'pipe',
      env: { PATH: SEARCH_PATH },
    })
    child.stdin.on('error', () => {})
    this.piped.add(child)
    child.on('close', () => this.piped.delete(child))
    return child
  }

  /** Standard output of curl in a pod, or `curl: (52) ...` when it fails. */
  async curl(pod: string, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(pod, ['curl', '-sS', '--max-time', '10', ...args])
    return status === 0 ? stdout : stderr.trim()
  }

  /** Status code of a GET from a pod; `000` when there was no answer. */
  async code(pod: string, url: string, ...args: string[]): Promise<string> {
    const { stdout } = await this.run(pod, [
      ...['curl', '-s', '-o', '/dev/null', '--max-time', '10', '-w', '%{http_code}', ...args, url],
    ])
    return stdout
  }

  /** Rejects unless a GET from a pod is answered with 200; then says what the client and both agents say of it. */
  async assertServed(pod: string, url: string, ...args: string[]): Promise<void> {
    const format = '%{http_code} after %{time_total} s, from %{local_ip} to %{remote_ip}'
    const { stdout, stderr } = await this.run(pod, [
      ...['curl', '-sS', '-o', '/dev/null', '--max-time', '30', '-w', format, ...args, url],
    ])
    if (stdout.startsWith('200 ')) return
    const said = [`a GET of ${url} from ${pod} was answered with ${stdout.trim()} ${stderr.trim()}`]
    for (const node of NODES) {
      said.push(`--- open connections of ${node}`, await this.get(node, 15_000, '/connections').catch(String))
      said.push(`--- log of agent-${node}`, this.log(`agent-${node}`).slice(-LOG_SHOWN))
    }
    throw new Error(said.join('\n'))
  }

  /** Starts a program in a pod that runs until `end(pod/name)` or `close`. */
  startIn(pod: string, name: string, command: readonly [string, ...string[]]): Child {
    const { netns } = this.plan.pod(pod)
    return this.startChild(`${pod}/${name}`, { kind: 'pod', netns: netns! }, command, { HOSTNAME: pod })
  }

  /** Requests from a pod, one after the other, until it is told to stop. */
  traffic(pod: string, options: TrafficOptions): Traffic {
    const { netns } = this.plan.pod(pod)
    return new Traffic((command, onOutput) => {
      const name = `${pod}/traffic-${++this.startedCount}`
      return this.startChild(name, { kind: 'pod', netns: netns! }, command, {}, onOutput)
    }, options)
  }

  private startPrograms(pod: string, programs: readonly PodProgram[]): void {
    if (programs.includes('web')) {
      const site = writeNginxSite(join(this.runDirectory, 'sites', pod), pod)
      this.startIn(pod, 'nginx', ['nginx', '-p', site, '-c', 'nginx.conf', '-e', 'stderr'])
    }
    if (programs.includes('talk')) {
      for (const name of ['tcp-echo', 'greeter']) this.startIn(pod, name, [process.execPath, demoProgram(name)])
    }
  }

  private async programsListen(pod: string, programs: readonly PodProgram[]): Promise<void> {
    const ports = programs.flatMap((program) => (program === 'web' ? [8080] : [9000, 7000]))
    if (ports.length === 0) return
    const { netns } = this.plan.pod(pod)
    await this.eventually(`programs of ${pod}`, async () => {
      const lines = await run('ip', ['netns', 'exec', netns!, 'ss', '-Hltn'])
      return ports.every((port) => new RegExp(`:${port}\\s`).test(lines))
    })
  }

  private startWeft(name: string, node: NodeName, args: readonly string[]): void {
    const command = [process.execPath, '--import', TETHER, this.program, ...args] as const
    this.startChild(name, { kind: 'node', netns: `${this.plan.name}-${node}` }, [...command], {})
  }

  private startChild(
    name: string,
    enclosure: Enclosure,
    command: readonly [string, ...string[]],
    environment: Readonly<Record<string, string>>,
    onOutput: ConstructorParameters<typeof Child>[0]['onOutput'] = null,
  ): Child {
    const options = {
      name: name.replace('/', '-'),
      enclosure,
      cgroup: this.places.cgroup,
      command,
      environment,
      onOutput,
    }
    const child = new Child(options, join(this.runDirectory, 'logs'))
    child.whenLost((error) => {
      if (this.children.get(name) === child) this.unasked.push(error.message)
    })
    this.children.set(name, child)
    return child
  }

  private async answers(node: NodeName, port: number, name: string): Promise<void> {
    let reason = ''
    await this.eventually(
      `${name} is ready`,
      async () => {
        if (!this.children.get(name)!.isRunning) throw new Error(`${name} has ended:\n${this.log(name)}`)
        try {
          reason = await this.get(node, port, '/healthz/ready')
        } catch (error) {
          reason = String(error)
        }
        return reason === 'ready\n'
      },
      () => reason,
    )
  }

  // --- watching ---

  /** Begins to judge every TCP byte between the nodes: `wireReport` says what was seen. */
  async watchWire(exempt: readonly string[] = []): Promise<void> {
    await this.watch(`${this.plan.name}-node1`, NODE_LINK, exempt)
  }

  /** The same for everything that comes to or leaves a pod. */
  async watchPod(pod: string): Promise<void> {
    await this.watch(this.plan.pod(pod).netns!, 'eth0', [])
  }

  private async watch(netns: string, link: string, exempt: readonly string[]): Promise<void> {
    const wire = new WireWatch([15_008, 15_012], exempt)
    this.wire = wire
    const reader = new PcapReader((segment) => wire.add(segment))
    // Without immediate mode the kernel keeps the last packets back until there are more.
    const tcpdump = ['tcpdump', '-i', link, '--immediate-mode', '-U', '-n', '-s', '0', '-B', '65536', '-w', '-', 'tcp']
    const enclosure = { kind: 'pod', netns } as const
    const child = this.startChild('tcpdump', enclosure, tcpdump as [string, ...string[]], {}, (output) => {
      output.on('data', (bytes: Buffer) => reader.push(bytes))
    })
    await this.eventually('tcpdump listens', () => child.lastLines().includes('listening on'))
  }

  /** Ends the watch and tells what it saw. */
  async wireReport(): Promise<WireReport> {
    await this.end('tcpdump')
    return this.wire!.report()
  }

  /** Polls until `condition` holds; rejects with `what`, and with `reason` if given. */
  async eventually(
    what: string,
    condition: () => boolean | Promise<boolean>,
    reason: () => string = () => '',
  ): Promise<void> {
    const deadlineMs = performance.now() + PATIENCE_MS
    while (!(await condition())) {
      if (performance.now() > deadlineMs) throw new Error(`not within ${PATIENCE_MS / 1000} s: ${what} ${reason()}`)
      await delay(POLL_MS)
    }
  }
}

function demoProgram(name: string): string {
  return fileURLToPath(new URL(`../../deploy/demo/${name}.ts`, import.meta.url))
}

/** Removes what meshes of processes left that were killed; meshes of living processes are left alone. */
async function removeRemains(): Promise<void> {
  for (const name of readdirSync('/run').filter((entry) => entry.startsWith(PREFIX))) {
    const pid = /^weft-live([0-9]+)-/.exec(name)?.[1]
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) await removeTopology(`/run/${name}`, name)
  }
}
