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
import { ConnectionOutput } from './connection-output.ts'
import { ReceiveWindow } from './flow.ts'
import {
  ERROR_CANCEL,
  ERROR_ENHANCE_YOUR_CALM,
  ERROR_FLOW_CONTROL,
  ERROR_NONE,
  ERROR_PROTOCOL,
  ERROR_REFUSED_STREAM,
  ERROR_STREAM_CLOSED,
  PREFACE,
  SETTING_ENABLE_CONNECT_PROTOCOL,
  SETTING_ENABLE_PUSH,
  SETTING_INITIAL_WINDOW_SIZE,
  SETTING_MAX_CONCURRENT_STREAMS,
  SETTING_MAX_FRAME_SIZE,
  SETTING_MAX_HEADER_LIST_SIZE,
  WINDOW_BYTES_DEFAULT,
  WINDOW_BYTES_LARGEST,
} from './frame.ts'
import { FrameIntake, type IntakeEvents, LIST_GOOD, LIST_OVERSIZED, type ListState } from './frame-intake.ts'
import { FrameReader } from './frame-reader.ts'
import type { OutputListener } from './frame-writer.ts'
import { checkRequest, checkResponse, checkTrailers, contentLengthOf, statusOf } from './header-rules.ts'
import {
  type H2Settings,
  HELD_BYTES_FREE,
  IDLE_FRAMES_BURST,
  IDLE_FRAMES_PER_SECOND,
  RESETS_BURST,
  RESETS_PER_SECOND,
  ROLE_CLIENT,
  ROLE_SERVER,
} from './limits.ts'
import { PeerSettings } from './peer-settings.ts'
import { RateBudget } from './rate-budget.ts'
import type { StreamHost } from './stream.ts'
import { CLOSED_BY_PEER, CLOSED_UNPROCESSED, CLOSED_WITH_CONNECTION, type H2Receiver, H2Stream } from './stream.ts'

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
  onFailed(code: number, reason: string): void
}

const PING_KEEPALIVE: Uint8Array = Buffer.from('weftlive', 'latin1')
const PING_DRAIN: Uint8Array = Buffer.from('weftdrai', 'latin1')

export class H2Connection implements StreamHost, IntakeEvents, OutputListener {
  /** No new streams: the peer sent GOAWAY, or we drain. */
  isDraining = false
  isClosed = false
  readonly peer: PeerSettings

  private readonly settings: H2Settings
  private readonly sink: ByteSink
  private readonly events: H2Events
  readonly output: ConnectionOutput
  private readonly reader: FrameReader
  private readonly streams = new Map<number, H2Stream>()
  private readonly receiveWindow: ReceiveWindow
  private readonly resets: RateBudget
  private readonly idleFrames: RateBudget
  private nextStreamId = 1
  private lastPeerStreamId = 0
  private heldBytes = 0
  private hasSentGoAway = false
  private dataStream: H2Stream | null = null
  private isDataEnd = false
  private isFlushWanted = false
  private deferred: H2Stream[] = []

  /** `now` gives milliseconds, for the budgets against floods. */
  constructor(settings: H2Settings, sink: ByteSink, events: H2Events, now: () => number) {
    this.settings = settings
    this.sink = sink
    this.events = events
    this.peer = new PeerSettings(settings.role)
    this.output = new ConnectionOutput(sink, this, this.peer)
    this.reader = new FrameReader(new FrameIntake(this, settings), settings.role === ROLE_SERVER)
    this.receiveWindow = new ReceiveWindow(settings.connectionWindowBytes)
    this.resets = new RateBudget(RESETS_BURST, RESETS_PER_SECOND, now)
    this.idleFrames = new RateBudget(IDLE_FRAMES_BURST, IDLE_FRAMES_PER_SECOND, now)
  }

  // --- for the owner ---

