/** From samples to rows: medians, ratios, a table for people and JSON for programs. */
import type { BenchCase, Sample } from './cases.ts'
import type { Machine } from './machine.ts'
import type { SystemName } from './systems.ts'

/** One comparison; `ratio` is ours / the peer's. */
export interface Row {
  readonly case: string
  readonly unit: string
  readonly value: number
  readonly peer: string
  readonly peerValue: number
  readonly ratio: number
}

/** A peer, or ourselves, without a row in a case. */
export interface MissingRow {
  readonly case: string
  readonly peer: string
  readonly why: string
}

export interface SystemLine {
  readonly system: SystemName
  readonly rounds: number
  readonly value: number
  readonly least: number
  readonly most: number
  readonly requestsPerS: number
  readonly p50Us: number
  readonly p99Us: number
  readonly rssBytes: number
  readonly failed: number
}

export interface CaseResult {
  readonly case: string
  readonly unit: string
  readonly lines: readonly SystemLine[]
}

export interface BenchResult {
  readonly suite: 'http'
  readonly commit: string
  readonly machine: Machine
  readonly seconds: number
  readonly rows: readonly Row[]
  readonly missing: readonly MissingRow[]
  readonly cases: readonly CaseResult[]
}

/** The middle one; of an even number the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return 0
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function summarize(system: SystemName, samples: readonly Sample[]): SystemLine {
  const values = samples.map(({ value }) => value)
  return {
    system,
    rounds: samples.length,
    value: median(values),
    least: Math.min(...values),
    most: Math.max(...values),
    requestsPerS: median(samples.map(({ requestsPerS }) => requestsPerS)),
    p50Us: median(samples.map(({ p50Us }) => p50Us)),
    p99Us: median(samples.map(({ p99Us }) => p99Us)),
    rssBytes: median(samples.map(({ rssBytes }) => rssBytes)),
    failed: samples.reduce((sum, { failed }) => sum + failed, 0),
  }
}

/**
 * Ours against each peer's. Where `direct` was measured, the rows are what a proxy adds to it: one of the median and
 * one of the 99th percentile.
 */
export function rowsOf({ name, unit, limit }: BenchCase, lines: readonly SystemLine[]): Row[] {
  const ours = lines.find(({ system }) => system === 'weft')
  if (ours === undefined) return []
  const direct = lines.find(({ system }) => system === 'direct')
  const peers = lines.filter(({ system }) => system !== 'weft' && system !== 'direct')
  if (limit !== undefined) return [row(name, unit, ours.value, limit.name, limit.value)]
  if (direct === undefined) return peers.map((peer) => row(name, unit, ours.value, peer.system, peer.value))
  return peers.flatMap((peer) => [
    row(`${name}-p50`, unit, ours.p50Us - direct.p50Us, peer.system, peer.p50Us - direct.p50Us),
    row(`${name}-p99`, unit, ours.p99Us - direct.p99Us, peer.system, peer.p99Us - direct.p99Us),
  ])
}

function row(name: string, unit: string, value: number, peer: string, peerValue: number): Row {
  return { case: name, unit, value: round(value), peer, peerValue: round(peerValue), ratio: round(value / peerValue) }
}

/** Three digits or whole numbers, which is more than any of this is worth. */
export function round(value: number): number {
  if (!Number.isFinite(value)) return 0
  return Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3))
}

// --- for people ---

const COLUMNS = ['', 'value', 'ours/it', 'least', 'most', 'req/s', 'p50 us', 'p99 us', 'RSS MB', 'failed'] as const

export function formatCase({ name, unit, isMoreBetter }: BenchCase, lines: readonly SystemLine[]): string {
  const ours = lines.find(({ system }) => system === 'weft')
  const head = `${name}: ${unit}${isMoreBetter ? ' (more is better)' : ''}`
  const cells = lines.map((line) => [
    line.system,
    String(round(line.value)),
    ours === undefined || line === ours ? '' : (ours.value / line.value).toFixed(2),
    String(round(line.least)),
    String(round(line.most)),
    ...(line.requestsPerS === 0 ? ['', '', ''] : numbers(line.requestsPerS, line.p50Us, line.p99Us)),
    (line.rssBytes / 2 ** 20).toFixed(0),
    line.failed === 0 ? '' : String(line.failed),
  ])
  const widths = COLUMNS.map((title, index) => Math.max(title.length, ...cells.map((row) => row[index]!.length)))
  const format = (row: readonly string[]): string =>
    row.map((cell, index) => (index === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[index]!))).join('  ')
  return [head, ...[COLUMNS, ...cells].map((row) => `  ${format(row)}`.trimEnd())].join('\n')
}

function numbers(...values: readonly number[]): string[] {
  return values.map((value) => value.toFixed(0))
}
