/**
 * Whether the API server is there, for everybody who waits until it is again: one cheap request a second asks for all of
 * them, and all of them go on at the first good answer.
 *
 * A server that has just started answers before it knows what it needs to: it refuses what is allowed (403, its roles are
 * not read yet) and denies what is there (404, its CRDs are not). So it counts as there when it says that it is ready; one
 * that answers without ever saying so is tried all the same after a while.
 */
import type { Clock } from '../base/clock.ts'
import { KubernetesError } from './error.ts'

/** Before the first question: a connection that was cut, and nothing else, is back by then. Down to half of it, by chance. */
const FIRST_PAUSE_MS = 500
/**
 * Between two questions, down to half of it. With the way to the server gone each costs it nothing; when it starts, one
 * small request a second of each replica of the controller.
 */
const PAUSE_MS = 1_000
/** For an answer. A server that packets do not reach is asked anew after it: TCP alone would wait for up to a minute. */
const ANSWER_TIMEOUT_MS = 3_000
/**
 * Answers other than "ready" are waited out for this long, counted from the first of them. API servers are ready some
 * seconds after they listen; one that forbids the question, or has lasting trouble with a part of itself, may serve us
 * nevertheless.
 */
const UNREADY_PATIENCE_MS = 15_000

/** What is needed of the server. */
export interface PresenceQuestion {
  /** Asks whether it is ready; rejects with KubernetesError when it is not. */
  askReady(timeoutMs: number): Promise<void>
  /** Connections that nobody uses may lead to where the server was. */
  closeIdle(): void
}

/** How time passes between questions; tests inject it. */
export interface PresencePauses {
  readonly clock: Clock
  /** [0, 1), for jitter. */
  readonly random: () => number
}

/** See the head of the file. One for each API server. */
export class ServerPresence {
  private readonly server: PresenceQuestion
  private readonly pauses: PresencePauses
  private readonly waiting = new Set<() => void>()
  /** Ends the pause before the next question; null when nobody asks. */
  private cancelPause: (() => void) | null = null
  /** When the server first answered without being ready; null while it does not answer. */
  private answersSinceMs: number | null = null
  private isAsking = false

  constructor(server: PresenceQuestion, pauses: PresencePauses) {
    this.server = server
    this.pauses = pauses
  }

  /**
   * Call it when a request got no answer. Resolves when the server is there, a moment later at the earliest, or when the
   * signal aborts; never rejects.
   */
  async returned(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    await new Promise<void>((resolve) => {
      const end = (): void => {
        signal.removeEventListener('abort', end)
        this.waiting.delete(end)
        // Nobody else waits: an answer is of no use to anybody.
        if (this.waiting.size === 0) this.rest()
        resolve()
      }
      signal.addEventListener('abort', end)
      this.waiting.add(end)
      if (this.cancelPause === null && !this.isAsking) this.begin()
    })
  }

  private begin(): void {
    this.answersSinceMs = null
    this.server.closeIdle()
    this.askAfter(FIRST_PAUSE_MS)
  }

  private rest(): void {
    this.cancelPause?.()
    this.cancelPause = null
  }

  private askAfter(pauseMs: number): void {
    const { clock, random } = this.pauses
    this.cancelPause = clock.after(Math.round((pauseMs * (1 + random())) / 2), () => {
      this.cancelPause = null
      // It never rejects.
      void this.ask()
    })
  }

  private async ask(): Promise<void> {
    this.isAsking = true
    const isThere = await this.isReady()
    this.isAsking = false
    if (isThere) for (const end of [...this.waiting]) end()
    // Also for who came while the last one went.
    else if (this.waiting.size > 0) this.askAfter(PAUSE_MS)
  }

  private async isReady(): Promise<boolean> {
    const nowMs = (): number => this.pauses.clock.now()
    try {
      await this.server.askReady(ANSWER_TIMEOUT_MS)
      return true
    } catch (error) {
      // Credentials that cannot be used, say: those who wait find out themselves, and have their own patience with it.
      if (!(error instanceof KubernetesError)) return true
      if (error.isUnreachable) this.answersSinceMs = null
      else this.answersSinceMs ??= nowMs()
      return this.answersSinceMs !== null && nowMs() - this.answersSinceMs >= UNREADY_PATIENCE_MS
    }
  }
}
