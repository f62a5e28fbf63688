/**
 * The DNS of one data worker: questions of pods in, answers out. It has no sockets: whoever captured a question calls
 * `query`, and what the mesh does not answer goes on to the pod's own resolver through `Upstream`, byte for byte but for
 * its id. Search lists, ndots and retries are the client's own: a name of the mesh is answered, any other is passed on,
 * and so a client that goes through its list finds what it would find without us, and the mesh's names besides.
 *
 *   readQuery -> name of the mesh? -> cache? -> an equal query in flight? -> Exchange
 */
import { FAMILY_IPV4, type FAMILY_IPV6, familyOf } from '../base/address.ts'
import { latin1Slice } from '../base/bytes.ts'
import type { TimerWheel } from '../base/timers.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import type { DnsCounts, DnsResult, DnsSource } from '../telemetry/dns-counts.ts'
import { type Answering, Exchange, type ExchangeOwner } from './exchange.ts'
import { type MeshAnswer, MeshAnswers } from './mesh-answers.ts'
import { isClusterService } from './mesh-names.ts'
import {
  FLAG_TRUNCATED,
  flagsOf,
  RCODE_FORMAT_ERROR,
  RCODE_MASK,
  RCODE_NAME_ERROR,
  RCODE_NO_ERROR,
  RCODE_SERVER_FAILURE,
  readUint16,
  TYPE_A,
  TYPE_AAAA,
  TYPE_ANY,
  TYPE_HTTPS,
  TYPE_SVCB,
  writeUint16,
} from './message.ts'
import { BAD_QUERY, NO_QUERY, type Query, readQuery } from './query.ts'
import { errorReply, headerReply, meshReply } from './reply.ts'
import { cacheKey, ReplyCache } from './reply-cache.ts'
import type { Upstream } from './upstream.ts'

export type { Answering } from './exchange.ts'

/**
 * Exchanges in flight of one pod. 256: each is a socket of the worker for up to 5 s, and one pod must not take them all;
 * a client that asks for IPv4 and IPv6 at once with 128 threads fits.
 */
export const POD_EXCHANGES_MAX = 256

/** Exchanges in flight of one worker. 2,048 sockets: a small part of an agent's descriptors also with four workers. */
export const EXCHANGES_MAX = 2_048

/** What a resolver needs of its surroundings. */
export interface ResolverParts {
  readonly upstream: Upstream
  /** Coarse timers of the worker. */
  readonly timers: TimerWheel
  /** Milliseconds of a clock that never goes back; its zero does not matter. */
  readonly now: () => number
  /** 16 bits that nobody can guess, for the ids of forwarded queries. */
  readonly randomId: () => number
  readonly counts: DnsCounts
}

/** Answers the questions of all pods of a node that one worker gets. */
export class Resolver implements ExchangeOwner {
  private readonly parts: ResolverParts
  private readonly cache: ReplyCache
  private readonly exchanges = new Map<string, Exchange>()
  /** Exchanges by pod. */
  private readonly loads = new Map<string, number>()
  private snapshot: Snapshot = Snapshot.empty
  private readonly answers = new MeshAnswers()

  constructor(parts: ResolverParts) {
    this.parts = parts
    this.cache = new ReplyCache(parts.now)
  }

  /** What the mesh looks like from now on. */
  applySnapshot(snapshot: Snapshot): void {
    this.snapshot = snapshot
    this.answers.update(snapshot)
  }

  /** Exchanges in flight. */
  get exchangeCount(): number {
    return this.exchanges.size
  }

  /** Pods that have any. */
  get waitingPodCount(): number {
    return this.loads.size
  }

  /**
   * One question. `source` is the uid of the pod that asks, `resolverAddress` the canonical address that the app asked.
   * The bytes stay the caller's after the call.
   */
  query(source: string, resolverAddress: string, bytes: Uint8Array, isTcp: boolean, respond: Answering): void {
    const query = readQuery(bytes, isTcp)
    if (query === NO_QUERY) {
      this.parts.counts.query('none', 'malformed')
    } else if (query === BAD_QUERY) {
      this.parts.counts.query('none', 'malformed')
      respond.answer(headerReply(bytes, RCODE_FORMAT_ERROR))
    } else {
      this.resolve(source, resolverAddress, query, respond)
    }
  }

  /** Ends everything that is under way, unanswered. */
  close(): void {
    for (const exchange of [...this.exchanges.values()]) {
      this.release(exchange)
      exchange.end()
    }
  }

  private resolve(source: string, resolverAddress: string, query: Query, respond: Answering): void {
    const pod = this.snapshot.workloads.get(source) ?? null
    const host = query.isPlain ? query.question!.host : null
    const found = host === null ? null : this.answers.find(host, pod === null ? '' : pod.namespace)
    if (found !== null && this.answersType(found, query.question!.type)) {
      this.answerName(found, pod, query, respond)
      return
    }
    const key = cacheKey(source, resolverAddress, query)
    const cached = key === null ? null : this.cache.find(key, query)
    if (cached !== null) {
      this.parts.counts.query('cache', resultOf(cached))
      respond.answer(cached)
      return
    }
    this.forward(source, resolverAddress, query, key, found !== null, respond)
  }

  // --- names of the mesh ---

