/**
 * One agent's discovery stream, seen from the controller.
 *
 * For each type that the agent subscribes to, the session knows what the agent has. `push` sends the difference to what
 * it should have, in responses of bounded size, and then waits until all of them are acknowledged before it sends more:
 * a slow agent skips generations instead of piling them up. The last response of a push says so (wire/discovery.ts), and
 * the agent puts all of it in force at once.
 */
import type { Logger } from '../base/log.ts'
import { CallError, STATUS_INVALID_ARGUMENT, STATUS_UNAVAILABLE } from '../wire/channel.ts'
import {
  formatGeneration,
  isResourceType,
  RESOURCE_TYPES,
  type ResourceType,
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
} from '../wire/discovery.ts'
import type { DeltaRequest, DeltaResponse, ResourceMessage } from '../wire/messages.ts'
import type { DiscoverySession, DiscoveryStream } from '../wire/server.ts'
import type { PublishObserver } from './publisher.ts'
import type { Difference, ResourceMap, SentMap, VersionedResource } from './resource-set.ts'

/** Resource bytes of one response, beyond which the next one begins. 1 MiB: far below the limit of a message. */
const RESPONSE_BYTES = 1_048_576
/** Names of removed resources in one response. 10 000 names of 100 bytes are 1 MB. */
const REMOVED_NAMES = 10_000
/** Longest part of an agent's complaint that is kept. */
const NACK_LENGTH_MAX = 2_000

/** What a session needs of the publisher. */
export interface SessionSource {
  readonly generation: number
  wanted(typeUrl: ResourceType, node: string): ResourceMap
  difference(sent: SentMap, wanted: ResourceMap): Difference
  forget(session: AgentSession): void
  /** The agent, which has an earlier generation by this stream, is sent the newest one. */
  onSent?(): void
  /** The agent has everything of a generation that was sent to it on this stream. */
  onConverged?(generation: number): void
  readonly observer?: PublishObserver | null
}

/** What a session needs of the publisher. */
export interface SessionOptions {
  readonly stream: DiscoveryStream
  readonly node: string
  readonly source: SessionSource
  readonly log: Logger
  readonly now: () => number
}

/** One agent as /status shows it. */
export interface AgentStatus {
  readonly node: string
  readonly address: string
  readonly connectedSince: string
  /** Newest generation of which the agent has acknowledged everything. */
  readonly generation: number
  /** Responses that it has not answered yet. */
  readonly outstanding: number
  readonly acks: number
  readonly nacks: number
  /** What the agent said at the last refusal; null when it never refused. */
  readonly lastError: string | null
  /** Resources that it has, by type. */
  readonly resources: Readonly<Record<string, number>>
  /** Resources sent on this stream. */
  readonly resourcesSent: number
}

/** What the agent has of one type. */
interface Subscription {
  sent: SentMap
  /** True until the first response, which is sent even when there is nothing to say. */
  isNew: boolean
}

/** One stream of one agent: what it has, what it was sent, what it has refused. */
export class AgentSession implements DiscoverySession {
  readonly node: string
  private readonly stream: DiscoveryStream
  private readonly source: SessionSource
  private readonly log: Logger
  private readonly connectedAt: number
  private readonly subscriptions = new Map<ResourceType, Subscription>()
  private readonly outstanding = new Set<string>()
  private nonce = 0
  private sentGeneration = 0
  private ackedGeneration = 0
  private acks = 0
  private nacks = 0
  private resourcesSent = 0
  private lastError: string | null = null
  private isClosed = false

  constructor(options: SessionOptions) {
    this.stream = options.stream
    this.node = options.node
    this.source = options.source
    this.log = options.log
    this.connectedAt = options.now()
  }

  onRequest(request: DeltaRequest): void {
    if (this.isClosed) return
    const { typeUrl } = request
    if (!isResourceType(typeUrl)) {
      this.refuse(`there is no resource type ${JSON.stringify(typeUrl.slice(0, 200))}`)
      return
    }
    if (request.responseNonce !== '') this.onAnswer(typeUrl, request)
    if (!this.subscriptions.has(typeUrl)) this.subscribe(typeUrl, request)
    this.push()
  }

  onClose(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.source.forget(this)
    this.log.info('agent disconnected', { node: this.node, peer: this.stream.peer.address })
  }

  /** Ends the stream; an agent that lives comes back. */
  end(reason: string): void {
    if (this.isClosed) return
    this.stream.fail(new CallError(STATUS_UNAVAILABLE, reason))
    this.onClose()
  }

  /** Sends what the agent does not have yet, unless it still owes answers; then the last answer sends it. */
  push(): void {
    if (this.isClosed || this.outstanding.size > 0) return
    // Before the first generation nothing is known: that is not the same as an empty mesh.
    if (this.source.generation === 0) return
    const responses = this.pendingResponses()
    const generation = this.source.generation
    // Of an agent that has just connected nothing is late.
    if (responses.length > 0 && this.ackedGeneration > 0 && this.sentGeneration !== generation) this.source.onSent?.()
    this.sentGeneration = generation
    responses.forEach((response, i) => {
      const systemVersionInfo = formatGeneration(generation, i === responses.length - 1)
      const nonce = String(++this.nonce)
      this.outstanding.add(nonce)
      this.resourcesSent += response.resources.length
      this.source.observer?.pushed(typeLabel(response.typeUrl), sizeOf(response))
      this.stream.send({ ...response, nonce, systemVersionInfo })
    })
    if (responses.length === 0) this.ackedGeneration = generation
  }

