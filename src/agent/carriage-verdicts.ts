/**
 * Who may reach whom, as far as it can be said before there is a connection: the verdicts that the kernel enforces.
 *
 * A pair of pods has a verdict on a port when policies say the same for all addresses of both, and none is rehearsed
 * (dry-run): what a rehearsal would have done is told by the proxy.
 */
import type { Pair } from '../kernel/carry-maps.ts'
import { formatIdentity, principalOf } from '../model/identity.ts'
import type { Policy } from '../model/policy.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { Authorizer, type ConnectionFacts, type Decision } from '../proxy/authorize.ts'
import { addressBytes } from '../proxy/local-pods.ts'
import type { Numbering } from './carriage-plan.ts'

/** What the kernel is told of a pair. */
export interface PlannedVerdict {
  readonly pair: Pair
  readonly isAllowed: boolean
  /** Number of the policy that denies; 0 when none allows. */
  readonly policy: number
}

/** A captured pod as a source: what policies may ask of it. */
interface Source {
  readonly number: number
  readonly workload: Workload
  readonly addresses: readonly Uint8Array[]
  readonly principal: string
  /** Sources of one group differ in addresses only. */
  readonly group: number
}

/** Policies that some destinations have in common. */
interface Judging {
  readonly authorizer: Authorizer
  /** When none of them asks for addresses, all sources of a group get the same answer. */
  readonly isOfAddresses: boolean
  readonly known: Map<number, Verdict | null>
}

interface Verdict {
  readonly isAllowed: boolean
  readonly policy: number
}

const ALLOWED: Verdict = { isAllowed: true, policy: 0 }

/** Ports are below this. */
const PORTS = 65_536

/** The verdicts of one snapshot, made as they are asked for. */
export class Verdicts {
  readonly planned = new Map<string, PlannedVerdict>()
  private readonly snapshot: Snapshot
  private readonly policies: Numbering
  private readonly sources: readonly Source[]
  private readonly judgings = new Map<string, Judging>()
  private readonly judgingOf = new Map<Workload, Judging>()
  private readonly addresses = new Map<Workload, readonly Uint8Array[]>()
  private readonly complete = new Map<string, boolean>()

  constructor(snapshot: Snapshot, pods: ReadonlyMap<string, number>, policies: Numbering) {
    this.snapshot = snapshot
    this.policies = policies
    this.sources = sourcesOf(snapshot, pods)
  }

  /**
   * Judges everybody's connections to a port of a pod. False when somebody's cannot be judged: then there are no verdicts,
   * and everybody's are the agent's, because endpoints have the same shares for all.
   */
  isJudged(destination: Workload, number: number, port: number): boolean {
    const key = `${number} ${port}`
    const known = this.complete.get(key)
    if (known !== undefined) return known
    const found: PlannedVerdict[] = []
    for (const source of this.sources) {
      const verdict = this.judge(source, destination, port)
      if (verdict === null) break
      found.push({ pair: { source: source.number, destination: number, port }, ...verdict })
    }
    const isComplete = found.length === this.sources.length
    this.complete.set(key, isComplete)
    if (isComplete) for (const verdict of found) this.planned.set(`${verdict.pair.source} ${key}`, verdict)
    return isComplete
  }

  private judge(source: Source, destination: Workload, port: number): Verdict | null {
    const judging = this.judgingFor(destination)
    if (judging.authorizer.isEmpty) return ALLOWED
    if (judging.isOfAddresses) return this.judgeAddresses(judging, source, destination, port)
    const key = source.group * PORTS + port
    let verdict = judging.known.get(key)
    if (verdict === undefined) {
      verdict = this.judgeAddresses(judging, source, destination, port)
      judging.known.set(key, verdict)
    }
    return verdict
  }

  private judgeAddresses(judging: Judging, source: Source, destination: Workload, port: number): Verdict | null {
    let found: Decision | null = null
    for (const sourceIp of source.addresses) {
      for (const destinationIp of this.addressesOf(destination)) {
        const decision = judging.authorizer.authorizeConnection({
          principal: source.principal,
          namespace: source.workload.namespace,
          sourceIp,
          destinationIp,
          destinationPort: port,
        })
        if (decision.isDryRunDenied || decision.isDryRunAllowed) return null
        if (found !== null && (found.isAllowed !== decision.isAllowed || found.policy !== decision.policy)) return null
        found = decision
      }
    }
    if (found === null) return null
    const isNamed = !found.isAllowed && found.policy !== ''
    return { isAllowed: found.isAllowed, policy: isNamed ? this.policies.numberOf(found.policy) : 0 }
  }

  private addressesOf(destination: Workload): readonly Uint8Array[] {
    let addresses = this.addresses.get(destination)
    if (addresses === undefined) {
      addresses = destination.addresses.map(addressBytes)
      this.addresses.set(destination, addresses)
    }
    return addresses
  }

  private judgingFor(destination: Workload): Judging {
    let judging = this.judgingOf.get(destination)
    if (judging !== undefined) return judging
    const policies = this.snapshot.policiesOf(destination)
    const key = policies.map((policy) => policy.key).join('|')
    judging = this.judgings.get(key)
    if (judging === undefined) {
      const isOfAddresses = policies.some(asksForAddresses)
      judging = { authorizer: Authorizer.compile(policies), isOfAddresses, known: new Map() }
      this.judgings.set(key, judging)
    }
    this.judgingOf.set(destination, judging)
    return judging
  }
}

/** What policies are told of a connection from one pod to another. */
export function factsOf(source: Workload, sourceIp: string, destinationIp: string, port: number): ConnectionFacts {
  return {
    principal: principalFor(source),
    namespace: source.namespace,
    sourceIp: addressBytes(sourceIp),
    destinationIp: addressBytes(destinationIp),
    destinationPort: port,
  }
}

function principalFor({ trustDomain, namespace, serviceAccount }: Workload): string {
  return principalOf(formatIdentity(trustDomain, namespace, serviceAccount))
}

function sourcesOf(snapshot: Snapshot, pods: ReadonlyMap<string, number>): Source[] {
  const groups = new Map<string, number>()
  const sources: Source[] = []
  for (const [uid, number] of pods) {
    const workload = snapshot.workloads.get(uid)
    if (workload === undefined) continue
    const principal = principalFor(workload)
    const name = `${principal} ${workload.namespace}`
    const group = groups.get(name) ?? groups.size
    groups.set(name, group)
    sources.push({ number, workload, addresses: workload.addresses.map(addressBytes), principal, group })
  }
  return sources
}

function asksForAddresses({ rules }: Policy): boolean {
  return rules.some(({ clauses }) =>
    clauses.some(({ matches }) =>
      matches.some(
        (match) =>
          match.sourceIps.length +
            match.notSourceIps.length +
            match.destinationIps.length +
            match.notDestinationIps.length >
          0,
      ),
    ),
  )
}
