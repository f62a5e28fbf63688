/** Peers that break the rules of HTTP, on both sides of a proxy: what the other side gets, and what operators see. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { FLAG_ACK, FLAG_END_HEADERS, FRAME_HEADERS, FRAME_SETTINGS, PREFACE } from '../../src/http/h2/frame.ts'
import { HpackEncoder } from '../../src/http/h2/hpack-encoder.ts'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, type Service } from '../../src/model/service.ts'
import type { AccessRecord } from '../../src/telemetry/recorder.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod, type TestPort, type TestRecorder } from '../support/mesh.ts'
import { dataFrame, frame, pingFrame, settingsFrame } from '../support/scripted-h2-peer.ts'

const H1_PORT = 8101
const H2_PORT = 8102

let mesh: TestMesh
let client: TestPod
let service: Service
let recorder: TestRecorder
const servers: Server[] = []
const sockets = new Set<Socket>()
/** What the app says to the first bytes of a connection; then it ends the connection if `ends`. */
let answer: Uint8Array | string
let ends = false

before(async () => {
  mesh = new TestMesh(1)
  recorder = mesh.nodes[0]!.recorder
  client = await mesh.pod('client')
  const pod = await mesh.pod('app')
  const ports: TestPort[] = [
    { number: H1_PORT, targetPort: H1_PORT, protocol: PROTOCOL_HTTP1 },
    { number: H2_PORT, targetPort: H2_PORT, protocol: PROTOCOL_HTTP2 },
  ]
  service = await mesh.service('app', ports, [pod])
  for (const { number } of ports) {
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write(answer)
        if (ends) socket.end()
      })
    })
    server.listen(number, pod.appAddress)
    await once(server, 'listening')
    servers.push(server)
  }
})

