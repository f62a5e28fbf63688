// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One tunnel as a Conn: protocol code cannot tell it from a socket. `end` is END_STREAM, `abort` RST_STREAM(CANCEL).
 *
 * A client's tunnel is open once 200 has come, a server's at the end of the batch in which it was accepted. Bytes and
 * the end that arrive before are kept by the stream. After `close` the peer's bytes are dropped for a while instead of
 * being answered with a reset, which could destroy at the peer what we sent last.
 */
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import { ERROR_CANCEL, ERROR_NONE, errorName } from '../http/h2/frame.ts'
import { fieldValue, statusOf } from '../http/h2/header-rules.ts'
import {
  CLOSED_BY_LIMIT,
  CLOSED_BY_PEER,
  CLOSED_BY_VIOLATION,
  CLOSED_IN_ORDER,
  CLOSED_UNPROCESSED,
  type CloseCause,
  type H2Receiver,
  type H2Stream,
} from '../http/h2/stream.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { TunnelError, type TunnelParts } from './hbone.ts'

const STATE_OPENING = 0
const STATE_OPEN = 1
/** Closed for the handler, which is told at the end of the batch. */
const STATE_CLOSING = 2
const STATE_CLOSED = 3
type State = typeof STATE_OPENING | typeof STATE_OPEN | typeof STATE_CLOSING | typeof STATE_CLOSED

/** Bytes dropped after `close` before the stream is reset. Enough for what was in flight on most paths. */
const LINGER_BYTES_MAX = 1_048_576

/** The tunnel connection that a tunnel belongs to. */
export interface TunnelHost {
  readonly parts: TunnelParts
  /** Address and port of the peer proxy, for messages. */
  readonly peerName: string
  /** Why the whole connection ended; null while it has not. */
  readonly failure: WeftError | null
  /** Calls `runDeferred` at the end of the batch. */
  deferTunnel(tunnel: TunnelStream): void
  /** The tunnel was closed by us while the peer has not ended yet; `sweep` is called within a keepalive interval or two. */
  lingerTunnel(tunnel: TunnelStream): void
}

/** Where a tunnel leads and whence. */
export interface TunnelEnds {
  readonly localAddress: string
  readonly localPort: number
  readonly remoteAddress: string
  readonly remotePort: number
  readonly peerIdentity: string | null
  /** The CONNECT authority, for messages. */
  readonly authority: string
}

export class TunnelStream implements Conn, H2Receiver, TimerTarget {
  handler: Handler
  /** What the destination's proxy said of its workload with the 200; empty when it said nothing. */
  peerBaggage = ''
  private readonly host: TunnelHost
  private readonly ends: TunnelEnds
  /** Null when there was no room for the tunnel: then it is closed from the start. */
  private stream: H2Stream | null = null
  private state: State = STATE_OPENING
  private error: WeftError | null = null
  private lingerBytes = 0
  private idleTimeoutMs = 0
  private lastActiveMs = 0
  private idleEntry: TimerEntry | null = null

  constructor(host: TunnelHost, ends: TunnelEnds, handler: Handler) {
    this.host = host
    this.ends = ends
    this.handler = handler
  }

  /** The HTTP/2 stream, whose receiver this tunnel is. */
  attach(stream: H2Stream): void {
    this.stream = stream
  }

  get localAddress(): string {
    return this.ends.localAddress
  }

  get localPort(): number {
    return this.ends.localPort
  }

  get remoteAddress(): string {
    return this.ends.remoteAddress
  }

  get remotePort(): number {
    return this.ends.remotePort
  }

  get peerIdentity(): string | null {
    return this.ends.peerIdentity
  }

  get backlog(): number {
    return this.stream === null ? 0 : this.stream.backlog
  }

  get isClosed(): boolean {
    return this.state >= STATE_CLOSING
  }

  // --- Conn ---

  write(bytes: Uint8Array, offset: number, length: number): number {
    if (this.state >= STATE_CLOSING) return 0
    if (this.idleTimeoutMs > 0) this.lastActiveMs = this.host.parts.nowMs()
    return this.stream!.write(bytes, offset, length)
  }

  end(): void {
    if (this.state < STATE_CLOSING) this.stream!.end()
  }

  abort(): void {
    if (this.state >= STATE_CLOSING) return
    this.stream!.reset(ERROR_CANCEL)
    this.closeLater(null)
  }

  close(): void {
    if (this.state >= STATE_CLOSING) return
    if (this.state === STATE_OPENING) {
      this.abort()
      return
    }
    const stream = this.stream!
    stream.end()
    stream.discardInput()
    this.host.lingerTunnel(this)
    this.closeLater(null)
  }

  pauseReading(): void {
    if (this.state < STATE_CLOSING) this.stream!.pauseReading()
  }

  resumeReading(): void {
    if (this.state < STATE_CLOSING) this.stream!.resumeReading()
  }

  setIdleTimeout(timeoutMs: number): void {
    if (this.state >= STATE_CLOSING) return
    const { timers, nowMs } = this.host.parts
    this.idleTimeoutMs = timeoutMs
    if (timeoutMs === 0) {
      if (this.idleEntry !== null) timers.clear(this.idleEntry)
      return
    }
    if (this.idleEntry === null) this.idleEntry = new TimerEntry(this)
    this.lastActiveMs = nowMs()
    timers.start(this.idleEntry, timeoutMs)
  }

