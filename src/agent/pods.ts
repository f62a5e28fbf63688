/**
 * Keeps the captured pods in step with what the controller says: enrols, withdraws, and tries again what failed.
 *
 * A pod is enrolled only when its certificate is there, so that no connection is captured that cannot be carried.
 */
import { Backoff } from '../base/backoff.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { formatIdentity } from '../model/identity.ts'
import { isPeerAuthentication } from '../model/policy.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, type LocalPod, type Workload } from '../model/workload.ts'
import type { Capture, PodToCapture } from './capture.ts'
import type { AuditedPod } from './capture-watch.ts'
import type { KernelCarriage } from './kernel-carriage.ts'
import type { Workers } from './workers.ts'

/** What the pods need of the agent. */
export interface PodsOptions {
  readonly capture: Capture
  readonly workers: Pick<Workers, 'addPod' | 'removePod' | 'count'>
  /** Who is told just before a pod is captured, and just before it is captured no more. */
  readonly carriage?: Pick<KernelCarriage, 'adopt' | 'drop'> | null
  readonly log: Logger
  /** The data workers answer DNS for pods that are not exempt. False when left out. */
  readonly isAnsweringDns?: boolean
  /** Resolves when a credential of `identity` is with the workers. */
  readonly credentialReady: (identity: string) => Promise<void>
  /** The identities that pods of this node need now. */
  readonly onIdentities: (identities: ReadonlySet<string>) => void
}

interface Enrolment {
  readonly identity: string
  /** What the capture was told; loopback capture is told anew when it changes. */
  readonly fingerprint: string
  isActive: boolean
}

/** The pods of this node, and what became of each. */
export class Pods {
  private readonly options: PodsOptions
  private readonly enrolments = new Map<string, Enrolment>()
  private readonly backoffs = new Map<string, Backoff>()
  private readonly retries = new Set<NodeJS.Timeout>()
  private snapshot: Snapshot | null = null
  // Enrolments and withdrawals run one after the other: a pod that flaps must not overtake itself.
  private queue: Promise<void> = Promise.resolve()
  private isStopped = false
  private isPaused = false
  private isConfirmed = false

  constructor(options: PodsOptions) {
    this.options = options
  }

  /** Pods that are captured now. */
  get enrolledCount(): number {
    let count = 0
    for (const enrolment of this.enrolments.values()) if (enrolment.isActive) count++
    return count
  }

  /** Pods that should be captured and are not (yet). */
  get pendingCount(): number {
    return Math.max(0, (this.snapshot?.pods.size ?? 0) - this.enrolledCount)
  }

  /** Resolves when everything that was asked for so far has been tried. */
  get settled(): Promise<void> {
    return this.queue
  }

  update(snapshot: Snapshot): void {
    this.snapshot = snapshot
    this.options.onIdentities(identitiesOfPods(snapshot))
    for (const uid of this.enrolments.keys()) {
      const pod = snapshot.pods.get(uid)
      const workload = snapshot.workloads.get(uid)
      if (pod === undefined || workload === undefined) this.enqueue(() => this.withdraw(uid))
      // Until its successor serves it is served as it was.
      else if (this.isPaused) continue
      else if (this.enrolments.get(uid)!.fingerprint !== this.fingerprint(this.describe(pod, workload), workload)) {
        this.enqueue(() => this.withdraw(uid))
      } else this.options.capture.setStrict?.(uid, isStrict(snapshot, pod, workload))
    }
    for (const pod of snapshot.pods.values()) {
      this.enqueue(() => this.enrol(pod.uid))
      const workload = snapshot.workloads.get(pod.uid)
      // An earlier agent may have captured it: until it is enrolled again it fails as it should by now.
      if (workload === undefined || this.enrolments.has(pod.uid)) continue
      this.options.capture.setFoundStrict?.(pod.uid, isStrict(snapshot, pod, workload))
    }
  }

  /** The configuration is whole: pods that an earlier agent has captured, and nobody wants, are captured no more. */
  confirm(): void {
    this.isConfirmed = true
    const wanted = new Set(this.snapshot?.pods.keys())
    this.enqueue(async () => {
      const { capture, carriage } = this.options
      for (const uid of capture.carrier?.found.keys() ?? []) if (!wanted.has(uid)) carriage?.drop(uid)
      try {
        await capture.retain?.(wanted)
      } catch (error) {
        this.options.log.error('pods of an earlier agent stay captured', { error: describeError(error) })
      }
    })
  }

  /** `namespace/name` by uid, of the pods that are to be captured. */
  wanted(): ReadonlyMap<string, string> {
    const names = new Map<string, string>()
    for (const uid of this.snapshot?.pods.keys() ?? []) {
      const workload = this.snapshot!.workloads.get(uid)
      names.set(uid, workload === undefined ? uid : `${workload.namespace}/${workload.name}`)
    }
    return names
  }

  /** Looks at a pod in the kernel: see capture-watch.ts. */
  audit(uid: string): AuditedPod | null {
    if (this.enrolments.get(uid)?.isActive !== true) return null
    const { capture } = this.options
    return capture.audit === undefined ? { uid, faults: [], left: [] } : capture.audit(uid)
  }

  /** Enrols a pod anew. */
  renew(uid: string): void {
    this.enqueue(() => this.withdraw(uid))
    this.enqueue(() => this.enrol(uid, true))
  }

  /** Nothing is enrolled until `resume`, because another agent does that. Pods that go are withdrawn here as well. */
  pause(): void {
    this.isPaused = true
  }

