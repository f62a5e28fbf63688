/**
 * A real Kubernetes for a test, on this machine alone. `startControlPlane()` has an API server and controllers and runs
 * no pods; `startCluster({ nodes })` runs pods. Both end with the process that started them, however that ends.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { ClusterFiles } from './cluster-files.ts'
import type { ClusterPlan, ClusterState, ControlReply, ControlRequest, MachineState } from './cluster-state.ts'
import { componentPath } from './components.ts'
import { ENVIRONMENT, type Ended, endOf, enterCommand } from './machine.ts'
import { removeRemains } from './remains.ts'

const SUPERVISOR = join(import.meta.dirname, 'supervisor.ts')

/** A supervisor that was told to end kills its machines and removes what is left of them. */
const END_TIMEOUT_MS = 60_000

/** From a CRD's being established until its objects are served: a fraction of a second, but on a busy machine. */
const SERVED_TIMEOUT_MS = 10_000

export interface StartOptions {
  /** One of its own for each cluster unless told. */
  readonly name?: string
  /** Takes lines of progress, for whoever waits. */
  readonly say?: (line: string) => void
}

let clusters = 0

/** API server, etcd and the controllers that need no nodes. Tests write pods and nodes as they like. */
export function startControlPlane(options: StartOptions = {}): Promise<Cluster> {
  return Cluster.start({ level: 'control-plane', nodeCount: 0, hasWeft: false }, options)
}

export interface NodeOptions extends StartOptions {
  /** One unless told. */
  readonly nodes?: number
  /** False for clusters in which no mesh is installed: they start sooner. */
  readonly hasWeft?: boolean
}

/** A cluster that runs pods, on nodes with a network each. Images: see images.ts. */
export function startCluster({ nodes = 1, hasWeft = true, ...options }: NodeOptions = {}): Promise<Cluster> {
  return Cluster.start({ level: 'node', nodeCount: nodes, hasWeft }, options)
}

export class Cluster {
  readonly name: string
  /** Path of the administrator's kubeconfig, for programs of the host. */
  readonly kubeconfig: string
  /** As it was when the cluster was ready. */
  readonly state: ClusterState
  private readonly supervisor: ChildProcess

  private constructor(state: ClusterState, supervisor: ChildProcess) {
    this.name = state.name
    this.kubeconfig = state.kubeconfig
    this.state = state
    this.supervisor = supervisor
  }

  static async start(plan: Omit<ClusterPlan, 'name'>, { name, say = () => {} }: StartOptions = {}): Promise<Cluster> {
    const chosenName = name ?? `t${process.pid}-${++clusters}`
    if (await askSupervisor(chosenName, { verb: 'status' })) throw new Error(`there is a cluster ${chosenName} already`)
    await removeRemains(chosenName)
    const supervisor = spawn(process.execPath, [SUPERVISOR, JSON.stringify({ ...plan, name: chosenName })], {
      // The supervisor ends when this process does, because its standard input ends then.
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    })
    for await (const line of createInterface({ input: supervisor.stdout! })) {
      const reply = JSON.parse(line) as ControlReply
      if (reply.kind === 'progress') say(reply.line)
      if (reply.kind === 'failed') {
        // It takes down what it made.
        if (supervisor.exitCode === null) await once(supervisor, 'exit')
        throw new Error(`the cluster ${chosenName} could not be started: ${reply.reason}`)
      }
      if (reply.kind === 'state') {
        letEnd(supervisor)
        return new Cluster(reply.state, supervisor)
      }
    }
    throw new Error(`the supervisor of the cluster ${chosenName} ended before the cluster was ready`)
  }

  /** Lets the cluster live on when this process ends. */
  async detach(): Promise<void> {
    const { stdin, stdout } = this.supervisor
    await new Promise<void>((resolve) => stdin!.end('detach\n', () => resolve()))
    stdout!.destroy()
  }

  /** Ends it all, and waits until nothing is left. */
  async stop(): Promise<void> {
    const { supervisor } = this
    if (supervisor.exitCode === null && supervisor.signalCode === null) {
      supervisor.ref()
      const ended = once(supervisor, 'exit')
      supervisor.stdin!.end()
      await ended
    }
    await removeRemains(this.name)
  }

