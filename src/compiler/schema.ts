/**
 * Field tables. A kind is described by shapes; reading a tree by its shape checks every field, reports all errors of an
 * object at once, and yields a normal form: null where an object or scalar is absent, empty lists and maps, durations in
 * milliseconds. As in proto JSON, null and absent are the same.
 *
 * A field that does not exist is an error with a suggestion; one that exists in the API but does nothing here yet is in
 * the table as `unsupported` and reported. The value of an object with errors must not be used.
 */
import { ANYTHING, type Form, TEXT } from './form.ts'
import { type Finding, findings, type MessageLog, quote } from './messages.ts'
import { isTree, type MeshObject, own, type Path } from './object.ts'

/** A place in an object, to which findings are reported. */
export class Cursor {
  readonly object: MeshObject
  readonly path: Path
  private readonly log: MessageLog

  constructor(log: MessageLog, object: MeshObject, path: Path = []) {
    this.log = log
    this.object = object
    this.path = path
  }

  at(...keys: Path): Cursor {
    return new Cursor(this.log, this.object, [...this.path, ...keys])
  }

  /** The tree node written at this place; null when there is none. */
  written(): Readonly<Record<string, unknown>> | null {
    let value: unknown = this.object.raw
    for (const key of this.path) {
      if (Array.isArray(value)) value = value[Number(key)]
      else value = isTree(value) ? own(value, String(key)) : undefined
    }
    return isTree(value) ? value : null
  }

  report(finding: Finding): void {
    this.log.add(this.object, this.path, finding)
  }

  /** Errors of the object so far: a check of a value runs only when reading it added none. */
  errorCount(): number {
    return this.log.errorCount(this.object)
  }

  /** Reports a bad value: `text` says what is wrong, `fix` what to write. */
  reject(text: string, fix: string): void {
    this.report(findings.badValue(text, fix))
  }
}

/** How one value is read. `T` is the normal form, `absent` that of an absent value. */
export interface Shape<T> {
  readonly absent: T
  readonly isRequired: boolean
  /** What it takes, for those who cannot call `read`. */
  readonly form: Form
  read(value: unknown, cursor: Cursor): T
}

/** The normal form of a shape. */
export type ValueOf<S> = S extends Shape<infer T> ? T : never

/** The fields of an object, by name. */
export type Fields = Readonly<Record<string, Shape<unknown>>>

/** The normal form of an object with these fields. */
export type Values<F extends Fields> = { readonly [K in keyof F]: ValueOf<F[K]> }

/** A further check of a value that is well formed in itself. */
export type Check<T> = (value: T, cursor: Cursor) => void

function shape<T>(absent: T, form: Form, read: (value: unknown, cursor: Cursor) => T): Shape<T> {
  return { absent, isRequired: false, form, read }
}

/** The same, but an absent value is an error. */
export function required<T>(inner: Shape<T>): Shape<NonNullable<T>> {
  return { ...inner, isRequired: true } as Shape<NonNullable<T>>
}

/**
 * The same with a check of the value, which runs when it is present and without errors in itself. `form` is given where the
 * check can be said in it.
 */
export function checked<T>(inner: Shape<T>, check: Check<NonNullable<T>>, form: Form = inner.form): Shape<T> {
  return {
    ...inner,
    form,
    read(value, cursor) {
      const errors = cursor.errorCount()
      const result = inner.read(value, cursor)
      if (cursor.errorCount() > errors) return result
      if (result !== null && result !== undefined) check(result, cursor)
      return result
    },
  }
}

// --- scalars ---

/** Text; an empty text counts as present. */
export const text: Shape<string | null> = shape<string | null>(null, TEXT, (value, cursor) => {
  if (typeof value === 'string') return value
  cursor.report(findings.notText(value))
  return null
})

export const flag: Shape<boolean | null> = shape<boolean | null>(null, { kind: 'flag' }, (value, cursor) => {
  if (typeof value === 'boolean') return value
  cursor.report(findings.wrongType('true or false', value))
  return null
})

/** A whole number in a range. */
export function integer(min: number, max: number): Shape<number | null> {
  return shape<number | null>(null, { kind: 'integer', min, max }, (value, cursor) => {
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    cursor.report(findings.wrongType(`a whole number from ${min} to ${max}`, value))
    return null
  })
}

/** Any number in a range. */
export function decimal(min: number, max: number): Shape<number | null> {
  return shape<number | null>(null, { kind: 'decimal', min, max }, (value, cursor) => {
    if (typeof value === 'number' && value >= min && value <= max) return value
    cursor.report(findings.wrongType(`a number from ${min} to ${max}`, value))
    return null
  })
}

