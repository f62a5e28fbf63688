/**
 * One generation of the mesh in the form in which it is published: every resource encoded once, with its version.
 *
 * A version is a hash of the content, so that it means the same before and after a restart of the controller. A resource
 * that did not change keeps its object, and a map in which nothing changed stays the same map: comparing generations is
 * cheap for what did not move.
 */
import { createHash } from 'node:crypto'
import { describeError } from '../base/errors.ts'
import { isSameData } from '../base/same-data.ts'
import type { MeshState } from '../compiler/compile.ts'
import {
  type ResourceType,
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
  TYPE_LOCAL_POD,
  TYPE_NAMESPACE,
  TYPE_POLICY,
  TYPE_TRAFFIC,
} from '../wire/discovery.ts'
import {
  type EncodedResource,
  encodeNamespace,
  encodePod,
  encodePolicy,
  encodeService,
  encodeTraffic,
  encodeWorkload,
} from '../wire/mesh-codec.ts'

/** A resource as it goes over the wire; its version is a hash of its bytes. */
export interface VersionedResource extends EncodedResource {
  readonly version: string
}

/** Resources of one type by name. */
export type ResourceMap = ReadonlyMap<string, VersionedResource>

/** What an agent has of a type: names and versions. */
export type SentMap = ReadonlyMap<string, { readonly version: string }>

/** What an agent must be told. */
export interface Difference {
  readonly changed: readonly VersionedResource[]
  readonly removed: readonly string[]
}

/** Hex digits of a version: 64 bits, so that two contents of one name never share a version by accident. */
const VERSION_DIGITS = 16

/** A resource with the model object it was made of and what decides who gets it. */
interface Entry {
  readonly model: object
  readonly resource: VersionedResource
  /** Scope of a traffic resource, node of a pod; empty for what every agent gets. */
  readonly audience: string
}

const NOTHING: ResourceMap = new Map()

/** What is to be told to an agent that has `sent` and should have `wanted`. */
export function differenceOf(sent: SentMap, wanted: ResourceMap): Difference {
  if (sent === wanted) return { changed: [], removed: [] }
  const changed: VersionedResource[] = []
  const removed: string[] = []
  for (const [name, resource] of wanted) if (sent.get(name)?.version !== resource.version) changed.push(resource)
  for (const name of sent.keys()) if (!wanted.has(name)) removed.push(name)
  return { changed, removed }
}

/** Types that every agent gets whole. */
const SHARED_TYPES = [TYPE_ADDRESS, TYPE_AUTHORIZATION, TYPE_POLICY, TYPE_NAMESPACE] as const

/** Everything published at one moment. Immutable. */
export class ResourceSet {
  static readonly empty: ResourceSet = new ResourceSet(0, new Map(), [], [], null)

  readonly generation: number
  /** Resources that could not be encoded; their last good version is published instead, if there is one. */
  readonly problems: readonly string[]
  /** By type and name. */
  private readonly entries: ReadonlyMap<string, Entry>
  /** By type and audience. */
  private readonly groups: ReadonlyMap<string, ResourceMap>
  private readonly scopesByNode: ReadonlyMap<string, ReadonlySet<string>>

  private constructor(
    generation: number,
    entries: ReadonlyMap<string, Entry>,
    problems: readonly string[],
    pods: MeshState['pods'],
    previous: ResourceSet | null,
  ) {
    this.generation = generation
    this.entries = entries
    this.problems = problems
    const groups = new Map<string, ResourceMap>(groupEntries(entries))
    for (const typeUrl of SHARED_TYPES) {
      const key = groupKey(typeUrl, '')
      groups.set(key, unlessEqual(groups.get(key) ?? NOTHING, previous?.groups.get(key)))
    }
    this.groups = groups
    this.scopesByNode = indexScopes(pods)
  }

