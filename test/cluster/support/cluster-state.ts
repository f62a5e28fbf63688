/** What a supervisor tells of its cluster, and what it can be asked: one JSON object a line, over its socket. */
import type { DualAddress } from './addresses.ts'

export interface MachineState {
  readonly name: string
  /** Of its process 1, as seen from outside. */
  readonly pid: number
  readonly cgroups: readonly string[]
  readonly address: DualAddress
}

export interface ComponentState {
  readonly machine: string
  readonly name: string
  /** Null when it does not run. */
  readonly pid: number | null
  readonly logPath: string
}

export interface ClusterState {
  readonly name: string
  readonly directory: string
  readonly level: ClusterLevel
  /** False while it is being built and started. */
  readonly isReady: boolean
  /** Kubernetes', as `v1.34.0`. */
  readonly version: string
  /** Of the cluster's administrator. */
  readonly kubeconfig: string
  readonly supervisorPid: number
  /** The host's own addresses, as the control plane reaches them; null while it starts. */
  readonly host: DualAddress | null
  readonly machines: readonly MachineState[]
  readonly components: readonly ComponentState[]
}

/** `control-plane` runs no pods. */
export const CLUSTER_LEVELS = ['control-plane', 'node'] as const
export type ClusterLevel = (typeof CLUSTER_LEVELS)[number]

/** How a cluster is to be. */
export interface ClusterPlan {
  readonly name: string
  readonly level: ClusterLevel
  /** 0 at the level `control-plane`. */
  readonly nodeCount: number
  /** True: nodes are given the image of this checkout. */
  readonly hasWeft: boolean
}

export type ControlRequest =
  | { readonly verb: 'status' | 'down' }
  /** A component by its machine and name, as `control-plane/kube-apiserver`. */
  | { readonly verb: 'start'; readonly component: string }
  | { readonly verb: 'stop'; readonly component: string; readonly signal: NodeJS.Signals }

/** The answer to a request, and each line of a supervisor's output. */
export type ControlReply =
  | { readonly kind: 'state'; readonly state: ClusterState }
  | { readonly kind: 'progress'; readonly line: string }
  | { readonly kind: 'failed'; readonly reason: string }
