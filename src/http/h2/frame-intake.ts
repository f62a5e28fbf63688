// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What can be judged of a received frame without knowing its stream: its size, its place in the order of frames, its
 * fields (RFC 9113 section 6). Header blocks are put together here, with a bound, and decoded even when nobody wants them:
 * the compression state belongs to the connection.
 */
import {
  ERROR_COMPRESSION,
  ERROR_ENHANCE_YOUR_CALM,
  ERROR_FRAME_SIZE,
  ERROR_PROTOCOL,
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

/** A header list that may be used. */
export const LIST_GOOD = 0
/** It has forbidden characters, or depends on itself. */
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
  /** A frame that carries nothing: PRIORITY, or of an unknown type. */
  onIdleFrame(): void
  onStreamError(streamId: number, code: number): void
  onConnectionError(code: number, reason: string): void
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
  private isBlockBad = false
  private block: Buffer | null = null
  private blockLength = 0
  private continuations = 0

  constructor(events: IntakeEvents, settings: H2Settings) {
    this.events = events
    this.settings = settings
    this.blockBytesMax = settings.headerListBytesMax * HEADER_BLOCK_FACTOR
  }

  onFrameStart(type: number, flags: number, streamId: number, length: number): Take {
    this.type = type
    this.flags = flags
    this.streamId = streamId
    if (length > this.settings.frameBytesMax) return this.fail(ERROR_FRAME_SIZE, 'frame too large')
    if (!this.hasPeerSettings && (type !== FRAME_SETTINGS || (flags & FLAG_ACK) !== 0)) {
      return this.fail(ERROR_PROTOCOL, 'first frame is not settings')
    }
    if (this.blockStreamId !== 0 && (type !== FRAME_CONTINUATION || streamId !== this.blockStreamId)) {
      return this.fail(ERROR_PROTOCOL, 'header block interrupted')
    }
    if (type === FRAME_DATA) {
      if (streamId === 0) return this.fail(ERROR_PROTOCOL, 'data on stream 0')
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

  onFrameError(code: number, reason: string): void {
    this.events.onConnectionError(code, reason)
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
        // What it says is ignored (RFC 9113 section 5.3), but a stream must not depend on itself.
        if (readUint31(bytes, offset) === this.streamId) {
          this.events.onStreamError(this.streamId, ERROR_PROTOCOL)
          return
        }
        this.events.onIdleFrame()
        return
    }
  }

  /** Checks a frame other than DATA before its payload is taken. */
  private admit(type: number, flags: number, streamId: number, length: number): Take {
    switch (type) {
      case FRAME_HEADERS:
        if (streamId === 0) return this.fail(ERROR_PROTOCOL, 'headers on stream 0')
        return this.admitBlock(length)
      case FRAME_CONTINUATION:
        if (this.blockStreamId === 0) return this.fail(ERROR_PROTOCOL, 'continuation without headers')
        if (++this.continuations > CONTINUATION_FRAMES_MAX) {
          return this.fail(ERROR_ENHANCE_YOUR_CALM, 'too many continuation frames')
        }
        return this.admitBlock(this.blockLength + length)
      case FRAME_PRIORITY:
        if (streamId === 0) return this.fail(ERROR_PROTOCOL, 'priority on stream 0')
        if (length === 5) return TAKE_WHOLE
        this.events.onStreamError(streamId, ERROR_FRAME_SIZE)
        return TAKE_SKIP
      case FRAME_RST_STREAM:
        if (streamId === 0) return this.fail(ERROR_PROTOCOL, 'reset of stream 0')
        return length === 4 ? TAKE_WHOLE : this.fail(ERROR_FRAME_SIZE, 'bad reset length')
      case FRAME_SETTINGS:
        return this.admitSettings(flags, streamId, length)
      case FRAME_PUSH_PROMISE:
        return this.fail(ERROR_PROTOCOL, 'push is disabled')
      case FRAME_PING:
        if (streamId !== 0) return this.fail(ERROR_PROTOCOL, 'ping on a stream')
        return length === 8 ? TAKE_WHOLE : this.fail(ERROR_FRAME_SIZE, 'bad ping length')
      case FRAME_GOAWAY:
        if (streamId !== 0) return this.fail(ERROR_PROTOCOL, 'goaway on a stream')
        if (length < 8) return this.fail(ERROR_FRAME_SIZE, 'bad goaway length')
        return length <= FRAME_BYTES_DEFAULT ? TAKE_WHOLE : this.fail(ERROR_ENHANCE_YOUR_CALM, 'goaway too large')
      case FRAME_WINDOW_UPDATE:
        return length === 4 ? TAKE_WHOLE : this.fail(ERROR_FRAME_SIZE, 'bad window update length')
      default:
        this.events.onIdleFrame()
        return TAKE_SKIP
    }
  }

  private admitBlock(length: number): Take {
    if (length <= this.blockBytesMax) return TAKE_WHOLE
    return this.fail(ERROR_ENHANCE_YOUR_CALM, 'header block too large')
  }

  private admitSettings(flags: number, streamId: number, length: number): Take {
    if (streamId !== 0) return this.fail(ERROR_PROTOCOL, 'settings on a stream')
    if ((flags & FLAG_ACK) !== 0) {
      return length === 0 ? TAKE_WHOLE : this.fail(ERROR_FRAME_SIZE, 'settings acknowledgement with payload')
    }
    if (length % 6 !== 0) return this.fail(ERROR_FRAME_SIZE, 'bad settings length')
    if (length > SETTINGS_PAIRS_MAX * 6) return this.fail(ERROR_ENHANCE_YOUR_CALM, 'too many settings')
    return TAKE_WHOLE
  }

  private takeHeaders(bytes: Uint8Array, offset: number, end: number): void {
    let start = offset
    let stop = end
    this.isBlockBad = false
    if ((this.flags & FLAG_PADDED) !== 0) {
      if (start === stop) {
        this.events.onConnectionError(ERROR_FRAME_SIZE, 'padding without length')
        return
      }
      stop -= bytes[start++]!
    }
    if ((this.flags & FLAG_PRIORITY) !== 0) {
      if (stop - start < 5) {
        this.events.onConnectionError(ERROR_FRAME_SIZE, 'priority cut short')
        return
      }
      this.isBlockBad = readUint31(bytes, start) === this.streamId
      start += 5
    }
    if (start > stop) {
      this.events.onConnectionError(ERROR_PROTOCOL, 'padding longer than the frame')
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
    const fields = this.decoder.decode(bytes, offset, end, this.settings.headerListBytesMax)
    if (fields === null) {
      this.events.onConnectionError(ERROR_COMPRESSION, 'bad header block')
      return
    }
    let state: ListState = LIST_GOOD
    if (this.isBlockBad || this.decoder.isMalformed) state = LIST_MALFORMED
    else if (this.decoder.isOversized) state = LIST_OVERSIZED
    this.events.onHeaderList(streamId, fields, this.isBlockEnd, state)
  }

  private takeWindowUpdate(increment: number): void {
    if (increment > 0) {
      this.events.onWindowUpdate(this.streamId, increment)
      return
    }
    if (this.streamId !== 0) {
      this.events.onStreamError(this.streamId, ERROR_PROTOCOL)
      return
    }
    this.events.onConnectionError(ERROR_PROTOCOL, 'window update of nothing')
  }

  private fail(code: number, reason: string): Take {
    this.events.onConnectionError(code, reason)
    return TAKE_SKIP
  }
}

export function readUint32(bytes: Uint8Array, offset: number): number {
  return readUint31(bytes, offset) + (bytes[offset]! >>> 7) * 0x8000_0000
}

export function readUint31(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset]! & 0x7f) << 24) | (bytes[offset + 1]! << 16) | (bytes[offset + 2]! << 8) | bytes[offset + 3]!
}