beforeEach(() => {
  ends = false
  recorder.records.length = 0
  recorder.violations.length = 0
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

/** What comes back for `bytes` until the proxy ends the connection, or until `text` is there. */
async function exchange(port: number, bytes: Uint8Array | string, text: RegExp | null = null): Promise<string> {
  const socket = connect({ host: mesh.vip(service, 0), port, localAddress: client.address })
  socket.write(bytes)
  let received = ''
  socket.setEncoding('latin1')
  socket.on('error', () => {})
  return await new Promise((resolve) => {
    socket.on('data', (chunk: string) => {
      received += chunk
      if (text?.test(received) === true) socket.destroy()
    })
    socket.on('end', () => socket.end())
    socket.on('close', () => resolve(received))
  })
}

/** The record of the request, told by the client's side. */
function record(): AccessRecord {
  const record = recorder.records.find(({ http }) => http !== null)
  assert.ok(record !== undefined, 'the request is in the access log')
  return record
}

const GET = 'GET / HTTP/1.1\r\nHost: app\r\n\r\n'

describe('an upstream of HTTP/1 that', () => {
  const CASES: readonly (readonly [string, string, string])[] = [
    ['does not speak HTTP', 'SSH-2.0-OpenSSH_9.2\r\n\r\n', 'bad_version'],
    [
      'sends both lengths',
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok',
      'length_and_encoding',
    ],
    ['ends a line in LF', 'HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n', 'bare_lf'],
  ]
  for (const [name, bytes, reason] of CASES) {
    test(`${name} gives 502 with flag UPE, and is counted`, async () => {
      answer = bytes
      const reply = await exchange(H1_PORT, GET, /rules of HTTP/)
      assert.match(reply, /^HTTP\/1\.1 502 /)
      const { flag, http, details } = record()
      assert.deepEqual([flag, http!.status, details], ['UPE', 502, reason])
      assert.deepEqual(recorder.violations, [`upstream ${reason}`])
    })
  }

  test('breaks off in the middle of a chunk gives a cut response with flag UPE', async () => {
    answer = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n'
    const reply = await exchange(H1_PORT, GET)
    assert.doesNotMatch(reply, /\r\n0\r\n\r\n$/)
    assert.deepEqual([record().flag, record().http!.status], ['UPE', 200])
    assert.deepEqual(recorder.violations, ['upstream bad_chunk_size'])
  })

  test('only closes early is no breach: flag UC, and nothing is counted', async () => {
    answer = 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc'
    ends = true
    await exchange(H1_PORT, GET)
    assert.equal(record().flag, 'UC')
    assert.deepEqual(recorder.violations, [])
  })
})

describe('an upstream of HTTP/2 that', () => {
  const HELLO = Buffer.concat([settingsFrame(), frame(FRAME_SETTINGS, FLAG_ACK, 0)])
  const head = (fields: readonly string[]): Buffer => {
    const encoder = new HpackEncoder()
    const length = encoder.encode(fields)
    return frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, Buffer.from(encoder.block.subarray(0, length)))
  }
  const CASES: readonly (readonly [string, () => Uint8Array | string, string])[] = [
    ['speaks HTTP/1', () => 'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n', 'frame_too_large'],
    ['does not begin with settings', () => pingFrame(), 'settings_not_first'],
    ['breaks the connection', () => Buffer.concat([HELLO, dataFrame(0, 'x')]), 'frame_on_connection'],
    // Last: it costs only its stream, and the connection stays in the pool.
    ['sends a malformed head', () => Buffer.concat([HELLO, head([':status', '2x0'])]), 'malformed_head'],
  ]
  for (const [name, bytes, reason] of CASES) {
    test(`${name} gives 502 with flag UPE, and is counted`, async () => {
      answer = bytes()
      const session = connectFrom(client.address, mesh.vip(service, 0), H2_PORT)
      const call = new Http2Call(session, { ':path': '/' })
      assert.equal((await call.head)[':status'], 502)
      await call.text()
      session.destroy()
      assert.equal(record().flag, 'UPE')
      assert.equal(record().http!.status, 502)
      assert.deepEqual(recorder.violations, [`upstream ${reason}`])
    })
  }
})

describe('a client that', () => {
  test('sends a bad request of HTTP/1 gets 400, and its line says DPE, why and who', async () => {
    const reply = await exchange(H1_PORT, 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n')
    assert.match(reply, /^HTTP\/1\.1 400 /)
    const { flag, http, details, downstream } = record()
    assert.deepEqual([flag, http!.status], ['DPE', 400])
    assert.match(details, /^duplicate_host: /)
    assert.ok(downstream.startsWith(`${client.address}:`))
    assert.deepEqual(recorder.violations, ['downstream duplicate_host'])
  })

  test('breaks its body off has flag DPE on its request', async () => {
    answer = ''
    const head = 'POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n'
    const reply = await exchange(H1_PORT, `${head}zz\r\n`)
    assert.match(reply, /^HTTP\/1\.1 400 /)
    assert.equal(record().flag, 'DPE')
    assert.equal(record().details, 'bad_chunk_size')
    assert.deepEqual(recorder.violations, ['downstream bad_chunk_size'])
  })

  test('sends a request of HTTP/2 that HTTP/1 could not carry gets 400 with flag DPE', async () => {
    const session = connectFrom(client.address, mesh.vip(service, 0), H2_PORT)
    const call = new Http2Call(session, { ':path': '/a b' })
    assert.equal((await call.head)[':status'], 400)
    await call.text()
    session.destroy()
    assert.deepEqual([record().flag, record().http!.status], ['DPE', 400])
    assert.deepEqual(recorder.violations, ['downstream bad_target'])
  })

  test('breaks the rules of the connection loses it, and every request on it has flag DPE', async () => {
    answer = ''
    const encoder = new HpackEncoder()
    const length = encoder.encode([':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'app'])
    const request = frame(FRAME_HEADERS, FLAG_END_HEADERS, 1, Buffer.from(encoder.block.subarray(0, length)))
    await exchange(H2_PORT, Buffer.concat([PREFACE, settingsFrame(), request, dataFrame(0, 'x')]))
    const { flag, http, details } = record()
    assert.deepEqual([flag, http!.status], ['DPE', 0])
    assert.match(details, /broke HTTP\/2 rules.*PROTOCOL_ERROR/)
    assert.deepEqual(recorder.violations, ['downstream frame_on_connection'])
  })
})
