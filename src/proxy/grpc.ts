// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What the proxy knows of gRPC (gRPC over HTTP/2, "PROTOCOL-HTTP2"): which requests are, how long they may take, and how
 * statuses of gRPC and HTTP stand for each other. Messages are never looked into.
 */
import type { RequestHead } from '../http/codec.ts'
import type { HeaderList } from '../http/headers.ts'

export const GRPC_OK = 0
export const GRPC_CANCELLED = 1
export const GRPC_UNKNOWN = 2
export const GRPC_DEADLINE_EXCEEDED = 4
export const GRPC_PERMISSION_DENIED = 7
export const GRPC_RESOURCE_EXHAUSTED = 8
export const GRPC_UNIMPLEMENTED = 12
export const GRPC_INTERNAL = 13
export const GRPC_UNAVAILABLE = 14
export const GRPC_UNAUTHENTICATED = 16

const CONTENT_TYPE = 'application/grpc'

/** Digits of a grpc-timeout: eight, by the specification. */
const TIMEOUT_DIGITS_MAX = 8

/** True for `application/grpc`, alone or with a `+format` or parameters; grpc-web is ordinary HTTP. */
export function isGrpcRequest(head: RequestHead): boolean {
  if (head.method !== 'POST') return false
  const type = head.headers.get('content-type')
  if (type === null || !type.startsWith(CONTENT_TYPE)) return false
  const next = type.charCodeAt(CONTENT_TYPE.length)
  return type.length === CONTENT_TYPE.length || next === 0x2b || next === 0x3b || next === 0x20
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
    case 15:
      return 500
    case GRPC_UNAVAILABLE:
      return 503
    case GRPC_DEADLINE_EXCEEDED:
      return 504
    default:
      return 200
  }
}

/** Milliseconds of a `grpc-timeout` header, rounded up; -1 without one, or with one that is not well formed. */
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
      return Math.ceil(amount / 1000)
    case 'n':
      return Math.ceil(amount / 1_000_000)
    default:
      return -1
  }
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
