/**
 * A web client and a web app whose every byte is scripted, in HTTP/1 and in HTTP/2 with the same words: each part of a
 * request or a response can be sent alone, and either side can break off anywhere.
 */
import { connect, createServer, type Server, type Socket } from 'node:net'
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_HEADERS,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  PREFACE,
} from '../../src/http/h2/frame.ts'
import { HpackDecoder } from '../../src/http/h2/hpack-decoder.ts'
import { frame, resetFrame, settingsFrame } from './scripted-h2-peer.ts'
import type { Target } from './web-clients.ts'

export type Version = 1 | 2

/** Bodies, both ways, are two halves of this length. */
const HALF_BYTES = 5
const LENGTH = String(HALF_BYTES * 2)

/** What either side has received, and its ends. */
class Wire {
  readonly socket: Socket
  received: Buffer = Buffer.alloc(0)
  hasEnded = false
  /** ECONNRESET and the like; empty when nothing went wrong. */
  error = ''
  isClosed = false
  private waiting: (() => void)[] = []

  constructor(socket: Socket) {
    this.socket = socket
    socket.setNoDelay(true)
    socket.on('data', (bytes: Buffer) => {
      this.received = Buffer.concat([this.received, bytes])
      this.wake()
    })
    socket.on('end', () => {
      this.hasEnded = true
      this.wake()
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code ?? error.message
      this.wake()
    })
    socket.on('close', () => {
      this.isClosed = true
      this.wake()
    })
  }

  /** Waits for a condition that input or an end can make true. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.waiting.push(resolve))
  }

  private wake(): void {
    const waiting = this.waiting
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}

interface ReceivedFrame {
  readonly type: number
  readonly flags: number
  readonly streamId: number
  readonly payload: Buffer
}

/** The whole frames in what was received from `start` on. */
function framesIn(received: Buffer, start: number): ReceivedFrame[] {
  const frames: ReceivedFrame[] = []
  for (let at = start; at + 9 <= received.length; ) {
    const end = at + 9 + received.readUIntBE(at, 3)
    if (end > received.length) break
    const [type, flags, streamId] = [received[at + 3]!, received[at + 4]!, received.readUInt32BE(at + 5)]
    frames.push({ type, flags, streamId, payload: received.subarray(at + 9, end) })
    at = end
  }
  return frames
}

/** What became of a request, as its client sees it. */
export interface Outcome {
  /** 0 without a response. */
  readonly status: number
  readonly body: string
  /** The response ended as it should. */
  readonly isComplete: boolean
}

export class ScriptedClient {
  readonly wire: Wire
  private readonly version: Version
  private readonly path: string

  constructor(version: Version, target: Target, path: string) {
    this.version = version
    this.path = path
    this.wire = new Wire(connect({ ...target, allowHalfOpen: true }))
    if (version === 2) {
      this.wire.socket.write(PREFACE)
      this.wire.socket.write(settingsFrame())
    }
  }

  /** A head that breaks off in the middle. */
  sendHalfHead(): void {
    const { socket } = this.wire
    if (this.version === 1) socket.write(`POST ${this.path} HTTP/1.1\r\nhost: w`)
    else socket.write(frame(FRAME_HEADERS, 0, 1, this.headBlock().subarray(0, 4)))
  }

  sendHead(): void {
    const { socket } = this.wire
    if (this.version === 1) {
      socket.write(`POST ${this.path} HTTP/1.1\r\nhost: web\r\ncontent-length: ${LENGTH}\r\n\r\n`)
    } else {
      const block = this.headBlock()
      socket.write(frame(FRAME_HEADERS, 0, 1, block.subarray(0, 4)))
      socket.write(frame(FRAME_CONTINUATION, FLAG_END_HEADERS, 1, block.subarray(4)))
    }
  }

  sendHalf(): void {
    if (this.version === 1) this.wire.socket.write('first')
    else this.wire.socket.write(frame(FRAME_DATA, 0, 1, Buffer.from('first')))
  }

