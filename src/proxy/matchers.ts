// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Conditions of routes and policies, compiled once and then only asked. A condition that cannot be compiled says so
 * (`isBroken`); its owner decides which way to fail. Regular expressions are base/regex.ts's: linear in the value.
 *
 * Values are looked up in a request by name: repeated headers are joined by a comma (RFC 9110 section 5.3), `:method`,
 * `:path`, `:authority` and `:scheme` name parts of the request line, and `host` is the authority.
 */
import { Regex } from '../base/regex.ts'
import type { RequestHead } from '../http/codec.ts'
import type { NamedMatch, PathMatch, StringMatch } from '../model/route.ts'

const KIND_EXACT = 0
const KIND_PREFIX = 1
const KIND_SUFFIX = 2
const KIND_REGEX = 3
const KIND_PRESENT = 4
const KIND_NEVER = 5

/** One `StringMatch`. */
export class StringMatcher {
  readonly isBroken: boolean
  readonly isPresence: boolean
  private readonly kind: number
  private readonly value: string
  private readonly regex: Regex | null

  constructor(match: StringMatch) {
    const regex = match.kind === 'regex' ? compileRegex(match.value, false) : null
    this.isBroken = match.kind === 'regex' && regex === null
    this.isPresence = match.kind === 'present'
    this.kind = this.isBroken ? KIND_NEVER : kindOf(match)
    this.value = match.kind === 'present' ? '' : match.value
    this.regex = regex
  }

  /** True when the whole value meets the condition. A presence condition wants it not empty. */
  matches(value: string): boolean {
    switch (this.kind) {
      case KIND_EXACT:
        return value === this.value
      case KIND_PREFIX:
        return value.startsWith(this.value)
      case KIND_SUFFIX:
        return value.endsWith(this.value)
      case KIND_PRESENT:
        return value.length > 0
      case KIND_REGEX:
        return this.regex!.test(value)
      default:
        return false
    }
  }
}

/** A condition on a header or a query parameter. */
export class NamedMatcher {
  readonly name: string
  private readonly matcher: StringMatcher
  private readonly isNegated: boolean

  constructor(match: NamedMatch, isHeader: boolean) {
    this.name = isHeader ? match.name.toLowerCase() : match.name
    this.matcher = new StringMatcher(match.match)
    this.isNegated = match.isNegated
  }

  /**
   * `value` is null when the request has none. Presence is then false; for an inverted condition a missing value counts
   * as the empty string. A broken condition never matches, inverted or not.
   */
  matches(value: string | null): boolean {
    if (this.matcher.isBroken) return false
    if (this.matcher.isPresence) return (value !== null) !== this.isNegated
    if (this.isNegated) return !this.matcher.matches(value ?? '')
    return value !== null && this.matcher.matches(value)
  }
}

/** What a path condition matched, as far as rewriting needs to know. */
export const PATH_ANY = 0
export const PATH_WHOLE = 1
export const PATH_PREFIX = 2
export const PATH_SEGMENTS = 3
export type PathKind = typeof PATH_ANY | typeof PATH_WHOLE | typeof PATH_PREFIX | typeof PATH_SEGMENTS

/** A condition on the path of a target, which ends at `pathEnd`; nothing is cut out of the target to judge it. */
export class PathMatcher {
  readonly kind: PathKind
  /** Characters of the path that the prefix takes; 1 (the implied `/`) for a condition that takes any path. */
  readonly prefixLength: number
  private readonly value: string
  private readonly isCaseIgnored: boolean
  private readonly regex: Regex | null
  private readonly isBroken: boolean

  constructor(match: PathMatch | null) {
    let value = match === null ? '' : match.value
    if (match?.kind === 'pathSegments' && value.endsWith('/')) value = value.slice(0, -1)
    this.kind = pathKindOf(match)
    this.isCaseIgnored = match?.ignoreCase ?? false
    this.value = this.isCaseIgnored ? lowerAscii(value) : value
    this.prefixLength = this.kind === PATH_ANY ? 1 : value.length
    this.regex = match?.kind === 'regex' ? compileRegex(match.value, this.isCaseIgnored) : null
    this.isBroken = match?.kind === 'regex' && this.regex === null
  }

  matches(target: string, pathEnd: number): boolean {
    switch (this.kind) {
      case PATH_ANY:
        return true
      case PATH_PREFIX:
        return this.value.length <= pathEnd && this.hasPrefix(target)
      case PATH_SEGMENTS: {
        const length = this.value.length
        if (length > pathEnd || !this.hasPrefix(target)) return false
        return length === pathEnd || target.charCodeAt(length) === 0x2f
      }
      default:
        if (this.isBroken) return false
        if (this.regex === null) return this.value.length === pathEnd && this.hasPrefix(target)
        return this.regex.test(target.slice(0, pathEnd))
    }
  }

  private hasPrefix(target: string): boolean {
    return this.isCaseIgnored ? startsWithAnyCase(target, this.value) : target.startsWith(this.value)
  }
}

/** Value of a header or pseudo header of a request; null when it has none. */
export function requestValue(head: RequestHead, name: string): string | null {
  if (name.charCodeAt(0) === 0x3a) {
    switch (name) {
      case ':method':
        return head.method
      case ':path':
        return head.target
      case ':authority':
        return head.authority
      case ':scheme':
        return head.scheme
      default:
        return null
    }
  }
  return name === 'host' ? head.authority : head.headers.getJoined(name)
}

/**
 * Value of the first query parameter called `name`, both as written: percent codes are not decoded, which is what Envoy
 * does. A bare key has the empty value; null when there is no such key.
 */
export function queryValue(target: string, pathEnd: number, name: string): string | null {
  let start = pathEnd + 1
  while (start < target.length) {
    const ampersand = target.indexOf('&', start)
    const end = ampersand < 0 ? target.length : ampersand
    if (target.startsWith(name, start)) {
      const afterName = start + name.length
      if (afterName === end) return ''
      if (afterName < end && target.charCodeAt(afterName) === 0x3d) return target.slice(afterName + 1, end)
    }
    start = end + 1
  }
  return null
}

// --- compilation ---

/** Null when the expression cannot be read; the controller has reported that already. */
export function compileRegex(pattern: string, isCaseIgnored: boolean): Regex | null {
  try {
    return new Regex(pattern, isCaseIgnored)
  } catch {
    return null
  }
}

function kindOf(match: StringMatch): number {
  switch (match.kind) {
    case 'exact':
      return KIND_EXACT
    case 'prefix':
      return KIND_PREFIX
    case 'suffix':
      return KIND_SUFFIX
    case 'regex':
      return KIND_REGEX
    case 'present':
      return KIND_PRESENT
  }
}

function pathKindOf(match: PathMatch | null): PathKind {
  if (match === null) return PATH_ANY
  if (match.kind === 'prefix') return PATH_PREFIX
  return match.kind === 'pathSegments' ? PATH_SEGMENTS : PATH_WHOLE
}

/** ASCII only, so that the length of what matched is the length of what was written. */
function lowerAscii(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase())
}

/** `prefix` is in lower case. */
function startsWithAnyCase(text: string, prefix: string): boolean {
  if (text.length < prefix.length) return false
  for (let i = 0; i < prefix.length; i++) {
    let code = text.charCodeAt(i)
    if (code >= 0x41 && code <= 0x5a) code |= 0x20
    if (code !== prefix.charCodeAt(i)) return false
  }
  return true
}
