// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * From a parsed request head to its meaning: target form, authority, body, persistence, upgrade (RFC 9112 sections 3, 6
 * and 9; RFC 9110 sections 7.2, 7.8, 10.1.1).
 *
 * The result's header list holds end-to-end fields only. Host, Content-Length, Transfer-Encoding, Connection and what
 * it names, Upgrade and Expect are taken out: they are fields of the head, so that nobody can read them twice.
 */
import { latin1Slice } from '../../base/bytes.ts'
import { BODY_CHUNKED, type ProtocolViolation, type RequestHead } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import { FIELD_EXPECT, FIELD_HOST, FIELD_TE, FIELD_UPGRADE } from './field-kinds.ts'
import {
  CONNECTION_BAD,
  CONNECTION_CLOSE,
  CONNECTION_KEEP_ALIVE,
  CONNECTION_UPGRADE,
  hasField,
  hasListToken,
  isAuthority,
  LENGTH_ABSENT,
  LENGTH_BAD,
  readBodyLength,
  readConnection,
  valueEnd,
  valueStart,
  valueText,
} from './field-values.ts'
import type { HeadParser } from './head-parser.ts'
import * as violations from './violations.ts'

const SLASH = 0x2f
const STAR = 0x2a
const QUESTION = 0x3f

/** Methods met daily, so that each is one string and not one per request. */
const KNOWN_METHODS = ['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'PATCH', 'OPTIONS', 'CONNECT', 'TRACE']

/** A request head as received over HTTP/1. */
export class H1RequestHead implements RequestHead {
  method: string
  target: string
  scheme: string
  authority: string
  headers: HeaderList
  version: number
  bodyLength: number
  upgrade: string | null
  expectsContinue: boolean
  /** The client wants the connection to live on. */
  readonly keepsAlive: boolean

  constructor(
    method: string,
    form: TargetForm,
    headers: HeaderList,
    version: number,
    bodyLength: number,
    upgrade: string | null,
    expectsContinue: boolean,
    keepsAlive: boolean,
  ) {
    this.method = method
    this.target = form.target
    this.scheme = form.scheme
    this.authority = form.authority
    this.headers = headers
    this.version = version
    this.bodyLength = bodyLength
    this.upgrade = upgrade
    this.expectsContinue = expectsContinue
    this.keepsAlive = keepsAlive
  }
}

interface TargetForm {
  target: string
  scheme: string
  authority: string
}

/** Filled by `readTarget`, read at once by `readRequestHead`. */
const form: TargetForm = { target: '', scheme: '', authority: '' }

/** The meaning of the head that `parser` has just completed; null when refused (the parser's `violation` says why). */
export function readRequestHead(parser: HeadParser, scheme: string): H1RequestHead | null {
  const method = methodText(parser)
  const bodyLength = readBodyLength(parser)
  if (bodyLength === LENGTH_BAD) return null
  const connection = readConnection(parser)
  if (connection === CONNECTION_BAD) return null
  const wrong = readHost(parser) ?? readTarget(parser, method, scheme) ?? checkMeaning(parser, method, bodyLength)
  if (wrong !== null) {
    parser.violation = wrong
    return null
  }
  const isModern = parser.version === 11
  const length = bodyLength === LENGTH_ABSENT ? 0 : bodyLength
  const keepsAlive = (connection & CONNECTION_CLOSE) === 0 && (isModern || (connection & CONNECTION_KEEP_ALIVE) !== 0)
  const mayUpgrade = isModern && length === 0 && method !== 'CONNECT' && (connection & CONNECTION_UPGRADE) !== 0
  const upgrade = mayUpgrade && hasField(parser, FIELD_UPGRADE) ? readUpgrade(parser) : null
  const expectsContinue = isModern && length !== 0 && hasField(parser, FIELD_EXPECT)
  const acceptsTrailers = hasField(parser, FIELD_TE) && hasListToken(parser, FIELD_TE, 'trailers')
  const headers = parser.takeFields()
  if (acceptsTrailers) headers.append('te', 'trailers')
  return new H1RequestHead(method, form, headers, parser.version, length, upgrade, expectsContinue, keepsAlive)
}

function methodText(parser: HeadParser): string {
  const start = parser.base + parser.methodStart
  const length = parser.methodEnd - parser.methodStart
  for (const method of KNOWN_METHODS) {
    if (method.length !== length) continue
    let i = 0
    while (i < length && parser.source[start + i] === method.charCodeAt(i)) i++
    if (i === length) return method
  }
  return latin1Slice(parser.source, start, start + length)
}

function readHost(parser: HeadParser): ProtocolViolation | null {
  form.authority = ''
  if (!hasField(parser, FIELD_HOST)) return parser.version === 11 ? violations.MISSING_HOST : null
  if ((parser.repeated & (1 << FIELD_HOST)) !== 0) return violations.DUPLICATE_HOST
  const field = parser.firstOf[FIELD_HOST]!
  const start = valueStart(parser, field)
  const end = valueEnd(parser, field)
  // An empty Host is what RFC 9112 section 3.2 demands of a client whose target has no authority.
  if (start === end) return null
  if (!isAuthority(parser.source, start, end, false)) return violations.BAD_HOST
  form.authority = latin1Slice(parser.source, start, end)
  return null
}

function readTarget(parser: HeadParser, method: string, scheme: string): ProtocolViolation | null {
  const bytes = parser.source
  const start = parser.base + parser.targetStart
  const end = parser.base + parser.targetEnd
  form.scheme = scheme
  if (method === 'CONNECT') {
    if (!isAuthority(bytes, start, end, true)) return violations.BAD_TARGET
    form.authority = latin1Slice(bytes, start, end)
    form.target = ''
    return null
  }
  if (bytes[start] === SLASH) {
    form.target = latin1Slice(bytes, start, end)
    return null
  }
  if (bytes[start] === STAR && end - start === 1) {
    form.target = '*'
    return method === 'OPTIONS' ? null : violations.BAD_TARGET
  }
  return readAbsoluteTarget(bytes, start, end, method)
}

/** Absolute form: its authority replaces Host (RFC 9112 section 3.2.2). */
function readAbsoluteTarget(bytes: Uint8Array, start: number, end: number, method: string): ProtocolViolation | null {
  const isSecure = startsWithLower(bytes, start, end, 'https://')
  if (!isSecure && !startsWithLower(bytes, start, end, 'http://')) return violations.BAD_TARGET
  const hostStart = start + (isSecure ? 8 : 7)
  let hostEnd = hostStart
  while (hostEnd < end && bytes[hostEnd] !== SLASH && bytes[hostEnd] !== QUESTION) hostEnd++
  if (!isAuthority(bytes, hostStart, hostEnd, false)) return violations.BAD_TARGET
  form.scheme = isSecure ? 'https' : 'http'
  form.authority = latin1Slice(bytes, hostStart, hostEnd)
  const rest = latin1Slice(bytes, hostEnd, end)
  if (rest === '') form.target = method === 'OPTIONS' ? '*' : '/'
  else form.target = bytes[hostEnd] === SLASH ? rest : `/${rest}`
  return null
}

function startsWithLower(bytes: Uint8Array, start: number, end: number, text: string): boolean {
  if (end - start < text.length) return false
  for (let i = 0; i < text.length; i++) {
    const byte = bytes[start + i]!
    const lower = byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
    if (lower !== text.charCodeAt(i)) return false
  }
  return true
}

function checkMeaning(parser: HeadParser, method: string, bodyLength: number): ProtocolViolation | null {
  if (method === 'CONNECT' && (bodyLength > 0 || bodyLength === BODY_CHUNKED)) return violations.BODY_IN_CONNECT
  if (hasField(parser, FIELD_EXPECT)) {
    const isRepeated = (parser.repeated & (1 << FIELD_EXPECT)) !== 0
    if (isRepeated || valueText(parser, FIELD_EXPECT).toLowerCase() !== '100-continue') return violations.BAD_EXPECT
  }
  return null
}

/**
 * The protocol to switch to; null to carry on as if none had been named, which RFC 9110 section 7.8 allows. Another
 * version of HTTP is never switched to: requests inside it would pass by every rule of the proxy.
 */
function readUpgrade(parser: HeadParser): string | null {
  if ((parser.repeated & (1 << FIELD_UPGRADE)) !== 0) return null
  const text = valueText(parser, FIELD_UPGRADE).toLowerCase()
  for (const part of text.split(',')) {
    const protocol = part.trim()
    if (protocol === '' || protocol.startsWith('h2') || protocol.startsWith('http') || protocol.startsWith('tls')) {
      return null
    }
  }
  return text
}
