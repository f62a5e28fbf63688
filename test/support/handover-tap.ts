/**
 * Sits on an agent's handover socket between it and its successor, and passes every message on, until the one comes at
 * which the test wants something to happen.
 */
import { renameSync, rmSync, statSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { HANDOVER_SOCKET } from '../../src/agent/handover.ts'

export class HandoverTap {
  /** Kinds of the messages that were passed on. */
  readonly seen: string[] = []
  private readonly path: string
  private readonly realPath: string
  private readonly server: Server
  private readonly sockets: Socket[] = []
  private isOpen = true
  private inode = 0

  private constructor(state: string, kind: string, onKind: (passOn: () => void) => void) {
    this.path = join(state, HANDOVER_SOCKET)
    this.realPath = `${this.path}-real`
    this.server = createServer((successor) => {
      const agent = createConnection(this.realPath)
      this.pass(successor, agent, kind, onKind)
      this.pass(agent, successor, kind, onKind)
    })
  }

  /**
   * `onKind` is called in place of passing the first message of that kind on: it is to kill somebody, then to `close`; or
   * to pass the message on itself, by its argument, and everything goes on.
   */
  static async open(state: string, kind: string, onKind: (passOn: () => void) => void): Promise<HandoverTap> {
    const tap = new HandoverTap(state, kind, onKind)
    renameSync(tap.path, tap.realPath)
    // Not made under the name it gets: Node would remove that with the server, also if it is another's by then.
    const own = `${tap.path}-tap`
    await new Promise<void>((resolve) => tap.server.listen(own, resolve))
    renameSync(own, tap.path)
    tap.inode = statSync(tap.path).ino
    return tap
  }

  /** Everybody sees the other go. The agent's own socket is in its place again if `isAgentAlive`. */
  close(isAgentAlive: boolean): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.server.close()
    if (statSync(this.path, { throwIfNoEntry: false })?.ino === this.inode) rmSync(this.path)
    if (isAgentAlive) renameSync(this.realPath, this.path)
    else rmSync(this.realPath, { force: true })
    for (const socket of this.sockets) socket.destroy()
  }

  private pass(from: Socket, to: Socket, kind: string, onKind: (passOn: () => void) => void): void {
    this.sockets.push(from)
    from.on('error', () => {})
    from.on('close', () => to.destroy())
    createInterface({ input: from }).on('line', (line) => {
      if (!this.isOpen) return
      const message = JSON.parse(line) as { kind: string }
      const isFirst = !this.seen.includes(message.kind)
      this.seen.push(message.kind)
      const passOn = (): void => {
        to.write(`${line}\n`)
      }
      if (message.kind === kind && isFirst) onKind(passOn)
      else passOn()
    })
  }
}
