// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * A token bucket for frames that are harmless one by one and an attack by the thousand. It refills with time, and with
 * work: what a peer may do more often the more it really uses the connection.
 */
export class RateBudget {
  private readonly burst: number
  private readonly perMs: number
  private readonly perWork: number
  private readonly now: () => number
  private tokens: number
  private refilledAt: number
  private workAt: number

  /** `now` gives milliseconds; it is only called once the burst is half used up. */
  constructor(burst: number, perSecond: number, perWork: number, now: () => number) {
    this.burst = burst
    this.perMs = perSecond / 1000
    this.perWork = perWork
    this.now = now
    this.tokens = burst
    this.refilledAt = now()
    this.workAt = 0
  }

  /** Takes one; false when there is none left. `work` is the amount done since the connection began. */
  take(work: number): boolean {
    if (this.tokens < this.burst / 2) {
      const now = this.now()
      const refill = (now - this.refilledAt) * this.perMs + (work - this.workAt) * this.perWork
      this.tokens = Math.min(this.burst, this.tokens + refill)
      this.refilledAt = now
      this.workAt = work
    }
    if (this.tokens < 1) return false
    this.tokens--
    return true
  }
}
