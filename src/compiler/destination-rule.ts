/**
 * DestinationRule: fields, the settings they give a cluster, and which rule a client of a service follows.
 *
 * Look-up (mesh-wide rule of the API): rules of the client's namespace, then of the service's, then of the root
 * namespace; the first level with a hit wins and nothing is inherited between levels. In a level the most specific host
 * wins; rules for one host are merged, oldest first.
 */
import {
  BALANCE_LEAST_REQUEST,
  BALANCE_RANDOM,
  BALANCE_ROUND_ROBIN,
  type Balance,
  DEFAULT_POOL_LIMITS,
  type OutlierDetection,
  type PoolLimits,
} from '../model/service.ts'
import { type DestinationRuleSpec, destinationRuleSpec, type TrafficPolicyFields } from './destination-rule-fields.ts'
import { expandHost, type Visibility, visibilityOf } from './hosts.ts'
import { findings } from './messages.ts'
import { compareAge, type MeshObject } from './object.ts'
import { Cursor } from './schema.ts'
import { SELECT_ALL, type Selector, selectorOf } from './selector.ts'
import type { Run } from './settings.ts'

/** The blocks of a trafficPolicy; null where not written. */
export type PolicyBlocks = Pick<TrafficPolicyFields, 'loadBalancer' | 'connectionPool' | 'outlierDetection' | 'tls'>

/** A named part of a host's workloads, by labels. */
export interface Subset {
  readonly name: string
  readonly labels: Selector
  readonly policy: TrafficPolicyFields | null
  /** Object that declares it, and where. */
  readonly object: MeshObject
  readonly index: number
}

/** A DestinationRule, read and with its defaults. */
export interface DestinationRule {
  readonly object: MeshObject
  readonly visibility: Visibility
  /** Expanded. */
  readonly host: string
  readonly writtenHost: string
  /** Clients of the rule's namespace that it is for; everything when not given. */
  readonly clients: Selector
  readonly policy: TrafficPolicyFields | null
  readonly subsets: readonly Subset[]
}

/** Rules for one host of one namespace that apply together. */
export interface MergedRule {
  readonly host: string
  readonly namespace: string
  readonly visibility: Visibility
  readonly clients: Selector
  readonly policy: TrafficPolicyFields | null
  readonly subsets: ReadonlyMap<string, Subset>
}

/** How a cluster behaves. */
export interface ClusterSettings {
  readonly balance: Balance
  readonly limits: PoolLimits
  readonly outlier: OutlierDetection | null
  readonly isMutualTls: boolean
}

export const DEFAULT_CLUSTER_SETTINGS: ClusterSettings = {
  balance: BALANCE_LEAST_REQUEST,
  limits: DEFAULT_POOL_LIMITS,
  outlier: null,
  isMutualTls: true,
}

/** Reads a DestinationRule; null when it has errors (reported). */
export function readDestinationRule(object: MeshObject, run: Run): DestinationRule | null {
  const spec: DestinationRuleSpec | null = destinationRuleSpec.read(
    object.spec ?? {},
    new Cursor(run.log, object).at('spec'),
  )
  if (spec === null || run.log.hasError(object)) return null
  return {
    object,
    visibility: visibilityOf(spec.exportTo, object.namespace),
    host: expandHost(spec.host, object.namespace, run.settings.clusterDomain),
    writtenHost: spec.host,
    clients: spec.workloadSelector === null ? SELECT_ALL : selectorOf(spec.workloadSelector.matchLabels),
    policy: spec.trafficPolicy,
    subsets: spec.subsets.map((subset, index) => ({
      name: subset.name,
      labels: selectorOf(subset.labels),
      policy: subset.trafficPolicy,
      object,
      index,
    })),
  }
}

/** Merges rules for the same host, namespace, exportTo and client selector: subsets add up, the oldest policy wins. */
export function mergeRules(rules: readonly DestinationRule[], run: Run): MergedRule[] {
  const groups = new Map<string, DestinationRule[]>()
  for (const rule of [...rules].sort((a, b) => compareAge(a.object, b.object))) {
    const { object, host, visibility, clients } = rule
    const seenBy = visibility.isPublic ? '*' : [...visibility.namespaces].sort().join(',')
    const key = `${object.namespace}|${host}|${seenBy}|${clients.text}`
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [rule])
    else group.push(rule)
  }
  return [...groups.values()].map((group) => mergeGroup(group, run))
}

