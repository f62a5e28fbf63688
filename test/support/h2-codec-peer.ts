/**
 * The other end of an HTTP/2 connection behind the codec seam: sends frames as scripted, takes apart what comes back as
 * lines of text, and records what the seam reports.
 */
import assert from 'node:assert/strict'
import {
  type BatchEnd,
  BODY_CHUNKED,
  BODY_UNTIL_CLOSE,
  type ClientStream,
  type HttpClientEvents,
  type HttpServerEvents,
  type ProtocolViolation,
  type RequestHead,
  type RequestReceiver,
  type ResponseHead,
  type ResponseReceiver,
  type ServerStream,
} from '../../src/http/codec.ts'
import { H2ClientConnection } from '../../src/http/h2/client-connection.ts'
import {
  errorName,
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
  PREFACE,
} from '../../src/http/h2/frame.ts'
import { HpackDecoder } from '../../src/http/h2/hpack-decoder.ts'
import { HpackEncoder } from '../../src/http/h2/hpack-encoder.ts'
import { H2ServerConnection } from '../../src/http/h2/server-connection.ts'
import { HeaderList } from '../../src/http/headers.ts'
import { EventLog, requestHead } from './h1-recorders.ts'
import { type Frame, FrameSink, frame, settingsFrame } from './scripted-h2-peer.ts'

/** Flushes when told, as a transport does at the end of a batch. */
class ManualBatch implements BatchEnd {
  private readonly waiting: { isFlushPending: boolean; flush(): void }[] = []

  atBatchEnd(flushable: { isFlushPending: boolean; flush(): void }): void {
    if (flushable.isFlushPending) return
    flushable.isFlushPending = true
    this.waiting.push(flushable)
  }

  end(): void {
    for (let one = this.waiting.shift(); one !== undefined; one = this.waiting.shift()) {
      one.isFlushPending = false
      one.flush()
    }
  }
}

interface Engine {
  receive(bytes: Uint8Array, offset: number, end: number): void
}

abstract class CodecPeer {
  readonly sink: FrameSink
  readonly log = new EventLog()
  readonly batch = new ManualBatch()
  nowMs = 0
  private readonly encoder = new HpackEncoder()
  private readonly decoder = new HpackDecoder()
  private taken = 0

  constructor(expectsPreface: boolean) {
    this.sink = new FrameSink(expectsPreface)
  }

  protected abstract get engine(): Engine

  /** Sends frames in one piece, as one batch. The bytes are lent: they are spoilt afterwards. */
  send(...frames: Uint8Array[]): void {
    const bytes = new Uint8Array(Buffer.concat(frames))
    this.engine.receive(bytes, 0, bytes.length)
    bytes.fill(0x58)
    this.batch.end()
  }

  headers(streamId: number, fields: readonly string[], isEnd = false): Buffer {
    const length = this.encoder.encode(fields)
    const flags = FLAG_END_HEADERS | (isEnd ? FLAG_END_STREAM : 0)
    return frame(FRAME_HEADERS, flags, streamId, Buffer.from(this.encoder.block.subarray(0, length)))
  }

  /** Lines of what was reported since the last call. */
  takeLog(): string[] {
    this.log.flush()
    return this.log.lines.splice(0)
  }

  /** Lines of the frames since the last call, without SETTINGS, PING and WINDOW_UPDATE. */
  take(): string[] {
    this.batch.end()
    const frames = this.sink.frames.slice(this.taken)
    this.taken = this.sink.frames.length
    return frames.map((one) => this.describe(one)).filter((line) => line !== '')
  }

  /** Frames of one type since the last call of `take`. */
  framesOf(type: number): Frame[] {
    this.batch.end()
    return this.sink.frames.slice(this.taken).filter((one) => one.type === type)
  }

  private describe({ type, flags, streamId, payload }: Frame): string {
    const end = (flags & FLAG_END_STREAM) !== 0 ? ' end' : ''
    switch (type) {
      case FRAME_HEADERS: {
        const fields = this.decoder.decode(payload, 0, payload.length, 100_000)
        assert.ok(fields !== null)
        const pairs: string[] = []
        for (let i = 0; i < fields.length; i += 2) pairs.push(`${fields[i]}=${fields[i + 1]}`)
        return `${streamId} headers ${pairs.join(' ')}${end}`
      }
      case FRAME_DATA:
        return `${streamId} data ${payload.length > 40 ? payload.length : JSON.stringify(payload.toString('latin1'))}${end}`
      case FRAME_RST_STREAM:
        return `${streamId} reset ${errorName(payload.readUInt32BE(0))}`
      case FRAME_GOAWAY:
        return `goaway ${payload.readUInt32BE(0)} ${errorName(payload.readUInt32BE(4))}`
      case FRAME_SETTINGS:
      case FRAME_PING:
      case FRAME_WINDOW_UPDATE:
        return ''
      default:
        return `frame of type ${type}`
    }
  }
}