  get activeCount(): number {
    return this.streams.size
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
    const settings = this.settings
    const pairs = [
      SETTING_INITIAL_WINDOW_SIZE,
      settings.streamWindowBytes,
      SETTING_MAX_FRAME_SIZE,
      settings.frameBytesMax,
      SETTING_MAX_HEADER_LIST_SIZE,
      settings.headerListBytesMax,
    ]
    if (settings.role === ROLE_CLIENT) {
      this.output.writer.raw(PREFACE)
      pairs.push(SETTING_ENABLE_PUSH, 0)
    } else {
      pairs.push(SETTING_MAX_CONCURRENT_STREAMS, settings.peerStreamsMax)
      if (settings.acceptsProtocols === true) pairs.push(SETTING_ENABLE_CONNECT_PROTOCOL, 1)
    }
    this.output.writer.settings(pairs)
    const increment = settings.connectionWindowBytes - WINDOW_BYTES_DEFAULT
    if (increment > 0) this.output.writer.windowUpdate(0, increment)
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
    this.reader.receive(bytes, offset, end)
  }

  /** The sink's backlog is sent. */
  receiveDrain(): void {
    this.output.drained()
  }

  /** The transport is gone, in order or not: streams that are open cannot be completed. */
  receiveClose(): void {
    if (this.isClosed) return
    this.shut(ERROR_NONE)
  }

  /** Sends what the batch has collected, and reports what calls of the owner have caused. Also after the close. */
  flush(): void {
    this.isFlushWanted = false
    if (this.deferred.length > 0) this.runDeferred()
    if (this.isClosed) return
    this.output.writer.flush()
    if (this.isDraining && this.hasSentGoAway && this.streams.size === 0 && this.deferred.length === 0) this.closeSink()
  }

