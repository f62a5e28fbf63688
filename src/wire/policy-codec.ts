/**
 * Policies on the wire: `istio.security.Authorization` for what that message can say, `weft.v1.Policy` for the rest.
 * `isIstioPolicy` decides; a policy travels as exactly one of the two.
 */
import {
  ACTION_ALLOW,
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  needsHttp,
  POLICY_SCOPE_GLOBAL,
  POLICY_SCOPE_NAMESPACE,
  POLICY_SCOPE_WORKLOAD,
  type Policy,
  type PolicyMatch,
  type PolicyRule,
  policyKey,
} from '../model/policy.ts'
import type { StringMatch } from '../model/route.ts'
import type { Checks } from './checks.ts'
import type {
  AuthorizationMatch,
  AuthorizationMessage,
  PolicyMatchMessage,
  PolicyMessage,
  RulesMessage,
  StringMatchMessage,
} from './messages.ts'

/** True when `istio.security.Authorization` can say all of it. */
export function isIstioPolicy(policy: Policy): boolean {
  return !policy.isDryRun && !needsHttp(policy) && !policy.rules.some(hasRegex)
}

function hasRegex(rule: PolicyRule): boolean {
  return rule.clauses.some((clause) =>
    clause.matches.some((match) =>
      [match.principals, match.notPrincipals, match.namespaces, match.notNamespaces].some((list) =>
        list.some((value) => value.kind === 'regex'),
      ),
    ),
  )
}

// --- istio.security.Authorization ---

export function policyToAuthorization(policy: Policy, checks: Checks): AuthorizationMessage {
  return rulesToMessage(policy, (match): AuthorizationMatch => {
    const blocks = (field: string, list: readonly string[]) => list.map((text) => checks.cidrBytes(field, text))
    return {
      namespaces: match.namespaces.map(presenceMatch),
      notNamespaces: match.notNamespaces.map(presenceMatch),
      principals: match.principals.map(presenceMatch),
      notPrincipals: match.notPrincipals.map(presenceMatch),
      sourceIps: blocks('sourceIps', match.sourceIps),
      notSourceIps: blocks('notSourceIps', match.notSourceIps),
      destinationIps: blocks('destinationIps', match.destinationIps),
      notDestinationIps: blocks('notDestinationIps', match.notDestinationIps),
      ...portsToMessage(match, checks),
    }
  })
}

export function policyFromAuthorization(message: AuthorizationMessage, checks: Checks): Policy {
  return rulesFromMessage(message, false, checks, (match, field): PolicyMatch => {
    const blocks = (name: string, list: AuthorizationMatch['sourceIps']) =>
      list.map((block) => checks.cidrFromMessage(`${field}.${name}`, block))
    return {
      ...EMPTY_POLICY_MATCH,
      ...identitiesFromMessage(match, field, checks),
      sourceIps: blocks('source_ips', match.sourceIps),
      notSourceIps: blocks('not_source_ips', match.notSourceIps),
      destinationIps: blocks('destination_ips', match.destinationIps),
      notDestinationIps: blocks('not_destination_ips', match.notDestinationIps),
    }
  })
}

// --- weft.v1.Policy ---

export function policyToMessage(policy: Policy, checks: Checks): PolicyMessage {
  const rules = rulesToMessage(policy, (match): PolicyMatchMessage => {
    const blocks = (field: string, list: readonly string[]) => list.map((text) => checks.cidrText(field, text))
    return {
      namespaces: match.namespaces.map(stringMatchToMessage),
      notNamespaces: match.notNamespaces.map(stringMatchToMessage),
      principals: match.principals.map(stringMatchToMessage),
      notPrincipals: match.notPrincipals.map(stringMatchToMessage),
      sourceIps: blocks('sourceIps', match.sourceIps),
      notSourceIps: blocks('notSourceIps', match.notSourceIps),
      destinationIps: blocks('destinationIps', match.destinationIps),
      notDestinationIps: blocks('notDestinationIps', match.notDestinationIps),
      ...portsToMessage(match, checks),
      hosts: match.hosts.map(stringMatchToMessage),
      notHosts: match.notHosts.map(stringMatchToMessage),
      methods: match.methods.map(stringMatchToMessage),
      notMethods: match.notMethods.map(stringMatchToMessage),
      paths: match.paths.map(stringMatchToMessage),
      notPaths: match.notPaths.map(stringMatchToMessage),
      headers: match.headers.map((header) => ({
        name: header.name,
        values: header.values.map(stringMatchToMessage),
        notValues: header.notValues.map(stringMatchToMessage),
      })),
    }
  })
  return { ...rules, isDryRun: policy.isDryRun }
}

