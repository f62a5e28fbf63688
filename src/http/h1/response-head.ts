// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * From a parsed response head to its meaning, given the request it answers (RFC 9112 sections 6.3 and 9).
 *
 * As in request-head.ts, the list holds end-to-end fields only, with two exceptions that the next hop needs and the
 * body cannot tell: Content-Length where there is no body (HEAD, 304), and Upgrade of a 101.
 */
import { BODY_UNTIL_CLOSE, type ResponseHead } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import { FIELD_UPGRADE } from './field-kinds.ts'
import {
  CONNECTION_BAD,
  CONNECTION_CLOSE,
  CONNECTION_KEEP_ALIVE,
  hasField,
  LENGTH_ABSENT,
  LENGTH_BAD,
  readBodyLength,
  readConnection,
  valueText,
} from './field-values.ts'
import type { HeadParser } from './head-parser.ts'

/** A response head as received over HTTP/1. */
export class H1ResponseHead implements ResponseHead {
  status: number
  headers: HeaderList
  bodyLength: number
  /** The server wants the connection to live on. */
  readonly keepsAlive: boolean

  constructor(status: number, headers: HeaderList, bodyLength: number, keepsAlive: boolean) {
    this.status = status
    this.headers = headers
    this.bodyLength = bodyLength
    this.keepsAlive = keepsAlive
  }
}

/** The meaning of the head that `parser` has just completed; null when refused (the parser's `violation` says why). */
export function readResponseHead(parser: HeadParser, isHead: boolean, isConnect: boolean): H1ResponseHead | null {
  const status = parser.status
  const announced = readBodyLength(parser)
  if (announced === LENGTH_BAD) return null
  const connection = readConnection(parser)
  if (connection === CONNECTION_BAD) return null
  const keepsAlive =
    (connection & CONNECTION_CLOSE) === 0 && (parser.version === 11 || (connection & CONNECTION_KEEP_ALIVE) !== 0)
  const headers = parser.takeFields()
  if (status === 101 || (isConnect && status >= 200 && status < 300)) {
    if (status === 101 && hasField(parser, FIELD_UPGRADE)) headers.append('upgrade', valueText(parser, FIELD_UPGRADE))
    return new H1ResponseHead(status, headers, BODY_UNTIL_CLOSE, false)
  }
  if (isHead || status === 304) {
    if (announced >= 0) headers.append('content-length', String(announced))
    return new H1ResponseHead(status, headers, 0, keepsAlive)
  }
  if (status < 200 || status === 204) return new H1ResponseHead(status, headers, 0, keepsAlive)
  const bodyLength = announced === LENGTH_ABSENT ? BODY_UNTIL_CLOSE : announced
  return new H1ResponseHead(status, headers, bodyLength, keepsAlive && bodyLength !== BODY_UNTIL_CLOSE)
}
