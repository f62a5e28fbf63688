/**
 * The demo's hands inside a pod or on a node: does what it is told on standard input, one JSON object a line, and
 * answers each with one line that carries the same `id`.
 *
 *   {"id":1,"kind":"http","host":"reviews","port":9080,"path":"/reviews/0","repeat":100}   -> {"id":1,"answers":[...]}
 *   {"id":2,"kind":"tcp","host":"198.18.1.10","port":9000,"line":"hello\n"}                 -> {"id":2,"received":"..."}
 */
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { call, lookup, sourceAddress } from './pod.ts'

interface HttpOrder {
  readonly id: number
  readonly kind: 'http'
  readonly host: string
  readonly port: number
  readonly path: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly timeoutMs?: number
  readonly isFresh?: boolean
  readonly repeat?: number
}

interface TcpOrder {
  readonly id: number
  readonly kind: 'tcp'
  readonly host: string
  readonly port: number
  /** Sent at once; null waits for the other side to speak. */
  readonly line: string | null
  readonly timeoutMs?: number
}

/** Requests of one order that run at a time: the order is a sample, not a load test. */
const CONCURRENCY = 8

createInterface({ input: process.stdin }).on('line', (text) => {
  // `obey` answers for everything that can go wrong.
  void obey(JSON.parse(text) as HttpOrder | TcpOrder)
})

async function obey(order: HttpOrder | TcpOrder): Promise<void> {
  const answer = order.kind === 'http' ? await callRepeatedly(order) : await talk(order)
  process.stdout.write(`${JSON.stringify({ id: order.id, ...answer })}\n`)
}

async function callRepeatedly(order: HttpOrder): Promise<object> {
  const answers: object[] = []
  let left = order.repeat ?? 1
  const one = async (): Promise<void> => {
    while (left > 0) {
      left--
      try {
        answers.push(await call(order))
      } catch (error) {
        answers.push({ status: 0, headers: {}, body: '', error: String(error) })
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(CONCURRENCY, left) }, one))
  return { answers }
}

function talk(order: TcpOrder): Promise<object> {
  return new Promise((resolve) => {
    const startedAt = performance.now()
    const { host, port } = order
    const socket = connect({
      host,
      port,
      lookup,
      ...(sourceAddress === undefined ? {} : { localAddress: sourceAddress }),
    })
    let error = 'closed by the other side'
    let received = ''
    let firstByteMs: number | null = null
    socket.setTimeout(order.timeoutMs ?? 5000, () => socket.destroy(new Error('no answer in time')))
    socket.on('connect', () => {
      if (order.line !== null) socket.write(order.line)
    })
    socket.setEncoding('latin1')
    socket.on('data', (text: string) => {
      firstByteMs ??= performance.now() - startedAt
      received += text
      if (!received.endsWith('\n')) return
      error = ''
      socket.end()
    })
    socket.on('error', (reason) => {
      error = String(reason)
    })
    socket.on('close', () => resolve({ received, firstByteMs, error }))
  })
}
