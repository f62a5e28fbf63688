/**
 * The errors an operator may meet, each with a stable code.
 *
 * A code is never reused for another meaning. Data-path failures also carry the response flag that goes to the access
 * log and the HTTP status of the local reply, so that log and reply cannot disagree.
 */

/** Response flags, with Envoy's letters where one exists (access log field `response_flags`). */
export const FLAG_NONE = '-'
export const FLAG_UPSTREAM_CONNECT = 'UF'
export const FLAG_NO_HEALTHY_UPSTREAM = 'UH'
export const FLAG_UPSTREAM_OVERFLOW = 'UO'
export const FLAG_UPSTREAM_RETRY_LIMIT = 'URX'
export const FLAG_NO_ROUTE = 'NR'
export const FLAG_NO_CLUSTER = 'NC'
export const FLAG_DOWNSTREAM_CLOSED = 'DC'
export const FLAG_UPSTREAM_CLOSED = 'UC'
export const FLAG_UPSTREAM_TIMEOUT = 'UT'
export const FLAG_UPSTREAM_PROTOCOL = 'UPE'
export const FLAG_DOWNSTREAM_PROTOCOL = 'DPE'
export const FLAG_FAULT_INJECTED = 'FI'
export const FLAG_DELAY_INJECTED = 'DI'
export const FLAG_DENIED = 'UAEX'
export const FLAG_STREAM_IDLE_TIMEOUT = 'SI'
/** How a request or connection ended, as access logs and metrics name it. */
export type Flag =
  | typeof FLAG_NONE
  | typeof FLAG_UPSTREAM_CONNECT
  | typeof FLAG_NO_HEALTHY_UPSTREAM
  | typeof FLAG_UPSTREAM_OVERFLOW
  | typeof FLAG_UPSTREAM_RETRY_LIMIT
  | typeof FLAG_NO_ROUTE
  | typeof FLAG_NO_CLUSTER
  | typeof FLAG_DOWNSTREAM_CLOSED
  | typeof FLAG_UPSTREAM_CLOSED
  | typeof FLAG_UPSTREAM_TIMEOUT
  | typeof FLAG_UPSTREAM_PROTOCOL
  | typeof FLAG_DOWNSTREAM_PROTOCOL
  | typeof FLAG_FAULT_INJECTED
  | typeof FLAG_DELAY_INJECTED
  | typeof FLAG_DENIED
  | typeof FLAG_STREAM_IDLE_TIMEOUT

/**
 * The catalogue of codes. Each names what failed; the message of the error says to whom and what to do about it.
 */
export type ErrorCode =
  | 'WEFT_CONFIG' // a flag, variable or file has a bad value
  | 'WEFT_UNSUPPORTED' // this machine or kernel cannot do it
  | 'WEFT_SYSCALL' // a system call failed; `cause` has errno and syscall
  | 'WEFT_BPF' // loading, attaching or updating an eBPF object failed; may carry the verifier log
  | 'WEFT_CERTIFICATE' // a certificate, key or bundle is not usable
  | 'WEFT_TLS' // a TLS handshake failed
  | 'WEFT_PEER_IDENTITY' // the peer proved an identity other than the expected one
  | 'WEFT_CONTROLLER' // the controller refused or cannot be reached
  | 'WEFT_KUBERNETES' // the Kubernetes API server refused or cannot be reached
  | 'WEFT_HANDOVER' // another agent runs with the same state directory and does not give way
  | 'WEFT_RESOURCE' // a resource on the wire is not valid
  | 'WEFT_OBJECT' // a user's YAML object is not valid
  | 'WEFT_CONNECT' // an upstream refused, was unreachable or too slow to connect
  | 'WEFT_RESET' // the peer reset the connection
  | 'WEFT_CLOSED' // the connection was closed under an exchange
  | 'WEFT_TIMEOUT'
  | 'WEFT_LIMIT' // a stated limit was exceeded
  | 'WEFT_PROTOCOL' // the peer broke HTTP or HBONE rules

/** An error with a code. `message` is one sentence for the operator: what happened, to whom, what to do. */
export class WeftError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'WeftError'
    this.code = code
  }
}

/** The text of anything thrown, with its causes, on one line. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const text = error.message === '' ? error.name : error.message
  return error.cause === undefined ? text : `${text}: ${describeError(error.cause)}`
}
