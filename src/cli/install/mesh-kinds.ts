/** The kinds of the mesh APIs that the controller reads: for RBAC, the webhook, and the CRDs in deploy/crds. */

/** Resources of one API group, as paths name them. */
export interface MeshGroup {
  readonly group: string
  readonly resources: readonly string[]
}

export const MESH_GROUPS: readonly MeshGroup[] = [
  { group: 'networking.istio.io', resources: ['destinationrules', 'serviceentries', 'virtualservices'] },
  { group: 'security.istio.io', resources: ['authorizationpolicies', 'peerauthentications'] },
]
