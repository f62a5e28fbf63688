// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One HTTP/2 connection, either role: its streams, their turns, settings, keepalive and end (RFC 9113).
 *
 * Sans-I/O: bytes come in by `receive`, go out through a ByteSink. Output is collected and leaves when the owner calls
 * `flush` (once per batch of events; `onFlushWanted` says that there is a reason). DATA stops while the sink has a high
 * backlog; then streams take turns by bytes, so that bulk on one does not stall the others.
 * Time is the owner's: it calls `ping` and decides when an answer is overdue.
 */
import { assert } from '../../base/assert.ts'
import type { ByteSink } from '../codec.ts'
import { AbuseGuard } from './abuse-guard.ts'
import { ConnectionOutput } from './connection-output.ts'
import { DEAF } from './deaf-receiver.ts'
import { ReceiveWindow } from './flow.ts'
import { ERROR_NONE, ERROR_PROTOCOL, ERROR_REFUSED_STREAM, WINDOW_BYTES_LARGEST } from './frame.ts'
import { FrameIntake, type IntakeEvents, LIST_GOOD, LIST_OVERSIZED, type ListState } from './frame-intake.ts'
import { FrameReader } from './frame-reader.ts'
import type { OutputListener } from './frame-writer.ts'
import { writeGreeting } from './greeting.ts'
import { checkRequest, checkResponse, checkTrailers, contentLengthOf, statusOf } from './header-rules.ts'
import {
  type H2Settings,
  HELD_BYTES_FREE,
  QUEUED_BYTES_HIGH,
  ROLE_CLIENT,
  ROLE_SERVER,
  TINY_DATA_BYTES,
  TINY_UPDATE_BYTES,
} from './limits.ts'
import { PeerSettings } from './peer-settings.ts'
import { isPayload, PING_DRAIN, PING_KEEPALIVE } from './ping-payload.ts'
import {
  CLOSED_BY_PEER,
  CLOSED_BY_SILENCE,
  CLOSED_UNPROCESSED,
  CLOSED_WITH_CONNECTION,
  type CloseCause,
  type H2Receiver,
  H2Stream,
  type StreamHost,
} from './stream.ts'
import { StreamWindows } from './stream-windows.ts'
import type { H2Violation } from './violations.ts'
import * as violations from './violations.ts'

export interface H2Events {
  /** Server: a request begins. Returns who takes the rest. `isEnd` when nothing but the end follows. */
  onStream(stream: H2Stream, fields: string[], isEnd: boolean): H2Receiver
  /** There is something to flush at the end of this batch. Called once until `flush`. */
  onFlushWanted(): void
  /** Our `ping` was answered. */
  onPong(): void
  /** A stream takes no part any more: there may be room for another. May come inside a call (`reset`, `end`). */
  onStreamEnded(): void
  /** The peer opens an end: no new streams; open ones go on. */
  onGoAway(code: number): void
  /** The peer broke the rules: it was told, all streams are closed, the sink is closing. */
  onFailed(violation: H2Violation): void
  /** The peer broke a rule on one stream, which is closed, or was never opened. */
  onStreamViolation(violation: H2Violation): void
}

export class H2Connection implements StreamHost, IntakeEvents, OutputListener {
  /** No new streams: the peer sent GOAWAY, or we drain. */
  isDraining = false
  isClosed = false
  readonly peer: PeerSettings

  private readonly settings: H2Settings
  private readonly sink: ByteSink
  private readonly events: H2Events
  readonly output: ConnectionOutput
  /** Pieces of input received so far: while it stands still the peer is silent. */
  receivedCount = 0
  /** The peer has acknowledged our settings. */
  isAcknowledged = false
  readonly intake: FrameIntake
  readonly streams = new Map<number, H2Stream>()
  private readonly reader: FrameReader
  private readonly receiveWindow: ReceiveWindow
  private readonly streamWindows: StreamWindows
  private readonly guard: AbuseGuard
  private nextStreamId = 1
  private lastPeerStreamId = 0
  private queuedBytes = 0
  private hasSentGoAway = false
  private dataStream: H2Stream | null = null
  private isDataEnd = false
  private isFlushWanted = false
  private isFlooded = false
  private deferred: H2Stream[] = []

  /** `now` gives milliseconds, for the budgets against floods. */
  constructor(settings: H2Settings, sink: ByteSink, events: H2Events, now: () => number) {
    this.settings = settings
    this.sink = sink
    this.events = events
    this.peer = new PeerSettings(settings.role)
    this.guard = new AbuseGuard(settings, now)
    this.output = new ConnectionOutput(sink, this, this.peer, this.guard)
    this.intake = new FrameIntake(this, settings)
    this.reader = new FrameReader(this.intake, settings.role === ROLE_SERVER)
    this.receiveWindow = new ReceiveWindow(settings.connectionWindowBytes)
    this.streamWindows = new StreamWindows(settings, this.output.writer)
  }

