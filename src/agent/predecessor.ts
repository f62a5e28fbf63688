/**
 * The new agent's side of a handover: finds the agent that runs with the same state directory, takes its keys, its pins
 * and in the end its connections over. What is said is in handover-messages.ts.
 *
 * A predecessor that dies on the way makes nothing harder: its pins are then simply found. Whether it is dead is asked of
 * the kernel (nobody listens on its socket), because two agents must never believe that the pins are theirs.
 */
import { createConnection, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { WeftError } from '../base/errors.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import { HandoverChannel } from './handover-channel.ts'
import {
  decodeFromPredecessor,
  type FromPredecessor,
  HANDOVER_FORMAT,
  type HandoverMessage,
  type HandoverParty,
} from './handover-messages.ts'

/** Longest wait for any answer. Releasing and adding up counters are a matter of milliseconds. */
const ANSWER_MS = 10_000

/** A predecessor that has just closed the connection may be dying: asked so often, and so long apart, before it counts as alive. */
const DEATH_CHECKS = 20
const DEATH_CHECK_MS = 50

/** How a step went: the other side did it, or has gone, and there is nobody any more who could be in the way. */
export type Step = 'done' | 'gone'

/** What the predecessor needs to know of the one that takes over. */
export interface PredecessorOptions {
  readonly path: string
  readonly party: Omit<HandoverParty, 'format'>
  /** For tests. */
  readonly answerMs?: number
}

type Answer = FromPredecessor['kind']

/** See the head of the file. */
export class Predecessor {
  /** Of the agent that was found. */
  version = ''
  pid = 0
  slotBase = 0
  /** What it has counted, as it tells. */
  onReport: (report: MetricsReport) => void = () => {}
  /** It has drained, or died. */
  onEnded: () => void = () => {}
  private readonly options: PredecessorOptions
  private readonly channel: HandoverChannel
  private readonly materials: TlsMaterial[] = []
  private waiting: { readonly kind: Answer; readonly resolve: (step: Step | WeftError) => void } | null = null
  private isClosed = false
  private refusal: string | null = null

  private constructor(options: PredecessorOptions, socket: Socket) {
    this.options = options
    this.channel = new HandoverChannel(socket, this)
  }

  /**
   * The agent that runs with this state directory, or null. Rejects with WEFT_HANDOVER when there is one that refuses or
   * does not answer.
   */
  static async find(options: PredecessorOptions): Promise<Predecessor | null> {
    const socket = await connectTo(options.path)
    if (socket === null) return null
    const predecessor = new Predecessor(options, socket)
    const hello = { kind: 'hello', format: HANDOVER_FORMAT, ...options.party } as const
    return (await predecessor.ask(hello, 'told')) === 'gone' ? null : predecessor
  }

  /** Credentials of its pods, keys included. */
  get credentials(): readonly TlsMaterial[] {
    return this.materials
  }

  /** It gives up what is in the kernel, and serves on. */
  take(): Promise<Step> {
    return this.ask({ kind: 'take' }, 'released')
  }

  /** It tells all that it has counted, and is ready for `serving`. */
  commit(): Promise<Step> {
    return this.ask({ kind: 'commit' }, 'committed')
  }

  /** New connections are ours: it drains and ends. */
  serving(): void {
    this.channel.send({ kind: 'serving' })
  }

  /** Throws WEFT_HANDOVER when it has closed the connection, because it goes on alone then. */
  assertWilling(): void {
    if (this.refusal !== null) throw this.failure(this.refusal)
  }

  /** This agent does not start after all, or ends. */
  close(): void {
    this.isClosed = true
    this.channel.end()
  }

  // --- ChannelOwner ---

  onLine(line: string): void {
    const message = decodeFromPredecessor(line)
    switch (message.kind) {
      case 'welcome':
        this.version = message.version
        this.pid = message.pid
        this.slotBase = message.slotBase
        break
      case 'credential':
        this.materials.push(message.material)
        break
      case 'report':
        this.onReport(message.report)
        break
      case 'refused':
        this.refusal = message.reason
        this.answer(this.failure(message.reason))
        break
      case 'ended':
        this.close()
        this.onEnded()
        break
      default:
        if (this.waiting?.kind === message.kind) this.answer('done')
    }
  }

  onClosed(reason: string): void {
    if (this.isClosed) return
    this.isClosed = true
    this.onEnded()
    if (this.waiting !== null) void this.gone(reason).then((outcome) => this.answer(outcome))
  }

  // --- inner workings ---

  private async ask(message: HandoverMessage, kind: Answer): Promise<Step> {
    this.assertWilling()
    if (this.isClosed) {
      const outcome = await this.gone('it has closed the connection')
      if (outcome === 'gone') return outcome
      throw outcome
    }
    const outcome = await new Promise<Step | WeftError>((resolve) => {
      const answerMs = this.options.answerMs ?? ANSWER_MS
      const timer = setTimeout(() => {
        this.close()
        this.answer(this.failure(`it has not answered for ${answerMs / 1000} s and may hang; kill it (SIGKILL) first`))
      }, answerMs)
      this.waiting = {
        kind,
        resolve: (result) => {
          clearTimeout(timer)
          resolve(result)
        },
      }
      this.channel.send(message)
    })
    if (outcome instanceof WeftError) throw outcome
    return outcome
  }

  private answer(outcome: Step | WeftError): void {
    const { waiting } = this
    this.waiting = null
    waiting?.resolve(outcome)
  }

  /** Nobody listens on its socket any more; or it lives, and has only closed the connection. */
  private async gone(reason: string): Promise<Step | WeftError> {
    for (let check = 0; check < DEATH_CHECKS; check++) {
      const socket = await connectTo(this.options.path)
      if (socket === null) return 'gone'
      socket.destroy()
      await delay(DEATH_CHECK_MS)
    }
    return this.failure(reason)
  }

  private failure(reason: string): WeftError {
    const who = this.pid === 0 ? 'an agent runs already' : `the agent of process ${this.pid} runs already`
    return new WeftError('WEFT_HANDOVER', `${who} with this state directory and does not hand over: ${reason}`)
  }
}

/** Null when nobody listens there. */
function connectTo(path: string): Promise<Socket | null> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path)
    socket.once('connect', () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(null)
      else reject(new WeftError('WEFT_HANDOVER', `the handover socket ${path} cannot be used`, error))
    })
  })
}
