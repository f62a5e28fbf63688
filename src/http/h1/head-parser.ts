// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Incremental parser of a request head, a response head or a trailer section (RFC 9112 sections 3 to 5).
 *
 * A security boundary: whatever two parsers could read differently is refused. It reads the lent bytes in place and
 * notes positions; only a head that comes in several pieces is gathered in a buffer of its own. Nothing here knows what
 * a header means: request-head.ts and response-head.ts do.
 *
 * Positions are relative to the first byte of the head, so that they hold wherever the bytes lie.
 */
import {
  COLON,
  CR,
  copyBytes,
  equalsTokenLower,
  FIELD_VALUE,
  LF,
  lowerCaseInPlace,
  SPACE,
  TAB,
  TOKEN_LOWER,
} from '../../base/bytes.ts'
import type { ProtocolViolation } from '../codec.ts'
import { HeaderList } from '../headers.ts'
import {
  FIELD_CONTENT_LENGTH,
  FIELD_EXPECT,
  FIELD_HOST,
  FIELD_NOMINATED,
  FIELD_OTHER,
  fieldKind,
  mayBeNominated,
  NAMED_KIND_COUNT,
} from './field-kinds.ts'
import { claimBytes, claimSlots } from './head-storage.ts'
import {
  FIELD_COUNT_MAX,
  HEAD_BYTES_MAX,
  LEADING_EMPTY_LINES_MAX,
  LINE_BYTES_MAX,
  METHOD_BYTES_MAX,
  NOMINATIONS_MAX,
  TRAILER_BYTES_MAX,
} from './limits.ts'
import * as violations from './violations.ts'

export const HEAD_REQUEST = 0
export const HEAD_RESPONSE = 1
export const HEAD_TRAILERS = 2
export type HeadKind = typeof HEAD_REQUEST | typeof HEAD_RESPONSE | typeof HEAD_TRAILERS

/** All input is taken and the head is not complete. */
export const PARSE_MORE = 0
/** The head is complete; `position` is the first byte after it. */
export const PARSE_DONE = 1
/** The peer broke a rule: see `violation`. */
export const PARSE_BAD = 2
export type ParseOutcome = typeof PARSE_MORE | typeof PARSE_DONE | typeof PARSE_BAD

const KIND_MASK = 0x0f
/** Set in `kinds` beside the kind when the name has upper-case letters. */
const HAS_UPPER = 0x80

const STATE_START = 0
const STATE_START_LF = 1
const STATE_METHOD = 2
const STATE_TARGET = 3
const STATE_VERSION = 4
const STATE_STATUS = 5
const STATE_REASON = 6
const STATE_LINE_LF = 7
const STATE_FIELD_START = 8
const STATE_NAME = 9
const STATE_VALUE_START = 10
const STATE_VALUE = 11
const STATE_VALUE_LF = 12
const STATE_END_LF = 13

const VERSION_PREFIX = [0x48, 0x54, 0x54, 0x50, 0x2f] // HTTP/
const ZERO = 0x30
const DOT = 0x2e
const SLOT_INTS = 4

/** First size of the buffer that gathers a head in pieces. Most heads are shorter. */
const GATHER_BYTES = 1024

/** Largest such buffer that a parser keeps when it is done. 4 KiB: enough for nearly all heads. */
const GATHER_BYTES_KEPT = 4096

export class HeadParser {
  violation: ProtocolViolation | null
  /** Where in the input of the last `feed` parsing stopped. */
  position: number
  /** Bytes of the complete head, and where they lie: the lent input or our own buffer. Valid until the input is. */
  source: Uint8Array
  base: number
  length: number

  // --- the line ---
  methodStart: number
  methodEnd: number
  targetStart: number
  targetEnd: number
  /** 10 or 11. */
  version: number
  status: number

