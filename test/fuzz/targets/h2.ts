/**
 * The HTTP/2 engine, both roles. Byte 0 chooses role and behaviour, the rest is what the peer sends. For any bytes the
 * connection is in a clean state afterwards (open, or ended by GOAWAY with a code of the RFC), however they are cut;
 * windows stay within their bounds; what is sent and held stays in proportion; every stream ends exactly once.
 */
import assert from 'node:assert/strict'
import type { ByteSink } from '../../../src/http/codec.ts'
import { H2Connection, type H2Events } from '../../../src/http/h2/connection.ts'
import {
  FLAG_ACK,
  FRAME_BYTES_DEFAULT,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
  PREFACE,
  WINDOW_BYTES_DEFAULT,
  WINDOW_BYTES_LARGEST,
} from '../../../src/http/h2/frame.ts'
import {
  APP_CLIENT_SETTINGS,
  APP_SERVER_SETTINGS,
  type H2Settings,
  HBONE_SERVER_SETTINGS,
  ROLE_SERVER,
} from '../../../src/http/h2/limits.ts'
import { CLOSED_BY_VIOLATION, type CloseCause, type H2Receiver, type H2Stream } from '../../../src/http/h2/stream.ts'
import type { H2Violation } from '../../../src/http/h2/violations.ts'
import { goAwayFrame, pingFrame, resetFrame, settingsFrame, windowUpdateFrame } from '../../support/scripted-h2-peer.ts'
import { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, concat, type Target } from '../target.ts'
import { runClientCodec, runServerCodec } from './h2-exchanges.ts'
import { CONNECT, data, FRAMES, GET, headers, mutateFrames, POST, SOCKET_SETTINGS } from './h2-inputs.ts'

/** Two bits of byte 0: a role of the engine, or its codec (h2-exchanges.ts): the server's, or with PAUSES the client's. */
const ROLES: readonly H2Settings[] = [APP_SERVER_SETTINGS, HBONE_SERVER_SETTINGS, APP_CLIENT_SETTINGS]
const ROLE_CODEC = 3
/** The peer begins as it should; without it the input must bring the preface. */
const GREETS = 4
const PAUSES = 8
const ANSWERS = 16
const ANSWERS_AT_LENGTH = 32

/** Largest error code of RFC 9113 section 7. */
const ERROR_LARGEST = 13
/** More than the connection's window, so that the peer's updates decide what is sent. */
const LONG_ANSWER = new Uint8Array(100_000)
const SHORT_ANSWER = bytesOf('answer')
const CLIENT_STREAMS = 3
const SINGLE_BYTES_MAX = 1_500

/** What a stream heard, without how it was cut. */
class StreamTap implements H2Receiver {
  readonly lines: string[] = []
  isClosed = false
  private readonly tap: Tap
  private isPaused = false
  private readonly isRequest: boolean

  constructor(tap: Tap, isRequest: boolean) {
    this.tap = tap
    this.isRequest = isRequest
  }

  onHeaders(_stream: H2Stream, fields: string[]): void {
    this.add(`headers ${fields.join('|')}`)
    this.tap.checkFields(fields)
  }

  onData(stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void {
    assert.ok(end > offset, 'an empty piece of data')
    const text = Buffer.from(bytes.subarray(offset, end)).toString('latin1')
    if (this.lines.at(-1)?.startsWith('data') === true) this.lines.push(`${this.lines.pop()}${text}`)
    else this.add(`data ${text}`)
    if (this.tap.pauses && !this.isPaused) {
      this.isPaused = true
      stream.pauseReading()
      this.tap.paused.push(stream)
    }
  }

  onTrailers(_stream: H2Stream, fields: string[]): void {
    this.add(`trailers ${fields.join('|')}`)
    this.tap.checkFields(fields)
  }

  onEnd(stream: H2Stream): void {
    this.add('end')
    if (this.isRequest) this.tap.answer(stream)
  }

  onDrain(): void {}

  onClosed(_stream: H2Stream, cause: CloseCause, code: number): void {
    this.add(`closed ${cause} ${code}`)
    this.isClosed = true
  }

  resumed(): void {
    this.isPaused = false
  }

  private add(line: string): void {
    assert.ok(!this.isClosed, `${line} after the closing`)
    this.lines.push(line)
  }
}

class Tap implements H2Events, ByteSink {
  readonly engine: H2Connection
  readonly settings: H2Settings
  readonly streams = new Map<number, StreamTap>()
  readonly open = new Map<number, H2Stream>()
  readonly pauses: boolean
  paused: H2Stream[] = []
  failed: string | null = null
  /** What the engine said, without when. */
  readonly said: string[] = []
  endings = 0
  outputBytes = 0
  lastGoAwayCode = -1
  /** Flow-controlled bytes of the engine, and what it has granted, by stream; 0 is the connection. */
  readonly granted = new Map<number, number>()
  readonly sentData = new Map<number, number>()
  private readonly behaviour: number
  private rest: Buffer
  private isFlushWanted = false
  private smallestInitialWindow = WINDOW_BYTES_DEFAULT

