// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Outlier detection of one cluster: endpoints that fail several times in a row are ejected for a while. The rules are
 * Envoy's as DestinationRule exposes them: triggers by consecutive errors only, ejection time = base x number of
 * ejections (falling again while the endpoint behaves), return at the end of an interval.
 *
 * It has no timer: `sweep` is called while something may have to return (`isArmed`), by the next pick.
 *
 * How many may be ejected: `ejectionPercentMax` of all endpoints, rounded down, but one in any case, else the default of
 * 10 % would do nothing in clusters of fewer than ten. The last one stays, unless 100 % was asked for.
 */
import type { OutlierDetection } from '../model/service.ts'
import type { Endpoint, EndpointObserver } from './endpoint.ts'

/** Longest ejection unless the base is longer, as in Envoy. */
export const EJECTION_MS_MAX = 300_000

/** Whose endpoints are watched. */
export interface OutlierOwner {
  readonly endpoints: readonly Endpoint[]
  /** Some endpoint was ejected or has returned. */
  onEjectionsChanged(): void
}

/** Ejects endpoints of one cluster that fail, and lets them back. */
export class OutlierDetector implements EndpointObserver {
  /** True while `sweep` has something to look at. */
  isArmed: boolean
  /** Ejections so far. */
  ejections: number
  /** Ejections that did not happen because enough endpoints were out. */
  ejectionsRefused: number
  private readonly settings: OutlierDetection
  private readonly owner: OutlierOwner
  private sweptAtMs: number

  constructor(settings: OutlierDetection, owner: OutlierOwner) {
    this.settings = settings
    this.owner = owner
    this.isArmed = false
    this.ejections = 0
    this.ejectionsRefused = 0
    this.sweptAtMs = 0
  }

  onSuccess(endpoint: Endpoint, _nowMs: number): void {
    endpoint.consecutive5xx = 0
    endpoint.consecutiveGatewayErrors = 0
  }

  onFailure(endpoint: Endpoint, isGatewayError: boolean, nowMs: number): void {
    const { consecutive5xx, consecutiveGatewayErrors } = this.settings
    endpoint.consecutive5xx++
    endpoint.consecutiveGatewayErrors = isGatewayError ? endpoint.consecutiveGatewayErrors + 1 : 0
    // Answers to what was sent before the ejection say nothing new.
    if (endpoint.isEjected) return
    const is5xx = consecutive5xx > 0 && endpoint.consecutive5xx >= consecutive5xx
    const isGateway = consecutiveGatewayErrors > 0 && endpoint.consecutiveGatewayErrors >= consecutiveGatewayErrors
    if (!is5xx && !isGateway) return
    endpoint.consecutive5xx = 0
    endpoint.consecutiveGatewayErrors = 0
    this.eject(endpoint, nowMs)
  }

  /** Lets endpoints return whose time is over, once per interval at most. */
  sweep(nowMs: number): void {
    const { intervalMs, baseEjectionMs } = this.settings
    const intervals = Math.floor((nowMs - this.sweptAtMs) / Math.max(1, intervalMs))
    if (intervals < 1) return
    this.sweptAtMs = nowMs
    let isArmed = false
    let hasChanged = false
    for (const endpoint of this.owner.endpoints) {
      if (endpoint.isEjected) {
        const longestMs = Math.max(EJECTION_MS_MAX, baseEjectionMs)
        if (nowMs - endpoint.ejectedAtMs >= Math.min(longestMs, baseEjectionMs * endpoint.ejectionCount)) {
          this.restore(endpoint)
          hasChanged = true
        }
      } else if (endpoint.ejectionCount > 0) {
        endpoint.ejectionCount = Math.max(0, endpoint.ejectionCount - intervals)
      }
      if (endpoint.isEjected || endpoint.ejectionCount > 0) isArmed = true
    }
    this.isArmed = isArmed
    if (hasChanged) this.owner.onEjectionsChanged()
  }

  private eject(endpoint: Endpoint, nowMs: number): void {
    if (!this.mayEject()) {
      this.ejectionsRefused++
      return
    }
    endpoint.isEjected = true
    endpoint.ejectedAtMs = nowMs
    endpoint.ejectionCount++
    this.ejections++
    // The interval runs from the first ejection: without ejections nobody counts intervals.
    if (!this.isArmed) this.sweptAtMs = nowMs
    this.isArmed = true
    this.owner.onEjectionsChanged()
  }

  private restore(endpoint: Endpoint): void {
    endpoint.isEjected = false
    endpoint.consecutive5xx = 0
    endpoint.consecutiveGatewayErrors = 0
  }

  private mayEject(): boolean {
    const { endpoints } = this.owner
    const percent = this.settings.ejectionPercentMax
    let ejected = 0
    for (const endpoint of endpoints) if (endpoint.isEjected) ejected++
    if (percent >= 100) return true
    if (percent <= 0 || ejected + 1 >= endpoints.length) return false
    return ejected === 0 || (ejected + 1) * 100 <= percent * endpoints.length
  }
}

/** True when both ask for the same, so that what was counted under one holds under the other. */
export function isSameDetection(a: OutlierDetection | null, b: OutlierDetection | null): boolean {
  if (a === null || b === null) return a === b
  return (Object.keys(a) as (keyof OutlierDetection)[]).every((key) => a[key] === b[key])
}
