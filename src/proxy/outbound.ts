// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The outbound path: from a captured pod of this node into the mesh. Read it top to bottom:
 *
 *   1 accept               onOpen
 *   2 original destination conn.localAddress, by the kernel
 *   3 source, destination  constructor: who dialled what (the source is the netns in which the listener lives)
 *   4 protocol             declared, or detected from the first bytes
 *   5a bytes               outbound-relay.ts: pick an endpoint -> authorise one hop -> connect -> copy
 *   5b HTTP                outbound-http.ts, for every request: match -> fault -> rewrite -> pick -> authorise -> pool
 *   6 record               finish (connections), OutboundHttp.record (exchanges): exactly once
 */
import { formatHostPort } from '../base/address.ts'
import { FLAG_DOWNSTREAM_CLOSED, type Flag } from '../base/errors.ts'
import type { HeaderList } from '../http/headers.ts'
import { principalOf } from '../model/identity.ts'
import type { Traffic } from '../model/route.ts'
import { PROTOCOL_DETECT, type Protocol } from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import type { EdgeKey, EdgeMetrics, MetricProtocol } from '../telemetry/recorder.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { ConnectionFacts } from './authorize.ts'
import { ClientCertificates } from './client-certificate-header.ts'
import { type ConnectionDescription, type LiveConnection, NOT_LISTED } from './connections.ts'
import { type Destination, resolveTargetPort } from './destination.ts'
import { Detection, type DetectTarget, isHttp, speaksHttp2 } from './detect.ts'
import type { Exchange } from './exchange.ts'
import { addressBytes, identityOf, type LocalWorkload } from './local-pods.ts'
import { OutboundHttp } from './outbound-http.ts'
import { OutboundRelay } from './outbound-relay.ts'
import { type OutboundTarget, trafficOf } from './outbound-targets.ts'
import type { ProxyParts } from './parts.ts'
import { PATH_ONE_HOP, PATH_PLAIN, type Path } from './upstreams.ts'

/** The metrics of a source and, when one hop makes this proxy the destination's as well, of the destination. */
export interface EdgePair {
  readonly key: EdgeKey
  readonly source: EdgeMetrics
  readonly destination: EdgeMetrics | null
}

/** One connection that an app of this node opened. */
export class OutboundConnection implements Handler, DetectTarget, LiveConnection {
  readonly parts: ProxyParts
  readonly source: LocalWorkload
  readonly conn: Conn
  readonly startedAtMs: number
  tableIndex: number
  /** The snapshot the connection began with. */
  readonly snapshot: Snapshot
  readonly destination: Destination
  readonly target: OutboundTarget
  /** What `trafficOf` found last, and under which snapshot: nearly always the next request's as well. */
  private traffic: Traffic | null
  private trafficSnapshot: Snapshot
  /** As declared; PROTOCOL_DETECT stays, whatever was found. */
  private protocol: Protocol
  private http: OutboundHttp | null
  private relay: OutboundRelay | null
  /** Null until the first request to a pod of this node. */
  private certificates: ClientCertificates | null
  private isFinished: boolean

  constructor(parts: ProxyParts, source: LocalWorkload, conn: Conn) {
    this.parts = parts
    this.source = source
    this.conn = conn
    this.startedAtMs = parts.nowMs()
    this.tableIndex = NOT_LISTED
    this.target = parts.targets.of(parts.snapshot, source, conn.localAddress, conn.localPort)
    this.snapshot = this.target.snapshot
    this.destination = this.target.destination
    this.traffic = this.target.traffic
    this.trafficSnapshot = this.snapshot
    this.protocol = PROTOCOL_DETECT
    this.http = null
    this.relay = null
    this.certificates = null
    this.isFinished = false
  }

  // --- 1 to 4: accept, destination, protocol ---

  onOpen(): void {
    if (!this.parts.connections.add(this.source.uid, this)) {
      this.parts.log.warn('connection refused: the pod has too many open connections', { pod: this.source.uid })
      this.conn.abort()
      return
    }
    const protocol = this.declaredProtocol()
    this.protocol = protocol
    if (isHttp(protocol)) this.http = new OutboundHttp(this)
    else if (protocol === PROTOCOL_DETECT && !this.parts.serverFirst.has(this.portKey)) {
      this.conn.handler = new Detection(this, this.parts.deadlines, true)
    } else this.relay = new OutboundRelay(this, EMPTY, false)
  }

  onDetected(protocol: Protocol, held: Uint8Array, length: number, hasEnded: boolean): void {
    if (isHttp(protocol)) {
      this.http = new OutboundHttp(this)
      this.http.session.begin(held, length, hasEnded)
    } else this.relay = new OutboundRelay(this, held.subarray(0, length), hasEnded)
  }

  onDetectClosed(): void {
    this.finish(null, FLAG_DOWNSTREAM_CLOSED, 'closed before it said anything')
  }

  onBytes(): void {}
  onEnd(): void {}
  onDrain(): void {}

