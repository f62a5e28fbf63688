import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttp1Server, type Server as Http1Server } from 'node:http'
import * as http2 from 'node:http2'
import { connect, type Socket } from 'node:net'
import { after, afterEach, before, test } from 'node:test'
import { DEFAULT_RETRY, type Route } from '../../src/model/route.ts'
import {
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
  type PoolLimits,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  type Service,
} from '../../src/model/service.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'

/** Declared as HTTP/2, with a server of it. */
const H2_PORT = 8190
/** Declared as HTTP/1, with a server of it that takes WebSockets. */
const H1_PORT = 8192

const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants
/** The handshake of RFC 6455 section 1.3. */
const WEBSOCKET_KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const WEBSOCKET_ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo='

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: (http2.Http2Server | Http1Server)[] = []
const sockets = new Set<Socket>()
const sessions: http2.ClientHttp2Session[] = []
/** Sessions that the HTTP/2 apps have accepted. */
const appSessions: http2.ServerHttp2Session[] = []
let app: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void = answer

function answer(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): void {
  stream.on('error', () => {})
  stream.respond({ ':status': 200 })
  stream.end(headers[':path'])
}

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports: TestPort[] = [
      { number: H2_PORT, targetPort: H2_PORT, protocol: PROTOCOL_HTTP2 },
      { number: H1_PORT, targetPort: H1_PORT, protocol: PROTOCOL_HTTP1 },
    ]
    services.push(await mesh.service(name, ports, [pod]))
    const server = http2.createServer({ settings: { enableConnectProtocol: true } })
    server.on('session', (session) => {
      appSessions.push(session)
      session.on('error', () => {})
    })
    server.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      app(stream, headers)
    })
    await listen(server, pod, H2_PORT)
    const web = createHttp1Server((_incoming, outgoing) => outgoing.end('plain'))
    web.on('upgrade', (incoming, socket) => {
      assert.equal(incoming.headers.upgrade, 'websocket')
      const key = incoming.headers['sec-websocket-key']!
      assert.equal(Buffer.from(key, 'base64').length, 16)
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-app: h1\r\n\r\nhello',
      )
      socket.on('data', (chunk) => socket.write(chunk))
      socket.on('end', () => socket.end('bye'))
    })
    await listen(web, pod, H1_PORT)
  }
})

async function listen(server: http2.Http2Server | Http1Server, pod: TestPod, port: number): Promise<void> {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, pod.appAddress)
  await once(server, 'listening')
  servers.push(server)
}

