/**
 * WebSockets in every combination of versions, in one hop and through a tunnel: Node's own client in HTTP/1, extended
 * CONNECT in HTTP/2; apps of both versions, and nginx, haproxy and Envoy in front of an app.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type * as http2 from 'node:http2'
import { after, before, test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, type Protocol, type Service } from '../../src/model/service.ts'
import { Door } from '../support/grpc-echo.ts'
import { connectFrom } from '../support/http2-call.ts'
import { released } from '../support/leaks.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'
import {
  findProgram,
  lacks,
  type Program,
  startEnvoy,
  startHaproxy,
  startNginx,
  temporaryDirectory,
} from '../support/programs.ts'
import { envoyAddress, envoyCluster, patternedBytes } from '../support/web-site.ts'
import {
  OPCODE_BINARY,
  OPCODE_CLOSE,
  OPCODE_PING,
  OPCODE_PONG,
  OPCODE_TEXT,
  serveWebSockets1,
  serveWebSockets2,
  WebSocketEnd,
} from '../support/web-socket.ts'

const TEST = { timeout: 30_000 }
const MESSAGE_COUNT = 10_000
const BIG_MESSAGE = patternedBytes(4_000_000)

interface App {
  readonly name: string
  readonly port: number
  readonly version: 1 | 2
  readonly programs: readonly string[]
}

const APP_1: App = { name: 'an app', port: 8401, version: 1, programs: [] }
const APP_2: App = { name: 'an app', port: 8402, version: 2, programs: [] }
const NGINX: App = { name: 'nginx', port: 8403, version: 1, programs: ['nginx'] }
const HAPROXY: App = { name: 'haproxy', port: 8404, version: 1, programs: ['haproxy'] }
const ENVOY_1: App = { name: 'Envoy', port: 8405, version: 1, programs: ['envoy'] }
const ENVOY_2: App = { name: 'Envoy', port: 8406, version: 2, programs: ['envoy'] }
const APPS: readonly App[] = [APP_1, APP_2, NGINX, HAPROXY, ENVOY_1, ENVOY_2]

const directory = temporaryDirectory()
const services: Service[] = []
const closers: (() => void)[] = []
const doors = new Map<string, Door>()
let programs: Program[] = []
let mesh: TestMesh
let client: TestPod

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  const hosts: string[] = []
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    hosts.push(pod.appAddress)
    const ports = APPS.map(({ port, version }) => {
      const protocol: Protocol = version === 1 ? PROTOCOL_HTTP1 : PROTOCOL_HTTP2
      return { number: port, targetPort: port, protocol }
    })
    services.push(await mesh.service(name, ports, [pod]))
    closers.push(await serveWebSockets1(pod.appAddress, APP_1.port))
    closers.push(await serveWebSockets2(pod.appAddress, APP_2.port))
    for (const { port } of APPS) {
      doors.set(`${index} ${port}`, await Door.open(client.address, mesh.vip(services[index]!, 0), port))
    }
  }
  programs = await startProxies(hosts)
})

after(async () => {
  mesh.close()
  for (const door of doors.values()) door.close()
  for (const close of closers) close()
  for (const program of programs) await program.end()
  directory.remove()
})

/** nginx, haproxy and Envoy, all in front of the first app of HTTP/1. */
async function startProxies(hosts: readonly string[]): Promise<Program[]> {
  const origin = { host: hosts[0]!, port: APP_1.port }
  const at = (...ports: readonly number[]) => hosts.flatMap((host) => ports.map((port) => ({ host, port })))
  const starting: Promise<Program>[] = []
  if (findProgram('nginx') !== null) {
    const listens = hosts.map((host) => `listen ${host}:${NGINX.port};`).join(' ')
    const servers = `server {
      ${listens}
      location / {
        proxy_pass http://${origin.host}:${origin.port};
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
        proxy_buffering off;
      }
    }`
    starting.push(startNginx(directory.path, servers, at(NGINX.port)))
  }
  if (findProgram('haproxy') !== null) {
    const binds = hosts.map((host) => `  bind ${host}:${HAPROXY.port}`).join('\n')
    const sections = `frontend web
${binds}
  default_backend app
backend app
  server app ${origin.host}:${origin.port}
`
    starting.push(startHaproxy(directory.path, sections, at(HAPROXY.port)))
  }
  if (findProgram('envoy') !== null) {
    const listeners = hosts.flatMap((host, index) => [
      envoyListener(`one-${index}`, { host, port: ENVOY_1.port }, {}),
      envoyListener(`two-${index}`, { host, port: ENVOY_2.port }, { http2_protocol_options: { allow_connect: true } }),
    ])
    const config = { static_resources: { listeners, clusters: [envoyCluster('app', origin, 1)] } }
    starting.push(startEnvoy(directory.path, config, at(ENVOY_1.port, ENVOY_2.port)))
  }
  return await Promise.all(starting)
}

