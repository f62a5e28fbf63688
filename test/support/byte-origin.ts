/** An origin that answers nothing and keeps every byte that reaches it: what must not arrive can be seen to be absent. */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { FRAME_CONTINUATION, FRAME_DATA, FRAME_HEADERS, PREFACE } from '../../src/http/h2/frame.ts'

export class ByteOrigin {
  /** Everything that has arrived, over all connections, one character per byte. */
  text = ''
  private readonly isHttp2: boolean
  private readonly server: Server
  private readonly sockets = new Set<Socket>()
  private wake: () => void = () => {}

  private constructor(isHttp2: boolean) {
    this.isHttp2 = isHttp2
    this.server = createServer((socket) => {
      this.sockets.add(socket)
      socket.setEncoding('latin1')
      socket.on('error', () => {})
      socket.on('close', () => this.sockets.delete(socket))
      socket.on('data', (chunk: string) => {
        this.text += chunk
        this.wake()
      })
    })
  }

  static async listen(address: string, port: number, isHttp2: boolean): Promise<ByteOrigin> {
    const origin = new ByteOrigin(isHttp2)
    origin.server.listen(port, address)
    await once(origin.server, 'listening')
    return origin
  }

  /**
   * What has arrived of requests. Of HTTP/2 that is HEADERS, DATA and CONTINUATION: the proxy of a pod connects to the app
   * before it answers anybody, and tells it what it tells every peer.
   */
  get requests(): string {
    if (!this.isHttp2) return this.text
    const bytes = Buffer.from(this.text, 'latin1')
    let requests = ''
    let at = 0
    while (at < bytes.length) {
      if (bytes.subarray(at, at + PREFACE.length).equals(PREFACE)) at += PREFACE.length
      if (at + 9 > bytes.length) break
      const end = at + 9 + bytes.readUIntBE(at, 3)
      const type = bytes[at + 3]!
      if (type === FRAME_HEADERS || type === FRAME_DATA || type === FRAME_CONTINUATION) {
        requests += bytes.toString('latin1', at, end)
      }
      at = end
    }
    return requests
  }

  /** Forgets what has arrived. */
  reset(): void {
    this.text = ''
  }

  /** When a request with that text in it has arrived. */
  async arrival(text: string): Promise<void> {
    while (!this.requests.includes(text)) {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
  }

  close(): void {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }
}
