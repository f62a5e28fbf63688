/**
 * Settings of the agent: one table row each. A setting comes from a flag (`--log-level`) or from the variable of the
 * same name (`WEFT_LOG_LEVEL`); the flag wins.
 */
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { canonicalAddress, formatHostPort, parseCidr, parseHostPort } from '../base/address.ts'
import { choiceFlag, type FlagValues, requiredFlag, switchFlag, UsageError } from '../base/flags.ts'
import {
  type Environment,
  listenFlag,
  logLevelFlag,
  loopbackFlag,
  numberFlag,
  optionalFlag,
  parseSettings,
  parseText,
  periodFlag,
  textFlag,
} from '../base/settings.ts'

/** Data workers at most by default. Four saturate a 10 Gbit/s node; more only share its cores with the pods. */
const WORKERS_DEFAULT_MAX = 4
/** Data workers at most. Listeners exist once per pod and worker. */
const WORKERS_MAX = 64

const MINUTE_MS = 60_000
const HOUR_MS = 3_600_000
/** The controller signs nothing shorter: it could not be renewed in time when a single request fails. */
const CERTIFICATE_MS_MIN = 10_000

/** The controller's Service, as the chart makes it. */
const KUBERNETES_CONTROLLER = 'weft-controller.weft-system.svc:15012'
/** Below the state directory: where an agent on Kubernetes keeps the credential that it got with its token. */
export const CREDENTIAL_DIRECTORY = 'credential'

/** The rows; `weft agent --help` shows them. */
export const agentFlags = {
  kubernetes: switchFlag({
    name: 'kubernetes',
    doc:
      "On a node of a Kubernetes cluster: the credential is got with the agent's token, and the name of the node is that " +
      `of the variable NODE_NAME. --controller is ${KUBERNETES_CONTROLLER} then unless given.`,
  }),
  node: textFlag(
    { name: 'node', doc: 'Name of this node. The credential says it; a name given here must agree with it.' },
    'NAME',
    '',
  ),
  controller: requiredFlag({ name: 'controller', doc: 'The controller.' }, 'HOST:PORT', parseEndpoint),
  credentials: requiredFlag(
    {
      name: 'credentials',
      doc:
        'Directory with cert.pem, key.pem and root.pem, the credential of this node. With --kubernetes it is kept there; ' +
        `default then: ${CREDENTIAL_DIRECTORY} in the state directory.`,
    },
    'DIR',
    parseText,
  ),
  tokenFile: textFlag(
    { name: 'token-file', doc: 'With --kubernetes: a ServiceAccount token for the audience weft-ca.' },
    'FILE',
    '/var/run/secrets/weft/token',
  ),
  rootsFile: textFlag(
    { name: 'roots-file', doc: "With --kubernetes: the mesh's roots, PEM, from the ConfigMap weft-ca-root-cert." },
    'FILE',
    '/var/run/secrets/weft/root-cert.pem',
  ),
  apiServer: optionalFlag(
    {
      name: 'api-server',
      doc:
        "With --kubernetes: the API server, which is asked for the mesh's roots alone, because the kubelet brings them a " +
        'minute later. Default: that of the pod, by KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT.',
    },
    'HOST:PORT',
    parseEndpoint,
  ),
  serviceAccount: textFlag(
    { name: 'service-account', doc: 'With --api-server: directory of token, ca.crt and namespace.' },
    'DIR',
    '/var/run/secrets/kubernetes.io/serviceaccount',
  ),
  trustDomain: textFlag(
    { name: 'trust-domain', doc: 'With --kubernetes: trust domain of the mesh, which the controller must prove.' },
    'NAME',
    'cluster.local',
  ),
  state: textFlag(
    { name: 'state', doc: 'Directory for the last good configuration, and for the socket by which agents hand over.' },
    'DIR',
    '/var/lib/weft/agent',
  ),
  workers: numberFlag(
    { name: 'workers', doc: 'Data workers (threads).' },
    Math.min(availableParallelism(), WORKERS_DEFAULT_MAX),
    1,
    WORKERS_MAX,
  ),
  capture: choiceFlag(
    {
      name: 'capture',
      doc: 'How connections are captured. loopback is for demos and tests only: it proves no identity.',
    },
    ['ebpf', 'loopback'] as const,
    'ebpf',
  ),
  transport: choiceFlag(
    {
      name: 'transport',
      doc: 'What carries connections: the native reactor, node:net, or with auto the reactor where it can be loaded.',
    },
    ['auto', 'reactor', 'node'] as const,
    'auto',
  ),
  loopbackBlock: optionalFlag(
    { name: 'loopback-block', doc: 'With --capture loopback: listen only on service addresses of this block.' },
    'CIDR',
    parseBlock,
  ),
  cgroup: textFlag(
    { name: 'cgroup', doc: 'cgroup2 directory to attach the programs to. Default: the cgroup2 root.' },
    'PATH',
    '',
  ),
  pinDirectory: textFlag(
    { name: 'pin-directory', doc: 'Directory below a bpf file system for pins.' },
    'PATH',
    '/sys/fs/bpf/weft',
  ),
  nodeNetns: textFlag(
    {
      name: 'node-netns',
      doc: "Network namespace of the node, in which its kubelet runs. In a pod with the node's processes: /proc/1/ns/net.",
    },
    'PATH',
    '/proc/thread-self/ns/net',
  ),
  cniConfDirectory: textFlag(
    {
      name: 'cni-conf-directory',
      doc: 'Where the container runtime finds CNI configurations (/etc/cni/net.d): new pods are captured before they run.',
    },
    'DIR',
    '',
  ),
  cniBinDirectory: textFlag(
    { name: 'cni-bin-directory', doc: 'Where the container runtime finds CNI plugins.' },
    'DIR',
    '/opt/cni/bin',
  ),
  cniSocket: textFlag(
    { name: 'cni-socket', doc: 'Where the CNI plugin reaches the agent. Like --state, the same path on the node.' },
    'PATH',
    '/run/weft/cni.sock',
  ),
  dnsCapture: choiceFlag(
    {
      name: 'dns-capture',
      doc: 'Whether this node answers what its pods ask DNS resolvers, unless weft.dev/dns-capture says otherwise.',
    },
    ['on', 'off'] as const,
    'on',
  ),
  endpointResolvers: optionalFlag(
    {
      name: 'endpoint-resolvers',
      doc: "Resolvers for endpoints that are known by name, with commas. Default: the machine's.",
    },
    'ADDRESS',
    parseResolvers,
  ),
  metrics: listenFlag({ name: 'metrics', doc: 'Where Prometheus scrapes /metrics.' }, '0.0.0.0:15020'),
  readiness: listenFlag({ name: 'readiness', doc: 'Where /healthz/ready answers.' }, '0.0.0.0:15021'),
  admin: loopbackFlag({ name: 'admin', doc: 'Admin endpoint, on a loopback address only.' }, '127.0.0.1:15000'),
  certificateLifetime: periodFlag(
    { name: 'certificate-lifetime', doc: 'Lifetime to ask for of pod certificates.' },
    24 * HOUR_MS,
    CERTIFICATE_MS_MIN,
    365 * 24 * HOUR_MS,
  ),
  drain: periodFlag(
    { name: 'drain', doc: 'Longest wait for open connections when the agent stops.' },
    30_000,
    0,
    HOUR_MS,
  ),
  handoverDrain: periodFlag(
    { name: 'handover-drain', doc: 'Longest wait for open connections after a successor has taken over.' },
    10 * MINUTE_MS,
    0,
    24 * HOUR_MS,
  ),
  whenRetired: choiceFlag(
    {
      name: 'when-retired',
      doc:
        'What an agent does when a successor has taken over and it has drained: exit, or wait for SIGTERM. Agents that ' +
        'wait need readiness addresses of their own.',
    },
    ['exit', 'wait'] as const,
    'exit',
  ),
  accessLog: switchFlag({
    name: 'access-log',
    doc: 'Write one JSON line per request and connection to standard output.',
  }),
  logLevel: logLevelFlag,
}

