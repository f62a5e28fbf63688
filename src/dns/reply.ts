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
  TYPE_CNAME,
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

/** The same for addresses of endpoints, as Kubernetes' own DNS server has it: pods come and go. */
export const HEADLESS_TTL_S = 5

/** What is said of a name besides its addresses. */
export interface ReplyName {
  /** The host whose addresses they are, where it is another one; else null. */
  readonly alias: string | null
  readonly isHeadless: boolean
}

const ITSELF: ReplyName = { alias: null, isHeadless: false }

/** Bits of a compressed name. */
const POINTER = 0xc000

/** A compressed name that stands for the question's. */
const POINTER_TO_QUESTION = POINTER | HEADER_BYTES

/** Whose records are written. */
interface Owner {
  pointer: number
  readonly ttlS: number
}

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
 * The answer for a name of the mesh: one record per address, behind one that names the host they belong to if that is
 * another. Without addresses it says that the name exists but has nothing of that type (RFC 2308 section 2.2). What is
 * larger than the client takes is left out with TC: all of it, but for endpoints, of which some are better than none to a
 * client that does not ask again over TCP.
 */
export function meshReply(query: Query, addresses: readonly string[], name: ReplyName = ITSELF): Uint8Array {
  const { edns } = query
  if (edns !== null && edns.version !== EDNS_VERSION)
    return errorReply(query, RCODE_NO_ERROR, EXTENDED_RCODE_BAD_VERSION)
  const target = name.alias === null ? null : encodeName(name.alias)
  let answers = addresses.map((address) => parseAddress(address)!)
  const ednsBytes = edns === null ? 0 : OPT_BYTES
  const questionEnd = query.question!.end
  const aliasBytes = target === null ? 0 : RECORD_HEAD_BYTES + target.length
  let recordBytes = answers.length === 0 ? RECORD_HEAD_BYTES + SOA_BYTES : 0
  for (const address of answers) recordBytes += RECORD_HEAD_BYTES + address.length
  const room = answerBytesMax(query) - questionEnd - ednsBytes - aliasBytes
  const isTruncated = recordBytes > room
  if (isTruncated) {
    answers = name.isHeadless ? fitting(answers, room) : []
    recordBytes = answers.reduce((sum, { length }) => sum + RECORD_HEAD_BYTES + length, 0)
  }
  const hasAlias = target !== null && room >= 0
  const reply = new Uint8Array(questionEnd + (hasAlias ? aliasBytes : 0) + recordBytes + ednsBytes)
  writeHead(reply, query, FLAG_AUTHORITATIVE | (isTruncated ? FLAG_TRUNCATED : 0), questionEnd)
  writeUint16(reply, 6, answers.length + (hasAlias ? 1 : 0))
  const owner: Owner = { pointer: POINTER_TO_QUESTION, ttlS: name.isHeadless ? HEADLESS_TTL_S : MESH_TTL_S }
  let at = questionEnd
  if (hasAlias) {
    const start = writeRecordHead(reply, at, owner, TYPE_CNAME, target.length)
    reply.set(target, start)
    owner.pointer = POINTER | start
    at = start + target.length
  }
  if (!isTruncated && answers.length === 0) {
    writeUint16(reply, 8, 1)
    at = writeSoa(reply, at, owner)
  }
  for (const address of answers) at = writeAddress(reply, at, owner, address)
  if (edns !== null) writeOpt(reply, at, edns.isDnssecOk, 0)
  return reply
}

/** As many from the front as have room. */
function fitting(answers: readonly Uint8Array[], room: number): Uint8Array[] {
  const kept: Uint8Array[] = []
  let left = room
  for (const answer of answers) {
    left -= RECORD_HEAD_BYTES + answer.length
    if (left < 0) break
    kept.push(answer)
  }
  return kept
}

/** A host name as labels, uncompressed. Our hosts are ASCII with labels of at most 63 characters. */
function encodeName(host: string): Uint8Array {
  const bytes = new Uint8Array(host.length + 2)
  let at = 0
  for (const label of host.split('.')) {
    bytes[at++] = label.length
    for (let i = 0; i < label.length; i++) bytes[at++] = label.charCodeAt(i)
  }
  return bytes
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

function writeRecordHead(reply: Uint8Array, at: number, owner: Owner, type: number, length: number): number {
  writeUint16(reply, at, owner.pointer)
  writeUint16(reply, at + 2, type)
  writeUint16(reply, at + 4, CLASS_IN)
  writeUint32(reply, at + 6, owner.ttlS)
  writeUint16(reply, at + 10, length)
  return at + RECORD_HEAD_BYTES
}

function writeAddress(reply: Uint8Array, at: number, owner: Owner, address: Uint8Array): number {
  const start = writeRecordHead(reply, at, owner, address.length === 4 ? TYPE_A : TYPE_AAAA, address.length)
  reply.set(address, start)
  return start + address.length
}

/** Each name is a zone of its own: no other name may inherit what is said of this one. */
function writeSoa(reply: Uint8Array, at: number, owner: Owner): number {
  let position = writeRecordHead(reply, at, owner, TYPE_SOA, SOA_BYTES)
  writeUint16(reply, position, owner.pointer)
  writeUint16(reply, position + 2, owner.pointer)
  position += 4
  for (const number of [1, ...SOA_TIMES_S, owner.ttlS]) {
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
