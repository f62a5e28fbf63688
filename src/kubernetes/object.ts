/**
 * Objects of the Kubernetes API as plain JSON, and the names that their resources have in paths.
 *
 * Nothing here knows a kind: what a field holds is checked by whoever reads it.
 */

/** A resource of the API: which path serves it. */
export interface ResourceType {
  /** Empty for the core group. */
  readonly group: string
  readonly version: string
  /** Lower case, as in paths: `pods`. */
  readonly plural: string
  readonly isNamespaced: boolean
}

/** Metadata that every object has; what else there is stays unknown. */
export interface ObjectMeta {
  readonly name: string
  /** Absent in cluster-scoped objects. */
  readonly namespace?: string
  readonly uid?: string
  readonly resourceVersion?: string
  readonly generation?: number
  readonly creationTimestamp?: string
  readonly deletionTimestamp?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly [field: string]: unknown
}

/** One object, as JSON. */
export interface KubernetesObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: ObjectMeta
  readonly [field: string]: unknown
}

/** `v1`, or `GROUP/VERSION`: what objects of the resource have as `apiVersion`. */
export function apiVersionOf({ group, version }: ResourceType): string {
  return group === '' ? version : `${group}/${version}`
}

/** `pods`, or `virtualservices.networking.istio.io`: how RBAC and messages name the resource. */
export function nameOfType({ group, plural }: ResourceType): string {
  return group === '' ? plural : `${plural}.${group}`
}

/** Path of a collection: all namespaces' when `namespace` is null. */
export function collectionPath(type: ResourceType, namespace: string | null): string {
  const root = type.group === '' ? `/api/${type.version}` : `/apis/${type.group}/${type.version}`
  const scope = type.isNamespaced && namespace !== null ? `/namespaces/${encodeURIComponent(namespace)}` : ''
  return `${root}${scope}/${type.plural}`
}

/** Path of one object. `namespace` is ignored for cluster-scoped resources. */
export function objectPath(type: ResourceType, namespace: string | null, name: string): string {
  return `${collectionPath(type, namespace)}/${encodeURIComponent(name)}`
}
