/**
 * Settings of the controller: one table row each. A setting comes from a flag (`--state`) or from the variable of the
 * same name (`WEFT_STATE`); the flag wins.
 */
import { isLoopback } from '../base/address.ts'
import { choiceFlag, durationFlag, switchFlag, UsageError } from '../base/flags.ts'
import type { LogLevel } from '../base/log.ts'
import {
  type Environment,
  type ListenAddress,
  listenFlag,
  logLevelFlag,
  optionalFlag,
  parseSettings,
  parseText,
  periodFlag,
  textFlag,
} from '../base/settings.ts'
import { blockProblem, DEFAULT_VIRTUAL_IP_BLOCKS, type VirtualIpBlocks } from '../compiler/virtual-ips.ts'
import { isSpiffeId } from '../model/subject-alt-name.ts'
import { NODE_LIFETIME_MS } from './node-credential.ts'

/** Where the mesh's objects come from. */
export type SourceConfig =
  /** A directory of YAML files. */
  | { readonly kind: 'directory'; readonly directory: string }
  /** An API server; null takes the usual configuration and its current context. */
  | { readonly kind: 'kubernetes'; readonly kubeconfig: string | null; readonly context: string | null }

/** Settings in force. */
export interface ControllerConfig {
  readonly source: SourceConfig
  readonly listen: ListenAddress
  readonly stateDirectory: string
  /** Given root and key; null generates them. */
  readonly givenRoot: { readonly rootFile: string; readonly keyFile: string } | null
  readonly trustDomain: string
  readonly clusterDomain: string
  readonly clusterId: string
  readonly rootNamespace: string
  /** With an API server: namespace of controller and agents. */
  readonly systemNamespace: string
  /** With an API server: ServiceAccount of the agents. */
  readonly agentServiceAccount: string
  readonly virtualIpBlocks: VirtualIpBlocks
  /** Name of this control plane among several; empty for the only one. */
  readonly revision: string
  /** `istio.io/dataplane-mode` counts beside our own label. */
  readonly isReadingIstioLabels: boolean
  readonly certificateLifetimeMs: number
  readonly nodeLifetimeMs: number
  readonly admin: ListenAddress
  /** With an API server: where it asks about objects that are to be written. */
  readonly webhookListen: ListenAddress
  readonly logLevel: LogLevel
}

const DAY_MS = 86_400_000
const YEAR_MS = 365 * DAY_MS
/** Shorter ones could not be renewed in time when a single request fails. */
const LIFETIME_MS_MIN = 10_000

const DEFAULT_NAMESPACE = 'weft-system'

/** Rows that `weft controller issue` takes as well: where the authority is and whose it is. */
export const authorityFlags = {
  state: textFlag(
    { name: 'state', doc: "Directory of the authority's root and key." },
    'DIR',
    '/var/lib/weft/controller',
  ),
  caRoot: optionalFlag(
    { name: 'ca-root', doc: 'Root certificate to use instead of a generated one, PEM. With --ca-key.' },
    'FILE',
    parseText,
  ),
  caKey: optionalFlag({ name: 'ca-key', doc: 'Private key of --ca-root, PEM.' }, 'FILE', parseText),
  trustDomain: textFlag(
    { name: 'trust-domain', doc: 'Trust domain of the mesh.' },
    'NAME',
    'cluster.local',
    parseTrustDomain,
  ),
}

