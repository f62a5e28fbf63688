// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The inbound path: from the mesh (HBONE) or in plaintext to a captured pod of this node. Read it top to bottom:
 *
 *   1 accept          a tunnel (inbound-tunnels.ts) or a plaintext connection (onOpen)
 *   2 who and where   peer identity from TLS or none; destination pod and port
 *   3 authorise       what can be judged now: STRICT first, then all policies when the port is plain TCP
 *   4 connect         to the app, from inside its own netns
 *   5 success         the tunnel's 200: everything that can fail has happened
 *   6 protocol        declared, or detected from the first bytes of either side
 *   7a bytes          copy
 *   7b HTTP           inbound-http.ts, for every request: authorise -> pool -> forward
 *   8 record          finish, exactly once
 */
import { formatHostPort } from '../base/address.ts'
import {
  describeError,
  FLAG_DENIED,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_NONE,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_CONNECT,
  type Flag,
  type WeftError,
} from '../base/errors.ts'
import { parseIdentity, principalOf } from '../model/identity.ts'
import {
  DEFAULT_POOL_LIMITS,
  PROTOCOL_DETECT,
  PROTOCOL_HTTP1,
  PROTOCOL_TCP,
  type Protocol,
  type Service,
} from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import type { EdgeKey, EdgeMetrics, MetricProtocol } from '../telemetry/recorder.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ConnectionFacts, Decision } from './authorize.ts'
import { type ConnectionDescription, type LiveConnection, NOT_LISTED } from './connections.ts'
import { Relay, type RelayOwner } from './copy.ts'
import { resolveTargetPort } from './destination.ts'
import { Detection, type DetectTarget, isHttp, speaksHttp2 } from './detect.ts'
import type { Exchange } from './exchange.ts'
import type { HttpPool } from './http-pool.ts'
import { InboundHttp } from './inbound-http.ts'
import { addressBytes, identityOf, type LocalWorkload } from './local-pods.ts'
import { RELAY_IDLE_MS } from './outbound-relay.ts'
import type { ProxyParts } from './parts.ts'
import { denialText } from './reply.ts'

/** Who arrives, and for what. */
export interface Arrival {
  /** SPIFFE identity proved by TLS; null for plaintext. */
  readonly peerIdentity: string | null
  readonly remoteAddress: string
  readonly remotePort: number
  /** Address and port of the pod that were asked for. */
  readonly address: string
  readonly port: number
  /** Service host that the client names (HBONE `forwarded`); empty when it names none. */
  readonly host: string
}

/** How the downstream is told: an HBONE tunnel waits for an answer, a plaintext connection is already open. */
export interface Admission {
  /** Everything that can fail has happened. Returns the downstream byte stream, or null when it has gone. */
  admit(): Conn | null
  /** `status` is for tunnels; plaintext is reset. */
  refuse(status: number, reason: string): void
}

/** One connection that arrives at a pod of this node. */
export class InboundConnection implements Handler, DetectTarget, RelayOwner, LiveConnection {
  readonly parts: ProxyParts
  readonly pod: LocalWorkload
  readonly workload: Workload
  readonly arrival: Arrival
  readonly facts: ConnectionFacts
  readonly startedAtMs: number
  tableIndex: number
  private readonly admission: Admission
  private readonly snapshot: Snapshot
  private readonly service: Service | null
  private readonly protocol: Protocol
  private downstream: Conn | null
  private upstream: Conn | null
  private detection: Detection | null
  private relay: Relay | null
  private http: InboundHttp | null
  private early: Uint8Array
  private hasUpstreamEnded: boolean
  private edge: EdgeMetrics | null
  private edgeKey: EdgeKey | null
  private flushedReceived: number
  private flushedSent: number
  private isFinished: boolean

