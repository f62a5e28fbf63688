/**
 * The agent, composed: what is made of what, in which order it starts, how it gives way to the next one (handover.ts), and
 * in which order it ends.
 *
 * Start: credential -> admin endpoints -> capture -> workers -> subscription. Ready when configuration is in force and
 * every pod of this node is captured. End: no new connections, exchanges in flight end, workers ended, capture given up:
 * what is in the kernel stays for the next agent.
 */
import { closeSync } from 'node:fs'
import { formatHostPort } from '../base/address.ts'
import { systemClock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import { loadAddon } from '../kernel/addon.ts'
import type { Delta } from '../model/delta.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { DRAIN_IDLE_MS } from '../proxy/http-session.ts'
import { MetricsRegistry } from '../telemetry/registry.ts'
import { RegistryExport } from '../telemetry/registry-export.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import { AgentEndpoints } from './agent-endpoints.ts'
import type { Capture } from './capture.ts'
import { CaptureWatch } from './capture-watch.ts'
import { CarriedReports } from './carried-reports.ts'
import type { Certificates } from './certificates.ts'
import { CniNode } from './cni-node.ts'
import type { AgentConfig } from './config.ts'
import { Handover } from './handover.ts'
import { REPORT_SERIES_MAX } from './handover-messages.ts'
import type { OfferOwner } from './handover-offer.ts'
import { KernelCarriage } from './kernel-carriage.ts'
import { KubernetesPods } from './kubernetes-pods.ts'
import { canAnswerDns, openCapture } from './open-capture.ts'
import { PodFinding } from './pod-finding.ts'
import { nodeNetnsCookie } from './pod-netns.ts'
import { Pods } from './pods.ts'
import type { Predecessor } from './predecessor.ts'
import { Preparation, type PreparationUser, wholeState } from './preparation.ts'
import { Presence } from './presence.ts'
import { makeStateDirectory } from './state-directory.ts'
import type { Subscription } from './subscription.ts'
import { UdpMeter } from './udp-meter.ts'
import { chooseTransport } from './worker-transport.ts'
import { Workers } from './workers.ts'

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
  /** Ends a start that waits for a credential, which then rejects. */
  readonly signal?: AbortSignal
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
  /** Null where new pods are found when they run. */
  private readonly cni: CniNode | null
  /** Null where the kernel carries nothing by itself. */
  private readonly carriage: KernelCarriage | null
  private readonly carried: CarriedReports
  private readonly udp: UdpMeter
  private readonly subscription: Subscription
  private readonly captureWatch: CaptureWatch
  private readonly registry: MetricsRegistry
  private readonly endpoints: AgentEndpoints
  private readonly counted: RegistryExport
  /** The data workers that can take connections, by number. */
  private servingWorkers: readonly number[] = []
  private isServing = false
  private isStopAsked = false
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
        threadMapFd: capture.threadMapFd ?? -1,
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
    const networks =
      addon === null ? null : new KubernetesPods(addon, new PodFinding(addon, nodeNetnsCookie(addon, config.nodeNetns)))
    this.pods = new Pods({
      capture,
      networks,
      isDeafToAnnotations: config.kubernetes,
      workers: this.workers,
      carriage: this.carriage,
      log: log.child('pods'),
      isAnsweringDns: canAnswerDns(config, transport, log),
      credentialReady: (identity) => gate.ready(identity),
      onIdentities: (identities) => certificates.setIdentities(identities),
    })
    this.cni =
      addon === null || networks === null || config.cniConfDirectory === ''
        ? null
        : new CniNode({
            config,
            addon,
            networks,
            pods: this.pods,
            snapshot: () => this.snapshot,
            membershipOf: (pod, timeoutMs) => preparation.link.podMembership(pod, timeoutMs),
            isReady: () => this.subscription.status().isReady,
            log: log.child('cni'),
          })
    this.captureWatch = new CaptureWatch({
      audit: (uid) => this.pods.audit(uid),
      wanted: () => this.pods.wanted(),
      renew: (uid) => this.pods.renew(uid),
      log: log.child('capture'),
    })
    this.counted = new RegistryExport(this.registry, REPORT_SERIES_MAX)
    this.endpoints = new AgentEndpoints({
      config,
      log,
      capture,
      preparation,
      carriage: this.carriage,
      carried: this.carried,
      captureWatch: this.captureWatch,
      cni: this.cni,
      pods: this.pods,
      presence: this.presence,
      registry: this.registry,
      udp: this.udp,
      workers: this.workers,
      isServing: () => this.isServing,
      isStopping: () => this.isStopping,
      isRetired: () => this.isRetired,
      onQuit: () => this.onQuit?.(),
    })
  }

  /**
   * Starts an agent; resolves when it serves, though perhaps without configuration yet. With another agent that runs with
   * the same state directory it is prepared first, and takes over then. Rejects with WeftError when a setting, the
   * credential, the kernel or an address is not usable; then nothing of it is left running, and another agent goes on.
   */
  static async start(config: AgentConfig, log: Logger, host: AgentHost): Promise<Agent> {
    makeStateDirectory(config.state)
    const preparation = await Preparation.open(config, log, host.signal)
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

  /** A successor serves. */
  get isRetired(): boolean {
    return this.retirement !== null
  }

  private async open(): Promise<void> {
    const { config, handover, preparation } = this
    // Whoever runs now answers for this node until it is this agent that serves.
    if (handover.predecessor === null) await this.endpoints.listen(false)
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
    if (handover.predecessor !== null) await this.endpoints.listen(true)
    await this.cni?.serve()
    handover.succeed(() => this.serve())
    // From here on nobody takes anything back.
    this.capture.settle?.()
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

  /**
   * Ends in order; open connections have `--drain` to finish. Safe to call twice. With `--when-retired wait` an agent that
   * is retired drains to its end, and can still be asked whether it lives until `close`. With a successor that is about to
   * take over it goes on until that serves: ending meanwhile would leave connections to nobody.
   */
  async stop(): Promise<void> {
    if (this.isStopAsked) return
    this.isStopAsked = true
    await settledWithin(this.handover.decided(), this.config.drain)
    this.isStopping = true
    this.log.info('agent is stopping', { node: this.certificates.node })
    await this.preparation.stop()
    this.captureWatch.stop()
    this.cni?.stop()
    await this.pods.stop()
    this.carriage?.stop()
    if (this.retirement === null) {
      // Capture first: new connections go as without an agent. The next agent finds the pods captured, and may begin now.
      if (this.isServing) await this.capture.drain?.()
      await this.workers.drainAlone(this.config.drain)
    } else if (this.config.whenRetired === 'wait') await this.retirement
    else await settledWithin(this.retirement, this.config.drain)
    // A predecessor that is told that this agent ends has what was taken from it back: not before it is released.
    if (this.isServing) await this.handover.end()
    await this.workers.end()
    this.presence.stop()
    await this.carried.stop()
    this.udp.stop()
    await this.capture.release?.()
    await this.handover.end()
    await this.capture.close()
    if (!this.isWaiting) await this.endpoints.close()
  }

  /** Closes what `stop` has left open. */
  async close(): Promise<void> {
    await this.endpoints.close()
  }

  /** The agent has nothing left to do but must not end by itself: who watches over it would start it again. */
  get isWaiting(): boolean {
    return this.isRetired && this.config.whenRetired === 'wait'
  }

  // --- PreparationUser ---

  onDelta(delta: Delta): void {
    this.workers.applyDelta(delta)
    if (this.isStopping) return
    this.carriage?.update(this.snapshot)
    this.pods.update(this.snapshot)
    this.cni?.update(this.snapshot)
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
    this.cni?.stop()
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
    await this.cni?.serve()
  }

  async reports(): Promise<readonly MetricsReport[]> {
    await this.endpoints.collect()
    return await this.counted.take()
  }

  retire(): void {
    // Neither this nor the retirement rejects.
    void (this.config.whenRetired === 'wait' ? this.endpoints.retire() : this.endpoints.close())
    if (this.isStopping) return
    const { handoverDrain } = this.config
    const idleMs = Math.max(DRAIN_IDLE_MS, handoverDrain * DRAIN_IDLE_SHARE)
    this.retirement = this.workers.drain({ lingerMs: LINGER_MS, idleMs }, handoverDrain)
    void this.retirement.then(() => this.onQuit?.())
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