  /** Runs kubectl as the administrator; resolves to what it printed, rejects with what it complained of. */
  async kubectl(args: readonly string[], input = ''): Promise<string> {
    // Clusters have the same addresses one after the other, and kubectl remembers by address which kinds there are.
    const flags = ['--kubeconfig', this.kubeconfig, '--cache-dir', join(this.state.directory, 'kubectl-cache')]
    const child = spawn(componentPath('kubectl'), [...flags, ...args], { stdio: 'pipe' })
    const { status, stdout, stderr } = await endOf(child, input)
    if (status !== 0) throw new Error(`kubectl ${args.join(' ')}: ${stderr.trim()}`)
    return stdout
  }

  /** Applies objects on the server's side, as if their file were applied. */
  async apply(...objects: readonly object[]): Promise<void> {
    const list = { apiVersion: 'v1', kind: 'List', items: objects }
    await this.kubectl(['apply', '--server-side', '--force-conflicts', '-f', '-'], JSON.stringify(list))
  }

  /** The same for an object of a CRD that was just established: the API server serves it a moment later. */
  async applySoon(object: object): Promise<void> {
    const deadline = performance.now() + SERVED_TIMEOUT_MS
    for (;;) {
      try {
        await this.apply(object)
        return
      } catch (error) {
        const isUnserved = (error as Error).message.includes('could not find the requested resource')
        if (!isUnserved || performance.now() > deadline) throw error
        await delay(100)
      }
    }
  }

  /** One object, or a list, as the API server has it. */
  async get<T>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await this.kubectl(['get', ...args, '-o', 'json'])) as T
  }

  /** Arguments of `sh` that run a command in a machine: `control-plane`, `node1`... */
  commandIn(machineName: string, args: readonly string[]): readonly string[] {
    const { pid, cgroups } = this.machine(machineName)
    return enterCommand(pid, cgroups, args)
  }

  /** Runs a program of the host in a machine, as a process of that machine. */
  runIn(machineName: string, args: readonly string[], input = ''): Promise<Ended> {
    return endOf(spawn('sh', this.commandIn(machineName, args), { stdio: 'pipe', env: ENVIRONMENT }), input)
  }

  machine(name: string): MachineState {
    const machine = this.state.machines.find((one) => one.name === name)
    if (machine === undefined) throw new Error(`the cluster ${this.name} has no machine ${name}`)
    return machine
  }

  /** Stops a component, named as `control-plane/kube-apiserver`; it stays down until it is started. */
  async stopComponent(component: string, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.ask({ verb: 'stop', component, signal })
  }

  /** Starts a component again, without waiting until it serves. */
  async startComponent(component: string): Promise<void> {
    await this.ask({ verb: 'start', component })
  }

  /** Waits until the API server answers. */
  async serves(timeoutMs = 60_000): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      try {
        await this.kubectl(['get', '--raw', '/readyz', '--request-timeout=5s'])
        return
      } catch (error) {
        if (performance.now() > deadline) throw error
        await delay(100)
      }
    }
  }

  private async ask(request: ControlRequest): Promise<ClusterState> {
    const state = await askSupervisor(this.name, request)
    if (state === null) throw new Error(`the cluster ${this.name} does not run`)
    return state
  }
}

/** A process that forgot to stop its cluster ends all the same, and the cluster with it. */
function letEnd(supervisor: ChildProcess): void {
  supervisor.unref()
  for (const pipe of [supervisor.stdin, supervisor.stdout]) (pipe as Socket).unref()
}

/** What the supervisor of a cluster says; null when there is none. */
export async function askSupervisor(name: string, request: ControlRequest): Promise<ClusterState | null> {
  const socket = connect(new ClusterFiles(name).socket)
  try {
    await once(socket, 'connect')
  } catch {
    return null
  }
  socket.write(`${JSON.stringify(request)}\n`)
  for await (const line of createInterface({ input: socket })) {
    const reply = JSON.parse(line) as ControlReply
    if (reply.kind === 'state') return reply.state
    if (reply.kind === 'failed') throw new Error(reply.reason)
  }
  return null
}

/** Ends a cluster by name, whoever started it; true when there was something to end. */
export async function takeDown(name: string): Promise<boolean> {
  const state = await askSupervisor(name, { verb: 'down' })
  if (state !== null) {
    const deadline = performance.now() + END_TIMEOUT_MS
    while (existsSync(`/proc/${state.supervisorPid}`)) {
      if (performance.now() > deadline)
        throw new Error(`the supervisor of ${name} (${state.supervisorPid}) does not end`)
      await delay(20)
    }
  }
  return (await removeRemains(name)) || state !== null
}
