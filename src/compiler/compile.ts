/**
 * The compiler: users' objects in, the mesh's state and messages out. Pure and deterministic: the order of the input
 * does not matter, equal input gives equal output.
 *
 * Order of work: metadata and duplicates, Kubernetes' kinds, inventory, rules by kind, policies, scopes. An object with
 * an error is left out as if it were not there, and never half applied; the one exception is an AuthorizationPolicy that
 * denies and uses what is not supported yet, which stays in force denying more (authorization-policy.ts).
 */

import { atOnce, STEP_VALUES, type Steps } from '../base/steps.ts'
import type { MeshNamespace } from '../model/namespace.ts'
import type { Policy } from '../model/policy.ts'
import type { Traffic } from '../model/route.ts'
import type { Service } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
import {
  readAuthorizationPolicy,
  reportHttpOnly,
  type SelectedPolicies,
  selectPolicies,
} from './authorization-policy.ts'
import { CompileMemo } from './compile-memo.ts'
import { readService } from './core-service.ts'
import { type MergedRule, mergeRules, readDestinationRule } from './destination-rule.ts'
import { readEndpointSlice } from './endpoint-slice.ts'
import { Enrolments, isOfRevision } from './enrolment.ts'
import { buildInventory, type Inventory } from './inventory.ts'
import { checkKind, checkTopLevel } from './kinds.ts'
import { localPods, meshNamespaces, type NodePod } from './local-pods.ts'
import { compareText, findings, type Message, MessageLog } from './messages.ts'
import { localityOf } from './node.ts'
import { compareAge, type MeshObject } from './object.ts'
import { buildPeerPolicies, type PeerPolicies, readPeerAuthentication } from './peer-authentication.ts'
import { readPod } from './pod.ts'
import type { Reader } from './read-memo.ts'
import { reportEmptySubsets, reportUnknownHosts } from './rule-targets.ts'
import { buildScopes, type ScopedTraffic } from './scopes.ts'
import { readServiceEntry } from './service-entry.ts'
import type { CompileSettings, Run } from './settings.ts'
import { readVirtualService } from './virtual-service.ts'
import type { Localities } from './workload-draft.ts'
import { type FinishedWorkloads, finishWorkloads } from './workload-policies.ts'

export type { NodePod } from './local-pods.ts'
export type { CompileSettings } from './settings.ts'

/** The whole mesh. Lists are sorted by key (uid). */
export interface MeshState {
  readonly workloads: readonly Workload[]
  readonly services: readonly Service[]
  readonly policies: readonly Policy[]
  readonly traffic: readonly Traffic[]
  readonly pods: readonly NodePod[]
  /** Those whose pods are in the mesh. */
  readonly namespaces: readonly MeshNamespace[]
}

/** The model, and what is to be said about the objects it came from. */
export interface CompileResult {
  readonly state: MeshState
  /** Sorted. Objects with a message of severity `error` are not in force as written. */
  readonly messages: readonly Message[]
}

/** Compiles everything. Never throws on any input that `parseObject` accepted. */
export function compile(objects: readonly MeshObject[], settings: CompileSettings): CompileResult {
  return atOnce(compileSteps(objects, settings))
}

/**
 * The same, a step at a time. Who compiles again and again with the same settings passes the same `memo`, which changes
 * nothing but the time it takes: what did not change since the run before is the very same value in the result.
 */
