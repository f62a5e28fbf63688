/**
 * Verifies against the kernel that the pods which are to be captured are, repairs what somebody has removed, and tells
 * when a pod's state changes. What the agent remembers of its own doing is no proof.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { PodFault } from '../kernel/pod-inspection.ts'

/** Between two looks. A look takes some 0.2 ms a pod. */
export const CAPTURE_CHECK_MS = 10_000

/** What was found of one enrolled pod. */
export interface AuditedPod {
  readonly uid: string
  /** Before anything was repaired. */
  readonly faults: readonly PodFault[]
  /** After it. */
  readonly left: readonly PodFault[]
}

export interface CaptureWatchOptions {
  /** Looks at one enrolled pod and repairs what it can; null when it is not enrolled. Throws WeftError or a system call's error. */
  readonly audit: (uid: string) => AuditedPod | null
  /** The pods that are to be captured: `namespace/name` by uid. */
  readonly wanted: () => ReadonlyMap<string, string>
  /** Enrols a pod anew. */
  readonly renew: (uid: string) => void
  readonly log: Logger
}

/** See the head of the file. */
export class CaptureWatch {
  private readonly options: CaptureWatchOptions
  /** What is wrong with which pod. */
  private readonly problems = new Map<string, string>()
  private timer: NodeJS.Timeout | null = null
  private isChecking = false
  private repairs = 0

  constructor(options: CaptureWatchOptions) {
    this.options = options
  }

  start(): void {
    this.timer = setInterval(() => void this.check(), CAPTURE_CHECK_MS).unref()
  }

  stop(): void {
    if (this.timer !== null) clearInterval(this.timer)
  }

  /** Pods that are to be captured and are not, as of the last look. */
  get notCaptured(): number {
    return this.problems.size
  }

  /** What is wrong with a pod, as of the last look; null when nothing is. */
  problemOf(uid: string): string | null {
    return this.problems.get(uid) ?? null
  }

  /** Pods that were found damaged and have been repaired. */
  get repaired(): number {
    return this.repairs
  }

  /** Looks at every pod once; other work has its turn between two of them. Never rejects. */
  async check(): Promise<void> {
    if (this.isChecking) return
    this.isChecking = true
    const wanted = this.options.wanted()
    for (const uid of this.problems.keys()) if (!wanted.has(uid)) this.problems.delete(uid)
    for (const [uid, name] of wanted) {
      this.checkPod(uid, name)
      await new Promise((resolve) => setImmediate(resolve))
    }
    this.isChecking = false
  }

  private checkPod(uid: string, name: string): void {
    const { log } = this.options
    let audited: AuditedPod | null
    try {
      audited = this.options.audit(uid)
    } catch (error) {
      this.settle(uid, name, describeError(error))
      return
    }
    if (audited === null) {
      this.settle(uid, name, 'it is not enrolled (yet)')
      return
    }
    const { faults, left } = audited
    if (faults.length > 0 && left.length === 0) {
      this.repairs++
      log.warn('the capture of a pod was damaged, and is repaired', { pod: name, problems: textOf(faults) })
    }
    this.settle(uid, name, textOf(left).join('; '))
    // Programs and listeners come and go with the enrolment.
    if (left.some(({ piece }) => piece === 'program' || piece === 'listener')) this.options.renew(uid)
  }

  private settle(uid: string, name: string, problem: string): void {
    const before = this.problems.get(uid) ?? ''
    if (problem === '') this.problems.delete(uid)
    else this.problems.set(uid, problem)
    if (problem === before) return
    if (problem === '') this.options.log.info('a pod is captured again', { pod: name })
    else this.options.log.error('a pod is not captured as it should be', { pod: name, problem })
  }
}

function textOf(faults: readonly PodFault[]): string[] {
  return faults.map(({ problem }) => problem)
}
