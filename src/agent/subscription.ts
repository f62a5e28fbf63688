/**
 * The agent's subscription to the mesh: one delta stream to the controller, for ever.
 *
 * Responses are decoded, validated and acknowledged one by one, and put in force together when the controller says that
 * the generation is complete. A resource that is not valid is refused by name and its last good version stays. When the
 * stream is lost the agent comes back with the versions it has, so that only what changed is sent. Everything held is
 * kept on disk; an agent that starts while the controller is away begins with that.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type Delta, isEmptyDelta } from '../model/delta.ts'
import { STATUS_INVALID_ARGUMENT } from '../wire/channel.ts'
import type { ControlClient, DiscoveryCall } from '../wire/client.ts'
import { isCompleteGeneration, isResourceType, RESOURCE_TYPES, type ResourceType } from '../wire/discovery.ts'
import { decodeResource } from '../wire/mesh-codec.ts'
import type { DeltaRequest, DeltaResponse, ResourceMessage } from '../wire/messages.ts'
import { ResourceStore } from './resource-store.ts'
import { readSnapshot, writeSnapshot } from './snapshot-file.ts'

/** From half a second to 15 s: a controller that comes back is found soon, and thousands of agents do not storm it. */
const RECONNECT = { baseMs: 500, maxMs: 15_000 }
/** How long a start waits for the controller before it uses what is on disk. */
const START_GRACE_MS = 2_000
/** The snapshot is written at most this often. */
const WRITE_DELAY_MS = 1_000
/** Longest complaint sent to the controller. It keeps the first 2000 characters. */
const NACK_LENGTH_MAX = 2_000

/** What the subscription needs of the agent. */
export interface SubscriptionOptions {
  /** Makes a connection with the newest credential. Throws when the credential is not usable. */
  readonly connect: () => Pick<ControlClient, 'openDiscovery' | 'close'>
  readonly node: string
  /** Where the last good snapshot is kept; null keeps none. */
  readonly snapshotFile: string | null
  readonly clock: Clock
  readonly log: Logger
  /** What changed, consistent in itself. The first one is everything; it may be empty. */
  readonly onDelta: (delta: Delta) => void
  /** The controller has said all it has to say: what is in force is whole, and not from disk. */
  readonly onComplete?: () => void
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** As /config_dump and readiness show it. */
export interface SubscriptionStatus {
  readonly isConnected: boolean
  /** True once a delta was handed out: from the controller or from disk. */
  readonly isReady: boolean
  /** True when what is in force came from disk and the controller has not confirmed it yet. */
  readonly isFromDisk: boolean
  /** The controller's generation that is in force; empty before the first. */
  readonly generation: string
  readonly lastUpdateAt: number | null
  /** Why the last connection or attempt failed; null after a success. */
  readonly lastError: string | null
  /** Resources refused since start, and why the last one was. */
  readonly rejectedCount: number
  readonly lastRejection: string | null
  /** Resources held, by type. */
  readonly resources: Readonly<Record<string, number>>
  /** Resources received since start. */
  readonly receivedCount: number
}

/** The one stream of configuration to this agent, over as many connections as it takes. */
export class Subscription {
  private readonly options: SubscriptionOptions
  private readonly store = new ResourceStore()
  private readonly backoff: Backoff
  private client: Pick<ControlClient, 'openDiscovery' | 'close'> | null = null
  private call: DiscoveryCall | null = null
  /** Types whose first response on this stream has not come. */
  private readonly awaited = new Set<ResourceType>()
  private cancelReconnect: (() => void) | null = null
  private cancelGrace: (() => void) | null = null
  private cancelWrite: (() => void) | null = null
  private writing: Promise<void> = Promise.resolve()
  private isStopped = true
  private isConnected = false
  private isReady = false
  private isFromDisk = false
  private generation = ''
  private lastUpdateAt: number | null = null
  private lastError: string | null = null
  private rejectedCount = 0
  private lastRejection: string | null = null
  private receivedCount = 0
  private mayWrite = true

  constructor(options: SubscriptionOptions) {
    this.options = options
    this.backoff = new Backoff(RECONNECT, options.random)
  }

  /** Reads the snapshot on disk and connects. Resolves when the first attempt is under way, not when it succeeded. */
  async start(): Promise<void> {
    const { snapshotFile, node, log, clock } = this.options
    this.isStopped = false
    const count = snapshotFile === null ? 0 : await readSnapshot(snapshotFile, node, this.store, log)
    if (this.isStopped) return
    if (count > 0) this.cancelGrace = clock.after(START_GRACE_MS, () => this.useDisk())
    this.connect()
  }

  /** Ends the stream and writes the snapshot a last time if it is due. */
  async stop(): Promise<void> {
    this.isStopped = true
    this.cancelReconnect?.()
    this.cancelGrace?.()
    this.disconnect()
    if (this.cancelWrite !== null) this.write()
    await this.writing
  }

  /** The file is another agent's from now on. */
  leaveFile(): void {
    this.cancelWrite?.()
    this.cancelWrite = null
    this.mayWrite = false
  }

  /** It is ours again. */
  resumeFile(): void {
    this.mayWrite = true
    this.write()
  }

  /** Comes back on a new connection at once, for instance with a new credential. */
  reconnect(): void {
    if (this.isStopped) return
    this.cancelReconnect?.()
    this.disconnect()
    this.connect()
  }

  status(): SubscriptionStatus {
    return {
      isConnected: this.isConnected,
      isReady: this.isReady,
      isFromDisk: this.isFromDisk,
      generation: this.generation,
      lastUpdateAt: this.lastUpdateAt,
      lastError: this.lastError,
      rejectedCount: this.rejectedCount,
      lastRejection: this.lastRejection,
      resources: Object.fromEntries(RESOURCE_TYPES.map((typeUrl) => [typeUrl, this.store.count(typeUrl)])),
      receivedCount: this.receivedCount,
    }
  }