  // --- the fields ---
  count: number
  /** Four per field: nameStart, nameEnd, valueStart, valueEnd. */
  readonly slots: Int32Array
  readonly kinds: Uint8Array
  /** Bits by kind: there is such a field; there is more than one. */
  seen: number
  repeated: number
  /** Index of the first field of each kind; only where `seen` says so. */
  readonly firstOf: Uint8Array

  private nominations: number
  private kind: HeadKind
  private state: number
  private scanned: number
  private limit: number
  private emptyLines: number
  private mark: number
  private fieldsStart: number
  private gathered: Uint8Array | null
  private gatheredLength: number

  constructor() {
    this.violation = null
    this.position = 0
    this.source = NO_BYTES
    this.base = 0
    this.length = 0
    this.methodStart = 0
    this.methodEnd = 0
    this.targetStart = 0
    this.targetEnd = 0
    this.version = 0
    this.status = 0
    this.count = 0
    this.slots = new Int32Array(FIELD_COUNT_MAX * SLOT_INTS)
    this.kinds = new Uint8Array(FIELD_COUNT_MAX)
    this.seen = 0
    this.repeated = 0
    this.firstOf = new Uint8Array(NAMED_KIND_COUNT)
    this.nominations = 0
    this.kind = HEAD_REQUEST
    this.state = STATE_START
    this.scanned = 0
    this.limit = 0
    this.emptyLines = 0
    this.mark = 0
    this.fieldsStart = 0
    this.gathered = null
    this.gatheredLength = 0
  }

  /** Ready for a new head. */
  begin(kind: HeadKind): void {
    this.kind = kind
    this.violation = null
    this.source = NO_BYTES
    this.status = 0
    this.count = 0
    this.seen = 0
    this.repeated = 0
    this.nominations = 0
    this.state = kind === HEAD_REQUEST ? STATE_START : kind === HEAD_RESPONSE ? STATE_VERSION : STATE_FIELD_START
    this.scanned = 0
    this.limit = kind === HEAD_TRAILERS ? TRAILER_BYTES_MAX : LINE_BYTES_MAX
    this.emptyLines = 0
    this.mark = 0
    this.fieldsStart = 0
    this.gatheredLength = 0
  }

  /** Lets go of the input, and of a buffer that one large head has made. */
  release(): void {
    this.source = NO_BYTES
    if (this.gathered !== null && this.gathered.length > GATHER_BYTES_KEPT) this.gathered = null
  }

  /** Parses on with `bytes[offset..end)`. */
  feed(/* lent */ bytes: Uint8Array, offset: number, end: number): ParseOutcome {
    const before = this.gatheredLength
    if (before === 0) {
      const outcome = this.scan(bytes, offset, end)
      if (outcome === PARSE_MORE) this.gather(bytes, offset, end)
      else this.source = bytes
      this.base = offset
      this.position = offset + this.scanned
      return outcome
    }
    // Beyond the limit nothing is looked at, so nothing needs to be copied.
    const taken = Math.min(end - offset, this.byteLimit() - before)
    this.gather(bytes, offset, offset + taken)
    const outcome = this.scan(this.gathered!, 0, this.gatheredLength)
    this.source = this.gathered!
    this.base = 0
    this.position = outcome === PARSE_MORE ? end : offset + this.scanned - before
    return outcome
  }

  /** Keeps fields of that name (lower case) from being forwarded. False when Connection must not name it. */
  nominate(name: string): boolean {
    this.nominations++
    if (this.nominations > NOMINATIONS_MAX || !mayBeNominated(name)) return false
    for (let i = 0; i < this.count; i++) {
      const start = this.slots[i * SLOT_INTS]!
      if (this.slots[i * SLOT_INTS + 1]! - start !== name.length) continue
      if (!equalsTokenLower(this.source, this.base + start, name)) continue
      const kind = this.kinds[i]! & KIND_MASK
      if (kind === FIELD_HOST || kind === FIELD_CONTENT_LENGTH || kind === FIELD_EXPECT) return false
      if (kind === FIELD_OTHER) this.kinds[i] = this.kinds[i]! | FIELD_NOMINATED
    }
    return true
  }

