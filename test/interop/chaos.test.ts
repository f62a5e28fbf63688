/**
 * Hundreds of exchanges at once in all combinations of versions, many of which break off somewhere: clients that go away,
 * servers that cut their answer short, take connections down or answer early. Whatever arrives as complete must be what
 * was sent, who does not misbehave and shares no connection with those who do must be served, and nothing may be left.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, createServer as createHttp1Server, request as http1Request, type IncomingMessage } from 'node:http'
import * as http2 from 'node:http2'
import type { Server, Socket } from 'node:net'
import { test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, type Service } from '../../src/model/service.ts'
import { connectFrom } from '../support/http2-call.ts'
import { released } from '../support/leaks.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'
import { SeededRandom } from '../support/seeded-random.ts'
import { nodeKind, reactorKind, type TransportKind } from '../support/transports.ts'
import { patternedBytes } from '../support/web-site.ts'

const TEST = { timeout: 60_000 }
const PORT_BY_VERSION = { 1: 8801, 2: 8802 } as const
type Version = 1 | 2

const EXCHANGE_COUNT = 1200
const AT_ONCE = 40
const BODY_BYTES_MAX = 400_000
const BYTES = patternedBytes(BODY_BYTES_MAX)

/** What a server does; `kill` takes its whole connection down. */
const MODES = ['whole', 'whole', 'whole', 'chunked', 'early', 'cut', 'reset', 'kill'] as const
type Mode = (typeof MODES)[number]

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: (Server | http2.Http2Server)[] = []
const sockets = new Set<Socket>()
let agent: Agent
/** By path and version: what exchanges of HTTP/2 clients share. */
const sessions = new Map<string, http2.ClientHttp2Session>()

async function start(kind: TransportKind): Promise<void> {
  mesh = new TestMesh(2, [kind])
  agent = new Agent({ keepAlive: true, maxSockets: 20 })
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports = [
      { number: PORT_BY_VERSION[1], targetPort: PORT_BY_VERSION[1], protocol: PROTOCOL_HTTP1 },
      { number: PORT_BY_VERSION[2], targetPort: PORT_BY_VERSION[2], protocol: PROTOCOL_HTTP2 },
    ] as const
    services.push(await mesh.service(name, ports, [pod]))
    await listen(createHttp1Server(serve1), pod, PORT_BY_VERSION[1])
    const two = http2.createServer()
    two.on('stream', serve2)
    two.on('sessionError', () => {})
    await listen(two, pod, PORT_BY_VERSION[2])
  }
}

function stop(): void {
  agent.destroy()
  for (const session of sessions.values()) session.destroy()
  sessions.clear()
  mesh.close()
  for (const server of servers.splice(0)) server.close()
  for (const socket of sockets) socket.destroy()
  services.length = 0
}

async function listen(server: Server | http2.Http2Server, pod: TestPod, port: number): Promise<void> {
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, pod.appAddress)
  await once(server, 'listening')
  servers.push(server)
}

/** `/mode/bytes of the response/milliseconds before the request is read`. */
function wish(path: string): { mode: Mode; body: Buffer; pauseMs: number } {
  const [, mode, length, pauseMs] = path.split('/')
  return { mode: mode as Mode, body: BYTES.subarray(0, Number(length)), pauseMs: Number(pauseMs) }
}

function pathOf({ mode, responseBytes, pauseMs, id }: Plan): string {
  return `/${mode}/${responseBytes}/${pauseMs}/${id}`
}

function serve1(incoming: IncomingMessage, outgoing: import('node:http').ServerResponse): void {
  const { mode, body, pauseMs } = wish(incoming.url!)
  incoming.on('error', () => {})
  const answer = (): void => {
    if (mode === 'kill') {
      incoming.socket.resetAndDestroy()
      return
    }
    outgoing.writeHead(200, mode === 'chunked' || body.length === 0 ? {} : { 'content-length': body.length })
    if (mode === 'reset' || mode === 'cut') {
      outgoing.write(body.subarray(0, body.length >> 1), () => {
        if (mode === 'reset') incoming.socket.resetAndDestroy()
        else incoming.socket.end()
      })
    } else {
      outgoing.end(body)
    }
  }
  if (mode === 'early') answer()
  else incoming.on('end', answer)
  setTimeout(() => incoming.resume(), pauseMs)
}

