/**
 * Whether this agent is there, told by itself: beats for its main thread, says afterwards when that stood still, and keeps
 * the watch over absences going.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { ABSENCE_CHECK_MS, AbsenceWatch, type UnservedCounts } from './absence-watch.ts'
import { VitalSigns } from './vital-signs.ts'

export interface PresenceOptions {
  /** Null where nothing is captured in the kernel. */
  readonly counts: UnservedCounts | null
  readonly log: Logger
  /** True when every pod of this node that is to be captured is. */
  readonly isServingAll: () => boolean
}

/** For metrics. */
export interface PresenceTotals {
  readonly absences: number
  readonly absentSeconds: number
  readonly mainStalls: number
  readonly mainStalledSeconds: number
}

/** One per agent. */
export class Presence {
  /** To be shared with the data workers. */
  readonly vitals: VitalSigns
  private readonly log: Logger
  private readonly absences: AbsenceWatch | null
  private timer: NodeJS.Timeout | null = null
  private beatNs: bigint
  private mainStalls = 0
  private mainStalledNs = 0n

  constructor(options: PresenceOptions) {
    this.vitals = new VitalSigns()
    this.log = options.log
    this.beatNs = process.hrtime.bigint()
    const { counts } = options
    this.absences = counts === null ? null : new AbsenceWatch({ ...options, counts, vitals: this.vitals }, this.beatNs)
  }

  start(): void {
    this.beat()
    this.timer = setInterval(() => this.beat(), ABSENCE_CHECK_MS).unref()
  }

  stop(): void {
    if (this.timer !== null) clearInterval(this.timer)
  }

  totals(): PresenceTotals {
    const { absences, absentSeconds } = this.absences?.totals() ?? { absences: 0, absentSeconds: 0 }
    const { mainStalls, mainStalledNs } = this
    return { absences, absentSeconds, mainStalls, mainStalledSeconds: Number(mainStalledNs / 1_000_000n) / 1000 }
  }

  private beat(): void {
    const nowNs = process.hrtime.bigint()
    const stalledNs = nowNs - this.beatNs
    this.beatNs = nowNs
    // True when a data worker has said that this thread stands still: not after a stop of the whole process.
    if (this.vitals.mainBeat()) {
      this.mainStalls++
      this.mainStalledNs += stalledNs
      this.log.warn('the main thread responds again', { silentMs: Number(stalledNs / 1_000_000n) })
    }
    try {
      this.absences?.check(nowNs)
    } catch (error) {
      // What cannot be told must not end the agent.
      this.log.error('absences cannot be looked at', { error: describeError(error) })
    }
  }
}
