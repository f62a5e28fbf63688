import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Server } from 'node:net'
import { after, before, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const PORT = 7000

let mesh: TestMesh
let client: TestPod
let pod: TestPod
let service: Service
let app: Server

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  pod = await mesh.pod('echo', { node: 1 })
  service = await mesh.service('echo', [{ number: PORT, targetPort: PORT, protocol: PROTOCOL_TCP }], [pod])
  app = createServer((socket) => socket.on('error', () => {}).pipe(socket))
  app.listen(PORT, pod.appAddress)
  await once(app, 'listening')
})

after(() => {
  mesh.close()
  app.close()
})

/** What comes back, or why nothing does. */
async function echo(text: string): Promise<string> {
  const socket = connect({ host: mesh.vip(service, 0), port: PORT, localAddress: client.address })
  socket.setEncoding('latin1').write(text)
  try {
    const [answer] = await Promise.race([once(socket, 'data'), once(socket, 'close').then(() => ['closed'])])
    return answer as string
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'error'
  } finally {
    socket.destroy()
  }
}

for (const [which, node] of [
  ['client', 0],
  ['server', 1],
] as const) {
  test(`without the credential of the ${which} nothing is carried, and with it again everything is`, async () => {
    const owner = which === 'client' ? client : pod
    // What is pooled goes on: it ends first, as it does at a rotation when nothing uses it.
    while (mesh.nodes.some(({ proxy }) => proxy.connectionCount > 0)) await turn()
    mesh.issue(client)
    mesh.nodes[node]!.proxy.dropCredential(owner.identity)
    assert.equal(await echo('refused'), 'ECONNRESET')
    mesh.issue(owner)
    assert.equal(await echo('carried'), 'carried')
  })
}
