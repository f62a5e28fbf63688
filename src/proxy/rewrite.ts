// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Header edits and URL rewriting, compiled with the route and applied to heads in place.
 *
 * Edits run in a fixed order: remove, set, add. An edit of `host` (or `:authority`) is no header edit but asks for
 * another authority: the destination of a route knows the outcome (CompiledDestination.authority). Headers that frame
 * the message or belong to one connection only (RFC 9110 section 7.6.1) cannot be edited: the codec owns them, and a
 * wrong Content-Length would make two parsers disagree about where a message ends.
 */
import { FIELD_VALUE, TOKEN_LOWER } from '../base/bytes.ts'
import { parseSubstitution, type Regex, type SubstitutionPiece } from '../base/regex.ts'
import type { RequestHead } from '../http/codec.ts'
import { ConstantFields } from '../http/constant-fields.ts'
import { type HeaderList, NOT_FORWARDED } from '../http/headers.ts'
import type { HeaderEdits, HeaderPair, Rewrite } from '../model/route.ts'
import { tellRewrite } from './forwarding-headers.ts'
import { compileRegex, PATH_ANY, PATH_SEGMENTS, PATH_WHOLE, type PathMatcher } from './matchers.ts'
import { pathEndOf } from './path.ts'

/** `HeaderEdits` with names in lower case, without what must not be edited. Made by `compileEdits`. */
export class CompiledEdits {
  readonly remove: readonly string[]
  readonly set: readonly HeaderPair[]
  /** Null when there is nothing to add. */
  readonly add: ConstantFields | null

  constructor(remove: readonly string[], set: readonly HeaderPair[], add: readonly HeaderPair[]) {
    this.remove = remove
    this.set = set
    this.add = add.length === 0 ? null : new ConstantFields(add.flatMap(({ name, value }) => [name, value.trim()]))
  }
}

/** Null when there is nothing to do, so that an unused feature costs one comparison per exchange. */
export function compileEdits(edits: HeaderEdits | null): CompiledEdits | null {
  if (edits === null) return null
  const remove = edits.remove.map((name) => name.toLowerCase()).filter(isEditable)
  const set = edits.set.map(lowerName).filter(isSafe)
  const add = edits.add.map(lowerName).filter(isSafe)
  return remove.length + set.length + add.length === 0 ? null : new CompiledEdits(remove, set, add)
}

/** The authority that edits of a request ask for; null when they ask for none. */
export function authorityOf(edits: HeaderEdits | null): string | null {
  if (edits === null) return null
  const pair = [...edits.add, ...edits.set].find(({ name }) => isAuthority(name.toLowerCase()))
  return pair === undefined ? null : safeText(pair.value)
}

/** Applies `edits` to the headers of a request or a response. */
export function applyEdits(edits: CompiledEdits, headers: HeaderList): void {
  for (let i = 0; i < edits.remove.length; i++) headers.remove(edits.remove[i]!)
  // Names and values were checked when the edits were compiled, so `append` may go without.
  for (let i = 0; i < edits.set.length; i++) {
    const pair = edits.set[i]!
    headers.remove(pair.name)
    headers.append(pair.name, pair.value)
  }
  if (edits.add !== null) headers.appendConstant(edits.add)
}

/** A route's `Rewrite`. */
export class CompiledRewrite {
  readonly authority: string | null
  readonly path: string | null
  readonly pattern: Regex | null
  readonly substitution: readonly SubstitutionPiece[]

  constructor(rewrite: Rewrite) {
    this.authority = safeText(rewrite.authority)
    this.path = safeText(rewrite.path)
    const substitution = compileSubstitution(safeText(rewrite.regex?.substitution ?? null))
    const pattern = rewrite.regex === null ? null : compileRegex(rewrite.regex.pattern, false)
    // One of the two alone rewrites nothing.
    this.substitution = substitution ?? []
    this.pattern = substitution === null ? null : pattern
  }
}

/** What of a route decides how a path changes; a CompiledRoute is one. */
export interface PathRewriting {
  readonly path: PathMatcher
  readonly rewrite: CompiledRewrite | null
}

/**
 * Changes target and authority of `head` as the route and its destination say, and tells the server what they were. To
 * be done once per exchange, after matching.
 */
export function rewriteRequest(route: PathRewriting, destinationAuthority: string | null, head: RequestHead): void {
  if (route.rewrite === null && destinationAuthority === null) return
  const { target, authority } = head
  rewriteTarget(route, head)
  if (destinationAuthority !== null) head.authority = destinationAuthority
  tellRewrite(
    head.headers,
    head.target === target ? null : target,
    head.authority === authority || authority === '' ? null : authority,
  )
}

/** Changes target and authority of `head` as the route says. */
export function rewriteTarget(route: PathRewriting, head: RequestHead): void {
  const rewrite = route.rewrite
  if (rewrite === null) return
  if (rewrite.authority !== null) head.authority = rewrite.authority
  const target = head.target
  // Not a path: `OPTIONS *` and CONNECT.
  if (target.charCodeAt(0) !== 0x2f) return
  if (rewrite.path === null && rewrite.pattern === null) return
  const end = pathEndOf(target)
  const path = target.slice(0, end)
  const query = target.slice(end)
  if (rewrite.path !== null) {
    head.target = replaceMatched(route.path, path, rewrite.path) + query
  } else {
    head.target = rooted(rewrite.pattern!.replaceAll(path, rewrite.substitution)) + query
  }
}

/**
 * `path` with what the condition matched replaced: the prefix as plain text, whole segments for a segment prefix, else
 * all of it. A condition on no path stands for the prefix `/`. The result always begins with a slash.
 */
export function replaceMatched(matcher: PathMatcher, path: string, replacement: string): string {
  if (matcher.kind === PATH_WHOLE) return rooted(replacement)
  if (matcher.kind === PATH_SEGMENTS) {
    const rest = path.slice(matcher.prefixLength)
    const base = replacement.endsWith('/') ? replacement.slice(0, -1) : replacement
    return rooted(rest === '' && replacement !== '' ? replacement : base + rest)
  }
  const length = matcher.kind === PATH_ANY ? 1 : matcher.prefixLength
  return rooted(replacement + path.slice(length))
}

function rooted(path: string): string {
  return path.charCodeAt(0) === 0x2f ? path : `/${path}`
}

function compileSubstitution(text: string | null): readonly SubstitutionPiece[] | null {
  if (text === null) return null
  try {
    return parseSubstitution(text)
  } catch {
    return null
  }
}

function lowerName(pair: HeaderPair): HeaderPair {
  return { name: pair.name.toLowerCase(), value: pair.value }
}

function isAuthority(name: string): boolean {
  return name === 'host' || name === ':authority'
}

function isEditable(name: string): boolean {
  return !NOT_FORWARDED.has(name) && name !== 'trailer' && isToken(name)
}

/** The controller has refused the others already; this is the last gate before bytes are written. */
function isSafe(pair: HeaderPair): boolean {
  return isEditable(pair.name) && isFieldValue(pair.value)
}

/** Null for text that would end a request line or a host early. */
function safeText(text: string | null): string | null {
  return text === null || /[^\x21-\x7e\x80-\xff]/.test(text) ? null : text
}

function isToken(name: string): boolean {
  for (let i = 0; i < name.length; i++) if (!TOKEN_LOWER[name.charCodeAt(i)]) return false
  return name !== ''
}

function isFieldValue(value: string): boolean {
  for (let i = 0; i < value.length; i++) if (!FIELD_VALUE[value.charCodeAt(i)]) return false
  return true
}
