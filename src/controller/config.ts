/**
 * Settings of the controller: one table row each. A setting comes from a flag (`--state`) or from the variable of the
 * same name (`WEFT_STATE`); the flag wins. This is the only place that looks at the environment.
 */
import { canonicalAddress, isLoopback, parseHostPort } from '../base/address.ts'
import { choiceFlag, describeFlags, durationFlag, type Flag, parseFlags, UsageError } from '../base/flags.ts'
import { isSpiffeId } from '../model/subject-alt-name.ts'
import { NODE_LIFETIME_MS } from './node-credential.ts'

/** An address to listen on; port 0 takes a free one. */
export interface ListenAddress {
  readonly address: string
  readonly port: number
}

export interface ControllerConfig {
  /** Directory of YAML files. */
  readonly sourceDirectory: string
  readonly listen: ListenAddress
  readonly stateDirectory: string
  /** Given root and key; null generates them. */
  readonly givenRoot: { readonly rootFile: string; readonly keyFile: string } | null
  readonly trustDomain: string
  readonly clusterDomain: string
  readonly clusterId: string
  readonly rootNamespace: string
  readonly certificateLifetimeMs: number
  readonly nodeLifetimeMs: number
  readonly admin: ListenAddress
  readonly logLevel: 'error' | 'warn' | 'info' | 'debug'
}

const DAY_MS = 86_400_000
const YEAR_MS = 365 * DAY_MS
/** Shorter ones could not be renewed in time when a single request fails. */
const LIFETIME_MS_MIN = 10_000

/** Rows that `weft controller issue` takes as well: where the authority is and whose it is. */
export const authorityFlags = {
  state: textFlag('state', 'DIR', '/var/lib/weft/controller', "Directory of the authority's root and key.", parseText),
  caRoot: optionalFlag('ca-root', 'FILE', 'Root certificate to use instead of a generated one, PEM. With --ca-key.'),
  caKey: optionalFlag('ca-key', 'FILE', 'Private key of --ca-root, PEM.'),
  trustDomain: textFlag('trust-domain', 'NAME', 'cluster.local', 'Trust domain of the mesh.', parseTrustDomain),
}

export const controllerFlags = {
  sourceDirectory: optionalFlag(
    'source-directory',
    'DIR',
    'Directory of Kubernetes-shaped YAML files to serve. Required.',
  ),
  listen: listenFlag('listen', '0.0.0.0:15012', 'Where agents connect; [::]:15012 for IPv6 as well.', parseListen),
  ...authorityFlags,
  clusterDomain: textFlag('cluster-domain', 'NAME', 'cluster.local', 'DNS suffix of services.', parseName),
  clusterId: textFlag(
    'cluster-id',
    'NAME',
    'Kubernetes',
    'Name of the cluster in workload ids and metrics.',
    parseText,
  ),
  rootNamespace: textFlag(
    'root-namespace',
    'NAME',
    'istio-system',
    'Namespace whose policies and rules hold for the whole mesh.',
    parseName,
  ),
  certificateLifetime: {
    ...durationFlag(
      { name: 'certificate-lifetime', doc: "Longest and default lifetime of a workload's certificate." },
      LIFETIME_MS_MIN,
      YEAR_MS,
    ),
    fallbackText: '24h',
  },
  nodeCertificateLifetime: {
    ...durationFlag(
      { name: 'node-certificate-lifetime', doc: "Longest and default lifetime of a node's certificate." },
      LIFETIME_MS_MIN,
      YEAR_MS,
    ),
    fallbackText: '720h',
  },
  admin: listenFlag('admin', '127.0.0.1:15014', 'Readiness and status, on a loopback address only.', parseAdmin),
  logLevel: choiceFlag(
    { name: 'log-level', doc: 'What is logged.' },
    ['error', 'warn', 'info', 'debug'] as const,
    'info',
  ),
}

const VARIABLE_PREFIX = 'WEFT_'

