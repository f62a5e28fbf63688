// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * A Conn on the reactor, plain or TLS. Bytes and queues are native; here is what they mean for who uses the
 * connection: the order of its events, its ends, its timeouts.
 *
 * Life: OPENING -> OPEN -> CLOSING (close was called, output still leaves) or DROPPED (the handler is told after the
 * batch) -> CLOSED (it was told). A closed connection may linger: its descriptor is given back exactly where `id`
 * becomes NO_ID.
 */
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget, type TimerWheel } from '../base/timers.ts'
import type { Conn, Handler } from './conn.ts'
import { ipv4Text } from './ipv4-text.ts'
import type { NodeTransportSettings } from './node-settings.ts'
import { FAILURE_TLS, type Reactor, type ReactorAddon } from './reactor-addon.ts'
import { describeFailure } from './reactor-failure.ts'
import type { ReactorListener } from './reactor-listener.ts'
import type { ReactorTlsContext } from './reactor-tls.ts'

const STATE_OPENING = 0
const STATE_OPEN = 1
const STATE_CLOSING = 2
const STATE_DROPPED = 3
const STATE_CLOSED = 4
type State =
  | typeof STATE_OPENING
  | typeof STATE_OPEN
  | typeof STATE_CLOSING
  | typeof STATE_DROPPED
  | typeof STATE_CLOSED

/** `end` was called (or `close`). */
const FLAG_END_WANTED = 1
/** Our end is with the kernel. */
const FLAG_END_SENT = 2
/** The peer ended its side. */
const FLAG_PEER_ENDED = 4
/** The handler has still to be told of that: reading was paused. */
const FLAG_END_HELD = 8
/** Held bytes wait for the end of the batch. */
const FLAG_RELEASE_QUEUED = 16

export const NO_ID = -1

/** What a connection needs of its transport. */
export interface ReactorConnOwner {
  readonly addon: ReactorAddon
  readonly reactor: Reactor
  readonly arena: Uint8Array
  readonly settings: NodeTransportSettings
  /** For what most connections have and hardly any meets: idle times, patience with who is being closed. */
  readonly timers: TimerWheel
  /** Sees to it that a batch ends soon; to be called after anything that was asked of the reactor. */
  armBatchEnd(): void
  /** `afterBatch` of the connection is called, never inside the call that asks for it. */
  callAfterBatch(conn: ReactorConn): void
  /** The connection's id is no longer its own. */
  forget(id: number): void
}

export class ReactorConn implements Conn, TimerTarget {
  handler: Handler
  id: number
  localAddress = ''
  localPort = 0
  remoteAddress = ''
  remotePort = 0
  peerIdentity: string | null = null
  alpn: string | null = null
  /** Credentials of a connection with TLS, until its handshake is over. */
  tls: ReactorTlsContext | null = null
  /** The TCP connection stands, TLS is not done. */
  isHandshaking = false
  /** Set by who makes the connection, while a connect or handshake is under way; later our own. */
  deadline: NodeJS.Timeout | null = null
  /** Identities of which a dialled server must prove one. */
  expectedIdentities: readonly string[] = NO_IDENTITIES
  /** Where it was accepted, until its handshake is over. */
  listener: ReactorListener | null = null
  private readonly owner: ReactorConnOwner
  private state: State = STATE_OPENING
  private flags = 0
  private pauses = 0
  private idleTimeoutMs = 0
  /** Made when first needed. Open: idle time; closing: the peer must take something; closed: it must end. */
  private timer: TimerEntry | null = null
  /** Tick of the wheel in which something was last sent or received. */
  private activeTick = 0
  /** Bytes that came in the batch in which reading was paused. */
  private held: Uint8Array[] | null = null
  private stalledBacklog = 0
  private closeError: WeftError | null = null

  constructor(owner: ReactorConnOwner, handler: Handler, id: number) {
    this.owner = owner
    this.handler = handler
    this.id = id
  }

  get isClosed(): boolean {
    return this.state >= STATE_CLOSING
  }

  get backlog(): number {
    return this.id === NO_ID ? 0 : this.owner.reactor.backlog(this.id)
  }

  /** True until `onOpen`. */
  get isOpening(): boolean {
    return this.state === STATE_OPENING
  }

  /** `ip:port` of the peer, for messages. */
  get peerName(): string {
    return formatHostPort(this.remoteAddress, this.remotePort)
  }

  // --- writing ---

  write(bytes: Uint8Array, offset: number, length: number): number {
    if (this.state > STATE_OPEN || (this.flags & FLAG_END_WANTED) !== 0) return this.backlog
    const { owner } = this
    this.activeTick = owner.timers.nowTick
    owner.armBatchEnd()
    return bytes === owner.arena
      ? owner.reactor.writeArena(this.id, offset, length)
      : owner.reactor.write(this.id, bytes, offset, length)
  }

  end(): void {
    if (this.state > STATE_OPEN || (this.flags & FLAG_END_WANTED) !== 0) return
    this.flags |= FLAG_END_WANTED
    this.owner.reactor.end(this.id)
    this.owner.armBatchEnd()
  }

