// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Writes heads, chunk framing and trailers (RFC 9112).
 *
 * The engine alone writes the headers that frame a message or concern the connection; whatever a header list says about
 * them is left out by HeaderList.writeTo. So a list from one hop can never frame a message of the next.
 */
import { latin1Bytes } from '../../base/bytes.ts'
import { BODY_CHUNKED, type RequestHead } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import type { Output } from './output.ts'

const REASONS: ReadonlyMap<number, string> = new Map([
  [100, 'Continue'],
  [101, 'Switching Protocols'],
  [102, 'Processing'],
  [103, 'Early Hints'],
  [200, 'OK'],
  [201, 'Created'],
  [202, 'Accepted'],
  [203, 'Non-Authoritative Information'],
  [204, 'No Content'],
  [205, 'Reset Content'],
  [206, 'Partial Content'],
  [207, 'Multi-Status'],
  [300, 'Multiple Choices'],
  [301, 'Moved Permanently'],
  [302, 'Found'],
  [303, 'See Other'],
  [304, 'Not Modified'],
  [307, 'Temporary Redirect'],
  [308, 'Permanent Redirect'],
  [400, 'Bad Request'],
  [401, 'Unauthorized'],
  [403, 'Forbidden'],
  [404, 'Not Found'],
  [405, 'Method Not Allowed'],
  [406, 'Not Acceptable'],
  [408, 'Request Timeout'],
  [409, 'Conflict'],
  [410, 'Gone'],
  [411, 'Length Required'],
  [412, 'Precondition Failed'],
  [413, 'Content Too Large'],
  [414, 'URI Too Long'],
  [415, 'Unsupported Media Type'],
  [416, 'Range Not Satisfiable'],
  [417, 'Expectation Failed'],
  [421, 'Misdirected Request'],
  [422, 'Unprocessable Content'],
  [425, 'Too Early'],
  [426, 'Upgrade Required'],
  [428, 'Precondition Required'],
  [429, 'Too Many Requests'],
  [431, 'Request Header Fields Too Large'],
  [500, 'Internal Server Error'],
  [501, 'Not Implemented'],
  [502, 'Bad Gateway'],
  [503, 'Service Unavailable'],
  [504, 'Gateway Timeout'],
  [505, 'HTTP Version Not Supported'],
])

/** Status lines with CRLF, by status; a status without a registered reason gets its line when it is first used. */
const statusLines: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(600).fill(undefined)

const CRLF = '\r\n'

// As bytes: a text of that length costs a call into native code.
const VERSION_AND_HOST: Uint8Array = latin1Bytes(' HTTP/1.1\r\nhost: ')
const CONTENT_LENGTH: Uint8Array = latin1Bytes('content-length: ')
const CHUNKED_ENCODING: Uint8Array = latin1Bytes('transfer-encoding: chunked\r\n')

/** Options that a Connection header may carry, as bits. */
export const OPTION_CLOSE = 1
export const OPTION_KEEP_ALIVE = 2
export const OPTION_UPGRADE = 4
export const OPTION_TE = 8

/** Connection headers by option bits, made once. */
const connectionLines: string[] = []
for (let bits = 0; bits < 16; bits++) {
  const names: string[] = []
  if ((bits & OPTION_CLOSE) !== 0) names.push('close')
  if ((bits & OPTION_KEEP_ALIVE) !== 0) names.push('keep-alive')
  if ((bits & OPTION_UPGRADE) !== 0) names.push('upgrade')
  if ((bits & OPTION_TE) !== 0) names.push('te')
  connectionLines.push(bits === 0 ? '' : `connection: ${names.join(', ')}\r\n`)
}

/** `status` is 100 to 599. */
export function writeStatusLine(output: Output, status: number): void {
  let line = statusLines[status]
  if (line === undefined) {
    line = latin1Bytes(`HTTP/1.1 ${status} ${REASONS.get(status) ?? ''}\r\n`)
    statusLines[status] = line
  }
  output.writeBytes(line, 0, line.length)
}

/** Writes a whole request head, its empty line included. */
export function writeRequestHead(output: Output, head: RequestHead): void {
  output.writeText(head.method)
  output.writeText(' ')
  output.writeText(head.method === 'CONNECT' ? head.authority : head.target)
  output.writeBytes(VERSION_AND_HOST, 0, VERSION_AND_HOST.length)
  output.writeText(head.authority)
  output.writeText(CRLF)
  head.headers.writeTo(output)
  let options = 0
  if (head.headers.get('te') === 'trailers') {
    output.writeText('te: trailers\r\n')
    options |= OPTION_TE
  }
  if (head.upgrade !== null) {
    output.writeText('upgrade: ')
    output.writeText(head.upgrade)
    output.writeText(CRLF)
    options |= OPTION_UPGRADE
  }
  if (head.expectsContinue && head.bodyLength !== 0) output.writeText('expect: 100-continue\r\n')
  writeConnection(output, options)
  if (head.bodyLength > 0 || (head.bodyLength === 0 && anticipatesBody(head.method))) {
    writeContentLength(output, head.bodyLength)
  } else if (head.bodyLength < 0) {
    writeChunkedEncoding(output)
  }
  output.writeText(CRLF)
}

/** Methods whose requests usually have a body say so when they have none (RFC 9110 section 8.6). */
function anticipatesBody(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

export function writeConnection(output: Output, options: number): void {
  if (options !== 0) output.writeText(connectionLines[options]!)
}

export function writeContentLength(output: Output, length: number): void {
  output.writeBytes(CONTENT_LENGTH, 0, CONTENT_LENGTH.length)
  output.writeText(String(length))
  output.writeText(CRLF)
}

export function writeChunkedEncoding(output: Output): void {
  output.writeBytes(CHUNKED_ENCODING, 0, CHUNKED_ENCODING.length)
}

/** Writes one piece of a body. An empty chunk would end a chunked body, so empty pieces are left out. */
export function writeBodyPiece(
  output: Output,
  framing: number,
  bytes: Uint8Array,
  offset: number,
  length: number,
): void {
  if (length === 0) return
  if (framing !== BODY_CHUNKED) {
    output.writeBytes(bytes, offset, length)
    return
  }
  output.writeText(length.toString(16))
  output.writeText(CRLF)
  output.writeBytes(bytes, offset, length)
  output.writeText(CRLF)
}

/** Writes the end of a chunked body. */
export function writeLastChunk(output: Output, trailers: HeaderList | null): void {
  output.writeText('0\r\n')
  if (trailers !== null) trailers.writeTo(output)
  output.writeText(CRLF)
}
