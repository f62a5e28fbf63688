/**
 * The other end of an H2Connection under test: sends frames as scripted, well formed or not, and takes apart what the
 * engine answers. Also records what the engine reports.
 */
import assert from 'node:assert/strict'
import type { ByteSink } from '../../src/http/codec.ts'
import { H2Connection, type H2Events } from '../../src/http/h2/connection.ts'
import {
  errorName,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_PRIORITY,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
  PREFACE,
} from '../../src/http/h2/frame.ts'
import { HpackDecoder } from '../../src/http/h2/hpack-decoder.ts'
import { HpackEncoder } from '../../src/http/h2/hpack-encoder.ts'
import { type H2Settings, ROLE_SERVER } from '../../src/http/h2/limits.ts'
import type { CloseCause, H2Receiver, H2Stream } from '../../src/http/h2/stream.ts'
import type { H2Violation } from '../../src/http/h2/violations.ts'

export interface Frame {
  readonly type: number
  readonly flags: number
  readonly streamId: number
  readonly payload: Buffer
}

/** Any frame, with any payload. */
export function frame(type: number, flags: number, streamId: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(streamId >>> 0, 5)
  return Buffer.concat([head, payload])
}

export function uint32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4)
  for (let i = 0; i < values.length; i++) bytes.writeUInt32BE(values[i]! >>> 0, i * 4)
  return bytes
}

/** Identifiers and values, alternating. */
export function settingsFrame(...pairs: number[]): Buffer {
  const bytes = Buffer.alloc(pairs.length * 3)
  for (let i = 0; i < pairs.length; i += 2) {
    bytes.writeUInt16BE(pairs[i]!, i * 3)
    bytes.writeUInt32BE(pairs[i + 1]! >>> 0, i * 3 + 2)
  }
  return frame(FRAME_SETTINGS, 0, 0, bytes)
}

export function dataFrame(streamId: number, data: string | Uint8Array, isEnd = false): Buffer {
  return frame(FRAME_DATA, isEnd ? FLAG_END_STREAM : 0, streamId, Buffer.from(data as string))
}

export function windowUpdateFrame(streamId: number, increment: number): Buffer {
  return frame(FRAME_WINDOW_UPDATE, 0, streamId, uint32(increment))
}

export function resetFrame(streamId: number, code: number): Buffer {
  return frame(FRAME_RST_STREAM, 0, streamId, uint32(code))
}

export function pingFrame(payload = '12345678', flags = 0): Buffer {
  return frame(FRAME_PING, flags, 0, Buffer.from(payload))
}

export function goAwayFrame(lastStreamId: number, code: number): Buffer {
  return frame(FRAME_GOAWAY, 0, 0, uint32(lastStreamId, code))
}

export function priorityFrame(streamId: number, dependency: number): Buffer {
  return frame(FRAME_PRIORITY, 0, streamId, Buffer.concat([uint32(dependency), Buffer.from([16])]))
}

export const CONNECT_FIELDS: readonly string[] = [':method', 'CONNECT', ':authority', '198.18.1.2:8080']
export const GET_FIELDS: readonly string[] = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'a']

/** The sink of the engine: takes frames apart, reports the backlog it is told to. */
export class FrameSink implements ByteSink {
  readonly frames: Frame[] = []
  readonly endings: string[] = []
  backlog = 0
  writes = 0
  private rest: Buffer = Buffer.alloc(0)
  private hasPreface: boolean

  constructor(expectsPreface: boolean) {
    this.hasPreface = !expectsPreface
  }

  write(bytes: Uint8Array, offset: number, length: number): number {
    this.writes++
    this.rest = Buffer.concat([this.rest, bytes.subarray(offset, offset + length)])
    if (!this.hasPreface && this.rest.length >= PREFACE.length) {
      assert.deepEqual(this.rest.subarray(0, PREFACE.length), PREFACE)
      this.rest = this.rest.subarray(PREFACE.length)
      this.hasPreface = true
    }
    while (this.rest.length >= 9 && this.rest.length >= 9 + this.rest.readUIntBE(0, 3)) {
      const end = 9 + this.rest.readUIntBE(0, 3)
      this.frames.push({
        type: this.rest[3]!,
        flags: this.rest[4]!,
        streamId: this.rest.readUInt32BE(5),
        payload: this.rest.subarray(9, end),
      })
      this.rest = this.rest.subarray(end)
    }
    return this.backlog
  }

  end(): void {
    this.endings.push('end')
  }

  abort(): void {
    this.endings.push('abort')
  }

  close(): void {
    this.endings.push('close')
  }

  pauseReading(): void {}
  resumeReading(): void {}
}

/** What the engine reported of one stream. */
export class StreamRecorder implements H2Receiver {
  stream: H2Stream | null = null
  readonly events: string[] = []
  heads: string[][] = []
  trailers: string[] | null = null
  received: Buffer = Buffer.alloc(0)
  /** [cause, code] of the closing. */
  closed: [CloseCause, number] | null = null
  /** Run inside `onData`, before it returns. */
  whenData: ((stream: H2Stream) => void) | null = null

  onHeaders(stream: H2Stream, fields: string[], isEnd: boolean): void {
    this.stream = stream
    this.heads.push(fields)
    this.events.push(isEnd ? 'headers end' : 'headers')
  }