/**
 * Reads flags, then variables for flags that are not given. Throws UsageError naming the flag or variable that is
 * unknown, missing or has a bad value.
 */
export function parseControllerConfig(args: readonly string[], environment: NodeJS.ProcessEnv): ControllerConfig {
  const values = parseFlags(controllerFlags, [...args, ...variableArguments(args, environment)])
  if (values.sourceDirectory === null) {
    throw new UsageError('flag --source-directory (or WEFT_SOURCE_DIRECTORY) is required: a directory of YAML files')
  }
  return {
    sourceDirectory: values.sourceDirectory,
    listen: values.listen,
    stateDirectory: values.state,
    givenRoot: givenRoot(values.caRoot, values.caKey),
    trustDomain: values.trustDomain,
    clusterDomain: values.clusterDomain,
    clusterId: values.clusterId,
    rootNamespace: values.rootNamespace,
    certificateLifetimeMs: values.certificateLifetime ?? DAY_MS,
    nodeLifetimeMs: values.nodeCertificateLifetime ?? NODE_LIFETIME_MS,
    admin: values.admin,
    logLevel: values.logLevel,
  }
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

/** The table as help shows it. */
export function describeControllerFlags(): string {
  return describeFlags(controllerFlags)
}

/** Flags that the environment adds to `args`. */
function variableArguments(args: readonly string[], environment: NodeJS.ProcessEnv): string[] {
  const flags = Object.values(controllerFlags as Record<string, Flag<unknown>>)
  const byVariable = new Map(flags.map((flag) => [variableOf(flag), flag]))
  const given = new Set(args.filter((arg) => arg.startsWith('--')).map((arg) => arg.slice(2).split('=')[0]))
  const added: string[] = []
  for (const [variable, value] of Object.entries(environment)) {
    if (!variable.startsWith(VARIABLE_PREFIX) || value === undefined) continue
    const flag = byVariable.get(variable)
    if (flag === undefined) throw new UsageError(`unknown variable ${variable}; see weft controller --help`)
    if (!given.has(flag.name)) added.push(`--${flag.name}=${value}`)
  }
  return added
}

function variableOf(flag: Flag<unknown>): string {
  return VARIABLE_PREFIX + flag.name.toUpperCase().replaceAll('-', '_')
}

// --- kinds of rows ---

function textFlag(
  name: string,
  placeholder: string,
  fallback: string,
  doc: string,
  parse: (text: string) => string,
): Flag<string> {
  return { name, short: null, placeholder, fallback, fallbackText: fallback, doc, parse }
}

function optionalFlag(name: string, placeholder: string, doc: string): Flag<string | null> {
  return { name, short: null, placeholder, fallback: null, fallbackText: null, doc, parse: parseText }
}

function listenFlag(
  name: string,
  fallback: string,
  doc: string,
  parse: (text: string) => ListenAddress,
): Flag<ListenAddress> {
  const placeholder = 'ADDRESS:PORT'
  return { name, short: null, placeholder, fallback: parse(fallback), fallbackText: fallback, doc, parse }
}

function parseText(text: string): string {
  if (text === '') throw new UsageError('must not be empty')
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

function parseListen(text: string): ListenAddress {
  // Port 0 is no port of a host, so it is taken out before the general parser sees it.
  const isFree = /:0+$/.test(text)
  const parsed = parseHostPort(isFree ? text.replace(/:0+$/, ':1') : text)
  const address = parsed === null ? null : canonicalAddress(parsed.host)
  if (parsed === null || address === null) {
    throw new UsageError('must be an IP address and a port, such as 0.0.0.0:15012 or [::]:15012')
  }
  return { address, port: isFree ? 0 : parsed.port }
}

function parseAdmin(text: string): ListenAddress {
  const listen = parseListen(text)
  if (!isLoopback(listen.address)) throw new UsageError('must be a loopback address: what it shows is not for everyone')
  return listen
}
