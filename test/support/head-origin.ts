/**
 * Origins that answer every request with the head that they saw, field by field and in order, and count every byte that
 * ever reached them: one for HTTP/1.1 that parses nothing (it shows what really stood on the wire), one for HTTP/2.
 */
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { createServer, type Server, type Socket } from 'node:net'

/** A head as it was seen: the request line or pseudo-headers first, under names that begin with a colon. */
export class SeenHead {
  readonly fields: readonly (readonly [name: string, value: string])[]

  constructor(fields: readonly (readonly [string, string])[]) {
    this.fields = fields
  }

  /** Every value of `name`, in order. */
  all(name: string): string[] {
    return this.fields.filter(([one]) => one === name).map(([, value]) => value)
  }

  /** The only value of `name`; null without one. Several are shown with a bar between. */
  get(name: string): string | null {
    const values = this.all(name)
    return values.length === 0 ? null : values.join(' | ')
  }

  get names(): string[] {
    return this.fields.map(([name]) => name)
  }
}

/** What an origin does with a request instead of answering 200. */
export type Behaviour = (head: SeenHead) => number | 'hang' | 'reset'

export class HeadOrigin {
  readonly heads: SeenHead[] = []
  /** Trailers of the requests that had any, as one text each. */
  readonly trailers: string[] = []
  receivedBytes = 0
  behave: Behaviour = () => 200
  /** Added to every answer. */
  readonly answerFields: (readonly [string, string])[] = []
  private readonly server: Server | http2.Http2Server
  private readonly sockets = new Set<Socket>()

  private constructor(isHttp2: boolean) {
    this.server = isHttp2 ? this.http2Server() : createServer((socket) => this.serveHttp1(socket))
    this.server.on('connection', (socket: Socket) => {
      this.sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => this.sockets.delete(socket))
    })
  }

  static async listen(address: string, port: number, isHttp2: boolean): Promise<HeadOrigin> {
    const origin = new HeadOrigin(isHttp2)
    origin.server.listen(port, address)
    await once(origin.server, 'listening')
    return origin
  }

  /** As it was in the beginning, for the next test. */
  reset(): void {
    this.heads.length = 0
    this.trailers.length = 0
    this.answerFields.length = 0
    this.receivedBytes = 0
    this.behave = () => 200
  }

  close(): void {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }

  // --- HTTP/1.1 ---

  private serveHttp1(socket: Socket): void {
    let text = ''
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => {
      this.receivedBytes += chunk.length
      text += chunk
      for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
        const head = headOfLines(text.slice(0, end).split('\r\n'))
        const body = bodyLength(head, text.slice(end + 4))
        if (body < 0) return
        const trailers =
          text
            .slice(end + 4, end + 4 + body)
            .split('\r\n0\r\n')[1]
            ?.trim() ?? ''
        if (trailers !== '') this.trailers.push(trailers)
        text = text.slice(end + 4 + body)
        this.answerHttp1(socket, head)
      }
    })
  }

  private answerHttp1(socket: Socket, head: SeenHead): void {
    this.heads.push(head)
    const outcome = this.behave(head)
    if (outcome === 'reset') socket.resetAndDestroy()
    if (typeof outcome !== 'number') return
    const body = JSON.stringify(head.fields)
    const lines = this.answerFields.map(([name, value]) => `${name}: ${value}\r\n`).join('')
    socket.write(`HTTP/1.1 ${outcome} x\r\n${lines}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
  }

  // --- HTTP/2 ---

  private http2Server(): http2.Http2Server {
    const server = http2.createServer({ enableConnectProtocol: true } as http2.ServerOptions)
    server.on('connection', (socket: Socket) => {
      // The engine reads the socket itself: what it has read is known when a stream asks.
      socket.on('close', () => {
        this.receivedBytes += socket.bytesRead
      })
    })
    server.on('sessionError', () => {})
    server.on('stream', (stream, _headers, _flags, raw: string[]) => {
      const fields: [string, string][] = []
      for (let i = 0; i < raw.length; i += 2) fields.push([raw[i]!, raw[i + 1]!])
      const head = new SeenHead(fields)
      this.heads.push(head)
      this.receivedBytes++
      stream.on('error', () => {})
      stream.on('trailers', (_trailers, _trailerFlags, rawTrailers: string[]) => {
        this.trailers.push(
          rawTrailers
            .map((part, i) => part + (i % 2 === 0 ? ': ' : '\r\n'))
            .join('')
            .trim(),
        )
      })
      stream.resume()
      const outcome = this.behave(head)
      if (outcome === 'reset') stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR)
      if (typeof outcome !== 'number') return
      const body = JSON.stringify(fields)
      const extra = Object.fromEntries(this.answerFields)
      stream.respond({ ':status': outcome, ...extra, 'content-length': Buffer.byteLength(body) })
      stream.end(body)
    })
    return server
  }
}

function headOfLines(lines: readonly string[]): SeenHead {
  const [method, target, version] = lines[0]!.split(' ')
  const fields: [string, string][] = [
    [':method', method!],
    [':path', target!],
    [':version', version!],
  ]
  for (const line of lines.slice(1)) {
    const colon = line.indexOf(':')
    fields.push([line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()])
  }
  return new SeenHead(fields)
}

/** Bytes of the body at the beginning of `rest`, framing included; -1 while it is not complete. */
function bodyLength(head: SeenHead, rest: string): number {
  if (head.get('transfer-encoding') !== null) {
    const end = rest.indexOf('\r\n0\r\n')
    const last = rest.indexOf('\r\n\r\n', end + 3)
    return end < 0 || last < 0 ? -1 : last + 4
  }
  const length = Number(head.get('content-length') ?? 0)
  return rest.length < length ? -1 : length
}
