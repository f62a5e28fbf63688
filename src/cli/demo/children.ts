/**
 * The demo's long-lived processes: programs of pods, agents, the controller, tcpdump.
 *
 * Each starts inside its namespace and the demo's cgroup, before its first own instruction, and cannot outlive the demo:
 * the kernel kills it with its parent (`setpriv --pdeathsig`), and on machines without that the pipe of tether.ts does.
 * Their output goes to one log file each; the last lines are at hand when one ends unasked.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream, type WriteStream } from 'node:fs'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { WeftError } from '../../base/errors.ts'
import { SEARCH_PATH } from './shell.ts'

/** How the namespace is entered. `pod` also brings the pod's own hosts file; `node` keeps the machine's mounts. */
export type Enclosure =
  | { readonly kind: 'pod'; readonly netns: string }
  | { readonly kind: 'node'; readonly netns: string }
  | { readonly kind: 'none' }

export interface ChildOptions {
  /** Unique; names the log file. */
  readonly name: string
  readonly enclosure: Enclosure
  /** Directory of the cgroup to start in; null stays in the demo's own. */
  readonly cgroup: string | null
  readonly command: readonly [program: string, ...args: string[]]
  readonly environment: Readonly<Record<string, string>>
  /** Gets standard output in place of the log file. */
  readonly onOutput: ((output: Readable) => void) | null
}

/** Lines of a log kept for error messages. */
const LAST_LINES = 12

/** Time between asking a process to end and killing it. Agents remove their capture in it. */
const END_TIMEOUT_MS = 8000

export class Child {
  readonly name: string
  readonly input: Writable
  /** Resolves with a description of the end (`exit code 1`). */
  readonly ended: Promise<string>
  private readonly child: ChildProcess
  private readonly log: WriteStream
  private readonly lines: string[] = []
  private isEnding = false
  private hasEnded = false

  constructor(options: ChildOptions, logDirectory: string) {
    this.name = options.name
    const [program, ...args] = enclosed(options)
    this.child = spawn(program, args, {
      // A session of its own: Ctrl-C is for the demo, which then ends its processes in their order.
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      env: { PATH: SEARCH_PATH, ...options.environment },
    })
    this.log = createWriteStream(join(logDirectory, `${options.name}.log`), { flags: 'a' })
    // The log's directory goes at the end, perhaps while a last line is under way.
    this.log.on('error', () => {})
    this.input = this.child.stdin!
    this.input.on('error', () => {})
    ;(this.child.stdio[3] as Writable).on('error', () => {})
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => this.keep(text))
    if (options.onOutput === null) this.child.stdout!.setEncoding('utf8').on('data', (text: string) => this.keep(text))
    else options.onOutput(this.child.stdout!)
    this.ended = new Promise((resolve) => {
      const end = (description: string) => {
        this.hasEnded = true
        this.log.end()
        resolve(description)
      }
      this.child.on('error', (error) => end(error.message))
      this.child.on('close', (code, signal) => end(signal === null ? `exit code ${code}` : `signal ${signal}`))
    })
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  get isRunning(): boolean {
    return !this.hasEnded
  }

  /** Calls `tell` if the process ends without having been asked to. */
  whenLost(tell: (error: WeftError) => void): void {
    // `ended` never rejects, and nobody waits for this.
    void this.ended.then((description) => {
      if (this.isEnding) return
      const lines = this.lines.length === 0 ? '' : `. Its last lines:\n${this.lines.join('\n')}`
      tell(new WeftError('WEFT_CLOSED', `the demo's process ${this.name} has ended (${description})${lines}`))
    })
  }

  /** Asks the process to end, and kills it when it does not. */
  async end(): Promise<void> {
    this.isEnding = true
    if (this.hasEnded) return
    this.child.kill('SIGTERM')
    const timer = setTimeout(() => this.child.kill('SIGKILL'), END_TIMEOUT_MS)
    await this.ended
    clearTimeout(timer)
  }

  /** The last lines of its log. */
  lastLines(): string {
    return this.lines.join('\n')
  }

  private keep(text: string): void {
    if (!this.log.writableEnded) this.log.write(text)
    for (const line of text.split('\n')) if (line !== '') this.lines.push(line)
    if (this.lines.length > LAST_LINES) this.lines.splice(0, this.lines.length - LAST_LINES)
  }
}

/** Every step replaces itself by the next (`exec`), so the process that was started is the program in the end. */
function enclosed({ enclosure, cgroup, command }: ChildOptions): [string, ...string[]] {
  if (enclosure.kind === 'none') return [...command]
  const enter =
    enclosure.kind === 'pod'
      ? ['ip', 'netns', 'exec', enclosure.netns]
      : // `ip netns exec` would hide the cgroup and bpf file systems, which an agent needs.
        ['nsenter', `--net=/run/netns/${enclosure.netns}`, '--']
  const join = cgroup === null ? 'shift' : 'echo $$ >"$1/cgroup.procs" && shift'
  const steps = ['setpriv', '--pdeathsig', 'KILL', '--', ...enter, ...command]
  return ['sh', '-c', `${join} && exec "$@"`, 'sh', cgroup ?? '', ...steps]
}