  // --- for the owner ---

  get activeCount(): number {
    return this.streams.size
  }

  /** Streams ever opened, by whichever side does. */
  get streamCount(): number {
    return this.settings.role === ROLE_CLIENT ? this.nextStreamId >>> 1 : (this.lastPeerStreamId + 1) >>> 1
  }

  /** Client: true while `open` may be called. */
  get canOpen(): boolean {
    return (
      !this.isDraining &&
      !this.isClosed &&
      this.streams.size < this.peer.streamsMax &&
      this.nextStreamId <= WINDOW_BYTES_LARGEST
    )
  }

  /** Says hello. Streams may be opened at once, without waiting for the peer's settings. */
  start(): void {
    writeGreeting(this.output.writer, this.settings)
  }

  /** Client: opens a stream with a request. Only while `canOpen`. */
  open(fields: readonly string[], isEnd: boolean, receiver: H2Receiver): H2Stream {
    assert(this.canOpen, 'a stream is opened only while there is room')
    const id = this.nextStreamId
    this.nextStreamId += 2
    const stream = this.makeStream(id, receiver)
    stream.sendHeaders(fields, isEnd)
    return stream
  }

  receive(bytes: Uint8Array, offset: number, end: number): void {
    this.receivedCount++
    this.reader.receive(bytes, offset, end)
  }

  /** The sink's backlog is sent. */
  receiveDrain(): void {
    this.output.drained()
  }

  /** The transport is gone, in order or not: streams that are open cannot be completed. */
  receiveClose(): void {
    if (this.isClosed) return
    this.shut(ERROR_NONE, CLOSED_WITH_CONNECTION)
  }

  /** Sends what the batch has collected, and reports what calls of the owner have caused. Also after the close. */
  flush(): void {
    this.isFlushWanted = false
    if (this.deferred.length > 0) this.runDeferred()
    if (this.isClosed) return
    this.output.writer.flush()
    if (this.isFlooded) this.giveUp(violations.OUTPUT_FLOOD)
    else if (this.isDraining && this.hasSentGoAway && this.streams.size === 0 && this.deferred.length === 0)
      this.closeSink()
  }

  /** Keepalive; `onPong` follows, or the owner's patience ends. */
  ping(): void {
    if (!this.isClosed) this.output.writer.ping(PING_KEEPALIVE, 0, false)
  }

  /** Takes back what many paused receivers have made necessary, if they go on; see StreamWindows. */
  relax(): void {
    if (!this.isClosed) this.streamWindows.relax()
  }

  /** Paused receivers hold so much that the peer gets no more window. */
  get isHoldingWindow(): boolean {
    return this.streamWindows.heldBytes > HELD_BYTES_FREE
  }

  /**
   * Ends gracefully: no new streams, open ones are finished, then the sink is closed. A server lets requests that are
   * already under way in: the first GOAWAY only warns, the second, a round trip later, is final (RFC 9113 section 6.8).
   */
  drain(): void {
    if (this.isClosed || this.hasSentGoAway) return
    if (this.settings.role === ROLE_CLIENT) {
      this.sendFinalGoAway()
      return
    }
    if (this.isDraining) return
    this.isDraining = true
    this.output.writer.goAway(WINDOW_BYTES_LARGEST, ERROR_NONE, '')
    this.output.writer.ping(PING_DRAIN, 0, false)
  }

  /** Draining, and the peer does not answer: what is open goes on, but nothing new is let in any more. */
  finishDrain(): void {
    if (this.isDraining && !this.isClosed && this.settings.role === ROLE_SERVER) this.sendFinalGoAway()
  }

  /** The peer is gone, or reads nothing: the transport is reset, and nothing is said to it. */
  giveUp(violation: H2Violation): void {
    if (this.isClosed) return
    this.shut(violation.code, violation.code === ERROR_NONE ? CLOSED_BY_SILENCE : CLOSED_WITH_CONNECTION)
    // Last: its owner may be done with the connection when it hears of the end.
    this.sink.abort()
    this.events.onFailed(violation)
  }

  /** Ends now: GOAWAY, streams are closed under their owners, the sink is closed. */
  close(code: number, reason: string): void {
    if (this.isClosed) return
    this.output.writer.goAway(this.lastPeerStreamId, code, reason)
    this.closeSink()
    this.shut(code, CLOSED_WITH_CONNECTION)
  }

