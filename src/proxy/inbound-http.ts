// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 7b of the inbound path: HTTP. For every request: say who calls, judge the policies of the destination, take a connection to the
 * app from the pool, forward. No routing happens here: the client's side has chosen this pod.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type WeftError } from '../base/errors.ts'
import type { ProtocolViolation } from '../http/codec.ts'
import type { ConstantFields } from '../http/constant-fields.ts'
import type { EdgeKey, EdgeMetrics, MetricProtocol } from '../telemetry/recorder.ts'
import type { Conn } from '../transport/conn.ts'
import { clientCertificateFields } from './client-certificate-header.ts'
import type { Exchange } from './exchange.ts'
import { FROM_MESH, FROM_OUTSIDE, type Origin, reachApp } from './forwarding-headers.ts'
import { HttpSession, type HttpSessionOwner, versionText } from './http-session.ts'
import type { InboundConnection } from './inbound.ts'
import { identityOf } from './local-pods.ts'
import { denialText, REPLY_DENIED } from './reply.ts'
import { noteRefusal, noteViolation } from './violation-log.ts'

/** The HTTP of one inbound connection. */
export class InboundHttp implements HttpSessionOwner {
  readonly session: HttpSession
  private readonly inbound: InboundConnection
  private readonly edge: InboundEdge
  private grpcEdge: InboundEdge | null
  private readonly origin: Origin
  /** Who calls, as the app is told; null when it is not known. */
  private readonly certificate: ConstantFields | null

  constructor(inbound: InboundConnection, downstream: Conn) {
    const { peerIdentity } = inbound.arrival
    this.inbound = inbound
    this.origin = peerIdentity === null ? FROM_OUTSIDE : FROM_MESH
    this.certificate =
      peerIdentity === null ? null : clientCertificateFields(identityOf(inbound.workload), peerIdentity)
    this.edge = new InboundEdge(inbound, 'http')
    this.grpcEdge = null
    this.session = new HttpSession(inbound.parts, downstream, this)
  }

  route(exchange: Exchange): void {
    const { parts, workload, facts } = this.inbound
    reachApp(exchange.head.headers, this.origin, this.certificate, parts.random)
    const authorizer = parts.policies.authorizerOf(parts.snapshot, workload)
    if (!authorizer.isEmpty) {
      const decision = authorizer.authorizeExchange(facts, exchange.head)
      if (!decision.isAllowed) {
        exchange.reply(REPLY_DENIED, null, denialText(decision))
        return
      }
    }
    exchange.forward(this.inbound.poolFor(exchange))
  }

  reroute(exchange: Exchange): void {
    exchange.forward(this.inbound.poolFor(exchange))
  }

  onResponseHead(): void {}

  record(exchange: Exchange): void {
    const { parts, arrival } = this.inbound
    const durationMs = parts.nowMs() - exchange.startedAtMs
    const { status, grpcStatus, flag, receivedBytes, sentBytes, head } = exchange
    const edge = this.edgeOf(exchange)
    edge.metrics.exchangeFinished(status, grpcStatus, flag, durationMs, receivedBytes, sentBytes)
    this.recordMessages(exchange)
    if (!parts.recorder.isLogging) return
    parts.recorder.log({
      startedAtMs: exchange.startedAtMs,
      durationMs,
      edge: edge.key,
      flag,
      details: exchange.details,
      downstream: formatHostPort(arrival.remoteAddress, arrival.remotePort),
      upstream: formatHostPort(arrival.address, arrival.port),
      receivedBytes,
      sentBytes,
      http: {
        method: head.method,
        path: head.target,
        authority: head.authority,
        protocol: versionText(head.version),
        status,
        grpcStatus,
        route: '',
        requestId: head.headers.get('x-request-id') ?? '',
      },
    })
  }

  recordMessages(exchange: Exchange): void {
    const { grpc } = exchange
    if (grpc !== null) this.edgeOf(exchange).metrics.grpcMessages(grpc.requests.take(), grpc.responses.take())
  }

  private edgeOf(exchange: Exchange): InboundEdge {
    if (!exchange.isGrpc) return this.edge
    this.grpcEdge ??= new InboundEdge(this.inbound, 'grpc')
    return this.grpcEdge
  }

  onViolation(violation: ProtocolViolation, isRefusal: boolean): void {
    const { parts, pod, arrival } = this.inbound
    const downstream = formatHostPort(arrival.remoteAddress, arrival.remotePort)
    noteViolation(parts, 'downstream', violation, { pod: pod.uid, client: downstream })
    if (isRefusal) noteRefusal(parts, violation, { edge: this.edge.key, metrics: this.edge.metrics, downstream })
  }

  onSessionClosed(error: WeftError | null): void {
    if (error === null) this.inbound.finish(FLAG_NONE, '')
    else this.inbound.finish(FLAG_DOWNSTREAM_CLOSED, describeError(error))
  }
}

/** The edge of one protocol, as the destination reports it. */
class InboundEdge {
  readonly key: EdgeKey
  readonly metrics: EdgeMetrics

  constructor(inbound: InboundConnection, protocol: MetricProtocol) {
    this.key = inbound.edgeFor(protocol)
    this.metrics = inbound.parts.recorder.edge(this.key)
  }
}
