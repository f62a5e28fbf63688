// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Between the fields of an HTTP/2 request and the head that the proxy works with (RFC 9113 section 8.3.1), both ways.
 *
 * The engine has checked the form: order and set of pseudo-headers, characters of names and values, no connection-specific
 * field. Here it is what the next hop could read otherwise, when that hop speaks HTTP/1: targets and authorities are held
 * to the rules of our HTTP/1 parser, so that both versions let the same requests in.
 *
 * WebSocket over HTTP/2 (extended CONNECT, RFC 8441) becomes the GET with Upgrade that it stands for, and back: routes,
 * policies and upstreams of either version see one kind of request.
 */
import { TOKEN_LOWER } from '../../base/bytes.ts'
import { BODY_CHUNKED, type ProtocolViolation, type RequestHead } from '../codec.ts'
import { HeaderList } from '../headers.ts'
import { contentLengthOf } from './header-rules.ts'
import { FIELD_COUNT_MAX } from './limits.ts'
import { newWebSocketKey } from './websocket-key.ts'

/** The only protocol that CONNECT may name: others (connect-udp, connect-ip) leave HTTP. */
export const WEBSOCKET = 'websocket'

const COLON = 0x3a
/** Longest method, as in HTTP/1. */
const METHOD_LENGTH_MAX = 32

const BAD_METHOD: ProtocolViolation = { reason: 'bad_method', status: 400, message: 'the method is not a token' }
const BAD_TARGET: ProtocolViolation = { reason: 'bad_target', status: 400, message: 'the path has a bad character' }
const BAD_SCHEME: ProtocolViolation = { reason: 'bad_scheme', status: 400, message: 'the scheme is not http or https' }
const BAD_HOST: ProtocolViolation = {
  reason: 'bad_host',
  status: 400,
  message: 'the authority is missing or malformed',
}
const BAD_EXPECT: ProtocolViolation = {
  reason: 'bad_expect',
  status: 417,
  message: 'only 100-continue can be expected',
}
const NO_CONNECT: ProtocolViolation = {
  reason: 'connect',
  status: 501,
  message: 'CONNECT is not served, except to open a WebSocket',
}
const TOO_MANY_FIELDS: ProtocolViolation = {
  reason: 'too_many_headers',
  status: 431,
  message: 'there are too many headers',
}

/** A request head as received over HTTP/2. */
export class H2RequestHead implements RequestHead {
  method: string
  target: string
  scheme: string
  authority: string
  headers: HeaderList
  version: number
  bodyLength: number
  upgrade: string | null
  expectsContinue: boolean

  constructor() {
    this.method = ''
    this.target = ''
    this.scheme = ''
    this.authority = ''
    this.headers = NO_HEADERS
    this.version = 20
    this.bodyLength = 0
    this.upgrade = null
    this.expectsContinue = false
  }
}

const NO_HEADERS = new HeaderList()

/**
 * Reads a request that the engine let through into `head`; takes the array over. Returns why it is refused, or null.
 * `isEnd` when nothing follows.
 */
export function readRequest(fields: string[], isEnd: boolean, head: H2RequestHead): ProtocolViolation | null {
  let protocol: string | null = null
  let host: string | null = null
  let cookieAt = -1
  let acceptsTrailers = false
  let count = 0
  if (isEnd) head.bodyLength = 0
  else head.bodyLength = declaredLength(fields)
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!
    const value = fields[i + 1]!
    switch (name) {
      case ':method':
        head.method = value
        continue
      case ':path':
        head.target = value
        continue
      case ':scheme':
        head.scheme = value
        continue
      case ':authority':
        head.authority = value
        continue
      case ':protocol':
        protocol = value
        continue
      case 'host':
        if (host !== null && host !== value) return BAD_HOST
        host = value
        continue
      case 'content-length':
        continue
      case 'te':
        // The engine lets nothing but "trailers" through.
        acceptsTrailers = true
        continue
      case 'expect':
        if (value.toLowerCase() !== '100-continue') return BAD_EXPECT
        head.expectsContinue = !isEnd
        continue
      case 'cookie':
        // Crumbs make compression better; one field is what everyone else expects (RFC 9113 section 8.2.3).
        if (cookieAt >= 0) {
          fields[cookieAt] += `; ${value}`
          continue
        }
        cookieAt = count + 1
        break
    }
    fields[count] = name
    fields[count + 1] = value
    count += 2
  }
  fields.length = count
  if (count > 2 * FIELD_COUNT_MAX) return TOO_MANY_FIELDS
  if (acceptsTrailers) fields.push('te', 'trailers')
  head.headers = HeaderList.fromFields(fields)
  if (head.authority === '' && host !== null) head.authority = host
  return check(head, protocol)
}

