/**
 * What an agent tells those who ask it over HTTP: its metrics, whether it is ready, and everything else for operators.
 * Three listeners, because each has an audience of its own; admin.ts serves them.
 *
 *      metrics     /metrics, /stats/prometheus
 *      readiness   /healthz/ready /healthz/live
 *      admin       /config_dump /connections /pods /dns /certificates /healthz/ready POST /quitquitquit
 */
import { formatHostPort } from '../base/address.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'
import type { MetricsRegistry } from '../telemetry/registry.ts'
import { AdminEndpoint, type Answer, jsonAnswer, type Routes, TYPE_TEXT } from './admin.ts'
import type { Capture } from './capture.ts'
import type { CaptureWatch } from './capture-watch.ts'
import { CARRIED_RECORDER, type CarriedReports } from './carried-reports.ts'
import type { CniNode } from './cni-node.ts'
import type { AgentConfig } from './config.ts'
import { describeNames } from './dns-names.ts'
import type { KernelCarriage } from './kernel-carriage.ts'
import type { Pods } from './pods.ts'
import type { Preparation } from './preparation.ts'
import type { Presence } from './presence.ts'
import type { UdpMeter } from './udp-meter.ts'
import type { WorkerReport } from './worker-protocol.ts'
import type { Workers } from './workers.ts'

/** Connections that /connections shows per worker, and of those that the kernel carries. */
const CONNECTIONS_SHOWN_MAX = 1000

const READINESS = 'readiness'

/** The main thread answers. Data workers are watched, and replaced, by the agent itself. */
const ALIVE: Answer = { status: 200, type: TYPE_TEXT, body: 'alive\n' }

/** What is told of: the parts of an agent, and the state it is in. */
export interface AgentEndpointsOptions {
  readonly config: AgentConfig
  readonly log: Logger
  readonly capture: Pick<Capture, 'stats'>
  readonly preparation: Preparation
  /** Null where the kernel carries nothing by itself. */
  readonly carriage: Pick<KernelCarriage, 'isInStep'> | null
  readonly carried: CarriedReports
  readonly captureWatch: Pick<CaptureWatch, 'notCaptured' | 'problemOf' | 'repaired'>
  readonly pods: Pick<Pods, 'states' | 'enrolledCount' | 'netnsOf' | 'pendingCount' | 'refusedCounts'>
  /** Null where the CNI plugin is not installed. */
  readonly cni: Pick<CniNode, 'counts' | 'isChained'> | null
  readonly presence: Pick<Presence, 'totals'>
  readonly registry: MetricsRegistry
  readonly udp: Pick<UdpMeter, 'read'>
  readonly workers: Pick<Workers, 'reports' | 'silentCount'>
  /** New connections are this agent's. */
  readonly isServing: () => boolean
  readonly isStopping: () => boolean
  /** A successor serves. */
  readonly isRetired: () => boolean
  /** An operator asks the agent to end. */
  readonly onQuit: () => void
}

/** See the head of the file. */
export class AgentEndpoints {
  private readonly options: AgentEndpointsOptions
  private readonly listening: AdminEndpoint[] = []
  private wasReady = false

  constructor(options: AgentEndpointsOptions) {
    this.options = options
  }

  /** Opens all of them, with `isTakingOver` beside those of the agent before this one. Rejects with WEFT_SYSCALL. */
  async listen(isTakingOver: boolean): Promise<void> {
    const { config } = this.options
    const metrics = (): Promise<Answer> => this.metrics()
    const metricsRoutes = { '/metrics': metrics, '/stats/prometheus': metrics }
    await this.open('metrics', config.metrics, metricsRoutes, isTakingOver)
    const healthRoutes = { '/healthz/ready': () => this.readiness(), '/healthz/live': () => ALIVE }
    await this.open(READINESS, config.readiness, healthRoutes, isTakingOver)
    await this.open('admin', config.admin, this.adminRoutes(), isTakingOver)
  }

  /**
   * Closes what the successor's endpoints tell from now on; whether this agent lives can still be asked. Never rejects.
   */
  async retire(): Promise<void> {
    for (const endpoint of this.listening.splice(0)) {
      if (endpoint.name === READINESS) this.listening.push(endpoint)
      else await endpoint.close()
    }
  }

  /** Never rejects. Calling it again does nothing. */
  async close(): Promise<void> {
    for (const endpoint of this.listening.splice(0)) await endpoint.close()
  }

  /**
   * Adds what data workers and kernel have counted to the registry, and returns the workers' reports. A report that is
   * not added is lost: workers tell what they have counted once.
   */
  async collect(connectionsMax = 0): Promise<ReadonlyMap<number, WorkerReport>> {
    const { workers, registry, carried } = this.options
    const reports = await workers.reports(connectionsMax)
    for (const [id, report] of reports) registry.merge(id, report.metrics)
    registry.merge(CARRIED_RECORDER, await carried.collect())
    return reports
  }

