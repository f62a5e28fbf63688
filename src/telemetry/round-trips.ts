/**
 * Round trip times of connections that the kernel carries, as one Prometheus histogram per pair of workloads and service.
 *
 * The kernel measures each connection at its end and counts it in buckets of its own; open ones are looked at every few
 * seconds, so that a connection that stays open for days is seen as well. A histogram, not a summary: those of several nodes
 * can be added.
 */
import { ROUND_TRIP_FAMILY, ROUND_TRIP_LABELS, TCP_LABELS } from './catalogue.ts'
import { edgeLabels, overflowLabels } from './labels.ts'
import type { EdgeKey } from './recorder.ts'
import { renderLabels } from './text.ts'

/** Histograms kept; beyond it one with unknown labels counts on. As many as a recorder keeps edges. */
export const ROUND_TRIP_SERIES_MAX = 1_000

/** A histogram that got nothing for so long is given up, like an idle edge. */
const ROUND_TRIP_IDLE_MS = 3_600_000

/** Where the labels of this family stand among those of an edge. */
const LABEL_INDEXES = ROUND_TRIP_LABELS.map((name) => TCP_LABELS.indexOf(name))

interface RoundTripSeries {
  /** Not cumulative; the last one is what is longer than all bounds. */
  readonly counts: number[]
  sumSeconds: number
  changedAtMs: number
}

/** All histograms of a node. */
export class RoundTrips {
  private readonly bounds: readonly number[]
  private readonly now: () => number
  private readonly series = new Map<string, RoundTripSeries>()

  /** `bounds` are in seconds, ascending, without `+Inf`. */
  constructor(bounds: readonly number[], now: () => number) {
    this.bounds = bounds
    this.now = now
  }

  /** Adds connections that were counted in buckets already: one number per bound and one more. */
  add(edge: EdgeKey, counts: readonly number[], sumSeconds: number): void {
    const series = this.seriesOf(edge)
    for (let i = 0; i < series.counts.length; i++) series.counts[i]! += counts[i] ?? 0
    series.sumSeconds += sumSeconds
  }

  observe(edge: EdgeKey, seconds: number): void {
    const series = this.seriesOf(edge)
    const bucket = this.bounds.findIndex((bound) => seconds <= bound)
    series.counts[bucket < 0 ? this.bounds.length : bucket]! += 1
    series.sumSeconds += seconds
  }

  /** The family as text; empty when nothing was ever measured. */
  render(): string {
    const nowMs = this.now()
    const { name, help } = ROUND_TRIP_FAMILY
    let text = `# HELP ${name} ${help}\n# TYPE ${name} histogram\n`
    for (const [labels, series] of this.series) {
      if (nowMs - series.changedAtMs >= ROUND_TRIP_IDLE_MS) this.series.delete(labels)
      else text += this.seriesText(labels, series)
    }
    return this.series.size === 0 ? '' : text
  }

  private seriesText(labels: string, { counts, sumSeconds }: RoundTripSeries): string {
    const { name } = ROUND_TRIP_FAMILY
    let text = ''
    let total = 0
    for (const [i, count] of counts.entries()) {
      total += count
      text += `${name}_bucket{${labels},le="${this.bounds[i] ?? '+Inf'}"} ${total}\n`
    }
    return `${text}${name}_sum{${labels}} ${sumSeconds}\n${name}_count{${labels}} ${total}\n`
  }

  private seriesOf(edge: EdgeKey): RoundTripSeries {
    const labels = labelText(edgeLabels(edge))
    let series = this.series.get(labels)
    if (series === undefined) {
      const isFull = this.series.size >= ROUND_TRIP_SERIES_MAX
      const key = isFull ? labelText(overflowLabels(edge)) : labels
      series = this.series.get(key)
      if (series === undefined) {
        series = { counts: new Array(this.bounds.length + 1).fill(0), sumSeconds: 0, changedAtMs: 0 }
        this.series.set(key, series)
      }
    }
    series.changedAtMs = this.now()
    return series
  }
}

function labelText(values: readonly string[]): string {
  return renderLabels(
    ROUND_TRIP_LABELS,
    LABEL_INDEXES.map((index) => values[index]!),
  )
}
