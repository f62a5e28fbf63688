/**
 * Which NetworkPolicies stop the mesh's own tunnels: pods that may talk to each other on the ports of their apps, and not on
 * 15008, through which the mesh carries that between nodes. Pure: objects in, findings out.
 *
 * A policy selects pods; pods that some policy selects take only what one of the policies' rules admits (the API's own
 * semantics, networking.k8s.io/v1).
 */
import { cidrContains, parseAddress, parseCidr } from '../../base/address.ts'

/** Port of tunnels between nodes. */
export const TUNNEL_PORT = 15_008

interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>
  readonly matchExpressions?: readonly {
    readonly key: string
    readonly operator: string
    readonly values?: readonly string[]
  }[]
}

interface PolicyPeer {
  readonly podSelector?: LabelSelector
  readonly namespaceSelector?: LabelSelector
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] }
}

interface PolicyPort {
  readonly protocol?: string
  readonly port?: number | string
  readonly endPort?: number
}

interface PolicyRule {
  readonly from?: readonly PolicyPeer[]
  readonly to?: readonly PolicyPeer[]
  readonly ports?: readonly PolicyPort[]
}

/** A NetworkPolicy as the API server has it. */
export interface NetworkPolicy {
  readonly metadata: { readonly name: string; readonly namespace?: string }
  readonly spec?: {
    readonly podSelector?: LabelSelector
    readonly policyTypes?: readonly string[]
    readonly ingress?: readonly PolicyRule[]
    readonly egress?: readonly PolicyRule[]
  }
}

/** A pod of the mesh, as policies see it. */
export interface PolicyPod {
  readonly namespace: string
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly namespaceLabels: Readonly<Record<string, string>>
  readonly addresses: readonly string[]
}

/** One policy that stops tunnels. */
export interface BlockedTunnel {
  /** `namespace/name`. */
  readonly policy: string
  readonly direction: 'ingress' | 'egress'
  /** Pods whose tunnels it stops: `namespace/name`, one for each kind of pod. */
  readonly pods: readonly string[]
  /** A pod that they may talk to otherwise. */
  readonly peer: string
}

/** Findings, in the order of the policies. */
export function blockedTunnels(
  policies: readonly NetworkPolicy[],
  pods: readonly PolicyPod[],
): readonly BlockedTunnel[] {
  const kinds = kindsOf(pods)
  const found = new Map<string, { policy: string; direction: 'ingress' | 'egress'; pods: Set<string>; peer: string }>()
  for (const direction of ['ingress', 'egress'] as const) {
    const some = policies.filter((policy) => hasDirection(policy, direction))
    for (const pod of kinds) {
      const selecting = some.filter((policy) => selectsPod(policy, pod))
      if (selecting.length === 0) continue
      for (const peer of kinds) {
        const admitting = selecting.flatMap((policy) =>
          rulesOf(policy, direction)
            .filter((rule) => admitsPeer(rule, direction, policy, peer))
            .map((rule) => ({ policy, rule })),
        )
        // Whom nothing admits is meant to be kept out; and one rule for the tunnel is enough.
        if (admitting.length === 0 || admitting.some(({ rule }) => admitsTunnel(rule))) continue
        for (const { policy } of admitting) {
          const name = `${policy.metadata.namespace ?? 'default'}/${policy.metadata.name}`
          const key = `${direction} ${name}`
          const entry = found.get(key) ?? { policy: name, direction, pods: new Set<string>(), peer: nameOf(peer) }
          entry.pods.add(nameOf(pod))
          found.set(key, entry)
        }
      }
    }
  }
  return [...found.values()].map((entry) => ({ ...entry, pods: [...entry.pods] }))
}

/** One pod for all that no policy can tell apart but by their address. */
function kindsOf(pods: readonly PolicyPod[]): readonly PolicyPod[] {
  const kinds = new Map<string, PolicyPod>()
  for (const pod of pods) {
    // Labels of the workload's own controllers differ from one update to the next, and are in no selector of people.
    const { 'pod-template-hash': _hash, 'controller-revision-hash': _revision, ...labels } = pod.labels
    const key = `${pod.namespace} ${JSON.stringify(Object.entries(labels).sort())}`
    if (!kinds.has(key)) kinds.set(key, pod)
  }
  return [...kinds.values()]
}

function nameOf({ namespace, name }: PolicyPod): string {
  return `${namespace}/${name}`
}

function hasDirection({ spec }: NetworkPolicy, direction: 'ingress' | 'egress'): boolean {
  const types = spec?.policyTypes
  if (types !== undefined) return types.some((type) => type.toLowerCase() === direction)
  return direction === 'ingress' || spec?.egress !== undefined
}

function rulesOf({ spec }: NetworkPolicy, direction: 'ingress' | 'egress'): readonly PolicyRule[] {
  return spec?.[direction] ?? []
}

function selectsPod({ metadata, spec }: NetworkPolicy, pod: PolicyPod): boolean {
  return (metadata.namespace ?? 'default') === pod.namespace && matches(spec?.podSelector ?? {}, pod.labels)
}

function admitsPeer(
  rule: PolicyRule,
  direction: 'ingress' | 'egress',
  policy: NetworkPolicy,
  peer: PolicyPod,
): boolean {
  const peers = direction === 'ingress' ? rule.from : rule.to
  if (peers === undefined || peers.length === 0) return true
  return peers.some(({ podSelector, namespaceSelector, ipBlock }) => {
    if (ipBlock !== undefined) return peer.addresses.some((address) => blockHas(ipBlock, address))
    const isOfNamespace =
      namespaceSelector === undefined
        ? peer.namespace === (policy.metadata.namespace ?? 'default')
        : matches(namespaceSelector, peer.namespaceLabels)
    return isOfNamespace && (podSelector === undefined || matches(podSelector, peer.labels))
  })
}

function admitsTunnel({ ports }: PolicyRule): boolean {
  if (ports === undefined || ports.length === 0) return true
  return ports.some(({ protocol = 'TCP', port, endPort }) => {
    if (protocol !== 'TCP') return false
    if (port === undefined) return true
    // A name is that of a port of the app's containers.
    if (typeof port === 'string') return false
    return endPort === undefined ? port === TUNNEL_PORT : port <= TUNNEL_PORT && TUNNEL_PORT <= endPort
  })
}

function blockHas(
  { cidr, except = [] }: { readonly cidr: string; readonly except?: readonly string[] },
  address: string,
): boolean {
  return isIn(cidr, address) && !except.some((one) => isIn(one, address))
}

function isIn(cidr: string, address: string): boolean {
  const block = parseCidr(cidr)
  const bytes = parseAddress(address)
  return block !== null && bytes !== null && cidrContains(block, bytes)
}

function matches(
  { matchLabels = {}, matchExpressions = [] }: LabelSelector,
  labels: Readonly<Record<string, string>>,
): boolean {
  if (!Object.entries(matchLabels).every(([key, value]) => labels[key] === value)) return false
  return matchExpressions.every(({ key, operator, values = [] }) => {
    const value = labels[key]
    switch (operator) {
      case 'In':
        return value !== undefined && values.includes(value)
      case 'NotIn':
        return value === undefined || !values.includes(value)
      case 'Exists':
        return value !== undefined
      case 'DoesNotExist':
        return value === undefined
      default:
        return false
    }
  })
}
