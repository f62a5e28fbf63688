// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One upstream HTTP/1 connection (RFC 9112): one exchange at a time, kept alive between them, never pipelined.
 *
 *     IDLE --open--> HEAD --final head--> BODY --complete--> IDLE ...
 *                     |                     \--by end of connection, or the request is not complete--> CLOSED
 *                     \--101, CONNECT 2xx--> TUNNEL --both ends--> CLOSED
 *
 * Rules that other files rely on:
 *  - `onStreamClosed` comes before the receiver's last event, so that whoever is told of the end finds this connection
 *    in the pool again. It may open the next exchange there and then.
 *  - An end of the connection completes only a body that has no other end; a close without an end never does.
 *  - `wasProcessed` is false only when the connection had served an exchange before, no byte of an answer came, and no
 *    byte of the request's body was written: then it was all but certainly closed while idle, before the request came.
 */
import { assert } from '../../base/assert.ts'
import { FIELD_VALUE, TOKEN_LOWER } from '../../base/bytes.ts'
import { FLAG_UPSTREAM_CLOSED, FLAG_UPSTREAM_PROTOCOL, type Flag } from '../../base/errors.ts'
import type {
  ByteSink,
  ClientStream,
  HttpClientConnection,
  HttpClientEvents,
  ProtocolViolation,
  RequestHead,
  ResponseReceiver,
} from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import { BODY_BAD, BODY_DATA, BODY_END, BodyReader } from './body-reader.ts'
import { type ClientStreamOwner, H1ClientStream } from './client-stream.ts'
import { HEAD_RESPONSE, type HeadParser, PARSE_BAD, PARSE_MORE } from './head-parser.ts'
import { writeRequestHead } from './head-writer.ts'
import { INFORMATIONAL_COUNT_MAX } from './limits.ts'
import { beginBatch, endBatch, Output } from './output.ts'
import { borrowParser, returnParser } from './parser-pool.ts'
import { type H1ResponseHead, readResponseHead } from './response-head.ts'
import { TOO_MANY_INFORMATIONAL, UNEXPECTED_SWITCH } from './violations.ts'

const PHASE_IDLE = 0
const PHASE_HEAD = 1
const PHASE_BODY = 2
const PHASE_TUNNEL = 3
const PHASE_CLOSED = 4

/** See the head of the file. One exchange at a time. */
export class H1ClientConnection implements HttpClientConnection, ClientStreamOwner {
  readonly output: Output
  private readonly sink: ByteSink
  private readonly events: HttpClientEvents
  private readonly body: BodyReader
  private phase: number
  private parser: HeadParser | null
  private stream: H1ClientStream | null
  private openedCount: number
  private informationalCount: number
  /** No further exchange, whatever happens to this one. */
  private isLast: boolean
  private isPaused: boolean

  constructor(sink: ByteSink, events: HttpClientEvents) {
    this.output = new Output(sink)
    this.sink = sink
    this.events = events
    this.body = new BodyReader()
    this.phase = PHASE_IDLE
    this.parser = null
    this.stream = null
    this.openedCount = 0
    this.informationalCount = 0
    this.isLast = false
    this.isPaused = false
  }

  get activeCount(): number {
    return this.stream === null ? 0 : 1
  }

  get canOpen(): boolean {
    return this.phase === PHASE_IDLE
  }

  get isReusable(): boolean {
    return !this.isLast
  }

  /**
   * Begins an exchange; only while `canOpen`. A head that cannot be sent (a control byte in the target, say) ends the
   * exchange at once, with `onResponseReset`, and leaves the connection as it was.
   */
  open(head: RequestHead, receiver: ResponseReceiver): ClientStream {
    assert(this.phase === PHASE_IDLE, 'an exchange is opened only on an idle connection')
    const stream = new H1ClientStream(this, head, receiver)
    if (!isSendable(head)) {
      stream.owner = null
      this.events.onStreamClosed()
      receiver.onResponseReset('the request line cannot be sent', true, FLAG_UPSTREAM_CLOSED)
      return stream
    }
    this.stream = stream
    this.phase = PHASE_HEAD
    this.openedCount++
    this.informationalCount = 0
    writeRequestHead(this.output, head)
    this.output.commit()
    return stream
  }

  // --- what the Conn reports ---

