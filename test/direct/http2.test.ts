import assert from 'node:assert/strict'
import { once } from 'node:events'
import {
  createServer as createHttp1Server,
  type Server as Http1Server,
  request as http1Request,
  type IncomingMessage,
} from 'node:http'
import * as http2 from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import { after, afterEach, before, test } from 'node:test'
import {
  PROTOCOL_DETECT,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  type Protocol,
  type Service,
} from '../../src/model/service.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

/** Ports by what they declare; behind all but H1_PORT and TO_H1_PORT is a server of HTTP/2. */
const H2_PORT = 8090
const DETECT_PORT = 8091
/** Declared as HTTP/1, with a server of HTTP/1. */
const H1_PORT = 8092

const PORTS: readonly [number, Protocol][] = [
  [H2_PORT, PROTOCOL_HTTP2],
  [DETECT_PORT, PROTOCOL_DETECT],
  [H1_PORT, PROTOCOL_HTTP1],
]

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: (http2.Http2Server | Http1Server)[] = []
const sockets = new Set<Socket>()
const sessions: http2.ClientHttp2Session[] = []
/** Connections that the HTTP/2 app of the remote pod has accepted, by port. */
const accepted = new Map<number, number>()
/** What the HTTP/2 apps do with a stream; the default answers with what it got. */
let app: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void = answer

/** Answers with the facts of the request. */
function answer(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): void {
  const chunks: Buffer[] = []
  let trailers: http2.IncomingHttpHeaders = {}
  stream.on('trailers', (received) => {
    trailers = received
  })
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  stream.on('error', () => {})
  stream.on('end', () => {
    const facts = { ...headers, bytes: Buffer.concat(chunks).length, trailer: trailers['x-sum'] ?? null }
    const path = headers[':path']!
    if (path.startsWith('/status/')) {
      stream.respond({ ':status': Number(path.slice(8)) }, { endStream: true })
      return
    }
    stream.respond({ ':status': 200, 'x-app': 'h2' }, { waitForTrailers: path === '/trailers' })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-answer-sum': '42' }))
    stream.end(headers[':method'] === 'HEAD' ? undefined : JSON.stringify(facts))
  })
}

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports = PORTS.map(([number, protocol]) => ({ number, targetPort: number, protocol }))
    services.push(await mesh.service(name, ports, [pod]))
    for (const port of [H2_PORT, DETECT_PORT]) {
      const server = http2.createServer()
      server.on('session', () => accepted.set(port, (accepted.get(port) ?? 0) + 1))
      server.on('stream', (stream, headers) => app(stream, headers))
      server.on('sessionError', () => {})
      await listen(server, pod, port)
    }
    const server = createHttp1Server((incoming, outgoing) => {
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      incoming.on('end', () => {
        outgoing.setHeader('x-app', 'h1')
        if (incoming.url!.startsWith('/status/')) outgoing.writeHead(Number(incoming.url!.slice(8)))
        if (incoming.url === '/trailers') {
          outgoing.setHeader('trailer', 'x-answer-sum')
          outgoing.write('part ')
          outgoing.addTrailers({ 'x-answer-sum': '42' })
        }
        if (incoming.method === 'HEAD') outgoing.setHeader('content-length', '1234')
        const bytes = Buffer.concat(chunks).length
        const trailer = incoming.trailers['x-sum'] ?? null
        outgoing.end(JSON.stringify({ ...incoming.headers, ':method': incoming.method, bytes, trailer }))
      })
    })
    await listen(server, pod, H1_PORT)
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
  assert.equal((server.address() as AddressInfo).port, port)
}

