/**
 * A Kubernetes API server in this process: collections of JSON objects with resource versions, lists in pages, watches
 * with bookmarks, and a hook that answers in its place. It knows no kind and validates nothing.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { KubernetesObject, ResourceType } from '../../src/kubernetes/object.ts'
import { apiVersionOf, collectionPath, nameOfType } from '../../src/kubernetes/object.ts'

/** A request as the server saw it. */
export interface SeenRequest {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

/** Answers in the server's place when it returns true. */
export type Answer = (request: SeenRequest, response: ServerResponse) => boolean

interface Collection {
  readonly type: ResourceType
  readonly kind: string
  readonly objects: Map<string, KubernetesObject>
  readonly events: { readonly version: number; readonly type: string; readonly object: KubernetesObject }[]
  readonly watches: Set<ServerResponse>
}

/** What a list or watch is about: all namespaces or one, all names or one. */
interface Scope {
  readonly namespace: string | null
  readonly name: string | null
}

export class FakeApiServer {
  readonly requests: SeenRequest[] = []
  /** Asked first; null when there is none. */
  answer: Answer | null = null
  /** What /readyz says. */
  isReady = true
  /** Knows no aggregated discovery, as Kubernetes before 1.27. */
  isOld = false
  /** Watches from before this version are told 410. */
  oldestVersion = 0
  /** URL of the server. */
  url = ''
  /** A kubeconfig file that leads to it. */
  kubeconfig = ''
  private version = 100
  private readonly scopes = new WeakMap<ServerResponse, Scope>()
  private readonly collections = new Map<string, Collection>()
  private readonly server: Server
  private directory = ''
  private readonly waiting: { readonly test: (request: SeenRequest) => boolean; readonly resolve: () => void }[] = []

  private constructor() {
    this.server = createServer((request, response) => void this.serve(request, response))
  }

  static async start(): Promise<FakeApiServer> {
    const fake = new FakeApiServer()
    await new Promise<void>((resolve) => fake.server.listen(0, '127.0.0.1', resolve))
    fake.url = `http://127.0.0.1:${(fake.server.address() as AddressInfo).port}`
    fake.directory = await mkdtemp(join(tmpdir(), 'weft-api-'))
    fake.kubeconfig = join(fake.directory, 'kubeconfig')
    await writeFile(fake.kubeconfig, kubeconfigFor(fake.url, 'secret-token'))
    return fake
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections()
    await new Promise<void>((resolve) => this.server.close(() => resolve()))
    await rm(this.directory, { recursive: true })
  }

  /** Ends every connection and refuses new ones until `listenAgain`. */
  async goAway(): Promise<void> {
    this.server.closeAllConnections()
    await new Promise<void>((resolve) => this.server.close(() => resolve()))
  }

  async listenAgain(): Promise<void> {
    const port = Number(new URL(this.url).port)
    await new Promise<void>((resolve) => this.server.listen(port, '127.0.0.1', resolve))
  }

  /** Serves a resource from now on; 404 before. */
  addType(type: ResourceType, kind: string): void {
    this.collections.set(collectionPath(type, null), {
      type,
      kind,
      objects: new Map(),
      events: [],
      watches: new Set(),
    })
  }

  /** Serves a resource no more: 404, and its watches end. */
  removeType(type: ResourceType): void {
    this.endWatches(type, 'end')
    this.collections.delete(collectionPath(type, null))
  }

  /** Makes or changes an object and tells the watches. */
  put(type: ResourceType, object: { readonly metadata: { readonly name: string } } & Record<string, unknown>): void {
    const collection = this.collectionOf(type)
    const key = keyOf(object.metadata)
    const version = ++this.version
    const stored = {
      apiVersion: apiVersionOf(type),
      kind: collection.kind,
      ...object,
      metadata: { uid: `uid-${key}`, ...object.metadata, resourceVersion: String(version) },
    }
    this.happen(collection, version, collection.objects.has(key) ? 'MODIFIED' : 'ADDED', stored)
    collection.objects.set(key, stored)
  }

