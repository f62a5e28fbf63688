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
import type { KubernetesPods } from './kubernetes-pods.ts'
import type { PodSearch } from './pod-finding.ts'
import type { Workers } from './workers.ts'

/** What the pods need of the agent. */
export interface PodsOptions {
  readonly capture: Capture
  readonly workers: Pick<Workers, 'addPod' | 'removePod' | 'count'>
  /** Who is told just before a pod is captured, and just before it is captured no more. */
  readonly carriage?: Pick<KernelCarriage, 'adopt' | 'drop'> | null
  readonly log: Logger
  /** Finds the networks of pods that no annotation tells of. Null where pods are found by annotations alone. */
  readonly networks?: Pick<KubernetesPods, 'locate'> | null
  /**
   * No annotation says which network is a pod's: on Kubernetes, where everybody who makes pods may write one, the node alone
   * does. False when left out.
   */
  readonly isDeafToAnnotations?: boolean
  /** The data workers answer DNS for pods that are not exempt. False when left out. */
  readonly isAnsweringDns?: boolean
  /** Resolves when a credential of `identity` is with the workers. */
  readonly credentialReady: (identity: string) => Promise<void>
  /** The identities that pods of this node need now. */
  readonly onIdentities: (identities: ReadonlySet<string>) => void
}

/** A pod's network that was found. */
type Located = Extract<PodSearch, { readonly kind: 'found' }>

/** Why a pod that is to be captured cannot be, for metrics and the log. */
export type Refusal = 'host_network' | 'not_running'

/** A pod that cannot be captured, with what was known of it then. */
interface Refused {
  readonly reason: Refusal
  readonly pod: LocalPod | undefined
  readonly workload: Workload | undefined
}

interface Enrolment {
  readonly identity: string
  /** Null for a pod whose annotation says its netns. */
  readonly located: Located | null
  /** What the capture was told; loopback capture is told anew when it changes. */
  readonly fingerprint: string
  isActive: boolean
}

/** One pod of this node, as /pods shows it. */
export interface PodState {
  readonly uid: string
  /** `namespace/name`. */
  readonly pod: string
  /** Uid that the API server gave it; empty where nobody gave any. */
  readonly podUid: string
  readonly state: 'captured' | 'pending' | 'refused'
  /** Why it is refused. */
  readonly reason: Refusal | null
}

