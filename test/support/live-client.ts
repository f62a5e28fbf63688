/**
 * Sends GET requests one after the other and counts what comes back, until standard input says `stop` or ends; for a URL
 * `tcp://HOST:PORT` it says a line on a new TCP connection each time, and counts `echo` when it comes back.
 * `tally` and `stop` are answered with one line of JSON (live-traffic.ts). A program of its own: it runs inside a pod.
 */
import http from 'node:http'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import type { TrafficOptions } from './live-traffic.ts'

const { url, isFresh, pauseMs = 0 } = JSON.parse(process.argv[2]!) as TrafficOptions
/** An answer that takes longer is a failure. No machine is so slow; what is lost does not come later either. */
const TIMEOUT_MS = 30_000

const agent = new http.Agent({ keepAlive: !isFresh, maxSockets: 1 })
const outcomes: Record<string, number> = {}
let requests = 0
let connections = 0
let last = ''
let isStopped = false

function request(): Promise<string> {
  return new Promise((resolve) => {
    const sent = http.get(url, { agent, timeout: TIMEOUT_MS }, (response) => {
      response.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'unknown'))
      response.on('end', () => resolve(String(response.statusCode)))
      response.resume()
    })
    sent.on('socket', (socket) => {
      if (!sent.reusedSocket && socket.connecting) connections++
    })
    sent.on('timeout', () => sent.destroy(Object.assign(new Error('no answer in time'), { code: 'TIMEOUT' })))
    sent.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'unknown'))
  })
}

function echo(): Promise<string> {
  return new Promise((resolve) => {
    const { hostname, port } = new URL(url)
    const text = `${++connections}\n`
    let heard = ''
    const socket = connect({ host: hostname, port: Number(port), timeout: TIMEOUT_MS }, () => socket.write(text))
    socket.on('data', (bytes) => {
      heard += bytes
      if (heard.endsWith(text)) socket.end()
    })
    socket.on('timeout', () => socket.destroy(Object.assign(new Error('no answer in time'), { code: 'TIMEOUT' })))
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'unknown'))
    socket.on('close', () => resolve(heard.endsWith(text) ? 'echo' : 'closed'))
  })
}

const once = url.startsWith('tcp:') ? echo : request

function print(): void {
  console.log(JSON.stringify({ requests, outcomes, connections, last }))
}

const input = createInterface({ input: process.stdin })
input.on('line', (line) => {
  if (line === 'stop') isStopped = true
  else print()
})
input.on('close', () => {
  isStopped = true
})

while (!isStopped) {
  last = await once()
  requests++
  outcomes[last] = (outcomes[last] ?? 0) + 1
  if (pauseMs > 0) await delay(pauseMs)
}
print()
process.exit(0)
