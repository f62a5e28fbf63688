/**
 * Every ambiguous request of the smuggling table, sent to whole proxies: in one hop, at the client's end of a tunnel, and
 * in plaintext from outside, for upstreams of either version. Whatever the proxy answers, the upstream must not hear of
 * it: the origin keeps every byte.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { after, afterEach, before, describe, test } from 'node:test'
import {
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADERS,
  FRAME_RST_STREAM,
  PREFACE,
} from '../../src/http/h2/frame.ts'
import { HpackEncoder } from '../../src/http/h2/hpack-encoder.ts'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2 } from '../../src/model/service.ts'
import { REFUSED_CHUNKS, REFUSED_HEADS, REFUSED_LINES, REFUSED_LISTS } from '../support/ambiguous-requests.ts'
import { ByteOrigin } from '../support/byte-origin.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'
import { frame, settingsFrame } from '../support/scripted-h2-peer.ts'

const PORTS: readonly TestPort[] = [
  { number: 8190, targetPort: 8190, protocol: PROTOCOL_HTTP1 },
  { number: 8191, targetPort: 8191, protocol: PROTOCOL_HTTP2 },
]

/** Where a request goes in, and how its sender is called. */
interface Entrance {
  readonly name: string
  readonly host: string
  readonly port: number
  readonly localAddress: string
  readonly origin: ByteOrigin
}

let mesh: TestMesh
const entrances: Entrance[] = []
const origins: ByteOrigin[] = []
const sockets: Socket[] = []

before(async () => {
  mesh = new TestMesh(2)
  const client = await mesh.pod('client', { node: 0 })
  const outsider: TestPod = await mesh.pod('outsider', { node: 0, isEnrolled: false })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const service = await mesh.service(name, PORTS, [pod])
    for (const { number, protocol } of PORTS) {
      const origin = await ByteOrigin.listen(pod.appAddress, number, protocol === PROTOCOL_HTTP2)
      origins.push(origin)
      const to = protocol === PROTOCOL_HTTP1 ? 'HTTP/1.1' : 'HTTP/2'
      const way = index === 0 ? 'in one hop' : 'through a tunnel'
      const host = mesh.vip(service, 0)
      entrances.push({ name: `${way}, to ${to}`, host, port: number, localAddress: client.address, origin })
      if (index === 0) continue
      const localAddress = outsider.address
      entrances.push({ name: `from outside, to ${to}`, host: pod.address, port: number, localAddress, origin })
    }
  }
})

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy()
  for (const origin of origins) origin.reset()
})

after(() => {
  mesh.close()
  for (const origin of origins) origin.close()
})

function dial(entrance: Entrance): Socket {
  const { host, port, localAddress } = entrance
  const socket = connect({ host, port, localAddress })
  socket.on('error', () => {})
  sockets.push(socket)
  return socket
}

/** Everything that comes back until the proxy ends the connection. */
async function answerTo(entrance: Entrance, text: string): Promise<string> {
  const socket = dial(entrance)
  let answer = ''
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    answer += chunk
  })
  socket.end(text, 'latin1')
  await once(socket, 'close')
  return answer
}

/** Sends frames, and waits for the refusal of stream 1: a reset, an error, or an answer; returns a word for it. */
async function refusalOf(entrance: Entrance, frames: readonly Buffer[]): Promise<string> {
  const socket = dial(entrance)
  socket.write(Buffer.concat([PREFACE, settingsFrame(), ...frames]))
  let rest: Buffer = Buffer.alloc(0)
  let verdict = ''
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      const type = rest[3]!
      const streamId = rest.readUInt32BE(5)
      if (type === FRAME_RST_STREAM && streamId === 1) verdict = 'reset'
      if (type === FRAME_GOAWAY) verdict = 'goaway'
      if (type === FRAME_HEADERS && streamId === 1) verdict = statusOf(rest.subarray(9, 9 + rest.readUIntBE(0, 3)))
      rest = rest.subarray(9 + rest.readUIntBE(0, 3))
    }
    if (verdict !== '') socket.destroy()
  })
  await once(socket, 'close')
  return verdict
}

/** The first digit of the status in a block of our own encoder: an entry of the static table, or a literal. */
function statusOf(block: Buffer): string {
  const STATIC: Readonly<Record<number, string>> = { 136: '2', 140: '4', 141: '4', 142: '5' }
  const known = STATIC[block[0]!]
  return `${known ?? String.fromCharCode(block[2]!)}xx`
}

const encoder = new HpackEncoder()

function headersFrame(fields: readonly string[], isEnd: boolean): Buffer {
  // Each connection has a table of its own: an encoder that remembers nothing serves them all.
  encoder.setTableLimit(0)
  const length = encoder.encode(fields)
  const flags = FLAG_END_HEADERS | (isEnd ? FLAG_END_STREAM : 0)
  return frame(FRAME_HEADERS, flags, 1, Buffer.from(encoder.block.subarray(0, length)))
}

function dataFrame(data: string, isEnd: boolean): Buffer {
  return frame(FRAME_DATA, isEnd ? FLAG_END_STREAM : 0, 1, Buffer.from(data))
}

