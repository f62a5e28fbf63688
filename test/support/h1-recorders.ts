/** Receivers that write down what an HTTP/1 engine tells them, as lines of text that tests compare. */
import { Buffer } from 'node:buffer'
import {
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
  WAIT_NONE,
  type Wait,
} from '../../src/http/codec.ts'
import { H1ClientConnection } from '../../src/http/h1/client-connection.ts'
import { H1ServerConnection } from '../../src/http/h1/server-connection.ts'
import { HeaderList } from '../../src/http/headers.ts'
import { FakeSink } from './fake-sink.ts'

export function latin1(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'latin1'))
}

/** Printable form of bytes: everything but visible ASCII and spaces is escaped. */
export function printable(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\u00ff]/g, (character) => `\\u00${character.charCodeAt(0).toString(16)}`)
}

/** Lines in order; neighbouring pieces of a body become one line, so that the log does not depend on how input was cut. */
export class EventLog {
  readonly lines: string[] = []
  private body: string | null = null

  add(line: string): void {
    this.flush()
    this.lines.push(line)
  }

  addBody(bytes: Uint8Array, offset: number, end: number): void {
    if (end <= offset) this.add('EMPTY BODY PIECE')
    this.body = (this.body ?? '') + Buffer.from(bytes.subarray(offset, end)).toString('latin1')
  }

  flush(): void {
    if (this.body !== null) this.lines.push(`body ${printable(this.body)}`)
    this.body = null
  }

  addFields(prefix: string, headers: HeaderList): void {
    for (let i = 0; i < headers.length; i++) this.add(`${prefix}${headers.nameAt(i)}: ${printable(headers.valueAt(i))}`)
  }
}

/** One recorded exchange on the server side. */
export class RecordedExchange implements RequestReceiver {
  readonly stream: ServerStream
  readonly head: RequestHead
  isEnded = false
  private readonly server: RecordingServer

  constructor(server: RecordingServer, stream: ServerStream, head: RequestHead) {
    this.server = server
    this.stream = stream
    this.head = head
  }

  onRequestBody(bytes: Uint8Array, offset: number, end: number): void {
    this.server.log.addBody(bytes, offset, end)
    this.server.onBody?.(this, end - offset)
  }

  onRequestEnd(trailers: HeaderList | null): void {
    this.isEnded = true
    if (trailers !== null) this.server.log.addFields('  trailer ', trailers)
    this.server.log.add('end')
    this.server.onEnd?.(this)
  }

  onRequestReset(reason: string): void {
    this.server.log.add(`reset ${reason}`)
  }

  onResponseDrain(): void {
    this.server.log.add('drain')
  }

  /** A whole response. */
  reply(status = 200, body = '', headers = new HeaderList()): void {
    const bytes = latin1(body)
    this.stream.writeHead({ status, headers, bodyLength: bytes.length })
    if (bytes.length > 0) this.stream.writeBody(bytes, 0, bytes.length)
    this.stream.end(null)
  }
}

/** A server connection whose exchanges are recorded; `onRequestHead`, `onBody` and `onEnd` decide what it answers. */
export class RecordingServer implements HttpServerEvents {
  readonly sink = new FakeSink()
  readonly log = new EventLog()
  readonly exchanges: RecordedExchange[] = []
  readonly connection: H1ServerConnection
  wait: Wait = WAIT_NONE
  onRequestHead: ((exchange: RecordedExchange) => void) | null = null
  onBody: ((exchange: RecordedExchange, length: number) => void) | null = null
  onEnd: ((exchange: RecordedExchange) => void) | null = null

  constructor() {
    this.connection = new H1ServerConnection(this.sink, this)
  }

  get last(): RecordedExchange {
    return this.exchanges.at(-1)!
  }

  /** Lines since the last call. */
  takeLog(): string[] {
    this.log.flush()
    return this.log.lines.splice(0)
  }

  receive(text: string): void {
    const bytes = latin1(text)
    this.connection.receive(bytes, 0, bytes.length)
    // Lent bytes must not be looked at after the call: from here on they are something else.
    bytes.fill(0x58)
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    const exchange = new RecordedExchange(this, stream, head)
    this.exchanges.push(exchange)
    const parts = [
      `${head.method} ${head.target === '' ? '(none)' : head.target}`,
      `HTTP/${(head.version / 10).toFixed(1)}`,
    ]
    parts.push(`authority=${head.authority}`)
    if (head.scheme !== 'http') parts.push(`scheme=${head.scheme}`)
    parts.push(bodyText(head.bodyLength))
    if (head.upgrade !== null) parts.push(`upgrade=${head.upgrade}`)
    if (head.expectsContinue) parts.push('expects-continue')
    this.log.add(`request ${parts.join(' ')}`)
    this.log.addFields('  ', head.headers)
    this.onRequestHead?.(exchange)
    return exchange
  }

  onWait(wait: Wait): void {
    this.wait = wait
  }

  onViolation(violation: ProtocolViolation): void {
    this.log.add(`violation ${violation.status} ${violation.reason}`)
  }
}

/** A client connection whose responses are recorded. */
export class RecordingClient implements HttpClientEvents, ResponseReceiver {
  readonly sink = new FakeSink()
  readonly log = new EventLog()
  readonly connection: H1ClientConnection
  /** Called when a stream closes, before the receiver's last event. */
  onFree: (() => void) | null = null

  constructor() {
    this.connection = new H1ClientConnection(this.sink, this)
  }

  takeLog(): string[] {
    this.log.flush()
    return this.log.lines.splice(0)
  }

  open(overrides: Partial<RequestHead> = {}): ClientStream {
    return this.connection.open(requestHead(overrides), this)
  }

  receive(text: string): void {
    const bytes = latin1(text)
    this.connection.receive(bytes, 0, bytes.length)
    bytes.fill(0x58)
  }

  onInformational(status: number, headers: HeaderList): void {
    this.log.add(`informational ${status}`)
    this.log.addFields('  ', headers)
  }

  onResponseHead(head: ResponseHead): void {
    this.log.add(`response ${head.status} ${bodyText(head.bodyLength)}`)
    this.log.addFields('  ', head.headers)
  }

  onResponseBody(bytes: Uint8Array, offset: number, end: number): void {
    this.log.addBody(bytes, offset, end)
  }

  onResponseEnd(trailers: HeaderList | null): void {
    if (trailers !== null) this.log.addFields('  trailer ', trailers)
    this.log.add('end')
  }

  onResponseReset(reason: string, wasProcessed: boolean): void {
    this.log.add(`reset ${reason}${wasProcessed ? '' : ' (not processed)'}`)
  }

  onRequestDrain(): void {
    this.log.add('drain')
  }

  onStreamClosed(): void {
    this.log.add('free')
    this.onFree?.()
  }

  onUnusable(): void {
    this.log.add('unusable')
  }

  onViolation(violation: ProtocolViolation): void {
    this.log.add(`violation ${violation.reason}`)
  }
}

export function requestHead(overrides: Partial<RequestHead> = {}): RequestHead {
  return {
    method: 'GET',
    target: '/',
    scheme: 'http',
    authority: 'example.com',
    headers: new HeaderList(),
    version: 11,
    bodyLength: 0,
    upgrade: null,
    expectsContinue: false,
    ...overrides,
  }
}

function bodyText(length: number): string {
  if (length === BODY_CHUNKED) return 'body=chunked'
  return length === BODY_UNTIL_CLOSE ? 'body=until-close' : `body=${length}`
}