  constructor(parts: ProxyParts, pod: LocalWorkload, workload: Workload, arrival: Arrival, admission: Admission) {
    const target = resolveTargetPort(parts.snapshot, workload, arrival.port, arrival.host)
    this.parts = parts
    this.pod = pod
    this.workload = workload
    this.arrival = arrival
    this.facts = {
      principal: arrival.peerIdentity === null ? null : principalOf(arrival.peerIdentity),
      namespace: arrival.peerIdentity === null ? null : (parseIdentity(arrival.peerIdentity)?.namespace ?? null),
      sourceIp: addressBytes(arrival.remoteAddress),
      destinationIp: addressBytes(arrival.address),
      destinationPort: arrival.port,
    }
    this.startedAtMs = parts.nowMs()
    this.tableIndex = NOT_LISTED
    this.admission = admission
    this.snapshot = parts.snapshot
    this.service = target.service
    this.protocol = target.protocol
    this.downstream = null
    this.upstream = null
    this.detection = null
    this.relay = null
    this.http = null
    this.early = EMPTY
    this.hasUpstreamEnded = false
    this.edge = null
    this.edgeKey = null
    this.flushedReceived = 0
    this.flushedSent = 0
    this.isFinished = false
  }

  // --- 3: authorise ---

  /** Steps 3 to 5. The outcome goes to the admission. */
  start(): void {
    const { parts } = this
    if (!parts.connections.add(this.pod.uid, this)) {
      parts.log.warn('connection refused: the pod has too many open connections', { pod: this.pod.uid })
      this.isFinished = true
      this.admission.refuse(503, 'too many connections')
      return
    }
    const authorizer = parts.policies.authorizerOf(this.snapshot, this.workload)
    const transport = authorizer.authorizeTransport(this.facts)
    if (!transport.isAllowed) {
      this.deny(transport)
      return
    }
    // With HTTP policies an undeclared port must show its protocol before it can be judged, so the app must not be
    // reached before: the tunnel is admitted first, and nothing is delivered until the policies have spoken.
    if (this.protocol === PROTOCOL_DETECT && authorizer.needsHttp) {
      this.detectFirst()
      return
    }
    if (!isHttp(this.protocol)) {
      const decision = authorizer.authorizeConnection(this.facts)
      if (!decision.isAllowed) {
        this.deny(decision)
        return
      }
    }
    this.connect()
  }

  private deny(decision: Decision): void {
    const { peerIdentity, remoteAddress, address, port } = this.arrival
    this.parts.log.info('connection denied', {
      policy: decision.policy,
      peer: peerIdentity ?? remoteAddress,
      destination: formatHostPort(address, port),
      pod: this.pod.uid,
    })
    this.openEdge()
    this.finish(FLAG_DENIED, denialText(decision))
    this.admission.refuse(401, denialText(decision))
  }

  private detectFirst(): void {
    const downstream = this.admission.admit()
    if (downstream === null) {
      this.finish(FLAG_DOWNSTREAM_CLOSED, 'the client has gone')
      return
    }
    this.downstream = downstream
    this.detection = new Detection(this, this.parts.deadlines, true)
    downstream.handler = this.detection
  }

  // --- 4: connect ---

  private connect(): void {
    const { address, port } = this.arrival
    const timeoutMs = DEFAULT_POOL_LIMITS.connectTimeoutMs
    this.upstream = this.parts.upstreams.connectApp(this.pod.uid, address, port, timeoutMs, this)
  }

  // --- 5 and 6: success, protocol ---

  /** The app has accepted. */
  onOpen(upstream: Conn): void {
    if (this.isFinished) {
      upstream.abort()
      return
    }
    this.upstream = upstream
    if (this.downstream === null) this.downstream = this.admission.admit()
    const downstream = this.downstream
    if (downstream === null || downstream.isClosed) {
      upstream.abort()
      this.finish(FLAG_DOWNSTREAM_CLOSED, 'the client has gone')
    } else if (this.detection !== null || this.protocol === PROTOCOL_TCP) {
      this.startRelay(downstream, upstream, EMPTY, false)
    } else if (isHttp(this.protocol)) {
      this.startHttp(downstream, upstream, this.protocol, EMPTY, false)
    } else if (this.protocol === PROTOCOL_DETECT) {
      // No timer: if the server speaks first we hear it, because it is connected already.
      downstream.setIdleTimeout(RELAY_IDLE_MS)
      this.detection = new Detection(this, this.parts.deadlines, false)
      downstream.handler = this.detection
    } else {
      this.startRelay(downstream, upstream, EMPTY, false)
    }
  }

