// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * A Conn over one net.Socket, or over a TLSSocket and the net.Socket under it.
 *
 * Output is copied into a slab that all connections of the transport share and leaves at the end of the batch as one
 * write, so many small writes cost one system call (and one TLS record). Slab memory is used again only when the
 * socket has nothing queued, which is the public sign that nothing refers to it any more.
 *
 * Life: OPENING -> OPEN -> CLOSING (close was called, output still leaves) or ABORTED -> CLOSED (handler was told).
 * The handler hears nothing but `onClose` once the state is beyond OPEN.
 */
import type { Socket } from 'node:net'
import { formatHostPort } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { WeftError } from '../base/errors.ts'
import { BACKLOG_HIGH, type Conn, type Flushable, type Handler } from './conn.ts'
import { connectError } from './connect-error.ts'
import type { NodeTransportSettings } from './node-settings.ts'
import { canonicalOf, closeNow, destroySocket, hasPeer, link, onSocketClose, onSocketData } from './node-socket-link.ts'
import { isTlsFailure, tlsError } from './node-tls.ts'
import { copyOf, type OutputSlab, SLAB_BYTES } from './output-slab.ts'

const STATE_OPENING = 0
const STATE_OPEN = 1
const STATE_CLOSING = 2
const STATE_ABORTED = 3
const STATE_CLOSED = 4
type State =
  | typeof STATE_OPENING
  | typeof STATE_OPEN
  | typeof STATE_CLOSING
  | typeof STATE_ABORTED
  | typeof STATE_CLOSED

/** `end` was called (or `close`). */
const FLAG_END_WANTED = 1
/** The socket was told to end; always after its backlog was empty. */
const FLAG_END_ISSUED = 2
/** The peer ended its side. */
const FLAG_PEER_ENDED = 4
/** A write returned more than BACKLOG_HIGH. */
const FLAG_DRAIN_WANTED = 8
/** Output went to the socket in pieces and waits for `uncork`. */
const FLAG_CORKED = 16
/** A reset waits for the shutdown in flight: libuv refuses to reset in the middle of one. */
const FLAG_RESET_WANTED = 32

/** Staged output above this leaves at once. Half a slab: the kernel works while we go on, and copies stay in cache. */
const STAGED_BYTES_MAX = SLAB_BYTES / 2

/** Bytes that a closed connection reads and drops while it waits for the peer's end. Enough for what was in flight on most paths. */
const LINGER_BYTES_MAX = 1_048_576

/** How long a reset waits for a shutdown in flight, which normally ends within one turn of the loop. */
const RESET_WAIT_MS = 1_000

const NO_PROTOCOLS: readonly string[] = []

/** What a connection needs of its transport. */
export interface ConnOwner {
  readonly slab: OutputSlab
  readonly settings: NodeTransportSettings
  /** Queues `flush` for the end of the batch, after all protocol output. */
  flushAtBatchEnd(conn: NodeConn): void
}

/** A connection on a socket of Node's. */
export class NodeConn implements Conn, Flushable {
  handler: Handler
  localAddress = ''
  localPort = 0
  remoteAddress = ''
  remotePort = 0
  peerIdentity: string | null = null
  alpn: string | null = null
  /** Protocols that TLS was to agree on. */
  protocols: readonly string[] = NO_PROTOCOLS
  isFlushPending = false
  /** Set by the transport while a connect or handshake is under way. */
  deadline: NodeJS.Timeout | null = null
  private readonly owner: ConnOwner
  private readonly onWritten: () => void
  /** Where bytes go: the TLSSocket, or the net.Socket itself. */
  private socket: Socket | null = null
  /** The TCP socket. */
  private raw: Socket | null = null
  private state: State = STATE_OPENING
  private flags = 0
  private pauses = 0
  private idleTimeoutMs = 0
  /** Output written before the connection was open. */
  private early: Uint8Array[] | null = null
  private stagedSlab: Buffer | null = null
  private stagedStart = 0
  private stagedEnd = 0
  /** Bytes received after `close`. */
  private lingerBytes = 0
  private error: unknown = null

