/**
 * The API server as the source of the mesh's objects: every kind that the compiler reads, listed and watched.
 *
 * The first state is whole when every kind has been listed or is not served by a server that says it is ready. After
 * that, whatever the server does, an object goes only when the server says that it is gone: while it is away, says no, or
 * has forgotten a kind for a moment, the last state stays in force.
 *
 * Changes are told together, soon after the first of them, and seldom enough that the work they cause leaves most of the
 * time to everybody else.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { COMPILED } from '../compiler/kinds.ts'
import type { Message } from '../compiler/messages.ts'
import { groupOf, type MeshObject } from '../compiler/object.ts'
import { type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import { discover, type ServedResource } from '../kubernetes/discovery.ts'
import { API_SERVICE, apiServerAddresses } from './api-server-addresses.ts'
import { KindStore, keyIn } from './kind-store.ts'
import type { Source } from './source.ts'

/** From the first of several changes to the moment when all are told. */
const COALESCE_MS = 100
/** At least this many times as long as the last change took to be worked in, until the next one is told. */
const REST_FACTOR = 2
/** However long it took: rules must be in force soon. */
const REST_MS_MAX = 2_000
/** Between looks for kinds that were not served: whoever installs them waits for an effect. */
const DISCOVERY_INTERVAL_MS = 5_000
/** While the server answers, but not that. One that is away is waited for. */
const DISCOVERY_BACKOFF = { baseMs: 500, maxMs: 15_000 }
/** A kind that is not served for this long is gone, with all its objects; before, the server may be restarting. */
const GONE_AFTER_MS = 60_000
/** Shorter troubles are not worth a message: a watch that was cut is back in half a second. */
const TROUBLE_MS = 3_000
/** Between words about what the first state is waiting for. */
const WAITING_INTERVAL_MS = 10_000

/** Kinds that say where the API server is. */
const ADDRESSING: ReadonlySet<string> = new Set(['Service', 'EndpointSlice'])

/** Which server, and who hears of it. */
export interface KubernetesSourceOptions {
  readonly api: KubernetesApi
  readonly clock: Clock
  readonly log: Logger
  /**
   * The objects or the messages changed. Not called before `start` has resolved, and not again before what it returns has
   * resolved: the change is worked in then. It must not reject.
   */
  readonly onChange: () => void | Promise<void>
  /** An object of a kind came, changed or went after the first list. For metrics. */
  readonly onEvent?: (kind: string, event: 'add' | 'update' | 'delete') => void
  /** [0, 1), for jitter. */
  readonly random?: () => number
}

/** The API server as objects, kept in step with it. */
export class KubernetesSource implements Source {
  private readonly options: KubernetesSourceOptions
  private readonly stores: readonly KindStore[]
  private readonly backoff: Backoff
  private isWhole = false
  private readonly stopping = new AbortController()
  private isStopped = false
  private isDiscovering = false
  private discoveryProblem = ''
  private settle: { resolve(): void; reject(error: Error): void } | null = null
  private cancelDiscovery: (() => void) | null = null
  private cancelTelling: (() => void) | null = null
  private cancelWaiting = (): void => undefined
  private cancelTrouble: (() => void) | null = null
  /** A change is being worked in, and whether there is another one to be told. */
  private isTelling = false
  private isTellingDue = false
  /** Until then no change is told. */
  private restUntilMs = 0

  constructor(options: KubernetesSourceOptions) {
    const { api, clock, log, onEvent, random = Math.random } = options
    this.options = options
    this.backoff = new Backoff(DISCOVERY_BACKOFF, random)
    this.stores = [...COMPILED].map(([kind, apiVersions]) => {
      const versions = apiVersions.map((apiVersion) => apiVersion.slice(apiVersion.indexOf('/') + 1))
      return new KindStore({
        kind,
        group: groupOf(apiVersions[0]!),
        versions,
        api,
        clock,
        log,
        random,
        onObjects: () => {
          if (ADDRESSING.has(kind)) this.learnAddresses()
          this.tellSoon()
        },
        onEvent: (event) => onEvent?.(kind, event),
        onState: () => this.onState(),
      })
    })
  }

  get objects(): readonly MeshObject[] {
    return this.stores.flatMap((store) => [...store.objects.values()])
  }

  get messages(): readonly Message[] {
    return [...this.troubles(), ...this.stores.flatMap((store) => store.messages)]
  }

  newest(kind: string, namespace: string, name: string): MeshObject | null {
    return this.stores.find((store) => store.kind === kind)?.objects.get(keyIn(namespace, name)) ?? null
  }

  async fetch(kind: string, namespace: string, name: string): Promise<MeshObject | null> {
    return (await this.stores.find((store) => store.kind === kind)?.fetch(namespace, name)) ?? null
  }

  async start(): Promise<void> {
    const settled = new Promise<void>((resolve, reject) => {
      this.settle = { resolve, reject }
    })
    void this.discover()
    this.sayWaiting()
    await settled
    this.cancelWaiting()
  }

  async stop(): Promise<void> {
    this.isStopped = true
    this.stopping.abort()
    this.cancelDiscovery?.()
    this.cancelTelling?.()
    this.cancelWaiting()
    this.cancelTrouble?.()
    this.settle?.reject(new WeftError('WEFT_KUBERNETES', 'the controller was stopped before the API server answered'))
    this.settle = null
    await Promise.all(this.stores.map((store) => store.stop()))
  }

  status(): unknown {
    return {
      server: this.options.api.server,
      isWhole: this.isWhole,
      ...(this.discoveryProblem === '' ? {} : { problem: this.discoveryProblem }),
      kinds: Object.fromEntries(this.stores.map((store) => [store.kind, store.status()])),
    }
  }