  private async open(name: string, where: ListenAddress, routes: Routes, isTakingOver: boolean): Promise<void> {
    const { log } = this.options
    const endpoint = new AdminEndpoint(name, routes, log.child('admin'))
    this.listening.push(endpoint)
    const port = await endpoint.listen(where, isTakingOver)
    log.info('endpoint ready', { endpoint: name, address: formatHostPort(where.address, port) })
  }

  private adminRoutes(): Routes {
    const { captureWatch, carried, pods, preparation, onQuit } = this.options
    return {
      '/config_dump': () => jsonAnswer(this.configDump()),
      '/connections': async () => {
        const reports = await this.collect(CONNECTIONS_SHOWN_MAX)
        const proxied = [...reports].flatMap(([worker, { connections }]) => connections.map((c) => ({ worker, ...c })))
        return jsonAnswer([...proxied, ...carried.connections(CONNECTIONS_SHOWN_MAX)])
      },
      '/dns': () => jsonAnswer(describeNames(preparation.snapshot)),
      '/pods': () => jsonAnswer(pods.states().map((pod) => ({ ...pod, problem: captureWatch.problemOf(pod.uid) }))),
      '/certificates': () => jsonAnswer(preparation.certificates.status()),
      '/healthz/ready': () => this.readiness(),
      'POST /quitquitquit': () => {
        setImmediate(onQuit)
        return { status: 200, type: TYPE_TEXT, body: 'stopping\n' }
      },
    }
  }

  private readiness(): Answer {
    const { preparation, pods, carriage, isServing, isStopping, isRetired } = this.options
    const problems: string[] = []
    if (!preparation.subscription.status().isReady) problems.push('no configuration yet')
    if (pods.pendingCount > 0) problems.push(`${pods.pendingCount} pods are not captured yet`)
    if (!isServing()) problems.push('the agent before this one still serves')
    if (isRetired()) problems.push('another agent has taken over')
    else if (isStopping()) problems.push('stopping')
    // Asked at the start only: later it may lag behind for a moment, and connections are the proxy's meanwhile.
    if (problems.length === 0 && !this.wasReady && carriage?.isInStep === false) {
      problems.push('the kernel does not know the configuration yet')
    }
    this.wasReady ||= problems.length === 0
    if (problems.length === 0) return { status: 200, type: TYPE_TEXT, body: 'ready\n' }
    return { status: 503, type: TYPE_TEXT, body: `${problems.join('; ')}\n` }
  }

  private async metrics(): Promise<Answer> {
    const { preparation, capture, captureWatch, carried, cni, pods, presence, registry, udp, workers } = this.options
    const openConnections = new Map<string, number>()
    for (const [, report] of await this.collect()) {
      for (const [uid, count] of report.connectionsByPod) {
        const workload = preparation.snapshot.workloads.get(uid)
        const pod = workload === undefined ? uid : `${workload.namespace}/${workload.name}`
        openConnections.set(pod, (openConnections.get(pod) ?? 0) + count)
      }
    }
    udp.read()
    const certificateExpiryMs = new Map<string, number>()
    for (const { identity, notAfterMs } of preparation.certificates.status()) {
      if (notAfterMs !== null) certificateExpiryMs.set(identity, notAfterMs)
    }
    const body = await registry.render({
      ...capture.stats(),
      ...presence.totals(),
      enrolledPods: pods.enrolledCount,
      podsNotCaptured: captureWatch.notCaptured,
      captureRepairs: captureWatch.repaired,
      silentWorkers: workers.silentCount,
      openConnections,
      certificateExpiryMs,
      configVersion: preparation.snapshot.version,
      configRejected: preparation.subscription.status().rejectedCount,
      carried: carried.state(),
      podNetworks: {
        refused: pods.refusedCounts(),
        cniRequests: cni?.counts ?? null,
        isCniChained: cni?.isChained ?? false,
      },
    })
    return { status: 200, type: registry.contentType, body }
  }

  /** Everything in force, without keys: the model holds none. */
  private configDump(): unknown {
    const { config, preparation } = this.options
    const { snapshot, certificates, subscription } = preparation
    return {
      node: certificates.node,
      trustDomain: certificates.trustDomain,
      settings: config,
      subscription: subscription.status(),
      version: snapshot.version,
      workloads: [...snapshot.workloads.values()],
      services: [...snapshot.services.values()],
      policies: [...snapshot.policies.values()],
      traffic: [...snapshot.traffic.values()],
      // With the networks that were found, for who wants to look into them.
      pods: [...snapshot.pods.values()].map((pod) => ({
        ...pod,
        netns: this.options.pods.netnsOf(pod.uid) ?? pod.netns,
      })),
    }
  }
}
