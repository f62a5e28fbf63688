// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Finds the body in the bytes after a head: by length, by chunks, or all there is (RFC 9112 sections 6 and 7).
 *
 * It copies nothing: each `read` either points at body bytes inside the input (`dataStart..position`), or says that more
 * input is needed, that the body is complete, or that the peer broke a rule.
 */
import { CR, FIELD_VALUE, HEX_VALUE, LF, SEMICOLON } from '../../base/bytes.ts'
import { BODY_CHUNKED, BODY_UNTIL_CLOSE, type ProtocolViolation } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import { FIELD_OTHER } from './field-kinds.ts'
import { HEAD_TRAILERS, HeadParser, PARSE_BAD, PARSE_MORE } from './head-parser.ts'
import { CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX } from './limits.ts'
import * as violations from './violations.ts'

/** All input is taken; more is needed. */
export const BODY_MORE = 0
/** `input[dataStart..position)` is body. */
export const BODY_DATA = 1
/** The body is complete; `position` is the first byte after it, `trailers` what came with it. */
export const BODY_END = 2
/** The peer broke a rule: see `violation`. */
export const BODY_BAD = 3
/** What `read` has found. */
export type BodyOutcome = typeof BODY_MORE | typeof BODY_DATA | typeof BODY_END | typeof BODY_BAD

const MODE_LENGTH = 0
const MODE_CHUNKED = 1
const MODE_UNTIL_CLOSE = 2

const CHUNK_SIZE_FIRST = 0
const CHUNK_SIZE = 1
const CHUNK_EXTENSION = 2
const CHUNK_SIZE_LF = 3
const CHUNK_DATA = 4
const CHUNK_DATA_CR = 5
const CHUNK_DATA_LF = 6
const CHUNK_LAST = 7
const CHUNK_LAST_LF = 8
const CHUNK_TRAILERS = 9
const CHUNK_DONE = 10

/** Reads one body after the other; holds no bytes. */
export class BodyReader {
  position: number
  dataStart: number
  violation: ProtocolViolation | null
  trailers: HeaderList | null
  /** Body bytes still to come, where a length was announced; of the chunk under way otherwise. */
  remaining: number
  private mode: number
  private chunk: number
  private digits: number
  private extensionBytes: number
  private trailerParser: HeadParser | null

  constructor() {
    this.position = 0
    this.dataStart = 0
    this.violation = null
    this.trailers = null
    this.remaining = 0
    this.mode = MODE_LENGTH
    this.chunk = CHUNK_SIZE_FIRST
    this.digits = 0
    this.extensionBytes = 0
    this.trailerParser = null
  }

  /** Ready for a body of `bodyLength` bytes, BODY_CHUNKED or BODY_UNTIL_CLOSE. */
  begin(bodyLength: number): void {
    this.violation = null
    this.trailers = null
    this.remaining = Math.max(bodyLength, 0)
    this.mode = MODE_LENGTH
    if (bodyLength === BODY_CHUNKED) this.mode = MODE_CHUNKED
    if (bodyLength === BODY_UNTIL_CLOSE) this.mode = MODE_UNTIL_CLOSE
    this.chunk = CHUNK_SIZE_FIRST
    this.extensionBytes = 0
    this.trailerParser = null
  }

  /** True when only the end of the connection ends this body. */
  get endsWithConnection(): boolean {
    return this.mode === MODE_UNTIL_CLOSE
  }

  get isChunked(): boolean {
    return this.mode === MODE_CHUNKED
  }

  /** Reads on in `bytes[offset..end)`, which may be empty. */
  read(/* lent */ bytes: Uint8Array, offset: number, end: number): BodyOutcome {
    this.position = offset
    if (this.mode === MODE_CHUNKED) return this.readChunked(bytes, offset, end)
    if (this.mode === MODE_UNTIL_CLOSE) {
      if (offset === end) return BODY_MORE
      this.dataStart = offset
      this.position = end
      return BODY_DATA
    }
    if (this.remaining === 0) return BODY_END
    return offset === end ? BODY_MORE : this.takeData(offset, end)
  }

  private takeData(offset: number, end: number): BodyOutcome {
    const length = Math.min(this.remaining, end - offset)
    this.remaining -= length
    this.dataStart = offset
    this.position = offset + length
    return BODY_DATA
  }

