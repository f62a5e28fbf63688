// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One authorization policy, compiled: rules (OR) of clauses (AND) of matches (OR) of kinds (AND) of values (OR).
 *
 * Where a request can be read in more than one way, a policy is judged towards denial. A condition whose being true
 * denies (a value of a DENY rule, a `not` value of an ALLOW rule) is *wide*: one reading that meets it is enough. The
 * others are *narrow*: every reading must meet them. The readings are
 *
 *   path     normalised as the mesh does it, and as the most forgiving server would take it (path.ts)
 *   host     as sent (in lower case); wide conditions also without port and closing dot
 *   header   repeated fields joined; wide conditions also each field alone
 *
 * A value that cannot be compiled (a bad CIDR block) meets every wide condition and no narrow one.
 */
import { type Cidr, cidrContains, parseCidr } from '../base/address.ts'
import type { RequestHead } from '../http/codec.ts'
import { ACTION_DENY, type Policy, type PolicyClause, type PolicyHeader, type PolicyMatch } from '../model/policy.ts'
import type { StringMatch } from '../model/route.ts'
import { requestValue, StringMatcher } from './matchers.ts'
import { lenientPath, lenientPattern, normalizeTarget, pathEndOf } from './path.ts'

/** What is known of a connection, as far as policies ask. */
export interface ConnectionFacts {
  /** Proved identity without its scheme (`cluster.local/ns/x/sa/y`); null when none was proved. */
  readonly principal: string | null
  /** Namespace of that identity. */
  readonly namespace: string | null
  /** 4 or 16 bytes; never an IPv4 address mapped into IPv6. */
  readonly sourceIp: Uint8Array
  readonly destinationIp: Uint8Array
  readonly destinationPort: number
}

/** A request as policies read it: one object per authorizer, filled for each exchange. */
export class RequestReading {
  head: RequestHead | null
  path: string
  /** The second reading of the path; null when it is the same as the first. */
  otherPath: string | null
  host: string
  /** The host without port and closing dot; null when it has neither. */
  bareHost: string | null
  private readonly hasHosts: boolean
  private readonly hasPaths: boolean

  /** What no policy asks for is not read. */
  constructor(policies: readonly Policy[]) {
    this.head = null
    this.path = ''
    this.otherPath = null
    this.host = ''
    this.bareHost = null
    this.hasHosts = someMatch(policies, (match) => match.hosts.length + match.notHosts.length > 0)
    this.hasPaths = someMatch(policies, (match) => match.paths.length + match.notPaths.length > 0)
  }

  begin(head: RequestHead): void {
    this.head = head
    if (this.hasHosts) {
      this.host = head.authority.toLowerCase()
      this.bareHost = bareHostOf(this.host)
    }
    if (!this.hasPaths) return
    const sent = head.target.slice(0, pathEndOf(head.target))
    // Both from the bytes as sent: a path parameter may hide a dot segment from the first reading.
    const other = lenientPath(sent)
    this.path = normalizeTarget(sent)
    this.otherPath = other === this.path ? null : other
  }

  /** Lets go of the head, so that a reading kept by a quiet authorizer keeps no request alive. */
  end(): void {
    this.head = null
  }
}

/** One policy, ready to be asked. */
export class CompiledPolicy {
  readonly policy: Policy
  /** Position among the policies of its authorizer. */
  readonly index: number
  readonly isDeny: boolean
  readonly isDryRun: boolean
  private readonly rules: readonly CompiledRule[]

  constructor(policy: Policy, index: number) {
    this.policy = policy
    this.index = index
    this.isDeny = policy.action === ACTION_DENY
    this.isDryRun = policy.isDryRun
    this.rules = policy.rules.map((rule) => new CompiledRule(rule.clauses, this.isDeny))
  }

  /** `reading` is null for a connection whose bytes are opaque. */
  matches(facts: ConnectionFacts, reading: RequestReading | null): boolean {
    for (let i = 0; i < this.rules.length; i++) if (this.rules[i]!.matches(facts, reading)) return true
    return false
  }
}

