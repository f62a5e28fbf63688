/**
 * DNS messages as far as a forwarder must read them (RFC 1035 section 4, RFC 6891): header, question, and where the
 * fields of each record lie. Messages are never taken apart and put together again: what is passed on is passed on as it
 * came, and what is changed (ids, TTLs) is changed in place.
 *
 * Compressed names are stepped over, not followed: nothing here needs the text of a name of a reply, and where no pointer
 * is followed there is no loop. In a question a pointer has nothing to point to and is refused.
 */
import { latin1Slice } from '../base/bytes.ts'

/** Bytes of the header. */
export const HEADER_BYTES = 12

/** Longest message: the length prefix of TCP has 16 bits. */
export const MESSAGE_BYTES_MAX = 65_535

/** Longest label and longest name, length bytes and the root's included (RFC 1035 section 2.3.4). */
export const LABEL_BYTES_MAX = 63
export const NAME_BYTES_MAX = 255

/** Bits of the second 16-bit word of the header. */
export const FLAG_RESPONSE = 0x8000
export const FLAG_AUTHORITATIVE = 0x0400
export const FLAG_TRUNCATED = 0x0200
export const FLAG_RECURSION_DESIRED = 0x0100
export const FLAG_RECURSION_AVAILABLE = 0x0080
export const FLAG_AUTHENTIC = 0x0020
export const FLAG_CHECKING_DISABLED = 0x0010
export const OPCODE_MASK = 0x7800
export const RCODE_MASK = 0x000f

export const RCODE_NO_ERROR = 0
export const RCODE_FORMAT_ERROR = 1
export const RCODE_SERVER_FAILURE = 2
export const RCODE_NAME_ERROR = 3
export const RCODE_NOT_IMPLEMENTED = 4
export const RCODE_REFUSED = 5

export const TYPE_A = 1
export const TYPE_CNAME = 5
export const TYPE_SOA = 6
export const TYPE_AAAA = 28
export const TYPE_OPT = 41
export const TYPE_SVCB = 64
export const TYPE_HTTPS = 65
/** Types from here to ANY are about the transaction, a transfer or a choice, not about records (RFC 6895 section 3.1). */
export const TYPE_META_FIRST = 249
export const TYPE_TSIG = 250
export const TYPE_ANY = 255

export const CLASS_IN = 1

/** The DO bit in the TTL of an OPT record (RFC 6891 section 6.1.3). */
export const EDNS_DNSSEC_OK = 0x8000

const POINTER_BITS = 0xc0

/** Type, class, TTL and length of a record, after its name. */
const RECORD_FIXED_BYTES = 10

/** TTLs with the highest bit set mean zero (RFC 2181 section 8). */
const TTL_HIGHEST_BIT = 0x8000_0000

/** The SOA fields after its two names; the last one is the minimum. */
const SOA_FIXED_BYTES = 20

export function readUint16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!
}

export function readUint32(bytes: Uint8Array, at: number): number {
  return readUint16(bytes, at) * 0x1_0000 + readUint16(bytes, at + 2)
}

export function writeUint16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8
  bytes[at + 1] = value & 0xff
}

export function writeUint32(bytes: Uint8Array, at: number, value: number): void {
  writeUint16(bytes, at, value >>> 16)
  writeUint16(bytes, at + 2, value & 0xffff)
}

/** The second word of the header. */
export function flagsOf(bytes: Uint8Array): number {
  return readUint16(bytes, 2)
}

/** One question. */
export interface Question {
  /**
   * The name as it is compared: the bytes of its labels with their lengths, ASCII letters in lower case, one character
   * per byte. Two names are equal exactly when these are, whatever bytes they have.
   */
  readonly nameKey: string
  /** The name as text in lower case without the last dot; null when it has bytes that no host name has. */
  readonly host: string | null
  readonly type: number
  readonly class: number
  /** Offset after the question. */
  readonly end: number
}

/** Reads the question at `HEADER_BYTES`; null when it is cut, too long, compressed or of an unknown label type. */
export function readQuestion(bytes: Uint8Array): Question | null {
  let at = HEADER_BYTES
  let host = ''
  let isHost = true
  for (;;) {
    if (at >= bytes.length) return null
    const length = bytes[at]!
    at++
    if (length === 0) break
    // The root's byte is still to come.
    if (length > LABEL_BYTES_MAX || at + length + 1 - HEADER_BYTES > NAME_BYTES_MAX) return null
    if (at + length > bytes.length) return null
    const label = latin1Slice(bytes, at, at + length)
    if (isHost && isHostLabel(label)) host = host === '' ? label : `${host}.${label}`
    else isHost = false
    at += length
  }
  if (at + 4 > bytes.length) return null
  return {
    nameKey: lowerCase(latin1Slice(bytes, HEADER_BYTES, at)),
    host: isHost && host !== '' ? lowerCase(host) : null,
    type: readUint16(bytes, at),
    class: readUint16(bytes, at + 2),
    end: at + 4,
  }
}

