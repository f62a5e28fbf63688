/** A capture that enrols in memory and writes down what it is asked, in one list with the workers' side of it. */
import {
  type Capture,
  type CapturedPod,
  type CaptureStats,
  type PodToCapture,
  ROLE_HBONE,
} from '../../src/agent/capture.ts'
import { WeftError } from '../../src/base/errors.ts'

/** What happened, in order: `enrol default/a`, `add default/a`, `withdraw ...`, `remove ...`, `strict ... true`. */
export type CaptureLog = string[]

export class FakeCapture implements Capture {
  readonly kind: 'ebpf' | 'loopback'
  readonly log: CaptureLog
  readonly asked: PodToCapture[] = []
  /** Enrolments that fail before one succeeds. */
  failures = 0
  /** The same for the last step. */
  failuresToBegin = 0
  /** That every pod has before it is captured. */
  openConnections = 0

  constructor(log: CaptureLog, kind: 'ebpf' | 'loopback' = 'ebpf') {
    this.log = log
    this.kind = kind
  }

  async enrol(pod: PodToCapture): Promise<CapturedPod> {
    this.log.push(`enrol ${pod.displayName}`)
    this.asked.push(pod)
    if (this.failures > 0) {
      this.failures--
      throw new WeftError('WEFT_SYSCALL', `no netns for ${pod.displayName}`)
    }
    const listeners = [{ role: ROLE_HBONE, fds: [7], address: '::', port: 15_008 } as const]
    return {
      uid: pod.pod.uid,
      listeners,
      dialing: { netnsFd: 3, exemptMapFd: 4, netnsCookie: 5n, localAddress: null, appAddress: null },
    }
  }

  begin(uid: string): void {
    this.log.push(`begin ${uid}`)
    if (this.failuresToBegin > 0) {
      this.failuresToBegin--
      throw new WeftError('WEFT_BPF', 'the map of pods is full')
    }
  }

  async withdraw(uid: string): Promise<void> {
    this.log.push(`withdraw ${uid}`)
  }

  connectionsBefore(): number {
    return this.openConnections
  }

  setStrict(uid: string, isStrict: boolean): void {
    this.log.push(`strict ${uid} ${isStrict}`)
  }

  stats(): CaptureStats {
    return { enrolledPods: 0, outboundCaptured: 0, inboundCaptured: 0, bypassed: 0, refused: 0 }
  }

  async close(): Promise<void> {}
}
