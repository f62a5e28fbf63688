/** Replies that we make ourselves: answers for names of the mesh, and errors. Everything else comes from resolvers. */
import { parseAddress } from '../base/address.ts'
import {
  CLASS_IN,
  EDNS_DNSSEC_OK,
  FLAG_AUTHORITATIVE,
  FLAG_CHECKING_DISABLED,
  FLAG_RECURSION_AVAILABLE,
  FLAG_RECURSION_DESIRED,
  FLAG_RESPONSE,
  FLAG_TRUNCATED,
  flagsOf,
  HEADER_BYTES,
  OPCODE_MASK,
  RCODE_NO_ERROR,
  readUint16,
  TYPE_A,
  TYPE_AAAA,
  TYPE_OPT,
  TYPE_SOA,
  writeUint16,
  writeUint32,
} from './message.ts'
import { answerBytesMax, type Query, UDP_BYTES_MAX } from './query.ts'

/**
 * Seconds that answers for names of the mesh may be kept. 30: virtual IPs hardly ever change, but a name that was just
 * made, or a family that was added, should not be missed for longer than a person waits.
 */
export const MESH_TTL_S = 30

/** A compressed name that stands for the question's. */
const POINTER_TO_QUESTION = 0xc000 | HEADER_BYTES

/** Name (a pointer), type, class, TTL and length. */
const RECORD_HEAD_BYTES = 12

/** An OPT record without options. */
const OPT_BYTES = 11

/** Two pointers and five numbers. */
const SOA_BYTES = 2 + 2 + 20

/** EDNS version that we speak; others are told so (RFC 6891 section 6.1.3). */
const EDNS_VERSION = 0

/** Upper eight bits of BADVERS (16). */
const EXTENDED_RCODE_BAD_VERSION = 1

/** Refresh, retry and expire of our SOA, which has no secondaries. Only there because the record has them. */
const SOA_TIMES_S: readonly number[] = [7_200, 1_800, 86_400]

/** Flags of a query that an answer repeats. */
const FLAGS_REPEATED = OPCODE_MASK | FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED

/**
 * The answer for a name of the mesh: one record per address. Without addresses it says that the name exists but has
 * nothing of that type (RFC 2308 section 2.2). What is larger than the client takes is left out whole, with TC.
 */
export function meshReply(query: Query, addresses: readonly string[]): Uint8Array {
  const { edns } = query
  if (edns !== null && edns.version !== EDNS_VERSION)
    return errorReply(query, RCODE_NO_ERROR, EXTENDED_RCODE_BAD_VERSION)
  const answers = addresses.map((address) => parseAddress(address)!)
  const ednsBytes = edns === null ? 0 : OPT_BYTES
  const questionEnd = query.question!.end
  let recordBytes = answers.length === 0 ? RECORD_HEAD_BYTES + SOA_BYTES : 0
  for (const address of answers) recordBytes += RECORD_HEAD_BYTES + address.length
  const isTruncated = questionEnd + recordBytes + ednsBytes > answerBytesMax(query)
  if (isTruncated) recordBytes = 0
  const reply = new Uint8Array(questionEnd + recordBytes + ednsBytes)
  writeHead(reply, query, FLAG_AUTHORITATIVE | (isTruncated ? FLAG_TRUNCATED : 0), questionEnd)
  let at = questionEnd
  if (!isTruncated && answers.length === 0) {
    writeUint16(reply, 8, 1)
    at = writeSoa(reply, at)
  } else if (!isTruncated) {
    writeUint16(reply, 6, answers.length)
    for (const address of answers) at = writeAddress(reply, at, address)
  }
  if (edns !== null) writeOpt(reply, at, edns.isDnssecOk, 0)
  return reply
}

/** An answer with nothing but an error in it. The question is repeated when it could be read. */
export function errorReply(query: Query, rcode: number, extendedRcode = 0): Uint8Array {
  const end = query.question === null ? HEADER_BYTES : query.question.end
  const reply = new Uint8Array(end + (query.edns === null ? 0 : OPT_BYTES))
  writeHead(reply, query, rcode, end)
  if (query.edns !== null) writeOpt(reply, end, query.edns.isDnssecOk, extendedRcode)
  return reply
}

/** The answer to bytes of which only the header can be read. */
export function headerReply(bytes: Uint8Array, rcode: number): Uint8Array {
  const reply = new Uint8Array(HEADER_BYTES)
  reply.set(bytes.subarray(0, 2))
  writeUint16(reply, 2, (flagsOf(bytes) & FLAGS_REPEATED) | FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | rcode)
  return reply
}

/** Header and question; recursion is available, because the pod's resolver does it. */
function writeHead(reply: Uint8Array, query: Query, flags: number, questionEnd: number): void {
  reply.set(query.bytes.subarray(0, questionEnd))
  writeUint16(reply, 2, (query.flags & FLAGS_REPEATED) | FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | flags)
  writeUint16(reply, 4, questionEnd > HEADER_BYTES ? 1 : 0)
  writeUint16(reply, 6, 0)
  writeUint16(reply, 8, 0)
  writeUint16(reply, 10, query.edns === null ? 0 : 1)
}

function writeRecordHead(reply: Uint8Array, at: number, type: number, length: number): number {
  writeUint16(reply, at, POINTER_TO_QUESTION)
  writeUint16(reply, at + 2, type)
  writeUint16(reply, at + 4, CLASS_IN)
  writeUint32(reply, at + 6, MESH_TTL_S)
  writeUint16(reply, at + 10, length)
  return at + RECORD_HEAD_BYTES
}

function writeAddress(reply: Uint8Array, at: number, address: Uint8Array): number {
  const start = writeRecordHead(reply, at, address.length === 4 ? TYPE_A : TYPE_AAAA, address.length)
  reply.set(address, start)
  return start + address.length
}

/** Each name is a zone of its own: no other name may inherit what is said of this one. */
function writeSoa(reply: Uint8Array, at: number): number {
  let position = writeRecordHead(reply, at, TYPE_SOA, SOA_BYTES)
  writeUint16(reply, position, POINTER_TO_QUESTION)
  writeUint16(reply, position + 2, POINTER_TO_QUESTION)
  position += 4
  for (const number of [1, ...SOA_TIMES_S, MESH_TTL_S]) {
    writeUint32(reply, position, number)
    position += 4
  }
  return position
}

function writeOpt(reply: Uint8Array, at: number, isDnssecOk: boolean, extendedRcode: number): void {
  reply[at] = 0
  writeUint16(reply, at + 1, TYPE_OPT)
  writeUint16(reply, at + 3, UDP_BYTES_MAX)
  reply[at + 5] = extendedRcode
  reply[at + 6] = EDNS_VERSION
  writeUint16(reply, at + 7, isDnssecOk ? EDNS_DNSSEC_OK : 0)
  writeUint16(reply, at + 9, 0)
}

/** The id of a message. */
export function idOf(bytes: Uint8Array): number {
  return readUint16(bytes, 0)
}
