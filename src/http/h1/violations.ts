/**
 * Every way in which a peer can break HTTP/1.1, with the status that a server answers (RFC 9112, RFC 9110).
 *
 * One frozen object each, made when the module is loaded: refusing must be cheaper than being attacked. `reason` is a
 * label of counters and logs and never changes; the message goes to the peer and holds none of its bytes.
 */
import type { ProtocolViolation } from '../codec.ts'

function violation(reason: string, status: number, message: string): ProtocolViolation {
  return Object.freeze({ reason, status, message })
}

// --- lines ---
export const BAD_METHOD = violation('bad_method', 400, 'the method is not a token')
export const METHOD_TOO_LONG = violation('method_too_long', 501, 'the method is longer than any known one')
export const BAD_TARGET = violation('bad_target', 400, 'the request target has a byte or a form that is not allowed')
export const BAD_REQUEST_LINE = violation('bad_request_line', 400, 'the request line is malformed')
export const BAD_STATUS_LINE = violation('bad_status_line', 502, 'the status line is malformed')
export const BAD_VERSION = violation('bad_version', 400, 'the protocol version is malformed')
export const UNSUPPORTED_VERSION = violation('unsupported_version', 505, 'only HTTP/1.0 and HTTP/1.1 are spoken here')
export const LINE_TOO_LONG = violation('line_too_long', 414, 'the request line is too long')
export const TOO_MANY_EMPTY_LINES = violation('too_many_empty_lines', 400, 'empty lines stand where a request should')
export const BARE_LF = violation('bare_lf', 400, 'a line ends in LF without CR')
export const BARE_CR = violation('bare_cr', 400, 'a CR is not followed by LF')

// --- fields ---
export const BAD_FIELD_NAME = violation('bad_header_name', 400, 'a header name is empty or not a token')
export const BAD_FIELD_VALUE = violation('bad_header_value', 400, 'a header value has a control byte')
export const SPACE_BEFORE_COLON = violation(
  'space_before_colon',
  400,
  'white space stands before the colon of a header',
)
export const OBSOLETE_FOLD = violation('obs_fold', 400, 'a header line begins with white space')
export const HEAD_TOO_LARGE = violation('head_too_large', 431, 'the head is too large')
export const TOO_MANY_FIELDS = violation('too_many_headers', 431, 'there are too many headers')

// --- meaning ---
export const MISSING_HOST = violation('missing_host', 400, 'there is no Host header')
export const DUPLICATE_HOST = violation('duplicate_host', 400, 'there is more than one Host header')
export const BAD_HOST = violation('bad_host', 400, 'the host is malformed')
export const BAD_CONTENT_LENGTH = violation('bad_content_length', 400, 'Content-Length is not one decimal number')
export const DUPLICATE_CONTENT_LENGTH = violation(
  'duplicate_content_length',
  400,
  'there is more than one Content-Length',
)
export const LENGTH_AND_ENCODING = violation(
  'length_and_encoding',
  400,
  'both Content-Length and Transfer-Encoding are present',
)
export const BAD_TRANSFER_ENCODING = violation(
  'bad_transfer_encoding',
  400,
  'Transfer-Encoding is not exactly "chunked"',
)
export const UNSUPPORTED_TRANSFER_ENCODING = violation(
  'unsupported_transfer_encoding',
  501,
  'no transfer coding but "chunked" is understood',
)
export const ENCODING_IN_HTTP10 = violation('encoding_in_http10', 400, 'HTTP/1.0 has no Transfer-Encoding')
export const BAD_CONNECTION = violation('bad_connection', 400, 'Connection is malformed or names a header it must not')
export const BAD_EXPECT = violation('bad_expect', 417, 'only the expectation 100-continue is understood')
export const BODY_IN_CONNECT = violation('body_in_connect', 400, 'CONNECT must not have a body')

// --- bodies ---
export const BAD_CHUNK_SIZE = violation('bad_chunk_size', 400, 'a chunk size is not a hexadecimal number')
export const CHUNK_TOO_LARGE = violation('chunk_too_large', 400, 'a chunk is too large')
export const BAD_CHUNK_EXTENSION = violation('bad_chunk_extension', 400, 'a chunk extension is malformed')
export const CHUNK_EXTENSION_TOO_LARGE = violation('chunk_extension_too_large', 400, 'chunk extensions are too long')
export const BAD_CHUNK_END = violation('bad_chunk_end', 400, 'a chunk is not followed by CRLF')
export const BAD_TRAILER = violation('bad_trailer', 400, 'a trailer has a name that trailers must not have')
export const TRAILERS_TOO_LARGE = violation('trailers_too_large', 431, 'the trailer section is too large')

// --- order ---
export const TOO_MUCH_PIPELINED = violation('too_much_pipelined', 400, 'too much was sent before earlier answers')
export const UNEXPECTED_SWITCH = violation(
  'unexpected_switch',
  502,
  'the server switched protocols without being asked',
)
export const TOO_MANY_INFORMATIONAL = violation('too_many_informational', 502, 'the server sent too many 1xx responses')
