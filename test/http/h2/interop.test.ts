/** Against node:http2 over real sockets, in both roles: another implementation's frames, HPACK and flow control. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { after, describe, test } from 'node:test'
import type { ByteSink } from '../../../src/http/codec.ts'
import { H2Connection, type H2Events } from '../../../src/http/h2/connection.ts'
import { type H2Settings, HBONE_CLIENT_SETTINGS, HBONE_SERVER_SETTINGS } from '../../../src/http/h2/limits.ts'
import type { CloseCause, H2Receiver, H2Stream } from '../../../src/http/h2/stream.ts'
import type { H2Violation } from '../../../src/http/h2/violations.ts'

const TEST = { timeout: 20_000 }
const BULK_BYTES = 24 << 20

/** The engine on a net.Socket, flushed once per turn of the event loop. */
class SocketEngine implements ByteSink, H2Events {
  readonly engine: H2Connection
  onRequest: (stream: H2Stream, fields: string[]) => H2Receiver = () => assert.fail('no request was expected')
  failure: string | null = null
  private readonly socket: net.Socket

  constructor(socket: net.Socket, settings: H2Settings) {
    this.socket = socket
    this.engine = new H2Connection(settings, this, this, () => performance.now())
    this.engine.start()
    socket.on('data', (bytes) => this.engine.receive(bytes, 0, bytes.length))
    socket.on('drain', () => this.engine.receiveDrain())
    socket.on('close', () => this.engine.receiveClose())
    socket.on('error', () => socket.destroy())
  }

  write(bytes: Uint8Array, offset: number, length: number): number {
    this.socket.write(Buffer.from(bytes.subarray(offset, offset + length)))
    return this.socket.writableLength
  }

  end(): void {
    this.socket.end()
  }

  abort(): void {
    this.socket.destroy()
  }

  close(): void {
    this.socket.end()
  }

  pauseReading(): void {}
  resumeReading(): void {}

  onStream(stream: H2Stream, fields: string[]): H2Receiver {
    return this.onRequest(stream, fields)
  }

  onFlushWanted(): void {
    setImmediate(() => this.engine.flush())
  }

  onPong(): void {}
  onStreamEnded(): void {}
  onGoAway(): void {}

  onStreamViolation(): void {}

  onFailed({ reason }: H2Violation): void {
    this.failure = reason
  }
}

/** Accepts, echoes with back-pressure, and ends when its peer does. */
class EchoReceiver implements H2Receiver {
  onHeaders(): void {}
  onTrailers(): void {}
  onClosed(): void {}

  onData(stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void {
    if (stream.write(bytes, offset, end - offset) > 262_144) stream.pauseReading()
  }

  onDrain(stream: H2Stream): void {
    stream.resumeReading()
  }

  onEnd(stream: H2Stream): void {
    stream.end()
  }
}

/** Sums what it gets and resolves when it is over. */
class CountingReceiver implements H2Receiver {
  head: string[] = []
  bytes = 0
  sum = 0
  events = ''
  readonly closed: Promise<CloseCause>
  private resolve: (cause: CloseCause) => void = () => {}
  private drained: () => void = () => {}

  constructor() {
    this.closed = new Promise((resolve) => {
      this.resolve = resolve
    })
  }

  /** Writes `length` bytes with back-pressure, then ends. */
  async send(stream: H2Stream, length: number): Promise<void> {
    const chunk = pattern(65_536)
    for (let sent = 0; sent < length; sent += chunk.length) {
      const drained = new Promise<void>((resolve) => {
        this.drained = resolve
      })
      if (stream.write(chunk, 0, chunk.length) > 262_144) await drained
    }
    stream.end()
  }

  onHeaders(_stream: H2Stream, fields: string[]): void {
    this.head = fields
  }

  onData(_stream: H2Stream, bytes: Uint8Array, offset: number, end: number): void {
    this.bytes += end - offset
    for (let i = offset; i < end; i++) this.sum = (this.sum + bytes[i]!) % 1_000_003
  }

  onTrailers(): void {
    this.events += 'trailers '
  }

  onEnd(): void {
    this.events += 'end '
  }

  onDrain(): void {
    this.drained()
  }

