/**
 * Both ends of connections that carry known numbers of bytes and end in a known way, as programs for pods.
 *
 *      node byte-talker.ts serve PORT                     prints `listening`
 *      node byte-talker.ts ignore PORT                    the same, but says and reads nothing
 *      node byte-talker.ts greet PORT                     the same, but says hello and reads nothing
 *      node byte-talker.ts talk '{"address", "port", "talks": [...], "atOnce"}'
 *                                                         prints one JSON line (`Talked`) per connection
 *
 * A connection begins with a line that tells the server what to do: `<ending> <bytes to expect> <bytes to send>`.
 */
import { createServer, type Socket } from 'node:net'

/**
 * How a connection ends:
 * `half` the client closes its side first, then the server answers; `server` the server answers and closes first;
 * `client` the client closes both sides once it has the answer; `reset-client` and `reset-server` break off instead;
 * `stay` nobody closes before a line comes on the client's standard input.
 */
export type Ending = 'half' | 'server' | 'client' | 'reset-client' | 'reset-server' | 'stay'

export interface Talk {
  readonly ending: Ending
  /** Bytes beyond the first line. */
  readonly sent: number
  readonly received: number
}

/** One connection that is over, or that stays open and has sent and received everything. */
export interface Talked {
  readonly ending: Ending
  readonly localPort: number
  /** With the first line. */
  readonly sent: number
  readonly received: number
  /** Code of the error that ended it; empty when there was none. */
  readonly error: string
}

export interface TalkOrder {
  readonly address: string
  readonly port: number
  readonly talks: readonly Talk[]
  /** How often; once when left out. */
  readonly repeat?: number
  readonly atOnce: number
}

/** What a server says that greets. */
export const HELLO = 'hello'

export const TALKER = new URL(import.meta.url).pathname

/** The first line of a connection. */
export function firstLine({ ending, sent, received }: Talk): string {
  return `${ending} ${sent} ${received}\n`
}

function serve(port: number): void {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let head = ''
    let got = 0
    let order: { ending: string; expected: number; answer: number } | null = null
    const onComplete = (): void => {
      if (order === null || got < order.expected) return
      const { ending, answer } = order
      if (ending === 'half') return
      if (ending === 'reset-server') socket.resetAndDestroy()
      else if (ending === 'server') socket.end(Buffer.alloc(answer))
      else socket.write(Buffer.alloc(answer))
    }
    socket.on('data', (bytes) => {
      got += bytes.length
      if (order !== null) return onComplete()
      head += bytes.toString('latin1')
      const end = head.indexOf('\n')
      if (end < 0) return
      const [ending, expected, answer] = head.slice(0, end).split(' ')
      got = head.length - end - 1
      order = { ending: ending!, expected: Number(expected), answer: Number(answer) }
      onComplete()
    })
    socket.on('end', () => socket.end(Buffer.alloc(order?.ending === 'half' ? order.answer : 0)))
    socket.on('error', () => socket.destroy())
  })
  server.listen(port, '::', 4096, () => console.log('listening'))
}

function ignore(port: number, greeting: string): void {
  createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy())
    socket.write(greeting)
  }).listen(port, '::', () => console.log('listening'))
}

async function talk(order: TalkOrder): Promise<void> {
  const { createConnection } = await import('node:net')
  const staying: Socket[] = []
  process.stdin.once('data', () => {
    for (const socket of staying) socket.end()
    process.stdin.destroy()
  })
  const one = (what: Talk): Promise<void> =>
    new Promise((resolve) => {
      const line = firstLine(what)
      const payload = Buffer.concat([Buffer.from(line), Buffer.alloc(what.sent)])
      let received = 0
      let localPort = 0
      let error = ''
      let isTold = false
      const tell = (): void => {
        if (isTold) return
        isTold = true
        const talked: Talked = { ending: what.ending, localPort, sent: payload.length, received, error }
        console.log(JSON.stringify(talked))
        resolve()
      }
      const socket = createConnection({ host: order.address, port: order.port, allowHalfOpen: true }, () => {
        localPort = socket.localPort!
        if (what.ending === 'half') socket.end(payload)
        else socket.write(payload)
        if (what.received === 0) onReceived()
      })
      const onReceived = (): void => {
        if (received < what.received) return
        if (what.ending === 'client') socket.destroy()
        else if (what.ending === 'reset-client') socket.resetAndDestroy()
        else if (what.ending === 'stay') {
          staying.push(socket)
          tell()
        }
      }
      socket.on('data', (bytes) => {
        received += bytes.length
        onReceived()
      })
      socket.on('end', () => socket.end())
      socket.on('error', (failure: NodeJS.ErrnoException) => {
        error = failure.code ?? failure.message
      })
      socket.on('close', tell)
    })
  const left = Array.from({ length: order.repeat ?? 1 }, () => order.talks).flat()
  const run = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await one(next)
  }
  await Promise.all(Array.from({ length: order.atOnce }, run))
  if (staying.length === 0) process.stdin.destroy()
}

if (import.meta.main) {
  const [mode, argument] = process.argv.slice(2)
  if (mode === 'serve') serve(Number(argument))
  else if (mode === 'ignore') ignore(Number(argument), '')
  else if (mode === 'greet') ignore(Number(argument), HELLO)
  else await talk(JSON.parse(argument!) as TalkOrder)
}
