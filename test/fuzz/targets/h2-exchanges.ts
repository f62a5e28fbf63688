/**
 * HTTP/2 by its codec, for the target `h2`: what a client or a server sends becomes requests or responses. The same ones
 * however the bytes are cut; and a request that was accepted reads the same at a next hop that speaks HTTP/1.
 */
import assert from 'node:assert/strict'
import {
  BODY_CHUNKED,
  type HttpClientEvents,
  type HttpServerEvents,
  type ProtocolViolation,
  type RequestHead,
  type RequestReceiver,
  type ResponseHead,
  type ResponseReceiver,
  type ServerStream,
} from '../../../src/http/codec.ts'
import { H2ClientConnection } from '../../../src/http/h2/client-connection.ts'
import { H2ServerConnection } from '../../../src/http/h2/server-connection.ts'
import { HeaderList } from '../../../src/http/headers.ts'
import { FakeSink } from '../../support/fake-sink.ts'
import { EventLog, RecordingClient, RecordingServer, requestHead } from '../../support/h1-recorders.ts'
import { bytesOf } from '../target.ts'

const ANSWER = bytesOf('answer')

/** The transport's turn: flushes what asked for it. */
class Turn {
  private flushable: { isFlushPending: boolean; flush(): void } | null = null

  atBatchEnd(flushable: { isFlushPending: boolean; flush(): void }): void {
    this.flushable = flushable
  }

  end(): void {
    for (let i = 0; this.flushable !== null; i++) {
      assert.ok(i < 10, 'flushing asks for flushing without end')
      const flushable = this.flushable
      this.flushable = null
      flushable.flush()
    }
  }
}

/** One exchange, from either side. */
class ExchangeTap implements RequestReceiver, ResponseReceiver {
  readonly log = new EventLog()
  readonly head: RequestHead
  readonly stream: ServerStream | null
  isEnded = false
  isReset = false

  constructor(head: RequestHead, stream: ServerStream | null) {
    this.head = head
    this.stream = stream
  }

  onRequestBody(bytes: Uint8Array, offset: number, end: number): void {
    this.piece(bytes, offset, end)
  }

  onRequestEnd(trailers: HeaderList | null): void {
    this.finish(trailers)
    this.stream!.writeInformational(103, HeaderList.of([['link', 'x']]))
    this.stream!.writeHead({ status: 200, headers: HeaderList.of([['x-a', 'b']]), bodyLength: BODY_CHUNKED })
    this.stream!.writeBody(ANSWER, 0, ANSWER.length)
    this.stream!.end(HeaderList.of([['grpc-status', '0']]))
  }

  onRequestReset(reason: string): void {
    this.reset(reason)
  }

  onResponseDrain(): void {}
  onRequestDrain(): void {}

  onInformational(status: number, headers: HeaderList): void {
    assert.ok(status >= 100 && status < 200)
    this.add(`informational ${status}`)
    this.log.addFields('  ', headers)
  }

  onResponseHead(head: ResponseHead): void {
    assert.ok(head.status === 101 || (head.status >= 200 && head.status <= 599))
    this.add(`response ${head.status}`)
    checkFields(head.headers)
    this.log.addFields('  ', head.headers)
  }

  onResponseBody(bytes: Uint8Array, offset: number, end: number): void {
    this.piece(bytes, offset, end)
  }

  onResponseEnd(trailers: HeaderList | null): void {
    this.finish(trailers)
  }

  onResponseReset(reason: string, wasProcessed: boolean): void {
    this.reset(`${reason} ${wasProcessed}`)
  }

  get lines(): readonly string[] {
    this.log.flush()
    return this.log.lines
  }

  private piece(bytes: Uint8Array, offset: number, end: number): void {
    assert.ok(!this.isEnded && !this.isReset, 'a body after the end')
    this.log.addBody(bytes, offset, end)
  }

  private finish(trailers: HeaderList | null): void {
    if (trailers !== null) {
      checkFields(trailers)
      this.log.addFields('  trailer ', trailers)
    }
    this.add('end')
    this.isEnded = true
  }

  private reset(reason: string): void {
    this.add(`reset ${reason}`)
    this.isReset = true
  }

  private add(line: string): void {
    assert.ok(!this.isReset, `${line} after a reset`)
    assert.ok(!this.isEnded || line.startsWith('reset'), `${line} after the end`)
    this.log.add(line)
  }
}

