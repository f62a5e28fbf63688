/** HTTP clients that others wrote, each sending one request and telling what came back. */
import { type ChildProcess, execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request as http1Request, type IncomingMessage } from 'node:http'
import type * as http2 from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connectFrom, Http2Call } from './http2-call.ts'

/** Where and from where. */
export interface Target {
  readonly host: string
  readonly port: number
  /** Of the client's pod. */
  readonly localAddress: string
}

export interface WebRequest {
  readonly method?: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Buffer
  /** Without a length: chunked in HTTP/1. */
  readonly isStreamed?: boolean
  readonly trailers?: Readonly<Record<string, string>>
}

export interface WebReply {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly trailers: ReadonlyMap<string, string>
  readonly informational: readonly number[]
  readonly body: Buffer
}

export interface WebClient {
  readonly name: string
  readonly version: 1 | 2
  readonly programs: readonly string[]
  readonly sendsTrailers: boolean
  /** HTTP/1 has no trailers behind a body with a length, and curl reads no further than the length. */
  readonly seesTrailersAfterLength: boolean
  /** Needs two runs for a request: not every request that others make is worth that. */
  readonly isSlow: boolean
  send(target: Target, request: WebRequest): Promise<WebReply>
  close(): void
}

/** A client gives up after this time. */
const TIMEOUT_S = 30

function temporaryPath(): string {
  return join(tmpdir(), `weft-interop-${randomUUID()}`)
}

// --- curl ---

export function curl(version: 1 | 2): WebClient {
  return {
    name: 'curl',
    version,
    programs: ['curl'],
    sendsTrailers: false,
    seesTrailersAfterLength: false,
    isSlow: false,
    send: (target, request) => sendByCurl(version, target, request),
    close: () => {},
  }
}

async function sendByCurl(version: 1 | 2, target: Target, request: WebRequest): Promise<WebReply> {
  const { method = 'GET', path, headers = {}, body, isStreamed = false } = request
  const name = temporaryPath()
  const args = ['-sS', '--max-time', String(TIMEOUT_S), '--interface', target.localAddress, '-D', `${name}.head`]
  args.push(version === 2 ? '--http2-prior-knowledge' : '--http1.1')
  if (method === 'HEAD') args.push('-I', '-o', '/dev/null')
  else args.push('-X', method)
  for (const [header, value] of Object.entries(headers)) args.push('-H', `${header}: ${value}`)
  if (body !== undefined) {
    writeFileSync(`${name}.body`, body)
    if (isStreamed) args.push('-T', '-')
    else args.push('--data-binary', `@${name}.body`, '-H', 'content-type: application/octet-stream')
  }
  args.push(`http://${target.host}:${target.port}${path}`)
  try {
    const output = await runProgram('curl', args, isStreamed ? body : undefined)
    return { ...parseHeads(readFileSync(`${name}.head`, 'latin1')), body: output }
  } finally {
    for (const suffix of ['head', 'body']) rmSync(`${name}.${suffix}`, { force: true })
  }
}

/** Everything that curl wrote as heads: interim ones, the final one, trailers. */
function parseHeads(text: string): Omit<WebReply, 'body'> {
  const informational: number[] = []
  let status = 0
  let headers = new Map<string, string>()
  const trailers = new Map<string, string>()
  let isAfterHead = false
  for (const line of text.split('\r\n')) {
    const first = /^HTTP\/[0-9.]+ ([0-9]{3})/.exec(line)
    if (first !== null) {
      if (status !== 0) informational.push(status)
      status = Number(first[1])
      headers = new Map()
      isAfterHead = false
    } else if (line === '') {
      isAfterHead = true
    } else {
      const colon = line.indexOf(':')
      const into = isAfterHead ? trailers : headers
      into.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim())
    }
  }
  return { status, headers, trailers, informational }
}

