/** Replies that the proxy makes itself: one place that turns a failure into status, flag, body and headers. */
import {
  FLAG_DENIED,
  FLAG_DOWNSTREAM_PROTOCOL,
  FLAG_FAULT_INJECTED,
  FLAG_NO_CLUSTER,
  FLAG_NO_HEALTHY_UPSTREAM,
  FLAG_NO_ROUTE,
  FLAG_NONE,
  FLAG_STREAM_IDLE_TIMEOUT,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  FLAG_UPSTREAM_OVERFLOW,
  FLAG_UPSTREAM_PROTOCOL,
  FLAG_UPSTREAM_TIMEOUT,
  type Flag,
} from '../base/errors.ts'
import type { ServerStream } from '../http/codec.ts'
import { HeaderList } from '../http/headers.ts'
import {
  encodeGrpcMessage,
  GRPC_DEADLINE_EXCEEDED,
  GRPC_UNAVAILABLE,
  grpcStatusFor,
  grpcStatusOfReset,
  httpReplyStatusFor,
} from './grpc.ts'

/** What a local reply says, and why; the access log gets the same flag and details. */
export interface Reply {
  readonly status: number
  readonly flag: Flag
  readonly body: string
  /** What a gRPC client is told, where the mapping of `status` does not fit. */
  readonly grpcStatus?: number
}

export const REPLY_DENIED: Reply = { status: 403, flag: FLAG_DENIED, body: 'RBAC: access denied' }
export const REPLY_NO_ROUTE: Reply = { status: 404, flag: FLAG_NO_ROUTE, body: 'no route matches this request' }
/** To gRPC clients a rule without a valid destination is a service that is not there (GRPCRoute, backendRefs). */
export const REPLY_NO_ACTION: Reply = {
  status: 500,
  flag: FLAG_NO_ROUTE,
  body: 'the route names no destination',
  grpcStatus: GRPC_UNAVAILABLE,
}
export const REPLY_NO_CLUSTER: Reply = {
  status: 503,
  flag: FLAG_NO_CLUSTER,
  body: 'the route names a service or subset that does not exist',
}
export const REPLY_NO_ENDPOINT: Reply = { status: 503, flag: FLAG_NO_HEALTHY_UPSTREAM, body: 'no healthy upstream' }
export const REPLY_OVERFLOW: Reply = {
  status: 503,
  flag: FLAG_UPSTREAM_OVERFLOW,
  body: 'upstream overflow: a limit of the connection pool is reached',
}
export const REPLY_CONNECT_FAILED: Reply = {
  status: 503,
  flag: FLAG_UPSTREAM_CONNECT,
  body: 'upstream connect error: connection failure',
}
export const REPLY_UPSTREAM_RESET: Reply = {
  status: 503,
  flag: FLAG_UPSTREAM_CLOSED,
  body: 'upstream connect error: the connection ended before a response',
}
export const REPLY_UPSTREAM_PROTOCOL: Reply = {
  status: 502,
  flag: FLAG_UPSTREAM_PROTOCOL,
  body: 'upstream connect error: the upstream broke the rules of HTTP',
}
/** The upstream took no byte of the request's body for minutes. */
export const REPLY_STALLED: Reply = {
  status: 504,
  flag: FLAG_STREAM_IDLE_TIMEOUT,
  body: 'upstream stream idle timeout',
}
/**
 * gRPC clients are told DEADLINE_EXCEEDED, not what 504 maps to: the upstream knows the deadline too, and it must not
 * matter which of the two clocks strikes first.
 */
export const REPLY_TIMEOUT: Reply = {
  status: 504,
  flag: FLAG_UPSTREAM_TIMEOUT,
  body: 'upstream request timeout',
  grpcStatus: GRPC_DEADLINE_EXCEEDED,
}
/** The client's own deadline (grpc-timeout) is over. */
export const REPLY_DEADLINE: Reply = { ...REPLY_TIMEOUT, body: 'deadline exceeded' }
/** RFC 9110 section 15.6.6, and what gRPC servers say. */
export const REPLY_NEEDS_HTTP2: Reply = {
  status: 505,
  flag: FLAG_DOWNSTREAM_PROTOCOL,
  body: 'gRPC needs HTTP/2, with prior knowledge',
}

