/**
 * The data workers as the main thread sees them: start, feed, ask, drain, and replace one that crashed.
 *
 * Everything a worker was told is kept (pods, credentials; the snapshot is asked for), so that a fresh one is brought
 * to the same state. A crash resets that worker's connections and nothing else: the listeners are the main thread's,
 * a worker gets duplicates.
 */
import { performance } from 'node:perf_hooks'
import { Worker } from 'node:worker_threads'
import { Backoff } from '../base/backoff.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger, LogLevel } from '../base/log.ts'
import { type Delta, isEmptyDelta } from '../model/delta.ts'
import type { CarriedChange } from '../proxy/carried-endpoints.ts'
import { DRAIN_IDLE_MS } from '../proxy/http-session.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import type { CapturedPod } from './capture.ts'
import type { FromWorker, ToWorker, WorkerDrain, WorkerReport, WorkerStart } from './worker-protocol.ts'
import { WATCH_INTERVAL_MS, WorkerWatch, type WorkerWatchOwner } from './worker-watch.ts'

/** Longest wait for a worker's report; a worker that is busier than this is left out of one scrape. */
const REPORT_TIMEOUT_MS = 2000

/** Longest wait for a worker to listen for a pod. */
const ADD_TIMEOUT_MS = 10_000

/** A worker that lived this long and dies is replaced at once; one that dies sooner is replaced ever more slowly. */
const STABLE_MS = 60_000

/** A worker that was told to stop and is still there after this long hangs, and is ended by force. */
const END_TIMEOUT_MS = 1000

/**
 * Without a successor nothing arrives any more when the drain begins: the listeners are open a little longer for what
 * waits in their queues while a worker is busy.
 */
const DRAIN_ALONE: WorkerDrain = { lingerMs: 200, idleMs: DRAIN_IDLE_MS }

/** What the workers need of the agent. */
export interface WorkersOptions {
  readonly count: number
  readonly start: Omit<WorkerStart, 'index' | 'workerCount' | 'logLevel' | 'beats'>
  readonly logLevel: LogLevel
  readonly log: Logger
  /** The whole state as one delta, for a worker that is started late. */
  readonly wholeState: () => Delta
  /** Duplicates a listening descriptor, so that a worker may close its own. */
  readonly duplicate: (fd: number) => number
  readonly closeFd: (fd: number) => void
  readonly onAccessLog: (lines: string) => void
  readonly onLogLine: (line: string) => void
  /** A worker has died and is being replaced; its totals must not be lost. */
  readonly onCrash: (id: number) => void
  /** The workers, by number, that can take connections from now on. */
  readonly onServing: (workers: readonly number[]) => void
}

interface EnrolledPod {
  readonly pod: CapturedPod
  readonly identity: string
}

/** All data workers of this agent. */
export class Workers implements WorkerWatchOwner {
  private readonly options: WorkersOptions
  private readonly slots: WorkerSlot[] = []
  private readonly pods = new Map<string, EnrolledPod>()
  private readonly credentials = new Map<string, TlsMaterial>()
  private readonly carried = new Map<string, readonly string[]>()
  private readonly beats: SharedArrayBuffer
  private readonly watch: WorkerWatch
  private watchTimer: NodeJS.Timeout | null = null
  private isStopping = false

  constructor(options: WorkersOptions) {
    this.options = options
    this.beats = new SharedArrayBuffer(options.count * Int32Array.BYTES_PER_ELEMENT)
    this.watch = new WorkerWatch(new Int32Array(this.beats), this)
  }

  get count(): number {
    return this.options.count
  }

  /** Resolves when every worker is ready. */
  async start(): Promise<void> {
    for (let index = 0; index < this.options.count; index++) this.slots.push(this.open(index))
    await Promise.all(this.slots.map((slot) => slot.ready))
    for (const slot of this.slots) this.beginServing(slot)
    this.tellServing()
    this.watchTimer = setInterval(() => this.watch.check(performance.now()), WATCH_INTERVAL_MS).unref()
  }

  /** Workers that serve and whose event loop stands still. */
  get silentCount(): number {
    return this.watch.silentCount
  }

  applyDelta(delta: Delta): void {
    this.broadcast({ kind: 'delta', delta })
  }

  setCredential(material: TlsMaterial): void {
    this.credentials.set(material.identity, material)
    this.broadcast({ kind: 'credential', material })
  }

  /** The kernel carries connections to other endpoints than before. */
  setCarried(changes: readonly CarriedChange[]): void {
    for (const [key, uids] of changes) {
      if (uids.length === 0) this.carried.delete(key)
      else this.carried.set(key, uids)
    }
    this.broadcast({ kind: 'carried', changes })
  }

  /** No pod of this node has the identity any more. */
  dropCredential(identity: string): void {
    this.credentials.delete(identity)
    this.broadcast({ kind: 'drop-credential', identity })
  }

