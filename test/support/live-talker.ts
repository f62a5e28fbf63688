/** A TCP conversation with the echo program of a pod (port 9000) that stays open for as long as the test likes. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import type { LiveMesh } from './live-mesh.ts'

export class Talker {
  /** Resolves with how the connection ended: `end`, or an error code. */
  readonly ended: Promise<string>
  private readonly child: ChildProcessWithoutNullStreams
  private readonly lines: string[] = []
  private wake: () => void = () => {}
  /** All that it said has been read; a process that has exited may still have lines in the pipe. */
  private isClosed = false

  /** Connects from a pod to `host`. */
  constructor(mesh: LiveMesh, pod: string, host: string, port = 9000) {
    const script = `
      const socket = require('node:net').connect({ host: '${host}', port: ${port} })
      process.stdin.on('data', (bytes) => socket.write(bytes))
      process.stdin.on('end', () => socket.destroy())
      socket.on('data', (bytes) => process.stdout.write(bytes))
      socket.on('error', (error) => { console.log(error.code); process.exit() })
      socket.on('end', () => { console.log('end'); process.exit() })`
    this.child = mesh.spawnIn(pod, [process.execPath, '-e', script])
    let text = ''
    this.child.stdout.on('data', (bytes: Buffer) => {
      text += bytes
      const lines = text.split('\n')
      text = lines.pop()!
      this.lines.push(...lines)
      this.wake()
    })
    this.ended = new Promise((resolve) => {
      this.child.on('close', () => {
        this.isClosed = true
        this.wake()
        resolve(this.lines.at(-1) ?? 'nothing')
      })
    })
  }

  /** Sends a line and resolves with the one that comes back, or with how the connection ended. */
  async say(text: string): Promise<string> {
    const count = this.lines.length
    this.child.stdin.write(`${text}\n`)
    while (this.lines.length === count && !this.isClosed) {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
    return this.lines[count] ?? this.lines.at(-1) ?? 'nothing'
  }

  async close(): Promise<void> {
    this.child.stdin.end()
    await this.ended
  }
}
