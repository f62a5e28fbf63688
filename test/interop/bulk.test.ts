/**
 * Bodies of hundreds of megabytes stream through in every combination of versions, whole and in bounded memory; whoever
 * reads slowly stops whoever writes; what is written in drops comes in drops. The mesh is a process of its own.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttp1Server, request as http1Request, type IncomingMessage } from 'node:http'
import * as http2 from 'node:http2'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { BulkCheck, writeBulk } from '../support/bulk.ts'
import { connectFrom } from '../support/http2-call.ts'
import { BULK_1, BULK_2, BULK_TCP, MeshProcess } from '../support/mesh-process.ts'
import { Talk } from '../support/talk.ts'

const TEST = { timeout: 120_000 }
const MB = 1_000_000

/**
 * Growth of the mesh's memory while a body streams. Windows and backlogs are some megabytes; the rest is garbage, which
 * V8 collects when 64 MB of buffers have come together.
 */
const GROWTH_BYTES_MAX = 96 * MB
/**
 * Bytes that a writer gets rid of while nobody reads: three connections' buffers in the kernel, some 5 MB each as long as
 * nobody reads, two windows and backlogs of ours, and what the client's library takes. 15 MB were seen.
 */
const STALL_BYTES_MAX = 64 * MB

type Version = 1 | 2
const PORT_BY_VERSION = { 1: BULK_1, 2: BULK_2 } as const

let mesh: MeshProcess
const servers: (Server | http2.Http2Server)[] = []
const sockets = new Set<Socket>()
const sessions: http2.ClientHttp2Session[] = []
/** Bytes that the servers have written in answer to /stall. */
let stallWritten = 0
/** The upload that a server does not read. */
let unread: { resume(): void } | null = null

before(async () => {
  mesh = await MeshProcess.start()
  for (const host of mesh.addresses.apps) {
    await listen(
      createHttp1Server((incoming, outgoing) => {
        serve(incoming.url!, incoming, outgoing, (status, length) => {
          outgoing.writeHead(status, length === null ? {} : { 'content-length': length })
        })
      }),
      host,
      BULK_1,
    )
    const server = http2.createServer({ settings: { initialWindowSize: 1 << 20 } })
    server.on('session', (session) => session.setLocalWindowSize(4 << 20))
    server.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      serve(headers[':path']!, stream, stream, (status, length) => {
        stream.respond({ ':status': status, ...(length === null ? {} : { 'content-length': length }) })
      })
    })
    server.on('sessionError', () => {})
    await listen(server, host, BULK_2)
    await listen(
      createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)),
      host,
      BULK_TCP,
    )
  }
})

