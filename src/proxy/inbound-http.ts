// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 7b of the inbound path: HTTP. For every request: judge the policies of the destination, take a connection to the
 * app from the pool, forward. No routing happens here: the client's side has chosen this pod.
 */
import { formatHostPort } from '../base/address.ts'
import { describeError, FLAG_DOWNSTREAM_CLOSED, FLAG_NONE, type WeftError } from '../base/errors.ts'
import type { ProtocolViolation } from '../http/codec.ts'
import type { EdgeKey, EdgeMetrics } from '../telemetry/recorder.ts'
import type { Conn } from '../transport/conn.ts'
import type { Exchange } from './exchange.ts'
import type { HttpPool } from './http-pool.ts'
import { HttpSession, type HttpSessionOwner } from './http-session.ts'
import type { InboundConnection } from './inbound.ts'
import { denialText, REPLY_DENIED } from './reply.ts'

export class InboundHttp implements HttpSessionOwner {
  readonly session: HttpSession
  private readonly inbound: InboundConnection
  private readonly pool: HttpPool
  private readonly edgeKey: EdgeKey
  private readonly edge: EdgeMetrics

  constructor(inbound: InboundConnection, pool: HttpPool, downstream: Conn) {
    this.inbound = inbound
    this.pool = pool
    this.edgeKey = inbound.edgeFor('http')
    this.edge = inbound.parts.recorder.edge(this.edgeKey)
    this.session = new HttpSession(inbound.parts, downstream, this)
  }

  route(exchange: Exchange): void {
    const { parts, workload, facts } = this.inbound
    const authorizer = parts.policies.authorizerOf(parts.snapshot, workload)
    if (!authorizer.isEmpty) {
      const decision = authorizer.authorizeExchange(facts, exchange.head)
      if (!decision.isAllowed) {
        exchange.reply(REPLY_DENIED, null, denialText(decision))
        return
      }
    }
    exchange.forward(this.pool)
  }

  reroute(exchange: Exchange): void {
    exchange.forward(this.pool)
  }

  record(exchange: Exchange): void {
    const { parts, arrival } = this.inbound
    const durationMs = parts.nowMs() - exchange.startedAtMs
    const { status, flag, receivedBytes, sentBytes, head } = exchange
    this.edge.exchangeFinished(status, -1, flag, durationMs, receivedBytes, sentBytes)
    if (!parts.recorder.isLogging) return
    parts.recorder.log({
      startedAtMs: exchange.startedAtMs,
      durationMs,
      edge: this.edgeKey,
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
        protocol: head.version === 10 ? 'HTTP/1.0' : 'HTTP/1.1',
        status,
        route: '',
        requestId: head.headers.get('x-request-id') ?? '',
      },
    })
  }

  onViolation(violation: ProtocolViolation): void {
    const { parts, pod } = this.inbound
    parts.log.info('request refused', { pod: pod.uid, reason: violation.reason, detail: violation.message })
  }

  onSessionClosed(error: WeftError | null): void {
    if (error === null) this.inbound.finish(FLAG_NONE, '')
    else this.inbound.finish(FLAG_DOWNSTREAM_CLOSED, describeError(error))
  }
}