  /** The idle time is over, unless something has happened meanwhile. */
  onTimer(entry: TimerEntry): void {
    const { timers, nowMs } = this.host.parts
    const leftMs = this.lastActiveMs + this.idleTimeoutMs - nowMs()
    if (leftMs > 0) {
      timers.start(entry, leftMs)
      return
    }
    this.stream!.reset(ERROR_CANCEL)
    this.fail(new WeftError('WEFT_TIMEOUT', `the tunnel to ${this.ends.authority} was idle for too long`))
  }

  // --- for the owner of the tunnel connection ---

  /** Server: tells the handler at the end of the batch that it is open, then lets the bytes come that are there. */
  openLater(): void {
    this.host.deferTunnel(this)
  }

  /** No room, or no connection: tells the handler at the end of the batch. */
  failLater(error: WeftError): void {
    this.closeLater(error)
  }

  runDeferred(): void {
    if (this.state === STATE_OPENING) {
      this.state = STATE_OPEN
      this.handler.onOpen(this)
      if (this.state === STATE_OPEN) this.stream!.resumeReading()
    } else if (this.state === STATE_CLOSING) {
      this.state = STATE_CLOSED
      this.handler.onClose(this, this.error)
    }
  }

  /** The peer has had its time to end. */
  sweep(): void {
    this.stream!.reset(ERROR_CANCEL)
  }

  // --- H2Receiver ---

  onHeaders(stream: H2Stream, fields: string[]): void {
    const status = statusOf(fields)
    if (status < 200 || this.state !== STATE_OPENING) return
    if (status !== 200) {
      stream.reset(ERROR_CANCEL)
      this.fail(refusal(status, this.ends.authority, this.host.peerName))
      return
    }
    this.peerBaggage = fieldValue(fields, 'baggage') ?? ''
    this.state = STATE_OPEN
    this.handler.onOpen(this)
    stream.uncork()
  }

  onData(stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void {
    if (this.state === STATE_OPEN) {
      if (this.idleTimeoutMs > 0) this.lastActiveMs = this.host.parts.nowMs()
      this.handler.onBytes(this, bytes, offset, end)
      return
    }
    this.lingerBytes += end - offset
    if (this.lingerBytes > LINGER_BYTES_MAX) stream.reset(ERROR_CANCEL)
  }

  /** Trailers mean nothing in a tunnel. */
  onTrailers(): void {}

  onEnd(): void {
    if (this.state === STATE_OPEN) this.handler.onEnd(this)
  }

  onDrain(): void {
    if (this.state === STATE_OPEN) this.handler.onDrain(this)
  }

  onClosed(_stream: H2Stream, cause: CloseCause, code: number): void {
    if (this.state >= STATE_CLOSING) return
    this.fail(cause === CLOSED_IN_ORDER ? null : this.describe(cause, code))
  }

  // --- closing ---

  private fail(error: WeftError | null): void {
    if (this.state >= STATE_CLOSING) return
    this.state = STATE_CLOSED
    this.stopTimer()
    this.handler.onClose(this, error)
  }

  private closeLater(error: WeftError | null): void {
    this.state = STATE_CLOSING
    this.error = error
    this.stopTimer()
    this.host.deferTunnel(this)
  }

  private stopTimer(): void {
    if (this.idleEntry !== null) this.host.parts.timers.clear(this.idleEntry)
    this.idleEntry = null
  }

  private describe(cause: CloseCause, code: number): WeftError {
    const { authority } = this.ends
    const { peerName, failure } = this.host
    const isOpening = this.state === STATE_OPENING
    if (cause === CLOSED_UNPROCESSED) {
      const message = `the tunnel to ${authority} was not taken by the proxy at ${peerName}, which is shutting down or full`
      return new TunnelError('WEFT_CONNECT', message, 0, true)
    }
    if (cause === CLOSED_BY_VIOLATION) {
      const message = `the proxy at ${peerName} broke HTTP/2 rules in the tunnel to ${authority} (${errorName(code)})`
      return new TunnelError('WEFT_PROTOCOL', message, 0, false)
    }
    if (cause === CLOSED_BY_LIMIT) {
      const message = `the tunnel to ${authority} had too many bytes waiting for a slow peer`
      return new TunnelError('WEFT_LIMIT', message, 0, false)
    }
    if (cause === CLOSED_BY_PEER) {
      const reason = code === ERROR_NONE ? 'closed it' : `reset it (${errorName(code)})`
      const message = `the tunnel to ${authority} ended early: the other side at ${peerName} ${reason}`
      return new TunnelError(isOpening ? 'WEFT_CONNECT' : 'WEFT_RESET', message, 0, false)
    }
    const message = `the HBONE connection with ${peerName} ended under the tunnel to ${authority}`
    // A connection that never came up failed for a reason of its own (a refusal, TLS, the peer's identity).
    if (isOpening && failure !== null) return new TunnelError(failure.code, failure.message, 0, false, failure.cause)
    return new TunnelError(isOpening ? 'WEFT_CONNECT' : 'WEFT_RESET', message, 0, false, failure ?? undefined)
  }
}

/** What a status other than 200 means, in the words of someone who must act on it. */
function refusal(status: number, authority: string, peerName: string): TunnelError {
  return new TunnelError(
    'WEFT_CONNECT',
    `${refusalText(status, authority)} (HTTP ${status} from ${peerName})`,
    status,
    false,
  )
}

function refusalText(status: number, authority: string): string {
  switch (status) {
    case 400:
      return `the destination's proxy does not serve ${authority}: it may belong to another pod now`
    case 401:
    case 403:
      return `access to ${authority} is denied: look at the authorization policies of the destination`
    case 503:
      return `the destination's proxy cannot reach ${authority}: check that the application listens there`
    default:
      return `the destination's proxy refused the tunnel to ${authority}`
  }
}
