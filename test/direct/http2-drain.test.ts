/** A proxy that drains, seen by a client and a server that others wrote (node:http2). */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http2 from 'node:http2'
import type { Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { PROTOCOL_HTTP2, type Service } from '../../src/model/service.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const PORT = 8110

let mesh: TestMesh
let client: TestPod
let service: Service
const server = http2.createServer()
const sockets = new Set<Socket>()
/** Requests that wait for their answer. */
const waiting: http2.ServerHttp2Stream[] = []
/** Called for each. */
let onWaiting = (): void => {}

before(async () => {
  mesh = new TestMesh(1)
  client = await mesh.pod('client')
  const pod = await mesh.pod('app')
  service = await mesh.service('app', [{ number: PORT, targetPort: PORT, protocol: PROTOCOL_HTTP2 }], [pod])
  server.on('connection', (socket: Socket) => sockets.add(socket))
  server.on('sessionError', () => {})
  server.on('stream', (stream) => {
    stream.on('error', () => {})
    waiting.push(stream)
    onWaiting()
  })
  server.listen(PORT, pod.appAddress)
  await once(server, 'listening')
})

after(() => {
  mesh.close()
  server.close()
  for (const socket of sockets) socket.destroy()
})

test('requests in flight are finished, the client is told to go, and the session ends in order', async () => {
  const session = connectFrom(client.address, mesh.vip(service, 0), PORT)
  const goAways: [number, number][] = []
  session.on('goaway', (code: number, lastId: number) => goAways.push([code, lastId]))
  let failed: Error | null = null
  session.on('error', (error: Error) => {
    failed = error
  })
  const hasTwo = new Promise<void>((resolve) => {
    onWaiting = () => waiting.length === 2 && resolve()
  })
  const calls = [new Http2Call(session, { ':path': '/1' }), new Http2Call(session, { ':path': '/2' })]
  await hasTwo
  mesh.nodes[0]!.proxy.drain()
  await once(session, 'goaway')
  assert.equal(session.closed || session.destroyed, true, 'the client opens nothing more')
  for (const stream of waiting) {
    stream.respond({ ':status': 200 })
    stream.end('finished')
  }
  for (const call of calls) {
    assert.equal((await call.head)[':status'], 200)
    assert.equal(await call.text(), 'finished')
  }
  if (!session.destroyed) await once(session, 'close')
  assert.equal(failed, null)
  assert.ok(goAways.every(([code]) => code === http2.constants.NGHTTP2_NO_ERROR))
})