  /**
   * Every worker listens for the pod, or none does: rejects with WeftError naming the pod. A worker that is just being
   * replaced gets the pod with all others when it is up; nobody waits for one that is silent.
   */
  async addPod(pod: CapturedPod, identity: string): Promise<void> {
    this.pods.set(pod.uid, { pod, identity })
    const serving = this.slots.filter((slot) => slot.isServing)
    const results = await Promise.allSettled(serving.map((slot) => this.addOrLeave(slot, pod, identity)))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed === undefined) return
    this.removePod(pod.uid)
    throw failed.reason
  }

  /** The workers close their listeners, and the originals go as well. */
  removePod(uid: string): void {
    const enrolled = this.pods.get(uid)
    this.pods.delete(uid)
    this.broadcast({ kind: 'remove-pod', uid })
    for (const { fds } of enrolled?.pod.listeners ?? []) for (const fd of fds ?? []) this.options.closeFd(fd)
  }

  /** Reports by worker id (never used twice) of all that answer in time. `connectionsMax` 0 leaves connections out. */
  async reports(connectionsMax: number): Promise<Map<number, WorkerReport>> {
    const reports = new Map<number, WorkerReport>()
    await Promise.all(
      this.slots.map(async (slot) => {
        try {
          const message = await slot.ask((request) => ({ kind: 'report', request, connectionsMax }), REPORT_TIMEOUT_MS)
          if (message.kind === 'report') reports.set(slot.id, message.report)
        } catch (error) {
          this.options.log.warn('worker did not report', { worker: slot.index, error: describeError(error) })
        }
      }),
    )
    return reports
  }

  /** Drains every worker; resolves when all are idle or `timeoutMs` is over. They still report, and are ended by `end`. */
  async drain(how: WorkerDrain, timeoutMs: number): Promise<void> {
    this.isStopping = true
    const drained = Promise.all(this.slots.map((slot) => slot.drain(how)))
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    await Promise.race([drained, timeout])
    clearTimeout(timer)
  }

  /** Drains as an agent does that ends without a successor. */
  async drainAlone(timeoutMs: number): Promise<void> {
    await this.drain(DRAIN_ALONE, timeoutMs)
  }

  /** Ends every worker; what is open is reset. */
  async end(): Promise<void> {
    this.isStopping = true
    if (this.watchTimer !== null) clearInterval(this.watchTimer)
    await Promise.all(this.slots.map((slot) => slot.end()))
  }

  // --- what the watch sees ---

  onSilent(index: number): void {
    this.options.log.error('a data worker does not respond; it gets no new connections', { worker: index })
  }

  onHeardAgain(index: number, silentMs: number): void {
    this.options.log.warn('a data worker responds again', { worker: index, silentMs: Math.round(silentMs) })
  }

  onStuck(index: number): void {
    this.options.log.error('a data worker is stuck; it is ended', { worker: index })
    this.slots[index]!.terminate()
  }

  private beginServing(slot: WorkerSlot): void {
    slot.isServing = true
    this.watch.begin(slot.index, performance.now())
  }

  /** With nobody left the last word stands: what arrives waits for the successor, until the heartbeats are too old. */
  private tellServing(): void {
    const serving = this.slots.filter(({ isServing }) => isServing).map(({ index }) => index)
    if (serving.length > 0) this.options.onServing(serving)
  }

  private broadcast(message: ToWorker): void {
    for (const slot of this.slots) slot.post(message)
  }

  private open(index: number): WorkerSlot {
    const { options } = this
    const backoff = new Backoff({ baseMs: 100, maxMs: 10_000 })
    const start = {
      ...options.start,
      index,
      workerCount: options.count,
      logLevel: options.logLevel,
      beats: this.beats,
    }
    const slot = new WorkerSlot(index, start, options, (reason) => {
      if (this.isStopping) return
      this.watch.end(index)
      this.tellServing()
      options.log.error('a data worker died; its connections are reset, a new one starts', { worker: index, reason })
      if (performance.now() - slot.startedAtMs > STABLE_MS) backoff.reset()
      options.onCrash(slot.id)
      setTimeout(() => void this.replace(slot), backoff.nextMs())
    })
    slot.start()
    return slot
  }

  /** Brings a fresh worker to the state of the others. Never rejects. */
  private async replace(slot: WorkerSlot): Promise<void> {
    if (this.isStopping) return
    slot.start()
    try {
      await slot.ready
      const state = this.options.wholeState()
      if (!isEmptyDelta(state)) slot.post({ kind: 'delta', delta: state })
      for (const material of this.credentials.values()) slot.post({ kind: 'credential', material })
      slot.post({ kind: 'carried', changes: [...this.carried] })
      // From here on a new pod comes through addPod; those known now come below, each once.
      this.beginServing(slot)
      await Promise.all([...this.pods.values()].map(({ pod, identity }) => this.addTo(slot, pod, identity)))
      this.tellServing()
    } catch (error) {
      this.options.log.error('a new data worker does not serve every pod', {
        worker: slot.index,
        error: describeError(error),
      })
    }
  }

  /** A silent worker finds the pod among its messages when it comes back; until then it gets no connections. */
  private async addOrLeave(slot: WorkerSlot, pod: CapturedPod, identity: string): Promise<void> {
    const added = this.addTo(slot, pod, identity)
    if (!this.watch.isSilent(slot.index)) return added
    added.catch((error: unknown) => {
      const fields = { worker: slot.index, pod: pod.uid, error: describeError(error) }
      this.options.log.error('a silent data worker has not taken a pod', fields)
    })
  }

  private async addTo(slot: WorkerSlot, pod: CapturedPod, identity: string): Promise<void> {
    const listeners = pod.listeners.map((listener) => {
      const fd = listener.fds?.[slot.index]
      return fd === undefined ? listener : { ...listener, fds: [this.options.duplicate(fd)] }
    })
    const answer = await slot.ask(
      (request) => ({ kind: 'add-pod', request, pod: { ...pod, listeners }, identity }),
      ADD_TIMEOUT_MS,
    )
    if (answer.kind === 'pod-added' && answer.error !== null) {
      throw new WeftError('WEFT_SYSCALL', `worker ${slot.index} cannot listen for pod ${pod.uid}: ${answer.error}`)
    }
  }
}

