/**
 * A WebSocket to the API server (RFC 6455, client side): binary messages both ways, with back-pressure both ways, and the
 * server's own words when it refuses. The official client has none that could be paused, or that keeps what it was told.
 */
import { createHash, randomBytes } from 'node:crypto'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { Duplex } from 'node:stream'
import { WeftError } from '../base/errors.ts'
import type { KubernetesConnection } from './connection.ts'
import { answerError, type FailedRequest, unreachableError } from './error.ts'

/** Appended to the key before it is hashed (RFC 6455 s1.3). */
const ACCEPT_SUFFIX = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
const VERSION = '13'
/** Until the head of the answer: the API server has to ask the node first. */
const OPEN_TIMEOUT_MS = 30_000
/** How much of an error's answer is read. */
const ERROR_BYTES_MAX = 65_536

const OPCODE_CONTINUATION = 0x0
const OPCODE_TEXT = 0x1
const OPCODE_BINARY = 0x2
const OPCODE_CLOSE = 0x8
const OPCODE_PING = 0x9
const OPCODE_PONG = 0xa
const FLAG_FINAL = 0x80
const FLAG_MASKED = 0x80
const BITS_RESERVED = 0x70
/** In the length's seven bits: two, or eight, bytes follow that hold it. */
const LENGTH_IN_2 = 126
const LENGTH_IN_8 = 127
const MASK_BYTES = 4
/** Of a control frame's payload (RFC 6455 s5.5). */
const CONTROL_BYTES_MAX = 125
/** Status code before the reason of a close. */
const CLOSE_CODE_BYTES = 2

/** Largest frame. Kubelets send what one read gives, at most 32 KiB; a frame is held until it is whole. */
export const FRAME_BYTES_MAX = 1_048_576

/** Who hears of messages. Handlers must not throw. */
export interface WebSocketListener {
  /** A piece of a message, in order; message bounds mean nothing to channels, but for the first byte of `isFirst`. */
  onMessage(bytes: Buffer, isFirst: boolean): void
  /** Once. `error` is null when the server closed in order. */
  onClosed(error: Error | null): void
}

/** An open WebSocket. */
export class WebSocketConnection {
  listener: WebSocketListener
  private readonly socket: Duplex
  private pending: Buffer = Buffer.alloc(0)
  private isPaused = false
  private isClosed = false

  constructor(socket: Duplex, head: Buffer, listener: WebSocketListener) {
    this.socket = socket
    this.listener = listener
    socket.on('data', (bytes: Buffer) => this.onBytes(bytes))
    socket.on('error', (error) => this.closed(error))
    socket.on('close', () => this.closed(new Error('the connection ended without a close of the WebSocket')))
    if (head.length > 0) socket.unshift(head)
  }

  /** `done` when there is room for more. */
  send(message: Buffer, done: (error?: Error | null) => void): void {
    if (this.isClosed) done(new Error('the WebSocket is closed'))
    else this.socket.write(encodeFrame(OPCODE_BINARY, message), done)
  }

  /** No messages until `resume`; the sender feels it. */
  pause(): void {
    this.isPaused = true
    this.socket.pause()
  }

  resume(): void {
    if (!this.isPaused) return
    this.isPaused = false
    this.onBytes(Buffer.alloc(0))
    if (!this.isPaused) this.socket.resume()
  }

  /** Says so, and waits for nothing. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.socket.end(encodeFrame(OPCODE_CLOSE, Buffer.alloc(0)))
    // The server's answer is of no interest; a socket that nobody reads would not notice the end.
    this.socket.removeAllListeners('data')
    this.socket.resume()
  }

  private onBytes(bytes: Buffer): void {
    this.pending = this.pending.length === 0 ? bytes : Buffer.concat([this.pending, bytes])
    while (!this.isClosed && !this.isPaused && this.takeFrame());
  }

  /** False when there is no whole frame. */
  private takeFrame(): boolean {
    const { pending } = this
    if (pending.length < 2) return false
    const first = pending[0]!
    const second = pending[1]!
    let length = second & 0x7f
    let start = 2
    if (length === LENGTH_IN_2) {
      start = 4
      if (pending.length < start) return false
      length = pending.readUInt16BE(2)
    } else if (length === LENGTH_IN_8) {
      start = 10
      if (pending.length < start) return false
      const long = pending.readBigUInt64BE(2)
      length = long > BigInt(FRAME_BYTES_MAX) ? FRAME_BYTES_MAX + 1 : Number(long)
    }
    const opcode = first & 0x0f
    const isControl = opcode >= OPCODE_CLOSE
    if ((first & BITS_RESERVED) !== 0 || (second & FLAG_MASKED) !== 0) return this.broken('a frame with reserved bits')
    if (isControl && (length > CONTROL_BYTES_MAX || (first & FLAG_FINAL) === 0)) return this.broken('a control frame')
    if (length > FRAME_BYTES_MAX) return this.broken(`a frame of more than ${FRAME_BYTES_MAX} bytes`)
    if (pending.length < start + length) return false
    this.pending = pending.subarray(start + length)
    this.onFrame(opcode, pending.subarray(start, start + length))
    return true
  }

