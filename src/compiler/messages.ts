/**
 * Everything the compiler can say about users' objects: code, severity, text, fix.
 *
 * Codes `IST...` mean what `istioctl analyze` means by them; `WEFT....` are ours and never reused. Severity says what
 * happened to the object, not how bad it looks: `error` = the object is not in force as written (left out, or failing
 * closed where the text says so); `warning` = in force, but a part has no effect or will surprise; `info` = good to know.
 */
import type { Path, Position, PositionLookup } from './position.ts'

/** What happened to the object, not how bad it looks; see the head of the file. */
export type Severity = 'error' | 'warning' | 'info'

/** What is said, before it is known where. */
export interface Finding {
  readonly code: string
  readonly severity: Severity
  /** One sentence: what is wrong. */
  readonly text: string
  /** One sentence: what to do. Empty when nothing need be done. */
  readonly fix: string
}

/** A finding about one field of one object. */
export interface Message extends Finding {
  /** `objectKey` of the object; empty when the document has no kind and name. */
  readonly object: string
  /** `spec.http[0].route`; empty for the object as a whole. */
  readonly field: string
  readonly position: Position | null
}

/** What messages are about. */
export interface Subject {
  readonly key: string
  readonly positionOf: PositionLookup
}

/** Most messages about one object. 50: more than anyone reads, and a hostile object cannot fill the memory. */
export const OBJECT_MESSAGES_MAX = 50

/** Longest piece of a user's text that a message repeats, characters. */
const QUOTE_CHARACTERS_MAX = 80

/** Digits of the largest list index. */
const INDEX_DIGITS = 6

/** Collects messages; drops repeated ones and those beyond the limit of an object. */
export class MessageLog {
  private readonly byKey = new Map<string, Message>()
  private readonly counts = new Map<string, number>()
  /** Errors by object key, also those not kept. */
  private readonly errors = new Map<string, number>()

  add(object: Subject, path: Path, finding: Finding): void {
    if (finding.severity === 'error') this.errors.set(object.key, this.errorCount(object) + 1)
    const field = formatPath(path)
    const key = `${object.key}\n${field}\n${finding.code}\n${finding.text}`
    if (this.byKey.has(key)) return
    const count = (this.counts.get(object.key) ?? 0) + 1
    // Errors always get in once, so that a failed object is never without one.
    if (count > OBJECT_MESSAGES_MAX && finding.severity !== 'error') return
    if (count > 2 * OBJECT_MESSAGES_MAX) return
    this.counts.set(object.key, count)
    const { code, severity, text, fix } = finding
    this.byKey.set(key, { code, severity, text, fix, object: object.key, field, position: locate(object, path) })
  }

  /** True when anything was said about the object. */
  has({ key }: Pick<Subject, 'key'>): boolean {
    return this.counts.has(key) || this.errors.has(key)
  }

  /** Takes over all that another log has about objects of which this one has nothing. */
  take(other: MessageLog): void {
    for (const [key, message] of other.byKey) this.byKey.set(key, message)
    for (const [key, count] of other.counts) this.counts.set(key, count)
    for (const [key, count] of other.errors) this.errors.set(key, count)
  }

  /** True when the object has an error. */
  hasError(object: Pick<Subject, 'key'>): boolean {
    return this.errors.has(object.key)
  }

  /** Errors reported about the object so far. */
  errorCount(object: Pick<Subject, 'key'>): number {
    return this.errors.get(object.key) ?? 0
  }

  /** All messages by object, position, field and code. */
  sorted(): Message[] {
    return [...this.byKey.values()].sort(compareMessages)
  }
}

/** `spec.http[0].match`; keys that are no plain words are quoted in brackets. */
export function formatPath(path: Path): string {
  let text = ''
  for (const key of path) {
    if (typeof key === 'number') text += `[${key}]`
    else if (/^[A-Za-z_][A-Za-z0-9_-]*$/.test(key)) text += text === '' ? key : `.${key}`
    else text += `[${JSON.stringify(key)}]`
  }
  return text
}

/** `file:line:column: severity code object field: text fix`, the one-line form for terminals and logs. */
export function formatMessage(message: Message): string {
  const { position, severity, code, object, field, text, fix } = message
  const where = position === null ? '' : `${position.file}:${position.line}:${position.column}: `
  const what = field === '' ? object : `${object} ${field}`
  return `${where}${severity} ${code} ${what}: ${text}${fix === '' ? '' : ` ${fix}`}`
}

/** A user's value for use in a sentence: scalars as JSON, shortened; trees by their kind alone, they may be large. */
export function quote(value: unknown): string {
  if (Array.isArray(value)) return '[...]'
  if (typeof value === 'object' && value !== null) return '{...}'
  const text = typeof value === 'string' ? JSON.stringify(value.slice(0, QUOTE_CHARACTERS_MAX)) : String(value)
  return typeof value === 'string' && value.length > QUOTE_CHARACTERS_MAX ? `${text}...` : text
}

