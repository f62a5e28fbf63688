/** The authorizer against a second, naive reading of the rules, and against promises that hold for all policies. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAddress } from '../../src/base/address.ts'
import type { RequestHead } from '../../src/http/codec.ts'
import {
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  PEER_AUTHENTICATION_PREFIX,
  POLICY_SCOPE_GLOBAL,
  type Policy,
  type PolicyMatch,
  type PolicyRule,
  policyKey,
} from '../../src/model/policy.ts'
import type { StringMatch } from '../../src/model/route.ts'
import { Authorizer, type ConnectionFacts } from '../../src/proxy/authorize.ts'
import { lenientPath, lenientPattern, normalizeTarget } from '../../src/proxy/path.ts'
import { requestHead } from '../support/proxy-objects.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const ROUNDS = 4_000

const PRINCIPALS = ['cluster.local/ns/a/sa/x', 'cluster.local/ns/b/sa/y']
const NAMESPACES = ['a', 'b']
const ADDRESSES = ['198.18.1.1', '198.18.2.1', 'fd77:1::1']
const BLOCKS = ['198.18.1.0/24', '198.18.0.0/16', 'fd77::/16', '198.18.2.1', 'broken']
const PORTS = [80, 9080]
const METHODS = ['GET', 'POST']
const HOSTS = ['a.com', 'A.com', 'a.com:80', 'b.com.']
const PATHS = [
  '/',
  '/admin',
  '//admin',
  '/x/../admin',
  '/x/..%2fadmin',
  '/admin;x',
  '/a%2Fb',
  '/public/a',
  '/adm%69n?q',
]
const PATTERN_PATHS = ['/', '/admin', '/public/', '/a%2Fb', '/x', '/a/b']
const HEADER_VALUES = ['guest', 'admin']

function some<T>(random: SeededRandom, values: readonly T[], likelihood: number): T[] {
  if (random.next() > likelihood) return []
  return values.filter(() => random.next() < 0.4)
}

function strings(random: SeededRandom, values: readonly string[], likelihood = 0.2): StringMatch[] {
  return some(random, values, likelihood).map((value) => {
    const cut = random.integer(0, value.length)
    switch (random.integer(0, 5)) {
      case 0:
        return { kind: 'prefix', value: value.slice(0, cut) }
      case 1:
        return { kind: 'suffix', value: value.slice(cut) }
      case 2:
        return { kind: 'present' }
      case 3:
        return { kind: 'regex', value: random.pick(['.*', `${value.slice(0, 2).replace('.', '\\.')}.*`, '(']) }
      default:
        return { kind: 'exact', value }
    }
  })
}

function randomMatch(random: SeededRandom): PolicyMatch {
  return {
    ...EMPTY_POLICY_MATCH,
    principals: strings(random, PRINCIPALS),
    notPrincipals: strings(random, PRINCIPALS),
    namespaces: strings(random, NAMESPACES),
    notNamespaces: strings(random, NAMESPACES),
    sourceIps: some(random, BLOCKS, 0.2),
    notSourceIps: some(random, BLOCKS, 0.1),
    destinationIps: some(random, BLOCKS, 0.1),
    notDestinationIps: some(random, BLOCKS, 0.1),
    destinationPorts: some(random, PORTS, 0.2),
    notDestinationPorts: some(random, PORTS, 0.1),
    hosts: strings(random, HOSTS),
    notHosts: strings(random, HOSTS),
    methods: strings(random, METHODS),
    notMethods: strings(random, METHODS),
    paths: strings(random, PATTERN_PATHS, 0.4),
    notPaths: strings(random, PATTERN_PATHS),
    headers:
      random.next() < 0.2
        ? [
            {
              name: 'x-role',
              values: strings(random, HEADER_VALUES, 0.7),
              notValues: strings(random, HEADER_VALUES, 0.3),
            },
          ]
        : [],
  }
}

function randomRule(random: SeededRandom): PolicyRule {
  return { clauses: random.list(2, () => ({ matches: random.list(3, () => randomMatch(random)) })) }
}

function randomPolicies(random: SeededRandom): Policy[] {
  return random.list(4, () => {
    const name = `${random.next() < 0.2 ? PEER_AUTHENTICATION_PREFIX : 'p'}${random.integer(0, 1_000_000)}`
    return {
      key: policyKey('ns', name),
      name,
      namespace: 'ns',
      scope: POLICY_SCOPE_GLOBAL,
      action: random.pick([0, 1] as const),
      isDryRun: random.next() < 0.2,
      rules: random.list(2, () => randomRule(random)),
    }
  })
}

function randomFacts(random: SeededRandom): ConnectionFacts {
  const isPlain = random.next() < 0.3
  return {
    principal: isPlain ? null : random.pick(PRINCIPALS),
    namespace: isPlain ? null : random.pick(NAMESPACES),
    sourceIp: parseAddress(random.pick(ADDRESSES))!,
    destinationIp: parseAddress(random.pick(ADDRESSES))!,
    destinationPort: random.pick(PORTS),
  }
}

function randomHead(random: SeededRandom): RequestHead {
  return requestHead({
    method: random.pick(METHODS),
    target: random.pick(PATHS),
    authority: random.pick(HOSTS),
    headers: random.list(2, () => ['x-role', random.pick(HEADER_VALUES)] as const),
  })
}

// --- the naive reading ---

/** Null when the value cannot be read at all. */
function meets(match: StringMatch, value: string, isLower = false): boolean | null {
  const wanted = match.kind === 'present' ? '' : isLower ? match.value.toLowerCase() : match.value
  switch (match.kind) {
    case 'exact':
      return value === wanted
    case 'prefix':
      return value.startsWith(wanted)
    case 'suffix':
      return value.endsWith(wanted)
    case 'present':
      return value !== ''
    case 'regex':
      return wanted === '(' ? null : new RegExp(`^(?:${wanted})$`).test(value)
  }
}

