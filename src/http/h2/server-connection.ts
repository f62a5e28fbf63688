// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One downstream HTTP/2 connection of an application (RFC 9113): the codec seam over the engine of connection.ts.
 *
 * Every stream becomes one exchange; they run side by side. What a batch of events had to say leaves in one write, when
 * the transport ends the batch. A client that ends its side of the connection takes its exchanges with it: without its
 * window updates and acknowledgements they could not be finished.
 */
import type { BatchEnd, ByteSink, HttpServerConnection, HttpServerEvents, ProtocolViolation } from '../codec.ts'
import { H2Connection, type H2Events } from './connection.ts'
import { APP_SERVER_SETTINGS, ROLE_SERVER } from './limits.ts'
import { H2RequestHead, readRequest } from './request-head.ts'
import { H2ServerStream } from './server-stream.ts'
import type { H2Receiver, H2Stream } from './stream.ts'
import { Vigil } from './vigil.ts'
import type { H2Violation } from './violations.ts'

export class H2ServerConnection implements HttpServerConnection, H2Events {
  isFlushPending: boolean
  private readonly sink: ByteSink
  private readonly events: HttpServerEvents
  private readonly batchEnd: BatchEnd
  private readonly engine: H2Connection
  private readonly vigil: Vigil

  /** `now` gives milliseconds, for the budgets against floods. */
  constructor(sink: ByteSink, events: HttpServerEvents, batchEnd: BatchEnd, now: () => number) {
    this.isFlushPending = false
    this.sink = sink
    this.events = events
    this.batchEnd = batchEnd
    this.engine = new H2Connection(APP_SERVER_SETTINGS, sink, this, now)
    this.vigil = new Vigil(this.engine, ROLE_SERVER)
    this.engine.start()
  }

  get activeCount(): number {
    return this.engine.activeCount
  }

  // --- what the Conn reports ---

  receive(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.engine.receive(bytes, offset, end)
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
  }

  retire(): void {
    this.engine.drain()
  }

  drain(): void {
    this.engine.drain()
  }

  /** BEAT_MS have passed since the last call, or since the beginning. */
  beat(): void {
    this.vigil.beat()
  }

  flush(): void {
    this.engine.flush()
  }

  // --- H2Events ---

  onStream(stream: H2Stream, fields: string[], isEnd: boolean): H2Receiver {
    const head = new H2RequestHead()
    const violation = readRequest(fields, isEnd, head)
    const exchange = new H2ServerStream(stream, head, isEnd)
    if (violation !== null) {
      refuse(stream, violation, isEnd)
      this.events.onViolation(violation, true)
      return exchange
    }
    const receiver = this.events.onRequest(exchange, head)
    exchange.begin(receiver)
    return exchange
  }

  onFlushWanted(): void {
    this.batchEnd.atBatchEnd(this)
  }

  onPong(): void {}
  onStreamEnded(): void {}

  /** The client opens no more streams; those that are open go on, and it closes the connection itself. */
  onGoAway(): void {}

  onFailed(violation: H2Violation): void {
    this.events.onViolation(violation, false)
  }

  onStreamViolation(violation: H2Violation): void {
    this.events.onViolation(violation, false)
  }
}

/** Answers a request that no exchange is made of. */
function refuse(stream: H2Stream, violation: ProtocolViolation, isWhole: boolean): void {
  const text = Buffer.from(`${violation.message} (${violation.reason})\n`, 'latin1')
  stream.sendHeaders(
    [':status', String(violation.status), 'content-type', 'text/plain', 'content-length', String(text.length)],
    false,
  )
  stream.write(text, 0, text.length)
  stream.end()
  if (isWhole) stream.discardInput()
  else stream.stopPeerWhenSent()
}
