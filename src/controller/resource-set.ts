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
import type { Steps } from '../base/steps.ts'
import type { MeshState, NodePod } from '../compiler/compile.ts'
import type { MeshNamespace } from '../model/namespace.ts'
import type { Policy } from '../model/policy.ts'
import type { Traffic } from '../model/route.ts'
import type { Service } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
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

/** A resource with the model object it was made of. */
interface Entry {
  readonly model: object
  readonly resource: VersionedResource
}

/** One list of the state as it is published. */
interface Part<T> {
  readonly models: readonly T[]
  /** By name. */
  readonly entries: ReadonlyMap<string, Entry>
  /** What of it could not be encoded. */
  readonly problems: readonly string[]
}

/** The lists of a state. */
interface Parts {
  readonly workloads: Part<Workload>
  readonly services: Part<Service>
  readonly policies: Part<Policy>
  readonly traffic: Part<Traffic>
  readonly namespaces: Part<MeshNamespace>
  readonly pods: Part<NodePod>
}

const EMPTY: Part<never> = { models: [], entries: new Map(), problems: [] }

/** Resources between two steps, each of which may have to be encoded: 64 take 3 ms. */
const STEP_RESOURCES = 64

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

/** Who gets what. */
interface Groups {
  /** What every agent gets whole, by type. */
  readonly shared: ReadonlyMap<string, ResourceMap>
  readonly trafficByScope: ReadonlyMap<string, ResourceMap>
  readonly podsByNode: ReadonlyMap<string, ResourceMap>
  readonly scopesByNode: ReadonlyMap<string, ReadonlySet<string>>
}

const NO_GROUPS: Groups = {
  shared: new Map(),
  trafficByScope: new Map(),
  podsByNode: new Map(),
  scopesByNode: new Map(),
}

/** Everything published at one moment. Immutable. */
export class ResourceSet {
  static readonly empty: ResourceSet = new ResourceSet(
    0,
    { workloads: EMPTY, services: EMPTY, policies: EMPTY, traffic: EMPTY, namespaces: EMPTY, pods: EMPTY },
    NO_GROUPS,
  )

  readonly generation: number
  private readonly parts: Parts
  private readonly groups: Groups

  private constructor(generation: number, parts: Parts, groups: Groups) {
    this.generation = generation
    this.parts = parts
    this.groups = groups
  }

  /** Resources that could not be encoded; their last good version is published instead, if there is one. */
  get problems(): readonly string[] {
    return Object.values(this.parts).flatMap(({ problems }) => problems)
  }

  /** The next generation. What is the same as in this generation is not encoded again. */
  *next(state: MeshState): Steps<ResourceSet> {
    const { parts } = this
    const next: Parts = {
      workloads: yield* nextPart(parts.workloads, state.workloads, ({ uid }) => uid, encodeWorkload),
      services: yield* nextPart(parts.services, state.services, ({ key }) => key, encodeService),
      policies: yield* nextPart(parts.policies, state.policies, ({ key }) => key, encodePolicy),
      traffic: yield* nextPart(parts.traffic, state.traffic, ({ key }) => key, encodeTraffic),
      namespaces: yield* nextPart(parts.namespaces, state.namespaces, ({ name }) => name, encodeNamespace),
      pods: yield* nextPart(
        parts.pods,
        state.pods,
        ({ pod }) => pod.uid,
        ({ pod }) => encodePod(pod),
      ),
    }
    yield
    return new ResourceSet(this.generation + 1, next, yield* this.group(next))
  }

  /** What the agent of `node` gets of a type: of routes only those that its pods follow, of pods only its own. */
  of(typeUrl: ResourceType, node: string): ResourceMap {
    const { podsByNode, scopesByNode, shared, trafficByScope } = this.groups
    if (typeUrl === TYPE_LOCAL_POD) return podsByNode.get(node) ?? NOTHING
    if (typeUrl !== TYPE_TRAFFIC) return shared.get(typeUrl) ?? NOTHING
    const traffic = new Map<string, VersionedResource>()
    for (const scope of scopesByNode.get(node) ?? []) {
      for (const [name, resource] of trafficByScope.get(scope) ?? NOTHING) traffic.set(name, resource)
    }
    return traffic
  }

