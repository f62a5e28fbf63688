import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { ACTION_DENY, EMPTY_POLICY_MATCH, POLICY_SCOPE_GLOBAL, type Policy } from '../../src/model/policy.ts'
import { PROTOCOL_DETECT, PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const ECHO = 9000
const GREETER = 9001
const SINK = 9002

let mesh: TestMesh
let client: TestPod
let outsider: TestPod
const services: Service[] = []
const servers: Server[] = []
const sinks: Server[] = []
const accepted = new Set<Socket>()

async function listen(pod: TestPod, port: number, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    accepted.add(socket)
    socket.on('close', () => accepted.delete(socket))
    socket.on('error', () => {})
    onConnection(socket)
  })
  server.listen(port, pod.appAddress)
  await once(server, 'listening')
  servers.push(server)
  return server
}

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  outsider = await mesh.pod('outsider', { node: 0, isEnrolled: false })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    services.push(
      await mesh.service(
        name,
        [
          { number: ECHO, targetPort: ECHO, protocol: PROTOCOL_TCP },
          { number: GREETER, targetPort: GREETER, protocol: PROTOCOL_DETECT },
          { number: SINK, targetPort: SINK, protocol: PROTOCOL_TCP },
        ],
        [pod],
      ),
    )
    await listen(pod, ECHO, (socket) => socket.pipe(socket))
    await listen(pod, GREETER, (socket) => {
      socket.write('220 hello\r\n')
      socket.pipe(socket)
    })
    sinks.push(await listen(pod, SINK, (socket) => socket.pause()))
  }
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of accepted) socket.destroy()
})

function dial(service: Service, port: number): Socket {
  const socket = connect({ host: mesh.vip(service, 0), port, localAddress: client.address, allowHalfOpen: true })
  return socket
}

async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`bytes and the half-close go both ways ${where}`, async () => {
    const socket = dial(services[index]!, ECHO)
    const payload = Buffer.alloc(5_000_000, 'abc')
    const echoed = readAll(socket)
    socket.end(payload)
    assert.ok((await echoed).equals(payload))
  })

  test(`a server that speaks first is heard ${where}, and then echoes`, async () => {
    const socket = dial(services[index]!, GREETER)
    const [greeting] = (await once(socket, 'data')) as [Buffer]
    assert.equal(greeting.toString(), '220 hello\r\n')
    socket.end('QUIT\r\n')
    assert.equal((await readAll(socket)).toString(), 'QUIT\r\n')
  })

  test(`a server that is known to speak first is heard without a wait ${where}`, async () => {
    const recorder = mesh.nodes[0]!.recorder
    const before = recorder.opened
    const socket = dial(services[index]!, GREETER)
    // The relay is begun when the connection is accepted, not when the wait for the client is over.
    await once(socket, 'connect')
    while (recorder.opened === before) {
      const waiting = mesh.nodes[0]!.proxy.describeConnections(1000).filter(({ protocol }) => protocol === 'detecting')
      assert.deepEqual(waiting, [])
      await new Promise((resolve) => setImmediate(resolve))
    }
    socket.end()
    assert.match((await readAll(socket)).toString(), /220 hello/)
  })

  test(`a reset of the app is a reset for the client ${where}`, async () => {
    const arrived = once(sinks[index]!, 'connection') as Promise<[Socket]>
    const socket = dial(services[index]!, SINK)
    socket.write('x')
    const failure = once(socket, 'error') as Promise<[NodeJS.ErrnoException]>
    const [app] = await arrived
    app.resetAndDestroy()
    assert.equal((await failure)[0].code, 'ECONNRESET')
  })

  test(`a reader that stops stops its writer ${where}`, async () => {
    const socket = dial(services[index]!, SINK)
    await once(socket, 'connect')
    const chunk = Buffer.alloc(65_536)
    let written = 0
    // Until the kernel's buffers and the proxies' limits are full; 64 MiB is far beyond all of them.
    while (written < 64 * 1_048_576 && socket.writableLength < 8 * chunk.length) {
      socket.write(chunk)
      written += chunk.length
      await new Promise((resolve) => setImmediate(resolve))
      if (socket.writableLength > 0) await new Promise((resolve) => setTimeout(resolve, 2))
    }
    assert.ok(written < 48 * 1_048_576, `the writer got rid of ${written} bytes`)
    socket.destroy()
  })
}

test('nobody listening is a reset, not an empty answer', async () => {
  const service = await mesh.service(
    'absent',
    [{ number: 9009, targetPort: 9009, protocol: PROTOCOL_TCP }],
    [mesh.pods[2]!],
  )
  const socket = dial(service, 9009)
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
  assert.equal(error.code, 'ECONNRESET')
})

test('a policy that turns to deny closes live connections', async () => {
  const policy: Policy = {
    key: 'istio-system/deny-client',
    name: 'deny-client',
    namespace: 'istio-system',
    scope: POLICY_SCOPE_GLOBAL,
    action: ACTION_DENY,
    isDryRun: false,
    rules: [
      { clauses: [{ matches: [{ ...EMPTY_POLICY_MATCH, principals: [{ kind: 'suffix', value: '/sa/client' }] }] }] },
    ],
  }
  const sockets = [dial(services[0]!, ECHO), dial(services[1]!, ECHO)]
  for (const socket of sockets) {
    socket.write('ping')
    await once(socket, 'data')
  }
  const closed = sockets.map((socket) => once(socket, 'error'))
  mesh.policies(policy)
  await Promise.all(closed)
  const late = dial(services[1]!, ECHO)
  await once(late, 'error')
  mesh.apply({ removedPolicies: [policy.key] })
  const again = dial(services[1]!, ECHO)
  again.end('ping')
  assert.equal((await readAll(again)).toString(), 'ping')
})

test('plaintext from outside is served while PERMISSIVE and refused under STRICT', async () => {
  const target = mesh.pods.find(({ name }) => name === 'remote')!
  const ask = async (): Promise<string> => {
    const socket = connect({ host: target.address, port: ECHO, localAddress: outsider.address, allowHalfOpen: true })
    socket.end('plain')
    return (await readAll(socket)).toString()
  }
  assert.equal(await ask(), 'plain')
  const strict: Policy = {
    key: 'istio-system/istio_converted_static_strict',
    name: 'istio_converted_static_strict',
    namespace: 'istio-system',
    scope: POLICY_SCOPE_GLOBAL,
    action: ACTION_DENY,
    isDryRun: false,
    rules: [{ clauses: [{ matches: [{ ...EMPTY_POLICY_MATCH, notPrincipals: [{ kind: 'present' }] }] }] }],
  }
  mesh.policies(strict)
  await assert.rejects(ask, { code: 'ECONNRESET' })
  const meshed = dial(services[1]!, ECHO)
  meshed.end('mutual')
  assert.equal((await readAll(meshed)).toString(), 'mutual')
})
