/** Starts the programs of the bench, each on one core, and ends exactly those, by their process ids. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Address } from '../peers/work.ts'

/** Core of the proxies under test; everything else runs on the other. */
export const PROXY_CORE = 1
export const LOAD_CORE = 0

const START_TIMEOUT_MS = 10_000
const END_TIMEOUT_MS = 2_000

/** Every program that runs, so that nothing outlives the bench. */
const running = new Set<Program>()

export class Program {
  readonly pid: number
  readonly child: ChildProcess
  private readonly name: string
  private readonly logPath: string

  /** `taskset` replaces itself by the program, so the id is the program's own. */
  constructor(core: number, argv: readonly string[], logPath: string) {
    const log = openSync(logPath, 'a')
    this.name = argv[0]!
    this.logPath = logPath
    this.child = spawn('taskset', ['-c', String(core), ...argv], { stdio: ['pipe', 'pipe', log] })
    closeSync(log)
    this.child.on('error', () => {})
    // A program that has ended takes no more input, and that is no failure of the bench.
    this.child.stdin!.on('error', () => {})
    this.child.stdout!.resume()
    this.pid = this.child.pid ?? -1
    running.add(this)
  }

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null
  }

  /** Waits until something listens at `address`. Rejects with the program's own words when it ends before. */
  async listening(address: Address): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS
    while (Date.now() < deadline && !this.hasEnded) {
      if (await isListening(address)) return
      await delay(20)
    }
    throw new Error(`${this.name} does not listen at ${address.host}:${address.port}: ${this.lastWords}`)
  }

  /** The end of what it wrote to standard error. */
  get lastWords(): string {
    return readFileSync(this.logPath, 'utf8').trim().slice(-600)
  }

  async end(): Promise<void> {
    running.delete(this)
    if (this.hasEnded || this.pid < 0) return
    const ended = once(this.child, 'exit')
    this.child.kill('SIGTERM')
    const hard = setTimeout(() => this.child.kill('SIGKILL'), END_TIMEOUT_MS)
    await ended
    clearTimeout(hard)
  }
}

/** For the end of the bench, however it comes. */
export function endAll(): void {
  for (const program of running) if (!program.hasEnded) program.child.kill('SIGKILL')
}

export function findProgram(name: string): string | null {
  try {
    return execFileSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' }).trim()
  } catch {
    return null
  }
}

async function isListening({ host, port }: Address): Promise<boolean> {
  const socket = connect(port, host)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
