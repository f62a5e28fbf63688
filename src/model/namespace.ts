/** A namespace that may have pods in the mesh, as agents know it: what holds for a pod that they have not been told of yet. */
import type { FailureMode } from './workload.ts'

export interface MeshNamespace {
  readonly name: string
  /** Of its pods, unless one says otherwise itself. */
  readonly failureMode: FailureMode
}