  sendRest(): void {
    if (this.version === 1) this.wire.socket.write('other')
    else this.wire.socket.write(frame(FRAME_DATA, FLAG_END_STREAM, 1, Buffer.from('other')))
  }

  resetConnection(): void {
    this.wire.socket.resetAndDestroy()
  }

  /** HTTP/2 only: gives the stream up and keeps the connection. */
  resetStream(): void {
    this.wire.socket.write(resetFrame(1, 8))
  }

  /** The final response's head has come. */
  async head(): Promise<number> {
    await this.wire.until(() => this.outcome().status !== 0 || this.isOver)
    return this.outcome().status
  }

  /** `count` bytes of the response's body have come. */
  async body(count: number): Promise<void> {
    await this.wire.until(() => this.outcome().body.length >= count || this.isOver)
  }

  /** The end, whatever it is: of the response, or of the connection before it. */
  async over(): Promise<Outcome> {
    await this.wire.until(() => this.isOver)
    return this.outcome()
  }

  close(): void {
    this.wire.socket.destroy()
  }

  private get isOver(): boolean {
    if (this.wire.error !== '' || this.wire.isClosed || this.outcome().isComplete) return true
    if (this.version === 1) return this.wire.hasEnded
    return this.wire.hasEnded || this.frames().some(({ type }) => type === FRAME_RST_STREAM)
  }

  private frames(): ReceivedFrame[] {
    return framesIn(this.wire.received, 0).filter(({ streamId }) => streamId === 1)
  }

  private outcome(): Outcome {
    return this.version === 1 ? this.outcome1() : this.outcome2()
  }

  private outcome1(): Outcome {
    const text = this.wire.received.toString('latin1')
    const head = /^HTTP\/1\.1 ([0-9]{3})[\s\S]*?\r\n\r\n/.exec(text)
    if (head === null) return { status: 0, body: '', isComplete: false }
    const rest = text.slice(head[0].length)
    const length = /\r\ncontent-length: ([0-9]+)/i.exec(head[0])
    const isChunked = /\r\ntransfer-encoding: chunked/i.test(head[0])
    const body = isChunked ? rest.replace(/(^|\r\n)[0-9a-f]+\r\n/g, '') : rest
    const isComplete = isChunked
      ? rest.endsWith('0\r\n\r\n')
      : length === null
        ? this.wire.hasEnded && this.wire.error === ''
        : body.length >= Number(length[1])
    return { status: Number(head[1]), body, isComplete }
  }

  private outcome2(): Outcome {
    let status = 0
    let body = ''
    let isComplete = false
    const decoder = new HpackDecoder()
    for (const { type, flags, payload } of this.frames()) {
      if (type === FRAME_HEADERS && status === 0) {
        const fields = decoder.decode(payload, 0, payload.length, 65_536)!
        status = Number(fields[fields.indexOf(':status') + 1])
      } else if (type === FRAME_DATA) {
        body += payload.toString('latin1')
      }
      if ((type === FRAME_HEADERS || type === FRAME_DATA) && (flags & FLAG_END_STREAM) !== 0) isComplete = true
    }
    return { status, body, isComplete }
  }

  /** :method POST, :scheme http, :path, :authority, content-length; nothing is indexed, nothing compressed. */
  private headBlock(): Buffer {
    return Buffer.concat([
      Buffer.from([0x83, 0x86]),
      literal([0x04], this.path),
      literal([0x01], 'web'),
      literal([0x0f, 0x0d], LENGTH),
    ])
  }
}

/** A field with an indexed name and a literal value (RFC 7541 section 6.2.2). */
function literal(name: readonly number[], value: string): Buffer {
  return Buffer.concat([Buffer.from([...name, value.length]), Buffer.from(value)])
}

/** One connection to the app. */
export class ScriptedApp {
  readonly wire: Wire
  private readonly version: Version
  /** Requests that `request` has reported. */
  private seen = 0
  private streamId = 0

  constructor(version: Version, socket: Socket) {
    this.version = version
    this.wire = new Wire(socket)
    if (version === 2) {
      socket.write(settingsFrame())
      socket.write(frame(FRAME_SETTINGS, FLAG_ACK, 0))
    }
  }

