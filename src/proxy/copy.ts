// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The relay between two connections: bytes, half-closes, resets and back-pressure in both directions.
 *
 * A reader is paused while the other side's backlog is above BACKLOG_HIGH, so that a slow reader stops its writer and
 * costs bounded memory. A reset on one side is a reset on the other; an end is an end.
 */
import type { WeftError } from '../base/errors.ts'
import { BACKLOG_HIGH, type Conn, type Handler } from '../transport/conn.ts'

export interface RelayOwner {
  /** The first byte of the relay has come, from the server or from the client. */
  onFirstByte?(isServer: boolean): void
  /** Both sides are closed; `error` is the first reset or failure, null for an orderly end. */
  onRelayClosed(isDownstreamFault: boolean, error: WeftError | null): void
}

export class Relay implements Handler {
  readonly downstream: Conn
  readonly upstream: Conn
  /** Bytes from the client, bytes to the client. */
  receivedBytes: number
  sentBytes: number
  private readonly owner: RelayOwner
  private isDownstreamPaused: boolean
  private isUpstreamPaused: boolean
  private openCount: number
  private error: WeftError | null
  private isDownstreamFault: boolean
  private isReported: boolean

  /** Takes both connections over. Both are open. */
  constructor(downstream: Conn, upstream: Conn, owner: RelayOwner) {
    this.downstream = downstream
    this.upstream = upstream
    this.receivedBytes = 0
    this.sentBytes = 0
    this.owner = owner
    this.isDownstreamPaused = false
    this.isUpstreamPaused = false
    this.openCount = 2
    this.error = null
    this.isDownstreamFault = false
    this.isReported = false
    downstream.handler = this
    upstream.handler = this
  }

  onOpen(): void {}

  onBytes(conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    const length = end - offset
    if (this.receivedBytes === 0 && this.sentBytes === 0) this.owner.onFirstByte?.(conn === this.upstream)
    if (conn === this.downstream) {
      this.receivedBytes += length
      if (this.upstream.write(bytes, offset, length) > BACKLOG_HIGH && !this.isDownstreamPaused) {
        this.isDownstreamPaused = true
        conn.pauseReading()
      }
    } else {
      this.sentBytes += length
      if (this.downstream.write(bytes, offset, length) > BACKLOG_HIGH && !this.isUpstreamPaused) {
        this.isUpstreamPaused = true
        conn.pauseReading()
      }
    }
  }

  onEnd(conn: Conn): void {
    if (conn === this.downstream) this.upstream.end()
    else this.downstream.end()
  }

  onDrain(conn: Conn): void {
    if (conn === this.upstream && this.isDownstreamPaused) {
      this.isDownstreamPaused = false
      this.downstream.resumeReading()
    } else if (conn === this.downstream && this.isUpstreamPaused) {
      this.isUpstreamPaused = false
      this.upstream.resumeReading()
    }
  }

  onClose(conn: Conn, error: WeftError | null): void {
    this.openCount--
    if (error !== null && this.error === null) {
      this.error = error
      this.isDownstreamFault = conn === this.downstream
      if (conn === this.downstream) this.upstream.abort()
      else this.downstream.abort()
    }
    // An abort may report its own close at once, inside this call.
    if (this.openCount <= 0 && !this.isReported) {
      this.isReported = true
      this.owner.onRelayClosed(this.isDownstreamFault, this.error)
    }
  }

  /** Resets both sides (a policy now denies, or the worker stops). The owner is told as for any other end. */
  abort(): void {
    this.downstream.abort()
    this.upstream.abort()
  }
}
