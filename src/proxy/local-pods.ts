/** The pods of this node that this worker serves, and what telemetry and policy need of them without a look-up. */
import { parseAddress } from '../base/address.ts'
import { formatIdentity } from '../model/identity.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'

/** One enrolled pod of this node. */
export interface LocalWorkload {
  readonly uid: string
  /** SPIFFE identity; the kernel vouches for it, because the listener lives in the pod's netns. */
  readonly identity: string
}

/** The pods that this worker listens for, by uid. */
export class LocalPods {
  private readonly byUid = new Map<string, LocalWorkload>()

  add(pod: LocalWorkload): void {
    this.byUid.set(pod.uid, pod)
  }

  remove(uid: string): void {
    this.byUid.delete(uid)
  }

  /** True when `uid` is captured on this node, so that its app can be reached in one hop. */
  has(uid: string): boolean {
    return this.byUid.has(uid)
  }

  get(uid: string): LocalWorkload | null {
    return this.byUid.get(uid) ?? null
  }

  get size(): number {
    return this.byUid.size
  }
}

/** The identity of a workload as a SPIFFE URI. */
export function identityOf(workload: Workload): string {
  return formatIdentity(workload.trustDomain, workload.namespace, workload.serviceAccount)
}

const UNSPECIFIED = new Uint8Array(4)

/** Bytes of a canonical address; 0.0.0.0 when it is none (it then matches no block but 0.0.0.0/0). */
export function addressBytes(address: string): Uint8Array {
  return parseAddress(address) ?? UNSPECIFIED
}

/** The scope whose rules a local pod's own connections follow; empty when the controller has not said yet. */
export function scopeOf(snapshot: Snapshot, uid: string): string {
  return snapshot.pods.get(uid)?.scope ?? ''
}
