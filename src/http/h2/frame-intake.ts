// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What can be judged of a received frame without knowing its stream: its size, its place in the order of frames, its
 * fields (RFC 9113 section 6). Header blocks are put together here, with a bound, and decoded even when nobody wants them:
 * the compression state belongs to the connection.
 */
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FLAG_PADDED,
  FLAG_PRIORITY,
  FRAME_BYTES_DEFAULT,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_PUSH_PROMISE,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
} from './frame.ts'
import { type FrameReceiver, TAKE_PIECES, TAKE_SKIP, TAKE_WHOLE, type Take } from './frame-reader.ts'
import { HpackDecoder } from './hpack-decoder.ts'
import { CONTINUATION_FRAMES_MAX, type H2Settings, HEADER_BLOCK_FACTOR, SETTINGS_PAIRS_MAX } from './limits.ts'
import type { H2Violation } from './violations.ts'
import * as violations from './violations.ts'

/** A header list that may be used. */
export const LIST_GOOD = 0
/** It has forbidden characters. */
export const LIST_MALFORMED = 1
/** It is larger than we said we take. */
export const LIST_OVERSIZED = 2
export type ListState = typeof LIST_GOOD | typeof LIST_MALFORMED | typeof LIST_OVERSIZED

/** The connection, as the intake sees it. Stream ids are not zero unless said. */
export interface IntakeEvents {
  /** A DATA frame begins; `length` is what flow control counts. True when its bytes are wanted. */
  onDataStart(streamId: number, length: number, isEnd: boolean): boolean
  onDataBytes(bytes: Uint8Array, offset: number, end: number): void
  onDataPadding(length: number): void
  onDataEnd(): void
  onHeaderList(streamId: number, fields: string[], isEnd: boolean, state: ListState): void
  onReset(streamId: number, code: number): void
  /** Pairs of 2 + 4 bytes; lent. */
  onSettings(bytes: Uint8Array, offset: number, end: number): void
  onSettingsAck(): void
  /** Eight bytes at `offset`; lent. */
  onPing(bytes: Uint8Array, offset: number): void
  onPingAck(bytes: Uint8Array, offset: number): void
  onGoAway(lastStreamId: number, code: number): void
  /** Stream 0 is the connection. */
  onWindowUpdate(streamId: number, increment: number): void
  /** A frame that carries nothing; `flood` is what too many of them are. */
  onIdleFrame(flood: H2Violation): void
  onStreamError(streamId: number, violation: H2Violation): void
  onConnectionError(violation: H2Violation): void
}

export class FrameIntake implements FrameReceiver {
  private readonly events: IntakeEvents
  private readonly settings: H2Settings
  private readonly decoder = new HpackDecoder()
  private readonly blockBytesMax: number
  private hasPeerSettings = false
  private type = 0
  private flags = 0
  private streamId = 0
  /** Stream whose header block is not complete; 0 when there is none. */
  private blockStreamId = 0
  private isBlockEnd = false
  private block: Buffer | null = null
  private blockLength = 0
  private continuations = 0
  /** Heads (or trailers) of which the first frame has begun, and those that are complete. */
  headsBegun = 0
  headsDone = 0

  constructor(events: IntakeEvents, settings: H2Settings) {
    this.events = events
    this.settings = settings
    this.blockBytesMax = settings.headerListBytesMax * HEADER_BLOCK_FACTOR
  }

  onFrameStart(type: number, flags: number, streamId: number, length: number): Take {
    this.type = type
    this.flags = flags
    this.streamId = streamId
    if (length > this.settings.frameBytesMax) return this.fail(violations.FRAME_TOO_LARGE)
    if (!this.hasPeerSettings && (type !== FRAME_SETTINGS || (flags & FLAG_ACK) !== 0)) {
      return this.fail(violations.SETTINGS_NOT_FIRST)
    }
    if (this.blockStreamId !== 0 && (type !== FRAME_CONTINUATION || streamId !== this.blockStreamId)) {
      return this.fail(violations.BLOCK_INTERRUPTED)
    }
    if (type === FRAME_DATA) {
      if (streamId === 0) return this.fail(violations.NEEDS_STREAM)
      return this.events.onDataStart(streamId, length, (flags & FLAG_END_STREAM) !== 0) ? TAKE_PIECES : TAKE_SKIP
    }
    return this.admit(type, flags, streamId, length)
  }

