/** The mesh over every pair of transports: what one node's sends, the other's must understand. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Server } from 'node:net'
import { describe, test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_TCP } from '../../src/model/service.ts'
import { TestMesh } from '../support/mesh.ts'
import { nodeKind, reactorKind, type TransportKind } from '../support/transports.ts'

const ECHO = 9000
const WEB = 9080
const BULK_BYTES = 3_000_000

const pairs: readonly (readonly [TransportKind, TransportKind])[] = [
  [nodeKind, nodeKind],
  [nodeKind, reactorKind],
  [reactorKind, nodeKind],
  [reactorKind, reactorKind],
]

async function listening(server: Server, port: number, address: string): Promise<Server> {
  server.listen(port, address)
  await once(server, 'listening')
  return server
}

/** All that comes back until the end. */
async function converse(host: string, port: number, localAddress: string, bytes: Buffer): Promise<Buffer> {
  const socket = connect({ host, port, localAddress, allowHalfOpen: true })
  socket.end(bytes)
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

describe('a tunnel', { timeout: 60_000 }, () => {
  for (const kinds of pairs) {
    const skip = kinds[0].skip || kinds[1].skip
    test(`from ${kinds[0].name} to ${kinds[1].name} carries bytes, half-closes and requests`, { skip }, async () => {
      const mesh = new TestMesh(2, kinds)
      const client = await mesh.pod('client', { node: 0 })
      const pod = await mesh.pod('remote', { node: 1 })
      const service = await mesh.service(
        'remote',
        [
          { number: ECHO, targetPort: ECHO, protocol: PROTOCOL_TCP },
          { number: WEB, targetPort: WEB, protocol: PROTOCOL_HTTP1 },
        ],
        [pod],
      )
      const echo = createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket))
      const answer = 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello'
      const web = createServer((socket) => socket.on('error', () => {}).once('data', () => socket.end(answer)))
      await listening(echo, ECHO, pod.appAddress)
      await listening(web, WEB, pod.appAddress)
      const bulk = Buffer.alloc(BULK_BYTES)
      for (let i = 0; i < bulk.length; i++) bulk[i] = (i * 31 + (i >> 13)) & 0xff
      const echoed = await converse(mesh.vip(service, 0), ECHO, client.address, bulk)
      assert.ok(echoed.equals(bulk), `${echoed.length} bytes came back`)
      const request = Buffer.from('GET / HTTP/1.1\r\nhost: remote\r\nconnection: close\r\n\r\n')
      const reply = await converse(mesh.vip(service, 0), WEB, client.address, request)
      assert.match(reply.toString(), /^HTTP\/1\.1 200 OK\r\n.*\r\n\r\nhello$/s)
      mesh.close()
      echo.close()
      web.close()
    })
  }
})
