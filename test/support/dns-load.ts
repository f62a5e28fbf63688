/**
 * Asks a resolver many questions from one UDP socket and checks each answer: node dns-load.ts RESOLVER COUNT WINDOW.
 * With COUNT 0 it asks until its standard input ends.
 * Each name has an answer of its own (`h<n>.load.example` has address 10.<n>), so that a mix-up shows. A question that is
 * not answered within three seconds is asked again, as clients do. Prints {"answered", "wrong", "retries"}.
 */
import { createSocket } from 'node:dgram'

const RETRY_MS = 3000

const [resolver, countText, windowText] = process.argv.slice(2) as [string, string, string]
/** Names that there are, and ids. */
const NAMES = 4000

let count = countText === '0' ? Number.POSITIVE_INFINITY : Number(countText)
const socket = createSocket('udp4')
/** When each open question was asked, by its number, which is its id too. */
const open = new Map<number, number>()
let next = 0
let answered = 0
let wrong = 0
let retries = 0

function query(id: number): Buffer {
  const labels = [`h${id}`, 'load', 'example'].map((label) =>
    Buffer.from(`${String.fromCharCode(label.length)}${label}`),
  )
  return Buffer.concat([
    Buffer.from([id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ...labels,
    Buffer.from([0, 0, 1, 0, 1]),
  ])
}

function ask(id: number): void {
  open.set(id, Date.now())
  socket.send(query(id), 53, resolver)
}

socket.on('message', (bytes, from) => {
  const id = bytes.readUInt16BE(0)
  if (!open.delete(id)) return
  answered++
  const expected = [10, 0, id >> 8, id & 255]
  if (from.address !== resolver || from.port !== 53 || !bytes.subarray(-4).equals(Buffer.from(expected))) wrong++
  if (next < count) ask(next++ % NAMES)
  else if (open.size === 0) {
    console.log(JSON.stringify({ answered, wrong, retries }))
    process.exit(0)
  }
})
socket.bind(0, () => {
  while (next < Math.min(count, Number(windowText))) ask(next++ % NAMES)
})
setInterval(() => {
  for (const [id, askedAt] of open) {
    if (Date.now() - askedAt < RETRY_MS) continue
    retries++
    ask(id)
  }
}, RETRY_MS / 4)
if (countText === '0') {
  process.stdin.resume()
  process.stdin.on('end', () => {
    count = next
  })
}
