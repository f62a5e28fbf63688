/**
 * Watches the data workers' heartbeats from the main thread: a worker whose event loop does not run is reported, and ended
 * when it does not come back. That it gets no connections meanwhile is the kernel's doing, not ours: it must also hold
 * while this thread hangs.
 *
 *      alive --no beat for SILENT_MS--> silent --beat--> alive
 *                                       silent --no beat for STUCK_MS--> stuck: ended, a new one starts
 */
import { HEARTBEAT_MS_MAX } from '../kernel/layout.generated.ts'

/** As long as the kernel's programs wait. */
const SILENT_MS = HEARTBEAT_MS_MAX

/** A worker that is blocked for so long will not come back; its clients have given up. */
const STUCK_MS = 30_000

/** Between two looks. */
export const WATCH_INTERVAL_MS = 500

/** A look that is so late says that the whole process was stopped, and that nobody could beat. */
const LATE_MS = 2 * WATCH_INTERVAL_MS

/** Who acts on what the watch sees. */
export interface WorkerWatchOwner {
  onSilent(index: number): void
  onHeardAgain(index: number, silentMs: number): void
  /** It is ended by the owner, who will call `begin` for its successor. */
  onStuck(index: number): void
}

interface WatchedWorker {
  isWatched: boolean
  beats: number
  heardAtMs: number
  isSilent: boolean
}

/** See the head of the file. */
export class WorkerWatch {
  private readonly beats: Int32Array
  private readonly owner: WorkerWatchOwner
  private readonly workers: WatchedWorker[]
  private checkedAtMs = 0

  /** `beats` counts the heartbeats of each worker. */
  constructor(beats: Int32Array, owner: WorkerWatchOwner) {
    this.beats = beats
    this.owner = owner
    this.workers = Array.from(beats, () => ({ isWatched: false, beats: 0, heardAtMs: 0, isSilent: false }))
  }

  get silentCount(): number {
    return this.workers.filter(({ isWatched, isSilent }) => isWatched && isSilent).length
  }

  isSilent(index: number): boolean {
    return this.workers[index]!.isSilent
  }

  /** A worker serves from now on. */
  begin(index: number, nowMs: number): void {
    this.workers[index] = { isWatched: true, beats: this.beatsOf(index), heardAtMs: nowMs, isSilent: false }
  }

  /** It has ended, or is expected to. */
  end(index: number): void {
    this.workers[index]!.isWatched = false
  }

  /** To be called every WATCH_INTERVAL_MS with the time of a monotonic clock. */
  check(nowMs: number): void {
    const isLate = this.checkedAtMs > 0 && nowMs - this.checkedAtMs > WATCH_INTERVAL_MS + LATE_MS
    this.checkedAtMs = nowMs
    for (const [index, worker] of this.workers.entries()) {
      if (!worker.isWatched) continue
      const beats = this.beatsOf(index)
      if (beats !== worker.beats) this.heard(index, worker, beats, nowMs)
      else if (isLate) worker.heardAtMs = nowMs
      else this.missed(index, worker, nowMs - worker.heardAtMs)
    }
  }

  private heard(index: number, worker: WatchedWorker, beats: number, nowMs: number): void {
    const silentMs = nowMs - worker.heardAtMs
    worker.beats = beats
    worker.heardAtMs = nowMs
    if (!worker.isSilent) return
    worker.isSilent = false
    this.owner.onHeardAgain(index, silentMs)
  }

  private missed(index: number, worker: WatchedWorker, silentMs: number): void {
    if (silentMs > STUCK_MS) {
      worker.isWatched = false
      this.owner.onStuck(index)
    } else if (silentMs > SILENT_MS && !worker.isSilent) {
      worker.isSilent = true
      this.owner.onSilent(index)
    }
  }

  private beatsOf(index: number): number {
    return Atomics.load(this.beats, index)
  }
}
