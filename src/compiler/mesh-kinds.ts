/**
 * The kinds of the mesh's APIs that are compiled: names, versions, field tables, and what `kubectl get` shows of them. CRDs
 * (crd.ts) and the writers of status are made from this table.
 */
import { authorizationPolicySpec } from './authorization-policy-fields.ts'
import { destinationRuleSpec } from './destination-rule-fields.ts'
import { peerAuthenticationSpec } from './peer-authentication.ts'
import type { Shape } from './schema.ts'
import { serviceEntrySpec } from './service-entry.ts'
import { virtualServiceSpec } from './virtual-service-fields.ts'

/** A column of `kubectl get`. */
export interface KindColumn {
  readonly name: string
  readonly path: string
  readonly description: string
}

/** A condition on several fields, in CEL, for `spec`. */
export interface KindRule {
  readonly rule: string
  readonly message: string
}

/** One kind. */
export interface MeshKind {
  readonly group: string
  readonly kind: string
  readonly plural: string
  readonly shortNames: readonly string[]
  /** Of one schema; the first is the one that is stored. */
  readonly versions: readonly string[]
  readonly description: string
  readonly spec: Shape<unknown>
  /** An object without a spec says nothing that could be meant. */
  readonly isSpecRequired: boolean
  readonly columns: readonly KindColumn[]
  readonly rules: readonly KindRule[]
}

const NETWORKING = {
  group: 'networking.istio.io',
  versions: ['v1', 'v1beta1', 'v1alpha3'],
  isSpecRequired: true,
} as const

const SECURITY = { group: 'security.istio.io', versions: ['v1', 'v1beta1'], isSpecRequired: false } as const

/** All of them, by group and kind. */
export const MESH_KINDS: readonly MeshKind[] = [
  {
    ...NETWORKING,
    kind: 'DestinationRule',
    plural: 'destinationrules',
    shortNames: ['dr'],
    description: 'What clients do towards a service: balancing, limits, ejection, and subsets of its endpoints.',
    spec: destinationRuleSpec,
    columns: [{ name: 'Host', path: '.spec.host', description: 'The service that the rule is for.' }],
    rules: [],
  },
  {
    ...NETWORKING,
    kind: 'ServiceEntry',
    plural: 'serviceentries',
    shortNames: ['se'],
    description: 'Hosts that the cluster does not know, as services of the mesh.',
    spec: serviceEntrySpec,
    columns: [
      { name: 'Hosts', path: '.spec.hosts', description: 'The hosts.' },
      { name: 'Location', path: '.spec.location', description: 'Inside the mesh, or outside.' },
      { name: 'Resolution', path: '.spec.resolution', description: 'How addresses of endpoints are found.' },
    ],
    rules: [],
  },
  {
    ...NETWORKING,
    kind: 'VirtualService',
    plural: 'virtualservices',
    shortNames: ['vs'],
    description: 'Where requests and connections to hosts go, and what is done to them on the way.',
    spec: virtualServiceSpec,
    columns: [
      { name: 'Gateways', path: '.spec.gateways', description: 'Gateways that follow the rules.' },
      { name: 'Hosts', path: '.spec.hosts', description: 'Hosts that the rules are for.' },
    ],
    rules: [
      {
        rule: 'has(self.http) && size(self.http) > 0 || has(self.tcp) && size(self.tcp) > 0 || has(self.tls) && size(self.tls) > 0',
        message: 'there are no rules; write http or tcp',
      },
    ],
  },
  {
    ...SECURITY,
    kind: 'AuthorizationPolicy',
    plural: 'authorizationpolicies',
    shortNames: ['ap'],
    description: 'Who may do what at workloads.',
    spec: authorizationPolicySpec,
    columns: [{ name: 'Action', path: '.spec.action', description: 'What happens to what the rules match.' }],
    rules: [
      {
        rule: '(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) && size(self.targetRefs) > 0 ? 1 : 0) <= 1',
        message: 'write one of selector, targetRef, targetRefs',
      },
      {
        rule: "!has(self.action) || self.action != 'DENY' || has(self.rules) && size(self.rules) > 0",
        message: 'a DENY policy without rules denies nothing; write "rules: [{}]" to deny everything',
      },
    ],
  },
  {
    ...SECURITY,
    kind: 'PeerAuthentication',
    plural: 'peerauthentications',
    shortNames: ['pa'],
    description: 'Whether workloads take connections without mutual TLS.',
    spec: peerAuthenticationSpec,
    columns: [{ name: 'Mode', path: '.spec.mtls.mode', description: 'STRICT, PERMISSIVE, or inherited.' }],
    rules: [
      {
        rule: '!has(self.portLevelMtls) || size(self.portLevelMtls) == 0 || has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0',
        message: 'portLevelMtls needs a selector with matchLabels',
      },
    ],
  },
]

/** The kind of a group; null when it is none of these. */
export function meshKindOf(group: string, kind: string): MeshKind | null {
  return MESH_KINDS.find((one) => one.group === group && one.kind === kind) ?? null
}
