// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One downstream HTTP/1 connection (RFC 9112): requests are read one at a time and answered strictly in order.
 *
 * What a client sends before its earlier request is answered is held, up to a limit, with reading paused.
 *
 *     HEAD --head--> BODY --complete--> WAIT --response ends--> HEAD ...
 *                      |                  \--101, CONNECT 2xx--> TUNNEL --both ends--> CLOSED
 *                      \--response ends first--> DRAIN --body complete--> HEAD
 *     refused, or the rest is too long: LINGER (our side is ended, input is dropped) --> CLOSED
 *
 * Rules that other files rely on:
 *  - After `end` or `reset` of a stream its receiver hears nothing more; the rest of the request is dropped here.
 *  - `onRequestEnd` comes once. Where the request asks for a tunnel it comes when the tunnel is refused (inside
 *    `writeHead`), or as the client's half-close of the tunnel.
 *  - A connection in LINGER counts as idle: `activeCount` is 0. Its owner, told by `onWait`, bounds it in time.
 */

import { latin1Bytes } from '../../base/bytes.ts'
import { FLAG_DOWNSTREAM_CLOSED, FLAG_DOWNSTREAM_PROTOCOL, type Flag } from '../../base/errors.ts'
import {
  type ByteSink,
  type HttpServerConnection,
  type HttpServerEvents,
  type ProtocolViolation,
  WAIT_END,
  WAIT_HEAD,
  WAIT_NONE,
} from '../codec.ts'
import { BODY_BAD, BODY_DATA, BODY_END, BodyReader } from './body-reader.ts'
import { HEAD_REQUEST, type HeadParser, PARSE_BAD, PARSE_MORE } from './head-parser.ts'
import { OPTION_CLOSE, writeConnection, writeContentLength, writeStatusLine } from './head-writer.ts'
import { HeldInput } from './held-input.ts'
import { DRAIN_BYTES_MAX, HELD_BYTES_MAX, LINGER_BYTES_MAX } from './limits.ts'
import { beginBatch, endBatch, Output } from './output.ts'
import { borrowParser, returnParser } from './parser-pool.ts'
import { type H1RequestHead, readRequestHead } from './request-head.ts'
import { H1ServerStream, type ServerStreamOwner } from './server-stream.ts'
import { TOO_MUCH_PIPELINED } from './violations.ts'

const PHASE_HEAD = 0
const PHASE_BODY = 1
const PHASE_WAIT = 2
const PHASE_TUNNEL = 3
const PHASE_DRAIN = 4
const PHASE_LINGER = 5
const PHASE_CLOSED = 6

// Why reading is paused, as bits; each holds one pause of the sink.
const PAUSE_BY_RECEIVER = 1
const PAUSE_BY_HELD_INPUT = 2

/** See the head of the file. One exchange at a time, whatever is pipelined. */
export class H1ServerConnection implements HttpServerConnection, ServerStreamOwner {
  readonly output: Output
  isDraining: boolean
  private readonly sink: ByteSink
  private readonly events: HttpServerEvents
  private readonly scheme: string
  private readonly body: BodyReader
  private phase: number
  private parser: HeadParser | null
  private stream: H1ServerStream | null
  private readonly held: HeldInput
  /** There was input behind the request when it was read. */
  private isFollowed: boolean
  private pauses: number
  private isConsuming: boolean
  private isInputEnded: boolean
  private dropBytesLeft: number

  /** `scheme` is what requests in origin form get: `https` when the connection itself is TLS of the client's. */
  constructor(sink: ByteSink, events: HttpServerEvents, scheme = 'http') {
    this.output = new Output(sink)
    this.isDraining = false
    this.sink = sink
    this.events = events
    this.scheme = scheme
    this.body = new BodyReader()
    this.phase = PHASE_HEAD
    this.parser = null
    this.stream = null
    this.held = new HeldInput()
    this.isFollowed = false
    this.pauses = 0
    this.isConsuming = false
    this.isInputEnded = false
    this.dropBytesLeft = 0
  }

  get activeCount(): number {
    return this.stream === null ? 0 : 1
  }

  get hasUnreadInput(): boolean {
    return this.isFollowed || !this.held.isEmpty
  }

