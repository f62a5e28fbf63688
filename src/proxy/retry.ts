// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * When a failed try is worth another one, and after how long. Conditions are one bit mask, made once per route.
 *
 * Only what an upstream really answered counts as a status; a connection that failed or was reset is judged by the
 * other questions, although the client would have got a 503. Once a response has begun nothing is ever retried. How
 * many retries a cluster bears at once is ClusterState's matter (`retriesMax`).
 */
import type { HeaderList } from '../http/headers.ts'
import type { Retry, RetryCondition } from '../model/route.ts'
import { GRPC_DEADLINE_EXCEEDED } from './grpc.ts'

const ON_5XX = 1
const ON_GATEWAY_ERROR = 2
const ON_RESET = 4
const ON_RESET_BEFORE_REQUEST = 8
const ON_CONNECT_FAILURE = 16
const ON_RETRIABLE_4XX = 32
const ON_REFUSED_STREAM = 64
const ON_GRPC = 128

const MASK_BY_CONDITION: Readonly<Record<RetryCondition, number>> = {
  '5xx': ON_5XX,
  'gateway-error': ON_GATEWAY_ERROR,
  reset: ON_RESET,
  'reset-before-request': ON_RESET_BEFORE_REQUEST,
  'connect-failure': ON_CONNECT_FAILURE,
  'retriable-4xx': ON_RETRIABLE_4XX,
  'refused-stream': ON_REFUSED_STREAM,
  cancelled: ON_GRPC,
  'deadline-exceeded': ON_GRPC,
  internal: ON_GRPC,
  'resource-exhausted': ON_GRPC,
  unavailable: ON_GRPC,
}

/** True for a condition that users can name. */
export function isRetryCondition(name: string): name is RetryCondition {
  return Object.hasOwn(MASK_BY_CONDITION, name)
}

/** gRPC status codes that can be asked for. */
const GRPC_STATUS_BY_CONDITION: Readonly<Partial<Record<RetryCondition, number>>> = {
  cancelled: 1,
  'deadline-exceeded': 4,
  'resource-exhausted': 8,
  internal: 13,
  unavailable: 14,
}

/** Longest back-off as a multiple of the base, as in Envoy: beyond it waiting helps nobody who still waits. */
const BACKOFF_FACTOR_MAX = 10

/** Longest pushback of a server that is waited for here; with a longer one the answer goes to the client. */
const PUSHBACK_MS_MAX = 10_000

/**
 * How long a gRPC server asks to wait before another try (`grpc-retry-pushback-ms`), milliseconds; 0 when it does not
 * ask, -1 when there is to be none. gRPC's retry design has this for clients; a proxy that retries is one.
 */
export function pushbackMsOf(headers: HeaderList): number {
  const text = headers.get('grpc-retry-pushback-ms')
  if (text === null) return 0
  let waitMs = text === '' ? -1 : 0
  for (let i = 0; i < text.length && waitMs >= 0; i++) {
    const digit = text.charCodeAt(i) - 48
    waitMs = digit < 0 || digit > 9 ? -1 : waitMs * 10 + digit
  }
  return waitMs <= PUSHBACK_MS_MAX ? waitMs : -1
}

/** When a request is tried again, compiled from its route. */
export class RetryPolicy {
  /** Retries after the first try; 0 is none. */
  readonly attempts: number
  /** 0 is no limit of its own. */
  readonly perTryTimeoutMs: number
  readonly avoidsPreviousHosts: boolean
  /** No connection could be made. */
  readonly shouldRetryConnectFailure: boolean
  /** The try took longer than `perTryTimeoutMs`. */
  readonly shouldRetryTimeout: boolean
  private readonly rule: Retry
  private readonly mask: number
  private readonly grpcMask: number
  private readonly statuses: readonly number[]
  private readonly backoffBaseMs: number

