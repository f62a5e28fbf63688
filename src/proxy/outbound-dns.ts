/**
 * DNS over TCP: a connection of a captured pod to port 53 is not carried anywhere (but see `isMeshResolver`). Each question
 * on it is answered by the node's name server, in the order in which the answers are found (RFC 7766 section 7).
 *
 *      open --client's end--> answers what it was asked --> ended
 *      open --idle, or drained and nothing asked--> ended
 */
import { formatHostPort } from '../base/address.ts'
import { TimerEntry, type TimerTarget } from '../base/timers.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { TUNNEL_HBONE, type Workload } from '../model/workload.ts'
import { BACKLOG_HIGH, type Conn, type Handler } from '../transport/conn.ts'
import { type ConnectionDescription, type LiveConnection, NOT_LISTED } from './connections.ts'
import { DnsFrames, frameMessage, type MessageSink } from './dns-frames.ts'
import type { LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'

/** The port that stands for DNS, over TCP as over UDP. */
export const PORT_DOMAIN = 53

/**
 * Questions of one connection that are not answered yet; further ones wait in it. 100: what a client sends that asks for
 * all that one page needs, and far below what one pod may have in flight at the name server.
 */
export const QUESTIONS_MAX = 100

/** A connection on which nothing came and nothing went for this long is ended. 30 s: as usual servers (BIND, unbound). */
export const IDLE_MS = 30_000

/** Who answers the questions of pods: the agent's part of DNS. */
export interface NameServer {
  /** True when the pod's DNS is captured. */
  answersFor(podUid: string): boolean
  /**
   * Answers one message that pod `podUid` sent to `resolverAddress`. `respond.answer` is called at most once, perhaps
   * before this returns, with a whole message.
   */
  query(
    podUid: string,
    resolverAddress: string,
    bytes: Uint8Array,
    isTcp: boolean,
    respond: { answer(bytes: Uint8Array): void },
  ): void
}

/**
 * True when a DNS server that is itself in the mesh was dialled. Its proxy may expect mutual TLS, and knows policies for
 * it: the connection goes there as every other one, and the server answers for itself.
 */
export function isMeshResolver(snapshot: Snapshot, address: string): boolean {
  const service = snapshot.serviceByAddress(address)
  const workload = service === null ? snapshot.workloadByAddress(address) : null
  if (workload !== null) return workload.tunnelProtocol === TUNNEL_HBONE
  return service !== null && snapshot.endpointsOf(service.key).some(isInMesh)
}

function isInMesh({ tunnelProtocol }: Workload): boolean {
  return tunnelProtocol === TUNNEL_HBONE
}

/** One connection of a pod to a resolver. */
export class OutboundDns implements Handler, LiveConnection, MessageSink, TimerTarget {
  tableIndex: number
  private readonly parts: ProxyParts
  private readonly nameServer: NameServer
  private readonly source: LocalWorkload
  private readonly conn: Conn
  private readonly frames: DnsFrames
  private readonly timer: TimerEntry
  private readonly startedAtMs: number
  private openQuestions: number
  private isPaused: boolean
  /** No more questions will come, or be taken. */
  private isLast: boolean
  private receivedBytes: number
  private sentBytes: number

  constructor(parts: ProxyParts, nameServer: NameServer, source: LocalWorkload, conn: Conn) {
    this.tableIndex = NOT_LISTED
    this.parts = parts
    this.nameServer = nameServer
    this.source = source
    this.conn = conn
    this.frames = new DnsFrames(this)
    this.timer = new TimerEntry(this)
    this.startedAtMs = parts.nowMs()
    this.openQuestions = 0
    this.isPaused = false
    this.isLast = false
    this.receivedBytes = 0
    this.sentBytes = 0
  }

  onOpen(conn: Conn): void {
    if (!this.parts.connections.add(this.source.uid, this)) {
      this.parts.log.warn('connection refused: the pod has too many open connections', { pod: this.source.uid })
      conn.abort()
      return
    }
    this.parts.timers.start(this.timer, IDLE_MS)
  }

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    this.receivedBytes += end - offset
    this.parts.timers.start(this.timer, IDLE_MS)
    this.frames.push(bytes, offset, end)
    this.holdBack()
  }

  /** A whole question. An empty one is none, and whoever sends it speaks something else. */
  onMessage(message: Uint8Array): boolean {
    if (message.length === 0) {
      this.conn.abort()
      return false
    }
    this.openQuestions++
    const { source, conn } = this
    this.nameServer.query(source.uid, conn.localAddress, message, true, new StreamAnswer(this))
    return !conn.isClosed
  }

  onEnd(): void {
    this.isLast = true
    this.endWhenDone()
  }

  onDrain(): void {
    this.holdBack()
  }

  onClose(): void {
    this.parts.timers.clear(this.timer)
    this.parts.connections.remove(this.source.uid, this)
  }

  onTimer(): void {
    this.conn.close()
  }

  answered(message: Uint8Array): void {
    this.openQuestions--
    if (this.conn.isClosed) return
    const framed = frameMessage(message)
    this.sentBytes += framed.length
    this.parts.timers.start(this.timer, IDLE_MS)
    this.conn.write(framed, 0, framed.length)
    this.holdBack()
    this.endWhenDone()
  }

  /** Reads on only while few questions are open and the client takes its answers. */
  private holdBack(): void {
    const isTooMuch = this.openQuestions >= QUESTIONS_MAX || this.conn.backlog > BACKLOG_HIGH
    if (isTooMuch === this.isPaused || this.conn.isClosed) return
    this.isPaused = isTooMuch
    if (isTooMuch) this.conn.pauseReading()
    else this.conn.resumeReading()
  }

  private endWhenDone(): void {
    if (this.isLast && this.openQuestions === 0) this.conn.end()
  }

  // --- live connection table ---

  recheck(): void {}

  drain(): void {
    this.isLast = true
    if (this.openQuestions === 0 && this.frames.isBetweenMessages) this.conn.close()
  }

  abort(): void {
    this.conn.abort()
  }

  flushMetrics(): void {}

  describe(): ConnectionDescription {
    const { conn } = this
    return {
      direction: 'outbound',
      protocol: 'dns',
      pod: this.source.uid,
      downstream: formatHostPort(conn.remoteAddress, conn.remotePort),
      originalDestination: formatHostPort(conn.localAddress, conn.localPort),
      upstream: '',
      peer: '',
      ageMs: this.parts.nowMs() - this.startedAtMs,
      receivedBytes: this.receivedBytes,
      sentBytes: this.sentBytes,
    }
  }
}

class StreamAnswer {
  private readonly connection: OutboundDns

  constructor(connection: OutboundDns) {
    this.connection = connection
  }

  answer(bytes: Uint8Array): void {
    this.connection.answered(bytes)
  }
}
