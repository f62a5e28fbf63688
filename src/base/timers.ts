/**
 * A coarse timer wheel for the data path: thousands of timeouts cost one interval of the event loop.
 *
 * Entries are intrusive (an object that needs a timeout owns its `TimerEntry` for life), so that starting and clearing
 * allocates nothing. Resolution is one tick; a timeout never fires early, and at most two ticks late.
 */

/** Tick of the wheel for idle times and keepalives: 10 wake-ups per second cost nothing. */
export const TICK_COARSE_MS = 100

/** Tick of the wheel for deadlines that users set on requests (tens of milliseconds are common). */
export const TICK_FINE_MS = 10

/** Slots of the wheel: one turn is 512 ticks; longer timeouts go round again. */
const SLOTS = 512

/** Who is called when the time is over. One object per timeout kind, no closure per timer. */
export interface TimerTarget {
  onTimer(entry: TimerEntry): void
}

/** One timeout. Not running until `TimerWheel.start`. */
export class TimerEntry {
  readonly target: TimerTarget
  /** @internal the doubly linked list of a slot */
  previous: TimerEntry | null = null
  /** @internal */
  next: TimerEntry | null = null
  /** @internal tick at which it fires; -1 when idle */
  dueTick = -1

  constructor(target: TimerTarget) {
    this.target = target
  }

  get isRunning(): boolean {
    return this.dueTick >= 0
  }
}

/** All timeouts of one resolution. Its interval runs only while there are any, and keeps no process alive. */
export class TimerWheel {
  private readonly slots: (TimerEntry | null)[] = new Array<TimerEntry | null>(SLOTS).fill(null)
  readonly tickMs: number
  private tick = 0
  private running = 0
  private interval: NodeJS.Timeout | null = null

  constructor(tickMs: number = TICK_COARSE_MS) {
    this.tickMs = tickMs
  }

  /** Ticks gone by. Counts only while an entry runs: good for telling how long something that has one was quiet. */
  get nowTick(): number {
    return this.tick
  }

  /** Starts (or restarts) `entry` to fire in `delayMs` milliseconds. A delay of 0 fires at the next tick. */
  start(entry: TimerEntry, delayMs: number): void {
    if (entry.dueTick >= 0) this.unlink(entry)
    else this.running++
    const ticks = Math.max(1, Math.ceil(delayMs / this.tickMs) + 1)
    entry.dueTick = this.tick + ticks
    const slot = entry.dueTick % SLOTS
    const first = this.slots[slot] ?? null
    entry.next = first
    if (first !== null) first.previous = entry
    this.slots[slot] = entry
    if (this.interval === null) this.interval = setInterval(() => this.advance(), this.tickMs).unref()
  }

  /** Stops `entry`; no effect when it is not running. */
  clear(entry: TimerEntry): void {
    if (entry.dueTick < 0) return
    this.unlink(entry)
    entry.dueTick = -1
    this.running--
    if (this.running === 0) this.stop()
  }

  /** Moves on by one tick and fires what is due. Programs never call it; tests do instead of waiting. */
  advance(): void {
    this.tick++
    const slot = this.tick % SLOTS
    let entry: TimerEntry | null = this.slots[slot] ?? null
    while (entry !== null) {
      const next: TimerEntry | null = entry.next
      if (entry.dueTick === this.tick) {
        this.unlink(entry)
        entry.dueTick = -1
        this.running--
        entry.target.onTimer(entry)
        // The callback may have changed this slot: begin again, what has fired is gone.
        entry = this.slots[slot] ?? null
        continue
      }
      entry = next
    }
    if (this.running === 0) this.stop()
  }

  /** Ends the interval. Entries stay linked; only for shutdown. */
  stop(): void {
    if (this.interval !== null) clearInterval(this.interval)
    this.interval = null
  }

  private unlink(entry: TimerEntry): void {
    const slot = entry.dueTick % SLOTS
    if (entry.previous !== null) entry.previous.next = entry.next
    else this.slots[slot] = entry.next
    if (entry.next !== null) entry.next.previous = entry.previous
    entry.previous = null
    entry.next = null
  }
}
