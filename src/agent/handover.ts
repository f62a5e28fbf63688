/**
 * From one agent of a node to the next, without a connection lost: starting an agent beside one that runs with the same
 * state directory is the upgrade. Both sides of it, as an agent has them in its life: first it may be the successor of one
 * (predecessor.ts), then it has an offer to the next (handover-offer.ts).
 *
 *      begin   is there one? if not, the socket is ours, and the pins of a dead one are simply found
 *      take    it gives the pins up and serves on; we enrol every pod, with listeners beside its own
 *      commit  its counters are ours
 *      succeed new connections are ours; what it has, it drains
 */
import { join } from 'node:path'
import type { Logger } from '../base/log.ts'
import { WORKERS_MAX } from '../kernel/layout.generated.ts'
import type { MetricsReport } from '../telemetry/report.ts'
import { HandoverOffer, type OfferOwner } from './handover-offer.ts'
import { Predecessor } from './predecessor.ts'

/** Name of the socket in the state directory. */
export const HANDOVER_SOCKET = 'handover.sock'

export interface HandoverOptions {
  readonly stateDirectory: string
  readonly version: string
  readonly node: string
  readonly log: Logger
}

/** One per agent. */
export class Handover {
  /** The agent that ran when this one started; null without. */
  readonly predecessor: Predecessor | null
  /** It has given the pins up, and serves until `succeed`. */
  isPredecessorServing = false
  private readonly offer: HandoverOffer
  private readonly log: Logger

  private constructor(predecessor: Predecessor | null, offer: HandoverOffer, log: Logger) {
    this.predecessor = predecessor
    this.offer = offer
    this.log = log
  }

  /** Rejects with WEFT_HANDOVER when an agent runs that does not answer or refuses, WEFT_SYSCALL without a socket. */
  static async begin(options: HandoverOptions): Promise<Handover> {
    const { version, node, log } = options
    const path = join(options.stateDirectory, HANDOVER_SOCKET)
    const party = { version, node, pid: process.pid }
    const offer = await HandoverOffer.open(path, party, log)
    try {
      let predecessor = await Predecessor.find({ path, party })
      // Another one that starts at this very moment was faster: it says so.
      if (predecessor === null && !offer.claim()) predecessor = await Predecessor.find({ path, party })
      else if (predecessor !== null) {
        log.info('an agent runs with this state directory: it is to hand over', {
          version: predecessor.version,
          pid: predecessor.pid,
        })
      }
      return new Handover(predecessor, offer, log)
    } catch (error) {
      await offer.end()
      throw error
    }
  }

  /** The slots of two agents that run at one time lie apart. */
  get slotBase(): number {
    return this.predecessor !== null && this.predecessor.slotBase === 0 ? WORKERS_MAX : 0
  }

  /** The pins may be opened afterwards. Rejects with WEFT_HANDOVER when they are not given up. */
  async take(): Promise<void> {
    const step = await this.predecessor!.take()
    this.isPredecessorServing = step === 'done'
    this.log.info(
      step === 'done' ? 'the agent before this one has released its capture' : 'the agent before this one has died',
    )
  }

  /** Every pod is enrolled. Its counters go to `onReport`, from now until it ends. */
  async commit(onReport: (report: MetricsReport) => void, onEnded: () => void): Promise<void> {
    const predecessor = this.predecessor!
    predecessor.onReport = onReport
    predecessor.onEnded = () => {
      this.log.info('the agent before this one has ended')
      onEnded()
    }
    if ((await predecessor.commit()) === 'gone') {
      this.isPredecessorServing = false
      onEnded()
    }
  }

  /**
   * `serve` makes new connections ours; then the predecessor is told, and successors find this agent. Throws WEFT_HANDOVER
   * when the predecessor has gone back on it.
   */
  succeed(serve: () => void): void {
    this.predecessor?.assertWilling()
    serve()
    if (this.predecessor === null) return
    this.offer.replace()
    this.predecessor.serving()
    this.log.info('this agent serves; the one before it drains', { pid: this.predecessor.pid })
  }

  /** From now on a successor may take over. */
  serve(owner: OfferOwner): void {
    this.offer.serve(owner)
  }

  /** Resolves when no successor is about to take over (any more). */
  async decided(): Promise<void> {
    await this.offer.decided()
  }

  /** Tells a successor the last counts, and that this was all. */
  async end(): Promise<void> {
    this.predecessor?.close()
    await this.offer.end()
  }
}
