/**
 * Kubernetes Events beside objects that are not in force as written, and beside pods that were to be in the mesh and cannot
 * be: one for each, with all that is wrong. The leader writes, and nothing twice: an event's name is made of what it says,
 * so that the next leader cannot repeat it.
 */
import { createHash } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { meshKindOf } from '../compiler/mesh-kinds.ts'
import type { Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import { type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import type { ResourceType } from '../kubernetes/object.ts'
import { wordsOf } from './admission.ts'
import { groupByObject } from './status-of-object.ts'
import { StatusQueue, type WriteOutcome } from './status-queue.ts'

export const EVENTS: ResourceType = { group: '', version: 'v1', plural: 'events', isNamespaced: true }

/** Five a second: events are for people, and the API server keeps each for an hour. */
const WRITE_INTERVAL_MS = 200

/** Events that wait. More than that is an accident that nobody reads to its end. */
const EVENTS_WAITING_MAX = 1_000

/** Longest note of an event, as the API has it. */
const NOTE_CHARACTERS_MAX = 1_024

/** Longest part of an object's name in that of an event, which has at most 253 characters with what follows. */
const NAME_CHARACTERS_MAX = 200

/** Hex digits that tell events of one object apart. */
const HASH_DIGITS = 16

/** A pod that its labels want in the mesh is not in it. */
const NOT_ENROLLED_CODE = 'WEFT0102'
/** One that is in it may undo that by itself. */
const NETWORK_CHANGEABLE_CODE = 'WEFT0129'
/** Messages about pods that are told although nothing is wrong with the object. */
const POD_CODES: readonly string[] = [NOT_ENROLLED_CODE, NETWORK_CHANGEABLE_CODE]

/** What the writer needs of the controller. */
export interface EventsWriterOptions {
  readonly api: Pick<KubernetesApi, 'create'>
  readonly clock: Clock
  readonly log: Logger
  /** Name of this replica. */
  readonly instance: string
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** What /status shows. */
export interface EventsWriterStatus {
  readonly written: number
  readonly waiting: number
  readonly dropped: number
  /** Empty when all is well. */
  readonly problem: string
}

interface EventItem {
  readonly object: MeshObject
  /** One at least. */
  readonly messages: readonly Message[]
  /** All of them, as far as they fit. */
  readonly note: string
}

/** See the head of the file. */
export class EventsWriter {
  private readonly options: EventsWriterOptions
  private readonly queue: StatusQueue<EventItem>
  /** What holds now, and was told. */
  private told: ReadonlySet<string> = new Set()
  private isLeading = false
  private written = 0
  private problem = ''

  constructor(options: EventsWriterOptions) {
    this.options = options
    this.queue = new StatusQueue({
      clock: options.clock,
      intervalMs: WRITE_INTERVAL_MS,
      lengthMax: EVENTS_WAITING_MAX,
      write: (item) => this.write(item),
      ...(options.random === undefined ? {} : { random: options.random }),
    })
  }

  setLeading(isLeading: boolean): void {
    this.isLeading = isLeading
    this.told = new Set()
    if (!isLeading) this.queue.clear()
  }

  /** What is said of the mesh now; what is new is told. */
  update(objects: readonly MeshObject[], messages: readonly Message[]): void {
    if (!this.isLeading) return
    const wanted = groupByObject(messages.filter((one) => one.severity === 'error' || POD_CODES.includes(one.code)))
    const told = new Set<string>()
    for (const object of objects) {
      const found = wanted.get(object.key)
      if (found === undefined) continue
      const item = { object, note: noteOf(found), messages: found }
      const key = keyOf(item)
      told.add(key)
      if (!this.told.has(key)) this.queue.put(key, item, false)
    }
    for (const key of this.told) if (!told.has(key)) this.queue.forget(key)
    this.told = told
  }

  status(): EventsWriterStatus {
    const { written, problem } = this
    return { written, waiting: this.queue.length, dropped: this.queue.dropped, problem }
  }

  /** Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.isLeading = false
    await this.queue.stop()
  }

  private async write(item: EventItem): Promise<WriteOutcome> {
    const { api, log, clock, instance } = this.options
    const { object } = item
    const event = eventOf(item, new Date(clock.now()).toISOString(), instance)
    try {
      await api.create(event, EVENTS)
      this.written++
      this.problem = ''
      return 'done'
    } catch (error) {
      // It was told before, by whoever led then; or its namespace is on its way out.
      if (error instanceof KubernetesError && (error.isConflict || error.isNotFound)) return 'done'
      const problem = describeError(error)
      if (problem !== this.problem) log.warn('an event cannot be written', { object: object.key, error: problem })
      this.problem = problem
      // 4xx but "later": this event is not wanted, the next one may be.
      const isRefused = error instanceof KubernetesError && error.status >= 400 && error.status < 429
      return isRefused ? 'done' : 'failed'
    }
  }
}

/** Another pod of the same name is another one, and other words are news. */
function keyOf({ object, note }: EventItem): string {
  return `${object.uid} ${object.key} ${note}`
}

function noteOf(messages: readonly Message[]): string {
  const text = messages.map((message) => wordsOf(message)).join('\n')
  return text.length <= NOTE_CHARACTERS_MAX ? text : `${text.slice(0, NOTE_CHARACTERS_MAX - 3)}...`
}

/** The event that says everything that is wrong with an object. */
function eventOf(item: EventItem, nowText: string, instance: string) {
  const { object, messages, note } = item
  const { apiVersion, kind, name, uid } = object
  const field = messages.length === 1 ? messages[0]!.field : ''
  // Events of objects without a namespace are in this one.
  const namespace = object.namespace === '' ? 'default' : object.namespace
  const digest = createHash('sha256').update(keyOf(item)).digest('hex')
  return {
    apiVersion: 'v1',
    kind: 'Event',
    metadata: { name: `${name.slice(0, NAME_CHARACTERS_MAX)}.${digest.slice(0, HASH_DIGITS)}`, namespace },
    involvedObject: {
      apiVersion,
      kind,
      name,
      ...(object.namespace === '' ? {} : { namespace }),
      ...(uid === '' ? {} : { uid }),
      ...(field === '' ? {} : { fieldPath: field }),
    },
    type: 'Warning',
    reason: reasonOf(messages[0]!, object),
    message: note,
    firstTimestamp: nowText,
    lastTimestamp: nowText,
    count: 1,
    source: { component: 'weft-controller' },
    reportingComponent: 'weft.dev/controller',
    reportingInstance: instance,
  }
}

function reasonOf({ code }: Message, { group, kind }: MeshObject): string {
  if (code === NOT_ENROLLED_CODE) return 'NotEnrolled'
  if (code === NETWORK_CHANGEABLE_CODE) return 'NetworkChangeable'
  return meshKindOf(group, kind) === null ? 'Ignored' : 'Rejected'
}
