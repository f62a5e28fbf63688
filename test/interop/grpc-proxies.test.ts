/**
 * gRPC of grpc-js through the proxy to a server of grpc-js that stands behind another proxy: nginx, haproxy or Envoy, as
 * in clusters where an app brings one of its own. Messages, metadata, statuses, deadlines and cancellation must survive.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import * as grpc from '@grpc/grpc-js'
import { PROTOCOL_GRPC, type Service } from '../../src/model/service.ts'
import { Door, ECHO, type EchoBehaviour, EchoClient, serveEcho, statusOf } from '../support/grpc-echo.ts'
import { TestMesh, type TestPort } from '../support/mesh.ts'
import {
  findProgram,
  lacks,
  type Program,
  startEnvoy,
  startHaproxy,
  startNginx,
  temporaryDirectory,
} from '../support/programs.ts'
import { envoyCluster, envoyListener } from '../support/web-site.ts'

const TEST = { timeout: 30_000 }
/** The server itself, and who stands in front of it. */
const DIRECT = 8700
const FRONTS = [
  { name: 'nothing', port: DIRECT, programs: [] },
  { name: 'nginx', port: 8701, programs: ['nginx'] },
  { name: 'haproxy', port: 8702, programs: ['haproxy'] },
  { name: 'Envoy', port: 8703, programs: ['envoy'] },
] as const

const directory = temporaryDirectory()
const behaviour: EchoBehaviour = { ...ECHO }
const servers: grpc.Server[] = []
const programs: Program[] = []
const doors = new Map<string, Door>()
let mesh: TestMesh

before(async () => {
  mesh = new TestMesh(2)
  const client = await mesh.pod('client', { node: 0 })
  const hosts: string[] = []
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    hosts.push(pod.appAddress)
    const ports = FRONTS.map(({ port }): TestPort => ({ number: port, targetPort: port, protocol: PROTOCOL_GRPC }))
    const service: Service = await mesh.service(name, ports, [pod])
    servers.push(await serveEcho(pod.appAddress, DIRECT, behaviour))
    for (const { port } of FRONTS) {
      doors.set(`${index} ${port}`, await Door.open(client.address, mesh.vip(service, 0), port))
    }
  }
  const origin = { host: hosts[0]!, port: DIRECT }
  const at = (port: number) => hosts.map((host) => ({ host, port }))
  const [, nginx, haproxy, envoy] = FRONTS
  if (findProgram('nginx') !== null) {
    const listens = hosts.map((host) => `listen ${host}:${nginx.port} http2;`).join(' ')
    const block = `server { ${listens} client_max_body_size 0; location / { grpc_pass grpc://${origin.host}:${DIRECT}; } }`
    programs.push(await startNginx(directory.path, block, at(nginx.port)))
  }
  if (findProgram('haproxy') !== null) {
    const binds = hosts.map((host) => `  bind ${host}:${haproxy.port} proto h2`).join('\n')
    const sections = `frontend grpc
${binds}
  default_backend app
backend app
  server app ${origin.host}:${DIRECT} proto h2
`
    programs.push(await startHaproxy(directory.path, sections, at(haproxy.port)))
  }
  if (findProgram('envoy') !== null) {
    const listeners = at(envoy.port).map((address, index) => envoyListener(`grpc-${index}`, address, 'HTTP2', 'app'))
    const config = { static_resources: { listeners, clusters: [envoyCluster('app', origin, 2)] } }
    programs.push(await startEnvoy(directory.path, config, at(envoy.port)))
  }
})

after(async () => {
  mesh.close()
  for (const door of doors.values()) door.close()
  for (const server of servers) server.forceShutdown()
  for (const program of programs) await program.end()
  directory.remove()
})

/** One client of its own, whatever happens. */
async function withClient(index: number, port: number, work: (client: EchoClient) => Promise<void>): Promise<void> {
  const client = new EchoClient(doors.get(`${index} ${port}`)!.target)
  try {
    await work(client)
  } finally {
    Object.assign(behaviour, ECHO)
    client.close()
  }
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'
  for (const { name, port, programs: needed } of FRONTS) {
    const options = { ...TEST, skip: lacks(...needed) }

    test(`calls of all kinds with ${name} before the server ${where}`, options, async () => {
      await withClient(index, port, async (client) => {
        behaviour.unary = (call, callback) => {
          const trailers = new grpc.Metadata()
          for (const value of call.metadata.get('x-in-bin')) trailers.add('x-out-bin', value)
          callback(null, call.request, trailers)
        }
        const metadata = new grpc.Metadata()
        metadata.set('x-in-bin', Buffer.from([0, 1, 254, 255]))
        const message = Buffer.alloc(3_000_000, 7)
        const outcome = await client.unary(message, metadata)
        assert.equal(outcome.code, grpc.status.OK)
        assert.ok(outcome.message!.equals(message))
        assert.deepEqual(outcome.trailers!.get('x-out-bin'), [Buffer.from([0, 1, 254, 255])])

        const collected = await new Promise<Buffer>((resolve, reject) => {
          const call = client.stub.collect(new grpc.Metadata(), (error, value) =>
            error === null ? resolve(value!) : reject(error),
          )
          for (let i = 0; i < 50; i++) call.write(Buffer.from(`${i},`))
          call.end()
        })
        assert.equal(collected.toString(), Array.from({ length: 50 }, (_, i) => `${i},`).join(''))

        const expanded: Buffer[] = []
        for await (const one of client.stub.expand(Buffer.from('abcdef'), new grpc.Metadata()))
          expanded.push(one as Buffer)
        assert.equal(Buffer.concat(expanded).toString(), 'abcdef')

        // Each message is sent when the one before has come back: nothing is held up on the way.
        const chat = client.stub.chat(new grpc.Metadata())
        const chatStatus = statusOf(chat)
        for (let i = 0; i < 20; i++) {
          const back = once(chat, 'data')
          chat.write(Buffer.from(`turn ${i}`))
          assert.equal(((await back) as [Buffer])[0].toString(), `turn ${i}`)
        }
        chat.end()
        assert.equal((await chatStatus).code, grpc.status.OK)
      })
    })

    test(`failures with ${name} before the server keep their status ${where}`, options, async () => {
      await withClient(index, port, async (client) => {
        behaviour.unary = (_call, callback) => callback({ code: grpc.status.FAILED_PRECONDITION, details: 'nö: 100 %' })
        const failed = await client.unary(Buffer.from('x'))
        assert.deepEqual([failed.code, failed.details], [grpc.status.FAILED_PRECONDITION, 'nö: 100 %'])

        // A status after messages.
        behaviour.expand = (call) => {
          call.write(Buffer.from('one'))
          call.emit('error', { code: grpc.status.DATA_LOSS, details: 'half' })
        }
        const expand = client.stub.expand(Buffer.from('x'), new grpc.Metadata())
        const status = statusOf(expand)
        expand.on('data', () => {})
        assert.equal((await status).code, grpc.status.DATA_LOSS)

        let cancelled: Promise<unknown> | null = null
        behaviour.unary = (call) => {
          cancelled = once(call, 'cancelled')
        }
        // On a slow machine the deadline may pass before the server is reached.
        for (let ms = 150; cancelled === null; ms *= 2) {
          const late = await client.unary(Buffer.from('x'), new grpc.Metadata(), { deadline: Date.now() + ms })
          assert.equal(late.code, grpc.status.DEADLINE_EXCEEDED)
        }
        await cancelled
      })
    })
  }
}
