/**
 * All objects of one kind as the API server has them, shrunk and read.
 *
 * An object that did not change in what we read stays the very same one, so that everything made from it can stay, too.
 */
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Message } from '../compiler/messages.ts'
import { type MeshObject, parseObject } from '../compiler/object.ts'
import type { KubernetesApi, KubernetesObject } from '../kubernetes/api.ts'
import type { ServedResource } from '../kubernetes/discovery.ts'
import { Reflector, type ReflectorPhase, type ReflectorState } from '../kubernetes/reflector.ts'
import { isFact, isSameObject, shrink, type Tree } from './kubernetes-objects.ts'

/** Which kind, and who hears of it. */
export interface KindStoreOptions {
  readonly kind: string
  readonly group: string
  /** Versions that the compiler reads, the preferred one first. */
  readonly versions: readonly string[]
  readonly api: KubernetesApi
  readonly clock: Clock
  readonly log: Logger
  readonly random: () => number
  /** An object came, changed or went. */
  onObjects(): void
  /** What happened to one object. */
  onEvent(event: 'add' | 'update' | 'delete'): void
  /** `isSettled`, `isServed`, `isLost` or `problem` may have changed. */
  onState(): void
}

/** By which objects of a kind are told apart. */
export function keyIn(namespace: string, name: string): string {
  return namespace === '' ? name : `${namespace}/${name}`
}

/** One object on its way in: read, or with what is wrong with it. */
interface Arrived {
  readonly name: string
  readonly object: MeshObject | null
  readonly messages: readonly Message[]
}

/** Keeps one kind. */
export class KindStore {
  readonly kind: string
  readonly group: string
  readonly versions: readonly string[]
  /** By namespace and name. */
  readonly objects = new Map<string, MeshObject>()
  /** When the present problem began; without meaning when there is none. */
  troubleSinceMs = 0
  private readonly options: KindStoreOptions
  /** What is wrong with objects that could not be read, by namespace and name. */
  private readonly broken = new Map<string, readonly Message[]>()
  private reflector: Reflector<Arrived> | null = null
  /** In which it is followed; null when it is not. */
  private resource: ServedResource | null = null
  private version = ''
  private phase: ReflectorPhase = 'listing'
  private reflectorProblem = ''
  private isListed = false
  /** The server has said that it does not serve the kind. */
  private isKnownMissing = false
  private missingSinceMs: number | null = null

  constructor(options: KindStoreOptions) {
    this.kind = options.kind
    this.group = options.group
    this.versions = options.versions
    this.options = options
  }

  /** What is held is what the server had: it was listed, or there is nothing to list. */
  get isSettled(): boolean {
    return this.isListed || this.isKnownMissing
  }

  /** Followed in a version that the server serves, as far as we know. */
  get isServed(): boolean {
    return this.reflector !== null && this.phase !== 'missing'
  }

  /** Was followed and is not served any more. */
  get isLost(): boolean {
    return this.reflector !== null && this.phase === 'missing'
  }

  /** A sentence; empty when all is well. A kind that was never there is no problem. */
  get problem(): string {
    return this.isLost && this.objects.size === 0 ? '' : this.reflectorProblem
  }

  /** The problem is the server's, not one of this kind. */
  get isFailing(): boolean {
    return this.phase === 'failing'
  }

  get messages(): readonly Message[] {
    return [...this.broken.values()].flat()
  }

  status(): unknown {
    const state = this.reflector === null ? (this.isKnownMissing ? 'not served' : 'unknown') : this.phase
    return { state, ...(this.version === '' ? {} : { version: this.version }), objects: this.objects.size }
  }

  /**
   * What discovery found for a kind that is not followed, or lost. Null: it is not served. Objects of a kind that is not
   * served for `goneAfterMs` are gone.
   */
  onDiscovered(resource: ServedResource | null, goneAfterMs: number): void {
    const { clock, log } = this.options
    if (resource !== null) {
      this.missingSinceMs = null
      this.isKnownMissing = false
      if (this.reflector === null || this.version !== resource.version) this.follow(resource)
      return
    }
    if (!this.isListed) {
      this.isKnownMissing = true
      return
    }
    this.missingSinceMs ??= clock.now()
    if (clock.now() - this.missingSinceMs < goneAfterMs || this.objects.size === 0) return
    log.warn('a kind is not served any more, its objects are gone', { kind: this.kind, objects: this.objects.size })
    this.objects.clear()
    this.broken.clear()
    this.options.onObjects()
  }

