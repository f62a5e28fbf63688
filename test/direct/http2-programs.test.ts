import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { connect, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { ACTION_DENY, EMPTY_POLICY_MATCH, POLICY_SCOPE_NAMESPACE, type Policy } from '../../src/model/policy.ts'
import { PROTOCOL_HTTP2, type Service } from '../../src/model/service.ts'
import { Door } from '../support/grpc-echo.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'
import { frame, settingsFrame } from '../support/scripted-h2-peer.ts'

const PORT = 8290
const BODY = 'x'.repeat(1000)

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: http2.Http2Server[] = []
const sockets = new Set<Socket>()

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports: TestPort[] = [{ number: PORT, targetPort: PORT, protocol: PROTOCOL_HTTP2 }]
    services.push(await mesh.service(name, ports, [pod]))
    const server = http2.createServer((incoming, outgoing) => {
      incoming.resume()
      incoming.on('end', () => outgoing.end(BODY))
    })
    server.on('sessionError', () => {})
    server.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => sockets.delete(socket))
    })
    server.listen(PORT, pod.appAddress)
    await once(server, 'listening')
    servers.push(server)
  }
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

/** Null when the program is there, else why the test is skipped. */
function lacks(program: string): string | false {
  try {
    execFileSync('which', [program], { stdio: 'ignore' })
    return false
  } catch {
    return `${program} is not installed`
  }
}

async function run(program: string, args: readonly string[]): Promise<string> {
  return await new Promise((resolve, reject) => {
    execFile(program, [...args], { maxBuffer: 64 << 20 }, (error, stdout) => {
      if (error === null) resolve(stdout)
      else reject(error)
    })
  })
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`curl speaks HTTP/2 with prior knowledge ${where}`, { skip: lacks('curl') }, async () => {
    const url = `http://${mesh.vip(services[index]!, 0)}:${PORT}/`
    const common = [
      '-sS',
      '--http2-prior-knowledge',
      '--interface',
      client.address,
      '-w',
      ' %{http_version} %{http_code}',
    ]
    assert.equal(await run('curl', [...common, url]), `${BODY} 2 200`)
    assert.equal(await run('curl', [...common, '-d', 'a=1', '-H', 'expect: 100-continue', url]), `${BODY} 2 200`)
  })

  test(`curl speaks HTTP/1.1 to the same port ${where}`, { skip: lacks('curl') }, async () => {
    const url = `http://${mesh.vip(services[index]!, 0)}:${PORT}/`
    const args = ['-sS', '--interface', client.address, '-w', ' %{http_version} %{http_code}', url]
    assert.equal(await run('curl', args), `${BODY} 1.1 200`)
  })

  test(`nghttp and h2load get every answer ${where}`, { skip: lacks('nghttp') || lacks('h2load') }, async () => {
    const door = await Door.open(client.address, mesh.vip(services[index]!, 0), PORT)
    const url = `http://${door.target}/`
    assert.equal(await run('nghttp', [url, `${url}other`]), BODY + BODY)
    // Priorities, padding, continuations and a body in one go.
    assert.match(
      await run('nghttp', ['-nv', '-p', '200', '-b', '100', '--continuation', '-d', import.meta.filename, url]),
      /:status: 200/,
    )
    const report = await run('h2load', ['-n', '2000', '-c', '4', '-m', '50', url])
    assert.match(report, /2000 succeeded, 0 failed, 0 errored, 0 timeout/)
    assert.match(report, /2000 2xx/)
    door.close()
  })

  test(`a flood of resets and one of pings end their connection, and nothing else ${where}`, async () => {
    const session = connectFrom(client.address, mesh.vip(services[index]!, 0), PORT)
    assert.equal(await new Http2Call(session, { ':path': '/' }).text(), BODY)
    // ':method GET', ':scheme http', ':path /' from the static table, ':authority' a literal.
    const block = Buffer.from([0x82, 0x86, 0x84, 0x01, 0x01, 0x61])
    const rapid: Buffer[] = []
    for (let id = 1; id < 12_000; id += 2) {
      rapid.push(frame(1, 4, id, block), frame(3, 0, id, Buffer.from([0, 0, 0, 8])))
    }
    const pings = Array.from({ length: 6000 }, () => frame(6, 0, 0, Buffer.alloc(8)))
    for (const flood of [rapid, pings]) {
      const socket = connect({ host: mesh.vip(services[index]!, 0), port: PORT, localAddress: client.address })
      socket.on('error', () => {})
      const received: Buffer[] = []
      socket.on('data', (chunk: Buffer) => received.push(chunk))
      socket.write(http2Preface())
      socket.write(Buffer.concat(flood))
      await once(socket, 'close')
      assert.ok(Buffer.concat(received).includes(Buffer.from([0, 0, 0, 11])), 'GOAWAY with ENHANCE_YOUR_CALM')
    }
    assert.equal(await new Http2Call(session, { ':path': '/' }).text(), BODY)
    session.destroy()
  })

  test(`policies are judged request by request, and a denied gRPC call is PERMISSION_DENIED ${where}`, async () => {
    const policy: Policy = {
      key: 'default/no-admin',
      name: 'no-admin',
      namespace: 'default',
      scope: POLICY_SCOPE_NAMESPACE,
      action: ACTION_DENY,
      isDryRun: false,
      rules: [
        {
          clauses: [
            {
              matches: [
                {
                  ...EMPTY_POLICY_MATCH,
                  principals: [{ kind: 'suffix', value: '/client' }],
                  paths: [{ kind: 'prefix', value: '/admin' }],
                },
              ],
            },
          ],
        },
      ],
    }
    mesh.policies(policy)
    const session = connectFrom(client.address, mesh.vip(services[index]!, 0), PORT)
    const statusOf = async (headers: http2.OutgoingHttpHeaders): Promise<number | undefined> => {
      const call = new Http2Call(session, headers)
      call.stream.end()
      return (await call.head)[':status']
    }
    assert.equal(await statusOf({ ':path': '/' }), 200)
    assert.equal(await statusOf({ ':path': '/admin' }), 403)
    assert.equal(await statusOf({ ':path': '/x/../%61dmin' }), 403)
    assert.equal(await statusOf({ ':path': '/other' }), 200)
    const grpc = new Http2Call(session, {
      ':method': 'POST',
      ':path': '/admin.Service/Method',
      'content-type': 'application/grpc',
    })
    grpc.stream.end()
    assert.equal((await grpc.head)['grpc-status'], '7')
    assert.equal((await grpc.head)['grpc-message'], 'RBAC: access denied')
    mesh.apply({ removedPolicies: [policy.key] })
    assert.equal(await statusOf({ ':path': '/admin' }), 200)
    session.destroy()
  })
}

function http2Preface(): Buffer {
  return Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), settingsFrame()])
}
