/**
 * The compiler: users' objects in, the mesh's state and messages out. Pure and deterministic: the order of the input
 * does not matter, equal input gives equal output.
 *
 * Order of work: metadata and duplicates, Kubernetes' kinds, inventory, rules by kind, policies, scopes. An object with
 * an error is left out as if it were not there, and never half applied; the one exception is an AuthorizationPolicy that
 * denies and uses what is not supported yet, which stays in force denying more (authorization-policy.ts).
 */

import type { MeshNamespace } from '../model/namespace.ts'
import type { Policy } from '../model/policy.ts'
import type { Traffic } from '../model/route.ts'
import type { Service } from '../model/service.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, type LocalPod, type Workload } from '../model/workload.ts'
import { readAuthorizationPolicy, selectPolicies } from './authorization-policy.ts'
import { readService } from './core-service.ts'
import { type DestinationRule, type MergedRule, mergeRules, readDestinationRule } from './destination-rule.ts'
import { sameNodeEncryption } from './encryption.ts'
import { readEndpointSlice } from './endpoint-slice.ts'
import { Enrolments, isOfRevision } from './enrolment.ts'
import { isWildcard, unknownHostFix, wildcardCovers } from './hosts.ts'
import { buildInventory, type Inventory } from './inventory.ts'
import { checkKind, checkTopLevel } from './kinds.ts'
import { compareText, findings, type Message, MessageLog } from './messages.ts'
import { localityOf } from './node.ts'
import { compareAge, type MeshObject, type Path } from './object.ts'
import { buildPeerPolicies, readPeerAuthentication } from './peer-authentication.ts'
import { readPod } from './pod.ts'
import { dnsExemptNamespaces, failureModeOf, failureModes, isDnsExempt, netnsOf } from './pod-settings.ts'
import { probePortsOf } from './probe-ports.ts'
import { type Reader, ReadMemo } from './read-memo.ts'
import { buildScopes } from './scopes.ts'
import { selects } from './selector.ts'
import { readServiceEntry } from './service-entry.ts'
import type { CompileSettings, Run } from './settings.ts'
import { destinationsOf, readVirtualService, type VirtualService } from './virtual-service.ts'

export type { CompileSettings } from './settings.ts'

/** A pod that an agent must enrol. */
export interface NodePod {
  readonly node: string
  readonly pod: LocalPod
}

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

/**
 * Compiles everything. Never throws on any input that `parseObject` accepted. Who compiles again and again with the same
 * settings passes the same `memo`, which changes nothing but the time it takes.
 */
export function compile(
  objects: readonly MeshObject[],
  settings: CompileSettings,
  memo: ReadMemo = new ReadMemo(),
): CompileResult {
  const log = new MessageLog()
  const run: Run = { settings, log }
  const kinds = sortByKind(objects, run)
  const enrolments = new Enrolments(kinds.get('Namespace') ?? [], run)
  const inventory = readInventory(kinds, enrolments, run, memo)

  const virtualServices = readAll(kinds, 'VirtualService', readVirtualService, run, memo)
  const destinationRules = readAll(kinds, 'DestinationRule', readDestinationRule, run, memo)
  const peers = readAll(kinds, 'PeerAuthentication', readPeerAuthentication, run, memo)
  const authorizations = readAll(kinds, 'AuthorizationPolicy', readAuthorizationPolicy, run, memo)

  const merged = mergeRules(destinationRules, run)
  virtualServices.sort((a, b) => compareAge(a.object, b.object))
  const { traffic, scopeOf } = buildScopes(inventory, { virtualServices, destinationRules: merged }, run)
  const peerPolicies = buildPeerPolicies(peers, inventory, run)
  const selected = selectPolicies(authorizations, inventory, run)
  reportUnknownHosts(virtualServices, destinationRules, inventory, run)
  reportEmptySubsets(merged, inventory, run)

  const workloads = inventory.members.map((member): Workload => {
    const keys = [...(peerPolicies.keysOf.get(member.uid) ?? []), ...(selected.get(member.uid) ?? [])]
    return { ...member.workload, policies: keys.sort(compareText) }
  })
  const policies = [...peerPolicies.policies, ...authorizations.map(({ policy }) => policy)]
  policies.sort((a, b) => compareText(a.key, b.key))
  const pods = localPods(inventory, scopeOf, kinds.get('Namespace') ?? [], run, memo)
  const namespaces = meshNamespaces(enrolments, inventory, kinds.get('Namespace') ?? [], run)
  const state = { workloads, services: inventory.services, policies, traffic, pods, namespaces }
  return { state, messages: log.sorted() }
}

type ObjectsByKind = ReadonlyMap<string, readonly MeshObject[]>

