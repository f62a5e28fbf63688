// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One mutual-TLS connection that carries tunnels, as far as both ends are alike: bytes between the Conn and the HTTP/2
 * engine, one flush per batch of events, keepalive, and why it ended.
 */
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import { H2Connection, type H2Events } from '../http/h2/connection.ts'
import { ERROR_NONE, errorName } from '../http/h2/frame.ts'
import type { H2Settings } from '../http/h2/limits.ts'
import type { H2Receiver, H2Stream } from '../http/h2/stream.ts'
import type { H2Violation } from '../http/h2/violations.ts'
import type { Conn, ConnectOptions, Flushable, Handler } from '../transport/conn.ts'
import type { TunnelParts } from './hbone.ts'
import type { TunnelHost, TunnelStream } from './hbone-stream.ts'

/** PING after this long, and again. As ztunnel. */
const PING_INTERVAL_MS = 10_000

/** Pings that may be without answer when the next is due: two intervals are the 20 s after which ztunnel gives up. */
const UNANSWERED_MAX = 2

/**
 * The peer gives no window for so long: it is stalled, and new tunnels go elsewhere. One second: many round trips of any
 * network, so that a connection which is merely fully used is not taken for one that stands still.
 */
export const STALLED_MS = 1000

/** What both ends of an HBONE connection have in common. */
export abstract class TunnelConnection implements Handler, H2Events, TunnelHost, Flushable, TimerTarget {
  isFlushPending = false
  /** Why the connection ended; null while it has not, or ended in order. */
  failure: WeftError | null = null
  readonly parts: TunnelParts
  readonly conn: Conn
  protected readonly connection: H2Connection
  private readonly keepalive: TimerEntry
  /** It has been up. */
  isOpen = false
  heardCount = 0
  /** It left a tunnel without an answer and has not been heard since. */
  isSuspect = false
  private unanswered = 0
  /** Since when the peer has given no window to any tunnel; -1 while there is some. */
  private shutSinceMs = -1
  private windowUpdateCount = 0
  private deferred: TunnelStream[] = []
  /** Tunnels we have closed and the peer has not ended: since the last keepalive, and since the one before. */
  private lingering: TunnelStream[] = []
  private lingeringLonger: TunnelStream[] = []

  /** Takes an accepted connection, or dials; becomes the handler of the Conn. */
  constructor(parts: TunnelParts, settings: H2Settings, accepted: Conn | null, dial: ConnectOptions | null) {
    this.parts = parts
    this.keepalive = new TimerEntry(this)
    this.conn = accepted ?? parts.transport.connect(dial!, this)
    this.connection = new H2Connection(settings, this.conn, this, parts.nowMs)
    this.connection.start()
  }

  /** `ip:port` of the peer proxy, for messages. */
  get peerName(): string {
    return formatHostPort(this.conn.remoteAddress, this.conn.remotePort)
  }

  /** Open tunnels, and those that wait for their answer. */
  get activeCount(): number {
    return this.connection.activeCount
  }

  get isRetiring(): boolean {
    return this.connection.isDraining
  }

  /**
   * Hardly anything gets through, in one direction or the other: readers of some tunnels have stopped, and what the peer
   * or we keep for them takes up all that there is. (We tell our peers in time to send such tunnels less; see
   * src/http/h2/stream-windows.ts. Not everyone does.)
   */
  get isStalled(): boolean {
    const { connection, parts } = this
    if (connection.isHoldingWindow) return true
    if (!connection.output.isShut || this.shutSinceMs === -1) return false
    return parts.nowMs() - this.shutSinceMs >= STALLED_MS
  }

  /** No new tunnels; closes when the last one has ended. */
  drain(): void {
    this.connection.drain()
    this.onUnusable()
  }

  /** Ends now: open tunnels are reset. */
  close(): void {
    this.failure ??= new WeftError('WEFT_CLOSED', `this proxy closed the HBONE connection with ${this.peerName}`)
    if (this.isOpen) this.connection.close(ERROR_NONE, '')
    else this.conn.abort()
    this.lose()
  }

  /** No tunnel will be opened any more. May be called more than once. */
  protected abstract onUnusable(): void

  // --- Handler: the TLS connection ---

  onOpen(): void {
    this.isOpen = true
    this.parts.timers.start(this.keepalive, PING_INTERVAL_MS)
    this.parts.transport.atBatchEnd(this)
  }

  onBytes(_conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    this.heardCount++
    this.isSuspect = false
    this.connection.receive(bytes, offset, end)
  }

  /** A proxy that ends its side of the connection takes its tunnels with it. */
  onEnd(): void {
    this.conn.close()
    this.lose()
  }

  onDrain(): void {
    this.connection.receiveDrain()
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.failure ??= error
    this.lose()
  }

  // --- H2Events ---

  abstract onStream(stream: H2Stream, fields: string[], isEnd: boolean): H2Receiver

  abstract onStreamEnded(): void

  onFlushWanted(): void {
    this.parts.transport.atBatchEnd(this)
  }

  onPong(): void {
    this.unanswered = 0
  }

  onGoAway(): void {
    this.onUnusable()
  }

  onFailed(violation: H2Violation): void {
    const reason = `${errorName(violation.code)}: ${violation.message}`
    const message = `the proxy at ${this.peerName} broke HTTP/2 rules (${reason})`
    this.parts.log.warn('HBONE connection ended', { error: message, identity: this.conn.peerIdentity })
    this.failure ??= new WeftError('WEFT_PROTOCOL', message)
    this.lose()
  }

  /** The tunnel hears of it, and says so. */
  onStreamViolation(): void {}

  // --- TunnelHost ---

  deferTunnel(tunnel: TunnelStream): void {
    this.deferred.push(tunnel)
    this.parts.transport.atBatchEnd(this)
  }

  /** Asked at once whether it lives: if it does, the answer clears it. */
  suspectPeer(): void {
    if (this.isSuspect) return
    this.isSuspect = true
    this.connection.ping()
  }

  lingerTunnel(tunnel: TunnelStream): void {
    this.lingering.push(tunnel)
  }

  // --- the batch and the timer ---

  flush(): void {
    const deferred = this.deferred
    if (deferred.length > 0) {
      this.deferred = []
      for (let i = 0; i < deferred.length; i++) deferred[i]!.runDeferred()
    }
    // Requests made before the connection is up go out with its first flight.
    if (this.isOpen || this.connection.isClosed) this.connection.flush()
    this.watchWindow()
  }

  private watchWindow(): void {
    const { output } = this.connection
    if (!output.isShut) {
      this.shutSinceMs = -1
    } else if (this.shutSinceMs === -1 || output.windowUpdateCount !== this.windowUpdateCount) {
      this.shutSinceMs = this.parts.nowMs()
      this.windowUpdateCount = output.windowUpdateCount
    }
  }

  onTimer(): void {
    if (this.unanswered === UNANSWERED_MAX) {
      this.failure ??= new WeftError('WEFT_TIMEOUT', `the proxy at ${this.peerName} has not answered pings for 20 s`)
      this.conn.abort()
      this.lose()
      return
    }
    this.unanswered++
    this.connection.ping()
    this.connection.relax()
    this.parts.timers.start(this.keepalive, PING_INTERVAL_MS)
    for (const tunnel of this.lingeringLonger) tunnel.sweep()
    this.lingeringLonger = this.lingering
    this.lingering = []
  }

  /** The connection is of no use: its tunnels are closed under their owners. */
  private lose(): void {
    this.parts.timers.clear(this.keepalive)
    this.connection.receiveClose()
    this.onUnusable()
  }
}