function inBlock(block: string, address: Uint8Array): boolean | null {
  if (block === 'broken') return null
  const [base, length] = block.split('/')
  const bytes = parseAddress(base!)!
  const bits = (of: Uint8Array) => Array.from(of, (byte) => byte.toString(2).padStart(8, '0')).join('')
  const size = length === undefined ? bytes.length * 8 : Number(length)
  return bytes.length === address.length && bits(bytes).slice(0, size) === bits(address).slice(0, size)
}

/** One test per reading and value; a wide condition wants any to hold, a narrow one wants one for each reading. */
function condition(readings: readonly (readonly (boolean | null)[])[], isWide: boolean): boolean {
  if (isWide) return readings.flat().some((met) => met !== false) || readings.length === 0
  return readings.every((values) => values.some((met) => met === true))
}

function pair<T>(
  values: readonly T[],
  notValues: readonly T[],
  isDeny: boolean,
  readings: (isWide: boolean, of: readonly T[]) => (boolean | null)[][],
): boolean {
  if (values.length > 0 && !condition(readings(isDeny, values), isDeny)) return false
  return notValues.length === 0 || !condition(readings(!isDeny, notValues), !isDeny)
}

function holdsOnConnection(match: PolicyMatch, isDeny: boolean, facts: ConnectionFacts): boolean {
  const text = (value: string | null) => (_: boolean, of: readonly StringMatch[]) => [
    of.map((each) => (value === null ? (meets(each, '') === null ? null : false) : meets(each, value))),
  ]
  const address = (value: Uint8Array) => (_: boolean, of: readonly string[]) => [of.map((each) => inBlock(each, value))]
  const port = (_: boolean, of: readonly number[]) => [of.map((each) => each === facts.destinationPort)]
  return (
    pair(match.principals, match.notPrincipals, isDeny, text(facts.principal)) &&
    pair(match.namespaces, match.notNamespaces, isDeny, text(facts.namespace)) &&
    pair(match.sourceIps, match.notSourceIps, isDeny, address(facts.sourceIp)) &&
    pair(match.destinationIps, match.notDestinationIps, isDeny, address(facts.destinationIp)) &&
    pair(match.destinationPorts, match.notDestinationPorts, isDeny, port)
  )
}

function holdsOnRequest(match: PolicyMatch, isDeny: boolean, head: RequestHead): boolean {
  const sent = head.target.split('?')[0]!
  const method = (_: boolean, of: readonly StringMatch[]) => [of.map((each) => meets(each, head.method))]
  const host = (isWide: boolean, of: readonly StringMatch[]) => {
    const full = head.authority.toLowerCase()
    const bare = full.replace(/:[0-9]+$/, '').replace(/\.$/, '')
    return (isWide ? [full, bare] : [full]).map((value) => of.map((each) => meets(each, value, true)))
  }
  const path = (_: boolean, of: readonly StringMatch[]) => {
    const first = normalizeTarget(sent)
    const other = lenientPath(sent)
    const firstMet = of.map((each) => meets(each, first))
    if (first === other) return [firstMet]
    const decoded = of.map((each) =>
      each.kind === 'present' || each.kind === 'regex' ? each : { ...each, value: lenientPattern(each.value) },
    )
    return [firstMet, decoded.map((each) => meets(each, other))]
  }
  const fields: string[] = []
  for (let i = 0; i < head.headers.length; i++) fields.push(head.headers.valueAt(i))
  const header = (isWide: boolean, of: readonly StringMatch[]) => {
    if (fields.length === 0) return [of.map((each) => (meets(each, '') === null ? null : false))]
    const joined = head.headers.getJoined('x-role')!
    return (isWide ? [joined, ...fields] : [joined]).map((value) => of.map((each) => meets(each, value)))
  }
  return (
    pair(match.methods, match.notMethods, isDeny, method) &&
    pair(match.hosts, match.notHosts, isDeny, host) &&
    pair(match.paths, match.notPaths, isDeny, path) &&
    match.headers.every((each) => pair(each.values, each.notValues, isDeny, header))
  )
}

