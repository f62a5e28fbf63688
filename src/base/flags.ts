/**
 * Flags of the commands: one table row each, from which parsing, errors and `--help` are all made.
 *
 * Strict on purpose: an unknown flag, a missing or superfluous value, a value out of range and a second mention are
 * errors that name the flag, with the nearest existing name where there is one.
 */
import { WeftError } from './errors.ts'

/** One flag. `placeholder` null makes it a switch, which takes no value. */
export interface Flag<T> {
  /** Long name without its dashes. */
  readonly name: string
  /** One letter, or null. */
  readonly short: string | null
  readonly placeholder: string | null
  readonly fallback: T
  /** What help shows as the default; null shows none. */
  readonly fallbackText: string | null
  readonly doc: string
  /** Throws UsageError when the text is no good; the message says what would be. */
  readonly parse: (text: string) => T
  /** May be given several times; the value is then a list, to which each adds what `parse` returns. */
  readonly isRepeatable?: boolean
}

/** The flags of a command by the names that its code uses. */
export type FlagTable = Readonly<Record<string, Flag<unknown>>>
/** What parsing a table gives. */
export type FlagValues<F extends FlagTable> = {
  readonly [K in keyof F]: F[K] extends Flag<infer T> ? T : never
}

/** The command line was wrong: exit code 2, and a hint to `--help`. */
export class UsageError extends WeftError {
  constructor(message: string) {
    super('WEFT_CONFIG', message)
    this.name = 'UsageError'
  }
}

/** Default of a flag that must be given. `parseFlags` never returns it. */
const REQUIRED = Symbol('required')

/** What every kind of flag is made with. */
export type FlagText = Pick<Flag<unknown>, 'name' | 'doc'> & { readonly short?: string }

/** True when given. */
export function switchFlag(text: FlagText): Flag<boolean> {
  return {
    ...head(text),
    placeholder: null,
    fallback: false,
    fallbackText: null,
    parse: () => true,
  }
}

/** One of a few words. */
export function choiceFlag<T extends string>(text: FlagText, choices: readonly T[], fallback: T): Flag<T> {
  return {
    ...head(text),
    placeholder: choices.join('|'),
    fallback,
    fallbackText: fallback,
    parse: (value) => {
      const found = choices.find((choice) => choice === value)
      if (found === undefined) throw new UsageError(`must be one of ${choices.join(', ')}${didYouMean(value, choices)}`)
      return found
    },
  }
}

/** Seconds, minutes or hours: `90s`, `1.5m`, `1h`; milliseconds in the program. Null when the flag is not given. */
export function durationFlag(text: FlagText, minimumMs: number, maximumMs: number): Flag<number | null> {
  return {
    ...head(text),
    placeholder: 'TIME',
    fallback: null,
    fallbackText: null,
    parse: (value) => {
      const ms = parseDuration(value)
      if (ms === null) throw new UsageError('must be a number with ms, s, m or h, such as 20s')
      if (ms < minimumMs || ms > maximumMs) {
        throw new UsageError(`must be between ${formatDuration(minimumMs)} and ${formatDuration(maximumMs)}`)
      }
      return ms
    },
  }
}

/** A value that must be given. */
export function requiredFlag<T>(text: FlagText, placeholder: string, parse: (value: string) => T): Flag<T> {
  return { ...head(text), placeholder, fallback: REQUIRED as never, fallbackText: null, parse }
}

/** A text that may be given several times. */
export function repeatedFlag(text: FlagText, placeholder: string): Flag<readonly string[]> {
  return {
    ...head(text),
    placeholder,
    fallback: [],
    fallbackText: null,
    isRepeatable: true,
    parse: (value) => {
      if (value === '') throw new UsageError('must not be empty')
      return [value]
    },
  }
}

/** `-o text|json`, the same in every command that prints something. */
export const outputFlag = choiceFlag(
  { name: 'output', short: 'o', doc: 'Form of what is printed on standard output.' },
  ['text', 'json'] as const,
  'text',
)

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