  constructor(mode: number) {
    this.behaviour = mode
    this.pauses = (mode & PAUSES) !== 0
    this.settings = ROLES[mode & 3]!
    this.rest = Buffer.alloc(0)
    this.engine = new H2Connection(this.settings, this, this, () => 0)
    this.engine.start()
    this.flush()
    if (this.isServer) {
      if ((mode & GREETS) !== 0) this.receive(PREFACE)
    } else {
      for (let i = 0; i < CLIENT_STREAMS; i++) this.openStream(i)
    }
    if ((mode & GREETS) !== 0) this.receive(settingsFrame())
  }

  get isServer(): boolean {
    return this.settings.role === ROLE_SERVER
  }

  receive(bytes: Uint8Array): void {
    const lent = Buffer.from(bytes)
    this.engine.receive(lent, 0, lent.length)
    lent.fill(0x58)
    this.flush()
    while (this.paused.length > 0) {
      const paused = this.paused
      this.paused = []
      for (const stream of paused) {
        this.streams.get(stream.id)?.resumed()
        stream.resumeReading()
      }
      this.flush()
    }
    this.check()
  }

  answer(stream: H2Stream): void {
    if ((this.behaviour & ANSWERS) === 0) return
    const body = (this.behaviour & ANSWERS_AT_LENGTH) === 0 ? SHORT_ANSWER : LONG_ANSWER
    stream.sendHeaders([':status', '200', 'content-length', String(body.length)], false)
    stream.write(body, 0, body.length)
    stream.endWith(['grpc-status', '0'])
  }

