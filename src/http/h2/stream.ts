// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One HTTP/2 stream: its state, its windows, what waits to be sent and what waits to be read (RFC 9113 section 5).
 *
 *      open --END_STREAM sent--> half-closed (local) --END_STREAM received--> closed (CLOSED_IN_ORDER)
 *      open --END_STREAM received--> half-closed (remote) --END_STREAM sent--> closed (CLOSED_IN_ORDER)
 *      any  --RST_STREAM received--> closed (CLOSED_BY_PEER)     any --reset()--> closed, nothing more is reported
 *
 * Received bytes go straight to the receiver, lent. While the receiver has paused they are held, at most the stream's
 * window, and the window is given back only for what was passed on. What a call of the owner causes (delivery of held
 * bytes, the closing) is reported at the next flush of the connection, never inside the call.
 */
import { ByteQueue } from '../../base/byte-queue.ts'
import type { ConnectionOutput, TurnTaker } from './connection-output.ts'
import { ReceiveWindow, SendWindow } from './flow.ts'
import { ERROR_CANCEL, ERROR_INTERNAL, ERROR_NONE } from './frame.ts'
import { BACKLOG_HIGH, SEND_QUEUE_BYTES_MAX } from './limits.ts'
import { type H2Violation, STREAM_STALLED, WRONG_LENGTH } from './violations.ts'

/** Both directions ended. */
export const CLOSED_IN_ORDER = 0
/** RST_STREAM came; with its code. */
export const CLOSED_BY_PEER = 1
/** The peer certainly did not act on it: GOAWAY did not cover it, or REFUSED_STREAM. May be tried elsewhere. */
export const CLOSED_UNPROCESSED = 2
/** The peer broke the rules on this stream; we have reset it, with the code. */
export const CLOSED_BY_VIOLATION = 3
/** The connection ended under it. */
export const CLOSED_WITH_CONNECTION = 4
/** A limit of ours; the writer ignored the backlog. */
export const CLOSED_BY_LIMIT = 5
/** The peer has let nothing of the stream through for too long; we have reset it. */
export const CLOSED_BY_STALL = 6
/** The peer is gone: it did not answer a ping. */
export const CLOSED_BY_SILENCE = 7
export type CloseCause =
  | typeof CLOSED_IN_ORDER
  | typeof CLOSED_BY_PEER
  | typeof CLOSED_UNPROCESSED
  | typeof CLOSED_BY_VIOLATION
  | typeof CLOSED_WITH_CONNECTION
  | typeof CLOSED_BY_LIMIT
  | typeof CLOSED_BY_STALL
  | typeof CLOSED_BY_SILENCE

/** Who is told what happens on a stream. Lists are flat: names and values alternate. */
export interface H2Receiver {
  /** The head of the answer: any number of 1xx, then the final one. Not called on the server's side. */
  onHeaders(stream: H2Stream, fields: string[], isEnd: boolean): void
  /** `bytes[offset..end)` arrived; lent until return. */
  onData(stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void
  /** Comes before `onEnd`. */
  onTrailers(stream: H2Stream, fields: string[]): void
  onEnd(stream: H2Stream): void
  /** The backlog fell to zero after a `write` had returned more than BACKLOG_HIGH. */
  onDrain(stream: H2Stream): void
  /** Nothing follows. */
  onClosed(stream: H2Stream, cause: CloseCause, code: number): void
}

/** What a stream needs of its connection. */
export interface StreamHost {
  readonly output: ConnectionOutput
  /** Calls `runDeferred` at the next flush. */
  defer(stream: H2Stream): void
  /** Bytes held for paused receivers changed. */
  addHeld(delta: number): void
  /** The stream takes no part in the connection any more. */
  forget(stream: H2Stream): void
  /** Bytes that wait to be sent changed. */
  addQueued(delta: number): void
  /** So many bytes wait on all streams together that writers stop at their first unsent byte. */
  readonly isCrowded: boolean
  /** The peer broke a rule on this stream: it counts against its budget. */
  countViolation(violation: H2Violation): void
}

export class H2Stream implements TurnTaker {
  readonly id: number
  receiver: H2Receiver
  /** The peer's final head is here: from the start on the server's side. */
  hasHead: boolean
  isClosed = false
  isLocalEnded = false
  isRemoteEnded = false
  /** Server: the final head of the answer is sent. */
  isAnswered = false
  readonly sendWindow: SendWindow
  readonly receiveWindow: ReceiveWindow
  /** @internal links of the connection's ring of streams that wait for their turn */
  nextReady: TurnTaker | null = null
  /** @internal */
  isReady = false
  /** @internal */
  isDeferred = false
  /** @internal Looks of the vigil at a queue of which nothing had left since the last; see vigil.ts. */
  stalledBeats = 0
  /** Bytes of a declared Content-Length still to come; -1 when none was declared. */
  contentLeft = -1