  // --- StreamHost: what streams ask for ---

  defer(stream: H2Stream): void {
    if (stream.isDeferred) return
    stream.isDeferred = true
    this.deferred.push(stream)
    this.onOutput()
  }

  addHeld(delta: number): void {
    this.streamWindows.addHeld(delta)
    if (delta < 0) this.announce()
  }

  addQueued(delta: number): void {
    this.queuedBytes += delta
  }

  get isCrowded(): boolean {
    return this.queuedBytes > QUEUED_BYTES_HIGH
  }

  /** Streams wait to send. */
  get hasQueued(): boolean {
    return this.queuedBytes > 0
  }

  forget(stream: H2Stream): void {
    if (!this.streams.delete(stream.id) || this.isClosed) return
    // The owner may have been waiting for room; a drain may be complete.
    this.onOutput()
    this.events.onStreamEnded()
  }

  /** OutputListener: the first output of a batch. */
  onOutput(): void {
    if (this.isFlushWanted) return
    this.isFlushWanted = true
    this.events.onFlushWanted()
  }

  /** OutputListener: the peer leaves more unread than can be meant well. */
  onOutputFlood(): void {
    this.isFlooded = true
    this.onOutput()
  }

  // --- IntakeEvents: what the peer sends ---

  onDataStart(streamId: number, length: number, isEnd: boolean): boolean {
    this.dataStream = null
    if (!this.receiveWindow.take(length)) {
      this.onConnectionError(violations.WINDOW_EXCEEDED)
      return false
    }
    // Given back at once: what paused receivers hold is bounded by HELD_BYTES_FREE (see `announce`).
    this.receiveWindow.giveBack(length)
    this.announce()
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      this.onStrayFrame(streamId, violations.ON_CLOSED_STREAM)
      return false
    }
    if (stream.isRemoteEnded) stream.violate(violations.ON_CLOSED_STREAM)
    else if (!stream.hasHead) stream.violate(violations.DATA_BEFORE_HEAD)
    else if (!stream.receiveWindow.take(length)) stream.violate(violations.WINDOW_EXCEEDED)
    if (stream.isClosed || this.isClosed) return false
    if (length < TINY_DATA_BYTES && !isEnd && !this.takeTinyData(length)) return false
    this.dataStream = stream
    this.isDataEnd = isEnd
    return true
  }

  onDataBytes(bytes: Uint8Array, offset: number, end: number): void {
    const stream = this.dataStream
    if (stream !== null && !stream.isClosed) stream.receiveData(bytes, offset, end)
  }

  onDataPadding(length: number): void {
    const stream = this.dataStream
    if (stream !== null && !stream.isClosed) stream.giveBack(length)
  }

  onDataEnd(): void {
    const stream = this.dataStream
    this.dataStream = null
    if (stream !== null && this.isDataEnd) stream.receiveEnd(null)
  }

  onHeaderList(streamId: number, fields: string[], isEnd: boolean, state: ListState): void {
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      if (this.settings.role === ROLE_SERVER && streamId > this.lastPeerStreamId && streamId % 2 === 1) {
        this.acceptStream(streamId, fields, isEnd, state)
      } else if (this.isIdle(streamId)) {
        this.onConnectionError(violations.ON_IDLE_STREAM)
      } else if (!this.output.wasReset(streamId)) {
        this.onConnectionError(violations.ON_CLOSED_STREAM)
      } else {
        this.onIdleFrame(violations.ERROR_FLOOD)
      }
      return
    }
    if (stream.isRemoteEnded) {
      stream.violate(violations.ON_CLOSED_STREAM)
      return
    }
    if (state !== LIST_GOOD) {
      stream.violate(listViolation(state))
      return
    }
    if (!stream.hasHead) {
      this.acceptHead(stream, fields, isEnd)
      return
    }
    if (!isEnd || checkTrailers(fields) !== null) {
      stream.violate(violations.MALFORMED_TRAILERS)
      return
    }
    stream.receiveEnd(fields)
  }

  onReset(streamId: number, code: number): void {
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      if (this.isIdle(streamId)) this.onConnectionError(violations.ON_IDLE_STREAM)
      else this.onIdleFrame(violations.RAPID_RESET)
      return
    }
    // Only what we have not answered costs more than it did the peer: that is the rapid reset attack.
    if (this.settings.role === ROLE_SERVER && !stream.isAnswered && !this.takeReset(violations.RAPID_RESET)) return
    stream.receiveReset(code, code === ERROR_REFUSED_STREAM ? CLOSED_UNPROCESSED : CLOSED_BY_PEER)
  }

  onSettings(bytes: Uint8Array, offset: number, end: number): void {
    if (!this.takeIdleFrame(violations.SETTINGS_FLOOD)) return
    const windowBefore = this.peer.windowBytes
    const error = this.peer.apply(bytes, offset, end)
    if (error !== ERROR_NONE) {
      this.onConnectionError(error === ERROR_PROTOCOL ? violations.BAD_SETTING : violations.BAD_WINDOW_SETTING)
      return
    }
    this.output.setHeaderTableLimit(this.peer.headerTableBytes)
    // Before anything that the new values make possible.
    this.output.writer.settingsAck()
    this.changeWindows(this.peer.windowBytes - windowBefore)
  }

  onSettingsAck(): void {
    this.isAcknowledged = true
    if (!this.takeIdleFrame(violations.SETTINGS_FLOOD) || !this.streamWindows.acknowledge()) return
    for (const stream of this.streams.values()) stream.resizeWindow(this.streamWindows.bytes)
  }

  onPing(bytes: Uint8Array, offset: number): void {
    if (this.takeIdleFrame(violations.PING_FLOOD)) this.output.writer.ping(bytes, offset, true)
  }

  onPingAck(bytes: Uint8Array, offset: number): void {
    if (!this.takeIdleFrame(violations.PING_FLOOD)) return
    if (isPayload(bytes, offset, PING_KEEPALIVE)) this.events.onPong()
    else if (isPayload(bytes, offset, PING_DRAIN)) this.finishDrain()
  }

  onGoAway(lastStreamId: number, code: number): void {
    if (!this.takeIdleFrame(violations.GOAWAY_FLOOD)) return
    if (this.settings.role === ROLE_CLIENT) {
      this.isDraining = true
      for (const stream of [...this.streams.values()]) {
        if (stream.id > lastStreamId) stream.closeNow(CLOSED_UNPROCESSED, code)
      }
    }
    this.events.onGoAway(code)
  }

  onWindowUpdate(streamId: number, increment: number): void {
    const stream = streamId === 0 ? undefined : this.streams.get(streamId)
    if (stream === undefined && streamId !== 0 && this.isIdle(streamId)) {
      this.onConnectionError(violations.ON_IDLE_STREAM)
      return
    }
    if (increment < TINY_UPDATE_BYTES || (stream === undefined && streamId !== 0)) {
      if (!this.guard.takeTinyUpdate()) {
        this.onConnectionError(violations.WINDOW_UPDATE_FLOOD)
        return
      }
    }
    if (streamId === 0) {
      if (!this.output.receiveWindowUpdate(increment)) this.onConnectionError(violations.WINDOW_OVERFLOW)
    } else if (stream !== undefined) {
      if (stream.sendWindow.add(increment)) stream.wake()
      else stream.violate(violations.WINDOW_OVERFLOW)
    }
  }

  onIdleFrame(flood: H2Violation): void {
    this.takeIdleFrame(flood)
  }

  onStreamError(streamId: number, violation: H2Violation): void {
    const stream = this.streams.get(streamId)
    if (stream !== undefined) stream.violate(violation)
    else this.onStrayFrame(streamId, violation)
  }

  onConnectionError(violation: H2Violation): void {
    if (this.isClosed) return
    this.close(violation.code, violation.message)
    this.events.onFailed(violation)
  }

  // --- streams ---

  private makeStream(id: number, receiver: H2Receiver): H2Stream {
    const stream = new H2Stream(
      this,
      id,
      receiver,
      this.peer.windowBytes,
      this.streamWindows.bytes,
      this.settings.role === ROLE_SERVER,
    )
    this.streams.set(id, stream)
    this.guard.work++
    return stream
  }

  private acceptStream(streamId: number, fields: string[], isEnd: boolean, state: ListState): void {
    // After the final GOAWAY newer streams are as if they had never been sent.
    if (this.hasSentGoAway) return
    this.lastPeerStreamId = streamId
    let violation: H2Violation | null = null
    const contentLength = contentLengthOf(fields)
    if (state !== LIST_GOOD) violation = listViolation(state)
    else if (checkRequest(fields, this.settings.acceptsProtocols === true) !== null || contentLength === -2)
      violation = violations.MALFORMED_HEAD
    // Found out before anyone hears of the request (RFC 9113 section 8.1.1).
    else if (isEnd && contentLength > 0) violation = violations.WRONG_LENGTH
    else if (this.streams.size >= this.settings.peerStreamsMax) violation = violations.TOO_MANY_STREAMS
    if (violation !== null) {
      this.output.sendReset(streamId, violation.code)
      this.countViolation(violation)
      return
    }
    const stream = this.makeStream(streamId, DEAF)
    stream.contentLeft = contentLength
    const receiver = this.events.onStream(stream, fields, isEnd)
    if (stream.receiver === DEAF) stream.receiver = receiver
    if (isEnd) stream.receiveEnd(null)
  }

  private acceptHead(stream: H2Stream, fields: string[], isEnd: boolean): void {
    if (checkResponse(fields) !== null) {
      stream.violate(violations.MALFORMED_HEAD)
      return
    }
    const status = statusOf(fields)
    const isFinal = status >= 200
    if (!isFinal && isEnd) {
      stream.violate(violations.MALFORMED_HEAD)
      return
    }
    if (isFinal && !isEnd && status !== 204 && status !== 304) {
      stream.contentLeft = contentLengthOf(fields)
      if (stream.contentLeft === -2) {
        stream.violate(violations.MALFORMED_HEAD)
        return
      }
    }
    stream.receiveHeaders(fields, isFinal, isEnd)
  }

  /** A frame for a stream that is not there: idle, closed, or reset by us a moment ago. */
  private onStrayFrame(streamId: number, violation: H2Violation): void {
    if (this.isIdle(streamId)) {
      this.onConnectionError(violations.ON_IDLE_STREAM)
      return
    }
    // Reset by us, or newer than our final GOAWAY: it was under way, and is to be ignored.
    if (this.output.wasReset(streamId) || (this.hasSentGoAway && streamId > this.lastPeerStreamId)) return
    this.output.sendReset(streamId, violation.code)
    this.countViolation(violation)
  }

  private isIdle(streamId: number): boolean {
    if (this.settings.role === ROLE_CLIENT) return streamId % 2 === 0 || streamId >= this.nextStreamId
    return streamId % 2 === 0 || (streamId > this.lastPeerStreamId && !this.hasSentGoAway)
  }

  private changeWindows(change: number): void {
    if (change === 0) return
    for (const stream of this.streams.values()) {
      if (stream.sendWindow.add(change)) continue
      this.onConnectionError(violations.WINDOW_OVERFLOW)
      return
    }
    for (const stream of this.streams.values()) stream.wake()
  }

  private runDeferred(): void {
    const deferred = this.deferred
    this.deferred = []
    for (let i = 0; i < deferred.length; i++) {
      const stream = deferred[i]!
      stream.isDeferred = false
      stream.runDeferred()
    }
  }

  /** Gives the connection's window back, unless paused receivers hold too much already. */
  private announce(): void {
    if (this.isClosed || this.isHoldingWindow) return
    const increment = this.receiveWindow.announce()
    if (increment > 0) this.output.writer.windowUpdate(0, increment)
  }

  // --- budgets and ends ---

  private takeIdleFrame(flood: H2Violation): boolean {
    if (this.isClosed) return false
    if (this.guard.takeIdleFrame()) return true
    this.onConnectionError(flood)
    return false
  }

  private takeTinyData(length: number): boolean {
    if (length === 0) return this.takeIdleFrame(violations.EMPTY_DATA_FLOOD)
    if (this.guard.takeTinyData()) return true
    this.onConnectionError(violations.TINY_DATA_FLOOD)
    return false
  }

  /** StreamHost: the peer broke a rule on a stream, which was reset. */
  countViolation(violation: H2Violation): void {
    this.events.onStreamViolation(violation)
    this.takeReset(violations.ERROR_FLOOD)
  }

  private takeReset(flood: H2Violation): boolean {
    if (this.guard.takeReset()) return true
    this.onConnectionError(flood)
    return false
  }

  private sendFinalGoAway(): void {
    if (this.hasSentGoAway) return
    this.isDraining = true
    this.hasSentGoAway = true
    this.output.writer.goAway(this.lastPeerStreamId, ERROR_NONE, '')
  }

  private closeSink(): void {
    this.isClosed = true
    this.reader.stop()
    this.output.writer.flush()
    this.sink.close()
  }

  /** Closes every stream under its owner. */
  private shut(code: number, cause: CloseCause): void {
    this.isClosed = true
    this.reader.stop()
    this.output.shut()
    for (const stream of [...this.streams.values()]) stream.closeNow(cause, code)
  }
}

function listViolation(state: ListState): H2Violation {
  return state === LIST_OVERSIZED ? violations.HEAD_TOO_LARGE : violations.MALFORMED_HEAD
}