  // --- closing ---

  close(): void {
    if (this.state === STATE_OPENING) {
      this.abort()
    } else if (this.state === STATE_OPEN) {
      this.end()
      this.state = STATE_CLOSING
      this.held = null
      this.clearTimer()
      // A peer that ends, or resets, must be seen.
      if (this.pauses > 0) this.owner.reactor.resume(this.id)
      if ((this.flags & FLAG_END_SENT) !== 0) {
        this.owner.callAfterBatch(this)
      } else {
        this.stalledBacklog = this.backlog
        this.startTimer(this.owner.settings.closeStallMs)
      }
    }
  }

  abort(): void {
    if (this.state >= STATE_DROPPED) return
    this.release(true)
    this.state = STATE_DROPPED
    this.owner.callAfterBatch(this)
  }

  /** Ends the connection for a reason of the transport's own (a refused peer, a time-out); the peer is reset. */
  fail(error: WeftError): void {
    if (this.state >= STATE_DROPPED) return
    this.release(true)
    this.report(error)
  }

  /** The same before there is anything to reset; the handler hears of it after the call that made the connection. */
  failLater(error: WeftError): void {
    this.closeError = error
    this.state = STATE_DROPPED
    this.owner.callAfterBatch(this)
  }

  /** What had to wait for the end of the batch. */
  afterBatch(): void {
    if (this.state === STATE_DROPPED) this.report(this.closeError)
    else if (this.state === STATE_CLOSING && (this.flags & FLAG_END_SENT) !== 0) this.linger()
    else if ((this.flags & FLAG_RELEASE_QUEUED) !== 0) this.releaseHeld()
  }

  /**
   * Our side is sent and ended, and the handler is done with. Had the descriptor been closed now, with bytes of the
   * peer still to come, the kernel would answer those with a reset, which can destroy at the peer what we sent last.
   */
  private linger(): void {
    if ((this.flags & FLAG_PEER_ENDED) !== 0) this.release(false)
    else this.discard()
    this.report(null)
  }

  /** Nothing more is sent; what arrives is dropped until the peer ends, or time is up. */
  private discard(): void {
    const { owner } = this
    this.held = null
    this.clearDeadline()
    owner.reactor.discard(this.id)
    owner.armBatchEnd()
    this.startTimer(owner.settings.lingerMs)
  }

  /** Looks whether a closing connection's peer took anything since the last look. */
  private closeStalled(): void {
    const { backlog } = this
    if (backlog < this.stalledBacklog) {
      this.stalledBacklog = backlog
      this.startTimer(this.owner.settings.closeStallMs)
    } else {
      this.fail(new WeftError('WEFT_TIMEOUT', `${this.peerName} did not take the last bytes sent to it`))
    }
  }

  /** Gives the descriptor back. */
  private release(isReset: boolean): void {
    const { id, owner } = this
    this.clearDeadline()
    this.clearTimer()
    this.held = null
    if (id === NO_ID) return
    this.id = NO_ID
    owner.forget(id)
    owner.reactor.close(id, isReset)
  }

  /** Tells the handler, once. */
  private report(error: WeftError | null): void {
    if (this.state === STATE_CLOSED) return
    this.state = STATE_CLOSED
    const { listener } = this
    if (listener === null) {
      this.handler.onClose(this, error)
    } else {
      this.listener = null
      listener.handshakeEnded(this, error)
    }
  }

  // --- reading ---

  pauseReading(): void {
    this.pauses++
    if (this.pauses === 1 && this.state <= STATE_OPEN) this.owner.reactor.pause(this.id)
  }

  resumeReading(): void {
    if (this.pauses === 0) return
    this.pauses--
    if (this.pauses > 0 || this.state > STATE_OPEN) return
    if (this.held !== null || (this.flags & FLAG_END_HELD) !== 0) {
      if ((this.flags & FLAG_RELEASE_QUEUED) !== 0) return
      this.flags |= FLAG_RELEASE_QUEUED
      this.owner.callAfterBatch(this)
    } else {
      this.owner.reactor.resume(this.id)
      this.owner.armBatchEnd()
    }
  }

  /** Resumed: first what came in the batch of the pause, then the reactor goes on. */
  private releaseHeld(): void {
    this.flags &= ~FLAG_RELEASE_QUEUED
    while (this.held !== null && this.held.length > 0) {
      if (this.pauses > 0 || this.state !== STATE_OPEN) return
      const bytes = this.held.shift()!
      this.handler.onBytes(this, bytes, 0, bytes.length)
    }
    this.held = null
    if (this.pauses > 0 || this.state !== STATE_OPEN) return
    if ((this.flags & FLAG_END_HELD) !== 0) {
      this.flags &= ~FLAG_END_HELD
      this.tellEnd()
    }
    if (this.pauses > 0 || this.state !== STATE_OPEN) return
    this.owner.reactor.resume(this.id)
    this.owner.armBatchEnd()
  }

