/** A TCP service that sends back each piece of what it gets, behind a word of its own. */
import { createServer } from 'node:net'
import { listenAddress } from './pod.ts'

const word = process.env['WORD'] ?? 'hello'

for (const port of [9000, 9001]) {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('data', (bytes) => {
      if (!socket.write(Buffer.concat([Buffer.from(`${word} `), bytes]))) socket.pause()
    })
    socket.on('drain', () => socket.resume())
    socket.on('end', () => socket.end())
    // A client may vanish at any time; that is its own affair.
    socket.on('error', () => socket.destroy())
  })
  server.listen(port, listenAddress)
}