  /** An object as the server has it now; null when it has none, or does not answer. Never rejects. */
  async fetch(namespace: string, name: string): Promise<MeshObject | null> {
    const { api, log } = this.options
    if (this.resource === null) return null
    try {
      const object = await api.get(this.resource, namespace === '' ? null : namespace, name)
      return object === null ? null : read(object, this.kind).object
    } catch (error) {
      log.warn('an object cannot be looked up', { kind: this.kind, namespace, name, error: describeError(error) })
      return null
    }
  }

  async stop(): Promise<void> {
    await this.reflector?.stop()
  }

  /** Follows the kind in this version from now on; the objects stay until the first list replaces them. */
  private follow(resource: ServedResource): void {
    const { api, clock, log, random } = this.options
    // Its handlers are not called any more; it ends by itself.
    void this.reflector?.stop()
    const reflector: Reflector<Arrived> = new Reflector<Arrived>(
      { api, type: resource, clock, log, random },
      {
        convert: (object) => read(object, this.kind),
        onReplaced: (items) => this.replace(items),
        onPut: (item) => {
          this.options.onEvent(this.objects.has(item.name) || this.broken.has(item.name) ? 'update' : 'add')
          if (this.put(item)) this.options.onObjects()
        },
        onDeleted: ({ name }) => {
          this.options.onEvent('delete')
          const isKnown = this.objects.delete(name)
          if (this.broken.delete(name) || isKnown) this.options.onObjects()
        },
        onState: (state) => {
          if (reflector === this.reflector) this.onState(state)
        },
      },
    )
    this.reflector = reflector
    this.resource = resource
    this.version = resource.version
    this.phase = 'listing'
    reflector.start()
  }

  private onState({ phase, isSynced, problem }: ReflectorState): void {
    const { log, clock } = this.options
    if (problem !== '' && this.reflectorProblem === '') this.troubleSinceMs = clock.now()
    if (problem === '' && this.reflectorProblem !== '' && this.isListed) {
      log.info('a kind is followed again', { kind: this.kind })
    }
    this.phase = phase
    this.reflectorProblem = problem
    this.isListed ||= isSynced
    this.options.onState()
  }

  private replace(items: readonly Arrived[]): void {
    let isChanged = false
    const names = new Set<string>()
    for (const item of items) {
      names.add(item.name)
      if (this.put(item)) isChanged = true
    }
    for (const map of [this.objects, this.broken]) {
      for (const name of map.keys()) {
        if (names.has(name)) continue
        map.delete(name)
        isChanged = true
      }
    }
    if (isChanged) this.options.onObjects()
  }

  /** True when the object, or what is to be said of it, is another one than before. */
  private put({ name, object, messages }: Arrived): boolean {
    if (object === null) {
      // Its last good version stays in force.
      this.broken.set(name, messages)
      return true
    }
    const wasBroken = this.broken.delete(name)
    const before = this.objects.get(name)
    if (before === undefined || !isSameObject(before.raw as Tree, object.raw as Tree)) {
      this.objects.set(name, object)
      return true
    }
    // A rule's newest status and version are kept without telling anybody: who writes them back needs them.
    if (!isFact(this.kind)) this.objects.set(name, object)
    return wasBroken
  }
}

/** Positions of an object that is in no file: messages name it by kind, namespace and name. */
const NOWHERE = (): null => null

/** An object of the API server as the compiler takes it; null when it cannot be read. */
export function readObject(object: KubernetesObject, kind: string): MeshObject | null {
  return read(object, kind).object
}

function read(object: KubernetesObject, kind: string): Arrived {
  const { namespace = '', name } = object.metadata
  const key = keyIn(namespace, name)
  const parsed = parseObject(shrink({ ...object, kind }), NOWHERE)
  return Array.isArray(parsed)
    ? { name: key, object: null, messages: parsed }
    : { name: key, object: parsed as MeshObject, messages: [] }
}