const HTTP_KINDS = ['hosts', 'notHosts', 'methods', 'notMethods', 'paths', 'notPaths', 'headers'] as const

function usesHttp(match: PolicyMatch): boolean {
  return HTTP_KINDS.some((kind) => match[kind].length > 0)
}

function policyMatches(policy: Policy, facts: ConnectionFacts, head: RequestHead | null): boolean {
  const isDeny = policy.action === ACTION_DENY
  return policy.rules.some((rule) => {
    if (head === null && !isDeny && rule.clauses.some((clause) => clause.matches.some(usesHttp))) return false
    return rule.clauses.every((clause) =>
      clause.matches.some((match) => {
        if (Object.values(match).every((kind) => kind.length === 0)) return false
        return holdsOnConnection(match, isDeny, facts) && (head === null || holdsOnRequest(match, isDeny, head))
      }),
    )
  })
}

function isAllowed(policies: readonly Policy[], facts: ConnectionFacts, head: RequestHead | null): boolean {
  const denies = policies.filter((policy) => policy.action === ACTION_DENY)
  const allows = policies.filter((policy) => policy.action !== ACTION_DENY)
  if (denies.some((policy) => policyMatches(policy, facts, head))) return false
  return allows.length === 0 || allows.some((policy) => policyMatches(policy, facts, head))
}

// --- properties ---

test('agrees with the naive reading on random policies, connections and requests', () => {
  const random = new SeededRandom(2_026)
  let allowed = 0
  let denied = 0
  let rehearsed = 0
  for (let i = 0; i < ROUNDS; i++) {
    const policies = randomPolicies(random)
    const authorizer = Authorizer.compile(policies)
    const enforced = policies.filter((policy) => !policy.isDryRun)
    for (let j = 0; j < 4; j++) {
      const facts = randomFacts(random)
      const head = random.next() < 0.3 ? null : randomHead(random)
      const decision = head === null ? authorizer.authorizeConnection(facts) : authorizer.authorizeExchange(facts, head)
      const expected = isAllowed(enforced, facts, head)
      const story = () =>
        JSON.stringify({ policies, facts, head: head && { ...head, headers: head.headers.getJoined('x-role') } })
      assert.equal(decision.isAllowed, expected, story())
      const rehearsal = isAllowed(policies, facts, head)
      assert.equal(decision.isDryRunDenied, expected && !rehearsal, story())
      assert.equal(decision.isDryRunAllowed, !expected && rehearsal, story())
      if (expected) allowed++
      else denied++
      if (rehearsal !== expected) rehearsed++
    }
  }
  assert.ok(allowed > 2_000 && denied > 2_000 && rehearsed > 300, `${allowed} ${denied} ${rehearsed}`)
})

test('a connection that may pass as opaque bytes may pass with any request', () => {
  const random = new SeededRandom(77)
  let passed = 0
  for (let i = 0; i < ROUNDS; i++) {
    const authorizer = Authorizer.compile(randomPolicies(random))
    const facts = randomFacts(random)
    if (!authorizer.authorizeConnection(facts).isAllowed) continue
    passed++
    assert.equal(authorizer.authorizeTransport(facts).isAllowed, true)
    for (let j = 0; j < 4; j++) assert.equal(authorizer.authorizeExchange(facts, randomHead(random)).isAllowed, true)
  }
  assert.ok(passed > 500, `${passed}`)
})

test('one more DENY policy never allows more, one ALLOW policy less never either, unless it was the last', () => {
  const random = new SeededRandom(78)
  for (let i = 0; i < ROUNDS; i++) {
    const policies = randomPolicies(random).filter((policy) => !policy.isDryRun)
    const facts = randomFacts(random)
    const head = randomHead(random)
    const before = Authorizer.compile(policies).authorizeExchange(facts, head).isAllowed
    const deny: Policy = {
      key: 'ns/more',
      name: 'more',
      namespace: 'ns',
      scope: POLICY_SCOPE_GLOBAL,
      action: ACTION_DENY,
      isDryRun: false,
      rules: [randomRule(random)],
    }
    const withDeny = Authorizer.compile([...policies, deny]).authorizeExchange(facts, head).isAllowed
    assert.ok(before || !withDeny)
    const allows = policies.filter((policy) => policy.action !== ACTION_DENY)
    if (allows.length < 2) continue
    const fewer = policies.filter((policy) => policy !== allows[0])
    assert.ok(before || !Authorizer.compile(fewer).authorizeExchange(facts, head).isAllowed)
  }
})
