// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Load balancing: the fast half of a cluster. The slow half (cluster.ts) makes a new picker whenever the endpoints that
 * may be used change; a pick walks arrays and allocates nothing.
 *
 * `tried` holds the endpoints that have failed this exchange. They are avoided while there is another one.
 */
import { BALANCE_RANDOM, BALANCE_ROUND_ROBIN, type Balance } from '../model/service.ts'
import type { Endpoint } from './endpoint.ts'

/** Chooses an endpoint for a request. Made anew when endpoints change; choosing allocates nothing. */
export interface Picker {
  /** Null only when there are no endpoints. */
  pick(tried: readonly Endpoint[] | null): Endpoint | null
}

/** A picker over `endpoints`, which have weights above 0 and must not change afterwards. `random` gives [0, 1). */
export function createPicker(balance: Balance, endpoints: readonly Endpoint[], random: () => number): Picker {
  const isWeighted = endpoints.some((endpoint) => endpoint.weight !== endpoints[0]!.weight)
  if (balance === BALANCE_RANDOM) return new RandomPicker(endpoints, isWeighted, random)
  if (balance !== BALANCE_ROUND_ROBIN) return new LeastRequestPicker(endpoints, isWeighted, random)
  return isWeighted ? new WeightedRoundRobinPicker(endpoints) : new RoundRobinPicker(endpoints, random)
}

/** In turn. Begins anywhere, so that the workers of a node do not all begin with the same endpoint. */
class RoundRobinPicker implements Picker {
  private readonly endpoints: readonly Endpoint[]
  private next: number

  constructor(endpoints: readonly Endpoint[], random: () => number) {
    this.endpoints = endpoints
    this.next = Math.floor(random() * endpoints.length)
  }

  pick(tried: readonly Endpoint[] | null): Endpoint | null {
    const { endpoints } = this
    const count = endpoints.length
    if (count === 0) return null
    let index = this.next
    let endpoint = endpoints[index]!
    if (tried !== null) {
      for (let i = 1; i < count && tried.includes(endpoint); i++) {
        index = index + 1 === count ? 0 : index + 1
        endpoint = endpoints[index]!
      }
    }
    this.next = index + 1 === count ? 0 : index + 1
    return endpoint
  }
}

/**
 * In turn by weight, without bursts (nginx's smooth scheme): every endpoint earns its weight each time, the richest one
 * is picked and pays what all have earned. One pass over the endpoints per pick.
 */
class WeightedRoundRobinPicker implements Picker {
  private readonly endpoints: readonly Endpoint[]
  private readonly totalWeight: number

  constructor(endpoints: readonly Endpoint[]) {
    this.endpoints = endpoints
    this.totalWeight = endpoints.reduce((sum, endpoint) => sum + endpoint.weight, 0)
    // Credit is kept with the endpoint across pickers; a set with other members starts from a clean slate.
    for (const endpoint of endpoints) endpoint.credit = 0
  }

  pick(tried: readonly Endpoint[] | null): Endpoint | null {
    const { endpoints } = this
    let best: Endpoint | null = null
    let bestUntried: Endpoint | null = null
    for (let i = 0; i < endpoints.length; i++) {
      const endpoint = endpoints[i]!
      endpoint.credit += endpoint.weight
      if (best === null || endpoint.credit > best.credit) best = endpoint
      if (tried === null || tried.includes(endpoint)) continue
      if (bestUntried === null || endpoint.credit > bestUntried.credit) bestUntried = endpoint
    }
    const picked = bestUntried ?? best
    if (picked !== null) picked.credit -= this.totalWeight
    return picked
  }
}

/**
 * The less busy of two different endpoints drawn at random, both by weight; busy is requests per weight. Two choices
 * are what Envoy takes by default: nearly as good as asking all, and immune to herds.
 */
class LeastRequestPicker implements Picker {
  private readonly draw: Draw

  constructor(endpoints: readonly Endpoint[], isWeighted: boolean, random: () => number) {
    this.draw = new Draw(endpoints, isWeighted, random)
  }

  pick(tried: readonly Endpoint[] | null): Endpoint | null {
    const { draw } = this
    const first = draw.take(tried, null)
    if (first === null) return null
    const second = draw.take(tried, first)
    if (second === null) return first
    return second.requestsActive * first.weight < first.requestsActive * second.weight ? second : first
  }
}

/** Any, by weight. */
class RandomPicker implements Picker {
  private readonly draw: Draw

  constructor(endpoints: readonly Endpoint[], isWeighted: boolean, random: () => number) {
    this.draw = new Draw(endpoints, isWeighted, random)
  }

  pick(tried: readonly Endpoint[] | null): Endpoint | null {
    return this.draw.take(tried, null)
  }
}

/** Draws at random by weight. */
class Draw {
  private readonly endpoints: readonly Endpoint[]
  /** `sums[i]` is the weight of the endpoints up to and with i; empty when all weigh the same. */
  private readonly sums: Float64Array
  private readonly random: () => number

  constructor(endpoints: readonly Endpoint[], isWeighted: boolean, random: () => number) {
    this.endpoints = endpoints
    this.random = random
    this.sums = new Float64Array(isWeighted ? endpoints.length : 0)
    let sum = 0
    for (let i = 0; i < this.sums.length; i++) {
      sum += endpoints[i]!.weight
      this.sums[i] = sum
    }
  }

  /**
   * An endpoint that is neither tried nor `other`. If there is none: null when another is at hand, else any. A draw that
   * hits an unwanted one moves on to its neighbour, which costs a little fairness and never a second pass.
   */
  take(tried: readonly Endpoint[] | null, other: Endpoint | null): Endpoint | null {
    const { endpoints } = this
    const count = endpoints.length
    if (count === 0) return null
    const start = this.sums.length === 0 ? Math.floor(this.random() * count) : this.weightedIndex()
    let index = start
    for (let i = 0; i < count; i++) {
      const endpoint = endpoints[index]!
      if (endpoint !== other && (tried === null || !tried.includes(endpoint))) return endpoint
      index = index + 1 === count ? 0 : index + 1
    }
    return other === null ? endpoints[start]! : null
  }

  /** The first index whose sum is above a random share of the total. */
  private weightedIndex(): number {
    const { sums } = this
    const share = this.random() * sums[sums.length - 1]!
    let low = 0
    let high = sums.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if (sums[middle]! > share) high = middle
      else low = middle + 1
    }
    return low
  }
}
