/**
 * The seam between the HTTP engines and the proxy, the same for every HTTP version. Engines are sans-I/O: bytes in
 * through `receive`, bytes out through a `ByteSink`, meaning through receivers. They never see a socket or a timer.
 *
 * Body bytes handed to a receiver are lent until the call returns.
 */
import type { Flag } from '../base/errors.ts'
import type { HeaderList } from './headers.ts'

/** Where an engine's output goes. Every `Conn` of the transport is one. */
export interface ByteSink {
  /** Takes all bytes before it returns; returns the backlog in bytes. */
  write(bytes: Uint8Array, offset: number, length: number): number
  end(): void
  abort(): void
  close(): void
  pauseReading(): void
  resumeReading(): void
}

/**
 * Calls `flush` once at the end of the current batch of events, so that what many streams had to say leaves in one write.
 * The transport is one.
 */
export interface BatchEnd {
  atBatchEnd(flushable: { isFlushPending: boolean; flush(): void }): void
}

/** Body length markers of a head. */
export const BODY_CHUNKED = -1
/** Response only: the body lasts until the connection closes. */
export const BODY_UNTIL_CLOSE = -2

/** A request before its body. Engines make it; routes and policies read and rewrite it. */
export interface RequestHead {
  /** As received; case matters (RFC 9110 section 9.1). */
  method: string
  /** Origin form: path and query, as received. `*` for OPTIONS *; empty for CONNECT. */
  target: string
  scheme: string
  /** Host header or :authority. */
  authority: string
  headers: HeaderList
  /** 10, 11 or 20. */
  version: number
  /** Bytes of the body; 0 none; BODY_CHUNKED unknown. */
  bodyLength: number
  /** Protocol named by Upgrade (lower case) when the client asks for one; null otherwise. */
  upgrade: string | null
  expectsContinue: boolean
}

/** A response before its body. */
export interface ResponseHead {
  status: number
  headers: HeaderList
  /** Bytes of the body; 0 none; BODY_CHUNKED; BODY_UNTIL_CLOSE. */
  bodyLength: number
}

/** Why an engine refused what the peer sent. `reason` is a short stable word for logs and counters. */
export interface ProtocolViolation {
  readonly reason: string
  readonly message: string
  /** Status that a server answers with; 0 where a stream or the connection is ended instead. */
  readonly status: number
}

/** The rest of a request after its head. */
export interface RequestReceiver {
  onRequestBody(bytes: Uint8Array, offset: number, end: number): void
  /**
   * The request is complete; comes once. `trailers` is null when there are none. Where the request asks for a tunnel it
   * comes inside `writeHead` when the tunnel is refused, else as the client's half-close of the tunnel.
   */
  onRequestEnd(trailers: HeaderList | null): void
  /**
   * The client went away, broke the rules or took nothing before the exchange was over: `flag` says which. Nothing
   * follows.
   */
  onRequestReset(reason: string, flag: Flag): void
  /** The response's backlog is sent. */
  onResponseDrain(): void
}

/** The server side of one exchange: how its response is written. */
export interface ServerStream {
  /** 1xx except 101. */
  writeInformational(status: number, headers: HeaderList): void
  /**
   * The final head. `head.bodyLength` frames the body. 101 (or 2xx to CONNECT) turns the stream into a tunnel: from
   * then on bodies are raw bytes both ways and `end` is a half-close.
   */
  writeHead(head: ResponseHead): void
  /** Returns the backlog; above BACKLOG_HIGH wait for `onResponseDrain`. */
  writeBody(bytes: Uint8Array, offset: number, length: number): number
  /**
   * The response is complete. The receiver hears nothing more, even when the request is not complete: the engine drops
   * the rest. (A tunnel goes on until the client has ended its side as well.)
   */
  end(trailers: HeaderList | null): void
  /** Ends the exchange badly; the client must be able to see that the response is not complete. */
  reset(): void
  pauseRequest(): void
  resumeRequest(): void
}

