/**
 * The agent, composed: what is made of what, in which order it starts, and in which order it ends.
 *
 * Start: credential -> admin endpoints -> capture -> workers -> subscription. Ready when configuration is in force and
 * every pod of this node is captured. End: no new connections, exchanges in flight end, workers ended, capture given up:
 * what is in the kernel stays for the next agent.
 */
import { closeSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { formatHostPort } from '../base/address.ts'
import { systemClock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'
import { loadAddon } from '../kernel/addon.ts'
import { findCgroup2Mount } from '../kernel/probe.ts'
import type { Delta } from '../model/delta.ts'
import { Snapshot } from '../model/snapshot.ts'
import { MetricsRegistry } from '../telemetry/registry.ts'
import { AdminEndpoint, type Answer, jsonAnswer, type Routes, TYPE_TEXT } from './admin.ts'
import type { Capture } from './capture.ts'
import { EbpfCapture } from './capture-ebpf.ts'
import { LoopbackCapture } from './capture-loopback.ts'
import { CaptureWatch } from './capture-watch.ts'
import { CARRIED_RECORDER, CarriedReports } from './carried-reports.ts'
import { Certificates } from './certificates.ts'
import type { AgentConfig } from './config.ts'
import { ControllerLink } from './controller-link.ts'
import { CredentialGate } from './credential-gate.ts'
import { describeNames } from './dns-names.ts'
import { systemLookup } from './host-lookup.ts'
import { KernelCarriage } from './kernel-carriage.ts'
import { NamedEndpoints } from './named-endpoints.ts'
import { Pods } from './pods.ts'
import { Presence } from './presence.ts'
import { SNAPSHOT_FILE } from './snapshot-file.ts'
import { Subscription } from './subscription.ts'
import { chooseTransport, type TransportName } from './worker-transport.ts'
import { Workers } from './workers.ts'

/** Connections that /connections shows per worker, and of those that the kernel carries. */
const CONNECTIONS_SHOWN_MAX = 1000

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
export class Agent {
  private readonly config: AgentConfig
  private readonly log: Logger
  private readonly certificates: Certificates
  private readonly link: ControllerLink
  private readonly capture: Capture
  private readonly presence: Presence
  private readonly workers: Workers
  private readonly pods: Pods
  /** Null where the kernel carries nothing by itself. */
  private readonly carriage: KernelCarriage | null
  private readonly carried: CarriedReports
  private readonly subscription: Subscription
  private readonly namedEndpoints: NamedEndpoints
  private readonly captureWatch: CaptureWatch
  private readonly gate: CredentialGate
  private readonly registry: MetricsRegistry
  private readonly endpoints: AdminEndpoint[] = []
  private snapshot = Snapshot.empty
  private wasReady = false
  private isStopping = false
  private onQuit: (() => void) | null = null

  private constructor(
    config: AgentConfig,
    log: Logger,
    host: AgentHost,
    certificates: Certificates,
    link: ControllerLink,
    capture: Capture,
    gate: CredentialGate,
  ) {
    this.config = config
    this.log = log
    this.certificates = certificates
    this.link = link
    this.capture = capture
    this.gate = gate
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
    this.registry = new MetricsRegistry({
      component: 'proxy',
      version: host.version,
      now: systemClock.now,
      roundTrips: this.carried.roundTrips,
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
      onServing: (workers) => capture.setServing?.(workers),
    })
    this.pods = new Pods({
      capture,
      workers: this.workers,
      carriage: this.carriage,
      log: log.child('pods'),
      isAnsweringDns: canAnswerDns(config, transport, log),
      credentialReady: (identity) => this.gate.ready(identity),
      onIdentities: (identities) => this.certificates.setIdentities(identities),
    })
    this.captureWatch = new CaptureWatch({
      audit: (uid) => this.pods.audit(uid),
      wanted: () => this.pods.wanted(),
      renew: (uid) => this.pods.renew(uid),
      log: log.child('capture'),
    })
    this.namedEndpoints = new NamedEndpoints({
      lookUp: systemLookup(config.endpointResolvers),
      clock: systemClock,
      log: log.child('endpoints'),
      onDelta: (delta) => this.applyDelta(delta),
    })
    this.subscription = new Subscription({
      connect: () => link.connect(),
      node: certificates.node,
      snapshotFile: join(config.state, SNAPSHOT_FILE),
      clock: systemClock,
      log: log.child('subscription'),
      onDelta: (delta) => this.applyDelta(this.namedEndpoints.translate(delta)),
      onComplete: () => this.pods.confirm(),
    })
  }

  /**
   * Starts an agent; resolves when it serves, though perhaps without configuration yet. Rejects with WeftError when a
   * setting, the credential, the kernel or an address is not usable; then nothing of it is left running.
   */
  static async start(config: AgentConfig, log: Logger, host: AgentHost): Promise<Agent> {
    mkdirSync(config.state, { recursive: true, mode: 0o700 })
    const gate = new CredentialGate()
    let agent: Agent | null = null
    let link: ControllerLink | null = null
    const certificates = await Certificates.open({
      credentialDirectory: config.credentials,
      requestCertificate: (csr, identity, seconds) => link!.requestCertificate(csr, identity, seconds),
      validitySeconds: Math.round(config.certificateLifetime / 1000),
      clock: systemClock,
      log: log.child('certificates'),
      onMaterial: (material) => {
        agent?.workers.setCredential(material)
        gate.open(material.identity)
      },
      onRemoved: (identity) => {
        agent?.workers.dropCredential(identity)
        gate.remove(identity)
      },
      onNodeCredential: () => agent?.subscription.reconnect(),
    })
    if (config.node !== '' && config.node !== certificates.node) {
      throw new WeftError(
        'WEFT_CONFIG',
        `the credential in ${config.credentials} is for node ${certificates.node}, but --node says ${config.node}`,
      )
    }
    link = new ControllerLink({
      address: formatHostPort(config.controller.host, config.controller.port),
      trustDomain: certificates.trustDomain,
      credential: () => certificates.nodeCredential(),
    })
    const capture = openCapture(config, log, host.version)
    agent = new Agent(config, log, host, certificates, link, capture, gate)
    try {
      await agent.open()
    } catch (error) {
      await agent.stop()
      throw error
    }
    return agent
  }

  /** Calls back when an operator asks the agent to end (/quitquitquit). */
  set quitListener(listener: () => void) {
    this.onQuit = listener
  }

  private async open(): Promise<void> {
    const { config } = this
    await this.listen('metrics', config.metrics, this.metricsRoutes())
    await this.listen('readiness', config.readiness, { '/healthz/ready': () => this.readiness() })
    await this.listen('admin', config.admin, this.adminRoutes())
    this.presence.start()
    this.captureWatch.start()
    this.carried.start()
    await this.workers.start()
    this.certificates.start()
    await this.subscription.start()
    this.log.info('agent started', {
      node: this.certificates.node,
      workers: config.workers,
      capture: this.capture.kind,
      controller: formatHostPort(config.controller.host, config.controller.port),
    })
  }

  /** Ends in order; open connections have `--drain` to finish. Safe to call twice. */
  async stop(): Promise<void> {
    if (this.isStopping) return
    this.isStopping = true
    this.log.info('agent is stopping', { node: this.certificates.node })
    await this.subscription.stop()
    this.namedEndpoints.stop()
    this.certificates.stop()
    this.link.close()
    this.gate.close()
    this.captureWatch.stop()
    await this.pods.stop()
    this.carriage?.stop()
    // Capture first: new connections go as without an agent. The next agent finds the pods captured.
    await this.capture.drain?.()
    await this.workers.stop(this.config.drain)
    this.presence.stop()
    await this.carried.stop()
    await this.capture.release?.()
    await this.capture.close()
    for (const endpoint of this.endpoints) await endpoint.close()
  }

  private applyDelta(delta: Delta): void {
    this.snapshot = this.snapshot.apply(delta)
    this.workers.applyDelta(delta)
    if (this.isStopping) return
    this.carriage?.update(this.snapshot)
    this.pods.update(this.snapshot)
  }

  // --- endpoints ---

  private async listen(name: string, where: ListenAddress, routes: Routes): Promise<void> {
    const admin = new AdminEndpoint(name, routes, this.log.child('admin'))
    this.endpoints.push(admin)
    const port = await admin.listen(where)
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
        const reports = await this.workers.reports(CONNECTIONS_SHOWN_MAX)
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
    if (this.isStopping) problems.push('stopping')
    // Asked at the start only: later it may lag behind for a moment, and connections are the proxy's meanwhile.
    if (problems.length === 0 && !this.wasReady && this.carriage?.isInStep === false) {
      problems.push('the kernel does not know the configuration yet')
    }
    this.wasReady ||= problems.length === 0
    if (problems.length === 0) return { status: 200, type: TYPE_TEXT, body: 'ready\n' }
    return { status: 503, type: TYPE_TEXT, body: `${problems.join('; ')}\n` }
  }

  private async metrics(): Promise<Answer> {
    const reports = await this.workers.reports(0)
    const openConnections = new Map<string, number>()
    for (const [id, report] of reports) {
      this.registry.merge(id, report.metrics)
      for (const [uid, count] of report.connectionsByPod) {
        const workload = this.snapshot.workloads.get(uid)
        const pod = workload === undefined ? uid : `${workload.namespace}/${workload.name}`
        openConnections.set(pod, (openConnections.get(pod) ?? 0) + count)
      }
    }
    this.registry.merge(CARRIED_RECORDER, await this.carried.collect())
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

/** Whether the DNS of pods can be captured. Where it is asked for and cannot be, the log says why, and pods do without. */
function canAnswerDns(config: AgentConfig, transport: TransportName, log: Logger): boolean {
  if (config.dnsCapture === 'off' || config.capture !== 'ebpf') return false
  if (transport === 'reactor') return true
  log.warn('DNS of pods is not captured: it needs the reactor, and connections are carried by node:net')
  return false
}

function openCapture(config: AgentConfig, log: Logger, version: string): Capture {
  if (config.capture === 'loopback') {
    log.warn('loopback capture proves no identity: for demos and tests only')
    return new LoopbackCapture(config.loopbackBlock)
  }
  const cgroupPath = config.cgroup === '' ? findCgroup2Mount() : config.cgroup
  if (cgroupPath === null) {
    throw new WeftError('WEFT_UNSUPPORTED', 'no cgroup2 hierarchy is mounted; see weft check')
  }
  try {
    const { pinDirectory, state: stateDirectory } = config
    return EbpfCapture.open({ cgroupPath, pinDirectory, stateDirectory, version, log: log.child('capture') })
  } catch (error) {
    if (error instanceof WeftError) throw error
    throw new WeftError('WEFT_BPF', `the capture cannot be opened: ${describeError(error)}`, error)
  }
}

/** A delta that brings an empty snapshot to `snapshot`. */
function wholeState(snapshot: Snapshot): Delta {
  return {
    workloads: [...snapshot.workloads.values()],
    removedWorkloads: [],
    services: [...snapshot.services.values()],
    removedServices: [],
    policies: [...snapshot.policies.values()],
    removedPolicies: [],
    traffic: [...snapshot.traffic.values()],
    removedTraffic: [],
    pods: [...snapshot.pods.values()],
    removedPods: [],
  }
}
