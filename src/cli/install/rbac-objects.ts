/**
 * What the controller may do in the cluster, rule by rule with its reason; and the one thing that agents may do.
 */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { MESH_GROUPS } from './mesh-kinds.ts'
import {
  AGENT,
  AUTHORITY_ROOTS_SECRET,
  AUTHORITY_SECRET,
  CONTROLLER,
  CONTROLLER_LEASE,
  GIVEN_AUTHORITY_SECRET,
  labelsOf,
  TRUST_CONFIG_MAP,
} from './names.ts'
import type { InstallPlan } from './plan.ts'

const COMPONENT = 'controller'

/** One rule of a Role or ClusterRole. */
export interface AccessRule {
  readonly apiGroups: readonly string[]
  readonly resources: readonly string[]
  readonly resourceNames?: readonly string[]
  readonly verbs: readonly string[]
}

/** Why a rule is there, by the rule; printed beside it. */
export const accessReasons = new WeakMap<object, string>()

const READ = ['get', 'list', 'watch']

function because(reason: string, rule: AccessRule): AccessRule {
  accessReasons.set(rule, reason)
  return rule
}

/** In the whole cluster. */
export const CLUSTER_RULES: readonly AccessRule[] = [
  because('Who is in the mesh, where it runs, and which addresses it has.', {
    apiGroups: [''],
    resources: ['namespaces', 'nodes', 'pods', 'services'],
    verbs: READ,
  }),
  because('Endpoints of services: readiness, termination, zones.', {
    apiGroups: ['discovery.k8s.io'],
    resources: ['endpointslices'],
    verbs: READ,
  }),
  ...MESH_GROUPS.map(({ group, resources }) =>
    because("What users say about the mesh's traffic and security.", { apiGroups: [group], resources, verbs: READ }),
  ),
  ...MESH_GROUPS.map(({ group, resources }) =>
    because('Tells users in the status of their objects whether they are in force.', {
      apiGroups: [group],
      resources: resources.map((resource) => `${resource}/status`),
      verbs: ['patch', 'update'],
    }),
  ),
  because('Notices when a kind of the mesh is installed or removed.', {
    apiGroups: ['apiextensions.k8s.io'],
    resources: ['customresourcedefinitions'],
    verbs: READ,
  }),
  because('Tells users beside their objects and pods what is wrong.', {
    apiGroups: ['', 'events.k8s.io'],
    resources: ['events'],
    verbs: ['create', 'patch'],
  }),
  because("Checks the tokens by which agents prove which node's they are.", {
    apiGroups: ['authentication.k8s.io'],
    resources: ['tokenreviews'],
    verbs: ['create'],
  }),
  because('Makes the bundle of roots in namespaces of the mesh; a name cannot be demanded of what is created.', {
    apiGroups: [''],
    resources: ['configmaps'],
    verbs: ['create'],
  }),
  because('Keeps that bundle up to date when the root is rotated, and reads no other ConfigMap.', {
    apiGroups: [''],
    resources: ['configmaps'],
    resourceNames: [TRUST_CONFIG_MAP],
    verbs: [...READ, 'patch', 'update', 'delete'],
  }),
  because('Writes the certificate authority of the webhook into its configuration.', {
    apiGroups: ['admissionregistration.k8s.io'],
    resources: ['validatingwebhookconfigurations'],
    resourceNames: [CONTROLLER],
    verbs: [...READ, 'patch', 'update'],
  }),
]

/** In the namespace of the installation. */
export const NAMESPACE_RULES: readonly AccessRule[] = [
  because('Makes the Lease by which replicas agree on who writes.', {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['create'],
  }),
  because('Holds that Lease, and no other.', {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    resourceNames: [CONTROLLER_LEASE],
    verbs: [...READ, 'patch', 'update'],
  }),
  because('Makes the Secrets of its own root and of the roots that are trusted.', {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['create'],
  }),
  because('Keeps them, and reads no other Secret but the next.', {
    apiGroups: [''],
    resources: ['secrets'],
    resourceNames: [AUTHORITY_SECRET, AUTHORITY_ROOTS_SECRET],
    verbs: [...READ, 'patch', 'update'],
  }),
  because('A root that the user brings: read, never written.', {
    apiGroups: [''],
    resources: ['secrets'],
    resourceNames: [GIVEN_AUTHORITY_SECRET],
    verbs: READ,
  }),
]

/** What agents may do, in the namespace of the installation. */
export const AGENT_RULES: readonly AccessRule[] = [
  because(
    'Learns of new roots at once, and reads nothing else: everything that an agent knows comes from the controller.',
    {
      apiGroups: [''],
      resources: ['configmaps'],
      resourceNames: [TRUST_CONFIG_MAP],
      verbs: READ,
    },
  ),
]

export function agentAccess(plan: InstallPlan): readonly KubernetesObject[] {
  const { namespace, version } = plan
  const metadata = { name: AGENT, namespace, labels: labelsOf('agent', version) }
  const apiVersion = 'rbac.authorization.k8s.io/v1'
  return [
    { apiVersion, kind: 'Role', metadata, rules: AGENT_RULES },
    {
      apiVersion,
      kind: 'RoleBinding',
      metadata,
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: AGENT },
      subjects: [{ kind: 'ServiceAccount', name: AGENT, namespace }],
    },
  ]
}

export function controllerAccess(plan: InstallPlan): readonly KubernetesObject[] {
  const { namespace } = plan
  const labels = labelsOf(COMPONENT, plan.version)
  const subjects = [{ kind: 'ServiceAccount', name: CONTROLLER, namespace }]
  const apiVersion = 'rbac.authorization.k8s.io/v1'
  const apiGroup = 'rbac.authorization.k8s.io'
  return [
    { apiVersion, kind: 'ClusterRole', metadata: { name: CONTROLLER, labels }, rules: CLUSTER_RULES },
    {
      apiVersion,
      kind: 'ClusterRoleBinding',
      metadata: { name: CONTROLLER, labels },
      roleRef: { apiGroup, kind: 'ClusterRole', name: CONTROLLER },
      subjects,
    },
    { apiVersion, kind: 'Role', metadata: { name: CONTROLLER, namespace, labels }, rules: NAMESPACE_RULES },
    {
      apiVersion,
      kind: 'RoleBinding',
      metadata: { name: CONTROLLER, namespace, labels },
      roleRef: { apiGroup, kind: 'Role', name: CONTROLLER },
      subjects,
    },
  ]
}