/** By error code plus one: those of HTTP/2, and one more for all that nobody has defined. */
const RESET_REPLIES: readonly Reply[] = Array.from({ length: 16 }, (_, index) => ({
  ...REPLY_UPSTREAM_RESET,
  grpcStatus: grpcStatusOfReset(index - 1),
}))

/** What ended the exchange: a breach of the rules, a stall, an error code of HTTP/2, or a lost connection (-1). */
export function resetReply(flag: Flag, code: number): Reply {
  if (flag === FLAG_UPSTREAM_PROTOCOL) return REPLY_UPSTREAM_PROTOCOL
  if (flag === FLAG_STREAM_IDLE_TIMEOUT) return REPLY_STALLED
  return RESET_REPLIES[Math.min(code + 1, RESET_REPLIES.length - 1)]!
}

/** What a gRPC client is told instead of `reply`. */
export function grpcStatusOfReply(reply: Reply): number {
  return reply.grpcStatus ?? grpcStatusFor(reply.status)
}

/** The trailers of a gRPC response that has begun and ends badly. */
export function grpcTrailers(reply: Reply): HeaderList {
  const trailers = new HeaderList()
  setGrpcStatus(trailers, reply)
  return trailers
}

/** Writes `reply` for a gRPC client: trailers-only, a status among the headers of a 200 (gRPC over HTTP/2, "Responses"). */
export function writeGrpcReply(
  stream: ServerStream,
  reply: Reply,
  headers: HeaderList | null,
  contentType: string,
): void {
  const list = headers ?? new HeaderList()
  list.set('content-type', contentType)
  setGrpcStatus(list, reply)
  stream.writeHead({ status: 200, headers: list, bodyLength: 0 })
  stream.end(null)
}

function setGrpcStatus(list: HeaderList, reply: Reply): void {
  list.set('grpc-status', String(grpcStatusOfReply(reply)))
  const message = reply.body === '' ? `answered by a rule with HTTP status ${reply.status}` : reply.body
  list.set('grpc-message', encodeGrpcMessage(message))
}

/** Why a decision said no, for the log. */
export function denialText(decision: { readonly policy: string }): string {
  return decision.policy === '' ? 'denied: no ALLOW policy matches' : `denied by policy ${decision.policy}`
}

/** The reply of an injected abort. */
export function faultReply(status: number): Reply {
  return { status, flag: FLAG_FAULT_INJECTED, body: 'fault filter abort' }
}

/** The same where the rule names a gRPC status. */
export function grpcFaultReply(grpcStatus: number): Reply {
  return { ...faultReply(httpReplyStatusFor(grpcStatus)), grpcStatus }
}

/** The reply of a route's own direct response. */
export function directReply(status: number, body: string): Reply {
  return { status, flag: FLAG_NONE, body }
}

const encoder = new TextEncoder()

/** Tells a client that a limit was reached, as Envoy does: trying again at once would be no help. */
const OVERLOADED = 'x-envoy-overloaded'

/** Writes a whole response; returns the bytes of its body. The stream must not have answered yet. */
export function writeReply(stream: ServerStream, reply: Reply, headers: HeaderList | null): number {
  const body = encoder.encode(reply.body)
  const list = headers ?? new HeaderList()
  if (body.length > 0 && !list.has('content-type')) list.set('content-type', 'text/plain')
  if (reply.flag === FLAG_UPSTREAM_OVERFLOW) list.append(OVERLOADED, 'true')
  stream.writeHead({ status: reply.status, headers: list, bodyLength: body.length })
  if (body.length > 0) stream.writeBody(body, 0, body.length)
  stream.end(null)
  return body.length
}