  setIdleTimeout(timeoutMs: number): void {
    this.idleTimeoutMs = timeoutMs
    if (this.state !== STATE_OPEN) return
    this.activeTick = this.owner.timers.nowTick
    if (timeoutMs > 0) this.startTimer(timeoutMs)
    else this.clearTimer()
  }

  /** Looks how long it was quiet: one timer that now and then goes round again costs less than a restart per event. */
  private checkIdle(): void {
    const { timers } = this.owner
    const quietMs = (timers.nowTick - this.activeTick - 1) * timers.tickMs
    if (quietMs < this.idleTimeoutMs) {
      this.startTimer(this.idleTimeoutMs - quietMs - timers.tickMs)
      return
    }
    this.fail(new WeftError('WEFT_TIMEOUT', `the connection with ${this.peerName} was idle for too long`))
  }

  // --- what the reactor tells ---

  /** Bytes arrived in the arena; lent until return. */
  received(offset: number, length: number): void {
    if (this.state !== STATE_OPEN) return
    const { arena } = this.owner
    this.activeTick = this.owner.timers.nowTick
    if (this.pauses === 0 && this.held === null) {
      this.handler.onBytes(this, arena, offset, offset + length)
      return
    }
    // At most what one step of the reactor delivers, as it reads no more of a paused connection.
    this.held ??= []
    this.held.push(arena.slice(offset, offset + length))
  }

  peerEnded(): void {
    if (this.state === STATE_CLOSED) {
      this.release(false)
      return
    }
    this.flags |= FLAG_PEER_ENDED
    if (this.state !== STATE_OPEN) return
    if (this.pauses > 0 || this.held !== null) this.flags |= FLAG_END_HELD
    else this.tellEnd()
  }

  private tellEnd(): void {
    this.handler.onEnd(this)
    this.completeIfEnded()
  }

  /** Our end is with the kernel. */
  finished(): void {
    this.flags |= FLAG_END_SENT
    if (this.state === STATE_CLOSING) this.linger()
    else this.completeIfEnded()
  }

  private completeIfEnded(): void {
    const both = FLAG_END_SENT | FLAG_PEER_ENDED
    if (this.state !== STATE_OPEN || (this.flags & (both | FLAG_END_HELD)) !== both) return
    this.release(false)
    this.report(null)
  }

  drained(): void {
    if (this.state === STATE_OPEN && (this.flags & FLAG_END_WANTED) === 0) this.handler.onDrain(this)
  }

  /** The addresses, as soon as there are any. */
  readEndpoints(): void {
    const { reactor } = this.owner
    if (reactor.ipv4Ends(this.id, ends)) {
      this.localAddress = ipv4Text(ends[0]!)
      this.localPort = ends[1]!
      this.remoteAddress = ipv4Text(ends[2]!)
      this.remotePort = ends[3]!
      return
    }
    const [localAddress, localPort, remoteAddress, remotePort] = reactor.endpoints(this.id)
    this.localAddress = localAddress
    this.localPort = localPort
    // A connection that broke meanwhile has no peer any more; who was dialled is known all the same.
    if (remoteAddress === '') return
    this.remoteAddress = remoteAddress
    this.remotePort = remotePort
  }

  /** Connected, and with TLS the peer is proved. */
  opened(): void {
    this.clearDeadline()
    this.isHandshaking = false
    this.tls = null
    this.state = STATE_OPEN
    if (this.idleTimeoutMs > 0) this.setIdleTimeout(this.idleTimeoutMs)
    this.handler.onOpen(this)
  }

  /** The reactor gave up on the connection. */
  failed(kind: number, verifyResult: number, code: number): void {
    if (this.state === STATE_CLOSED) {
      this.release(false)
      return
    }
    const error = describeFailure(this, this.owner.addon, kind, verifyResult, code)
    // OpenSSL's alert is on its way out, and a reset would overtake it.
    if (kind === FAILURE_TLS) this.discard()
    else this.release(true)
    this.report(error)
  }

  // --- timers ---

  setDeadline(listener: (conn: ReactorConn) => void, timeoutMs: number): void {
    this.clearDeadline()
    this.deadline = setTimeout(listener, timeoutMs, this)
  }

  clearDeadline(): void {
    if (this.deadline !== null) clearTimeout(this.deadline)
    this.deadline = null
  }

  onTimer(): void {
    if (this.state === STATE_OPEN) this.checkIdle()
    else if (this.state === STATE_CLOSING) this.closeStalled()
    else if (this.state === STATE_CLOSED) this.release(false)
  }

  private startTimer(timeoutMs: number): void {
    this.timer ??= new TimerEntry(this)
    this.owner.timers.start(this.timer, timeoutMs)
  }

  private clearTimer(): void {
    if (this.timer !== null) this.owner.timers.clear(this.timer)
  }
}

/** Filled by the reactor, read at once. */
const ends = new Int32Array(4)

const NO_IDENTITIES: readonly string[] = []