/** One exchange that the server connection reported. */
export class ReportedExchange implements RequestReceiver {
  readonly stream: ServerStream
  readonly head: RequestHead
  private readonly log: EventLog

  constructor(stream: ServerStream, head: RequestHead, log: EventLog) {
    this.stream = stream
    this.head = head
    this.log = log
  }

  onRequestBody(bytes: Uint8Array, offset: number, end: number): void {
    this.log.addBody(bytes, offset, end)
  }

  onRequestEnd(trailers: HeaderList | null): void {
    if (trailers !== null) this.log.addFields('  trailer ', trailers)
    this.log.add('end')
  }

  onRequestReset(reason: string): void {
    this.log.add(`reset ${reason}`)
  }

  onResponseDrain(): void {
    this.log.add('drain')
  }

  /** A head with that body to come. */
  respond(status: number, bodyLength: number, fields: readonly (readonly [string, string])[] = []): void {
    this.stream.writeHead({ status, headers: HeaderList.of(fields), bodyLength })
  }

  write(text: string): number {
    return this.stream.writeBody(Buffer.from(text, 'latin1'), 0, text.length)
  }
}

/** A client, scripted, of a server connection. */
export class H2ServerPeer extends CodecPeer implements HttpServerEvents {
  readonly connection: H2ServerConnection
  readonly exchanges: ReportedExchange[] = []
  /** Called inside `onRequest`. */
  whenRequest: ((exchange: ReportedExchange) => void) | null = null

  /** Without a greeting the client has said nothing yet. */
  constructor(greets = true) {
    super(false)
    this.connection = new H2ServerConnection(this.sink, this, this.batch, () => this.nowMs)
    if (greets) this.send(PREFACE, settingsFrame())
    this.take()
  }

  protected get engine(): Engine {
    return this.connection
  }

  get last(): ReportedExchange {
    return this.exchanges.at(-1)!
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    const exchange = new ReportedExchange(stream, head, this.log)
    this.exchanges.push(exchange)
    const upgrade = head.upgrade === null ? '' : ` upgrade=${head.upgrade}`
    const expects = head.expectsContinue ? ' expects-continue' : ''
    this.log.add(
      `request ${head.method} ${head.scheme} ${head.authority} ${head.target} ${bodyText(head.bodyLength)}${upgrade}${expects}`,
    )
    this.log.addFields('  ', head.headers)
    this.whenRequest?.(exchange)
    return exchange
  }

  onViolation(violation: ProtocolViolation): void {
    this.log.add(`violation ${violation.status} ${violation.reason}`)
  }

  onWait(): void {}
}

/** The response of one exchange, as reported. */
export class ReportedResponse implements ResponseReceiver {
  private readonly log: EventLog
  private readonly name: string

  constructor(log: EventLog, name: string) {
    this.log = log
    this.name = name
  }

  onInformational(status: number, headers: HeaderList): void {
    this.log.add(`${this.name} informational ${status}`)
    this.log.addFields('  ', headers)
  }

  onResponseHead(head: ResponseHead): void {
    this.log.add(`${this.name} response ${head.status} ${bodyText(head.bodyLength)}`)
    this.log.addFields('  ', head.headers)
  }

  onResponseBody(bytes: Uint8Array, offset: number, end: number): void {
    this.log.addBody(bytes, offset, end)
  }

  onResponseEnd(trailers: HeaderList | null): void {
    if (trailers !== null) this.log.addFields('  trailer ', trailers)
    this.log.add(`${this.name} end`)
  }

  onResponseReset(reason: string, wasProcessed: boolean): void {
    this.log.add(`${this.name} reset ${reason}${wasProcessed ? '' : ' (not processed)'}`)
  }

  onRequestDrain(): void {
    this.log.add(`${this.name} drain`)
  }
}

/** A server, scripted, of a client connection. */
export class H2ClientPeer extends CodecPeer implements HttpClientEvents {
  readonly connection: H2ClientConnection
  freed = 0
  isUnusable = false

  /** `greeting` is the server's first frame; null leaves the client without settings. */
  constructor(greeting: Buffer | null = settingsFrame()) {
    super(true)
    this.connection = new H2ClientConnection(this.sink, this, this.batch, () => this.nowMs)
    this.batch.end()
    if (greeting !== null) this.send(greeting, frame(FRAME_SETTINGS, FLAG_ACK, 0))
    this.take()
  }

  protected get engine(): Engine {
    return this.connection
  }

  open(name: string, overrides: Partial<RequestHead> = {}): ClientStream {
    return this.connection.open(requestHead(overrides), new ReportedResponse(this.log, name))
  }

  onStreamClosed(): void {
    this.freed++
  }

  onUnusable(): void {
    this.isUnusable = true
  }

  onViolation(violation: ProtocolViolation): void {
    this.log.add(`violation ${violation.reason}`)
  }
}

function bodyText(length: number): string {
  if (length === BODY_CHUNKED) return 'body=chunked'
  return length === BODY_UNTIL_CLOSE ? 'body=until-close' : `body=${length}`
}