  receive(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    // Rule 3 broken: try per chunk. A batch that is never ended would silence every connection of the thread.
    beginBatch()
    try {
      let p = offset
      while (p < end) {
        if (this.phase === PHASE_HEAD) p = this.readHead(bytes, p, end)
        else if (this.phase === PHASE_BODY) p = this.readBody(bytes, p, end)
        else p = this.readOther(bytes, p, end)
      }
    } finally {
      endBatch()
    }
  }

  receiveEnd(): void {
    beginBatch()
    try {
      this.endInput()
    } finally {
      endBatch()
    }
  }

  receiveDrain(): void {
    this.output.onDrain()
    beginBatch()
    try {
      this.stream?.receiver.onRequestDrain()
    } finally {
      endBatch()
    }
  }

  receiveClose(): void {
    if (this.phase === PHASE_CLOSED) return
    beginBatch()
    try {
      if (this.stream === null) this.giveUp()
      else this.fail(this.stream, 'the upstream reset the connection', this.wasProcessed(this.stream))
    } finally {
      endBatch()
    }
  }

  // --- reading ---

  private readHead(bytes: Uint8Array, offset: number, end: number): number {
    const stream = this.stream!
    const parser = this.parser ?? borrowParser(HEAD_RESPONSE)
    const outcome = parser.feed(bytes, offset, end)
    if (outcome === PARSE_MORE) {
      this.parser = parser
      return end
    }
    const position = parser.position
    const head = outcome === PARSE_BAD ? null : readResponseHead(parser, stream.isHead, stream.isConnect)
    const violation = parser.violation
    this.parser = null
    returnParser(parser)
    if (head === null) {
      this.failBy(stream, violation!)
      return end
    }
    if (head.status < 200) return this.readInformational(stream, head, position, end)
    if (stream.isConnect && head.status < 300) {
      this.openTunnel(stream, head)
      return position
    }
    this.body.begin(head.bodyLength)
    this.phase = PHASE_BODY
    if (!head.keepsAlive || stream.isConnect) this.isLast = true
    stream.receiver.onResponseHead(head)
    // Without a body the response is complete here, and no further byte may come to say so.
    if (head.bodyLength === 0 && this.stream === stream) this.finish(stream, null, position < end)
    return position
  }

  private readInformational(stream: H1ClientStream, head: H1ResponseHead, position: number, end: number): number {
    if (head.status === 101) {
      if (stream.asksUpgrade) {
        this.openTunnel(stream, head)
        return position
      }
      this.failBy(stream, UNEXPECTED_SWITCH)
      return end
    }
    this.informationalCount++
    if (this.informationalCount > INFORMATIONAL_COUNT_MAX) {
      this.failBy(stream, TOO_MANY_INFORMATIONAL)
      return end
    }
    stream.receiver.onInformational(head.status, head.headers)
    return position
  }

  private openTunnel(stream: H1ClientStream, head: H1ResponseHead): void {
    this.phase = PHASE_TUNNEL
    this.isLast = true
    stream.becomeTunnel()
    stream.receiver.onResponseHead(head)
    // The writer may have ended its side before it knew of the tunnel.
    if (stream.isWriteEnded && this.stream === stream) this.onTunnelWriteEnd(stream)
  }

  private readBody(bytes: Uint8Array, offset: number, end: number): number {
    const body = this.body
    const stream = this.stream!
    let outcome = body.read(bytes, offset, end)
    while (outcome === BODY_DATA) {
      stream.receiver.onResponseBody(bytes, body.dataStart, body.position)
      if (this.stream !== stream) return end
      outcome = body.read(bytes, body.position, end)
    }
    if (outcome === BODY_BAD) {
      this.failBy(stream, body.violation!)
      return end
    }
    const position = body.position
    if (outcome === BODY_END) this.finish(stream, body.trailers, position < end)
    return position
  }

  private readOther(bytes: Uint8Array, offset: number, end: number): number {
    if (this.phase === PHASE_TUNNEL) this.stream!.receiver.onResponseBody(bytes, offset, end)
    else if (this.phase === PHASE_IDLE) this.abandon()
    return end
  }

