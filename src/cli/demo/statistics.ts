/** The little statistics of the demo: percentiles, and whether counts agree with weights. */

/**
 * The `q`-quantile of `values`, which need not be sorted: the smallest value that at least the share `q` of all does
 * not exceed. Null when there are none.
 */
export function quantile(values: readonly number[], q: number): number | null {
  if (values.length === 0) return null
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]!
}

/** A histogram as Prometheus has it: counts of all observations up to each bound, bounds ascending, the last infinite. */
export interface Histogram {
  readonly bounds: readonly number[]
  readonly counts: readonly number[]
}

/** The `q`-quantile, interpolated inside its bucket; null when nothing was observed. */
export function histogramQuantile({ bounds, counts }: Histogram, q: number): number | null {
  const total = counts.at(-1) ?? 0
  if (total <= 0) return null
  const rank = q * total
  const i = counts.findIndex((count) => count >= rank)
  const lower = i === 0 ? 0 : bounds[i - 1]!
  // Beyond the last finite bound nothing more is known.
  if (!Number.isFinite(bounds[i]!)) return lower
  const below = i === 0 ? 0 : counts[i - 1]!
  const inside = counts[i]! - below
  return lower + (bounds[i]! - lower) * (inside === 0 ? 1 : (rank - below) / inside)
}

export interface ShareDeviation {
  readonly name: string
  readonly expected: number
  readonly observed: number
  /** Distance in standard deviations of a binomial sample. */
  readonly sigmas: number
}

/** How far each count is from the share that its weight promises. Weights need not add up to 100. */
export function shareDeviations(
  counts: ReadonlyMap<string, number>,
  weights: ReadonlyMap<string, number>,
): readonly ShareDeviation[] {
  const total = sum(counts.values())
  const weightTotal = sum(weights.values())
  return [...weights].map(([name, weight]) => {
    const share = weight / weightTotal
    const observed = counts.get(name) ?? 0
    const deviation = Math.sqrt(total * share * (1 - share))
    const distance = Math.abs(observed - total * share)
    const sigmas = deviation === 0 ? (distance === 0 ? 0 : Number.POSITIVE_INFINITY) : distance / deviation
    return { name, expected: total * share, observed, sigmas }
  })
}

export function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}
