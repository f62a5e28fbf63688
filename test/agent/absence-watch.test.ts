import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import { ABSENCE_CHECK_MS, AbsenceWatch, type UnservedCounts } from '../../src/agent/absence-watch.ts'
import { VitalSigns } from '../../src/agent/vital-signs.ts'
import { Logger } from '../../src/base/log.ts'
import { ABSENCE_JOURNAL, HEARTBEAT_MS_MAX, UNSERVED } from '../../src/kernel/layout.generated.ts'
import { encodeCookie } from '../../src/kernel/maps.ts'
import {
  type AbsenceJournal,
  AbsenceJournalMap,
  lastBeatNs,
  type Unserved,
  UnservedMap,
} from '../../src/kernel/unserved.ts'
import { MemoryMap } from '../support/memory-map.ts'

const MS = 1_000_000n
const CHECK_NS = BigInt(ABSENCE_CHECK_MS) * MS
const SILENT_NS = BigInt(HEARTBEAT_MS_MAX) * MS

/** What the kernel counts, in memory. */
class FakeCounts implements UnservedCounts {
  beatBeforeNs = 0n
  bypassed = 0
  refused = 0
  journal: AbsenceJournal = { bypassed: 0, refused: 0, absences: 0, absentNs: 0n }
  readonly pods = new Map<string, Unserved>()

  totals(): { readonly bypassed: number; readonly refused: number } {
    return { bypassed: this.bypassed, refused: this.refused }
  }

  takePods(): ReadonlyMap<string, Unserved> {
    const taken = new Map(this.pods)
    this.pods.clear()
    return taken
  }

  readJournal(): AbsenceJournal {
    return this.journal
  }

  writeJournal(journal: AbsenceJournal): void {
    this.journal = journal
  }
}

describe('the watch over absences', () => {
  let counts: FakeCounts
  let vitals: VitalSigns
  let lines: Record<string, unknown>[]
  let isServingAll: boolean
  let nowNs: bigint
  let watch: AbsenceWatch

  beforeEach(() => {
    counts = new FakeCounts()
    vitals = new VitalSigns()
    lines = []
    isServingAll = true
    nowNs = 1_000_000n * MS
  })

  function open(): void {
    const log = new Logger('presence', 'info', (line) => {
      const { time: _, component: __, ...rest } = JSON.parse(line) as Record<string, unknown>
      lines.push(rest)
    })
    watch = new AbsenceWatch({ counts, vitals, log, isServingAll: () => isServingAll }, nowNs)
  }

  /** So many looks, with heartbeats of data workers before each. */
  function look(times: number, isBeating = true): void {
    for (let i = 0; i < times; i++) {
      nowNs += CHECK_NS
      if (isBeating) vitals.workerBeat(nowNs)
      watch.check(nowNs)
    }
  }

  function pod(name: string, bypassedOutbound: number, refusedInbound: number): void {
    counts.pods.set(name, { bypassedOutbound, bypassedInbound: 0, refusedOutbound: 0, refusedInbound })
    counts.bypassed += bypassedOutbound
    counts.refused += refusedInbound
  }

  it('says nothing of the first agent of a node, nor of one that another has just handed over to', () => {
    open()
    look(100)
    counts.beatBeforeNs = nowNs - SILENT_NS
    open()
    look(100)
    assert.deepEqual(lines, [])
    assert.deepEqual(watch.totals(), { absences: 0, absentSeconds: 0 })
  })

  it('tells of the time since the last heartbeat of an earlier agent when everything is served again, and once', () => {
    counts.beatBeforeNs = nowNs - 20_000n * MS
    isServingAll = false
    open()
    look(4)
    assert.deepEqual(lines, [])
    pod('shop/a', 3, 0)
    pod('shop/b', 2, 5)
    isServingAll = true
    look(10)
    assert.deepEqual(lines, [
      {
        level: 'warn',
        message: 'the node was without its agent',
        cause: 'no agent ran',
        seconds: 22.5,
        bypassed: 5,
        refused: 5,
        pods: ['shop/b: 2 bypassed out, 5 refused in', 'shop/a: 3 bypassed out'],
      },
    ])
    assert.deepEqual(watch.totals(), { absences: 1, absentSeconds: 22.5 })
  })

  it('does not wait for ever for a pod that cannot be served', () => {
    counts.beatBeforeNs = nowNs - 20_000n * MS
    isServingAll = false
    open()
    look(59)
    assert.equal(lines.length, 0)
    look(1)
    assert.equal(lines.length, 1)
  })

  it('tells of a silence of all data workers when it is over, also when the process was stopped', () => {
    open()
    look(4)
    pod('shop/a', 7, 0)
    // Nobody ran: neither the workers nor the watch.
    nowNs += 30_000n * MS
    watch.check(nowNs)
    assert.deepEqual(lines, [])
    vitals.workerBeat(nowNs)
    look(2)
    assert.deepEqual(
      lines.map(({ message, cause, seconds, bypassed }) => [message, cause, seconds, bypassed]),
      [['the node was without its agent', 'no data worker ran', 30, 7]],
    )
    assert.deepEqual(watch.totals(), { absences: 1, absentSeconds: 30 })
  })

  it('does not call it an absence when one of the workers beat, nor when only the watch was held up', () => {
    open()
    look(1)
    for (let i = 0; i < 100; i++) {
      nowNs += 250n * MS
      vitals.workerBeat(nowNs)
    }
    look(2)
    assert.deepEqual(lines, [])
  })

  it('counts a silence once, whichever workers end it', () => {
    open()
    look(1)
    nowNs += 5_000n * MS
    const others = [0, 1, 2].map(() => new VitalSigns(vitals.buffer))
    for (const other of others) other.workerBeat(nowNs)
    look(1)
    assert.deepEqual(watch.totals(), { absences: 1, absentSeconds: 5 })
  })

  it('counts each silence with its own length', () => {
    open()
    for (const silentMs of [5_000n, 3_000n]) {
      look(1)
      nowNs += silentMs * MS
      vitals.workerBeat(nowNs)
      watch.check(nowNs)
    }
    assert.deepEqual(
      lines.map(({ seconds }) => seconds),
      [5, 3],
    )
    assert.deepEqual(watch.totals(), { absences: 2, absentSeconds: 8 })
  })

  it('goes on counting where the agent before has ended, and tells nothing twice', () => {
    counts.journal = { bypassed: 10, refused: 2, absences: 4, absentNs: 9_000n * MS }
    counts.bypassed = 13
    counts.refused = 2
    counts.beatBeforeNs = nowNs - 2_000n * MS
    open()
    look(1)
    assert.deepEqual([lines[0]!['bypassed'], lines[0]!['refused']], [3, 0])
    assert.deepEqual(watch.totals(), { absences: 5, absentSeconds: 11.5 })
    look(100)
    assert.equal(lines.length, 1)
  })

  it('tells of unserved connections without a silence, at most every ten seconds', () => {
    open()
    look(30)
    pod('shop/a', 1, 0)
    look(2)
    assert.deepEqual(lines, [
      {
        level: 'warn',
        message: 'connections met nobody who serves',
        bypassed: 1,
        refused: 0,
        pods: ['shop/a: 1 bypassed out'],
      },
    ])
    pod('shop/a', 1, 0)
    look(19)
    assert.equal(lines.length, 1)
    look(1)
    assert.equal(lines.length, 2)
    assert.equal(watch.totals().absences, 0)
  })

  it('names twenty pods and counts the rest', () => {
    counts.beatBeforeNs = nowNs - 20_000n * MS
    for (let i = 0; i < 25; i++) pod(`shop/pod-${i}`, i + 1, 0)
    open()
    look(1)
    const pods = lines[0]!['pods'] as string[]
    assert.equal(pods.length, 21)
    assert.equal(pods[0], 'shop/pod-24: 25 bypassed out')
    assert.equal(pods.at(-1), '5 more')
  })
})

