/** What an installation meets in a cluster, looked at before anything is changed. */
import { WeftError } from '../../base/errors.ts'
import { type KubernetesApi, KubernetesError } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import type { Access } from './access.ts'
import { AGENT, CONTROLLER } from './names.ts'
import {
  CLUSTER_ROLE_BINDINGS,
  DAEMON_SETS,
  isOwn,
  MANAGER_LABEL,
  NAMESPACES,
  nameOf,
  typeOf,
} from './resource-types.ts'

/** What becomes of one object. */
export interface Step {
  readonly object: KubernetesObject
  /** As it is now; null when there is none. */
  readonly found: KubernetesObject | null
  /** `leave`: it is somebody else's, and does as it is. */
  readonly action: 'create' | 'change' | 'leave'
}

/** Where Weft is installed, null when it is not. Rejects with KubernetesError. */
export async function installedNamespace(api: KubernetesApi): Promise<string | null> {
  const binding = await api.get(CLUSTER_ROLE_BINDINGS, null, CONTROLLER)
  if (binding === null || !isOwn(binding)) return null
  const subjects = (binding['subjects'] ?? []) as readonly { readonly namespace?: string }[]
  return subjects[0]?.namespace ?? null
}

/** Rejects with WEFT_KUBERNETES when an object of that name is somebody else's, or was made by Helm. */
export async function examine(api: KubernetesApi, objects: readonly KubernetesObject[]): Promise<readonly Step[]> {
  const steps: Step[] = []
  const foreign: string[] = []
  for (const object of objects) {
    const found = await api.get(typeOf(object), object.metadata.namespace ?? null, object.metadata.name)
    if (found === null) steps.push({ object, found, action: 'create' })
    else if (found.metadata.deletionTimestamp !== undefined) {
      throw new WeftError('WEFT_KUBERNETES', `${nameOf(object)} is just being deleted; try again when it is gone`)
    } else if (object.kind === 'CustomResourceDefinition' && !isOwn(found))
      steps.push({ object, found, action: 'leave' })
    else if (isOwn(found) || object.kind === 'Namespace') {
      if (found.metadata.labels?.[MANAGER_LABEL] === 'Helm') throw helmError(found)
      steps.push({ object, found, action: 'change' })
    } else foreign.push(nameOf(object))
  }
  if (foreign.length > 0) {
    const names = foreign.join(', ')
    const text = `objects with the names of Weft's are there that are not Weft's: ${names}. Nothing was changed`
    throw new WeftError('WEFT_KUBERNETES', text)
  }
  return steps
}

/** What has to be allowed to take the steps, and to take them back. */
export function accessFor(objects: readonly KubernetesObject[], verbs: readonly string[]): readonly Access[] {
  return objects.flatMap((object) =>
    verbs.map((verb) => ({ type: typeOf(object), verb, namespace: object.metadata.namespace ?? null })),
  )
}

/**
 * Lets the API server judge every step without doing it: permissions, quotas, other webhooks, the schema. Objects of a
 * namespace that is yet to be made are judged when it is there. Rejects with WEFT_KUBERNETES, all objections at once.
 */
export async function rehearse(api: KubernetesApi, steps: readonly Step[], manager: string): Promise<void> {
  const missing = new Set(steps.filter(({ action, object }) => action === 'create' && object.kind === 'Namespace'))
  const absent = new Set([...missing].map(({ object }) => object.metadata.name))
  const objections: string[] = []
  for (const { object, action } of steps) {
    if (action === 'leave' || absent.has(object.metadata.namespace ?? '')) continue
    try {
      await api.apply(object, typeOf(object), manager, { dryRun: 'All' })
    } catch (error) {
      if (!(error instanceof KubernetesError) || error.isUnreachable) throw error
      objections.push(`\n  ${nameOf(object)}: ${error.apiMessage}`)
    }
  }
  if (objections.length === 0) return
  throw new WeftError('WEFT_KUBERNETES', `the API server refuses; nothing was changed:${objections.join('')}`)
}

/** Rejects with WEFT_KUBERNETES when the namespace has to be there already. */
export async function demandNamespace(api: KubernetesApi, namespace: string): Promise<void> {
  if ((await api.get(NAMESPACES, null, namespace)) !== null) return
  const text = `there is no namespace ${namespace}; make it, or leave namespace.create at true. Nothing was changed`
  throw new WeftError('WEFT_KUBERNETES', text)
}

/** Rejects with WEFT_KUBERNETES when Helm keeps the book of this installation. */
export async function demandNotHelm(api: KubernetesApi, namespace: string): Promise<void> {
  const agents = await api.get(DAEMON_SETS, namespace, AGENT)
  if (agents?.metadata.labels?.[MANAGER_LABEL] === 'Helm') throw helmError(agents)
}

function helmError(found: KubernetesObject): WeftError {
  const release = found.metadata.annotations?.['meta.helm.sh/release-name'] ?? 'RELEASE'
  const namespace =
    found.metadata.annotations?.['meta.helm.sh/release-namespace'] ?? found.metadata.namespace ?? 'NAMESPACE'
  const text = `Weft was installed by Helm (release ${release} in ${namespace}); use helm upgrade or helm uninstall. Nothing was changed`
  return new WeftError('WEFT_KUBERNETES', text)
}
