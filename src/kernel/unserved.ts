/**
 * What the programs count while nobody serves, and what agents have told of it: native/bpf/include/weft/unserved.h.
 */
import { ABSENCE_JOURNAL, HEARTBEAT_MS_MAX, UNSERVED, WORKER_SLOTS_MAX } from './layout.generated.ts'
import { type BpfMap, decodeCookie, encodeCookie, IS_LITTLE_ENDIAN, pairsOf, type WalkableMap } from './maps.ts'

const COOKIE_BYTES = 8

/** As long as the programs wait for a heartbeat. */
export const SILENT_NS = BigInt(HEARTBEAT_MS_MAX) * 1_000_000n

/** `struct unserved`: connections of one pod that met nobody who serves. */
export interface Unserved {
  readonly bypassedOutbound: number
  readonly bypassedInbound: number
  readonly refusedOutbound: number
  readonly refusedInbound: number
}

/** Unserved connections by pod, since they were last taken. */
export class UnservedMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  /** Null when there were none. */
  read(netnsCookie: bigint): Unserved | null {
    const value = this.map.lookup(encodeCookie(netnsCookie))
    if (value === null) return null
    const view = viewOf(value)
    return {
      bypassedOutbound: number(view, UNSERVED.bypassed_outbound),
      bypassedInbound: number(view, UNSERVED.bypassed_inbound),
      refusedOutbound: number(view, UNSERVED.refused_outbound),
      refusedInbound: number(view, UNSERVED.refused_inbound),
    }
  }

  /** Netns cookies of all pods that have any, also of pods that are gone. */
  cookies(): bigint[] {
    return Array.from(pairsOf(this.map, COOKIE_BYTES, UNSERVED.bytes), ([key]) => decodeCookie(key))
  }

  /** Reads and begins anew. What is counted between the two is in the totals only. */
  take(netnsCookie: bigint): Unserved | null {
    const value = this.read(netnsCookie)
    if (value !== null) this.map.delete(encodeCookie(netnsCookie))
    return value
  }
}

/** `struct absence_journal`: what agents of this node have told of so far. */
export interface AbsenceJournal {
  /** STAT_BYPASSED and STAT_REFUSED at the last account. */
  readonly bypassed: number
  readonly refused: number
  readonly absences: number
  readonly absentNs: bigint
}

/** The one journal of a node. */
export class AbsenceJournalMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  read(): AbsenceJournal {
    const view = viewOf(this.map.lookup(new Uint8Array(4)) ?? new Uint8Array(ABSENCE_JOURNAL.bytes))
    return {
      bypassed: number(view, ABSENCE_JOURNAL.bypassed),
      refused: number(view, ABSENCE_JOURNAL.refused),
      absences: number(view, ABSENCE_JOURNAL.absences),
      absentNs: view.getBigUint64(ABSENCE_JOURNAL.absent_ns, IS_LITTLE_ENDIAN),
    }
  }

  write(journal: AbsenceJournal): void {
    const value = new Uint8Array(ABSENCE_JOURNAL.bytes)
    const view = viewOf(value)
    view.setBigUint64(ABSENCE_JOURNAL.bypassed, BigInt(journal.bypassed), IS_LITTLE_ENDIAN)
    view.setBigUint64(ABSENCE_JOURNAL.refused, BigInt(journal.refused), IS_LITTLE_ENDIAN)
    view.setBigUint64(ABSENCE_JOURNAL.absences, BigInt(journal.absences), IS_LITTLE_ENDIAN)
    view.setBigUint64(ABSENCE_JOURNAL.absent_ns, journal.absentNs, IS_LITTLE_ENDIAN)
    this.map.update(new Uint8Array(4), value)
  }
}

/** The latest heartbeat of all slots, 0 when there has never been one. `heartbeats` is the kernel's map. */
export function lastBeatNs(heartbeats: BpfMap): bigint {
  let last = 0n
  const key = new Uint8Array(4)
  for (let slot = 0; slot < WORKER_SLOTS_MAX; slot++) {
    viewOf(key).setUint32(0, slot, IS_LITTLE_ENDIAN)
    const value = heartbeats.lookup(key)
    const beatNs = value === null ? 0n : viewOf(value).getBigUint64(0, IS_LITTLE_ENDIAN)
    if (beatNs > last) last = beatNs
  }
  return last
}

function number(view: DataView, offset: number): number {
  return Number(view.getBigUint64(offset, IS_LITTLE_ENDIAN))
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