  status(): AgentStatus {
    return {
      node: this.node,
      address: this.stream.peer.address,
      connectedSince: new Date(this.connectedAt).toISOString(),
      generation: this.ackedGeneration,
      outstanding: this.outstanding.size,
      acks: this.acks,
      nacks: this.nacks,
      lastError: this.lastError,
      resources: Object.fromEntries([...this.subscriptions].map(([typeUrl, { sent }]) => [typeUrl, sent.size])),
      resourcesSent: this.resourcesSent,
    }
  }

  private subscribe(typeUrl: ResourceType, request: DeltaRequest): void {
    const names = request.resourceNamesSubscribe
    if (names.length > 1 || (names.length === 1 && names[0] !== '*')) {
      this.refuse(`subscribing to single resources of ${typeUrl} is not supported: subscribe to "*"`)
      return
    }
    const versions = Object.entries(request.initialResourceVersions)
    const sent = new Map(versions.map(([name, version]) => [name, { version }]))
    this.subscriptions.set(typeUrl, { sent, isNew: true })
  }

  private onAnswer(typeUrl: ResourceType, request: DeltaRequest): void {
    // An answer to nothing we sent on this stream says nothing.
    if (!this.outstanding.delete(request.responseNonce)) return
    if (request.errorDetail === null) {
      this.acks++
    } else {
      this.nacks++
      this.source.observer?.rejected(typeLabel(typeUrl))
      this.lastError = request.errorDetail.message.slice(0, NACK_LENGTH_MAX)
      this.log.warn('an agent refused a resource; its last good version stays in force there', {
        node: this.node,
        type: typeUrl,
        error: this.lastError,
      })
    }
    if (this.outstanding.size > 0) return
    this.ackedGeneration = this.sentGeneration
    this.source.onConverged?.(this.ackedGeneration)
  }

  private pendingResponses(): DeltaResponse[] {
    const responses: DeltaResponse[] = []
    for (const typeUrl of RESOURCE_TYPES) {
      const subscription = this.subscriptions.get(typeUrl)
      if (subscription === undefined) continue
      const wanted = this.source.wanted(typeUrl, this.node)
      const { changed, removed } = this.source.difference(subscription.sent, wanted)
      if (subscription.isNew || changed.length > 0 || removed.length > 0) {
        responses.push(...splitResponses(typeUrl, changed, removed))
      }
      subscription.sent = wanted
      subscription.isNew = false
    }
    return responses
  }

  private refuse(reason: string): void {
    this.log.warn('agent stream refused', { node: this.node, peer: this.stream.peer.address, reason })
    this.stream.fail(new CallError(STATUS_INVALID_ARGUMENT, reason))
    this.onClose()
  }
}

/** How metrics call a type of resource: Istio's short names for those that it has, ours for the rest. */
function typeLabel(typeUrl: string): string {
  return TYPE_LABELS.get(typeUrl) ?? typeUrl.slice(typeUrl.lastIndexOf('.') + 1).toLowerCase()
}

const TYPE_LABELS: ReadonlyMap<string, string> = new Map([
  [TYPE_ADDRESS, 'wds'],
  [TYPE_AUTHORIZATION, 'wads'],
])

/** Bytes of the resources in a response; what is around them is small. */
function sizeOf({ resources }: DeltaResponse): number {
  return resources.reduce((bytes, { resource }) => bytes + (resource?.value.length ?? 0), 0)
}

/** One response at least; nonce and generation are filled in later. */
function splitResponses(
  typeUrl: ResourceType,
  changed: readonly VersionedResource[],
  removed: readonly string[],
): DeltaResponse[] {
  const responses: DeltaResponse[] = []
  const add = (resources: readonly ResourceMessage[], removedResources: readonly string[]): void => {
    responses.push({ typeUrl, resources, removedResources, nonce: '', systemVersionInfo: '' })
  }
  for (let start = 0; start < removed.length; start += REMOVED_NAMES) {
    add([], removed.slice(start, start + REMOVED_NAMES))
  }
  let resources: ResourceMessage[] = []
  let bytes = 0
  for (const resource of changed) {
    if (resources.length > 0 && bytes + resource.bytes.length > RESPONSE_BYTES) {
      add(resources, [])
      resources = []
      bytes = 0
    }
    resources.push(toMessage(resource))
    bytes += resource.bytes.length
  }
  if (resources.length > 0 || responses.length === 0) add(resources, [])
  return responses
}

function toMessage(resource: VersionedResource): ResourceMessage {
  const { typeUrl, name, version, bytes } = resource
  return { name, version, aliases: [], resource: { type_url: typeUrl, value: bytes } }
}
