/**
 * The agent's HTTP endpoints, on the main thread only, so that no scrape ever delays a request:
 *
 *   metrics    :15020/metrics and /stats/prometheus     Prometheus text
 *   readiness  :15021/healthz/ready                     200 once configuration is in force and pods are captured
 *              :15021/healthz/live                      200 while the main thread runs
 *   admin      127.0.0.1:15000                          /config_dump /connections /pods /certificates /dns /healthz/ready, POST /quitquitquit
 *
 * The admin endpoint has no password: it binds loopback only, and nothing it shows is secret.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createProbe, type ListenOptions, type Server as NetServer } from 'node:net'
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'

/** Longest time for a request and for its head. Scrapers and operators are near and send a few hundred bytes. */
const REQUEST_TIMEOUT_MS = 10_000
const HEAD_TIMEOUT_MS = 5000

/** Bytes of a request's head. 8 KiB: no body and no cookie has any business here. */
const HEAD_BYTES_MAX = 8192

/** Connections at a time. 256: a few scrapers and people; an endpoint that anyone can reach must not hold the agent. */
const CONNECTIONS_MAX = 256

/** What an endpoint answers. */
export interface Answer {
  readonly status: number
  readonly type: string
  readonly body: string
}

/** Handlers by path. A path with a method other than GET is written `POST /path`. */
export type Routes = Readonly<Record<string, () => Answer | Promise<Answer>>>

/** Content type of plain answers. */
export const TYPE_TEXT = 'text/plain; charset=utf-8'
const TYPE_JSON = 'application/json'

/** A JSON answer; maps become objects, bigints text. */
export function jsonAnswer(value: unknown, status = 200): Answer {
  const body = JSON.stringify(
    value,
    (_key, field: unknown) => {
      if (field instanceof Map) return Object.fromEntries(field)
      return typeof field === 'bigint' ? field.toString() : field
    },
    2,
  )
  return { status, type: TYPE_JSON, body: `${body}\n` }
}

/** One HTTP endpoint of the agent. */
export class AdminEndpoint {
  readonly name: string
  private readonly server: Server
  private readonly log: Logger

  constructor(name: string, routes: Routes, log: Logger) {
    this.name = name
    this.log = log
    this.server = createServer(
      { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: HEAD_TIMEOUT_MS, maxHeaderSize: HEAD_BYTES_MAX },
      (request, response) => {
        void this.answer(routes, request, response)
      },
    )
    this.server.maxConnections = CONNECTIONS_MAX
  }

  /**
   * The port that is bound. Rejects with WeftError WEFT_SYSCALL when the address is taken, but for `isTakingOver`: by an
   * agent that is about to close its own.
   */
  async listen({ address, port }: ListenAddress, isTakingOver = false): Promise<number> {
    try {
      // A shared port is never taken; whether somebody else has it shows when it is asked for alone.
      if (!isTakingOver && port !== 0) await closed(await listening(createProbe(), { host: address, port }))
      await listening(this.server, { host: address, port, reusePort: process.platform === 'linux' })
    } catch (error) {
      const where = formatHostPort(address, port)
      const what = `the ${this.name} endpoint cannot listen on ${where}; choose another address with --${this.name}`
      throw new WeftError('WEFT_SYSCALL', what, error)
    }
    return (this.server.address() as AddressInfo).port
  }

  async close(): Promise<void> {
    if (!this.server.listening) return
    const ended = closed(this.server)
    this.server.closeAllConnections()
    await ended
  }

  /** Never rejects. */
  private async answer(routes: Routes, request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume()
    const path = (request.url ?? '/').split('?')[0]!
    const key = request.method === 'GET' || request.method === 'HEAD' ? path : `${request.method} ${path}`
    const route = Object.hasOwn(routes, key) ? routes[key] : undefined
    let answer: Answer
    try {
      answer = route === undefined ? notFound(routes) : await route()
    } catch (error) {
      this.log.error('an admin request failed', { path, error: describeError(error) })
      answer = { status: 500, type: TYPE_TEXT, body: `${describeError(error)}\n` }
    }
    response.writeHead(answer.status, { 'content-type': answer.type })
    response.end(answer.body)
  }
}

function listening<S extends NetServer>(server: S, options: ListenOptions): Promise<S> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(options, () => {
      server.off('error', reject)
      resolve(server)
    })
  })
}

function closed(server: NetServer): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}

function notFound(routes: Routes): Answer {
  return { status: 404, type: TYPE_TEXT, body: `not found; there is: ${Object.keys(routes).join(' ')}\n` }
}
