/** Both ends of HBONE on an in-memory network: a client, a server, and an acceptor that does as it is told. */
import { silentLog } from '../../src/base/log.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import type { TunnelParts } from '../../src/proxy/hbone.ts'
import { TunnelClient, type TunnelClientOwner, type TunnelRequest } from '../../src/proxy/hbone-client.ts'
import { type PendingTunnel, type TunnelAcceptor, TunnelServer } from '../../src/proxy/hbone-server.ts'
import type { TunnelStream } from '../../src/proxy/hbone-stream.ts'
import type { Acceptor, Conn, ConnectOptions, Handler } from '../../src/transport/conn.ts'
import { ConnRecorder } from './conn-recorder.ts'
import { PipeLoop } from './pipe.ts'
import { PipeTransport } from './pipe-transport.ts'

export const CLIENT_IDENTITY = 'spiffe://cluster.local/ns/shop/sa/client'
export const SERVER_IDENTITY = 'spiffe://cluster.local/ns/shop/sa/server'
export const CLIENT_ADDRESS = '198.18.1.2'
export const SERVER_ADDRESS = '198.18.2.2'
export const HBONE_PORT = 15_008

export const REQUEST: TunnelRequest = {
  authority: `${SERVER_ADDRESS}:8080`,
  baggage: 'k8s.namespace.name=shop',
  forwarded: 'for="198.18.1.2:40000";host=reviews.shop.svc.cluster.local',
}

/** Keeps pending tunnels, or decides at once. */
export class TestTunnelAcceptor implements TunnelAcceptor {
  readonly pending: PendingTunnel[] = []
  readonly accepted: ConnRecorder[] = []
  /** Makes the handler of tunnels that are accepted at once; null keeps them pending. */
  create: (() => ConnRecorder) | null
  private waiting: (() => void)[] = []

  constructor(create: (() => ConnRecorder) | null) {
    this.create = create
  }

  onTunnel(pending: PendingTunnel): void {
    this.pending.push(pending)
    if (this.create !== null) this.accept(pending, this.create())
    const waiting = this.waiting
    this.waiting = []
    for (const resolve of waiting) resolve()
  }

  accept<H extends ConnRecorder>(pending: PendingTunnel, handler: H): H {
    handler.conn = pending.accept('k8s.namespace.name=far', handler)
    this.accepted.push(handler)
    return handler
  }

  async tunnel(index: number): Promise<PendingTunnel> {
    while (this.pending.length <= index) await new Promise<void>((resolve) => this.waiting.push(resolve))
    return this.pending[index]!
  }
}

export class TunnelPair implements TunnelClientOwner, Acceptor {
  readonly transport: PipeTransport
  readonly timers = new TimerWheel()
  readonly parts: TunnelParts
  readonly acceptor: TestTunnelAcceptor
  readonly servers = new Set<TunnelServer>()
  readonly serverConns: Conn[] = []
  connected = 0
  /** By `pass`. */
  private passedMs = 0
  unusable = 0
  closedTunnels = 0
  /** Handler for accepted connections instead of a TunnelServer. */
  serverHandler: Handler | null = null

  constructor(create: (() => ConnRecorder) | null, chunkBytesMax = 65_536) {
    this.transport = new PipeTransport(new PipeLoop({ chunkBytesMax }))
    this.parts = {
      transport: this.transport,
      log: silentLog,
      timers: this.timers,
      nowMs: () => performance.now() + this.passedMs,
    }
    this.acceptor = new TestTunnelAcceptor(create)
  }

  async listen(): Promise<void> {
    const tls = this.context(SERVER_IDENTITY)
    const target = { address: SERVER_ADDRESS, port: HBONE_PORT, isShared: false }
    await this.transport.listen(target, { current: () => tls }, this)
  }

  /** A client; with `expected` other than the server's identity it is refused. */
  dial(expected = SERVER_IDENTITY): TunnelClient {
    return new TunnelClient(this.parts, this.options(expected), this)
  }

  options(expected = SERVER_IDENTITY): ConnectOptions {
    return {
      address: SERVER_ADDRESS,
      port: HBONE_PORT,
      origin: { fd: null, localAddress: CLIENT_ADDRESS },
      timeoutMs: 1000,
      tls: this.context(CLIENT_IDENTITY),
      expectedIdentities: [expected],
    }
  }

  /** The only server. */
  get server(): TunnelServer {
    return [...this.servers][0]!
  }

  /** An open tunnel, and its two ends. */
  async open(client: TunnelClient) {
    const index = this.acceptor.accepted.length
    const near = new ConnRecorder()
    const conn = client.openTunnel(REQUEST, near) as TunnelStream
    await near.seen('open')
    const far = this.acceptor.accepted[index]!
    await far.seen('open')
    return { near, conn, far, farConn: far.conn! }
  }

  /** Lets `ms` milliseconds pass on the wheel, with what they cause. */
  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 100) {
      this.passedMs += 100
      this.timers.advance()
      if (passed % 1000 === 0) await settle()
    }
    await settle()
  }

  // --- Acceptor ---

  onAccept(conn: Conn): Handler {
    this.serverConns.push(conn)
    if (this.serverHandler !== null) return this.serverHandler
    const server = new TunnelServer(conn, this.parts, this.acceptor, this.servers)
    this.servers.add(server)
    return server
  }

  onAcceptError(): void {}

  // --- TunnelClientOwner ---

  onConnected(): void {
    this.connected++
  }

  onUnusable(): void {
    this.unusable++
  }

  onTunnelClosed(): void {
    this.closedTunnels++
  }

  private context(identity: string) {
    return this.transport.tlsContext({
      identity,
      certificateChain: '',
      key: '',
      bundle: 'root',
      trustDomain: 'cluster.local',
    })
  }
}

export async function tunnelPair(create: (() => ConnRecorder) | null, chunkBytesMax = 65_536): Promise<TunnelPair> {
  const pair = new TunnelPair(create, chunkBytesMax)
  await pair.listen()
  return pair
}

/** Some turns of the event loop: whatever was going to happen has happened. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 12; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}
