/** A question as it came from a pod, read once: what decides who answers it, and how large the answer may be. */
import {
  CLASS_IN,
  type Edns,
  FLAG_RESPONSE,
  flagsOf,
  HEADER_BYTES,
  OPCODE_MASK,
  type Question,
  readQuestion,
  readRecords,
  readUint16,
} from './message.ts'

/**
 * Longest query that is taken. 4,096: a question has at most 271 bytes with its header and options are a few dozen more;
 * the rest is room for dynamic updates, which are sent through the same resolvers.
 */
export const QUERY_BYTES_MAX = 4_096

/** Size of an answer over UDP for clients without EDNS (RFC 1035 section 4.2.1). */
export const UDP_BYTES_PLAIN = 512

/** Largest answer of our own over UDP. The way is one hop inside the pod's namespace, which no router fragments. */
export const UDP_BYTES_MAX = 4_096

/** One query. The bytes are copied by who keeps them. */
export interface Query {
  readonly bytes: Uint8Array
  readonly isTcp: boolean
  readonly id: number
  readonly flags: number
  /** Null when there is none (no question, or none that can be read). */
  readonly question: Question | null
  readonly edns: Edns | null
  /** Every record could be read: what the header says is what is there. */
  readonly isWhole: boolean
  readonly isSigned: boolean
  /** The question can be asked of the mesh and of the cache: opcode QUERY, one question, class IN, without records. */
  readonly isPlain: boolean
}

/** What is wrong with bytes that are no query. */
export const NO_QUERY = 0
export const BAD_QUERY = 1

/**
 * Reads a query. `NO_QUERY` for bytes that deserve no answer (too short for an id, or themselves an answer: answering
 * those would make two servers talk forever), `BAD_QUERY` for what gets FORMERR.
 */
export function readQuery(bytes: Uint8Array, isTcp: boolean): Query | typeof NO_QUERY | typeof BAD_QUERY {
  if (bytes.length < HEADER_BYTES) return NO_QUERY
  const flags = flagsOf(bytes)
  if ((flags & FLAG_RESPONSE) !== 0) return NO_QUERY
  if (bytes.length > QUERY_BYTES_MAX) return BAD_QUERY
  const questionCount = readUint16(bytes, 4)
  // Several questions have no meaning in one message (RFC 9619); none is how cookies are asked for (RFC 7873).
  if (questionCount > 1) return BAD_QUERY
  const question = questionCount === 1 ? readQuestion(bytes) : null
  if (questionCount === 1 && question === null) return BAD_QUERY
  const records = readRecords(bytes, question === null ? HEADER_BYTES : question.end)
  const hasData = readUint16(bytes, 6) !== 0 || readUint16(bytes, 8) !== 0
  return {
    bytes,
    isTcp,
    id: readUint16(bytes, 0),
    flags,
    question,
    edns: records === null ? null : records.edns,
    isWhole: records !== null,
    isSigned: records?.isSigned ?? false,
    isPlain: question !== null && (flags & OPCODE_MASK) === 0 && question.class === CLASS_IN && !hasData,
  }
}

/** Most bytes of an answer to `query`. */
export function answerBytesMax(query: Query): number {
  if (query.isTcp) return Number.POSITIVE_INFINITY
  if (query.edns === null) return UDP_BYTES_PLAIN
  return Math.min(UDP_BYTES_MAX, Math.max(UDP_BYTES_PLAIN, query.edns.udpBytes))
}
