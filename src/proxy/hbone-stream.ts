// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One tunnel as a Conn: protocol code cannot tell it from a socket. `end` is END_STREAM, `abort` RST_STREAM(CANCEL).
 *
 * A client's tunnel is open once 200 has come, a server's at the end of the batch in which it was accepted. Bytes and
 * the end that arrive before are kept by the stream. After `close` the peer's bytes are dropped for a while instead of
 * being answered with a reset, which could destroy at the peer what we sent last.
 */
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import { ERROR_CANCEL, ERROR_NONE, errorName } from '../http/h2/frame.ts'
import { statusOf } from '../http/h2/header-rules.ts'
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
import { refusalError, TunnelError, type TunnelParts } from './hbone.ts'

const STATE_OPENING = 0
const STATE_OPEN = 1
/** Closed for the handler, which is told at the end of the batch. */
const STATE_CLOSING = 2
const STATE_CLOSED = 3
type State = typeof STATE_OPENING | typeof STATE_OPEN | typeof STATE_CLOSING | typeof STATE_CLOSED

/** Bytes dropped after `close` before the stream is reset. Enough for what was in flight on most paths. */
const LINGER_BYTES_MAX = 1_048_576

/** Which end of the tunnel we are. */
export const TUNNEL_DIALLED = 0
export const TUNNEL_ACCEPTED = 1
/** Who asked for the tunnel. */
export type TunnelSide = typeof TUNNEL_DIALLED | typeof TUNNEL_ACCEPTED

/** The tunnel connection that a tunnel belongs to. */
export interface TunnelHost {
  readonly parts: TunnelParts
  readonly conn: Conn
  /** Address and port of the peer proxy, for messages. */
  readonly peerName: string
  /** The connection has been up. */
  readonly isOpen: boolean
  /** It takes no new tunnels. */
  readonly isRetiring: boolean
  /** Counts what the peer has sent, whatever it was. */
  readonly heardCount: number
  /** Why the whole connection ended; null while it has not. */
  readonly failure: WeftError | null
  /** Calls `runDeferred` at the end of the batch. */
  deferTunnel(tunnel: TunnelStream): void
  /** A tunnel was not answered in time, and the peer has not sent anything else since it was asked. */
  suspectPeer(): void
  /** We have closed the tunnel and the peer has not ended yet: `sweep` is called after a keepalive interval or two. */
  lingerTunnel(tunnel: TunnelStream): void
}

/** One tunnel as a connection: what it is to its peer it is to its handler. */
export class TunnelStream implements Conn, H2Receiver, TimerTarget {
  handler: Handler
  private readonly host: TunnelHost
  private readonly side: TunnelSide
  /** Of the CONNECT authority. */
  private readonly targetHost: string
  private readonly targetPort: number
  /** Null when there was no room for the tunnel: then it is closed from the start. */
  private stream: H2Stream | null = null
  private state: State = STATE_OPENING
  private error: WeftError | null = null
  private lingerBytes = 0
  private idleTimeoutMs = 0
  private lastActiveMs = 0
  private idleEntry: TimerEntry | null = null
  /** Runs while a dialled tunnel waits for its answer. */
  private openingEntry: TimerEntry | null = null
  private heardCountAtOpening = 0

  constructor(host: TunnelHost, side: TunnelSide, targetHost: string, targetPort: number, handler: Handler) {
    this.host = host
    this.side = side
    this.targetHost = targetHost
    this.targetPort = targetPort
    this.handler = handler
  }

  /** The HTTP/2 stream, whose receiver this tunnel is. */
  attach(stream: H2Stream): void {
    this.stream = stream
  }

  /** The far end is the target of the CONNECT for the one who dialled, the near end for the one who accepted. */
  get localAddress(): string {
    return this.side === TUNNEL_ACCEPTED ? this.targetHost : this.host.conn.localAddress
  }

  get localPort(): number {
    return this.side === TUNNEL_ACCEPTED ? this.targetPort : this.host.conn.localPort
  }

  get remoteAddress(): string {
    return this.side === TUNNEL_DIALLED ? this.targetHost : this.host.conn.remoteAddress
  }

  get remotePort(): number {
    return this.side === TUNNEL_DIALLED ? this.targetPort : this.host.conn.remotePort
  }

  get peerIdentity(): string | null {
    return this.host.conn.peerIdentity
  }

  /** What runs inside a tunnel is not agreed on by TLS. */
  get alpn(): string | null {
    return null
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

  /** The idle time is over, unless something has happened meanwhile; or the time for an answer. */
  onTimer(entry: TimerEntry): void {
    if (entry === this.openingEntry) {
      this.onNotAnswered()
      return
    }
    const { timers, nowMs } = this.host.parts
    const leftMs = this.lastActiveMs + this.idleTimeoutMs - nowMs()
    if (leftMs > 0) {
      timers.start(entry, leftMs)
      return
    }
    this.stream!.reset(ERROR_CANCEL)
    this.fail(new WeftError('WEFT_TIMEOUT', `the tunnel to ${this.authority} was idle for too long`))
  }

  // --- for the owner of the tunnel connection ---

  /** Server: tells the handler at the end of the batch that it is open, then lets the bytes come that are there. */
  openLater(): void {
    this.host.deferTunnel(this)
  }

  /** Client: the answer must come within `timeoutMs`. */
  limitOpening(timeoutMs: number): void {
    this.heardCountAtOpening = this.host.heardCount
    this.openingEntry = new TimerEntry(this)
    this.host.parts.timers.start(this.openingEntry, timeoutMs)
  }

  /** The connection takes no new tunnels. */
  retire(): void {
    if (this.state === STATE_OPEN) this.handler.onRetiring?.(this)
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
      this.fail(refusalError(status, this.authority, this.host.peerName))
      return
    }
    this.state = STATE_OPEN
    this.stopTimers()
    this.handler.onOpen(this)
    stream.uncork()
    // One that was asked for before its connection began to drain.
    if (this.host.isRetiring) this.retire()
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
    this.stopTimers()
    this.handler.onClose(this, error)
  }

  private closeLater(error: WeftError | null): void {
    this.state = STATE_CLOSING
    this.error = error
    this.stopTimers()
    this.host.deferTunnel(this)
  }

  private onNotAnswered(): void {
    const { host } = this
    if (host.heardCount === this.heardCountAtOpening) host.suspectPeer()
    this.stream!.reset(ERROR_CANCEL)
    const message = `the proxy at ${host.peerName} has not answered for the tunnel to ${this.authority} in time`
    this.fail(new TunnelError('WEFT_TIMEOUT', message, 0, false))
  }

  private stopTimers(): void {
    const { timers } = this.host.parts
    if (this.idleEntry !== null) timers.clear(this.idleEntry)
    if (this.openingEntry !== null) timers.clear(this.openingEntry)
    this.idleEntry = null
    this.openingEntry = null
  }

  private get authority(): string {
    return formatHostPort(this.targetHost, this.targetPort)
  }

  private describe(cause: CloseCause, code: number): WeftError {
    const authority = this.authority
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
    if (!this.host.isOpen && failure !== null)
      return new TunnelError(failure.code, failure.message, 0, false, failure.cause)
    return new TunnelError(isOpening ? 'WEFT_CONNECT' : 'WEFT_RESET', message, 0, false, failure ?? undefined)
  }
}