/** The pods of this node, and what became of each. */
export class Pods {
  private readonly options: PodsOptions
  private readonly enrolments = new Map<string, Enrolment>()
  private readonly backoffs = new Map<string, Backoff>()
  private readonly retries = new Set<NodeJS.Timeout>()
  /** Enrolments that are being prepared, by uid: what they wait for keeps nobody else waiting. */
  private readonly preparing = new Map<string, Promise<void>>()
  private readonly preparingAgain = new Set<string>()
  /** Pods that have no network of their own, or none now. */
  private readonly refusals = new Map<string, Refused>()
  private readonly watchers = new Map<string, Set<() => void>>()
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
    let count = (this.snapshot?.pods.size ?? 0) - this.enrolledCount
    for (const uid of this.refusals.keys()) if (!this.isActive(uid)) count--
    return Math.max(0, count)
  }

  /** How many pods cannot be captured, by reason. */
  refusedCounts(): ReadonlyMap<Refusal, number> {
    const counts = new Map<Refusal, number>()
    for (const { reason } of this.refusals.values()) counts.set(reason, (counts.get(reason) ?? 0) + 1)
    return counts
  }

  /** Resolves when everything that was asked for so far has been tried. */
  get settled(): Promise<void> {
    return this.settle()
  }

  private async settle(): Promise<void> {
    while (this.preparing.size > 0) await Promise.all(this.preparing.values())
    await this.queue
  }

  isActive(uid: string): boolean {
    return this.enrolments.get(uid)?.isActive === true
  }

  /** Path of the netns in which a pod is captured; null when it is not. */
  netnsOf(uid: string): string | null {
    if (!this.isActive(uid)) return null
    return this.enrolments.get(uid)?.located?.netns ?? this.snapshot?.pods.get(uid)?.netns ?? null
  }

  /** Calls back when a pod is captured, until the function that is returned is called. */
  watch(uid: string, onActive: () => void): () => void {
    const watchers = this.watchers.get(uid) ?? new Set()
    this.watchers.set(uid, watchers)
    watchers.add(onActive)
    return () => {
      watchers.delete(onActive)
      if (watchers.size === 0 && this.watchers.get(uid) === watchers) this.watchers.delete(uid)
    }
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
      else if (this.isOther(this.enrolments.get(uid)!, pod, workload)) {
        this.enqueue(() => this.withdraw(uid))
      } else {
        this.options.capture.setStrict?.(uid, isStrict(snapshot, pod, workload))
        this.options.capture.setProbePorts?.(uid, pod.probePorts ?? [])
      }
    }
    for (const uid of this.refusals.keys()) if (!snapshot.pods.has(uid)) this.refusals.delete(uid)
    for (const uid of this.backoffs.keys()) if (!snapshot.pods.has(uid)) this.backoffs.delete(uid)
    for (const pod of snapshot.pods.values()) {
      const workload = snapshot.workloads.get(pod.uid)
      // Who was looked for in vain is looked for again by the clock, or when something is said of it.
      const refused = this.refusals.get(pod.uid)
      if (refused === undefined || refused.pod !== pod || refused.workload !== workload) this.prepare(pod.uid)
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

  /** `namespace/name` by uid, of the pods that are to be captured and run. */
  wanted(): ReadonlyMap<string, string> {
    return new Map([...this.names()].filter(([uid]) => !this.refusals.has(uid)))
  }

  private names(): ReadonlyMap<string, string> {
    const names = new Map<string, string>()
    for (const uid of this.snapshot?.pods.keys() ?? []) {
      const workload = this.snapshot!.workloads.get(uid)
      names.set(uid, workload === undefined ? uid : `${workload.namespace}/${workload.name}`)
    }
    return names
  }

  /** All pods that are to be captured, and how far each is. */
  states(): readonly PodState[] {
    return [...this.names()].map(([uid, pod]) => {
      const reason = this.refusals.get(uid)?.reason ?? null
      const state = this.isActive(uid) ? 'captured' : reason === null ? 'pending' : 'refused'
      const podUid = this.snapshot?.pods.get(uid)?.podUid ?? ''
      return { uid, pod, podUid, state, reason: state === 'refused' ? reason : null }
    })
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
    this.prepare(uid, true)
  }

  /** The pod's network was made: it is looked for again. */
  networkMade(uid: string): void {
    const wasEnrolled = this.enrolments.has(uid)
    if (wasEnrolled) this.enqueue(() => this.withdraw(uid))
    // A search that is under way may have looked too early.
    if (this.preparing.has(uid)) this.preparingAgain.add(uid)
    else this.prepare(uid, wasEnrolled)
  }

  /** The pod's network goes: it is captured no more, and nothing of it is held when this resolves. */
  async networkGone(uid: string): Promise<void> {
    if (!this.enrolments.has(uid)) return
    this.refusals.set(uid, {
      reason: 'not_running',
      pod: this.snapshot?.pods.get(uid),
      workload: this.snapshot?.workloads.get(uid),
    })
    this.enqueue(() => this.withdraw(uid))
    await this.queue
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

  /** Waits for what a pod's enrolment needs, then enrols it in its turn. What goes wrong is told, and tried again. */
  private prepare(uid: string, isKnown = false): void {
    const pod = this.snapshot?.pods.get(uid)
    const workload = this.snapshot?.workloads.get(uid)
    if (pod === undefined || workload === undefined || this.isPaused || this.isStopped) return
    // One that is to be withdrawn first, because it has changed, is enrolled anew after that.
    const isStale = isKnown || !this.enrolments.has(uid) || this.isOther(this.enrolments.get(uid)!, pod, workload)
    if (!isStale || this.preparing.has(uid)) return
    const preparing = this.prepared(pod, workload)
      .then((located) => {
        if (located !== 'refused') this.enqueue(() => this.enrol(uid, located, isKnown))
      })
      .catch((error: unknown) => this.retry(uid, error))
      .finally(() => {
        this.preparing.delete(uid)
        if (this.preparingAgain.delete(uid)) this.prepare(uid)
      })
    this.preparing.set(uid, preparing)
  }

  private async prepared(pod: LocalPod, workload: Workload): Promise<Located | null | 'refused'> {
    const networks = this.options.networks ?? null
    // Neither waits for the other.
    const credential = this.options.credentialReady(identityOf(workload))
    // Looked at below; whoever has no network needs none yet.
    credential.catch(() => {})
    const isTold = pod.netns !== '' && this.options.isDeafToAnnotations !== true
    const search = isTold || networks === null ? null : await networks.locate(pod, workload)
    if (search !== null && search.kind !== 'found') {
      this.refuse(pod, workload, search)
      return 'refused'
    }
    await credential
    this.refusals.delete(pod.uid)
    return search
  }

  private refuse(pod: LocalPod, workload: Workload, search: Exclude<PodSearch, Located>): void {
    const reason = search.kind === 'host-network' ? 'host_network' : 'not_running'
    const fields = { pod: `${workload.namespace}/${workload.name}` }
    // Every new pod begins without an address: that is worth no line.
    if (this.refusals.get(pod.uid)?.reason !== reason && workload.addresses.length > 0) {
      if (search.kind === 'host-network') {
        this.options.log.warn('pod not enrolled: it uses the network of its node, which is never captured', fields)
      } else this.options.log.info('pod not enrolled yet', { ...fields, reason: search.reason })
    }
    this.refusals.set(pod.uid, { reason, pod, workload })
    // The plugin, or its address, tells when a pod without one gets its network.
    if (search.kind === 'absent' && workload.addresses.length > 0) this.tryAgain(pod.uid)
  }

  private async enrol(uid: string, located: Located | null, isKnown: boolean): Promise<void> {
    const pod = this.snapshot?.pods.get(uid)
    const workload = this.snapshot?.workloads.get(uid)
    if (this.isPaused || pod === undefined || workload === undefined || this.enrolments.has(uid)) return
    const { capture, workers, log } = this.options
    const identity = identityOf(workload)
    const described = this.describe(pod, workload, located)
    const fingerprint = this.fingerprint(described, workload)
    const enrolment: Enrolment = { identity, located, fingerprint, isActive: false }
    this.enrolments.set(uid, enrolment)
    try {
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
      for (const onActive of this.watchers.get(uid) ?? []) onActive()
      log.info('pod enrolled', { pod: described.displayName, identity })
      if (connections > 0) {
        const fields = { pod: described.displayName, connections }
        log.warn('connections that a pod had before it was captured go on past the mesh', fields)
      }
    } catch (error) {
      this.enrolments.delete(uid)
      this.retry(uid, error)
    }
  }

  private retry(uid: string, error: unknown): void {
    const retryInMs = this.tryAgain(uid)
    const workload = this.snapshot?.workloads.get(uid)
    const pod = workload === undefined ? uid : `${workload.namespace}/${workload.name}`
    this.options.log.error('pod not enrolled', { pod, error: describeError(error), retryInMs })
  }

  private tryAgain(uid: string): number {
    const backoff = this.backoffs.get(uid) ?? new Backoff({ baseMs: 500, maxMs: 30_000 })
    this.backoffs.set(uid, backoff)
    const delayMs = backoff.nextMs()
    const timer = setTimeout(() => {
      this.retries.delete(timer)
      this.prepare(uid)
    }, delayMs)
    this.retries.add(timer)
    return delayMs
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

  private isOther(enrolment: Enrolment, pod: LocalPod, workload: Workload): boolean {
    const described = this.describe(pod, workload, enrolment.located)
    return enrolment.fingerprint !== this.fingerprint(described, workload)
  }

  private describe(pod: LocalPod, workload: Workload, located: Located | null): PodToCapture {
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
      pod: located === null ? pod : { ...pod, netns: located.netns },
      displayName: `${workload.namespace}/${workload.name}`,
      addresses: addressesOf(workload, located),
      serviceAddresses,
      inboundPorts: [...inboundPorts],
      isStrict: isStrict(snapshot, pod, workload),
      isDnsCaptured: this.options.isAnsweringDns === true && pod.isDnsExempt !== true,
      isNetnsClaimed: located === null,
    }
  }

  private fingerprint(described: PodToCapture, workload: Workload): string {
    const { pod, addresses, serviceAddresses, inboundPorts, isDnsCaptured } = described
    const identity = identityOf(workload)
    const { netns, podUid = '' } = pod
    return JSON.stringify([netns, podUid, addresses, serviceAddresses, inboundPorts, isDnsCaptured, identity])
  }
}

/**
 * In an order of their own. A pod whose network the plugin has told of has its addresses before they are published:
 * that they are is no change.
 */
function addressesOf({ addresses }: Workload, located: Located | null): readonly string[] {
  if (located === null) return addresses
  return [...new Set([...addresses, ...located.addresses])].sort()
}

/**
 * True when the pod's connections are refused while nobody serves them. By policy that is when plaintext is forbidden on a
 * port at least: the kernel knows one answer for all ports of a pod, and it must not be weaker than the policy.
 */
export function isStrict(snapshot: Snapshot, { failureMode }: LocalPod, workload: Workload): boolean {
  if (failureMode !== FAILURE_BY_POLICY) return failureMode === FAILURE_CLOSED
  // One that it refers to and that was refused, or has not come, may be the one that forbids it.
  if (workload.policies.some((key) => !snapshot.policies.has(key))) return true
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