function check(head: H2RequestHead, protocol: string | null): ProtocolViolation | null {
  if (head.method === 'CONNECT') {
    if (protocol === null || protocol.toLowerCase() !== WEBSOCKET) return NO_CONNECT
    head.method = 'GET'
    head.upgrade = WEBSOCKET
    head.bodyLength = 0
    // HTTP/2 has no need of it; a server that speaks HTTP/1 has.
    if (!head.headers.has('sec-websocket-key')) head.headers.append('sec-websocket-key', newWebSocketKey())
  }
  if (!isMethod(head.method)) return BAD_METHOD
  if (head.scheme !== 'http' && head.scheme !== 'https') return BAD_SCHEME
  if (!isTarget(head.target)) return BAD_TARGET
  return isAuthority(head.authority) ? null : BAD_HOST
}

/**
 * The fields of a request for an HTTP/2 server. `isTunnel` makes an extended CONNECT of a request to upgrade; without it
 * the upgrade is left out, which RFC 9110 section 7.8 allows.
 */
export function writeRequest(head: RequestHead, isTunnel: boolean): string[] {
  const headers = head.headers
  const fields: string[] = [':method', isTunnel ? 'CONNECT' : head.method, ':scheme', head.scheme, ':path', head.target]
  if (head.authority !== '') fields.push(':authority', head.authority)
  if (isTunnel) fields.push(':protocol', WEBSOCKET)
  headers.appendTo(fields)
  // What protects the handshake of HTTP/1 has no place here (RFC 8441 section 5). The head keeps it for another try.
  if (isTunnel) dropField(fields, 'sec-websocket-key')
  if (headers.get('te') === 'trailers') fields.push('te', 'trailers')
  if (head.bodyLength > 0) fields.push('content-length', String(head.bodyLength))
  if (head.expectsContinue && head.bodyLength !== 0) fields.push('expect', '100-continue')
  return fields
}

/** True when the request can be said in HTTP/2, and means the same to whoever turns it into HTTP/1 behind. */
export function isSendable(head: RequestHead): boolean {
  return isMethod(head.method) && head.method !== 'CONNECT' && isTarget(head.target) && isFieldText(head.authority)
}

/** Takes every field called `name` out of a list. */
export function dropField(fields: string[], name: string): void {
  let count = 0
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i] === name) continue
    fields[count] = fields[i]!
    fields[count + 1] = fields[i + 1]!
    count += 2
  }
  fields.length = count
}

/** BODY_CHUNKED also for a declared length of 0 that does not end with the head: trailers may follow. */
function declaredLength(fields: readonly string[]): number {
  const length = contentLengthOf(fields)
  return length > 0 ? length : BODY_CHUNKED
}

function isMethod(text: string): boolean {
  if (text.length === 0 || text.length > METHOD_LENGTH_MAX) return false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0x7f || TOKEN_LOWER[code] === 0) return false
  }
  return true
}

/** The bytes that our HTTP/1 parser takes in a target: no control, space, quote, angle bracket, `#` or backslash. */
function isTarget(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x21 || code > 0x7e) return false
    if (code === 0x22 || code === 0x23 || code === 0x3c || code === 0x3e || code === 0x5c) return false
  }
  return text.length > 0
}

function isFieldText(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x21 || code > 0x7e) return false
  }
  return true
}

/** A host of letters, digits, `-`, `.`, `_`, or a bracketed IPv6 address, with an optional port; as in HTTP/1. */
function isAuthority(text: string): boolean {
  let at = 0
  if (text.charCodeAt(0) === 0x5b) {
    at = text.indexOf(']')
    if (at < 2) return false
    for (let i = 1; i < at; i++) {
      const code = text.charCodeAt(i)
      if (!isHexDigit(code) && code !== COLON && code !== 0x2e) return false
    }
    at++
  } else {
    while (at < text.length && isHostCharacter(text.charCodeAt(at))) at++
    if (at === 0) return false
  }
  return at === text.length || (text.charCodeAt(at) === COLON && isPort(text, at + 1))
}

function isPort(text: string, from: number): boolean {
  const digits = text.length - from
  if (digits < 1 || digits > 5) return false
  let port = 0
  for (let i = from; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30
    if (digit < 0 || digit > 9) return false
    port = port * 10 + digit
  }
  return port <= 65_535
}

function isHostCharacter(code: number): boolean {
  if (code >= 0x61 && code <= 0x7a) return true
  if (code >= 0x30 && code <= 0x39) return true
  if (code === 0x2e || code === 0x2d || code === 0x5f) return true
  return code >= 0x41 && code <= 0x5a
}

function isHexDigit(code: number): boolean {
  if (code >= 0x30 && code <= 0x39) return true
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x66
}
