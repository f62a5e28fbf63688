// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Who may do what: the authorization policies of one workload, compiled (policy-match.ts) and judged.
 *
 *     any enforced DENY policy matches          -> denied
 *     no enforced ALLOW policy applies          -> allowed
 *     an enforced ALLOW policy matches          -> allowed
 *     otherwise                                 -> denied
 *
 * Three questions are asked. `authorizeTransport` when a connection arrives on an HTTP port: only the policies made of
 * PeerAuthentication. `authorizeConnection` for a connection whose bytes are opaque: everything, attributes of HTTP
 * counting so that the answer is never weaker. `authorizeExchange` for each HTTP request: everything.
 *
 * Dry-run policies are judged as if they were enforced, and only reported. Decisions are made once and shared.
 */
import type { RequestHead } from '../http/codec.ts'
import { ACTION_DENY, isPeerAuthentication, needsHttp, type Policy } from '../model/policy.ts'
import { CompiledPolicy, type ConnectionFacts, RequestReading } from './policy-match.ts'

export type { ConnectionFacts } from './policy-match.ts'

/** What was decided, and by which policy. Shared and immutable. */
export class Decision {
  readonly isAllowed: boolean
  /** Key of the enforced policy that decided; empty when none matched. */
  readonly policy: string
  /** Allowed, but would have been denied had the dry-run policies been enforced. */
  readonly isDryRunDenied: boolean
  /** Denied, but would have been allowed had the dry-run policies been enforced. */
  readonly isDryRunAllowed: boolean
  /** Key of the dry-run policy that made the difference; empty when none matched. */
  readonly dryRunPolicy: string

  constructor(
    isAllowed: boolean,
    policy: string,
    isDryRunDenied: boolean,
    isDryRunAllowed: boolean,
    dryRunPolicy: string,
  ) {
    this.isAllowed = isAllowed
    this.policy = policy
    this.isDryRunDenied = isDryRunDenied
    this.isDryRunAllowed = isDryRunAllowed
    this.dryRunPolicy = dryRunPolicy
  }
}

const ALLOWED = new Decision(true, '', false, false, '')

/** Outcomes of the dry-run policies that are not the index of one: nothing changes, or no dry-run ALLOW matched. */
const DRY_RUN_SAME = -2
const DRY_RUN_NONE_ALLOWS = -1
/** Outcomes of the enforced policies that are not the index of one: nothing applies, or no ALLOW matched. */
const BY_DEFAULT = -2
const NONE_ALLOWS = -1

/** The policies of one workload, compiled. Empty allows everything. */
export class Authorizer {
  /** True when exchanges of HTTP must be judged one by one; otherwise the connection says it all. */
  readonly needsHttp: boolean
  /** True when there are no policies: everything is allowed. */
  readonly isEmpty: boolean
  private readonly policies: readonly CompiledPolicy[]
  private readonly peerAuthentications: readonly CompiledPolicy[]
  private readonly denies: readonly CompiledPolicy[]
  private readonly allows: readonly CompiledPolicy[]
  private readonly dryRunDenies: readonly CompiledPolicy[]
  private readonly dryRunAllows: readonly CompiledPolicy[]
  /** Every decision met so far, by both outcomes. Bounded by the number of policies, squared. */
  private readonly decisions: (Decision | undefined)[]
  private readonly reading: RequestReading

  private constructor(policies: readonly Policy[]) {
    const compiled = policies.map((policy, index) => new CompiledPolicy(policy, index))
    this.policies = compiled
    this.needsHttp = policies.some(needsHttp)
    this.isEmpty = policies.length === 0
    this.peerAuthentications = compiled.filter((policy) => isPeerAuthentication(policy.policy) && policy.isDeny)
    this.denies = select(compiled, true, false)
    this.allows = select(compiled, false, false)
    this.dryRunDenies = select(compiled, true, true)
    this.dryRunAllows = select(compiled, false, true)
    this.decisions = []
    this.reading = new RequestReading(policies)
  }

  static compile(policies: readonly Policy[]): Authorizer {
    return new Authorizer(policies)
  }

