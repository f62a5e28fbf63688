/** WebSocket frames (RFC 6455 section 5) over any duplex stream, and apps of both HTTP versions that echo them. */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer as createHttp1Server } from 'node:http'
import * as http2 from 'node:http2'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

export const OPCODE_TEXT = 1
export const OPCODE_BINARY = 2
export const OPCODE_CLOSE = 8
export const OPCODE_PING = 9
export const OPCODE_PONG = 10

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

export interface WebSocketFrame {
  readonly opcode: number
  readonly payload: Buffer
}

/** One end of a WebSocket, after its handshake. Whole messages only: nobody here sends fragments. */
export class WebSocketEnd {
  readonly stream: Duplex
  onFrame: (frame: WebSocketFrame) => void = () => {}
  private readonly isClient: boolean
  private chunks: Buffer[] = []
  private length = 0

  constructor(stream: Duplex, isClient: boolean) {
    this.stream = stream
    this.isClient = isClient
    stream.on('data', (bytes: Buffer) => {
      this.chunks.push(bytes)
      this.length += bytes.length
      this.take()
    })
  }

  /** Returns false when the stream wants its writer to wait. Clients mask what they send. */
  send(opcode: number, payload: Uint8Array): boolean {
    const { length } = payload
    const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10)
    head[0] = 0x80 | opcode
    head[1] = (this.isClient ? 0x80 : 0) | (length < 126 ? length : length < 65_536 ? 126 : 127)
    if (head.length === 4) head.writeUInt16BE(length, 2)
    if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2)
    if (!this.isClient) return this.stream.write(Buffer.concat([head, payload]))
    const mask = randomBytes(4)
    return this.stream.write(Buffer.concat([head, mask, masked(payload, mask)]))
  }

  sendClose(code: number): void {
    const payload = Buffer.alloc(2)
    payload.writeUInt16BE(code)
    this.send(OPCODE_CLOSE, payload)
  }

  private take(): void {
    for (;;) {
      if (this.length < 2) return
      const all = this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks)
      this.chunks = [all]
      const size = all[1]! & 0x7f
      const sizeBytes = size === 126 ? 2 : size === 127 ? 8 : 0
      const maskBytes = (all[1]! & 0x80) === 0 ? 0 : 4
      const start = 2 + sizeBytes + maskBytes
      if (all.length < start) return
      const length = sizeBytes === 0 ? size : sizeBytes === 2 ? all.readUInt16BE(2) : Number(all.readBigUInt64BE(2))
      if (all.length < start + length) return
      const payload = all.subarray(start, start + length)
      this.chunks = [all.subarray(start + length)]
      this.length = all.length - start - length
      const opcode = all[0]! & 0x0f
      this.onFrame({ opcode, payload: maskBytes === 0 ? payload : masked(payload, all.subarray(start - 4, start)) })
    }
  }
}

/** Masking is its own inverse. */
function masked(bytes: Uint8Array, mask: Uint8Array): Buffer {
  const result = Buffer.allocUnsafe(bytes.length)
  for (let i = 0; i < bytes.length; i++) result[i] = bytes[i]! ^ mask[i & 3]!
  return result
}

/**
 * Echoes messages, answers pings and closes. A text tells it to do otherwise: `close` closes with 4001, `reset` resets
 * the connection (or the stream, in HTTP/2).
 */
function echo(stream: Duplex, reset: () => void): void {
  const end = new WebSocketEnd(stream, false)
  let hasClosed = false
  stream.on('error', () => {})
  stream.on('end', () => stream.end())
  end.onFrame = ({ opcode, payload }) => {
    if (opcode === OPCODE_CLOSE) {
      if (!hasClosed) end.send(OPCODE_CLOSE, payload)
      stream.end()
    } else if (opcode === OPCODE_PING) {
      end.send(OPCODE_PONG, payload)
    } else if (opcode === OPCODE_TEXT && payload.toString() === 'close') {
      hasClosed = true
      end.sendClose(4001)
    } else if (opcode === OPCODE_TEXT && payload.toString() === 'reset') {
      reset()
    } else if (opcode === OPCODE_TEXT || opcode === OPCODE_BINARY) {
      if (end.send(opcode, payload)) return
      stream.pause()
      stream.once('drain', () => stream.resume())
    }
  }
}

/** An echoing app of HTTP/1. /refused answers 403 instead. Returns what closes it. */
export async function serveWebSockets1(host: string, port: number): Promise<() => void> {
  const server = createHttp1Server((_incoming, outgoing) => outgoing.writeHead(400).end('no upgrade'))
  server.on('upgrade', (incoming, socket: Socket, head: Buffer) => {
    if (incoming.url === '/refused') {
      socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nnone')
      return
    }
    const accept = createHash('sha1').update(`${incoming.headers['sec-websocket-key']}${GUID}`).digest('base64')
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ${accept}\r\n\r\n`,
    )
    if (head.length > 0) socket.unshift(head)
    socket.setNoDelay(true)
    echo(socket, () => socket.resetAndDestroy())
  })
  return await listen(server, host, port)
}

/** The same in HTTP/2, by extended CONNECT (RFC 8441). */
export async function serveWebSockets2(host: string, port: number): Promise<() => void> {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } })
  server.on('sessionError', () => {})
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    if (headers[':method'] !== 'CONNECT' || headers[':protocol'] !== 'websocket') {
      stream.respond({ ':status': 400 }, { endStream: true })
    } else if (headers[':path'] === '/refused') {
      stream.respond({ ':status': 403 })
      stream.end('none')
    } else {
      stream.respond({ ':status': 200 })
      echo(stream, () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR))
    }
  })
  return await listen(server, host, port)
}

async function listen(
  server: ReturnType<typeof createHttp1Server> | http2.Http2Server,
  host: string,
  port: number,
): Promise<() => void> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, host)
  await once(server, 'listening')
  return () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
}
