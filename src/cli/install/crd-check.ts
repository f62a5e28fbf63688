/** CRDs that somebody else installed: do they serve what Weft reads? */
import type { KubernetesObject } from '../../kubernetes/object.ts'

interface CrdSpec {
  readonly scope?: string
  readonly versions?: readonly { readonly name: string; readonly served?: boolean }[]
}

/** What is wrong with a CRD of somebody else's, beside ours of the same name; null when nothing is. */
export function foreignCrdProblem(ours: KubernetesObject, theirs: KubernetesObject): string | null {
  const wanted = (ours['spec'] ?? {}) as CrdSpec
  const found = (theirs['spec'] ?? {}) as CrdSpec
  const served = (found.versions ?? []).filter(({ served: isServed }) => isServed !== false).map(({ name }) => name)
  const known = (wanted.versions ?? []).map(({ name }) => name)
  if (!served.some((version) => known.includes(version))) {
    return `it serves ${served.join(', ') || 'no version'}, and Weft reads ${known.join(', ')}`
  }
  if (found.scope !== wanted.scope) return `its scope is ${found.scope}, not ${wanted.scope}`
  return null
}

/** True once the API server serves it. */
export function isEstablished(crd: KubernetesObject): boolean {
  // A new one has null there.
  const { conditions } = (crd['status'] ?? {}) as { conditions?: readonly { type: string; status: string }[] | null }
  return (conditions ?? []).some(({ type, status }) => type === 'Established' && status === 'True')
}
