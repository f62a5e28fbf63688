// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What a peer may do on one connection without using it: resets, frames that carry nothing, window updates that open
 * next to nothing. One by one they are allowed by RFC 9113; section 10.5 leaves it to us to say when there are too many.
 * The limits and their reasons are in limits.ts.
 */
import {
  type H2Settings,
  IDLE_FRAMES_BURST,
  IDLE_FRAMES_PER_SECOND,
  IDLE_FRAMES_PER_WORK,
  RESETS_BURST,
  RESETS_PER_SECOND,
  TINY_DATA_BURST,
  TINY_DATA_PER_SECOND,
  TINY_UPDATES_BURST,
  TINY_UPDATES_PER_SECOND,
  TINY_UPDATES_PER_WORK,
} from './limits.ts'
import { RateBudget } from './rate-budget.ts'

/** The budgets of one connection; each method is false when the budget is used up. */
export class AbuseGuard {
  /** What was done for the peer: streams opened, and DATA sent that was not cut by its windows. */
  work: number
  private readonly resets: RateBudget
  private readonly idleFrames: RateBudget
  private readonly tinyUpdates: RateBudget
  /** Null where the peer is a proxy: what it sends was cut by applications that know nothing of each other. */
  private readonly tinyData: RateBudget | null

  /** `now` gives milliseconds. */
  constructor(settings: H2Settings, now: () => number) {
    this.work = 0
    this.resets = new RateBudget(RESETS_BURST, RESETS_PER_SECOND, 0, now)
    this.idleFrames = new RateBudget(IDLE_FRAMES_BURST, IDLE_FRAMES_PER_SECOND, IDLE_FRAMES_PER_WORK, now)
    this.tinyUpdates = new RateBudget(TINY_UPDATES_BURST, TINY_UPDATES_PER_SECOND, TINY_UPDATES_PER_WORK, now)
    this.tinyData =
      settings.boundsTinyData === true ? new RateBudget(TINY_DATA_BURST, TINY_DATA_PER_SECOND, 0, now) : null
  }

  /** A stream was reset by the peer before it was answered, or by us for what the peer did. */
  takeReset(): boolean {
    return this.resets.take(0)
  }

  /** A frame that carries nothing. */
  takeIdleFrame(): boolean {
    return this.idleFrames.take(this.work)
  }

  /** A window update of next to nothing, or for a stream that is over. */
  takeTinyUpdate(): boolean {
    return this.tinyUpdates.take(this.work)
  }

  /** A DATA frame with next to nothing in it. */
  takeTinyData(): boolean {
    return this.tinyData === null || this.tinyData.take(0)
  }
}