/** The rows; `weft controller --help` shows them. */
export const controllerFlags = {
  source: choiceFlag(
    { name: 'source', doc: "Where the mesh's objects are: YAML files in a directory, or an API server." },
    ['directory', 'kubernetes'] as const,
    'directory',
  ),
  sourceDirectory: optionalFlag(
    {
      name: 'source-directory',
      doc: 'Directory of Kubernetes-shaped YAML files to serve. Required with --source directory.',
    },
    'DIR',
    parseText,
  ),
  kubeconfig: optionalFlag(
    {
      name: 'kubeconfig',
      doc: 'How to reach the API server; without it KUBECONFIG, ~/.kube/config, the ServiceAccount of the pod.',
    },
    'FILE',
    parseText,
  ),
  context: optionalFlag(
    { name: 'context', doc: 'Context of the kubeconfig; without it the current one.' },
    'NAME',
    parseText,
  ),
  listen: listenFlag({ name: 'listen', doc: 'Where agents connect; [::]:15012 for IPv6 as well.' }, '0.0.0.0:15012'),
  ...authorityFlags,
  clusterDomain: textFlag(
    { name: 'cluster-domain', doc: 'DNS suffix of services.' },
    'NAME',
    'cluster.local',
    parseName,
  ),
  clusterId: textFlag(
    { name: 'cluster-id', doc: 'Name of the cluster in workload ids and metrics.' },
    'NAME',
    'Kubernetes',
  ),
  rootNamespace: textFlag(
    { name: 'root-namespace', doc: 'Namespace whose policies and rules hold for the whole mesh.' },
    'NAME',
    'istio-system',
    parseName,
  ),
  namespace: textFlag(
    {
      name: 'namespace',
      doc: 'With --source kubernetes: namespace of controller and agents. The variable POD_NAMESPACE says it as well.',
    },
    'NAME',
    DEFAULT_NAMESPACE,
    parseName,
  ),
  agentServiceAccount: textFlag(
    { name: 'agent-service-account', doc: 'With --source kubernetes: whose tokens prove an agent.' },
    'NAME',
    'weft-agent',
    parseName,
  ),
  virtualIpsIpv4: textFlag(
    { name: 'virtual-ips-ipv4', doc: 'Block from which hosts without addresses get virtual IPs.' },
    'CIDR',
    DEFAULT_VIRTUAL_IP_BLOCKS.ipv4,
    (text) => parseBlock(text, 'ipv4'),
  ),
  virtualIpsIpv6: textFlag(
    { name: 'virtual-ips-ipv6', doc: 'The same for IPv6.' },
    'CIDR',
    DEFAULT_VIRTUAL_IP_BLOCKS.ipv6,
    (text) => parseBlock(text, 'ipv6'),
  ),
  revision: optionalFlag(
    {
      name: 'revision',
      doc: 'Name of this control plane among several: pods and rules labelled weft.dev/rev=NAME are its own.',
    },
    'NAME',
    parseName,
  ),
  istioLabels: switchFlag({
    name: 'istio-labels',
    doc: 'Let istio.io/dataplane-mode=ambient|none count beside weft.dev/mesh.',
  }),
  certificateLifetime: periodFlag(
    { name: 'certificate-lifetime', doc: "Longest and default lifetime of a workload's certificate." },
    DAY_MS,
    LIFETIME_MS_MIN,
    YEAR_MS,
  ),
  nodeCertificateLifetime: durationFlag(
    {
      name: 'node-certificate-lifetime',
      doc: "Longest and default lifetime of a node's certificate. Default: 720h, with --source kubernetes 24h.",
    },
    LIFETIME_MS_MIN,
    YEAR_MS,
  ),
  admin: listenFlag(
    {
      name: 'admin',
      doc: 'Readiness, metrics and status. With --source directory on a loopback address only; status always is.',
    },
    '127.0.0.1:15014',
  ),
  webhookListen: listenFlag(
    {
      name: 'webhook-listen',
      doc: 'With --source kubernetes: where the API server asks about objects that are to be written (HTTPS).',
    },
    '[::]:15017',
  ),
  logLevel: logLevelFlag,
}

