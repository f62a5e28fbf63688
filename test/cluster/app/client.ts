/** HTTP clients of the test application: one request after the other, and steady load over kept connections. */
import { Agent, request } from 'node:http'
import { inputEnded } from './stream.ts'

export interface Response {
  readonly status: number
  readonly body: string
}

export interface GetOptions {
  readonly count: number
  /** As `name: value`. */
  readonly headers: readonly string[]
  readonly timeoutMs: number
}

/** Longest wait of one request under load; a pause of the mesh that is longer counts as a failure. */
const LOAD_TIMEOUT_MS = 10_000

/** Failures that a report of `load` tells of by their message. */
const REASONS_MAX = 10

/** Prints each response, `{"status", "body"}` or `{"error"}`, on a line. */
export async function get(url: string, { count, headers, timeoutMs }: GetOptions): Promise<void> {
  const agent = new Agent({ keepAlive: true })
  for (let i = 0; i < count; i++) {
    try {
      console.log(JSON.stringify(await ask(url, agent, headers, timeoutMs)))
    } catch (error) {
      console.log(JSON.stringify({ error: (error as Error).message }))
    }
  }
  agent.destroy()
}

/** Asks as fast as answers come, and prints `{"requests", "failed", "reasons", "versions"}`. */
export async function load(url: string, options: { seconds: number; connectionCount: number }): Promise<void> {
  const { seconds, connectionCount } = options
  const agent = new Agent({ keepAlive: true, maxSockets: connectionCount })
  const reasons: string[] = []
  const versions: Record<string, number> = {}
  let requestCount = 0
  let failedCount = 0
  let isOver = false
  const end = (): void => {
    isOver = true
  }
  // Who does not know how long says 0, and ends the input.
  if (seconds === 0) void inputEnded().then(end)
  else setTimeout(end, seconds * 1000)
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
  const loop = async (): Promise<void> => {
    while (!isOver) {
      requestCount++
      try {
        const { status, body } = await ask(url, agent, [], LOAD_TIMEOUT_MS)
        if (status !== 200) throw new Error(`status ${status}: ${body.slice(0, 200)}`)
        const { version } = JSON.parse(body) as { version: string }
        versions[version] = (versions[version] ?? 0) + 1
      } catch (error) {
        failedCount++
        if (reasons.length < REASONS_MAX) reasons.push(`${new Date().toISOString()} ${(error as Error).message}`)
      }
    }
  }
  await Promise.all(Array.from({ length: connectionCount }, loop))
  agent.destroy()
  console.log(JSON.stringify({ requests: requestCount, failed: failedCount, reasons, versions }))
  process.exit(0)
}

function ask(url: string, agent: Agent, headers: readonly string[], timeoutMs: number): Promise<Response> {
  return new Promise((resolve, reject) => {
    const pairs = headers.map((header) => header.split(/:\s*/, 2) as [string, string])
    const call = request(url, { agent, headers: Object.fromEntries(pairs), timeout: timeoutMs }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
      })
      response.on('end', () => resolve({ status: response.statusCode!, body: body.trim() }))
      response.on('error', reject)
    })
    call.on('timeout', () => call.destroy(new Error(`no answer within ${timeoutMs} ms`)))
    call.on('error', reject)
    call.end()
  })
}