  // --- connection ---

  private connect(): void {
    this.cancelReconnect = null
    try {
      this.client = this.options.connect()
    } catch (error) {
      this.onLost(error)
      return
    }
    this.awaited.clear()
    for (const typeUrl of RESOURCE_TYPES) this.awaited.add(typeUrl)
    const call = this.client.openDiscovery({
      onResponse: (response) => this.onResponse(response),
      onEnd: (error) => this.onLost(error),
    })
    this.call = call
    for (const typeUrl of RESOURCE_TYPES) {
      call.send(this.request(typeUrl, { initialResourceVersions: this.store.versions(typeUrl) }))
    }
  }

  private disconnect(): void {
    this.call?.close()
    this.call = null
    this.client?.close()
    this.client = null
    this.isConnected = false
  }

  private onLost(error: unknown): void {
    this.disconnect()
    if (this.isStopped) return
    this.lastError = describeError(error)
    const delayMs = this.backoff.nextMs()
    this.options.log.warn('the controller cannot be reached; the last good configuration stays in force', {
      error: this.lastError,
      retryInMs: delayMs,
    })
    this.useDisk()
    this.cancelReconnect = this.options.clock.after(delayMs, () => this.connect())
  }

  // --- responses ---

  private onResponse(response: DeltaResponse): void {
    const { typeUrl, nonce } = response
    this.isConnected = true
    if (!isResourceType(typeUrl)) {
      this.onLost(new WeftError('WEFT_CONTROLLER', `the controller sent ${typeUrl}, which nobody asked for`))
      return
    }
    const problems: string[] = []
    for (const resource of response.resources) {
      try {
        this.take(typeUrl, resource)
      } catch (error) {
        problems.push(describeError(error))
      }
    }
    for (const name of response.removedResources) this.store.remove(typeUrl, name)
    this.answer(typeUrl, nonce, problems)
    this.awaited.delete(typeUrl)
    if (this.awaited.size === 0 && isCompleteGeneration(response.systemVersionInfo)) {
      this.onComplete(response.systemVersionInfo)
    }
  }

  private take(typeUrl: ResourceType, message: ResourceMessage): void {
    this.receivedCount++
    const { name, version, resource } = message
    if (resource === null) throw new WeftError('WEFT_RESOURCE', `resource ${JSON.stringify(name)} has no content`)
    if (resource.type_url !== typeUrl) {
      throw new WeftError('WEFT_RESOURCE', `resource ${JSON.stringify(name)} is of type ${resource.type_url}`)
    }
    const decoded = decodeResource(typeUrl, name, resource.value)
    // The bytes are part of the whole message: a copy lets the rest of it go.
    this.store.put(typeUrl, name, { version, bytes: Uint8Array.from(resource.value), resource: decoded })
  }

  private answer(typeUrl: ResourceType, responseNonce: string, problems: readonly string[]): void {
    if (problems.length === 0) {
      this.call?.send(this.request(typeUrl, { responseNonce }))
      return
    }
    this.rejectedCount += problems.length
    this.lastRejection = problems[problems.length - 1]!
    for (const problem of problems) {
      this.options.log.error(
        `the controller sent a resource that is not valid; its last good version stays: ${problem}`,
      )
    }
    const message = problems.join('; ').slice(0, NACK_LENGTH_MAX)
    this.call?.send(this.request(typeUrl, { responseNonce, errorDetail: { code: STATUS_INVALID_ARGUMENT, message } }))
  }

  private request(typeUrl: ResourceType, fields: Partial<DeltaRequest>): DeltaRequest {
    return {
      node: { id: this.options.node, cluster: '', metadata: null },
      typeUrl,
      resourceNamesSubscribe: [],
      resourceNamesUnsubscribe: [],
      initialResourceVersions: {},
      responseNonce: '',
      errorDetail: null,
      ...fields,
    }
  }

  private onComplete(generation: string): void {
    this.backoff.reset()
    this.lastError = null
    this.generation = generation
    this.isFromDisk = false
    this.cancelGrace?.()
    this.cancelGrace = null
    const isChanged = this.apply()
    this.options.onComplete?.()
    if (isChanged && this.options.snapshotFile !== null && this.mayWrite && this.cancelWrite === null) {
      this.cancelWrite = this.options.clock.after(WRITE_DELAY_MS, () => this.write())
    }
  }

  /**
   * Hands out what changed; false when nothing did. The first time it is handed out all the same: the mesh may be empty,
   * and now that is known.
   */
  private apply(): boolean {
    const delta = this.store.takeDelta()
    const isFirst = !this.isReady
    this.isReady = true
    this.lastUpdateAt = this.options.clock.now()
    const isChanged = isFirst || !isEmptyDelta(delta)
    if (isChanged) this.options.onDelta(delta)
    return isChanged
  }

  // --- disk ---

  /** Puts in force what was read from disk, if the controller has not spoken yet. */
  private useDisk(): void {
    const isLoaded = this.cancelGrace !== null
    this.cancelGrace?.()
    this.cancelGrace = null
    if (!isLoaded || this.isReady || this.isStopped) return
    this.isFromDisk = true
    this.options.log.warn('starting with the configuration on disk: the controller is away')
    this.apply()
  }

  private write(): void {
    this.cancelWrite?.()
    this.cancelWrite = null
    const { snapshotFile, node, log } = this.options
    if (snapshotFile === null || !this.mayWrite) return
    this.writing = this.writing
      .then(() => writeSnapshot(snapshotFile, node, this.store))
      .catch((error) => log.error(describeError(error)))
  }
}
