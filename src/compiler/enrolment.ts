/**
 * Which pods are in the mesh, as labels of namespaces and pods say. A pod's label overrules its namespace's, in both
 * directions; our own label overrules Istio's, which is read only where the installation says so.
 *
 * `weft.dev/rev` names the control plane that answers for a pod or a rule. Pods of another revision are in the mesh all
 * the same, but are another control plane's to enrol.
 */
import { findings } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { Pod } from './pod.ts'
import type { CompileSettings, Run } from './settings.ts'

/** Label of namespaces and pods. */
export const MESH_LABEL = 'weft.dev/mesh'

/** Istio's label for the same. */
const DATAPLANE_LABEL = 'istio.io/dataplane-mode'

const REVISION_LABEL = 'weft.dev/rev'

/** What the mesh does with a pod. */
export interface Enrolment {
  /** Others reach the pod by a tunnel. */
  readonly isMeshed: boolean
  /** The agent of the pod's node, if it is of this control plane, has to capture it. */
  readonly isOurs: boolean
}

const OUTSIDE: Enrolment = { isMeshed: false, isOurs: false }

/** What namespaces say about their pods. Bad labels are reported once, at the namespace. */
export class Enrolments {
  private readonly settings: CompileSettings
  private readonly meshed = new Set<string>()
  private readonly revisions = new Map<string, string>()

  constructor(namespaces: readonly MeshObject[], run: Run) {
    this.settings = run.settings
    for (const namespace of namespaces) {
      if (labelled(namespace, run) === true) this.meshed.add(namespace.name)
      const revision = namespace.labels[REVISION_LABEL]
      if (revision !== undefined) this.revisions.set(namespace.name, revision)
    }
  }

  /** The namespaces whose pods are this control plane's to enrol, unless a pod says otherwise. */
  meshNamespaces(): readonly string[] {
    return [...this.meshed].filter((name) => (this.revisions.get(name) ?? '') === this.settings.revision)
  }

  /** True when the pods of a namespace are in the mesh unless they say otherwise. */
  isMeshNamespace(name: string): boolean {
    return this.meshed.has(name)
  }

  /** What becomes of a pod. Reports pods that their labels want in the mesh and that cannot be. */
  of(pod: Pod, run: Run): Enrolment {
    const { object } = pod
    const isWanted = labelled(object, run) ?? this.meshed.has(object.namespace)
    if (!isWanted) return OUTSIDE
    if (pod.isHostNetwork) {
      run.log.add(object, ['spec', 'hostNetwork'], findings.cannotEnrol('it uses the network of its node'))
      return OUTSIDE
    }
    if (pod.node === '') {
      if (pod.addresses.length === 0) run.log.add(object, ['spec'], findings.notScheduled())
      else run.log.add(object, ['spec'], findings.cannotEnrol('spec.nodeName says no node'))
      return OUTSIDE
    }
    if (pod.networkPrivilege !== null) run.log.add(object, pod.networkPrivilege, findings.canChangeNetwork())
    const revision = object.labels[REVISION_LABEL] ?? this.revisions.get(object.namespace) ?? ''
    return { isMeshed: true, isOurs: revision === run.settings.revision }
  }
}

/** True for a rule that is this control plane's to follow: it has no revision, or ours. */
export function isOfRevision(object: MeshObject, settings: Pick<CompileSettings, 'revision'>): boolean {
  const revision = object.labels[REVISION_LABEL]
  return revision === undefined || revision === settings.revision
}

/** True for in the mesh, false for out, null when the labels say nothing, or something unknown (reported). */
function labelled(object: MeshObject, run: Run): boolean | null {
  const own = object.labels[MESH_LABEL]
  if (own === 'enabled') return true
  if (own === 'disabled') return false
  if (own !== undefined) {
    run.log.add(
      object,
      ['metadata', 'labels', MESH_LABEL],
      findings.badMeshLabel(MESH_LABEL, own, '"enabled" or "disabled"'),
    )
  }
  const mode = run.settings.isReadingIstioLabels ? object.labels[DATAPLANE_LABEL] : undefined
  if (mode === 'ambient') return true
  if (mode === 'none') return false
  if (mode !== undefined) {
    const path = ['metadata', 'labels', DATAPLANE_LABEL]
    run.log.add(object, path, findings.badMeshLabel(DATAPLANE_LABEL, mode, '"ambient" or "none"'))
  }
  return null
}
