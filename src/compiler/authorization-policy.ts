/**
 * AuthorizationPolicy to policies in normal form.
 *
 * Never weaker than written: a rule of an ALLOW policy with an attribute that is not supported is dropped (it allows
 * nothing); in a DENY policy such an attribute counts as true (it denies more) and the object is reported as an error.
 * `spec: {}` denies all: an ALLOW policy without rules matches nothing. `rules: [{}]` matches everything.
 */
import type { Steps } from '../base/steps.ts'
import {
  ACTION_ALLOW,
  ACTION_DENY,
  POLICY_SCOPE_GLOBAL,
  POLICY_SCOPE_NAMESPACE,
  POLICY_SCOPE_WORKLOAD,
  type Policy,
  type PolicyClause,
  type PolicyRule,
  type PolicyScope,
  policyKey,
} from '../model/policy.ts'
import { serviceKey } from '../model/service.ts'
import { conditionMatch, operationMatch, sourceMatch, type Translated } from './authorization-match.ts'
import {
  type AuthorizationPolicySpec,
  authorizationPolicySpec,
  type RuleFields,
} from './authorization-policy-fields.ts'
import type { Inventory, Member, Selectable, Selection } from './inventory.ts'
import { compareText, findings } from './messages.ts'
import type { MeshObject } from './object.ts'
import { mayBeHttp } from './protocol.ts'
import { Cursor } from './schema.ts'
import { SELECT_ALL, type Selector, selectorOf, selects } from './selector.ts'
import type { Run } from './settings.ts'

const DRY_RUN_ANNOTATION = 'istio.io/dry-run'

/** An AuthorizationPolicy as read, and to which workloads it applies. */
export interface AuthorizationPolicy {
  readonly object: MeshObject
  readonly policy: Policy
  readonly selector: Selector
  /** Names of services in the policy's namespace; null when the policy does not apply by targetRefs. */
  readonly services: readonly string[] | null
  /** Indexes of enforced DENY rules that name HTTP attributes alone. */
  readonly httpOnlyRules: readonly number[]
}

/** Reads an AuthorizationPolicy; null when it has errors or is of no effect (both reported). */
export function readAuthorizationPolicy(object: MeshObject, run: Run): AuthorizationPolicy | null {
  const cursor = new Cursor(run.log, object).at('spec')
  const spec = authorizationPolicySpec.read(object.spec ?? {}, cursor)
  const isDryRun = readDryRun(object, run)
  if (spec === null || run.log.hasError(object)) return null
  if (spec.action === 'AUDIT') {
    cursor.at('action').report(findings.notSupported('AUDIT', 'nothing is marked'))
    return null
  }
  const targets = [...spec.targetRefs, ...(spec.targetRef === null ? [] : [spec.targetRef])]
  const services = targets.length === 0 ? null : targetServices(spec, cursor)
  if (services !== null && services.length === 0) return null
  const isDeny = spec.action === 'DENY' || spec.action === 'CUSTOM'
  if (spec.action === 'CUSTOM') cursor.at('action').report(findings.customDenied())
  const rules: PolicyRule[] = []
  spec.rules.forEach((rule, i) => {
    const translated = translateRule(rule, cursor.at('rules', i), isDeny)
    if (translated !== null) rules.push(translated)
  })
  const selector = spec.selector === null ? SELECT_ALL : selectorOf(spec.selector.matchLabels)
  const { namespace, name } = object
  const policy: Policy = {
    key: policyKey(namespace, name),
    name,
    namespace,
    scope: scopeOf(object, selector, services, run),
    action: isDeny ? ACTION_DENY : ACTION_ALLOW,
    isDryRun,
    rules,
  }
  return { object, policy, selector, services, httpOnlyRules: isDeny && !isDryRun ? httpOnlyRules(spec) : [] }
}

/** Keys of policies by the uid of the workload that they select. */
export type SelectedPolicies = ReadonlyMap<string, readonly string[]>

/** Keys of the policies that select each workload, sorted; policies of a namespace or the mesh are not listed. */
export function* selectPolicies(
  policies: readonly AuthorizationPolicy[],
  selection: Selection,
  run: Run,
): Steps<SelectedPolicies> {
  const keysOf = new Map<string, string[]>()
  for (const authorization of policies) {
    const { object, policy, services } = authorization
    if (policy.scope !== POLICY_SCOPE_WORKLOAD) continue
    yield
    const members = membersOf(authorization, selection, run)
    if (services !== null) reportUnknownTargets(authorization, selection, run)
    for (const { uid } of members) {
      const keys = keysOf.get(uid)
      if (keys === undefined) keysOf.set(uid, [policy.key])
      else keys.push(policy.key)
    }
    const path = ['spec', services === null ? 'selector' : 'targetRefs']
    if (members.length === 0) run.log.add(object, path, findings.selectorEmpty())
    else if (!members.some((member) => member.isEnrolled)) run.log.add(object, path, findings.selectorOutside())
  }
  for (const keys of keysOf.values()) keys.sort(compareText)
  return keysOf
}

