// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** Datagram sockets on the native reactor (native/addon/reactor_udp.cc). */
import { WeftError } from '../base/errors.ts'
import { type DatagramHandler, type DatagramSocket, type Datagrams, dropsOf, ENDS_BYTES } from './datagram.ts'
import type { Reactor } from './reactor-addon.ts'
import { NO_ID } from './reactor-conn.ts'
import { errnoError } from './reactor-failure.ts'

/** What a datagram socket needs of its transport. */
export interface ReactorDatagramOwner {
  readonly reactor: Reactor
  readonly arena: Uint8Array
  /** What was written outside of a batch of events is sent at the end of the turn. */
  armBatchEnd(): void
  register(id: number, target: ReactorDatagram): void
  forget(id: number): void
}

/** One datagram socket. */
export class ReactorDatagram implements DatagramSocket {
  private readonly owner: ReactorDatagramOwner
  private readonly datagrams: ReactorDatagrams
  private readonly handler: DatagramHandler
  private id: number
  /** The kernel's count, which only goes up. */
  private drops: number

  constructor(owner: ReactorDatagramOwner, datagrams: ReactorDatagrams, handler: DatagramHandler, id: number) {
    this.owner = owner
    this.datagrams = datagrams
    this.handler = handler
    this.id = id
    this.drops = 0
  }

  send(bytes: Uint8Array): boolean {
    if (this.id === NO_ID) return false
    const error = -this.owner.reactor.sendDatagram(this.id, bytes, 0, bytes.length)
    return error === 0 || isPassing(error)
  }

  reply(ends: Uint8Array, bytes: Uint8Array): void {
    if (this.id === NO_ID) return
    this.owner.reactor.replyDatagram(this.id, ends, bytes, 0, bytes.length)
    this.owner.armBatchEnd()
  }

  close(): void {
    if (this.id === NO_ID) return
    const { id } = this
    this.id = NO_ID
    this.owner.forget(id)
    this.owner.reactor.close(id, false)
  }

  // --- what the reactor tells ---

  received(at: number, length: number): void {
    const { arena } = this.owner
    const drops = dropsOf(arena, at)
    if (drops !== this.drops) {
      this.datagrams.receivedDropped += (drops - this.drops) >>> 0
      this.drops = drops
    }
    this.handler.onDatagram(this, arena, at, at + ENDS_BYTES, at + length)
  }

  failed(errno: number): void {
    this.handler.onDatagramError(this, errnoError(errno).code)
  }
}

/** Opens them, and counts what they drop. */
export class ReactorDatagrams implements Datagrams {
  receivedDropped = 0
  private readonly owner: ReactorDatagramOwner

  constructor(owner: ReactorDatagramOwner) {
    this.owner = owner
  }

  get sentDropped(): number {
    return this.owner.reactor.droppedDatagrams()
  }

  open(fd: number, handler: DatagramHandler): DatagramSocket {
    return this.register(this.owner.reactor.openDatagram(fd, '', 0), `descriptor ${fd} as a datagram socket`, handler)
  }

  connect(fd: number, address: string, port: number, handler: DatagramHandler): DatagramSocket {
    const id = this.owner.reactor.openDatagram(fd, address, port)
    return this.register(id, `a datagram socket to ${address}`, handler)
  }

  private register(id: number, what: string, handler: DatagramHandler): DatagramSocket {
    if (id < 0) {
      const error = errnoError(-id)
      throw new WeftError('WEFT_SYSCALL', `cannot use ${what}: ${error.code}`, error)
    }
    const socket = new ReactorDatagram(this.owner, this, handler, id)
    this.owner.register(id, socket)
    return socket
  }
}

// Errors of a full buffer (counted by the reactor): the datagram is lost, as it may be on any way. From errno.h.
const EAGAIN = 11
const ENOBUFS = 105

function isPassing(errno: number): boolean {
  return errno === EAGAIN || errno === ENOBUFS
}
