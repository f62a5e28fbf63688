/** Capped exponential backoff with full jitter. */

/** Bounds of the delays. */
export interface BackoffSettings {
  /** First delay, milliseconds. */
  readonly baseMs: number
  /** Longest delay, milliseconds. */
  readonly maxMs: number
}

/** The delays of one thing that is tried again. */
export class Backoff {
  private readonly settings: BackoffSettings
  private readonly random: () => number
  private attempt = 0

  /** `random` returns [0, 1); tests inject it. */
  constructor(settings: BackoffSettings, random: () => number = Math.random) {
    this.settings = settings
    this.random = random
  }

  /** Delay before the next attempt, milliseconds: between half and all of base * 2^attempt, capped. */
  nextMs(): number {
    // 2^30 is beyond every cap in use and far from overflow.
    const full = Math.min(this.settings.maxMs, this.settings.baseMs * 2 ** Math.min(this.attempt, 30))
    this.attempt++
    return Math.round(full / 2 + (this.random() * full) / 2)
  }

  /** After a success: the next delay is the base again. */
  reset(): void {
    this.attempt = 0
  }
}