const STATUS_LINE = /HTTP\/1\.1 \d{3} /g
const HOST = 'Host: h\r\n'
const SECOND = 'GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n'

async function isRefused(text: string): Promise<void> {
  for (const entrance of entrances) {
    const answer = await answerTo(entrance, text)
    assert.match(answer, /^HTTP\/1\.1 (400|414|417|431|501|505) /, entrance.name)
    assert.equal(answer.match(STATUS_LINE)?.length, 1, `${entrance.name}: the second request was answered`)
    assert.equal(entrance.origin.requests, '', entrance.name)
  }
}

describe('of HTTP/1.1, nothing reaches the upstream', () => {
  for (const [head, body] of REFUSED_HEADS) {
    test(`of a request with ${JSON.stringify(head)}`, async () => {
      await isRefused(`POST / HTTP/1.1\r\n${HOST}${head}\r\n${body}${SECOND}`)
    })
  }

  for (const line of REFUSED_LINES) {
    test(`of ${JSON.stringify(line)}`, async () => {
      await isRefused(`${line}\r\n${HOST}\r\n${SECOND}`)
    })
  }

  test('of a request without a host', async () => {
    await isRefused(`GET / HTTP/1.1\r\n\r\n${SECOND}`)
  })
})

describe('of HTTP/1.1, a body that goes wrong never ends in order, and nothing behind it is read', () => {
  for (const [body] of REFUSED_CHUNKS) {
    test(`chunks ${JSON.stringify(body)}`, async () => {
      for (const entrance of entrances) {
        const answer = await answerTo(
          entrance,
          `POST /first HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${body}${SECOND}`,
        )
        assert.match(answer, /^HTTP\/1\.1 400 /, entrance.name)
        assert.equal(answer.match(STATUS_LINE)?.length, 1, entrance.name)
        const { text } = entrance.origin
        assert.equal(text.includes('/smuggled'), false, `${entrance.name}: ${JSON.stringify(text)}`)
        assert.equal(/\r\n0\r\n/.test(text), false, `${entrance.name}: the body was ended`)
      }
    })
  }
})

describe('of HTTP/2, nothing reaches the upstream', () => {
  for (const [what, fields] of REFUSED_LISTS) {
    test(`of a request with ${what}`, async () => {
      for (const entrance of entrances) {
        const verdict = await refusalOf(entrance, [headersFrame(fields, true)])
        assert.match(verdict, /^(reset|goaway|4xx|5xx)$/, entrance.name)
        assert.equal(entrance.origin.requests, '', entrance.name)
      }
    })
  }
})

describe('of HTTP/2, a body that goes wrong never ends in order', () => {
  const POST = [':method', 'POST', ':scheme', 'http', ':path', '/first', ':authority', 'h']
  const CASES: readonly (readonly [string, readonly Buffer[]])[] = [
    ['less than its length', [headersFrame([...POST, 'content-length', '5'], false), dataFrame('abc', true)]],
    [
      'more than its length',
      [headersFrame([...POST, 'content-length', '3'], false), dataFrame('abcdefGET /smuggled', true)],
    ],
    [
      'pseudo-headers in its trailers',
      [headersFrame(POST, false), dataFrame('abc', false), headersFrame([':path', '/smuggled'], true)],
    ],
    [
      'CRLF in its trailers',
      [headersFrame(POST, false), dataFrame('abc', false), headersFrame(['x-a', 'b\r\n\r\nGET /smuggled'], true)],
    ],
    [
      'Transfer-Encoding in its trailers',
      [headersFrame(POST, false), dataFrame('abc', false), headersFrame(['transfer-encoding', 'chunked'], true)],
    ],
    [
      'trailers that do not end it',
      [headersFrame(POST, false), dataFrame('abc', false), headersFrame(['x-a', 'b'], false)],
    ],
  ]
  for (const [what, frames] of CASES) {
    test(what, async () => {
      for (const entrance of entrances) {
        const verdict = await refusalOf(entrance, frames)
        assert.match(verdict, /^(reset|goaway|4xx)$/, entrance.name)
        const { text } = entrance.origin
        assert.equal(text.includes('/smuggled'), false, `${entrance.name}: ${JSON.stringify(text)}`)
        assert.equal(/\r\n0\r\n/.test(text), false, `${entrance.name}: the body was ended`)
      }
    })
  }
})

test('a good request does reach the upstream, in either version', async () => {
  for (const [index, entrance] of entrances.entries()) {
    for (const isHttp2 of [false, true]) {
      const path = `/good-${index}-${isHttp2}`
      const socket = dial(entrance)
      const fields = [':method', 'GET', ':scheme', 'http', ':path', path, ':authority', 'h']
      if (isHttp2) socket.write(Buffer.concat([PREFACE, settingsFrame(), headersFrame(fields, true)]))
      else socket.write(`GET ${path} HTTP/1.1\r\nhost: h\r\n\r\n`)
      await entrance.origin.arrival(path)
    }
  }
})
