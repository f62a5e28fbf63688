/**
 * The roots of the mesh in every namespace of it: the ConfigMap weft-ca-root-cert, written by the leader.
 *
 * Agents mount the one beside them to know the controller by; programs may mount that of their namespace. The leader watches
 * all of that name and writes what differs, one after the other; one that somebody keeps changing is repaired more and more
 * seldom. Where a namespace leaves the mesh, the ConfigMap goes, if it is ours by its label.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isTree, own } from '../compiler/object.ts'
import type { KubernetesApi } from '../kubernetes/api.ts'
import { KubernetesError } from '../kubernetes/error.ts'
import type { KubernetesObject, ResourceType } from '../kubernetes/object.ts'
import { Reflector } from '../kubernetes/reflector.ts'

export const CONFIG_MAPS: ResourceType = { group: '', version: 'v1', plural: 'configmaps', isNamespaced: true }
export const TRUST_CONFIG_MAP = 'weft-ca-root-cert'
/** Its key. */
export const TRUST_FILE = 'root-cert.pem'

/** What marks a ConfigMap as written by us. */
const OWNER_LABEL = 'app.kubernetes.io/managed-by'
const OWNER = 'weft-controller'

/** Between two writes: 20 a second. A thousand namespaces have new roots within a minute, and the API server does not notice. */
const WRITE_INTERVAL_MS = 50
/** Between tries at one namespace: after an error, and when somebody undid what was written. */
const RETRY = { baseMs: 1_000, maxMs: 60_000 }

/** What the writer needs of the controller. */
export interface TrustBundlesOptions {
  readonly api: Pick<KubernetesApi, 'open' | 'listPage' | 'server' | 'presence' | 'apply' | 'delete'>
  /** Where controller and agents are: it has the bundle always. */
  readonly systemNamespace: string
  readonly clock: Clock
  /** Of the watch, where time must not pass faster than requests take; `clock` unless given. */
  readonly watchClock?: Clock
  readonly log: Logger
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** Counts since the start. */
export interface TrustBundleCounts {
  readonly written: number
  readonly removed: number
  readonly failed: number
}

/** One ConfigMap as it is. */
interface Held {
  readonly namespace: string
  readonly uid: string
  readonly text: string | null
  readonly isOurs: boolean
}

/** Of one namespace that was written, or could not be. */
interface Trial {
  readonly backoff: Backoff
  /** What was written last; null for a removal. */
  lastText: string | null | undefined
  error: string
  cancel: (() => void) | null
}

/** See the head of the file. */
export class TrustBundles {
  private readonly options: TrustBundlesOptions
  private reflector: Reflector<Held> | null = null
  private readonly held = new Map<string, Held>()
  private namespaces: ReadonlySet<string> = new Set()
  private bundle: string | null = null
  /** Namespaces to look at, in order. */
  private readonly due = new Set<string>()
  private readonly trials = new Map<string, Trial>()
  private isListed = false
  private cancelWork: (() => void) | null = null
  private working: Promise<void> = Promise.resolve()
  private written = 0
  private removed = 0
  private failed = 0

  constructor(options: TrustBundlesOptions) {
    this.options = options
  }

  /** Whether this replica writes. */
  setLeading(isLeading: boolean): void {
    if (isLeading === (this.reflector !== null)) return
    if (isLeading) this.begin()
    // It never rejects.
    else void this.end()
  }

  /** The roots from now on, PEM. */
  setBundle(bundle: string): void {
    this.bundle = bundle
    this.lookAtAll()
  }

  /** The namespaces of the mesh from now on. */
  setNamespaces(namespaces: ReadonlySet<string>): void {
    const before = this.namespaces
    this.namespaces = namespaces
    for (const namespace of before) if (!namespaces.has(namespace)) this.lookAt(namespace)
    for (const namespace of namespaces) if (!before.has(namespace)) this.lookAt(namespace)
  }

  counts(): TrustBundleCounts {
    return { written: this.written, removed: this.removed, failed: this.failed }
  }

  /** Resolves when nothing is under way. Never rejects. */
  async stop(): Promise<void> {
    await this.end()
  }

  private begin(): void {
    const { api, clock, log, watchClock = clock } = this.options
    const fieldSelector = `metadata.name=${TRUST_CONFIG_MAP}`
    const settings = { api, type: CONFIG_MAPS, fieldSelector, clock: watchClock, log }
    this.reflector = new Reflector<Held>(settings, {
      convert: readHeld,
      onReplaced: (items) => {
        this.held.clear()
        for (const item of items) this.held.set(item.namespace, item)
        this.isListed = true
        this.lookAtAll()
      },
      onPut: (item) => {
        this.held.set(item.namespace, item)
        this.lookAt(item.namespace)
      },
      onDeleted: ({ namespace }) => {
        this.held.delete(namespace)
        this.lookAt(namespace)
      },
      onState: ({ problem }) => {
        if (problem !== '') log.warn('the roots in namespaces cannot be kept up to date', { problem })
      },
    })
    this.reflector.start()
  }

