/**
 * Loaded into every Node.js process of the demo (`--import`): ends the process when the demo is gone, however it went.
 * Descriptor 3 is a pipe that only the demo holds open at the other end.
 */
import { Socket } from 'node:net'
import { isMainThread } from 'node:worker_threads'

// Worker threads inherit `--import`; the descriptor belongs to the main thread.
if (isMainThread) {
  const tether = new Socket({ fd: 3 })
  tether.on('error', () => process.exit(0))
  tether.on('close', () => process.exit(0))
  tether.resume()
  // It must not keep a process alive that has come to its own end.
  tether.unref()
}
