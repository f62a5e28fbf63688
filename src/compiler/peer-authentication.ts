/**
 * PeerAuthentication to policies. The mode of a workload is resolved here (mesh, namespace, workload, then port), and
 * what it forbids becomes one DENY policy, listed at the workloads that it concerns: "nobody without an identity, except
 * on these ports". The policy carries the name of the object that decided, so that a log line leads back to it.
 */
import { groupBy } from '../base/group-by.ts'
import { STEP_VALUES, type Steps } from '../base/steps.ts'
import {
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  PEER_AUTHENTICATION_PREFIX,
  POLICY_SCOPE_WORKLOAD,
  type Policy,
  type PolicyMatch,
  policyKey,
} from '../model/policy.ts'
import type { Selectable, Selection } from './inventory.ts'
import { compareText, findings } from './messages.ts'
import { compareAge, type MeshObject } from './object.ts'
import { Cursor, checked, map, object, oneOf } from './schema.ts'
import { SELECT_ALL, type Selector, selectorOf, selects } from './selector.ts'
import type { Run } from './settings.ts'
import { labelMap } from './strings.ts'

type Mode = 'UNSET' | 'DISABLE' | 'PERMISSIVE' | 'STRICT'

const mutualTls = object({
  mode: checked(oneOf(['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT']), (mode, cursor) => {
    if (mode === 'DISABLE') cursor.report(findings.disableMode())
  }),
})

/** The spec of a PeerAuthentication. */
export const peerAuthenticationSpec = object(
  {
    selector: object({ matchLabels: labelMap }),
    mtls: mutualTls,
    portLevelMtls: map(mutualTls, (key, cursor) => {
      const number = Number(key)
      if (!/^[0-9]{1,5}$/.test(key) || number < 1 || number > 65_535) {
        cursor.reject(`${JSON.stringify(key)} is not a port.`, 'Write the number of a container port.')
      }
    }),
  },
  (spec, cursor) => {
    const hasSelector = spec.selector !== null && spec.selector.matchLabels.size > 0
    if (spec.portLevelMtls.size > 0 && !hasSelector) {
      cursor
        .at('portLevelMtls')
        .reject('Ports can only be set for selected workloads.', 'Add a selector with matchLabels.')
    }
  },
)

/** A PeerAuthentication as read. */
export interface PeerAuthentication {
  readonly object: MeshObject
  readonly selector: Selector
  readonly mode: Mode
  /** By container port. */
  readonly ports: ReadonlyMap<number, Mode>
}

/** Reads a PeerAuthentication; null when it has errors (reported). */
export function readPeerAuthentication(object: MeshObject, run: Run): PeerAuthentication | null {
  const spec = peerAuthenticationSpec.read(object.spec ?? {}, new Cursor(run.log, object).at('spec'))
  if (spec === null || run.log.hasError(object)) return null
  const ports = new Map<number, Mode>()
  for (const [port, setting] of spec.portLevelMtls) ports.set(Number(port), setting?.mode ?? 'UNSET')
  return {
    object,
    selector: spec.selector === null ? SELECT_ALL : selectorOf(spec.selector.matchLabels),
    mode: spec.mtls?.mode ?? 'UNSET',
    ports,
  }
}

/** Policies made from peer authentication, and which of them each workload has. */
export interface PeerPolicies {
  readonly policies: readonly Policy[]
  /** Policy keys by workload uid. */
  readonly keysOf: ReadonlyMap<string, readonly string[]>
}

/** Resolves the mode of every enrolled workload. Of several objects with one scope the oldest counts. */
export function* buildPeerPolicies(
  objects: readonly PeerAuthentication[],
  selection: Selection,
  run: Run,
): Steps<PeerPolicies> {
  const levels = sortLevels(objects, run)
  const policies = new Map<string, Policy>()
  const keysOf = new Map<string, readonly string[]>()
  const deciders = new Deciders(levels)
  let count = 0
  for (const member of objects.length === 0 ? [] : selection.members) {
    if (++count % STEP_VALUES === 0) yield
    if (!member.isEnrolled) continue
    const policy = deciders.policyFor(member)
    if (policy === null) continue
    policies.set(policy.key, policy)
    keysOf.set(member.uid, [policy.key])
  }
  yield
  reportIdleSelectors(levels.selected, selection, run)
  return { policies: [...policies.values()].sort((a, b) => compareText(a.key, b.key)), keysOf }
}

