/** A token bucket for frames that are harmless one by one and an attack by the thousand. */

export class RateBudget {
  private readonly burst: number
  private readonly perMs: number
  private readonly now: () => number
  private tokens: number
  private refilledAt: number

  /** `now` gives milliseconds; it is only called once the burst is half used up. */
  constructor(burst: number, perSecond: number, now: () => number) {
    this.burst = burst
    this.perMs = perSecond / 1000
    this.now = now
    this.tokens = burst
    this.refilledAt = now()
  }

  /** Takes one; false when there is none left. */
  take(): boolean {
    if (this.tokens < this.burst / 2) {
      const now = this.now()
      this.tokens = Math.min(this.burst, this.tokens + (now - this.refilledAt) * this.perMs)
      this.refilledAt = now
    }
    if (this.tokens < 1) return false
    this.tokens--
    return true
  }
}