export function policyFromMessage(message: PolicyMessage, checks: Checks): Policy {
  return rulesFromMessage(message, message.isDryRun, checks, (match, field): PolicyMatch => {
    const strings = (name: string, list: readonly StringMatchMessage[]) =>
      stringMatchesFromMessage(`${field}.${name}`, list, checks)
    const blocks = (name: string, list: readonly string[]) =>
      list.map((text) => checks.cidrText(`${field}.${name}`, text))
    return {
      ...identitiesFromMessage(match, field, checks),
      sourceIps: blocks('source_ips', match.sourceIps),
      notSourceIps: blocks('not_source_ips', match.notSourceIps),
      destinationIps: blocks('destination_ips', match.destinationIps),
      notDestinationIps: blocks('not_destination_ips', match.notDestinationIps),
      hosts: strings('hosts', match.hosts),
      notHosts: strings('not_hosts', match.notHosts),
      methods: strings('methods', match.methods),
      notMethods: strings('not_methods', match.notMethods),
      paths: strings('paths', match.paths),
      notPaths: strings('not_paths', match.notPaths),
      headers: match.headers.map((header) => ({
        name: checks.headerName(`${field}.headers.name`, header.name),
        values: strings('headers.values', header.values),
        notValues: strings('headers.not_values', header.notValues),
      })),
    }
  })
}

// --- what both share ---

function rulesToMessage<Match>(policy: Policy, toMessage: (match: PolicyMatch) => Match): RulesMessage<Match> {
  return {
    name: policy.name,
    namespace: policy.namespace,
    scope: policy.scope,
    action: policy.action,
    rules: policy.rules.map((rule) => ({
      clauses: rule.clauses.map((clause) => ({ matches: clause.matches.map(toMessage) })),
    })),
  }
}

function rulesFromMessage<Match>(
  message: RulesMessage<Match>,
  isDryRun: boolean,
  checks: Checks,
  fromMessage: (match: Match, field: string) => PolicyMatch,
): Policy {
  const name = checks.required('name', message.name)
  const namespace = checks.required('namespace', message.namespace)
  const scopes = [POLICY_SCOPE_GLOBAL, POLICY_SCOPE_NAMESPACE, POLICY_SCOPE_WORKLOAD] as const
  return {
    key: policyKey(namespace, name),
    name,
    namespace,
    scope: checks.oneOf('scope', message.scope, scopes),
    action: checks.oneOf('action', message.action, [ACTION_ALLOW, ACTION_DENY]),
    isDryRun,
    rules: message.rules.map((rule, r) => ({
      clauses: rule.clauses.map((clause, c) => ({
        matches: clause.matches.map((match, m) => fromMessage(match, `rules[${r}].clauses[${c}].matches[${m}]`)),
      })),
    })),
  }
}

function portsToMessage(match: PolicyMatch, checks: Checks) {
  return {
    destinationPorts: match.destinationPorts.map((port) => checks.port('destinationPorts', port)),
    notDestinationPorts: match.notDestinationPorts.map((port) => checks.port('notDestinationPorts', port)),
  }
}

/** The kinds that look the same in both messages. */
function identitiesFromMessage(match: AuthorizationMatch | PolicyMatchMessage, field: string, checks: Checks) {
  const strings = (name: string, list: readonly StringMatchMessage[]) =>
    stringMatchesFromMessage(`${field}.${name}`, list, checks)
  return {
    namespaces: strings('namespaces', match.namespaces),
    notNamespaces: strings('not_namespaces', match.notNamespaces),
    principals: strings('principals', match.principals),
    notPrincipals: strings('not_principals', match.notPrincipals),
    destinationPorts: match.destinationPorts.map((port) => checks.port(`${field}.destination_ports`, port)),
    notDestinationPorts: match.notDestinationPorts.map((port) => checks.port(`${field}.not_destination_ports`, port)),
  }
}

// --- string matches ---

/** For weft.v1.StringMatch. */
export function stringMatchToMessage(match: StringMatch): StringMatchMessage {
  return match.kind === 'present' ? { present: {} } : { [match.kind]: match.value }
}

/** For istio.security.StringMatch, which has another name for presence and no regular expressions. */
function presenceMatch(match: StringMatch): StringMatchMessage {
  return match.kind === 'present' ? { presence: {} } : stringMatchToMessage(match)
}

export function stringMatchFromMessage(field: string, message: StringMatchMessage, checks: Checks): StringMatch {
  const kind = message.kind ?? message.matchType
  if (kind === undefined) checks.fail(field, 'is a match of a kind that this version does not know')
  if (kind === 'present' || kind === 'presence') return { kind: 'present' }
  return { kind, value: checks.text(field, message[kind] ?? '') }
}

function stringMatchesFromMessage(
  field: string,
  list: readonly StringMatchMessage[],
  checks: Checks,
): readonly StringMatch[] {
  return list.map((message, i) => stringMatchFromMessage(`${field}[${i}]`, message, checks))
}