  /** The next generation. What is the same as in this generation is not encoded again. */
  next(state: MeshState): ResourceSet {
    const entries = new Map<string, Entry>()
    const problems: string[] = []
    const add = <T extends object>(
      types: readonly ResourceType[],
      name: string,
      model: T,
      audience: string,
      encode: (model: T) => EncodedResource,
    ): void => {
      const before = types
        .map((typeUrl) => this.entries.get(entryKey(typeUrl, name)))
        .find((entry) => entry !== undefined)
      const entry = entryFor(before, model, audience, encode, problems)
      if (entry !== null) entries.set(entryKey(entry.resource.typeUrl, name), entry)
    }
    for (const workload of state.workloads) add([TYPE_ADDRESS], workload.uid, workload, '', encodeWorkload)
    for (const service of state.services) add([TYPE_ADDRESS], service.key, service, '', encodeService)
    for (const policy of state.policies) add([TYPE_AUTHORIZATION, TYPE_POLICY], policy.key, policy, '', encodePolicy)
    for (const traffic of state.traffic) add([TYPE_TRAFFIC], traffic.key, traffic, traffic.scope, encodeTraffic)
    for (const namespace of state.namespaces) add([TYPE_NAMESPACE], namespace.name, namespace, '', encodeNamespace)
    for (const { node, pod } of state.pods) add([TYPE_LOCAL_POD], pod.uid, pod, node, encodePod)
    return new ResourceSet(this.generation + 1, entries, problems, state.pods, this)
  }

  /** What the agent of `node` gets of a type: of routes only those that its pods follow, of pods only its own. */
  of(typeUrl: ResourceType, node: string): ResourceMap {
    if (typeUrl === TYPE_LOCAL_POD) return this.groups.get(groupKey(typeUrl, node)) ?? NOTHING
    if (typeUrl !== TYPE_TRAFFIC) return this.groups.get(groupKey(typeUrl, '')) ?? NOTHING
    const traffic = new Map<string, VersionedResource>()
    for (const scope of this.scopesByNode.get(node) ?? []) {
      for (const [name, resource] of this.groups.get(groupKey(typeUrl, scope)) ?? NOTHING) traffic.set(name, resource)
    }
    return traffic
  }
}

function groupEntries(entries: ReadonlyMap<string, Entry>): Map<string, Map<string, VersionedResource>> {
  const groups = new Map<string, Map<string, VersionedResource>>()
  for (const { resource, audience } of entries.values()) {
    const key = groupKey(resource.typeUrl, audience)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, new Map([[resource.name, resource]]))
    else group.set(resource.name, resource)
  }
  return groups
}

function indexScopes(pods: MeshState['pods']): ReadonlyMap<string, ReadonlySet<string>> {
  const scopesByNode = new Map<string, Set<string>>()
  for (const { node, pod } of pods) {
    const scopes = scopesByNode.get(node)
    if (scopes === undefined) scopesByNode.set(node, new Set([pod.scope]))
    else scopes.add(pod.scope)
  }
  return scopesByNode
}

function entryFor<T extends object>(
  before: Entry | undefined,
  model: T,
  audience: string,
  encode: (model: T) => EncodedResource,
  problems: string[],
): Entry | null {
  // Most of what the compiler makes anew is what it made before, and comparing is five times as fast as encoding.
  if (before !== undefined && before.audience === audience && isSameData(before.model, model)) return before
  try {
    const resource = encode(model)
    const version = versionOf(resource.bytes)
    const isSame = before?.resource.version === version && before.resource.typeUrl === resource.typeUrl
    return { model, audience, resource: isSame ? before.resource : { ...resource, version } }
  } catch (error) {
    problems.push(describeError(error))
    return before ?? null
  }
}

function versionOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, VERSION_DIGITS)
}

function entryKey(typeUrl: ResourceType, name: string): string {
  return `${typeUrl}\n${name}`
}

function groupKey(typeUrl: ResourceType, audience: string): string {
  return `${typeUrl}\n${audience}`
}

/** `before` when both hold the same resources, else `next`. */
function unlessEqual(next: ResourceMap, before: ResourceMap | undefined): ResourceMap {
  if (before === undefined || before.size !== next.size) return next
  for (const [name, resource] of next) if (before.get(name) !== resource) return next
  return before
}