/** Position of the field, or of the nearest enclosing one that was written. */
function locate(object: Subject, path: Path): Position | null {
  for (let length = path.length; length >= 0; length--) {
    const position = object.positionOf(path.slice(0, length))
    if (position !== null) return position
  }
  return null
}

function compareMessages(a: Message, b: Message): number {
  return (
    compareText(a.object, b.object) ||
    compareText(a.position?.file ?? '', b.position?.file ?? '') ||
    (a.position?.line ?? 0) - (b.position?.line ?? 0) ||
    (a.position?.column ?? 0) - (b.position?.column ?? 0) ||
    compareFields(a.field, b.field) ||
    compareText(a.code, b.code) ||
    compareText(a.text, b.text)
  )
}

/** `http[2]` comes before `http[10]`. */
function compareFields(a: string, b: string): number {
  return a === b ? 0 : compareText(padNumbers(a), padNumbers(b))
}

function padNumbers(field: string): string {
  return field.replaceAll(/[0-9]+/g, (digits) => digits.padStart(INDEX_DIGITS, '0'))
}

/** Order by code unit, the same on every machine. */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

function error(code: string, text: string, fix: string): Finding {
  return { code, severity: 'error', text, fix }
}

function warning(code: string, text: string, fix: string): Finding {
  return { code, severity: 'warning', text, fix }
}

function info(code: string, text: string, fix: string): Finding {
  return { code, severity: 'info', text, fix }
}

// --- the catalogue ---

