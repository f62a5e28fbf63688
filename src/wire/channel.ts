/**
 * What both ends of the control channel share: credentials, limits, status codes, and how a peer is shown to us.
 *
 * Mutual TLS 1.3 on every connection. Who the peer is comes from its certificate and is judged by the caller
 * (controller: a node of the mesh; agent: the controller and nobody else), never from what a message says. One exception,
 * where the controller allows it: an agent without a certificate shows a token to get its first one.
 */
import { logVerbosity, setLogVerbosity, status } from '@grpc/grpc-js'

// gRPC would write lines of its own to standard error; whatever fails comes to us as an error all the same.
setLogVerbosity(logVerbosity.NONE)

/** PEM texts of one end. */
export interface Credential {
  /** Leaf first, then intermediates. */
  readonly certificateChain: string
  readonly key: string
  /** Trusted roots. */
  readonly bundle: string
}

/** What an agent knows before it has a certificate: whom to believe. */
export type TrustOnly = Pick<Credential, 'bundle'>

/** Longest bearer token. 8 KiB: a ServiceAccount's has about 1 200 characters, and headers end at 64 KiB. */
export const BEARER_TOKEN_LENGTH_MAX = 8_192

/**
 * Largest message. 16 MiB: an agent that resumes names every resource it has with its version in one message, about
 * 100 bytes each, which leaves room for 150 000 resources.
 */
export const MESSAGE_BYTES_MAX = 16 * 1_048_576

/** A peer that stays silent is pinged after this time. 20 s + 10 s: a dead path is noticed within half a minute. */
export const KEEPALIVE_MS = 20_000
export const KEEPALIVE_TIMEOUT_MS = 10_000

/** A call was refused by us or by the peer; `status` is its gRPC status code. */
export class CallError extends Error {
  readonly status: number

  constructor(code: number, message: string) {
    super(message)
    this.name = 'CallError'
    this.status = code
  }
}

export const STATUS_INVALID_ARGUMENT = status.INVALID_ARGUMENT
export const STATUS_PERMISSION_DENIED = status.PERMISSION_DENIED
export const STATUS_INTERNAL = status.INTERNAL
export const STATUS_UNAVAILABLE = status.UNAVAILABLE
export const STATUS_UNAUTHENTICATED = status.UNAUTHENTICATED
export const STATUS_DEADLINE_EXCEEDED = status.DEADLINE_EXCEEDED
export const STATUS_RESOURCE_EXHAUSTED = status.RESOURCE_EXHAUSTED

/** Name of a gRPC status code, as logs and operators know it. */
export function statusName(code: number): string {
  return status[code] ?? `status ${code}`
}
