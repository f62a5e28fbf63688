/**
 * The running agent's side of a handover: it listens on `handover.sock`, and gives way to a successor that asks for it.
 *
 *      serving --take--> released --commit--> committed --serving--> retired
 *         ^                  |                    |
 *         +--- the successor has gone, or is too slow: everything is ours again
 *
 * Until `serving` arrives this agent serves every connection, so that a successor may die at any time. There is one
 * successor at a time; others are refused. Bytes that are no message cost the connection they came on, and nothing else.
 */
import { chmodSync, linkSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import { HandoverChannel } from './handover-channel.ts'
import { decodeFromSuccessor, type FromSuccessor, HANDOVER_FORMAT, type HandoverParty } from './handover-messages.ts'

/** Connections at a time: one successor, and some that will be told that there is one. */
const CONNECTIONS_MAX = 4

/** Longest times for the steps of a successor, and the time between reports. */
export interface OfferLimits {
  /** From the connection to `hello`. */
  readonly helloMs: number
  /** From `released` to `commit`: the successor starts its workers and opens the listeners of every pod. */
  readonly commitMs: number
  /** From `committed` to `serving`: one map is written. */
  readonly servingMs: number
  /** Between reports of what is counted while this agent drains. */
  readonly reportMs: number
}

/** A thousand pods are enrolled in a few seconds; a minute is for machines under load. */
const LIMITS: OfferLimits = { helloMs: 5000, commitMs: 60_000, servingMs: 10_000, reportMs: 1000 }

/** What the offer asks of the agent. */
export interface OfferOwner {
  /** The slot of its first data worker in the kernel's maps. */
  readonly slotBase: number
  /** Of all pod identities, with keys. */
  credentials(): readonly TlsMaterial[]
  /** Stops enrolling and gives up what is in the kernel; everything is served on. */
  release(): Promise<void>
  /** The successor has not made it: what was released is ours again. */
  resume(): Promise<void>
  /** What was counted since the last call; at the first, since ever. */
  reports(): Promise<readonly MetricsReport[]>
  /** The successor serves: drain, and end. `HandoverOffer.end` is to be called then. */
  retire(): void
}

const SERVING = 0
const RELEASED = 1
const COMMITTED = 2
const RETIRED = 3
type State = typeof SERVING | typeof RELEASED | typeof COMMITTED | typeof RETIRED

/** See the head of the file. */
export class HandoverOffer {
  private readonly path: string
  private readonly party: Omit<HandoverParty, 'format'>
  private readonly log: Logger
  private readonly limits: OfferLimits
  private readonly server: Server
  private readonly candidates = new Set<Candidate>()
  private owner: OfferOwner | null = null
  private state: State = SERVING
  /** Who has taken, from `released` on. */
  private successor: Candidate | null = null
  private stepTimer: NodeJS.Timeout | null = null
  private reportTimer: NodeJS.Timeout | null = null
  // What a successor asks for happens one after the other, whatever comes in between.
  private queue: Promise<void> = Promise.resolve()
  private isPublished = false
  private readonly undecided: (() => void)[] = []

  private constructor(path: string, party: Omit<HandoverParty, 'format'>, log: Logger, limits: OfferLimits) {
    this.path = path
    this.party = party
    this.log = log
    this.limits = limits
    this.server = createServer((socket) => this.onConnection(socket))
    this.server.maxConnections = CONNECTIONS_MAX
  }

  /**
   * Listens beside `path`; nobody finds it there before `claim` or `replace`. Whoever connects before `serve` is told that
   * this agent is starting. Rejects with WEFT_SYSCALL.
   */
  static async open(
    path: string,
    party: Omit<HandoverParty, 'format'>,
    log: Logger,
    limits: Partial<OfferLimits> = {},
  ): Promise<HandoverOffer> {
    const offer = new HandoverOffer(path, party, log, { ...LIMITS, ...limits })
    const own = offer.ownPath
    rmSync(own, { force: true })
    await new Promise<void>((resolve, reject) => {
      offer.server.once('error', (error) => {
        const what = `the handover socket ${own} cannot be made; choose another directory with --state`
        reject(new WeftError('WEFT_SYSCALL', what, error))
      })
      // Never open to others, not even for the moment until its mode is set.
      const umask = process.umask(0o177)
      try {
        offer.server.listen(own, resolve)
      } finally {
        process.umask(umask)
      }
    })
    chmodSync(own, 0o600)
    // The agent ends when its work does.
    offer.server.unref()
    return offer
  }

  /** Takes the place of a socket that nobody listens on any more. False when another agent was faster. */
  claim(): boolean {
    rmSync(this.path, { force: true })
    try {
      linkSync(this.ownPath, this.path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
      throw new WeftError('WEFT_SYSCALL', `the handover socket ${this.path} cannot be made`, error)
    }
    unlinkSync(this.ownPath)
    this.isPublished = true
    return true
  }

  /** Takes the place of the predecessor's. */
  replace(): void {
    renameSync(this.ownPath, this.path)
    this.isPublished = true
  }

  /** From now on successors are served. */
  serve(owner: OfferOwner): void {
    this.owner = owner
  }

  /** True while a successor has what is in the kernel. */
  get isReleased(): boolean {
    return this.state !== SERVING
  }

  /** Resolves when nobody is about to take over (any more): it serves, or has gone and everything is ours again. */
  async decided(): Promise<void> {
    const isUndecided = (): boolean =>
      this.state !== RETIRED && (this.successor !== null || [...this.candidates].some(({ isWelcome }) => isWelcome))
    while (isUndecided()) await new Promise<void>((resolve) => this.undecided.push(resolve))
    await this.queue
  }

  private tellDecided(): void {
    for (const resolve of this.undecided.splice(0)) resolve()
  }

  /** Closes the socket; a successor is told the last counts and that this was all. Calling it again does nothing. */
  async end(): Promise<void> {
    this.clearStep()
    if (this.reportTimer !== null) clearInterval(this.reportTimer)
    await this.queue
    if (this.successor !== null && this.state === RETIRED) {
      await this.sendReports()
      this.successor?.channel.send({ kind: 'ended' })
      this.successor?.channel.end()
    }
    this.successor = null
    for (const candidate of this.candidates) candidate.channel.end()
    this.candidates.clear()
    if (!this.server.listening) return
    // Node removes the name under which the socket was made, which is not the one that others know.
    if (this.isPublished && this.state !== RETIRED) rmSync(this.path, { force: true })
    this.server.close()
  }

  private get ownPath(): string {
    return `${this.path}.${this.party.pid}`
  }

  // --- candidates ---

  private onConnection(socket: Socket): void {
    const candidate = new Candidate(this, socket, this.limits.helloMs)
    this.candidates.add(candidate)
  }

  /** Of a candidate. A throw closes its connection. */
  onMessage(candidate: Candidate, message: FromSuccessor): void {
    if (message.kind === 'hello') {
      this.onHello(candidate, message)
      return
    }
    if (!candidate.isWelcome) throw new Error('it has not said who it is')
    switch (message.kind) {
      case 'take':
        this.enqueue(() => this.onTake(candidate))
        break
      case 'commit':
        this.enqueue(() => this.onCommit(candidate))
        break
      case 'serving':
        this.enqueue(async () => this.onServing(candidate))
        break
    }
  }

  onCandidateClosed(candidate: Candidate, reason: string): void {
    this.candidates.delete(candidate)
    if (candidate.isWelcome && candidate !== this.successor) {
      this.log.info('an agent that was to be the successor has gone', { pid: candidate.pid, reason })
    }
    if (candidate === this.successor) this.enqueue(() => this.onSuccessorLost(reason))
    this.tellDecided()
  }

  private onHello(candidate: Candidate, { format, version, pid, node }: HandoverParty): void {
    if (candidate.isWelcome) throw new Error('it has said twice who it is')
    const objection = this.objectionTo(format, node)
    if (this.owner === null || objection !== null) {
      this.refuse(candidate, objection ?? 'it is just starting; try again')
      return
    }
    candidate.isWelcome = true
    candidate.pid = pid
    this.log.info('another agent starts beside this one, to take over', { version, pid })
    candidate.channel.send({
      kind: 'welcome',
      slotBase: this.owner.slotBase,
      format: HANDOVER_FORMAT,
      ...this.party,
    })
    for (const material of this.owner.credentials()) candidate.channel.send({ kind: 'credential', material })
    candidate.channel.send({ kind: 'told' })
  }

  private objectionTo(format: number, node: string): string | null {
    if (format !== HANDOVER_FORMAT) return `it knows handover format ${HANDOVER_FORMAT}, not ${format}; end it first`
    return node === this.party.node ? null : `it is the agent of node ${this.party.node}, not ${node}`
  }

  private refuse(candidate: Candidate, reason: string): void {
    this.candidates.delete(candidate)
    candidate.channel.send({ kind: 'refused', reason })
    candidate.channel.end()
    this.tellDecided()
  }

  // --- steps ---

  private async onTake(candidate: Candidate): Promise<void> {
    if (!this.candidates.has(candidate)) return
    if (this.state !== SERVING) {
      const other = this.successor === null ? 'it is ending' : `it is handing over to process ${this.successor.pid}`
      this.refuse(candidate, other)
      return
    }
    this.successor = candidate
    this.state = RELEASED
    this.log.info('handing over: the capture is released; connections are served as before', { pid: candidate.pid })
    await this.owner!.release()
    candidate.channel.send({ kind: 'released' })
    this.expect('commit', this.limits.commitMs)
  }

  private async onCommit(candidate: Candidate): Promise<void> {
    if (candidate !== this.successor || this.state !== RELEASED) {
      candidate.channel.fail('it is not its turn')
      return
    }
    this.clearStep()
    this.state = COMMITTED
    await this.sendReports()
    candidate.channel.send({ kind: 'committed' })
    this.expect('serving', this.limits.servingMs)
  }

  private onServing(candidate: Candidate): void {
    if (candidate !== this.successor || this.state !== COMMITTED) {
      candidate.channel.fail('it is not its turn')
      return
    }
    this.clearStep()
    this.state = RETIRED
    this.log.info('the successor serves; this agent drains and ends', { pid: candidate.pid })
    this.reportTimer = setInterval(() => this.enqueue(() => this.sendReports()), this.limits.reportMs).unref()
    this.owner!.retire()
    this.tellDecided()
  }

  private async onSuccessorLost(reason: string): Promise<void> {
    const pid = this.successor?.pid
    this.successor = null
    this.clearStep()
    this.tellDecided()
    if (this.state === RETIRED) {
      this.log.warn('the successor has gone while this agent drains', { pid, reason })
      return
    }
    if (this.state === SERVING) return
    this.state = SERVING
    this.log.warn('the successor has gone before it served; this agent goes on', { pid, reason })
    await this.owner!.resume()
  }

  private expect(step: string, limitMs: number): void {
    const { successor } = this
    this.stepTimer = setTimeout(() => {
      if (successor === null) return
      const reason = `no "${step}" came within ${limitMs / 1000} s`
      this.refuse(successor, reason)
      this.onCandidateClosed(successor, reason)
    }, limitMs).unref()
  }

  private clearStep(): void {
    if (this.stepTimer !== null) clearTimeout(this.stepTimer)
    this.stepTimer = null
  }

  /** A successor that does not read gets the sums later. */
  private async sendReports(): Promise<void> {
    if (this.successor === null || this.successor.channel.isCongested) return
    for (const report of await this.owner!.reports()) this.successor?.channel.send({ kind: 'report', report })
  }

  private enqueue(step: () => Promise<void>): void {
    this.queue = this.queue.then(step).catch((error: unknown) => {
      this.log.error('a step of the handover failed', { error: describeError(error) })
      this.successor?.channel.fail(`this agent could not follow: ${describeError(error)}`)
    })
  }
}

/** Somebody who has connected. */
class Candidate {
  readonly channel: HandoverChannel
  isWelcome = false
  pid = 0
  private readonly offer: HandoverOffer
  private readonly helloTimer: NodeJS.Timeout

  constructor(offer: HandoverOffer, socket: Socket, helloMs: number) {
    this.offer = offer
    this.channel = new HandoverChannel(socket, this)
    this.helloTimer = setTimeout(() => {
      if (!this.isWelcome) this.channel.fail('it has not said who it is')
    }, helloMs).unref()
    socket.unref()
  }

  onLine(line: string): void {
    this.offer.onMessage(this, decodeFromSuccessor(line))
  }

  onClosed(reason: string): void {
    clearTimeout(this.helloTimer)
    this.offer.onCandidateClosed(this, reason)
  }
}