  private constructor(retry: Retry) {
    let mask = 0
    let grpcMask = 0
    for (const condition of retry.on) {
      mask |= MASK_BY_CONDITION[condition] ?? 0
      const status = GRPC_STATUS_BY_CONDITION[condition]
      if (status !== undefined) grpcMask |= 1 << status
    }
    const anyFailure = ON_5XX | ON_GATEWAY_ERROR | ON_RESET
    this.shouldRetryTimeout = (mask & anyFailure) !== 0
    // A gRPC upstream is told the limit of its try, and may see before us that it is over.
    if (this.shouldRetryTimeout && (retry.perTryTimeoutMs ?? 0) > 0) grpcMask |= 1 << GRPC_DEADLINE_EXCEEDED
    this.rule = retry
    this.attempts = Math.max(0, retry.attempts)
    this.perTryTimeoutMs = retry.perTryTimeoutMs ?? 0
    this.avoidsPreviousHosts = retry.avoidsPreviousHosts
    this.mask = mask
    this.grpcMask = grpcMask
    this.statuses = retry.statuses
    this.backoffBaseMs = Math.max(1, retry.backoffBaseMs)
    this.shouldRetryConnectFailure = (mask & (anyFailure | ON_RESET_BEFORE_REQUEST | ON_CONNECT_FAILURE)) !== 0
  }

  static compile(retry: Retry): RetryPolicy {
    return new RetryPolicy(retry)
  }

  /** The same policy with that many retries, that time-out for each try, and with more conditions and statuses. */
  with(
    attempts: number,
    perTryTimeoutMs: number,
    on: readonly RetryCondition[],
    statuses: readonly number[],
  ): RetryPolicy {
    const { rule } = this
    return new RetryPolicy({
      attempts,
      perTryTimeoutMs,
      on: rule.on.concat(on),
      statuses: rule.statuses.concat(statuses),
      backoffBaseMs: rule.backoffBaseMs,
      avoidsPreviousHosts: rule.avoidsPreviousHosts,
    })
  }

  /** `grpcStatus` is -1 when the answer has none (yet). */
  shouldRetryStatus(status: number, grpcStatus: number): boolean {
    if (status >= 500) {
      if ((this.mask & ON_5XX) !== 0 && status < 600) return true
      if ((this.mask & ON_GATEWAY_ERROR) !== 0 && status >= 502 && status <= 504) return true
    }
    if (status === 409 && (this.mask & ON_RETRIABLE_4XX) !== 0) return true
    if (grpcStatus > 0 && grpcStatus < 31 && (this.grpcMask & (1 << grpcStatus)) !== 0) return true
    return this.statuses.length > 0 && this.statuses.includes(status)
  }

  /** The upstream broke the exchange off. `wasProcessed` is false when it certainly did not act on the request. */
  shouldRetryReset(wasProcessed: boolean, hasResponseStarted: boolean): boolean {
    if (hasResponseStarted) return false
    if ((this.mask & (ON_5XX | ON_GATEWAY_ERROR | ON_RESET)) !== 0) return true
    return !wasProcessed && (this.mask & (ON_REFUSED_STREAM | ON_RESET_BEFORE_REQUEST)) !== 0
  }

  /** False when a try that the upstream may have acted on is never tried again, however it ends. */
  mayRetryProcessed(isGrpc: boolean): boolean {
    if (this.attempts === 0) return false
    if ((this.mask & (ON_5XX | ON_GATEWAY_ERROR | ON_RESET | ON_RETRIABLE_4XX)) !== 0) return true
    return this.statuses.length > 0 || (isGrpc && this.grpcMask !== 0)
  }

  /**
   * Milliseconds before retry number `attempt` (1 is the first): the base doubled each time, capped, and up to half as
   * much again. Never less than the base, which users write as a minimum. `random` is in [0, 1).
   */
  backoffMs(attempt: number, random: number): number {
    const factor = Math.min(BACKOFF_FACTOR_MAX, 2 ** Math.max(0, attempt - 1))
    return Math.round(this.backoffBaseMs * factor * (1 + random / 2))
  }
}

/** RFC 9110 section 9.2.2: repeating such a request does no more than sending it once. */
export function isIdempotent(method: string): boolean {
  return method === 'GET' || method === 'HEAD' || method === 'OPTIONS' || method === 'PUT' || method === 'DELETE'
}
