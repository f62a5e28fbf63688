/**
 * A user's object as the sources hand it over: the parsed tree, its metadata, and where each field was written.
 *
 * Only metadata is checked here; `spec` stays unknown until the compiler reads it by the kind's table (schema.ts).
 */
import { compareText, type Finding, findings, formatPath, type Message, quote } from './messages.ts'
import type { Path, Position, PositionLookup } from './position.ts'

export type { Path, Position, PositionLookup } from './position.ts'

/** One object of the user's, with where it stands. */
export interface MeshObject {
  /** `objectKey` of the object. */
  readonly key: string
  readonly apiVersion: string
  /** `apiVersion` without its version; empty for the core group. */
  readonly group: string
  readonly kind: string
  /** Empty for cluster-scoped kinds. */
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  /** Milliseconds since the epoch; null when not given. */
  readonly creationTimestamp: number | null
  readonly spec: unknown
  readonly status: unknown
  /** The whole tree, as parsed. */
  readonly raw: unknown
  positionOf(path: Path): Position | null
}

/** Kinds without a namespace among those the compiler reads. */
const CLUSTER_KINDS: ReadonlySet<string> = new Set(['Namespace', 'Node'])

/** Longest name of an object (RFC 1123 subdomain). */
const NAME_CHARACTERS_MAX = 253

/** `Kind.group/namespace/name`, the key of an object in every version of its API: `Pod/shop/cart`. */
export function objectKey(object: Pick<MeshObject, 'apiVersion' | 'kind' | 'namespace' | 'name'>): string {
  const group = groupOf(object.apiVersion)
  const kind = group === '' ? object.kind : `${object.kind}.${group}`
  return object.namespace === '' ? `${kind}/${object.name}` : `${kind}/${object.namespace}/${object.name}`
}

/** Group of an apiVersion: empty for `v1`. */
export function groupOf(apiVersion: string): string {
  const slash = apiVersion.indexOf('/')
  return slash < 0 ? '' : apiVersion.slice(0, slash)
}

/**
 * Reads the metadata of one object. Returns the messages instead when it has no usable kind, name or labels. A list
 * (`kind: List`) is not an object: expand it first with `expandList`.
 */
export function parseObject(raw: unknown, positions: PositionLookup): MeshObject | Message[] {
  const problems: { path: Path; finding: Finding }[] = []
  const report = (path: Path, finding: Finding): void => {
    problems.push({ path, finding })
  }
  if (!isTree(raw)) {
    report([], findings.notAnObject(raw))
    return problems.map(({ path, finding }) => toMessage('', path, finding, positions))
  }
  const apiVersion = readText(raw, 'apiVersion', [], report)
  const kind = readText(raw, 'kind', [], report)
  const metadata = own(raw, 'metadata')
  let [name, namespace, uid]: [string, string, string] = ['', '', '']
  let labels: Record<string, string> = {}
  let annotations: Record<string, string> = {}
  let creationTimestamp: number | null = null
  if (!isTree(metadata)) {
    report(
      ['metadata'],
      metadata === undefined ? findings.missing('metadata') : findings.wrongType('an object', metadata),
    )
  } else {
    name = readText(metadata, 'name', ['metadata'], report)
    if (name !== '' && !isSubdomain(name)) {
      report(['metadata', 'name'], findings.badValue(`${quote(name)} is not a valid name.`, NAME_FIX))
    }
    namespace = readNamespace(metadata, kind, report)
    uid = typeof own(metadata, 'uid') === 'string' ? (own(metadata, 'uid') as string) : ''
    labels = readStrings(metadata, 'labels', report)
    annotations = readStrings(metadata, 'annotations', report)
    creationTimestamp = readTime(own(metadata, 'creationTimestamp'), report)
  }
  const key = kind === '' || name === '' ? '' : objectKey({ apiVersion, kind, namespace, name })
  if (problems.length > 0) return problems.map(({ path, finding }) => toMessage(key, path, finding, positions))
  return {
    key,
    apiVersion,
    group: groupOf(apiVersion),
    kind,
    namespace,
    name,
    uid,
    labels,
    annotations,
    creationTimestamp,
    spec: own(raw, 'spec') ?? null,
    status: own(raw, 'status') ?? null,
    raw,
    positionOf: positions,
  }
}

