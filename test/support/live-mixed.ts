/**
 * One client of each protocol, and the server that counts what it gets twice; programs of their own, for pods:
 *
 *      node live-mixed.ts serve                 8080: HTTP/1.1, 8081: HTTP/2 and gRPC, 7000: WebSocket
 *      node live-mixed.ts client HOST           until standard input ends; then prints the outcomes by protocol as JSON
 *
 * Every request has a number of its own. A number that comes twice is answered with 409.
 */
import http from 'node:http'
import http2 from 'node:http2'
import { setTimeout as delay } from 'node:timers/promises'
import { OPCODE_TEXT, serveWebSockets1, WebSocketEnd } from './web-socket.ts'

/** Outcomes of one protocol, by name. */
export type Outcomes = Record<string, number>

/** An answer that takes longer is a failure. */
const TIMEOUT_MS = 10_000
const PAUSE_MS = 2

async function serve(): Promise<void> {
  const seen = new Set<string>()
  const statusOf = (path: string): number => {
    if (seen.has(path)) return 409
    seen.add(path)
    return 200
  }
  const first = http.createServer((request, response) => {
    response.writeHead(statusOf(request.url!))
    response.end('x'.repeat(2000))
  })
  first.listen(8080, '::')
  const second = http2.createServer()
  second.on('stream', (stream, headers) => {
    const isGrpc = headers['content-type'] === 'application/grpc'
    stream.on('error', () => {})
    stream.respond({ ':status': statusOf(headers[':path']!) }, { waitForTrailers: isGrpc })
    if (isGrpc) stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.end('x'.repeat(2000))
  })
  second.listen(8081, '::')
  await serveWebSockets1('::', 7000)
}

let number = 0
const path = (kind: string): string => `/${kind}/${process.pid}/${++number}`

function viaHttp1(host: string, agent: http.Agent): Promise<string> {
  return new Promise((resolve) => {
    const options = { host, port: 8080, path: path('h1'), agent, timeout: TIMEOUT_MS }
    const request = http.get(options, (response) => {
      response.resume()
      response.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'))
      response.on('end', () => resolve(String(response.statusCode)))
    })
    request.on('timeout', () => request.destroy(Object.assign(new Error('late'), { code: 'TIMEOUT' })))
    request.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'))
  })
}

/** One session at a time; a new one when the old takes no more streams. */
class Http2Client {
  private readonly authority: string
  private session: http2.ClientHttp2Session | null = null

  constructor(host: string) {
    this.authority = `${host.includes(':') ? `[${host}]` : host}:8081`
  }

  request(isGrpc: boolean): Promise<string> {
    this.session ??= this.connect()
    const { session } = this
    return new Promise((resolve) => {
      // Node leaves the brackets of an address out of the authority that it makes itself.
      const authority = { ':authority': this.authority }
      const headers = isGrpc
        ? { ...authority, ':method': 'POST', ':path': path('grpc'), 'content-type': 'application/grpc', te: 'trailers' }
        : { ...authority, ':method': 'GET', ':path': path('h2') }
      const stream = session.request(headers)
      let status = 'no response'
      stream.setTimeout(TIMEOUT_MS, () => stream.close(http2.constants.NGHTTP2_CANCEL))
      stream.on('response', (response) => {
        status = String(response[':status'])
      })
      stream.on('trailers', (trailers) => {
        status = trailers['grpc-status'] === '0' ? status : 'bad trailers'
      })
      stream.on('error', (error: NodeJS.ErrnoException) => {
        status = error.message
      })
      stream.resume()
      // Streams that were refused were not served (RFC 9113 section 8.7), and may be tried again.
      stream.on('close', () => {
        resolve(stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM ? this.request(isGrpc) : status)
      })
      stream.end()
    })
  }

  private connect(): http2.ClientHttp2Session {
    const session = http2.connect(`http://${this.authority}`)
    const leave = (): void => {
      if (this.session === session) this.session = null
    }
    session.on('goaway', () => {
      leave()
      session.close()
    })
    session.on('close', leave)
    session.on('error', leave)
    return session
  }
}

/** A WebSocket that stays open all the time; every message must come back once, in order. */
function openWebSocket(host: string): Promise<(text: string) => Promise<string>> {
  return new Promise((resolve, reject) => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    }
    const request = http.get({ host, port: 7000, path: '/socket', headers })
    request.on('error', reject)
    request.on('upgrade', (_response, socket) => {
      const end = new WebSocketEnd(socket, true)
      let settle: (outcome: string) => void = () => {}
      socket.on('close', () => settle('closed'))
      resolve((text) => {
        return new Promise((answer) => {
          settle = answer
          end.onFrame = ({ payload }) => answer(payload.toString() === text ? '200' : 'another message')
          end.send(OPCODE_TEXT, Buffer.from(text))
        })
      })
    })
  })
}

async function run(host: string): Promise<void> {
  let isStopped = false
  process.stdin.resume()
  process.stdin.on('end', () => {
    isStopped = true
  })
  const all: Record<string, Outcomes> = {}
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const fresh = new http.Agent({ keepAlive: false })
  const second = new Http2Client(host)
  const say = await openWebSocket(host)
  const kinds: Record<string, () => Promise<string>> = {
    kept: () => viaHttp1(host, kept),
    fresh: () => viaHttp1(host, fresh),
    http2: () => second.request(false),
    grpc: () => second.request(true),
    webSocket: () => say(`message ${++number}`),
  }
  await Promise.all(
    Object.entries(kinds).map(async ([kind, once]) => {
      const outcomes: Outcomes = {}
      all[kind] = outcomes
      while (!isStopped) {
        const outcome = await once()
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
        await delay(PAUSE_MS)
      }
    }),
  )
  console.log(JSON.stringify(all))
  process.exit(0)
}

const [mode, host] = process.argv.slice(2)
if (mode === 'serve') await serve()
else await run(host!)
