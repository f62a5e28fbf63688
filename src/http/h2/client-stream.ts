// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One exchange on an upstream HTTP/2 connection: the request out, the stream's events to the receiver of the response
 * (RFC 9113 section 8.1).
 *
 * A request to upgrade to WebSocket is an extended CONNECT (RFC 8441): its 2xx is told as the 101 that it stands for, and
 * from then on bodies are raw bytes both ways. Until the server's settings are known such a request waits, unsent.
 */
import { FLAG_UPSTREAM_CLOSED, FLAG_UPSTREAM_PROTOCOL, type Flag } from '../../base/errors.ts'
import {
  BODY_CHUNKED,
  BODY_UNTIL_CLOSE,
  type ClientStream,
  type RequestHead,
  type ResponseHead,
  type ResponseReceiver,
} from '../codec.ts'
import { HeaderList } from '../headers.ts'
import { closeReason, responseFlag } from './close-reason.ts'
import { ERROR_CANCEL, ERROR_PROTOCOL } from './frame.ts'
import { contentLengthOf, statusOf } from './header-rules.ts'
import { INFORMATIONAL_COUNT_MAX } from './limits.ts'
import { dropField, WEBSOCKET } from './request-head.ts'
import {
  CLOSED_BY_PEER,
  CLOSED_IN_ORDER,
  CLOSED_UNPROCESSED,
  type CloseCause,
  type H2Receiver,
  type H2Stream,
} from './stream.ts'
import { acceptOf } from './websocket-key.ts'

/** A response head as received over HTTP/2. */
export class H2ResponseHead implements ResponseHead {
  status: number
  headers: HeaderList
  bodyLength: number

  constructor(status: number, headers: HeaderList, bodyLength: number) {
    this.status = status
    this.headers = headers
    this.bodyLength = bodyLength
  }
}

export class H2ClientStream implements ClientStream, H2Receiver {
  /** Kept only while the request waits to be sent. */
  head: RequestHead | null
  readonly receiver: ResponseReceiver
  private stream: H2Stream | null
  private readonly isHead: boolean
  /** Of a request to upgrade; null for all others. */
  private readonly webSocketKey: string | null
  private isTunnel: boolean
  /** Nothing more is told. */
  private isOver: boolean
  private isPaused: boolean
  private isEndOwed: boolean
  private informationalCount: number
  private trailers: HeaderList | null

  constructor(head: RequestHead, receiver: ResponseReceiver) {
    this.head = head
    this.receiver = receiver
    this.stream = null
    this.isHead = head.method === 'HEAD'
    this.webSocketKey = head.upgrade === WEBSOCKET ? (head.headers.get('sec-websocket-key') ?? '') : null
    this.isTunnel = false
    this.isOver = false
    this.isPaused = false
    this.isEndOwed = false
    this.informationalCount = 0
    this.trailers = null
  }

  /** The request was sent. `isTunnel` when it was an extended CONNECT. */
  begin(stream: H2Stream, isTunnel: boolean): void {
    this.head = null
    this.stream = stream
    this.isTunnel = isTunnel
    if (this.isPaused) stream.pauseReading()
    if (this.isEndOwed) stream.end()
  }

  /** The request will not be sent: there is no connection any more, or it cannot be said in HTTP/2. */
  fail(reason: string, wasProcessed: boolean, flag: Flag = FLAG_UPSTREAM_CLOSED, errorCode?: number): void {
    if (this.isOver) return
    this.isOver = true
    this.head = null
    this.receiver.onResponseReset(reason, wasProcessed, flag, errorCode)
  }

  // --- ClientStream ---

  writeBody(bytes: Uint8Array, offset: number, length: number): number {
    return this.stream === null ? 0 : this.stream.write(bytes, offset, length)
  }

  end(trailers: HeaderList | null): void {
    const stream = this.stream
    if (stream === null) {
      this.isEndOwed = true
      return
    }
    if (trailers === null || this.isTunnel) {
      stream.end()
      return
    }
    const fields: string[] = []
    trailers.appendTo(fields)
    stream.endWith(fields.length === 0 ? null : fields)
  }

