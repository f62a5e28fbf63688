// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Session affinity: a client (a pod of this node) stays with its endpoint for a time after it last used it.
 *
 * Whom a client gets is a hash of both (highest random weight), so that workers that do not know of each other, and an
 * agent that was just started, choose alike. Who was chosen is remembered, so that another endpoint takes nobody away.
 */
import type { Endpoint } from './endpoint.ts'

/** Clients remembered of one cluster; beyond it all are forgotten. A node has some hundred pods. */
export const CLIENTS_MAX = 1_024

/** A client and the endpoint it is with. */
class Held {
  endpoint: Endpoint
  usedAtMs: number

  constructor(endpoint: Endpoint, usedAtMs: number) {
    this.endpoint = endpoint
    this.usedAtMs = usedAtMs
  }
}

/** Who is with whom in one cluster. */
export class Affinity {
  timeoutMs: number
  private readonly clients: Map<string, Held>

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs
    this.clients = new Map()
  }

  /** Clients remembered. */
  get clientCount(): number {
    return this.clients.size
  }

  /**
   * The endpoint of `client` among `endpoints`. When it was tried and failed another one is picked, and not remembered: the
   * client goes back to its own as long as that is among them.
   */
  pick(
    client: string,
    endpoints: readonly Endpoint[],
    tried: readonly Endpoint[] | null,
    nowMs: number,
  ): Endpoint | null {
    const held = this.clients.get(client)
    if (held !== undefined && nowMs - held.usedAtMs <= this.timeoutMs && endpoints.includes(held.endpoint)) {
      held.usedAtMs = nowMs
      if (tried === null || !tried.includes(held.endpoint)) return held.endpoint
      return choose(client, endpoints, tried)
    }
    const endpoint = choose(client, endpoints, tried)
    if (endpoint === null) return null
    if (held !== undefined) {
      held.endpoint = endpoint
      held.usedAtMs = nowMs
    } else {
      if (this.clients.size >= CLIENTS_MAX) this.clients.clear()
      this.clients.set(client, new Held(endpoint, nowMs))
    }
    return endpoint
  }

  /** Forgets clients whose time is over, and those whose endpoint is gone. */
  sweep(nowMs: number): void {
    for (const [client, held] of this.clients) {
      if (held.endpoint.isRemoved || nowMs - held.usedAtMs > this.timeoutMs) this.clients.delete(client)
    }
  }
}

/** The endpoint that weighs most for the client, of those that were not tried; of all when all were. */
function choose(client: string, endpoints: readonly Endpoint[], tried: readonly Endpoint[] | null): Endpoint | null {
  const seed = hash(client, 0x811c_9dc5)
  let best: Endpoint | null = null
  let bestUntried: Endpoint | null = null
  let bestScore = -1
  let bestUntriedScore = -1
  for (let i = 0; i < endpoints.length; i++) {
    const endpoint = endpoints[i]!
    const share = (spread(hash(endpoint.key, seed)) + 1) / 4_294_967_297
    // Of weighted endpoints each gets its share of clients: -weight / ln(share) is largest with that probability.
    const score = -endpoint.weight / Math.log(share)
    if (score > bestScore) {
      bestScore = score
      best = endpoint
    }
    if (tried !== null && score > bestUntriedScore && !tried.includes(endpoint)) {
      bestUntriedScore = score
      bestUntried = endpoint
    }
  }
  return bestUntried ?? best
}

/** FNV-1a. */
function hash(text: string, seed: number): number {
  let state = seed
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x0100_0193)
  return state >>> 0
}

/** The finish of MurmurHash3: the last characters count for all bits. */
function spread(state: number): number {
  state = Math.imul(state ^ (state >>> 16), 0x85eb_ca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2_ae35)
  return (state ^ (state >>> 16)) >>> 0
}