class CompiledRule {
  private readonly clauses: readonly (readonly CompiledMatch[])[]
  /** An ALLOW rule that only HTTP can meet. */
  private readonly isHttpOnly: boolean

  constructor(clauses: readonly PolicyClause[], isDeny: boolean) {
    this.clauses = clauses.map((clause) => clause.matches.map((match) => new CompiledMatch(match, isDeny)))
    this.isHttpOnly = !isDeny && this.clauses.some((matches) => matches.some((match) => match.hasHttp))
  }

  matches(facts: ConnectionFacts, reading: RequestReading | null): boolean {
    if (reading === null && this.isHttpOnly) return false
    for (let i = 0; i < this.clauses.length; i++) if (!anyMatches(this.clauses[i]!, facts, reading)) return false
    return true
  }
}

function anyMatches(
  matches: readonly CompiledMatch[],
  facts: ConnectionFacts,
  reading: RequestReading | null,
): boolean {
  for (let i = 0; i < matches.length; i++) if (matches[i]!.matches(facts, reading)) return true
  return false
}

class CompiledMatch {
  readonly hasHttp: boolean
  private readonly isEmpty: boolean
  private readonly principals: StringCondition
  private readonly namespaces: StringCondition
  private readonly sourceIps: AddressCondition
  private readonly destinationIps: AddressCondition
  private readonly ports: readonly number[]
  private readonly notPorts: readonly number[]
  private readonly http: HttpConditions | null

  constructor(match: PolicyMatch, isDeny: boolean) {
    this.hasHttp = hasHttpKinds(match)
    this.isEmpty = isEmptyMatch(match)
    this.principals = new StringCondition(match.principals, match.notPrincipals, isDeny)
    this.namespaces = new StringCondition(match.namespaces, match.notNamespaces, isDeny)
    this.sourceIps = new AddressCondition(match.sourceIps, match.notSourceIps, isDeny)
    this.destinationIps = new AddressCondition(match.destinationIps, match.notDestinationIps, isDeny)
    this.ports = match.destinationPorts
    this.notPorts = match.notDestinationPorts
    this.http = this.hasHttp ? new HttpConditions(match, isDeny) : null
  }

  matches(facts: ConnectionFacts, reading: RequestReading | null): boolean {
    if (this.isEmpty) return false
    if (!this.principals.holds(facts.principal)) return false
    if (!this.namespaces.holds(facts.namespace)) return false
    if (this.ports.length > 0 && !this.ports.includes(facts.destinationPort)) return false
    if (this.notPorts.length > 0 && this.notPorts.includes(facts.destinationPort)) return false
    if (!this.sourceIps.holds(facts.sourceIp)) return false
    if (!this.destinationIps.holds(facts.destinationIp)) return false
    // Opaque bytes: an ALLOW rule with these has not come this far, in a DENY rule they count as met.
    return this.http === null || reading === null || this.http.hold(reading)
  }
}

/** `values` (one must match, unless there are none) and `notValues` (none may) of one attribute of a connection. */
class StringCondition {
  private readonly values: readonly StringMatcher[]
  private readonly notValues: readonly StringMatcher[]
  private readonly isMetByBroken: boolean
  private readonly isFailedByBroken: boolean

  constructor(values: readonly StringMatch[], notValues: readonly StringMatch[], isDeny: boolean) {
    this.values = values.map((value) => new StringMatcher(value))
    this.notValues = notValues.map((value) => new StringMatcher(value))
    this.isMetByBroken = isDeny && this.values.some((value) => value.isBroken)
    this.isFailedByBroken = !isDeny && this.notValues.some((value) => value.isBroken)
  }

