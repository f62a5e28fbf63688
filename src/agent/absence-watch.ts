/**
 * Tells when a node has been without its agent: how long nobody served, and which connections were let by or refused
 * meanwhile. The kernel counts them (native/bpf/include/weft/unserved.h); what was told already is written down in a pinned
 * map, so that nothing is told twice or left out when one agent follows another.
 *
 *      start:  the last heartbeat of an earlier agent is old -> absent until everything is served again, then told
 *      later:  vital-signs.ts saw a silence of all data workers -> told when it is over
 *      always: unserved connections without any silence (a pod lost its listeners) -> told, at most every ODD_INTERVAL_NS
 */
import type { Logger } from '../base/log.ts'
import { type AbsenceJournal, SILENT_NS, type Unserved } from '../kernel/unserved.ts'
import type { VitalSigns } from './vital-signs.ts'

/** Between two looks; also the main thread's heartbeat. */
export const ABSENCE_CHECK_MS = 500

/**
 * An agent that has started and still cannot serve every pod after this long tells of the absence without waiting for
 * the rest: what is missing then is told by pods.ts.
 */
const SETTLE_NS = 30_000_000_000n

/** Least time between two reports of unserved connections without a silence. */
const ODD_INTERVAL_NS = 10_000_000_000n

/** Pods that one line names; the rest are counted. */
const PODS_NAMED_MAX = 20

/** What the kernel has counted. Reads and writes pinned maps. */
export interface UnservedCounts {
  /** The latest heartbeat of any agent when this capture was opened; 0 when there was none. */
  readonly beatBeforeNs: bigint
  totals(): { readonly bypassed: number; readonly refused: number }
  /** By pod (`namespace/name`), and begins anew. */
  takePods(): ReadonlyMap<string, Unserved>
  readJournal(): AbsenceJournal
  writeJournal(journal: AbsenceJournal): void
}

export interface AbsenceWatchOptions {
  readonly counts: UnservedCounts
  readonly vitals: VitalSigns
  readonly log: Logger
  /** True when every pod of this node that is to be captured is. */
  readonly isServingAll: () => boolean
}

/** Totals for metrics, over all agents that this node has had since it was booted. */
export interface AbsenceTotals {
  readonly absences: number
  readonly absentSeconds: number
}

/** See the head of the file. */
export class AbsenceWatch {
  private readonly options: AbsenceWatchOptions
  private readonly startedNs: bigint
  /** Since when nobody serves, as an earlier agent left it; 0 when that is told, or nothing was left. */
  private absentSinceNs: bigint
  private toldSilences = { count: 0n, ns: 0n }
  private wasOdd = false
  private oddToldNs: bigint

  /** `nowNs` is CLOCK_MONOTONIC, as in every call. */
  constructor(options: AbsenceWatchOptions, nowNs: bigint) {
    this.options = options
    this.startedNs = nowNs
    this.oddToldNs = nowNs
    const { beatBeforeNs } = options.counts
    this.absentSinceNs = beatBeforeNs > 0n && nowNs - beatBeforeNs > SILENT_NS ? beatBeforeNs : 0n
  }

  totals(): AbsenceTotals {
    const { absences, absentNs } = this.options.counts.readJournal()
    return { absences, absentSeconds: Number(absentNs / 1_000_000n) / 1000 }
  }

  /** To be called every ABSENCE_CHECK_MS. */
  check(nowNs: bigint): void {
    if (this.absentSinceNs > 0n) {
      if (!this.options.isServingAll() && nowNs - this.startedNs < SETTLE_NS) return
      const absentNs = nowNs - this.absentSinceNs
      this.absentSinceNs = 0n
      this.tell('no agent ran', 1, absentNs)
      return
    }
    const { count, ns } = this.options.vitals.silences
    const { toldSilences } = this
    if (count > toldSilences.count) {
      this.toldSilences = { count, ns }
      this.tell('no data worker ran', Number(count - toldSilences.count), ns - toldSilences.ns)
      return
    }
    this.checkOdd(nowNs)
  }

  /** A silence that is just ending shows its connections before itself: only what two looks have seen is odd. */
  private checkOdd(nowNs: bigint): void {
    const journal = this.options.counts.readJournal()
    const totals = this.options.counts.totals()
    const isOdd = totals.bypassed !== journal.bypassed || totals.refused !== journal.refused
    const isSilent = nowNs - this.options.vitals.workerBeatNs > SILENT_NS
    if (isOdd && this.wasOdd && nowNs - this.oddToldNs >= ODD_INTERVAL_NS) {
      this.oddToldNs = nowNs
      this.wasOdd = false
      this.tell('', 0, 0n)
      return
    }
    this.wasOdd = isOdd && !isSilent
  }

  private tell(cause: string, absences: number, absentNs: bigint): void {
    const { counts, log } = this.options
    const journal = counts.readJournal()
    const totals = counts.totals()
    counts.writeJournal({
      ...totals,
      absences: journal.absences + absences,
      absentNs: journal.absentNs + absentNs,
    })
    const fields = {
      bypassed: totals.bypassed - journal.bypassed,
      refused: totals.refused - journal.refused,
      pods: describePods(counts.takePods()),
    }
    if (absences === 0) log.warn('connections met nobody who serves', fields)
    else log.warn('the node was without its agent', { cause, seconds: secondsOf(absentNs), ...fields })
  }
}

function secondsOf(ns: bigint): number {
  return Math.round(Number(ns / 1_000_000n) / 100) / 10
}

/** Those with most unserved connections first. */
function describePods(pods: ReadonlyMap<string, Unserved>): readonly string[] {
  const rows = [...pods].map(([name, counts]) => ({ name, counts, sum: sumOf(counts) }))
  rows.sort((a, b) => b.sum - a.sum || (a.name < b.name ? -1 : 1))
  const named = rows.slice(0, PODS_NAMED_MAX).map(({ name, counts }) => `${name}: ${describe(counts)}`)
  return rows.length > named.length ? [...named, `${rows.length - named.length} more`] : named
}

function sumOf({ bypassedOutbound, bypassedInbound, refusedOutbound, refusedInbound }: Unserved): number {
  return bypassedOutbound + bypassedInbound + refusedOutbound + refusedInbound
}

/** `3 bypassed out, 1 refused in`; what is 0 is left out. */
export function describe(counts: Unserved): string {
  const parts: [number, string][] = [
    [counts.bypassedOutbound, 'bypassed out'],
    [counts.bypassedInbound, 'bypassed in'],
    [counts.refusedOutbound, 'refused out'],
    [counts.refusedInbound, 'refused in'],
  ]
  return parts
    .filter(([count]) => count > 0)
    .map(([count, what]) => `${count} ${what}`)
    .join(', ')
}
