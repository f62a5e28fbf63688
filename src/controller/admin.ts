/** The controller's own HTTP endpoint, on loopback: readiness, and status as JSON. It answers nothing secret. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import type { ListenAddress } from '../base/settings.ts'

/** What the endpoint shows. */
export interface AdminSource {
  /** True when agents are being served. */
  isReady(): boolean
  /** Anything that JSON can say. */
  status(): unknown
}

/** Readiness and status over HTTP, without a password: on loopback only. */
export class AdminServer {
  private readonly server: Server

  constructor(source: AdminSource) {
    this.server = createServer((request, response) => {
      const path = request.url?.split('?')[0]
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        response.writeHead(405, { allow: 'GET, HEAD' }).end()
      } else if (path === '/healthz/ready') {
        const isReady = source.isReady()
        response
          .writeHead(isReady ? 200 : 503, { 'content-type': 'text/plain' })
          .end(isReady ? 'ready\n' : 'not ready\n')
      } else if (path === '/status') {
        const body = `${JSON.stringify(source.status(), null, 2)}\n`
        response.writeHead(200, { 'content-type': 'application/json' }).end(body)
      } else {
        response.writeHead(404, { 'content-type': 'text/plain' }).end('/healthz/ready, /status\n')
      }
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

  async stop(): Promise<void> {
    if (!this.server.listening) return
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()))
    this.server.closeAllConnections()
    await closed
  }
}
