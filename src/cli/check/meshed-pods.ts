/** Which pods of a cluster are to be in the mesh, by their labels and their namespaces'. */
import type { KubernetesApi } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { NAMESPACES, PODS } from '../install/resource-types.ts'
import type { PolicyPod } from './network-policies.ts'

/** Of a namespace or a pod: `enabled` or `disabled`. */
export const MESH_LABEL = 'weft.dev/mesh'
/** Of Istio, where the installation reads it. */
export const ISTIO_LABEL = 'istio.io/dataplane-mode'

/** A pod that is to be captured. */
export interface MeshedPod extends PolicyPod {
  readonly uid: string
  readonly node: string
  /** It has a network of its own, and runs. */
  readonly isCapturable: boolean
}

/** Labels of all namespaces, by name. */
export type NamespaceLabels = ReadonlyMap<string, Readonly<Record<string, string>>>

export async function namespaceLabels(api: KubernetesApi): Promise<NamespaceLabels> {
  const namespaces = await api.list(NAMESPACES)
  return new Map(namespaces.map(({ metadata }) => [metadata.name, metadata.labels ?? {}]))
}

/** Rejects with KubernetesError. */
export async function meshedPods(
  api: KubernetesApi,
  namespaces: NamespaceLabels,
  isReadingIstioLabels: boolean,
): Promise<readonly MeshedPod[]> {
  const found: MeshedPod[] = []
  for (const pod of await api.list(PODS)) {
    const labels = namespaces.get(pod.metadata.namespace ?? '') ?? {}
    if (isMeshed(pod.metadata.labels ?? {}, labels, isReadingIstioLabels)) found.push(meshedPod(pod, labels))
  }
  return found
}

/** The pod's own label overrules its namespace's, ours overrules Istio's. */
function isMeshed(
  pod: Readonly<Record<string, string>>,
  namespace: Readonly<Record<string, string>>,
  isReadingIstioLabels: boolean,
): boolean {
  for (const labels of [pod, namespace]) {
    const own = labels[MESH_LABEL]
    if (own === 'enabled') return true
    if (own === 'disabled') return false
    const istio = isReadingIstioLabels ? labels[ISTIO_LABEL] : undefined
    if (istio === 'ambient') return true
    if (istio === 'none') return false
  }
  return false
}

function meshedPod(pod: KubernetesObject, labels: Readonly<Record<string, string>>): MeshedPod {
  const { metadata } = pod
  const spec = (pod['spec'] ?? {}) as { readonly nodeName?: string; readonly hostNetwork?: boolean }
  const status = (pod['status'] ?? {}) as {
    readonly phase?: string
    readonly podIPs?: readonly { readonly ip: string }[] | null
  }
  return {
    uid: metadata.uid ?? '',
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    labels: metadata.labels ?? {},
    namespaceLabels: labels,
    addresses: (status.podIPs ?? []).map(({ ip }) => ip),
    node: spec.nodeName ?? '',
    isCapturable: spec.hostNetwork !== true && status.phase === 'Running' && metadata.deletionTimestamp === undefined,
  }
}
