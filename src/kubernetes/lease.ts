/**
 * Leader election among replicas by a Lease (coordination.k8s.io/v1): who holds it writes, everybody else waits.
 *
 * Clocks are never compared between machines. A follower takes the Lease when it has seen it unchanged for its whole
 * duration; a leader stops leading when its last successful renewal was sent longer ago than RENEW_DEADLINE_MS, which is
 * sooner. Both wait with timers, so that a wall clock that is set leads nobody astray. A process that stands still can
 * come back a moment too late all the same: whoever writes as leader still writes with a precondition.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type KubernetesApi, KubernetesError } from './api.ts'
import { collectionPath, type KubernetesObject, objectPath, type ResourceType } from './object.ts'

export const LEASES: ResourceType = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  isNamespaced: true,
}

/** How long a Lease counts that nobody renews. 15 s, as with Kubernetes' own components: a rolling restart of the API server is survived. */
const DURATION_MS = 15_000
/** A leader without a renewal ends its reign after this time: a third of the duration is left for requests under way. */
const RENEW_DEADLINE_MS = 10_000
/** Between two looks, and two renewals. */
const RETRY_MS = 2_000
/** Of one request: several fit into the deadline. */
const REQUEST_TIMEOUT_MS = 3_000

/** Which Lease, and who wants it. */
export interface LeaseSettings {
  readonly api: Pick<KubernetesApi, 'request'>
  readonly namespace: string
  readonly name: string
  /** Unique among the replicas; `replicaName()`. */
  readonly identity: string
  readonly clock: Clock
  readonly log: Logger
}

/** Told of every change. Must not throw. */
export interface LeaseListener {
  onLeading(): void
  onFollowing(): void
}

/** One replica's part in the election. */
export class LeaderElection {
  private readonly settings: LeaseSettings
  private readonly listener: LeaseListener
  private readonly path: string
  /** The Lease as last seen; null when there was none. */
  private lease: KubernetesObject | null = null
  /** How long somebody else's Lease was seen unchanged. */
  private unchangedMs = 0
  private isLeading = false
  private isStopped = true
  private cancelRound: () => void = () => {}
  private cancelExpiry: () => void = () => {}
  private round: Promise<void> = Promise.resolve()
  private problem = ''

  constructor(settings: LeaseSettings, listener: LeaseListener) {
    this.settings = settings
    this.listener = listener
    this.path = objectPath(LEASES, settings.namespace, settings.name)
  }

  /** True as long as no other replica can have taken the Lease. */
  get isLeader(): boolean {
    return this.isLeading
  }

  /** Who holds the Lease, as far as is known; empty when nobody does. */
  get holder(): string {
    return holderOf(this.lease)
  }

  /** Begins to stand for election; never throws. */
  start(): void {
    this.isStopped = false
    this.goOn()
  }

  /** Gives the Lease up, so that another replica need not wait for its end. Never rejects. */
  async stop(): Promise<void> {
    if (this.isStopped) return
    this.isStopped = true
    this.cancelRound()
    await this.round
    if (!this.isLeading) return
    this.resign('stopping')
    try {
      await this.write({ ...this.lease!, spec: { ...specOf(this.lease), holderIdentity: '', leaseDurationSeconds: 1 } })
    } catch (error) {
      this.settings.log.warn('the Lease cannot be given up; the next leader waits for its end', {
        error: describeError(error),
      })
    }
  }

  private goOn(): void {
    // It never rejects.
    this.round = this.runRound().then((waitMs) => {
      if (!this.isStopped) this.cancelRound = this.settings.clock.after(waitMs, () => this.goOn())
    })
  }

  /** Renews, takes or looks at the Lease; resolves with the time to the next round. */
  private async runRound(): Promise<number> {
    const { identity, log, namespace, name } = this.settings
    try {
      if (this.isLeading) await this.renew()
      else await this.stand()
      this.problem = ''
    } catch (error) {
      // A conflict is how a race ends: the next round sees who won.
      const isRace = error instanceof KubernetesError && (error.isConflict || error.isNotFound)
      if (isRace && this.isLeading) await this.lookAgain()
      if (!isRace && this.problem !== describeError(error)) {
        this.problem = describeError(error)
        log.warn('the election of a leader cannot go on', { lease: `${namespace}/${name}`, error: this.problem })
      }
    }
    if (this.isLeading && this.holder !== identity) this.resign(`the Lease is ${this.holder || 'nobody'}'s now`)
    return RETRY_MS
  }

