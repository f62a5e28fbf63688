/**
 * Connects without a pause, over both families in turn, and counts who answers: runs inside a pod.
 *
 *      node connect-flood.ts IPV4 IPV6 PORT
 *
 * Prints `first` when the first connection was answered; at the end of its input one JSON object, `FloodCounts`.
 */
import { connect } from 'node:net'

/** Connections by what became of them. */
export interface FloodCounts {
  /** Answered by an agent, and by the app itself. */
  agent: number
  app: number
  /** connect() failed with EPERM or ECONNREFUSED. */
  refused: number
  /** Anything else, by its errno. */
  readonly other: Record<string, number>
}

/** Connections at one time. */
const AT_ONCE = 4

const [ipv4, ipv6, port] = process.argv.slice(2) as [string, string, string]
const counts: FloodCounts = { agent: 0, app: 0, refused: 0, other: {} }
let isStopping = false
let hasBegun = false
let open = 0

function count(what: string): void {
  if (what.startsWith('{')) counts.agent++
  else if (what.startsWith('app')) counts.app++
  else if (what === 'EPERM' || what === 'ECONNREFUSED') counts.refused++
  else counts.other[what] = (counts.other[what] ?? 0) + 1
  if (!hasBegun) console.log('first')
  hasBegun = true
}

function once(turn: number): void {
  open++
  let result = 'closed'
  const socket = connect(Number(port), turn % 2 === 0 ? ipv4 : ipv6)
  socket.on('data', (bytes) => {
    result = bytes.toString()
    socket.destroy()
  })
  socket.on('error', (error: NodeJS.ErrnoException) => {
    result = error.code ?? error.message
  })
  socket.on('close', () => {
    open--
    count(result)
    if (!isStopping) setImmediate(once, turn + 1)
    else if (open === 0) console.log(JSON.stringify(counts))
  })
}

process.stdin.on('end', () => {
  isStopping = true
})
process.stdin.resume()
for (let i = 0; i < AT_ONCE; i++) once(i)
