/**
 * Settings of the agent: one table row each. A setting comes from a flag (`--log-level`) or from the variable of the
 * same name (`WEFT_LOG_LEVEL`); the flag wins. This is the only place that looks at the environment.
 */
import { availableParallelism } from 'node:os'
import { canonicalAddress, isLoopback, parseCidr, parseHostPort } from '../base/address.ts'
import { choiceFlag, type Flag, type FlagValues, parseFlags, switchFlag, UsageError } from '../base/flags.ts'

/** Data workers at most by default. Four saturate a 10 Gbit/s node; more only share its cores with the pods. */
const WORKERS_DEFAULT_MAX = 4
/** Data workers at most. Listeners exist once per pod and worker. */
const WORKERS_MAX = 64

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** Marks a value that must be given; never seen outside this file. */
const REQUIRED = Symbol('required')

export const agentFlags = {
  node: textFlag(
    'node',
    'NAME',
    '',
    'Name of this node. The credential says it; a name given here must agree with it.',
  ),
  controller: requiredFlag('controller', 'HOST:PORT', 'The controller.', parseEndpoint),
  credentials: requiredFlag(
    'credentials',
    'DIR',
    'Directory with cert.pem, key.pem and root.pem, the credential of this node.',
    parsePath,
  ),
  state: textFlag('state', 'DIR', '/var/lib/weft/agent', 'Directory for the last good configuration.'),
  workers: numberFlag(
    'workers',
    Math.min(availableParallelism(), WORKERS_DEFAULT_MAX),
    1,
    WORKERS_MAX,
    'Data workers (threads).',
  ),
  capture: choiceFlag(
    {
      name: 'capture',
      doc: 'How connections are captured. loopback is for demos and tests only: it proves no identity.',
    },
    ['ebpf', 'loopback'] as const,
    'ebpf',
  ),
  loopbackBlock: optionalFlag(
    'loopback-block',
    'CIDR',
    'With --capture loopback: listen only on service addresses of this block.',
    parseBlock,
  ),
  cgroup: textFlag('cgroup', 'PATH', '', 'cgroup2 directory to attach the programs to. Default: the cgroup2 root.'),
  pinDirectory: textFlag('pin-directory', 'PATH', '/sys/fs/bpf/weft', 'Directory below a bpf file system for pins.'),
  metrics: endpointFlag('metrics', '0.0.0.0:15020', 'Where Prometheus scrapes /metrics.'),
  readiness: endpointFlag('readiness', '0.0.0.0:15021', 'Where /healthz/ready answers.'),
  admin: adminFlag('admin', '127.0.0.1:15000', 'Admin endpoint, on a loopback address only.'),
  certificateLifetime: durationFlag('certificate-lifetime', 86_400_000, 'Lifetime to ask for of pod certificates.'),
  drain: durationFlag('drain', 30_000, 'Longest wait for open connections when the agent stops.'),
  accessLog: switchFlag({
    name: 'access-log',
    doc: 'Write one JSON line per request and connection to standard output.',
  }),
  logLevel: choiceFlag(
    { name: 'log-level', doc: 'What is logged.' },
    ['error', 'warn', 'info', 'debug'] as const,
    'info',
  ),
}

export type AgentConfig = FlagValues<typeof agentFlags>

const VARIABLE_PREFIX = 'WEFT_'

/**
 * Reads flags, then variables for flags that are not given. Throws UsageError naming the flag or variable that is
 * unknown, missing or has a bad value.
 */
export function parseAgentConfig(args: readonly string[], environment: NodeJS.ProcessEnv): AgentConfig {
  const names = new Map(
    Object.values(agentFlags as Record<string, Flag<unknown>>).map((flag) => [variableOf(flag), flag]),
  )
  const given = new Set(args.filter((arg) => arg.startsWith('--')).map((arg) => arg.slice(2).split('=')[0]))
  const all = [...args]
  for (const [variable, value] of Object.entries(environment)) {
    if (!variable.startsWith(VARIABLE_PREFIX) || value === undefined) continue
    const flag = names.get(variable)
    if (flag === undefined) throw new UsageError(`unknown variable ${variable}; see weft agent --help`)
    if (given.has(flag.name)) continue
    if (flag.placeholder !== null) all.push(`--${flag.name}=${value}`)
    else if (value === 'true') all.push(`--${flag.name}`)
    else if (value !== 'false') throw new UsageError(`variable ${variable} must be true or false, not "${value}"`)
  }
  const config = parseFlags(agentFlags, all)
  for (const [key, flag] of Object.entries(agentFlags as Record<string, Flag<unknown>>)) {
    if (flag.fallback === REQUIRED && (config as Record<string, unknown>)[key] === REQUIRED) {
      throw new UsageError(`flag --${flag.name} (or ${variableOf(flag)}) is required: ${flag.doc}`)
    }
  }
  return config
}