describe('the maps of unserved connections', () => {
  it('are read as the programs write them, and taken once', () => {
    const memory = new MemoryMap(8, UNSERVED.bytes)
    const value = new Uint8Array(UNSERVED.bytes)
    new BigUint64Array(value.buffer).set([1n, 2n, 3n, 4n])
    memory.update(encodeCookie(7n), value)
    const map = new UnservedMap(memory)
    const expected = { bypassedOutbound: 1, bypassedInbound: 2, refusedOutbound: 3, refusedInbound: 4 }
    assert.deepEqual(map.read(7n), expected)
    assert.deepEqual(map.cookies(), [7n])
    assert.deepEqual(map.take(7n), expected)
    assert.equal(map.take(7n), null)
  })

  it('keep the journal', () => {
    const memory = new MemoryMap(4, ABSENCE_JOURNAL.bytes)
    const map = new AbsenceJournalMap(memory)
    assert.deepEqual(map.read(), { bypassed: 0, refused: 0, absences: 0, absentNs: 0n })
    const journal = { bypassed: 1, refused: 2, absences: 3, absentNs: 4n }
    map.write(journal)
    assert.deepEqual(map.read(), journal)
    assert.equal(memory.lookup(new Uint8Array(4))!.length, ABSENCE_JOURNAL.bytes)
  })

  it('know the latest heartbeat of any slot', () => {
    const memory = new MemoryMap(4, 8)
    assert.equal(lastBeatNs(memory), 0n)
    for (const [slot, beatNs] of [
      [0, 5n],
      [127, 9n],
      [64, 7n],
    ] as const) {
      const [key, value] = [new Uint32Array([slot]), new BigUint64Array([beatNs])]
      memory.update(new Uint8Array(key.buffer), new Uint8Array(value.buffer))
    }
    assert.equal(lastBeatNs(memory), 9n)
  })
})
