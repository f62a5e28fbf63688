/**
 * Connections in memory: a pair of Conns, with the loop that moves bytes between them. The network made of them is
 * pipe-transport.ts.
 *
 * All rules of conn.ts hold. Nothing is ever reported inside a call: a loop of batches, each started by setImmediate,
 * delivers what the batch before has written. Lent bytes are overwritten after the call that lent them, so that whoever
 * keeps them finds out.
 */
import { ByteQueue } from '../../src/base/byte-queue.ts'
import { WeftError } from '../../src/base/errors.ts'
import { TimerEntry, type TimerTarget, TimerWheel } from '../../src/base/timers.ts'
import { BACKLOG_HIGH, type Conn, type Flushable, type Handler } from '../../src/transport/conn.ts'

/** What lent bytes become: easy to recognise in a failed test. */
const POISON = 0xdd

/** Bytes that one Conn delivers in a batch, as one read of a socket would. */
const DELIVERY_BYTES = 65_536

export interface PipeOptions {
  /** Most bytes of one `onBytes`: 1 cuts everything everywhere. */
  readonly chunkBytesMax: number
}

export const PIPE_OPTIONS: PipeOptions = { chunkBytesMax: DELIVERY_BYTES }

/** Bytes dropped after `close` before the peer is reset. As node-conn.ts. */
const LINGER_BYTES_MAX = 1_048_576

/** Something with events to deliver in the next batch. */
export interface PipeTask {
  isQueued: boolean
  run(): void
}

/** The event loop of pipes: batches of deliveries, each followed by the flushes that were asked for. */
export class PipeLoop {
  readonly options: PipeOptions
  readonly timers: TimerWheel
  private tasks: PipeTask[] = []
  private flushables: Flushable[] = []
  private isArmed = false
  private readonly onBatch = (): void => this.runBatch()

  constructor(options: PipeOptions = PIPE_OPTIONS, timers: TimerWheel = new TimerWheel()) {
    this.options = options
    this.timers = timers
  }

  /** Nothing is waiting to be delivered or flushed. */
  get isIdle(): boolean {
    return !this.isArmed
  }

  enqueue(task: PipeTask): void {
    if (task.isQueued) return
    task.isQueued = true
    this.tasks.push(task)
    this.arm()
  }

  atBatchEnd(flushable: Flushable): void {
    if (flushable.isFlushPending) return
    flushable.isFlushPending = true
    this.flushables.push(flushable)
    this.arm()
  }

  private arm(): void {
    if (this.isArmed) return
    this.isArmed = true
    setImmediate(this.onBatch)
  }

  private runBatch(): void {
    this.isArmed = false
    const tasks = this.tasks
    this.tasks = []
    for (const task of tasks) {
      task.isQueued = false
      task.run()
    }
    const flushables = this.flushables
    this.flushables = []
    for (const flushable of flushables) {
      flushable.isFlushPending = false
      flushable.flush()
    }
  }
}

/** Address facts of one end. */
export interface PipeEnd {
  readonly address: string
  readonly port: number
  /** Identity that this end proves to the other; null without mutual TLS. */
  readonly identity: string | null
}

const STATE_OPENING = 0
const STATE_OPEN = 1
/** Closed for its owner; the handler is told in the next batch. */
const STATE_CLOSING = 2
const STATE_CLOSED = 3
type State = typeof STATE_OPENING | typeof STATE_OPEN | typeof STATE_CLOSING | typeof STATE_CLOSED

export class PipeConn implements Conn, PipeTask, TimerTarget {
  handler: Handler
  isQueued = false
  localAddress: string
  localPort: number
  remoteAddress: string
  remotePort: number
  peerIdentity: string | null
  alpn: string | null
  private readonly loop: PipeLoop
  private other: PipeConn | null = null
  private state: State = STATE_OPENING
  private isConnected = false
  private pauses = 0
  /** From us to the other end, not delivered yet. */
  private readonly outgoing = new ByteQueue()
  private isEnding = false
  private isEndDelivered = false
  private wantsDrain = false
  /** `close` was called: the owner hears no more, the other end still gets what was written. */
  private isLingering = false
  private lingerBytes = 0
  private error: WeftError | null = null
  private idleTimeoutMs = 0
  private readonly idleEntry = new TimerEntry(this)

  constructor(loop: PipeLoop, handler: Handler, local: PipeEnd, remote: PipeEnd) {
    this.loop = loop
    this.handler = handler
    this.localAddress = local.address
    this.localPort = local.port
    this.remoteAddress = remote.address
    this.remotePort = remote.port
    this.peerIdentity = remote.identity
    this.alpn = remote.identity === null ? null : 'h2'
  }

  /** Joins two ends; each opens in the next batch. */
  connectTo(other: PipeConn): void {
    this.other = other
    other.other = this
    this.isConnected = true
    other.isConnected = true
    this.loop.enqueue(this)
    other.loop.enqueue(other)
  }

  get backlog(): number {
    return this.outgoing.length
  }

  get isClosed(): boolean {
    return this.state >= STATE_CLOSING
  }

  // --- writing ---

  write(bytes: Uint8Array, offset: number, length: number): number {
    if (this.state >= STATE_CLOSING || this.isEnding || length === 0) return this.backlog
    this.outgoing.push(bytes, offset, length)
    this.touch()
    if (this.outgoing.length > BACKLOG_HIGH) this.wantsDrain = true
    this.wakeOther()
    return this.outgoing.length
  }

