// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One exchange on a downstream HTTP/2 connection: the stream's events to the receiver of the request, and the response
 * back (RFC 9113 section 8.1).
 *
 *     no head --writeHead--> body --end--> over; the client is told to stop if it is still sending (RST_STREAM, NO_ERROR)
 *        \--101 to a request for a tunnel--> tunnel (200) --end, and the client's end--> over
 *
 * Once the exchange is over it has no receiver, and calls on it do nothing. A request for a tunnel is not read before the
 * decision: its first bytes belong to the tunnel or to nobody.
 */
import { assert } from '../../base/assert.ts'
import { FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type Flag } from '../../base/errors.ts'
import type { RequestReceiver, ResponseHead, ServerStream } from '../codec.ts'
import { HeaderList } from '../headers.ts'
import { closeReason, requestFlag } from './close-reason.ts'
import { ERROR_INTERNAL } from './frame.ts'
import { dropField, type H2RequestHead } from './request-head.ts'
import { CLOSED_IN_ORDER, type CloseCause, type H2Receiver, type H2Stream } from './stream.ts'

/** Texts of statuses, so that each is one string and not one per response. */
const statusTexts: readonly string[] = Array.from({ length: 600 }, (_, status) => String(status))

export class H2ServerStream implements ServerStream, H2Receiver {
  /** Null until `onRequest` has returned, and once the exchange is over. */
  receiver: RequestReceiver | null
  /** Why the exchange failed before there was a receiver to tell. */
  failure: string | null
  private failureFlag: Flag
  private readonly stream: H2Stream
  private readonly isHead: boolean
  private readonly isWhole: boolean
  /** The request asks for a tunnel, and nothing is decided yet. */
  private isUndecided: boolean
  private isTunnel: boolean
  private isHeadWritten: boolean
  /** The response is complete, or nobody wants it any more. */
  private isOver: boolean
  private isWriteEnded: boolean
  private isReadEnded: boolean
  private isPaused: boolean
  private trailers: HeaderList | null

  /** `isWhole` when nothing follows the head, which the stream itself says only after `onRequest`. */
  constructor(stream: H2Stream, head: H2RequestHead, isWhole: boolean) {
    this.receiver = null
    this.failure = null
    this.failureFlag = FLAG_NONE
    this.stream = stream
    this.isHead = head.method === 'HEAD'
    this.isWhole = isWhole
    this.isUndecided = head.upgrade !== null
    this.isTunnel = false
    this.isHeadWritten = false
    this.isOver = false
    this.isWriteEnded = false
    this.isReadEnded = false
    this.isPaused = false
    this.trailers = null
    stream.receiver = this
    if (this.isUndecided) stream.pauseReading()
  }

  /** Who takes the rest of the request. The exchange may be over already: answered within `onRequest`, or failed. */
  begin(receiver: RequestReceiver): void {
    if (this.failure !== null) receiver.onRequestReset(this.failure, this.failureFlag)
    else if (!this.isOver) this.receiver = receiver
  }

  // --- ServerStream ---

  writeInformational(status: number, headers: HeaderList): void {
    if (this.isOver || this.isHeadWritten) return
    assert(status >= 100 && status < 200 && status !== 101, 'an interim response has a 1xx status other than 101')
    const fields = [':status', statusTexts[status]!]
    headers.appendTo(fields)
    this.stream.sendHeaders(fields, false)
  }

  writeHead(head: ResponseHead): void {
    if (this.isOver) return
    const status = head.status
    assert(!this.isHeadWritten, 'a response has one final head')
    assert(status === 101 || (status >= 200 && status <= 599), 'a final status is 101 or 200 to 599')
    this.isHeadWritten = true
    if (status === 101) {
      this.openTunnel(head)
      return
    }
    const hasNoBody = this.isHead || status === 204 || status === 304
    const fields = [':status', statusTexts[status]!]
    head.headers.appendTo(fields)
    if (!hasNoBody) {
      if (head.bodyLength > 0) fields.push('content-length', String(head.bodyLength))
    } else if (status !== 204) {
      pushToldLength(fields, head, this.isHead)
    }
    this.isWriteEnded = hasNoBody || head.bodyLength === 0
    this.stream.sendHeaders(fields, this.isWriteEnded)
    if (this.isUndecided) this.refuseTunnel()
  }

  writeBody(bytes: Uint8Array, offset: number, length: number): number {
    if (this.isOver || this.isWriteEnded) return 0
    assert(this.isHeadWritten, 'a body comes after its head')
    return this.stream.write(bytes, offset, length)
  }

