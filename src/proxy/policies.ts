/** Authorizers by workload, compiled once per snapshot and workload (slow side of authorize.ts). */
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { Authorizer } from './authorize.ts'

/** See the head of the file. */
export class Policies {
  private snapshot: Snapshot | null = null
  private readonly byWorkload = new Map<string, Authorizer>()

  /** The authorizer of everything that reaches `workload` under `snapshot`. */
  authorizerOf(snapshot: Snapshot, workload: Workload): Authorizer {
    // Older snapshots are asked for only by connections that are being re-checked: compile those without keeping.
    if (snapshot !== this.snapshot) {
      if (this.snapshot !== null && snapshot.version < this.snapshot.version) {
        return compile(snapshot, workload)
      }
      this.byWorkload.clear()
      this.snapshot = snapshot
    }
    let authorizer = this.byWorkload.get(workload.uid)
    if (authorizer === undefined) {
      authorizer = compile(snapshot, workload)
      this.byWorkload.set(workload.uid, authorizer)
    }
    return authorizer
  }
}

/** Who asks may hold the workload of an older snapshot (an endpoint, a tunnel): what selects it is read anew. */
function compile(snapshot: Snapshot, workload: Workload): Authorizer {
  return Authorizer.compile(snapshot.policiesOf(snapshot.workloads.get(workload.uid) ?? workload))
}
