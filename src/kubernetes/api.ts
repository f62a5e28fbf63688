/**
 * The Kubernetes API: one request at a time, JSON in and out, any group, version and resource.
 *
 * Every request has a deadline and every answer a size limit. A server that asks to be left alone for a while
 * (429 or 5xx with Retry-After) is asked again within the deadline; nothing else is repeated, because the caller knows
 * best what is safe to repeat.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { type Clock, systemClock } from '../base/clock.ts'
import { WeftError } from '../base/errors.ts'
import { type ApiConnection, type ConnectionSettings, KubernetesConnection } from './connection.ts'
import { DirectAddresses } from './direct-address.ts'
import { answerError, type FailedRequest, KubernetesError, timeoutError, unreachableError } from './error.ts'
import { collectionPath, type KubernetesObject, objectPath, type ResourceType } from './object.ts'
import { type PresencePauses, ServerPresence } from './server-presence.ts'

export { KubernetesError } from './error.ts'
export type { KubernetesObject, ObjectMeta, ResourceType } from './object.ts'

/** Largest answer. 64 MiB: a page of 250 objects with a quarter of a MiB each; etcd takes 1.5 MiB for one. */
export const ANSWER_BYTES_MAX = 64 * 1_048_576
/** How much of an error's answer is read. */
const ERROR_BYTES_MAX = 65_536
/** For a whole request, repetitions included. As long as kubectl waits for a webhook. */
const TIMEOUT_MS = 30_000
/** Objects per page of a list: a page of usual pods is some 1.5 MB, which JSON.parse takes in 15 ms. */
const PAGE_OBJECTS = 250
/** Longest pause that a server may ask for. */
const PAUSE_MS_MAX = 10_000
/** Repetitions after a server asked for pauses. */
const PAUSES_MAX = 5

/** Who writes a field, for server-side apply and for `managedFields`. */
export const FIELD_MANAGER = 'weft'

const JSON_TYPE = 'application/json'
/** JSON is YAML, so a JSON body is right for it. */
const APPLY_TYPE = 'application/apply-patch+yaml'
const MERGE_PATCH_TYPE = 'application/merge-patch+json'

/** Parameters of a URL; undefined ones are left out. */
export type Query = Readonly<Record<string, string | number | boolean | undefined>>

/** What a request may say beyond its path. */
export interface RequestOptions {
  readonly query?: Query
  readonly contentType?: string
  /** Absent: JSON. */
  readonly accept?: string
  /** The answer is text, and comes as it is. */
  readonly isText?: boolean
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

/** One page of a list. */
export interface ListPage {
  readonly items: readonly KubernetesObject[]
  /** To watch from, and what all pages of one list have in common. */
  readonly resourceVersion: string
  /** For the next page; empty on the last. */
  readonly continueToken: string
}

/** Which objects of a resource are listed. */
export interface ListOptions {
  /** Null, and absent: all namespaces. */
  readonly namespace?: string | null
  readonly labelSelector?: string
  readonly fieldSelector?: string
  readonly signal?: AbortSignal
}

/** The answer of a server before its body is read. */
export interface OpenAnswer {
  readonly message: IncomingMessage
  readonly request: FailedRequest
}

/** A client of one API server. */
export class KubernetesApi<C extends ApiConnection = KubernetesConnection> {
  readonly connection: C
  /** For who has lost the server, and waits until it is back. */
  readonly presence: ServerPresence
  private readonly clock: Clock

  /** `pauses` are those of `presence`; the clock's unless given. */
  constructor(connection: C, clock: Clock = systemClock, pauses: PresencePauses = { clock, random: Math.random }) {
    this.connection = connection
    this.clock = clock
    const closeIdle = (): void => connection.closeIdle()
    this.presence = new ServerPresence({ askReady: (timeoutMs) => this.askReadyAnywhere(timeoutMs), closeIdle }, pauses)
  }

  /** Reads the configuration; connects to nobody yet. Rejects with WeftError WEFT_CONFIG. */
  static async open(
    settings: ConnectionSettings,
    clock: Clock = systemClock,
    pauses?: PresencePauses,
  ): Promise<KubernetesApi> {
    return new KubernetesApi(await KubernetesConnection.open(settings), clock, pauses)
  }

