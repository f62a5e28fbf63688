/**
 * One demo at a time on a machine. The lock is an abstract Unix socket: the kernel frees it with the process, however
 * that ends, and it answers who holds it.
 */
import { connect, createServer, type Server } from 'node:net'
import { WeftError } from '../../base/errors.ts'

export interface DemoLock {
  release(): Promise<void>
}

/** Takes the lock `name`. Rejects when another process holds it, with that process's id. */
export async function takeLock(name: string): Promise<DemoLock> {
  const path = `\0${name}`
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.end(`${process.pid}\n`)
  })
  if (!(await listen(server, path))) {
    const holder = await ask(path)
    throw new WeftError(
      'WEFT_CONFIG',
      `a demo is already running (process ${holder}): look at it there, or end it first (kill -TERM ${holder})`,
    )
  }
  server.unref()
  return {
    release: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
      }),
  }
}

function listen(server: Server, path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(false)
      else reject(new WeftError('WEFT_SYSCALL', 'the lock of the demo cannot be taken', error))
    })
    server.listen(path, () => resolve(true))
  })
}

/** Process id of the holder; `unknown` when it does not say. */
function ask(path: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(path)
    let text = ''
    // The holder may be busy setting up; a second is ample on one machine.
    socket.setTimeout(1000, () => socket.destroy())
    socket.setEncoding('latin1')
    socket.on('data', (piece: string) => {
      text += piece
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(/^[0-9]+$/.test(text.trim()) ? text.trim() : 'unknown'))
  })
}
