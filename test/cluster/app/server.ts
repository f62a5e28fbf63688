/** Servers of the test application: HTTP, an echo, and one that speaks first. They tell who they are. */
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { createServer, type Socket } from 'node:net'
import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'

export interface Serving {
  readonly version: string
  readonly httpPorts: readonly number[]
  readonly tcpPorts: readonly number[]
  readonly serverFirstPorts: readonly number[]
  readonly grpcHealthPorts: readonly number[]
}

/** Requests that are being answered when the pod is told to end are answered. */
const END_AFTER_MS = 3000

/** `HealthCheckResponse { status: SERVING }` of grpc.health.v1, behind the five bytes before each gRPC message. */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 0x08, 1])

/** One body of `/bytes/N`, at most. */
const BYTES_MAX = 100_000_000

export function serve({ version, httpPorts, tcpPorts, serverFirstPorts, grpcHealthPorts }: Serving): void {
  const servers = [
    ...httpPorts.map((port) =>
      createHttpServer((request, response) => onRequest(version, request, response)).listen(port),
    ),
    ...tcpPorts.map((port) => createServer((socket) => echo(socket)).listen(port)),
    ...serverFirstPorts.map((port) => createServer((socket) => greet(version, socket)).listen(port)),
    ...grpcHealthPorts.map((port) => createHttp2Server().on('stream', sayHealthy).listen(port)),
  ]
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => {
      for (const server of servers) server.close()
      setTimeout(() => process.exit(0), END_AFTER_MS).unref()
    })
  }
  console.log(`serving as ${version}`)
}

/** `/status/503`, `/delay/250` (ms), `/bytes/4096`, `/metrics`, and everything else: what was asked, and by whom. */
async function onRequest(version: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const [, verb, word] = (request.url ?? '/').split('?')[0]!.split('/')
  const number = Number(word ?? 0)
  if (verb === 'delay') await delay(number)
  if (verb === 'bytes') {
    response.end(Buffer.alloc(Math.min(number, BYTES_MAX), 'x'))
    return
  }
  if (verb === 'metrics') {
    response.setHeader('content-type', 'text/plain; version=0.0.4')
    response.end(`# TYPE app_info gauge\napp_info{version="${version}"} 1\n`)
    return
  }
  response.statusCode = verb === 'status' ? number : 200
  response.setHeader('content-type', 'application/json')
  const { method, url, headers, socket } = request
  const facts = { pod: hostname(), version, method, path: url, headers, peer: socket.remoteAddress }
  response.end(`${JSON.stringify(facts)}\n`)
}

/** Every call is taken for `Check`. */
function sayHealthy(stream: ServerHttp2Stream): void {
  stream.on('error', () => stream.destroy())
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
  stream.end(SERVING)
}

function echo(socket: Socket): void {
  socket.on('error', () => socket.destroy())
  socket.pipe(socket)
}

function greet(version: string, socket: Socket): void {
  socket.on('error', () => socket.destroy())
  socket.write(`220 ${hostname()} ${version}\n`)
  socket.pipe(socket)
}