  /** URL of the API server, for messages. */
  get server(): string {
    return this.connection.server
  }

  /** Closes idle connections. */
  close(): void {
    this.connection.close()
  }

  // --- resources ---

  /** The object; null when there is none. */
  async get(type: ResourceType, namespace: string | null, name: string): Promise<KubernetesObject | null> {
    return await orNull(this.request('GET', objectPath(type, namespace, name)))
  }

  /** All objects of a resource, page by page. A list whose pages grew too old begins anew, once. */
  async list(type: ResourceType, options: ListOptions = {}): Promise<readonly KubernetesObject[]> {
    try {
      return await this.listPages(type, options)
    } catch (error) {
      if (error instanceof KubernetesError && error.isExpired) return await this.listPages(type, options)
      throw error
    }
  }

  /** One page; the first when `continueToken` is empty. Items come with apiVersion and kind, as single objects do. */
  async listPage(
    type: ResourceType,
    options: ListOptions,
    continueToken: string,
    query: Query = {},
  ): Promise<ListPage> {
    const { namespace = null, labelSelector, fieldSelector, signal } = options
    const answer = await this.request('GET', collectionPath(type, namespace), undefined, {
      query: {
        limit: PAGE_OBJECTS,
        continue: continueToken === '' ? undefined : continueToken,
        labelSelector,
        fieldSelector,
        ...query,
      },
      ...(signal === undefined ? {} : { signal }),
    })
    return readPage(answer, this.server)
  }

  async create(object: KubernetesObject, type: ResourceType, query: Query = {}): Promise<KubernetesObject> {
    const path = collectionPath(type, object.metadata.namespace ?? null)
    return (await this.request('POST', path, object, { query: { fieldManager: FIELD_MANAGER, ...query } })) as never
  }

  /** Puts `object` in the place of the one with its resourceVersion; rejects with a Conflict when that has changed. */
  async replace(object: KubernetesObject, type: ResourceType, query: Query = {}): Promise<KubernetesObject> {
    const path = pathOf(object, type)
    return (await this.request('PUT', path, object, { query: { fieldManager: FIELD_MANAGER, ...query } })) as never
  }

  /** Server-side apply: makes the object, or sets exactly these fields of it. Takes fields over from other managers. */
  async apply(
    object: KubernetesObject,
    type: ResourceType,
    fieldManager: string = FIELD_MANAGER,
    query: Query = {},
  ): Promise<KubernetesObject> {
    const options = { contentType: APPLY_TYPE, query: { fieldManager, force: true, ...query } }
    return (await this.request('PATCH', pathOf(object, type), object, options)) as never
  }

  /** JSON merge patch (RFC 7396): null removes a field. */
  async mergePatch(
    type: ResourceType,
    namespace: string | null,
    name: string,
    patch: unknown,
    query: Query = {},
  ): Promise<KubernetesObject> {
    const options = { contentType: MERGE_PATCH_TYPE, query: { fieldManager: FIELD_MANAGER, ...query } }
    return (await this.request('PATCH', objectPath(type, namespace, name), patch, options)) as never
  }

  /** Replaces the status alone; rejects with a Conflict when the object has changed. */
  async replaceStatus(object: KubernetesObject, type: ResourceType, query: Query = {}): Promise<KubernetesObject> {
    const options = { query: { fieldManager: FIELD_MANAGER, ...query } }
    return (await this.request('PUT', `${pathOf(object, type)}/status`, object, options)) as never
  }

  /** False when there was none. `body` may hold DeleteOptions: preconditions, propagationPolicy. */
  async delete(
    type: ResourceType,
    namespace: string | null,
    name: string,
    body: Readonly<Record<string, unknown>> = {},
  ): Promise<boolean> {
    const options = { apiVersion: 'v1', kind: 'DeleteOptions', ...body }
    return (await orNull(this.request('DELETE', objectPath(type, namespace, name), options))) !== null
  }

  // --- requests ---