  kindOf(index: number): number {
    return this.kinds[index]! & KIND_MASK
  }

  /** The fields that go on to the next hop, in a copy that outlives the input. */
  takeFields(): HeaderList {
    let kept = 0
    for (let i = 0; i < this.count; i++) if ((this.kinds[i]! & KIND_MASK) === FIELD_OTHER) kept++
    if (kept === 0) return new HeaderList()
    const length = this.length - this.fieldsStart
    const claimedBytes = claimBytes(length)
    const bytes = claimedBytes.bytes
    const from = this.base + this.fieldsStart
    copyBytes(this.source, from, length, bytes, claimedBytes.offset)
    const shift = claimedBytes.offset - this.fieldsStart
    const claimedSlots = claimSlots(kept * SLOT_INTS)
    const slots = claimedSlots.slots
    const base = claimedSlots.offset
    let slot = base
    for (let i = 0; i < this.count; i++) {
      const kind = this.kinds[i]!
      if ((kind & KIND_MASK) !== FIELD_OTHER) continue
      const nameStart = this.slots[i * SLOT_INTS]! + shift
      const nameEnd = this.slots[i * SLOT_INTS + 1]! + shift
      if (kind !== FIELD_OTHER) lowerCaseInPlace(bytes, nameStart, nameEnd)
      slots[slot] = nameStart
      slots[slot + 1] = nameEnd
      slots[slot + 2] = this.slots[i * SLOT_INTS + 2]! + shift
      slots[slot + 3] = this.slots[i * SLOT_INTS + 3]! + shift
      slot += SLOT_INTS
    }
    return HeaderList.fromWire(bytes, slots, base, kept)
  }

  // --- scanning ---

