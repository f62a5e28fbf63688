/**
 * The DNS of one data worker: questions of pods in, answers out. It has no sockets: whoever captured a question calls
 * `query`, and what the mesh cannot answer goes on to the pod's own resolver through `Upstream`.
 */
import type { TimerWheel } from '../base/timers.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { Cancellation, ForwardFailure, ReplyHandler, Upstream } from './upstream.ts'

/** Where the answer to one question goes. */
export interface Answering {
  /** Called at most once, perhaps before `query` returns. The bytes are a whole message and the callee's. */
  answer(bytes: Uint8Array): void
}

/** What a resolver needs of its surroundings. */
export interface ResolverParts {
  readonly upstream: Upstream
  /** Coarse timers of the worker. */
  readonly timers: TimerWheel
  /** Milliseconds of a clock that never goes back; its zero does not matter. */
  readonly now: () => number
  /** 16 bits that nobody can guess, for the ids of forwarded queries. */
  readonly randomId: () => number
}

/** Answers the questions of all pods of a node that one worker gets. */
export class Resolver {
  private readonly parts: ResolverParts
  /** What the mesh looks like. */
  snapshot: Snapshot = Snapshot.empty

  constructor(parts: ResolverParts) {
    this.parts = parts
  }

  /** What the mesh looks like from now on. */
  applySnapshot(snapshot: Snapshot): void {
    this.snapshot = snapshot
  }

  /**
   * One question. `source` is the uid of the pod that asks, `resolverAddress` the canonical address that the app asked.
   * The bytes stay the caller's after the call.
   */
  query(source: string, resolverAddress: string, bytes: Uint8Array, isTcp: boolean, respond: Answering): void {
    const forwarded = new ForwardedQuery(respond)
    forwarded.begin(this.parts.upstream.forward(source, resolverAddress, bytes, isTcp, forwarded))
  }

  /** Ends everything that is under way, unanswered. */
  close(): void {}
}

class ForwardedQuery implements ReplyHandler {
  private readonly respond: Answering
  private isOver = false
  private cancellation: Cancellation | null = null

  constructor(respond: Answering) {
    this.respond = respond
  }

  begin(cancellation: Cancellation): void {
    this.cancellation = cancellation
    if (this.isOver) cancellation.cancel()
  }

  onReply(bytes: Uint8Array): void {
    if (this.isOver) return
    this.isOver = true
    this.cancellation?.cancel()
    this.respond.answer(bytes)
  }

  onFailure(_reason: ForwardFailure): void {
    if (this.isOver) return
    this.isOver = true
    this.cancellation?.cancel()
  }
}
