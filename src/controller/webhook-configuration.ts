/**
 * Tells the API server by which root to know the webhook: `caBundle` in the ValidatingWebhookConfiguration of the
 * installation, and nothing else of it. The leader writes; the others look on.
 *
 * Looked at every minute as well, because an upgrade of the installation may put another bundle there, or none. An
 * installation without a webhook is left alone, and looked at more often: one that is being made has it last.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isTree, own } from '../compiler/object.ts'
import { type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import type { KubernetesObject, ResourceType } from '../kubernetes/object.ts'

/** Name of the configuration. */
export const WEBHOOK_CONFIGURATION = 'weft-controller'

export const WEBHOOK_CONFIGURATIONS: ResourceType = {
  group: 'admissionregistration.k8s.io',
  version: 'v1',
  plural: 'validatingwebhookconfigurations',
  isNamespaced: false,
}

/** Between two looks. Until the bundle is right objects are accepted unseen (failurePolicy Ignore), or refused (Fail). */
const LOOK_INTERVAL_MS = 60_000

/** While there is none: who installs waits for the bundle, and a look is one small request of one replica. */
const ABSENT_INTERVAL_MS = 2_000

/** After a failure. */
const RETRY = { baseMs: 1_000, maxMs: 30_000 }

/** What it needs of the controller. */
export interface WebhookConfigurationOptions {
  readonly api: Pick<KubernetesApi, 'get' | 'replace'>
  readonly clock: Clock
  readonly log: Logger
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** Keeps the bundle right while this replica leads. */
export class WebhookConfiguration {
  private readonly options: WebhookConfigurationOptions
  private readonly backoff: Backoff
  private bundle = ''
  private isLeading = false
  private isStopped = false
  private isLooking = false
  private isLookDue = false
  private cancelLook: () => void = () => {}
  private looking: Promise<void> = Promise.resolve()
  /** Empty when all is well. */
  private currentProblem = ''

  constructor(options: WebhookConfigurationOptions) {
    this.options = options
    this.backoff = new Backoff(RETRY, options.random)
  }

  /** Why the API server does not know the webhook; empty when all is well, or it is not ours to say. */
  get problem(): string {
    return this.isLeading ? this.currentProblem : ''
  }

  /** The roots, PEM, by which the webhook is to be known. */
  setBundle(bundle: string): void {
    if (bundle === this.bundle) return
    this.bundle = bundle
    this.look()
  }

  setLeading(isLeading: boolean): void {
    this.isLeading = isLeading
    if (isLeading) this.look()
    else this.cancelLook()
  }

  /** Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.isStopped = true
    this.cancelLook()
    await this.looking
  }

  private look(): void {
    if (!this.isLeading || this.isStopped || this.bundle === '') return
    this.cancelLook()
    if (this.isLooking) {
      this.isLookDue = true
      return
    }
    this.isLooking = true
    this.looking = this.lookOnce().then((nextMs) => {
      this.isLooking = false
      if (this.isStopped || !this.isLeading) return
      const delayMs = this.isLookDue ? 0 : nextMs
      this.isLookDue = false
      this.cancelLook = this.options.clock.after(delayMs, () => this.look())
    })
  }

  /** Never rejects; resolves with the time until the next look. */
  private async lookOnce(): Promise<number> {
    const { api, log } = this.options
    try {
      const found = await api.get(WEBHOOK_CONFIGURATIONS, null, WEBHOOK_CONFIGURATION)
      const wanted = found === null ? null : withBundle(found, Buffer.from(this.bundle).toString('base64'))
      if (wanted !== null && this.isLeading) {
        await api.replace(wanted, WEBHOOK_CONFIGURATIONS)
        log.info('the API server knows the webhook by the roots of the mesh', { configuration: WEBHOOK_CONFIGURATION })
      }
      this.currentProblem = ''
      this.backoff.reset()
      return found === null ? ABSENT_INTERVAL_MS : LOOK_INTERVAL_MS
    } catch (error) {
      // Somebody else has written meanwhile: look again at once.
      if (error instanceof KubernetesError && error.isConflict) return 0
      const problem = describeError(error)
      if (problem !== this.currentProblem) {
        log.warn('the roots of the webhook cannot be written: the API server cannot ask it', { error: problem })
      }
      this.currentProblem = problem
      return this.backoff.nextMs()
    }
  }
}

/** The configuration with the bundle in every webhook; null when it is there already. */
function withBundle(found: KubernetesObject, caBundle: string): KubernetesObject | null {
  const webhooks = own(found, 'webhooks')
  if (!Array.isArray(webhooks)) return null
  let isChanged = false
  const changed = webhooks.map((webhook: unknown) => {
    const client = isTree(webhook) ? own(webhook, 'clientConfig') : undefined
    if (!isTree(webhook) || !isTree(client) || own(client, 'caBundle') === caBundle) return webhook
    isChanged = true
    return { ...webhook, clientConfig: { ...client, caBundle } }
  })
  return isChanged ? { ...found, webhooks: changed } : null
}
