/**
 * The naive line of the bench: what one writes on node:http in ten minutes, doing the same work as the others.
 * Started with a JSON `Site`; says `ready` when it listens, ends with its input.
 */
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { ADDED_HEADERS, BENCH_HOST, ROUTE_COUNT, ROUTE_TIMEOUT_MS, routePrefix, type Site } from '../peers/work.ts'

const { listen, upstream } = JSON.parse(process.argv[2]!) as Site
const agent = new Agent({ keepAlive: true, maxSockets: Infinity })
const prefixes = Array.from({ length: ROUTE_COUNT }, (_, index) => routePrefix(index))
const counts = new Map<string, number>()

function forward(incoming: IncomingMessage, outgoing: ServerResponse): void {
  const prefix = prefixes.find((candidate) => incoming.url!.startsWith(candidate))
  if (incoming.headers.host !== BENCH_HOST || prefix === undefined) {
    outgoing.writeHead(404).end()
    return
  }
  const { method, url: path } = incoming
  const headers = { ...incoming.headers, ...Object.fromEntries(ADDED_HEADERS) }
  const upstreamRequest = request(
    { agent, ...upstream, method, path, headers, timeout: ROUTE_TIMEOUT_MS },
    (answer: IncomingMessage) => {
      outgoing.writeHead(answer.statusCode!, answer.headers)
      answer.pipe(outgoing)
      counts.set(prefix, (counts.get(prefix) ?? 0) + 1)
    },
  )
  upstreamRequest.on('error', () => outgoing.writeHead(503).end())
  incoming.pipe(upstreamRequest)
}

createServer(forward).listen(listen.port, listen.host, 8192, () => console.log('ready'))
process.stdin.on('end', () => process.exit(0)).resume()