  private readonly host: StreamHost
  private pauseCount = 0
  private isEnding = false
  private isCorked = false
  private stopsPeer = false
  private wantsDrain = false
  private isEndReported = false
  private sendQueue: ByteQueue | null = null
  private trailersToSend: readonly string[] | null = null
  private held: ByteQueue | null = null
  private trailersReceived: string[] | null = null
  /** How it closes once everything held is read; -1 while it does not. */
  private closeCause: CloseCause | -1 = -1
  private closeCode = ERROR_NONE

  constructor(
    host: StreamHost,
    id: number,
    receiver: H2Receiver,
    sendWindowBytes: number,
    receiveWindowBytes: number,
    isServer: boolean,
  ) {
    this.host = host
    this.id = id
    this.receiver = receiver
    this.hasHead = isServer
    this.sendWindow = new SendWindow(sendWindowBytes)
    this.receiveWindow = new ReceiveWindow(receiveWindowBytes)
  }

  // --- writing ---

  /** Bytes taken by `write` that could not go to the connection yet. */
  get backlog(): number {
    return this.sendQueue === null ? 0 : this.sendQueue.length
  }

  /** The head of an answer (1xx or final). Flow control does not apply. */
  sendHeaders(fields: readonly string[], isEnd: boolean): void {
    if (this.isClosed || this.isEnding) return
    if (isEnd) this.isEnding = true
    if (fields[0] === ':status' && fields[1]!.charCodeAt(0) !== 0x31) this.isAnswered = true
    this.host.output.sendHeaders(this.id, fields, isEnd)
    if (isEnd) this.localEnded()
  }

  /** Takes all bytes; returns the backlog. Above BACKLOG_HIGH wait for `onDrain`. */
  write(bytes: Uint8Array, offset: number, length: number): number {
    if (this.isClosed || this.isEnding || length === 0) return this.backlog
    let sent = 0
    if (!this.isCorked && this.backlog === 0 && this.host.output.canSendDirectly) {
      sent = this.host.output.sendData(this, bytes, offset, length, false)
      if (sent === length) return 0
    }
    const queue = this.sendQueue ?? this.makeSendQueue()
    queue.push(bytes, offset + sent, length - sent)
    this.host.addQueued(length - sent)
    if (queue.length > SEND_QUEUE_BYTES_MAX) {
      this.closeBy(CLOSED_BY_LIMIT, ERROR_INTERNAL)
      return 0
    }
    const isCrowded = this.host.isCrowded
    if (isCrowded || queue.length > BACKLOG_HIGH) this.wantsDrain = true
    this.wake()
    const backlog = this.backlog
    return isCrowded && backlog > 0 && backlog <= BACKLOG_HIGH ? BACKLOG_HIGH + 1 : backlog
  }

  /** Ends our direction once everything written is sent. */
  end(): void {
    this.endWith(null)
  }

  endWith(trailers: readonly string[] | null): void {
    if (this.isClosed || this.isEnding) return
    this.isEnding = true
    this.trailersToSend = trailers
    if (this.backlog === 0 && !this.isCorked) this.finishSending()
  }

  /** Gives the stream up: RST_STREAM; nothing more is reported of it. */
  reset(code: number): void {
    if (this.isClosed) return
    if (!this.isLocalEnded || !this.isRemoteEnded) this.host.output.sendReset(this.id, code)
    this.drop()
  }

  /** Keeps what is written (a tunnel's client until it is accepted). */
  cork(): void {
    this.isCorked = true
  }

  uncork(): void {
    if (!this.isCorked) return
    this.isCorked = false
    if (this.isClosed) return
    if (this.backlog > 0) this.wake()
    else if (this.isEnding && !this.isLocalEnded) this.finishSending()
  }

