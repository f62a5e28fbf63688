/** Counts of breaches of the rules of HTTP, by side and reason, since the last collection. */
import type { ViolationSide } from './recorder.ts'
import type { ViolationCount } from './report.ts'

/** Reasons on each side. The engines have some 80; more would be a bug that must not fill the metrics. */
const REASONS_MAX = 256

/** The reason of everything beyond. */
const REASON_OTHER = 'other'

export class ViolationCounts {
  private readonly bySide: Record<ViolationSide, Map<string, number>> = { downstream: new Map(), upstream: new Map() }
  private readonly known: Record<ViolationSide, Set<string>> = { downstream: new Set(), upstream: new Set() }

  add(side: ViolationSide, reason: string): void {
    const known = this.known[side]
    if (known.size < REASONS_MAX) known.add(reason)
    const label = known.has(reason) ? reason : REASON_OTHER
    const counts = this.bySide[side]
    counts.set(label, (counts.get(label) ?? 0) + 1)
  }

  /** What was counted; begins at zero again. */
  take(): ViolationCount[] {
    const taken: ViolationCount[] = []
    for (const side of ['downstream', 'upstream'] as const) {
      for (const [reason, count] of this.bySide[side]) taken.push({ side, reason, count })
      this.bySide[side].clear()
    }
    return taken
  }
}