  /** Everything that was missed is made up for. */
  resume(): void {
    this.isPaused = false
    if (this.snapshot !== null) this.update(this.snapshot)
    if (this.isConfirmed) this.confirm()
  }

  async stop(): Promise<void> {
    this.isStopped = true
    for (const timer of this.retries) clearTimeout(timer)
    await this.queue
  }

  private enqueue(step: () => Promise<void>): void {
    this.queue = this.queue.then(async () => {
      if (!this.isStopped) await step()
    })
  }

  private async enrol(uid: string, isKnown = false): Promise<void> {
    const pod = this.snapshot?.pods.get(uid)
    const workload = this.snapshot?.workloads.get(uid)
    if (this.isPaused || pod === undefined || workload === undefined || this.enrolments.has(uid)) return
    const { capture, workers, log } = this.options
    const identity = identityOf(workload)
    const described = this.describe(pod, workload)
    const enrolment: Enrolment = { identity, fingerprint: this.fingerprint(described, workload), isActive: false }
    this.enrolments.set(uid, enrolment)
    try {
      await this.options.credentialReady(identity)
      if (this.isPaused) {
        this.enrolments.delete(uid)
        return
      }
      const captured = await capture.enrol(described, workers.count)
      const connections = isKnown ? 0 : this.connectionsBefore(uid)
      try {
        await workers.addPod(captured, identity)
      } catch (error) {
        await capture.withdraw(uid)
        throw error
      }
      try {
        this.options.carriage?.adopt(uid)
        capture.begin?.(uid)
      } catch (error) {
        this.options.carriage?.drop(uid)
        await capture.withdraw(uid)
        workers.removePod(uid)
        throw error
      }
      enrolment.isActive = true
      this.backoffs.delete(uid)
      log.info('pod enrolled', { pod: described.displayName, identity })
      if (connections > 0) {
        const fields = { pod: described.displayName, connections }
        log.warn('connections that a pod had before it was captured go on past the mesh', fields)
      }
    } catch (error) {
      this.enrolments.delete(uid)
      const backoff = this.backoffs.get(uid) ?? new Backoff({ baseMs: 500, maxMs: 30_000 })
      this.backoffs.set(uid, backoff)
      const delayMs = backoff.nextMs()
      log.error('pod not enrolled', { pod: described.displayName, error: describeError(error), retryInMs: delayMs })
      const timer = setTimeout(() => {
        this.retries.delete(timer)
        this.enqueue(() => this.enrol(uid))
      }, delayMs)
      this.retries.add(timer)
    }
  }

  private connectionsBefore(uid: string): number {
    try {
      return this.options.capture.connectionsBefore?.(uid) ?? 0
    } catch (error) {
      this.options.log.debug('open connections of a pod cannot be listed', { pod: uid, error: describeError(error) })
      return 0
    }
  }

  private async withdraw(uid: string): Promise<void> {
    if (!this.enrolments.delete(uid)) return
    const { capture, workers, log } = this.options
    this.options.carriage?.drop(uid)
    try {
      // Capture first: a connection that is steered to a closed listener would be refused.
      await capture.withdraw(uid)
    } catch (error) {
      log.error('pod not withdrawn cleanly', { pod: uid, error: describeError(error) })
    }
    workers.removePod(uid)
    log.info('pod withdrawn', { pod: uid })
  }

  private describe(pod: LocalPod, workload: Workload): PodToCapture {
    const snapshot = this.snapshot!
    const serviceAddresses: { address: string; port: number }[] = []
    const inboundPorts = new Set<number>()
    if (this.options.capture.kind === 'loopback') {
      for (const service of snapshot.services.values()) {
        for (const address of service.addresses) {
          for (const port of service.ports) serviceAddresses.push({ address, port: port.number })
        }
      }
      for (const { ports } of workload.services) for (const { targetPort } of ports) inboundPorts.add(targetPort)
    }
    return {
      pod,
      displayName: `${workload.namespace}/${workload.name}`,
      addresses: workload.addresses,
      serviceAddresses,
      inboundPorts: [...inboundPorts],
      isStrict: isStrict(snapshot, pod, workload),
      isDnsCaptured: this.options.isAnsweringDns === true && pod.isDnsExempt !== true,
    }
  }

  private fingerprint(described: PodToCapture, workload: Workload): string {
    const { pod, addresses, serviceAddresses, inboundPorts, isDnsCaptured } = described
    const identity = identityOf(workload)
    return JSON.stringify([pod.netns, addresses, serviceAddresses, inboundPorts, isDnsCaptured, identity])
  }
}

/**
 * True when the pod's connections are refused while nobody serves them. By policy that is when plaintext is forbidden on a
 * port at least: the kernel knows one answer for all ports of a pod, and it must not be weaker than the policy.
 */
export function isStrict(snapshot: Snapshot, { failureMode }: LocalPod, workload: Workload): boolean {
  if (failureMode !== FAILURE_BY_POLICY) return failureMode === FAILURE_CLOSED
  return snapshot.policiesOf(workload).some(isPeerAuthentication)
}

/** Identities of all pods of this node. */
export function identitiesOfPods(snapshot: Snapshot): ReadonlySet<string> {
  const identities = new Set<string>()
  for (const pod of snapshot.pods.values()) {
    const workload = snapshot.workloads.get(pod.uid)
    if (workload !== undefined) identities.add(identityOf(workload))
  }
  return identities
}

function identityOf(workload: Workload): string {
  return formatIdentity(workload.trustDomain, workload.namespace, workload.serviceAccount)
}
