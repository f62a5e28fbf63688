/**
 * A data worker's sign of life, from its event loop: for the programs in the kernel, which give a silent worker no
 * connections, and for the main thread, which says so and in the end replaces it. See worker-watch.ts.
 */
import type { HeartbeatMap } from '../kernel/maps.ts'
import type { VitalSigns } from './vital-signs.ts'

/** Beats of one worker. */
export class Heartbeat {
  private readonly beats: Int32Array
  private readonly index: number
  private map: HeartbeatMap | null
  private readonly slot: number
  private readonly vitals: VitalSigns

  /**
   * `beats` is shared with the main thread, one count per worker; `map` is the kernel's, if there is one, where the worker
   * has `slot`.
   */
  constructor(beats: Int32Array, index: number, map: HeartbeatMap | null, slot: number, vitals: VitalSigns) {
    this.beats = beats
    this.index = index
    this.map = map
    this.slot = slot
    this.vitals = vitals
  }

  /** The kernel is told no more: the slot may be another agent's by now. */
  leaveKernel(): void {
    this.map = null
  }

  beat(): void {
    Atomics.add(this.beats, this.index, 1)
    // CLOCK_MONOTONIC, which is what the programs compare it with.
    const nowNs = process.hrtime.bigint()
    this.map?.beat(this.slot, nowNs)
    this.vitals.workerBeat(nowNs)
  }
}
