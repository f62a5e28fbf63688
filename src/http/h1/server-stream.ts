// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The response side of one exchange on a downstream HTTP/1 connection.
 *
 * One object per exchange: once the exchange is over it has no owner, and calls on it do nothing, so that whoever still
 * holds it cannot touch the next exchange of the connection.
 *
 *     no head --writeHead--> body --end--> over          reset(), or a body of another length than declared:
 *        \--101 or 2xx to CONNECT--> tunnel --end, and the client's end--> over        the connection is aborted
 */
import { assert } from '../../base/assert.ts'
import { FLAG_NONE, type Flag } from '../../base/errors.ts'
import { BODY_CHUNKED, BODY_UNTIL_CLOSE, type RequestReceiver, type ResponseHead, type ServerStream } from '../codec.ts'
import type { HeaderList } from '../headers.ts'
import {
  OPTION_CLOSE,
  OPTION_KEEP_ALIVE,
  OPTION_UPGRADE,
  writeBodyPiece,
  writeChunkedEncoding,
  writeConnection,
  writeContentLength,
  writeLastChunk,
  writeStatusLine,
} from './head-writer.ts'
import type { Output } from './output.ts'
import type { H1RequestHead } from './request-head.ts'

/** What a stream asks of its connection. */
export interface ServerStreamOwner {
  readonly output: Output
  readonly isDraining: boolean
  /** There is input behind the request that nobody has read. */
  readonly hasUnreadInput: boolean
  /** So much of the request is still to come, or nobody knows how much, that it will not be waited for. */
  readonly isRestLong: boolean
  onFinalHead(stream: H1ServerStream): void
  onTunnelOpen(stream: H1ServerStream): void
  onTunnelWriteEnd(stream: H1ServerStream): void
  onResponseEnd(stream: H1ServerStream): void
  /** `reason` is null when the writer itself gave up, else what it did wrong. */
  onStreamFailed(stream: H1ServerStream, reason: string | null): void
  pauseStream(isPaused: boolean): void
}

/** The response of one exchange on a downstream connection. */
export class H1ServerStream implements ServerStream {
  /** Null once the exchange is over. */
  owner: ServerStreamOwner | null
  /** Null until `onRequest` has returned. */
  receiver: RequestReceiver | null
  /** The request's body is complete, or it has none. */
  isRequestDone: boolean
  /** `onRequestEnd` waits for the decision between tunnel and response. */
  isRequestEndOwed: boolean
  /** The connection may live on after this exchange. */
  keepsAlive: boolean
  isHeadWritten: boolean
  isTunnel: boolean
  isReadEnded: boolean
  isWriteEnded: boolean
  /** Why the exchange failed before there was a receiver to tell. */
  failure: string | null
  failureFlag: Flag
  private readonly isHead: boolean
  private readonly isConnect: boolean
  private readonly upgrade: string | null
  private readonly version: number
  private awaitsContinue: boolean
  private hasNoBody: boolean
  private framing: number
  private remaining: number

  constructor(owner: ServerStreamOwner, head: H1RequestHead) {
    this.owner = owner
    this.receiver = null
    this.isRequestDone = head.bodyLength === 0
    this.isHead = head.method === 'HEAD'
    this.isConnect = head.method === 'CONNECT'
    this.isRequestEndOwed = this.isConnect || head.upgrade !== null
    this.keepsAlive = head.keepsAlive
    this.isHeadWritten = false
    this.isTunnel = false
    this.isReadEnded = false
    this.isWriteEnded = false
    this.failure = null
    this.failureFlag = FLAG_NONE
    this.upgrade = head.upgrade
    this.version = head.version
    this.awaitsContinue = head.expectsContinue
    this.hasNoBody = false
    this.framing = 0
    this.remaining = 0
  }

  writeInformational(status: number, headers: HeaderList): void {
    const owner = this.owner
    if (owner === null || this.isHeadWritten) return
    assert(status >= 100 && status < 200 && status !== 101, 'an interim response has a 1xx status other than 101')
    if (status === 100) this.awaitsContinue = false
    // HTTP/1.0 does not know them (RFC 9110 section 15.2).
    if (this.version === 10) return
    const output = owner.output
    writeStatusLine(output, status)
    headers.writeTo(output)
    output.writeText('\r\n')
    output.commit()
  }

  writeHead(head: ResponseHead): void {
    const owner = this.owner
    if (owner === null) return
    const status = head.status
    assert(!this.isHeadWritten, 'a response has one final head')
    assert(status === 101 || (status >= 200 && status <= 599), 'a final status is 101 or 200 to 599')
    if (status === 101 && this.upgrade === null) {
      owner.onStreamFailed(this, 'the response switches protocols, but the client did not ask for it')
      return
    }
    this.isHeadWritten = true
    if (status === 101 || (this.isConnect && status < 300)) this.openTunnel(owner, head)
    else this.openResponse(owner, head)
  }