function envoyListener(name: string, address: { host: string; port: number }, options: object): object {
  const type = 'type.googleapis.com/envoy.extensions.filters'
  const manager = {
    '@type': `${type}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: name,
    upgrade_configs: [{ upgrade_type: 'websocket' }],
    ...options,
    route_config: {
      virtual_hosts: [
        { name: 'all', domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: 'app', timeout: '0s' } }] },
      ],
    },
    http_filters: [{ name: 'router', typed_config: { '@type': `${type}.http.router.v3.Router` } }],
  }
  return {
    name,
    address: envoyAddress(address),
    filter_chains: [{ filters: [{ name: 'http', typed_config: manager }] }],
  }
}

/** A client's WebSocket, of whatever version. */
interface Talker {
  send(data: string | Buffer): void
  /** The next `count` messages. */
  messages(count: number): Promise<Buffer[]>
  close(code: number): void
  /** Code of the close that came; 1006 when there was none. */
  closed(): Promise<number>
}

/** Collects messages for whoever waits. */
class Inbox {
  private readonly received: Buffer[] = []
  private wake: () => void = () => {}
  private isClosed = false

  add(message: Buffer): void {
    this.received.push(message)
    this.wake()
  }

  end(): void {
    this.isClosed = true
    this.wake()
  }

  async take(count: number): Promise<Buffer[]> {
    while (this.received.length < count) {
      assert.ok(!this.isClosed, `closed after ${this.received.length} of ${count} messages`)
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
    return this.received.splice(0, count)
  }
}

/** Node's own client. Rejects when the server refuses. */
async function open1(index: number, app: App, path: string): Promise<Talker> {
  const socket = new WebSocket(`ws://${doors.get(`${index} ${app.port}`)!.target}${path}`)
  socket.binaryType = 'arraybuffer'
  const inbox = new Inbox()
  const closed = new Promise<number>((resolve) => {
    socket.addEventListener('close', ({ code }) => {
      inbox.end()
      resolve(code)
    })
  })
  socket.addEventListener('message', ({ data }) => {
    inbox.add(typeof data === 'string' ? Buffer.from(data) : Buffer.from(data as ArrayBuffer))
  })
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener('open', () => resolve())
    socket.addEventListener('error', () => reject(new Error('refused')))
  })
  return {
    send: (data) => socket.send(data),
    messages: (count) => inbox.take(count),
    close: (code) => socket.close(code),
    closed: () => closed,
  }
}

