/**
 * The HTTP/1.1 engine, both sides. Byte 0 chooses side and behaviour, the rest is what the peer sends. Holds for any bytes:
 * the same events however they are cut; limits; no request with an ambiguous head; and what was accepted reads the same
 * at the next hop.
 */
import assert from 'node:assert/strict'
import {
  BODY_CHUNKED,
  type HttpServerEvents,
  type ProtocolViolation,
  type RequestHead,
  type RequestReceiver,
  type ServerStream,
} from '../../../src/http/codec.ts'
import {
  FIELD_COUNT_MAX,
  HEAD_BYTES_MAX,
  LINE_BYTES_MAX,
  METHOD_BYTES_MAX,
  TRAILER_BYTES_MAX,
} from '../../../src/http/h1/limits.ts'
import { H1ServerConnection } from '../../../src/http/h1/server-connection.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { FakeSink } from '../../support/fake-sink.ts'
import { readFixtures } from '../../support/h1-fixtures.ts'
import { EventLog, RecordingClient } from '../../support/h1-recorders.ts'
import { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, concat, type Target } from '../target.ts'

const IS_CLIENT = 1
const IS_ENDED = 2
/** Two bits: what the server does, or which request the client has sent. */
const BEHAVIOUR_SHIFT = 2
const REPLIES_EARLY = 1
const OPENS_TUNNELS = 2
const PAUSES = 3
const METHODS = ['GET', 'HEAD', 'CONNECT', 'UPGRADE'] as const

/** Longer inputs are not fed byte by byte. */
const SINGLE_BYTES_MAX = 2_000

class Exchange implements RequestReceiver {
  readonly head: RequestHead
  readonly stream: ServerStream
  readonly body: Uint8Array[] = []
  trailers: HeaderList | null = null
  isEnded = false
  isAnswered = false
  private readonly tap: ServerTap

  constructor(tap: ServerTap, stream: ServerStream, head: RequestHead) {
    this.tap = tap
    this.stream = stream
    this.head = head
  }

  onRequestBody(bytes: Uint8Array, offset: number, end: number): void {
    this.tap.log.addBody(bytes, offset, end)
    this.body.push(bytes.slice(offset, end))
    if (this.tap.behaviour === PAUSES && !this.tap.isPaused) {
      this.tap.isPaused = true
      this.stream.pauseRequest()
    }
  }

  onRequestEnd(trailers: HeaderList | null): void {
    assert.ok(!this.isEnded, 'ended twice')
    this.isEnded = true
    this.trailers = trailers
    if (trailers !== null) this.tap.log.addFields('  trailer ', trailers)
    this.tap.log.add('end')
    if (!this.isAnswered) this.answer(204)
    else if (this.tap.behaviour === OPENS_TUNNELS) this.stream.end(null)
  }

  onRequestReset(reason: string): void {
    this.tap.log.add(`reset ${reason}`)
  }

  onResponseDrain(): void {}

  answer(status: number): void {
    this.isAnswered = true
    this.stream.writeHead({ status, headers: new HeaderList(), bodyLength: 0 })
    if (status !== 101 && !(this.head.method === 'CONNECT' && status < 300)) this.stream.end(null)
  }
}

class ServerTap implements HttpServerEvents {
  readonly sink = new FakeSink()
  readonly log = new EventLog()
  readonly exchanges: Exchange[] = []
  readonly connection: H1ServerConnection
  readonly behaviour: number
  isPaused = false

  constructor(behaviour: number) {
    this.behaviour = behaviour
    this.connection = new H1ServerConnection(this.sink, this)
  }

  receive(bytes: Uint8Array): void {
    const lent = bytes.slice()
    this.connection.receive(lent, 0, lent.length)
    // Lent bytes must not be looked at after the call.
    lent.fill(0x58)
    while (this.isPaused) {
      this.isPaused = false
      this.exchanges.at(-1)!.stream.resumeRequest()
    }
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    const exchange = new Exchange(this, stream, head)
    this.exchanges.push(exchange)
    checkHead(head)
    this.log.add(`request ${describe(head)}`)
    this.log.addFields('  ', head.headers)
    if (this.behaviour === REPLIES_EARLY) exchange.answer(403)
    else if (this.behaviour === OPENS_TUNNELS && head.method === 'CONNECT') exchange.answer(200)
    else if (this.behaviour === OPENS_TUNNELS && head.upgrade !== null) exchange.answer(101)
    return exchange
  }

  onViolation(violation: ProtocolViolation): void {
    this.log.add(`violation ${violation.status} ${violation.reason}`)
  }

  onWait(): void {}
}

/** What the next hop must see unchanged. */
function describe(head: RequestHead): string {
  const { method, target, authority, bodyLength, upgrade, expectsContinue } = head
  return JSON.stringify([method, target, authority, bodyLength, upgrade, expectsContinue])
}

function pairsOf(headers: HeaderList | null): string[] {
  if (headers === null) return []
  return Array.from({ length: headers.length }, (_, i) => `${headers.nameAt(i)}: ${headers.valueAt(i)}`)
}