  /** What is stored; null when there is none. */
  stored(type: ResourceType, namespace: string | null, name: string): KubernetesObject | null {
    return this.collectionOf(type).objects.get(keyOf(namespace === null ? { name } : { namespace, name })) ?? null
  }

  remove(type: ResourceType, namespace: string | null, name: string): void {
    const collection = this.collectionOf(type)
    const key = keyOf(namespace === null ? { name } : { namespace, name })
    const object = collection.objects.get(key)
    if (object === undefined) throw new Error(`there is no ${nameOfType(type)} ${key}`)
    collection.objects.delete(key)
    const version = ++this.version
    const metadata = { ...object.metadata, resourceVersion: String(version) }
    this.happen(collection, version, 'DELETED', { ...object, metadata })
  }

  /** Tells the watches that all is well up to now. */
  bookmark(type: ResourceType): void {
    const collection = this.collectionOf(type)
    const metadata = { resourceVersion: String(++this.version) }
    this.tell(collection, { type: 'BOOKMARK', object: { kind: collection.kind, metadata } })
  }

  /** Sends a line of any content to the watches. */
  sendLine(type: ResourceType, line: string): void {
    for (const watch of this.collectionOf(type).watches) watch.write(`${line}\n`)
  }

  /** Ends the watches of a resource: politely, or with a reset. */
  endWatches(type: ResourceType, how: 'end' | 'reset'): void {
    const { watches } = this.collectionOf(type)
    for (const watch of watches) {
      watches.delete(watch)
      if (how === 'end') watch.end()
      else watch.socket?.resetAndDestroy()
    }
  }

  watchCount(type: ResourceType): number {
    return this.collectionOf(type).watches.size
  }

  /** Resolves when a request that passes `test` arrives (also one that has arrived). */
  async seen(test: (request: SeenRequest) => boolean): Promise<void> {
    if (this.requests.some(test)) return
    await this.next(test)
  }

  /** Resolves when a further request that passes `test` arrives. */
  async next(test: (request: SeenRequest) => boolean): Promise<void> {
    await new Promise<void>((resolve) => this.waiting.push({ test, resolve }))
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = ''
    for await (const piece of request) body += String(piece)
    const url = new URL(request.url ?? '/', this.url)
    const { method = 'GET', headers } = request
    const seen = { method, path: url.pathname, query: url.searchParams, headers, body }
    this.requests.push(seen)
    if (this.answer?.(seen, response) !== true) this.answerFrom(seen, response)
    for (const one of [...this.waiting]) {
      if (!one.test(seen)) continue
      this.waiting.splice(this.waiting.indexOf(one), 1)
      one.resolve()
    }
  }

