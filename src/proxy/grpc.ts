// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What the proxy knows of gRPC (gRPC over HTTP/2, "PROTOCOL-HTTP2"): which requests are, how long they may take, and how
 * statuses of gRPC, of HTTP and of resets stand for each other. What one call keeps is in grpc-call.ts.
 */
import { FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type Flag } from '../base/errors.ts'
import type { RequestHead } from '../http/codec.ts'
import type { HeaderList } from '../http/headers.ts'

export const GRPC_OK = 0
export const GRPC_CANCELLED = 1
export const GRPC_UNKNOWN = 2
export const GRPC_INVALID_ARGUMENT = 3
export const GRPC_DEADLINE_EXCEEDED = 4
export const GRPC_NOT_FOUND = 5
export const GRPC_ALREADY_EXISTS = 6
export const GRPC_PERMISSION_DENIED = 7
export const GRPC_RESOURCE_EXHAUSTED = 8
export const GRPC_FAILED_PRECONDITION = 9
export const GRPC_ABORTED = 10
export const GRPC_OUT_OF_RANGE = 11
export const GRPC_UNIMPLEMENTED = 12
export const GRPC_INTERNAL = 13
export const GRPC_UNAVAILABLE = 14
export const GRPC_DATA_LOSS = 15
export const GRPC_UNAUTHENTICATED = 16

const CONTENT_TYPE = 'application/grpc'

/** Digits of a grpc-timeout: eight, by the specification. */
const TIMEOUT_DIGITS_MAX = 8

/** What nobody measures in: from here on a deadline is told in whole milliseconds, below in microseconds. */
const TOLD_IN_MILLISECONDS_FROM = 100

/** Largest amount of a grpc-timeout, by its digits. */
const TIMEOUT_AMOUNT_MAX = 10 ** TIMEOUT_DIGITS_MAX - 1

/** True for `application/grpc`, alone or with a `+format` or parameters; grpc-web is ordinary HTTP. */
export function isGrpcRequest(head: RequestHead): boolean {
  if (head.method !== 'POST') return false
  const type = head.headers.get('content-type')
  if (type === null || !type.startsWith(CONTENT_TYPE)) return false
  const next = type.charCodeAt(CONTENT_TYPE.length)
  return type.length === CONTENT_TYPE.length || next === 0x2b || next === 0x3b || next === 0x20
}

/** The type of an answer to this request: its own without parameters, so that a `+format` stays what was asked for. */
export function grpcContentTypeOf(request: HeaderList): string {
  const type = request.get('content-type')
  if (type === null) return CONTENT_TYPE
  let end = CONTENT_TYPE.length
  while (end < type.length && type.charCodeAt(end) !== 0x3b && type.charCodeAt(end) !== 0x20) end++
  return end === type.length ? type : type.slice(0, end)
}

/** The status among headers or trailers; -1 when there is none. A status that is no number counts as unknown. */
export function grpcStatusOf(headers: HeaderList | null): number {
  const text = headers === null ? null : headers.get('grpc-status')
  if (text === null) return -1
  let status = 0
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit < 0 || digit > 9 || i > 3) return GRPC_UNKNOWN
    status = status * 10 + digit
  }
  return text === '' ? GRPC_UNKNOWN : status
}

/** What an answer without a gRPC status means to a gRPC client, by the specification's mapping. */
export function grpcStatusFor(httpStatus: number): number {
  switch (httpStatus) {
    case 400:
      return GRPC_INTERNAL
    case 401:
      return GRPC_UNAUTHENTICATED
    case 403:
      return GRPC_PERMISSION_DENIED
    case 404:
      return GRPC_UNIMPLEMENTED
    case 429:
    case 502:
    case 503:
    case 504:
      return GRPC_UNAVAILABLE
    default:
      return GRPC_UNKNOWN
  }
}

/** The HTTP status that says of a server what this gRPC status says: for outlier detection, which counts 5xx. */
export function httpStatusFor(grpcStatus: number): number {
  switch (grpcStatus) {
    case GRPC_UNKNOWN:
    case GRPC_INTERNAL:
    case GRPC_DATA_LOSS:
      return 500
    case GRPC_UNAVAILABLE:
      return 503
    case GRPC_DEADLINE_EXCEEDED:
      return 504
    default:
      return 200
  }
}

