/**
 * Ends or blocks a thread of a running agent as a bug in it would: through Node's own debugger, which root can switch on
 * in any Node process (SIGUSR1). The agent has no part in it. Run on the agent's node:
 *
 *      node live-debugger.ts PID end
 *      node live-debugger.ts PID block MILLISECONDS
 *      node live-debugger.ts PID block-main MILLISECONDS
 *
 * Prints `done` when the first worker thread has been told, its successor is left alone; or the main thread.
 */
import { setTimeout as delay } from 'node:timers/promises'

const INSPECTOR = 'http://127.0.0.1:9229/json/list'
const TRIES_MAX = 100

const [pid, mode, blockMs] = process.argv.slice(2)
const expression =
  mode === 'end' ? 'process.exit(9)' : `for (const end = Date.now() + ${Number(blockMs)}; Date.now() < end; );`
process.kill(Number(pid), 'SIGUSR1')
let nextId = 1
let hasEnded = false
const socket = new WebSocket(await inspectorUrl())
socket.onopen = () => {
  if (mode !== 'block-main') {
    send('NodeWorker.enable', { waitForDebuggerOnStart: false })
    return
  }
  send('Runtime.evaluate', { expression })
  finish()
}
socket.onmessage = ({ data }) => {
  const { method, params } = JSON.parse(String(data)) as { method?: string; params: { sessionId: string } }
  if (method !== 'NodeWorker.attachedToWorker' || hasEnded) return
  hasEnded = true
  const message = JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } })
  send('NodeWorker.sendMessageToWorker', { sessionId: params.sessionId, message })
  finish()
}

function finish(): void {
  console.log('done')
  // The answer will not come: who would give it is gone.
  setTimeout(() => process.exit(0), 100)
}

function send(method: string, params: object): void {
  socket.send(JSON.stringify({ id: nextId++, method, params }))
}

async function inspectorUrl(): Promise<string> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    try {
      const targets = (await (await fetch(INSPECTOR)).json()) as { webSocketDebuggerUrl: string }[]
      return targets[0]!.webSocketDebuggerUrl
    } catch {
      await delay(50)
    }
  }
  throw new Error('the debugger did not answer')
}
