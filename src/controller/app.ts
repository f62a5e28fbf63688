/**
 * The controller, put together: source -> compiler -> publisher, and the certificate authority beside it.
 *
 * It serves agents only once the first state is compiled: an agent that came earlier would be told of an empty mesh.
 */
import { join } from 'node:path'
import { type Clock, systemClock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { formatMessage, type Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import { KubernetesApi } from '../kubernetes/api.ts'
import { formatControllerIdentity } from '../model/identity.ts'
import type { Credential } from '../security/credential.ts'
import type { Credential as ServerCredential } from '../wire/channel.ts'
import { ControlServer } from '../wire/server.ts'
import { AdminServer } from './admin.ts'
import { CertificateAuthority } from './authority.ts'
import { CertificateServer } from './ca-server.ts'
import type { ControllerConfig } from './config.ts'
import { DirectorySource } from './directory-source.ts'
import { isFact } from './kubernetes-objects.ts'
import { KubernetesSource } from './kubernetes-source.ts'
import { LastGood } from './last-good.ts'
import { readLastGood, writeLastGood } from './last-good-file.ts'
import { nodeOf } from './peer-node.ts'
import { Publisher } from './publisher.ts'
import type { Source } from './source.ts'

/** Lifetime of the controller's own certificate, which it renews by itself. */
const CREDENTIAL_LIFETIME_MS = 86_400_000

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

/** Starts a controller; when it cannot start, nothing of it is left behind. Rejects with WeftError. */
export async function startController(
  config: ControllerConfig,
  log: Logger,
  clock: Clock = systemClock,
): Promise<Controller> {
  const { stateDirectory, givenRoot, trustDomain, source } = config
  const api = source.kind === 'kubernetes' ? await KubernetesApi.open(source, clock) : null
  const settings = { stateDirectory, given: givenRoot, trustDomain }
  const authority = await CertificateAuthority.open(settings, log, () => clock.now())
  const remembered = await readLastGood(lastGoodPath(config), log)
  const app = new App({ config, api, authority, remembered, log, clock })
  try {
    await app.start()
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
  readonly authority: CertificateAuthority
  readonly remembered: readonly MeshObject[]
  readonly log: Logger
  readonly clock: Clock
}

function lastGoodPath(config: ControllerConfig): string {
  return join(config.stateDirectory, 'last-good.json')
}

class App implements Controller {
  port = 0
  adminPort = 0
  private readonly config: ControllerConfig
  private readonly api: KubernetesApi | null
  private readonly authority: CertificateAuthority
  private readonly log: Logger
  private readonly clock: Clock
  private readonly source: Source
  private readonly lastGood: LastGood
  private readonly publisher: Publisher
  private readonly certificates: CertificateServer
  private readonly server: ControlServer
  private readonly admin: AdminServer
  private credential: Credential
  private cancelRenewal: (() => void) | null = null
  private compileMessages: readonly Message[] = []
  private reported: ReadonlySet<string> = new Set()
  private isReady = false
  /** As on disk; null when that is not known. */
  private remembered: readonly MeshObject[] | null = null
  private writing: Promise<void> = Promise.resolve()

  constructor({ config, api, authority, remembered, log, clock }: AppParts) {
    const { trustDomain } = config
    this.config = config
    this.api = api
    this.authority = authority
    this.log = log
    this.clock = clock
    this.lastGood = new LastGood(config, remembered)
    this.publisher = new Publisher(log.child('publisher'), () => clock.now())
    this.certificates = new CertificateServer({
      authority,
      tokens: null,
      trustDomain,
      workloadLifetimeMs: config.certificateLifetimeMs,
      nodeLifetimeMs: config.nodeLifetimeMs,
      log: log.child('certificates'),
      now: () => clock.now(),
    })
    this.source = this.openSource(remembered)
    this.credential = this.issueCredential()
    this.server = new ControlServer(this.serverCredential(), {
      onStream: (stream) => this.publisher.accept(stream, nodeOf(stream.peer, trustDomain, clock.now())),
      onSigningRequest: (request, peer) => this.certificates.sign(request, peer),
    })
    this.admin = new AdminServer({ isReady: () => this.isReady, status: () => this.status() })
  }

  async start(): Promise<void> {
    const { listen, admin } = this.config
    // First of all, so that probes get an answer while the source is still reading.
    this.adminPort = await this.admin.listen(admin)
    await this.source.start()
    this.update()
    this.port = await this.server.listen(listen.address, listen.port)
    this.renewLater()
    this.isReady = true
    this.log.info('listening', { address: listen.address, port: this.port, adminPort: this.adminPort })
  }

  async stop(): Promise<void> {
    this.isReady = false
    this.cancelRenewal?.()
    await this.source.stop()
    this.server.stop()
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
      certificates: this.certificates.status(),
      messages: this.messages(),
      unpublished: this.publisher.problems,
      source: this.source.status(),
    }
  }

  private openSource(remembered: readonly MeshObject[]): Source {
    const { config, api, clock } = this
    const log = this.log.child('source')
    const onChange = (): void => this.update()
    if (config.source.kind === 'directory') {
      return new DirectorySource({ directory: config.source.directory, clock, log, remembered, onChange })
    }
    return new KubernetesSource({ api: api!, clock, log, onChange })
  }

  /** Compiles what the source has now and publishes it. */
  private update(): void {
    try {
      const { state, messages } = this.lastGood.compile(this.source.objects)
      this.compileMessages = messages
      this.certificates.setWorkloads(state.workloads)
      this.publisher.publish(state)
      this.remember()
    } catch (error) {
      this.log.error('compiling failed, the last state stays in force; please report this', {
        error: describeError(error),
        stack: error instanceof Error ? error.stack : undefined,
      })
    }
    this.report()
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

  // --- the controller's own certificate ---

  private issueCredential(): Credential {
    return this.authority.issue(formatControllerIdentity(this.config.trustDomain), CREDENTIAL_LIFETIME_MS)
  }

  private serverCredential(): ServerCredential {
    const { chain, bundle } = this.credential
    return { certificateChain: chain, key: this.credential.keyPem(), bundle }
  }

  private renewLater(): void {
    this.cancelRenewal = this.clock.after(this.credential.renewAtMs - this.clock.now(), () => {
      this.credential = this.issueCredential()
      this.server.replaceCredential(this.serverCredential())
      this.renewLater()
    })
  }
}
