/**
 * The controller's own HTTP endpoint: whether it lives, whether it is ready, metrics, and status as JSON. It answers
 * nothing secret; status, which tells of every node and object, only to the machine (or pod) itself.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { canonicalAddress, formatHostPort, isLoopback } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import type { ListenAddress } from '../base/settings.ts'

const TYPE_TEXT = 'text/plain'

/** What the endpoint shows. */
export interface AdminSource {
  /** True when agents are being served. */
  isReady(): boolean
  /** Anything that JSON can say. */
  status(): unknown
  /** Prometheus text. Does not reject. */
  metrics(): Promise<string>
  readonly metricsType: string
}

/** See the head of the file. */
export class AdminServer {
  private readonly server: Server
  private readonly source: AdminSource

  constructor(source: AdminSource) {
    this.source = source
    this.server = createServer((request, response) => {
      // It does not reject: what could is answered.
      void this.answer(request, response)
    })
  }

  /** Resolves with the bound port. Rejects with WeftError WEFT_SYSCALL. */
  async listen({ address, port }: ListenAddress): Promise<number> {
    return new Promise((resolve, reject) => {
      this.server.once('error', (error) => {
        const where = formatHostPort(address, port)
        reject(new WeftError('WEFT_SYSCALL', `the admin endpoint cannot listen on ${where}; see --admin`, error))
      })
      this.server.listen(port, address, () => resolve((this.server.address() as AddressInfo).port))
    })
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url?.split('?')[0]
    const { source } = this
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end()
    } else if (path === '/healthz/ready') {
      const isReady = source.isReady()
      send(response, isReady ? 200 : 503, TYPE_TEXT, isReady ? 'ready\n' : 'not ready\n')
    } else if (path === '/healthz/live') send(response, 200, TYPE_TEXT, 'alive\n')
    else if (path === '/metrics') send(response, 200, source.metricsType, await source.metrics())
    else if (path === '/status') {
      const client = canonicalAddress(request.socket.remoteAddress ?? '')
      if (client === null || !isLoopback(client)) send(response, 403, TYPE_TEXT, 'only on a loopback address\n')
      else send(response, 200, 'application/json', `${JSON.stringify(source.status(), null, 2)}\n`)
    } else send(response, 404, TYPE_TEXT, '/healthz/live, /healthz/ready, /metrics, /status\n')
  }

  async stop(): Promise<void> {
    if (!this.server.listening) return
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()))
    this.server.closeAllConnections()
    await closed
  }
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'content-type': type }).end(body)
}