  /** Keepalive; `onPong` follows, or the owner's patience ends. */
  ping(): void {
    if (!this.isClosed) this.output.writer.ping(PING_KEEPALIVE, 0, false)
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

  /** Ends now: GOAWAY, streams are closed under their owners, the sink is closed. */
  close(code: number, reason: string): void {
    if (this.isClosed) return
    this.output.writer.goAway(this.lastPeerStreamId, code, reason)
    this.closeSink()
    this.shut(code)
  }

  // --- StreamHost: what streams ask for ---

  defer(stream: H2Stream): void {
    if (stream.isDeferred) return
    stream.isDeferred = true
    this.deferred.push(stream)
    this.onOutput()
  }

  addHeld(delta: number): void {
    this.heldBytes += delta
    if (delta < 0) this.announce()
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

  // --- IntakeEvents: what the peer sends ---

  onDataStart(streamId: number, length: number, isEnd: boolean): boolean {
    this.dataStream = null
    if (!this.receiveWindow.take(length)) {
      this.onConnectionError(ERROR_FLOW_CONTROL, 'connection window exceeded')
      return false
    }
    // Given back at once: what paused receivers hold is bounded by HELD_BYTES_FREE (see `announce`).
    this.receiveWindow.giveBack(length)
    this.announce()
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      this.onStrayFrame(streamId, ERROR_STREAM_CLOSED)
      return false
    }
    if (stream.isRemoteEnded) stream.violate(ERROR_STREAM_CLOSED)
    else if (!stream.hasHead) stream.violate(ERROR_PROTOCOL)
    else if (!stream.receiveWindow.take(length)) stream.violate(ERROR_FLOW_CONTROL)
    if (stream.isClosed || this.isClosed) return false
    if (length === 0 && !isEnd) this.onIdleFrame()
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
        this.onConnectionError(ERROR_PROTOCOL, 'headers on an idle stream')
      } else if (!this.output.wasReset(streamId)) {
        this.onConnectionError(ERROR_STREAM_CLOSED, 'headers on a closed stream')
      }
      return
    }
    if (stream.isRemoteEnded) {
      stream.violate(ERROR_STREAM_CLOSED)
      return
    }
    if (state !== LIST_GOOD) {
      stream.violate(listError(state))
      return
    }
    if (!stream.hasHead) {
      this.acceptHead(stream, fields, isEnd)
      return
    }
    if (!isEnd || checkTrailers(fields) !== null) {
      stream.violate(ERROR_PROTOCOL)
      return
    }
    stream.receiveEnd(fields)
  }

  onReset(streamId: number, code: number): void {
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      if (this.isIdle(streamId)) this.onConnectionError(ERROR_PROTOCOL, 'reset of an idle stream')
      return
    }
    // Only what we have not answered costs more than it did the peer: that is the rapid reset attack.
    if (this.settings.role === ROLE_SERVER && !stream.isAnswered && !this.countReset()) return
    stream.receiveReset(code, code === ERROR_REFUSED_STREAM ? CLOSED_UNPROCESSED : CLOSED_BY_PEER)
  }

  onSettings(bytes: Uint8Array, offset: number, end: number): void {
    if (!this.takeIdleFrame()) return
    const windowBefore = this.peer.windowBytes
    const error = this.peer.apply(bytes, offset, end)
    if (error !== ERROR_NONE) {
      this.onConnectionError(error, 'bad setting')
      return
    }
    this.output.setHeaderTableLimit(this.peer.headerTableBytes)
    // Before anything that the new values make possible.
    this.output.writer.settingsAck()
    this.changeWindows(this.peer.windowBytes - windowBefore)
  }

  onSettingsAck(): void {
    this.takeIdleFrame()
  }

  onPing(bytes: Uint8Array, offset: number): void {
    if (this.takeIdleFrame()) this.output.writer.ping(bytes, offset, true)
  }

  onPingAck(bytes: Uint8Array, offset: number): void {
    if (!this.takeIdleFrame()) return
    if (isSame(bytes, offset, PING_KEEPALIVE)) this.events.onPong()
    else if (this.isDraining && isSame(bytes, offset, PING_DRAIN)) this.sendFinalGoAway()
  }

  onGoAway(lastStreamId: number, code: number): void {
    if (!this.takeIdleFrame()) return
    if (this.settings.role === ROLE_CLIENT) {
      this.isDraining = true
      for (const stream of [...this.streams.values()]) {
        if (stream.id > lastStreamId) stream.closeNow(CLOSED_UNPROCESSED, code)
      }
    }
    this.events.onGoAway(code)
  }

  onWindowUpdate(streamId: number, increment: number): void {
    if (streamId === 0) {
      if (this.output.sendWindow.add(increment)) this.output.pump()
      else this.onConnectionError(ERROR_FLOW_CONTROL, 'connection window overflow')
      return
    }
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      if (this.isIdle(streamId)) this.onConnectionError(ERROR_PROTOCOL, 'window update on an idle stream')
      return
    }
    if (stream.sendWindow.add(increment)) stream.wake()
    else stream.violate(ERROR_FLOW_CONTROL)
  }

  onIdleFrame(): void {
    this.takeIdleFrame()
  }

  onStreamError(streamId: number, code: number): void {
    const stream = this.streams.get(streamId)
    if (stream !== undefined) stream.violate(code)
    else this.onStrayFrame(streamId, code)
  }

  onConnectionError(code: number, reason: string): void {
    if (this.isClosed) return
    this.close(code, reason)
    this.events.onFailed(code, reason)
  }

  // --- streams ---

  private makeStream(id: number, receiver: H2Receiver): H2Stream {
    const stream = new H2Stream(
      this,
      id,
      receiver,
      this.peer.windowBytes,
      this.settings.streamWindowBytes,
      this.settings.role === ROLE_SERVER,
    )
    this.streams.set(id, stream)
    return stream
  }

  private acceptStream(streamId: number, fields: string[], isEnd: boolean, state: ListState): void {
    // After the final GOAWAY newer streams are as if they had never been sent.
    if (this.hasSentGoAway) return
    this.lastPeerStreamId = streamId
    let error = ERROR_NONE
    const contentLength = contentLengthOf(fields)
    if (state !== LIST_GOOD) error = listError(state)
    else if (checkRequest(fields, this.settings.acceptsProtocols === true) !== null || contentLength === -2)
      error = ERROR_PROTOCOL
    else if (this.streams.size >= this.settings.peerStreamsMax) error = ERROR_REFUSED_STREAM
    if (error !== ERROR_NONE) {
      this.output.sendReset(streamId, error)
      this.countReset()
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
      stream.violate(ERROR_PROTOCOL)
      return
    }
    const status = statusOf(fields)
    const isFinal = status >= 200
    if (!isFinal && isEnd) {
      stream.violate(ERROR_PROTOCOL)
      return
    }
    if (isFinal && !isEnd && status !== 204 && status !== 304) {
      stream.contentLeft = contentLengthOf(fields)
      if (stream.contentLeft === -2) {
        stream.violate(ERROR_PROTOCOL)
        return
      }
    }
    stream.receiveHeaders(fields, isFinal, isEnd)
  }

  /** A frame for a stream that is not there: idle, closed, or reset by us a moment ago. */
  private onStrayFrame(streamId: number, code: number): void {
    if (this.isIdle(streamId)) {
      this.onConnectionError(ERROR_PROTOCOL, 'frame on an idle stream')
      return
    }
    // Reset by us, or newer than our final GOAWAY: it was under way, and is to be ignored.
    if (this.output.wasReset(streamId) || (this.hasSentGoAway && streamId > this.lastPeerStreamId)) return
    this.output.sendReset(streamId, code)
    this.countReset()
  }

  private isIdle(streamId: number): boolean {
    if (this.settings.role === ROLE_CLIENT) return streamId % 2 === 0 || streamId >= this.nextStreamId
    return streamId % 2 === 0 || (streamId > this.lastPeerStreamId && !this.hasSentGoAway)
  }

  private changeWindows(change: number): void {
    if (change === 0) return
    for (const stream of this.streams.values()) {
      if (stream.sendWindow.add(change)) continue
      this.onConnectionError(ERROR_FLOW_CONTROL, 'initial window overflow')
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
    if (this.isClosed || this.heldBytes > HELD_BYTES_FREE) return
    const increment = this.receiveWindow.announce()
    if (increment > 0) this.output.writer.windowUpdate(0, increment)
  }

  // --- budgets and ends ---

  private takeIdleFrame(): boolean {
    if (this.isClosed) return false
    if (this.idleFrames.take()) return true
    this.onConnectionError(ERROR_ENHANCE_YOUR_CALM, 'too many frames that carry nothing')
    return false
  }

  /** StreamHost: the peer broke a rule on a stream. */
  countViolation(): void {
    this.countReset()
  }

  private countReset(): boolean {
    if (this.resets.take()) return true
    this.onConnectionError(ERROR_ENHANCE_YOUR_CALM, 'too many streams reset')
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
  private shut(code: number): void {
    this.isClosed = true
    this.reader.stop()
    this.output.shut()
    for (const stream of [...this.streams.values()]) stream.closeNow(CLOSED_WITH_CONNECTION, code)
  }
}

function listError(state: ListState): number {
  return state === LIST_OVERSIZED ? ERROR_ENHANCE_YOUR_CALM : ERROR_PROTOCOL
}

function isSame(bytes: Uint8Array, offset: number, expected: Uint8Array): boolean {
  for (let i = 0; i < expected.length; i++) if (bytes[offset + i] !== expected[i]) return false
  return true
}

/** Receiver of a stream until its owner has said who it is; nothing is reported in between. */
const DEAF: H2Receiver = {
  onHeaders(): void {},
  onData(): void {},
  onTrailers(): void {},
  onEnd(): void {},
  onDrain(): void {},
  onClosed(stream): void {
    stream.reset(ERROR_CANCEL)
  },
}
