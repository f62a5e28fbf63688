// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The transport on the native reactor: sockets and TLS by epoll and OpenSSL in the addon, one callback per batch of
 * events. With reactor-listener.ts, reactor-conn.ts and reactor-tls.ts it is the TypeScript side of native/addon/reactor*.
 *
 * What is written during a batch leaves at its end: first protocol code flushes what it gathered, then the reactor
 * sends once per connection. Outside of a batch (timers, messages) one setImmediate does the same.
 */
import { WeftError } from '../base/errors.ts'
import { TimerWheel } from '../base/timers.ts'
import {
  type Acceptor,
  BACKLOG_HIGH,
  type Conn,
  type ConnectOptions,
  type Flushable,
  type Handler,
  type ListenerHandle,
  type ListenTarget,
  TLS_OF_TUNNELS,
  type TlsContext,
  type TlsContextSource,
  type TlsMaterial,
  type TlsOptions,
  type Transport,
} from './conn.ts'
import { connectError, connectTimeout } from './connect-error.ts'
import { DEFAULT_NODE_TRANSPORT_SETTINGS, KEEP_ALIVE_MS, type NodeTransportSettings } from './node-settings.ts'
import {
  EVENT_ACCEPT_FAILED,
  EVENT_ACCEPTED,
  EVENT_BYTES,
  EVENT_CONNECTED,
  EVENT_DATAGRAM,
  EVENT_DATAGRAM_FAILED,
  EVENT_DRAINED,
  EVENT_ENDED,
  EVENT_FAILED,
  EVENT_FINISHED,
  EVENT_SECURED,
  type Reactor,
  type ReactorAddon,
} from './reactor-addon.ts'
import { NO_ID, ReactorConn } from './reactor-conn.ts'
import { ReactorDatagram, type ReactorDatagramOwner, ReactorDatagrams } from './reactor-datagrams.ts'
import { errnoError } from './reactor-failure.ts'
import { ReactorListener, type ReactorListenerOwner } from './reactor-listener.ts'
import { ReactorTlsContext } from './reactor-tls.ts'
import { checkServer, noCommonProtocol } from './tls-identity.ts'

/** Received bytes of one batch. 1 MiB: sixteen full reads, and it stays in a core's cache. */
const ARENA_BYTES = 1_048_576

/** Events of one batch. */
const EVENTS_MAX = 2_048

/** Bits of an id that are the slot; the rest are its generation. As in native/addon/reactor.cc. */
const SLOT_MASK = 0xf_ffff

export interface ReactorTransportOptions {
  readonly settings?: NodeTransportSettings
  /** Overwrites lent bytes after each batch, so that a kept slice shows. For tests. */
  readonly isPoisoning?: boolean
}

export class ReactorTransport implements Transport, ReactorListenerOwner, ReactorDatagramOwner {
  readonly addon: ReactorAddon
  readonly reactor: Reactor
  readonly settings: NodeTransportSettings
  readonly arena: Uint8Array
  readonly timers: TimerWheel = new TimerWheel()
  readonly datagrams: ReactorDatagrams = new ReactorDatagrams(this)
  private readonly events: Int32Array
  /** By slot; who is there must have the whole id. */
  private readonly targets: (ReactorConn | ReactorListener | ReactorDatagram | null)[] = []
  private readonly ids: number[] = []
  private flushables: Flushable[] = []
  private flushablesSpare: Flushable[] = []
  private waiting: ReactorConn[] = []
  private waitingSpare: ReactorConn[] = []
  /** Events of the current batch that were dispatched. */
  private dispatched = 0
  private isInBatch = false
  private isBatchEndArmed = false
  private readonly onBatchEnd: () => void

  /** Throws WeftError WEFT_SYSCALL when the kernel has no descriptor for it. */
  constructor(addon: ReactorAddon, options: ReactorTransportOptions = {}) {
    this.addon = addon
    this.settings = options.settings ?? DEFAULT_NODE_TRANSPORT_SETTINGS
    // No Buffer: whose `slice` would be a view of the arena and not the copy that its users mean.
    this.arena = new Uint8Array(ARENA_BYTES)
    this.events = new Int32Array(EVENTS_MAX * 4)
    this.onBatchEnd = () => this.endTurn()
    const onBatch = (count: number): void => this.dispatch(count)
    const reactor = addon.createReactor(
      this.arena,
      this.events,
      onBatch,
      BACKLOG_HIGH,
      KEEP_ALIVE_MS / 1_000,
      options.isPoisoning ?? false,
    )
    if (typeof reactor === 'number') {
      const error = errnoError(-reactor)
      throw new WeftError('WEFT_SYSCALL', `the reactor cannot start: ${error.code}`, error)
    }
    this.reactor = reactor
  }

  // --- batches ---

  atBatchEnd(flushable: Flushable): void {
    if (flushable.isFlushPending) return
    flushable.isFlushPending = true
    this.flushables.push(flushable)
    this.armBatchEnd()
  }

  callAfterBatch(conn: ReactorConn): void {
    this.waiting.push(conn)
    this.armBatchEnd()
  }

  armBatchEnd(): void {
    if (this.isInBatch || this.isBatchEndArmed) return
    this.isBatchEndArmed = true
    setImmediate(this.onBatchEnd)
  }

  /** Called by the reactor; again, with the same count, when something threw. */
  private dispatch(count: number): void {
    this.isInBatch = true
    const { events } = this
    while (this.dispatched < count) {
      const at = this.dispatched * 4
      this.dispatched++
      this.dispatchOne(events[at]!, events[at + 1]!, events[at + 2]!, events[at + 3]!)
    }
    this.flush()
    this.dispatched = 0
    this.isInBatch = false
    // What was queued while flushing waits for the next batch, which may be long in coming.
    if (this.flushables.length > 0 || this.waiting.length > 0) this.armBatchEnd()
  }