  /** Resolves when the server says that it is ready; rejects with KubernetesError when it says anything else. */
  async askReady(timeoutMs: number = TIMEOUT_MS): Promise<void> {
    await this.request('GET', '/readyz', undefined, { accept: 'text/plain, */*', isText: true, timeoutMs })
  }

  /**
   * Any request; resolves with the answer's JSON. Rejects with KubernetesError, or with WeftError WEFT_LIMIT when the
   * answer is too large.
   */
  async request(method: string, path: string, body?: unknown, options: RequestOptions = {}): Promise<unknown> {
    const { timeoutMs = TIMEOUT_MS } = options
    const deadlineMs = this.clock.now() + timeoutMs
    for (let pauses = 0; ; pauses++) {
      try {
        return await this.requestOnce(method, path, body, options, deadlineMs, timeoutMs)
      } catch (error) {
        if (!(error instanceof KubernetesError) || error.retryAfterMs === null || pauses >= PAUSES_MAX) throw error
        const pauseMs = Math.min(error.retryAfterMs, PAUSE_MS_MAX)
        if (this.clock.now() + pauseMs >= deadlineMs) throw error
        await this.pause(pauseMs, options.signal)
      }
    }
  }

  /**
   * Sends a request and resolves when its head has come, with status 2xx. The caller reads the body and has to bound
   * it in size and time; `timeoutMs` covers the time until the head. Rejects with KubernetesError.
   */
  async open(method: string, path: string, body: unknown, options: RequestOptions = {}): Promise<OpenAnswer> {
    const answer = await this.openOnce(method, path, body, options)
    if (answer.message.statusCode !== 401 || !(await this.connection.renewCredentials())) return await checked(answer)
    answer.message.destroy()
    return await checked(await this.openOnce(method, path, body, options))
  }

  /** As askReady; whoever cannot be reached by the usual address is looked for at its own, which stays in use for a while. */
  private async askReadyAnywhere(timeoutMs: number): Promise<void> {
    const { direct = new DirectAddresses() } = this.connection
    direct.choose(null, Date.now())
    try {
      await this.askReady(timeoutMs)
    } catch (error) {
      if (!(error instanceof KubernetesError) || !error.isUnreachable) throw error
      for (const address of direct.candidates) {
        direct.choose(address, Date.now())
        if (await this.askReady(timeoutMs).then(...EITHER)) return
      }
      direct.choose(null, Date.now())
      throw error
    }
  }

  private async requestOnce(
    method: string,
    path: string,
    body: unknown,
    options: RequestOptions,
    deadlineMs: number,
    timeoutMs: number,
  ): Promise<unknown> {
    const abort = new AbortController()
    const failed = { server: this.server, method, path }
    const cancelDeadline = this.clock.after(deadlineMs - this.clock.now(), () => {
      abort.abort(timeoutError(failed, timeoutMs))
    })
    const onAbort = (): void => abort.abort(options.signal?.reason)
    options.signal?.addEventListener('abort', onAbort, { once: true })
    try {
      options.signal?.throwIfAborted()
      const { message } = await this.open(method, path, body, { ...options, signal: abort.signal })
      const text = await readText(message, ANSWER_BYTES_MAX)
      if (text === null) {
        const limit = `${ANSWER_BYTES_MAX} bytes`
        throw new WeftError('WEFT_LIMIT', `the answer of ${this.server} to ${method} ${path} is larger than ${limit}`)
      }
      if (options.isText === true) return text
      return text === '' ? null : parseJson(text, failed)
    } catch (error) {
      if (abort.signal.aborted) throw abort.signal.reason
      throw error instanceof WeftError ? error : unreachableError(failed, error)
    } finally {
      cancelDeadline()
      options.signal?.removeEventListener('abort', onAbort)
    }
  }