  onClosed(_stream: H2Stream, cause: CloseCause): void {
    this.resolve(cause)
  }
}

function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + (i >>> 8)) & 0xff
  return bytes
}

function sumOf(bytes: Uint8Array): number {
  let sum = 0
  for (const byte of bytes) sum = (sum + byte) % 1_000_003
  return sum
}

const closers: (() => void)[] = []
after(() => {
  for (const close of closers) close()
})

/** Our engine as server; resolves to a node:http2 client of it. */
async function ourServer(onRequest: (stream: H2Stream, fields: string[]) => H2Receiver) {
  const engines: SocketEngine[] = []
  const server = net.createServer((socket) => {
    const engine = new SocketEngine(socket, HBONE_SERVER_SETTINGS)
    engine.onRequest = onRequest
    engines.push(engine)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  client.on('error', () => {})
  closers.push(() => {
    client.destroy()
    server.close()
  })
  return { client, engines }
}

/** node:http2 as server; resolves to our engine as its client. */
async function ourClient(onStream: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void) {
  const server = http2.createServer()
  server.on('stream', onStream)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = net.connect((server.address() as AddressInfo).port, '127.0.0.1')
  await once(socket, 'connect')
  closers.push(() => {
    socket.destroy()
    server.close()
  })
  return new SocketEngine(socket, HBONE_CLIENT_SETTINGS)
}

const CONNECT = { ':method': 'CONNECT', ':authority': '198.18.1.2:80' }

describe('node:http2 as client', TEST, () => {
  test('gets its bytes echoed through CONNECT, in bulk, and half-closes', async () => {
    const { client, engines } = await ourServer((stream, fields) => {
      assert.deepEqual(fields.slice(0, 4), [':method', 'CONNECT', ':authority', '198.18.1.2:80'])
      stream.sendHeaders([':status', '200', 'baggage', 'a=b'], false)
      return new EchoReceiver()
    })
    const request = client.request(CONNECT)
    const [headers] = await once(request, 'response')
    assert.equal(headers[':status'], 200)
    assert.equal(headers['baggage'], 'a=b')
    const chunk = pattern(65_536)
    let received = 0
    let sum = 0
    request.on('data', (bytes: Buffer) => {
      received += bytes.length
      sum = (sum + sumOf(bytes)) % 1_000_003
    })
    for (let sent = 0; sent < BULK_BYTES; sent += chunk.length) {
      if (!request.write(chunk)) await once(request, 'drain')
    }
    request.end()
    await once(request, 'end')
    assert.equal(received, BULK_BYTES)
    assert.equal(sum, (sumOf(chunk) * (BULK_BYTES / chunk.length)) % 1_000_003)
    assert.equal(engines[0]!.failure, null)
  })

  test('half-closed by the server first', async () => {
    const counting = new CountingReceiver()
    const { client } = await ourServer((stream) => {
      stream.sendHeaders([':status', '200'], false)
      stream.write(Buffer.from('bye'), 0, 3)
      stream.end()
      return counting
    })
    const request = client.request(CONNECT)
    let text = ''
    request.on('data', (bytes: Buffer) => {
      text += bytes.toString()
    })
    await once(request, 'end')
    assert.equal(text, 'bye')
    request.end('and good bye')
    assert.equal(await counting.closed, 0)
    assert.equal(counting.bytes, 12)
  })

  test('many streams at once, each with its own bytes', async () => {
    const { client } = await ourServer((stream) => {
      stream.sendHeaders([':status', '200'], false)
      return new EchoReceiver()
    })
    const texts = await Promise.all(
      Array.from({ length: 150 }, async (_, i) => {
        const request = client.request(CONNECT)
        request.end(`${i} `.repeat(i * 20))
        let text = ''
        for await (const bytes of request) text += bytes
        return text
      }),
    )
    texts.forEach((text, i) => {
      assert.equal(text, `${i} `.repeat(i * 20))
    })
  })

  test('its Huffman strings are read, every character that a header may have', async () => {
    let seen: string[] = []
    const { client } = await ourServer((stream, fields) => {
      seen = fields
      stream.sendHeaders([':status', '204'], true)
      return new CountingReceiver()
    })
    const headers: http2.OutgoingHttpHeaders = { ':path': '/', 'x-tab': 'eeeeeeeeeeeeeeee\teeeeeeeeeeeeeeeeee' }
    const expected: string[] = []
    for (let code = 0x20; code <= 0xff; code++) {
      if (code === 0x7f) continue
      // Surrounded by letters of five bits, so that Huffman is shorter and node uses it.
      headers[`x-${code}`] = `${'e'.repeat(30)}${String.fromCharCode(code)}${'a'.repeat(30)}`
      expected.push(`x-${code}`, headers[`x-${code}`] as string)
    }
    const request = client.request(headers)
    await once(request, 'response')
    const from = seen.indexOf('x-32')
    assert.deepEqual(seen.slice(from, from + expected.length), expected)
    assert.ok(seen.includes(headers['x-tab'] as string))
  })

  test('is told of a reset, and tells of one', async () => {
    const counting = new CountingReceiver()
    const { client } = await ourServer((stream, fields) => {
      stream.sendHeaders([':status', '200'], false)
      if (fields.includes('reset-me')) stream.reset(8)
      return counting
    })
    const reset = client.request({ ...CONNECT, 'reset-me': '1' })
    reset.on('error', () => {})
    await once(reset, 'close')
    assert.equal(reset.rstCode, 8)
    const request = client.request(CONNECT)
    await once(request, 'response')
    request.close(http2.constants.NGHTTP2_CANCEL)
    assert.equal(await counting.closed, 1)
  })

  test('drains when asked to', async () => {
    const { client, engines } = await ourServer((stream) => {
      stream.sendHeaders([':status', '200'], false)
      return new EchoReceiver()
    })
    const request = client.request(CONNECT)
    await once(request, 'response')
    engines[0]!.engine.drain()
    await once(client, 'goaway')
    request.end('still here')
    let text = ''
    for await (const bytes of request) text += bytes
    assert.equal(text, 'still here')
    if (!client.closed) await once(client, 'close')
  })
})

describe('node:http2 as server', TEST, () => {
  test('echoes our bytes through CONNECT, in bulk, and we half-close', async () => {
    const engine = await ourClient((stream) => {
      stream.respond({ ':status': 200 })
      stream.pipe(stream)
    })
    const counting = new CountingReceiver()
    const stream = engine.engine.open([':method', 'CONNECT', ':authority', 'a:1'], false, counting)
    await counting.send(stream, BULK_BYTES)
    assert.equal(await counting.closed, 0)
    assert.deepEqual(counting.head.slice(0, 2), [':status', '200'])
    assert.equal(counting.bytes, BULK_BYTES)
    assert.equal(counting.sum, (sumOf(pattern(65_536)) * (BULK_BYTES / 65_536)) % 1_000_003)
    assert.equal(counting.events, 'end ')
    assert.equal(engine.failure, null)
  })

  test('sends 1xx, a body and trailers', async () => {
    const engine = await ourClient((stream) => {
      stream.additionalHeaders({ ':status': 103, link: '</x>' })
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ checksum: '1' }))
      stream.end('body')
    })
    const counting = new CountingReceiver()
    engine.engine.open([':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'a'], true, counting)
    assert.equal(await counting.closed, 0)
    assert.equal(counting.bytes, 4)
    assert.equal(counting.events, 'trailers end ')
  })

  test('takes header lists that repeat, larger than a frame and never the same', async () => {
    const seen: http2.IncomingHttpHeaders[] = []
    const engine = await ourClient((stream, headers) => {
      seen.push(headers)
      stream.respond({ ':status': 204 }, { endStream: true })
    })
    for (let i = 0; i < 60; i++) {
      const counting = new CountingReceiver()
      const fields = [':method', 'GET', ':scheme', 'http', ':path', `/${i}`, ':authority', 'a']
      fields.push('same', 'always', 'different', `${i % 7} ${'y'.repeat(300)}`, 'large', String(i).repeat(i * 12))
      engine.engine.open(fields, true, counting)
      assert.equal(await counting.closed, 0)
      assert.equal(counting.head[1], '204')
    }
    assert.equal(seen.length, 60)
    seen.forEach((headers, i) => {
      assert.equal(headers[':path'], `/${i}`)
      assert.equal(headers['different'], `${i % 7} ${'y'.repeat(300)}`)
      assert.equal(headers['large'], String(i).repeat(i * 12))
    })
  })
})
