import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http'
import { after, before, test } from 'node:test'
import { PROTOCOL_HTTP1, type Service } from '../../src/model/service.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'

const PORT = 9080

let mesh: TestMesh
let client: TestPod
let local: TestPod
let remote: TestPod
let localService: Service
let remoteService: Service
const servers: Server[] = []

async function serve(pod: TestPod): Promise<void> {
  const server = createServer((incoming, outgoing) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const body = Buffer.concat(chunks)
      outgoing.setHeader('x-pod', pod.name)
      if (incoming.url === '/trailers') {
        outgoing.setHeader('trailer', 'x-sum')
        outgoing.write('part one,')
        outgoing.addTrailers({ 'x-sum': '42' })
        outgoing.end('part two')
        return
      }
      outgoing.end(
        JSON.stringify({ method: incoming.method, url: incoming.url, host: incoming.headers.host, bytes: body.length }),
      )
    })
  })
  server.listen(PORT, pod.appAddress)
  await once(server, 'listening')
  servers.push(server)
}

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  local = await mesh.pod('local', { node: 0 })
  remote = await mesh.pod('remote', { node: 1 })
  const port: TestPort = { number: 80, targetPort: PORT, protocol: PROTOCOL_HTTP1 }
  localService = await mesh.service('local', [port], [local])
  remoteService = await mesh.service('remote', [port], [remote])
  await serve(local)
  await serve(remote)
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const server of servers) server.closeAllConnections()
})

interface Reply {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly trailers: NodeJS.Dict<string>
  readonly body: string
}

async function send(
  service: Service,
  path: string,
  options: { method?: string; body?: Buffer; agent?: Agent } = {},
): Promise<Reply> {
  const outgoing = request({
    host: mesh.vip(service, 0),
    port: 80,
    localAddress: client.address,
    path,
    method: options.method ?? 'GET',
    agent: options.agent,
    headers: { host: service.hostname },
  })
  outgoing.end(options.body)
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  return {
    status: incoming.statusCode!,
    headers: incoming.headers,
    trailers: incoming.trailers,
    body: Buffer.concat(chunks).toString(),
  }
}

test('a request crosses to another node over mutual TLS', async () => {
  const reply = await send(remoteService, '/a?b=c')
  assert.equal(reply.status, 200)
  assert.equal(reply.headers['x-pod'], 'remote')
  assert.deepEqual(JSON.parse(reply.body), { method: 'GET', url: '/a?b=c', host: remoteService.hostname, bytes: 0 })
  const edge = mesh.nodes[1]!.recorder.edges.find(({ protocol }) => protocol === 'http')!
  assert.equal(edge.sourcePrincipal, client.identity)
  assert.equal(edge.isMutualTls, true)
  assert.equal(edge.service?.hostname, remoteService.hostname)
})

test('a request to a pod of the same node takes one hop and reports both ends', async () => {
  const reply = await send(localService, '/')
  assert.equal(reply.headers['x-pod'], 'local')
  const edges = mesh.nodes[0]!.recorder.edges.filter(({ destination }) => destination?.uid === local.uid)
  assert.deepEqual(new Set(edges.map(({ reporter }) => reporter)), new Set(['source', 'destination']))
})

test('keep-alive requests, large bodies and trailers go through both ways', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const body = Buffer.alloc(3_000_000, 'x')
  for (const service of [localService, remoteService]) {
    for (let i = 0; i < 5; i++) {
      const reply = await send(service, '/', { method: 'POST', body, agent })
      assert.equal(JSON.parse(reply.body).bytes, body.length)
    }
    const reply = await send(service, '/trailers', { agent })
    assert.equal(reply.body, 'part one,part two')
    assert.deepEqual(reply.trailers, { 'x-sum': '42' })
  }
  agent.destroy()
})
