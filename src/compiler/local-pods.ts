/** What agents are told of the pods of their nodes, and of the namespaces that are in the mesh. */
import { STEP_VALUES, type Steps } from '../base/steps.ts'
import type { MeshNamespace } from '../model/namespace.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, type LocalPod } from '../model/workload.ts'
import { isSameList } from './compile-memo.ts'
import { sameNodeEncryption } from './encryption.ts'
import type { Enrolments } from './enrolment.ts'
import type { Member } from './inventory.ts'
import { compareText } from './messages.ts'
import type { MeshObject } from './object.ts'
import { dnsExemptNamespaces, failureModeOf, failureModes, isDnsExempt, netnsOf } from './pod-settings.ts'
import { probePortsOf } from './probe-ports.ts'
import type { ReadMemo } from './read-memo.ts'
import type { Run } from './settings.ts'

/** A pod that an agent must enrol. */
export interface NodePod {
  readonly node: string
  readonly pod: LocalPod
}

const NO_PORTS: readonly number[] = []

/** What the agents of the enrolled pods' nodes are told, sorted by uid; a pod that is as in `former` is the very same. */
export function* localPods(
  members: readonly Member[],
  scopeOf: ReadonlyMap<string, string>,
  namespaces: readonly MeshObject[],
  run: Run,
  reads: ReadMemo,
  former: readonly NodePod[],
): Steps<readonly NodePod[]> {
  const modes = failureModes(namespaces, run)
  const dnsExempt = dnsExemptNamespaces(namespaces, run)
  const mustEncrypt = sameNodeEncryption(namespaces, run)
  const pods: NodePod[] = []
  let count = 0
  let at = 0
  for (const member of members) {
    if (++count % STEP_VALUES === 0) yield
    if (!member.isOurs) continue
    const { uid, namespace } = member
    // Only pods are ever enrolled, and pods have an object.
    const object = member.object!
    const { node } = member.workload
    const netns = netnsOf(object, run)
    const scope = scopeOf.get(uid)!
    const failureMode = failureModeOf(object, modes.get(namespace) ?? FAILURE_BY_POLICY, run)
    const isExempt = isDnsExempt(object, dnsExempt.has(namespace), run)
    const isEncrypted = mustEncrypt(namespace)
    const podUid = object.uid
    const probePorts = reads.derive(object, probePortsOf)
    // Both lists are sorted: what stands before this one is gone.
    while (at < former.length && former[at]!.pod.uid < uid) at++
    const known = former[at]
    const isSame =
      known !== undefined &&
      known.node === node &&
      known.pod.uid === uid &&
      known.pod.netns === netns &&
      known.pod.scope === scope &&
      known.pod.failureMode === failureMode &&
      (known.pod.isDnsExempt ?? false) === isExempt &&
      (known.pod.mustEncrypt ?? false) === isEncrypted &&
      (known.pod.podUid ?? '') === podUid &&
      isSameList(known.pod.probePorts ?? NO_PORTS, probePorts)
    if (isSame) {
      pods.push(known)
      continue
    }
    const pod = {
      ...{ uid, netns, scope, failureMode },
      ...(isExempt ? { isDnsExempt: true } : {}),
      ...(isEncrypted ? { mustEncrypt: true } : {}),
      ...(podUid === '' ? {} : { podUid }),
      ...(probePorts.length > 0 ? { probePorts } : {}),
    }
    pods.push({ node, pod })
  }
  return pods
}

/**
 * Those that are in the mesh as a whole, those that have a pod in it, and those that would rather have none start than one
 * unmeshed: their first pod may be on its way.
 */
export function meshNamespaces(
  enrolments: Enrolments,
  members: readonly Member[],
  objects: readonly MeshObject[],
  run: Run,
): readonly MeshNamespace[] {
  const modes = failureModes(objects, run)
  const names = new Set(enrolments.meshNamespaces())
  for (const { isOurs, namespace } of members) if (isOurs) names.add(namespace)
  for (const [name, mode] of modes) if (mode === FAILURE_CLOSED) names.add(name)
  return [...names].sort(compareText).map((name) => ({ name, failureMode: modes.get(name) ?? FAILURE_BY_POLICY }))
}
