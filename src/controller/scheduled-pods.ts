/**
 * Where pods really are, as the API server has them now: an identity is given to the node of a pod only while a pod with
 * that ServiceAccount is scheduled there. What is compiled may be older, where an object's last good version is in force.
 */
import { isTree, type MeshObject, own } from '../compiler/object.ts'

/** What decides about identities. */
export interface ScheduledPod {
  readonly node: string
  readonly serviceAccount: string
}

/** Pods that are on a node and have not ended, by `namespace/name`. */
export function scheduledPods(objects: readonly MeshObject[]): ReadonlyMap<string, ScheduledPod> {
  const pods = new Map<string, ScheduledPod>()
  for (const { kind, group, namespace, name, spec, status } of objects) {
    if (kind !== 'Pod' || group !== '' || !isTree(spec)) continue
    const [node, serviceAccount] = [own(spec, 'nodeName'), own(spec, 'serviceAccountName')]
    const phase = isTree(status) ? own(status, 'phase') : undefined
    if (typeof node !== 'string' || node === '' || phase === 'Succeeded' || phase === 'Failed') continue
    pods.set(`${namespace}/${name}`, {
      node,
      serviceAccount: typeof serviceAccount === 'string' && serviceAccount !== '' ? serviceAccount : 'default',
    })
  }
  return pods
}