  /** The scheduler's turn: sends at most `quantum` bytes of the queue. */
  sendQuantum(quantum: number): void {
    const queue = this.sendQueue
    if (this.isClosed || queue === null) return
    let left = quantum
    while (left > 0 && queue.length > 0) {
      const count = Math.min(left, queue.headLength)
      const isEnd = this.isEnding && this.trailersToSend === null && count === queue.length
      const sent = this.host.output.sendData(this, queue.headBytes, queue.headStart, count, isEnd)
      if (sent === 0) return
      queue.shift(sent)
      this.host.addQueued(-sent)
      this.stalledBeats = 0
      left -= sent
      if (isEnd && sent === count) this.localEnded()
    }
    if (queue.length > 0) return
    if (this.isEnding) this.finishSending()
    if (!this.wantsDrain) return
    this.wantsDrain = false
    if (!this.isEnding) this.receiver.onDrain(this)
  }

  /** Something waits to be sent, and the peer gives no window for it. */
  get canStall(): boolean {
    return this.backlog > 0 && !this.isCorked && !this.isClosed
  }

  /** True when the scheduler should come back. */
  get canSend(): boolean {
    return this.backlog > 0 && this.sendWindow.available > 0 && !this.isCorked && !this.isClosed
  }

  private makeSendQueue(): ByteQueue {
    this.sendQueue = new ByteQueue()
    return this.sendQueue
  }

  /** Asks for a turn if there is something to send. */
  wake(): void {
    if (!this.isReady && this.canSend) this.host.output.markReady(this)
  }

  private finishSending(): void {
    if (this.isLocalEnded) return
    if (this.trailersToSend === null) this.host.output.sendEnd(this.id)
    else this.host.output.sendHeaders(this.id, this.trailersToSend, true)
    this.localEnded()
  }

  /** The answer needs no more of the request: once it is sent the peer is told to stop (RFC 9113 section 8.1). */
  stopPeerWhenSent(): void {
    this.discardInput()
    if (this.isRemoteEnded) return
    this.stopsPeer = true
    if (this.isLocalEnded) this.reset(ERROR_NONE)
  }

  private localEnded(): void {
    this.isLocalEnded = true
    if (this.isRemoteEnded) this.closeInOrder()
    else if (this.stopsPeer) this.reset(ERROR_NONE)
  }

  // --- reading ---

  /** Counted. Bytes that arrive meanwhile are held, and the window is not given back. */
  pauseReading(): void {
    this.pauseCount++
  }

  resumeReading(): void {
    if (this.pauseCount === 0 || --this.pauseCount > 0 || this.isClosed) return
    if (this.held !== null || this.isRemoteEnded) this.host.defer(this)
    this.announce()
  }

  /** The receiver is done reading: nothing is held back any more. It still gets what comes, to drop it. */
  discardInput(): void {
    if (this.pauseCount === 0) return
    this.pauseCount = 1
    this.resumeReading()
  }

  /** A head that is no trailer. */
  receiveHeaders(fields: string[], isFinal: boolean, isEnd: boolean): void {
    if (isFinal) this.hasHead = true
    this.receiver.onHeaders(this, fields, isEnd)
    if (isEnd) this.receiveEnd(null)
  }

  receiveData(bytes: Uint8Array, offset: number, end: number): void {
    const length = end - offset
    if (this.contentLeft >= 0) {
      this.contentLeft -= length
      if (this.contentLeft < 0) {
        this.violate(WRONG_LENGTH)
        return
      }
    }
    if (this.pauseCount > 0 || this.held !== null) {
      if (this.held === null) this.held = new ByteQueue()
      this.held.push(bytes, offset, length)
      this.host.addHeld(length)
      return
    }
    this.receiver.onData(this, bytes, offset, end)
    this.giveBack(length)
  }

  receiveEnd(trailers: string[] | null): void {
    if (this.isClosed || this.isRemoteEnded) return
    if (this.contentLeft > 0) {
      this.violate(WRONG_LENGTH)
      return
    }
    this.isRemoteEnded = true
    this.trailersReceived = trailers
    if (this.pauseCount === 0 && this.held === null) this.reportEnd()
    if (this.isLocalEnded && !this.isClosed) this.closeInOrder()
  }

