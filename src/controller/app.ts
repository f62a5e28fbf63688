/**
 * The controller, put together: source -> compiler -> publisher, and the certificate authority beside it.
 *
 * It serves agents only once the first state is compiled: an agent that came earlier would be told of an empty mesh.
 */
import { join } from 'node:path'
import { type Clock, systemClock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { inSlices, type Steps } from '../base/steps.ts'
import { formatMessage, type Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import { KubernetesApi } from '../kubernetes/api.ts'
import { ControllerMetrics, type ControllerState } from '../telemetry/controller-metrics.ts'
import { AdminServer } from './admin.ts'
import type { JudgedResource } from './admission.ts'
import { CertificateAuthority } from './authority.ts'
import type { ControllerConfig } from './config.ts'
import { ControlService } from './control-service.ts'
import { DirectorySource } from './directory-source.ts'
import { KubernetesControl, serviceNames } from './kubernetes-control.ts'
import { isFact } from './kubernetes-objects.ts'
import { KubernetesSource } from './kubernetes-source.ts'
import { LastGood } from './last-good.ts'
import { readLastGood, writeLastGood } from './last-good-file.ts'
import { PodMemberships } from './pod-memberships.ts'
import { Publisher } from './publisher.ts'
import { scheduledPods } from './scheduled-pods.ts'
import type { Source } from './source.ts'
import { Feedback } from './status-feedback.ts'

/** A controller that serves. */
export interface Controller {
  /** Where agents connect. */
  readonly port: number
  readonly adminPort: number
  /** What is wrong with the source right now, newest state. */
  messages(): readonly Message[]
  /** What /status shows. */
  status(): unknown
  stop(): Promise<void>
}

/** What the program around the controller gives it. */
export interface ControllerHost {
  /** Of this program, as metrics show it. */
  readonly version?: string
  /** Ends a start that is still waiting, which then rejects. */
  readonly signal?: AbortSignal
}

/**
 * Starts a controller; when it cannot start, nothing of it is left behind. With an API server that takes as long as there
 * is no root, and nobody who may make one. Rejects with WeftError.
 */
export async function startController(
  config: ControllerConfig,
  log: Logger,
  clock: Clock = systemClock,
  host: ControllerHost = {},
): Promise<Controller> {
  const { stateDirectory, givenRoot, trustDomain, source } = config
  const api = source.kind === 'kubernetes' ? await KubernetesApi.open(source, clock) : null
  const settings = { stateDirectory, given: givenRoot, trustDomain }
  const hasSecrets = api !== null && givenRoot === null
  const authority = hasSecrets ? null : await CertificateAuthority.open(settings, log, () => clock.now())
  const remembered = await readLastGood(lastGoodPath(config), log)
  const app = new App({ config, api, authority, remembered, log, clock, version: host.version ?? '' })
  try {
    await unlessAborted(app.start(), host.signal)
  } catch (error) {
    await app.stop()
    throw error
  }
  return app
}

/** What the parts of a controller are made of. */
interface AppParts {
  readonly config: ControllerConfig
  /** Null with a source that is no API server. */
  readonly api: KubernetesApi | null
  /** Null where the cluster has it. */
  readonly authority: CertificateAuthority | null
  readonly remembered: readonly MeshObject[]
  readonly log: Logger
  readonly clock: Clock
  readonly version: string
}

function lastGoodPath(config: ControllerConfig): string {
  return join(config.stateDirectory, 'last-good.json')
}

class App implements Controller {
  port = 0
  adminPort = 0
  private readonly config: ControllerConfig
  private readonly api: KubernetesApi | null
  private readonly log: Logger
  private readonly clock: Clock
  private readonly source: Source
  private readonly lastGood: LastGood
  private readonly metrics: ControllerMetrics
  private readonly publisher: Publisher
  private readonly admin: AdminServer
  /** Null without an API server. */
  private readonly control: KubernetesControl | null
  /** Null before there is one. */
  private authority: CertificateAuthority | null
  private service: ControlService | null = null
  /** Null without an API server, and before there is an authority. */
  private feedback: Feedback | null = null
  private compileMessages: readonly Message[] = []
  private reported: ReadonlySet<string> = new Set()
  private workloadCount = 0
  private isReady = false
  /** As on disk; null when that is not known. */
  private remembered: readonly MeshObject[] | null = null
  private isStopped = false
  /** The run that is under way, and whether another one has to follow. */
  private updating: Promise<void> | null = null
  private isUpdateDue = false
  private writing: Promise<void> = Promise.resolve()

  constructor({ config, api, authority, remembered, log, clock, version }: AppParts) {
    this.config = config
    this.api = api
    this.authority = authority
    this.log = log
    this.clock = clock
    this.lastGood = new LastGood(config, remembered)
    this.metrics = new ControllerMetrics({ version, now: () => clock.now(), state: () => this.state() })
    this.publisher = new Publisher(log.child('publisher'), () => clock.now(), this.metrics)
    this.control = api === null ? null : new KubernetesControl({ api, config, authority, clock, log })
    this.source = this.openSource(remembered)
    this.admin = new AdminServer({
      isReady: () => this.isReady,
      status: () => this.status(),
      metrics: () => this.metrics.render(),
      metricsType: this.metrics.contentType,
    })
  }

  async start(): Promise<void> {
    const { config, control, clock, log, metrics, publisher } = this
    // First of all, so that probes get an answer while the source is still reading.
    this.adminPort = await this.admin.listen(config.admin)
    const rooted = control === null ? Promise.resolve(this.authority!) : control.start()
    await this.source.start()
    const authority = await rooted
    if (this.isStopped) return
    this.authority = authority
    const tokens = control?.tokens ?? null
    const dnsNames = control === null ? [] : serviceNames(config)
    const memberships = new PodMemberships(this.source, config)
    this.service = new ControlService({
      ...{ config, authority, tokens, dnsNames, publisher, memberships, observer: metrics, log, clock },
    })
    this.feedback = this.openFeedback(authority, dnsNames)
    await this.update()
    if (this.isStopped) return
    this.port = await this.service.listen()
    const webhookPort = await this.feedback?.listen(config.webhookListen)
    control?.onLeadership((isLeading) => this.feedback?.setLeading(isLeading))
    this.isReady = true
    log.info('listening', {
      ...{ address: config.listen.address, port: this.port, adminPort: this.adminPort },
      ...(webhookPort === undefined ? {} : { webhookPort }),
    })
  }

  async stop(): Promise<void> {
    this.isReady = false
    this.isStopped = true
    await this.source.stop()
    await this.updating
    this.service?.stop()
    await this.feedback?.stop()
    await this.control?.stop()
    await this.admin.stop()
    await this.writing
    this.api?.close()
  }

  messages(): readonly Message[] {
    return [...this.source.messages, ...this.compileMessages]
  }

  status(): unknown {
    return {
      generation: this.publisher.generation,
      agents: this.publisher.status(),
      certificates: this.service?.certificates.status() ?? null,
      messages: this.messages(),
      unpublished: this.publisher.problems,
      source: this.source.status(),
      kubernetes: this.control?.status() ?? null,
      feedback: this.feedback?.status() ?? null,
    }
  }

  private openSource(remembered: readonly MeshObject[]): Source {
    const { config, api, clock } = this
    const log = this.log.child('source')
    const onChange = (): Promise<void> => this.update()
    if (config.source.kind === 'directory') {
      return new DirectorySource({ directory: config.source.directory, clock, log, remembered, onChange })
    }
    const onEvent = (kind: string, event: 'add' | 'update' | 'delete'): void => this.metrics.changed(kind, event)
    return new KubernetesSource({ api: api!, clock, log, onChange, onEvent })
  }

  private openFeedback(authority: CertificateAuthority, dnsNames: readonly string[]): Feedback | null {
    const { api, clock, config: settings, control, lastGood, log } = this
    if (api === null || control === null) return null
    const { identity: instance } = control
    const onJudged = ({ group, version, plural }: JudgedResource, reason: string | null): void =>
      this.metrics.validated(group, version, plural, reason)
    return new Feedback({ api, authority, settings, memo: lastGood.memo, dnsNames, onJudged, instance, clock, log })
  }

  /**
   * Compiles what the source has now and publishes it, in slices. One run at a time: what changes meanwhile is for one
   * further run. Resolves when what the source had is in force; never rejects.
   */
  private async update(): Promise<void> {
    // Nobody is served yet: the start does it once.
    if (this.service === null) return
    this.isUpdateDue = true
    this.updating ??= this.updateWhileDue()
    await this.updating
  }

  private async updateWhileDue(): Promise<void> {
    while (this.isUpdateDue && !this.isStopped) {
      this.isUpdateDue = false
      await this.updateOnce()
    }
    this.updating = null
  }

  /** Never rejects. */
  private async updateOnce(): Promise<void> {
    const startedAtMs = this.clock.now()
    try {
      await inSlices(this.updateSteps(startedAtMs))
      this.metrics.compiled(this.clock.now() - startedAtMs)
    } catch (error) {
      this.metrics.failed()
      this.log.error('compiling failed, the last state stays in force; please report this', {
        error: describeError(error),
        stack: error instanceof Error ? error.stack : undefined,
      })
    }
    this.report()
  }

  private *updateSteps(startedAtMs: number): Steps<void> {
    const { objects } = this.source
    const { state, messages } = yield* this.lastGood.compileSteps(objects)
    yield
    if (this.isStopped) return
    const scheduled = this.control === null ? null : scheduledPods(objects)
    yield* this.publisher.publishSteps(state, startedAtMs, () => {
      // Who is told of a pod asks for its certificate at once.
      this.service!.certificates.setWorkloads(state.workloads, scheduled)
      this.compileMessages = messages
      this.workloadCount = state.workloads.length
    })
    yield
    this.control?.setState(state, objects)
    yield
    this.feedback?.update(objects, messages, (object) => this.lastGood.versionInForce(object))
    yield
    this.remember()
  }

  /**
   * Keeps what is in force on disk; one write at a time, the newest state last. What an API server says of pods and the like
   * is true or not there: it has no last good version.
   */
  private remember(): void {
    const { objects } = this.lastGood
    const kept = this.config.source.kind === 'kubernetes' ? objects.filter(({ kind }) => !isFact(kind)) : objects
    const before = this.remembered
    if (before !== null && kept.length === before.length && kept.every((object, i) => object === before[i])) return
    this.remembered = kept
    this.writing = this.writing.then(async () => {
      try {
        await writeLastGood(lastGoodPath(this.config), kept)
      } catch (error) {
        this.remembered = null
        this.log.warn('the last good objects could not be written to disk', { error: describeError(error) })
      }
    })
  }

  /** Logs messages that were not there before. */
  private report(): void {
    const current = new Set<string>()
    for (const message of this.messages()) {
      const text = formatMessage(message)
      current.add(text)
      if (this.reported.has(text)) continue
      if (message.severity === 'error') this.log.error(text)
      else if (message.severity === 'warning') this.log.warn(text)
      else this.log.info(text)
    }
    this.reported = current
  }

  /** For metrics. */
  private state(): ControllerState {
    const { authority, control, publisher } = this
    const objects = this.isReady ? this.source.objects : []
    const rejected = this.messages().filter(({ severity }) => severity === 'error')
    return {
      connectedAgents: publisher.sessionCount,
      generation: publisher.generation,
      services: count(objects, 'Service', ''),
      virtualServices: count(objects, 'VirtualService', 'networking.istio.io'),
      workloads: this.workloadCount,
      rejectedObjects: new Set(rejected.map(({ object }) => object)).size,
      unpublishedResources: publisher.problems.length,
      isLeading: control?.isLeading ?? null,
      rootNotAfterMs: authority?.rootNotAfterMs ?? null,
      signerNotAfterMs: authority?.notAfterMs ?? null,
    }
  }
}

function count(objects: readonly MeshObject[], kind: string, group: string): number {
  return objects.reduce((sum, object) => sum + Number(object.kind === kind && object.group === group), 0)
}

/** The promise, unless the signal comes first; then it rejects. */
async function unlessAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return await promise
  signal.throwIfAborted()
  let onAbort = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason)
    signal.addEventListener('abort', onAbort)
  })
  try {
    await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
    // It fails when the parts are stopped that it waits for.
    promise.catch(() => {})
  }
}
