/**
 * Settings of commands that run for long: rows of a flag table that may also come from the variable of the same name
 * (`--log-level` from `WEFT_LOG_LEVEL`). The flag wins; a variable that no row has is an error, as an unknown flag is.
 *
 * Also the kinds of rows that agent and controller share. Nothing here looks at the environment by itself.
 */
import { canonicalAddress, isLoopback, parseHostPort } from './address.ts'
import {
  choiceFlag,
  durationFlag,
  type Flag,
  type FlagTable,
  type FlagText,
  type FlagValues,
  formatDuration,
  parseFlags,
  UsageError,
} from './flags.ts'
import type { LogLevel } from './log.ts'

const VARIABLE_PREFIX = 'WEFT_'

/** The environment of a program, or of a test. */
export type Environment = Readonly<Record<string, string | undefined>>

/** An address to listen on; port 0 takes a free one. */
export interface ListenAddress {
  readonly address: string
  readonly port: number
}

/**
 * Reads flags, then variables for flags that are not given. `command` is named in errors. Throws UsageError naming the
 * flag or variable that is unknown, missing or has a bad value.
 */
export function parseSettings<F extends FlagTable>(
  table: F,
  args: readonly string[],
  environment: Environment,
  command: string,
): FlagValues<F> {
  const byVariable = new Map(Object.values(table).map((flag) => [variableOf(flag), flag]))
  const given = new Set(args.filter((arg) => arg.startsWith('--')).map((arg) => arg.slice(2).split('=')[0]))
  const all = [...args]
  for (const [variable, value] of Object.entries(environment)) {
    if (!variable.startsWith(VARIABLE_PREFIX) || value === undefined) continue
    const flag = byVariable.get(variable)
    if (flag === undefined) throw new UsageError(`unknown variable ${variable}; see weft ${command} --help`)
    if (given.has(flag.name)) continue
    if (flag.placeholder !== null) all.push(`--${flag.name}=${value}`)
    else if (value === 'true') all.push(`--${flag.name}`)
    else if (value !== 'false') throw new UsageError(`variable ${variable} must be true or false, not "${value}"`)
  }
  return parseFlags(table, all, (flag) => ` (or ${variableOf(flag)})`)
}

function variableOf(flag: Flag<unknown>): string {
  return VARIABLE_PREFIX + flag.name.toUpperCase().replaceAll('-', '_')
}

// --- kinds of rows ---

/** A text that is not empty. An empty default means "not set", and help shows none. */
export function textFlag(
  text: FlagText,
  placeholder: string,
  fallback: string,
  parse: (value: string) => string = parseText,
): Flag<string> {
  const fallbackText = fallback === '' ? null : fallback
  return { name: text.name, short: text.short ?? null, doc: text.doc, placeholder, fallback, fallbackText, parse }
}

/** A value that may be left out. */
export function optionalFlag<T>(text: FlagText, placeholder: string, parse: (value: string) => T): Flag<T | null> {
  const { name, short = null, doc } = text
  return { name, short, doc, placeholder, fallback: null, fallbackText: null, parse }
}

/** A whole number of at most nine digits, within limits. */
export function numberFlag(text: FlagText, fallback: number, minimum: number, maximum: number): Flag<number> {
  const parse = (value: string): number => {
    const number = Number(value)
    if (!/^[0-9]{1,9}$/.test(value) || number < minimum || number > maximum) {
      throw new UsageError(`must be a whole number from ${minimum} to ${maximum}`)
    }
    return number
  }
  return { name: text.name, short: null, doc: text.doc, placeholder: 'N', fallback, fallbackText: `${fallback}`, parse }
}

/** A time with a default, in milliseconds. */
export function periodFlag(text: FlagText, fallbackMs: number, minimumMs: number, maximumMs: number): Flag<number> {
  const { parse, ...row } = durationFlag(text, minimumMs, maximumMs)
  return { ...row, fallback: fallbackMs, fallbackText: formatDuration(fallbackMs), parse: (value) => parse(value)! }
}

/** Where an endpoint listens. */
export function listenFlag(text: FlagText, fallback: string): Flag<ListenAddress> {
  return listenRow(text, fallback, parseListen)
}

/** Where an endpoint without a password listens: on a loopback address only. */
export function loopbackFlag(text: FlagText, fallback: string): Flag<ListenAddress> {
  return listenRow(text, fallback, (value) => {
    const listen = parseListen(value)
    if (!isLoopback(listen.address)) throw new UsageError('must be a loopback address: the endpoint has no password')
    return listen
  })
}

/** What is logged. */
export const logLevelFlag: Flag<LogLevel> = choiceFlag(
  { name: 'log-level', doc: 'What is logged.' },
  ['error', 'warn', 'info', 'debug'],
  'info',
)

/** Any text but the empty one. Throws UsageError. */
export function parseText(value: string): string {
  if (value === '') throw new UsageError('must not be empty')
  return value
}

function listenRow(text: FlagText, fallback: string, parse: (value: string) => ListenAddress): Flag<ListenAddress> {
  return {
    name: text.name,
    short: null,
    doc: text.doc,
    placeholder: 'ADDRESS:PORT',
    fallback: parse(fallback),
    fallbackText: fallback,
    parse,
  }
}

function parseListen(value: string): ListenAddress {
  // Port 0 is no port of a host, so it is taken out before the general parser sees it.
  const isFree = /:0+$/.test(value)
  const parsed = parseHostPort(isFree ? value.replace(/:0+$/, ':1') : value)
  const address = parsed === null ? null : canonicalAddress(parsed.host)
  if (parsed === null || address === null) {
    throw new UsageError('must be an IP address and a port, such as 0.0.0.0:15012 or [::]:15012')
  }
  return { address, port: isFree ? 0 : parsed.port }
}