  checkFields(fields: readonly string[]): void {
    const bytes = fields.reduce((sum, text, i) => sum + text.length + (i % 2 === 0 ? 32 : 0), 0)
    assert.ok(bytes <= this.settings.headerListBytesMax, `a header list of ${bytes} bytes`)
    for (let i = 0; i < fields.length; i += 2) assert.match(fields[i]!, /^:?[!#$%&'*+\-.^_`|~0-9a-z]+$/)
    for (let i = 1; i < fields.length; i += 2) assert.doesNotMatch(fields[i]!, /[\r\n\0]/)
  }

  /** After every piece of input: bounds that hold at any time. */
  check(): void {
    const { engine } = this
    this.smallestInitialWindow = Math.min(this.smallestInitialWindow, engine.peer.windowBytes)
    const window = engine.output.sendWindow.available
    assert.ok(window >= 0 && (window <= WINDOW_BYTES_LARGEST || engine.isClosed), `connection window ${window}`)
    for (const stream of this.open.values()) {
      if (stream.isClosed || engine.isClosed) continue
      const available = stream.sendWindow.available
      // Below zero only by a lowered initial window (RFC 9113 section 6.9.2).
      const floor = Math.min(0, this.smallestInitialWindow - WINDOW_BYTES_LARGEST)
      assert.ok(available <= WINDOW_BYTES_LARGEST && available >= floor, `window ${available} of stream ${stream.id}`)
    }
    assert.ok(engine.activeCount <= (this.isServer ? this.settings.peerStreamsMax : CLIENT_STREAMS))
  }

  // --- H2Events ---

  onStream(stream: H2Stream, fields: string[]): H2Receiver {
    assert.ok(this.isServer, 'a server has opened a stream')
    assert.ok(!this.streams.has(stream.id), 'a stream was opened twice')
    const receiver = new StreamTap(this, true)
    receiver.lines.push(`request ${fields.join('|')}`)
    this.checkFields(fields)
    assert.equal(fields.filter((text, i) => i % 2 === 0 && text === ':method').length, 1)
    assert.ok(!fields.some((text, i) => i % 2 === 0 && /^(connection|transfer-encoding|upgrade)$/.test(text)))
    this.streams.set(stream.id, receiver)
    this.open.set(stream.id, stream)
    return receiver
  }

  onFlushWanted(): void {
    assert.ok(!this.isFlushWanted, 'asked for a flush twice in a batch')
    this.isFlushWanted = true
  }

  onPong(): void {}
  onStreamEnded(): void {}

  onGoAway(code: number): void {
    this.said.push(`peer's goaway ${code}`)
  }

  onFailed(violation: H2Violation): void {
    assert.equal(this.failed, null, 'failed twice')
    this.failed = `${violation.code} ${violation.reason}`
  }

  onStreamViolation(): void {}

  flush(): void {
    for (let i = 0; this.isFlushWanted; i++) {
      assert.ok(i < 10, 'flushing asks for flushing without end')
      this.isFlushWanted = false
      this.engine.flush()
    }
  }

  // --- ByteSink ---

  write(bytes: Uint8Array, offset: number, length: number): number {
    assert.equal(this.endings, 0, 'written after the close')
    this.outputBytes += length
    this.rest = Buffer.concat([this.rest, bytes.subarray(offset, offset + length)])
    if (!this.isServer && this.rest.subarray(0, PREFACE.length).equals(PREFACE))
      this.rest = this.rest.subarray(PREFACE.length)
    while (this.rest.length >= FRAME_HEADER_BYTES) {
      const end = FRAME_HEADER_BYTES + this.rest.readUIntBE(0, 3)
      if (this.rest.length < end) break
      this.onFrame(this.rest[3]!, this.rest[4]!, this.rest.readUInt32BE(5), this.rest.subarray(FRAME_HEADER_BYTES, end))
      this.rest = this.rest.subarray(end)
    }
    return 0
  }

  end(): void {
    this.endings++
  }

  abort(): void {
    this.endings++
  }

  close(): void {
    this.endings++
  }

  pauseReading(): void {}
  resumeReading(): void {}

  private onFrame(type: number, flags: number, streamId: number, payload: Buffer): void {
    assert.ok(
      payload.length <= Math.max(FRAME_BYTES_DEFAULT, this.engine.peer.frameBytesMax),
      'a frame larger than allowed',
    )
    const onConnection = type === FRAME_SETTINGS || type === FRAME_PING || type === FRAME_GOAWAY
    if (type !== FRAME_WINDOW_UPDATE) assert.equal(streamId === 0, onConnection, `frame ${type} on ${streamId}`)
    if (type === FRAME_RST_STREAM) {
      assert.equal(payload.length, 4)
      const code = payload.readUInt32BE(0)
      assert.ok(code <= ERROR_LARGEST)
      this.said.push(`reset ${streamId} ${code}`)
    } else if (type === FRAME_GOAWAY) {
      this.lastGoAwayCode = payload.readUInt32BE(4)
      assert.ok(this.lastGoAwayCode <= ERROR_LARGEST)
      this.said.push(`goaway ${this.lastGoAwayCode}`)
    } else if (type === FRAME_WINDOW_UPDATE) {
      const increment = payload.readUInt32BE(0)
      assert.ok(increment > 0 && increment <= WINDOW_BYTES_LARGEST)
      this.granted.set(streamId, (this.granted.get(streamId) ?? 0) + increment)
    } else if (type === FRAME_DATA) {
      this.sentData.set(streamId, (this.sentData.get(streamId) ?? 0) + payload.length)
    } else if (type === FRAME_SETTINGS || type === FRAME_PING) {
      if ((flags & FLAG_ACK) !== 0) this.said.push(`acknowledged ${type}`)
    } else {
      assert.ok(type === FRAME_HEADERS || type === FRAME_CONTINUATION, `frame of type ${type}`)
    }
  }

  private openStream(index: number): void {
    const receiver = new StreamTap(this, false)
    const fields = [':method', index === 1 ? 'CONNECT' : 'GET', ':authority', 'a']
    if (index !== 1) fields.push(':scheme', 'http', ':path', '/')
    const stream = this.engine.open(fields, index === 0, receiver)
    this.streams.set(stream.id, receiver)
    this.open.set(stream.id, stream)
    if (index !== 0 && (this.behaviour & ANSWERS) !== 0) {
      stream.write(LONG_ANSWER, 0, LONG_ANSWER.length)
      stream.end()
    }
    this.flush()
  }
}

/** Bytes of DATA in `bytes`, and of all that looks like it, by stream; frames as their headers say. */
function dataOf(bytes: Uint8Array, hasPreface: boolean): Map<number, number> {
  const buffer = Buffer.from(bytes)
  const sums = new Map<number, number>()
  for (let at = hasPreface ? PREFACE.length : 0; at + FRAME_HEADER_BYTES <= buffer.length; ) {
    const length = buffer.readUIntBE(at, 3)
    const streamId = buffer.readUInt32BE(at + 5) & 0x7fff_ffff
    if (buffer[at + 3] === FRAME_DATA) {
      sums.set(streamId, (sums.get(streamId) ?? 0) + length)
      sums.set(0, (sums.get(0) ?? 0) + length)
    }
    at += FRAME_HEADER_BYTES + length
  }
  return sums
}

function linesOf(tap: Tap, withData: boolean): string[] {
  const lines = [...tap.streams].flatMap(([id, stream]) =>
    stream.lines
      .filter((line) => (withData && !isFaulty(stream)) || !line.startsWith('data'))
      .map((line) => `${id} ${line}`),
  )
  return [...lines, ...tap.said.toSorted(), `failed ${tap.failed}`, `closed ${tap.engine.isClosed}`]
}

/** How much of a frame was passed on before the stream was found at fault depends on the cut. */
function isFaulty(stream: StreamTap): boolean {
  return stream.lines.at(-1)?.startsWith(`closed ${CLOSED_BY_VIOLATION}`) === true
}

function run(input: Uint8Array): string {
  const mode = input[0] ?? 0
  const bytes = input.subarray(1)
  if ((mode & 3) === ROLE_CODEC) return runCodec(mode, bytes)
  let expected: string[] | null = null
  let first: Tap | null = null
  for (const pieces of waysToCut(bytes)) {
    const tap = new Tap(mode)
    const initialGrant = tap.granted.get(0) ?? 0
    const initialOutput = tap.outputBytes
    for (const piece of pieces) tap.receive(piece)
    checkClean(tap)
    checkGrants(tap, dataOf(bytes, tap.isServer && (mode & GREETS) === 0), initialGrant)
    const answers = tap.streams.size * (LONG_ANSWER.length + 2_000)
    const outputMax = initialOutput + answers + bytes.length * 8 + 4_096
    assert.ok(tap.outputBytes <= outputMax, `${tap.outputBytes} bytes of output for ${bytes.length} of input`)
    // A reader that pauses may lose, with its stream, what it has not read: how much is a matter of when it resumed.
    const lines = linesOf(tap, !tap.pauses)
    if (expected === null) {
      expected = lines
      first = tap
    } else if (!tap.pauses) {
      assert.deepEqual(lines, expected, 'how the input is cut changes its meaning')
    }
    checkEnd(tap)
  }
  const tap = first!
  const said = new Set(tap.said.map((line) => line.replace(/ [0-9]+ /, ' ')))
  return `${mode & 3} ${tap.failed} ${[...said].sort().join().slice(0, 80)}`
}

function runCodec(mode: number, bytes: Uint8Array): string {
  const isClient = (mode & PAUSES) !== 0
  if (isClient) return runClientCodec(waysToCut(bytes), (mode & GREETS) === 0 ? new Uint8Array(0) : SOCKET_SETTINGS)
  return runServerCodec(waysToCut(bytes), (mode & GREETS) === 0 ? new Uint8Array(0) : concat(PREFACE, settingsFrame()))
}

function checkClean(tap: Tap): void {
  if (!tap.engine.isClosed) {
    assert.equal(tap.failed, null)
    assert.equal(tap.endings, 0)
    return
  }
  assert.equal(tap.endings, 1, 'the transport was not closed once')
  assert.ok(tap.lastGoAwayCode >= 0, 'closed without GOAWAY')
  if (tap.failed !== null) assert.equal(tap.lastGoAwayCode, Number.parseInt(tap.failed, 10))
  assert.equal(tap.engine.activeCount, 0, 'streams outlive their connection')
  const before = tap.outputBytes
  tap.receive(concat(settingsFrame(), pingFrame(), windowUpdateFrame(0, 1)))
  assert.equal(tap.outputBytes, before, 'a closed connection answers')
}

/** The engine never grants more than has come: the peer's windows cannot grow beyond what was promised. */
function checkGrants(tap: Tap, received: ReadonlyMap<number, number>, initialGrant: number): void {
  for (const [streamId, increment] of tap.granted) {
    const come = received.get(streamId) ?? 0
    assert.ok(
      increment - (streamId === 0 ? initialGrant : 0) <= come,
      `${increment} granted on ${streamId}, ${come} came`,
    )
  }
  for (const sent of tap.sentData.values()) assert.ok(sent <= LONG_ANSWER.length)
}

function checkEnd(tap: Tap): void {
  tap.engine.receiveClose()
  tap.flush()
  tap.engine.flush()
  assert.equal(tap.engine.activeCount, 0)
  for (const [id, stream] of tap.streams) {
    assert.ok(stream.isClosed, `stream ${id} was never closed: ${stream.lines.join(', ')}`)
  }
}

function waysToCut(input: Uint8Array): Uint8Array[][] {
  const ways: Uint8Array[][] = [[input]]
  if (input.length <= SINGLE_BYTES_MAX) ways.push(Array.from(input, (byte) => new Uint8Array([byte])))
  const random = new SeededRandom(input.reduce((sum, byte) => (Math.imul(sum, 31) + byte) >>> 0, 7))
  const pieces: Uint8Array[] = []
  for (let at = 0; at < input.length; ) {
    const size = random.integer(1, Math.max(30, input.length >>> 5))
    pieces.push(input.subarray(at, at + size))
    at += size
  }
  ways.push(pieces)
  return ways
}

export const target: Target = {
  sources: ['src/http/h2/'],
  bytesMax: 60_000,
  testIterations: 400,
  tokens: [...FRAMES.filter((one) => one.length < 1_000), PREFACE, bytesOf('weftdrai'), bytesOf('weftlive')],
  seeds: () =>
    [0x40, 0x54, 0x5c, 0x74, 0x7c, 0x45, 0x55, 0x75, 0x46, 0x5e, 0x47, 0x43, 0x4f, 0x4b].flatMap((mode) => {
      const isServer = (mode & 3) === ROLE_CODEC ? (mode & PAUSES) === 0 : (mode & 2) === 0
      const first = new Uint8Array([mode])
      if ((mode & GREETS) === 0) return [concat(first, PREFACE, settingsFrame(), headers(GET, 1, 5))]
      return isServer
        ? [
            concat(first, windowUpdateFrame(0, WINDOW_BYTES_LARGEST), headers(GET, 1, 5)),
            concat(first, headers(CONNECT, 1, 4), windowUpdateFrame(1, WINDOW_BYTES_LARGEST), data(1, 'x')),
            concat(
              first,
              headers((mode & 3) === 1 ? CONNECT : GET, 1, 5),
              pingFrame(),
              windowUpdateFrame(1, 1_000_000),
              windowUpdateFrame(0, 1_000_000),
            ),
            concat(
              first,
              headers((mode & 3) === 1 ? CONNECT : POST, 1, 4),
              data(1, 'hel'),
              data(1, 'lo', 1),
              resetFrame(1, 8),
            ),
            concat(
              first,
              settingsFrame(4, 100),
              headers(GET, 1, 5),
              settingsFrame(4, 10),
              headers(GET, 3, 5),
              settingsFrame(4, 70_000),
            ),
          ]
        : [
            concat(
              first,
              headers([':status', '200'], 1, 4),
              data(1, 'hello', 1),
              headers([':status', '200'], 3, 4),
              data(3, 'x'),
            ),
            concat(
              first,
              headers([':status', '103'], 1, 4),
              headers([':status', '200', 'content-length', '5'], 1, 4),
              data(1, 'hello'),
              headers(['grpc-status', '0'], 1, 5),
            ),
            concat(first, windowUpdateFrame(0, WINDOW_BYTES_LARGEST)),
            concat(first, goAwayFrame(3, 0), headers([':status', '204'], 1, 5), resetFrame(3, 7)),
          ]
    }),
  run,
  mutate: mutateFrames,
}