/** Objects that the mesh reads, by kind; each object once, in the order of its keys. */
function sortByKind(objects: readonly MeshObject[], run: Run): ObjectsByKind {
  const byKind = new Map<string, MeshObject[]>()
  const known = new Map<string, MeshObject>()
  for (const object of [...objects].sort(compareObjects)) {
    if (!checkKind(object, run) || !(isCore(object) || isOfRevision(object, run.settings))) continue
    const twin = known.get(object.key)
    if (twin !== undefined) {
      run.log.add(object, [], findings.duplicateObject(placeOf(twin)))
      continue
    }
    known.set(object.key, object)
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
  const [first, second] = [a.positionOf([]), b.positionOf([])]
  return (
    compareText(a.key, b.key) ||
    compareText(first?.file ?? '', second?.file ?? '') ||
    (first?.line ?? 0) - (second?.line ?? 0) ||
    compareText(a.apiVersion, b.apiVersion)
  )
}

function placeOf(object: MeshObject): string {
  const position = object.positionOf([])
  return position === null ? object.apiVersion : `${position.file}:${position.line}`
}

/** The normal forms of one kind, without those that have errors. */
function readAll<T>(kinds: ObjectsByKind, kind: string, read: Reader<T>, run: Run, memo: ReadMemo): T[] {
  const result: T[] = []
  for (const object of kinds.get(kind) ?? []) {
    const one = memo.read(object, read, run)
    if (one !== null) result.push(one)
  }
  return result
}

function readInventory(kinds: ObjectsByKind, enrolments: Enrolments, run: Run, memo: ReadMemo): Inventory {
  return buildInventory(
    {
      enrolments,
      localities: new Map((kinds.get('Node') ?? []).map((node) => [node.name, localityOf(node)])),
      pods: readAll(kinds, 'Pod', readPod, run, memo),
      services: readAll(kinds, 'Service', readService, run, memo),
      slices: readAll(kinds, 'EndpointSlice', readEndpointSlice, run, memo),
      entries: readAll(kinds, 'ServiceEntry', readServiceEntry, run, memo),
    },
    run,
  )
}

/** What the agents of the enrolled pods' nodes are told. */
function localPods(
  inventory: Inventory,
  scopeOf: ReadonlyMap<string, string>,
  namespaces: readonly MeshObject[],
  run: Run,
  memo: ReadMemo,
): NodePod[] {
  const modes = failureModes(namespaces, run)
  const dnsExempt = dnsExemptNamespaces(namespaces, run)
  const mustEncrypt = sameNodeEncryption(namespaces, run)
  const pods: NodePod[] = []
  for (const member of inventory.members) {
    if (!member.isOurs) continue
    // Only pods are ever enrolled, and pods have an object.
    const netns = netnsOf(member.object!, run)
    const failureMode = failureModeOf(member.object!, modes.get(member.namespace) ?? FAILURE_BY_POLICY, run)
    const pod = { uid: member.uid, netns, scope: scopeOf.get(member.uid)!, failureMode }
    const podUid = member.object!.uid
    const probePorts = memo.derive(member.object!, probePortsOf)
    const isExempt = isDnsExempt(member.object!, dnsExempt.has(member.namespace), run)
    pods.push({
      node: member.workload.node,
      pod: {
        ...pod,
        ...(isExempt ? { isDnsExempt: true } : {}),
        ...(mustEncrypt(member.namespace) ? { mustEncrypt: true } : {}),
        ...(podUid === '' ? {} : { podUid }),
        ...(probePorts.length > 0 ? { probePorts } : {}),
      },
    })
  }
  return pods
}

/**
 * Those that are in the mesh as a whole, those that have a pod in it, and those that would rather have none start than one
 * unmeshed: their first pod may be on its way.
 */
function meshNamespaces(
  enrolments: Enrolments,
  inventory: Inventory,
  objects: readonly MeshObject[],
  run: Run,
): MeshNamespace[] {
  const modes = failureModes(objects, run)
  const names = new Set(enrolments.meshNamespaces())
  for (const { isOurs, namespace } of inventory.members) if (isOurs) names.add(namespace)
  for (const [name, mode] of modes) if (mode === FAILURE_CLOSED) names.add(name)
  return [...names].sort(compareText).map((name) => ({ name, failureMode: modes.get(name) ?? FAILURE_BY_POLICY }))
}

// --- rules that miss their target ---

function reportUnknownHosts(
  virtualServices: readonly VirtualService[],
  rules: readonly DestinationRule[],
  inventory: Inventory,
  run: Run,
): void {
  const { hosts } = inventory
  const isKnown = (host: string): boolean =>
    isWildcard(host) ? [...hosts].some((one) => wildcardCovers(host, one)) : hosts.has(host)
  const fix = (written: string, host: string): string =>
    unknownHostFix(written, host, hosts, run.settings.clusterDomain)
  const reportAlias = (object: MeshObject, path: Path, host: string): void => {
    const alias = inventory.serviceByHost.get(host)?.alias
    if (alias !== undefined) run.log.add(object, path, findings.hostIsAlias(host, alias))
  }
  for (const rule of virtualServices) {
    rule.hosts.forEach((host, i) => {
      reportAlias(rule.object, ['spec', 'hosts', i], host)
      if (isKnown(host)) return
      run.log.add(
        rule.object,
        ['spec', 'hosts', i],
        findings.hostWithoutService(host, fix(rule.writtenHosts[i]!, host)),
      )
    })
  }
  for (const rule of virtualServices) {
    for (const { host, writtenHost, path } of destinationsOf(rule)) {
      reportAlias(rule.object, [...path, 'host'], host)
      if (!hosts.has(host))
        run.log.add(rule.object, [...path, 'host'], findings.hostUnknown(host, fix(writtenHost, host)))
    }
  }
  for (const { object, host, writtenHost } of rules) {
    reportAlias(object, ['spec', 'host'], host)
    if (!isKnown(host)) run.log.add(object, ['spec', 'host'], findings.ruleHostUnknown(host, fix(writtenHost, host)))
  }
}

function reportEmptySubsets(rules: readonly MergedRule[], inventory: Inventory, run: Run): void {
  for (const rule of rules) {
    const covered = inventory.services.filter((service) =>
      isWildcard(rule.host) ? wildcardCovers(rule.host, service.hostname) : service.hostname === rule.host,
    )
    if (covered.length === 0) continue
    const members = covered.flatMap((service) => inventory.membersOf.get(service.key) ?? [])
    for (const subset of rule.subsets.values()) {
      if (members.some((member) => selects(subset.labels, member.labels))) continue
      run.log.add(subset.object, ['spec', 'subsets', subset.index, 'labels'], findings.subsetEmpty(subset.name))
    }
  }
}
