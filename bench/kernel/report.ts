/** From pairs of numbers to rows: medians, ratios, targets; a table for people and JSON for programs. */
import type { Machine } from '../http/machine.ts'
import { median, type Row, round } from '../http/report.ts'
import type { Pair, RowCase, Target } from './cases.ts'

/** Exactly what `-o json` prints. */
export interface KernelResult {
  readonly suite: 'kernel'
  readonly machine: Machine & { readonly commit: string }
  readonly rows: readonly Row[]
}

/** A case and all its rounds. */
export interface Measured {
  readonly row: RowCase
  readonly pairs: readonly Pair[]
}

/** The ratio is that of the medians, from unrounded numbers. */
export function rowOf({ row, pairs }: Measured): Row {
  const value = median(pairs.map((pair) => pair.value))
  const peerValue = median(pairs.map((pair) => pair.peerValue))
  const ratio = peerValue === 0 ? 0 : Number((value / peerValue).toFixed(3))
  return { case: row.name, unit: row.unit, value: round(value), peer: row.peer, peerValue: round(peerValue), ratio }
}

/** Judged by what the row shows; null when there is nothing to reach. */
export function isMet(target: Target | null, row: Row): boolean | null {
  if (target === null) return null
  const reached = target.of === 'ratio' ? row.ratio : row.value - row.peerValue
  return target.is === 'at least' ? reached >= target.bound : reached <= target.bound
}

// --- for people ---

const COLUMNS = ['case', 'unit', 'weft', 'peer', '', 'ratio', 'rounds', 'to reach', ''] as const

export function formatTable(measured: readonly Measured[]): string {
  const cells = measured.map((each) => {
    const row = rowOf(each)
    const verdict = isMet(each.row.target, row)
    return [
      row.case,
      row.unit,
      String(row.value),
      String(row.peerValue),
      row.peer,
      row.ratio.toFixed(2),
      spreadOf(each.pairs),
      describeTarget(each.row.target, row),
      verdict === null ? '' : verdict ? 'met' : 'missed',
    ]
  })
  const widths = COLUMNS.map((title, index) => Math.max(title.length, ...cells.map((line) => line[index]!.length)))
  const format = (line: readonly string[]): string =>
    line
      .map((cell, index) => (index === 2 || index === 3 ? cell.padStart(widths[index]!) : cell.padEnd(widths[index]!)))
      .join('  ')
      .trimEnd()
  return [COLUMNS, ...cells].map(format).join('\n')
}

/** The least and the greatest ratio of a round: how much of a difference is the machine's. */
function spreadOf(pairs: readonly Pair[]): string {
  const ratios = pairs.map(({ value, peerValue }) => value / peerValue)
  return `${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)}`
}

function describeTarget(target: Target | null, row: Row): string {
  if (target === null) return ''
  const sign = target.is === 'at least' ? '>=' : '<='
  if (target.of === 'ratio') return `${sign} ${target.bound.toFixed(2)}`
  return `${sign} +${target.bound} ${row.unit} (is +${round(row.value - row.peerValue)})`
}