  private dispatchOne(id: number, kind: number, a: number, b: number): void {
    const slot = id & SLOT_MASK
    const target = this.ids[slot] === id ? this.targets[slot]! : null
    if (target === null) {
      // Somebody closed its listener in this very batch: nobody knows the connection.
      if (kind === EVENT_ACCEPTED) this.reactor.close(a, true)
      return
    }
    if (target instanceof ReactorListener) {
      if (kind === EVENT_ACCEPTED) target.accepted(a)
      else if (kind === EVENT_ACCEPT_FAILED) target.acceptFailed(a)
      return
    }
    if (target instanceof ReactorDatagram) {
      if (kind === EVENT_DATAGRAM) target.received(a, b)
      else if (kind === EVENT_DATAGRAM_FAILED) target.failed(a)
      return
    }
    switch (kind) {
      case EVENT_BYTES:
        target.received(a, b)
        break
      case EVENT_ENDED:
        target.peerEnded()
        break
      case EVENT_DRAINED:
        target.drained()
        break
      case EVENT_FINISHED:
        target.finished()
        break
      case EVENT_CONNECTED:
        this.connected(target)
        break
      case EVENT_SECURED:
        this.secured(target, a)
        break
      case EVENT_FAILED:
        target.failed(a & 0xff, a >> 8, b)
        break
    }
  }

  private flush(): void {
    // Swapped: who queues itself again while flushing waits for the next batch.
    const flushables = this.flushables
    this.flushables = this.flushablesSpare
    this.flushablesSpare = flushables
    for (let i = 0; i < flushables.length; i++) {
      const flushable = flushables[i]!
      flushable.isFlushPending = false
      flushable.flush()
    }
    flushables.length = 0
    const waiting = this.waiting
    this.waiting = this.waitingSpare
    this.waitingSpare = waiting
    for (let i = 0; i < waiting.length; i++) waiting[i]!.afterBatch()
    waiting.length = 0
  }

  /** The end of a turn that no event of the reactor began. */
  private endTurn(): void {
    this.isBatchEndArmed = false
    this.isInBatch = true
    try {
      this.flush()
    } finally {
      this.isInBatch = false
      this.reactor.endBatch()
    }
    if (this.flushables.length > 0 || this.waiting.length > 0) this.armBatchEnd()
  }

  // --- who is who ---

  register(id: number, target: ReactorConn | ReactorListener | ReactorDatagram): void {
    const slot = id & SLOT_MASK
    // Filled in order, so that the arrays stay dense: the reactor hands out the lowest slots first.
    while (this.targets.length <= slot) {
      this.targets.push(null)
      this.ids.push(NO_ID)
    }
    this.targets[slot] = target
    this.ids[slot] = id
  }

  forget(id: number): void {
    const slot = id & SLOT_MASK
    if (this.ids[slot] !== id) return
    this.targets[slot] = null
    this.ids[slot] = NO_ID
  }

  // --- making connections ---

  tlsContext(material: TlsMaterial, options: TlsOptions = TLS_OF_TUNNELS): TlsContext {
    return new ReactorTlsContext(this.addon, material, options)
  }

  listen(target: ListenTarget, source: TlsContextSource | null, acceptor: Acceptor): Promise<ListenerHandle> {
    const listener = new ReactorListener(this, source, acceptor)
    try {
      listener.listen(target)
    } catch (error) {
      return Promise.reject(error)
    }
    return Promise.resolve(listener)
  }

  connect(options: ConnectOptions, handler: Handler): Conn {
    const { address, port, origin } = options
    const conn = new ReactorConn(this, handler, NO_ID)
    conn.remoteAddress = address
    conn.remotePort = port
    conn.expectedIdentities = options.expectedIdentities
    const tls = options.tls as ReactorTlsContext | null
    const native = tls === null ? null : tls.native
    const localAddress = origin.fd === null ? (origin.localAddress ?? '') : ''
    const id = this.reactor.connect(origin.fd ?? -1, address, port, localAddress, native)
    if (id < 0) {
      conn.failLater(connectError(errnoError(-id), address, port))
      return conn
    }
    conn.id = id
    conn.tls = tls
    this.register(id, conn)
    conn.deadline = setTimeout(onConnectTimeout, options.timeoutMs, conn, options)
    return conn
  }

  private connected(conn: ReactorConn): void {
    conn.readEndpoints()
    if (conn.tls !== null) conn.isHandshaking = true
    else conn.opened()
  }

  /** The chain is verified: judges who the peer is. */
  private secured(conn: ReactorConn, protocol: number): void {
    if (!conn.isHandshaking) return
    const protocols = conn.tls!.options.alpn
    const alpn = protocols[protocol] ?? null
    if (conn.listener !== null) {
      conn.listener.secured(conn, alpn)
      return
    }
    const names = this.reactor.takePeerNames(conn.id)
    const result =
      alpn === null
        ? noCommonProtocol(conn.peerName, protocols)
        : checkServer(names, conn.expectedIdentities, conn.peerName)
    if (result instanceof WeftError) {
      conn.fail(result)
      return
    }
    conn.peerIdentity = result
    conn.alpn = alpn
    this.reactor.approve(conn.id)
    conn.opened()
  }
}

function onConnectTimeout(conn: ReactorConn, options: ConnectOptions): void {
  conn.deadline = null
  conn.fail(connectTimeout(options, conn.isHandshaking))
}
