/**
 * Addresses of the API server itself, behind the address of its Service.
 *
 * Pods reach the API server by its Service, and so by what kube-proxy last knew of it. A server that stops in good order
 * takes itself off its Service; when it is back, kube-proxy has to notice first, and asks more and more seldom the longer it
 * was away: up to a minute. Who knows the addresses behind need not wait for that.
 */

/** Where one API server listens. */
export interface DirectAddress {
  readonly address: string
  readonly port: number
}

/** The name by which a server proves itself where it is not dialled by an address of its certificate: every one has it. */
export const DIRECT_SERVER_NAME = 'kubernetes.default.svc'

/** As many are tried. More API servers than five is rare, and one of them is enough. */
const DIRECT_MAX = 5

/** How long what was lost by the Service's address goes on directly. Watches last as long, and then look anew. */
const DIRECT_MS = 300_000

/** Which address is dialled instead of the usual one, if any. */
export class DirectAddresses {
  private known: readonly DirectAddress[] = []
  private chosen: DirectAddress | null = null
  private untilMs = 0

  /** From now on these are known. None is no news: a server that stops says first that it is nowhere. */
  learn(addresses: readonly DirectAddress[]): void {
    if (addresses.length > 0) this.known = addresses.slice(0, DIRECT_MAX)
  }

  /** All that may be tried. */
  get candidates(): readonly DirectAddress[] {
    return this.known
  }

  /** Null: the usual one. */
  choose(address: DirectAddress | null, nowMs: number): void {
    this.chosen = address
    this.untilMs = nowMs + DIRECT_MS
  }

  /** Null: the usual one. */
  at(nowMs: number): DirectAddress | null {
    return nowMs < this.untilMs ? this.chosen : null
  }
}
