/**
 * A connection that failed before there was a socket (no credential yet, no descriptor to be had): it reports its error
 * like any other connection, at the end of the batch, so that callers have one way to fail.
 */
import type { WeftError } from '../base/errors.ts'
import type { Conn, Flushable, Handler, Transport } from '../transport/conn.ts'

/** See the head of the file: closed from the start, and `onClose` still to come. */
export class FailedConn implements Conn, Flushable {
  handler: Handler
  isClosed = true
  isFlushPending = false
  readonly backlog = 0
  readonly localAddress = ''
  readonly localPort = 0
  readonly remoteAddress: string
  readonly remotePort: number
  readonly peerIdentity = null
  readonly alpn = null
  private readonly error: WeftError

  constructor(transport: Transport, handler: Handler, address: string, port: number, error: WeftError) {
    this.handler = handler
    this.remoteAddress = address
    this.remotePort = port
    this.error = error
    transport.atBatchEnd(this)
  }

  flush(): void {
    this.handler.onClose(this, this.error)
  }

  write(): number {
    return 0
  }

  end(): void {}
  abort(): void {}
  close(): void {}
  pauseReading(): void {}
  resumeReading(): void {}
  setIdleTimeout(): void {}
}
