/**
 * Scopes: clients for which all rules come out the same share one.
 *
 * A scope's name is stable while rules come and go: `*` for clients to which nothing special applies, `<namespace>` for
 * those of a namespace with rules of its own, `<namespace>/<selectors>` where rules select clients by label.
 */

import { STEP_VALUES, type Steps } from '../base/steps.ts'
import { type Traffic, trafficKey } from '../model/route.ts'
import type { Selectable, Selection } from './inventory.ts'
import { compareText } from './messages.ts'
import { type Client, type RuleSet, RuleView } from './rule-view.ts'
import { type Selector, selects } from './selector.ts'
import type { Run } from './settings.ts'
import { TrafficBuilder } from './traffic.ts'

/** Traffic of all scopes, and who is in which. */
export interface ScopedTraffic {
  /** Sorted by key. */
  readonly traffic: readonly Traffic[]
  /** Scope of each enrolled workload, by uid. */
  readonly scopeOf: ReadonlyMap<string, string>
}

/** The scope of clients to which nothing special applies. */
const SCOPE_ANYONE = '*'

const NO_SELECTORS: ReadonlySet<string> = new Set()

interface ClientGroup {
  readonly client: Client
  readonly name: string
  readonly members: Selectable[]
}

/** Compiles the traffic of every client and groups the clients. */
export function* buildScopes(selection: Selection, rules: RuleSet, run: Run): Steps<ScopedTraffic> {
  const builder = new TrafficBuilder(selection, rules, run)
  const scopeOf = new Map<string, string>()
  const traffic: Traffic[] = []
  /** Scope name by the fingerprint of everything that its clients do. */
  const scopes = new Map<string, string>()
  const published = new Set<string>()
  for (const group of yield* groupClients(selection, rules)) {
    yield
    const built = builder.build(new RuleView(rules, group.client, run))
    let scope = scopes.get(built.fingerprint)
    if (scope === undefined) {
      scope = group.name
      scopes.set(built.fingerprint, scope)
    }
    if (group.members.length > 0 && !published.has(scope)) {
      published.add(scope)
      for (const one of built.traffic) traffic.push({ key: trafficKey(scope, one.service, one.port), scope, ...one })
    }
    for (const member of group.members) scopeOf.set(member.uid, scope)
  }
  yield
  traffic.sort((a, b) => compareText(a.key, b.key))
  return { traffic, scopeOf }
}

/**
 * Groups in the order in which they may name a scope: anyone, then each namespace without its selected clients, then
 * those. Groups without members are there for their names, and so that rules are checked before clients exist.
 */
function* groupClients(selection: Selection, rules: RuleSet): Steps<ClientGroup[]> {
  const selectors = clientSelectors(rules)
  const groups = new Map<string, ClientGroup>()
  const group = (namespace: string, matching: readonly string[]): ClientGroup => {
    const key = `${namespace}/${matching.join(';')}`
    const known = groups.get(key)
    if (known !== undefined) return known
    const name = namespace === '' ? SCOPE_ANYONE : matching.length === 0 ? namespace : key
    const made: ClientGroup = {
      client: { namespace, matching: matching.length === 0 ? NO_SELECTORS : new Set(matching) },
      name,
      members: [],
    }
    groups.set(key, made)
    return made
  }
  group('', [])
  for (const { object } of rules.virtualServices) group(object.namespace, [])
  for (const { namespace } of rules.destinationRules) group(namespace, [])
  let count = 0
  for (const [namespace, members] of selection.membersIn) {
    for (const member of members) {
      if (++count % STEP_VALUES === 0) yield
      if (!member.isEnrolled) continue
      const plain = group(namespace, [])
      const matching = selectors.filter((selector) => selects(selector, member.labels)).map(({ text }) => text)
      const own = matching.length === 0 ? plain : group(namespace, matching)
      own.members.push(member)
    }
  }
  return [...groups.values()].sort((a, b) => {
    const selected = a.client.matching.size - b.client.matching.size
    return compareText(a.client.namespace, b.client.namespace) || selected || compareText(a.name, b.name)
  })
}

/** Every selector by which a rule tells clients apart, by text. */
function clientSelectors(rules: RuleSet): Selector[] {
  const selectors = new Map<string, Selector>()
  const add = (selector: Selector): void => {
    if (selector.text !== '') selectors.set(selector.text, selector)
  }
  for (const { http, tcp } of rules.virtualServices) {
    for (const rule of [...http, ...tcp]) for (const match of rule.matches) add(match.client.labels)
  }
  for (const rule of rules.destinationRules) add(rule.clients)
  return [...selectors.values()].sort((a, b) => compareText(a.text, b.text))
}
