/**
 * One query on its way to a pod's resolver, and everybody who waits for its reply. Pods repeat themselves (retries, two
 * threads with one question): equal queries share one exchange, so that a forger has one id to guess and not many.
 */
import { TimerEntry, type TimerTarget, type TimerWheel } from '../base/timers.ts'
import type { DnsCounts, DnsFailure } from '../telemetry/dns-counts.ts'
import {
  equalsQuestion,
  FLAG_RESPONSE,
  flagsOf,
  HEADER_BYTES,
  OPCODE_MASK,
  RCODE_MASK,
  RCODE_NO_ERROR,
  readUint16,
  writeUint16,
} from './message.ts'
import type { Query } from './query.ts'
import type { Cancellation, ForwardFailure, ReplyHandler, Upstream } from './upstream.ts'

/** Where the answer to one question goes. */
export interface Answering {
  /** Called at most once, perhaps before `query` returns. The bytes are a whole message and the callee's. */
  answer(bytes: Uint8Array): void
}

/** How long a resolver may take. 5 s: what clients wait themselves (glibc's default); a reply after that reaches nobody. */
export const REPLY_TIMEOUT_MS = 5_000

/**
 * An equal query that comes later than this is a client's retry, after the first or its reply was lost: it is sent again.
 * 1 s: far above the time a resolver needs for what it knows, below the shortest retry of usual clients (2.5 s, musl).
 */
export const RETRY_AFTER_MS = 1_000

/** Times one exchange is sent: the tries of the most patient usual client. */
export const FORWARDS_MAX = 3

/**
 * Clients that wait for one exchange. 256: threads of a program that starts and asks for the same host in all of them;
 * as many as one pod may have exchanges. Further ones get an error.
 */
export const WAITERS_MAX = 256

/**
 * Replies with the wrong id or question after which an exchange is given up. 32: a forger who knows the ports has then
 * had one chance in two thousand to guess the id; strays of an earlier query are one or two.
 */
export const WRONG_REPLIES_MAX = 32

/** Who is told how an exchange ended. */
export interface ExchangeOwner {
  /** `reply` is a reply to the query, with the exchange's own id. */
  onExchangeReply(exchange: Exchange, reply: Uint8Array): void
  /** Nothing came that could be used. */
  onExchangeFailure(exchange: Exchange, isTimeout: boolean): void
}

/** What an exchange uses of its owner's surroundings. */
export interface ExchangeParts {
  readonly upstream: Upstream
  readonly timers: TimerWheel
  readonly now: () => number
  readonly counts: DnsCounts
}

/** A client of an exchange. */
export interface Waiter {
  readonly id: number
  readonly respond: Answering
}

export class Exchange implements ReplyHandler, TimerTarget {
  readonly key: string
  readonly source: string
  readonly resolverAddress: string
  /** The query with a copy of its bytes; the id in them is the exchange's own. */
  readonly query: Query
  readonly cacheKey: string | null
  /** True for a name of the mesh, which exists whatever a resolver says. */
  readonly isMeshName: boolean
  readonly waiters: Waiter[] = []
  private readonly owner: ExchangeOwner
  private readonly parts: ExchangeParts
  private readonly timer: TimerEntry
  private readonly id: number
  private readonly questionBytes: number
  private readonly forwards: Cancellation[] = []
  private forwardCount = 0
  private failureCount = 0
  private wrongReplies = 0
  private sentAtMs = 0
  private isOver = false

  constructor(
    owner: ExchangeOwner,
    parts: ExchangeParts,
    fields: Pick<Exchange, 'key' | 'source' | 'resolverAddress' | 'cacheKey' | 'isMeshName' | 'query'>,
    id: number,
  ) {
    this.key = fields.key
    this.source = fields.source
    this.resolverAddress = fields.resolverAddress
    this.cacheKey = fields.cacheKey
    this.isMeshName = fields.isMeshName
    // Not slice(): that of a Buffer copies nothing.
    const bytes = new Uint8Array(fields.query.bytes)
    writeUint16(bytes, 0, id)
    this.query = { ...fields.query, bytes }
    this.owner = owner
    this.parts = parts
    this.timer = new TimerEntry(this)
    this.id = id
    this.questionBytes = fields.query.question === null ? 0 : fields.query.question.end - HEADER_BYTES
  }

  /** Sends the query for the first time. May end the exchange before it returns. */
  start(): void {
    this.parts.timers.start(this.timer, REPLY_TIMEOUT_MS)
    this.send()
  }

  /** One more client with the same query; false when there are too many. */
  join(waiter: Waiter): boolean {
    if (this.waiters.length >= WAITERS_MAX) return false
    this.waiters.push(waiter)
    const isRetry = this.parts.now() - this.sentAtMs >= RETRY_AFTER_MS
    if (isRetry && this.forwardCount < FORWARDS_MAX) {
      this.parts.timers.start(this.timer, REPLY_TIMEOUT_MS)
      this.send()
    }
    return true
  }

  /** Ends it without a word to anybody. */
  end(): void {
    if (this.isOver) return
    this.isOver = true
    this.parts.timers.clear(this.timer)
    for (const forward of this.forwards) forward.cancel()
  }

  onReply(bytes: Uint8Array): void {
    if (this.isOver) return
    if (this.isReply(bytes)) {
      this.end()
      this.owner.onExchangeReply(this, bytes)
      return
    }
    this.parts.counts.failure('mismatch')
    if (++this.wrongReplies >= WRONG_REPLIES_MAX) this.fail('forged')
  }

  onFailure(reason: ForwardFailure): void {
    if (this.isOver) return
    // An earlier try may still be answered.
    if (++this.failureCount < this.forwardCount) this.parts.counts.failure(reason)
    else this.fail(reason)
  }

  onTimer(): void {
    this.fail('timeout')
  }

  private send(): void {
    this.sentAtMs = this.parts.now()
    this.forwardCount++
    const { query, source, resolverAddress } = this
    const forward = this.parts.upstream.forward(source, resolverAddress, query.bytes, query.isTcp, this)
    if (this.isOver) forward.cancel()
    else this.forwards.push(forward)
  }

  private fail(reason: DnsFailure): void {
    this.end()
    this.parts.counts.failure(reason)
    this.owner.onExchangeFailure(this, reason === 'timeout')
  }

  /** What makes bytes a reply to this query (RFC 5452 section 9.1, as far as bytes can tell). */
  private isReply(bytes: Uint8Array): boolean {
    if (bytes.length < HEADER_BYTES || readUint16(bytes, 0) !== this.id) return false
    const flags = flagsOf(bytes)
    if ((flags & FLAG_RESPONSE) === 0 || ((flags ^ this.query.flags) & OPCODE_MASK) !== 0) return false
    const questionCount = readUint16(bytes, 4)
    // Servers that did not understand the query send its header back with an error.
    if (questionCount === 0 && bytes.length === HEADER_BYTES && (flags & RCODE_MASK) !== RCODE_NO_ERROR) return true
    if (questionCount !== (this.questionBytes === 0 ? 0 : 1)) return false
    if (bytes.length < HEADER_BYTES + this.questionBytes) return false
    return equalsQuestion(bytes, this.query.bytes, this.questionBytes)
  }
}