afterEach(() => {
  app = answer
  for (const index of [0, 1]) rules(index, null)
  for (const session of sessions.splice(0)) session.destroy()
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

function open(index: number, port = H2_PORT): http2.ClientHttp2Session {
  const session = connectFrom(client.address, mesh.vip(services[index]!, 0), port)
  sessions.push(session)
  return session
}

function rules(index: number, route: Partial<Route> | null, limits: Partial<PoolLimits> = {}): void {
  const service = services[index]!
  const to: Cluster = {
    key: clusterKey(service.key, '', H2_PORT),
    service: service.key,
    subset: '',
    port: H2_PORT,
    members: null,
    balance: 0,
    limits: { ...DEFAULT_POOL_LIMITS, ...limits },
    outlier: null,
    isMutualTls: true,
  }
  const base: Route = {
    source: 'default/rule',
    name: 'rule',
    matches: [],
    clusters: [{ cluster: to.key, weight: 1, requestEdits: null, responseEdits: null, authority: null }],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: { ...DEFAULT_RETRY, attempts: 0 },
    fault: null,
    mirrors: [],
  }
  mesh.traffic(service, H2_PORT, {
    routes: route === null ? [] : [{ ...base, ...route }],
    clusters: [to],
    defaultCluster: to.key,
  })
}

/** Flag and status of the exchange that the proxy of a node recorded last, once there is one with `path`. */
async function recorded(index: number, path: string): Promise<{ flag: string; status: number; details: string }> {
  for (;;) {
    const record = mesh.nodes[index]!.recorder.records.findLast(({ http }) => http?.path === path)
    if (record !== undefined) return { flag: record.flag, status: record.http!.status, details: record.details }
    await new Promise((resolve) => setImmediate(resolve))
  }
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`a slow reader holds the server up, and gets everything in the end ${where}`, async () => {
    // No multiple of a window: node:http2 resets a stream (NO_ERROR) whose last byte has used the window up.
    const size = 500 * 65_000
    let written = 0
    app = (stream) => {
      stream.respond({ ':status': 200 })
      const chunk = Buffer.alloc(65_000)
      const pump = (): void => {
        while (written < size) {
          written += chunk.length
          if (!stream.write(chunk)) {
            stream.once('drain', pump)
            return
          }
        }
        stream.end()
      }
      pump()
    }
    const session = open(index)
    const stream = session.request({ ':path': '/big' })
    await once(stream, 'response')
    let before = -1
    while (before !== written) {
      before = written
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    assert.ok(written < size / 4, `the server was stopped, not after ${written} bytes`)
    // Other streams of the same connections are not held up by it.
    app = answer
    assert.equal(await new Http2Call(session, { ':path': '/other' }).text(), '/other')
    let received = 0
    for await (const chunk of stream) received += (chunk as Buffer).length
    assert.equal(received, size)
  })

  test(`a slow server holds the client up ${where}`, async () => {
    const size = 16 << 20
    let received = 0
    const taken = new Promise<http2.ServerHttp2Stream>((resolve) => {
      app = (stream) => resolve(stream)
    })
    const call = new Http2Call(open(index), { ':method': 'POST', ':path': '/upload' })
    let written = 0
    const chunk = Buffer.alloc(65_536)
    const pump = (): void => {
      while (written < size) {
        written += chunk.length
        if (!call.stream.write(chunk)) {
          call.stream.once('drain', pump)
          return
        }
      }
      call.stream.end()
    }
    pump()
    const stream = await taken
    let before = -1
    while (before !== written) {
      before = written
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    assert.ok(written < size / 2, `the client was stopped, not after ${written} bytes`)
    stream.on('data', (bytes: Buffer) => {
      received += bytes.length
    })
    stream.on('end', () => {
      stream.respond({ ':status': 200 })
      stream.end('done')
    })
    assert.equal(await call.text(), 'done')
    assert.equal(received, size)
  })

  test(`interim responses are passed on ${where}`, async () => {
    app = (stream) => {
      stream.additionalHeaders({ ':status': 103, link: '</style.css>' })
      stream.respond({ ':status': 200 })
      stream.end('x')
    }
    const call = new Http2Call(open(index), { ':path': '/early' })
    assert.equal(await call.text(), 'x')
    assert.equal(call.informational.length, 1)
    assert.equal(call.informational[0]!['link'], '</style.css>')
  })

  test(`a client that resets its stream takes it away from the server ${where}`, async () => {
    const closed = new Promise<number>((resolve) => {
      app = (stream) => {
        stream.respond({ ':status': 200 })
        stream.write('part')
        stream.on('close', () => resolve(stream.rstCode ?? -1))
      }
    })
    const call = new Http2Call(open(index), { ':path': `/cancel/${index}` })
    await call.head
    call.stream.close(NGHTTP2_CANCEL)
    assert.equal(await closed, NGHTTP2_CANCEL)
    assert.equal((await recorded(index, `/cancel/${index}`)).flag, 'DC')
  })

  test(`a server that resets before its response is answered for, 503 with UC ${where}`, async () => {
    app = (stream) => stream.close(NGHTTP2_INTERNAL_ERROR)
    const call = new Http2Call(open(index), { ':path': `/reset/${index}` })
    assert.equal((await call.head)[':status'], 503)
    const record = await recorded(index, `/reset/${index}`)
    assert.equal(record.flag, 'UC')
    assert.match(record.details, /INTERNAL_ERROR/)
  })

  test(`a server that resets within its response is seen to have done so ${where}`, async () => {
    app = (stream) => {
      stream.respond({ ':status': 200 })
      stream.write('part')
      setTimeout(() => stream.destroy(new Error('broken')), 20)
    }
    const call = new Http2Call(open(index), { ':path': `/half/${index}` })
    assert.equal((await call.head)[':status'], 200)
    assert.notEqual(await call.code(), NGHTTP2_NO_ERROR)
    assert.equal((await recorded(index, `/half/${index}`)).flag, 'UC')
  })

  test(`a stream that the server refused is sent once more, whatever its method ${where}`, async () => {
    let count = 0
    app = (stream, headers) => {
      if (count++ === 0) stream.close(NGHTTP2_REFUSED_STREAM)
      else answer(stream, headers)
    }
    const call = new Http2Call(open(index), { ':method': 'POST', ':path': '/refused' })
    call.stream.end('body')
    assert.equal(await call.text(), '/refused')
    assert.equal(count, 2)
    app = (stream) => {
      count++
      stream.close(NGHTTP2_REFUSED_STREAM)
    }
    count = 0
    const again = new Http2Call(open(index), { ':path': '/refused' })
    assert.equal((await again.head)[':status'], 503)
    // In one hop the default rule adds two retries; through a tunnel the client's proxy gets the 503 as an answer.
    assert.equal(count, index === 0 ? 4 : 2)
  })

  test(`a server that says GOAWAY finishes what is open and gets no more ${where}`, async () => {
    const session = open(index)
    assert.equal(await new Http2Call(session, { ':path': '/one' }).text(), '/one')
    let release: () => void = () => {}
    let old: http2.Http2Session | undefined
    app = (stream) => {
      old = stream.session
      stream.respond({ ':status': 200 })
      release = () => stream.end('late')
    }
    const open1 = new Http2Call(session, { ':path': '/open' })
    await open1.head
    app = (stream, headers) => {
      assert.notEqual(stream.session, old)
      answer(stream, headers)
    }
    old!.goaway(NGHTTP2_NO_ERROR)
    for (let i = 0; i < 5; i++) assert.equal(await new Http2Call(session, { ':path': `/${i}` }).text(), `/${i}`)
    release()
    assert.equal(await open1.text(), 'late')
  })

  test(`an answer before the end of the request stops the client without an error ${where}`, async () => {
    app = (stream) => {
      stream.respond({ ':status': 413 })
      stream.end('too much')
    }
    const call = new Http2Call(open(index), { ':method': 'POST', ':path': '/early-answer' })
    call.stream.write(Buffer.alloc(1000))
    assert.equal((await call.head)[':status'], 413)
    assert.equal(await call.text(), 'too much')
    assert.equal(await call.code(), NGHTTP2_NO_ERROR)
  })

  test(`connections carry as many requests as the user allows, then others do ${where}`, async () => {
    rules(index, {}, { requestsPerConnectionMax: 2 })
    const before = appSessions.length
    const session = open(index)
    for (let i = 0; i < 6; i++) assert.equal(await new Http2Call(session, { ':path': `/${i}` }).text(), `/${i}`)
    if (index === 0) assert.equal(appSessions.length - before, 3)
  })

  test(`a gRPC client's own deadline is told as DEADLINE_EXCEEDED ${where}`, async () => {
    app = () => {}
    rules(index, { timeoutMs: 60_000 })
    const call = new Http2Call(open(index), {
      ':method': 'POST',
      ':path': '/pkg.Service/Method',
      'content-type': 'application/grpc',
      'grpc-timeout': '50m',
    })
    const head = await call.head
    assert.equal(head[':status'], 200)
    assert.equal(head['grpc-status'], '4')
    assert.equal(head['content-type'], 'application/grpc')
    // In the middle of a stream it comes as trailers.
    app = (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
      stream.write(Buffer.alloc(5))
    }
    const streaming = new Http2Call(open(index), {
      ':method': 'POST',
      ':path': '/pkg.Service/Stream',
      'content-type': 'application/grpc+proto',
      'grpc-timeout': '100000u',
    })
    await streaming.text()
    assert.equal(streaming.trailers!['grpc-status'], '4')
  })

  test(`a WebSocket over HTTP/2 reaches a server of HTTP/2 as one ${where}`, async () => {
    app = (stream, headers) => {
      assert.equal(headers[':method'], 'CONNECT')
      assert.equal(headers[':protocol'], 'websocket')
      assert.equal(headers['sec-websocket-key'], undefined)
      stream.respond({ ':status': 200, 'x-app': 'h2' })
      stream.write('hello')
      stream.on('data', (chunk: Buffer) => stream.write(chunk))
      stream.on('end', () => stream.end('bye'))
    }
    await talk(open(index), 'h2')
  })

  test(`a WebSocket over HTTP/2 reaches a server of HTTP/1 as an upgrade ${where}`, async () => {
    await talk(open(index, H1_PORT), 'h1')
  })

  test(`an upgrade of HTTP/1 reaches a server of HTTP/2 as a WebSocket ${where}`, async () => {
    app = (stream, headers) => {
      assert.equal(headers[':protocol'], 'websocket')
      stream.respond({ ':status': 200 })
      stream.on('data', (chunk: Buffer) => stream.write(chunk))
      stream.on('end', () => stream.end('bye'))
    }
    const socket = connect({
      host: mesh.vip(services[index]!, 0),
      port: H2_PORT,
      localAddress: client.address,
      allowHalfOpen: true,
    })
    socket.write(
      `GET /ws HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${WEBSOCKET_KEY}\r\n\r\n`,
    )
    let text = ''
    let wake: () => void = () => {}
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1')
      wake()
    })
    const until = async (end: string): Promise<void> => {
      while (!text.endsWith(end)) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
    await until('\r\n\r\n')
    assert.match(text, /^HTTP\/1\.1 101 /)
    assert.match(text, /\r\nupgrade: websocket\r\n/i)
    assert.ok(text.toLowerCase().includes(`sec-websocket-accept: ${WEBSOCKET_ACCEPT.toLowerCase()}`))
    socket.write('ping')
    await until('ping')
    socket.end()
    await until('bye')
    socket.destroy()
  })
}

/** Opens a WebSocket by extended CONNECT, says something early, and half-closes. */
async function talk(session: http2.ClientHttp2Session, appName: string): Promise<void> {
  if (!session.remoteSettings?.enableConnectProtocol) await once(session, 'remoteSettings')
  assert.equal(session.remoteSettings.enableConnectProtocol, true)
  const call = new Http2Call(session, {
    ':method': 'CONNECT',
    ':protocol': 'websocket',
    ':path': '/ws',
    'sec-websocket-version': '13',
  })
  call.stream.write('early ')
  const head = await call.head
  assert.equal(head[':status'], 200)
  assert.equal(head['x-app'], appName)
  assert.equal(head['sec-websocket-accept'], undefined)
  call.stream.end('last')
  assert.equal(await call.text(), 'helloearly lastbye')
  assert.equal(await call.code(), NGHTTP2_NO_ERROR)
}
