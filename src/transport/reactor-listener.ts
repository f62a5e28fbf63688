/**
 * A listening socket of the reactor. With TLS each connection proves who it is before protocol code sees it, with the
 * credentials that are current when it arrives.
 */
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { AcceptReports } from './accept-reports.ts'
import type { Acceptor, Handler, ListenerHandle, ListenTarget, TlsContextSource } from './conn.ts'
import { NO_ID, ReactorConn, type ReactorConnOwner } from './reactor-conn.ts'
import { errnoError } from './reactor-failure.ts'
import type { ReactorTlsContext } from './reactor-tls.ts'
import { checkClientNames, lateHandshake, noCommonProtocol } from './tls-identity.ts'

/** Connections waiting in the kernel to be accepted. 4096: the kernel's own default cap (net.core.somaxconn). */
const ACCEPT_BACKLOG = 4_096

/** Without descriptors or memory: accepting is tried again this often. Connections wait in the kernel meanwhile. */
const ACCEPT_RETRY_MS = 100

/** Handler of an accepted connection until the acceptor has named its own. */
const NO_HANDLER: Handler = {
  onOpen: () => {},
  onBytes: () => {},
  onEnd: () => {},
  onDrain: () => {},
  onClose: () => {},
}

/** What a listener needs of its transport, beyond what its connections need. */
export interface ReactorListenerOwner extends ReactorConnOwner {
  /** Events of `id` go to the connection, or the listener. */
  register(id: number, target: ReactorConn | ReactorListener): void
}

export class ReactorListener implements ListenerHandle {
  address = ''
  port = 0
  private readonly owner: ReactorListenerOwner
  private readonly source: TlsContextSource | null
  private readonly acceptor: Acceptor
  private id = NO_ID
  private handshakeCount = 0
  private readonly acceptReports: AcceptReports
  private retryTimer: NodeJS.Timeout | null = null

  constructor(owner: ReactorListenerOwner, source: TlsContextSource | null, acceptor: Acceptor) {
    this.owner = owner
    this.source = source
    this.acceptor = acceptor
    this.acceptReports = new AcceptReports(owner.settings.acceptReportMs)
  }

  /** Throws WeftError WEFT_SYSCALL when it cannot be bound. */
  listen(target: ListenTarget): void {
    const { reactor } = this.owner
    const isTls = this.source !== null
    const id =
      'fd' in target
        ? reactor.listen(target.fd, '', 0, true, isTls, ACCEPT_BACKLOG)
        : reactor.listen(-1, target.address, target.port, target.isShared, isTls, ACCEPT_BACKLOG)
    if (id < 0) {
      const error = errnoError(-id)
      const what = 'fd' in target ? `descriptor ${target.fd}` : formatHostPort(target.address, target.port)
      throw new WeftError('WEFT_SYSCALL', `cannot listen on ${what}: ${error.code}`, error)
    }
    this.id = id
    this.owner.register(id, this)
    const [address, port] = reactor.endpoints(id)
    this.address = address
    this.port = port
  }

  close(): void {
    if (this.id === NO_ID) return
    const { id } = this
    this.id = NO_ID
    if (this.retryTimer !== null) clearTimeout(this.retryTimer)
    this.owner.forget(id)
    this.owner.reactor.close(id, false)
  }

  // --- what the reactor tells ---

  accepted(id: number): void {
    const conn = new ReactorConn(this.owner, NO_HANDLER, id)
    this.owner.register(id, conn)
    conn.readEndpoints()
    if (this.source === null) this.open(conn)
    else this.startTls(conn)
  }

  /** No descriptor or no memory for another connection: tried again for as long as it lasts. */
  acceptFailed(errno: number): void {
    this.retryTimer = setTimeout(resumeAccept, ACCEPT_RETRY_MS, this)
    const error = this.acceptReports.failed(this.port, errnoError(errno))
    if (error !== null) this.acceptor.onAcceptError(error, '')
  }

  resumeAccept(): void {
    this.retryTimer = null
    if (this.id !== NO_ID) this.owner.reactor.resumeAccept(this.id)
  }

  private open(conn: ReactorConn): void {
    conn.handler = this.acceptor.onAccept(conn)
    if (!conn.isClosed) conn.opened()
  }

  // --- TLS ---

  private startTls(conn: ReactorConn): void {
    const { handshakesMax, handshakeTimeoutMs } = this.owner.settings
    const remote = conn.remoteAddress
    const context = this.source!.current(conn.localAddress, conn.localPort) as ReactorTlsContext | null
    // From here on the connection's end is the handshake's.
    conn.listener = this
    conn.isHandshaking = true
    this.handshakeCount++
    if (context === null) {
      conn.fail(new WeftError('WEFT_TLS', `there is no certificate yet to show to ${remote}`))
    } else if (this.handshakeCount > handshakesMax) {
      const text = `${remote} was refused: ${handshakesMax} TLS handshakes are unfinished on port ${this.port}`
      conn.fail(new WeftError('WEFT_LIMIT', text))
    } else {
      conn.tls = context
      conn.setDeadline(onHandshakeTimeout, handshakeTimeoutMs)
      this.owner.reactor.startTls(conn.id, context.native)
    }
  }

  /** The chain is verified: judges who the client is. */
  secured(conn: ReactorConn, alpn: string | null): void {
    const remote = conn.remoteAddress
    const { trustDomain, options } = conn.tls!
    const result =
      alpn === null
        ? noCommonProtocol(remote, options.alpn)
        : checkClientNames(this.owner.reactor.takePeerNames(conn.id), trustDomain, remote)
    // The peer may have sent its first request already: a reset, so that it cannot take silence for an answer.
    if (result instanceof WeftError) {
      conn.fail(result)
      return
    }
    this.handshakeCount--
    conn.listener = null
    conn.peerIdentity = result
    conn.alpn = alpn
    this.open(conn)
  }

  /** A handshake ended without a connection. */
  handshakeEnded(conn: ReactorConn, error: WeftError | null): void {
    this.handshakeCount--
    if (error !== null) this.acceptor.onAcceptError(error, conn.remoteAddress)
  }
}

function onHandshakeTimeout(conn: ReactorConn): void {
  conn.fail(lateHandshake(conn.remoteAddress))
}

function resumeAccept(listener: ReactorListener): void {
  listener.resumeAccept()
}
