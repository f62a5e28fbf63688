/**
 * All objects of one resource, kept in step with the API server: list once, then watch from there.
 *
 * A watch that ends is resumed where it was; when the server has forgotten that place (410), the list is read again and
 * handed on as one replacement, so that nobody ever sees a half of it. While the server is away, or says no, the last
 * state stays: only the server's own word removes an object. All reflectors of a server wait for its return together
 * (server-presence.ts), and go on at once.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type KubernetesApi, KubernetesError } from './api.ts'
import { statusError } from './error.ts'
import { collectionPath, type KubernetesObject, nameOfType, type ResourceType } from './object.ts'
import { type WatchEvent, watch } from './watch.ts'

/** How a reflector is doing. */
export type ReflectorPhase =
  | 'listing' // no list yet, or one that is not followed by a watch yet
  | 'watching'
  | 'missing' // the server does not serve the resource (any more)
  | 'forbidden' // RBAC does not let us
  | 'failing' // the server is away, or answers with errors

/** Its state, with a sentence when all is not well. */
export interface ReflectorState {
  readonly phase: ReflectorPhase
  /** True once a list was complete: what is held is what the server had at some time. */
  readonly isSynced: boolean
  /** For the operator; empty when all is well. */
  readonly problem: string
}

/** Who keeps the objects. Handlers must not throw. */
export interface ReflectorSink<T> {
  /** Makes of an object what is kept of it, as soon as it arrives. */
  convert(object: KubernetesObject): T
  /** All that there is; what is not in it is gone. */
  onReplaced(items: readonly T[]): void
  /** New, or changed. */
  onPut(item: T): void
  onDeleted(item: T): void
  onState(state: ReflectorState): void
}

/** What a reflector needs of the API. */
export type ReflectorApi = Pick<KubernetesApi, 'open' | 'listPage' | 'server' | 'presence'>

/** Which resource of which server. */
export interface ReflectorSettings {
  readonly api: ReflectorApi
  readonly type: ResourceType
  /** Null, and absent: all namespaces. */
  readonly namespace?: string | null
  readonly labelSelector?: string
  readonly fieldSelector?: string
  readonly clock: Clock
  readonly log: Logger
  /** [0, 1), for jitter. */
  readonly random?: () => number
}

/** After failures of a server that is there, so that what it cannot do does not keep it busy. */
const BACKOFF = { baseMs: 500, maxMs: 15_000 }
/** While RBAC says no: somebody has to change it first, unless a server that just started has not read its roles yet. */
const FORBIDDEN_BACKOFF = { baseMs: 2_000, maxMs: 45_000 }
/** Between looks whether the resource is served: CRDs are installed by people who then wait for an effect. */
const MISSING_RETRY_MS = 5_000
/** The server is asked to end the watch after this long, at least; up to twice as long, so that not all end together. */
const WATCH_SECONDS_MIN = 300
/** A watch that ends sooner without an event is counted as a failure: a server that does so must not be asked in a loop. */
const SHORT_WATCH_MS = 1_000
/** A watch that was cut after this time or later had been a good one: what cut it is new. */
const LASTING_WATCH_MS = 10_000
/**
 * Watches in a row that the server refused or ended with an error before one event came: from then on the place we hold
 * is doubted (an etcd that was restored from a backup knows it no more) and the list is read again.
 */
const BAD_WATCHES_MAX = 3

const TOO_MANY_REQUESTS = 429

/** A server that was not ready for this long was away, and not only lost: its restart takes two seconds at least. */
const REAL_ABSENCE_MS = 2_000

/** Lists and watches until it is stopped. */
export class Reflector<T> {
  private readonly settings: ReflectorSettings
  private readonly sink: ReflectorSink<T>
  private readonly backoff: Backoff
  private readonly forbiddenBackoff: Backoff
  private readonly random: () => number
  private readonly abort = new AbortController()
  private readonly path: string
  /** Where the watch goes on; empty when a list is needed. */
  private resourceVersion = ''
  private badWatches = 0
  /** How often the server was lost since all was well. */
  private losses = 0
  private hasEvents = false
  /** When the server took the watch; null when it has not. */
  private openedAtMs: number | null = null
  private current: ReflectorState = { phase: 'listing', isSynced: false, problem: '' }
  private running: Promise<void> = Promise.resolve()

  constructor(settings: ReflectorSettings, sink: ReflectorSink<T>) {
    this.settings = settings
    this.sink = sink
    this.random = settings.random ?? Math.random
    this.backoff = new Backoff(BACKOFF, this.random)
    this.forbiddenBackoff = new Backoff(FORBIDDEN_BACKOFF, this.random)
    this.path = collectionPath(settings.type, settings.namespace ?? null)
  }

  get type(): ResourceType {
    return this.settings.type
  }

  get state(): ReflectorState {
    return this.current
  }

  /** Begins; call it once. Never throws: what goes wrong is a state. */
  start(): void {
    this.running = this.run()
  }

  /** Resolves when nothing is under way any more. No handler is called after the call. */
  async stop(): Promise<void> {
    this.abort.abort(new Error('stopped'))
    await this.running
  }

  private async run(): Promise<void> {
    const { signal } = this.abort
    while (!signal.aborted) {
      let waitMs: number
      let isAway = false
      this.openedAtMs = null
      try {
        if (this.resourceVersion === '') await this.list()
        waitMs = await this.watchOnce()
      } catch (error) {
        if (signal.aborted) return
        isAway = error instanceof KubernetesError && error.isAway
        waitMs = this.onFailure(error)
      }
      if (waitMs > 0) await this.sleep(waitMs)
      if (isAway) await this.awaitReturn()
    }
  }