  holds(value: string | null): boolean {
    if (this.isFailedByBroken) return false
    if (value === null) return this.values.length === 0 || this.isMetByBroken
    if (this.values.length > 0 && !this.isMetByBroken && !some(this.values, value)) return false
    return this.notValues.length === 0 || !some(this.notValues, value)
  }
}

class AddressCondition {
  private readonly hasValues: boolean
  private readonly blocks: readonly Cidr[]
  private readonly notBlocks: readonly Cidr[]
  private readonly isMetByBroken: boolean
  private readonly isFailedByBroken: boolean

  constructor(values: readonly string[], notValues: readonly string[], isDeny: boolean) {
    this.hasValues = values.length > 0
    this.blocks = parseBlocks(values)
    this.notBlocks = parseBlocks(notValues)
    this.isMetByBroken = isDeny && this.blocks.length < values.length
    this.isFailedByBroken = !isDeny && this.notBlocks.length < notValues.length
  }

  holds(address: Uint8Array): boolean {
    if (this.isFailedByBroken) return false
    if (this.hasValues && !this.isMetByBroken && !contains(this.blocks, address)) return false
    return this.notBlocks.length === 0 || !contains(this.notBlocks, address)
  }
}

// --- HTTP ---

/** The kinds of a match that need a request. Each pair is (values, narrow or wide), (not values, the other way round). */
class HttpConditions {
  private readonly isDeny: boolean
  private readonly methods: StringCondition
  private readonly hosts: readonly StringMatcher[]
  private readonly notHosts: readonly StringMatcher[]
  private readonly paths: readonly PathCondition[]
  private readonly notPaths: readonly PathCondition[]
  private readonly headers: readonly HeaderCondition[]

  constructor(match: PolicyMatch, isDeny: boolean) {
    this.isDeny = isDeny
    this.methods = new StringCondition(match.methods, match.notMethods, isDeny)
    this.hosts = match.hosts.map(lowerMatcher)
    this.notHosts = match.notHosts.map(lowerMatcher)
    this.paths = match.paths.map((path) => new PathCondition(path))
    this.notPaths = match.notPaths.map((path) => new PathCondition(path))
    this.headers = match.headers.map((header) => new HeaderCondition(header, isDeny))
  }

  hold(reading: RequestReading): boolean {
    const { isDeny } = this
    if (!this.methods.holds(reading.head!.method)) return false
    if (this.hosts.length > 0 && !matchesHost(this.hosts, reading, isDeny)) return false
    if (this.notHosts.length > 0 && matchesHost(this.notHosts, reading, !isDeny)) return false
    if (this.paths.length > 0 && !matchesPath(this.paths, reading, isDeny)) return false
    if (this.notPaths.length > 0 && matchesPath(this.notPaths, reading, !isDeny)) return false
    for (let i = 0; i < this.headers.length; i++) if (!this.headers[i]!.holds(reading.head!)) return false
    return true
  }
}

/** A path of a policy: as written, for the path as the mesh reads it, and decoded, for the lenient reading. */
class PathCondition {
  readonly asWritten: StringMatcher
  readonly lenient: StringMatcher

  constructor(match: StringMatch) {
    this.asWritten = new StringMatcher(match)
    const isText = match.kind !== 'present' && match.kind !== 'regex'
    const value = isText ? lenientPattern(match.value) : ''
    this.lenient = isText && value !== match.value ? new StringMatcher({ kind: match.kind, value }) : this.asWritten
  }
}

class HeaderCondition {
  private readonly name: string
  private readonly isDeny: boolean
  private readonly values: readonly StringMatcher[]
  private readonly notValues: readonly StringMatcher[]

  constructor(header: PolicyHeader, isDeny: boolean) {
    this.name = header.name.toLowerCase()
    this.isDeny = isDeny
    this.values = header.values.map((value) => new StringMatcher(value))
    this.notValues = header.notValues.map((value) => new StringMatcher(value))
  }

