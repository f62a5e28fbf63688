/**
 * Ends or blocks a thread of a running agent as a bug in it would: through Node's own debugger, which root can switch on
 * in any Node process (SIGUSR1). The agent has no part in it. Run on the agent's node:
 *
 *      node live-debugger.ts PID end
 *      node live-debugger.ts PID block FILE
 *      node live-debugger.ts PID block-main FILE
 *
 * A thread stands still as long as FILE is there, so that a test may take its time; a minute at most. Prints `done` when the first worker thread has been told, its successor is left alone; or the main thread.
 */
import { setTimeout as delay } from 'node:timers/promises'

const INSPECTOR = 'http://127.0.0.1:9229/json/list'
const TRIES_MAX = 100

/** Of a block that nobody ends. */
const BLOCK_MS_MAX = 60_000

const [pid, mode, file] = process.argv.slice(2)
const expression =
  mode === 'end'
    ? 'process.exit(9)'
    : `{
      const { existsSync } = process.getBuiltinModule('node:fs')
      const never = new Int32Array(new SharedArrayBuffer(4))
      const end = Date.now() + ${BLOCK_MS_MAX}
      while (existsSync(${JSON.stringify(file)}) && Date.now() < end) Atomics.wait(never, 0, 0, 20)
    }`
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
