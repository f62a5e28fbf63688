// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Writes frames into one output buffer that goes to the sink once per batch of events, or when it is full.
 *
 * Coalescing is the largest single gain of the tunnels: one system call and one TLS record for what many streams had to
 * say. The buffer comes from a small stock and goes back on flush, so that idle connections own none.
 */
import type { ByteSink } from '../codec.ts'
import {
  ERROR_NONE,
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
} from './frame.ts'
import { BACKLOG_HIGH, OUTPUT_BYTES_MAX } from './limits.ts'

/** Size of an output buffer. 128 KiB: two reads of a socket with their frame headers. */
const OUTPUT_BYTES = 131_072
/** Flushed at once above this, so that bulk does not wait for the end of the batch. Four TLS records. */
const FLUSH_BYTES = 65_536
/** Buffers kept for reuse; more connections than this seldom have output in the same batch. */
const SPARE_BUFFERS_MAX = 16

const spareBuffers: Uint8Array[] = []

/** Told when the first bytes of a batch are in the buffer: someone must call `flush`. */
export interface OutputListener {
  onOutput(): void
  /** The sink holds more than OUTPUT_BYTES_MAX: the peer does not read. */
  onOutputFlood(): void
}

export class FrameWriter {
  /** The sink has a high backlog: DATA must wait for its drain. */
  isBlocked = false
  private readonly sink: ByteSink
  private readonly listener: OutputListener
  private buffer: Uint8Array | null = null
  private length = 0

  constructor(sink: ByteSink, listener: OutputListener) {
    this.sink = sink
    this.listener = listener
  }

  /** Hands the buffer to the sink. */
  flush(): void {
    const buffer = this.buffer
    if (buffer === null) return
    const length = this.length
    this.buffer = null
    this.length = 0
    const backlog = length > 0 ? this.sink.write(buffer, 0, length) : 0
    if (spareBuffers.length < SPARE_BUFFERS_MAX) spareBuffers.push(buffer)
    if (backlog <= BACKLOG_HIGH) return
    this.isBlocked = true
    if (backlog > OUTPUT_BYTES_MAX) this.listener.onOutputFlood()
  }

  /** Drops what is not flushed: the connection was reset. */
  discard(): void {
    this.buffer = null
    this.length = 0
  }

  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length)
    this.buffer!.set(bytes, this.length)
    this.length += bytes.length
  }

  /** One DATA frame; `length` at most `dataRoom` of a fresh buffer. */
  data(streamId: number, bytes: Uint8Array, offset: number, length: number, isEnd: boolean): void {
    this.frame(FRAME_DATA, isEnd ? FLAG_END_STREAM : 0, streamId, length)
    if (length > 0) this.buffer!.set(bytes.subarray(offset, offset + length), this.length)
    this.length += length
    if (this.length >= FLUSH_BYTES) this.flush()
  }

  /** HEADERS, and CONTINUATION as far as the peer's frame size demands. */
  headers(streamId: number, block: Uint8Array, length: number, frameBytesMax: number, isEnd: boolean): void {
    const limit = Math.min(frameBytesMax, FLUSH_BYTES)
    const flags = isEnd ? FLAG_END_STREAM : 0
    let at = 0
    do {
      const count = Math.min(limit, length - at)
      const isLast = at + count === length
      this.frame(
        at === 0 ? FRAME_HEADERS : FRAME_CONTINUATION,
        (at === 0 ? flags : 0) | (isLast ? FLAG_END_HEADERS : 0),
        streamId,
        count,
      )
      this.buffer!.set(block.subarray(at, at + count), this.length)
      this.length += count
      at += count
    } while (at < length)
  }

  /** Identifiers and values, alternating. */
  settings(pairs: readonly number[]): void {
    this.frame(FRAME_SETTINGS, 0, 0, pairs.length * 3)
    for (let i = 0; i < pairs.length; i += 2) {
      this.buffer![this.length++] = pairs[i]! >>> 8
      this.buffer![this.length++] = pairs[i]!
      this.uint32(pairs[i + 1]!)
    }
  }

  settingsAck(): void {
    this.frame(FRAME_SETTINGS, FLAG_ACK, 0, 0)
  }

  /** Eight bytes of payload. */
  ping(payload: Uint8Array, offset: number, isAck: boolean): void {
    this.frame(FRAME_PING, isAck ? FLAG_ACK : 0, 0, 8)
    for (let i = 0; i < 8; i++) this.buffer![this.length++] = payload[offset + i]!
  }

  reset(streamId: number, code: number): void {
    this.frame(FRAME_RST_STREAM, 0, streamId, 4)
    this.uint32(code)
  }

  windowUpdate(streamId: number, increment: number): void {
    this.frame(FRAME_WINDOW_UPDATE, 0, streamId, 4)
    this.uint32(increment)
  }

  /** `reason` is ASCII, for whoever debugs the peer. */
  goAway(lastStreamId: number, code: number, reason: string): void {
    const length = code === ERROR_NONE ? 0 : reason.length
    this.frame(FRAME_GOAWAY, 0, 0, 8 + length)
    this.uint32(lastStreamId)
    this.uint32(code)
    for (let i = 0; i < length; i++) this.buffer![this.length++] = reason.charCodeAt(i)
  }

  private frame(type: number, flags: number, streamId: number, length: number): void {
    this.reserve(FRAME_HEADER_BYTES + length)
    const buffer = this.buffer!
    const at = this.length
    buffer[at] = length >>> 16
    buffer[at + 1] = length >>> 8
    buffer[at + 2] = length
    buffer[at + 3] = type
    buffer[at + 4] = flags
    buffer[at + 5] = streamId >>> 24
    buffer[at + 6] = streamId >>> 16
    buffer[at + 7] = streamId >>> 8
    buffer[at + 8] = streamId
    this.length = at + FRAME_HEADER_BYTES
  }

  private uint32(value: number): void {
    const buffer = this.buffer!
    const at = this.length
    buffer[at] = value >>> 24
    buffer[at + 1] = value >>> 16
    buffer[at + 2] = value >>> 8
    buffer[at + 3] = value
    this.length = at + 4
  }

  private reserve(length: number): void {
    if (this.length + length > OUTPUT_BYTES) this.flush()
    if (this.buffer !== null) return
    this.buffer = spareBuffers.pop() ?? new Uint8Array(OUTPUT_BYTES)
    this.listener.onOutput()
  }
}

/** Most bytes of one DATA frame that a writer may ask for. A frame of this size fits into an empty buffer. */
export const DATA_BYTES_MAX = FLUSH_BYTES