  onClose(): void {
    this.finish(null, FLAG_DOWNSTREAM_CLOSED, 'closed before it was served')
  }

  /** Declared protocol: the traffic rules of this client's scope win over the service's own port. */
  private declaredProtocol(): Protocol {
    const traffic = this.trafficOf(this.snapshot)
    return traffic !== null && traffic.protocol !== PROTOCOL_DETECT ? traffic.protocol : this.destination.protocol
  }

  // --- facts for 5a and 5b ---

  /** The version in which a request goes to its endpoint. */
  speaksHttp2(exchange: Exchange): boolean {
    return speaksHttp2(this.protocol, exchange)
  }

  /** The rules of this client's scope for the service port that was dialled; null means defaults. */
  trafficOf(snapshot: Snapshot): Traffic | null {
    if (snapshot !== this.trafficSnapshot) {
      this.traffic = trafficOf(snapshot, this.source, this.destination)
      this.trafficSnapshot = snapshot
    }
    return this.traffic
  }

  /** What policies of a one-hop destination are judged on. */
  factsFor(address: string, port: number): ConnectionFacts {
    return {
      principal: principalOf(this.source.identity),
      namespace: this.target.sourceWorkload?.namespace ?? null,
      sourceIp: addressBytes(this.conn.remoteAddress),
      destinationIp: addressBytes(address),
      destinationPort: port,
    }
  }

  /** On one hop the app is told here who calls; otherwise the proxy of its own node does it. */
  identify(headers: HeaderList, path: Path, workload: Workload): void {
    if (path !== PATH_ONE_HOP) return
    this.certificates ??= new ClientCertificates(this.source.identity)
    const certificate = this.certificates.fieldsFor(workload)
    if (certificate !== null) headers.appendConstant(certificate)
  }

  edgesTo(protocol: MetricProtocol, workload: Workload | null, port: number, path: Path): EdgePair {
    const { recorder } = this.parts
    const isMutualTls = path !== PATH_PLAIN
    const service =
      this.destination.service ??
      (workload === null ? null : resolveTargetPort(this.snapshot, workload, port, '').service)
    const key: EdgeKey = {
      reporter: 'source',
      protocol,
      source: this.target.sourceWorkload,
      destination: workload,
      service,
      host: service === null ? this.conn.localAddress : '',
      isMutualTls,
      sourcePrincipal: isMutualTls ? this.source.identity : null,
      destinationPrincipal: isMutualTls && workload !== null ? identityOf(workload) : null,
    }
    const destination = path === PATH_ONE_HOP ? recorder.edge({ ...key, reporter: 'destination' }) : null
    return { key, source: recorder.edge(key), destination }
  }

  /** The port that was dialled, as ServerFirstPorts knows it. */
  get portKey(): string {
    const { service, port } = this.destination
    if (service !== null && port !== null) return `${service.key}:${port.number}`
    return formatHostPort(this.conn.localAddress, this.conn.localPort)
  }

  /** True when nobody has said what protocol the dialled port speaks. */
  get isUndeclared(): boolean {
    return this.declaredProtocol() === PROTOCOL_DETECT
  }

  get downstreamText(): string {
    return formatHostPort(this.conn.remoteAddress, this.conn.remotePort)
  }

  /** The connection is over: out of the table, into the log. `edge` is null when it never came to an edge. */
  finish(edge: EdgeKey | null, flag: Flag, details: string): void {
    if (this.isFinished) return
    this.isFinished = true
    this.parts.connections.remove(this.source.uid, this)
    if (edge === null || !this.parts.recorder.isLogging) return
    this.parts.recorder.log({
      startedAtMs: this.startedAtMs,
      durationMs: this.parts.nowMs() - this.startedAtMs,
      edge,
      flag,
      details,
      downstream: this.downstreamText,
      upstream: this.relay?.upstreamText ?? '',
      receivedBytes: this.relay?.receivedBytes ?? 0,
      sentBytes: this.relay?.sentBytes ?? 0,
      http: null,
    })
  }

  // --- live connection table ---

  recheck(): void {
    this.relay?.recheck()
  }

  drain(): void {
    this.http?.session.drain()
  }

  abort(): void {
    if (this.http !== null) this.http.session.abort()
    else if (this.relay !== null) this.relay.abort()
    else this.conn.abort()
  }

  flushMetrics(): void {
    this.relay?.flushMetrics()
  }

  describe(): ConnectionDescription {
    return {
      direction: 'outbound',
      protocol: this.http !== null ? 'http' : this.relay !== null ? 'tcp' : 'detecting',
      pod: this.source.uid,
      downstream: this.downstreamText,
      originalDestination: formatHostPort(this.conn.localAddress, this.conn.localPort),
      upstream: this.relay?.upstreamText ?? '',
      peer: this.relay?.peerText ?? '',
      ageMs: this.parts.nowMs() - this.startedAtMs,
      receivedBytes: this.relay?.receivedBytes ?? 0,
      sentBytes: this.relay?.sentBytes ?? 0,
    }
  }
}

const EMPTY = new Uint8Array(0)