  writeBody(bytes: Uint8Array, offset: number, length: number): number {
    const owner = this.owner
    if (owner === null) return 0
    assert(this.isHeadWritten && !this.isWriteEnded, 'a body comes after its head and before its end')
    const output = owner.output
    if (this.hasNoBody) return output.backlogBytes
    if (this.framing >= 0) {
      if (length > this.remaining) {
        owner.onStreamFailed(this, 'the response body is longer than declared')
        return 0
      }
      this.remaining -= length
    }
    writeBodyPiece(output, this.framing, bytes, offset, length)
    return output.commit()
  }

  end(trailers: HeaderList | null): void {
    const owner = this.owner
    if (owner === null || this.isWriteEnded) return
    assert(this.isHeadWritten, 'a response ends after its head')
    if (this.remaining > 0) {
      owner.onStreamFailed(this, 'the response body is shorter than declared')
      return
    }
    this.isWriteEnded = true
    if (this.isTunnel) {
      owner.onTunnelWriteEnd(this)
      return
    }
    if (this.framing === BODY_CHUNKED) writeLastChunk(owner.output, trailers)
    owner.output.commit()
    owner.onResponseEnd(this)
  }

  reset(): void {
    this.owner?.onStreamFailed(this, null)
  }

  pauseRequest(): void {
    this.owner?.pauseStream(true)
  }

  resumeRequest(): void {
    this.owner?.pauseStream(false)
  }

  private openTunnel(owner: ServerStreamOwner, head: ResponseHead): void {
    const output = owner.output
    this.isTunnel = true
    this.keepsAlive = false
    this.framing = BODY_UNTIL_CLOSE
    writeStatusLine(output, head.status)
    head.headers.writeTo(output)
    if (head.status === 101) {
      writeConnection(output, OPTION_UPGRADE)
      output.writeText('upgrade: ')
      output.writeText(head.headers.get('upgrade') ?? this.upgrade!)
      output.writeText('\r\n')
    }
    output.writeText('\r\n')
    output.commit()
    owner.onTunnelOpen(this)
  }

  private openResponse(owner: ServerStreamOwner, head: ResponseHead): void {
    const status = head.status
    this.hasNoBody = this.isHead || status === 204 || status === 304
    let framing = this.hasNoBody ? 0 : head.bodyLength
    // Towards HTTP/1.1 an unknown length is always chunked: a cut-off response then shows as one.
    if (framing < 0) framing = this.version === 11 ? BODY_CHUNKED : BODY_UNTIL_CLOSE
    this.framing = framing
    this.remaining = Math.max(framing, 0)
    if (framing === BODY_UNTIL_CLOSE || owner.isDraining || this.isUnsafeToReuse(owner)) this.keepsAlive = false
    const output = owner.output
    writeStatusLine(output, status)
    head.headers.writeTo(output)
    if (!this.keepsAlive) writeConnection(output, OPTION_CLOSE)
    else if (this.version === 10) writeConnection(output, OPTION_KEEP_ALIVE)
    this.writeFraming(output, head)
    output.writeText('\r\n')
    output.commit()
    owner.onFinalHead(this)
  }

  /**
   * True when bytes after this request could be either its own or a new request: a client that waits for 100 may send its
   * body or not; one whose tunnel is refused may have sent the tunnel's first bytes already. And when the connection may
   * have to be closed before the request is read: a client that has sent it all and has its response would send the next
   * request into that close, unless it is told (RFC 9112 section 9.6).
   */
  private isUnsafeToReuse(owner: ServerStreamOwner): boolean {
    if (!this.isRequestDone && (this.awaitsContinue || owner.isRestLong)) return true
    return this.isConnect || (this.upgrade !== null && owner.hasUnreadInput)
  }

  private writeFraming(output: Output, head: ResponseHead): void {
    if (!this.hasNoBody) {
      if (this.framing >= 0) writeContentLength(output, this.framing)
      else if (this.framing === BODY_CHUNKED) writeChunkedEncoding(output)
      return
    }
    if (head.status === 204) return
    // To HEAD and in 304 a length tells what a GET would bring; our own replies give it as bodyLength.
    const told = head.headers.get('content-length')
    if (told !== null && isDecimal(told)) writeContentLength(output, Number(told))
    else if (this.isHead && head.bodyLength > 0) writeContentLength(output, head.bodyLength)
  }
}

/** True for 1 to 15 digits. */
function isDecimal(text: string): boolean {
  if (text.length === 0 || text.length > 15) return false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x30 || code > 0x39) return false
  }
  return true
}