function serve2(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): void {
  const { mode, body, pauseMs } = wish(headers[':path']!)
  stream.on('error', () => {})
  const answer = (): void => {
    if (stream.destroyed) return
    if (mode === 'kill') {
      stream.session!.destroy()
      return
    }
    stream.respond({ ':status': 200, ...(mode === 'chunked' ? {} : { 'content-length': body.length }) })
    if (mode === 'reset' || mode === 'cut') {
      stream.write(body.subarray(0, body.length >> 1), () => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR))
    } else {
      stream.end(body)
    }
  }
  if (mode === 'early') answer()
  else stream.on('end', answer)
  setTimeout(() => stream.resume(), pauseMs)
}

/** How an exchange ended for its client. */
interface Ending {
  readonly status: number
  readonly body: Buffer
  readonly isComplete: boolean
}

const BROKEN: Ending = { status: 0, body: Buffer.alloc(0), isComplete: false }

interface Plan {
  readonly id: number
  readonly index: number
  readonly from: Version
  readonly to: Version
  readonly mode: Mode
  readonly responseBytes: number
  readonly requestBytes: number
  /** The client goes away after so many milliseconds; -1 never. */
  readonly abortMs: number
  /** Both sides wait so long before they read a body. */
  readonly pauseMs: number
}

async function exchange1(plan: Plan): Promise<Ending> {
  return await new Promise((resolve) => {
    let hasGivenUp = false
    const outgoing = http1Request({
      host: mesh.vip(services[plan.index]!, 0),
      port: PORT_BY_VERSION[plan.to],
      localAddress: client.address,
      method: 'POST',
      path: pathOf(plan),
      headers:
        plan.requestBytes % 2 === 0 ? { 'content-length': plan.requestBytes } : { 'transfer-encoding': 'chunked' },
      agent,
    })
    outgoing.on('error', () => resolve(BROKEN))
    outgoing.on('response', (incoming: IncomingMessage) => {
      const chunks: Buffer[] = []
      const ending = (isComplete: boolean): Ending => ({
        status: incoming.statusCode!,
        body: Buffer.concat(chunks),
        isComplete,
      })
      setTimeout(() => incoming.on('data', (chunk: Buffer) => chunks.push(chunk)), plan.pauseMs)
      // node:http drops what nobody has read when it is told to give up, and calls that an end.
      incoming.on('end', () => resolve(ending(incoming.complete && !hasGivenUp)))
      incoming.on('error', () => resolve(ending(false)))
      incoming.on('close', () => resolve(ending(false)))
    })
    outgoing.end(BYTES.subarray(0, plan.requestBytes))
    if (plan.abortMs < 0) return
    setTimeout(() => {
      hasGivenUp = true
      outgoing.destroy()
    }, plan.abortMs)
  })
}

async function exchange2(plan: Plan): Promise<Ending> {
  // Those who share their connection with a server that is taken down share nothing with the others.
  const key = `${plan.index} ${plan.to}`
  let session = sessions.get(key)
  if (session === undefined || session.closed || session.destroyed) {
    session = connectFrom(client.address, mesh.vip(services[plan.index]!, 0), PORT_BY_VERSION[plan.to], {
      maxSessionMemory: 100,
    })
    sessions.set(key, session)
  }
  const stream = session.request({ ':method': 'POST', ':path': pathOf(plan) })
  const chunks: Buffer[] = []
  let status = 0
  let hasEnded = false
  stream.on('response', (head) => {
    status = head[':status']!
  })
  stream.on('error', () => {})
  setTimeout(() => stream.on('data', (chunk: Buffer) => chunks.push(chunk)), plan.pauseMs)
  stream.on('end', () => {
    hasEnded = true
  })
  stream.end(BYTES.subarray(0, plan.requestBytes))
  if (plan.abortMs >= 0) setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), plan.abortMs)
  await new Promise<void>((resolve) => stream.on('close', resolve))
  // node:http2 ends what it resets itself, or is reset, as well.
  return { status, body: Buffer.concat(chunks), isComplete: hasEnded && stream.rstCode === 0 }
}

