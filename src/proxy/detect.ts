// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 4 of both paths, only for ports whose protocol nobody declared: what do the first bytes look like?
 *
 * Availability beats certainty: as soon as the bytes cannot be HTTP any more they are TCP, and a client that says
 * nothing for DETECT_TIMEOUT_MS is taken to wait for a server that speaks first.
 */

import type { WeftError } from '../base/errors.ts'
import { TimerEntry, type TimerTarget, type TimerWheel } from '../base/timers.ts'
import {
  PROTOCOL_DETECT,
  PROTOCOL_GRPC,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  type Protocol,
} from '../model/service.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import type { Exchange } from './exchange.ts'

/** Longest wait for a client's first bytes. A server-first protocol is delayed by this much, once. */
export const DETECT_TIMEOUT_MS = 50

/** Longest method of the HTTP registry that we look for, plus its space, is 18 bytes (`UPDATEREDIRECTREF `). */
const METHOD_BYTES_MAX = 24

/** Bytes that are kept while undecided: one read that ends inside a method or the HTTP/2 preface. */
const HELD_BYTES_MAX = 65_536

const PREFACE = 'PRI * HTTP/2.0'

/** `PRI ` begins nothing else. */
const PREFACE_BYTES_TELLING = 4

/** Payload of the first SETTINGS frame of a server: ten settings of six bytes exist. */
const SETTINGS_BYTES_MAX = 60

/** True for protocols that are served as HTTP, request by request. */
export function isHttp(protocol: Protocol): boolean {
  return protocol === PROTOCOL_HTTP1 || protocol === PROTOCOL_HTTP2 || protocol === PROTOCOL_GRPC
}

/**
 * The version in which a request goes on: that of its port where the port declares one, else the client's. gRPC is HTTP/2
 * wherever it comes from: HTTP/1 cannot carry it.
 */
export function speaksHttp2(protocol: Protocol, exchange: Exchange): boolean {
  if (protocol === PROTOCOL_HTTP2 || protocol === PROTOCOL_GRPC) return true
  return exchange.head.version === 20 && (protocol !== PROTOCOL_HTTP1 || exchange.isGrpc)
}

/** Who is told what was found. */
export interface DetectTarget {
  /** `held[0..length)` are the bytes read so far, to be delivered first; `hasEnded` when the client half-closed. */
  onDetected(protocol: Protocol, held: Uint8Array, length: number, hasEnded: boolean): void
  /** The connection closed before anything could be told. */
  onDetectClosed(error: WeftError | null): void
}

/** Handler of a connection until its protocol is known. */
export class Detection implements Handler, TimerTarget {
  private readonly target: DetectTarget
  private readonly timers: TimerWheel
  private readonly timer: TimerEntry
  private held: Uint8Array
  private length: number
  private isDone: boolean

  constructor(target: DetectTarget, timers: TimerWheel, waitsForClient: boolean) {
    this.target = target
    this.timers = timers
    this.timer = new TimerEntry(this)
    this.held = EMPTY
    this.length = 0
    this.isDone = false
    if (waitsForClient) timers.start(this.timer, DETECT_TIMEOUT_MS)
  }

  /** The other side spoke first: no HTTP, unless it is the settings with which a server of HTTP/2 may begin. */
  serverSpoke(/* lent */ bytes: Uint8Array): void {
    if (!startsLikeSettings(bytes)) this.finish(PROTOCOL_TCP, false)
  }

  /** The other side ended, or will not be heard. */
  serverEnded(): void {
    this.finish(PROTOCOL_TCP, false)
  }

  onOpen(): void {}

  onBytes(_conn: Conn, /* lent */ bytes: Uint8Array, offset: number, end: number): void {
    if (this.isDone) return
    this.keep(bytes, offset, end)
    const protocol = sniff(this.held, this.length)
    if (protocol !== PROTOCOL_DETECT) this.finish(protocol, false)
    else if (this.length >= HELD_BYTES_MAX) this.finish(PROTOCOL_TCP, false)
    // Silence may last, half a word may not: it would be held from an app that is waiting for it.
    else if (!this.timer.isRunning) this.timers.start(this.timer, DETECT_TIMEOUT_MS)
  }

  onEnd(): void {
    this.finish(PROTOCOL_TCP, true)
  }

  onDrain(): void {}

  onClose(_conn: Conn, error: WeftError | null): void {
    if (this.isDone) return
    this.isDone = true
    this.timers.clear(this.timer)
    this.target.onDetectClosed(error)
  }

