/** Paths of the kinds that an installation consists of. */
import type { KubernetesObject, ResourceType } from '../../kubernetes/object.ts'

function type(group: string, version: string, plural: string, isNamespaced: boolean): ResourceType {
  return { group, version, plural, isNamespaced }
}

export const CONFIG_MAPS = type('', 'v1', 'configmaps', true)
export const CRDS = type('apiextensions.k8s.io', 'v1', 'customresourcedefinitions', false)
export const DAEMON_SETS = type('apps', 'v1', 'daemonsets', true)
export const DEPLOYMENTS = type('apps', 'v1', 'deployments', true)
export const EVENTS = type('', 'v1', 'events', true)
export const LEASES = type('coordination.k8s.io', 'v1', 'leases', true)
export const NAMESPACES = type('', 'v1', 'namespaces', false)
export const NODES = type('', 'v1', 'nodes', false)
export const PERSISTENT_VOLUME_CLAIMS = type('', 'v1', 'persistentvolumeclaims', true)
export const PODS = type('', 'v1', 'pods', true)
export const SECRETS = type('', 'v1', 'secrets', true)
export const SERVICES = type('', 'v1', 'services', true)
export const WEBHOOKS = type('admissionregistration.k8s.io', 'v1', 'validatingwebhookconfigurations', false)
export const CLUSTER_ROLE_BINDINGS = type('rbac.authorization.k8s.io', 'v1', 'clusterrolebindings', false)

const BY_KIND: Readonly<Record<string, ResourceType>> = {
  ClusterRole: type('rbac.authorization.k8s.io', 'v1', 'clusterroles', false),
  ClusterRoleBinding: CLUSTER_ROLE_BINDINGS,
  CustomResourceDefinition: CRDS,
  DaemonSet: DAEMON_SETS,
  Deployment: DEPLOYMENTS,
  Namespace: NAMESPACES,
  PodDisruptionBudget: type('policy', 'v1', 'poddisruptionbudgets', true),
  PodMonitor: type('monitoring.coreos.com', 'v1', 'podmonitors', true),
  Role: type('rbac.authorization.k8s.io', 'v1', 'roles', true),
  RoleBinding: type('rbac.authorization.k8s.io', 'v1', 'rolebindings', true),
  Service: SERVICES,
  ServiceAccount: type('', 'v1', 'serviceaccounts', true),
  ValidatingWebhookConfiguration: WEBHOOKS,
}

/** Of an object of ours; another kind is a bug. */
export function typeOf(object: KubernetesObject): ResourceType {
  const found = BY_KIND[object.kind]
  if (found === undefined) throw new Error(`no path is known for ${object.kind}`)
  return found
}

/** `DaemonSet weft-system/weft-agent`: how an object is named to people. */
export function nameOf({ kind, metadata }: KubernetesObject): string {
  return `${kind} ${metadata.namespace === undefined ? '' : `${metadata.namespace}/`}${metadata.name}`
}

/** The part of a name that objects of ours carry as a label. */
export const OWN_LABEL = 'app.kubernetes.io/part-of'
export const OWN_LABEL_VALUE = 'weft'
/** Who made an object by other means. */
export const MANAGER_LABEL = 'app.kubernetes.io/managed-by'

export function isOwn({ metadata }: KubernetesObject): boolean {
  return metadata.labels?.[OWN_LABEL] === OWN_LABEL_VALUE
}