/** Throws UsageError naming the flag or variable that is unknown, missing or has a bad value. */
export function parseControllerConfig(args: readonly string[], environment: Environment): ControllerConfig {
  const values = parseSettings(controllerFlags, args, environment, 'controller')
  return {
    source: sourceOf(values),
    listen: values.listen,
    webhookListen: values.webhookListen,
    stateDirectory: values.state,
    givenRoot: givenRoot(values.caRoot, values.caKey),
    trustDomain: values.trustDomain,
    clusterDomain: values.clusterDomain,
    clusterId: values.clusterId,
    rootNamespace: values.rootNamespace,
    systemNamespace: systemNamespace(values.namespace, environment),
    agentServiceAccount: values.agentServiceAccount,
    virtualIpBlocks: { ipv4: values.virtualIpsIpv4, ipv6: values.virtualIpsIpv6 },
    revision: values.revision ?? '',
    isReadingIstioLabels: values.istioLabels,
    certificateLifetimeMs: values.certificateLifetime,
    nodeLifetimeMs: values.nodeCertificateLifetime ?? nodeLifetimeMs(values.source),
    admin: adminAddress(values.source, values.admin),
    logLevel: values.logLevel,
  }
}

/** On Kubernetes agents get another one with their token whenever they need it. */
function nodeLifetimeMs(source: SourceConfig['kind']): number {
  return source === 'kubernetes' ? DAY_MS : NODE_LIFETIME_MS
}

/** In a pod, probes and Prometheus come from outside; elsewhere the endpoint is the operator's own. */
function adminAddress(source: SourceConfig['kind'], listen: ListenAddress): ListenAddress {
  if (source === 'directory' && !isLoopback(listen.address)) {
    throw new UsageError('flag --admin: must be a loopback address: the endpoint has no password')
  }
  return listen
}

/** What was given, or where the pod is. Throws UsageError. */
function systemNamespace(given: string, environment: Environment): string {
  const own = environment['POD_NAMESPACE']
  return given === DEFAULT_NAMESPACE && own !== undefined && own !== '' ? parseName(own) : given
}

/** The flags of the chosen source, and none of the other. Throws UsageError. */
function sourceOf(values: {
  readonly source: 'directory' | 'kubernetes'
  readonly sourceDirectory: string | null
  readonly kubeconfig: string | null
  readonly context: string | null
}): SourceConfig {
  const { source, sourceDirectory, kubeconfig, context } = values
  if (source === 'kubernetes') {
    if (sourceDirectory !== null) throw new UsageError('flag --source-directory is of no use with --source kubernetes')
    return { kind: 'kubernetes', kubeconfig, context }
  }
  if (kubeconfig !== null) throw new UsageError('flag --kubeconfig needs --source kubernetes')
  if (context !== null) throw new UsageError('flag --context needs --source kubernetes')
  if (sourceDirectory === null) {
    const text = 'flag --source-directory (or WEFT_SOURCE_DIRECTORY) is required'
    throw new UsageError(`${text}: the directory of YAML files; or take --source kubernetes`)
  }
  return { kind: 'directory', directory: sourceDirectory }
}

/** Both files or none; throws UsageError when only one is given. */
export function givenRoot(
  rootFile: string | null,
  keyFile: string | null,
): { readonly rootFile: string; readonly keyFile: string } | null {
  if (rootFile === null && keyFile === null) return null
  if (rootFile === null) throw new UsageError('flag --ca-key needs --ca-root, the certificate of the key')
  if (keyFile === null) throw new UsageError('flag --ca-root needs --ca-key, the key that signs')
  return { rootFile, keyFile }
}

/** A block for virtual IPs. */
function parseBlock(text: string, family: 'ipv4' | 'ipv6'): string {
  const problem = blockProblem(text, family)
  if (problem !== null) throw new UsageError(problem)
  return text
}

/** A DNS name: namespaces and domains. */
function parseName(text: string): string {
  if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text) || text.length > 253) {
    throw new UsageError('must be a DNS name: lower-case letters, digits, "-" and "."')
  }
  return text
}

function parseTrustDomain(text: string): string {
  if (text.includes('/') || !isSpiffeId(`spiffe://${text}/x`)) {
    throw new UsageError('must be a SPIFFE trust domain: lower-case letters, digits, "-", "." and "_"')
  }
  return text
}