/** One document that may be an object or a list of objects. */
export interface Document {
  readonly raw: unknown
  readonly positions: PositionLookup
}

/** The items of a `List` (or `PodList` and the like), each with its own positions; anything else comes back as it is. */
export function expandList(raw: unknown, positions: PositionLookup): Document[] {
  if (!isTree(raw)) return [{ raw, positions }]
  const kind = own(raw, 'kind')
  const items = own(raw, 'items')
  if (typeof kind !== 'string' || !kind.endsWith('List') || !Array.isArray(items)) return [{ raw, positions }]
  const itemKind = kind.slice(0, -'List'.length)
  return items.map((item, index) => ({
    // Items of a typed list, as the API server writes them, leave out what the list says.
    raw: itemKind !== '' && isTree(item) ? { apiVersion: own(raw, 'apiVersion'), kind: itemKind, ...item } : item,
    positions: (path: Path) => positions(['items', index, ...path]),
  }))
}

/** Order in which the API's conflict rules look at objects: oldest first, then namespace, then name. No age is oldest. */
export function compareAge(
  a: Pick<MeshObject, 'creationTimestamp' | 'namespace' | 'name'>,
  b: Pick<MeshObject, 'creationTimestamp' | 'namespace' | 'name'>,
): number {
  return (
    (a.creationTimestamp ?? 0) - (b.creationTimestamp ?? 0) ||
    compareText(a.namespace, b.namespace) ||
    compareText(a.name, b.name)
  )
}

/** True for a plain tree node with keys (no list, no null). */
export function isTree(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The own property `key`; undefined when absent or null. Never a property of the prototype. */
export function own(tree: Readonly<Record<string, unknown>>, key: string): unknown {
  return Object.hasOwn(tree, key) ? (tree[key] ?? undefined) : undefined
}

// --- metadata fields ---

type Report = (path: Path, finding: Finding) => void

const NAME_FIX = 'Use lower-case letters, digits, "-" and ".", at most 253 characters.'

function isSubdomain(text: string): boolean {
  return text.length <= NAME_CHARACTERS_MAX && /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text)
}

function readText(tree: Readonly<Record<string, unknown>>, key: string, base: Path, report: Report): string {
  const value = own(tree, key)
  if (typeof value === 'string' && value !== '') return value
  const path = [...base, key]
  if (value === undefined || value === '') report(path, findings.missing(formatPath(path)))
  else report(path, findings.notText(value))
  return ''
}

function readNamespace(metadata: Readonly<Record<string, unknown>>, kind: string, report: Report): string {
  if (CLUSTER_KINDS.has(kind)) return ''
  const value = own(metadata, 'namespace')
  if (value === undefined || value === '') return 'default'
  if (typeof value === 'string' && isSubdomain(value)) return value
  const finding =
    typeof value === 'string'
      ? findings.badValue(`${quote(value)} is not a valid name.`, NAME_FIX)
      : findings.notText(value)
  report(['metadata', 'namespace'], finding)
  return ''
}

function readStrings(metadata: Readonly<Record<string, unknown>>, key: string, report: Report): Record<string, string> {
  const value = own(metadata, key)
  if (value === undefined) return {}
  if (!isTree(value)) {
    report(['metadata', key], findings.wrongType('an object', value))
    return {}
  }
  // No prototype: a label may have any name.
  const strings: Record<string, string> = Object.create(null)
  for (const [name, text] of Object.entries(value)) {
    if (typeof text === 'string') strings[name] = text
    else if (text === null) strings[name] = ''
    else report(['metadata', key, name], findings.notText(text))
  }
  return strings
}

function readTime(value: unknown, report: Report): number | null {
  if (value === undefined) return null
  const time = value instanceof Date ? value.getTime() : typeof value === 'string' ? Date.parse(value) : Number.NaN
  if (!Number.isNaN(time)) return time
  report(['metadata', 'creationTimestamp'], findings.wrongType('a time like 2026-01-31T12:00:00Z', value))
  return null
}

function toMessage(key: string, path: Path, finding: Finding, positions: PositionLookup): Message {
  const { code, severity, text, fix } = finding
  const position = positions(path) ?? positions(path.slice(0, -1)) ?? positions([])
  return { code, severity, text, fix, object: key, field: formatPath(path), position }
}
