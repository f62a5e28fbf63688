/**
 * Keeps what the kernel carries in step with the configuration and with the pods that are captured: plans anew when one of
 * them has changed, and puts the differences into the kernel's maps (carriage-plan.ts, carriage.ts).
 *
 * A pod that leaves goes at once, before its capture does: nothing is carried to a pod that may be gone. All else may come
 * a moment later, because what the kernel does not know is the agent's.
 */
import { performance } from 'node:perf_hooks'
import type { Logger } from '../base/log.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { CarriedChange } from '../proxy/carried-endpoints.ts'
import type { Carrier } from './capture.ts'
import { Carriage } from './carriage.ts'
import { planCarriage } from './carriage-plan.ts'
import { type CarriedNames, KnownNames } from './carried-names.ts'
import type { CarriedNumbers } from './carried-numbers.ts'
import { Expulsion } from './expulsion.ts'

/** A plan takes at most one part in so many of the main thread's time, however fast things change. */
const SHARE_OF_TIME = 5

/**
 * A connect() that met the last verdicts has its socket in the kernel's tables by then, where it can be found. It takes
 * microseconds; a busy machine may need its time.
 */
const STRAGGLER_MS = 100

/** What the kernel carries for the pods of this agent. */
export class KernelCarriage {
  private readonly carrier: Carrier
  private carriage: Carriage
  private readonly log: Logger
  private readonly expulsion: Expulsion
  private readonly onCarried: (changes: readonly CarriedChange[]) => void
  /** What was told last. */
  private told: ReadonlyMap<string, readonly string[]> = new Map()
  private readonly numbers: CarriedNumbers
  private readonly known: KnownNames
  private readonly pods = new Map<string, number>()
  private snapshot = Snapshot.empty
  private timer: NodeJS.Timeout | null = null
  /** Not before this moment is planned again. */
  private nextPlanMs = 0
  /** What open connections were last judged by. */
  private judgedBy = ''
  private judgedPolicies: Snapshot['policies'] | null = null
  private stragglers: NodeJS.Timeout | null = null
  private isStopped = false

  constructor(carrier: Carrier, log: Logger, onCarried: (changes: readonly CarriedChange[]) => void) {
    this.carrier = carrier
    this.onCarried = onCarried
    this.log = log
    this.carriage = new Carriage(carrier.maps, log)
    this.expulsion = new Expulsion(carrier, log)
    this.numbers = carrier.numbers
    this.known = new KnownNames(this.snapshot, this.numbers.services, this.numbers.policies)
    for (const [uid, number] of carrier.found) this.pods.set(uid, number)
  }

  /** What the numbers in the kernel's maps and events stand for. */
  get names(): CarriedNames {
    return this.known
  }

  update(snapshot: Snapshot): void {
    this.snapshot = snapshot
    this.known.snapshot = snapshot
    for (const [uid, number] of this.pods) this.acquaint(uid, number)
    this.planSoon()
  }

  /** A pod is about to be captured. */
  adopt(uid: string): void {
    const number = this.carrier.numberOf(uid)
    if (number === null) return
    this.pods.set(uid, number)
    this.acquaint(uid, number)
    this.planSoon()
  }

  /** A pod is going to be captured no more. Its connections that the kernel carries live on. */
  drop(uid: string): void {
    const number = this.pods.get(uid)
    if (number === undefined) return
    this.pods.delete(uid)
    if (this.isStopped) return
    this.carriage.leave(number)
    this.planSoon()
  }

  /** False while a change is not in the kernel's maps yet. */
  get isInStep(): boolean {
    return this.timer === null
  }

  /** After `stop`: what another agent has put into the maps meanwhile is found there, and the plan is ours again. */
  resume(): void {
    this.isStopped = false
    this.carriage = new Carriage(this.carrier.maps, this.log)
    this.planSoon()
  }

  /** Nothing changes any more: what is in the maps stays in force. */
  stop(): void {
    this.isStopped = true
    if (this.timer !== null) clearTimeout(this.timer)
    if (this.stragglers !== null) clearTimeout(this.stragglers)
    this.timer = null
  }

  private acquaint(uid: string, number: number): void {
    const workload = this.snapshot.workloads.get(uid)
    if (workload !== undefined) this.known.remember(number, workload)
    const scope = this.snapshot.pods.get(uid)?.scope
    if (scope === undefined) return
    const scopeNumber = this.numbers.scopes.numberOf(scope)
    this.numbers.save()
    this.carrier.setScope(uid, scopeNumber)
  }

  /** Changes that come in one go make one plan. */
  private planSoon(): void {
    if (this.timer !== null || this.isStopped) return
    this.timer = setTimeout(() => this.plan(), Math.max(0, this.nextPlanMs - performance.now()))
  }

  private plan(): void {
    this.timer = null
    const startedMs = performance.now()
    const { snapshot, pods } = this
    const { scopes, services, policies } = this.numbers
    const plan = planCarriage({
      snapshot,
      pods,
      scopes,
      services,
      policies,
      mustEncrypt: ({ uid }) => snapshot.pods.get(uid)?.mustEncrypt === true,
    })
    this.numbers.save()
    this.carriage.apply(plan)
    this.tell()
    this.expel()
    const nowMs = performance.now()
    this.nextPlanMs = nowMs + (nowMs - startedMs) * (SHARE_OF_TIME - 1)
  }

  /** The proxy leaves to the kernel what the kernel carries. */
  private tell(): void {
    const { carried } = this.carriage
    const changes: CarriedChange[] = []
    for (const key of this.told.keys()) if (!carried.has(key)) changes.push([key, []])
    for (const [key, uids] of carried) if (this.told.get(key)?.join() !== uids.join()) changes.push([key, uids])
    this.told = carried
    if (changes.length > 0) this.onCarried(changes)
  }

  /** New connections meet the new verdicts now; those that are open are looked at when what judges them has changed. */
  private expel(): void {
    const { snapshot, pods } = this
    const judgedBy = [...pods.keys()].map((uid) => selectorsOf(snapshot, uid)).join('\n')
    if (judgedBy === this.judgedBy && snapshot.policies === this.judgedPolicies) return
    this.judgedBy = judgedBy
    this.judgedPolicies = snapshot.policies
    this.expulsion.run(snapshot, pods)
    this.stragglers ??= setTimeout(() => {
      this.stragglers = null
      this.expulsion.run(this.snapshot, this.pods)
    }, STRAGGLER_MS)
  }
}

/**
 * All that policies can know of a pod as a source or a destination, its addresses excepted, with which it is enrolled anew;
 * and whether connections to it are encrypted.
 */
function selectorsOf(snapshot: Snapshot, uid: string): string {
  const workload = snapshot.workloads.get(uid)
  if (workload === undefined) return uid
  const encryption = snapshot.pods.get(uid)?.mustEncrypt === true ? 'encrypted' : 'plain'
  return `${uid} ${encryption} ${workload.serviceAccount} ${workload.policies.join(' ')}`
}