after(async () => {
  for (const session of sessions) session.destroy()
  await mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

async function listen(server: Server | http2.Http2Server, host: string, port: number): Promise<void> {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, host)
  await once(server, 'listening')
  servers.push(server)
}

/** What the apps of both versions do: /download/N, /upload, /stall, /unread, /echo. */
function serve(
  path: string,
  incoming: NodeJS.ReadableStream,
  outgoing: NodeJS.WritableStream,
  respond: (status: number, length: number | null) => void,
): void {
  const [, what, size] = path.split('/')
  if (what === 'download' || what === 'stall') {
    incoming.resume()
    const length = Number(size)
    respond(200, length)
    writeBulk(outgoing as never, length, (bytes) => {
      if (what === 'stall') stallWritten = bytes
    })
  } else if (what === 'echo') {
    respond(200, null)
    incoming.pipe(outgoing)
  } else {
    const check = new BulkCheck()
    incoming.on('data', (chunk: Buffer) => check.take(chunk))
    incoming.on('end', () => {
      respond(200, null)
      outgoing.end(`${check.received} ${check.wrongAt}`)
    })
    if (what === 'unread') {
      incoming.pause()
      unread = incoming
    }
  }
}

/** One exchange: its request to write, its response to read. */
interface Exchange {
  readonly request: NodeJS.WritableStream & { destroyed: boolean; destroy(): unknown }
  readonly response: Promise<NodeJS.ReadableStream & AsyncIterable<Buffer> & { resume(): unknown }>
}

function open(index: number, from: Version, to: Version, method: string, path: string, length: number): Exchange {
  const target = mesh.target(index, PORT_BY_VERSION[to])
  if (from === 1) {
    const framing =
      method === 'GET' ? {} : length < 0 ? { 'transfer-encoding': 'chunked' } : { 'content-length': length }
    const outgoing = http1Request({ ...target, method, path, headers: framing, agent: false })
    outgoing.on('error', () => {})
    const response = once(outgoing, 'response').then(([incoming]) => incoming as IncomingMessage)
    if (method === 'GET') outgoing.end()
    return { request: outgoing, response }
  }
  const session = connectFrom(target.localAddress, target.host, target.port, {
    settings: { initialWindowSize: 1 << 20 },
  })
  session.on('connect', () => session.setLocalWindowSize(4 << 20))
  sessions.push(session)
  const framing = method === 'GET' || length < 0 ? {} : { 'content-length': length }
  const stream = session.request({ ':method': method, ':path': path, ...framing }, { endStream: method === 'GET' })
  stream.on('error', () => {})
  stream.on('close', () => session.close())
  return { request: stream, response: once(stream, 'response').then(() => stream) as never }
}

async function download(index: number, from: Version, to: Version, length: number): Promise<void> {
  const { response } = open(index, from, to, 'GET', `/download/${length}`, 0)
  const check = new BulkCheck()
  await check.readAll((await response) as never)
  assert.equal(check.wrongAt, -1)
  assert.equal(check.received, length)
}

async function upload(index: number, from: Version, to: Version, length: number): Promise<void> {
  const { request, response } = open(index, from, to, 'POST', '/upload', length)
  writeBulk(request as never, length)
  assert.equal(await textOf(await response), `${length} -1`)
}

async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

/** The mesh's memory must not grow while `work` runs, once it has run before. */
async function inBoundedMemory(work: (length: number) => Promise<void>, length: number): Promise<void> {
  await work(96 * MB)
  const before = mesh.beginPeak()
  await work(length)
  const growth = mesh.peak() - before
  assert.ok(growth < GROWTH_BYTES_MAX, `the mesh grew by ${Math.round(growth / MB)} MB`)
}

/** Waits until a count stands still. */
async function stalled(count: () => number): Promise<number> {
  for (let before = -1; ; ) {
    const now = count()
    if (now === before && now > 0) return now
    before = now
    await new Promise((resolve) => setTimeout(resolve, 150))
  }
}

/** 1 GB in two places, where what is kept of every piece would show; elsewhere what takes a second. */
function sizeOf(index: number, from: Version, to: Version, isUpload: boolean): number {
  const isLarge = index === 1 && from === 1 && to === 1 ? !isUpload : index === 0 && from === 2 && to === 1 && isUpload
  return isLarge ? 1000 * MB : 128 * MB
}

for (const index of [0, 1]) {
  for (const from of [1, 2] as const) {
    for (const to of [1, 2] as const) {
      const where = `from HTTP/${from} to HTTP/${to} ${index === 0 ? 'in one hop' : 'through a tunnel'}`
      const [down, up] = [sizeOf(index, from, to, false), sizeOf(index, from, to, true)]

      test(`a download of ${down / MB} MB and an upload of ${up / MB} MB stream ${where}`, TEST, async () => {
        await inBoundedMemory((length) => download(index, from, to, length), down)
        await inBoundedMemory((length) => upload(index, from, to, length), up)
      })

      test(`a client that does not read stops the server ${where}`, TEST, async () => {
        const length = 400 * MB
        stallWritten = 0
        const before = mesh.beginPeak()
        const { request, response } = open(index, from, to, 'GET', `/stall/${length}`, 0)
        await response
        const written = await stalled(() => stallWritten)
        assert.ok(written < STALL_BYTES_MAX, `the server was stopped after ${written / MB} MB`)
        assert.ok(mesh.peak() - before < GROWTH_BYTES_MAX)
        request.destroy()
      })

      test(`a server that does not read stops the client, and gets everything in the end ${where}`, TEST, async () => {
        const length = 96 * MB
        let written = 0
        const before = mesh.beginPeak()
        const { request, response } = open(index, from, to, 'POST', '/unread', length)
        writeBulk(request as never, length, (bytes) => {
          written = bytes
        })
        const stopped = await stalled(() => written)
        assert.ok(stopped < STALL_BYTES_MAX, `the client was stopped after ${stopped / MB} MB`)
        assert.ok(mesh.peak() - before < GROWTH_BYTES_MAX)
        unread!.resume()
        assert.equal(await textOf(await response), `${length} -1`)
      })

      test(`what is written in drops comes in drops, both ways ${where}`, TEST, async () => {
        const { request, response } = open(index, from, to, 'POST', '/echo', -1)
        request.write('drop 0')
        const stream = await response
        const iterator = stream[Symbol.asyncIterator]()
        for (let i = 0; i < 20; i++) {
          assert.equal(((await iterator.next()).value as Buffer).toString(), `drop ${i}`)
          request.write(`drop ${i + 1}`)
        }
        request.end()
        assert.equal(((await iterator.next()).value as Buffer).toString(), 'drop 20')
        assert.equal((await iterator.next()).done, true)
      })
    }
  }

  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`a client that half-closes behind its request gets all of the response ${where}`, TEST, async () => {
    for (const port of [BULK_1, BULK_2]) {
      const talk = new Talk(mesh.target(index, port))
      talk.send('GET /download/1000000 HTTP/1.1\r\nhost: web\r\n\r\n')
      talk.socket.end()
      await talk.end()
      assert.equal(talk.error, '')
      assert.equal(talk.text.slice(talk.text.indexOf('\r\n\r\n') + 4).length, 1_000_000)
    }
  })

  test(`bytes of TCP stream both ways, with the half-close of each side ${where}`, TEST, async () => {
    await inBoundedMemory(async (length) => {
      const socket = connect({ ...mesh.target(index, BULK_TCP), allowHalfOpen: true })
      writeBulk(socket, length)
      const check = new BulkCheck()
      await check.readAll(socket)
      assert.equal(check.wrongAt, -1)
      assert.equal(check.received, length)
    }, 128 * MB)
  })
}
