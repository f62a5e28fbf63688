/** A long-running program of a cluster, in one of its machines: started, stopped and started again, with a log. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { childOf, type Machine } from './machine.ts'

/** etcd and the API server end within a second or two when asked; then they are killed. */
const STOP_TIMEOUT_MS = 10_000

/** How much of a log an error quotes. */
const LOG_LINES_QUOTED = 12

export class Component {
  readonly name: string
  readonly logPath: string
  private readonly machine: Machine
  private readonly args: readonly string[]
  private child: ChildProcess | null = null

  constructor(machine: Machine, name: string, args: readonly string[]) {
    const logs = join(machine.directory, 'log')
    mkdirSync(logs, { recursive: true })
    this.name = name
    this.logPath = join(logs, `${name}.log`)
    this.machine = machine
    this.args = args
  }

  get isRunning(): boolean {
    return this.child !== null && this.child.exitCode === null && this.child.signalCode === null
  }

  /** Of the program itself, as seen from outside; null when it does not run. */
  get pid(): number | null {
    return this.isRunning ? childOf(this.child!.pid!) : null
  }

  start(): void {
    if (this.isRunning) return
    this.child = this.machine.spawn(this.logPath, this.args)
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const { child } = this
    if (child === null || !this.isRunning) return
    const ended = once(child, 'exit')
    const killer = setTimeout(() => this.signal('SIGKILL'), STOP_TIMEOUT_MS)
    this.signal(signal)
    await ended
    clearTimeout(killer)
  }

  /**
   * Waits until `isReady` says so. Fails at once when the program ends, and at the end of the time, with the last lines
   * of its log.
   */
  async ready(timeoutMs: number, isReady: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!(await isReady())) {
      if (!this.isRunning) throw new Error(`${this.machine.name}/${this.name} ended. ${this.lastWords()}`)
      if (performance.now() > deadline) {
        throw new Error(
          `${this.machine.name}/${this.name} was not ready after ${timeoutMs / 1000} s. ${this.lastWords()}`,
        )
      }
      await delay(50)
    }
  }

  lastWords(): string {
    const lines = readFileSync(this.logPath, 'utf8').trimEnd().split('\n').slice(-LOG_LINES_QUOTED)
    return `Its log, ${this.logPath}, ends:\n${lines.join('\n')}`
  }

  private signal(signal: NodeJS.Signals): void {
    const pid = this.pid
    if (pid === null) this.child?.kill(signal)
    else process.kill(pid, signal)
  }
}