function mergeGroup(group: readonly DestinationRule[], run: Run): MergedRule {
  const first = group[0]!
  const owner = group.find((rule) => rule.policy !== null)
  const subsets = new Map<string, Subset>()
  for (const rule of group) {
    if (owner !== undefined && rule !== owner && rule.policy !== null) {
      run.log.add(rule.object, ['spec', 'trafficPolicy'], findings.policyTaken(owner.object.key))
    }
    for (const subset of rule.subsets) {
      const known = subsets.get(subset.name)
      if (known === undefined) subsets.set(subset.name, subset)
      else
        run.log.add(rule.object, ['spec', 'subsets', subset.index], findings.subsetTaken(subset.name, known.object.key))
    }
  }
  return {
    host: first.host,
    namespace: first.object.namespace,
    visibility: first.visibility,
    clients: first.clients,
    policy: owner?.policy ?? null,
    subsets,
  }
}

// --- layers ---

const NO_BLOCKS: PolicyBlocks = { loadBalancer: null, connectionPool: null, outlierDetection: null, tls: null }

/**
 * The blocks in force for a port of a subset: a subset's block replaces the rule's; settings of a port replace all four
 * blocks at once, and what they leave out falls to the defaults.
 */
export function blocksFor(rule: MergedRule, subset: Subset | null, port: number): PolicyBlocks {
  const base = atPort(rule.policy, port) ?? rule.policy ?? NO_BLOCKS
  if (subset === null || subset.policy === null) return base
  const own = atPort(subset.policy, port)
  if (own !== null) return own
  return {
    loadBalancer: subset.policy.loadBalancer ?? base.loadBalancer,
    connectionPool: subset.policy.connectionPool ?? base.connectionPool,
    outlierDetection: subset.policy.outlierDetection ?? base.outlierDetection,
    tls: subset.policy.tls ?? base.tls,
  }
}

function atPort(policy: TrafficPolicyFields | null, port: number): PolicyBlocks | null {
  return policy?.portLevelSettings.find((settings) => settings.port.number === port) ?? null
}

/** The model's settings for these blocks. TCP ports have an idle time of their own. */
export function settingsOf(blocks: PolicyBlocks, isTcp: boolean): ClusterSettings {
  return {
    balance: balanceOf(blocks.loadBalancer),
    limits: limitsOf(blocks.connectionPool, isTcp),
    outlier: outlierOf(blocks.outlierDetection),
    isMutualTls: isMutualTls(blocks.tls),
  }
}

function balanceOf(block: PolicyBlocks['loadBalancer']): Balance {
  if (block?.simple === 'ROUND_ROBIN') return BALANCE_ROUND_ROBIN
  if (block?.simple === 'RANDOM') return BALANCE_RANDOM
  return BALANCE_LEAST_REQUEST
}

/** Zero and absent are "no limit of the user's", except for idle times, where zero is "never". */
function limitsOf(block: PolicyBlocks['connectionPool'], isTcp: boolean): PoolLimits {
  if (block === null) return DEFAULT_POOL_LIMITS
  const { tcp, http } = block
  const tcpIdle = tcp?.idleTimeout ?? null
  const idle = isTcp ? tcpIdle : (http?.idleTimeout ?? tcpIdle)
  return {
    connectionsMax: positive(tcp?.maxConnections),
    connectTimeoutMs: tcp?.connectTimeout ?? DEFAULT_POOL_LIMITS.connectTimeoutMs,
    pendingRequestsMax: positive(http?.http1MaxPendingRequests),
    requestsMax: positive(http?.http2MaxRequests),
    requestsPerConnectionMax: positive(http?.maxRequestsPerConnection),
    retriesMax: positive(http?.maxRetries),
    idleTimeoutMs: idle ?? DEFAULT_POOL_LIMITS.idleTimeoutMs,
    connectionAgeMsMax: tcp?.maxConnectionDuration ?? null,
  }
}

function positive(value: number | null | undefined): number | null {
  return value === null || value === undefined || value === 0 ? null : value
}

/** Defaults: DestinationRule reference, `outlierDetection`. */
function outlierOf(block: PolicyBlocks['outlierDetection']): OutlierDetection | null {
  if (block === null) return null
  return {
    consecutive5xx: block.consecutive5xxErrors ?? 5,
    consecutiveGatewayErrors: block.consecutiveGatewayErrors ?? 0,
    intervalMs: block.interval ?? 10_000,
    baseEjectionMs: block.baseEjectionTime ?? 30_000,
    ejectionPercentMax: block.maxEjectionPercent ?? 10,
    healthPercentMin: block.minHealthPercent ?? 0,
  }
}

/**
 * A block without a mode means DISABLE. SIMPLE and MUTUAL (reported as not supported) stay mesh mTLS: between workloads
 * of the mesh that is the safe side.
 */
function isMutualTls(block: PolicyBlocks['tls']): boolean {
  return block === null || (block.mode !== null && block.mode !== 'DISABLE')
}