  private scan(bytes: Uint8Array, base: number, end: number): ParseOutcome {
    let state = this.state
    let p = base + this.scanned
    let stop = Math.min(end, base + this.limit)
    while (p < stop) {
      const byte = bytes[p]!
      switch (state) {
        case STATE_START:
          if (byte === CR) {
            if (this.emptyLines === LEADING_EMPTY_LINES_MAX) return this.refuse(violations.TOO_MANY_EMPTY_LINES)
            this.emptyLines++
            state = STATE_START_LF
            p++
          } else if (byte === LF) {
            return this.refuse(violations.BARE_LF)
          } else {
            this.methodStart = p - base
            state = STATE_METHOD
          }
          break

        case STATE_START_LF:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          state = STATE_START
          p++
          break

        case STATE_METHOD:
          while (p < stop && TOKEN_LOWER[bytes[p]!] !== 0) p++
          if (p - base - this.methodStart > METHOD_BYTES_MAX) return this.refuse(violations.METHOD_TOO_LONG)
          if (p === stop) break
          if (bytes[p] !== SPACE || p - base === this.methodStart) return this.refuse(violations.BAD_METHOD)
          this.methodEnd = p - base
          p++
          this.targetStart = p - base
          state = STATE_TARGET
          break

        case STATE_TARGET: {
          while (p < stop && TARGET_BYTE[bytes[p]!] === 1) p++
          if (p === stop) break
          const next = bytes[p]!
          if (next === CR || next === LF) return this.refuse(violations.BAD_REQUEST_LINE)
          if (next !== SPACE || p - base === this.targetStart) return this.refuse(violations.BAD_TARGET)
          this.targetEnd = p - base
          p++
          this.mark = p - base
          state = STATE_VERSION
          break
        }

        case STATE_VERSION: {
          const index = p - base - this.mark
          if (index < 8) {
            if (!isVersionByte(index, byte)) return this.refuse(violations.BAD_VERSION)
            p++
            break
          }
          const first = base + this.mark
          if (bytes[first + 5] !== 0x31 || bytes[first + 7]! > 0x31) return this.refuse(violations.UNSUPPORTED_VERSION)
          this.version = 10 + bytes[first + 7]! - ZERO
          p++
          if (this.kind === HEAD_RESPONSE) {
            if (byte !== SPACE) return this.refuse(violations.BAD_STATUS_LINE)
            this.mark = p - base
            state = STATE_STATUS
          } else {
            if (byte === LF) return this.refuse(violations.BARE_LF)
            if (byte !== CR) return this.refuse(violations.BAD_REQUEST_LINE)
            state = STATE_LINE_LF
          }
          break
        }

        case STATE_STATUS: {
          const index = p - base - this.mark
          p++
          if (index < 3) {
            if (byte < ZERO || byte > ZERO + 9) return this.refuse(violations.BAD_STATUS_LINE)
            this.status = this.status * 10 + byte - ZERO
            break
          }
          if (this.status < 100 || this.status > 599) return this.refuse(violations.BAD_STATUS_LINE)
          // RFC 9112 wants a space even before an empty reason; several servers leave it out, and nothing is ambiguous.
          if (byte === SPACE) state = STATE_REASON
          else if (byte === CR) state = STATE_LINE_LF
          else return this.refuse(byte === LF ? violations.BARE_LF : violations.BAD_STATUS_LINE)
          break
        }

        case STATE_REASON:
          while (p < stop && FIELD_VALUE[bytes[p]!] === 1) p++
          if (p === stop) break
          if (bytes[p] !== CR) return this.refuse(bytes[p] === LF ? violations.BARE_LF : violations.BAD_STATUS_LINE)
          p++
          state = STATE_LINE_LF
          break

        case STATE_LINE_LF:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          p++
          this.fieldsStart = p - base
          this.limit = HEAD_BYTES_MAX
          stop = Math.min(end, base + HEAD_BYTES_MAX)
          state = STATE_FIELD_START
          break

        case STATE_FIELD_START:
          if (byte === CR) {
            p++
            state = STATE_END_LF
            break
          }
          if (byte === LF) return this.refuse(violations.BARE_LF)
          if (byte === SPACE || byte === TAB) return this.refuse(violations.OBSOLETE_FOLD)
          if (this.count === FIELD_COUNT_MAX) return this.refuse(violations.TOO_MANY_FIELDS)
          this.mark = p - base
          this.kinds[this.count] = FIELD_OTHER
          state = STATE_NAME
          break

        case STATE_NAME: {
          let upper = 0
          while (p < stop) {
            const character = bytes[p]!
            const lower = TOKEN_LOWER[character]!
            if (lower === 0) break
            upper |= lower ^ character
            p++
          }
          if (upper !== 0) this.kinds[this.count] = HAS_UPPER
          if (p === stop) break
          if (bytes[p] !== COLON || p - base === this.mark) return this.refuseName(bytes[p]!)
          this.slots[this.count * SLOT_INTS] = this.mark
          this.slots[this.count * SLOT_INTS + 1] = p - base
          this.classify(bytes, base + this.mark, p - base - this.mark)
          p++
          // Nearly always one space follows, and then the value.
          if (p + 1 < stop && bytes[p] === SPACE && bytes[p + 1]! > SPACE) {
            p++
            this.mark = p - base
            state = STATE_VALUE
          } else {
            state = STATE_VALUE_START
          }
          break
        }

        case STATE_VALUE_START:
          if (byte === SPACE || byte === TAB) {
            p++
            break
          }
          this.mark = p - base
          state = STATE_VALUE
          break

        case STATE_VALUE: {
          // Values are most of a head: four bytes per turn of the loop take half the time.
          const last = stop - 3
          while (
            p < last &&
            (FIELD_VALUE[bytes[p]!]! &
              FIELD_VALUE[bytes[p + 1]!]! &
              FIELD_VALUE[bytes[p + 2]!]! &
              FIELD_VALUE[bytes[p + 3]!]!) ===
              1
          ) {
            p += 4
          }
          while (p < stop && FIELD_VALUE[bytes[p]!] === 1) p++
          if (p === stop) break
          if (bytes[p] !== CR) return this.refuse(bytes[p] === LF ? violations.BARE_LF : violations.BAD_FIELD_VALUE)
          let valueEnd = p
          while (valueEnd > base + this.mark && isBlank(bytes[valueEnd - 1]!)) valueEnd--
          this.slots[this.count * SLOT_INTS + 2] = this.mark
          this.slots[this.count * SLOT_INTS + 3] = valueEnd - base
          p++
          if (p < stop && bytes[p] === LF) {
            this.count++
            p++
            state = STATE_FIELD_START
          } else {
            state = STATE_VALUE_LF
          }
          break
        }

        case STATE_VALUE_LF:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          this.count++
          p++
          state = STATE_FIELD_START
          break

        default:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          this.length = p + 1 - base
          this.scanned = this.length
          return PARSE_DONE
      }
    }
    this.state = state
    this.scanned = p - base
    return this.scanned >= this.limit ? this.refuse(this.limitViolation()) : PARSE_MORE
  }

