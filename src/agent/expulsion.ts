/**
 * Breaks off open connections that the kernel carries and that policy does not allow any more, or that are to be encrypted
 * from now on: what the kernel carries is not.
 *
 * Each connection is judged by itself, with the addresses that it really has, whether or not new ones like it would still
 * be carried: an endpoint may have left its service, or its policies may have begun to ask for addresses. Connections of
 * pods that are not captured any more are left alone, as the proxy leaves those that it carries.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { hasCode } from '../kernel/addon.ts'
import type { CarriedPeer } from '../kernel/carried-peers.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { Authorizer } from '../proxy/authorize.ts'
import type { Carrier } from './capture.ts'
import { factsOf } from './carriage-verdicts.ts'

/** Why a connection is broken off. */
const DENIED = 'a policy now denies it'
const ENCRYPTED = 'connections to its destination are encrypted from now on'
type Reason = typeof DENIED | typeof ENCRYPTED

/** Looks through the connections of pods. */
export class Expulsion {
  private readonly carrier: Carrier
  private readonly log: Logger
  /** Said once: every change would say it again. */
  private hasComplained = false

  constructor(carrier: Carrier, log: Logger) {
    this.carrier = carrier
    this.log = log
  }

  /** Looks at every open connection between `pods`, which are captured, and their numbers. */
  run(snapshot: Snapshot, pods: ReadonlyMap<string, number>): void {
    const workloads = new Map<number, Workload>()
    for (const [uid, number] of pods) {
      const workload = snapshot.workloads.get(uid)
      if (workload !== undefined) workloads.set(number, workload)
    }
    const authorizers = new Map<Workload, Authorizer>()
    const authorizerOf = (workload: Workload): Authorizer => {
      const known = authorizers.get(workload) ?? Authorizer.compile(snapshot.policiesOf(workload))
      authorizers.set(workload, known)
      return known
    }
    for (const [number, source] of workloads) {
      for (const peer of this.peersOf(number, source)) {
        const destination = workloads.get(peer.destinationPod)
        if (destination === undefined || peer.sourcePod !== number) continue
        if (snapshot.pods.get(destination.uid)?.mustEncrypt === true) {
          this.breakOff(peer, source, destination, ENCRYPTED, '')
          continue
        }
        const facts = factsOf(source, peer.sourceAddress, peer.destinationAddress, peer.destinationPort)
        const decision = authorizerOf(destination).authorizeConnection(facts)
        if (!decision.isAllowed) this.breakOff(peer, source, destination, DENIED, decision.policy)
      }
    }
  }

  private peersOf(number: number, source: Workload): readonly CarriedPeer[] {
    try {
      return this.carrier.peersOf(number)
    } catch (error) {
      this.complain(`the connections of pod ${source.namespace}/${source.name} cannot be listed`, error)
      return []
    }
  }

  private breakOff(peer: CarriedPeer, source: Workload, destination: Workload, reason: Reason, policy: string): void {
    const fields = {
      pod: source.uid,
      destination: destination.uid,
      port: peer.destinationPort,
      ...(policy === '' ? {} : { policy }),
    }
    try {
      if (this.carrier.breakOff(peer.sourcePod, peer)) {
        this.log.info(`connection closed: ${reason}`, fields)
      }
    } catch (error) {
      const missing = hasCode(error, 'EOPNOTSUPP') ? ' (the kernel was built without CONFIG_INET_DIAG_DESTROY)' : ''
      this.complain(`a connection stays open although ${reason}${missing}`, error, fields)
    }
  }

  private complain(what: string, error: unknown, fields: Readonly<Record<string, unknown>> = {}): void {
    if (!this.hasComplained) this.log.error(what, { ...fields, error: describeError(error) })
    this.hasComplained = true
  }
}