function checkFields(headers: HeaderList): void {
  for (let i = 0; i < headers.length; i++) {
    assert.match(headers.nameAt(i), /^[!#$%&'*+\-.^_`|~0-9a-z]+$/)
    assert.doesNotMatch(headers.valueAt(i), /[\r\n\0]/)
  }
}

class ServerTap implements HttpServerEvents {
  readonly sink = new FakeSink()
  readonly turn = new Turn()
  readonly exchanges: ExchangeTap[] = []
  readonly violations: string[] = []
  readonly connection: H2ServerConnection

  constructor() {
    this.connection = new H2ServerConnection(this.sink, this, this.turn, () => 0)
  }

  onRequest(stream: ServerStream, head: RequestHead): RequestReceiver {
    const exchange = new ExchangeTap(head, stream)
    this.exchanges.push(exchange)
    exchange.log.add(`request ${describe(head)}`)
    checkFields(head.headers)
    exchange.log.addFields('  ', head.headers)
    return exchange
  }

  onViolation(violation: ProtocolViolation): void {
    this.violations.push(violation.reason)
  }

  onWait(): void {}

  receive(bytes: Uint8Array): void {
    const lent = Buffer.from(bytes)
    this.connection.receive(lent, 0, lent.length)
    lent.fill(0x58)
    this.turn.end()
  }

  /** What was understood, without when. */
  lines(): string[] {
    return [...this.exchanges.flatMap(comparable), ...this.violations]
  }
}

/** What came before a stream was reset for its own fault depends on the cut. Keys of WebSocket are made at random. */
function comparable(exchange: ExchangeTap): readonly string[] {
  const lines = exchange.lines.filter((line) => !line.startsWith('  sec-websocket-key: '))
  if (!exchange.isReset) return lines
  return lines.filter((line) => !line.startsWith('body '))
}

function describe(head: RequestHead): string {
  const { method, target, authority, upgrade } = head
  return JSON.stringify([method, target, authority, upgrade])
}

/** `ways` are the same bytes, cut differently. */
export function runServerCodec(ways: readonly (readonly Uint8Array[])[], greeting: Uint8Array): string {
  let expected: string[] | null = null
  let outcome = ''
  for (const pieces of ways) {
    const tap = new ServerTap()
    if (greeting.length > 0) tap.receive(greeting)
    for (const piece of pieces) tap.receive(piece)
    const lines = tap.lines()
    if (expected === null) {
      expected = lines
      for (const exchange of tap.exchanges) if (exchange.isEnded) passOn(exchange)
      outcome = `server ${tap.exchanges.length} ${[...new Set(tap.violations)].join()} ${tap.exchanges
        .map(({ lines: all }) => all.at(-1))
        .join()
        .slice(0, 60)}`
    } else {
      assert.deepEqual(lines, expected, 'how the input is cut changes its meaning')
    }
    tap.connection.receiveClose()
    tap.turn.end()
    assert.equal(tap.connection.activeCount, 0, 'an exchange outlives its connection')
  }
  return outcome
}

/** The head of an accepted request, written as HTTP/1, is one request with the same meaning. */
function passOn(exchange: ExchangeTap): void {
  const { head } = exchange
  const client = new RecordingClient()
  const stream = client.connection.open(head, client)
  if (head.bodyLength === BODY_CHUNKED) stream.end(null)
  const next = new RecordingServer()
  next.receive(client.sink.text)
  assert.equal(next.exchanges.length, 1, `the next hop refuses or splits ${JSON.stringify(client.sink.text)}`)
  const got = next.last.head
  assert.equal(describe(got), describe(head))
  assert.deepEqual(fieldsOf(got.headers), fieldsOf(head.headers))
}

function fieldsOf(headers: HeaderList): string[] {
  const fields: string[] = []
  headers.appendTo(fields)
  return fields
}

/** Three requests are open, of which one asks for a tunnel. */
export function runClientCodec(ways: readonly (readonly Uint8Array[])[], greeting: Uint8Array): string {
  let expected: string[] | null = null
  for (const pieces of ways) {
    const sink = new FakeSink()
    const turn = new Turn()
    const events: HttpClientEvents = { onStreamClosed() {}, onUnusable() {}, onViolation() {} }
    const connection = new H2ClientConnection(sink, events, turn, () => 0)
    const receive = (bytes: Uint8Array): void => {
      const lent = Buffer.from(bytes)
      connection.receive(lent, 0, lent.length)
      lent.fill(0x58)
      turn.end()
    }
    const heads = [
      requestHead(),
      requestHead({ method: 'POST', bodyLength: BODY_CHUNKED }),
      requestHead({ upgrade: 'websocket' }),
    ]
    // A tunnel waits for the settings: whether an answer to it comes too early would depend on the cut.
    if (greeting.length > 0) receive(greeting)
    else heads.pop()
    const exchanges = heads.map((head) => {
      const exchange = new ExchangeTap(head, null)
      const stream = connection.open(head, exchange)
      if (head.bodyLength !== 0) {
        stream.writeBody(ANSWER, 0, ANSWER.length)
        stream.end(HeaderList.of([['x-sum', '1']]))
      }
      return exchange
    })
    turn.end()
    for (const piece of pieces) receive(piece)
    const lines = exchanges.flatMap(comparable)
    if (expected === null) expected = lines
    else assert.deepEqual(lines, expected, 'how the input is cut changes its meaning')
    connection.receiveClose()
    turn.end()
    assert.equal(connection.activeCount, 0, 'an exchange outlives its connection')
    for (const exchange of exchanges) assert.ok(exchange.isEnded || exchange.isReset, 'an exchange never ends')
  }
  return `client ${expected!
    .filter((line) => /^(reset|end|response|informational)/.test(line))
    .join()
    .slice(0, 80)}`
}
