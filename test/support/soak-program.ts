/**
 * Both ends of many connections whose every byte is known beforehand, as a program for pods.
 *
 *      node soak-program.ts serve PORT...      prints `listening`
 *      node soak-program.ts call '<CallOrder>' prints `reached` once all its calls hold still that do so at this end, and
 *                                              a tally when all are over
 *
 * On its standard input the line `tally` asks for the tally so far, and `go` lets what holds still go on. A tally is one
 * line of JSON.
 *
 * A call begins with a head of HEAD_BYTES that says what is to be sent in both directions and how it ends. The bytes
 * are taken out of a pool of random ones, at a place that each direction of each call has for itself: whatever is
 * changed, lost, sent twice or sent to the wrong one is noticed.
 */
import { createConnection, createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { SeededRandom } from './seeded-random.ts'

/**
 * How a call goes:
 * `client` the client sends and closes its side, then the server does; `server` the server first; `both` at the same
 * time; `reset-client` and `reset-server` break off when everything has arrived; `held` holds still in the middle of
 * both directions; `deaf-client` and `deaf-server` do not read until they are told to.
 */
export type Course =
  | 'client'
  | 'server'
  | 'both'
  | 'reset-client'
  | 'reset-server'
  | 'held'
  | 'deaf-client'
  | 'deaf-server'

const COURSES: readonly Course[] = [
  ...(['client', 'server', 'both', 'reset-client', 'reset-server'] as const),
  ...(['held', 'deaf-client', 'deaf-server'] as const),
]

export interface CallOrder {
  /** Of the sizes. */
  readonly seed: number
  /** The first call's number; no two calls to a server have the same one. */
  readonly firstId: number
  readonly count: number
  readonly atOnce: number
  readonly targets: readonly { readonly host: string; readonly port: number }[]
  readonly courses: readonly Course[]
  /** Bytes of each direction; random ones when left out. */
  readonly bytes?: number
}

/** What one side saw of its calls. */
export interface Tally {
  readonly begun: number
  readonly over: number
  /** Everything has arrived, right, and it ended as it should. */
  readonly good: number
  /** Calls that another call had the number of. */
  readonly repeated: number
  /** Of the first ones that were not good. */
  readonly complaints: readonly string[]
  /** With heads. `taken` is what the kernel has taken over of what was sent. */
  readonly taken: number
  readonly received: number
}

export const HEAD_BYTES = 20

/** Not the beginning of any protocol that a proxy could recognise. */
const MAGIC = 0x00_73_6f_6b

/** No power of two: bytes that are missing in units of a buffer shift what follows. */
const POOL_BYTES = 1_048_583
const WRITE_BYTES = 65_536

/** Bytes of the few large transfers, and how many calls there are for one of them. */
const LARGE_BYTES = 8_388_608
const CALLS_PER_LARGE = 1_250

/** A call that sends and receives nothing for so long hangs. Only a failing test waits so long. */
const SILENCE_MS_MAX = 30_000

const COMPLAINTS_MAX = 5

const pool = Buffer.alloc(POOL_BYTES)
const counters = { begun: 0, over: 0, good: 0, repeated: 0, taken: 0, received: 0 }
const complaints: string[] = []
const seen = new Set<number>()
const holding = new Set<End>()

/** One end of a call. */
class End {
  readonly socket: Socket
  readonly isServer: boolean
  id = 0
  course: Course = 'both'
  /** Bytes to send and to receive, without the head. */
  outgoing = 0
  incoming = 0
  private sent = 0
  private limit = 0
  private got = 0
  private closesWhenSent = false
  private isHeld = false
  private hasEnd = false
  private wrong = ''
  private error = ''
  private readonly onOver: () => void
  private head = Buffer.alloc(0)
  private hasHead: boolean

  constructor(socket: Socket, isServer: boolean, onOver: () => void) {
    this.socket = socket
    this.isServer = isServer
    this.onOver = onOver
    this.hasHead = !isServer
    counters.begun++
    socket.on('data', (bytes: Buffer) => this.onBytes(bytes))
    socket.on('end', () => this.onEnd())
    socket.on('drain', () => this.pump())
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code ?? error.message
    })
    socket.on('close', () => this.onClose())
    socket.on('timeout', () => {
      this.wrong ||= 'hangs'
      socket.destroy()
    })
    socket.setTimeout(SILENCE_MS_MAX)
  }

  call(id: number, course: Course, outgoing: number, incoming: number): void {
    Object.assign(this, { id, course, outgoing, incoming })
    const head = Buffer.alloc(HEAD_BYTES)
    for (const [i, value] of [MAGIC, COURSES.indexOf(course), id, outgoing, incoming].entries()) {
      head.writeUInt32BE(value, 4 * i)
    }
    this.write(head)
    if (course === 'held') this.send(half(outgoing), false)
    else if (course === 'deaf-client') this.hold()
    else if (course !== 'server')
      this.send(outgoing, course === 'client' || course === 'both' || course === 'deaf-server')
    this.onProgress()
  }

  private onHead(): void {
    const [magic, course, id, incoming, outgoing] = [0, 4, 8, 12, 16].map((at) => this.head.readUInt32BE(at))
    if (magic !== MAGIC) {
      this.wrong ||= `the head is ${this.head.toString('hex')}`
      this.socket.destroy()
      return
    }
    Object.assign(this, { id, course: COURSES[course!], outgoing, incoming })
    if (seen.has(id!)) counters.repeated++
    seen.add(id!)
    if (holdsStill(this.course)) this.socket.setTimeout(0)
    if (this.course === 'held') this.send(half(this.outgoing), false)
    else if (this.course === 'deaf-server') this.hold()
    if (['both', 'server', 'deaf-client', 'deaf-server'].includes(this.course)) this.send(this.outgoing, true)
    this.onProgress()
  }

  // --- sending ---

  /** Sends up to byte `limit` of what is to be sent. */
  private send(limit: number, closesWhenSent: boolean): void {
    this.limit = limit
    this.closesWhenSent = closesWhenSent
    this.pump()
  }

  private pump(): void {
    while (this.sent < this.limit) {
      const at = (this.place(this.isServer) + this.sent) % POOL_BYTES
      const length = Math.min(WRITE_BYTES, this.limit - this.sent, POOL_BYTES - at)
      this.sent += length
      if (!this.write(pool.subarray(at, at + length))) return
    }
    if (this.closesWhenSent) {
      this.closesWhenSent = false
      this.socket.end()
    }
  }

  private write(bytes: Buffer): boolean {
    return this.socket.write(bytes, (error) => {
      if (!error) counters.taken += bytes.length
    })
  }

  // --- receiving ---

  private onBytes(bytes: Buffer): void {
    counters.received += bytes.length
    let rest = bytes
    if (!this.hasHead) {
      const missing = HEAD_BYTES - this.head.length
      this.head = Buffer.concat([this.head, bytes.subarray(0, missing)])
      rest = bytes.subarray(missing)
      if (this.head.length < HEAD_BYTES) return
      this.hasHead = true
      this.onHead()
    }
    while (rest.length > 0) {
      const at = (this.place(!this.isServer) + this.got) % POOL_BYTES
      const part = rest.subarray(0, POOL_BYTES - at)
      if (pool.compare(part, 0, part.length, at, at + part.length) !== 0) this.wrong ||= `wrong near byte ${this.got}`
      this.got += part.length
      rest = rest.subarray(part.length)
    }
    if (this.got > this.incoming) this.wrong ||= `${this.got} instead of ${this.incoming} bytes`
    this.onProgress()
  }

  private onProgress(): void {
    if (this.course === 'held' && !this.isServer && !this.isHeld && this.got >= half(this.incoming)) this.hold()
    if (this.got < this.incoming) return
    if (this.course === 'reset-client' || this.course === 'reset-server') {
      if (this.isServer) this.send(this.outgoing, false)
      else if (this.course === 'reset-client') this.socket.resetAndDestroy()
      else this.socket.end()
    }
  }

  private onEnd(): void {
    this.hasEnd = true
    if (this.isServer) {
      if (this.course === 'client' || this.course === 'held') this.send(this.outgoing, true)
      else if (this.course === 'reset-server') this.socket.resetAndDestroy()
    } else if (this.course === 'server') this.send(this.outgoing, true)
    if (!this.hasHead) this.socket.end()
  }

  /** Holds still until `go`. */
  private hold(): void {
    this.isHeld = true
    this.socket.setTimeout(0)
    if (this.course !== 'held') this.socket.pause()
    holding.add(this)
    onHeld()
  }

  goOn(): void {
    this.socket.setTimeout(SILENCE_MS_MAX)
    if (this.course === 'held') this.send(this.outgoing, true)
    else this.socket.resume()
    if (this.course === 'deaf-client') this.send(this.outgoing, true)
  }

  // --- the end ---

  private onClose(): void {
    counters.over++
    const isCut = this.course === (this.isServer ? 'reset-client' : 'reset-server')
    const isCutting = this.course === (this.isServer ? 'reset-server' : 'reset-client')
    if (this.error !== (isCut ? 'ECONNRESET' : '')) this.wrong ||= `error '${this.error}'`
    if (this.got !== this.incoming) this.wrong ||= `${this.got} of ${this.incoming} bytes came`
    if (this.sent !== this.outgoing) this.wrong ||= `${this.sent} of ${this.outgoing} bytes were sent`
    if (!isCut && !isCutting && !this.hasEnd) this.wrong ||= 'no end'
    if (this.wrong === '') counters.good++
    else if (complaints.length < COMPLAINTS_MAX) {
      complaints.push(`${this.isServer ? 'server' : 'client'} ${this.course} ${this.id}: ${this.wrong}`)
    }
    this.onOver()
  }

  /** Where a direction's bytes begin in the pool. */
  private place(isOfServer: boolean): number {
    return (this.id * (isOfServer ? 7_919 : 104_729) + (isOfServer ? 13 : 0)) % POOL_BYTES
  }
}