  /** Whether a connection may be served at all: peer authentication only. */
  authorizeTransport(facts: ConnectionFacts): Decision {
    for (let i = 0; i < this.peerAuthentications.length; i++) {
      const policy = this.peerAuthentications[i]!
      if (!policy.isDryRun && policy.matches(facts, null)) return this.decision(policy.index, DRY_RUN_SAME)
    }
    return ALLOWED
  }

  /**
   * Whether opaque bytes may pass. An ALLOW rule that has an attribute of HTTP never matches, a DENY rule matches as if
   * every such attribute did: the sidecar rule of Istio, and never weaker than what the rule says of HTTP.
   */
  authorizeConnection(facts: ConnectionFacts): Decision {
    return this.isEmpty ? ALLOWED : this.decide(facts, null)
  }

  /** Whether a request may pass. */
  authorizeExchange(facts: ConnectionFacts, head: RequestHead): Decision {
    if (this.isEmpty) return ALLOWED
    this.reading.begin(head)
    const decision = this.decide(facts, this.reading)
    this.reading.end()
    return decision
  }

  private decide(facts: ConnectionFacts, reading: RequestReading | null): Decision {
    const denied = firstMatch(this.denies, facts, reading)
    const allowed = denied === null ? firstMatch(this.allows, facts, reading) : null
    const outcome = (denied ?? allowed)?.index ?? (this.allows.length === 0 ? BY_DEFAULT : NONE_ALLOWS)
    if (this.dryRunDenies.length === 0 && this.dryRunAllows.length === 0) return this.decision(outcome, DRY_RUN_SAME)
    return this.decision(outcome, this.rehearse(facts, reading, denied, allowed))
  }

  /** How the outcome would change if dry-run policies were enforced. */
  private rehearse(
    facts: ConnectionFacts,
    reading: RequestReading | null,
    denied: CompiledPolicy | null,
    allowed: CompiledPolicy | null,
  ): number {
    if (denied !== null) return DRY_RUN_SAME
    const isAllowed = allowed !== null || this.allows.length === 0
    const dryRunDenied = firstMatch(this.dryRunDenies, facts, reading)
    if (dryRunDenied !== null) return isAllowed ? dryRunDenied.index : DRY_RUN_SAME
    if (allowed !== null || this.dryRunAllows.length === 0) return DRY_RUN_SAME
    const dryRunAllowed = firstMatch(this.dryRunAllows, facts, reading)
    if (dryRunAllowed !== null) return isAllowed ? DRY_RUN_SAME : dryRunAllowed.index
    return isAllowed ? DRY_RUN_NONE_ALLOWS : DRY_RUN_SAME
  }

  /** The shared decision of two outcomes; made at its first use, never again. */
  private decision(outcome: number, dryRun: number): Decision {
    const slot = (outcome + 2) * (this.policies.length + 2) + dryRun + 2
    let decision = this.decisions[slot]
    if (decision === undefined) {
      decision = this.makeDecision(outcome, dryRun)
      this.decisions[slot] = decision
    }
    return decision
  }

  private makeDecision(outcome: number, dryRun: number): Decision {
    const policy = this.policies[outcome]
    const isAllowed = policy === undefined ? outcome === BY_DEFAULT : !policy.isDeny
    const changes = dryRun !== DRY_RUN_SAME
    const dryRunPolicy = this.policies[dryRun]?.policy.key ?? ''
    return new Decision(isAllowed, policy?.policy.key ?? '', changes && isAllowed, changes && !isAllowed, dryRunPolicy)
  }
}

function select(policies: readonly CompiledPolicy[], isDeny: boolean, isDryRun: boolean): readonly CompiledPolicy[] {
  return policies.filter(
    (policy) => (policy.policy.action === ACTION_DENY) === isDeny && policy.policy.isDryRun === isDryRun,
  )
}

function firstMatch(
  policies: readonly CompiledPolicy[],
  facts: ConnectionFacts,
  reading: RequestReading | null,
): CompiledPolicy | null {
  for (let i = 0; i < policies.length; i++) {
    const policy = policies[i]!
    if (policy.matches(facts, reading)) return policy
  }
  return null
}
