// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What an app asks for one request of its own, in headers that Envoy made known: a time-out, a time-out per try, and
 * retries. They override the rules of the route, within bounds, because the route's time-outs and retries are the
 * caller's side of the matter anyway. Only a local app is listened to (forwarding-headers.ts), and the headers end here:
 * nobody further on may be steered by them.
 *
 * A value that is not well formed counts as absent, as in Envoy.
 */
import type { HeaderList } from '../http/headers.ts'
import type { RetryCondition } from '../model/route.ts'
import { isRetryCondition, type RetryPolicy } from './retry.ts'

export const TIMEOUT = 'x-envoy-upstream-rq-timeout-ms'
export const TRY_TIMEOUT = 'x-envoy-upstream-rq-per-try-timeout-ms'
export const MAX_RETRIES = 'x-envoy-max-retries'
export const RETRY_ON = 'x-envoy-retry-on'
export const RETRY_GRPC_ON = 'x-envoy-retry-grpc-on'
export const RETRIABLE_STATUSES = 'x-envoy-retriable-status-codes'

/** Longest time-out that a header may ask for (0 asks for none at all). One day: nothing waits longer by intent. */
export const OVERRIDE_TIMEOUT_MS_MAX = 86_400_000

/** Most retries that a header may ask for, unless the rule has more. 10: each multiplies the load of an outage. */
export const OVERRIDE_RETRIES_MAX = 10

/** Entries of a list that are read: there are twelve conditions, and nobody names more statuses than that. */
const LIST_ENTRIES_MAX = 16

const DIGITS_MAX = 9

/** The overrides of one request; -1 where there is none. */
export class RequestOverrides {
  /** 0 asks for no time-out. */
  readonly timeoutMs: number
  readonly tryTimeoutMs: number
  readonly retries: number
  readonly on: readonly RetryCondition[]
  readonly statuses: readonly number[]

  private constructor(
    timeoutMs: number,
    tryTimeoutMs: number,
    retries: number,
    on: readonly RetryCondition[],
    statuses: readonly number[],
  ) {
    this.timeoutMs = timeoutMs
    this.tryTimeoutMs = tryTimeoutMs
    this.retries = retries
    this.on = on
    this.statuses = statuses
  }

  /** Reads the overrides and takes them out of the headers. */
  static take(headers: HeaderList): RequestOverrides {
    const on: RetryCondition[] = []
    addConditions(take(headers, RETRY_ON), on)
    addConditions(take(headers, RETRY_GRPC_ON), on)
    const statuses: number[] = []
    addStatuses(take(headers, RETRIABLE_STATUSES), statuses)
    return new RequestOverrides(
      numberOf(take(headers, TIMEOUT)),
      numberOf(take(headers, TRY_TIMEOUT)),
      numberOf(take(headers, MAX_RETRIES)),
      on,
      statuses,
    )
  }

  /** The time-out of the whole exchange, instead of the route's. */
  timeoutOver(routeMs: number): number {
    return this.timeoutMs < 0 ? routeMs : Math.min(this.timeoutMs, OVERRIDE_TIMEOUT_MS_MAX)
  }

  /**
   * The policy with what is asked for in addition: conditions are added to the rule's, numbers replace its. `timeoutMs`
   * is that of the whole exchange, 0 for none; a time-out per try that is not below it would never be reached.
   */
  retryOver(policy: RetryPolicy, timeoutMs: number): RetryPolicy {
    const { retries, tryTimeoutMs, on, statuses } = this
    if (retries < 0 && tryTimeoutMs < 0 && on.length === 0 && statuses.length === 0) return policy
    let attempts = policy.attempts
    if (retries >= 0) attempts = Math.min(retries, Math.max(OVERRIDE_RETRIES_MAX, policy.attempts))
    else if (attempts === 0 && on.length > 0) attempts = 1
    let perTryTimeoutMs = policy.perTryTimeoutMs
    if (tryTimeoutMs >= 0) perTryTimeoutMs = timeoutMs > 0 && tryTimeoutMs >= timeoutMs ? 0 : tryTimeoutMs
    return policy.with(attempts, Math.min(perTryTimeoutMs, OVERRIDE_TIMEOUT_MS_MAX), on, statuses)
  }
}

function take(headers: HeaderList, name: string): string | null {
  const value = headers.getJoined(name)
  if (value !== null) headers.remove(name)
  return value
}

/** A decimal number of at most nine digits; -1 for anything else. */
function numberOf(text: string | null): number {
  if (text === null || text.length === 0 || text.length > DIGITS_MAX) return -1
  let number = 0
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 0x30
    if (digit < 0 || digit > 9) return -1
    number = number * 10 + digit
  }
  return number
}

function addConditions(text: string | null, conditions: RetryCondition[]): void {
  let start = 0
  for (let count = 0; text !== null && start <= text.length && count < LIST_ENTRIES_MAX; count++) {
    const end = endOfEntry(text, start)
    const name = text.slice(start, end).trim()
    if (isRetryCondition(name)) conditions.push(name)
    start = end + 1
  }
}

function addStatuses(text: string | null, statuses: number[]): void {
  let start = 0
  for (let count = 0; text !== null && start <= text.length && count < LIST_ENTRIES_MAX; count++) {
    const end = endOfEntry(text, start)
    const status = numberOf(text.slice(start, end).trim())
    if (status >= 100 && status <= 599) statuses.push(status)
    start = end + 1
  }
}

function endOfEntry(text: string, start: number): number {
  const comma = text.indexOf(',', start)
  return comma < 0 ? text.length : comma
}