/** The findings, by name. Texts do not repeat the object and field: the message carries them. */
export const findings = {
  // Documents and fields.
  notAnObject: (value: unknown) =>
    error('IST0106', `This is ${quote(value)}, not an object.`, 'Write apiVersion, kind, metadata and spec.'),
  missing: (name: string) => error('IST0106', `The field ${name} is missing.`, `Add ${name}.`),
  wrongType: (expected: string, value: unknown) =>
    error('IST0106', `The value ${quote(value)} is of the wrong type or out of range.`, `Write ${expected}.`),
  notText: (value: unknown) =>
    typeof value === 'object'
      ? error('IST0106', `The value ${quote(value)} is not text.`, 'Write text.')
      : error('IST0106', `The value ${quote(value)} is not text.`, `Put it in quotes: "${String(value)}".`),
  badValue: (text: string, fix: string) => error('IST0106', text, fix),
  notOneOf: (value: string, allowed: readonly string[], hint: string | null) =>
    error(
      'IST0106',
      `${quote(value)} is not one of ${allowed.join(', ')}.`,
      hint === null ? `Write one of them.` : `Did you mean ${hint}?`,
    ),
  unknownField: (name: string, hint: string | null) =>
    error('IST0106', `There is no field ${quote(name)} here.`, hint === null ? 'Remove it.' : `Did you mean ${hint}?`),
  notSupported: (what: string, effect: string) =>
    warning('WEFT0001', `${what} is not supported yet: ${effect}.`, 'Remove it, or live without its effect.'),
  cannotApply: (what: string, effect: string) =>
    error('WEFT0002', `${what} is not supported yet: ${effect}.`, 'Write the rule without it.'),
  deprecated: (what: string, fix: string) => warning('IST0002', `${what} is deprecated.`, fix),
  noEffect: (text: string, fix: string) => warning('IST0133', text, fix),
  kindNotSupported: (kind: string) =>
    warning('WEFT0003', `${kind} is not supported yet: the object has no effect.`, 'Remove it, or live without it.'),
  unknownKind: (kind: string, group: string, hint: string | null) =>
    error(
      'WEFT0004',
      `${group} has no kind ${quote(kind)}.`,
      hint === null ? 'Correct the kind.' : `Did you mean ${hint}?`,
    ),
  wrongVersion: (apiVersion: string, allowed: readonly string[]) =>
    error('WEFT0004', `The kind does not exist in apiVersion ${quote(apiVersion)}.`, `Write ${allowed.join(' or ')}.`),
  duplicateObject: (other: string) =>
    warning(
      'WEFT0005',
      `The same object is written at ${other} as well: this one has no effect.`,
      'Remove one of the two.',
    ),

  // Pods, services, endpoints.
  badMeshLabel: (label: string, value: string, allowed: string) =>
    warning('WEFT0101', `The label ${label} is ${quote(value)}, which has no meaning here.`, `Write ${allowed}.`),
  cannotEnrol: (reason: string) =>
    warning(
      'WEFT0102',
      `The pod is not enrolled in the mesh: ${reason}.`,
      'Opt it out with the label weft.dev/mesh=disabled.',
    ),
  canChangeNetwork: () =>
    warning(
      'WEFT0129',
      'The pod may change its own network: rules or routes of its own can lead connections past the mesh. The agent looks every 10 s and sets its own right again.',
      'Take NET_ADMIN from it, or opt it out with the label weft.dev/mesh=disabled.',
    ),
  notScheduled: () => info('WEFT0109', 'The pod is on no node yet: it is not enrolled until it is.', ''),
  badNetns: (value: string) =>
    warning(
      'WEFT0110',
      `The annotation weft.dev/netns is ${quote(value)}, which names no network namespace: it is not used.`,
      'Write an absolute path (/var/run/netns/NAME), or loopback:ADDRESS.',
    ),
  badFailureMode: (value: string) =>
    warning(
      'WEFT0111',
      `The annotation weft.dev/failure-mode is ${quote(value)}, which has no meaning: it is not used.`,
      'Write "open" (connections are let by while the agent is away) or "closed" (they are refused).',
    ),
  badDnsCapture: (value: string) =>
    warning(
      'WEFT0112',
      `The annotation weft.dev/dns-capture is ${quote(value)}, which has no meaning: it is not used.`,
      'Write "true" (names are answered by the mesh) or "false" (pods ask their resolvers past it).',
    ),
  badEncryptSameNode: (value: string) =>
    warning(
      'WEFT0113',
      `weft.dev/encrypt-same-node is ${quote(value)}, which has no meaning: it is not used.`,
      'Write "true" (connections to the pods are encrypted on one node too) or "false".',
    ),
  duplicateAddress: (address: string, other: string) =>
    error('WEFT0103', `The address ${address} already belongs to ${other}.`, 'Give each its own address.'),
  podUnknown: (name: string) =>
    info('WEFT0114', `The pod ${quote(name)} of this endpoint is not there: the endpoint is not used.`, ''),
  noVirtualIp: () =>
    warning(
      'WEFT0105',
      'The service has no clusterIP: it is treated as headless.',
      'Give it spec.clusterIP, or write "None".',
    ),
  noTargetPort: (name: string) =>
    warning(
      'WEFT0106',
      `No container of the pod names a port ${quote(name)}: the pod does not serve this service port.`,
      'Name a container port so, or give targetPort a number.',
    ),
  appProtocolUnknown: (value: string) =>
    warning('WEFT0107', `The protocol ${quote(value)} is not known.`, 'The port is treated as if nothing was given.'),
  sliceWithoutService: () =>
    warning(
      'WEFT0108',
      'The label kubernetes.io/service-name is missing: the endpoints belong to no service.',
      'Add it.',
    ),

  badExportTo: (value: string) =>
    warning(
      'WEFT0126',
      `The annotation networking.istio.io/exportTo has ${quote(value)}, which is no namespace: every namespace sees the service.`,
      'Write ".", "*", "~" or names of namespaces, with commas.',
    ),

  // ServiceEntry.
  resolutionNotSupported: (resolution: string) =>
    warning(
      'WEFT0121',
      `Resolution ${resolution} is not supported yet: clients reach the hosts as if there were no entry.`,
      'Write STATIC and endpoints, or live without it.',
    ),
  wildcardEntry: (host: string) =>
    warning(
      'WEFT0122',
      `${host} is a wildcard, which has no address of its own: clients reach its hosts as if there were no entry.`,
      'List the hosts.',
    ),
  sharedAddresses: (host: string) =>
    warning(
      'WEFT0123',
      `Several hosts share the addresses: to the mesh they are ${host}, and the others get addresses of their own.`,
      'Write an entry for each.',
    ),
  hostIsService: (host: string, owner: string) =>
    warning('WEFT0124', `${host} is ${owner} already: the entry has no effect on it.`, 'Remove the host.'),
  udpEntry: (port: number) =>
    warning(
      'WEFT0127',
      `Port ${port} is UDP, which the mesh does not carry: the hosts get no virtual IPs, and clients reach them as if there were no entry.`,
      'Write an entry for the TCP ports alone, or give it addresses.',
    ),
  noVirtualIpLeft: (host: string) =>
    error(
      'WEFT0125',
      `No virtual IP is left for ${host}: the blocks of the mesh are full.`,
      'Give the entry addresses, or the controller larger blocks.',
    ),

  // References.
  hostIsAlias: (host: string, alias: string) =>
    warning(
      'WEFT0128',
      `${host} is another name for ${alias} (ExternalName): rules for it have no effect.`,
      `Write ${alias} instead.`,
    ),
  hostUnknown: (host: string, fix: string) => warning('IST0101', `No service has the host ${quote(host)}.`, fix),
  subsetUnknown: (subset: string, host: string) =>
    warning(
      'IST0101',
      `No DestinationRule declares subset ${quote(subset)} of ${host}: requests sent there get 503.`,
      'Declare the subset in the DestinationRule of that host, or correct the name.',
    ),
  subsetNotSeen: (subset: string, host: string, namespace: string) =>
    warning(
      'IST0101',
      `Clients ${namespace === '' ? 'of other namespaces' : `in namespace ${namespace}`} follow a DestinationRule of ${host} without subset ${quote(subset)}: their requests get 503.`,
      'Declare the subset in the rule that they follow, or export the rule that has it.',
    ),
  portUnknown: (port: number, host: string) =>
    warning('IST0101', `${host} has no port ${port}: requests sent there get 503.`, 'Correct the port number.'),
  portNeeded: (host: string, port: number) =>
    warning(
      'IST0112',
      `${host} has several ports and the destination names none: clients of port ${port} go to its port ${port}.`,
      'Add port.number to the destination.',
    ),
  targetUnknown: (what: string) => warning('IST0101', `${what} does not exist.`, 'Correct the reference.'),

  // VirtualService.
  hostTaken: (host: string, winner: string) =>
    warning(
      'IST0109',
      `The host ${host} already has its rules from ${winner}: for clients in the mesh this object has no effect on it.`,
      'Merge the two objects into one.',
    ),
  ruleUnreachable: (earlier: string) =>
    warning('IST0130', `No request gets here: ${earlier} takes everything.`, 'Move the general rule to the end.'),
  matchDuplicated: (earlier: string) =>
    info('IST0131', `The same match is in ${earlier} already.`, 'Remove one of the two.'),
  hostWithoutService: (host: string, fix: string) =>
    warning('WEFT0201', `No service has the host ${quote(host)}: the rules have no effect on it yet.`, fix),
  gatewayOnly: () =>
    warning(
      'WEFT0202',
      'The rules are bound to gateways only, which are not supported yet: they have no effect.',
      'Add "mesh" to gateways for clients in the mesh.',
    ),
  largeBody: (bytes: number) =>
    warning('IST0133', `The body has ${bytes} bytes, which every agent keeps in memory.`, 'Serve it from a service.'),

  // DestinationRule.
  ruleHostUnknown: (host: string, fix: string) =>
    warning('IST0174', `No service has the host ${quote(host)}: the rule has no effect yet.`, fix),
  subsetEmpty: (subset: string) =>
    warning(
      'IST0173',
      `Subset ${quote(subset)} selects no pod of the service: requests sent there get 503.`,
      'Correct the labels.',
    ),
  subsetTaken: (subset: string, winner: string) =>
    warning(
      'IST0133',
      `Subset ${quote(subset)} is already declared by ${winner}, which is older.`,
      'Remove one of the two.',
    ),
  policyTaken: (winner: string) =>
    warning(
      'IST0133',
      `The trafficPolicy of ${winner}, which is older, is in force instead.`,
      'Merge the two objects.',
    ),

  // Security.
  disableMode: () =>
    warning(
      'WEFT0301',
      'DISABLE is not supported: it acts like PERMISSIVE, and clients in the mesh still encrypt.',
      'Write PERMISSIVE.',
    ),
  rootSelector: () =>
    warning(
      'IST0167',
      'In the root namespace a PeerAuthentication with a selector has no effect.',
      'Move it to the namespace of the workloads.',
    ),
  policyTakenByOlder: (winner: string) =>
    warning('IST0167', `${winner} is older and has the same scope: this one has no effect.`, 'Keep one of the two.'),
  selectorEmpty: () => warning('IST0127', 'The selector matches no workload.', 'Correct the labels.'),
  selectorOutside: () =>
    warning(
      'IST0167',
      'None of the workloads it selects is in the mesh: it has no effect on them.',
      'Label their namespace weft.dev/mesh=enabled.',
    ),
  allowRuleDropped: (what: string) =>
    warning('WEFT0302', `${what} is not supported yet: this rule allows nothing.`, 'Write the rule without it.'),
  denyWidened: (what: string) =>
    error(
      'WEFT0303',
      `${what} is not supported yet: to stay on the safe side this rule denies whether it holds or not.`,
      'Write the rule without it.',
    ),
  customDenied: () =>
    error('WEFT0304', 'CUSTOM is not supported yet: what its rules match is denied.', 'Write ALLOW or DENY rules.'),
  targetIgnored: (kind: string) =>
    warning(
      'WEFT0305',
      `A targetRef to ${kind} is not supported yet: the policy does not apply to it.`,
      'Use a selector.',
    ),
  targetService: () =>
    info('WEFT0306', 'The policy applies to the pods of the service, whichever way they are reached.', ''),
  denyHttpOnly: () =>
    warning(
      'IST0133',
      'The rule has HTTP attributes only, and some of its workloads serve TCP: there it denies everything.',
      'Add ports to limit it to HTTP ports.',
    ),
} as const