  private *group(next: Parts): Steps<Groups> {
    const { groups, parts } = this
    const shared = sharedResources(next)
    yield
    for (const [type, resources] of shared) shared.set(type, unlessEqual(resources, groups.shared.get(type)))
    yield
    const isSameTraffic = next.traffic === parts.traffic
    const trafficByScope = isSameTraffic ? groups.trafficByScope : groupPart(next.traffic, ({ scope }) => scope)
    if (next.pods === parts.pods) {
      const { podsByNode, scopesByNode } = groups
      return { shared, trafficByScope, podsByNode, scopesByNode }
    }
    yield
    const podsByNode = groupPart(next.pods, ({ node }) => node)
    yield
    return { shared, trafficByScope, podsByNode, scopesByNode: indexScopes(next.pods.models) }
  }
}

function sharedResources({ workloads, services, policies, namespaces }: Parts): Map<string, ResourceMap> {
  const addresses = new Map<string, VersionedResource>()
  for (const { entries } of [workloads, services]) {
    for (const [name, { resource }] of entries) addresses.set(name, resource)
  }
  const byType = new Map<string, Map<string, VersionedResource>>([[TYPE_ADDRESS, addresses]])
  for (const type of [TYPE_AUTHORIZATION, TYPE_POLICY, TYPE_NAMESPACE]) byType.set(type, new Map())
  for (const { entries } of [policies, namespaces]) {
    for (const [name, { resource }] of entries) byType.get(resource.typeUrl)!.set(name, resource)
  }
  return byType
}

function groupPart<T extends object>(
  { entries }: Part<T>,
  audienceOf: (model: T) => string,
): ReadonlyMap<string, ResourceMap> {
  const groups = new Map<string, Map<string, VersionedResource>>()
  for (const [name, { model, resource }] of entries) {
    const audience = audienceOf(model as T)
    const group = groups.get(audience)
    if (group === undefined) groups.set(audience, new Map([[name, resource]]))
    else group.set(name, resource)
  }
  return groups
}

function indexScopes(pods: readonly NodePod[]): ReadonlyMap<string, ReadonlySet<string>> {
  const scopesByNode = new Map<string, Set<string>>()
  for (const { node, pod } of pods) {
    const scopes = scopesByNode.get(node)
    if (scopes === undefined) scopesByNode.set(node, new Set([pod.scope]))
    else scopes.add(pod.scope)
  }
  return scopesByNode
}

function* nextPart<T extends object>(
  former: Part<T>,
  models: readonly T[],
  nameOf: (model: T) => string,
  encode: (model: T) => EncodedResource,
): Steps<Part<T>> {
  // One that cannot be encoded is tried and reported again.
  if (models === former.models && former.problems.length === 0) return former
  const entries = new Map<string, Entry>()
  const problems: string[] = []
  let count = 0
  for (const model of models) {
    if (++count % STEP_RESOURCES === 0) yield
    const name = nameOf(model)
    const entry = entryFor(former.entries.get(name), model, encode, problems)
    if (entry !== null) entries.set(name, entry)
  }
  return { models, entries, problems }
}

function entryFor<T extends object>(
  before: Entry | undefined,
  model: T,
  encode: (model: T) => EncodedResource,
  problems: string[],
): Entry | null {
  // Most of what the compiler makes anew is what it made before, and comparing is five times as fast as encoding.
  if (before !== undefined && isSameData(before.model, model)) return before
  try {
    const resource = encode(model)
    const version = versionOf(resource.bytes)
    const isSame = before?.resource.version === version && before.resource.typeUrl === resource.typeUrl
    return { model, resource: isSame ? before.resource : { ...resource, version } }
  } catch (error) {
    problems.push(describeError(error))
    return before ?? null
  }
}

function versionOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, VERSION_DIGITS)
}

/** `before` when both hold the same resources, else `next`. */
function unlessEqual(next: ResourceMap, before: ResourceMap | undefined): ResourceMap {
  if (before === undefined || before.size !== next.size) return next
  for (const [name, resource] of next) if (before.get(name) !== resource) return next
  return before
}
