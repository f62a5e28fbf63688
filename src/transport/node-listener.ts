/**
 * A listening socket: accepts TCP connections and, with TLS, has each prove who it is before protocol code sees it.
 *
 * The credentials are asked for anew at every connection. node:tls offers the server side of a handshake, with its
 * checks, only as a tls.Server; so each set of credentials gets one that never listens and is fed accepted sockets.
 */
import { createServer, type Server, type Socket } from 'node:net'
import * as tls from 'node:tls'
import { canonicalAddress, formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import { AcceptReports } from './accept-reports.ts'
import type { Acceptor, Handler, ListenerHandle, ListenTarget, TlsContextSource } from './conn.ts'
import { type ConnOwner, NodeConn } from './node-conn.ts'
import { KEEP_ALIVE_MS } from './node-settings.ts'
import { canonicalOf } from './node-socket-link.ts'
import { agreedProtocol, checkClient, type NodeTlsContext, tlsError } from './node-tls.ts'
import { cutHandshake } from './tls-identity.ts'

/** Connections waiting in the kernel to be accepted. 4096: the kernel's own default cap (net.core.somaxconn). */
const ACCEPT_BACKLOG = 4_096

/** Handler of an accepted connection until the acceptor has named its own. */
const NO_HANDLER: Handler = {
  onOpen: () => {},
  onBytes: () => {},
  onEnd: () => {},
  onDrain: () => {},
  onClose: () => {},
}

/** A listener on a server of Node's. */
export class NodeListener implements ListenerHandle {
  address = ''
  port = 0
  private readonly owner: ConnOwner
  private readonly source: TlsContextSource | null
  private readonly acceptor: Acceptor
  private readonly server: Server
  private readonly acceptReports: AcceptReports
  /** Contexts that are no longer used are forgotten with their servers. */
  private readonly terminators = new WeakMap<NodeTlsContext, tls.Server>()
  /** Accepted sockets whose handshake is not over, by the addresses of both ends: the TLSSocket names no other link. */
  private readonly handshakes = new Map<string, Socket>()

  constructor(owner: ConnOwner, source: TlsContextSource | null, acceptor: Acceptor) {
    this.owner = owner
    this.source = source
    this.acceptor = acceptor
    this.acceptReports = new AcceptReports(owner.settings.acceptReportMs)
    this.server = createServer({
      // With TLS only once the handshake is over: an end in the middle of one is a close.
      allowHalfOpen: source === null,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
    })
  }

  listen(target: ListenTarget): Promise<ListenerHandle> {
    return new Promise((resolve, reject) => this.bind(target, resolve, reject))
  }

  private bind(target: ListenTarget, resolve: (handle: ListenerHandle) => void, reject: (error: Error) => void): void {
    const { server } = this
    const onListenError = (error: Error): void => {
      const what = 'fd' in target ? `descriptor ${target.fd}` : formatHostPort(target.address, target.port)
      reject(new WeftError('WEFT_SYSCALL', `cannot listen on ${what}: ${describeError(error)}`, error))
    }
    server.once('error', onListenError)
    server.once('listening', () => {
      server.removeListener('error', onListenError)
      server.on('error', (error) => this.acceptFailed(error))
      server.on('connection', (socket: Socket) => this.accept(socket))
      const bound = server.address()
      if (bound !== null && typeof bound === 'object') {
        this.address = canonicalAddress(bound.address) ?? bound.address
        this.port = bound.port
      }
      resolve(this)
    })
    if ('fd' in target) server.listen({ fd: target.fd }, ACCEPT_BACKLOG)
    else {
      const { address: host, port, isShared: reusePort } = target
      server.listen({ host, port, backlog: ACCEPT_BACKLOG, exclusive: true, reusePort })
    }
  }

  close(): void {
    this.server.close()
  }

  /** Without descriptors libuv keeps one in reserve, by which it closes what waits: nobody hears of those. */
  private acceptFailed(error: Error): void {
    const failure = this.acceptReports.failed(this.port, error)
    if (failure !== null) this.acceptor.onAcceptError(failure, '')
  }

  private refuse(error: WeftError, remoteAddress: string): void {
    this.acceptor.onAcceptError(error, remoteAddress)
  }

  private accept(raw: Socket): void {
    if (this.source === null) this.open(raw)
    else this.startTls(raw)
  }

  /** The connection is ready for protocol code. */
  private open(raw: Socket): void {
    const conn = new NodeConn(this.owner, NO_HANDLER)
    conn.attachRaw(raw)
    this.handOver(conn)
  }

  private openTls(raw: Socket, socket: tls.TLSSocket, context: NodeTlsContext, peerIdentity: string): void {
    const conn = new NodeConn(this.owner, NO_HANDLER)
    conn.attachRaw(raw)
    conn.attachTls(socket, context.options.alpn)
    conn.peerIdentity = peerIdentity
    conn.alpn = agreedProtocol(socket, context)
    this.handOver(conn)
  }

  private handOver(conn: NodeConn): void {
    conn.handler = this.acceptor.onAccept(conn)
    conn.opened(false)
  }

  // --- TLS ---

  private startTls(raw: Socket): void {
    const remote = canonicalOf(raw.remoteAddress)
    // Until a TLSSocket or a NodeConn listens; what failed is told by the close.
    raw.on('error', ignore)
    const local = canonicalOf(raw.localAddress)
    const context = this.source!.current(local, raw.localPort ?? 0) as NodeTlsContext | null
    if (context === null) {
      raw.resetAndDestroy()
      this.refuse(new WeftError('WEFT_TLS', `there is no certificate yet to show to ${remote}`), remote)
      return
    }
    const { handshakesMax } = this.owner.settings
    if (this.handshakes.size >= handshakesMax) {
      raw.resetAndDestroy()
      const text = `${remote} was refused: ${handshakesMax} TLS handshakes are unfinished on port ${this.port}`
      this.refuse(new WeftError('WEFT_LIMIT', text), remote)
      return
    }
    const key = keyOf(raw)
    this.handshakes.set(key, raw)
    raw.once('close', () => {
      if (this.handshakes.delete(key)) this.refuse(cutHandshake(remote), remote)
    })
    this.terminatorOf(context).emit('connection', raw)
  }

  private terminatorOf(context: NodeTlsContext): tls.Server {
    let terminator = this.terminators.get(context)
    if (terminator === undefined) {
      terminator = tls.createServer(context.serverOptions)
      terminator.on('secureConnection', (socket) => this.finishTls(socket, context))
      terminator.on('tlsClientError', (error, socket) => this.failTls(error, socket, context))
      this.terminators.set(context, terminator)
    }
    return terminator
  }

  private finishTls(socket: tls.TLSSocket, context: NodeTlsContext): void {
    const key = keyOf(socket)
    const raw = this.handshakes.get(key)
    if (raw === undefined) {
      socket.destroy()
      return
    }
    this.handshakes.delete(key)
    const remote = canonicalOf(raw.remoteAddress)
    const result = checkClient(socket, context, remote)
    if (result instanceof WeftError) {
      // The peer may have sent its first request already: a reset, so that it cannot take silence for an answer.
      socket.on('error', ignore)
      raw.resetAndDestroy()
      this.refuse(result, remote)
      return
    }
    socket.allowHalfOpen = true
    this.openTls(raw, socket, context, result)
  }

  private failTls(error: Error, socket: tls.TLSSocket, context: NodeTlsContext): void {
    const key = keyOf(socket)
    const raw = this.handshakes.get(key)
    // Without it the socket was closed already, and the failure reported then.
    if (raw === undefined) return
    this.handshakes.delete(key)
    const remote = canonicalOf(raw.remoteAddress)
    // OpenSSL's alert is on its way out: ended, not reset.
    socket.on('error', ignore)
    raw.destroySoon()
    this.refuse(tlsError(error, remote, context.options.alpn), remote)
  }
}

function keyOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`
}

function ignore(): void {}