  /** Long, because it is one loop over one switch: a state per case, and nothing but `p` moves between them. */
  private readChunked(bytes: Uint8Array, offset: number, end: number): BodyOutcome {
    let p = offset
    while (p < end) {
      const byte = bytes[p]!
      switch (this.chunk) {
        case CHUNK_SIZE_FIRST:
          this.remaining = HEX_VALUE[byte]!
          if (this.remaining === 255) return this.refuse(violations.BAD_CHUNK_SIZE)
          this.digits = 1
          this.chunk = CHUNK_SIZE
          p++
          break

        case CHUNK_SIZE: {
          const digit = HEX_VALUE[byte]!
          if (digit !== 255) {
            if (this.digits === CHUNK_SIZE_DIGITS_MAX) return this.refuse(violations.CHUNK_TOO_LARGE)
            this.digits++
            this.remaining = this.remaining * 16 + digit
          } else if (byte === CR) {
            this.chunk = CHUNK_SIZE_LF
          } else if (byte === SEMICOLON) {
            this.chunk = CHUNK_EXTENSION
          } else {
            return this.refuse(byte === LF ? violations.BARE_LF : violations.BAD_CHUNK_SIZE)
          }
          p++
          break
        }

        case CHUNK_EXTENSION:
          if (byte === CR) {
            this.chunk = CHUNK_SIZE_LF
          } else {
            if (byte === LF) return this.refuse(violations.BARE_LF)
            if (FIELD_VALUE[byte] === 0 || byte > 0x7e) return this.refuse(violations.BAD_CHUNK_EXTENSION)
            this.extensionBytes++
            if (this.extensionBytes > CHUNK_EXTENSION_BYTES_MAX) {
              return this.refuse(violations.CHUNK_EXTENSION_TOO_LARGE)
            }
          }
          p++
          break

        case CHUNK_SIZE_LF:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          p++
          this.chunk = this.remaining === 0 ? CHUNK_LAST : CHUNK_DATA
          break

        case CHUNK_DATA:
          if (this.remaining > 0) return this.takeData(p, end)
          this.chunk = CHUNK_DATA_CR
          break

        case CHUNK_DATA_CR:
          if (byte !== CR) return this.refuse(violations.BAD_CHUNK_END)
          p++
          this.chunk = CHUNK_DATA_LF
          break

        case CHUNK_DATA_LF:
          if (byte !== LF) return this.refuse(violations.BAD_CHUNK_END)
          p++
          this.chunk = CHUNK_SIZE_FIRST
          break

        case CHUNK_LAST:
          // Hardly anyone sends trailers: a parser for them is made only when the first byte of one is there.
          if (byte !== CR) {
            this.chunk = CHUNK_TRAILERS
            break
          }
          p++
          this.chunk = CHUNK_LAST_LF
          break

        case CHUNK_LAST_LF:
          if (byte !== LF) return this.refuse(violations.BARE_CR)
          this.position = p + 1
          this.chunk = CHUNK_DONE
          return BODY_END

        case CHUNK_TRAILERS:
          return this.readTrailers(bytes, p, end)

        default:
          this.position = p
          return BODY_END
      }
    }
    this.position = p
    return this.chunk === CHUNK_DONE ? BODY_END : BODY_MORE
  }

  private readTrailers(bytes: Uint8Array, offset: number, end: number): BodyOutcome {
    if (this.trailerParser === null) {
      this.trailerParser = new HeadParser()
      this.trailerParser.begin(HEAD_TRAILERS)
    }
    const parser = this.trailerParser
    const outcome = parser.feed(bytes, offset, end)
    this.position = parser.position
    if (outcome === PARSE_MORE) return BODY_MORE
    if (outcome === PARSE_BAD) return this.refuse(parser.violation!)
    for (let i = 0; i < parser.count; i++) {
      if (parser.kindOf(i) !== FIELD_OTHER) return this.refuse(violations.BAD_TRAILER)
    }
    if (parser.count > 0) this.trailers = parser.takeFields()
    this.trailerParser = null
    this.chunk = CHUNK_DONE
    return BODY_END
  }

  private refuse(violation: ProtocolViolation): BodyOutcome {
    this.violation = violation
    return BODY_BAD
  }
}