/** Standard output of a program that ends well. */
export async function runProgram(name: string, args: readonly string[], input?: Buffer): Promise<Buffer> {
  let child: ChildProcess | undefined
  const output = new Promise<Buffer>((resolve, reject) => {
    const options = { maxBuffer: 64 << 20, encoding: 'buffer', timeout: (TIMEOUT_S + 5) * 1000 } as const
    child = execFile(name, [...args], options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${name}: ${stderr.toString().trim() || error.message}`))
    })
  })
  // A program that has ended takes no more input, and its status says enough.
  child!.stdin!.on('error', () => {})
  child!.stdin!.end(input)
  return await output
}

// --- nghttp ---

/** Its ends of heads and trailers are read from its log, its bodies in a run of their own. */
export function nghttp(open: (target: Target) => Promise<string>): WebClient {
  return {
    name: 'nghttp',
    version: 2,
    programs: ['nghttp'],
    sendsTrailers: true,
    seesTrailersAfterLength: true,
    isSlow: true,
    async send(target, request) {
      const { method = 'GET', path, headers = {}, body, isStreamed = false, trailers = {} } = request
      const file = temporaryPath()
      const args = ['-t', String(TIMEOUT_S), '-H', `:method: ${method}`]
      for (const [header, value] of Object.entries(headers)) args.push('-H', `${header}: ${value}`)
      for (const [header, value] of Object.entries(trailers)) args.push('--trailer', `${header}: ${value}`)
      if (isStreamed) args.push('--no-content-length')
      if (body !== undefined) {
        writeFileSync(file, body)
        args.push('-d', file)
      }
      const url = `http://${await open(target)}${path}`
      try {
        const log = (await runProgram('nghttp', ['-nv', ...args, url])).toString('latin1')
        const output = method === 'HEAD' ? Buffer.alloc(0) : await runProgram('nghttp', [...args, url])
        return { ...parseLog(log), body: output }
      } finally {
        rmSync(file, { force: true })
      }
    },
    close: () => {},
  }
}

/** Fields are logged one a line before the frame that they came in. */
function parseLog(log: string): Omit<WebReply, 'body'> {
  let status = 0
  const informational: number[] = []
  const headers = new Map<string, string>()
  const trailers = new Map<string, string>()
  let isAfterHead = false
  for (const [, name, value] of log.matchAll(/recv \(stream_id=[0-9]+\) (:?[^: ]+): ([^\n]*)|recv DATA frame/g)) {
    if (name === undefined) isAfterHead = true
    else if (name === ':status') {
      if (status !== 0) informational.push(status)
      status = Number(value)
    } else (isAfterHead ? trailers : headers).set(name, value!)
  }
  return { status, headers, trailers, informational }
}

// --- Node ---

export function nodeHttp1(): WebClient {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  return {
    name: 'node:http',
    version: 1,
    programs: [],
    sendsTrailers: true,
    seesTrailersAfterLength: false,
    isSlow: false,
    async send(target, { method = 'GET', path, headers = {}, body, isStreamed = false, trailers }) {
      const informational: number[] = []
      const framing: Record<string, string> =
        body === undefined
          ? {}
          : isStreamed || trailers !== undefined
            ? { 'transfer-encoding': 'chunked' }
            : { 'content-length': String(body.length) }
      const outgoing = http1Request({ ...target, method, path, headers: { ...framing, ...headers }, agent })
      outgoing.on('information', ({ statusCode }) => informational.push(statusCode))
      if (body !== undefined) outgoing.write(body)
      if (trailers !== undefined) outgoing.addTrailers(trailers)
      outgoing.end()
      const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
      const chunks: Buffer[] = []
      for await (const chunk of incoming) chunks.push(chunk as Buffer)
      return {
        status: incoming.statusCode!,
        headers: new Map(Object.entries(incoming.headers).map(([name, value]) => [name, String(value)])),
        trailers: new Map(Object.entries(incoming.trailers).map(([name, value]) => [name, String(value)])),
        informational,
        body: Buffer.concat(chunks),
      }
    },
    close: () => agent.destroy(),
  }
}

export function nodeHttp2(): WebClient {
  const sessions = new Map<string, http2.ClientHttp2Session>()
  return {
    name: 'node:http2',
    version: 2,
    programs: [],
    sendsTrailers: true,
    seesTrailersAfterLength: true,
    isSlow: false,
    async send(target, { method = 'GET', path, headers = {}, body, isStreamed = false, trailers }) {
      const key = `${target.host}:${target.port}`
      let session = sessions.get(key)
      if (session === undefined || session.destroyed || session.closed) {
        // By default a session that holds 10 MB refuses its own next stream.
        session = connectFrom(target.localAddress, target.host, target.port, { maxSessionMemory: 100 })
        sessions.set(key, session)
      }
      const length: http2.OutgoingHttpHeaders =
        body === undefined || isStreamed ? {} : { 'content-length': body.length }
      const call = new Http2Call(
        session,
        { ':method': method, ':path': path, ...length, ...headers },
        { waitForTrailers: trailers !== undefined, endStream: body === undefined && trailers === undefined },
      )
      if (trailers !== undefined) call.stream.on('wantTrailers', () => call.stream.sendTrailers(trailers))
      if (body !== undefined || trailers !== undefined) call.stream.end(body)
      const head = await call.head
      const bytes = await call.bytes()
      return {
        status: head[':status']!,
        headers: new Map(Object.entries(head).map(([name, value]) => [name, String(value)])),
        trailers: new Map(Object.entries(call.trailers ?? {}).map(([name, value]) => [name, String(value)])),
        informational: call.informational.map((one) => Number(one[':status'])),
        body: bytes,
      }
    },
    close: () => {
      for (const session of sessions.values()) session.destroy()
    },
  }
}
