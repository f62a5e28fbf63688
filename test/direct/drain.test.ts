import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http'
import * as http2 from 'node:http2'
import type { Socket } from 'node:net'
import { afterEach, beforeEach, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import {
  clusterKey,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  type Service,
} from '../../src/model/service.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'
import { clusterOf } from '../support/proxy-objects.ts'

const H1_PORT = 8300
const H2_PORT = 8301
const CONNECTIONS = 32
/** Streams at a time of one HTTP/2 connection. */
const STREAMS = 4
const FLIPS = 50

const LIMITS = { timeout: 30_000 }

let mesh: TestMesh
let client: TestPod
let apps: TestPod[]
let service: Service
let servers: (Server | http2.Http2Server)[]
const sockets = new Set<Socket>()
/** Times that an app has seen each request. */
let seen: Map<string, number>
let isStopping: boolean
let answered: number
let failures: string[]

function note(id: string | undefined): void {
  seen.set(id!, (seen.get(id!) ?? 0) + 1)
}

async function listen(server: Server | http2.Http2Server, pod: TestPod, port: number): Promise<void> {
  servers.push(server)
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, pod.appAddress)
  await once(server, 'listening')
}

async function serve(pod: TestPod): Promise<void> {
  const h1 = createServer({ keepAliveTimeout: 0 }, (incoming, outgoing) => {
    note(incoming.headers['x-id'] as string)
    incoming.resume().on('end', () => outgoing.end(incoming.headers['x-id']))
  })
  await listen(h1, pod, H1_PORT)
  const h2 = http2.createServer()
  h2.on('stream', (stream, headers) => {
    note(headers['x-id'] as string)
    stream.on('error', () => {})
    stream.resume().on('end', () => {
      stream.respond({ ':status': 200 })
      stream.end(headers['x-id'])
    })
  })
  h2.on('sessionError', () => {})
  await listen(h2, pod, H2_PORT)
}

/** A client, apps on two other nodes behind one service, requests of nobody. */
beforeEach(async () => {
  servers = []
  seen = new Map()
  isStopping = false
  answered = 0
  failures = []
  mesh = new TestMesh(3)
  client = await mesh.pod('client', { node: 0 })
  apps = [await mesh.pod('first', { node: 1 }), await mesh.pod('second', { node: 2 })]
  const ports: TestPort[] = [
    { number: H1_PORT, targetPort: H1_PORT, protocol: PROTOCOL_HTTP1 },
    { number: H2_PORT, targetPort: H2_PORT, protocol: PROTOCOL_HTTP2 },
  ]
  service = await mesh.service('app', ports, apps)
  for (const pod of apps) await serve(pod)
})

afterEach(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

/** Requests one after another on one connection, until told to stop or told that the connection ends. */
async function talkHttp1(name: string): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const host = mesh.vip(service, 0)
  for (let i = 0; !isStopping; i++) {
    const id = `h1-${name}-${i}`
    const headers = { 'x-id': id, 'content-length': id.length }
    const outgoing = request({ agent, host, port: H1_PORT, localAddress: client.address, method: 'POST', headers })
    try {
      outgoing.end(id)
      const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
      const chunks: Buffer[] = []
      for await (const chunk of incoming) chunks.push(chunk as Buffer)
      judge(id, incoming.statusCode, Buffer.concat(chunks).toString())
      if (incoming.headers.connection === 'close') break
    } catch (error) {
      failures.push(`${id} ${(error as Error).message}`)
      break
    }
  }
  agent.destroy()
}

/** The same with several at a time on one connection of HTTP/2. */
async function talkHttp2(name: string): Promise<void> {
  const session = connectFrom(client.address, mesh.vip(service, 0), H2_PORT)
  const talk = async (lane: number): Promise<void> => {
    for (let i = 0; !isStopping && !session.closed && !session.destroyed; i++) {
      const id = `h2-${name}-${lane}-${i}`
      try {
        const call = new Http2Call(session, { ':method': 'POST', ':path': '/', 'x-id': id })
        call.stream.end(id)
        const head = await call.head
        judge(id, head[':status'], await call.text())
      } catch (error) {
        failures.push(`${id} ${(error as Error).message}`)
        break
      }
    }
  }
  await Promise.all(Array.from({ length: STREAMS }, (_, lane) => talk(lane)))
  session.close()
}

function judge(id: string, status: number | undefined, body: string): void {
  if (status === 200 && body === id) answered++
  else failures.push(`${id} ${status} ${body}`)
}

function startAll(): Promise<unknown> {
  return Promise.all(
    Array.from({ length: CONNECTIONS }, (_, i) => (i % 2 === 0 ? talkHttp1(`${i}`) : talkHttp2(`${i}`))),
  )
}

/** Lets as many more requests be answered. */
async function progress(count: number): Promise<void> {
  const goal = answered + count
  while (answered < goal && failures.length === 0) await turn()
}

/** Nothing was lost, and nothing was done twice. */
function assertLossless(): void {
  assert.deepEqual(failures.slice(0, 5), [])
  assert.deepEqual([...seen].filter(([, count]) => count !== 1).slice(0, 5), [])
  assert.equal(seen.size, answered)
  assert.ok(answered > CONNECTIONS)
}

/** The rules of one port; every version has other limits, so that what is pooled under the old ones must go. */
function setLimits(version: number): void {
  for (const port of [H1_PORT, H2_PORT]) {
    const key = clusterKey(service.key, '', port)
    const limits = { ...DEFAULT_POOL_LIMITS, requestsMax: 10_000 + version }
    mesh.traffic(service, port, {
      routes: [],
      clusters: [clusterOf({ key, service: service.key, port, limits })],
      defaultCluster: key,
    })
  }
}

test('no request is lost or repeated while endpoints, limits and credentials change under it', LIMITS, async () => {
  const done = startAll()
  await progress(100)
  for (let flip = 0; flip < FLIPS; flip++) {
    if (flip % 3 === 0) setLimits(flip)
    else if (flip % 3 === 1) mesh.apply({ workloads: [{ ...apps[1]!.workload, services: [] }] })
    else mesh.apply({ workloads: [apps[1]!.workload] })
    if (flip % 10 === 9) for (const pod of [client, ...apps]) mesh.issue(pod)
    await progress(20)
  }
  isStopping = true
  await done
  assertLossless()
})

test('no request is lost or repeated while the proxy of its client drains', LIMITS, async () => {
  const done = startAll()
  await progress(300)
  const { proxy } = mesh.nodes[0]!
  proxy.drain()
  await done
  assertLossless()
  while (proxy.connectionCount > 0) await turn()
})

test('no request is lost or repeated while the proxy of its server drains', LIMITS, async () => {
  const done = startAll()
  await progress(300)
  const { proxy } = mesh.nodes[1]!
  proxy.drain()
  await progress(500)
  while (proxy.connectionCount > 0 && failures.length === 0) await progress(10)
  isStopping = true
  await done
  assertLossless()
})
