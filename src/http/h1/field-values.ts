// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What the headers that the engine acts on may say (RFC 9110 sections 7.2, 7.6, 8.6; RFC 9112 section 6).
 *
 * Usual values are recognised on their bytes; only unusual ones are decoded.
 */
import { COLON, COMMA, equalsTokenLower, HEX_VALUE, latin1Slice, SPACE, TAB, TOKEN_LOWER } from '../../base/bytes.ts'
import type { ProtocolViolation } from '../codec.ts'
import { FIELD_CONNECTION, FIELD_CONTENT_LENGTH, FIELD_TRANSFER_ENCODING } from './field-kinds.ts'
import type { HeadParser } from './head-parser.ts'
import * as violations from './violations.ts'

/** What the Connection fields of a head say, as bits. */
export const CONNECTION_CLOSE = 1
export const CONNECTION_KEEP_ALIVE = 2
export const CONNECTION_UPGRADE = 4
/** Not a bit set but a refusal. */
export const CONNECTION_BAD = -1

/** `readBodyLength`: no field says anything about a body. */
export const LENGTH_ABSENT = -3
/** `readBodyLength`: refused; see the parser's `violation`. */
export const LENGTH_BAD = -4
/** As BODY_CHUNKED of the codec. */
const LENGTH_CHUNKED = -1

/** 15 digits stay below 2^53, so that the number is exact. */
const LENGTH_DIGITS_MAX = 15

/** Registered codings that we do not understand: 501, so that the client may send again without. */
const OTHER_CODINGS: ReadonlySet<string> = new Set(['gzip', 'deflate', 'compress', 'x-gzip', 'x-compress'])

/** Where a field's value lies, in absolute positions of the parser's source. */
export function valueStart(parser: HeadParser, field: number): number {
  return parser.base + parser.slots[field * 4 + 2]!
}

export function valueEnd(parser: HeadParser, field: number): number {
  return parser.base + parser.slots[field * 4 + 3]!
}

/** Text of the first field of `kind`, which must have been seen. */
export function valueText(parser: HeadParser, kind: number): string {
  const field = parser.firstOf[kind]!
  return latin1Slice(parser.source, valueStart(parser, field), valueEnd(parser, field))
}

export function hasField(parser: HeadParser, kind: number): boolean {
  return (parser.seen & (1 << kind)) !== 0
}

/** The body that Content-Length and Transfer-Encoding announce: bytes, chunked, LENGTH_ABSENT or LENGTH_BAD. */
export function readBodyLength(parser: HeadParser): number {
  const hasLength = hasField(parser, FIELD_CONTENT_LENGTH)
  const hasEncoding = hasField(parser, FIELD_TRANSFER_ENCODING)
  if (!hasLength && !hasEncoding) return LENGTH_ABSENT
  if (hasLength && hasEncoding) return refuse(parser, violations.LENGTH_AND_ENCODING)
  return hasEncoding ? readTransferEncoding(parser) : readContentLength(parser)
}

function readContentLength(parser: HeadParser): number {
  if ((parser.repeated & (1 << FIELD_CONTENT_LENGTH)) !== 0) return refuse(parser, violations.DUPLICATE_CONTENT_LENGTH)
  const field = parser.firstOf[FIELD_CONTENT_LENGTH]!
  const start = valueStart(parser, field)
  const end = valueEnd(parser, field)
  const digits = end - start
  if (digits < 1 || digits > LENGTH_DIGITS_MAX) return refuse(parser, violations.BAD_CONTENT_LENGTH)
  let length = 0
  for (let i = start; i < end; i++) {
    const digit = parser.source[i]! - 0x30
    if (digit < 0 || digit > 9) return refuse(parser, violations.BAD_CONTENT_LENGTH)
    length = length * 10 + digit
  }
  // A leading zero is legal and worthless, and there are readers who take it for octal.
  if (digits > 1 && parser.source[start] === 0x30) return refuse(parser, violations.BAD_CONTENT_LENGTH)
  return length
}

function readTransferEncoding(parser: HeadParser): number {
  if (parser.version === 10) return refuse(parser, violations.ENCODING_IN_HTTP10)
  if ((parser.repeated & (1 << FIELD_TRANSFER_ENCODING)) !== 0) return refuse(parser, violations.BAD_TRANSFER_ENCODING)
  const field = parser.firstOf[FIELD_TRANSFER_ENCODING]!
  const start = valueStart(parser, field)
  const end = valueEnd(parser, field)
  if (end - start === 7 && equalsTokenLower(parser.source, start, 'chunked')) return LENGTH_CHUNKED
  const text = latin1Slice(parser.source, start, end).toLowerCase()
  const first = text.split(',')[0]!.trim()
  return refuse(
    parser,
    OTHER_CODINGS.has(first) ? violations.UNSUPPORTED_TRANSFER_ENCODING : violations.BAD_TRANSFER_ENCODING,
  )
}