function variableOf(flag: Flag<unknown>): string {
  return VARIABLE_PREFIX + flag.name.toUpperCase().replaceAll('-', '_')
}

// --- kinds of rows ---

function requiredFlag<T>(name: string, placeholder: string, doc: string, parse: (text: string) => T): Flag<T> {
  return { name, short: null, placeholder, fallback: REQUIRED as never, fallbackText: null, doc, parse }
}

function optionalFlag<T>(name: string, placeholder: string, doc: string, parse: (text: string) => T): Flag<T | null> {
  return { name, short: null, placeholder, fallback: null, fallbackText: null, doc, parse }
}

function textFlag(name: string, placeholder: string, fallback: string, doc: string): Flag<string> {
  const fallbackText = fallback === '' ? null : fallback
  return { name, short: null, placeholder, fallback, fallbackText, doc, parse: parsePath }
}

function numberFlag(name: string, fallback: number, minimum: number, maximum: number, doc: string): Flag<number> {
  const parse = (text: string): number => {
    const value = Number(text)
    if (!/^[0-9]{1,9}$/.test(text) || value < minimum || value > maximum) {
      throw new UsageError(`must be a whole number from ${minimum} to ${maximum}`)
    }
    return value
  }
  return { name, short: null, placeholder: 'N', fallback, fallbackText: String(fallback), doc, parse }
}

function endpointFlag(name: string, fallback: string, doc: string): Flag<Endpoint> {
  const parse = parseListenEndpoint
  return {
    name,
    short: null,
    placeholder: 'ADDRESS:PORT',
    fallback: parse(fallback),
    fallbackText: fallback,
    doc,
    parse,
  }
}

function adminFlag(name: string, fallback: string, doc: string): Flag<Endpoint> {
  const parse = (text: string): Endpoint => {
    const endpoint = parseListenEndpoint(text)
    if (!isLoopback(endpoint.host))
      throw new UsageError('must be a loopback address: the admin endpoint has no password')
    return endpoint
  }
  return {
    name,
    short: null,
    placeholder: 'ADDRESS:PORT',
    fallback: parse(fallback),
    fallbackText: fallback,
    doc,
    parse,
  }
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

function durationFlag(name: string, fallback: number, doc: string): Flag<number> {
  const parse = (text: string): number => {
    const match = /^([0-9]{1,9})(ms|s|m|h)$/.exec(text)
    if (match === null) throw new UsageError('must be a whole number with ms, s, m or h, such as 24h')
    return Number(match[1]) * UNIT_MS[match[2]!]!
  }
  return { name, short: null, placeholder: 'TIME', fallback, fallbackText: `${fallback / 1000}s`, doc, parse }
}

function parsePath(text: string): string {
  if (text === '') throw new UsageError('must not be empty')
  return text
}

function parseEndpoint(text: string): Endpoint {
  const endpoint = parseHostPort(text)
  if (endpoint === null) throw new UsageError('must be HOST:PORT, such as weft-controller:15012 or [fd00::1]:15012')
  return endpoint
}

/** An address (no name) and a port; port 0 asks the kernel for a free one. */
function parseListenEndpoint(text: string): Endpoint {
  const isFree = text.endsWith(':0')
  const endpoint = parseHostPort(isFree ? `${text}1` : text)
  const host = endpoint === null ? null : canonicalAddress(endpoint.host)
  if (endpoint === null || host === null) throw new UsageError('must be ADDRESS:PORT, such as 127.0.0.1:15000')
  return { host, port: isFree ? 0 : endpoint.port }
}

function parseBlock(text: string): string {
  if (parseCidr(text) === null) throw new UsageError('must be a block such as 127.30.1.0/24')
  return text
}
