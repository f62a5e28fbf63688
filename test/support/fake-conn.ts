/** A connection of the transport that keeps what is written to it; tests play the peer by calling its handler. */
import type { WeftError } from '../../src/base/errors.ts'
import type { Conn, Handler } from '../../src/transport/conn.ts'
import { FakeSink } from './fake-sink.ts'
import { latin1 } from './h1-recorders.ts'

export class FakeConn extends FakeSink implements Conn {
  handler: Handler = DEAF
  isClosed = false
  idleTimeoutMs = 0
  readonly localAddress = '198.18.1.1'
  readonly localPort = 8080
  readonly remoteAddress = '198.18.1.2'
  readonly remotePort = 40_000
  readonly peerIdentity: string | null = null
  readonly alpn: string | null = null

  get isAborted(): boolean {
    return this.endings.includes('abort')
  }

  override abort(): void {
    if (this.isClosed) return
    super.abort()
    this.isClosed = true
    this.handler.onClose(this, null)
  }

  setIdleTimeout(timeoutMs: number): void {
    this.idleTimeoutMs = timeoutMs
  }

  // --- the peer ---

  /** Bytes come. They are something else after the call, as lent bytes may be. */
  deliver(text: string): void {
    const bytes = latin1(text)
    this.handler.onBytes(this, bytes, 0, bytes.length)
    bytes.fill(0x58)
  }

  deliverEnd(): void {
    this.handler.onEnd(this)
  }

  /** The connection is over: in order, or with an error. */
  deliverClose(error: WeftError | null = null): void {
    if (this.isClosed) return
    this.isClosed = true
    this.handler.onClose(this, error)
  }
}

const DEAF: Handler = {
  onOpen: () => {},
  onBytes: () => {},
  onEnd: () => {},
  onDrain: () => {},
  onClose: () => {},
}
