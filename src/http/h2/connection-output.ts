// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The sending half of a connection: frames, the connection's send window, and whose turn it is to send DATA.
 *
 * DATA goes out at once while nothing holds it up. As soon as the sink has a high backlog, or the connection's window is
 * used up, streams queue, and take turns by bytes: bulk on one stream does not stall the others.
 */
import type { ByteSink } from '../codec.ts'
import type { AbuseGuard } from './abuse-guard.ts'
import { SendWindow } from './flow.ts'
import { WINDOW_BYTES_DEFAULT } from './frame.ts'
import { DATA_BYTES_MAX, FrameWriter, type OutputListener } from './frame-writer.ts'
import { HpackEncoder } from './hpack-encoder.ts'
import { RECENT_RESETS_MAX } from './limits.ts'
import type { PeerSettings } from './peer-settings.ts'

/** Bytes that one stream sends in its turn. 16 KiB: one TLS record. */
const QUANTUM_BYTES = 16_384

const EMPTY = new Uint8Array(0)

/** A stream, as far as taking turns goes. */
export interface TurnTaker {
  readonly id: number
  readonly sendWindow: SendWindow
  /** Link and mark of the queue of those that wait; owned by the output. */
  nextReady: TurnTaker | null
  isReady: boolean
  /** Sends at most `quantum` bytes by `sendData`. */
  sendQuantum(quantum: number): void
  /** Queues again (`markReady`) if there is more to send and window for it. */
  wake(): void
}

export class ConnectionOutput {
  readonly writer: FrameWriter
  readonly sendWindow = new SendWindow(WINDOW_BYTES_DEFAULT)
  /** Updates of `sendWindow`. */
  windowUpdateCount = 0
  /** Nothing is written any more. */
  isClosed = false
  private readonly peer: PeerSettings
  private readonly guard: AbuseGuard
  private readonly encoder = new HpackEncoder()
  private readonly recentResets = new Set<number>()
  private firstReady: TurnTaker | null = null
  private lastReady: TurnTaker | null = null
  private isPumping = false

  constructor(sink: ByteSink, listener: OutputListener, peer: PeerSettings, guard: AbuseGuard) {
    this.writer = new FrameWriter(sink, listener)
    this.peer = peer
    this.guard = guard
  }

  /** True when DATA may be written now and no stream waits for its turn. */
  get canSendDirectly(): boolean {
    return this.firstReady === null && !this.writer.isBlocked && !this.isClosed
  }

  /** DATA as far as both windows and the sink allow; returns how much. `isEnd` marks the last frame if all of it goes. */
  sendData(stream: TurnTaker, bytes: Uint8Array, offset: number, length: number, isEnd: boolean): number {
    const frameMax = Math.min(this.peer.frameBytesMax, DATA_BYTES_MAX)
    let sent = 0
    while (sent < length && !this.writer.isBlocked && !this.isClosed) {
      const wanted = Math.min(length - sent, frameMax)
      const count = Math.min(wanted, this.sendWindow.available, stream.sendWindow.available)
      if (count <= 0) break
      if (count === wanted) this.guard.work++
      this.sendWindow.take(count)
      stream.sendWindow.take(count)
      this.writer.data(stream.id, bytes, offset + sent, count, isEnd && sent + count === length)
      sent += count
    }
    return sent
  }

  /** An empty DATA frame that ends the stream. */
  sendEnd(streamId: number): void {
    if (!this.isClosed) this.writer.data(streamId, EMPTY, 0, 0, true)
  }

  sendHeaders(streamId: number, fields: readonly string[], isEnd: boolean): void {
    if (this.isClosed) return
    const length = this.encoder.encode(fields)
    this.writer.headers(streamId, this.encoder.block, length, this.peer.frameBytesMax, isEnd)
  }

  sendReset(streamId: number, code: number): void {
    if (this.isClosed) return
    this.writer.reset(streamId, code)
    this.recentResets.add(streamId)
    if (this.recentResets.size <= RECENT_RESETS_MAX) return
    for (const oldest of this.recentResets) {
      this.recentResets.delete(oldest)
      return
    }
  }

  /** We reset the stream a moment ago: frames of the peer may still be under way. */
  wasReset(streamId: number): boolean {
    return this.recentResets.has(streamId)
  }

  /** Stream 0 is the connection. */
  sendWindowUpdate(streamId: number, increment: number): void {
    if (!this.isClosed) this.writer.windowUpdate(streamId, increment)
  }

  /** The peer gives no window to any stream. */
  get isShut(): boolean {
    return this.sendWindow.available <= 0
  }

  /** The peer gives the connection more window. False when that is more than a window can be. */
  receiveWindowUpdate(increment: number): boolean {
    this.windowUpdateCount++
    if (!this.sendWindow.add(increment)) return false
    this.pump()
    return true
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. */
  setHeaderTableLimit(limit: number): void {
    this.encoder.setTableLimit(limit)
  }

  // --- turns ---

  /** The stream has something to send and window for it. */
  markReady(stream: TurnTaker): void {
    if (!stream.isReady) {
      stream.isReady = true
      if (this.lastReady === null) this.firstReady = stream
      else this.lastReady.nextReady = stream
      this.lastReady = stream
    }
    this.pump()
  }

  /** The sink's backlog is sent. */
  drained(): void {
    this.writer.isBlocked = false
    this.pump()
  }

  /** Those that wait take turns until windows or the sink stop them. */
  pump(): void {
    if (this.isPumping) return
    this.isPumping = true
    while (this.firstReady !== null && !this.writer.isBlocked && !this.isClosed && this.sendWindow.available > 0) {
      const stream: TurnTaker = this.firstReady
      this.firstReady = stream.nextReady
      if (this.firstReady === null) this.lastReady = null
      stream.nextReady = null
      stream.isReady = false
      stream.sendQuantum(QUANTUM_BYTES)
      stream.wake()
    }
    this.isPumping = false
  }

  /** Drops what is not flushed; nothing is written any more. */
  shut(): void {
    this.isClosed = true
    this.writer.discard()
    this.firstReady = null
    this.lastReady = null
  }
}
