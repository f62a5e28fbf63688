// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Cuts a byte stream into frames (RFC 9113 section 4.1), wherever the transport happened to cut it.
 *
 * DATA is lent through in the pieces in which it arrives: no frame is collected. Other payloads are handed over whole;
 * one that arrives in pieces is collected, and the receiver has agreed to its length before.
 */
import { FLAG_PADDED, FRAME_DATA, FRAME_HEADER_BYTES, PREFACE } from './frame.ts'
import { BAD_FRAME_SIZE, BAD_PADDING, BAD_PREFACE, type H2Violation } from './violations.ts'

/** What the receiver wants of a frame that begins. */
export const TAKE_SKIP = 0
export const TAKE_WHOLE = 1
/** DATA only: `onDataBytes` for every piece, then `onDataEnd`. */
export const TAKE_PIECES = 2
export type Take = typeof TAKE_SKIP | typeof TAKE_WHOLE | typeof TAKE_PIECES

export interface FrameReceiver {
  /** The frame's header is complete. The receiver may `stop` the reader here or in any other call. */
  onFrameStart(type: number, flags: number, streamId: number, length: number): Take
  /** The payload of a frame taken whole; lent. */
  onFramePayload(bytes: Uint8Array, offset: number, end: number): void
  /** A piece of the payload of a DATA frame, without its padding; lent. */
  onDataBytes(bytes: Uint8Array, offset: number, end: number): void
  /** Padding of a DATA frame: bytes that flow control counts and nobody reads. */
  onDataPadding(length: number): void
  onDataEnd(): void
  onFrameError(violation: H2Violation): void
}

const STATE_PREFACE = 0
const STATE_HEADER = 1
const STATE_WHOLE = 2
const STATE_PAD_LENGTH = 3
const STATE_PIECES = 4
const STATE_SKIP = 5
const STATE_STOPPED = 6

export class FrameReader {
  private readonly receiver: FrameReceiver
  private state: number
  /** Header bytes of a frame that were cut, or preface bytes: how many there are. */
  private headLength = 0
  private readonly head = new Uint8Array(FRAME_HEADER_BYTES)
  /** Payload of a frame taken whole that was cut. */
  private whole: Uint8Array | null = null
  private wholeLength = 0
  /** Bytes of the payload (without padding) still to come; also when skipping. */
  private left = 0
  private padding = 0

  constructor(receiver: FrameReceiver, expectsPreface: boolean) {
    this.receiver = receiver
    this.state = expectsPreface ? STATE_PREFACE : STATE_HEADER
  }

  /** Nothing more is read or reported. */
  stop(): void {
    this.state = STATE_STOPPED
    this.whole = null
  }

  receive(bytes: Uint8Array, offset: number, end: number): void {
    let at = offset
    while (at < end) {
      switch (this.state) {
        case STATE_HEADER:
          at = this.readHeader(bytes, at, end)
          break
        case STATE_PIECES:
          at = this.readPieces(bytes, at, end)
          break
        case STATE_WHOLE:
          at = this.readWhole(bytes, at, end)
          break
        case STATE_SKIP:
          at = this.skip(at, end)
          break
        case STATE_PAD_LENGTH:
          this.readPadLength(bytes[at++]!)
          break
        case STATE_PREFACE:
          at = this.readPreface(bytes, at, end)
          break
        default:
          return
      }
    }
  }

  private readPreface(bytes: Uint8Array, offset: number, end: number): number {
    let at = offset
    while (at < end && this.headLength < PREFACE.length) {
      if (bytes[at++] !== PREFACE[this.headLength++]) {
        this.receiver.onFrameError(BAD_PREFACE)
        this.stop()
        return end
      }
    }
    if (this.headLength === PREFACE.length) {
      this.headLength = 0
      this.state = STATE_HEADER
    }
    return at
  }

  private readHeader(bytes: Uint8Array, offset: number, end: number): number {
    if (this.headLength === 0 && end - offset >= FRAME_HEADER_BYTES) {
      this.begin(bytes, offset)
      return offset + FRAME_HEADER_BYTES
    }
    let at = offset
    while (at < end && this.headLength < FRAME_HEADER_BYTES) this.head[this.headLength++] = bytes[at++]!
    if (this.headLength === FRAME_HEADER_BYTES) {
      this.headLength = 0
      this.begin(this.head, 0)
    }
    return at
  }

  private begin(head: Uint8Array, at: number): void {
    const length = (head[at]! << 16) | (head[at + 1]! << 8) | head[at + 2]!
    const type = head[at + 3]!
    const flags = head[at + 4]!
    const streamId = ((head[at + 5]! & 0x7f) << 24) | (head[at + 6]! << 16) | (head[at + 7]! << 8) | head[at + 8]!
    const take = this.receiver.onFrameStart(type, flags, streamId, length)
    if (this.state === STATE_STOPPED) return
    this.left = length
    this.padding = 0
    if (type === FRAME_DATA && take === TAKE_PIECES) {
      if ((flags & FLAG_PADDED) !== 0) {
        if (length === 0) this.receiver.onFrameError(BAD_FRAME_SIZE)
        else this.state = STATE_PAD_LENGTH
      } else if (length > 0) {
        this.state = STATE_PIECES
      } else {
        this.receiver.onDataEnd()
      }
    } else if (take === TAKE_WHOLE) {
      if (length > 0) this.state = STATE_WHOLE
      else this.receiver.onFramePayload(head, 0, 0)
    } else if (length > 0) {
      this.state = STATE_SKIP
    }
  }

  private readPadLength(padding: number): void {
    this.left--
    if (padding > this.left) {
      this.receiver.onFrameError(BAD_PADDING)
      this.stop()
      return
    }
    this.left -= padding
    this.padding = padding
    this.state = STATE_PIECES
    this.receiver.onDataPadding(padding + 1)
    if (this.left === 0 && this.state === STATE_PIECES) this.endPieces()
  }

  private readPieces(bytes: Uint8Array, offset: number, end: number): number {
    const count = Math.min(this.left, end - offset)
    this.left -= count
    this.receiver.onDataBytes(bytes, offset, offset + count)
    if (this.left === 0 && this.state === STATE_PIECES) this.endPieces()
    return offset + count
  }

  private endPieces(): void {
    this.left = this.padding
    this.state = this.left > 0 ? STATE_SKIP : STATE_HEADER
    this.receiver.onDataEnd()
  }

  private readWhole(bytes: Uint8Array, offset: number, end: number): number {
    const missing = this.left - this.wholeLength
    const count = Math.min(missing, end - offset)
    if (this.whole === null && count === missing) {
      this.state = STATE_HEADER
      this.receiver.onFramePayload(bytes, offset, offset + count)
      return offset + count
    }
    if (this.whole === null) this.whole = new Uint8Array(this.left)
    this.whole.set(bytes.subarray(offset, offset + count), this.wholeLength)
    this.wholeLength += count
    if (count === missing) {
      const whole = this.whole
      this.whole = null
      this.wholeLength = 0
      this.state = STATE_HEADER
      this.receiver.onFramePayload(whole, 0, whole.length)
    }
    return offset + count
  }

  private skip(offset: number, end: number): number {
    const count = Math.min(this.left, end - offset)
    this.left -= count
    if (this.left === 0) this.state = STATE_HEADER
    return offset + count
  }
}
