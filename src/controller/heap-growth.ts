/**
 * How far the garbage of a controller may grow. By itself V8 lets a heap become several times as large as what lives in it
 * before it looks, when the machine has the memory: a controller that keeps 90 MB for 10,000 pods took 660.
 */
import { setFlagsFromString } from 'node:v8'

/**
 * Garbage beside what lives, per cent of it. 50: with 10,000 pods the process stays a hundred megabytes smaller, and what
 * more frequent collections cost, which run beside the program for the most part, is lost in what a change costs.
 */
const GARBAGE_PERCENT_MAX = 50

/** For the whole process, from its next collection on. */
export function boundHeapGrowth(): void {
  setFlagsFromString(`--heap-growing-percent=${GARBAGE_PERCENT_MAX}`)
}