/** Port numbers. */
export const port: Shape<number | null> = integer(1, 65_535)

/** Largest value of the API's 32-bit fields. */
export const INT32_MAX = 2_147_483_647

/** One of some words; `aliases` gives other spellings their meaning. */
export function oneOf<const W extends string>(words: readonly W[]): Shape<W | null> {
  return shape<W | null>(null, { kind: 'words', words }, (value, cursor) => {
    if (typeof value === 'string') {
      if ((words as readonly string[]).includes(value)) return value as W
      cursor.report(findings.notOneOf(value, words, closest(value, words)))
    } else cursor.report(findings.wrongType(`one of ${words.join(', ')}`, value))
    return null
  })
}

/** Longest duration that is accepted: 10 years, far below where milliseconds overflow a 53-bit number. */
const DURATION_MS_MAX = 10 * 365 * 24 * 3_600_000

/** Longest text of a duration: all units with more digits than make sense. */
const DURATION_CHARACTERS_MAX = 64

const DURATION = /^(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s|us|ns))+$/

/** What of a duration a pattern can say. */
const DURATION_FORM: Form = {
  kind: 'text',
  pattern: `^0$|${DURATION.source.replaceAll('(?:', '(')}`,
  charactersMax: DURATION_CHARACTERS_MAX,
}

const UNIT_MS: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1, us: 0.001, ns: 0.000_001 }

/** Milliseconds of `1.5s`, `1m30s`, `100ms`; null when it is no duration. Fractions of a millisecond are kept. */
export function parseDuration(value: string): number | null {
  if (value === '0') return 0
  if (value.length > DURATION_CHARACTERS_MAX || !DURATION.test(value)) return null
  let milliseconds = 0
  for (const [, amount, unit] of value.matchAll(/([0-9.]+)([a-z]+)/g)) milliseconds += Number(amount) * UNIT_MS[unit!]!
  // 0.1 + 0.2 seconds must not become a fraction of a millisecond.
  const rounded = Math.round(milliseconds * 1e6) / 1e6
  return rounded <= DURATION_MS_MAX ? rounded : null
}

/** A duration, in milliseconds: whole ones, at least 1 unless zero is allowed (it then means "off"). */
export function duration(allows: 'zero' | 'positive'): Shape<number | null> {
  return shape<number | null>(null, DURATION_FORM, (value, cursor) => {
    const milliseconds = typeof value === 'string' ? parseDuration(value) : null
    if (milliseconds === null) {
      cursor.report(findings.wrongType('a duration like "1.5s" or "100ms"', value))
      return null
    }
    if (!Number.isInteger(milliseconds) || (milliseconds === 0 && allows === 'positive')) {
      cursor.reject(`The duration ${quote(value)} is too short or too fine.`, 'Write whole milliseconds, at least 1ms.')
      return null
    }
    return milliseconds
  })
}

// --- composites ---

/** Most elements of a list or map. 4096: more than any real object has (the API server caps an object at 1.5 MB). */
const ELEMENTS_MAX = 4096

/** A list; absent is empty. Null elements are errors. */
export function list<T>(element: Shape<T>, elementsMax: number = ELEMENTS_MAX): Shape<readonly NonNullable<T>[]> {
  const form: Form = { kind: 'list', element: element.form, elementsMax }
  return shape<readonly NonNullable<T>[]>([], form, (value, cursor) => {
    if (!Array.isArray(value)) {
      cursor.report(findings.wrongType('a list', value))
      return []
    }
    if (value.length > elementsMax) {
      cursor.reject(`The list has ${value.length} elements.`, `Write at most ${elementsMax}.`)
      return []
    }
    const elements: NonNullable<T>[] = []
    for (let i = 0; i < value.length; i++) {
      const place = cursor.at(i)
      if (value[i] === null || value[i] === undefined) {
        place.reject('This list element is empty.', 'Remove it, or write its content.')
        continue
      }
      const read = element.read(value[i], place)
      if (read !== null && read !== undefined) elements.push(read)
    }
    return elements
  })
}

