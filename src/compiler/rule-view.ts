/**
 * The traffic rules as one kind of client sees them: which VirtualService and which DestinationRule it follows for a
 * service. Visibility (exportTo), order and look-up levels of the API are decided here and nowhere else.
 */
import type { Service } from '../model/service.ts'
import type { MergedRule } from './destination-rule.ts'
import { isPrivate, isVisible, isWildcard, wildcardCovers } from './hosts.ts'
import { findings } from './messages.ts'
import type { Run } from './settings.ts'
import type { ClientCondition, VirtualService } from './virtual-service.ts'

/** Clients that rules cannot tell apart: a namespace, and which of the rules' label selectors hold for them. */
export interface Client {
  /** Empty for clients of a namespace that no rule knows. */
  readonly namespace: string
  /** Canonical texts of the selectors that hold. */
  readonly matching: ReadonlySet<string>
}

/** All traffic rules, whoever may see them. */
export interface RuleSet {
  /** Oldest first. */
  readonly virtualServices: readonly VirtualService[]
  readonly destinationRules: readonly MergedRule[]
}

/** How close a VirtualService is to a client; the closest come first. */
const RANK_PRIVATE = 0
const RANK_EXPORTED = 1
const RANK_PUBLIC = 2

/** The rules as one kind of client sees them. */
export class RuleView {
  readonly client: Client
  private readonly rootNamespace: string
  private readonly byHost = new Map<string, VirtualService>()
  /** Longest first; of equal ones the first that was listed. */
  private readonly wildcards: { readonly host: string; readonly rule: VirtualService }[] = []
  private readonly rulesByNamespace = new Map<string, MergedRule[]>()
  /** Those of them that the client may see; of the client's own namespace those that are private to it, by `=name`. */
  private readonly indexes = new Map<string, RuleIndex>()

  constructor(rules: RuleSet, client: Client, run: Run) {
    this.client = client
    this.rootNamespace = run.settings.rootNamespace
    const ranks = new Map<string, number>()
    for (const { rule, rank } of orderFor(client.namespace, rules.virtualServices)) {
      rule.hosts.forEach((host, i) => {
        const winner = this.byHost.get(host)
        if (winner === undefined) {
          this.byHost.set(host, rule)
          ranks.set(host, rank)
          if (isWildcard(host)) this.wildcards.push({ host, rule })
        } else if (ranks.get(host) === rank && winner !== rule) {
          run.log.add(rule.object, ['spec', 'hosts', i], findings.hostTaken(host, winner.object.key))
        }
      })
    }
    this.wildcards.sort((a, b) => b.host.length - a.host.length)
    for (const rule of rules.destinationRules) {
      const list = this.rulesByNamespace.get(rule.namespace)
      if (list === undefined) this.rulesByNamespace.set(rule.namespace, [rule])
      else list.push(rule)
    }
  }

  /** The VirtualService that governs a service: for its very host, else the most specific wildcard. */
  virtualServiceOf(service: Service): VirtualService | null {
    const exact = this.byHost.get(service.hostname)
    if (exact !== undefined) return exact
    return this.wildcards.find(({ host }) => wildcardCovers(host, service.hostname))?.rule ?? null
  }

  /** The DestinationRule for a service: of the client's namespace, else the service's, else the root namespace. */
  destinationRuleOf(service: Service): MergedRule | null {
    const { namespace } = this.client
    return (
      this.indexOf(namespace, namespace === this.rootNamespace).find(service.hostname) ??
      this.indexOf(service.namespace, false).find(service.hostname) ??
      this.indexOf(this.rootNamespace, false).find(service.hostname)
    )
  }

  /** True when a match is meant for this client. */
  holds(condition: ClientCondition): boolean {
    if (condition.namespace !== null && condition.namespace !== this.client.namespace) return false
    return condition.labels.text === '' || this.client.matching.has(condition.labels.text)
  }

  private indexOf(namespace: string, isPrivateOnly: boolean): RuleIndex {
    const key = isPrivateOnly ? `=${namespace}` : namespace
    const known = this.indexes.get(key)
    if (known !== undefined) return known
    const rules = (this.rulesByNamespace.get(namespace) ?? []).filter((rule) => this.isVisible(rule))
    const index = new RuleIndex(rules.filter(({ visibility }) => !isPrivateOnly || isPrivate(visibility, namespace)))
    this.indexes.set(key, index)
    return index
  }

  private isVisible(rule: MergedRule): boolean {
    if (!isVisible(rule.visibility, this.client.namespace)) return false
    if (rule.clients.text === '') return true
    return rule.namespace === this.client.namespace && this.client.matching.has(rule.clients.text)
  }
}

/** Rules of one namespace by host. */
class RuleIndex {
  private readonly byHost = new Map<string, MergedRule>()
  private readonly wildcards: readonly MergedRule[]

  constructor(rules: readonly MergedRule[]) {
    for (const rule of rules) {
      const known = this.byHost.get(rule.host)
      if (known === undefined || isMoreSpecific(rule, known)) this.byHost.set(rule.host, rule)
    }
    this.wildcards = [...this.byHost.values()].filter(({ host }) => isWildcard(host))
  }

  /** Exact host, else the longest wildcard; of rules for one host, one that selects its clients, else the oldest. */
  find(hostname: string): MergedRule | null {
    let best = this.byHost.get(hostname) ?? null
    if (best !== null) return best
    for (const rule of this.wildcards) {
      if (wildcardCovers(rule.host, hostname) && (best === null || isMoreSpecific(rule, best))) best = rule
    }
    return best
  }
}

function isMoreSpecific(rule: MergedRule, best: MergedRule): boolean {
  if (rule.host === best.host) return rule.clients.text !== '' && best.clients.text === ''
  if (isWildcard(rule.host) !== isWildcard(best.host)) return isWildcard(best.host)
  return rule.host.length > best.host.length
}

/** The visible ones: private to the namespace, exported to it by name, public; each in the order of `rules`, by age. */
function orderFor(namespace: string, rules: readonly VirtualService[]): { rule: VirtualService; rank: number }[] {
  const ranks: { rule: VirtualService; rank: number }[][] = [[], [], []]
  for (const rule of rules) {
    const { visibility, object } = rule
    if (!isVisible(visibility, namespace)) continue
    const isOwn = object.namespace === namespace && isPrivate(visibility, namespace)
    const rank = visibility.isPublic ? RANK_PUBLIC : isOwn ? RANK_PRIVATE : RANK_EXPORTED
    ranks[rank]!.push({ rule, rank })
  }
  return ranks.flat()
}