  private answerFrom({ method, path, query, body, headers }: SeenRequest, response: ServerResponse): void {
    if (path === '/readyz') {
      response
        .writeHead(this.isReady ? 200 : 500, { 'content-type': 'text/plain' })
        .end(this.isReady ? 'ok' : 'not ready')
      return
    }
    const discovered = this.discovery(path, !this.isOld && /apidiscovery/.test(headers.accept ?? ''))
    if (discovered !== null) {
      answerJson(response, 200, discovered)
      return
    }
    const namespace = /\/namespaces\/([^/]+)\/[^/]+$/.exec(path)?.[1] ?? null
    const collection =
      this.collections.get(path) ?? this.collections.get(path.replace(/\/namespaces\/[^/]+(?=\/[^/]+$)/, ''))
    if (collection !== undefined && method === 'GET') {
      const name = /^metadata\.name=(.*)$/.exec(query.get('fieldSelector') ?? '')?.[1] ?? null
      const scope = { namespace, name }
      if (query.get('watch') === 'true' || query.get('watch') === '1') this.watch(collection, scope, query, response)
      else this.list(collection, scope, query, response)
      return
    }
    if (collection !== undefined && method === 'POST') {
      const object = JSON.parse(body) as KubernetesObject
      const key = keyOf(object.metadata)
      if (collection.objects.has(key)) {
        answerStatus(response, 409, 'AlreadyExists', `${nameOfType(collection.type)} "${key}" already exists`)
        return
      }
      this.put(collection.type, object)
      answerJson(response, 201, collection.objects.get(key))
      return
    }
    const found = this.find(path)
    if (found === null) {
      answerStatus(response, 404, 'NotFound', 'the server could not find the requested resource')
      return
    }
    const object = found.collection.objects.get(found.key)
    if (method === 'PATCH' && query.get('force') === 'true') {
      // Server-side apply, as far as it makes an object or sets fields of two levels.
      const applied = JSON.parse(body) as KubernetesObject
      const metadata = { ...object?.metadata, ...applied.metadata }
      const data = { ...(object?.['data'] as object), ...(applied['data'] as object) }
      this.put(found.collection.type, { ...object, ...applied, metadata, data })
      answerJson(response, object === undefined ? 201 : 200, found.collection.objects.get(found.key))
    } else if (object === undefined) {
      answerStatus(response, 404, 'NotFound', `${nameOfType(found.collection.type)} "${found.key}" not found`)
    } else if (method === 'DELETE') {
      this.remove(found.collection.type, object.metadata.namespace ?? null, object.metadata.name)
      answerJson(response, 200, { kind: 'Status', status: 'Success' })
    } else if (method === 'PUT') {
      const { resourceVersion } = (JSON.parse(body) as KubernetesObject).metadata
      if (resourceVersion !== undefined && resourceVersion !== object.metadata.resourceVersion) {
        answerStatus(response, 409, 'Conflict', `${found.key} has been modified`)
        return
      }
      this.put(found.collection.type, JSON.parse(body) as never)
      answerJson(response, 200, found.collection.objects.get(found.key))
    } else answerJson(response, 200, object)
  }

  /** The answer of a discovery path; null for others. */
  private discovery(path: string, isAggregated: boolean): unknown {
    const all = [...this.collections.values()]
    if (path === '/apis') {
      const groups = new Map<string, Set<string>>()
      for (const { type } of all) groups.set(type.group, (groups.get(type.group) ?? new Set()).add(type.version))
      groups.delete('')
      if (!isAggregated) {
        const names = [...groups].map(([name, versions]) => ({
          name,
          versions: [...versions].map((version) => ({ version, groupVersion: `${name}/${version}` })),
        }))
        return { kind: 'APIGroupList', apiVersion: 'v1', groups: names }
      }
      const items = [...groups].map(([group, versions]) => ({
        metadata: { name: group },
        versions: [...versions].map((version) => ({
          version,
          resources: all
            .filter(({ type }) => type.group === group && type.version === version)
            .map(({ type, kind }) => ({
              resource: type.plural,
              responseKind: { group: '', version: '', kind },
              scope: type.isNamespaced ? 'Namespaced' : 'Cluster',
            })),
        })),
      }))
      return { kind: 'APIGroupDiscoveryList', apiVersion: 'apidiscovery.k8s.io/v2', items }
    }
    const resources = all
      .filter(({ type }) => collectionPath(type, null) === `${path}/${type.plural}`)
      .flatMap(({ type, kind }) => [
        { name: type.plural, kind, namespaced: type.isNamespaced },
        { name: `${type.plural}/status`, kind, namespaced: type.isNamespaced },
      ])
    return resources.length === 0 ? null : { kind: 'APIResourceList', groupVersion: path, resources }
  }

  private find(path: string): { collection: Collection; key: string } | null {
    for (const collection of this.collections.values()) {
      const all = collectionPath(collection.type, null)
      const root = all.slice(0, -collection.type.plural.length - 1)
      const pattern = new RegExp(`^${root}(?:/namespaces/([^/]+))?/${collection.type.plural}/([^/]+)$`)
      const match = pattern.exec(path)
      if (match === null) continue
      const [, namespace, name] = match
      return { collection, key: keyOf(namespace === undefined ? { name: name! } : { namespace, name: name! }) }
    }
    return null
  }

