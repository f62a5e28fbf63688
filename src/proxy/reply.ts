/** Replies that the proxy makes itself: one place that turns a failure into status, flag, body and headers. */
import {
  FLAG_DENIED,
  FLAG_FAULT_INJECTED,
  FLAG_NO_CLUSTER,
  FLAG_NO_HEALTHY_UPSTREAM,
  FLAG_NO_ROUTE,
  FLAG_NONE,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  FLAG_UPSTREAM_OVERFLOW,
  FLAG_UPSTREAM_TIMEOUT,
  type Flag,
} from '../base/errors.ts'
import type { ServerStream } from '../http/codec.ts'
import { HeaderList } from '../http/headers.ts'
import { encodeGrpcMessage, GRPC_DEADLINE_EXCEEDED, grpcStatusFor } from './grpc.ts'

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
export const REPLY_NO_ACTION: Reply = { status: 500, flag: FLAG_NO_ROUTE, body: 'the route names no destination' }
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
export const REPLY_TIMEOUT: Reply = { status: 504, flag: FLAG_UPSTREAM_TIMEOUT, body: 'upstream request timeout' }
/** The client's own deadline (grpc-timeout) is over. */
export const REPLY_DEADLINE: Reply = {
  status: 504,
  flag: FLAG_UPSTREAM_TIMEOUT,
  body: 'deadline exceeded',
  grpcStatus: GRPC_DEADLINE_EXCEEDED,
}

/** The head of an injected gRPC status: HTTP 200, and the status in `grpcHeaders`. */
export const GRPC_FAULT_REPLY: Reply = { status: 200, flag: FLAG_FAULT_INJECTED, body: '' }

/** The head of every other answer to a gRPC client that the proxy makes; the status is in `grpcHeaders`. */
export const GRPC_REPLY: Reply = { status: 200, flag: FLAG_NONE, body: '' }

/** A trailers-only gRPC answer (gRPC over HTTP/2, "Responses"): the status is among the headers. */
export function grpcHeaders(status: number, message: string): HeaderList {
  return HeaderList.of([
    ['content-type', 'application/grpc'],
    ['grpc-status', String(status)],
    ['grpc-message', encodeGrpcMessage(message)],
  ])
}

/** What a gRPC client is told instead of `reply`. */
export function grpcStatusOfReply(reply: Reply): number {
  return reply.grpcStatus ?? grpcStatusFor(reply.status)
}

/** The trailers of a gRPC response that has begun and ends badly. */
export function grpcTrailers(status: number, message: string): HeaderList {
  return HeaderList.of([
    ['grpc-status', String(status)],
    ['grpc-message', encodeGrpcMessage(message)],
  ])
}

/** Why a decision said no, for the log. */
export function denialText(decision: { readonly policy: string }): string {
  return decision.policy === '' ? 'denied: no ALLOW policy matches' : `denied by policy ${decision.policy}`
}

/** The reply of an injected abort. */
export function faultReply(status: number): Reply {
  return { status, flag: FLAG_FAULT_INJECTED, body: 'fault filter abort' }
}

/** The reply of a route's own direct response. */
export function directReply(status: number, body: string): Reply {
  return { status, flag: FLAG_NONE, body }
}

const encoder = new TextEncoder()

/** Writes a whole response; returns the bytes of its body. The stream must not have answered yet. */
export function writeReply(stream: ServerStream, reply: Reply, headers: HeaderList | null): number {
  const body = encoder.encode(reply.body)
  const list = headers ?? new HeaderList()
  if (body.length > 0 && !list.has('content-type')) list.set('content-type', 'text/plain')
  stream.writeHead({ status: reply.status, headers: list, bodyLength: body.length })
  if (body.length > 0) stream.writeBody(body, 0, body.length)
  stream.end(null)
  return body.length
}