  /** Waits for the head of the next request; false when the connection ends without one. */
  async request(): Promise<boolean> {
    await this.wire.until(() => this.requestCount > this.seen || this.wire.isClosed || this.wire.hasEnded)
    if (this.requestCount <= this.seen) return false
    if (this.version === 2) this.streamId = this.requestStreams()[this.seen]!
    this.seen++
    return true
  }

  /** Waits for text in the body of a request. */
  async body(text: string): Promise<void> {
    await this.wire.until(() => this.wire.received.includes(text) || this.wire.isClosed)
  }

  /** The connection is gone, or (HTTP/2) the stream was given up. */
  async gone(): Promise<void> {
    await this.wire.until(() => this.wire.isClosed || this.wire.error !== '' || this.isStreamReset)
  }

  sendHalfHead(): void {
    if (this.version === 1) this.wire.socket.write('HTTP/1.1 200 OK\r\ncontent-le')
    else this.wire.socket.write(frame(FRAME_HEADERS, 0, this.streamId, Buffer.from([0x88])))
  }

  /** `isUntilClose`: without a length in HTTP/1, where the end of the connection ends the body. */
  sendHead(isUntilClose = false): void {
    if (this.version === 1) {
      this.wire.socket.write(`HTTP/1.1 200 OK\r\n${isUntilClose ? '' : `content-length: ${LENGTH}\r\n`}\r\n`)
    } else {
      const length = isUntilClose ? Buffer.alloc(0) : literal([0x0f, 0x0d], LENGTH)
      const block = Buffer.concat([Buffer.from([0x88]), length])
      this.wire.socket.write(frame(FRAME_HEADERS, FLAG_END_HEADERS, this.streamId, block))
    }
  }

  sendHalf(): void {
    if (this.version === 1) this.wire.socket.write('hello')
    else this.wire.socket.write(frame(FRAME_DATA, 0, this.streamId, Buffer.from('hello')))
  }

  sendRest(): void {
    if (this.version === 1) this.wire.socket.write('world')
    else this.wire.socket.write(frame(FRAME_DATA, FLAG_END_STREAM, this.streamId, Buffer.from('world')))
  }

  answer(): void {
    this.sendHead()
    this.sendHalf()
    this.sendRest()
  }

  resetConnection(): void {
    this.wire.socket.resetAndDestroy()
  }

  endConnection(): void {
    this.wire.socket.end()
  }

  /** HTTP/2 only. */
  resetStream(): void {
    this.wire.socket.write(resetFrame(this.streamId, 2))
  }

  private get requestCount(): number {
    if (this.version === 2) return this.requestStreams().length
    return this.wire.received.toString('latin1').split('\r\n\r\n').length - 1
  }

  private get isStreamReset(): boolean {
    return this.frames().some(({ type, streamId }) => type === FRAME_RST_STREAM && streamId === this.streamId)
  }

  private requestStreams(): number[] {
    return this.frames().flatMap(({ type, streamId }) => (type === FRAME_HEADERS ? [streamId] : []))
  }

  private frames(): ReceivedFrame[] {
    return this.version === 1 ? [] : framesIn(this.wire.received, PREFACE.length)
  }
}

/** A server of scripted apps: what each connection does is decided by the `script` of the moment. */
export class ScriptedServer {
  script: (app: ScriptedApp) => void = () => {}
  accepted = 0
  private readonly server: Server
  private readonly apps = new Set<ScriptedApp>()

  constructor(version: Version) {
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      this.accepted++
      const app = new ScriptedApp(version, socket)
      this.apps.add(app)
      socket.on('close', () => this.apps.delete(app))
      this.script(app)
    })
  }

  async listen(host: string, port: number): Promise<void> {
    await new Promise<void>((resolve) => this.server.listen(port, host, resolve))
  }

  /** Ends all connections, as a server that was restarted. */
  reset(): void {
    for (const app of this.apps) app.wire.socket.resetAndDestroy()
  }

  close(): void {
    this.server.close()
    this.reset()
  }
}