  // --- kinds ---

  /** Looks which kinds are served, and follows those that are not followed yet. Never rejects. */
  private async discover(): Promise<void> {
    if (this.isDiscovering || this.isStopped) return
    this.isDiscovering = true
    let waitMs: number | null = null
    try {
      const wanted = this.stores.filter((store) => !store.isServed)
      const served = await discover(this.options.api, new Set(wanted.map((store) => store.group)))
      if (this.isStopped) return
      for (const store of wanted) store.onDiscovered(bestVersion(served, store), GONE_AFTER_MS)
      this.discoveryProblem = ''
      this.backoff.reset()
      if (this.stores.some((store) => !store.isServed)) waitMs = DISCOVERY_INTERVAL_MS
    } catch (error) {
      if (this.isStopped) return
      this.discoveryProblem = describeError(error)
      if (error instanceof KubernetesError && error.isAway) {
        await this.options.api.presence.returned(this.stopping.signal)
        if (this.isStopped) return
      }
      waitMs = this.backoff.nextMs()
    }
    this.isDiscovering = false
    if (waitMs !== null) this.discoverAfter(waitMs)
    this.onState()
  }

  /** How a kind, or the server, is doing has changed. */
  private onState(): void {
    if (this.isStopped) return
    if (!this.isWhole && this.stores.every((store) => store.isSettled)) {
      this.isWhole = true
      this.settle?.resolve()
      this.settle = null
    }
    const isLookNeeded = !this.isDiscovering && this.cancelDiscovery === null
    if (isLookNeeded && this.stores.some((store) => !store.isServed)) this.discoverAfter(0)
    if (this.stores.some((store) => store.problem !== '')) this.watchTrouble()
  }

  /** Where the API server is, for when kube-proxy has not noticed yet that it is back. */
  private learnAddresses(): void {
    const { connection, server } = this.options.api
    const [service, slice] = ['Service', 'EndpointSlice'].map((kind) =>
      this.stores.find((store) => store.kind === kind)!.objects.get(API_SERVICE),
    )
    connection.direct.learn(apiServerAddresses(server, service, slice))
  }

  private discoverAfter(delayMs: number): void {
    this.cancelDiscovery = this.options.clock.after(delayMs, () => {
      this.cancelDiscovery = null
      void this.discover()
    })
  }

  // --- telling ---

  private tellSoon(): void {
    if (!this.isWhole || this.isStopped || this.cancelTelling !== null) return
    if (this.isTelling) {
      this.isTellingDue = true
      return
    }
    const { clock } = this.options
    const delayMs = Math.max(COALESCE_MS, this.restUntilMs - clock.now())
    this.cancelTelling = clock.after(delayMs, () => {
      this.cancelTelling = null
      // It never rejects.
      void this.tell()
    })
  }

  private async tell(): Promise<void> {
    const { clock, onChange } = this.options
    this.isTelling = true
    const startedAtMs = clock.now()
    await onChange()
    const endedAtMs = clock.now()
    this.restUntilMs = endedAtMs + Math.min(REST_MS_MAX, REST_FACTOR * (endedAtMs - startedAtMs))
    this.isTelling = false
    if (!this.isTellingDue) return
    this.isTellingDue = false
    this.tellSoon()
  }

  // --- trouble ---

  /** Kinds that are behind for longer than a moment. */
  private troubles(): readonly Message[] {
    const nowMs = this.options.clock.now()
    const troubled = this.stores.filter((store) => store.problem !== '' && nowMs - store.troubleSinceMs >= TROUBLE_MS)
    const failing = troubled.filter((store) => store.isFailing)
    const messages = troubled.filter((store) => !store.isFailing).map((store) => sourceMessage(store.problem))
    if (failing.length === 0) return messages
    // All kinds fail together when the server is away; one sentence says it.
    const kinds = failing.map(({ kind }) => kind).join(', ')
    return [sourceMessage(`The last state stays in force for ${kinds}: ${failing[0]!.problem}.`), ...messages]
  }

  /** Tells of a trouble when it has lasted, and of its end. */
  private watchTrouble(): void {
    if (this.cancelTrouble !== null || this.isStopped) return
    let told = ''
    const look = (): void => {
      const text = this.troubles()
        .map((message) => message.text)
        .join('\n')
      const isTroubled = this.stores.some((store) => store.problem !== '')
      this.cancelTrouble = isTroubled || text !== '' ? this.options.clock.after(TROUBLE_MS, look) : null
      if (text === told) return
      told = text
      this.tellSoon()
    }
    this.cancelTrouble = this.options.clock.after(TROUBLE_MS, look)
  }

  private sayWaiting(): void {
    this.cancelWaiting = this.options.clock.after(WAITING_INTERVAL_MS, () => {
      const { log, api } = this.options
      const missing = this.stores.filter((store) => !store.isSettled)
      const problem = missing.find((store) => store.problem !== '')?.problem ?? this.discoveryProblem
      log.warn('waiting for the first state from the API server, no agent is served before', {
        server: api.server,
        kinds: missing.map(({ kind }) => kind),
        ...(problem === '' ? {} : { problem }),
      })
      this.sayWaiting()
    })
  }
}

/** The version to read a kind in: the first that the compiler prefers among those that are served. */
function bestVersion(served: readonly ServedResource[], store: KindStore): ServedResource | null {
  const ofKind = served.filter(({ group, kind }) => group === store.group && kind === store.kind)
  for (const version of store.versions) {
    const found = ofKind.find((resource) => resource.version === version)
    if (found !== undefined) return found
  }
  return null
}

function sourceMessage(text: string): Message {
  return { code: 'WEFT0411', severity: 'error', text, fix: '', object: '', field: '', position: null }
}