  end(trailers: HeaderList | null): void {
    if (this.isOver) return
    assert(this.isHeadWritten, 'a response ends after its head')
    const stream = this.stream
    if (!this.isWriteEnded) {
      this.isWriteEnded = true
      stream.endWith(trailers === null || this.isTunnel ? null : fieldsOf(trailers))
    }
    if (this.isTunnel) {
      if (this.isReadEnded) this.finish()
      return
    }
    this.finish()
    if (this.isWhole) stream.discardInput()
    else stream.stopPeerWhenSent()
  }

  reset(): void {
    if (this.isOver) return
    this.finish()
    this.stream.reset(ERROR_INTERNAL)
  }

  pauseRequest(): void {
    if (this.isPaused || this.isOver) return
    this.isPaused = true
    this.stream.pauseReading()
  }

  resumeRequest(): void {
    if (!this.isPaused || this.isOver) return
    this.isPaused = false
    this.stream.resumeReading()
  }

  // --- H2Receiver ---

  /** Requests have one head, which the connection has read. */
  onHeaders(): void {}

  onData(_stream: H2Stream, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.receiver?.onRequestBody(bytes, offset, end)
  }

  onTrailers(_stream: H2Stream, fields: string[]): void {
    this.trailers = HeaderList.fromFields(fields)
  }

  onEnd(): void {
    const receiver = this.receiver
    if (receiver === null) return
    this.isReadEnded = true
    if (this.isTunnel && this.isWriteEnded) this.finish()
    receiver.onRequestEnd(this.isTunnel ? null : this.trailers)
  }

  onDrain(): void {
    this.receiver?.onResponseDrain()
  }

  onClosed(_stream: H2Stream, cause: CloseCause, code: number): void {
    if (this.isOver) return
    const receiver = this.receiver
    const reason =
      cause === CLOSED_IN_ORDER ? 'the stream ended before its response' : closeReason('the client', cause, code)
    this.finish()
    this.tellReset(receiver, reason, requestFlag(cause, code))
  }

  // --- inner workings ---

  private openTunnel(head: ResponseHead): void {
    if (!this.isUndecided) {
      this.failByWriter('the response switches protocols, but the client did not ask for it')
      return
    }
    this.isUndecided = false
    this.isTunnel = true
    const fields = [':status', '200']
    head.headers.appendTo(fields)
    dropField(fields, 'sec-websocket-accept')
    this.stream.sendHeaders(fields, false)
    this.stream.resumeReading()
  }

  /** An ordinary answer to a request for a tunnel: the request ends here, and what follows it is dropped. */
  private refuseTunnel(): void {
    const receiver = this.receiver
    this.isUndecided = false
    this.isReadEnded = true
    if (receiver !== null) receiver.onRequestEnd(null)
    // Nothing more of the request concerns anybody.
    this.receiver = receiver === null ? null : new ResponseOnly(receiver)
    this.stream.discardInput()
  }

  private failByWriter(reason: string): void {
    const receiver = this.receiver
    this.finish()
    this.stream.reset(ERROR_INTERNAL)
    this.tellReset(receiver, reason, FLAG_DOWNSTREAM_CLOSED)
  }

  private tellReset(receiver: RequestReceiver | null, reason: string, flag: Flag): void {
    if (receiver !== null) {
      receiver.onRequestReset(reason, flag)
      return
    }
    this.failure = reason
    this.failureFlag = flag
  }

  private finish(): void {
    this.isOver = true
    this.receiver = null
  }
}

/** Receiver of an exchange whose request is over: only the response's side is passed on. */
class ResponseOnly implements RequestReceiver {
  private readonly receiver: RequestReceiver

  constructor(receiver: RequestReceiver) {
    this.receiver = receiver
  }

  onRequestBody(): void {}
  onRequestEnd(): void {}

  onRequestReset(reason: string, flag: Flag): void {
    this.receiver.onRequestReset(reason, flag)
  }

  onResponseDrain(): void {
    this.receiver.onResponseDrain()
  }
}

/** To HEAD and in 304 a length tells what a GET would bring; our own replies give it as bodyLength. */
function pushToldLength(fields: string[], head: ResponseHead, isHead: boolean): void {
  const told = head.headers.get('content-length')
  if (told !== null) fields.push('content-length', told)
  else if (isHead && head.bodyLength > 0) fields.push('content-length', String(head.bodyLength))
}

function fieldsOf(trailers: HeaderList): string[] | null {
  const fields: string[] = []
  trailers.appendTo(fields)
  return fields.length === 0 ? null : fields
}
