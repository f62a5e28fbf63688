/**
 * The agent, composed: what is made of what, in which order it starts, how it gives way to the next one (handover.ts), and
 * in which order it ends.
 *
 * Start: credential -> admin endpoints -> capture -> workers -> subscription. Ready when configuration is in force and
 * every pod of this node is captured. End: no new connections, exchanges in flight end, workers ended, capture given up:
 * what is in the kernel stays for the next agent.
 */
import { closeSync, mkdirSync } from 'node:fs'
import { formatHostPort } from '../base/address.ts'
import { systemClock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'
import { loadAddon } from '../kernel/addon.ts'
import type { Delta } from '../model/delta.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { DRAIN_IDLE_MS } from '../proxy/http-session.ts'
import { MetricsRegistry } from '../telemetry/registry.ts'
import { RegistryExport } from '../telemetry/registry-export.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import { AdminEndpoint, type Answer, jsonAnswer, type Routes, TYPE_TEXT } from './admin.ts'
import type { Capture } from './capture.ts'
import { CaptureWatch } from './capture-watch.ts'
import { CARRIED_RECORDER, CarriedReports } from './carried-reports.ts'
import type { Certificates } from './certificates.ts'
import type { AgentConfig } from './config.ts'
import { describeNames } from './dns-names.ts'
import { Handover } from './handover.ts'
import { REPORT_SERIES_MAX } from './handover-messages.ts'
import type { OfferOwner } from './handover-offer.ts'
import { KernelCarriage } from './kernel-carriage.ts'
import { canAnswerDns, openCapture } from './open-capture.ts'
import { Pods } from './pods.ts'
import type { Predecessor } from './predecessor.ts'
import { Preparation, type PreparationUser, wholeState } from './preparation.ts'
import { Presence } from './presence.ts'
import type { Subscription } from './subscription.ts'
import { UdpMeter } from './udp-meter.ts'
import type { WorkerReport } from './worker-protocol.ts'
import { chooseTransport } from './worker-transport.ts'
import { Workers } from './workers.ts'

/** Connections that /connections shows per worker, and of those that the kernel carries. */
const CONNECTIONS_SHOWN_MAX = 1000

/** Number under which the registry adds up what the agent before this one tells; workers have positive ones. */
const PREDECESSOR = -2

/** Longest wait for all pods to be enrolled before a predecessor is relieved; it waits a minute. */
const ENROL_MS_MAX = 30_000

/**
 * How long a retired agent accepts what still arrives at its listeners. Whoever's SYN came before the successor served
 * has its handshake done by then, also with a round trip of a second or with one packet lost (1 s until it is repeated).
 */
const LINGER_MS = 3000

/** How long an idle HTTP connection may wait for one more request: a minute of ten. Longer would tell few clients more. */
const DRAIN_IDLE_SHARE = 0.1

/** What the program around the agent gives it. */
export interface AgentHost {
  /** Of this program, as `istio_build` shows it. */
  readonly version: string
  /** Lines of the access log, newline included. */
  readonly accessLog: (lines: string) => void
  /** Log lines of the workers, as the logger's sink takes them. */
  readonly logLine: (line: string) => void
  /** Descriptor to which a data worker may write what `logLine` cannot while the main thread stands still; -1 for none. */
  readonly alarmFd: number
}

/** One agent of this process. */
export class Agent implements PreparationUser, OfferOwner {
  private readonly config: AgentConfig
  private readonly log: Logger
  private readonly preparation: Preparation
  private readonly handover: Handover
  private readonly certificates: Certificates
  private readonly capture: Capture
  private readonly presence: Presence
  private readonly workers: Workers
  private readonly pods: Pods
  /** Null where the kernel carries nothing by itself. */
  private readonly carriage: KernelCarriage | null
  private readonly carried: CarriedReports
  private readonly udp: UdpMeter
  private readonly subscription: Subscription
  private readonly captureWatch: CaptureWatch
  private readonly registry: MetricsRegistry
  private readonly endpoints: AdminEndpoint[] = []
  private wasReady = false
  private readonly counted: RegistryExport
  /** The data workers that can take connections, by number. */
  private servingWorkers: readonly number[] = []
  private isServing = false
  private isStopping = false
  /** A successor serves; resolves when what was open here has ended. */
  private retirement: Promise<void> | null = null
  private onQuit: (() => void) | null = null

  private constructor(
    config: AgentConfig,
    log: Logger,
    host: AgentHost,
    preparation: Preparation,
    handover: Handover,
    capture: Capture,
  ) {
    const { certificates, gate, subscription } = preparation
    this.config = config
    this.log = log
    this.preparation = preparation
    this.handover = handover
    this.certificates = certificates
    this.capture = capture
    this.subscription = subscription
    const { carrier } = capture
    this.carriage =
      carrier == null
        ? null
        : new KernelCarriage(carrier, log.child('carriage'), (changes) => this.workers.setCarried(changes))
    const isServingAll = (): boolean => this.subscription.status().isReady && this.pods.pendingCount === 0
    this.carried = new CarriedReports({
      kernel: capture.carried ?? null,
      names: this.carriage?.names ?? null,
      accessLog: config.accessLog ? host.accessLog : null,
      log: log.child('carried'),
      areNamesKnown: isServingAll,
    })
    this.udp = new UdpMeter({
      kernel: capture.udp ?? null,
      names: this.carriage?.names ?? null,
      snapshot: () => this.snapshot,
      now: systemClock.now,
      log: log.child('udp'),
    })
    this.registry = new MetricsRegistry({
      component: 'proxy',
      version: host.version,
      now: systemClock.now,
      roundTrips: this.carried.roundTrips,
      udp: this.udp.traffic,
    })
    this.presence = new Presence({
      counts: capture.unserved ?? null,
      log: log.child('presence'),
      isServingAll,
    })
    const addon = capture.kind === 'ebpf' ? loadAddon() : null
    const transport = chooseTransport(config.transport, log)
    this.workers = new Workers({
      count: config.workers,
      start: {
        node: certificates.node,
        trustDomain: certificates.trustDomain,
        isLogging: config.accessLog,
        transport,
        heartbeatMapFd: capture.heartbeatMapFd ?? -1,
        slotBase: handover.slotBase,
        vitals: this.presence.vitals.buffer,
        alarmFd: addon === null ? -1 : host.alarmFd,
      },
      logLevel: config.logLevel,
      log: log.child('workers'),
      wholeState: () => wholeState(this.snapshot),
      duplicate: (fd) => (addon === null ? fd : addon.duplicateFd(fd)),
      closeFd: closeSync,
      onAccessLog: host.accessLog,
      onLogLine: host.logLine,
      onCrash: (id) => this.registry.forgetWorker(id),
      onServing: (workers) => {
        this.servingWorkers = workers
        if (this.isServing) capture.setServing?.(workers)
      },
    })
    this.pods = new Pods({
      capture,
      workers: this.workers,
      carriage: this.carriage,
      log: log.child('pods'),
      isAnsweringDns: canAnswerDns(config, transport, log),
      credentialReady: (identity) => gate.ready(identity),
      onIdentities: (identities) => certificates.setIdentities(identities),
    })
    this.captureWatch = new CaptureWatch({
      audit: (uid) => this.pods.audit(uid),
      wanted: () => this.pods.wanted(),
      renew: (uid) => this.pods.renew(uid),
      log: log.child('capture'),
    })
    this.counted = new RegistryExport(this.registry, REPORT_SERIES_MAX)
  }

  /**
   * Starts an agent; resolves when it serves, though perhaps without configuration yet. With another agent that runs with
   * the same state directory it is prepared first, and takes over then. Rejects with WeftError when a setting, the
   * credential, the kernel or an address is not usable; then nothing of it is left running, and another agent goes on.
   */
  static async start(config: AgentConfig, log: Logger, host: AgentHost): Promise<Agent> {
    mkdirSync(config.state, { recursive: true, mode: 0o700 })
    const preparation = await Preparation.open(config, log)
    const handover = await Handover.begin({
      stateDirectory: config.state,
      version: host.version,
      node: preparation.certificates.node,
      log: log.child('handover'),
    })
    let agent: Agent | null = null
    try {
      if (handover.predecessor !== null) await takeOver(handover.predecessor, preparation, handover)
      agent = new Agent(
        config,
        log,
        host,
        preparation,
        handover,
        await openCapture(config, log, host.version, handover),
      )
      await agent.open()
      return agent
    } catch (error) {
      if (agent !== null) await agent.stop()
      else await preparation.stop()
      await handover.end()
      throw error
    }
  }

  /** Calls back when an operator asks the agent to end (/quitquitquit). */
  set quitListener(listener: () => void) {
    this.onQuit = listener
  }

  private async open(): Promise<void> {
    const { config, handover, preparation } = this
    // Whoever runs now answers for this node until it is this agent that serves.
    if (handover.predecessor === null) await this.listenAll(false)
    this.isServing = !handover.isPredecessorServing
    this.presence.start()
    this.captureWatch.start()
    this.carried.start()
    this.udp.start()
    await this.workers.start()
    preparation.attach(this)
    await preparation.begin()
    if (handover.isPredecessorServing) {
      await settledWithin(this.pods.settled, ENROL_MS_MAX)
      await handover.commit(
        (report) => this.registry.merge(PREDECESSOR, report),
        () => this.registry.forgetWorker(PREDECESSOR),
      )
    }
    if (handover.predecessor !== null) await this.listenAll(true)
    handover.succeed(() => this.serve())
    handover.serve(this)
    this.log.info('agent started', {
      node: this.certificates.node,
      workers: config.workers,
      capture: this.capture.kind,
      controller: formatHostPort(config.controller.host, config.controller.port),
    })
  }

  /** New connections are ours from here on. */
  private serve(): void {
    this.isServing = true
    this.capture.setServing?.(this.servingWorkers)
    this.capture.dismissPredecessor?.()
  }

  /** Ends in order; open connections have `--drain` to finish. Safe to call twice. */
  async stop(): Promise<void> {
    if (this.isStopping) return
    this.isStopping = true
    this.log.info('agent is stopping', { node: this.certificates.node })
    await this.preparation.stop()
    this.captureWatch.stop()
    await this.pods.stop()
    this.carriage?.stop()
    if (this.retirement === null) {
      // Capture first: new connections go as without an agent. The next agent finds the pods captured, and may begin now.
      if (this.isServing) await this.capture.drain?.()
      await this.workers.drainAlone(this.config.drain)
    } else await settledWithin(this.retirement, this.config.drain)
    // A predecessor that is told that this agent ends has what was taken from it back: not before it is released.
    if (this.isServing) await this.handover.end()
    await this.workers.end()
    this.presence.stop()
    await this.carried.stop()
    this.udp.stop()
    await this.capture.release?.()
    await this.handover.end()
    await this.capture.close()
    await this.closeEndpoints()
  }

  // --- PreparationUser ---

  onDelta(delta: Delta): void {
    this.workers.applyDelta(delta)
    if (this.isStopping) return
    this.carriage?.update(this.snapshot)
    this.pods.update(this.snapshot)
  }

  onComplete(): void {
    this.pods.confirm()
  }

  onMaterial(material: TlsMaterial): void {
    this.workers.setCredential(material)
  }

  onIdentityRemoved(identity: string): void {
    this.workers.dropCredential(identity)
  }

  private get snapshot(): Snapshot {
    return this.preparation.snapshot
  }

  // --- OfferOwner: this agent gives way to the next ---

  get slotBase(): number {
    return this.handover.slotBase
  }

  credentials(): readonly TlsMaterial[] {
    return this.certificates.materials()
  }

  async release(): Promise<void> {
    this.pods.pause()
    this.carriage?.stop()
    this.captureWatch.stop()
    this.subscription.leaveFile()
    await this.carried.stop()
    this.udp.stop()
    await this.capture.release?.(true)
  }

  async resume(): Promise<void> {
    if (this.isStopping) return
    await this.capture.resume?.()
    this.carriage?.resume()
    this.carried.start()
    this.udp.start()
    this.captureWatch.start()
    this.subscription.resumeFile()
    this.capture.setServing?.(this.servingWorkers)
    this.pods.resume()
  }

  async reports(): Promise<readonly MetricsReport[]> {
    await this.collect()
    return await this.counted.take()
  }

  retire(): void {
    // Neither this nor the retirement rejects.
    void this.closeEndpoints()
    if (this.isStopping) return
    const { handoverDrain } = this.config
    const idleMs = Math.max(DRAIN_IDLE_MS, handoverDrain * DRAIN_IDLE_SHARE)
    this.retirement = this.workers.drain({ lingerMs: LINGER_MS, idleMs }, handoverDrain)
    void this.retirement.then(() => this.onQuit?.())
  }

  // --- endpoints ---

  private async listenAll(isTakingOver: boolean): Promise<void> {
    const { config } = this
    await this.listen('metrics', config.metrics, this.metricsRoutes(), isTakingOver)
    await this.listen('readiness', config.readiness, { '/healthz/ready': () => this.readiness() }, isTakingOver)
    await this.listen('admin', config.admin, this.adminRoutes(), isTakingOver)
  }

  private async closeEndpoints(): Promise<void> {
    for (const endpoint of this.endpoints.splice(0)) await endpoint.close()
  }

  private async listen(name: string, where: ListenAddress, routes: Routes, isTakingOver: boolean): Promise<void> {
    const admin = new AdminEndpoint(name, routes, this.log.child('admin'))
    this.endpoints.push(admin)
    const port = await admin.listen(where, isTakingOver)
    this.log.info('endpoint ready', { endpoint: name, address: formatHostPort(where.address, port) })
  }

  private metricsRoutes(): Routes {
    const metrics = (): Promise<Answer> => this.metrics()
    return { '/metrics': metrics, '/stats/prometheus': metrics }
  }

  private adminRoutes(): Routes {
    return {
      '/config_dump': () => jsonAnswer(this.configDump()),
      '/connections': async () => {
        const reports = await this.collect(CONNECTIONS_SHOWN_MAX)
        const proxied = [...reports].flatMap(([worker, { connections }]) => connections.map((c) => ({ worker, ...c })))
        return jsonAnswer([...proxied, ...this.carried.connections(CONNECTIONS_SHOWN_MAX)])
      },
      '/dns': () => jsonAnswer(describeNames(this.snapshot)),
      '/certificates': () => jsonAnswer(this.certificates.status()),
      '/healthz/ready': () => this.readiness(),
      'POST /quitquitquit': () => {
        setImmediate(() => this.onQuit?.())
        return { status: 200, type: TYPE_TEXT, body: 'stopping\n' }
      },
    }
  }

  private readiness(): Answer {
    const problems: string[] = []
    if (!this.subscription.status().isReady) problems.push('no configuration yet')
    if (this.pods.pendingCount > 0) problems.push(`${this.pods.pendingCount} pods are not captured yet`)
    if (!this.isServing) problems.push('the agent before this one still serves')
    if (this.isStopping) problems.push('stopping')
    // Asked at the start only: later it may lag behind for a moment, and connections are the proxy's meanwhile.
    if (problems.length === 0 && !this.wasReady && this.carriage?.isInStep === false) {
      problems.push('the kernel does not know the configuration yet')
    }
    this.wasReady ||= problems.length === 0
    if (problems.length === 0) return { status: 200, type: TYPE_TEXT, body: 'ready\n' }
    return { status: 503, type: TYPE_TEXT, body: `${problems.join('; ')}\n` }
  }

  /**
   * Adds what data workers and kernel have counted to the registry, and returns the workers' reports. A report that is
   * not added is lost: workers tell what they have counted once.
   */
  private async collect(connectionsMax = 0): Promise<ReadonlyMap<number, WorkerReport>> {
    const reports = await this.workers.reports(connectionsMax)
    for (const [id, report] of reports) this.registry.merge(id, report.metrics)
    this.registry.merge(CARRIED_RECORDER, await this.carried.collect())
    return reports
  }

  private async metrics(): Promise<Answer> {
    const openConnections = new Map<string, number>()
    for (const [, report] of await this.collect()) {
      for (const [uid, count] of report.connectionsByPod) {
        const workload = this.snapshot.workloads.get(uid)
        const pod = workload === undefined ? uid : `${workload.namespace}/${workload.name}`
        openConnections.set(pod, (openConnections.get(pod) ?? 0) + count)
      }
    }
    this.udp.read()
    const certificateExpiryMs = new Map<string, number>()
    for (const { identity, notAfterMs } of this.certificates.status()) {
      if (notAfterMs !== null) certificateExpiryMs.set(identity, notAfterMs)
    }
    const body = await this.registry.render({
      ...this.capture.stats(),
      ...this.presence.totals(),
      enrolledPods: this.pods.enrolledCount,
      podsNotCaptured: this.captureWatch.notCaptured,
      captureRepairs: this.captureWatch.repaired,
      silentWorkers: this.workers.silentCount,
      openConnections,
      certificateExpiryMs,
      configVersion: this.snapshot.version,
      configRejected: this.subscription.status().rejectedCount,
      carried: this.carried.state(),
    })
    return { status: 200, type: this.registry.contentType, body }
  }

  /** Everything in force, without keys: the model holds none. */
  private configDump(): unknown {
    const { snapshot } = this
    return {
      node: this.certificates.node,
      trustDomain: this.certificates.trustDomain,
      settings: this.config,
      subscription: this.subscription.status(),
      version: snapshot.version,
      workloads: [...snapshot.workloads.values()],
      services: [...snapshot.services.values()],
      policies: [...snapshot.policies.values()],
      traffic: [...snapshot.traffic.values()],
      pods: [...snapshot.pods.values()],
    }
  }
}

/** The agent that runs goes on if anything here fails. */
async function takeOver(predecessor: Predecessor, preparation: Preparation, handover: Handover): Promise<void> {
  preparation.certificates.adopt(predecessor.credentials)
  await preparation.begin()
  await preparation.complete()
  await handover.take()
}

/** Resolves with the promise, or when the time is over. */
async function settledWithin(promise: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs)
  })
  await Promise.race([promise, timeout])
  clearTimeout(timer)
}