/** Whether one of the ends waits for its `go`. */
function holdsStill(course: Course): boolean {
  return course === 'held' || course === 'deaf-client' || course === 'deaf-server'
}

function half(bytes: number): number {
  return Math.floor(bytes / 2)
}

function tell(): void {
  console.log(JSON.stringify({ ...counters, complaints } satisfies Tally))
}

function serve(ports: readonly number[]): void {
  let waiting = ports.length
  for (const port of ports) {
    const server = createServer({ allowHalfOpen: true }, (socket) => void new End(socket, true, () => {}))
    server.listen({ port, host: '::', backlog: 4096 }, () => --waiting === 0 && console.log('listening'))
  }
}

let onHeld = (): void => {}

async function call(order: CallOrder): Promise<void> {
  const random = new SeededRandom(order.seed)
  const doHold = order.courses.every(holdsStill)
  let held = 0
  const toHold = order.count - countOf(order, 'deaf-server')
  onHeld = () => {
    if (++held === toHold) console.log('reached')
  }
  let next = 0
  const one = (): Promise<void> => {
    const index = next++
    const course = order.courses[index % order.courses.length]!
    const { host, port } = random.pick(order.targets)
    const isLarge = index % CALLS_PER_LARGE === CALLS_PER_LARGE - 1
    let [outgoing, incoming] = [0, 0].map(() => order.bytes ?? (isLarge ? LARGE_BYTES : sizeOf(random))) as [
      number,
      number,
    ]
    if (course === 'deaf-client') outgoing = 0
    if (course === 'deaf-server') incoming = 0
    // A single byte at least shows that everything before it has arrived.
    if (course.startsWith('reset') && incoming === 0) incoming = 1
    return new Promise((resolve) => {
      const socket = createConnection({ host, port, allowHalfOpen: true }, () => {
        end.call(order.firstId + index, course, outgoing, incoming)
      })
      const end = new End(socket, false, resolve)
      end.id = order.firstId + index
      end.course = course
    })
  }
  const run = async (): Promise<void> => {
    while (next < order.count) await one()
  }
  await Promise.all(Array.from({ length: doHold ? order.count : order.atOnce }, run))
  tell()
  process.stdin.destroy()
}

function countOf({ courses, count }: CallOrder, course: Course): number {
  const indexes = courses.flatMap((candidate, i) => (candidate === course ? [i] : []))
  return indexes.reduce((total, i) => total + Math.ceil((count - i) / courses.length), 0)
}

/** Many small, some of the size of buffers, one in ten without any. */
function sizeOf(random: SeededRandom): number {
  const kind = random.integer(0, 99)
  if (kind < 10) return 0
  if (kind < 75) return random.integer(1, 4_096)
  return random.integer(4_097, kind < 95 ? 65_536 : 300_000)
}

if (import.meta.main) {
  const random = new SeededRandom(1)
  for (let i = 0; i < POOL_BYTES; i++) pool[i] = random.integer(0, 255)
  createInterface({ input: process.stdin }).on('line', (line) => {
    if (line === 'tally') return tell()
    for (const end of holding) end.goOn()
    holding.clear()
  })
  const [mode, ...args] = process.argv.slice(2)
  if (mode === 'serve') serve(args.map(Number))
  else await call(JSON.parse(args[0]!) as CallOrder)
}
