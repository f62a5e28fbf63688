/**
 * A network in memory: `listen` and `connect` by address and port, over pipes. For tests of everything above the
 * transport, with several parties in one thread.
 *
 * TLS is acted, not done: each side shows the identity of its context; bundles must be the same text (the same roots),
 * trust domains must match, and the client insists on one of its expected identities, as the real transport does.
 */
import { formatHostPort } from '../../src/base/address.ts'
import { WeftError } from '../../src/base/errors.ts'
import { parseIdentity } from '../../src/model/identity.ts'
import {
  type Acceptor,
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
  type Transport,
} from '../../src/transport/conn.ts'
import { DEAF_HANDLER, PipeConn, type PipeEnd, PipeLoop, type PipeTask } from './pipe.ts'

/** First of the ports that are given out. */
const PORT_EPHEMERAL = 49_152

const ANY_ADDRESS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

class PipeTlsContext implements TlsContext {
  readonly identity: string
  readonly options = TLS_OF_TUNNELS
  readonly trustDomain: string
  readonly bundle: string

  constructor(material: TlsMaterial) {
    this.identity = material.identity
    this.trustDomain = material.trustDomain
    this.bundle = material.bundle
  }

  trusts(other: PipeTlsContext): boolean {
    return this.bundle === other.bundle && parseIdentity(other.identity)?.trustDomain === this.trustDomain
  }
}

class PipeListener implements ListenerHandle {
  readonly address: string
  readonly port: number
  readonly tls: TlsContextSource | null
  readonly acceptor: Acceptor
  private readonly transport: PipeTransport

  constructor(
    transport: PipeTransport,
    address: string,
    port: number,
    tls: TlsContextSource | null,
    acceptor: Acceptor,
  ) {
    this.transport = transport
    this.address = address
    this.port = port
    this.tls = tls
    this.acceptor = acceptor
  }

  close(): void {
    this.transport.forget(this)
  }
}

export class PipeTransport implements Transport {
  readonly loop: PipeLoop
  private readonly listeners = new Map<string, PipeListener[]>()
  private nextPort = PORT_EPHEMERAL
  private turn = 0

  constructor(loop: PipeLoop = new PipeLoop()) {
    this.loop = loop
  }

  async listen(target: ListenTarget, tls: TlsContextSource | null, acceptor: Acceptor): Promise<ListenerHandle> {
    if ('fd' in target) throw new WeftError('WEFT_SYSCALL', 'the in-memory network has no descriptors to listen on')
    const port = target.port === 0 ? this.nextPort++ : target.port
    const key = formatHostPort(target.address, port)
    const sharing = this.listeners.get(key) ?? []
    if (sharing.length > 0 && !target.isShared)
      throw new WeftError('WEFT_SYSCALL', `cannot listen on ${key}: EADDRINUSE`)
    const listener = new PipeListener(this, target.address, port, tls, acceptor)
    this.listeners.set(key, [...sharing, listener])
    return listener
  }

  connect(options: ConnectOptions, handler: Handler): Conn {
    const local: PipeEnd = {
      address: options.origin.localAddress ?? (options.address.includes(':') ? '::1' : '127.0.0.1'),
      port: this.nextPort++,
      identity: options.tls === null ? null : options.tls.identity,
    }
    const conn = new PipeConn(this.loop, handler, local, {
      address: options.address,
      port: options.port,
      identity: null,
    })
    this.loop.enqueue(new Dial(this, options, conn, local))
    return conn
  }

  tlsContext(material: TlsMaterial): TlsContext {
    if (parseIdentity(material.identity) === null) {
      throw new WeftError('WEFT_CERTIFICATE', `${material.identity} is not a SPIFFE identity of a workload`)
    }
    return new PipeTlsContext(material)
  }

  atBatchEnd(flushable: Flushable): void {
    this.loop.atBatchEnd(flushable)
  }

  /** Who listens at the address: listeners that share it take turns. */
  listenerAt(address: string, port: number): PipeListener | null {
    const exact = this.listeners.get(formatHostPort(address, port))
    const any = this.listeners.get(formatHostPort(address.includes(':') ? '::' : '0.0.0.0', port))
    const sharing = exact ?? any
    if (sharing === undefined) return null
    return sharing[this.turn++ % sharing.length]!
  }

  forget(listener: PipeListener): void {
    const key = formatHostPort(listener.address, listener.port)
    const rest = (this.listeners.get(key) ?? []).filter((one) => one !== listener)
    if (rest.length > 0) this.listeners.set(key, rest)
    else this.listeners.delete(key)
  }
}

/** One connect, carried out in the batch after the call. */
class Dial implements PipeTask {
  isQueued = false
  private readonly transport: PipeTransport
  private readonly options: ConnectOptions
  private readonly conn: PipeConn
  private readonly local: PipeEnd

  constructor(transport: PipeTransport, options: ConnectOptions, conn: PipeConn, local: PipeEnd) {
    this.transport = transport
    this.options = options
    this.conn = conn
    this.local = local
  }

  run(): void {
    const { address, port, tls } = this.options
    if (this.conn.isClosed) return
    const listener = this.transport.listenerAt(address, port)
    if (listener === null) {
      this.conn.fail(new WeftError('WEFT_CONNECT', `cannot connect to ${formatHostPort(address, port)}: ECONNREFUSED`))
      return
    }
    const serverTls = listener.tls === null ? null : listener.tls.current(this.options.address, this.options.port)
    const refusal = this.refusal(tls, listener, serverTls)
    if (refusal !== null) {
      listener.acceptor.onAcceptError(
        new WeftError('WEFT_TLS', `the handshake with ${this.local.address} failed: ${refusal.message}`),
        this.local.address,
      )
      this.conn.fail(refusal)
      return
    }
    const remote: PipeEnd = {
      address: ANY_ADDRESS.has(listener.address) ? address : listener.address,
      port,
      identity: serverTls === null ? null : serverTls.identity,
    }
    const accepted = new PipeConn(this.transport.loop, DEAF_HANDLER, remote, this.local)
    this.conn.peerIdentity = remote.identity
    this.conn.alpn = accepted.alpn
    accepted.handler = listener.acceptor.onAccept(accepted)
    this.conn.connectTo(accepted)
  }

  /** Why the handshake fails, as the client sees it; null when it succeeds. */
  private refusal(client: TlsContext | null, listener: PipeListener, server: TlsContext | null): WeftError | null {
    const where = formatHostPort(this.options.address, this.options.port)
    if ((client === null) !== (listener.tls === null)) {
      return new WeftError(
        client === null ? 'WEFT_RESET' : 'WEFT_TLS',
        `${where} speaks ${client === null ? 'TLS' : 'no TLS'}`,
      )
    }
    if (client === null) return null
    if (!(client instanceof PipeTlsContext) || !(server instanceof PipeTlsContext)) {
      return new WeftError('WEFT_TLS', `${where} has no certificate yet`)
    }
    if (!client.trusts(server) || !server.trusts(client)) {
      return new WeftError('WEFT_TLS', `${where} has a certificate of another root`)
    }
    if (this.options.expectedIdentities.includes(server.identity)) return null
    const expected = this.options.expectedIdentities.join(' or ')
    return new WeftError('WEFT_PEER_IDENTITY', `${where} proved ${server.identity}, expected was ${expected}`)
  }
}