  reset(): void {
    this.isOver = true
    this.head = null
    this.stream?.reset(ERROR_CANCEL)
  }

  pauseResponse(): void {
    if (this.isPaused) return
    this.isPaused = true
    this.stream?.pauseReading()
  }

  resumeResponse(): void {
    if (!this.isPaused) return
    this.isPaused = false
    this.stream?.resumeReading()
  }

  // --- H2Receiver ---

  onHeaders(stream: H2Stream, fields: string[], isEnd: boolean): void {
    if (this.isOver) return
    const status = statusOf(fields)
    if (status < 200) {
      this.readInformational(stream, status, fields)
      return
    }
    if (this.isTunnel && status < 300) {
      this.receiver.onResponseHead(this.tunnelHead(fields))
      return
    }
    this.isTunnel = false
    const declared = contentLengthOf(fields)
    const hasNoBody = this.isHead || status === 204 || status === 304
    let bodyLength = 0
    // The engine holds DATA to the declared length, but does not know which responses have none whatever they declare.
    if (hasNoBody) stream.contentLeft = 0
    else if (!isEnd) bodyLength = declared > 0 ? declared : BODY_CHUNKED
    const headers = readFields(fields)
    if (hasNoBody && declared >= 0 && status !== 204) headers.append('content-length', String(declared))
    this.receiver.onResponseHead(new H2ResponseHead(status, headers, bodyLength))
  }

  onData(_stream: H2Stream, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    if (!this.isOver) this.receiver.onResponseBody(bytes, offset, end)
  }

  onTrailers(_stream: H2Stream, fields: string[]): void {
    this.trailers = HeaderList.fromFields(fields)
  }

  onEnd(): void {
    if (this.isOver) return
    this.isOver = true
    this.receiver.onResponseEnd(this.isTunnel ? null : this.trailers)
  }

  onDrain(): void {
    if (!this.isOver || this.isTunnel) this.receiver.onRequestDrain()
  }

  onClosed(_stream: H2Stream, cause: CloseCause, code: number): void {
    const reason = closeReason('the upstream', cause, code)
    const flag = responseFlag(cause, code)
    // The other half of a tunnel may still have been open.
    if (this.isOver && this.isTunnel && cause !== CLOSED_IN_ORDER) this.receiver.onResponseReset(reason, true, flag)
    else this.fail(reason, cause !== CLOSED_UNPROCESSED, flag, cause === CLOSED_BY_PEER ? code : undefined)
  }

  // --- inner workings ---

  private readInformational(stream: H2Stream, status: number, fields: string[]): void {
    this.informationalCount++
    if (this.informationalCount > INFORMATIONAL_COUNT_MAX) {
      stream.reset(ERROR_PROTOCOL)
      this.fail('the upstream sent too many interim responses', true, FLAG_UPSTREAM_PROTOCOL)
      return
    }
    this.receiver.onInformational(status, readFields(fields))
  }

  /** The answer that an HTTP/1 client of the same handshake expects. */
  private tunnelHead(fields: string[]): ResponseHead {
    const headers = readFields(fields)
    headers.append('upgrade', WEBSOCKET)
    // HTTP/2 has neither key nor accept (RFC 8441 section 5). A proxy that lets its own app's through, as Envoy does,
    // answers a key that is not our client's.
    headers.remove('sec-websocket-accept')
    if (this.webSocketKey !== null && this.webSocketKey !== '') {
      headers.append('sec-websocket-accept', acceptOf(this.webSocketKey))
    }
    return new H2ResponseHead(101, headers, BODY_UNTIL_CLOSE)
  }
}

/** The end-to-end fields of a response; takes the array over. */
function readFields(fields: string[]): HeaderList {
  // `:status` is first, and alone: the engine has checked it.
  dropField(fields, ':status')
  dropField(fields, 'content-length')
  return HeaderList.fromFields(fields)
}
