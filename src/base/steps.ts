/**
 * Long work that lets others have their turn: a generator that yields wherever it may be left for a while. Who needs the
 * result at once runs it to its end; who shares an event loop with others runs it in slices.
 *
 * What such work reads must not change while it is under way, and nothing of it is in force before its end.
 */

/** Work that can be left and taken up again; its value is the result. */
export type Steps<T> = Generator<void, T, void>

/**
 * How long work holds the event loop until others have their turn, milliseconds. 10: with a second piece of work, a step
 * that is longer than it should be and the garbage collector it stays below 50, and what a turn costs is lost in it.
 */
const SLICE_MS = 10

/**
 * Values that a loop looks at between two steps. 256: of what the loops of the compiler do with one that is a millisecond
 * at most, and a step costs a tenth of a microsecond.
 */
export const STEP_VALUES = 256

/** Runs everything now. */
export function atOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
  }
}

/** Runs in slices, with a turn of the event loop between two. What takes less than a slice is done before this returns. */
export async function inSlices<T>(steps: Steps<T>, now: () => number = () => performance.now()): Promise<T> {
  let endMs = now() + SLICE_MS
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
    if (now() < endMs) continue
    await new Promise((resolve) => setImmediate(resolve))
    endMs = now() + SLICE_MS
  }
}
