/**
 * What the agent of a node has to do with a pod that is about to start there: what it asks the controller about pods of
 * which it has not been told.
 */
import type { FailureMode } from './workload.ts'

/** Nobody has seen such a pod on that node. */
export const POD_UNKNOWN = 0
/** It is none of the agent's: of no mesh, or of another control plane's. */
export const POD_OUTSIDE = 1
/** The agent has to capture it, and is told of it in a moment. */
export const POD_MESHED = 2
/** Whether a pod is the agent's to capture. */
export type PodState = typeof POD_UNKNOWN | typeof POD_OUTSIDE | typeof POD_MESHED

/** A pod as the container runtime knows it. */
export interface StartingPod {
  readonly namespace: string
  readonly name: string
  /** Empty when the runtime does not say it. */
  readonly uid: string
}

/** The controller's answer. */
export interface PodMembership {
  readonly state: PodState
  /** Of the pod; of its namespace when nobody has seen the pod. */
  readonly failureMode: FailureMode
}