/** What an engine waits for outside of an exchange: nothing that is due. */
export const WAIT_NONE = 0
/** The rest of a head that has begun. */
export const WAIT_HEAD = 1
/** The client's end, after our last response; what it still sends is dropped. */
export const WAIT_END = 2
/** See `HttpServerEvents.onWait`. */
export type Wait = typeof WAIT_NONE | typeof WAIT_HEAD | typeof WAIT_END

/** What a server engine tells the owner of its connection. */
export interface HttpServerEvents {
  /** A request head is complete and valid. Returns who takes the rest. */
  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver
  /**
   * The client broke the rules; for counters and logs. The engine has done what is to be done. `isRefusal` when it
   * answered a request that became no exchange, so that nobody else will tell of it.
   */
  onViolation(violation: ProtocolViolation, isRefusal: boolean): void
  /** The peer owes the engine something, or does not any more. Engines have no timers: the owner bounds the time. */
  onWait(wait: Wait): void
}

/**
 * One downstream connection. Its owner forwards what the Conn reports. After a last response the engine may end its side
 * and drop input until the client has ended its own (WAIT_END; `activeCount` is 0).
 */
export interface HttpServerConnection {
  /** Open exchanges. */
  readonly activeCount: number
  receive(bytes: Uint8Array, offset: number, end: number): void
  receiveEnd(): void
  receiveDrain(): void
  /** The Conn is closed: open exchanges are reset. */
  receiveClose(): void
  /**
   * Tells the client that the connection ends, as soon as the version lets it: HTTP/2 at once (GOAWAY), HTTP/1 with the
   * next response (`Connection: close`). An idle HTTP/1 connection stays until then, or until `drain`: its client may be
   * sending a request just now, and could not tell whether it was served.
   */
  retire(): void
  /** The same, but an idle connection is closed now. */
  drain(): void
}

/** The response of one exchange. */
export interface ResponseReceiver {
  onInformational(status: number, headers: HeaderList): void
  onResponseHead(head: ResponseHead): void
  onResponseBody(bytes: Uint8Array, offset: number, end: number): void
  onResponseEnd(trailers: HeaderList | null): void
  /**
   * The response will not be complete. `wasProcessed` is false only when the upstream certainly did not act on the
   * request (REFUSED_STREAM, or a reused connection that closed before any byte of an answer). `flag` tells a server that
   * broke the rules from one that went away. `errorCode` is that of HTTP/2 when the upstream has reset this exchange alone;
   * without one the connection is lost.
   */
  onResponseReset(reason: string, wasProcessed: boolean, flag: Flag, errorCode?: number): void
  /** The request's backlog is sent. */
  onRequestDrain(): void
}

/** The client side of one exchange: how its request is written. */
export interface ClientStream {
  writeBody(bytes: Uint8Array, offset: number, length: number): number
  end(trailers: HeaderList | null): void
  /** Gives the exchange up; nothing more is reported of it. */
  reset(): void
  pauseResponse(): void
  resumeResponse(): void
}

/** What a client engine tells the owner of its connection. */
export interface HttpClientEvents {
  /**
   * An exchange ended; the connection may have room again or may be done with. With HTTP/1 it comes before the receiver's
   * last event, so that whoever is told there finds the connection in its pool (with HTTP/2 it may come after, or be left
   * out when the whole connection ends); the next exchange may be opened from here.
   */
  onStreamClosed(): void
  /** No new exchange will be accepted (Connection: close, GOAWAY, violation). */
  onUnusable(): void
  /** The server broke the rules; for counters and logs. */
  onViolation(violation: ProtocolViolation): void
}

/** One upstream connection. */
export interface HttpClientConnection {
  readonly activeCount: number
  /** True while another exchange may be opened now. */
  readonly canOpen: boolean
  /** True while the connection will ever again take an exchange. */
  readonly isReusable: boolean
  /** Writes the head. `head.bodyLength` frames the body; with 0 nothing but the head is sent and the request is over. */
  open(head: RequestHead, receiver: ResponseReceiver): ClientStream
  receive(bytes: Uint8Array, offset: number, end: number): void
  receiveEnd(): void
  receiveDrain(): void
  receiveClose(): void
}
