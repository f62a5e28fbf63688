/**
 * HBONE with proxies that others wrote. Envoy and haproxy serve the tunnels that we open, and open tunnels to us; nginx
 * stands for servers with the wrong certificate or protocol, curl and nghttp for such clients.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { TestAuthority } from '../support/certificates.ts'
import { type CredentialPaths, envoyTunnelClient, envoyTunnelServer, writeCredential } from '../support/envoy-hbone.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'
import {
  findProgram,
  lacks,
  type Program,
  startEnvoy,
  startHaproxy,
  startNginx,
  temporaryDirectory,
} from '../support/programs.ts'
import { nodeHttp1, nodeHttp2, runProgram, type Target } from '../support/web-clients.ts'
import { digest, LARGE, NODE_1, NODE_2, patternedBytes, SMALL, startSite } from '../support/web-site.ts'

const TEST = { timeout: 40_000 }
const HBONE = 15_008
const ECHO = 8501
/** Where Envoy and haproxy accept what they tunnel, at the client's app address. */
const ENVOY_ENTRY_BY_PORT = { [ECHO]: 8511, [NODE_1]: 8512, [NODE_2]: 8513 } as const
const HAPROXY_ENTRY = 8514
/** An HTTP/1 CONNECT server behind haproxy. */
const CONNECT_SERVER = 8515
const BULK = patternedBytes(16_000_000)
const DAY_MS = 86_400_000

const PORTS: readonly TestPort[] = [
  { number: ECHO, targetPort: ECHO, protocol: PROTOCOL_TCP },
  { number: NODE_1, targetPort: NODE_1, protocol: PROTOCOL_HTTP1 },
  { number: NODE_2, targetPort: NODE_2, protocol: PROTOCOL_HTTP2 },
]

const directory = temporaryDirectory()
const sockets = new Set<Socket>()
const servers: Server[] = []
const programs: Program[] = []
const services = new Map<string, Service>()
let mesh: TestMesh
let client: TestPod
/** Ours, and those whose proxies are somebody else's. */
let server: TestPod
let endSite: () => Promise<void> = async () => {}
let clientCredential: CredentialPaths

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  server = await mesh.pod('server', { node: 1 })
  services.set('server', await mesh.service('server', PORTS, [server]))
  clientCredential = writeCredential(directory.path, 'client', mesh.authority.leafFor(client.identity))
  const envoy = await foreign('envoy')
  const haproxy = await foreign('haproxy')
  for (const pod of [server, envoy, haproxy]) await serveEcho(pod.appAddress)
  endSite = await startSite(
    directory.path,
    [server, envoy, haproxy].map(({ appAddress }) => appAddress),
    () => false,
  )
  if (findProgram('envoy') !== null) programs.push(await startEnvoyPeer(envoy))
  if (findProgram('haproxy') !== null) programs.push(await startHaproxyPeer(haproxy))
})

after(async () => {
  mesh.close()
  for (const program of programs) await program.end()
  await endSite()
  for (const one of servers) one.close()
  for (const socket of sockets) socket.destroy()
  directory.remove()
})

/** A pod of another node, with a proxy that is not ours. */
async function foreign(name: string): Promise<TestPod> {
  const pod = await mesh.pod(name, { node: 1, isForeign: true })
  services.set(name, await mesh.service(name, PORTS, [pod]))
  return pod
}

async function serve(one: Server, host: string, port: number): Promise<void> {
  one.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  one.listen(port, host)
  await once(one, 'listening')
  servers.push(one)
}

/** Echoes; ends its side when the client has, unless the first byte is an R: then it resets. */
async function serveEcho(host: string): Promise<void> {
  const echo = createServer({ allowHalfOpen: true }, (socket) => {
    socket.once('data', (bytes: Buffer) => {
      if (bytes[0] === 0x52) {
        socket.resetAndDestroy()
        return
      }
      socket.write(bytes)
      socket.pipe(socket)
    })
  })
  await serve(echo, host, ECHO)
}