  private endInput(): void {
    const stream = this.stream
    if (this.phase === PHASE_CLOSED) return
    if (stream === null) {
      this.giveUp()
      this.sink.close()
    } else if (this.phase === PHASE_TUNNEL) {
      stream.isReadEnded = true
      stream.receiver.onResponseEnd(null)
      if (stream.isWriteEnded && this.stream === stream) this.finishTunnel(stream)
    } else if (this.phase === PHASE_BODY && this.body.endsWithConnection) {
      this.finish(stream, null, false)
    } else if (this.phase === PHASE_BODY) {
      this.fail(stream, 'the upstream ended its response before it was complete', true)
    } else {
      this.fail(stream, 'the upstream closed the connection before it answered', this.wasProcessed(stream))
    }
  }

  private wasProcessed(stream: H1ClientStream): boolean {
    const hasAnswered = this.phase !== PHASE_HEAD || this.parser !== null || this.informationalCount > 0
    return hasAnswered || stream.hasSentBody || this.openedCount < 2
  }

  // --- what the stream reports ---

  onTunnelWriteEnd(stream: H1ClientStream): void {
    this.output.flush()
    this.sink.end()
    if (stream.isReadEnded) this.finishTunnel(stream)
  }

  onStreamFailed(stream: H1ClientStream, reason: string | null): void {
    if (reason !== null) {
      this.fail(stream, reason, true)
      return
    }
    this.detach(stream)
    this.abandon()
    this.events.onStreamClosed()
  }

  pauseStream(isPaused: boolean): void {
    if (this.isPaused === isPaused) return
    this.isPaused = isPaused
    if (isPaused) this.sink.pauseReading()
    else this.sink.resumeReading()
  }

  // --- endings ---

  /** The response is complete. Input behind it belongs to nobody, so then the connection cannot be trusted again. */
  private finish(stream: H1ClientStream, trailers: HeaderList | null, isFollowed: boolean): void {
    this.detach(stream)
    if (this.isLast || isFollowed || !stream.isRequestDone) {
      // The rest of a request whose response is complete would be read as the next request.
      this.output.flush()
      this.giveUp()
      this.sink.close()
    } else {
      this.phase = PHASE_IDLE
    }
    this.events.onStreamClosed()
    stream.receiver.onResponseEnd(trailers)
  }

  /** Both directions have ended, so the Conn closes of itself. */
  private finishTunnel(stream: H1ClientStream): void {
    this.detach(stream)
    this.giveUp()
    this.events.onStreamClosed()
  }

  private fail(stream: H1ClientStream, reason: string, wasProcessed: boolean, flag: Flag = FLAG_UPSTREAM_CLOSED): void {
    this.detach(stream)
    this.abandon()
    this.events.onStreamClosed()
    stream.receiver.onResponseReset(reason, wasProcessed, flag)
  }

  /** The response broke a rule. */
  private failBy(stream: H1ClientStream, violation: ProtocolViolation): void {
    this.events.onViolation(violation)
    this.fail(stream, violation.reason, true, FLAG_UPSTREAM_PROTOCOL)
  }

  /** Resets the connection before anyone hears of it: whoever does may close it, which would send what is gathered. */
  private abandon(): void {
    this.output.discard()
    this.close()
    this.sink.abort()
    this.events.onUnusable()
  }

  private giveUp(): void {
    this.close()
    this.events.onUnusable()
  }

  private close(): void {
    this.phase = PHASE_CLOSED
    this.isLast = true
    if (this.parser !== null) returnParser(this.parser)
    this.parser = null
  }

  private detach(stream: H1ClientStream): void {
    stream.owner = null
    this.stream = null
    this.pauseStream(false)
  }
}

/** True when the parts of the request line are what a parser of the next hop will read as one line. */
function isSendable(head: RequestHead): boolean {
  const { method, target, authority } = head
  for (let i = 0; i < method.length; i++) if (tokenByte(method.charCodeAt(i)) === 0) return false
  for (let i = 0; i < target.length; i++) if (!isVisible(target.charCodeAt(i))) return false
  for (let i = 0; i < authority.length; i++) if (!isVisible(authority.charCodeAt(i))) return false
  return method !== '' && (method === 'CONNECT' ? authority !== '' : target !== '')
}

function tokenByte(code: number): number {
  return code > 0xff ? 0 : TOKEN_LOWER[code]!
}

function isVisible(code: number): boolean {
  return code > 0x20 && code < 0x7f && FIELD_VALUE[code] === 1
}