  private classify(bytes: Uint8Array, start: number, length: number): void {
    const kind = fieldKind(bytes, start, length)
    if (kind === FIELD_OTHER) return
    const bit = 1 << kind
    if ((this.seen & bit) !== 0) {
      this.repeated |= bit
    } else {
      this.seen |= bit
      this.firstOf[kind] = this.count
    }
    this.kinds[this.count] = this.kinds[this.count]! | kind
  }

  private refuse(violation: ProtocolViolation): ParseOutcome {
    this.violation = violation
    return PARSE_BAD
  }

  private refuseName(byte: number): ParseOutcome {
    if (byte === SPACE || byte === TAB) return this.refuse(violations.SPACE_BEFORE_COLON)
    return this.refuse(byte === LF ? violations.BARE_LF : violations.BAD_FIELD_NAME)
  }

  private limitViolation(): ProtocolViolation {
    if (this.kind === HEAD_TRAILERS) return violations.TRAILERS_TOO_LARGE
    return this.limit === LINE_BYTES_MAX ? violations.LINE_TOO_LONG : violations.HEAD_TOO_LARGE
  }

  // --- gathering ---

  private byteLimit(): number {
    return this.kind === HEAD_TRAILERS ? TRAILER_BYTES_MAX : HEAD_BYTES_MAX
  }

  private gather(bytes: Uint8Array, offset: number, end: number): void {
    const needed = this.gatheredLength + end - offset
    if (this.gathered === null || this.gathered.length < needed) {
      let size = this.gathered === null ? GATHER_BYTES : this.gathered.length * 2
      while (size < needed) size *= 2
      const larger = new Uint8Array(size)
      if (this.gathered !== null) larger.set(this.gathered.subarray(0, this.gatheredLength))
      this.gathered = larger
    }
    this.gathered.set(bytes.subarray(offset, end), this.gatheredLength)
    this.gatheredLength = needed
  }
}

const NO_BYTES = new Uint8Array(0)

/**
 * Bytes that may stand in a request target. More than RFC 3986 allows, because browsers send `|`, `{`, `^` and their
 * like unescaped in queries; never a control byte, space, quote, angle bracket or `#` (a fragment must not be sent), nor
 * a backslash, which some servers take for a slash.
 */
const TARGET_BYTE: Uint8Array = targetTable()

function targetTable(): Uint8Array {
  const table = new Uint8Array(256).fill(1, 0x21, 0x7f)
  for (const character of '"#<>\\') table[character.charCodeAt(0)] = 0
  return table
}

function isBlank(byte: number): boolean {
  return byte === SPACE || byte === TAB
}

function isVersionByte(index: number, byte: number): boolean {
  if (index < 5) return byte === VERSION_PREFIX[index]
  return index === 6 ? byte === DOT : byte >= ZERO && byte <= ZERO + 9
}
