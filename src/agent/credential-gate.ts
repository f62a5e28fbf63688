/** Lets a pod's enrolment wait for its certificate: a captured connection without one could not be carried. */
import { WeftError } from '../base/errors.ts'

/** Longest wait for a first certificate before the enrolment is given up for now (it is tried again). */
const WAIT_MS = 15_000

/** Who waits for which certificate. */
export class CredentialGate {
  private readonly identities = new Set<string>()
  private readonly waiting = new Map<string, Set<Waiter>>()

  /** Resolves when `identity` has a certificate; rejects with WEFT_CERTIFICATE after WAIT_MS. */
  ready(identity: string): Promise<void> {
    if (this.identities.has(identity)) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { resolve, reject, timer: setTimeout(() => this.giveUp(identity, waiter), WAIT_MS) }
      const waiters = this.waiting.get(identity)
      if (waiters === undefined) this.waiting.set(identity, new Set([waiter]))
      else waiters.add(waiter)
    })
  }

  open(identity: string): void {
    this.identities.add(identity)
    for (const waiter of this.take(identity)) waiter.resolve()
  }

  remove(identity: string): void {
    this.identities.delete(identity)
  }

  /** The agent stops: nobody waits any more. */
  close(): void {
    for (const identity of [...this.waiting.keys()]) {
      for (const waiter of this.take(identity)) waiter.reject(new WeftError('WEFT_CLOSED', 'the agent is stopping'))
    }
  }

  private giveUp(identity: string, waiter: Waiter): void {
    this.waiting.get(identity)?.delete(waiter)
    const text = `no certificate for ${identity} after ${WAIT_MS / 1000} s; is the controller reachable?`
    waiter.reject(new WeftError('WEFT_CERTIFICATE', text))
  }

  private take(identity: string): Waiter[] {
    const waiters = [...(this.waiting.get(identity) ?? [])]
    this.waiting.delete(identity)
    for (const waiter of waiters) clearTimeout(waiter.timer)
    return waiters
  }
}

interface Waiter {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}
