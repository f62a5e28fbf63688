/**
 * The one process that owns a test cluster: `node supervisor.ts <plan as JSON>`. It makes the machines, starts their
 * components, tells its progress on standard output and answers at the cluster's socket. It ends, with everything that
 * it made, when it is told to, and when its standard input closes before the line `detach` came: a cluster of a test does
 * not outlive the test. If it is killed itself, the kernel ends what ran in the machines, and `down` removes the rest.
 */
import { mkdirSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { CONTROL_PLANE_ADDRESS, type DualAddress, hostLink } from './addresses.ts'
import { ClusterFiles } from './cluster-files.ts'
import type { ClusterPlan, ClusterState, ControlReply, ControlRequest, MachineState } from './cluster-state.ts'
import type { Component } from './component.ts'
import { buildComponents, KUBERNETES_VERSION } from './components.ts'
import { ControlPlane } from './control-plane.ts'
import { imageStore } from './image-store.ts'
import { buildImages } from './images.ts'
import type { Machine } from './machine.ts'
import { ClusterNode } from './node.ts'
import { removeRemains } from './remains.ts'
import { missingForControlPlane, missingForNodes } from './requirements.ts'

class Supervisor {
  private readonly plan: ClusterPlan
  private readonly files: ClusterFiles
  private readonly server: Server
  private controlPlane: ControlPlane | null = null
  private nodes: readonly ClusterNode[] = []
  private isReady = false
  private isEnding = false

  constructor(plan: ClusterPlan) {
    this.plan = plan
    this.files = new ClusterFiles(plan.name)
    this.server = createServer((socket) => this.onConnection(socket))
  }

  async run(): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => this.end())
    // Its starter may be gone, and then nobody listens.
    process.stdout.on('error', () => {})
    const input = createInterface({ input: process.stdin })
    let isDetached = false
    input.on('line', (line) => {
      if (line === 'detach') isDetached = true
    })
    input.on('close', () => {
      if (!isDetached) this.end()
    })
    const { plan, files, server } = this
    const missing = missingForControlPlane() ?? (plan.nodeCount > 0 ? missingForNodes() : null)
    if (missing !== null) throw new Error(missing)
    mkdirSync(files.directory, { recursive: true })
    // From here on nobody else starts a cluster of this name.
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(files.socket, resolve)
    })
    await buildComponents((line) => tell({ kind: 'progress', line }))
    tell({ kind: 'progress', line: 'starting the control plane' })
    this.controlPlane = await ControlPlane.start({ files, hasNodes: plan.level === 'node' })
    await this.startNodes(this.controlPlane)
    this.isReady = true
    tell({ kind: 'state', state: this.state() })
  }

  /** All at once: they do not wait for each other. */
  private async startNodes(controlPlane: ControlPlane): Promise<void> {
    const { files, plan } = this
    if (plan.nodeCount === 0) return
    const images = buildImages({ hasWeft: plan.hasWeft }, (line) => tell({ kind: 'progress', line }))
    const store = await imageStore(files, images)
    tell({ kind: 'progress', line: plan.nodeCount === 1 ? 'starting a node' : `starting ${plan.nodeCount} nodes` })
    const numbers = Array.from({ length: plan.nodeCount }, (_, index) => index + 1)
    this.nodes = await Promise.all(
      numbers.map((number) =>
        ClusterNode.start({ files, controlPlane, number, nodeCount: plan.nodeCount, imageStore: store }),
      ),
    )
  }

  end(): void {
    if (this.isEnding) return
    this.isEnding = true
    this.takeDown().then(
      () => process.exit(0),
      (error: Error) => {
        tell({ kind: 'failed', reason: error.message })
        process.exit(1)
      },
    )
  }

  /** Works in every state: whatever was made is found by the cluster's name. */
  private async takeDown(): Promise<void> {
    this.server.close()
    // From here to the end of this process nothing else runs, so that a start that was cut short makes nothing more.
    await removeRemains(this.plan.name)
  }

  private onConnection(socket: Socket): void {
    socket.on('error', () => socket.destroy())
    createInterface({ input: socket }).on('line', (line) => {
      this.answer(JSON.parse(line) as ControlRequest)
        .catch((error: Error): ControlReply => ({ kind: 'failed', reason: error.message }))
        .then((reply) => socket.end(`${JSON.stringify(reply)}\n`))
    })
  }

  private async answer(request: ControlRequest): Promise<ControlReply> {
    switch (request.verb) {
      case 'start':
        this.component(request.component).start()
        break
      case 'stop':
        await this.component(request.component).stop(request.signal)
        break
      case 'down':
        // Who asked sees the connection close, and then the process end.
        setImmediate(() => this.end())
        break
      case 'status':
        break
    }
    return { kind: 'state', state: this.state() }
  }

  private component(path: string): Component {
    const found = this.components().find(([machine, component]) => `${machine}/${component.name}` === path)
    if (found !== undefined) return found[1]
    const names = this.components().map(([machine, component]) => `${machine}/${component.name}`)
    throw new Error(`the cluster ${this.plan.name} has no component ${path}; it has ${names.join(', ')}`)
  }

  private components(): readonly (readonly [string, Component])[] {
    const machines = this.controlPlane === null ? [] : [this.controlPlane, ...this.nodes]
    return machines.flatMap(({ machine, components }) => components.map((one) => [machine.name, one] as const))
  }

  private state(): ClusterState {
    const { plan, files, controlPlane } = this
    const machines = this.nodes.map((node) => stateOf(node.machine, node.address))
    if (controlPlane !== null) machines.unshift(stateOf(controlPlane.machine, CONTROL_PLANE_ADDRESS))
    return {
      name: plan.name,
      directory: files.directory,
      level: plan.level,
      isReady: this.isReady,
      version: KUBERNETES_VERSION,
      kubeconfig: files.adminKubeconfig,
      supervisorPid: process.pid,
      host: controlPlane === null ? null : hostLink(controlPlane.linkNumber).host,
      machines,
      components: this.components().map(([machine, { name, pid, logPath }]) => ({ machine, name, pid, logPath })),
    }
  }
}

function stateOf({ name, pid, cgroups }: Machine, address: DualAddress): MachineState {
  return { name, pid, cgroups, address }
}

function tell(reply: ControlReply): void {
  process.stdout.write(`${JSON.stringify(reply)}\n`)
}

const supervisor = new Supervisor(JSON.parse(process.argv[2]!) as ClusterPlan)
supervisor.run().catch((error: Error) => {
  tell({ kind: 'failed', reason: error.message })
  supervisor.end()
})