/** Extended CONNECT. Rejects with the status when the server refuses. */
async function open2(index: number, app: App, path: string): Promise<Talker & { end: WebSocketEnd }> {
  const session = connectFrom(client.address, mesh.vip(services[index]!, 0), app.port)
  if (!session.remoteSettings?.enableConnectProtocol) await once(session, 'remoteSettings')
  const stream = session.request(
    {
      ':method': 'CONNECT',
      ':protocol': 'websocket',
      ':path': path,
      ':authority': 'web',
      'sec-websocket-version': '13',
    },
    { endStream: false },
  )
  stream.on('error', () => {})
  const [head] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders & { ':status': number }]
  if (head[':status'] !== 200) {
    session.destroy()
    throw new Error(`refused: ${head[':status']}`)
  }
  const end = new WebSocketEnd(stream, true)
  const inbox = new Inbox()
  let code = 1006
  end.onFrame = ({ opcode, payload }) => {
    if (opcode === OPCODE_CLOSE) {
      code = payload.readUInt16BE()
      end.send(OPCODE_CLOSE, payload)
      stream.end()
    } else {
      inbox.add(Buffer.from(payload))
    }
  }
  stream.on('end', () => stream.end())
  // An end that is a reset is an error as well: what counts is what was said before it.
  const closed = new Promise<number>((resolve) => {
    stream.on('close', () => {
      inbox.end()
      session.destroy()
      resolve(code)
    })
  })
  return {
    end,
    send: (data) => end.send(typeof data === 'string' ? OPCODE_TEXT : OPCODE_BINARY, Buffer.from(data)),
    messages: (count) => inbox.take(count),
    close: (closeCode) => end.sendClose(closeCode),
    closed: () => closed,
  }
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'
  for (const app of APPS) {
    for (const version of [1, 2] as const) {
      const open = (path: string): Promise<Talker> =>
        version === 1 ? open1(index, app, path) : open2(index, app, path)
      const name = `HTTP/${version} to ${app.name} of HTTP/${app.version} ${where}`
      const options = { ...TEST, skip: lacks(...app.programs) }

      test(`WebSocket of ${name}: many messages, a big one, and the client closes`, options, async () => {
        const talker = await open('/')
        for (let i = 0; i < MESSAGE_COUNT; i++) talker.send(`message ${i}`)
        const messages = await talker.messages(MESSAGE_COUNT)
        for (const [i, message] of messages.entries()) assert.equal(message.toString(), `message ${i}`)
        talker.send(BIG_MESSAGE)
        const [big] = await talker.messages(1)
        assert.ok(big!.equals(BIG_MESSAGE))
        talker.close(4000)
        // Envoy resets its HTTP/2 stream behind the app's close, and a reset may overtake what came before it.
        const code = await talker.closed()
        if (app !== ENVOY_2 || version === 2 || code !== 1006) assert.equal(code, 4000)
      })

      test(`WebSocket of ${name}: the server closes, refuses, resets`, options, async () => {
        const closing = await open('/')
        closing.send('close')
        assert.equal(await closing.closed(), 4001)
        await assert.rejects(open('/refused'), version === 1 ? /refused/ : /refused: 403/)
        const broken = await open('/')
        broken.send('reset')
        assert.equal(await broken.closed(), 1006)
      })
    }
  }

  test(`a ping is answered through HTTP/2 ${where}`, TEST, async () => {
    for (const app of [APP_1, APP_2]) {
      const { end } = await open2(index, app, '/')
      const answered = new Promise<string>((resolve) => {
        end.onFrame = ({ opcode, payload }) => {
          if (opcode === OPCODE_PONG) resolve(payload.toString())
        }
      })
      end.send(OPCODE_PING, Buffer.from('are you there'))
      assert.equal(await answered, 'are you there')
      end.stream.destroy()
    }
  })

  test(`a request that is no WebSocket is refused by its app, and the connection goes on ${where}`, TEST, async () => {
    const { target } = doors.get(`${index} ${APP_1.port}`)!
    for (let i = 0; i < 2; i++) assert.equal((await fetch(`http://${target}/`)).status, 400)
  })
}

test('nothing is left of any of them', TEST, async () => {
  for (const door of doors.values()) door.close()
  await released([mesh.nodes[0]!.proxy, mesh.nodes[1]!.proxy])
})
