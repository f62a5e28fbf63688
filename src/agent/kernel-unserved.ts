/** The counts of absence-watch.ts, from the maps that the programs share. */
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { STAT_BYPASSED, STAT_REFUSED } from '../kernel/layout.generated.ts'
import type { AbsenceJournal, Unserved } from '../kernel/unserved.ts'
import type { UnservedCounts } from './absence-watch.ts'

/** See the head of the file. */
export class KernelUnserved implements UnservedCounts {
  readonly beatBeforeNs: bigint
  private readonly programs: CapturePrograms
  private readonly nameOf: (netnsCookie: bigint) => string | null

  /** `nameOf` is null for a pod that nobody knows any more. */
  constructor(programs: CapturePrograms, nameOf: (netnsCookie: bigint) => string | null) {
    this.beatBeforeNs = programs.beatBeforeNs
    this.programs = programs
    this.nameOf = nameOf
  }

  totals(): { readonly bypassed: number; readonly refused: number } {
    const { stats } = this.programs
    return { bypassed: stats.read(STAT_BYPASSED), refused: stats.read(STAT_REFUSED) }
  }

  takePods(): ReadonlyMap<string, Unserved> {
    const taken = new Map<string, Unserved>()
    for (const netnsCookie of this.programs.unserved.cookies()) {
      const counts = this.programs.unserved.take(netnsCookie)
      if (counts !== null) taken.set(this.nameOf(netnsCookie) ?? `a pod that is gone (${netnsCookie})`, counts)
    }
    return taken
  }

  readJournal(): AbsenceJournal {
    return this.programs.absences.read()
  }

  writeJournal(journal: AbsenceJournal): void {
    this.programs.absences.write(journal)
  }
}
