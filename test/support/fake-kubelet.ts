/** The far end of a port-forward: a WebSocket server that speaks v4.channel.k8s.io, with what a test wants it to say. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'

const ACCEPT_SUFFIX = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** Frames as servers send them: not masked. */
export function frame(opcode: number, payload: Buffer, isFinal = true): Buffer {
  const { length } = payload
  const head =
    length < 126
      ? Buffer.from([0, length])
      : length < 65_536
        ? Buffer.from([0, 126, length >> 8, length & 255])
        : Buffer.concat([Buffer.from([0, 127, 0, 0, 0, 0]), Buffer.from(Uint32Array.of(length).buffer).reverse()])
  head[0] = opcode | (isFinal ? 0x80 : 0)
  return Buffer.concat([head, payload])
}

/** A message of a channel. */
export function channelMessage(channel: number, bytes: Buffer | string): Buffer {
  return frame(2, Buffer.concat([Buffer.from([channel]), Buffer.from(bytes)]))
}

/** The port that comes first on both channels. */
export function portMessages(port: number): Buffer {
  const bytes = Buffer.from([port & 255, port >> 8])
  return Buffer.concat([channelMessage(0, bytes), channelMessage(1, bytes)])
}

export interface PodConnection {
  readonly request: IncomingMessage
  readonly socket: Duplex
  /** Whole messages of the client, without their mask. */
  onMessage: (opcode: number, payload: Buffer) => void
}

export class FakeKubelet {
  readonly kubeconfig: string
  readonly url: string
  private readonly server: Server
  private readonly directory: string
  private readonly sockets = new Set<Duplex>()

  private constructor(server: Server) {
    this.server = server
    this.directory = mkdtempSync(join(tmpdir(), 'weft-kubelet-'))
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    this.kubeconfig = join(this.directory, 'kubeconfig')
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'c', cluster: { server: this.url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'u', user: { token: 'secret-token' } }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    }
    writeFileSync(this.kubeconfig, JSON.stringify(config))
  }

  /** `refuse` answers instead of an upgrade when it returns a status. */
  static async start(
    onConnection: (connection: PodConnection) => void,
    refuse: (request: IncomingMessage) => readonly [status: number, body: string] | null = () => null,
  ): Promise<FakeKubelet> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const kubelet = new FakeKubelet(server)
    server.on('upgrade', (request: IncomingMessage, socket: Duplex) => {
      kubelet.sockets.add(socket)
      socket.on('error', () => socket.destroy())
      const refusal = refuse(request)
      if (refusal !== null) {
        const [status, body] = refusal
        socket.end(
          `HTTP/1.1 ${status} No\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
        )
        return
      }
      const accept = createHash('sha1')
        .update(`${request.headers['sec-websocket-key']}${ACCEPT_SUFFIX}`)
        .digest('base64')
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n' +
          `sec-websocket-accept: ${accept}\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n`,
      )
      const connection: PodConnection = { request, socket, onMessage: () => undefined }
      let pending = Buffer.alloc(0)
      socket.on('data', (bytes: Buffer) => {
        pending = Buffer.concat([pending, bytes])
        for (;;) {
          const message = unmask(pending)
          if (message === null) return
          pending = pending.subarray(message.size)
          connection.onMessage(message.opcode, message.payload)
        }
      })
      onConnection(connection)
    })
    return kubelet
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) socket.destroy()
    await new Promise((resolve) => this.server.close(resolve))
    rmSync(this.directory, { recursive: true })
  }
}

function unmask(bytes: Buffer): { opcode: number; payload: Buffer; size: number } | null {
  if (bytes.length < 6) return null
  let length = bytes[1]! & 0x7f
  let start = 2
  if (length === 126) {
    length = bytes.readUInt16BE(2)
    start = 4
  } else if (length === 127) {
    length = Number(bytes.readBigUInt64BE(2))
    start = 10
  }
  if (bytes.length < start + 4 + length) return null
  const mask = bytes.subarray(start, start + 4)
  const payload = Buffer.from(bytes.subarray(start + 4, start + 4 + length)).map((byte, i) => byte ^ mask[i & 3]!)
  return { opcode: bytes[0]! & 0x0f, payload: Buffer.from(payload), size: start + 4 + length }
}
