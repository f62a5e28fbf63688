// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The request side of one exchange on an upstream HTTP/1 connection.
 *
 * One object per exchange: once the exchange is over it has no owner, and calls on it do nothing.
 */
import { BODY_CHUNKED, BODY_UNTIL_CLOSE, type ClientStream, type RequestHead, type ResponseReceiver } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import { writeBodyPiece, writeLastChunk } from './head-writer.ts'
import type { Output } from './output.ts'

/** What a stream asks of its connection. */
export interface ClientStreamOwner {
  readonly output: Output
  onTunnelWriteEnd(stream: H1ClientStream): void
  /** `reason` is null when the writer itself gave up, else what it did wrong. */
  onStreamFailed(stream: H1ClientStream, reason: string | null): void
  pauseStream(isPaused: boolean): void
}

/** The request of one exchange on an upstream connection. */
export class H1ClientStream implements ClientStream {
  /** Null once the exchange is over. */
  owner: ClientStreamOwner | null
  readonly receiver: ResponseReceiver
  readonly isHead: boolean
  readonly isConnect: boolean
  readonly asksUpgrade: boolean
  /** The whole request is written. */
  isRequestDone: boolean
  /** Some of the request's body is written. */
  hasSentBody: boolean
  isTunnel: boolean
  isReadEnded: boolean
  isWriteEnded: boolean
  private framing: number
  private remaining: number

  constructor(owner: ClientStreamOwner, head: RequestHead, receiver: ResponseReceiver) {
    this.owner = owner
    this.receiver = receiver
    this.isHead = head.method === 'HEAD'
    this.isConnect = head.method === 'CONNECT'
    this.asksUpgrade = head.upgrade !== null
    this.isRequestDone = head.bodyLength === 0
    this.hasSentBody = false
    this.isTunnel = false
    this.isReadEnded = false
    this.isWriteEnded = false
    this.framing = head.bodyLength < 0 ? BODY_CHUNKED : head.bodyLength
    this.remaining = Math.max(head.bodyLength, 0)
  }

  writeBody(bytes: Uint8Array, offset: number, length: number): number {
    const owner = this.owner
    if (owner === null) return 0
    if (length === 0) return owner.output.backlogBytes
    if (this.isWriteEnded || (!this.isTunnel && this.isRequestDone)) {
      owner.onStreamFailed(this, 'the request body is longer than declared')
      return 0
    }
    if (this.framing >= 0) {
      if (length > this.remaining) {
        owner.onStreamFailed(this, 'the request body is longer than declared')
        return 0
      }
      this.remaining -= length
      this.isRequestDone = this.remaining === 0
    }
    this.hasSentBody = true
    writeBodyPiece(owner.output, this.framing, bytes, offset, length)
    return owner.output.commit()
  }

  end(trailers: HeaderList | null): void {
    const owner = this.owner
    if (owner === null || this.isWriteEnded) return
    if (this.remaining > 0) {
      owner.onStreamFailed(this, 'the request body is shorter than declared')
      return
    }
    this.isWriteEnded = true
    if (this.isTunnel) {
      owner.onTunnelWriteEnd(this)
      return
    }
    if (this.framing === BODY_CHUNKED) writeLastChunk(owner.output, trailers)
    this.isRequestDone = true
    owner.output.commit()
  }

  reset(): void {
    this.owner?.onStreamFailed(this, null)
  }

  pauseResponse(): void {
    this.owner?.pauseStream(true)
  }

  resumeResponse(): void {
    this.owner?.pauseStream(false)
  }

  /** From now on bodies are raw bytes both ways. */
  becomeTunnel(): void {
    this.isTunnel = true
    this.framing = BODY_UNTIL_CLOSE
  }
}