  onDataBytes(bytes: Uint8Array, offset: number, end: number): void {
    this.events.onDataBytes(bytes, offset, end)
  }

  onDataPadding(length: number): void {
    this.events.onDataPadding(length)
  }

  onDataEnd(): void {
    this.events.onDataEnd()
  }

  onFrameError(violation: H2Violation): void {
    this.events.onConnectionError(violation)
  }

  onFramePayload(bytes: Uint8Array, offset: number, end: number): void {
    switch (this.type) {
      case FRAME_HEADERS:
        this.takeHeaders(bytes, offset, end)
        return
      case FRAME_CONTINUATION:
        this.takeContinuation(bytes, offset, end)
        return
      case FRAME_WINDOW_UPDATE:
        this.takeWindowUpdate(readUint31(bytes, offset))
        return
      case FRAME_RST_STREAM:
        this.events.onReset(this.streamId, readUint32(bytes, offset))
        return
      case FRAME_SETTINGS:
        this.hasPeerSettings = true
        if ((this.flags & FLAG_ACK) !== 0) {
          this.events.onSettingsAck()
          return
        }
        this.events.onSettings(bytes, offset, end)
        return
      case FRAME_PING:
        if ((this.flags & FLAG_ACK) !== 0) {
          this.events.onPingAck(bytes, offset)
          return
        }
        this.events.onPing(bytes, offset)
        return
      case FRAME_GOAWAY:
        this.events.onGoAway(readUint31(bytes, offset), readUint32(bytes, offset + 4))
        return
      case FRAME_PRIORITY:
        // What it says is ignored (RFC 9113 section 5.3.2), a dependency on itself as well.
        this.events.onIdleFrame(violations.PRIORITY_FLOOD)
        return
    }
  }

  /** Checks a frame other than DATA before its payload is taken. */
  private admit(type: number, flags: number, streamId: number, length: number): Take {
    switch (type) {
      case FRAME_HEADERS:
        if (streamId === 0) return this.fail(violations.NEEDS_STREAM)
        this.headsBegun++
        return this.admitBlock(length)
      case FRAME_CONTINUATION:
        if (this.blockStreamId === 0) return this.fail(violations.STRAY_CONTINUATION)
        if (++this.continuations > CONTINUATION_FRAMES_MAX) {
          return this.fail(violations.CONTINUATION_FLOOD)
        }
        return this.admitBlock(this.blockLength + length)
      case FRAME_PRIORITY:
        if (streamId === 0) return this.fail(violations.NEEDS_STREAM)
        if (length === 5) return TAKE_WHOLE
        this.events.onStreamError(streamId, violations.BAD_FRAME_SIZE)
        return TAKE_SKIP
      case FRAME_RST_STREAM:
        if (streamId === 0) return this.fail(violations.NEEDS_STREAM)
        return length === 4 ? TAKE_WHOLE : this.fail(violations.BAD_FRAME_SIZE)
      case FRAME_SETTINGS:
        return this.admitSettings(flags, streamId, length)
      case FRAME_PUSH_PROMISE:
        return this.fail(violations.PUSH_DISABLED)
      case FRAME_PING:
        if (streamId !== 0) return this.fail(violations.NEEDS_NO_STREAM)
        return length === 8 ? TAKE_WHOLE : this.fail(violations.BAD_FRAME_SIZE)
      case FRAME_GOAWAY:
        if (streamId !== 0) return this.fail(violations.NEEDS_NO_STREAM)
        if (length < 8) return this.fail(violations.BAD_FRAME_SIZE)
        return length <= FRAME_BYTES_DEFAULT ? TAKE_WHOLE : this.fail(violations.GOAWAY_TOO_LARGE)
      case FRAME_WINDOW_UPDATE:
        return length === 4 ? TAKE_WHOLE : this.fail(violations.BAD_FRAME_SIZE)
      default:
        this.events.onIdleFrame(violations.UNKNOWN_FRAME_FLOOD)
        return TAKE_SKIP
    }
  }

