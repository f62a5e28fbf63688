/**
 * The scene of the kernel bench: a whole mesh (test/support/live-mesh.ts) with the programs that serve in its pods, and
 * the ways from a client to a server that are compared.
 *
 *      no mesh              plain   -> plain-near    pods outside of the mesh, one node
 *      kernel               client  -> near          authorised and chosen at connect(), then plain TCP
 *      relay                client  -> near          the same service with a limit that only the proxy can keep: one hop
 *      no mesh, two nodes   plain   -> plain-far
 *      tunnel               client  -> far           HBONE over mutual TLS, both agents
 *
 * Every pod has a veth pair of its own, all of them alike.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../src/cli/demo/shell.ts'
import { findCgroup2Mount } from '../../src/kernel/probe.ts'
import { LiveMesh } from '../../test/support/live-mesh.ts'

export type WayName = 'no mesh' | 'kernel' | 'relay' | 'no mesh, two nodes' | 'tunnel'

/** One way of a client to a server. */
interface Way {
  readonly client: string
  readonly server: string
  /** Name of the service that is dialled; null dials the server's own address. */
  readonly service: string | null
}

const WAYS: Readonly<Record<WayName, Way>> = {
  'no mesh': { client: 'plain', server: 'plain-near', service: null },
  kernel: { client: 'client', server: 'near', service: 'kernel' },
  relay: { client: 'client', server: 'near', service: 'relay' },
  'no mesh, two nodes': { client: 'plain', server: 'plain-far', service: null },
  tunnel: { client: 'client', server: 'far', service: 'tunnel' },
}

/** Addresses of the services, and the pods behind them. */
const SERVICES = {
  kernel: { address: '198.19.1.1', app: 'near' },
  relay: { address: '198.19.1.2', app: 'near' },
  tunnel: { address: '198.19.1.3', app: 'far' },
} as const

/** What the programs of a server listen on; those named "Apart" are on another core than their clients. */
export const PORTS = {
  bulk: 5201,
  bulkApart: 5202,
  echo64: 5301,
  echo4k: 5302,
  echo64Apart: 5303,
  hangUp: 5304,
} as const
export type PortName = keyof typeof PORTS

/**
 * Where nobody stands between client and server both are on one core: then a number is how much work the way is, and
 * repeats within two percent. On two cores a round trip is mostly how long a core takes to wake up (some 40 of 54 us, in
 * which five percent would hide two). With a proxy between them they are apart, as the scheduler does it on an idle
 * machine: left to itself it changes its mind between rounds, and with it the numbers by a factor of two.
 */
const CORE = 0
const CLIENT_CORE_APART = 1
const APART: ReadonlySet<PortName> = new Set(['bulkApart', 'echo64Apart'])

/** A limit of connections that is never met: somebody has to count them, which the kernel's programs do not. */
const RELAY_RULE = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: relay, namespace: default }
spec:
  host: relay.default.svc.cluster.local
  trafficPolicy:
    connectionPool: { tcp: { maxConnections: 100000 } }