/** What the proxies logged of an exchange, the client's side first. */
function recordsOf(plan: Plan): string {
  const records = mesh.nodes.flatMap(({ recorder }) => recorder.records)
  const own = records.filter(({ http }) => http?.path === pathOf(plan))
  return own.map(({ flag, details, http }) => `${flag} ${http!.status} ${details}`).join('; ')
}

/** Null when the ending is as it must be. */
function wrongness(plan: Plan, ending: Ending): string | null {
  const { status, body, isComplete } = ending
  const expected = BYTES.subarray(0, plan.responseBytes)
  if (status === 200 && isComplete) {
    const mayBeWhole =
      plan.mode !== 'kill' && (plan.responseBytes === 0 || (plan.mode !== 'cut' && plan.mode !== 'reset'))
    if (!mayBeWhole) return 'a response that was cut off looks complete'
    return body.equals(expected) ? null : `a complete response has ${body.length} bytes, or wrong ones`
  }
  if (status === 200 && !expected.subarray(0, body.length).equals(body)) return 'an incomplete response has wrong bytes'
  if (plan.abortMs >= 0) return null
  if (plan.mode === 'cut' || plan.mode === 'reset' || plan.mode === 'kill') return null
  // Of servers of HTTP/2, `kill` takes the streams of others along.
  if (plan.to === 2) return null
  return `a good exchange ended with ${status}, ${isComplete ? 'complete' : 'broken'}`
}

/** Seed 16 once left an exchange waiting for a drain that nobody owed. */
const RUNS: readonly (readonly [TransportKind, number])[] = [
  [reactorKind, 1],
  [reactorKind, 2],
  [nodeKind, 16],
]

for (const [kind, seed] of RUNS) {
  const options = { ...TEST, skip: kind.skip }
  test(`exchanges that break off disturb no others (${kind.name}, seed ${seed})`, options, async (context) => {
    await start(kind)
    context.after(stop)
    const random = new SeededRandom(seed)
    const plans: Plan[] = Array.from({ length: EXCHANGE_COUNT }, (_, id) => ({
      id,
      index: random.integer(0, 1),
      from: random.pick([1, 2] as const),
      to: random.pick([1, 2] as const),
      mode: random.pick(MODES),
      responseBytes: random.integer(0, random.boolean() ? 2000 : BODY_BYTES_MAX),
      requestBytes: random.integer(0, random.boolean() ? 2000 : BODY_BYTES_MAX),
      abortMs: random.integer(0, 3) === 0 ? random.integer(0, 20) : -1,
      pauseMs: random.boolean() ? random.integer(0, 30) : 0,
    }))
    const wrong: string[] = []
    let next = 0
    let served = 0
    const work = async (): Promise<void> => {
      for (let at = next++; at < plans.length; at = next++) {
        const plan = plans[at]!
        const ending = await (plan.from === 1 ? exchange1(plan) : exchange2(plan))
        if (ending.status === 200 && ending.isComplete) served++
        const fault = wrongness(plan, ending)
        if (fault !== null) wrong.push(`${fault}: ${JSON.stringify(plan)}; ${recordsOf(plan)}`)
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, work))
    assert.deepEqual(wrong, [])
    assert.ok(served > EXCHANGE_COUNT / 4, `${served} were served`)
    agent.destroy()
    for (const session of sessions.values()) session.destroy()
    await released([mesh.nodes[0]!.proxy, mesh.nodes[1]!.proxy])
  })
}