  end(): void {
    if (this.state >= STATE_CLOSING || this.isEnding) return
    this.isEnding = true
    this.loop.enqueue(this)
    this.wakeOther()
  }

  abort(): void {
    if (this.state >= STATE_CLOSING) return
    this.outgoing.clear()
    this.closeLater(null)
    this.other?.receiveReset()
  }

  close(): void {
    if (this.state >= STATE_CLOSING) return
    if (this.state === STATE_OPENING) {
      this.abort()
      return
    }
    this.isEnding = true
    this.isLingering = true
    this.closeLater(null)
    this.wakeOther()
  }

  // --- reading ---

  pauseReading(): void {
    this.pauses++
  }

  resumeReading(): void {
    if (this.pauses === 0) return
    this.pauses--
    if (this.pauses === 0) this.loop.enqueue(this)
  }

  setIdleTimeout(timeoutMs: number): void {
    this.idleTimeoutMs = timeoutMs
    this.loop.timers.clear(this.idleEntry)
    if (timeoutMs > 0 && this.state < STATE_CLOSING) this.loop.timers.start(this.idleEntry, timeoutMs)
  }

  onTimer(): void {
    if (this.state >= STATE_CLOSING) return
    this.fail(new WeftError('WEFT_TIMEOUT', `the connection with ${this.remoteAddress} was idle for too long`))
    this.other?.receiveReset()
  }

  // --- the loop ---

  /** Reports, in the order of the contract, what this end has to hear now. */
  run(): void {
    if (this.state === STATE_OPENING && this.isConnected) {
      this.state = STATE_OPEN
      this.handler.onOpen(this)
    }
    if (this.state === STATE_OPEN) this.deliver()
    if (this.state === STATE_OPEN && this.wantsDrain && this.outgoing.length === 0) {
      this.wantsDrain = false
      this.handler.onDrain(this)
    }
    if (this.state === STATE_OPEN && this.isEnding && this.outgoing.length === 0 && this.isEndDelivered) {
      this.closeLater(null)
    }
    if (this.state === STATE_CLOSING) {
      this.state = STATE_CLOSED
      this.handler.onClose(this, this.error)
    }
    if (this.isLingering && this.state === STATE_CLOSED) this.dropInput()
  }

  /** Ends it before it is open, or from outside; the handler is told in the next batch. */
  fail(error: WeftError): void {
    if (this.state >= STATE_CLOSING) return
    this.outgoing.clear()
    this.closeLater(error)
  }

  private deliver(): void {
    const other = this.other!
    const incoming = other.outgoing
    let budget = DELIVERY_BYTES
    while (incoming.length > 0 && budget > 0 && this.pauses === 0 && this.state === STATE_OPEN) {
      const count = Math.min(incoming.headLength, budget, this.loop.options.chunkBytesMax)
      const bytes = incoming.headBytes
      const start = incoming.headStart
      incoming.shift(count)
      budget -= count
      this.touch()
      this.handler.onBytes(this, bytes, start, start + count)
      bytes.fill(POISON, start, start + count)
    }
    if (this.state !== STATE_OPEN || this.pauses > 0) return
    if (incoming.length > 0) {
      this.loop.enqueue(this)
      return
    }
    other.wakeWhenTaken()
    if (!other.isEnding || this.isEndDelivered) return
    this.isEndDelivered = true
    this.handler.onEnd(this)
  }

  /** After `close` the peer may go on for a while; what it sends is dropped, and too much of it answered with a reset. */
  private dropInput(): void {
    const other = this.other!
    this.lingerBytes += other.outgoing.length
    other.outgoing.clear()
    if (this.lingerBytes > LINGER_BYTES_MAX) other.receiveReset()
    else other.wakeWhenTaken()
  }

  /** All that we wrote was taken: we may have a drain to hear of, or be done. */
  private wakeWhenTaken(): void {
    if (this.state === STATE_OPEN && (this.wantsDrain || this.isEnding)) this.loop.enqueue(this)
  }

  private receiveReset(): void {
    this.fail(new WeftError('WEFT_RESET', `${this.remoteAddress}:${this.remotePort} reset the connection`))
  }

  private closeLater(error: WeftError | null): void {
    this.state = STATE_CLOSING
    this.error = error
    this.loop.timers.clear(this.idleEntry)
    this.loop.enqueue(this)
  }

  private wakeOther(): void {
    const other = this.other
    if (other !== null) other.loop.enqueue(other)
  }

  private touch(): void {
    if (this.idleTimeoutMs > 0) this.loop.timers.start(this.idleEntry, this.idleTimeoutMs)
  }
}

const END_A: PipeEnd = { address: '127.0.0.1', port: 1, identity: null }
const END_B: PipeEnd = { address: '127.0.0.1', port: 2, identity: null }

/** Handler of an end until its owner has set one. */
export const DEAF_HANDLER: Handler = {
  onOpen(): void {},
  onBytes(): void {},
  onEnd(): void {},
  onDrain(): void {},
  onClose(): void {},
}

/** Two connected ends. Set their handlers before the next turn of the event loop. */
export function createPipe(loop: PipeLoop = new PipeLoop()): [PipeConn, PipeConn] {
  const first = new PipeConn(loop, DEAF_HANDLER, END_A, END_B)
  const second = new PipeConn(loop, DEAF_HANDLER, END_B, END_A)
  first.connectTo(second)
  return [first, second]
}