  private list(
    { kind, type, objects }: Collection,
    scope: Scope,
    query: URLSearchParams,
    response: ServerResponse,
  ): void {
    const all = [...objects.values()].filter((object) => isIn(scope, object))
    const [versionText, offsetText] = (query.get('continue') ?? `${this.version}/0`).split('/')
    if (Number(versionText) < this.oldestVersion) {
      answerStatus(response, 410, 'Expired', 'The provided continue parameter is too old')
      return
    }
    const offset = Number(offsetText)
    const limit = Number(query.get('limit') ?? all.length)
    const items = all.slice(offset, offset + limit).map(({ apiVersion: _, kind: __, ...rest }) => rest)
    const isLast = offset + limit >= all.length
    answerJson(response, 200, {
      kind: `${kind}List`,
      apiVersion: apiVersionOf(type),
      metadata: { resourceVersion: versionText, ...(isLast ? {} : { continue: `${versionText}/${offset + limit}` }) },
      items,
    })
  }

  private watch(collection: Collection, scope: Scope, query: URLSearchParams, response: ServerResponse): void {
    const from = Number(query.get('resourceVersion'))
    response.writeHead(200, { 'content-type': 'application/json' })
    response.flushHeaders()
    if (from < this.oldestVersion) {
      const object = { kind: 'Status', status: 'Failure', code: 410, reason: 'Expired', message: 'too old' }
      response.end(`${JSON.stringify({ type: 'ERROR', object })}\n`)
      return
    }
    for (const { version, type, object } of collection.events) {
      if (version > from && isIn(scope, object)) response.write(`${JSON.stringify({ type, object })}\n`)
    }
    this.scopes.set(response, scope)
    collection.watches.add(response)
    response.on('close', () => collection.watches.delete(response))
  }

  private happen(collection: Collection, version: number, type: string, object: KubernetesObject): void {
    collection.events.push({ version, type, object })
    for (const watch of collection.watches) {
      if (isIn(this.scopes.get(watch)!, object)) watch.write(`${JSON.stringify({ type, object })}\n`)
    }
  }

  private tell(collection: Collection, event: unknown): void {
    for (const watch of collection.watches) watch.write(`${JSON.stringify(event)}\n`)
  }

  private collectionOf(type: ResourceType): Collection {
    const collection = this.collections.get(collectionPath(type, null))
    if (collection === undefined) throw new Error(`${nameOfType(type)} is not served`)
    return collection
  }
}

/** A kubeconfig for a server without TLS. */
export function kubeconfigFor(server: string, token: string): string {
  return `apiVersion: v1
kind: Config
current-context: test
clusters:
- name: fake
  cluster:
    server: ${server}
    insecure-skip-tls-verify: true
users:
- name: admin
  user:
    token: ${token}
contexts:
- name: test
  context: { cluster: fake, user: admin, namespace: shop }
- name: other
  context: { cluster: fake, user: admin }
`
}

/** Answers with JSON. */
export function answerJson(response: ServerResponse, status: number, body: unknown, headers = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

/** Answers with a `Status` object that says no. */
export function answerStatus(
  response: ServerResponse,
  code: number,
  reason: string,
  message: string,
  headers = {},
): void {
  answerJson(response, code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, reason, message }, headers)
}

function isIn(scope: Scope, { metadata }: KubernetesObject): boolean {
  return (
    (scope.namespace === null || scope.namespace === metadata.namespace) &&
    (scope.name === null || scope.name === metadata.name)
  )
}

function keyOf({ namespace, name }: { readonly namespace?: string; readonly name: string }): string {
  return namespace === undefined ? name : `${namespace}/${name}`
}