/** Letters, digits, hyphen and underscore: what names of services and hosts are made of. */
function isHostLabel(label: string): boolean {
  for (let i = 0; i < label.length; i++) {
    const code = label.charCodeAt(i)
    const isLetter = (code | 0x20) >= 0x61 && (code | 0x20) <= 0x7a
    if (!isLetter && !(code >= 0x30 && code <= 0x39) && code !== 0x2d && code !== 0x5f) return false
  }
  return true
}

/** ASCII letters only: String's own would change letters of Latin-1 as well, and make two names one (RFC 4343). */
export function lowerCase(text: string): string {
  let lower = ''
  let from = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x41 || code > 0x5a) continue
    lower += text.slice(from, i) + String.fromCharCode(code | 0x20)
    from = i + 1
  }
  return from === 0 ? text : lower + text.slice(from)
}

/** True when two messages have the same question section of `length` bytes, ASCII case aside. Both are long enough. */
export function equalsQuestion(one: Uint8Array, other: Uint8Array, length: number): boolean {
  for (let i = HEADER_BYTES; i < HEADER_BYTES + length; i++) {
    const [a, b] = [one[i]!, other[i]!]
    if (a === b) continue
    if ((a | 0x20) !== (b | 0x20) || (a | 0x20) < 0x61 || (a | 0x20) > 0x7a) return false
  }
  return true
}

/** The OPT record of a message. */
export interface Edns {
  readonly udpBytes: number
  readonly version: number
  readonly isDnssecOk: boolean
  readonly hasOptions: boolean
}

/** What the records of a message are, in sum. */
export interface Records {
  /** Null when there is none. */
  readonly edns: Edns | null
  /** Where TTLs stand that count down: all but OPT's. */
  readonly ttlOffsets: readonly number[]
  /** Lowest of those TTLs, in seconds; infinite when there is none. */
  readonly ttlMin: number
  /** Types of the answer section. */
  readonly answerTypes: readonly number[]
  /** The lower of TTL and minimum of a SOA in the authority section (RFC 2308 section 5); -1 without one. */
  readonly negativeTtl: number
  /** True for messages that are signed with a key (RFC 8945). */
  readonly isSigned: boolean
}

/** Walks the records from `start` to the end; null when they are not exactly what the header's counts say. */
export function readRecords(bytes: Uint8Array, start: number): Records | null {
  const answers = readUint16(bytes, 6)
  const authorities = readUint16(bytes, 8)
  const count = answers + authorities + readUint16(bytes, 10)
  let at = start
  let edns: Edns | null = null
  let ttlMin = Number.POSITIVE_INFINITY
  let negativeTtl = -1
  let isSigned = false
  const ttlOffsets: number[] = []
  const answerTypes: number[] = []
  for (let i = 0; i < count; i++) {
    const fixed = skipName(bytes, at)
    if (fixed < 0 || fixed + RECORD_FIXED_BYTES > bytes.length) return null
    const type = readUint16(bytes, fixed)
    const length = readUint16(bytes, fixed + 8)
    const end = fixed + RECORD_FIXED_BYTES + length
    if (end > bytes.length) return null
    if (type === TYPE_OPT) {
      // One, with the root's name, in the additional section (RFC 6891 section 6.1.1).
      if (edns !== null || i < answers + authorities || fixed !== at + 1) return null
      edns = {
        udpBytes: readUint16(bytes, fixed + 2),
        version: bytes[fixed + 5]!,
        isDnssecOk: (readUint16(bytes, fixed + 6) & EDNS_DNSSEC_OK) !== 0,
        hasOptions: length > 0,
      }
    } else {
      const ttl = ttlAt(bytes, fixed + 4)
      ttlOffsets.push(fixed + 4)
      ttlMin = Math.min(ttlMin, ttl)
      if (i < answers) answerTypes.push(type)
      else if (type === TYPE_SOA && i < answers + authorities) {
        if (length < SOA_FIXED_BYTES + 2) return null
        negativeTtl = Math.min(ttl, ttlAt(bytes, end - 4))
      }
      if (type === TYPE_TSIG) isSigned = true
    }
    at = end
  }
  return at === bytes.length ? { edns, ttlOffsets, ttlMin, answerTypes, negativeTtl, isSigned } : null
}

function ttlAt(bytes: Uint8Array, at: number): number {
  const ttl = readUint32(bytes, at)
  return ttl >= TTL_HIGHEST_BIT ? 0 : ttl
}

/** Offset after the name at `at`; -1 when it is cut, too long, of an unknown label type, or points forward. */
function skipName(bytes: Uint8Array, at: number): number {
  let position = at
  while (position < bytes.length) {
    const length = bytes[position]!
    if (length === 0) return position + 1
    if (length >= POINTER_BITS) {
      if (position + 2 > bytes.length) return -1
      const target = readUint16(bytes, position) & 0x3fff
      return target >= HEADER_BYTES && target < at ? position + 2 : -1
    }
    if (length > LABEL_BYTES_MAX) return -1
    position += 1 + length
    if (position - at >= NAME_BYTES_MAX) return -1
  }
  return -1
}
