/**
 * The transport on node:net and node:tls. With node-listener.ts, node-conn.ts and node-tls.ts it is the only part of
 * the data path that knows Node's sockets.
 *
 * Everything written during one batch of events leaves at its end (one setImmediate per turn): first protocol code
 * flushes what it gathered, then each connection hands its output to the kernel in one call.
 */
import { closeSync } from 'node:fs'
import { Socket, type TcpSocketConnectOpts } from 'node:net'
import * as tls from 'node:tls'
import { WeftError } from '../base/errors.ts'
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
  type TlsOptions,
  type Transport,
} from './conn.ts'
import { connectError, connectTimeout } from './connect-error.ts'
import { type ConnOwner, NodeConn } from './node-conn.ts'
import { NodeListener } from './node-listener.ts'
import { DEFAULT_NODE_TRANSPORT_SETTINGS, KEEP_ALIVE_MS, type NodeTransportSettings } from './node-settings.ts'
import { agreedProtocol, NodeTlsContext } from './node-tls.ts'
import { OutputSlab } from './output-slab.ts'
import { checkServer, noCommonProtocol } from './tls-identity.ts'

/** Receive buffer that all dialled sockets share. 64 KiB: libuv reads at most that much at once. */
const READ_BUFFER_BYTES = 65_536

/** The transport on node:net and node:tls. */
export class NodeTransport implements Transport, ConnOwner {
  readonly slab = new OutputSlab()
  readonly settings: NodeTransportSettings
  /** No Buffer: whose `slice` would be a view and not the copy that its users mean. */
  private readonly readBuffer = new Uint8Array(READ_BUFFER_BYTES)
  private flushables: Flushable[] = []
  private flushablesSpare: Flushable[] = []
  private readonly dirtyConns: NodeConn[] = []
  private isBatchEndArmed = false
  private readonly onBatchEnd: () => void

  constructor(settings: NodeTransportSettings = DEFAULT_NODE_TRANSPORT_SETTINGS) {
    this.settings = settings
    this.onBatchEnd = () => this.endBatch()
  }

  // --- coalesced output ---

  atBatchEnd(flushable: Flushable): void {
    if (flushable.isFlushPending) return
    flushable.isFlushPending = true
    this.flushables.push(flushable)
    this.armBatchEnd()
  }

  flushAtBatchEnd(conn: NodeConn): void {
    conn.isFlushPending = true
    this.dirtyConns.push(conn)
    this.armBatchEnd()
  }

  private armBatchEnd(): void {
    if (this.isBatchEndArmed) return
    this.isBatchEndArmed = true
    setImmediate(this.onBatchEnd)
  }

  private endBatch(): void {
    this.isBatchEndArmed = false
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
    // Connections come last, and their flush calls no protocol code: nothing is added meanwhile.
    const conns = this.dirtyConns
    for (let i = 0; i < conns.length; i++) {
      const conn = conns[i]!
      conn.isFlushPending = false
      conn.flush()
    }
    conns.length = 0
    this.slab.rewind()
  }

  // --- making connections ---

  tlsContext(material: TlsMaterial, options: TlsOptions = TLS_OF_TUNNELS): TlsContext {
    return new NodeTlsContext(material, options, this.settings.handshakeTimeoutMs)
  }

  listen(target: ListenTarget, source: TlsContextSource | null, acceptor: Acceptor): Promise<ListenerHandle> {
    return new NodeListener(this, source, acceptor).listen(target)
  }

  connect(options: ConnectOptions, handler: Handler): Conn {
    const conn = new NodeConn(this, handler)
    conn.remoteAddress = options.address
    conn.remotePort = options.port
    const isOnread = options.tls === null
    let raw: Socket
    try {
      raw = this.openSocket(options, conn, isOnread)
    } catch (error) {
      conn.fail(connectError(error, options.address, options.port))
      return conn
    }
    conn.attachRaw(raw)
    conn.deadline = setTimeout(onConnectTimeout, options.timeoutMs, conn, options)
    const { tls: context, expectedIdentities } = options
    if (context === null) raw.once('connect', () => conn.opened(isOnread))
    else raw.once('connect', () => startTls(conn, raw, context as NodeTlsContext, expectedIdentities))
    const target: TcpSocketConnectOpts = { host: options.address, port: options.port }
    if (options.origin.fd === null && options.origin.localAddress !== null) {
      target.localAddress = options.origin.localAddress
    }
    raw.connect(target)
    return conn
  }

  private openSocket(options: ConnectOptions, conn: NodeConn, isOnread: boolean): Socket {
    const fd = options.origin.fd
    const settings = {
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
      // Rule 3 broken: one closure per dialled connection, because `onread` gives no other public way to find it.
      ...(isOnread ? { onread: { buffer: this.readBuffer, callback: readInto(conn) } } : {}),
    }
    if (fd === null) return new Socket(settings)
    try {
      return new Socket({ ...settings, fd })
    } catch (error) {
      closeDescriptor(fd)
      throw error
    }
  }
}

function readInto(conn: NodeConn): (length: number, bytes: Uint8Array) => boolean {
  return (length, bytes) => {
    conn.received(bytes, length)
    return true
  }
}

/** The TCP connection stands: proves the peer before anything is sent. */
function startTls(conn: NodeConn, raw: Socket, context: NodeTlsContext, expected: readonly string[]): void {
  if (raw.destroyed) return
  const socket = tls.connect({
    socket: raw,
    secureContext: context.clientContext,
    ALPNProtocols: [...context.options.alpn],
    // Stated, because an environment variable can turn the default off.
    rejectUnauthorized: true,
    checkServerIdentity: (_host, certificate) => {
      const result = checkServer(certificate.subjectaltname ?? '', expected, conn.peerName)
      if (result instanceof WeftError) return result
      conn.peerIdentity = result
      return undefined
    },
  })
  conn.attachTls(socket, context.options.alpn)
  socket.once('secureConnect', () => {
    conn.alpn = agreedProtocol(socket, context)
    if (conn.alpn === null) {
      conn.fail(noCommonProtocol(conn.peerName, context.options.alpn))
    } else if (conn.peerIdentity === null) {
      conn.fail(new WeftError('WEFT_TLS', `${conn.peerName} proved no identity`))
    } else {
      conn.opened(false)
    }
  })
}

function onConnectTimeout(conn: NodeConn, options: ConnectOptions): void {
  conn.fail(connectTimeout(options, conn.isHandshaking))
}

function closeDescriptor(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    // It was no open descriptor: nothing to release.
  }
}
