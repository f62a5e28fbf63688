/**
 * What the demo's programs share: where to listen, how to call another service, which headers to hand on.
 *
 * The programs know nothing of the mesh. Only two settings differ between the demo's forms, both from the environment:
 * in network namespaces neither is set; on loopback addresses (no privileges) a pod has addresses of its own to listen
 * on and to call from, and its hosts file is a variable.
 */
import { type LookupAllOptions, lookup as lookupName } from 'node:dns'
import http from 'node:http'
import type { LookupFunction } from 'node:net'

/** Address to listen on; every address of the pod unless set. */
export const listenAddress = process.env['WEFT_DEMO_LISTEN'] ?? '::'
/** Address to call from; the kernel's choice unless set. */
export const sourceAddress = process.env['WEFT_DEMO_SOURCE']
/** Pod name, as it is told to Kubernetes programs through the downward API. */
export const podName = process.env['HOSTNAME'] ?? 'pod'

const hosts = JSON.parse(process.env['WEFT_DEMO_HOSTS'] ?? '{}') as Record<string, string>

/** Resolves like the C library, after the names of `WEFT_DEMO_HOSTS`. */
export const lookup: LookupFunction = (hostname, options, callback) => {
  const address = Object.hasOwn(hosts, hostname) ? hosts[hostname] : undefined
  if (address === undefined) lookupName(hostname, options as LookupAllOptions, callback)
  else if (options.all === true) process.nextTick(callback, null, [{ address, family: 4 }])
  else process.nextTick(callback, null, address, 4)
}

/** Headers that belong to the request as a whole: who the user is, and its trace. A service hands them on as they came. */
const HANDED_ON = [
  'end-user',
  'user-agent',
  'cookie',
  'authorization',
  'x-request-id',
  'traceparent',
  'tracestate',
  'b3',
  'x-b3-traceid',
  'x-b3-spanid',
  'x-b3-parentspanid',
  'x-b3-sampled',
  'x-b3-flags',
]

export function headersToHandOn(request: http.IncomingMessage): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const name of HANDED_ON) {
    const value = request.headers[name]
    if (typeof value === 'string') headers[name] = value
  }
  return headers
}

export interface Answer {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly body: string
}

/** Calls of one pod to one service share a few connections, as programs do. */
const agent = new http.Agent({ keepAlive: true, maxSockets: 16 })

export interface Call {
  readonly host: string
  readonly port: number
  readonly path: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly timeoutMs?: number
  /** True opens a connection for this call alone. */
  readonly isFresh?: boolean
}

/** One HTTP call; rejects when there is no answer at all. */
export function call(options: Call): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request({
      host: options.host,
      port: options.port,
      path: options.path,
      method: options.method ?? 'GET',
      headers: options.headers ?? {},
      agent: options.isFresh === true ? false : agent,
      lookup,
      ...(sourceAddress === undefined ? {} : { localAddress: sourceAddress }),
    })
    request.setTimeout(options.timeoutMs ?? 5000, () => request.destroy(new Error('no answer in time')))
    request.on('error', reject)
    request.on('response', (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
      })
      response.on('error', reject)
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }))
    })
    request.end()
  })
}

type Route = (request: http.IncomingMessage, response: http.ServerResponse) => Promise<void> | void

/** Serves `route` on `port`; what it throws becomes a 500. */
export function serve(port: number, route: Route): void {
  const server = http.createServer((request, response) => {
    // The promise is followed to its end here; there is no one else to tell.
    void answer(route, request, response)
  })
  // Longer than the mesh keeps idle connections for these clients, so that the client side closes first.
  server.keepAliveTimeout = 75_000
  server.listen(port, listenAddress)
}

async function answer(route: Route, request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
  try {
    await route(request, response)
  } catch (error) {
    if (!response.headersSent) sendJson(response, 500, { error: String(error) })
    else response.destroy()
  }
}

export function sendJson(response: http.ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(body))
}

/** Path of the request without its query, cut at the slashes. */
export function pathPieces(request: http.IncomingMessage): readonly string[] {
  const path = (request.url ?? '/').split('?')[0]!
  return path.split('/').filter((piece) => piece !== '')
}