`

export class Stage {
  readonly mesh: LiveMesh
  /** Cgroup of all pods, with the programs attached. */
  readonly cgroup: string
  /** A cgroup beside it, without programs. */
  readonly bareCgroup: string
  private readonly directory: string
  private readonly traffic: string

  private constructor(mesh: LiveMesh, cgroup: string, directory: string, traffic: string) {
    this.mesh = mesh
    this.cgroup = cgroup
    this.bareCgroup = `${cgroup}-bare`
    this.directory = directory
    this.traffic = traffic
    mkdirSync(this.bareCgroup)
  }

  /** Compiles the clients and servers, starts everything, and sees that each way is the one that it is named after. */
  static async start(workers: number): Promise<Stage> {
    const directory = mkdtempSync(join(tmpdir(), 'weft-bench-'))
    let stage: Stage | null = null
    try {
      const traffic = join(directory, 'traffic')
      const source = join(import.meta.dirname, 'traffic.c')
      execFileSync('cc', ['-std=c11', '-D_GNU_SOURCE', '-O2', '-pthread', source, '-o', traffic])
      const mesh = await LiveMesh.start({
        pods: [
          { name: 'client', node: 'node1' },
          { name: 'near', node: 'node1' },
          { name: 'far', node: 'node2' },
          { name: 'plain', node: 'node1', namespace: 'outside' },
          { name: 'plain-near', node: 'node1', namespace: 'outside' },
          { name: 'plain-far', node: 'node2', namespace: 'outside' },
        ],
        rules: { 'bench-services.yaml': servicesYaml(), 'relay.yaml': RELAY_RULE },
        workers,
      })
      stage = new Stage(mesh, `${findCgroup2Mount()}/${mesh.plan.name}`, directory, traffic)
      for (const { name } of mesh.plan.pods) await stage.forgetConnections(name)
      for (const pod of ['near', 'far', 'plain-near', 'plain-far']) await stage.serveIn(pod)
      await stage.proveWays()
      return stage
    } catch (error) {
      if (stage === null) rmSync(directory, { recursive: true })
      else await stage.close()
      throw error
    }
  }

  async close(): Promise<void> {
    try {
      await this.mesh.close()
    } finally {
      rmdirSync(this.bareCgroup)
      rmSync(this.directory, { recursive: true })
    }
  }

  /** Round trips on one connection to one of the echo servers; the client's line of JSON. */
  async ping(way: WayName, port: PortName, bytes: number, seconds: number): Promise<string> {
    return await this.clientOf(way, port, (address) => [
      ...[this.traffic, 'ping', address, String(PORTS[port])],
      ...[String(bytes), String(seconds)],
    ])
  }

  /** As many connections as there is time for; the client's line of JSON. */
  async connect(way: WayName, seconds: number): Promise<string> {
    return await this.clientOf(way, 'hangUp', (address) => [
      ...[this.traffic, 'connect', address, String(PORTS.hangUp)],
      String(seconds),
    ])
  }

  /** Compares connect() in a pod outside of the mesh with and without the programs. */
  async connectCost(seconds: number): Promise<string> {
    // Not by `ip netns exec`, which hides the cgroups behind a /sys of its own.
    const netns = `--net=/run/netns/${this.mesh.plan.pod('plain').netns}`
    return await run('nsenter', [netns, this.traffic, 'cost', this.cgroup, this.bareCgroup, String(seconds)])
  }

  /** Sends so many bytes over a way, in all streams together. iperf3's report. */
  async iperf(way: WayName, port: PortName, streams: number, bytes: number): Promise<string> {
    return await this.clientOf(way, port, (address) => [
      ...['iperf3', '-J', '-c', address, '-p', String(PORTS[port])],
      ...['-P', String(streams), '-n', String(bytes)],
    ])
  }

  private async clientOf(
    way: WayName,
    port: PortName,
    commandFor: (address: string) => readonly string[],
  ): Promise<string> {
    const core = APART.has(port) ? CLIENT_CORE_APART : CORE
    const command = onCore(core, commandFor(this.addressOf(way)))
    const { client } = WAYS[way]
    const { status, stdout, stderr } = await this.mesh.run(client, command)
    if (status !== 0) throw new Error(`"${command.join(' ')}" in ${client} ended with ${status}: ${stderr}${stdout}`)
    return stdout
  }

  private addressOf(way: WayName): string {
    const { server, service } = WAYS[way]
    if (service !== null) return SERVICES[service as keyof typeof SERVICES].address
    return this.mesh.plan.pod(server).addresses[0]!
  }

  /**
   * The kernel keeps of a connection, by both addresses, what the next one begins with. A client on another core than its
   * server sees its packets reordered; what is kept of that makes later connections between two pods five percent faster,
   * and only those of the ways that have been measured so: it would be compared which cases came before.
   */
  private async forgetConnections(pod: string): Promise<void> {
    const { status, stderr } = await this.mesh.run(pod, ['sysctl', '-qw', 'net.ipv4.tcp_no_metrics_save=1'])
    if (status !== 0) throw new Error(`${pod} goes on keeping TCP metrics: ${stderr}`)
  }

  private async serveIn(pod: string): Promise<void> {
    const { mesh, traffic } = this
    const bulk = (port: PortName): string[] => ['iperf3', '-s', '-p', String(PORTS[port])]
    const echo = (port: PortName, bytes: number): string[] => [traffic, 'echo', String(PORTS[port]), String(bytes)]
    const commands: Readonly<Record<PortName, readonly string[]>> = {
      bulk: bulk('bulk'),
      bulkApart: bulk('bulkApart'),
      echo64: echo('echo64', 64),
      echo4k: echo('echo4k', 4096),
      echo64Apart: echo('echo64Apart', 64),
      hangUp: [traffic, 'hang-up', String(PORTS.hangUp)],
    }
    for (const [name, command] of Object.entries(commands)) {
      mesh.startIn(pod, name, onCore(CORE, command))
    }
    await mesh.eventually(`the servers of ${pod} listen`, async () => {
      const { stdout } = await mesh.run(pod, ['ss', '-Hltn'])
      return Object.values(PORTS).every((port) => stdout.includes(`:${port} `))
    })
  }

  /** A row that says "kernel" and measures the proxy would be worse than no row. */
  private async proveWays(): Promise<void> {
    for (const [way, isSteered] of [
      ['kernel', false],
      ['relay', true],
      ['tunnel', true],
    ] as const) {
      const before = await this.steeredCount()
      await this.ping(way, 'echo64Apart', 64, 0.2)
      const steered = (await this.steeredCount()) - before
      if (steered !== (isSteered ? 1 : 0)) {
        throw new Error(`the way "${way}" is not what its name says: ${steered} connections were steered to the proxy`)
      }
    }
  }

  private async steeredCount(): Promise<number> {
    return await this.mesh.metric('node1', 'weft_captured_connections_total', { direction: 'outbound' })
  }
}

function onCore(core: number, command: readonly string[]): [string, ...string[]] {
  return ['taskset', '-c', String(core), ...command]
}

function servicesYaml(): string {
  const ports = Object.entries(PORTS).map(([name, port]) => `    - { name: tcp-${name.toLowerCase()}, port: ${port} }`)
  return Object.entries(SERVICES)
    .map(
      ([name, { address, app }]) => `apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: default }
spec:
  clusterIP: ${address}
  clusterIPs: [${address}]
  selector: { app: ${app} }
  ports:
${ports.join('\n')}
`,
    )
    .join('---\n')
}