  onDetected(protocol: Protocol, held: Uint8Array, length: number, hasEnded: boolean): void {
    const downstream = this.downstream!
    const bytes = held.subarray(0, length)
    if (isHttp(protocol)) {
      this.startHttp(downstream, this.upstream, protocol, bytes, hasEnded)
      return
    }
    if (this.upstream !== null) {
      this.startRelay(downstream, this.upstream, bytes, hasEnded)
      return
    }
    const decision = this.parts.policies.authorizerOf(this.snapshot, this.workload).authorizeConnection(this.facts)
    if (!decision.isAllowed) {
      this.openEdge()
      this.finish(FLAG_DENIED, denialText(decision))
      downstream.abort()
      return
    }
    downstream.pauseReading()
    downstream.handler = new Holder(this, bytes, hasEnded)
    this.connect()
  }

  onDetectClosed(error: WeftError | null): void {
    this.upstream?.abort()
    this.finish(FLAG_DOWNSTREAM_CLOSED, error === null ? 'closed before it said anything' : describeError(error))
  }

  /** @internal The client went away while its upstream was being connected. */
  onHolderClosed(): void {
    this.upstream?.abort()
    this.finish(FLAG_DOWNSTREAM_CLOSED, 'closed before the app was connected')
  }

  // The app, before it is relayed: it may speak first, end, or fail.

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    const early = new Uint8Array(this.early.length + end - offset)
    early.set(this.early)
    early.set(bytes.subarray(offset, end), this.early.length)
    this.early = early
    this.detection?.serverSpoke(early)
  }

  onEnd(): void {
    this.hasUpstreamEnded = true
    this.detection?.serverEnded()
  }

  onDrain(): void {}

  onClose(_conn: Conn, error: WeftError | null): void {
    if (this.isFinished) return
    const reason = error === null ? 'the app closed the connection' : describeError(error)
    this.openEdge()
    this.finish(FLAG_UPSTREAM_CONNECT, reason)
    if (this.downstream === null) this.admission.refuse(503, reason)
    else this.downstream.abort()
  }

  // --- 7a: bytes ---

  private startRelay(downstream: Conn, upstream: Conn, held: Uint8Array, hasEnded: boolean): void {
    const holder = downstream.handler
    this.openEdge()
    const relay = new Relay(downstream, upstream, this)
    this.relay = relay
    downstream.setIdleTimeout(RELAY_IDLE_MS)
    if (holder instanceof Holder) {
      if (holder.bytes.length > 0) relay.onBytes(downstream, holder.bytes, 0, holder.bytes.length)
      if (holder.hasEnded) relay.onEnd(downstream)
      downstream.resumeReading()
    }
    if (held.length > 0) relay.onBytes(downstream, held, 0, held.length)
    if (this.early.length > 0) relay.onBytes(upstream, this.early, 0, this.early.length)
    this.early = EMPTY
    if (hasEnded) relay.onEnd(downstream)
    if (this.hasUpstreamEnded) relay.onEnd(upstream)
  }

  onRelayClosed(isDownstreamFault: boolean, error: WeftError | null): void {
    if (error === null) this.finish(FLAG_NONE, '')
    else this.finish(isDownstreamFault ? FLAG_DOWNSTREAM_CLOSED : FLAG_UPSTREAM_CLOSED, describeError(error))
  }

  // --- 7b: HTTP ---

  /** `protocol` is the declared one, or what the client was found to speak. */
  private startHttp(
    downstream: Conn,
    upstream: Conn | null,
    protocol: Protocol,
    held: Uint8Array,
    hasEnded: boolean,
  ): void {
    if (upstream !== null) {
      const isHttp2 = protocol !== PROTOCOL_HTTP1
      this.appPool(isHttp2).adopt(upstream, this.early)
      this.early = EMPTY
    }
    this.http = new InboundHttp(this, downstream)
    if (held.length > 0 || hasEnded) this.http.session.begin(held, held.length, hasEnded)
  }

  /** The pool that an exchange goes to. */
  poolFor(exchange: Exchange): HttpPool {
    return this.appPool(speaksHttp2(this.protocol, exchange))
  }

  private appPool(isHttp2: boolean): HttpPool {
    return this.parts.upstreams.appPool(this.pod, this.arrival.address, this.arrival.port, isHttp2)
  }

  // --- 8: record ---

  /** The edge as the destination reports it. */
  edgeFor(protocol: MetricProtocol): EdgeKey {
    const { peerIdentity, remoteAddress } = this.arrival
    return {
      reporter: 'destination',
      protocol,
      source: this.parts.snapshot.workloadByAddress(remoteAddress),
      destination: this.workload,
      service: this.service,
      host: '',
      isMutualTls: peerIdentity !== null,
      sourcePrincipal: peerIdentity,
      destinationPrincipal: peerIdentity === null ? null : identityOf(this.workload),
    }
  }

  private openEdge(): void {
    if (this.edge !== null) return
    this.edgeKey = this.edgeFor('tcp')
    this.edge = this.parts.recorder.edge(this.edgeKey)
    this.edge.connectionOpened()
  }

  /** Exactly once, whatever the end. */
  finish(flag: Flag, details: string): void {
    if (this.isFinished) return
    this.isFinished = true
    this.flushMetrics()
    this.edge?.connectionClosed(flag)
    this.parts.connections.remove(this.pod.uid, this)
    if (this.edgeKey === null || !this.parts.recorder.isLogging) return
    this.parts.recorder.log({
      startedAtMs: this.startedAtMs,
      durationMs: this.parts.nowMs() - this.startedAtMs,
      edge: this.edgeKey,
      flag,
      details,
      downstream: formatHostPort(this.arrival.remoteAddress, this.arrival.remotePort),
      upstream: formatHostPort(this.arrival.address, this.arrival.port),
      receivedBytes: this.relay?.receivedBytes ?? 0,
      sentBytes: this.relay?.sentBytes ?? 0,
      http: null,
    })
  }

  // --- live connection table ---

  recheck(): void {
    if (this.isFinished) return
    const authorizer = this.parts.policies.authorizerOf(this.parts.snapshot, this.workload)
    const decision =
      this.http === null ? authorizer.authorizeConnection(this.facts) : authorizer.authorizeTransport(this.facts)
    if (decision.isAllowed) return
    this.parts.log.info('connection closed: a policy now denies it', { pod: this.pod.uid, policy: decision.policy })
    this.finish(FLAG_DENIED, denialText(decision))
    this.abort()
  }

  drain(): void {
    this.http?.session.drain()
  }

  abort(): void {
    if (this.http !== null) this.http.session.abort()
    else if (this.relay !== null) this.relay.abort()
    else {
      this.upstream?.abort()
      this.downstream?.abort()
    }
  }

  flushMetrics(): void {
    if (this.relay === null || this.edge === null) return
    const received = this.relay.receivedBytes - this.flushedReceived
    const sent = this.relay.sentBytes - this.flushedSent
    if (received === 0 && sent === 0) return
    this.flushedReceived += received
    this.flushedSent += sent
    this.edge.connectionBytes(received, sent)
  }

  describe(): ConnectionDescription {
    const { peerIdentity, remoteAddress, remotePort, address, port } = this.arrival
    return {
      direction: 'inbound',
      protocol: this.http !== null ? 'http' : this.relay !== null ? 'tcp' : 'detecting',
      pod: this.pod.uid,
      downstream: formatHostPort(remoteAddress, remotePort),
      originalDestination: formatHostPort(address, port),
      upstream: formatHostPort(address, port),
      peer: peerIdentity ?? '',
      ageMs: this.parts.nowMs() - this.startedAtMs,
      receivedBytes: this.relay?.receivedBytes ?? 0,
      sentBytes: this.relay?.sentBytes ?? 0,
    }
  }
}

const EMPTY = new Uint8Array(0)

/** Keeps what a client sent before its app was connected. */
class Holder implements Handler {
  bytes: Uint8Array
  hasEnded: boolean
  private readonly owner: InboundConnection

  constructor(owner: InboundConnection, bytes: Uint8Array, hasEnded: boolean) {
    this.owner = owner
    this.bytes = bytes.slice()
    this.hasEnded = hasEnded
  }

  onOpen(): void {}

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    const next = new Uint8Array(this.bytes.length + end - offset)
    next.set(this.bytes)
    next.set(bytes.subarray(offset, end), this.bytes.length)
    this.bytes = next
  }

  onEnd(): void {
    this.hasEnded = true
  }

  onDrain(): void {}

  onClose(): void {
    this.owner.onHolderClosed()
  }
}
