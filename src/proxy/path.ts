// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The path of a request, read twice, because two programs may read it differently.
 *
 *  - `normalizeTarget` is what the mesh itself goes by (Istio's pathNormalization BASE, RFC 3986 section 6.2.2): percent
 *    codes of unreserved characters are decoded, `\` is `/`, `.` and `..` segments are resolved. Slashes are not merged
 *    and `%2F` stays. The exchange does it once, before routing, so that routes, policies and the upstream see one path.
 *  - `lenientPath` is what the most forgiving server could take the same bytes for: everything is decoded, codes of
 *    codes too, path parameters (`;...`) and a fragment are dropped, slashes merged. Policies are held against both
 *    (policy-match.ts).
 *
 * Both return their argument when there is nothing to do, after one scan.
 */

const SLASH = 0x2f
const BACKSLASH = 0x5c
const PERCENT = 0x25
const DOT = 0x2e
const QUESTION = 0x3f
const SEMICOLON = 0x3b
const HASH = 0x23

/** Index of the `?` of a target, or its length. */
export function pathEndOf(target: string): number {
  const question = target.indexOf('?')
  return question < 0 ? target.length : question
}

/** The target with its path normalised; the query is not touched. `*` and the empty target stay as they are. */
export function normalizeTarget(target: string): string {
  if (target.charCodeAt(0) !== SLASH && target.charCodeAt(0) !== BACKSLASH) return target
  const end = scanBase(target)
  if (end < 0) return target
  return normalizePath(target.slice(0, end)) + target.slice(end)
}

/** The path as the most forgiving server would read it; `path` has no query. */
export function lenientPath(path: string): string {
  for (let i = 0; i < path.length; i++) {
    const code = path.charCodeAt(i)
    if (code === PERCENT || code === BACKSLASH || code === SEMICOLON || code === HASH) return readLeniently(path)
    if (code === SLASH && isSlashOrDot(path.charCodeAt(i + 1))) return readLeniently(path)
  }
  return path
}

/** A path of a policy as `lenientPath` would leave it, but with dot segments kept: a policy names no `..`. */
export function lenientPattern(pattern: string): string {
  return mergeSlashes(dropParameters(decode(pattern, isAscii).replaceAll('\\', '/')))
}

/** The end of the path if something in it may need work, -1 if nothing does. */
function scanBase(target: string): number {
  let needsWork = false
  for (let i = 0; i < target.length; i++) {
    const code = target.charCodeAt(i)
    if (code === QUESTION) return needsWork ? i : -1
    if (code === PERCENT || code === BACKSLASH) needsWork = true
    else if (code === SLASH && target.charCodeAt(i + 1) === DOT) needsWork = true
  }
  return needsWork ? target.length : -1
}

function isSlashOrDot(code: number): boolean {
  return code === SLASH || code === DOT
}

// --- beyond this line the path is unusual, and allocation is fine ---

function normalizePath(path: string): string {
  return resolveDots(decode(path, isUnreserved).replaceAll('\\', '/'))
}

function readLeniently(path: string): string {
  // A raw '#' ends the path for a server that knows fragments; one decoded from %23 is a character of the path.
  const hash = path.indexOf('#')
  const decoded = decode(hash < 0 ? path : path.slice(0, hash), isAscii)
  return resolveDots(mergeSlashes(dropParameters(decoded.replaceAll('\\', '/'))))
}

/**
 * Decodes every `%xx` whose character `accepts` takes; other and broken codes stay as written. A code that decoding puts
 * together (`%%361` gives `%61`) is decoded as well: what is left has none that the next reader would decode.
 */
function decode(path: string, accepts: (code: number) => boolean): string {
  if (!path.includes('%')) return path
  const units: number[] = []
  for (let i = 0; i < path.length; i++) {
    units.push(path.charCodeAt(i))
    for (;;) {
      const end = units.length
      const code = end >= 3 && units[end - 3] === PERCENT ? hexPair(units[end - 2]!, units[end - 1]!) : -1
      if (code < 0 || !accepts(code)) break
      units.length = end - 3
      units.push(code)
    }
  }
  return units.reduce((text, unit) => text + String.fromCharCode(unit), '')
}

/** `-1` unless both are hexadecimal digits. */
function hexPair(high: number, low: number): number {
  const left = hexDigit(high)
  const right = hexDigit(low)
  return left < 0 || right < 0 ? -1 : left * 16 + right
}

function hexDigit(code: number): number {
  if (code >= 0x30 && code <= 0x39) return code - 0x30
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}

/** RFC 3986 section 2.3. */
function isUnreserved(code: number): boolean {
  const lower = code | 0x20
  if (lower >= 0x61 && lower <= 0x7a) return true
  if (code >= 0x30 && code <= 0x39) return true
  return code === 0x2d || code === DOT || code === 0x5f || code === 0x7e
}

function isAscii(code: number): boolean {
  return code < 0x80
}

function mergeSlashes(path: string): string {
  return path.includes('//') ? path.replace(/\/{2,}/g, '/') : path
}

/** `/a;x=1/b` is `/a/b` to servers that know path parameters. */
function dropParameters(path: string): string {
  return path.includes(';') ? path.replace(/;[^/]*/g, '') : path
}

/** RFC 3986 section 5.2.4 for a path that begins with a slash; `..` above the root stays at the root. */
function resolveDots(path: string): string {
  if (!path.includes('/.') || !path.startsWith('/')) return path
  const kept: string[] = []
  const segments = path.split('/')
  for (let i = 1; i < segments.length; i++) {
    const segment = segments[i]!
    const isLast = i === segments.length - 1
    if (segment === '.' || segment === '..') {
      if (segment === '..') kept.pop()
      if (isLast) kept.push('')
    } else {
      kept.push(segment)
    }
  }
  return `/${kept.join('/')}`
}
