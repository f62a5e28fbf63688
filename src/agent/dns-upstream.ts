/**
 * Sends what the mesh does not answer to the resolver that the pod asked, from inside the pod's netns, past the capture:
 * each query from a socket and a random port of its own, connected, so that nobody but the resolver is heard.
 */
import { familyOf } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Cancellation, ForwardFailure, ReplyHandler, Upstream } from '../dns/upstream.ts'
import type { Addon } from '../kernel/addon.ts'
import { openResolverSocket } from '../kernel/dns-capture.ts'
import { DnsFrames, frameMessage, type MessageSink } from '../proxy/dns-frames.ts'
import { PORT_DOMAIN } from '../proxy/outbound-dns.ts'
import type { PodSockets } from '../proxy/parts.ts'
import type { Conn, Handler, Transport } from '../transport/conn.ts'
import type { DatagramHandler, DatagramSocket, Datagrams } from '../transport/datagram.ts'
import type { PodDialing } from './capture.ts'

/** Longest wait for a TCP connection to a resolver; the query itself is timed by who asks. */
const CONNECT_TIMEOUT_MS = 5_000

/** What forwarding needs of its worker. */
export interface DnsUpstreamOptions {
  readonly transport: Transport
  readonly datagrams: Datagrams
  readonly addon: Addon
  readonly sockets: PodSockets
  /** Null when the pod is not enrolled (any more). */
  readonly dialingOf: (podUid: string) => PodDialing | null
  readonly log: Logger
}

/** See the head of the file. */
export class DnsUpstream implements Upstream {
  private readonly options: DnsUpstreamOptions

  constructor(options: DnsUpstreamOptions) {
    this.options = options
  }

  forward(
    source: string,
    resolverAddress: string,
    bytes: Uint8Array,
    isTcp: boolean,
    handler: ReplyHandler,
  ): Cancellation {
    try {
      return isTcp
        ? this.forwardByTcp(source, resolverAddress, bytes, handler)
        : this.forwardByUdp(source, resolverAddress, bytes, handler)
    } catch (error) {
      const reason = shortageIn(error) ? 'exhausted' : 'unreachable'
      this.options.log.debug('a query is not forwarded', {
        pod: source,
        resolver: resolverAddress,
        error: describeError(error),
      })
      handler.onFailure(reason)
      return NOTHING
    }
  }

  private forwardByUdp(source: string, address: string, bytes: Uint8Array, handler: ReplyHandler): Cancellation {
    const { datagrams, addon, dialingOf } = this.options
    const dialing = dialingOf(source)
    if (dialing === null) throw new WeftError('WEFT_SYSCALL', `pod ${source} is no longer enrolled on this node`)
    const fd = openResolverSocket(addon, dialing, familyOf(address))
    const forward = new DatagramForward(handler)
    const socket = datagrams.connect(fd, address, PORT_DOMAIN, forward)
    forward.begin(socket)
    if (!socket.send(bytes)) forward.fail('unreachable')
    return forward
  }

  private forwardByTcp(source: string, address: string, bytes: Uint8Array, handler: ReplyHandler): Cancellation {
    const { transport, sockets } = this.options
    const origin = sockets.originIn(source, address)
    const forward = new StreamForward(frameMessage(bytes), handler)
    const options = { address, port: PORT_DOMAIN, origin, timeoutMs: CONNECT_TIMEOUT_MS, tls: null }
    forward.begin(transport.connect({ ...options, expectedIdentities: [] }, forward))
    return forward
  }
}

/** One query over UDP. */
class DatagramForward implements DatagramHandler, Cancellation {
  private readonly handler: ReplyHandler
  private socket: DatagramSocket | null
  private isOver: boolean

  constructor(handler: ReplyHandler) {
    this.handler = handler
    this.socket = null
    this.isOver = false
  }

  begin(socket: DatagramSocket): void {
    this.socket = socket
  }

  onDatagram(_socket: DatagramSocket, bytes: Uint8Array, _ends: number, offset: number, end: number): void {
    if (!this.isOver) this.handler.onReply(bytes.slice(offset, end))
  }

  onDatagramError(_socket: DatagramSocket, code: string): void {
    this.fail(code === 'ECONNREFUSED' ? 'refused' : 'unreachable')
  }

  fail(reason: ForwardFailure): void {
    if (this.isOver) return
    this.cancel()
    this.handler.onFailure(reason)
  }

  cancel(): void {
    this.isOver = true
    this.socket?.close()
  }
}

/** One query over TCP, on a connection of its own. */
class StreamForward implements Handler, MessageSink, Cancellation {
  private readonly handler: ReplyHandler
  private readonly frames: DnsFrames
  private readonly framed: Uint8Array
  private conn: Conn | null
  private isOpen: boolean
  private isOver: boolean

  constructor(framed: Uint8Array, handler: ReplyHandler) {
    this.handler = handler
    this.frames = new DnsFrames(this)
    this.framed = framed
    this.conn = null
    this.isOpen = false
    this.isOver = false
  }

  begin(conn: Conn): void {
    this.conn = conn
  }

  onOpen(conn: Conn): void {
    this.isOpen = true
    conn.write(this.framed, 0, this.framed.length)
  }

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.frames.push(bytes, offset, end)
  }

  onMessage(message: Uint8Array): boolean {
    if (!this.isOver) this.handler.onReply(message)
    return !this.isOver
  }

  onEnd(): void {
    this.fail('closed')
  }

  onDrain(): void {}

  onClose(_conn: Conn, error: WeftError | null): void {
    if (this.isOpen) this.fail('closed')
    else this.fail(codeOf(error) === 'ECONNREFUSED' ? 'refused' : 'unreachable')
  }

  cancel(): void {
    this.isOver = true
    this.conn?.close()
  }

  private fail(reason: ForwardFailure): void {
    if (this.isOver) return
    this.cancel()
    this.handler.onFailure(reason)
  }
}

const NOTHING: Cancellation = { cancel: () => {} }

/** The errno's name in an error, or in what caused it. */
function codeOf(error: unknown): string {
  for (let at = error; at instanceof Error; at = at.cause) {
    if ('code' in at && typeof at.code === 'string' && /^E[A-Z]+$/.test(at.code)) return at.code
  }
  return ''
}

function shortageIn(error: unknown): boolean {
  return /^(EMFILE|ENFILE|ENOBUFS|ENOMEM|EADDRNOTAVAIL|EAGAIN)$/.test(codeOf(error))
}