/** One Envoy in both roles. */
async function startEnvoyPeer(pod: TestPod): Promise<Program> {
  const credential = writeCredential(directory.path, 'envoy', mesh.authority.leafFor(pod.identity))
  const targets = PORTS.map(({ targetPort }) => ({
    authority: `${pod.address}:${targetPort}`,
    origin: { host: pod.appAddress, port: targetPort },
  }))
  const serving = envoyTunnelServer({ host: pod.address, port: HBONE }, credential, targets)
  const entries = Object.entries(ENVOY_ENTRY_BY_PORT).map(([port, entry]) => ({
    entry: { host: client.appAddress, port: entry },
    authority: `${server.address}:${port}`,
  }))
  const opening = envoyTunnelClient(entries, { host: server.address, port: HBONE }, clientCredential)
  const config = {
    static_resources: {
      listeners: [...serving.listeners, ...opening.listeners],
      clusters: [...serving.clusters, ...opening.clusters],
    },
  }
  const addresses = [{ host: pod.address, port: HBONE }, ...entries.map(({ entry }) => entry)]
  return await startEnvoy(directory.path, config, addresses)
}

/** One haproxy in both roles: HTTP/1's CONNECT on its plain side, as it opens no tunnels of its own. */
async function startHaproxyPeer(pod: TestPod): Promise<Program> {
  const credential = writeCredential(directory.path, 'haproxy', mesh.authority.leafFor(pod.identity))
  const connecting = createHttpServer()
  connecting.on('connect', (request, socket: Socket) => {
    const far = connect({ host: pod.appAddress, port: Number(request.url!.split(':')[1]), allowHalfOpen: true })
    far.on('connect', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      socket.pipe(far).pipe(socket)
    })
    far.on('error', () => socket.resetAndDestroy())
  })
  await serve(connecting, pod.appAddress, CONNECT_SERVER)
  const sections = `frontend tunnels
  bind ${pod.address}:${HBONE} ssl crt ${credential.both} ca-file ${credential.bundle} verify required alpn h2 ssl-min-ver TLSv1.3
  default_backend connecting
backend connecting
  server origin ${pod.appAddress}:${CONNECT_SERVER}
frontend entry
  bind ${client.appAddress}:${HAPROXY_ENTRY}
  default_backend weft
backend weft
  server weft ${server.address}:${HBONE} ssl crt ${clientCredential.both} ca-file ${clientCredential.bundle} verify required alpn h2 ssl-min-ver TLSv1.3
`
  const addresses = [
    { host: pod.address, port: HBONE },
    { host: client.appAddress, port: HAPROXY_ENTRY },
  ]
  return await startHaproxy(directory.path, sections, addresses)
}

/** A port of a service, from the client pod. */
function target(service: string, port: number): Target {
  return { host: mesh.vip(services.get(service)!, 0), port, localAddress: client.address }
}