export function* compileSteps(
  objects: readonly MeshObject[],
  settings: CompileSettings,
  memo: CompileMemo = new CompileMemo(),
): Steps<CompileResult> {
  const log = new MessageLog()
  const run: Run = { settings, log }
  const kinds = yield* sortByKind(objects, run)
  const namespaces = memo.list('Namespace', kinds.get('Namespace') ?? [])
  const nodes = memo.list('Node', kinds.get('Node') ?? [])
  const enrolments = yield* memo.stage<Enrolments>('enrolments', [namespaces], run, function* (run) {
    yield
    return new Enrolments(namespaces, run)
  })
  const localities = yield* memo.stage<Localities>('localities', [nodes], run, function* () {
    yield
    return new Map(nodes.map((node) => [node.name, memo.reads.derive(node, localityOf)]))
  })
  const pods = yield* readAll(kinds, 'Pod', readPod, run, memo)
  const services = yield* readAll(kinds, 'Service', readService, run, memo)
  const slices = yield* readAll(kinds, 'EndpointSlice', readEndpointSlice, run, memo)
  const entries = yield* readAll(kinds, 'ServiceEntry', readServiceEntry, run, memo)
  const core = { enrolments, localities, pods, services, slices, entries }
  const inventory = yield* memo.stage<Inventory>('inventory', Object.values(core), run, (run, former) =>
    buildInventory(core, run, former),
  )
  const { selection, members } = inventory

  const virtualServices = memo.list(
    'oldest first',
    [...(yield* readAll(kinds, 'VirtualService', readVirtualService, run, memo))].sort((a, b) =>
      compareAge(a.object, b.object),
    ),
  )
  const destinationRules = yield* readAll(kinds, 'DestinationRule', readDestinationRule, run, memo)
  const peers = yield* readAll(kinds, 'PeerAuthentication', readPeerAuthentication, run, memo)
  const authorizations = yield* readAll(kinds, 'AuthorizationPolicy', readAuthorizationPolicy, run, memo)

  const merged = yield* memo.stage<readonly MergedRule[]>('merged rules', [destinationRules], run, function* (run) {
    yield
    return mergeRules(destinationRules, run)
  })
  const rules = { virtualServices, destinationRules: merged }
  const { traffic, scopeOf } = yield* memo.stage<ScopedTraffic>(
    'scopes',
    [selection, virtualServices, merged],
    run,
    (run) => buildScopes(selection, rules, run),
  )
  const peerPolicies = yield* memo.stage<PeerPolicies>('peers', [peers, selection], run, (run) =>
    buildPeerPolicies(peers, selection, run),
  )
  const selected = yield* memo.stage<SelectedPolicies>('selected policies', [authorizations, selection], run, (run) =>
    selectPolicies(authorizations, selection, run),
  )
  yield* memo.stage('HTTP only', [authorizations, inventory], run, (run) =>
    reportHttpOnly(authorizations, inventory, run),
  )
  yield* memo.stage('unknown hosts', [virtualServices, destinationRules, selection], run, (run) =>
    reportUnknownHosts(virtualServices, destinationRules, selection, run),
  )
  yield* memo.stage('empty subsets', [merged, selection], run, (run) => reportEmptySubsets(merged, selection, run))

  const keys = { peers: peerPolicies.keysOf, selected }
  const workloads = yield* memo.stage<FinishedWorkloads>(
    'workloads',
    [members, peerPolicies, selected],
    run,
    (_, former) => finishWorkloads(members, keys, former),
  )
  const policies = yield* memo.stage<readonly Policy[]>('policies', [peerPolicies, authorizations], run, function* () {
    yield
    const all = [...peerPolicies.policies, ...authorizations.map(({ policy }) => policy)]
    return all.sort((a, b) => compareText(a.key, b.key))
  })
  const nodePods = yield* memo.stage<readonly NodePod[]>('pods', [members, scopeOf, namespaces], run, (run, former) =>
    localPods(members, scopeOf, namespaces, run, memo.reads, former ?? []),
  )
  const inMesh = yield* memo.stage<readonly MeshNamespace[]>(
    'namespaces',
    [enrolments, members, namespaces],
    run,
    function* (run) {
      yield
      return meshNamespaces(enrolments, members, namespaces, run)
    },
  )
  const state = {
    workloads: workloads.list,
    services: selection.services,
    policies,
    traffic,
    pods: nodePods,
    namespaces: inMesh,
  }
  yield
  return { state, messages: log.sorted() }
}

type ObjectsByKind = ReadonlyMap<string, readonly MeshObject[]>

/** Objects that the mesh reads, by kind; each object once, in the order of its keys. */
function* sortByKind(objects: readonly MeshObject[], run: Run): Steps<ObjectsByKind> {
  const byKind = new Map<string, MeshObject[]>()
  const sorted = [...objects].sort(compareObjects)
  let known: MeshObject | null = null
  let count = 0
  for (const object of sorted) {
    if (++count % STEP_VALUES === 0) yield
    if (!checkKind(object, run) || !(isCore(object) || isOfRevision(object, run.settings))) continue
    // Twins stand together.
    if (known?.key === object.key) {
      run.log.add(object, [], findings.duplicateObject(placeOf(known)))
      continue
    }
    known = object
    if (!isCore(object)) checkTopLevel(object, run)
    const list = byKind.get(object.kind)
    if (list === undefined) byKind.set(object.kind, [object])
    else list.push(object)
  }
  return byKind
}

/** True for Kubernetes' own kinds, which are facts for every revision. */
function isCore({ group }: MeshObject): boolean {
  return group === '' || group === 'discovery.k8s.io'
}

function compareObjects(a: MeshObject, b: MeshObject): number {
  return compareText(a.key, b.key) || comparePlaces(a, b)
}

function comparePlaces(a: MeshObject, b: MeshObject): number {
  const [first, second] = [a.positionOf([]), b.positionOf([])]
  return (
    compareText(first?.file ?? '', second?.file ?? '') ||
    (first?.line ?? 0) - (second?.line ?? 0) ||
    compareText(a.apiVersion, b.apiVersion)
  )
}

function placeOf(object: MeshObject): string {
  const position = object.positionOf([])
  return position === null ? object.apiVersion : `${position.file}:${position.line}`
}

/** The normal forms of one kind, without those that have errors; the very list of the run before when nothing changed. */
function* readAll<T>(
  kinds: ObjectsByKind,
  kind: string,
  read: Reader<T>,
  run: Run,
  memo: CompileMemo,
): Steps<readonly T[]> {
  const result: T[] = []
  let count = 0
  for (const object of kinds.get(kind) ?? []) {
    if (++count % STEP_VALUES === 0) yield
    const one = memo.reads.read(object, read, run)
    if (one !== null) result.push(one)
  }
  yield
  return memo.list(`read ${kind}`, result)
}