function parseDuration(text: string): number | null {
  const match = /^([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)$/.exec(text)
  return match === null ? null : Number(match[1]) * UNIT_MS[match[2]!]!
}

/** The shortest way to write a time that `durationFlag` reads. */
export function formatDuration(ms: number): string {
  for (const unit of ['h', 'm', 's']) if (ms % UNIT_MS[unit]! === 0 && ms > 0) return `${ms / UNIT_MS[unit]!}${unit}`
  return `${ms}ms`
}

function head(text: FlagText): { name: string; short: string | null; doc: string } {
  return { name: text.name, short: text.short ?? null, doc: text.doc }
}

/**
 * Values of all flags of `table`. No positional arguments are taken. `alternative` says in the error of a missing flag
 * where else its value may come from.
 */
export function parseFlags<F extends FlagTable>(
  table: F,
  args: readonly string[],
  alternative: (flag: Flag<unknown>) => string = () => '',
): FlagValues<F> {
  return parseArguments(table, args, 0, alternative).flags
}

/** The same, with up to `positionalsMax` arguments that are not flags; the caller checks what they are. */
export function parseArguments<F extends FlagTable>(
  table: F,
  args: readonly string[],
  positionalsMax: number,
  alternative: (flag: Flag<unknown>) => string = () => '',
): { readonly flags: FlagValues<F>; readonly positionals: readonly string[] } {
  const values: Record<string, unknown> = {}
  for (const [key, flag] of Object.entries(table)) values[key] = flag.fallback
  const seen = new Set<string>()
  const positionals: string[] = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    if (!arg.startsWith('-') || arg === '-') {
      if (positionals.length === positionalsMax) throw new UsageError(`unexpected argument "${arg}"`)
      positionals.push(arg)
      continue
    }
    const equals = arg.indexOf('=')
    const spelling = equals < 0 ? arg : arg.slice(0, equals)
    const [key, flag] = findFlag(table, spelling)
    if (seen.has(key) && flag.isRepeatable !== true) throw new UsageError(`flag --${flag.name} is given twice`)
    seen.add(key)
    let text = equals < 0 ? null : arg.slice(equals + 1)
    if (flag.placeholder === null) {
      if (text !== null) throw new UsageError(`flag --${flag.name} takes no value`)
    } else if (text === null) {
      i++
      text = args[i] ?? null
      if (text === null) throw new UsageError(`flag --${flag.name} needs a value: ${flag.placeholder}`)
    }
    const value = parseValue(flag, text ?? '')
    values[key] = flag.isRepeatable === true ? [...(values[key] as unknown[]), ...(value as unknown[])] : value
  }
  for (const [key, flag] of Object.entries(table)) {
    if (values[key] === REQUIRED) {
      throw new UsageError(`flag --${flag.name}${alternative(flag)} is required: ${flag.doc}`)
    }
  }
  return { flags: values as FlagValues<F>, positionals }
}

function findFlag(table: FlagTable, spelling: string): [string, Flag<unknown>] {
  const entries = Object.entries(table)
  const found = entries.find(
    ([, flag]) => spelling === `--${flag.name}` || (flag.short !== null && spelling === `-${flag.short}`),
  )
  if (found !== undefined) return found
  const names = entries.map(([, flag]) => `--${flag.name}`)
  throw new UsageError(`unknown flag ${spelling}${didYouMean(spelling, [...names, '--help'])}`)
}

function parseValue(flag: Flag<unknown>, text: string): unknown {
  try {
    return flag.parse(text)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    throw new UsageError(`flag --${flag.name}: "${text}" is not valid: ${error.message}`)
  }
}

/** One indented line or two for each flag, as help shows them. */
export function describeFlags(table: FlagTable): string {
  const rows = Object.values(table).map((flag) => {
    const short = flag.short === null ? '    ' : `-${flag.short}, `
    const value = flag.placeholder === null ? '' : ` ${flag.placeholder}`
    const fallback = flag.fallbackText === null ? '' : ` Default: ${flag.fallbackText}.`
    const required = flag.fallback === REQUIRED ? ' Required.' : ''
    return [`${short}--${flag.name}${value}`, `${flag.doc}${required}${fallback}`] as const
  })
  const width = Math.max(0, ...rows.map(([left]) => left.length))
  return rows.map(([left, doc]) => `  ${left.padEnd(width)}  ${doc}\n`).join('')
}

/** ` Did you mean X?` for the nearest of `candidates`; empty when none is near. */
export function didYouMean(text: string, candidates: readonly string[]): string {
  let best: string | null = null
  // Two edits, or a third of the word when it is longer: more would guess rather than help.
  let bestDistance = Math.max(2, Math.floor(text.length / 3)) + 1
  for (const candidate of candidates) {
    const distance = editDistance(text, candidate)
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best === null ? '' : `. Did you mean ${best}?`
}

/** Insertions, deletions and replacements that turn one text into the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row[b.length]!
}
