/**
 * Writes back into rules what became of them: the leader alone, only what changed, slowly enough for any API server.
 *
 * A write says by resourceVersion which version of the object it was made for. When that is not the newest any more, the
 * object is read again; when its generation is another one as well, the next analysis will have something to say about it.
 */
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isOfRevision } from '../compiler/enrolment.ts'
import { meshKindOf } from '../compiler/mesh-kinds.ts'
import type { Message } from '../compiler/messages.ts'
import { isTree, type MeshObject, own } from '../compiler/object.ts'
import { FIELD_MANAGER, type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import { objectPath, type ResourceType } from '../kubernetes/object.ts'
import { generationOf, groupByObject, type InForce, type ObjectStatus, statusFor } from './status-of-object.ts'
import { StatusQueue, type WriteOutcome } from './status-queue.ts'

/** Twenty a second: five thousand rules have a status in four minutes, and an API server does not notice. */
const WRITE_INTERVAL_MS = 50

/** Writes that wait: more than there are rules in any cluster that was heard of. */
const WRITES_WAITING_MAX = 20_000

/** Tries against somebody who writes the same object at the same time. */
const CONFLICTS_MAX = 4

/** After a write its echo is awaited so long, instead of writing the same again. */
const ECHO_MS = 30_000

/** What the writer needs of the controller. */
export interface StatusWriterOptions {
  readonly api: Pick<KubernetesApi, 'get' | 'request'>
  /** Of this control plane: rules of others are theirs to speak of. */
  readonly revision: string
  readonly clock: Clock
  readonly log: Logger
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** What is to be said of one object. */
interface Report {
  readonly object: MeshObject
  readonly type: ResourceType
  readonly messages: readonly Message[]
  readonly inForce: InForce
}

/** What /status shows. */
export interface StatusWriterStatus {
  readonly written: number
  readonly waiting: number
  readonly dropped: number
  /** Empty when all is well. */
  readonly problem: string
}

/** See the head of the file. */
export class StatusWriter {
  private readonly options: StatusWriterOptions
  private readonly queue: StatusQueue<Report>
  /** What was written last, until it is seen. */
  private readonly echoes = new Map<string, { readonly status: string; readonly untilMs: number }>()
  private isLeading = false
  private written = 0
  private problem = ''

  constructor(options: StatusWriterOptions) {
    this.options = options
    this.queue = new StatusQueue({
      clock: options.clock,
      intervalMs: WRITE_INTERVAL_MS,
      lengthMax: WRITES_WAITING_MAX,
      write: (report) => this.write(report),
      ...(options.random === undefined ? {} : { random: options.random }),
    })
  }

  /** What waits is not written by who has ceased to lead. The next `update` says everything again. */
  setLeading(isLeading: boolean): void {
    this.isLeading = isLeading
    if (isLeading) return
    this.queue.clear()
    this.echoes.clear()
  }

  /** The mesh as it is, what is said of it, and which version of each object is in force. */
  update(
    objects: readonly MeshObject[],
    messages: readonly Message[],
    inForceOf: (object: MeshObject) => InForce,
  ): void {
    if (!this.isLeading) return
    const byObject = groupByObject(messages)
    const nowMs = this.options.clock.now()
    for (const [key, { untilMs }] of this.echoes) if (untilMs <= nowMs) this.echoes.delete(key)
    for (const object of objects) {
      const type = this.typeOf(object)
      if (type === null) continue
      const report = { object, type, messages: byObject.get(object.key) ?? [], inForce: inForceOf(object) }
      const status = this.statusOf(report, object.status)
      if (status === null || this.echoes.get(object.key)?.status === fingerprint(status)) this.queue.forget(object.key)
      else this.queue.put(object.key, report, report.inForce !== 'written')
    }
  }

  status(): StatusWriterStatus {
    const { written, problem } = this
    return { written, waiting: this.queue.length, dropped: this.queue.dropped, problem }
  }

  /** Resolves when nothing is under way. */
  async stop(): Promise<void> {
    this.isLeading = false
    await this.queue.stop()
  }

  /** The resource of an object that has a status of ours; null for others. */
  private typeOf(object: MeshObject): ResourceType | null {
    const kind = meshKindOf(object.group, object.kind)
    if (kind === null || !isOfRevision(object, this.options)) return null
    const version = object.apiVersion.slice(object.apiVersion.indexOf('/') + 1)
    return { group: kind.group, version, plural: kind.plural, isNamespaced: true }
  }

  private statusOf({ object, messages, inForce }: Report, current: unknown): ObjectStatus | null {
    return statusFor(object, messages, inForce, new Date(this.options.clock.now()).toISOString(), current)
  }

  private async write(report: Report): Promise<WriteOutcome> {
    const { object, type } = report
    const { api, log } = this.options
    let current: unknown = object.raw
    try {
      for (let conflicts = 0; this.isLeading && conflicts < CONFLICTS_MAX; conflicts++) {
        const status = this.statusOf(report, isTree(current) ? own(current, 'status') : null)
        if (status === null || (await this.patch(report, status, resourceVersionOf(current)))) {
          this.problem = ''
          return 'done'
        }
        current = await api.get(type, object.namespace, object.name)
        // It is gone, or the next analysis will see what it is now.
        if (current === null || generationIn(current) !== generationOf(object)) return 'done'
      }
      return 'done'
    } catch (error) {
      if (error instanceof KubernetesError && error.isNotFound) return 'done'
      const problem = describeError(error)
      if (problem !== this.problem)
        log.warn('the status of an object cannot be written', { object: object.key, error: problem })
      this.problem = problem
      // What the server has an objection to, it will have next time as well.
      return error instanceof KubernetesError && (error.status === 422 || error.status === 400) ? 'done' : 'failed'
    }
  }

  /** False when the object has changed meanwhile. */
  private async patch({ object, type }: Report, status: ObjectStatus, resourceVersion: string): Promise<boolean> {
    const path = `${objectPath(type, object.namespace, object.name)}/status`
    const body = { ...(resourceVersion === '' ? {} : { metadata: { resourceVersion } }), status }
    try {
      await this.options.api.request('PATCH', path, body, {
        contentType: 'application/merge-patch+json',
        query: { fieldManager: FIELD_MANAGER },
      })
    } catch (error) {
      if (error instanceof KubernetesError && error.isConflict) return false
      throw error
    }
    this.written++
    this.echoes.set(object.key, { status: fingerprint(status), untilMs: this.options.clock.now() + ECHO_MS })
    return true
  }
}

/** Times do not count: what was said stays said. */
function fingerprint(status: ObjectStatus): string {
  return JSON.stringify(status, (key, value) => (key === 'lastTransitionTime' ? undefined : value))
}

function metadataIn(object: unknown): Readonly<Record<string, unknown>> {
  const metadata = isTree(object) ? own(object, 'metadata') : undefined
  return isTree(metadata) ? metadata : {}
}

function resourceVersionOf(object: unknown): string {
  const version = own(metadataIn(object), 'resourceVersion')
  return typeof version === 'string' ? version : ''
}

function generationIn(object: unknown): unknown {
  return own(metadataIn(object), 'generation') ?? 0
}
