/**
 * Time on an HTTP/2 connection of an application. The engine has no clock: its owner calls `beat` every BEAT_MS, and what
 * lasts is counted in beats. It costs a request nothing.
 *
 *     peer's settings, and its acknowledgement of ours      HEAD_MS, then SETTINGS_TIMEOUT (RFC 9113 section 6.5.3)
 *     a head that has begun (HEADERS without its end)       HEAD_MS, then ENHANCE_YOUR_CALM
 *     DATA that the peer gives no window for                STALL_MS, then the stream is reset
 *     output that the peer does not read                    STALL_MS, then the connection is reset
 *     silence while exchanges are open                      a PING, and PING_TIMEOUT_MS for any answer
 *     no exchange for long (server)                         IDLE_MS, then GOAWAY; keepalives of the peer do not count
 *     the answer to the PING of a drain (server)            one beat, then the final GOAWAY goes out without it
 */
import type { H2Connection } from './connection.ts'
import { ROLE_SERVER, type Role } from './limits.ts'
import {
  HEAD_TOO_SLOW,
  OUTPUT_STALLED,
  PING_UNANSWERED,
  SETTINGS_MISSING,
  SETTINGS_NOT_ACKNOWLEDGED,
} from './violations.ts'

/** How often `beat` is called. 5 s: a quarter of the shortest time; ten thousand connections cost 2,000 looks a second. */
export const BEAT_MS = 5000

/** Longest time of a head, of settings and of their acknowledgement. One minute, as for HTTP/1: it covers a paused peer. */
export const HEAD_MS = 60_000

/** Longest time without any progress of what we send. 5 min, as Envoy's stream idle time-out. */
export const STALL_MS = 300_000

/**
 * Silence of a client after which it is pinged, while exchanges are open. One minute: twice a second per 100 connections,
 * and a client that vanished does not hold a watch on the upstream for longer.
 */
export const CLIENT_SILENCE_MS = 60_000

/**
 * Silence of a server after which it is pinged. 5.5 min: gRPC servers end connections that are pinged more often than
 * every 5 min while nothing is sent ("too_many_pings").
 */
export const SERVER_SILENCE_MS = 330_000

/** Longest wait for any byte after a PING. 20 s, as gRPC and ztunnel. */
export const PING_TIMEOUT_MS = 20_000

/** Time without exchanges after which a client's connection is ended. One hour, as for HTTP/1. */
export const IDLE_MS = 3_600_000

/** Watches one connection. Beats come only while it is open. */
export class Vigil {
  private readonly engine: H2Connection
  private readonly isServer: boolean
  private readonly silenceMs: number
  private greetingMs: number
  private headMs: number
  private headsBegun: number
  private blockedMs: number
  private silentMs: number
  private idleMs: number
  private receivedCount: number
  private streamCount: number
  private isPinged: boolean
  private isDrainSeen: boolean

  /** `role` is that of the engine. */
  constructor(engine: H2Connection, role: Role) {
    this.engine = engine
    this.isServer = role === ROLE_SERVER
    this.silenceMs = this.isServer ? CLIENT_SILENCE_MS : SERVER_SILENCE_MS
    this.greetingMs = 0
    this.headMs = 0
    this.headsBegun = 0
    this.blockedMs = 0
    this.silentMs = 0
    this.idleMs = 0
    this.receivedCount = 0
    this.streamCount = 0
    this.isPinged = false
    this.isDrainSeen = false
  }

  /** BEAT_MS have passed. May end the connection, which is then reported as any violation. */
  beat(): void {
    const { engine } = this
    if (!engine.isClosed) this.watchGreeting()
    if (!engine.isClosed) this.watchHead()
    if (!engine.isClosed) this.watchOutput()
    if (!engine.isClosed) this.watchSilence()
    if (!engine.isClosed && this.isServer) this.watchIdle()
  }

  private watchGreeting(): void {
    const { engine } = this
    if (engine.isAcknowledged) return
    this.greetingMs += BEAT_MS
    if (this.greetingMs < HEAD_MS) return
    engine.onConnectionError(engine.peer.isKnown ? SETTINGS_NOT_ACKNOWLEDGED : SETTINGS_MISSING)
  }

  /** The same head must be open at every beat: a busy connection is often found in the middle of some head. */
  private watchHead(): void {
    const { intake } = this.engine
    const isSame = intake.headsBegun === this.headsBegun
    this.headsBegun = intake.headsBegun
    this.headMs = isSame && intake.headsBegun !== intake.headsDone ? this.headMs + BEAT_MS : 0
    if (this.headMs >= HEAD_MS) this.engine.onConnectionError(HEAD_TOO_SLOW)
  }

  private watchOutput(): void {
    const { engine } = this
    this.blockedMs = engine.output.writer.isBlocked ? this.blockedMs + BEAT_MS : 0
    if (this.blockedMs >= STALL_MS) {
      engine.giveUp(OUTPUT_STALLED)
      return
    }
    if (!engine.hasQueued || this.blockedMs > 0) return
    for (const stream of engine.streams.values()) {
      if (!stream.canStall) stream.stalledBeats = 0
      else if (++stream.stalledBeats * BEAT_MS > STALL_MS) stream.giveUpStalled()
    }
  }

  /** Pings only while exchanges are open: a connection without them may be let go by whoever wants to. */
  private watchSilence(): void {
    const { engine } = this
    // A PING behind output that is not read would say no more than that output does.
    const mayAsk = engine.activeCount > 0 && this.blockedMs === 0
    const isSilent = mayAsk && engine.receivedCount === this.receivedCount
    this.receivedCount = engine.receivedCount
    if (!isSilent) {
      this.silentMs = 0
      this.isPinged = false
      return
    }
    this.silentMs += BEAT_MS
    if (!this.isPinged && this.silentMs >= this.silenceMs) {
      this.isPinged = true
      this.silentMs = 0
      engine.ping()
    } else if (this.isPinged && this.silentMs >= PING_TIMEOUT_MS) {
      engine.giveUp(PING_UNANSWERED)
    }
  }

  private watchIdle(): void {
    const { engine } = this
    const isIdle = engine.activeCount === 0 && engine.streamCount === this.streamCount
    this.streamCount = engine.streamCount
    this.idleMs = isIdle ? this.idleMs + BEAT_MS : 0
    if (this.idleMs >= IDLE_MS) engine.drain()
    if (!engine.isDraining) return
    if (this.isDrainSeen) engine.finishDrain()
    this.isDrainSeen = true
  }
}
