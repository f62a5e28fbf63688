/**
 * Sees an input that never ends. The main thread puts each input into shared memory before it runs it; when the number of
 * runs stands still for too long, this worker writes the input to a file and ends the process.
 */
import { writeFileSync } from 'node:fs'
import { isMainThread, Worker, workerData } from 'node:worker_threads'

/** Thousands of times what any input takes, also on a busy machine. */
const STUCK_MS = 20_000
const POLL_MS = 1_000

/** Run count, length of the input; bytes from HEADER_BYTES on. */
const HEADER_BYTES = 8

interface WatchdogOrder {
  readonly shared: SharedArrayBuffer
  readonly path: string
}

export class Watchdog {
  private readonly worker: Worker
  private readonly header: Int32Array
  private readonly bytes: Uint8Array

  /** `path` is where an input that never ends is written. */
  constructor(bytesMax: number, path: string) {
    const shared = new SharedArrayBuffer(HEADER_BYTES + bytesMax)
    this.header = new Int32Array(shared, 0, 2)
    this.bytes = new Uint8Array(shared, HEADER_BYTES)
    const workerData: WatchdogOrder = { shared, path }
    this.worker = new Worker(import.meta.filename, { workerData })
    this.worker.unref()
  }

  begin(input: Uint8Array): void {
    this.bytes.set(input)
    this.header[1] = input.length
    Atomics.add(this.header, 0, 1)
  }

  async stop(): Promise<void> {
    await this.worker.terminate()
  }
}

function watch({ shared, path }: WatchdogOrder): void {
  const header = new Int32Array(shared, 0, 2)
  let seen = -1
  let since = Date.now()
  setInterval(() => {
    const run = Atomics.load(header, 0)
    if (run !== seen) {
      seen = run
      since = Date.now()
    } else if (run > 0 && Date.now() - since > STUCK_MS) {
      writeFileSync(path, Buffer.from(shared, HEADER_BYTES, header[1]))
      console.error(`weft: an input did not end within ${STUCK_MS} ms: ${path}`)
      process.kill(process.pid, 'SIGKILL')
    }
  }, POLL_MS)
}

if (!isMainThread) watch(workerData as WatchdogOrder)