/** Reports DENY rules of HTTP attributes that hold for workloads which serve TCP. */
export function* reportHttpOnly(
  policies: readonly AuthorizationPolicy[],
  { selection, drafts }: Inventory,
  run: Run,
): Steps<void> {
  for (const authorization of policies) {
    const { object, httpOnlyRules } = authorization
    if (httpOnlyRules.length === 0) continue
    yield
    const members = membersOf(authorization, selection, run)
    if (!members.some(({ uid }) => servesTcp(drafts.get(uid)!.member!, selection))) continue
    for (const i of httpOnlyRules) run.log.add(object, ['spec', 'rules', i, 'to'], findings.denyHttpOnly())
  }
}

// --- to whom it applies ---

function scopeOf(object: MeshObject, selector: Selector, services: readonly string[] | null, run: Run): PolicyScope {
  if (selector.text !== '' || services !== null) return POLICY_SCOPE_WORKLOAD
  return object.namespace === run.settings.rootNamespace ? POLICY_SCOPE_GLOBAL : POLICY_SCOPE_NAMESPACE
}

function membersOf(
  { object, selector, services }: AuthorizationPolicy,
  selection: Selection,
  run: Run,
): readonly Selectable[] {
  if (services !== null) {
    const members = new Set<Selectable>()
    for (const key of targetKeys(object, services, run)) {
      for (const member of selection.membersOf.get(key) ?? []) members.add(member)
    }
    return [...members]
  }
  // In the root namespace a selector selects in every namespace.
  const isRoot = object.namespace === run.settings.rootNamespace
  const members = isRoot ? selection.members : (selection.membersIn.get(object.namespace) ?? [])
  return members.filter(({ labels }) => selects(selector, labels))
}

function targetKeys(object: MeshObject, services: readonly string[], { settings }: Run): string[] {
  const { namespace } = object
  return services.map((name) => serviceKey(namespace, `${name}.${namespace}.svc.${settings.clusterDomain}`))
}

function reportUnknownTargets({ object, services }: AuthorizationPolicy, selection: Selection, run: Run): void {
  targetKeys(object, services!, run).forEach((key, i) => {
    if (selection.serviceByKey.has(key)) return
    run.log.add(object, ['spec', 'targetRefs'], findings.targetUnknown(`Service ${services![i]!}`))
  })
}

/** True when some service port leads to a port of this workload that is known not to speak HTTP. */
function servesTcp(member: Member, { serviceByKey }: Selection): boolean {
  return member.workload.services.some((endpoint) => {
    const service = serviceByKey.get(endpoint.service)
    return endpoint.ports.some(({ servicePort }) =>
      service?.ports.some(({ number, protocol }) => number === servicePort && !mayBeHttp(protocol)),
    )
  })
}

/** Names of the services that the policy is attached to; other targets are reported. */
function targetServices(spec: AuthorizationPolicySpec, cursor: Cursor): string[] {
  const names: string[] = []
  const read = (target: AuthorizationPolicySpec['targetRefs'][number], place: Cursor): void => {
    if (target.kind !== 'Service') place.report(findings.targetIgnored(target.kind))
    else {
      place.report(findings.targetService())
      names.push(target.name)
    }
  }
  spec.targetRefs.forEach((target, i) => {
    read(target, cursor.at('targetRefs', i))
  })
  if (spec.targetRef !== null) read(spec.targetRef, cursor.at('targetRef'))
  return names
}

function readDryRun(object: MeshObject, run: Run): boolean {
  const value = object.annotations[DRY_RUN_ANNOTATION]
  if (value === undefined || value === 'false') return false
  if (value === 'true') return true
  const place = new Cursor(run.log, object).at('metadata', 'annotations', DRY_RUN_ANNOTATION)
  place.reject(`${JSON.stringify(value)} is neither "true" nor "false".`, 'Write one of them.')
  return false
}

// --- rules ---

/** Null when the rule can never match. */
function translateRule(rule: RuleFields, cursor: Cursor, isDeny: boolean): PolicyRule | null {
  const unsupported = isDeny ? findings.denyWidened : findings.allowRuleDropped
  let isDropped = false
  const clauses: PolicyClause[] = []
  const add = (translated: readonly { readonly part: Translated; readonly place: Cursor }[]): void => {
    for (const { part, place } of translated) {
      for (const attribute of part.unsupported) {
        place.at(...attribute.path).report(unsupported(attribute.name))
        if (!isDeny) isDropped = true
      }
    }
    // In a DENY rule an alternative of which nothing is left holds for everyone: so does the clause.
    if (translated.length === 0 || translated.some(({ part }) => part.match === null)) return
    clauses.push({ matches: translated.map(({ part }) => part.match!) })
  }
  const namespace = cursor.object.namespace
  add(
    rule.from.map(({ source }, i) => ({ part: sourceMatch(source, namespace), place: cursor.at('from', i, 'source') })),
  )
  add(rule.to.map(({ operation }, i) => ({ part: operationMatch(operation), place: cursor.at('to', i, 'operation') })))
  rule.when.forEach((condition, i) => {
    add([{ part: conditionMatch(condition, namespace), place: cursor.at('when', i) }])
  })
  return isDropped ? null : { clauses }
}

/** DENY rules that name HTTP attributes alone: on a TCP port none can be judged, and all is denied. */
function httpOnlyRules(spec: AuthorizationPolicySpec): number[] {
  return spec.rules.flatMap((rule, i) => {
    const hasPorts = rule.to.some(({ operation }) => operation.ports.length + operation.notPorts.length > 0)
    return rule.to.length > 0 && rule.from.length === 0 && rule.when.length === 0 && !hasPorts ? [i] : []
  })
}
