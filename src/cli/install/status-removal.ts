/**
 * Takes out of the status of users' objects what the controller has written there, where the objects and their CRD stay:
 * our conditions, and what else is ours by the API server's own book (`metadata.managedFields`). What others have written
 * into the same status is left as it is.
 */
import { ACCEPTED_CONDITION } from '../../compiler/crd.ts'
import { FIELD_MANAGER, type KubernetesApi, KubernetesError } from '../../kubernetes/api.ts'
import { type KubernetesObject, objectPath, type ResourceType } from '../../kubernetes/object.ts'

/** Begins the types of all our conditions. */
const PREFIX = ACCEPTED_CONDITION.slice(0, ACCEPTED_CONDITION.indexOf('/') + 1)

/** Fields beside the conditions that the controller writes, and others as well. */
const SHARED_FIELDS = ['observedGeneration', 'validationMessages'] as const

/** Tries against somebody who writes the same object at the same time. */
const CONFLICTS_MAX = 4

interface Condition {
  readonly type?: unknown
}

type Status = Readonly<Record<string, unknown>>

/**
 * The status without what is ours, null when nothing else is in it; undefined when nothing in it is ours. `object` as the
 * API server has it, with its managedFields.
 */
export function statusWithoutOurs(object: KubernetesObject): Status | null | undefined {
  const status = (object['status'] ?? {}) as Status
  const { conditions } = status as { readonly conditions?: unknown }
  const listed = Array.isArray(conditions) ? (conditions as readonly Condition[]) : []
  const others = listed.filter(({ type }) => !(typeof type === 'string' && type.startsWith(PREFIX)))
  const owned = SHARED_FIELDS.filter((field) => Object.hasOwn(status, field) && isManagedByUs(object, field))
  if (others.length === listed.length && owned.length === 0) return undefined
  const kept = Object.entries(status).filter(
    ([field]) => field !== 'conditions' && !(owned as readonly string[]).includes(field),
  )
  if (others.length > 0) kept.push(['conditions', others])
  return kept.length === 0 ? null : Object.fromEntries(kept)
}

/** Rejects with KubernetesError. Resolves with the number of objects that had something of ours. */
export async function removeStatus(api: KubernetesApi, type: ResourceType): Promise<number> {
  let count = 0
  for (const object of await api.list(type)) if (await removeFrom(api, type, object)) count++
  return count
}

async function removeFrom(api: KubernetesApi, type: ResourceType, listed: KubernetesObject): Promise<boolean> {
  const { name, namespace = null } = listed.metadata
  let object: KubernetesObject | null = listed
  for (let conflicts = 0; object !== null; conflicts++) {
    const status = statusWithoutOurs(object)
    if (status === undefined) return conflicts > 0
    const before = Object.keys((object['status'] ?? {}) as Status)
    // A merge patch takes only what it names.
    const patched = status === null ? null : { ...Object.fromEntries(before.map((field) => [field, null])), ...status }
    const body = { metadata: { resourceVersion: object.metadata.resourceVersion }, status: patched }
    try {
      await api.request('PATCH', `${objectPath(type, namespace, name)}/status`, body, {
        contentType: 'application/merge-patch+json',
        query: { fieldManager: FIELD_MANAGER },
      })
      return true
    } catch (error) {
      if (error instanceof KubernetesError && error.isNotFound) return false
      if (!(error instanceof KubernetesError && error.isConflict) || conflicts >= CONFLICTS_MAX) throw error
      object = await api.get(type, namespace, name)
    }
  }
  return false
}

function isManagedByUs({ metadata }: KubernetesObject, field: string): boolean {
  const { managedFields = [] } = metadata as {
    readonly managedFields?: readonly {
      readonly manager?: string
      readonly fieldsV1?: { readonly 'f:status'?: Readonly<Record<string, unknown>> }
    }[]
  }
  return managedFields.some(
    ({ manager, fieldsV1 }) => manager === FIELD_MANAGER && Object.hasOwn(fieldsV1?.['f:status'] ?? {}, `f:${field}`),
  )
}