function checkHead(head: RequestHead): void {
  assert.ok(head.method.length <= METHOD_BYTES_MAX && head.method.length > 0)
  assert.ok(head.target.length <= LINE_BYTES_MAX)
  assert.ok(head.headers.length <= FIELD_COUNT_MAX)
  assert.ok(pairsOf(head.headers).join('').length <= HEAD_BYTES_MAX)
  assert.ok(head.bodyLength === BODY_CHUNKED || (Number.isSafeInteger(head.bodyLength) && head.bodyLength >= 0))
}

/** `input` whole, in single bytes, and in two random ways that depend on its content only. */
function waysToCut(input: Uint8Array): Uint8Array[][] {
  const ways: Uint8Array[][] = [[input]]
  if (input.length <= SINGLE_BYTES_MAX) ways.push(Array.from(input, (byte) => new Uint8Array([byte])))
  const random = new SeededRandom(input.reduce((sum, byte) => (Math.imul(sum, 31) + byte) >>> 0, 7))
  for (const most of [6, Math.max(40, input.length >>> 2)]) {
    const pieces: Uint8Array[] = []
    for (let at = 0; at < input.length; ) {
      const size = random.integer(1, input.length > SINGLE_BYTES_MAX ? Math.max(most, 500) : most)
      pieces.push(input.subarray(at, at + size))
      at += size
    }
    ways.push(pieces)
  }
  return ways
}

// --- requests ---

function runServer(bytes: Uint8Array, behaviour: number, isEnded: boolean): string {
  let expected: string[] | null = null
  let first: ServerTap | null = null
  for (const pieces of waysToCut(bytes)) {
    const tap = new ServerTap(behaviour)
    for (const piece of pieces) tap.receive(piece)
    if (isEnded) tap.connection.receiveEnd()
    tap.log.flush()
    const lines = [...tap.log.lines, `active ${tap.connection.activeCount}`, `over ${tap.sink.endings.length > 0}`]
    // Whether a connection survives a refused tunnel depends on whether its first bytes are here already.
    const isComparable = behaviour !== REPLIES_EARLY || tap.exchanges.every(({ head }) => head.upgrade === null)
    if (first === null) {
      first = tap
      expected = lines
    } else if (isComparable) {
      assert.deepEqual(lines, expected, 'how the input is cut changes its meaning')
    }
    tap.connection.receiveClose()
    assert.equal(tap.connection.activeCount, 0, 'an exchange outlives its connection')
  }
  const tap = first!
  if (tap.exchanges.length > 0) checkNaively(Buffer.from(bytes).toString('latin1'), tap.exchanges[0]!.head)
  for (const exchange of tap.exchanges) if (exchange.isEnded && !exchange.isAnswered) assert.fail('not answered')
  if (behaviour === 0) for (const exchange of tap.exchanges) if (exchange.isEnded) passOn(exchange)
  const bad = tap.log.lines.filter((line) => line.startsWith('violation') || line.startsWith('reset'))
  return `${behaviour} ${Math.min(tap.exchanges.length, 3)} ${bad.join()}`
}

/** Reads the first head as the most careless server might: nothing on which the two could differ was accepted. */
function checkNaively(text: string, head: RequestHead): void {
  const start = /^(\r\n)*/.exec(text)![0].length
  const end = text.indexOf('\r\n\r\n', start)
  const block = text.slice(start, end)
  assert.doesNotMatch(block.replaceAll('\r\n', ' '), /[\r\n\0]/, 'a head with bare line ends was accepted')
  const lines = block.split('\r\n').slice(1)
  const fields = lines.map((line) => [line.split(':')[0]!, line.slice(line.indexOf(':') + 1).trim()] as const)
  for (const [name] of fields)
    assert.match(name, /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/, 'a name that is no token was accepted')
  const valuesOf = (wanted: string): string[] =>
    fields.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value)
  const [lengths, encodings, hosts] = [valuesOf('content-length'), valuesOf('transfer-encoding'), valuesOf('host')]
  assert.ok(lengths.length + encodings.length <= 1, 'two framings were accepted')
  assert.ok(hosts.length <= 1, 'two hosts were accepted')
  if (encodings.length === 1) {
    assert.match(encodings[0]!, /^chunked$/i)
    assert.equal(head.bodyLength, BODY_CHUNKED)
  } else if (lengths.length === 1) {
    assert.match(lengths[0]!, /^[0-9]+$/)
    assert.equal(head.bodyLength, Number(lengths[0]))
  } else {
    assert.equal(head.bodyLength, 0)
  }
}

function serialise(head: RequestHead, body: Uint8Array, trailers: HeaderList | null): Uint8Array {
  const client = new RecordingClient()
  const stream = client.connection.open(head, client)
  if (body.length > 0) stream.writeBody(body, 0, body.length)
  if (head.bodyLength !== 0) stream.end(trailers)
  return bytesOf(client.sink.text)
}