  get isRestLong(): boolean {
    return this.phase === PHASE_BODY && (this.body.isChunked || this.body.remaining > DRAIN_BYTES_MAX)
  }

  // --- what the Conn reports ---

  receive(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    // The transport may deliver once more after a pause; what came first goes first.
    if (!this.held.isEmpty || this.isConsuming) {
      this.hold(bytes, offset, end)
      return
    }
    // Rule 3 broken: try per chunk. A batch that is never ended would silence every connection of the thread.
    beginBatch()
    try {
      const position = this.consume(bytes, offset, end)
      if (position < end) this.held.putFirst(bytes.slice(position, end), 0, end - position)
      this.resumeHeld()
    } finally {
      endBatch()
    }
  }

  receiveEnd(): void {
    if (this.phase === PHASE_CLOSED || this.isInputEnded) return
    this.isInputEnded = true
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
      this.stream?.receiver?.onResponseDrain()
    } finally {
      endBatch()
    }
  }

  receiveClose(): void {
    if (this.phase === PHASE_CLOSED) return
    const stream = this.stream
    this.output.discard()
    this.close()
    if (stream === null) return
    beginBatch()
    try {
      this.detach(stream)
      this.tellReset(stream, 'the client closed the connection')
    } finally {
      endBatch()
    }
  }

  retire(): void {
    this.isDraining = true
  }

  drain(): void {
    this.isDraining = true
    if (this.phase === PHASE_HEAD && this.parser === null && !this.isConsuming) this.closeNow()
  }

  // --- reading ---

  /** Takes input until there is none, or until it must wait for a response. Returns where it stopped. */
  private consume(bytes: Uint8Array, offset: number, end: number): number {
    let p = offset
    this.isConsuming = true
    while (p < end && this.phase !== PHASE_WAIT) {
      if (this.phase === PHASE_HEAD) {
        p = this.readHead(bytes, p, end)
      } else if (this.phase === PHASE_BODY) {
        p = this.readBody(bytes, p, end)
      } else if (this.phase === PHASE_TUNNEL) {
        this.stream!.receiver!.onRequestBody(bytes, p, end)
        p = end
      } else {
        p = this.drop(bytes, p, end)
      }
    }
    this.isConsuming = false
    return p
  }

  private readHead(bytes: Uint8Array, offset: number, end: number): number {
    const parser = this.parser ?? borrowParser(HEAD_REQUEST)
    const outcome = parser.feed(bytes, offset, end)
    if (outcome === PARSE_MORE) {
      if (this.parser === null) this.events.onWait(WAIT_HEAD)
      this.parser = parser
      return end
    }
    if (this.parser !== null) this.events.onWait(WAIT_NONE)
    const position = parser.position
    const head = outcome === PARSE_BAD ? null : readRequestHead(parser, this.scheme)
    const violation = parser.violation
    this.parser = null
    returnParser(parser)
    if (head === null) {
      this.refuse(violation!)
      return end
    }
    this.isFollowed = position < end
    this.beginExchange(head)
    return position
  }

  private beginExchange(head: H1RequestHead): void {
    const stream = new H1ServerStream(this, head)
    this.stream = stream
    this.body.begin(head.bodyLength)
    this.phase = stream.isRequestDone ? PHASE_WAIT : PHASE_BODY
    const receiver = this.events.onRequest(stream, head)
    stream.receiver = receiver
    if (stream.owner === null) {
      // Answered within the call, or gone.
      if (stream.failure !== null) receiver.onRequestReset(stream.failure, stream.failureFlag)
    } else if (stream.isRequestEndOwed) {
      if (stream.isHeadWritten) this.tellRequestEnd(stream)
    } else if (stream.isRequestDone && !stream.isTunnel) {
      receiver.onRequestEnd(null)
    }
  }

  private readBody(bytes: Uint8Array, offset: number, end: number): number {
    const body = this.body
    const stream = this.stream!
    let outcome = body.read(bytes, offset, end)
    while (outcome === BODY_DATA) {
      stream.receiver!.onRequestBody(bytes, body.dataStart, body.position)
      if (this.stream !== stream) return body.position
      outcome = body.read(bytes, body.position, end)
    }
    if (outcome === BODY_BAD) {
      this.failRequest(stream, body.violation!)
      return end
    }
    if (outcome === BODY_END) {
      stream.isRequestDone = true
      this.isFollowed = body.position < end
      this.phase = PHASE_WAIT
      stream.receiver!.onRequestEnd(body.trailers)
    }
    return body.position
  }

  /** Drops input after the response: the rest of a body, or whatever comes while the connection lingers. */
  private drop(bytes: Uint8Array, offset: number, end: number): number {
    if (this.phase === PHASE_CLOSED) return end
    if (this.phase === PHASE_LINGER) {
      this.dropBytesLeft -= end - offset
      if (this.dropBytesLeft < 0) this.closeNow()
      return end
    }
    const body = this.body
    let outcome = body.read(bytes, offset, end)
    while (outcome === BODY_DATA) outcome = body.read(bytes, body.position, end)
    this.dropBytesLeft -= body.position - offset
    if (outcome === BODY_BAD || this.dropBytesLeft < 0) {
      this.linger()
      return end
    }
    const position = body.position
    if (outcome === BODY_END) {
      this.isFollowed = position < end
      this.nextExchange(!this.isDraining)
    }
    return position
  }

  private endInput(): void {
    const stream = this.stream
    if (this.phase === PHASE_TUNNEL) {
      if (this.held.isEmpty && !this.isConsuming) this.endTunnelInput(stream!)
    } else if (this.phase === PHASE_BODY) {
      this.detach(stream!)
      if (stream!.isHeadWritten) this.abort()
      else this.closeNow()
      this.tellReset(stream!, 'the client ended its side before its request was complete')
    } else if (this.phase !== PHASE_WAIT) {
      // In WAIT the request is complete: a client may end its side and still read the answer.
      this.closeNow()
    }
  }

  // --- holding input back ---

  /** Keeps a copy of lent input until its turn comes. */
  private hold(bytes: Uint8Array, offset: number, end: number): void {
    if (this.phase === PHASE_CLOSED) return
    if (this.held.length + end - offset > HELD_BYTES_MAX) {
      this.overflow()
      return
    }
    this.held.putLast(bytes, offset, end)
    this.setPause(PAUSE_BY_HELD_INPUT, true)
  }

  /** Works through held input as far as it goes. A loop: many pipelined requests must not nest calls. */
  private resumeHeld(): void {
    const held = this.held
    while (held.bytes !== null && this.phase !== PHASE_WAIT) {
      const { bytes, start, end } = held
      held.clear()
      const position = this.consume(bytes, start, end)
      if (position < end) held.putFirst(bytes, position, end)
    }
    this.setPause(PAUSE_BY_HELD_INPUT, !held.isEmpty)
    if (!this.isInputEnded || !held.isEmpty) return
    if (this.phase === PHASE_HEAD) this.closeNow()
    else if (this.phase === PHASE_TUNNEL && !this.stream!.isReadEnded) this.endTunnelInput(this.stream!)
  }

  private resumeInBatch(): void {
    if (this.isConsuming) return
    beginBatch()
    try {
      this.resumeHeld()
    } finally {
      endBatch()
    }
  }

  private overflow(): void {
    const stream = this.stream
    this.abort()
    this.events.onViolation(TOO_MUCH_PIPELINED, false)
    if (stream === null) return
    this.detach(stream)
    this.tellReset(stream, TOO_MUCH_PIPELINED.reason, FLAG_DOWNSTREAM_PROTOCOL)
  }

  // --- what the stream reports ---

  onFinalHead(stream: H1ServerStream): void {
    if (stream.isRequestEndOwed && stream.receiver !== null) this.tellRequestEnd(stream)
  }

  onTunnelOpen(stream: H1ServerStream): void {
    stream.isRequestEndOwed = false
    this.phase = PHASE_TUNNEL
    this.resumeInBatch()
  }

  onTunnelWriteEnd(stream: H1ServerStream): void {
    this.output.flush()
    this.sink.end()
    if (stream.isReadEnded) this.finishTunnel(stream)
  }

  onResponseEnd(stream: H1ServerStream): void {
    this.detach(stream)
    const mayLiveOn = stream.keepsAlive && !this.isDraining
    if (stream.isRequestDone) {
      this.nextExchange(mayLiveOn)
    } else if (mayLiveOn && this.body.remaining <= DRAIN_BYTES_MAX) {
      this.phase = PHASE_DRAIN
      this.dropBytesLeft = DRAIN_BYTES_MAX
    } else {
      this.linger()
    }
  }

  onStreamFailed(stream: H1ServerStream, reason: string | null): void {
    this.detach(stream)
    this.abort()
    if (reason !== null) this.tellReset(stream, reason)
  }

  pauseStream(isPaused: boolean): void {
    this.setPause(PAUSE_BY_RECEIVER, isPaused)
  }

  // --- telling the receiver ---

  private tellRequestEnd(stream: H1ServerStream): void {
    stream.isRequestEndOwed = false
    stream.receiver!.onRequestEnd(null)
  }

  private endTunnelInput(stream: H1ServerStream): void {
    stream.isReadEnded = true
    stream.receiver!.onRequestEnd(null)
    if (stream.isWriteEnded && stream.owner !== null) this.finishTunnel(stream)
  }

  private tellReset(stream: H1ServerStream, reason: string, flag: Flag = FLAG_DOWNSTREAM_CLOSED): void {
    if (stream.receiver !== null) {
      stream.receiver.onRequestReset(reason, flag)
      return
    }
    stream.failure = reason
    stream.failureFlag = flag
  }

  // --- endings ---

  /** An exchange is over and its request is read. A client that may still be sending must not be met by a reset. */
  private nextExchange(mayLiveOn: boolean): void {
    if (mayLiveOn) {
      this.phase = PHASE_HEAD
      this.resumeInBatch()
    } else if (this.hasUnreadInput) {
      this.linger()
    } else {
      this.closeNow()
    }
  }

  /** Both directions have ended, so the Conn closes of itself. */
  private finishTunnel(stream: H1ServerStream): void {
    this.detach(stream)
    this.close()
  }

  /** The request broke a rule before there was an exchange. */
  private refuse(violation: ProtocolViolation): void {
    writeRefusal(this.output, violation)
    this.linger()
    this.events.onViolation(violation, true)
  }

  /** The request broke a rule in its body. A response that has begun cannot be taken back: it is cut off. */
  private failRequest(stream: H1ServerStream, violation: ProtocolViolation): void {
    this.detach(stream)
    if (stream.isHeadWritten) {
      this.abort()
    } else {
      writeRefusal(this.output, violation)
      this.linger()
    }
    this.events.onViolation(violation, false)
    this.tellReset(stream, violation.reason, FLAG_DOWNSTREAM_PROTOCOL)
  }

  /** Ends our side and drops input until the client ends its own, so that the last response is not lost to a reset. */
  private linger(): void {
    if (this.isInputEnded) {
      this.closeNow()
      return
    }
    this.output.flush()
    this.phase = PHASE_LINGER
    this.held.clear()
    this.dropBytesLeft = LINGER_BYTES_MAX
    this.setPause(PAUSE_BY_HELD_INPUT, false)
    this.events.onWait(WAIT_END)
    this.sink.end()
  }

  private closeNow(): void {
    this.output.flush()
    this.close()
    this.sink.close()
  }

  private abort(): void {
    this.output.discard()
    this.close()
    this.sink.abort()
  }

  private close(): void {
    this.phase = PHASE_CLOSED
    this.held.clear()
    if (this.parser !== null) returnParser(this.parser)
    this.parser = null
  }

  private detach(stream: H1ServerStream): void {
    stream.owner = null
    this.stream = null
    this.setPause(PAUSE_BY_RECEIVER, false)
  }

  private setPause(reason: number, isPaused: boolean): void {
    if (((this.pauses & reason) !== 0) === isPaused) return
    this.pauses ^= reason
    if (isPaused) this.sink.pauseReading()
    else this.sink.resumeReading()
  }
}

/** The whole answer to a violation; the connection closes after it. */
function writeRefusal(output: Output, violation: ProtocolViolation): void {
  const text = latin1Bytes(`${violation.message} (${violation.reason})\n`)
  writeStatusLine(output, violation.status)
  output.writeText('content-type: text/plain\r\n')
  writeConnection(output, OPTION_CLOSE)
  writeContentLength(output, text.length)
  output.writeText('\r\n')
  output.writeBytes(text, 0, text.length)
  output.commit()
}