  private async openOnce(method: string, path: string, body: unknown, options: RequestOptions): Promise<OpenAnswer> {
    const failed = { server: this.server, method, path }
    const { signal, query, contentType = JSON_TYPE, accept = JSON_TYPE } = options
    const settings = await untilAborted(this.connection.requestOptions(), signal)
    const url = new URL(this.server.replace(/\/$/, '') + path)
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value))
    }
    const text = body === undefined ? null : JSON.stringify(body)
    const headers: Record<string, string | number> = {
      ...(settings.headers as Record<string, string>),
      accept,
      'user-agent': FIELD_MANAGER,
    }
    if (text !== null) {
      headers['content-type'] = contentType
      headers['content-length'] = Buffer.byteLength(text)
    }
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest
    return await new Promise((resolve, reject) => {
      const request = send(url, { ...settings, method, headers, ...(signal === undefined ? {} : { signal }) })
      request.on('error', (error) => {
        reject(signal?.aborted === true ? signal.reason : unreachableError(failed, error))
      })
      request.on('response', (message) => resolve({ message, request: failed }))
      request.end(text ?? undefined)
    })
  }

  private async listPages(type: ResourceType, options: ListOptions): Promise<readonly KubernetesObject[]> {
    const items: KubernetesObject[] = []
    let continueToken = ''
    do {
      const page = await this.listPage(type, options, continueToken)
      for (const item of page.items) items.push(item)
      continueToken = page.continueToken
    } while (continueToken !== '')
    return items
  }

  private async pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        cancel()
        reject(signal!.reason)
      }
      const cancel = this.clock.after(ms, () => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      })
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }
}

/** What became of a promise. */
const EITHER = [() => true, () => false] as const

function pathOf(object: KubernetesObject, type: ResourceType): string {
  return objectPath(type, object.metadata.namespace ?? null, object.metadata.name)
}

/** Null instead of a NotFound. */
async function orNull(answer: Promise<unknown>): Promise<KubernetesObject | null> {
  try {
    return (await answer) as KubernetesObject
  } catch (error) {
    if (error instanceof KubernetesError && error.isNotFound) return null
    throw error
  }
}

/** The answer itself when its status is 2xx; rejects with what its body says otherwise. */
async function checked(answer: OpenAnswer): Promise<OpenAnswer> {
  const { message, request } = answer
  const status = message.statusCode ?? 0
  if (status >= 200 && status < 300) return answer
  const text = (await readText(message, ERROR_BYTES_MAX)) ?? ''
  throw answerError(request, status, text, retryAfterOf(message))
}

function retryAfterOf(message: IncomingMessage): number | null {
  const status = message.statusCode ?? 0
  const seconds = Number(message.headers['retry-after'] ?? Number.NaN)
  if ((status !== 429 && status < 500) || !(seconds >= 0)) return null
  return seconds * 1000
}

/** The body as text; null when it is larger than `bytesMax`. Rejects when it ends early. */
async function readText(message: IncomingMessage, bytesMax: number): Promise<string | null> {
  const pieces: Buffer[] = []
  let size = 0
  for await (const piece of message as AsyncIterable<Buffer>) {
    size += piece.length
    // Leaving the loop destroys the message.
    if (size > bytesMax) return null
    pieces.push(piece)
  }
  return Buffer.concat(pieces).toString('utf8')
}

function parseJson(text: string, failed: FailedRequest): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw unreachableError(failed, error)
  }
}

function readPage(answer: unknown, server: string): ListPage {
  const list = answer as {
    apiVersion?: string
    kind?: string
    items?: KubernetesObject[] | null
    metadata?: { resourceVersion?: string; continue?: string }
  } | null
  if (list === null || typeof list !== 'object' || typeof list.metadata !== 'object') {
    throw new KubernetesError(`the API server ${server} answered a list with something else`, {
      status: 500,
      reason: 'InternalError',
      apiMessage: 'not a list',
    })
  }
  const { apiVersion = '', kind = '', items, metadata } = list
  const itemKind = kind.replace(/List$/, '')
  return {
    // Items of typed lists leave out what the list says.
    items: (items ?? []).map((item) => ({
      ...item,
      apiVersion: item.apiVersion ?? apiVersion,
      kind: item.kind ?? itemKind,
    })),
    resourceVersion: metadata.resourceVersion ?? '',
    continueToken: metadata.continue ?? '',
  }
}

/** The promise, or the signal's reason when that comes first: an exec plug-in may hang, and cannot be told to end. */
async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise
  signal.throwIfAborted()
  let onAbort: () => void = () => undefined
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
