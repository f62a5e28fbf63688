/** Listeners and clients with TLS, ours and of another make, for the suites of test/transport. */
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import {
  type Conn,
  ORIGIN_ANY,
  TLS_OF_TUNNELS,
  type TlsContext,
  type TlsMaterial,
  type TlsOptions,
} from '../../src/transport/conn.ts'
import { TestAuthority } from './certificates.ts'
import { AcceptRecorder, ConnRecorder } from './conn-recorder.ts'
import type { TransportKind } from './transports.ts'

export const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'
export const CLIENT = 'spiffe://cluster.local/ns/shop/sa/client'

/** A listener; `context` is what it uses for the next handshake. */
export interface Served<H extends ConnRecorder> {
  readonly acceptor: AcceptRecorder<H>
  readonly port: number
  context: TlsContext | null
}

interface Dial {
  readonly material?: TlsMaterial
  readonly expected?: readonly string[]
  readonly timeoutMs?: number
  readonly options?: TlsOptions
  readonly address?: string
}

export class TlsPeers {
  readonly kind: TransportKind
  readonly transport
  readonly authority = new TestAuthority()
  readonly stranger = new TestAuthority()
  readonly serverMaterial = this.authority.leaf('shop', 'server')
  readonly clientMaterial = this.authority.leaf('shop', 'client')
  private readonly closers: (() => void)[] = []

  constructor(kind: TransportKind) {
    this.kind = kind
    this.transport = kind.create()
  }

  atEnd(close: () => void): void {
    this.closers.push(close)
  }

  close(): void {
    for (const close of this.closers) close()
  }

  async serve<H extends ConnRecorder>(
    create: () => H,
    material = this.serverMaterial,
    by = this.transport,
    options = TLS_OF_TUNNELS,
  ): Promise<Served<H>> {
    const acceptor = new AcceptRecorder(create)
    const served: Served<H> = { acceptor, port: 0, context: by.tlsContext(material, options) }
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await by.listen(target, { current: () => served.context }, acceptor)
    this.atEnd(() => listener.close())
    return Object.assign(served, { port: listener.port })
  }

  dial(port: number, handler: ConnRecorder, { material, expected, timeoutMs, options, address }: Dial = {}): Conn {
    return this.transport.connect(
      {
        address: address ?? '127.0.0.1',
        port,
        origin: ORIGIN_ANY,
        timeoutMs: timeoutMs ?? 10_000,
        tls: this.transport.tlsContext(material ?? this.clientMaterial, options),
        expectedIdentities: expected ?? [SERVER],
      },
      handler,
    )
  }

  /** What node:tls needs to be let in. */
  get foreignIdentity() {
    const { key, certificateChain: cert } = this.clientMaterial
    return { host: '127.0.0.1', ca: this.authority.bundle, key, cert, checkServerIdentity: noCheck }
  }

  /** A peer of another make: node:tls without our transport, on our port. Resolves with how its connection ended. */
  async foreignClient(port: number, options: tls.ConnectionOptions): Promise<string> {
    const socket = tls.connect({
      port,
      host: '127.0.0.1',
      ca: this.authority.bundle,
      checkServerIdentity: noCheck,
      ...options,
    })
    let end = 'close'
    socket.on('error', (error: NodeJS.ErrnoException) => {
      end = error.code ?? error.message
    })
    socket.resume()
    await closed(socket)
    return end
  }

  /** A server of another make. */
  async foreignServer(options: tls.TlsOptions): Promise<number> {
    const { key, certificateChain: cert } = this.serverMaterial
    const server = tls.createServer({ key, cert, ...options })
    server.on('secureConnection', (socket) => socket.on('error', () => {}))
    server.listen(0, '127.0.0.1')
    this.atEnd(() => server.close())
    await once(server, 'listening')
    return (server.address() as net.AddressInfo).port
  }

  /** The first bytes that our client sends. */
  async clientHello(): Promise<Buffer> {
    const server = net.createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = new ConnRecorder()
    const conn = this.dial((server.address() as net.AddressInfo).port, client)
    const [socket] = (await once(server, 'connection')) as [net.Socket]
    const [bytes] = (await once(socket, 'data')) as [Buffer]
    conn.abort()
    socket.on('error', () => {})
    await client.seen('close')
    server.close()
    return bytes
  }
}

/** Unlike `once`, an error does not matter to it. */
export function closed(socket: net.Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()))
}

export function noCheck(): undefined {
  return undefined
}
