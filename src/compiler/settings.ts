/** What the compiler must know of the installation, and what it hands from part to part. */
import type { MessageLog } from './messages.ts'
import type { VirtualIpBlocks } from './virtual-ips.ts'

/** Names that are the mesh's own, the same for every object. */
export interface CompileSettings {
  /** Trust domain of the mesh's identities: `cluster.local`. */
  readonly trustDomain: string
  /** DNS suffix of services: `cluster.local`. */
  readonly clusterDomain: string
  /** Namespace whose rules hold for the whole mesh: `istio-system`. */
  readonly rootNamespace: string
  /** First part of workload uids: `Kubernetes`. */
  readonly clusterId: string
  /** Name of this control plane among several (`weft.dev/rev`); empty for the only one. */
  readonly revision: string
  /** `istio.io/dataplane-mode` on namespaces and pods counts as well. */
  readonly isReadingIstioLabels: boolean
  /** Where hosts without addresses get theirs from. */
  readonly virtualIpBlocks: VirtualIpBlocks
}

/** The settings and where messages go: what every part of a compile run takes. */
export interface Run {
  readonly settings: CompileSettings
  readonly log: MessageLog
}
