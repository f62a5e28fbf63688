/**
 * A TLS 1.3 client of node:tls that, once its handshake is done, makes its own records (RFC 8446, section 5): such as
 * no library sends.
 */
import { createCipheriv, createHmac } from 'node:crypto'
import { once } from 'node:events'
import net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'

export const CONTENT_ALERT = 21
export const CONTENT_HANDSHAKE = 22
export const CONTENT_DATA = 23

const KEY_UPDATE = 24

/** Between node:tls and the socket, so that both may write to it. */
class Tap extends Duplex {
  private readonly raw: net.Socket

  constructor(raw: net.Socket) {
    super()
    this.raw = raw
    raw.on('data', (chunk) => this.push(chunk))
    raw.on('end', () => this.push(null))
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.raw.write(chunk)
    done()
  }
}

export class RecordPeer {
  readonly raw: net.Socket
  private secret: Buffer
  private sequence = 0

  private constructor(raw: net.Socket, secret: Buffer) {
    this.raw = raw
    this.secret = secret
  }

  /** Connects and finishes the handshake. What the server sends from then on is read and dropped. */
  static async connect(options: tls.ConnectionOptions & { readonly port: number }): Promise<RecordPeer> {
    const raw = net.connect({ port: options.port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    raw.on('error', () => {})
    await once(raw, 'connect')
    const socket = tls.connect({ ...options, socket: new Tap(raw), ciphers: 'TLS_AES_128_GCM_SHA256' })
    socket.on('error', () => {})
    let secret = Buffer.alloc(0)
    socket.on('keylog', (line: Buffer) => {
      const [label, , value] = line.toString('latin1').trim().split(' ')
      if (label === 'CLIENT_TRAFFIC_SECRET_0') secret = Buffer.from(value!, 'hex')
    })
    await once(socket, 'secureConnect')
    socket.resume()
    return new RecordPeer(raw, secret)
  }

  /** One protected record. */
  record(type: number, content: Uint8Array): Buffer {
    const inner = Buffer.concat([content, Buffer.of(type)])
    const header = Buffer.of(CONTENT_DATA, 3, 3, 0, 0)
    header.writeUInt16BE(inner.length + 16, 3)
    const nonce = Buffer.from(expandLabel(this.secret, 'iv', 12))
    nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ this.sequence++) >>> 0, 8)
    const cipher = createCipheriv('aes-128-gcm', expandLabel(this.secret, 'key', 16), nonce)
    cipher.setAAD(header)
    return Buffer.concat([header, cipher.update(inner), cipher.final(), cipher.getAuthTag()])
  }

  /** A KeyUpdate, and from the next record on the key that it announces. */
  keyUpdate(isAnswerRequested: boolean): Buffer {
    const record = this.record(CONTENT_HANDSHAKE, Uint8Array.of(KEY_UPDATE, 0, 0, 1, isAnswerRequested ? 1 : 0))
    this.secret = expandLabel(this.secret, 'traffic upd', 32)
    this.sequence = 0
    return record
  }
}

/** HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context and at most one block of SHA-256. */
function expandLabel(secret: Buffer, label: string, length: number): Buffer {
  const name = Buffer.from(`tls13 ${label}`, 'latin1')
  const input = Buffer.concat([Buffer.of(0, length, name.length), name, Buffer.of(0, 1)])
  return createHmac('sha256', secret).update(input).digest().subarray(0, length)
}
