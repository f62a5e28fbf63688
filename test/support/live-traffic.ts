/**
 * Requests from inside a pod, one after the other for as long as the test likes, and their tally: the test's end of
 * live-client.ts.
 */
import { createInterface, type Interface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Child } from '../../src/cli/demo/children.ts'

const CLIENT = fileURLToPath(new URL('./live-client.ts', import.meta.url))

export interface TrafficOptions {
  readonly url: string
  /** A connection for every request, or one for all. */
  readonly isFresh: boolean
  /** Pause between requests. 0 goes on at once. */
  readonly pauseMs?: number
}

/** What has been seen since the start. */
export interface Tally {
  readonly requests: number
  /** Answers by status code, failures without an answer by error code. */
  readonly outcomes: Readonly<Record<string, number>>
  /** Connections opened. */
  readonly connections: number
  /** The newest outcome. */
  readonly last: string
}

type StartProgram = (command: [string, ...string[]], onOutput: (output: Readable) => void) => Child

export class Traffic {
  private readonly child: Child
  private readonly lines: Interface
  private readonly waiting: ((tally: Tally) => void)[] = []

  constructor(start: StartProgram, options: TrafficOptions) {
    let lines: Interface | null = null
    this.child = start([process.execPath, CLIENT, JSON.stringify(options)], (output) => {
      lines = createInterface({ input: output })
    })
    this.lines = lines!
    this.lines.on('line', (line) => this.waiting.shift()?.(JSON.parse(line) as Tally))
  }

  /** The tally now. */
  tally(): Promise<Tally> {
    return new Promise((resolve, reject) => {
      this.waiting.push(resolve)
      this.child.input.write('tally\n')
      void this.child.ended.then((description) => reject(new Error(`the client ended: ${description}`)))
    })
  }

  /** Lets the request under way finish, ends the client, and returns the last tally. */
  async stop(): Promise<Tally> {
    const tally = new Promise<Tally>((resolve) => this.waiting.push(resolve))
    this.child.input.end('stop\n')
    const last = await tally
    await this.child.end()
    return last
  }
}