  constructor(owner: ConnOwner, handler: Handler) {
    this.owner = owner
    this.handler = handler
    // Rule 3 broken: one closure per connection, because a write's completion has no other public way to find it.
    this.onWritten = () => this.written()
  }

  get isClosed(): boolean {
    return this.state >= STATE_CLOSING
  }

  get backlog(): number {
    if (this.state === STATE_OPENING) return this.earlyBytes()
    const socket = this.socket
    return socket === null ? 0 : this.stagedEnd - this.stagedStart + socket.writableLength
  }

  /** True between the TCP connection and the end of its TLS handshake. */
  get isHandshaking(): boolean {
    return this.state === STATE_OPENING && this.socket !== this.raw
  }

  /** `ip:port` of the peer, for messages. */
  get peerName(): string {
    return formatHostPort(this.remoteAddress, this.remotePort)
  }

  // --- writing ---

  write(bytes: Uint8Array, offset: number, length: number): number {
    if (this.state > STATE_OPEN || (this.flags & FLAG_END_WANTED) !== 0 || length === 0) return this.backlog
    if (this.state === STATE_OPENING) {
      this.early ??= []
      this.early.push(copyOf(bytes, offset, length))
    } else if (length >= STAGED_BYTES_MAX) {
      this.flush()
      this.socket!.write(copyOf(bytes, offset, length), this.onWritten)
    } else {
      this.stage(bytes, offset, length)
    }
    const backlog = this.backlog
    if (backlog > BACKLOG_HIGH) this.flags |= FLAG_DRAIN_WANTED
    return backlog
  }

  private stage(bytes: Uint8Array, offset: number, length: number): void {
    const slab = this.owner.slab
    const start = slab.append(bytes, offset, length)
    if (this.stagedSlab !== slab.bytes || this.stagedEnd !== start) {
      // Another connection wrote in between: what was staged goes to the socket, which holds it until `flush`.
      if (this.stagedSlab !== null) this.sendStaged(true)
      this.stagedSlab = slab.bytes
      this.stagedStart = start
    }
    this.stagedEnd = start + length
    if (this.stagedEnd - this.stagedStart >= STAGED_BYTES_MAX) this.flush()
    else if (!this.isFlushPending) this.owner.flushAtBatchEnd(this)
  }

  /** Hands everything staged to the socket. Called by the transport at the end of a batch. */
  flush(): void {
    const socket = this.socket
    if (socket === null || this.state >= STATE_ABORTED) return
    if (this.stagedSlab !== null) this.sendStaged(false)
    if ((this.flags & FLAG_CORKED) !== 0) {
      this.flags &= ~FLAG_CORKED
      socket.uncork()
    }
    if (socket.writableLength > 0) this.owner.slab.isRetained = true
  }

  private sendStaged(isMoreComing: boolean): void {
    const socket = this.socket!
    const slab = this.stagedSlab!
    if (isMoreComing && (this.flags & FLAG_CORKED) === 0) {
      this.flags |= FLAG_CORKED
      socket.cork()
    }
    const part = slab.subarray(this.stagedStart, this.stagedEnd)
    this.stagedSlab = null
    this.stagedStart = 0
    this.stagedEnd = 0
    if (isMoreComing) this.owner.slab.isRetained = true
    socket.write(part, this.onWritten)
  }

  /** A write completed (or failed, then the socket closes). */
  private written(): void {
    if (this.socket === null || this.socket.destroyed || this.backlog > 0) return
    if ((this.flags & FLAG_END_WANTED) !== 0) {
      this.issueEnd()
    } else if ((this.flags & FLAG_DRAIN_WANTED) !== 0 && this.state === STATE_OPEN) {
      this.flags &= ~FLAG_DRAIN_WANTED
      this.handler.onDrain(this)
    }
  }

  end(): void {
    if (this.state > STATE_OPEN || (this.flags & FLAG_END_WANTED) !== 0) return
    this.flags |= FLAG_END_WANTED
    if (this.state === STATE_OPEN) this.endWhenSent()
  }

