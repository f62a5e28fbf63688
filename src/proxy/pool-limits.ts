/** The limits of a cluster as one worker applies them. */
import type { PoolLimits } from '../model/service.ts'

/**
 * A worker's share of what users set for the whole proxy. Workers know nothing of each other, so each gets an equal part,
 * rounded up and at least 1: connections that spread evenly are not refused before the limit is reached. Times and
 * what concerns one connection are not shared out.
 */
export function limitsPerWorker(limits: PoolLimits, workerCount: number): PoolLimits {
  if (workerCount <= 1) return limits
  return {
    ...limits,
    connectionsMax: shareOf(limits.connectionsMax, workerCount),
    pendingRequestsMax: shareOf(limits.pendingRequestsMax, workerCount),
    requestsMax: shareOf(limits.requestsMax, workerCount),
    retriesMax: shareOf(limits.retriesMax, workerCount),
  }
}

/** True when both say the same. A new snapshot brings new objects for settings that have not changed. */
export function isSameLimits(a: PoolLimits, b: PoolLimits): boolean {
  return a === b || (Object.keys(a) as (keyof PoolLimits)[]).every((limit) => a[limit] === b[limit])
}

function shareOf(limit: number | null, workerCount: number): number | null {
  return limit === null ? null : Math.max(1, Math.ceil(limit / workerCount))
}
