/** The test's end of soak-program.ts: one such program in a pod of a live mesh. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { LiveMesh } from './live-mesh.ts'
import type { CallOrder, Tally } from './soak-program.ts'

const PROGRAM = fileURLToPath(new URL('./soak-program.ts', import.meta.url))

export class Soak {
  readonly child: ChildProcessWithoutNullStreams
  private readonly lines: AsyncIterator<string>
  private readonly ended: Promise<unknown>

  private constructor(mesh: LiveMesh, pod: string, args: readonly string[]) {
    this.child = mesh.spawnIn(pod, [process.execPath, PROGRAM, ...args])
    this.child.stderr.pipe(process.stderr)
    this.ended = new Promise((resolve) => this.child.on('close', resolve))
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]()
  }

  /** A server, when it listens. */
  static async serve(mesh: LiveMesh, pod: string, ...ports: readonly number[]): Promise<Soak> {
    const soak = new Soak(mesh, pod, ['serve', ...ports.map(String)])
    await soak.line()
    return soak
  }

  static call(mesh: LiveMesh, pod: string, order: CallOrder): Soak {
    return new Soak(mesh, pod, ['call', JSON.stringify(order)])
  }

  /** Resolves when every call holds still. */
  async reached(): Promise<void> {
    const line = await this.line()
    if (line !== 'reached') throw new Error(`the calls ended instead: ${line}`)
  }

  /** What has been seen so far. */
  async tally(): Promise<Tally> {
    this.child.stdin.write('tally\n')
    return await this.result()
  }

  /** Lets what holds still go on. */
  go(): void {
    this.child.stdin.write('go\n')
  }

  /** The tally of calls that are over. */
  async result(): Promise<Tally> {
    return JSON.parse(await this.line()) as Tally
  }

  /** Ends it at once, whatever it does. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }

  private async line(): Promise<string> {
    const { value, done } = await this.lines.next()
    if (done) throw new Error('the program has ended')
    return value
  }
}
