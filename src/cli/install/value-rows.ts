/**
 * Kinds of values that an installation takes: one table row each, from which defaults, checks, the chart's values.yaml and
 * its schema are all made.
 *
 * Strict on purpose, as flags are: an unknown name, a wrong type and a value out of range are errors, told all at once.
 */
import { didYouMean, UsageError } from '../../base/flags.ts'

/** A JSON Schema, as far as values need it. */
export type JsonSchema = Readonly<Record<string, unknown>>

/** One value. */
export interface ValueRow<T> {
  readonly doc: string
  readonly fallback: T
  readonly schema: JsonSchema
  /** What is wrong with a value that was given, null when nothing is. */
  readonly problem: (value: unknown) => string | null
  /** What `--set NAME=TEXT` means; null when the text is no such value. */
  readonly fromText: (text: string) => unknown
  /** The value is a map whose keys are the user's: `--set NAME.KEY=TEXT` sets one of them. */
  readonly isMap: boolean
}

/** Values below one name. */
export interface ValueGroup<R extends ValueTable> {
  readonly doc: string
  readonly rows: R
}

export interface ValueTable {
  readonly [name: string]: ValueRow<unknown> | ValueGroup<ValueTable>
}

/** The values of a table. */
export type ValuesOf<R extends ValueTable> = {
  readonly [K in keyof R]: R[K] extends ValueRow<infer T> ? T : R[K] extends ValueGroup<infer G> ? ValuesOf<G> : never
}

/** Names with values, as users write them. */
export type GivenValues = Readonly<Record<string, unknown>>

export function valueGroup<R extends ValueTable>(doc: string, rows: R): ValueGroup<R> {
  return { doc, rows }
}

/** A text; `pattern` is what all of it must match. */
export function textValue(fallback: string, doc: string, pattern?: RegExp): ValueRow<string> {
  return {
    doc,
    fallback,
    schema: { type: 'string', ...(pattern === undefined ? {} : { pattern: pattern.source }) },
    problem: (value) => {
      if (typeof value !== 'string') return 'must be a text'
      return pattern === undefined || pattern.test(value) ? null : `must match ${pattern.source}`
    },
    fromText: (text) => text,
    isMap: false,
  }
}

/** One of a few words. */
export function choiceValue<T extends string>(choices: readonly T[], fallback: T, doc: string): ValueRow<T> {
  return {
    doc: `${doc} One of ${choices.join(', ')}.`,
    fallback,
    schema: { type: 'string', enum: choices },
    problem: (value) => (choices.some((one) => one === value) ? null : `must be one of ${choices.join(', ')}`),
    fromText: (text) => text,
    isMap: false,
  }
}

/** A whole number. */
export function numberValue(fallback: number, minimum: number, maximum: number, doc: string): ValueRow<number> {
  return {
    doc,
    fallback,
    schema: { type: 'integer', minimum, maximum },
    problem: (value) => {
      const isFine = Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum
      return isFine ? null : `must be a whole number from ${minimum} to ${maximum}`
    },
    fromText: (text) => (/^[0-9]{1,9}$/.test(text) ? Number(text) : null),
    isMap: false,
  }
}

export function switchValue(fallback: boolean, doc: string): ValueRow<boolean> {
  return {
    doc,
    fallback,
    schema: { type: 'boolean' },
    problem: (value) => (typeof value === 'boolean' ? null : 'must be true or false'),
    fromText: (text) => (text === 'true' ? true : text === 'false' ? false : null),
    isMap: false,
  }
}

/** Names with texts: labels, annotations, selectors. */
export function textMapValue(fallback: Readonly<Record<string, string>>, doc: string): ValueRow<typeof fallback> {
  return {
    doc,
    fallback,
    schema: { type: 'object', additionalProperties: { type: 'string' } },
    problem: (value) => {
      const isFine = isMapping(value) && Object.values(value).every((one) => typeof one === 'string')
      return isFine ? null : 'must be names with texts'
    },
    fromText: (text) => text,
    isMap: true,
  }
}

/** Texts in an order: flags. */
export function textListValue(fallback: readonly string[], doc: string): ValueRow<readonly string[]> {
  return {
    doc,
    fallback,
    schema: { type: 'array', items: { type: 'string' } },
    problem: (value) => {
      const isFine = Array.isArray(value) && value.every((one) => typeof one === 'string')
      return isFine ? null : 'must be a list of texts'
    },
    fromText: jsonOrNull,
    isMap: false,
  }
}

/** A part of a Kubernetes object that goes into one as it is; the API server checks what is in it. */
export function kubernetesValue<T extends readonly unknown[] | Readonly<Record<string, unknown>>>(
  fallback: T,
  doc: string,
): ValueRow<T> {
  const isList = Array.isArray(fallback)
  return {
    doc,
    fallback,
    schema: isList ? { type: 'array', items: { type: 'object' } } : { type: 'object' },
    problem: (value) => {
      if (isList) return Array.isArray(value) && value.every(isMapping) ? null : 'must be a list of objects'
      return isMapping(value) ? null : 'must be an object'
    },
    fromText: jsonOrNull,
    isMap: false,
  }
}

// --- tables ---

