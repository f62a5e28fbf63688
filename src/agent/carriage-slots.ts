/** How the weights of endpoints become slots, of which the kernel takes one at random. */
import type { Backend } from '../kernel/carry-maps.ts'
import { SLOTS_MAX } from '../kernel/layout.generated.ts'

/** An endpoint and its share of a service's connections. */
export interface Share {
  readonly backend: Backend
  readonly weight: number
}

/** As few slots as give every endpoint its exact share, or SLOTS_MAX that come close; each endpoint has one at least. */
export function slotsOf(shares: readonly Share[]): Backend[] {
  const kept = shares.slice(0, SLOTS_MAX)
  let total = 0
  for (const { weight } of kept) total += weight
  const counts = countsFor(
    kept.map(({ weight }) => weight / total),
    kept.length,
  )
  return kept.flatMap(({ backend }, index) => Array<Backend>(counts[index]!).fill(backend))
}

/** How often each of these parts of 1 stands in a list that is as short as it can be. */
function countsFor(parts: readonly number[], least: number): number[] {
  for (let slots = least; slots < SLOTS_MAX; slots++) {
    if (parts.every((part) => isWhole(part * slots))) return parts.map((part) => Math.round(part * slots))
  }
  const counts = parts.map((part) => Math.max(1, Math.floor(part * SLOTS_MAX)))
  // What is left (or too much) goes to those who have lost (or won) most by rounding.
  let rest = SLOTS_MAX - counts.reduce((sum, count) => sum + count, 0)
  while (rest !== 0) {
    const step = Math.sign(rest)
    let best = -1
    for (const [index, part] of parts.entries()) {
      if (step < 0 && counts[index]! <= 1) continue
      const gap = (part * SLOTS_MAX - counts[index]!) * step
      if (best < 0 || gap > (parts[best]! * SLOTS_MAX - counts[best]!) * step) best = index
    }
    counts[best]! += step
    rest -= step
  }
  return counts
}

function isWhole(value: number): boolean {
  return value > 0.5 && Math.abs(value - Math.round(value)) < 1e-9
}