/** Bits of all Connection fields; the fields they name are kept from being forwarded. CONNECTION_BAD when refused. */
export function readConnection(parser: HeadParser): number {
  if (!hasField(parser, FIELD_CONNECTION)) return 0
  let bits = 0
  for (let field = parser.firstOf[FIELD_CONNECTION]!; field < parser.count; field++) {
    if (parser.kindOf(field) !== FIELD_CONNECTION) continue
    bits = readConnectionField(parser, field, bits)
    if (bits === CONNECTION_BAD) return CONNECTION_BAD
  }
  return bits
}

function readConnectionField(parser: HeadParser, field: number, before: number): number {
  const bytes = parser.source
  const end = valueEnd(parser, field)
  let bits = before
  let p = valueStart(parser, field)
  while (p < end) {
    const start = p
    while (p < end && TOKEN_LOWER[bytes[p]!] !== 0) p++
    const bit = connectionOption(parser, start, p)
    if (bit === CONNECTION_BAD) return CONNECTION_BAD
    bits |= bit
    while (p < end && (bytes[p] === SPACE || bytes[p] === TAB)) p++
    if (p < end && bytes[p] !== COMMA) return refuse(parser, violations.BAD_CONNECTION, CONNECTION_BAD)
    p++
    while (p < end && (bytes[p] === SPACE || bytes[p] === TAB)) p++
  }
  return bits
}

function connectionOption(parser: HeadParser, start: number, end: number): number {
  const bytes = parser.source
  const length = end - start
  if (length === 0) return 0
  if (length === 10 && equalsTokenLower(bytes, start, 'keep-alive')) return CONNECTION_KEEP_ALIVE
  if (length === 5 && equalsTokenLower(bytes, start, 'close')) return CONNECTION_CLOSE
  if (length === 7 && equalsTokenLower(bytes, start, 'upgrade')) return CONNECTION_UPGRADE
  if (parser.nominate(latin1Slice(bytes, start, end).toLowerCase())) return 0
  return refuse(parser, violations.BAD_CONNECTION, CONNECTION_BAD)
}

/**
 * True when `bytes[start..end)` is a host with an optional port. Stricter than RFC 3986: letters, digits, `-`, `.`, `_`
 * or a bracketed IPv6 address. Percent signs, commas and user information are read differently by different servers.
 */
export function isAuthority(bytes: Uint8Array, start: number, end: number, needsPort: boolean): boolean {
  let p = start
  if (bytes[p] === 0x5b) {
    p++
    const inside = p
    while (p < end && (HEX_VALUE[bytes[p]!] !== 255 || bytes[p] === COLON || bytes[p] === 0x2e)) p++
    if (p === inside || p >= end || bytes[p] !== 0x5d) return false
    p++
  } else {
    while (p < end && isHostByte(bytes[p]!)) p++
    if (p === start) return false
  }
  if (p === end) return !needsPort
  if (bytes[p] !== COLON) return false
  return isPort(bytes, p + 1, end)
}

function isPort(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < 1 || end - start > 5) return false
  let port = 0
  for (let p = start; p < end; p++) {
    const digit = bytes[p]! - 0x30
    if (digit < 0 || digit > 9) return false
    port = port * 10 + digit
  }
  return port <= 65_535
}

function isHostByte(byte: number): boolean {
  if (byte >= 0x61 && byte <= 0x7a) return true
  if (byte >= 0x30 && byte <= 0x39) return true
  if (byte === 0x2e || byte === 0x2d || byte === 0x5f) return true
  return byte >= 0x41 && byte <= 0x5a
}

/** True when one of the comma-separated tokens of the fields of `kind` is `token` (lower case; parameters not counted). */
export function hasListToken(parser: HeadParser, kind: number, token: string): boolean {
  for (let field = parser.firstOf[kind]!; field < parser.count; field++) {
    if (parser.kindOf(field) !== kind) continue
    const text = latin1Slice(parser.source, valueStart(parser, field), valueEnd(parser, field)).toLowerCase()
    for (const part of text.split(',')) if (part.trim() === token) return true
  }
  return false
}

function refuse(parser: HeadParser, violation: ProtocolViolation, result: number = LENGTH_BAD): number {
  parser.violation = violation
  return result
}
