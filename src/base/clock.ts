/**
 * Wall clock and timers of the control side, injected so that tests need not wait.
 *
 * For the data path see timers.ts: this one allocates per timer and is for things that happen a few times a minute.
 */

/** Time as the program sees it; tests have one of their own. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Calls `callback` once after `delayMs`; the returned function cancels it (no effect when it has run). */
  after(delayMs: number, callback: () => void): () => void
}

/** Longest delay that setTimeout takes: longer ones would fire at once. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1

/** The real clock. Delays may be of any length. */
export const systemClock: Clock = {
  now: () => Date.now(),
  after(delayMs, callback) {
    let timer: NodeJS.Timeout
    const start = (leftMs: number): void => {
      const pieceMs = Math.min(leftMs, TIMEOUT_MS_MAX)
      timer = setTimeout(() => (leftMs > pieceMs ? start(leftMs - pieceMs) : callback()), pieceMs)
    }
    start(Math.max(0, delayMs))
    return () => clearTimeout(timer)
  },
}