afterEach(() => {
  app = answer
  for (const session of sessions.splice(0)) session.destroy()
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

function open(index: number, port: number): http2.ClientHttp2Session {
  const session = connectFrom(client.address, mesh.vip(services[index]!, 0), port)
  sessions.push(session)
  return session
}

function lastRecord(index: number): { flag: string; status: number; protocol: string } {
  const record = mesh.nodes[index]!.recorder.records.filter(({ http }) => http !== null).at(-1)!
  return { flag: record.flag, status: record.http!.status, protocol: record.http!.protocol }
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  for (const port of [H2_PORT, DETECT_PORT]) {
    test(`HTTP/2 goes to port ${port} as HTTP/2, request by request, ${where}`, async () => {
      const session = open(index, port)
      const call = new Http2Call(session, { ':path': '/a?b=c', 'x-one': '1' })
      assert.equal((await call.head)[':status'], 200)
      const facts = JSON.parse(await call.text())
      assert.equal(facts[':path'], '/a?b=c')
      assert.equal(facts[':method'], 'GET')
      assert.equal(facts[':scheme'], 'http')
      assert.equal(facts[':authority'], `${mesh.vip(services[index]!, 0)}:${port}`)
      assert.equal(facts['x-one'], '1')
      assert.match(facts['x-request-id'], /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      assert.deepEqual(lastRecord(0), { flag: '-', status: 200, protocol: 'HTTP/2' })
      assert.deepEqual(lastRecord(index), { flag: '-', status: 200, protocol: 'HTTP/2' })
    })
  }

  test(`bodies and trailers go both ways ${where}`, async () => {
    const session = open(index, H2_PORT)
    const body = Buffer.alloc(3_000_000, 'x')
    const call = new Http2Call(session, { ':method': 'POST', ':path': '/trailers' }, { waitForTrailers: true })
    call.stream.on('wantTrailers', () => call.stream.sendTrailers({ 'x-sum': '7' }))
    call.stream.end(body)
    const facts = JSON.parse(await call.text())
    assert.equal(facts.bytes, body.length)
    assert.equal(facts.trailer, '7')
    assert.equal(call.trailers!['x-answer-sum'], '42')
  })

  test(`many requests share one connection to the app ${where}`, async () => {
    const before = accepted.get(H2_PORT) ?? 0
    const session = open(index, H2_PORT)
    const calls = Array.from({ length: 80 }, (_, i) => new Http2Call(session, { ':path': `/${i}` }))
    for (const [i, call] of calls.entries()) assert.equal(JSON.parse(await call.text())[':path'], `/${i}`)
    assert.ok((accepted.get(H2_PORT) ?? 0) - before <= 1)
  })

  test(`HEAD, 204 and 304 have no body ${where}`, async () => {
    const session = open(index, H2_PORT)
    const head = new Http2Call(session, { ':method': 'HEAD', ':path': '/' })
    assert.equal((await head.head)[':status'], 200)
    assert.equal(await head.text(), '')
    for (const status of [204, 304]) {
      const call = new Http2Call(session, { ':path': `/status/${status}` })
      assert.equal((await call.head)[':status'], status)
      assert.equal(await call.text(), '')
    }
  })

  test(`HTTP/2 becomes HTTP/1 on a port that declares it ${where}`, async () => {
    const session = open(index, H1_PORT)
    const call = new Http2Call(
      session,
      { ':method': 'POST', ':path': '/trailers', cookie: ['a=1', 'b=2'], te: 'trailers' },
      { waitForTrailers: true },
    )
    call.stream.on('wantTrailers', () => call.stream.sendTrailers({ 'x-sum': '7' }))
    call.stream.end('hello')
    assert.equal((await call.head)['x-app'], 'h1')
    const facts = JSON.parse((await call.text()).slice('part '.length))
    assert.equal(facts[':method'], 'POST')
    assert.equal(facts.host, `${mesh.vip(services[index]!, 0)}:${H1_PORT}`)
    assert.equal(facts.cookie, 'a=1; b=2')
    assert.equal(facts.te, 'trailers')
    assert.equal(facts.bytes, 5)
    assert.equal(facts.trailer, '7')
    assert.equal(call.trailers!['x-answer-sum'], '42')
    for (const status of [204, 304]) {
      const empty = new Http2Call(session, { ':path': `/status/${status}` })
      assert.equal((await empty.head)[':status'], status)
      assert.equal(await empty.text(), '')
    }
    const head = new Http2Call(session, { ':method': 'HEAD', ':path': '/' })
    assert.equal((await head.head)['x-app'], 'h1')
    assert.equal((await head.head)['content-length'], '1234')
    assert.equal(await head.text(), '')
  })

  test(`HTTP/1 becomes HTTP/2 on a port that declares it ${where}`, async () => {
    const outgoing = http1Request({
      host: mesh.vip(services[index]!, 0),
      port: H2_PORT,
      localAddress: client.address,
      path: '/trailers',
      method: 'POST',
      headers: {
        host: 'web',
        'transfer-encoding': 'chunked',
        trailer: 'x-sum',
        connection: 'keep-alive, x-drop',
        'x-drop': '1',
      },
    })
    outgoing.write('abc')
    outgoing.addTrailers({ 'x-sum': '9' })
    outgoing.end('defg')
    const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const facts = JSON.parse(Buffer.concat(chunks).toString())
    assert.equal(incoming.headers['x-app'], 'h2')
    assert.equal(facts[':authority'], 'web')
    assert.equal(facts.bytes, 7)
    assert.equal(facts.trailer, '9')
    assert.equal(facts['x-drop'], undefined)
    assert.equal(facts.connection, undefined)
    assert.equal(incoming.trailers['x-answer-sum'], '42')
  })
}