  onTimer(): void {
    // A request line that comes in pieces is HTTP all the same; only silence means that the server speaks first.
    if (this.length >= PREFACE_BYTES_TELLING && startsLikePreface(this.held, this.length)) {
      this.finish(PROTOCOL_HTTP2, false)
      return
    }
    this.finish(beginsRequestLine(this.held, this.length) ? PROTOCOL_HTTP1 : PROTOCOL_TCP, false)
  }

  private finish(protocol: Protocol, hasEnded: boolean): void {
    if (this.isDone) return
    this.isDone = true
    this.timers.clear(this.timer)
    this.target.onDetected(protocol, this.held, this.length, hasEnded)
  }

  private keep(bytes: Uint8Array, offset: number, end: number): void {
    const next = new Uint8Array(this.length + end - offset)
    next.set(this.held.subarray(0, this.length))
    next.set(bytes.subarray(offset, end), this.length)
    this.held = next
    this.length = next.length
  }
}

const EMPTY = new Uint8Array(0)

/** The protocol that `bytes[0..length)` begin, or PROTOCOL_DETECT while it cannot be told. */
export function sniff(bytes: Uint8Array, length: number): Protocol {
  if (length === 0) return PROTOCOL_DETECT
  // TLS: a handshake record (22) of version 3.x.
  if (bytes[0] === 0x16) return length === 1 ? PROTOCOL_DETECT : bytes[1] === 0x03 ? PROTOCOL_TLS : PROTOCOL_TCP
  if (startsLikePreface(bytes, length)) return length >= PREFACE.length ? PROTOCOL_HTTP2 : PROTOCOL_DETECT
  // HTTP/1: an upper-case token, a space, then what may begin a request target.
  let i = 0
  while (i < length && i < METHOD_BYTES_MAX && isMethodByte(bytes[i]!)) i++
  if (i === length) return i < METHOD_BYTES_MAX ? PROTOCOL_DETECT : PROTOCOL_TCP
  if (i === 0 || bytes[i] !== 0x20) return PROTOCOL_TCP
  if (i + 1 === length) return PROTOCOL_DETECT
  return sniffTarget(bytes, i + 1, length)
}

/**
 * A target ends with a space and `HTTP/1.`: a text protocol with upper-case commands ("EHLO host") has no such end.
 * A request line that is still coming is undecided.
 */
function sniffTarget(bytes: Uint8Array, from: number, length: number): Protocol {
  if (bytes[from]! <= 0x20) return PROTOCOL_TCP
  let lineEnd = from
  while (lineEnd < length && bytes[lineEnd] !== 0x0a) lineEnd++
  if (lineEnd === length) return PROTOCOL_DETECT
  let end = lineEnd
  if (end > from && bytes[end - 1] === 0x0d) end--
  const start = end - 9
  if (start < from) return PROTOCOL_TCP
  for (let i = 0; i < VERSION.length; i++) if (bytes[start + i] !== VERSION.charCodeAt(i)) return PROTOCOL_TCP
  return PROTOCOL_HTTP1
}

const VERSION = ' HTTP/1.'

/** A method, a space and the first byte of an origin or absolute target. */
function beginsRequestLine(bytes: Uint8Array, length: number): boolean {
  let i = 0
  while (i < length && i < METHOD_BYTES_MAX && isMethodByte(bytes[i]!)) i++
  return i >= 3 && i + 1 < length && bytes[i] === 0x20 && (bytes[i + 1] === 0x2f || bytes[i + 1] === 0x68)
}

function startsLikePreface(bytes: Uint8Array, length: number): boolean {
  const end = Math.min(length, PREFACE.length)
  for (let i = 0; i < end; i++) if (bytes[i] !== PREFACE.charCodeAt(i)) return false
  return true
}

/** The head of a SETTINGS frame that acknowledges nothing (RFC 9113 section 6.5). */
function startsLikeSettings(bytes: Uint8Array): boolean {
  if (bytes.length < 9 || bytes[0] !== 0 || bytes[1] !== 0 || bytes[3] !== 4) return false
  if (bytes[2]! > SETTINGS_BYTES_MAX || bytes[2]! % 6 !== 0) return false
  for (let i = 4; i < 9; i++) if (bytes[i] !== 0) return false
  return true
}

function isMethodByte(byte: number): boolean {
  return (byte >= 0x41 && byte <= 0x5a) || byte === 0x2d || byte === 0x5f
}