  /**
   * Which types of a name are the mesh's to answer. Of services with virtual IPs all; of other names those that lead to an
   * address: mail servers or certificate rules of hosts, and ports of headless services (SRV), are on record elsewhere.
   */
  private answersType({ service, alias, isHeadless }: MeshAnswer, type: number): boolean {
    if (isClusterService(service) && alias === null && !isHeadless) return true
    return type === TYPE_A || type === TYPE_AAAA || type === TYPE_ANY || type === TYPE_HTTPS || type === TYPE_SVCB
  }

  private answerName(found: MeshAnswer, pod: Workload | null, query: Query, respond: Answering): void {
    if (!query.isWhole) {
      this.parts.counts.query('none', 'malformed')
      respond.answer(errorReply(query, RCODE_FORMAT_ERROR))
      return
    }
    const { type } = query.question!
    const addresses: string[] = []
    for (const address of found.addresses) {
      const family = familyOf(address)
      const isAsked = type === TYPE_ANY || type === (family === FAMILY_IPV4 ? TYPE_A : TYPE_AAAA)
      if (isAsked && (pod === null || hasFamily(pod, family))) addresses.push(address)
    }
    // Many clients take the first: it must not be the same endpoint for all of them.
    if (found.isHeadless) rotate(addresses, this.parts.randomId())
    const reply = meshReply(query, addresses, found)
    this.parts.counts.query('mesh', resultOf(reply))
    respond.answer(reply)
  }

  // --- everything else ---

  private forward(
    source: string,
    resolverAddress: string,
    query: Query,
    cacheKeyText: string | null,
    isMeshName: boolean,
    respond: Answering,
  ): void {
    const { bytes, isTcp, id } = query
    // All but the id: two queries are one only when the resolver would see the same.
    const key = `${source}\n${resolverAddress}\n${isTcp ? 't' : 'u'}${latin1Slice(bytes, 2, bytes.length)}`
    const waiter = { id, respond }
    const known = this.exchanges.get(key)
    if (known?.join(waiter) === true) return
    const load = this.loads.get(source) ?? 0
    if (known !== undefined || load >= POD_EXCHANGES_MAX || this.exchanges.size >= EXCHANGES_MAX) {
      this.parts.counts.query('none', 'limited')
      respond.answer(errorReply(query, RCODE_SERVER_FAILURE))
      return
    }
    const fields = { key, source, resolverAddress, query, cacheKey: cacheKeyText, isMeshName }
    const exchange = new Exchange(this, this.parts, fields, this.parts.randomId())
    exchange.waiters.push(waiter)
    this.exchanges.set(key, exchange)
    this.loads.set(source, load + 1)
    exchange.start()
  }

  onExchangeReply(exchange: Exchange, reply: Uint8Array): void {
    this.release(exchange)
    // The resolver does not know that the mesh has other records of the name: it must not deny the name itself.
    if (exchange.isMeshName && (flagsOf(reply) & RCODE_MASK) === RCODE_NAME_ERROR) {
      writeUint16(reply, 2, (flagsOf(reply) & ~RCODE_MASK) | RCODE_NO_ERROR)
    }
    if (exchange.cacheKey !== null) this.cache.store(exchange.cacheKey, exchange.query, reply)
    const result = resultOf(reply)
    for (const { id, respond } of exchange.waiters) {
      const answer = exchange.waiters.length === 1 ? reply : new Uint8Array(reply)
      writeUint16(answer, 0, id)
      this.parts.counts.query('forwarded', result)
      respond.answer(answer)
    }
  }

  /**
   * A resolver that failed at once is reported at once, so that the client asks its next one. After a time-out a client
   * over UDP is left alone: its own time-out is due, and its retry asks the next resolver as well. Clients over TCP are
   * told, because many of them wait without end.
   */
  onExchangeFailure(exchange: Exchange, isTimeout: boolean): void {
    this.release(exchange)
    const { query, waiters } = exchange
    const result: DnsResult = isTimeout ? 'timeout' : 'error'
    const source: DnsSource = isTimeout ? 'none' : 'forwarded'
    for (const { id, respond } of waiters) {
      this.parts.counts.query(source, result)
      if (isTimeout && !query.isTcp) continue
      const answer = errorReply(query, RCODE_SERVER_FAILURE)
      writeUint16(answer, 0, id)
      respond.answer(answer)
    }
  }

  private release(exchange: Exchange): void {
    if (!this.exchanges.delete(exchange.key)) return
    const load = this.loads.get(exchange.source)! - 1
    if (load === 0) this.loads.delete(exchange.source)
    else this.loads.set(exchange.source, load)
  }
}

/**
 * A pod without an address of a family cannot reach addresses of it: they would only make its clients wait. One that is so
 * new that its addresses are not published yet may have any.
 */
function hasFamily({ addresses }: Workload, family: typeof FAMILY_IPV4 | typeof FAMILY_IPV6): boolean {
  if (addresses.length === 0) return true
  for (const address of addresses) if (familyOf(address) === family) return true
  return false
}

/** Moves `by` elements, modulo how many there are, from the front to the end. */
function rotate(list: string[], by: number): void {
  if (list.length > 1) list.push(...list.splice(0, by % list.length))
}

/** What a reply says, for the metrics. */
function resultOf(reply: Uint8Array): DnsResult {
  const flags = flagsOf(reply)
  if ((flags & FLAG_TRUNCATED) !== 0) return 'truncated'
  const rcode = flags & RCODE_MASK
  if (rcode === RCODE_NAME_ERROR) return 'nxdomain'
  if (rcode !== RCODE_NO_ERROR) return 'error'
  return readUint16(reply, 6) > 0 ? 'answered' : 'nodata'
}
