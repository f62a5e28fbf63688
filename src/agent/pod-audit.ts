/** Looks at one enrolled pod in the kernel, and sets again what somebody has removed, without enrolling it anew. */
import { fstatSync } from 'node:fs'
import type { Addon } from '../kernel/addon.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { inspectPod, type PodFault } from '../kernel/pod-inspection.ts'
import { installSteering, planSteering, type SteeringPlan, upInterfaces } from '../kernel/steering.ts'

/** What the capture holds of the pod. */
export interface PodToAudit {
  readonly netnsFd: number
  readonly netnsCookie: bigint
  readonly linkFd: number
  readonly slots: readonly number[]
  readonly isStrict: boolean
  readonly isDnsCaptured: boolean
  /** As it was when the pod was enrolled, or last repaired. */
  readonly plan: SteeringPlan
}

export interface PodAudit {
  /** Before anything was repaired. */
  readonly faults: readonly PodFault[]
  /** After it. */
  readonly left: readonly PodFault[]
  /** What the netns needs now: its interfaces may be others than before. */
  readonly plan: SteeringPlan
}

/** `switchOn` writes the pod's entry with a plan, the last step of every repair. Throws the system call's error. */
export function auditPod(
  addon: Addon,
  programs: CapturePrograms,
  pod: PodToAudit,
  switchOn: (plan: SteeringPlan) => void,
): PodAudit {
  const { netnsFd, netnsCookie } = pod
  const plan = planSteering(upInterfaces(addon, netnsFd), pod.plan.ownAddresses)
  const inspected = { ...pod, plan, netnsInode: fstatSync(netnsFd, { bigint: true }).ino }
  const faults = inspectPod(addon, programs.inspected, inspected)
  if (faults.every(({ piece }) => piece === 'program' || piece === 'listener'))
    return { faults, left: faults, plan: pod.plan }
  installSteering(addon, netnsFd, plan)
  for (const address of plan.ownAddresses) programs.ownAddresses.insert(netnsCookie, address)
  switchOn(plan)
  return { faults, left: inspectPod(addon, programs.inspected, inspected), plan }
}