/** All defaults. */
export function fallbacksOf<R extends ValueTable>(table: R): ValuesOf<R> {
  const entries = Object.entries(table).map(([name, row]) => [
    name,
    isGroup(row) ? fallbacksOf(row.rows) : row.fallback,
  ])
  return Object.fromEntries(entries) as ValuesOf<R>
}

/** Defaults with `given` over them. Throws UsageError with everything that is wrong. */
export function resolveValues<R extends ValueTable>(table: R, given: GivenValues): ValuesOf<R> {
  const problems: string[] = []
  const values = merge(table, given, '', problems)
  if (problems.length > 0) throw new UsageError(`values that are not valid:\n  ${problems.join('\n  ')}`)
  return values as ValuesOf<R>
}

/** `given` with `more` over it, as Helm does it: objects are merged, and null takes away what was there. */
export function overlayValues(given: GivenValues, more: GivenValues): GivenValues {
  return overlay(given, more) as GivenValues
}

/** `given` with what `--set NAME=TEXT` says. A dot in a key of the user's is written `\.`. Throws UsageError. */
export function setValue(table: ValueTable, given: GivenValues, assignment: string): GivenValues {
  const equals = assignment.indexOf('=')
  if (equals < 1) throw new UsageError(`--set takes NAME=VALUE, such as agent.logLevel=debug, not "${assignment}"`)
  const path = assignment
    .slice(0, equals)
    .split(/(?<!\\)\./)
    .map((part) => part.replaceAll('\\.', '.'))
  return setAt(table, given, path, assignment.slice(equals + 1), '')
}

/** The schema of the whole table. */
export function schemaOf(table: ValueTable): JsonSchema {
  const properties = Object.entries(table).map(([name, row]) => {
    const schema = isGroup(row) ? schemaOf(row.rows) : row.schema
    return [name, { description: row.doc, ...schema }]
  })
  return { type: 'object', additionalProperties: false, properties: Object.fromEntries(properties) }
}

/** Every value with its dotted name, in the order of the table. */
export function rowsOf(table: ValueTable, prefix = ''): readonly (readonly [name: string, row: ValueRow<unknown>])[] {
  return Object.entries(table).flatMap(([name, row]) =>
    isGroup(row) ? rowsOf(row.rows, `${prefix}${name}.`) : [[`${prefix}${name}`, row] as const],
  )
}

export function isGroup(row: ValueRow<unknown> | ValueGroup<ValueTable>): row is ValueGroup<ValueTable> {
  return 'rows' in row
}

// --- inner workings ---

function overlay(base: unknown, over: unknown): unknown {
  if (!isMapping(base) || !isMapping(over)) return over
  const result: Record<string, unknown> = { ...base }
  for (const [key, value] of Object.entries(over)) {
    if (value === null) delete result[key]
    else result[key] = Object.hasOwn(base, key) ? overlay(base[key], value) : value
  }
  return result
}

function merge(table: ValueTable, given: GivenValues, prefix: string, problems: string[]): Record<string, unknown> {
  const values: Record<string, unknown> = fallbacksOf(table)
  for (const [name, value] of Object.entries(given)) {
    const path = `${prefix}${name}`
    const row = Object.hasOwn(table, name) ? table[name] : undefined
    if (row === undefined) problems.push(`${path}: there is no such value${suggestion(table, name, prefix)}`)
    else if (isGroup(row)) {
      if (isMapping(value)) values[name] = merge(row.rows, value, `${path}.`, problems)
      else problems.push(`${path}: must be an object`)
    } else {
      const merged = overlay(row.fallback, value)
      const problem = row.problem(merged)
      if (problem === null) values[name] = merged
      else problems.push(`${path}: ${problem}`)
    }
  }
  return values
}

function setAt(
  table: ValueTable,
  given: GivenValues,
  path: readonly string[],
  text: string,
  prefix: string,
): GivenValues {
  const [name = '', ...rest] = path
  const row = Object.hasOwn(table, name) ? table[name] : undefined
  if (row === undefined) throw new UsageError(`there is no value ${prefix}${name}${suggestion(table, name, prefix)}`)
  if (isGroup(row)) {
    if (rest.length === 0)
      throw new UsageError(`${prefix}${name} is a group: set one of ${namesOf(row, prefix + name)}`)
    const inner = given[name]
    return { ...given, [name]: setAt(row.rows, isMapping(inner) ? inner : {}, rest, text, `${prefix}${name}.`) }
  }
  const value = row.fromText(text)
  if (rest.length === 0 && !row.isMap) {
    if (value === null) throw new UsageError(`${prefix}${name}: "${text}" is not valid: ${row.problem(null)}`)
    return { ...given, [name]: value }
  }
  if (!row.isMap) throw new UsageError(`${prefix}${name} has no values below it`)
  if (rest.length === 0) throw new UsageError(`${prefix}${name} has keys: set ${prefix}${name}.KEY=VALUE`)
  const inner = given[name]
  return { ...given, [name]: { ...(isMapping(inner) ? inner : {}), [rest.join('.')]: value } }
}

function namesOf(group: ValueGroup<ValueTable>, prefix: string): string {
  return rowsOf(group.rows, `${prefix}.`)
    .map(([name]) => name)
    .join(', ')
}

function suggestion(table: ValueTable, name: string, prefix: string): string {
  return didYouMean(
    `${prefix}${name}`,
    Object.keys(table).map((one) => `${prefix}${one}`),
  )
}

function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function jsonOrNull(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