  private endWhenSent(): void {
    this.flush()
    // Otherwise `written` does it. The socket never has output queued behind its end, so it can be reset at any time.
    if (this.backlog === 0) this.issueEnd()
  }

  private issueEnd(): void {
    if ((this.flags & FLAG_END_ISSUED) !== 0) return
    this.flags |= FLAG_END_ISSUED
    this.socket!.end()
  }

  // --- closing ---

  close(): void {
    if (this.state === STATE_OPENING) {
      this.abort()
    } else if (this.state === STATE_OPEN) {
      this.flags |= FLAG_END_WANTED
      this.endWhenSent()
      this.state = STATE_CLOSING
      const socket = this.socket!
      socket.setTimeout(this.owner.settings.closeStallMs)
      if (socket.writableFinished) this.linger()
    }
  }

  /**
   * Our side is sent and ended, and the handler is done with. Had the socket been closed now, with bytes of the peer
   * still to come, the kernel would answer those with a reset, which can destroy at the peer what we sent last. So it
   * reads and drops a little while longer.
   */
  private linger(): void {
    this.report(null)
    const socket = this.socket
    if (socket === null || (this.flags & FLAG_PEER_ENDED) !== 0) return
    socket.setTimeout(0)
    socket.resume()
    this.deadline = setTimeout(destroySocket, this.owner.settings.lingerMs, this.raw)
  }

  abort(): void {
    if (this.state >= STATE_ABORTED) return
    this.state = STATE_ABORTED
    this.stagedSlab = null
    this.early = null
    this.reset()
  }

  /** Ends the connection for a reason of the transport's own (a refused handshake, a time-out); the peer is reset. */
  fail(error: WeftError): void {
    if (this.state >= STATE_ABORTED) return
    this.error = error
    this.reset()
  }

  private reset(): void {
    const raw = this.raw
    if (raw === null) {
      setImmediate(closeNow, this)
    } else if (raw.connecting) {
      raw.destroy()
    } else if ((this.flags & FLAG_END_ISSUED) !== 0 && !this.socket!.writableFinished) {
      this.flags |= FLAG_RESET_WANTED
      if (this.deadline === null) this.deadline = setTimeout(destroySocket, RESET_WAIT_MS, raw)
    } else if (!raw.destroyed) {
      raw.resetAndDestroy()
    }
  }

  /** Tells the handler, once. */
  private report(error: WeftError | null): void {
    if (this.state === STATE_CLOSED) return
    this.state = STATE_CLOSED
    this.early = null
    this.handler.onClose(this, error)
  }

  // --- reading ---

  pauseReading(): void {
    this.pauses++
    if (this.pauses === 1 && this.state === STATE_OPEN) this.socket!.pause()
  }

  resumeReading(): void {
    if (this.pauses === 0) return
    this.pauses--
    if (this.pauses === 0 && this.state === STATE_OPEN) this.socket!.resume()
  }

  setIdleTimeout(timeoutMs: number): void {
    this.idleTimeoutMs = timeoutMs
    if (this.state === STATE_OPEN) this.socket!.setTimeout(timeoutMs)
  }

  /** Bytes arrived; lent until return. */
  received(bytes: Uint8Array, length: number): void {
    if (this.state === STATE_OPEN) {
      this.handler.onBytes(this, bytes, 0, length)
      return
    }
    this.lingerBytes += length
    if (this.lingerBytes > LINGER_BYTES_MAX) this.raw?.destroy()
  }

  // --- what the transport tells ---

  /** The TCP socket, from the moment it exists. Its errors and its close are this connection's until `opened`. */
  attachRaw(raw: Socket): void {
    assert(this.raw === null, 'a connection gets one TCP socket')
    this.raw = raw
    this.socket = raw
    link(raw, this)
    // An accepted one has its addresses already, and its acceptor goes by them.
    if (!raw.connecting) this.readAddresses(raw)
  }

