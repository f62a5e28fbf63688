/** A program of the test application that runs in a pod and tells as it goes: JSON lines, read while they come. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import type { Cluster } from './cluster.ts'
import { componentPath } from './components.ts'

/** What is awaited takes a second or two; a machine that does much else takes longer. */
const AWAIT_MS_MAX = 60_000

/** Twenty requests and more: by chance, of two versions one and the same answers them once in a million times. */
const STEADY_MS = 1_000

/** Between two looks at what came. */
const LOOK_MS = 10

/** What programs print; which fields there are is theirs to say. */
export interface Line {
  readonly time: number
  readonly [field: string]: unknown
}

export class PodStream {
  /** In their order. */
  readonly lines: Line[] = []
  private readonly child: ChildProcess
  private readonly title: string
  private complaint = ''

  private constructor(child: ChildProcess, title: string) {
    this.child = child
    this.title = title
    createInterface({ input: child.stdout! }).on('line', (line) => {
      if (line.startsWith('{')) this.lines.push(JSON.parse(line) as Line)
    })
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.complaint += text
    })
  }

  /** Starts it, and waits until it has told something unless `isSilent`. */
  static async start(cluster: Cluster, pod: string, args: readonly string[], isSilent = false): Promise<PodStream> {
    const [name, namespace = 'default'] = pod.split('.')
    const command = ['exec', '-i', '-n', namespace, name!, '--', '/usr/bin/node', '/app/main.ts', ...args]
    const child = spawn(componentPath('kubectl'), ['--kubeconfig', cluster.kubeconfig, ...command], { stdio: 'pipe' })
    const stream = new PodStream(child, `${args.join(' ')} in ${pod}`)
    if (!isSilent) await stream.until('the first line', () => true)
    return stream
  }

  /** The last of its lines. */
  get last(): Line {
    const line = this.lines.at(-1)
    if (line === undefined) throw new Error(`${this.title} has told nothing. ${this.complaint}`)
    return line
  }

  /** Waits for a line that satisfies `isIt`, among those from `since` on; the line. */
  async until(what: string, isIt: (line: Line) => boolean, since = 0): Promise<Line> {
    const deadline = performance.now() + AWAIT_MS_MAX
    for (;;) {
      const found = this.lines.find((line) => line.time >= since && isIt(line))
      if (found !== undefined) return found
      if (performance.now() > deadline || this.child.exitCode !== null) {
        const told = this.lines.slice(-5).map((line) => JSON.stringify(line))
        throw new Error(`${this.title}: ${what} did not come. ${[...told, this.complaint].join('\n')}`)
      }
      await delay(LOOK_MS)
    }
  }

  /** Waits until nothing else than what satisfies `isIt` has come for a while: many answers of `follow` long. */
  async steady(what: string, isIt: (line: Line) => boolean): Promise<void> {
    await this.until(what, () => isIt(this.last) && Date.now() - this.last.time > STEADY_MS)
  }

  /** Ends its input, waits until it ends, and resolves to its last line. */
  async end(): Promise<Line> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const closed = once(this.child, 'close')
      this.child.stdin!.end()
      await closed
    }
    return this.last
  }

  /** Ends it without a word. */
  kill(): void {
    this.child.kill()
  }
}