  receiveReset(code: number, cause: CloseCause): void {
    // A complete answer with "no error" behind it: we are only asked to stop sending (RFC 9113 section 8.1).
    if (code === ERROR_NONE && this.isRemoteEnded) {
      this.closeAfterHeld(cause, code)
      return
    }
    this.closeNow(cause, code)
  }

  /** The peer broke a rule that concerns this stream alone. */
  violate(violation: H2Violation): void {
    if (this.isClosed) return
    this.host.output.sendReset(this.id, violation.code)
    this.host.countViolation(violation)
    this.closeNow(CLOSED_BY_VIOLATION, violation.code)
  }

  /** The peer has let nothing through for too long. */
  giveUpStalled(): void {
    if (this.isClosed) return
    this.host.output.sendReset(this.id, ERROR_CANCEL)
    this.host.countViolation(STREAM_STALLED)
    this.closeNow(CLOSED_BY_STALL, ERROR_CANCEL)
  }

  /** Gives window back for bytes that nobody will read (padding). */
  giveBack(length: number): void {
    this.receiveWindow.giveBack(length)
    if (this.pauseCount === 0) this.announce()
  }

  /** The peer has acknowledged another window for all streams. */
  resizeWindow(bytes: number): void {
    this.receiveWindow.resize(bytes)
    // What was too little to tell for the window before may be what the peer waits for.
    if (this.pauseCount === 0) this.announce()
  }

  private announce(): void {
    if (this.isClosed || this.isRemoteEnded) return
    const increment = this.receiveWindow.announce()
    if (increment > 0) this.host.output.sendWindowUpdate(this.id, increment)
  }

  private reportEnd(): void {
    if (this.isEndReported) return
    this.isEndReported = true
    const trailers = this.trailersReceived
    if (trailers !== null) {
      this.trailersReceived = null
      this.receiver.onTrailers(this, trailers)
    }
    if (!this.isClosed) this.receiver.onEnd(this)
  }

  // --- closing ---

  /** At a flush of the connection: delivers what is held, then the end, then the closing. */
  runDeferred(): void {
    while (this.held !== null && this.pauseCount === 0 && !this.isClosed) {
      const held = this.held
      const bytes = held.headBytes
      const start = held.headStart
      const length = held.headLength
      held.shift(length)
      if (held.length === 0) this.held = null
      this.host.addHeld(-length)
      this.receiver.onData(this, bytes, start, start + length)
      this.giveBack(length)
    }
    if (this.isClosed || this.held !== null) return
    if (this.isRemoteEnded && this.pauseCount === 0) this.reportEnd()
    if (this.isClosed || this.closeCause === -1) return
    // A paused receiver has not seen the end yet; it will when it resumes.
    if (this.isRemoteEnded && !this.isEndReported) return
    this.isClosed = true
    this.receiver.onClosed(this, this.closeCause, this.closeCode)
  }

  /** Closes and reports at once; what is held is lost. */
  closeNow(cause: CloseCause, code: number): void {
    if (this.isClosed) return
    this.drop()
    this.receiver.onClosed(this, cause, code)
  }

  private closeInOrder(): void {
    this.closeAfterHeld(CLOSED_IN_ORDER, ERROR_NONE)
  }

  private closeAfterHeld(cause: CloseCause, code: number): void {
    this.isEnding = true
    this.isLocalEnded = true
    this.dropQueued()
    this.closeCause = cause
    this.closeCode = code
    this.host.forget(this)
    this.host.defer(this)
  }

  /** A failure inside a call of the owner: resets the stream and reports it at the next flush. */
  private closeBy(cause: CloseCause, code: number): void {
    this.host.output.sendReset(this.id, code)
    this.dropHeld()
    this.isRemoteEnded = true
    this.isEndReported = true
    this.closeAfterHeld(cause, code)
  }

  private drop(): void {
    this.isClosed = true
    this.dropQueued()
    this.dropHeld()
    this.host.forget(this)
  }

  private dropQueued(): void {
    if (this.sendQueue === null) return
    this.host.addQueued(-this.sendQueue.length)
    this.sendQueue = null
  }

  private dropHeld(): void {
    if (this.held === null) return
    this.host.addHeld(-this.held.length)
    this.held = null
  }
}
