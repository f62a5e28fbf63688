/**
 * Signs of life that all threads of an agent share: the data workers' latest heartbeat, the main thread's, and how often
 * and how long no data worker beat. Without a lock: the worker whose heartbeat ends a silence of all is the one that finds
 * the old time, and it alone.
 *
 * A silence is counted when it is over, by who ends it. So a stopped process (SIGSTOP) counts it as well, and a blocked
 * main thread does not hide it.
 */
import { SILENT_NS } from '../kernel/unserved.ts'

// Cells of the shared array.
const WORKER_BEAT = 0
const ABSENCES = 1
const ABSENT_NS = 2
const MAIN_BEATS = 3
const MAIN_REPORTED = 4
const CELLS = 5

/** Times during which no data worker beat for longer than the kernel waits, since the start. */
export interface Silences {
  readonly count: bigint
  readonly ns: bigint
}

/** See the head of the file. Times are CLOCK_MONOTONIC's, in nanoseconds. */
export class VitalSigns {
  readonly buffer: SharedArrayBuffer
  private readonly cells: BigInt64Array

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(CELLS * BigInt64Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer
    this.cells = new BigInt64Array(buffer)
  }

  /** A data worker's event loop runs. */
  workerBeat(nowNs: bigint): void {
    const previousNs = Atomics.exchange(this.cells, WORKER_BEAT, nowNs)
    const silentNs = nowNs - previousNs
    if (previousNs === 0n || silentNs <= SILENT_NS) return
    Atomics.add(this.cells, ABSENT_NS, silentNs)
    Atomics.add(this.cells, ABSENCES, 1n)
  }

  /** 0 before the first one. */
  get workerBeatNs(): bigint {
    return Atomics.load(this.cells, WORKER_BEAT)
  }

  get silences(): Silences {
    // The count is written last: whoever sees it sees the time that belongs to it.
    const count = Atomics.load(this.cells, ABSENCES)
    return { count, ns: Atomics.load(this.cells, ABSENT_NS) }
  }

  /** The main thread's event loop runs. True when a data worker has reported meanwhile that it did not. */
  mainBeat(): boolean {
    Atomics.add(this.cells, MAIN_BEATS, 1n)
    return Atomics.exchange(this.cells, MAIN_REPORTED, 0n) !== 0n
  }

  get mainBeats(): bigint {
    return Atomics.load(this.cells, MAIN_BEATS)
  }

  /** True for one data worker: it is the one to report that the main thread stands still. */
  claimMainReport(): boolean {
    return Atomics.compareExchange(this.cells, MAIN_REPORTED, 0n, 1n) === 0n
  }
}
