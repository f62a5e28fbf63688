/** Our end of deploy/demo/hands.ts: makes calls from inside a pod's or node's namespace. */
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { WeftError } from '../../base/errors.ts'
import type { Child } from './children.ts'

export interface HttpOrder {
  readonly host: string
  readonly port: number
  readonly path: string
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly timeoutMs?: number
  /** Opens a connection for each request. */
  readonly isFresh?: boolean
  readonly repeat?: number
}

/** `status` 0 when there was no answer; `error` says why. */
export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[]>>
  readonly body: string
  readonly error?: string
}

export interface TcpOrder {
  readonly host: string
  readonly port: number
  /** Sent at once; null waits for the other side to speak. */
  readonly line: string | null
  readonly timeoutMs?: number
}

/** What came up to the first end of line; `error` is empty when a whole line came. */
export interface TcpAnswer {
  readonly received: string
  readonly firstByteMs: number | null
  readonly error: string
}

/** Longest time for one order, however many requests it has. */
const ORDER_TIMEOUT_MS = 30_000

interface Waiting {
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: WeftError) => void
  readonly timer: NodeJS.Timeout
}

export class Hands {
  private readonly name: string
  private readonly child: Child
  private readonly waiting = new Map<number, Waiting>()
  private nextId = 1

  /** `start` starts the process, with `onOutput` taking its standard output. */
  constructor(name: string, start: (onOutput: (output: Readable) => void) => Child) {
    this.name = name
    this.child = start((output) => {
      createInterface({ input: output }).on('line', (line) => this.take(line))
    })
    // `ended` never rejects; whoever waits for an answer is told.
    void this.child.ended.then((description) => {
      for (const { reject, timer } of this.waiting.values()) {
        clearTimeout(timer)
        reject(this.failure(`the process has ended (${description})`))
      }
      this.waiting.clear()
    })
  }

  async http(order: HttpOrder): Promise<readonly HttpAnswer[]> {
    return ((await this.send({ kind: 'http', ...order })) as { answers: HttpAnswer[] }).answers
  }

  /** One request, one answer. */
  async get(order: HttpOrder): Promise<HttpAnswer> {
    return (await this.http(order))[0]!
  }

  async tcp(order: TcpOrder): Promise<TcpAnswer> {
    return (await this.send({ kind: 'tcp', ...order })) as TcpAnswer
  }

  private send(order: object): Promise<unknown> {
    if (!this.child.isRunning) return Promise.reject(this.failure('the process has ended'))
    const id = this.nextId++
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id)
        reject(this.failure('no answer in time'))
      }, ORDER_TIMEOUT_MS)
      this.waiting.set(id, { resolve, reject, timer })
      this.child.input.write(`${JSON.stringify({ id, ...order })}\n`)
    })
  }

  private take(line: string): void {
    const { id, ...answer } = JSON.parse(line) as { id: number }
    const waiting = this.waiting.get(id)
    if (waiting === undefined) return
    this.waiting.delete(id)
    clearTimeout(waiting.timer)
    waiting.resolve(answer)
  }

  private failure(reason: string): WeftError {
    return new WeftError('WEFT_CLOSED', `nothing can be asked from inside ${this.name}: ${reason}`)
  }
}
