/**
 * What the controller tells the cluster about the mesh's objects: the webhook before they are stored, their status and
 * events afterwards. All replicas answer the webhook; the leader writes.
 */
import type { Clock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'
import type { Steps } from '../base/steps.ts'
import type { CompileMemo } from '../compiler/compile-memo.ts'
import type { Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import type { CompileSettings } from '../compiler/settings.ts'
import type { KubernetesApi } from '../kubernetes/api.ts'
import { formatControllerIdentity } from '../model/identity.ts'
import type { Credential } from '../security/credential.ts'
import type { JudgedResource } from './admission.ts'
import type { CertificateAuthority } from './authority.ts'
import { analyseCandidate, type CandidateFindings, type PresentMesh } from './candidate-analysis.ts'
import { EventsWriter } from './events-writer.ts'
import { ReferenceLookup } from './reference-lookup.ts'
import type { InForce } from './status-of-object.ts'
import { StatusWriter } from './status-writer.ts'
import { WebhookConfiguration } from './webhook-configuration.ts'
import { type ServingCredential, WebhookServer } from './webhook-server.ts'

/** Lifetime of the webhook's certificate, renewed at half of it. */
const CREDENTIAL_LIFETIME_MS = 86_400_000

/** Between two looks whether the roots are still the same. A root that was stolen is left behind within this time. */
const ROOTS_INTERVAL_MS = 5_000

/** What it needs of the controller. */
export interface FeedbackOptions {
  readonly api: KubernetesApi
  readonly authority: Pick<CertificateAuthority, 'bundle' | 'issue'>
  readonly settings: CompileSettings
  /** What the compiler remembers of the same objects. */
  readonly memo: CompileMemo
  /** Names by which the API server dials the webhook. */
  readonly dnsNames: readonly string[]
  /** Told of what the webhook judged. */
  readonly onJudged: (resource: JudgedResource, reason: string | null) => void
  /** Name of this replica. */
  readonly instance: string
  readonly clock: Clock
  readonly log: Logger
}

/** See the head of the file. */
export class Feedback {
  private readonly options: FeedbackOptions
  private readonly webhook: WebhookServer
  private readonly configuration: WebhookConfiguration
  private readonly statuses: StatusWriter
  private readonly events: EventsWriter
  private credential: Credential
  private bundle: string
  private cancelLook: () => void
  private present: PresentMesh = { objects: [], messages: [] }
  private inForceOf: (object: MeshObject) => InForce = () => 'written'

  constructor(options: FeedbackOptions) {
    const { api, authority, settings, onJudged, instance, clock, log } = options
    this.options = options
    this.bundle = authority.bundle
    this.credential = this.issue()
    const lookup = new ReferenceLookup({ api, clusterDomain: settings.clusterDomain, clock })
    this.webhook = new WebhookServer({
      credential: servingOf(this.credential),
      analyse: (candidate, found) => analyseBeside(candidate, found, this.present, options),
      look: (candidate) => lookup.find(candidate),
      onJudged,
      log: log.child('webhook'),
      nowMs: () => performance.now(),
    })
    this.configuration = new WebhookConfiguration({ api, clock, log: log.child('webhook') })
    this.configuration.setBundle(this.bundle)
    this.statuses = new StatusWriter({ api, revision: settings.revision, clock, log: log.child('status') })
    this.events = new EventsWriter({ api, clock, log: log.child('events'), instance })
    this.cancelLook = clock.after(ROOTS_INTERVAL_MS, () => this.lookAtRoots())
  }

  /** Answers the webhook from now on; call it when the first state is compiled. Resolves with the port. */
  listen(address: ListenAddress): Promise<number> {
    return this.webhook.listen(address)
  }

  /** The mesh as it is now, what is said of it, and which version of each object is in force. */
  update(
    objects: readonly MeshObject[],
    messages: readonly Message[],
    inForceOf: (object: MeshObject) => InForce,
  ): void {
    this.present = { objects, messages }
    this.inForceOf = inForceOf
    this.tell()
  }

  /** Whether this replica writes. */
  setLeading(isLeading: boolean): void {
    this.configuration.setLeading(isLeading)
    this.statuses.setLeading(isLeading)
    this.events.setLeading(isLeading)
    if (isLeading) this.tell()
  }

  status(): unknown {
    return {
      webhook: {
        ...this.webhook.status(),
        certificateNotAfter: new Date(this.credential.notAfterMs).toISOString(),
        configurationProblem: this.configuration.problem,
      },
      statuses: this.statuses.status(),
      events: this.events.status(),
    }
  }

  /** Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.cancelLook()
    await Promise.all([this.webhook.stop(), this.configuration.stop(), this.statuses.stop(), this.events.stop()])
  }

  private tell(): void {
    const { objects, messages } = this.present
    this.statuses.update(objects, messages, this.inForceOf)
    this.events.update(objects, messages)
  }

  // --- the webhook's certificate ---

  private issue(): Credential {
    const { authority, settings, dnsNames } = this.options
    return authority.issue(formatControllerIdentity(settings.trustDomain), CREDENTIAL_LIFETIME_MS, dnsNames)
  }

  /** A new certificate when it is time, or when others sign now; the API server hears of other roots. */
  private lookAtRoots(): void {
    const { authority, clock, log } = this.options
    const isOther = authority.bundle !== this.bundle
    if (isOther || clock.now() >= this.credential.renewAtMs) {
      try {
        this.credential = this.issue()
        this.bundle = authority.bundle
        this.webhook.replaceCredential(servingOf(this.credential))
        this.configuration.setBundle(this.bundle)
      } catch (error) {
        log.warn('the webhook gets no new certificate', { error: (error as Error).message })
      }
    }
    this.cancelLook = clock.after(ROOTS_INTERVAL_MS, () => this.lookAtRoots())
  }
}

/** Analyses a candidate in the mesh with objects that it will have in a moment, of which there is nothing to say yet. */
function* analyseBeside(
  candidate: MeshObject,
  found: readonly MeshObject[],
  present: PresentMesh,
  { settings, memo }: Pick<FeedbackOptions, 'settings' | 'memo'>,
): Steps<CandidateFindings> {
  if (found.length === 0) return yield* analyseCandidate(candidate, present, settings, memo)
  const keys = new Set(found.map(({ key }) => key))
  const objects = [...present.objects.filter(({ key }) => !keys.has(key)), ...found]
  const { own, others } = yield* analyseCandidate(candidate, { ...present, objects }, settings, memo)
  return { own, others: others.filter(({ object }) => !keys.has(object)) }
}

function servingOf(credential: Credential): ServingCredential {
  return { certificateChain: credential.chain, key: credential.keyPem() }
}
