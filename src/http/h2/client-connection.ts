// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One upstream HTTP/2 connection to an application (RFC 9113): the codec seam over the engine of connection.ts.
 *
 * Exchanges run side by side, as many as the server allows. `wasProcessed` is false only when the server itself said so
 * (REFUSED_STREAM, or a GOAWAY that does not cover the stream); a connection that breaks tells nothing.
 */
import { assert } from '../../base/assert.ts'
import type {
  BatchEnd,
  ByteSink,
  ClientStream,
  HttpClientConnection,
  HttpClientEvents,
  RequestHead,
  ResponseReceiver,
} from '../codec.ts'
import { H2ClientStream } from './client-stream.ts'
import { H2Connection, type H2Events } from './connection.ts'
import { ERROR_REFUSED_STREAM } from './frame.ts'
import { APP_CLIENT_SETTINGS, CLIENT_STREAMS_MAX, ROLE_CLIENT, STREAMS_BEFORE_SETTINGS_MAX } from './limits.ts'
import { isSendable, WEBSOCKET, writeRequest } from './request-head.ts'
import type { H2Receiver, H2Stream } from './stream.ts'
import { Vigil } from './vigil.ts'
import type { H2Violation } from './violations.ts'

export class H2ClientConnection implements HttpClientConnection, H2Events {
  isFlushPending: boolean
  private readonly sink: ByteSink
  private readonly events: HttpClientEvents
  private readonly batchEnd: BatchEnd
  private readonly engine: H2Connection
  private readonly vigil: Vigil
  /** Requests for tunnels that wait for the server's settings. */
  private undecided: H2ClientStream[]

  /** `now` gives milliseconds, for the budgets against floods. */
  constructor(sink: ByteSink, events: HttpClientEvents, batchEnd: BatchEnd, now: () => number) {
    this.isFlushPending = false
    this.sink = sink
    this.events = events
    this.batchEnd = batchEnd
    this.undecided = []
    this.engine = new H2Connection(APP_CLIENT_SETTINGS, sink, this, now)
    this.vigil = new Vigil(this.engine, ROLE_CLIENT)
    this.engine.start()
  }

  get activeCount(): number {
    return this.engine.activeCount + this.undecided.length
  }

  get canOpen(): boolean {
    const { engine } = this
    const limit = engine.peer.isKnown ? CLIENT_STREAMS_MAX : STREAMS_BEFORE_SETTINGS_MAX
    return engine.canOpen && this.activeCount < limit
  }

  get isReusable(): boolean {
    return !this.engine.isDraining && !this.engine.isClosed
  }

  /** Begins an exchange; only while `canOpen`. A head that cannot be sent ends it at once, with `onResponseReset`. */
  open(head: RequestHead, receiver: ResponseReceiver): ClientStream {
    assert(this.canOpen, 'an exchange is opened only while there is room')
    const stream = new H2ClientStream(head, receiver)
    if (!isSendable(head)) {
      this.events.onStreamClosed()
      stream.fail('the request cannot be sent over HTTP/2', true)
    } else if (head.upgrade === WEBSOCKET && !this.engine.peer.isKnown) {
      this.undecided.push(stream)
    } else {
      this.send(stream, head)
    }
    return stream
  }

  // --- what the Conn reports ---

  receive(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.engine.receive(bytes, offset, end)
    if (this.undecided.length > 0 && this.engine.peer.isKnown) this.decide()
  }

  receiveEnd(): void {
    this.sink.close()
    this.receiveClose()
  }

  receiveDrain(): void {
    this.engine.receiveDrain()
  }

  receiveClose(): void {
    this.engine.receiveClose()
    this.engine.flush()
    this.loseUndecided()
  }

  flush(): void {
    this.engine.flush()
  }

  /** BEAT_MS have passed since the last call, or since the beginning. */
  beat(): void {
    this.vigil.beat()
  }

  // --- H2Events ---

  /** Servers open no streams: push is disabled, and the engine refuses it. */
  onStream(stream: H2Stream): H2Receiver {
    stream.reset(ERROR_REFUSED_STREAM)
    return stream.receiver
  }

  onFlushWanted(): void {
    this.batchEnd.atBatchEnd(this)
  }

  onPong(): void {}

  onStreamEnded(): void {
    this.events.onStreamClosed()
  }

  onGoAway(): void {
    this.loseUndecided()
    this.events.onUnusable()
  }

  onFailed(violation: H2Violation): void {
    this.events.onViolation(violation)
    this.loseUndecided()
    this.events.onUnusable()
  }

  onStreamViolation(violation: H2Violation): void {
    this.events.onViolation(violation)
  }

  // --- inner workings ---

  private send(stream: H2ClientStream, head: RequestHead): void {
    const isTunnel = head.upgrade === WEBSOCKET && this.engine.peer.acceptsProtocols
    const fields = writeRequest(head, isTunnel)
    const isEnd = !isTunnel && head.bodyLength === 0
    stream.begin(this.engine.open(fields, isEnd, stream), isTunnel)
  }

  private decide(): void {
    const undecided = this.undecided
    this.undecided = []
    for (const stream of undecided) {
      if (stream.head === null) this.events.onStreamClosed()
      else if (this.engine.canOpen) this.send(stream, stream.head)
      else stream.fail('the upstream takes no more streams', false)
    }
  }

  private loseUndecided(): void {
    const undecided = this.undecided
    if (undecided.length === 0) return
    this.undecided = []
    for (const stream of undecided) stream.fail('the upstream closed the connection', false)
  }
}
