/**
 * Clients of the test application that go on until their standard input ends, and tell what changes on the way, one
 * JSON object on a line.
 */
import { request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** Between two requests of `follow`: what a test measures by it is some hundred milliseconds. */
const FOLLOW_INTERVAL_MS = 20

/** Longest wait for an answer; a connection that is dropped silently shows as a change, too. */
const FOLLOW_TIMEOUT_MS = 5_000

/** Between two messages of `hold`. */
const HOLD_INTERVAL_MS = 50

/** Resolves when whoever started this program has nothing more to say. */
export function inputEnded(): Promise<void> {
  return new Promise((resolve) => {
    process.stdin.resume()
    process.stdin.on('end', resolve)
    process.stdin.on('error', () => resolve())
  })
}

/**
 * Asks again and again, on a connection of its own each time, and prints `{"time", "status", "version", "isMeshed"}`, or
 * `{"time", "error"}`, whenever that differs from the last answer.
 */
export async function follow(url: string, headers: Readonly<Record<string, string>>): Promise<void> {
  let isOver = false
  void inputEnded().then(() => {
    isOver = true
  })
  let last = ''
  let count = 0
  while (!isOver) {
    const seen = JSON.stringify(await look(url, headers))
    count++
    if (seen !== last) console.log(JSON.stringify({ time: Date.now(), count, ...JSON.parse(seen) }))
    last = seen
    await delay(FOLLOW_INTERVAL_MS)
  }
  process.exit(0)
}

function look(url: string, headers: Readonly<Record<string, string>>): Promise<object> {
  return new Promise((resolve) => {
    const call = request(url, { agent: false, headers, timeout: FOLLOW_TIMEOUT_MS }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
      })
      response.on('error', (error: NodeJS.ErrnoException) => resolve({ error: error.code ?? error.message }))
      response.on('end', () => resolve({ status: response.statusCode, ...factsOf(body) }))
    })
    call.on('timeout', () => call.destroy(new Error('no answer')))
    call.on('error', (error: NodeJS.ErrnoException) => resolve({ error: error.code ?? error.message }))
    call.end()
  })
}

/** Of a server of this application; nothing of others. */
function factsOf(body: string): object {
  try {
    const { version, headers } = JSON.parse(body) as { version: string; headers: Record<string, string> }
    return { version, isMeshed: headers['x-forwarded-client-cert'] !== undefined }
  } catch {
    return {}
  }
}

/**
 * One connection to an echo, which is spoken on all the time: prints `{"time", "echoed": 1}` at the first answer, and
 * `{"time", "echoed", "error"}` at the end, with `error` null when the connection lived until then.
 */
export async function hold(host: string, port: number): Promise<void> {
  const socket = connect({ host, port })
  let sentBytes = 0
  let receivedBytes = 0
  let error: string | null = null
  const tell = (): void => console.log(JSON.stringify({ time: Date.now(), echoed: receivedBytes, error }))
  socket.on('data', (bytes: Buffer) => {
    if (receivedBytes === 0) tell()
    receivedBytes += bytes.length
  })
  socket.on('error', (reason: NodeJS.ErrnoException) => {
    error = reason.code ?? reason.message
  })
  socket.on('close', () => {
    error ??= 'closed'
    tell()
    process.exit(0)
  })
  const timer = setInterval(() => {
    socket.write('.')
    sentBytes++
  }, HOLD_INTERVAL_MS)
  await inputEnded()
  clearInterval(timer)
  // What is on its way comes back.
  for (let waits = 0; receivedBytes < sentBytes && waits < 100; waits++) await delay(HOLD_INTERVAL_MS)
  if (receivedBytes < sentBytes) error = `${sentBytes - receivedBytes} bytes did not come back`
  tell()
  process.exit(0)
}