/** What the table gives; times in milliseconds. */
export type AgentConfig = FlagValues<typeof agentFlags>

/** Throws UsageError naming the flag or variable that is unknown, missing or has a bad value. */
export function parseAgentConfig(args: readonly string[], environment: Environment): AgentConfig {
  if (!args.includes('--kubernetes') && environment['WEFT_KUBERNETES'] !== 'true') {
    return parseSettings(agentFlags, args, environment, 'agent')
  }
  const defaults = { WEFT_CONTROLLER: KUBERNETES_CONTROLLER, WEFT_CREDENTIALS: CREDENTIAL_DIRECTORY }
  const { KUBERNETES_SERVICE_HOST: host = '', KUBERNETES_SERVICE_PORT: port = '443' } = environment
  const server = host === '' ? {} : { WEFT_API_SERVER: formatHostPort(host, Number(port)) }
  const values = parseSettings(agentFlags, args, { ...defaults, ...server, ...environment }, 'agent')
  const node = values.node === '' ? (environment['NODE_NAME'] ?? '') : values.node
  if (node === '') {
    throw new UsageError('flag --kubernetes needs the name of the node: give --node, or NODE_NAME from spec.nodeName')
  }
  const isKeptByDefault = values.credentials === CREDENTIAL_DIRECTORY
  return {
    ...values,
    node,
    credentials: isKeptByDefault ? join(values.state, CREDENTIAL_DIRECTORY) : values.credentials,
  }
}

function parseEndpoint(text: string): { readonly host: string; readonly port: number } {
  const endpoint = parseHostPort(text)
  if (endpoint === null) throw new UsageError('must be HOST:PORT, such as weft-controller:15012 or [fd00::1]:15012')
  return endpoint
}

function parseResolvers(text: string): readonly string[] {
  return text.split(',').map((part) => {
    const address = canonicalAddress(part.trim())
    if (address === null) throw new UsageError('must be IP addresses with commas between them')
    return address
  })
}

function parseBlock(text: string): string {
  if (parseCidr(text) === null) throw new UsageError('must be a block such as 127.30.1.0/24')
  return text
}