  private async end(): Promise<void> {
    const { reflector } = this
    this.reflector = null
    this.isListed = false
    this.cancelWork?.()
    this.cancelWork = null
    for (const { cancel } of this.trials.values()) cancel?.()
    this.trials.clear()
    this.due.clear()
    this.held.clear()
    await Promise.all([reflector?.stop(), this.working])
  }

  // --- what is to be done ---

  private lookAtAll(): void {
    for (const namespace of new Set([...this.wantedNamespaces(), ...this.held.keys()])) this.lookAt(namespace)
  }

  private lookAt(namespace: string): void {
    if (!this.isListed || this.bundle === null || this.isRight(namespace)) return
    const trial = this.trials.get(namespace)
    // Undone, or failed: not at once again. Another wish is not a repetition.
    if (trial !== undefined && trial.lastText === this.wantedText(namespace)) {
      trial.cancel ??= this.options.clock.after(trial.backoff.nextMs(), () => {
        trial.cancel = null
        if (!this.isRight(namespace)) this.schedule(namespace)
      })
      return
    }
    this.schedule(namespace)
  }

  private schedule(namespace: string): void {
    this.due.add(namespace)
    this.cancelWork ??= this.options.clock.after(WRITE_INTERVAL_MS, () => this.work())
  }

  private work(): void {
    const [namespace] = this.due
    if (namespace === undefined || this.reflector === null) {
      this.cancelWork = null
      return
    }
    this.due.delete(namespace)
    // It never rejects.
    this.working = this.put(namespace).then(() => {
      if (this.reflector !== null) {
        this.cancelWork = this.options.clock.after(WRITE_INTERVAL_MS, () => this.work())
      }
    })
  }

  private wantedNamespaces(): ReadonlySet<string> {
    return new Set([this.options.systemNamespace, ...this.namespaces])
  }

  /** Null where there is to be none. */
  private wantedText(namespace: string): string | null {
    return namespace === this.options.systemNamespace || this.namespaces.has(namespace) ? this.bundle : null
  }

  private isRight(namespace: string): boolean {
    const wanted = this.wantedText(namespace)
    const held = this.held.get(namespace)
    if (wanted === null) return held === undefined || !held.isOurs
    return held?.text === wanted && held.isOurs
  }

  // --- writing ---

  private async put(namespace: string): Promise<void> {
    if (this.isRight(namespace)) return
    const { api, log } = this.options
    const wanted = this.wantedText(namespace)
    const held = this.held.get(namespace)
    const trial = this.trialOf(namespace)
    // A first write is no repetition, nor is another text.
    if (trial.lastText !== wanted) trial.backoff.reset()
    trial.lastText = wanted
    try {
      if (wanted === null) {
        await api.delete(CONFIG_MAPS, namespace, TRUST_CONFIG_MAP, { preconditions: { uid: held?.uid } })
        this.removed++
      } else {
        await api.apply(configMap(namespace, wanted), CONFIG_MAPS)
        this.written++
      }
      trial.error = ''
    } catch (error) {
      this.failed++
      // A namespace that is going takes its ConfigMap along.
      if (isOfGoingNamespace(error)) return
      if (trial.error !== describeError(error)) {
        trial.error = describeError(error)
        log.warn('the roots of the mesh cannot be written', { namespace, error: trial.error })
      }
      this.lookAt(namespace)
    }
  }

  private trialOf(namespace: string): Trial {
    const known = this.trials.get(namespace)
    if (known !== undefined) return known
    const backoff = new Backoff(RETRY, this.options.random)
    const trial: Trial = { backoff, lastText: undefined, error: '', cancel: null }
    this.trials.set(namespace, trial)
    return trial
  }
}

function readHeld({ metadata, ...object }: KubernetesObject): Held {
  const data = own(object, 'data')
  const text = isTree(data) ? own(data, TRUST_FILE) : undefined
  return {
    namespace: metadata.namespace ?? '',
    uid: metadata.uid ?? '',
    text: typeof text === 'string' ? text : null,
    isOurs: metadata.labels?.[OWNER_LABEL] === OWNER,
  }
}

function configMap(namespace: string, bundle: string): KubernetesObject {
  const labels = { 'app.kubernetes.io/name': 'weft', [OWNER_LABEL]: OWNER }
  const metadata = { name: TRUST_CONFIG_MAP, namespace, labels }
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { [TRUST_FILE]: bundle } }
}

/** The API server makes nothing new in a namespace that is being deleted, and knows none that is gone. */
function isOfGoingNamespace(error: unknown): boolean {
  if (!(error instanceof KubernetesError)) return false
  if (error.isNotFound) return true
  const causes = isTree(error.details) ? own(error.details, 'causes') : undefined
  return (
    error.isForbidden &&
    Array.isArray(causes) &&
    causes.some((cause: unknown) => isTree(cause) && own(cause, 'reason') === 'NamespaceTerminating')
  )
}
