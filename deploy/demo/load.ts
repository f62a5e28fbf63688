/**
 * The client: asks for pages, sends lines to the TCP services, and reports each second what it saw, one JSON line on
 * standard output: `{"target","requests","errors","latenciesMs"}`.
 */
import { connect } from 'node:net'
import { call, lookup, sourceAddress } from './pod.ts'

/** Pages per second: enough for percentiles within seconds, little enough for a laptop. */
const PAGES_PER_SECOND = Number(process.env['PAGES_PER_SECOND'] ?? '25')
const TCP_PER_SECOND = 5
const TIMEOUT_MS = 5000

/** Requests and conversations under way. */
let underWay = 0

class Tally {
  readonly target: string
  private requests = 0
  private errors = 0
  private latenciesMs: number[] = []
  private lastError = ''

  constructor(target: string) {
    this.target = target
  }

  add(startedAtMs: number, error: unknown): void {
    underWay--
    this.requests++
    if (error === null) this.latenciesMs.push(Math.round((performance.now() - startedAtMs) * 100) / 100)
    else {
      this.errors++
      this.lastError = String(error)
    }
  }

  report(): void {
    const { target, requests, errors, latenciesMs, lastError } = this
    process.stdout.write(`${JSON.stringify({ target, requests, errors, latenciesMs, lastError })}\n`)
    this.requests = 0
    this.errors = 0
    this.latenciesMs = []
  }
}

const pages = new Tally('productpage')
const echo = new Tally('tcp-echo')
const greeter = new Tally('greeter')

async function askForPage(): Promise<void> {
  underWay++
  const startedAtMs = performance.now()
  try {
    const { status, body } = await call({
      host: 'productpage',
      port: 9080,
      path: '/productpage',
      timeoutMs: TIMEOUT_MS,
    })
    if (status !== 200) pages.add(startedAtMs, `status ${status}`)
    else if (body.includes('Error fetching')) pages.add(startedAtMs, 'a part of the page is missing')
    else pages.add(startedAtMs, null)
  } catch (error) {
    pages.add(startedAtMs, error)
  }
}

/** One connection: waits for `greeting` if there is one, sends `line`, expects `reply`. */
function talk(tally: Tally, host: string, port: number, greeting: string, line: string, reply: string): void {
  underWay++
  const startedAtMs = performance.now()
  const socket = connect({
    host,
    port,
    lookup,
    ...(sourceAddress === undefined ? {} : { localAddress: sourceAddress }),
  })
  let received = ''
  let isSent = greeting === ''
  let outcome: unknown = 'the connection was closed before the reply'
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no reply in time')))
  socket.on('connect', () => {
    if (isSent) socket.write(line)
  })
  socket.setEncoding('latin1')
  socket.on('data', (text: string) => {
    received += text
    if (!isSent && received.startsWith(greeting) && received.endsWith('\n')) {
      isSent = true
      received = ''
      socket.write(line)
    } else if (isSent && received.includes(reply)) {
      outcome = null
      socket.end()
    }
  })
  socket.on('error', (error) => {
    if (outcome !== null) outcome = error
  })
  socket.on('close', () => tally.add(startedAtMs, outcome))
}

function report(): void {
  for (const tally of [pages, echo, greeter]) tally.report()
}

// Each of these runs to its own end; a slow one does not hold the next back (an open loop, as users are).
const timers = [
  setInterval(() => void askForPage(), 1000 / PAGES_PER_SECOND),
  setInterval(() => {
    talk(echo, 'tcp-echo.vault', 9000, '', 'one two three\n', 'one two three\n')
    talk(greeter, 'greeter.vault', 7000, '220 ', 'NOOP\r\n', '250 4 ')
  }, 1000 / TCP_PER_SECOND),
  setInterval(report, 1000),
]

// What is under way may finish: a request cut off by us would count as an error of the mesh.
process.on('SIGTERM', () => {
  for (const timer of timers) clearInterval(timer)
  const deadlineMs = performance.now() + TIMEOUT_MS
  setInterval(() => {
    if (underWay > 0 && performance.now() < deadlineMs) return
    report()
    process.exit(0)
  }, 20)
})
