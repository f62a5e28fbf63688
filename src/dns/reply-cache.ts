/**
 * Replies of resolvers, kept while their TTLs last (RFC 1035 section 3.2.1, RFC 2308 for names and records that do not
 * exist). Least recently used ones make room.
 *
 * Kept per pod, not per node: the reply came through the pod's own network, where a pod with the right capabilities can
 * answer for anybody. What one pod is told never reaches another.
 */
import {
  FLAG_AUTHENTIC,
  FLAG_AUTHORITATIVE,
  FLAG_CHECKING_DISABLED,
  FLAG_RECURSION_DESIRED,
  FLAG_TRUNCATED,
  flagsOf,
  HEADER_BYTES,
  RCODE_MASK,
  RCODE_NAME_ERROR,
  RCODE_NO_ERROR,
  type Records,
  readRecords,
  readUint32,
  TYPE_ANY,
  TYPE_META_FIRST,
  writeUint16,
  writeUint32,
} from './message.ts'
import { answerBytesMax, type Query } from './query.ts'

/** Replies of one worker. 4,096: a hundred pods with forty names each. */
export const CACHED_REPLIES_MAX = 4_096

/** Longest reply that is kept: larger ones are rare, and came over TCP. With the number above at most 16 MiB. */
export const CACHED_REPLY_BYTES_MAX = 4_096

/** Longest time a reply is kept, whatever its TTL says. A day: what resolvers themselves hold to. */
export const POSITIVE_TTL_S_MAX = 86_400

/** Longest time it is believed that something does not exist. Three hours: the upper end of RFC 2308 section 5. */
export const NEGATIVE_TTL_S_MAX = 10_800

interface CachedReply {
  readonly bytes: Uint8Array
  readonly ttlOffsets: readonly number[]
  readonly storedAtMs: number
  readonly expiresAtMs: number
}

export class ReplyCache {
  /** In the order of use. */
  private readonly replies = new Map<string, CachedReply>()
  private readonly now: () => number

  constructor(now: () => number) {
    this.now = now
  }

  get size(): number {
    return this.replies.size
  }

  /** The reply to `query`, with its id, the case of its name, and TTLs counted down; null when there is none to give. */
  find(key: string, query: Query): Uint8Array | null {
    const cached = this.replies.get(key)
    if (cached === undefined) return null
    const nowMs = this.now()
    this.replies.delete(key)
    if (nowMs >= cached.expiresAtMs) return null
    this.replies.set(key, cached)
    // A reply that came over TCP may be more than this client takes over UDP: the resolver decides what to leave out.
    if (cached.bytes.length > answerBytesMax(query)) return null
    const reply = new Uint8Array(cached.bytes)
    const end = query.question!.end
    reply.set(query.bytes.subarray(0, 2))
    reply.set(query.bytes.subarray(HEADER_BYTES, end), HEADER_BYTES)
    // What comes from a cache is not the word of an authority.
    writeUint16(reply, 2, flagsOf(reply) & ~FLAG_AUTHORITATIVE)
    const ageS = Math.floor((nowMs - cached.storedAtMs) / 1_000)
    for (const offset of cached.ttlOffsets) writeUint32(reply, offset, Math.max(0, readUint32(reply, offset) - ageS))
    return reply
  }

  /** Keeps a reply that was checked to be one to `query`, if replies like it may be kept. The bytes are copied. */
  store(key: string, query: Query, reply: Uint8Array): void {
    if (reply.length > CACHED_REPLY_BYTES_MAX) return
    const records = readRecords(reply, query.question!.end)
    if (records === null) return
    const ttlS = lifetimeOf(reply, records, query.question!.type)
    if (ttlS <= 0) return
    const nowMs = this.now()
    this.replies.delete(key)
    if (this.replies.size >= CACHED_REPLIES_MAX) {
      for (const oldest of this.replies.keys()) {
        this.replies.delete(oldest)
        break
      }
    }
    this.replies.set(key, {
      // Not slice(): that of a Buffer copies nothing.
      bytes: new Uint8Array(reply),
      ttlOffsets: records.ttlOffsets,
      storedAtMs: nowMs,
      expiresAtMs: nowMs + ttlS * 1_000,
    })
  }
}

/**
 * What makes two queries one to the cache; null for queries that are not looked up. Options of EDNS are between a client
 * and its resolver (cookies, subnets): such queries are never answered with somebody else's reply.
 */
export function cacheKey(source: string, resolverAddress: string, query: Query): string | null {
  const { question, edns, flags } = query
  if (!query.isPlain || !query.isWhole || query.isSigned || question === null) return null
  if (question.type >= TYPE_META_FIRST && question.type <= TYPE_ANY) return null
  if (edns !== null && (edns.hasOptions || edns.version !== 0)) return null
  const bits = flags & (FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED | FLAG_AUTHENTIC)
  const ednsBits = edns === null ? 'n' : edns.isDnssecOk ? 'd' : 'e'
  return `${source}\n${resolverAddress}\n${bits}${ednsBits}${question.type}\n${question.nameKey}`
}

/** Seconds that a reply may be kept; 0 for not at all. */
function lifetimeOf(reply: Uint8Array, records: Records, type: number): number {
  const flags = flagsOf(reply)
  const rcode = flags & RCODE_MASK
  if ((flags & FLAG_TRUNCATED) !== 0 || records.isSigned) return 0
  const isPositive = rcode === RCODE_NO_ERROR && records.answerTypes.includes(type)
  if (isPositive) return Math.min(records.ttlMin, POSITIVE_TTL_S_MAX)
  // Without a SOA nobody says for how long (RFC 2308 section 5); other errors may be over the next moment.
  if ((rcode !== RCODE_NO_ERROR && rcode !== RCODE_NAME_ERROR) || records.negativeTtl < 0) return 0
  return Math.min(records.ttlMin, records.negativeTtl, NEGATIVE_TTL_S_MAX)
}