/** What the proxy would send to the next hop is one request, the same one, and is spelled the same a second time. */
function passOn(exchange: Exchange): void {
  const body = concat(...exchange.body)
  const sent = serialise(exchange.head, body, exchange.trailers)
  const next = new ServerTap(0)
  next.receive(sent)
  assert.equal(next.exchanges.length, 1, `the next hop reads another number of requests: ${Buffer.from(sent)}`)
  const got = next.exchanges[0]!
  assert.ok(got.isEnded, 'the next hop waits for more')
  assert.equal(describe(got.head), describe(exchange.head))
  assert.deepEqual(pairsOf(got.head.headers), pairsOf(exchange.head.headers))
  assert.deepEqual(concat(...got.body), body)
  assert.deepEqual(pairsOf(got.trailers), pairsOf(exchange.trailers))
  assert.ok(pairsOf(exchange.trailers).join('').length <= TRAILER_BYTES_MAX)
  assert.deepEqual(serialise(got.head, body, got.trailers), sent)
}

// --- responses ---

function runClient(bytes: Uint8Array, method: (typeof METHODS)[number], isEnded: boolean): string {
  let expected: string[] | null = null
  for (const pieces of waysToCut(bytes)) {
    const client = new RecordingClient()
    client.open({ method, upgrade: method === 'UPGRADE' ? 'websocket' : null })
    for (const piece of pieces) {
      // What follows a complete response is refused at once or as unsolicited, depending on the cut.
      if (client.connection.activeCount === 0) break
      const lent = piece.slice()
      client.connection.receive(lent, 0, lent.length)
      lent.fill(0x58)
    }
    if (isEnded && client.connection.activeCount > 0) client.connection.receiveEnd()
    const lines = client.takeLog().filter((line) => line !== 'unusable')
    if (expected === null) expected = lines
    else assert.deepEqual(lines, expected, 'how the input is cut changes its meaning')
    client.connection.receiveClose()
    assert.equal(client.connection.activeCount, 0, 'an exchange outlives its connection')
  }
  return `client ${method} ${expected!
    .filter((line) => /^(reset|end|response|informational)/.test(line))
    .join()
    .slice(0, 60)}`
}

export const target: Target = {
  sources: ['src/http/h1/', 'src/http/headers.ts'],
  bytesMax: 80_000,
  testIterations: 1_200,
  // biome-ignore format: a dense table
  tokens: [
    '\r', '\n', '\r\n', '\r\n\r\n', '\0', ' ', '\t', ':', ';', ',', '=', '"', '\\', '/', '@', '?', '#', '*', '[', ']', '\x7f', '\xff',
    'GET ', 'POST ', 'HEAD ', 'CONNECT ', 'OPTIONS * ', ' HTTP/1.1\r\n', ' HTTP/1.0\r\n', 'HTTP/1.1 ', 'http://', 'https://h:443/',
    'Host: h\r\n', 'host:', 'Content-Length: 5\r\n', 'content-length:0\r\n', 'Transfer-Encoding: chunked\r\n',
    'transfer-encoding:\tCHUNKED \r\n', 'chunked, chunked', 'identity', 'gzip, chunked', 'Connection: close\r\n',
    'Connection: keep-alive, x, te\r\n', 'Connection: upgrade\r\nUpgrade: websocket\r\n', 'upgrade: h2c\r\n', 'TE: trailers\r\n',
    'Expect: 100-continue\r\n', 'Proxy-Connection: x\r\n', 'Keep-Alive: timeout=5\r\n', 'Trailer: x\r\n', 'X-A: b\r\n', 'a:b\r\n',
    '0\r\n\r\n', '5\r\nhello\r\n', '5;a=b;c="d\\"e"\r\nhello\r\n', 'ffffffff\r\n', '0000000005\r\n', '0x5', '+5', '-1', '5 ', ' 5',
    '18446744073709551616', '9007199254740993', '100 Continue\r\n\r\n', '101 Switching\r\n', '204 x\r\n', '304 x\r\n', '200 OK\r\n', '103 Early\r\n',
    'GET / HTTP/1.1\r\nHost: h\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
  ].map(bytesOf),
  seeds: () => {
    const requests = readFixtures('h1-requests.md', () => []).flatMap(({ bytes }) =>
      [0x40, 0x40 | IS_ENDED, 0x44, 0x48, 0x4c].map((mode) => concat(new Uint8Array([mode]), bytes)),
    )
    const responses = readFixtures('h1-responses.md', () => []).flatMap(({ bytes }) =>
      [0x41, 0x43, 0x45, 0x49, 0x4d].map((mode) => concat(new Uint8Array([mode]), bytes)),
    )
    // What two readers could take for two different requests.
    const ambiguous = [
      'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      'Transfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n',
      'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!',
      'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n',
    ].map((rest) => bytesOf(`@POST / HTTP/1.1\r\nHost: h\r\n${rest}`))
    return [...requests, ...responses, ...ambiguous]
  },
  run: (input) => {
    const mode = input[0] ?? 0
    const bytes = input.subarray(1)
    const behaviour = (mode >>> BEHAVIOUR_SHIFT) & 3
    const isEnded = (mode & IS_ENDED) !== 0
    return (mode & IS_CLIENT) === 0
      ? runServer(bytes, behaviour, isEnded)
      : runClient(bytes, METHODS[behaviour]!, isEnded)
  },
  mutate: null,
}
