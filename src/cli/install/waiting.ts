/** Waiting for a cluster: asked again and again, until it is so, the time is over, or the user ends it. */
import { setTimeout as delay } from 'node:timers/promises'
import { WeftError } from '../../base/errors.ts'
import { KubernetesError } from '../../kubernetes/api.ts'

/** Between the first two looks, and the longest. Pods take seconds; the API server does not notice one question a second. */
const LOOK_MS_FIRST = 100
const LOOK_MS_MAX = 1000

export interface WaitLimits {
  /** On the clock of performance.now(). */
  readonly deadlineMs: number
  readonly signal: AbortSignal
}

export function limitsOf(timeoutMs: number, signal: AbortSignal): WaitLimits {
  return { deadlineMs: performance.now() + timeoutMs, signal }
}

/**
 * Calls `look` until it returns something else than null. An API server that is away for a moment is waited for. Rejects
 * with WEFT_TIMEOUT, `missing` saying what did not come about.
 */
export async function until<T>(limits: WaitLimits, look: () => Promise<T | null>, missing: () => string): Promise<T> {
  const { deadlineMs, signal } = limits
  for (let lookMs = LOOK_MS_FIRST; ; lookMs = Math.min(lookMs * 2, LOOK_MS_MAX)) {
    signal.throwIfAborted()
    let unreachable: KubernetesError | null = null
    try {
      const found = await look()
      if (found !== null) return found
    } catch (error) {
      if (!(error instanceof KubernetesError && (error.isUnreachable || error.status >= 500))) throw error
      unreachable = error
    }
    if (performance.now() + lookMs > deadlineMs) {
      const text = unreachable === null ? missing() : unreachable.message
      throw new WeftError('WEFT_TIMEOUT', `the time is over: ${text}`)
    }
    await delay(lookMs, undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}
