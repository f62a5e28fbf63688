/**
 * A service that speaks first, as mail servers and databases do: the client waits for the greeting before it sends a
 * line. A mesh that waits for the client's first bytes to tell the protocol would wait for ever.
 */
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { listenAddress, podName } from './pod.ts'

const server = createServer((socket) => {
  socket.on('error', () => socket.destroy())
  socket.write(`220 ${podName} ready\r\n`)
  const lines = createInterface({ input: socket })
  lines.on('line', (line) => {
    if (line === 'QUIT') socket.end('221 bye\r\n')
    else if (!socket.destroyed) socket.write(`250 ${line.length} characters\r\n`)
  })
  // It reports the socket's errors a second time.
  lines.on('error', () => {})
})
server.listen(7000, listenAddress)