  onData(stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void {
    assert.equal(this.closed, null, 'data after the closing')
    this.received = Buffer.concat([this.received, bytes.subarray(offset, end)])
    this.events.push('data')
    this.whenData?.(stream)
  }

  onTrailers(_stream: H2Stream, fields: string[]): void {
    this.trailers = fields
    this.events.push('trailers')
  }

  onEnd(): void {
    this.events.push('end')
  }

  onDrain(): void {
    this.events.push('drain')
  }

  onClosed(_stream: H2Stream, cause: CloseCause, code: number): void {
    assert.equal(this.closed, null, 'closed twice')
    this.closed = [cause, code]
    this.events.push('closed')
  }

  get text(): string {
    return this.received.toString('latin1')
  }
}

export class ScriptedH2Peer implements H2Events {
  readonly engine: H2Connection
  readonly sink: FrameSink
  /** Streams that the engine, a server, reported, by id. */
  readonly streams = new Map<number, StreamRecorder>()
  readonly requests: string[][] = []
  pongs = 0
  goAways: number[] = []
  /** Code and reason. */
  failed: [string, string] | null = null
  readonly streamViolations: string[] = []
  isFlushWanted = false
  endedStreams = 0
  nowMs = 0
  readonly encoder = new HpackEncoder()
  readonly decoder = new HpackDecoder()
  private taken = 0

  /** The engine has said hello; this peer has only if `greets`. */
  constructor(settings: H2Settings, greets = true, greeting: Buffer = settingsFrame()) {
    this.sink = new FrameSink(settings.role !== ROLE_SERVER)
    this.engine = new H2Connection(settings, this.sink, this, () => this.nowMs)
    this.engine.start()
    if (!greets) return
    if (settings.role === ROLE_SERVER) this.send(PREFACE)
    this.send(greeting)
    this.take()
  }

  // --- scripting ---

  /** Sends bytes in one piece and flushes the engine, as one batch. */
  send(...pieces: Uint8Array[]): void {
    this.sendUnflushed(...pieces)
    this.flush()
  }

  sendUnflushed(...pieces: Uint8Array[]): void {
    const bytes = Buffer.concat(pieces)
    this.engine.receive(bytes, 0, bytes.length)
  }

  flush(): void {
    // A flush may ask for another one.
    for (let i = 0; i < 10 && this.isFlushWanted; i++) {
      this.isFlushWanted = false
      this.engine.flush()
    }
  }

  /** HEADERS with the peer's own compression state. */
  headersFrame(streamId: number, fields: readonly string[], isEnd = false): Buffer {
    const length = this.encoder.encode(fields)
    const flags = FLAG_END_HEADERS | (isEnd ? FLAG_END_STREAM : 0)
    return frame(FRAME_HEADERS, flags, streamId, Buffer.from(this.encoder.block.subarray(0, length)))
  }

  /** The same in several frames, cut every `size` bytes. */
  cutHeaders(streamId: number, fields: readonly string[], size: number): Buffer[] {
    const block = this.headersFrame(streamId, fields).subarray(9)
    const frames: Buffer[] = []
    for (let at = 0; at === 0 || at < block.length; at += size) {
      const isLast = at + size >= block.length
      const type = at === 0 ? FRAME_HEADERS : FRAME_CONTINUATION
      frames.push(frame(type, isLast ? FLAG_END_HEADERS : 0, streamId, block.subarray(at, at + size)))
    }
    return frames
  }

  /** A request to an engine that is a server; returns what records its stream. */
  request(streamId: number, fields: readonly string[] = CONNECT_FIELDS, isEnd = false): StreamRecorder {
    this.send(this.headersFrame(streamId, fields, isEnd))
    const recorder = this.streams.get(streamId)
    assert.ok(recorder !== undefined, `stream ${streamId} was not accepted`)
    return recorder
  }

  // --- what came back ---

  /** Frames since the last call. */
  take(): Frame[] {
    const frames = this.sink.frames.slice(this.taken)
    this.taken = this.sink.frames.length
    return frames
  }

  takeOf(type: number): Frame[] {
    return this.take().filter((one) => one.type === type)
  }

  /** Code of the only GOAWAY since the last call, as its name; null without one. */
  goAwayName(): string | null {
    const frames = this.takeOf(FRAME_GOAWAY)
    return frames.length === 0 ? null : errorName(frames.at(-1)!.payload.readUInt32BE(4))
  }

  /** `id:NAME` of every RST_STREAM since the last call. */
  resetNames(): string[] {
    return this.takeOf(FRAME_RST_STREAM).map((one) => `${one.streamId}:${errorName(one.payload.readUInt32BE(0))}`)
  }

  /** The fields of a HEADERS frame that the engine wrote. */
  fieldsOf(headers: Frame): string[] {
    assert.equal(headers.type, FRAME_HEADERS)
    const fields = this.decoder.decode(headers.payload, 0, headers.payload.length, 100_000)
    assert.ok(fields !== null)
    return fields
  }

  // --- H2Events ---

  onStream(stream: H2Stream, fields: string[], _isEnd: boolean): H2Receiver {
    const recorder = new StreamRecorder()
    recorder.stream = stream
    this.streams.set(stream.id, recorder)
    this.requests.push(fields)
    return recorder
  }

  onFlushWanted(): void {
    assert.ok(!this.isFlushWanted, 'asked for a flush twice in a batch')
    this.isFlushWanted = true
  }

  onPong(): void {
    this.pongs++
  }

  onStreamEnded(): void {
    this.endedStreams++
  }

  onGoAway(code: number): void {
    this.goAways.push(code)
  }

  onFailed(violation: H2Violation): void {
    assert.equal(this.failed, null, 'failed twice')
    this.failed = [errorName(violation.code), violation.reason]
  }

  onStreamViolation(violation: H2Violation): void {
    this.streamViolations.push(violation.reason)
  }
}