interface Levels {
  readonly mesh: PeerAuthentication | null
  readonly byNamespace: ReadonlyMap<string, PeerAuthentication>
  /** With a selector, oldest first. */
  readonly selected: readonly PeerAuthentication[]
  /** The same by namespace. */
  readonly selectedIn: ReadonlyMap<string, readonly PeerAuthentication[]>
}

function sortLevels(objects: readonly PeerAuthentication[], run: Run): Levels {
  const byNamespace = new Map<string, PeerAuthentication>()
  const selected: PeerAuthentication[] = []
  for (const one of [...objects].sort((a, b) => compareAge(a.object, b.object))) {
    const { namespace } = one.object
    if (one.selector.text !== '') {
      if (namespace === run.settings.rootNamespace)
        run.log.add(one.object, ['spec', 'selector'], findings.rootSelector())
      else selected.push(one)
      continue
    }
    const winner = byNamespace.get(namespace)
    if (winner === undefined) byNamespace.set(namespace, one)
    else run.log.add(one.object, [], findings.policyTakenByOlder(winner.object.key))
  }
  const selectedIn = groupBy(selected, ({ object }) => object.namespace)
  return { mesh: byNamespace.get(run.settings.rootNamespace) ?? null, byNamespace, selected, selectedIn }
}

/** What forbids plaintext, worked out once for all workloads of a namespace that have the same object of their own. */
class Deciders {
  private readonly levels: Levels
  private readonly known = new Map<PeerAuthentication | string, Policy | null>()

  constructor(levels: Levels) {
    this.levels = levels
  }

  /** Null when nothing forbids it. */
  policyFor({ namespace, labels }: Selectable): Policy | null {
    const own = this.levels.selectedIn.get(namespace)?.find(({ selector }) => selects(selector, labels)) ?? null
    const decider = own ?? namespace
    let policy = this.known.get(decider)
    if (policy === undefined) {
      policy = policyOf(own, namespace, this.levels)
      this.known.set(decider, policy)
    }
    return policy
  }
}

function policyOf(own: PeerAuthentication | null, namespace: string, levels: Levels): Policy | null {
  const chain = [own, levels.byNamespace.get(namespace) ?? null, levels.mesh]
  const base = chain.find((one) => one !== null && one.mode !== 'UNSET') ?? null
  const isStrict = base !== null && base.mode === 'STRICT'
  const exceptions: number[] = []
  for (const [port, mode] of own?.ports ?? []) {
    if (mode !== 'UNSET' && (mode === 'STRICT') !== isStrict) exceptions.push(port)
  }
  exceptions.sort((a, b) => a - b)
  if (!isStrict && exceptions.length === 0) return null
  // Ports are the workload object's word; without exceptions the object that set the mode has decided.
  const decider = exceptions.length > 0 ? own! : base!
  const match: PolicyMatch = {
    ...EMPTY_POLICY_MATCH,
    notPrincipals: [{ kind: 'present' }],
    destinationPorts: isStrict ? [] : exceptions,
    notDestinationPorts: isStrict ? exceptions : [],
  }
  const name = `${PEER_AUTHENTICATION_PREFIX}${decider.object.name}`
  const { namespace: home } = decider.object
  return {
    key: policyKey(home, name),
    name,
    namespace: home,
    scope: POLICY_SCOPE_WORKLOAD,
    action: ACTION_DENY,
    isDryRun: false,
    rules: [{ clauses: [{ matches: [match] }] }],
  }
}

function reportIdleSelectors(selected: readonly PeerAuthentication[], { membersIn }: Selection, run: Run): void {
  for (const { object, selector } of selected) {
    const members = (membersIn.get(object.namespace) ?? []).filter(({ labels }) => selects(selector, labels))
    if (members.length === 0) run.log.add(object, ['spec', 'selector'], findings.selectorEmpty())
    else if (!members.some((member) => member.isEnrolled)) {
      run.log.add(object, ['spec', 'selector'], findings.selectorOutside())
    }
  }
}