  private readAddresses(raw: Socket): void {
    this.localAddress = canonicalOf(raw.localAddress)
    this.localPort = raw.localPort ?? 0
    if (raw.remoteAddress === undefined) return
    this.remoteAddress = canonicalOf(raw.remoteAddress)
    this.remotePort = raw.remotePort ?? 0
  }

  /** With TLS, where bytes go from now on. */
  attachTls(socket: Socket, protocols: readonly string[]): void {
    this.protocols = protocols
    const raw = this.raw!
    raw.removeListener('close', onSocketClose)
    this.socket = socket
    link(socket, this)
  }

  /** Connected, and with TLS the peer is proved. `hasOnread` when bytes come through `received` without an event. */
  opened(hasOnread: boolean): void {
    if (this.state !== STATE_OPENING) return
    const socket = this.socket!
    const raw = this.raw!
    this.clearDeadline()
    this.readAddresses(raw)
    this.state = STATE_OPEN
    if (!hasOnread) socket.on('data', onSocketData)
    if (this.pauses > 0) socket.pause()
    if (this.idleTimeoutMs > 0) socket.setTimeout(this.idleTimeoutMs)
    this.sendEarly()
    this.handler.onOpen(this)
    if (this.state === STATE_OPEN && (this.flags & FLAG_END_WANTED) !== 0) this.endWhenSent()
  }

  private sendEarly(): void {
    const early = this.early
    this.early = null
    if (early === null) return
    this.socket!.cork()
    for (const bytes of early) this.socket!.write(bytes, this.onWritten)
    this.socket!.uncork()
  }

  private earlyBytes(): number {
    let total = 0
    if (this.early !== null) for (const bytes of this.early) total += bytes.length
    return total
  }

  clearDeadline(): void {
    if (this.deadline !== null) clearTimeout(this.deadline)
    this.deadline = null
  }

  /** The peer ended its side. */
  peerEnded(): void {
    if (this.state === STATE_OPEN && (this.flags & FLAG_END_ISSUED) === 0 && !hasPeer(this.raw!)) {
      this.fail(new WeftError('WEFT_RESET', `${this.peerName} reset the connection`))
      return
    }
    this.flags |= FLAG_PEER_ENDED
    if (this.state === STATE_OPEN) this.handler.onEnd(this)
  }

  /** Our end is with the kernel. */
  finished(): void {
    if ((this.flags & FLAG_RESET_WANTED) !== 0) {
      if (this.raw?.destroyed === false) this.raw.resetAndDestroy()
    } else if (this.state === STATE_CLOSING) {
      this.linger()
    }
  }

  failed(error: unknown): void {
    this.error ??= error
  }

  timedOut(): void {
    if (this.state === STATE_OPEN) {
      this.fail(new WeftError('WEFT_TIMEOUT', `the connection with ${this.peerName} was idle for too long`))
    } else if (this.state === STATE_CLOSING) {
      this.fail(new WeftError('WEFT_TIMEOUT', `${this.peerName} did not take the last bytes sent to it`))
    }
  }

  /** Nothing of the socket is left. */
  closed(): void {
    this.clearDeadline()
    const state = this.state
    const error = this.error
    const isTls = this.socket !== this.raw
    const isOrderly = (this.flags & (FLAG_END_ISSUED | FLAG_PEER_ENDED)) === (FLAG_END_ISSUED | FLAG_PEER_ENDED)
    this.socket = null
    this.raw = null
    this.stagedSlab = null
    if (state === STATE_ABORTED) this.report(null)
    else if (error !== null) this.report(this.describe(error, state, isTls))
    else if (isOrderly) this.report(null)
    else this.report(new WeftError('WEFT_RESET', `the connection with ${this.peerName} was cut`))
  }

  private describe(error: unknown, state: State, isTls: boolean): WeftError {
    if (error instanceof WeftError) return error
    if (isTls && (state === STATE_OPENING || isTlsFailure(error))) return tlsError(error, this.peerName, this.protocols)
    if (state === STATE_OPENING) return connectError(error, this.remoteAddress, this.remotePort)
    return new WeftError('WEFT_RESET', `${this.peerName} reset the connection`, error)
  }
}