  holds(head: RequestHead): boolean {
    const { values, notValues, isDeny } = this
    const value = requestValue(head, this.name)
    if (values.length > 0 && !this.matchesValue(values, head, value, isDeny)) return false
    return notValues.length === 0 || !this.matchesValue(notValues, head, value, !isDeny)
  }

  private matchesValue(
    matchers: readonly StringMatcher[],
    head: RequestHead,
    value: string | null,
    isWide: boolean,
  ): boolean {
    if (value === null) return isWide && hasBroken(matchers)
    if (someOrBroken(matchers, value, isWide)) return true
    if (!isWide) return false
    for (let i = 0; i < head.headers.length; i++) {
      if (head.headers.nameAt(i) === this.name && some(matchers, head.headers.valueAt(i))) return true
    }
    return false
  }
}

function matchesHost(matchers: readonly StringMatcher[], reading: RequestReading, isWide: boolean): boolean {
  if (someOrBroken(matchers, reading.host, isWide)) return true
  return isWide && reading.bareHost !== null && some(matchers, reading.bareHost)
}

function matchesPath(conditions: readonly PathCondition[], reading: RequestReading, isWide: boolean): boolean {
  let isFirstMet = false
  let isOtherMet = reading.otherPath === null
  for (let i = 0; i < conditions.length; i++) {
    const condition = conditions[i]!
    if (isWide && condition.asWritten.isBroken) return true
    if (condition.asWritten.matches(reading.path)) isFirstMet = true
    if (reading.otherPath !== null && condition.lenient.matches(reading.otherPath)) isOtherMet = true
  }
  return isWide ? isFirstMet || (isOtherMet && reading.otherPath !== null) : isFirstMet && isOtherMet
}

function some(matchers: readonly StringMatcher[], value: string): boolean {
  for (let i = 0; i < matchers.length; i++) if (matchers[i]!.matches(value)) return true
  return false
}

function someOrBroken(matchers: readonly StringMatcher[], value: string, isWide: boolean): boolean {
  return some(matchers, value) || (isWide && hasBroken(matchers))
}

function hasBroken(matchers: readonly StringMatcher[]): boolean {
  for (let i = 0; i < matchers.length; i++) if (matchers[i]!.isBroken) return true
  return false
}

function contains(blocks: readonly Cidr[], address: Uint8Array): boolean {
  for (let i = 0; i < blocks.length; i++) if (cidrContains(blocks[i]!, address)) return true
  return false
}

// --- compilation ---

function someMatch(policies: readonly Policy[], test: (match: PolicyMatch) => boolean): boolean {
  return policies.some((policy) =>
    policy.rules.some((rule) => rule.clauses.some((clause) => clause.matches.some(test))),
  )
}

function lowerMatcher(match: StringMatch): StringMatcher {
  if (match.kind === 'present') return new StringMatcher(match)
  if (match.kind === 'regex') return new StringMatcher({ kind: 'regex', value: `(?i)${match.value}` })
  return new StringMatcher({ kind: match.kind, value: match.value.toLowerCase() })
}

function parseBlocks(values: readonly string[]): readonly Cidr[] {
  return values.map(parseCidr).filter((block) => block !== null)
}

/** The host without `:port` and closing dot; null when it has neither. Brackets of IPv6 addresses stay. */
function bareHostOf(host: string): string | null {
  let end = host.length
  const colon = host.lastIndexOf(':')
  if (colon >= 0 && host.indexOf(']', colon) < 0) end = colon
  if (end > 0 && host.charCodeAt(end - 1) === 0x2e) end--
  return end === host.length ? null : host.slice(0, end)
}

const HTTP_KINDS = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths', 'headers'] as const

function hasHttpKinds(match: PolicyMatch): boolean {
  return HTTP_KINDS.some((kind) => match[kind].length > 0)
}

function isEmptyMatch(match: PolicyMatch): boolean {
  return Object.values(match as unknown as Record<string, readonly unknown[]>).every((kind) => kind.length === 0)
}