  private onFrame(opcode: number, payload: Buffer): void {
    switch (opcode) {
      case OPCODE_TEXT:
      case OPCODE_BINARY:
      case OPCODE_CONTINUATION:
        this.listener.onMessage(payload, opcode !== OPCODE_CONTINUATION)
        break
      case OPCODE_PING:
        this.socket.write(encodeFrame(OPCODE_PONG, payload))
        break
      case OPCODE_PONG:
        break
      case OPCODE_CLOSE: {
        const reason = payload.subarray(CLOSE_CODE_BYTES).toString('utf8')
        this.close()
        this.listener.onClosed(reason === '' ? null : new Error(reason))
        break
      }
      default:
        this.broken(`a frame of the unknown kind ${opcode}`)
    }
  }

  private broken(what: string): false {
    this.socket.destroy()
    this.closed(
      new WeftError('WEFT_PROTOCOL', `the API server sent ${what} over a WebSocket, which its protocol forbids`),
    )
    return false
  }

  private closed(error: Error | null): void {
    if (this.isClosed) return
    this.isClosed = true
    this.socket.destroy()
    this.listener.onClosed(error)
  }
}

/**
 * Opens a WebSocket that speaks `protocol`. Rejects with KubernetesError, with the server's words. Messages are not read
 * before `listener` is there, which `openWebSocket` sets in the same turn.
 */
export async function openWebSocket(
  connection: KubernetesConnection,
  path: string,
  protocol: string,
  listener: WebSocketListener,
): Promise<WebSocketConnection> {
  const answer = await upgrade(connection, path, protocol)
  if (answer.kind === 'refused' && answer.message.statusCode === 401 && (await connection.renewCredentials())) {
    answer.message.destroy()
    return await opened(await upgrade(connection, path, protocol), listener)
  }
  return await opened(answer, listener)
}

type UpgradeAnswer =
  | { readonly kind: 'open'; readonly socket: Duplex; readonly head: Buffer }
  | { readonly kind: 'refused'; readonly message: IncomingMessage; readonly failed: FailedRequest }

async function opened(answer: UpgradeAnswer, listener: WebSocketListener): Promise<WebSocketConnection> {
  if (answer.kind === 'open') return new WebSocketConnection(answer.socket, answer.head, listener)
  const { message, failed } = answer
  const pieces: Buffer[] = []
  let size = 0
  for await (const piece of message as AsyncIterable<Buffer>) {
    size += piece.length
    if (size > ERROR_BYTES_MAX) break
    pieces.push(piece)
  }
  throw answerError(failed, message.statusCode ?? 0, Buffer.concat(pieces).toString('utf8'), null)
}

async function upgrade(connection: KubernetesConnection, path: string, protocol: string): Promise<UpgradeAnswer> {
  const failed = { server: connection.server, method: 'GET', path }
  const settings = await connection.requestOptions()
  const url = new URL(connection.server.replace(/\/$/, '') + path)
  const key = randomBytes(16).toString('base64')
  const headers = {
    ...(settings.headers as Record<string, string>),
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-key': key,
    'sec-websocket-version': VERSION,
    'sec-websocket-protocol': protocol,
  }
  const send = url.protocol === 'https:' ? httpsRequest : httpRequest
  return await new Promise((resolve, reject) => {
    const request = send(url, { ...settings, method: 'GET', headers })
    request.setTimeout(OPEN_TIMEOUT_MS, () => request.destroy(new Error(`no answer within ${OPEN_TIMEOUT_MS} ms`)))
    request.on('error', (error) => reject(unreachableError(failed, error)))
    request.on('response', (message) => resolve({ kind: 'refused', message, failed }))
    request.on('upgrade', (message, socket, head) => {
      socket.setTimeout(0)
      if (
        message.headers['sec-websocket-accept'] === acceptOf(key) &&
        message.headers['sec-websocket-protocol'] === protocol
      ) {
        resolve({ kind: 'open', socket, head })
        return
      }
      socket.destroy()
      reject(unreachableError(failed, new Error(`the answer is no WebSocket that speaks ${protocol}`)))
    })
    request.end()
  })
}

function acceptOf(key: string): string {
  return createHash('sha1')
    .update(key + ACCEPT_SUFFIX)
    .digest('base64')
}

/** A whole message in one frame, masked as clients have to. */
function encodeFrame(opcode: number, payload: Buffer): Buffer {
  const { length } = payload
  const lengthBytes = length < LENGTH_IN_2 ? 0 : length < 65_536 ? 2 : 8
  const start = 2 + lengthBytes + MASK_BYTES
  const frame = Buffer.allocUnsafe(start + length)
  frame[0] = FLAG_FINAL | opcode
  if (lengthBytes === 0) frame[1] = FLAG_MASKED | length
  else if (lengthBytes === 2) {
    frame[1] = FLAG_MASKED | LENGTH_IN_2
    frame.writeUInt16BE(length, 2)
  } else {
    frame[1] = FLAG_MASKED | LENGTH_IN_8
    frame.writeBigUInt64BE(BigInt(length), 2)
  }
  const mask = randomBytes(MASK_BYTES)
  mask.copy(frame, start - MASK_BYTES)
  for (let i = 0; i < length; i++) frame[start + i] = payload[i]! ^ mask[i & 3]!
  return frame
}