/** A map with any keys; absent is empty. A null value reads as the element's absent value. */
export function map<T>(element: Shape<T>, checkKey: Check<string> = () => {}): Shape<ReadonlyMap<string, T>> {
  const form: Form = { kind: 'map', element: element.form, entriesMax: ELEMENTS_MAX }
  return shape<ReadonlyMap<string, T>>(new Map(), form, (value, cursor) => {
    const entries = new Map<string, T>()
    if (!isTree(value)) {
      cursor.report(findings.wrongType('an object', value))
      return entries
    }
    const keys = Object.keys(value)
    if (keys.length > ELEMENTS_MAX) {
      cursor.reject(`The map has ${keys.length} entries.`, `Write at most ${ELEMENTS_MAX}.`)
      return entries
    }
    for (const key of keys) {
      const place = cursor.at(key)
      checkKey(key, place)
      const item = own(value, key)
      if (item !== undefined) entries.set(key, element.read(item, place))
      else if (element.isRequired) place.reject('The value is empty.', 'Write a value.')
      else entries.set(key, element.absent)
    }
    return entries
  })
}

/** An object with exactly these fields; unknown ones are errors. `check` runs when all of them are right. */
export function object<F extends Fields>(fields: F, check: Check<Values<F>> = () => {}): Shape<Values<F> | null> {
  return readObject(fields, check, reportUnknown)
}

/** Says of an object, for others to know, that at most one of these fields is given. Its check reports it to users. */
export function exclusive<T>(inner: Shape<T>, ...fields: readonly string[]): Shape<T> {
  if (inner.form.kind !== 'object') return inner
  return { ...inner, form: { ...inner.form, atMostOneOf: [...(inner.form.atMostOneOf ?? []), fields] } }
}

/** An object of which only some fields matter here (Kubernetes' own kinds); others pass unread. */
export function openObject<F extends Fields>(fields: F, check: Check<Values<F>> = () => {}): Shape<Values<F> | null> {
  return readObject(fields, check, () => {})
}

function readObject<F extends Fields>(
  fields: F,
  check: Check<Values<F>>,
  onUnknown: (key: string, fields: Fields, cursor: Cursor) => void,
): Shape<Values<F> | null> {
  return shape<Values<F> | null>(null, { kind: 'object', fields }, (value, cursor) => {
    if (!isTree(value)) {
      cursor.report(findings.wrongType('an object', value))
      return null
    }
    const errors = cursor.errorCount()
    for (const key of Object.keys(value)) if (!Object.hasOwn(fields, key)) onUnknown(key, fields, cursor)
    const values: Record<string, unknown> = {}
    for (const [name, field] of Object.entries(fields)) {
      const item = own(value, name)
      if (item !== undefined) values[name] = field.read(item, cursor.at(name))
      else {
        values[name] = field.absent
        if (field.isRequired) cursor.report(findings.missing(name))
      }
    }
    if (cursor.errorCount() === errors) check(values as Values<F>, cursor)
    return values as Values<F>
  })
}

function reportUnknown(key: string, fields: Fields, cursor: Cursor): void {
  cursor.at(key).report(findings.unknownField(key, closest(key, Object.keys(fields))))
}

// --- fields without effect ---

/** A field of the real API that has no effect yet: a warning names it. `effect` says what happens instead. */
export function unsupported(what: string, effect: string): Shape<null> {
  return shape(null, { kind: 'unused', note: `Not supported yet: ${effect}.` }, (_value, cursor) => {
    cursor.report(findings.notSupported(what, effect))
    return null
  })
}

/** A field of the real API without which the rest must not be applied: an error. */
export function refused(what: string, effect: string): Shape<null> {
  return shape(
    null,
    { kind: 'unused', note: `Refused, because it is not supported yet: ${effect}.` },
    (_value, cursor) => {
      cursor.report(findings.cannotApply(what, effect))
      return null
    },
  )
}

/** A deprecated field without effect. */
export function outdated(what: string, fix: string): Shape<null> {
  return shape(null, { kind: 'unused', note: `Deprecated. ${fix}` }, (_value, cursor) => {
    cursor.report(findings.deprecated(what, fix))
    return null
  })
}

/** A field whose value is taken as it is. */
export const anything: Shape<unknown> = shape<unknown>(null, ANYTHING, (value) => value)

// --- did you mean ---

/** The candidate that `word` is probably a misspelling of; null when none is near. */
export function closest(word: string, candidates: readonly string[]): string | null {
  // Nothing that long is a misspelled field; the distance is quadratic.
  if (word.length > 64) return null
  const plain = simplify(word)
  let best: string | null = null
  let bestDistance = Number.POSITIVE_INFINITY
  for (const candidate of candidates) {
    const target = simplify(candidate)
    const distance = editDistance(plain, target)
    const allowed = Math.max(1, Math.floor(Math.max(plain.length, target.length) / 3))
    if (distance <= allowed && distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

function simplify(word: string): string {
  return word.toLowerCase().replaceAll(/[_-]/g, '')
}

/** Edits (insert, delete, replace) from `a` to `b`. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
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