  private admitBlock(length: number): Take {
    if (length <= this.blockBytesMax) return TAKE_WHOLE
    return this.fail(violations.BLOCK_TOO_LARGE)
  }

  private admitSettings(flags: number, streamId: number, length: number): Take {
    if (streamId !== 0) return this.fail(violations.NEEDS_NO_STREAM)
    if ((flags & FLAG_ACK) !== 0) {
      return length === 0 ? TAKE_WHOLE : this.fail(violations.BAD_FRAME_SIZE)
    }
    if (length % 6 !== 0) return this.fail(violations.BAD_FRAME_SIZE)
    if (length > SETTINGS_PAIRS_MAX * 6) return this.fail(violations.TOO_MANY_SETTINGS)
    return TAKE_WHOLE
  }

  private takeHeaders(bytes: Uint8Array, offset: number, end: number): void {
    let start = offset
    let stop = end
    if ((this.flags & FLAG_PADDED) !== 0) {
      if (start === stop) {
        this.events.onConnectionError(violations.BAD_FRAME_SIZE)
        return
      }
      stop -= bytes[start++]!
    }
    if ((this.flags & FLAG_PRIORITY) !== 0) {
      if (stop - start < 5) {
        this.events.onConnectionError(violations.BAD_FRAME_SIZE)
        return
      }
      start += 5
    }
    if (start > stop) {
      this.events.onConnectionError(violations.BAD_PADDING)
      return
    }
    this.isBlockEnd = (this.flags & FLAG_END_STREAM) !== 0
    if ((this.flags & FLAG_END_HEADERS) !== 0) {
      this.decode(this.streamId, bytes, start, stop)
      return
    }
    this.blockStreamId = this.streamId
    this.continuations = 0
    this.blockLength = 0
    this.append(bytes, start, stop)
  }

  private takeContinuation(bytes: Uint8Array, offset: number, end: number): void {
    this.append(bytes, offset, end)
    if ((this.flags & FLAG_END_HEADERS) === 0) return
    const block = this.block!
    this.block = null
    this.blockStreamId = 0
    this.decode(this.streamId, block, 0, this.blockLength)
  }

  /** The block grows by doubling up to its limit, which `admitBlock` has checked. */
  private append(bytes: Uint8Array, offset: number, end: number): void {
    const needed = this.blockLength + end - offset
    if (this.block === null || this.block.length < needed) {
      const larger = Buffer.allocUnsafeSlow(Math.max(2 * needed, 4096))
      if (this.block !== null) larger.set(this.block.subarray(0, this.blockLength))
      this.block = larger
    }
    this.block.set(bytes.subarray(offset, end), this.blockLength)
    this.blockLength = needed
  }

  private decode(streamId: number, bytes: Uint8Array, offset: number, end: number): void {
    this.headsDone++
    const fields = this.decoder.decode(bytes, offset, end, this.settings.headerListBytesMax)
    if (fields === null) {
      this.events.onConnectionError(violations.BAD_COMPRESSION)
      return
    }
    let state: ListState = LIST_GOOD
    if (this.decoder.isMalformed) state = LIST_MALFORMED
    else if (this.decoder.isOversized) state = LIST_OVERSIZED
    this.events.onHeaderList(streamId, fields, this.isBlockEnd, state)
  }

  private takeWindowUpdate(increment: number): void {
    if (increment > 0) {
      this.events.onWindowUpdate(this.streamId, increment)
      return
    }
    if (this.streamId !== 0) {
      this.events.onStreamError(this.streamId, violations.ZERO_INCREMENT)
      return
    }
    this.events.onConnectionError(violations.ZERO_INCREMENT)
  }

  private fail(violation: H2Violation): Take {
    this.events.onConnectionError(violation)
    return TAKE_SKIP
  }
}

export function readUint32(bytes: Uint8Array, offset: number): number {
  return readUint31(bytes, offset) + (bytes[offset]! >>> 7) * 0x8000_0000
}

export function readUint31(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset]! & 0x7f) << 24) | (bytes[offset + 1]! << 16) | (bytes[offset + 2]! << 8) | bytes[offset + 3]!
}