  private async awaitReturn(): Promise<void> {
    const { api, clock } = this.settings
    const beganMs = clock.now()
    await api.presence.returned(this.abort.signal)
    // What went wrong before it was really away says nothing of how it is now.
    if (clock.now() - beganMs >= REAL_ABSENCE_MS) this.settle()
  }

  /** Reads all pages and hands them on as one. */
  private async list(): Promise<void> {
    const { api, type, namespace = null, labelSelector, fieldSelector } = this.settings
    const options = {
      namespace,
      ...(labelSelector === undefined ? {} : { labelSelector }),
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
      signal: this.abort.signal,
    }
    const items: T[] = []
    let continueToken = ''
    let version = ''
    do {
      const page = await api.listPage(type, options, continueToken)
      for (const item of page.items) items.push(this.sink.convert(item))
      ;({ continueToken, resourceVersion: version } = page)
    } while (continueToken !== '')
    this.abort.signal.throwIfAborted()
    this.resourceVersion = version
    this.badWatches = 0
    this.sink.onReplaced(items)
    this.setState('listing', '', true)
  }

  /** Watches until the end; returns how long to wait before the next watch. */
  private async watchOnce(): Promise<number> {
    const { api, clock, labelSelector, fieldSelector } = this.settings
    const startedAtMs = clock.now()
    this.hasEvents = false
    const query = {
      resourceVersion: this.resourceVersion,
      timeoutSeconds: Math.round(WATCH_SECONDS_MIN * (1 + this.random())),
      labelSelector,
      fieldSelector,
    }
    await watch(api, this.path, query, {
      clock,
      signal: this.abort.signal,
      onOpen: () => {
        this.openedAtMs = clock.now()
        this.forbiddenBackoff.reset()
        this.setState('watching', '')
      },
      onEvent: (event) => this.onEvent(event),
    })
    if (!this.hasEvents && clock.now() - startedAtMs < SHORT_WATCH_MS) return this.backoff.nextMs()
    this.settle()
    return 0
  }

  /** The server is there and does what it should: the next failure is a first one. */
  private settle(): void {
    this.losses = 0
    this.backoff.reset()
  }

  private onEvent({ type, object }: WatchEvent): void {
    if (type === 'ERROR') {
      throw statusError({ server: this.settings.api.server, method: 'WATCH', path: this.path }, object)
    }
    const changed = object as KubernetesObject | null
    const version = changed?.metadata?.resourceVersion
    // An event without a version would leave us without a place to go on from.
    if (changed === null || typeof version !== 'string' || version === '') return
    if (type === 'ADDED' || type === 'MODIFIED') this.sink.onPut(this.sink.convert(changed))
    else if (type === 'DELETED') this.sink.onDeleted(this.sink.convert(changed))
    this.resourceVersion = version
    if (this.hasEvents) return
    this.hasEvents = true
    this.badWatches = 0
    this.settle()
  }

  /** Says what is wrong and returns how long to wait, beside the wait for a server that is away. */
  private onFailure(error: unknown): number {
    const { clock, log, type } = this.settings
    if (this.openedAtMs !== null && clock.now() - this.openedAtMs >= LASTING_WATCH_MS) this.settle()
    const name = nameOfType(type)
    const answer = error instanceof KubernetesError ? error : null
    if (answer?.isExpired === true) {
      log.debug('the place in the watch is too old, listing again', { resource: name })
      const isRepeated = this.resourceVersion === ''
      this.resourceVersion = ''
      return isRepeated ? this.backoff.nextMs() : 0
    }
    if (answer?.isForbidden === true) {
      // What we may not watch we may not trust to be whole when we may again.
      this.resourceVersion = ''
      this.setState('forbidden', `${name} cannot be listed and watched: ${answer.apiMessage}. ${grantText(type)}`)
      return this.forbiddenBackoff.nextMs()
    }
    if (answer?.isNotFound === true) {
      this.resourceVersion = ''
      this.setState('missing', `${name} is not served by ${this.settings.api.server} in version ${type.version}`)
      return this.jittered(MISSING_RETRY_MS)
    }
    // A server that is away, or busy, says nothing about our place.
    if (answer === null || !(answer.isAway || answer.status === TOO_MANY_REQUESTS)) {
      if (++this.badWatches >= BAD_WATCHES_MAX) this.resourceVersion = ''
    }
    this.setState('failing', `${name} cannot be kept up to date, the last state stays: ${describeError(error)}`)
    // Who loses a server again that is there for others waits longer and longer.
    return answer?.isAway === true && this.losses++ === 0 ? 0 : this.backoff.nextMs()
  }

  private jittered(ms: number): number {
    return Math.round(ms * (1 + this.random() / 2))
  }

  private setState(phase: ReflectorPhase, problem: string, isSynced = this.current.isSynced): void {
    const { current } = this
    if (current.phase === phase && current.problem === problem && current.isSynced === isSynced) return
    this.current = { phase, isSynced, problem }
    this.sink.onState(this.current)
  }

  private async sleep(ms: number): Promise<void> {
    const { signal } = this.abort
    if (signal.aborted) return
    await new Promise<void>((resolve) => {
      const end = (): void => {
        cancel()
        signal.removeEventListener('abort', end)
        resolve()
      }
      const cancel = this.settings.clock.after(ms, end)
      signal.addEventListener('abort', end)
    })
  }
}

function grantText({ group, plural }: ResourceType): string {
  return `Grant the verbs get, list and watch on ${plural} of the API group "${group}" in a ClusterRole.`
}