let nextWorkerId = 1

/** One worker thread and its successors. */
class WorkerSlot {
  readonly index: number
  /** Tells a worker from its successors. */
  id: number
  startedAtMs: number
  /** False until it has the state of the others, and again when it has died. */
  isServing: boolean
  ready: Promise<void> = Promise.resolve()
  private readonly startValues: WorkerStart
  private readonly options: WorkersOptions
  private readonly onDeath: (reason: string) => void
  private worker: Worker | null = null
  private readonly pending = new Map<number, (message: FromWorker | null) => void>()
  private nextRequest = 1
  private onDrained: (() => void) | null = null
  private deathReason = ''

  constructor(index: number, startValues: WorkerStart, options: WorkersOptions, onDeath: (reason: string) => void) {
    this.index = index
    this.id = 0
    this.startedAtMs = 0
    this.isServing = false
    this.startValues = startValues
    this.options = options
    this.onDeath = onDeath
  }

  start(): void {
    this.id = nextWorkerId++
    this.startedAtMs = performance.now()
    const worker = new Worker(new URL(workerFile(), import.meta.url), {
      workerData: this.startValues,
      env: {},
      // Listeners come from the addon and are closed by Node: not a leak, as Node would warn.
      trackUnmanagedFds: false,
    })
    this.worker = worker
    this.deathReason = ''
    this.ready = new Promise((resolve, reject) => {
      worker.on('message', (message: FromWorker) => {
        if (message.kind === 'ready') resolve()
        else this.onMessage(message)
      })
      worker.once('error', (error) => {
        this.deathReason = describeError(error)
      })
      worker.once('exit', (code) => {
        const reason = this.deathReason === '' ? `exit code ${code}` : this.deathReason
        reject(new WeftError('WEFT_LIMIT', `data worker ${this.index} ended: ${reason}`))
        this.onExit(reason)
      })
    })
    // The caller of `start` awaits `ready` only the first time; a later failure is reported by onDeath.
    this.ready.catch(() => {})
  }

  post(message: ToWorker): void {
    this.worker?.postMessage(message)
  }

  ask(make: (request: number) => ToWorker, timeoutMs: number): Promise<FromWorker> {
    return new Promise((resolve, reject) => {
      const request = this.nextRequest++
      const timer = setTimeout(() => {
        this.pending.delete(request)
        reject(new WeftError('WEFT_TIMEOUT', `data worker ${this.index} did not answer within ${timeoutMs} ms`))
      }, timeoutMs)
      this.pending.set(request, (message) => {
        clearTimeout(timer)
        if (message === null) reject(new WeftError('WEFT_CLOSED', `data worker ${this.index} ended`))
        else resolve(message)
      })
      this.post(make(request))
    })
  }

  drain(how: WorkerDrain): Promise<void> {
    return new Promise((resolve) => {
      if (this.worker === null) {
        resolve()
        return
      }
      this.onDrained = resolve
      this.post({ kind: 'drain', ...how })
    })
  }

  async end(): Promise<void> {
    const worker = this.worker
    if (worker === null) return
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    this.post({ kind: 'stop' })
    const timer = setTimeout(() => void worker.terminate(), END_TIMEOUT_MS)
    await ended
    clearTimeout(timer)
  }

  /** By force, when it is stuck: `onDeath` follows. */
  terminate(): void {
    void this.worker?.terminate()
  }

  private onMessage(message: FromWorker): void {
    switch (message.kind) {
      case 'access-log':
        this.options.onAccessLog(message.lines)
        break
      case 'log':
        this.options.onLogLine(message.line)
        break
      case 'drained':
        this.onDrained?.()
        break
      case 'pod-added':
      case 'report': {
        const resolve = this.pending.get(message.request)
        this.pending.delete(message.request)
        resolve?.(message)
        break
      }
    }
  }

  private onExit(reason: string): void {
    this.worker = null
    this.isServing = false
    for (const resolve of this.pending.values()) resolve(null)
    this.pending.clear()
    this.onDrained?.()
    this.onDeath(reason)
  }
}

/** The worker's file beside this one, compiled or not. */
function workerFile(): string {
  return import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js'
}
