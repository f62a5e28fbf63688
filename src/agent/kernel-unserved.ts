/** The counts of absence-watch.ts, from the maps that the programs share. */
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { STAT_BYPASSED, STAT_REFUSED } from '../kernel/layout.generated.ts'
import type { AbsenceJournal, Unserved } from '../kernel/unserved.ts'
import type { UnservedCounts } from './absence-watch.ts'

/** See the head of the file. */
export class KernelUnserved implements UnservedCounts {
  readonly beatBeforeNs: bigint
  private readonly programs: CapturePrograms
  private readonly pods: () => readonly (readonly [netnsCookie: bigint, displayName: string])[]

  /** `pods` are those that are enrolled when it is called. */
  constructor(programs: CapturePrograms, pods: () => readonly (readonly [bigint, string])[]) {
    this.beatBeforeNs = programs.beatBeforeNs
    this.programs = programs
    this.pods = pods
  }

  totals(): { readonly bypassed: number; readonly refused: number } {
    const { stats } = this.programs
    return { bypassed: stats.read(STAT_BYPASSED), refused: stats.read(STAT_REFUSED) }
  }

  takePods(): ReadonlyMap<string, Unserved> {
    const taken = new Map<string, Unserved>()
    for (const [netnsCookie, displayName] of this.pods()) {
      const counts = this.programs.unserved.take(netnsCookie)
      if (counts !== null) taken.set(displayName, counts)
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
