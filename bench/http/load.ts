/** Load on a system: wrk for HTTP/1.1, h2load for HTTP/2 and for a fixed rate, and connections that do nothing. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import * as tls from 'node:tls'
import { type Address, BENCH_HOST, type Certificates, formatAddress, LOAD_PATH, SERVER_NAME } from '../peers/work.ts'
import { LOAD_CORE } from './programs.ts'

/** What a run of a load program measured. */
export interface LoadResult {
  readonly requests: number
  readonly durationUs: number
  readonly bytes: number
  readonly failed: number
  readonly p50Us: number
  readonly p99Us: number
}

/** Headers of every request, as a browser's request through a few services has them. */
const HEADERS: readonly (readonly [string, string])[] = [
  ['accept', 'application/json'],
  ['accept-encoding', 'gzip, deflate, br'],
  ['user-agent', 'bench/1.0 (compatible; like Gecko)'],
  ['x-request-id', '1f3870be-274f-46c8-9b3a-3b0f4f2b6f1c'],
  ['traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'],
  ['cookie', 'session=9a8b7c6d5e4f; theme=dark'],
]

export interface WrkOptions {
  readonly connections: number
  readonly isPost?: boolean
  readonly isClosing?: boolean
  readonly path?: string
}

export async function runWrk(address: Address, seconds: number, options: WrkOptions): Promise<LoadResult> {
  const { connections, isPost = false, isClosing = false, path = LOAD_PATH } = options
  const headers = HEADERS.flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  if (isClosing) headers.push('-H', 'connection: close')
  const text = await output('wrk', [
    ...['-t1', `-c${connections}`, `-d${seconds}s`, '-s', join(import.meta.dirname, 'wrk.lua')],
    ...['-H', `Host: ${BENCH_HOST}`, ...headers, `http://${formatAddress(address)}${path}`],
    ...(isPost ? ['--', 'post'] : []),
  ])
  return parseWrk(text)
}

export function parseWrk(text: string): LoadResult {
  const line = /^RESULT (\{.*\})$/m.exec(text)?.[1]
  if (line === undefined) throw new Error(`wrk printed no result: ${text.trim().slice(-300)}`)
  return JSON.parse(line) as LoadResult
}

export interface H2loadOptions {
  readonly clients: number
  /** 0 is HTTP/1.1. */
  readonly streams: number
  /** Requests per second of all clients; 0 is as many as go through. */
  readonly rate?: number
  readonly isGrpc?: boolean
}

/** A gRPC message of 64 bytes behind its five bytes of framing, for h2load to send. */
export const GRPC_BODY = Buffer.concat([Buffer.from([0, 0, 0, 0, 64]), Buffer.alloc(64, 'x')])

/** `directory` is for the log of all requests, from which the percentiles come, and for the body of gRPC requests. */
export async function runH2load(
  address: Address,
  seconds: number,
  directory: string,
  options: H2loadOptions,
): Promise<LoadResult> {
  const { clients, streams, rate = 0, isGrpc = false } = options
  const log = join(directory, 'h2load.log')
  const headers = HEADERS.flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  if (isGrpc) headers.push('-H', 'content-type: application/grpc', '-H', 'te: trailers')
  const path = isGrpc ? '/service-08/grpc' : LOAD_PATH
  rmSync(log, { force: true })
  const text = await output('h2load', [
    ...['-t1', `-c${clients}`, `--log-file=${log}`, ...headers],
    ...(streams === 0 ? ['--h1'] : [`-m${streams}`]),
    ...['-H', `:authority: ${BENCH_HOST}`],
    // By number: at a rate, h2load does not end when its time is over.
    ...(rate > 0 ? [`--rps=${rate / clients}`, `-n${rate * seconds}`] : [`-D${seconds}`]),
    ...(isGrpc ? ['-d', join(directory, 'grpc-body')] : []),
    `http://${formatAddress(address)}${path}`,
  ])
  return parseH2load(text, readFileSync(log, 'utf8'))
}

/** `log` has a line per request: start, status, microseconds until the end of the response. */
export function parseH2load(text: string, log: string): LoadResult {
  const requests = /^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored/m.exec(
    text,
  )
  const finished = /^finished in ([0-9.]+)(us|ms|s|m)\b/m.exec(text)
  const traffic = /^traffic: .*\((\d+)\) total/m.exec(text)
  if (requests === null || finished === null) throw new Error(`h2load printed no result: ${text.trim().slice(-300)}`)
  const times = log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => Number(line.split('\t')[2]))
    .sort((a, b) => a - b)
  return {
    requests: Number(requests[1]),
    durationUs: Number(finished[1]) * UNIT_US[finished[2]!]!,
    bytes: Number(traffic?.[1] ?? 0),
    failed: Number(requests[2]) + Number(requests[3]),
    p50Us: percentile(times, 0.5),
    p99Us: percentile(times, 0.99),
  }
}

const UNIT_US: Readonly<Record<string, number>> = { us: 1, ms: 1e3, s: 1e6, m: 6e7 }

/** Of ascending values; 0 of none. */
export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

async function output(program: string, args: readonly string[]): Promise<string> {
  const child = spawn('taskset', ['-c', String(LOAD_CORE), program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const pieces: Buffer[] = []
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece))
  child.stderr.on('data', (piece: Buffer) => pieces.push(piece))
  const [code] = (await once(child, 'close')) as [number | null]
  const text = Buffer.concat(pieces).toString()
  if (code !== 0) throw new Error(`${program} failed: ${text.trim().slice(-300)}`)
  return text
}

// --- connections that do nothing ---

/** Connections opened at a time: more would only make the system open more upstream connections. */
const OPENING = 50

/** Opens connections, each with one request behind it; returns how to close them. */
export async function openIdleHttp({ host, port }: Address, count: number): Promise<() => void> {
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: Infinity, scheduling: 'fifo' })
  const headers = { host: BENCH_HOST }
  const agents: Agent[] = [agent]
  await inGroups(count, async () => {
    // An agent of its own per connection, or the next request would take the last one's.
    const own = new Agent({ keepAlive: true, maxSockets: 1 })
    agents.push(own)
    const request = get({ agent: own, host, port, path: LOAD_PATH, headers })
    const [response] = (await once(request, 'response')) as [NodeJS.ReadableStream]
    response.resume()
    await once(response, 'end')
  })
  return () => {
    for (const each of agents) each.destroy()
  }
}

const HTTP2_PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0', 'latin1')

/** Opens mutual TLS connections and says HTTP/2's first words on those where it was agreed on. */
export async function openIdleTls(
  { host, port }: Address,
  count: number,
  certificates: Certificates,
): Promise<() => void> {
  const secureContext = tls.createSecureContext({
    ca: readFileSync(certificates.root),
    cert: readFileSync(certificates.client.certificate),
    key: readFileSync(certificates.client.key),
  })
  const sockets: tls.TLSSocket[] = []
  await inGroups(count, async () => {
    const socket = tls.connect({
      host,
      port,
      servername: SERVER_NAME,
      secureContext,
      ALPNProtocols: ['h2', 'http/1.1'],
    })
    sockets.push(socket)
    await once(socket, 'secureConnect')
    if (socket.alpnProtocol === 'h2') socket.write(HTTP2_PREFACE)
    socket.on('error', () => {}).resume()
  })
  await delay(200)
  return () => {
    for (const socket of sockets) socket.destroy()
  }
}

async function inGroups(count: number, open: () => Promise<void>): Promise<void> {
  for (let done = 0; done < count; done += OPENING) {
    await Promise.all(Array.from({ length: Math.min(OPENING, count - done) }, open))
  }
}