  /** As a follower: takes the Lease if it is free. */
  private async stand(): Promise<void> {
    const { identity } = this.settings
    const before = this.lease
    const isFirstLook = before === null
    this.lease = await this.read()
    if (this.lease === null) {
      await this.take(null)
      return
    }
    const isUnchanged = !isFirstLook && versionOf(before) === versionOf(this.lease)
    this.unchangedMs = isUnchanged ? this.unchangedMs + RETRY_MS : 0
    const isFree = this.holder === '' || this.holder === identity || this.unchangedMs >= durationMsOf(this.lease)
    if (isFree) await this.take(this.lease)
  }

  private async take(free: KubernetesObject | null): Promise<void> {
    const { identity, namespace, name, clock } = this.settings
    const now = microTime(clock.now())
    const transitions = Number(specOf(free)['leaseTransitions'] ?? -1) + 1
    await this.hold({
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: free?.metadata ?? { name, namespace },
      spec: {
        holderIdentity: identity,
        leaseDurationSeconds: DURATION_MS / 1000,
        acquireTime: now,
        renewTime: now,
        leaseTransitions: transitions,
      },
    })
    if (this.isLeading) return
    this.isLeading = true
    this.settings.log.info('leading', { identity })
    this.listener.onLeading()
  }

  private async renew(): Promise<void> {
    await this.hold({
      ...this.lease!,
      spec: { ...specOf(this.lease), renewTime: microTime(this.settings.clock.now()) },
    })
  }

  /** Writes a Lease that is ours; our time counts from before it was sent. */
  private async hold(lease: KubernetesObject): Promise<void> {
    const cancel = this.settings.clock.after(RENEW_DEADLINE_MS, () => {
      if (this.isLeading) this.resign(`the Lease could not be renewed within ${RENEW_DEADLINE_MS / 1000} s`)
    })
    try {
      this.lease = await this.write(lease)
    } catch (error) {
      cancel()
      throw error
    }
    this.cancelExpiry()
    this.cancelExpiry = cancel
  }

  /** Somebody wrote between our renewals: another leader, or only an editor; or the Lease was deleted. */
  private async lookAgain(): Promise<void> {
    try {
      this.lease = await this.read()
    } catch {
      // Whoever it was, our time runs.
    }
  }

  private resign(reason: string): void {
    this.isLeading = false
    this.unchangedMs = 0
    this.cancelExpiry()
    this.settings.log.warn('not leading any more', { identity: this.settings.identity, reason })
    this.listener.onFollowing()
  }

  // --- requests ---

  private async read(): Promise<KubernetesObject | null> {
    try {
      return (await this.request('GET', this.path)) as KubernetesObject
    } catch (error) {
      if (error instanceof KubernetesError && error.isNotFound) return null
      throw error
    }
  }

  private async write(lease: KubernetesObject): Promise<KubernetesObject> {
    const isNew = lease.metadata.resourceVersion === undefined
    const path = isNew ? collectionPath(LEASES, this.settings.namespace) : this.path
    return (await this.request(isNew ? 'POST' : 'PUT', path, lease)) as KubernetesObject
  }

  private async request(method: string, path: string, body?: KubernetesObject): Promise<unknown> {
    return await this.settings.api.request(method, path, body, { timeoutMs: REQUEST_TIMEOUT_MS })
  }
}

/** A name that no other replica has, also none that ran in the same pod before. */
export function replicaName(): string {
  return `${hostname()}_${randomUUID()}`
}

function specOf(lease: KubernetesObject | null): Readonly<Record<string, unknown>> {
  return (lease?.['spec'] ?? {}) as Record<string, unknown>
}

function holderOf(lease: KubernetesObject | null): string {
  const holder = specOf(lease)['holderIdentity']
  return typeof holder === 'string' ? holder : ''
}

function versionOf(lease: KubernetesObject | null): string {
  return lease?.metadata.resourceVersion ?? ''
}

/** What the holder promised, or our own when that makes no sense. */
function durationMsOf(lease: KubernetesObject): number {
  const seconds = Number(specOf(lease)['leaseDurationSeconds'])
  return seconds > 0 && seconds <= 3_600 ? seconds * 1000 : DURATION_MS
}

/** RFC 3339 with six digits, as the API's MicroTime demands. */
function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z')
}