/** Sends everything, half-closes, and collects what comes until the other side has ended. */
async function converse(to: Omit<Target, 'localAddress'>, bytes: Buffer): Promise<Buffer> {
  const socket = connect({ ...to, allowHalfOpen: true })
  socket.end(bytes)
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Large bodies and trailers of one HTTP version. */
async function exchangeHttp(to: Target, version: 1 | 2): Promise<void> {
  const one = version === 1 ? nodeHttp1() : nodeHttp2()
  try {
    const reply = await one.send(to, { method: 'POST', path: '/echo', body: LARGE })
    assert.equal(reply.status, 200)
    assert.equal(digest(reply.body), digest(LARGE))
    assert.equal((await one.send(to, { path: '/trailers' })).trailers.get('x-sum'), '42')
    for (let i = 0; i < 20; i++) assert.equal((await one.send(to, { path: '/small' })).body.length, SMALL.length)
  } finally {
    one.close()
  }
}

/** The last thing that a node's proxy recorded of a kind. */
function lastRecord(node: number, isHttp: boolean) {
  return mesh.nodes[node]!.recorder.records.findLast(({ http }) => (http !== null) === isHttp)
}

// --- they serve the tunnels that we open ---

for (const [name, program] of [
  ['envoy', 'envoy'],
  ['haproxy', 'haproxy'],
] as const) {
  const options = { ...TEST, skip: lacks(program) }

  test(`bytes go through tunnels that ${name} serves, and so do half-closes`, options, async () => {
    const back = await converse(target(name, ECHO), BULK)
    assert.equal(back.length, BULK.length)
    assert.equal(digest(back), digest(BULK))
  })

  test(`more tunnels than one connection carries go through ${name} at once`, options, async () => {
    const all = Array.from({ length: 150 }, (_, i) => converse(target(name, ECHO), Buffer.from(`tunnel ${i}`)))
    for (const [i, back] of (await Promise.all(all)).entries()) assert.equal(back.toString(), `tunnel ${i}`)
  })

  test(`requests of both versions go through tunnels that ${name} serves`, options, async () => {
    await exchangeHttp(target(name, NODE_1), 1)
    await exchangeHttp(target(name, NODE_2), 2)
    await exchangeHttp(target(name, NODE_1), 2)
    assert.equal(lastRecord(0, true)!.flag, '-')
  })

  test(`an app's reset behind ${name} is a reset to its client`, options, async () => {
    const socket = connect({ ...target(name, ECHO), allowHalfOpen: true })
    socket.write('R')
    // haproxy's HTTP/1 knows no half of a reset.
    if (name === 'haproxy') await once(socket, 'end')
    else assert.equal((await once(socket, 'error'))[0].code, 'ECONNRESET')
    socket.destroy()
  })
}

test('a tunnel that Envoy refuses is 503', { ...TEST, skip: lacks('envoy') }, async () => {
  const pod = mesh.pods.find(({ name }) => name === 'envoy')!
  // A port that Envoy has no route for.
  const service = await mesh.service('other', [{ number: 8520, targetPort: 8520, protocol: PROTOCOL_HTTP1 }], [pod])
  const one = nodeHttp1()
  const to = { host: mesh.vip(service, 0), port: 8520, localAddress: client.address }
  const reply = await one.send(to, { path: '/' })
  one.close()
  assert.equal(reply.status, 503)
  const { flag, details } = lastRecord(0, true)!
  assert.equal(flag, 'UF')
  assert.match(details, /404/)
})

// --- they open tunnels to us ---

test('bytes come through tunnels that Envoy opens, with its identity, and half-closes too', {
  ...TEST,
  skip: lacks('envoy'),
}, async () => {
  const entry = { host: client.appAddress, port: ENVOY_ENTRY_BY_PORT[ECHO] }
  const back = await converse(entry, BULK)
  assert.equal(back.length, BULK.length)
  assert.equal(digest(back), digest(BULK))
  const { edge, flag } = await until(() => lastRecord(1, false))
  assert.equal(edge.sourcePrincipal, client.identity)
  assert.equal(edge.isMutualTls, true)
  assert.equal(flag, '-')
  const all = Array.from({ length: 150 }, (_, i) => converse(entry, Buffer.from(`tunnel ${i}`)))
  for (const [i, one] of (await Promise.all(all)).entries()) assert.equal(one.toString(), `tunnel ${i}`)
})

test('requests of both versions come through tunnels that Envoy opens', { ...TEST, skip: lacks('envoy') }, async () => {
  const localAddress = client.appAddress
  await exchangeHttp({ host: client.appAddress, port: ENVOY_ENTRY_BY_PORT[NODE_1], localAddress }, 1)
  await exchangeHttp({ host: client.appAddress, port: ENVOY_ENTRY_BY_PORT[NODE_2], localAddress }, 2)
  const { edge, http, flag } = lastRecord(1, true)!
  assert.equal(edge.sourcePrincipal, client.identity)
  assert.deepEqual([http!.status, flag], [200, '-'])
})

test("an app's reset reaches the client of the tunnel that Envoy opened", {
  ...TEST,
  skip: lacks('envoy'),
}, async () => {
  const socket = connect({ host: client.appAddress, port: ENVOY_ENTRY_BY_PORT[ECHO], allowHalfOpen: true })
  socket.write('R')
  const [error] = await once(socket, 'error')
  assert.equal(error.code, 'ECONNRESET')
  assert.equal((await until(() => lastRecord(1, false))).flag, 'UC')
})

test('curl asks haproxy for tunnels to us', { ...TEST, skip: lacks('haproxy', 'curl') }, async () => {
  const proxy = ['-sS', '-p', '-x', `http://${client.appAddress}:${HAPROXY_ENTRY}`]
  for (const [port, version] of [
    [NODE_1, '--http1.1'],
    [NODE_2, '--http2-prior-knowledge'],
  ] as const) {
    const url = `http://${server.address}:${port}`
    const large = await runProgram('curl', [...proxy, version, `${url}/large`])
    assert.equal(digest(large), digest(LARGE))
    const echoed = await runProgram('curl', [...proxy, version, '--data-binary', '@-', `${url}/echo`], LARGE)
    assert.equal(digest(echoed), digest(LARGE))
  }
  assert.equal(lastRecord(1, true)!.edge.sourcePrincipal, client.identity)
})

async function until<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const found = look()
    if (found !== undefined) return found
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

// --- refusals ---

test('servers that prove the wrong thing, or speak the wrong protocol, get no tunnel', {
  ...TEST,
  skip: lacks('nginx'),
}, async () => {
  const { authority } = mesh
  const stranger = new TestAuthority()
  const cases = [
    { name: 'alpn', listen: '', material: (id: string) => authority.leafFor(id), reason: /ALPN|h2|HTTP\/2/i },
    { name: 'authority', listen: 'http2', material: (id: string) => stranger.leafFor(id), reason: /certificate|TLS/i },
    {
      name: 'expired',
      listen: 'http2',
      material: (id: string) => authority.leafFor(id, { nowMs: Date.now() - 3 * DAY_MS }),
      reason: /expired/i,
    },
    {
      name: 'identity',
      listen: 'http2',
      material: () => authority.leaf('default', 'somebody-else'),
      reason: /somebody-else/,
    },
    { name: 'method', listen: 'http2', material: (id: string) => authority.leafFor(id), reason: /40[05]/ },
  ]
  const blocks: string[] = []
  const pods: TestPod[] = []
  for (const { name, listen, material } of cases) {
    const pod = await foreign(name)
    const paths = writeCredential(directory.path, name, material(pod.identity))
    pods.push(pod)
    blocks.push(`server {
      listen ${pod.address}:${HBONE} ssl ${listen};
      ssl_certificate ${paths.certificate};
      ssl_certificate_key ${paths.key};
      ssl_client_certificate ${clientCredential.bundle};
      ssl_verify_client on;
      ssl_protocols TLSv1.3;
    }`)
  }
  const nginx = await startNginx(
    directory.path,
    blocks.join('\n'),
    pods.map(({ address }) => ({ host: address, port: HBONE })),
  )
  programs.push(nginx)
  const one = nodeHttp1()
  for (const { name, reason } of cases) {
    assert.equal((await one.send(target(name, NODE_1), { path: '/' })).status, 503, name)
    const { flag, details } = lastRecord(0, true)!
    assert.equal(flag, 'UF', name)
    assert.match(details, reason, name)
  }
  one.close()
})

test('clients without a certificate, with a bad one, or of another protocol get no tunnel', {
  ...TEST,
  skip: lacks('curl', 'nghttp'),
}, async () => {
  const url = `https://${server.address}:${HBONE}/`
  const common = ['-sS', '-k', '--max-time', '10']
  const credential = (paths: CredentialPaths): string[] => ['--cert', paths.certificate, '--key', paths.key]
  const bad = [
    [],
    credential(writeCredential(directory.path, 'stranger', new TestAuthority().leafFor(client.identity))),
    credential(
      writeCredential(
        directory.path,
        'old',
        mesh.authority.leafFor(client.identity, { nowMs: Date.now() - 3 * DAY_MS }),
      ),
    ),
    credential(
      writeCredential(directory.path, 'elsewhere', new TestAuthority('other.example').leaf('default', 'client')),
    ),
    // The right one, and HTTP/1.1.
    [...credential(clientCredential), '--http1.1'],
  ]
  for (const args of bad) {
    await assert.rejects(runProgram('curl', [...common, '--http2', ...args, url]), /curl/, args.join(' '))
  }
  // The right one, and HTTP/2: but it is no proxy for requests.
  const status = await runProgram('curl', [
    ...common,
    ...credential(clientCredential),
    '--http2',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code} %{http_version}',
    url,
  ])
  assert.equal(status.toString(), '400 2')
  const log = await runProgram('nghttp', [
    '-nv',
    '--cert',
    clientCredential.certificate,
    '--key',
    clientCredential.key,
    url,
  ])
  assert.match(log.toString(), /:status: 400/)
})