/** What a client that does not speak gRPC is told where a rule names a gRPC status, as google.rpc.Code maps them. */
export function httpReplyStatusFor(grpcStatus: number): number {
  switch (grpcStatus) {
    case GRPC_OK:
      return 200
    case GRPC_CANCELLED:
      return 499
    case GRPC_INVALID_ARGUMENT:
    case GRPC_FAILED_PRECONDITION:
    case GRPC_OUT_OF_RANGE:
      return 400
    case GRPC_UNAUTHENTICATED:
      return 401
    case GRPC_PERMISSION_DENIED:
      return 403
    case GRPC_NOT_FOUND:
      return 404
    case GRPC_ALREADY_EXISTS:
    case GRPC_ABORTED:
      return 409
    case GRPC_RESOURCE_EXHAUSTED:
      return 429
    case GRPC_UNIMPLEMENTED:
      return 501
    case GRPC_UNAVAILABLE:
      return 503
    case GRPC_DEADLINE_EXCEEDED:
      return 504
    default:
      return 500
  }
}

/**
 * What a stream that the server reset means to its client, by the specification's table ("Errors"): `code` is the one of
 * RST_STREAM. -1, when the connection was lost, is what a client without a proxy would make of that.
 */
export function grpcStatusOfReset(code: number): number {
  switch (code) {
    case -1:
    case REFUSED_STREAM:
      return GRPC_UNAVAILABLE
    case CANCEL:
      return GRPC_CANCELLED
    case ENHANCE_YOUR_CALM:
      return GRPC_RESOURCE_EXHAUSTED
    case INADEQUATE_SECURITY:
      return GRPC_PERMISSION_DENIED
    default:
      return GRPC_INTERNAL
  }
}

/** Codes of RST_STREAM (RFC 9113 section 7) that mean more than an internal error. */
const REFUSED_STREAM = 7
const CANCEL = 8
const ENHANCE_YOUR_CALM = 11
const INADEQUATE_SECURITY = 12

/** What a gRPC client makes of an end without a status; `status` 0 when there was no response. */
export function impliedGrpcStatus(flag: Flag, status: number): number {
  if (flag === FLAG_DOWNSTREAM_CLOSED) return GRPC_CANCELLED
  if (status === 200) return flag === FLAG_NONE ? GRPC_UNKNOWN : GRPC_INTERNAL
  return status === 0 ? GRPC_UNAVAILABLE : grpcStatusFor(status)
}

/** Milliseconds of a `grpc-timeout` header, with fractions; -1 without one, or with one that is not well formed. */
export function grpcTimeoutOf(headers: HeaderList): number {
  const text = headers.get('grpc-timeout')
  if (text === null) return -1
  const digits = text.length - 1
  if (digits < 1 || digits > TIMEOUT_DIGITS_MAX) return -1
  let amount = 0
  for (let i = 0; i < digits; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit < 0 || digit > 9) return -1
    amount = amount * 10 + digit
  }
  switch (text.charAt(digits)) {
    case 'H':
      return amount * 3_600_000
    case 'M':
      return amount * 60_000
    case 'S':
      return amount * 1000
    case 'm':
      return amount
    case 'u':
      return amount / 1000
    case 'n':
      return amount / 1_000_000
    default:
      return -1
  }
}

/** A `grpc-timeout` of at most `timeoutMs`, and of at least something: none or 0 would say that there is no hurry. */
export function formatGrpcTimeout(timeoutMs: number): string {
  if (timeoutMs < TOLD_IN_MILLISECONDS_FROM) return `${Math.max(1, Math.floor(timeoutMs * 1000))}u`
  if (timeoutMs <= TIMEOUT_AMOUNT_MAX) return `${Math.floor(timeoutMs)}m`
  if (timeoutMs <= TIMEOUT_AMOUNT_MAX * 1000) return `${Math.floor(timeoutMs / 1000)}S`
  return `${Math.min(TIMEOUT_AMOUNT_MAX, Math.floor(timeoutMs / 3_600_000))}H`
}

/** A `grpc-message`: UTF-8, percent-encoded but for visible ASCII. */
export function encodeGrpcMessage(text: string): string {
  let encoded = ''
  for (const byte of new TextEncoder().encode(text)) {
    const isPlain = byte >= 0x20 && byte <= 0x7e && byte !== 0x25
    encoded += isPlain ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return encoded
}
