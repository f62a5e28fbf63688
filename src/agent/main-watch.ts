/**
 * Watches the main thread from a data worker. A main thread that stands still harms no connection: data workers go on with
 * the configuration, certificates and pods that they have. But nobody hears of changes, no new pod is captured, and no
 * endpoint answers, readiness included. It cannot say so itself.
 */
import { HEARTBEAT_INTERVAL_MS } from '../kernel/layout.generated.ts'
import type { VitalSigns } from './vital-signs.ts'

/** Longer than a change of a large mesh, or a full garbage collection, keeps the main thread busy. */
export const MAIN_SILENT_MS = 5000

/** To be called with every heartbeat; counting calls, not time, leaves out what the whole process was stopped for. */
const MISSED_MAX = MAIN_SILENT_MS / HEARTBEAT_INTERVAL_MS

/** One data worker's view of the main thread. */
export class MainWatch {
  private readonly vitals: VitalSigns
  private readonly onSilent: () => void
  private beats = -1n
  private missed = 0

  /** `onSilent` is called once for each time, and by one of the workers only. */
  constructor(vitals: VitalSigns, onSilent: () => void) {
    this.vitals = vitals
    this.onSilent = onSilent
  }

  /** To be called with every heartbeat of the worker. */
  check(): void {
    const beats = this.vitals.mainBeats
    if (beats !== this.beats) {
      this.beats = beats
      this.missed = 0
      return
    }
    this.missed++
    if (this.missed === MISSED_MAX && beats > 0n && this.vitals.claimMainReport()) this.onSilent()
  }
}
