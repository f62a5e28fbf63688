/**
 * The string conditions of the APIs: StringMatch of VirtualService, the wildcard values of AuthorizationPolicy, names.
 * Regular expressions are checked and translated here (regular-expression.ts), so that agents only ever see valid ones.
 */
import type { StringMatch } from '../model/route.ts'
import { findings, quote } from './messages.ts'
import { translatePattern } from './regular-expression.ts'
import { type Cursor, checked, map, object, type Shape, text } from './schema.ts'

/** Longest regular expression, as the Istio API states. */
const PATTERN_CHARACTERS_MAX = 1024

/** The JavaScript source of a pattern in RE2 syntax; null after reporting what is wrong with it. */
function readPattern(pattern: string, cursor: Cursor): string | null {
  if (pattern.length > PATTERN_CHARACTERS_MAX) {
    cursor.reject(`The pattern has ${pattern.length} characters.`, `Write at most ${PATTERN_CHARACTERS_MAX}.`)
    return null
  }
  const translated = translatePattern(pattern)
  if ('problem' in translated) {
    cursor.reject(`The pattern ${quote(pattern)} is not usable: ${translated.problem}.`, 'Write it in RE2 syntax.')
    return null
  }
  if (translated.isSlow) cursor.report(findings.slowPattern())
  return translated.source
}

/** A pattern, read as the JavaScript source of it. */
export const pattern: Shape<string | null> = {
  absent: null,
  isRequired: false,
  read(value, cursor) {
    const written = text.read(value, cursor)
    return written === null ? null : readPattern(written, cursor)
  },
}

const stringMatchFields = object({ exact: text, prefix: text, regex: text })

/** Where a StringMatch stands decides which empty values are allowed. */
export type StringMatchPlace = 'uri' | 'value'

/** StringMatch: exactly one of exact, prefix, regex; none, or the regex `*`, means "present". */
export function stringMatch(place: StringMatchPlace): Shape<StringMatch | null> {
  return {
    absent: null,
    isRequired: false,
    read(value, cursor) {
      const fields = stringMatchFields.read(value, cursor)
      if (fields === null) return null
      const given = Object.entries(fields).filter((entry) => entry[1] !== null)
      if (given.length > 1) {
        cursor.reject(
          `${given.map(([name]) => name).join(' and ')} are both given.`,
          'Write one of exact, prefix, regex.',
        )
        return null
      }
      if (fields.exact !== null) return { kind: 'exact', value: fields.exact }
      if (fields.prefix !== null) {
        if (fields.prefix === '' && place !== 'uri')
          cursor.at('prefix').reject('The prefix is empty.', 'Write {} for "present".')
        return { kind: 'prefix', value: fields.prefix }
      }
      if (fields.regex === null || fields.regex === '*') return { kind: 'present' }
      if (fields.regex === '') cursor.at('regex').reject('The pattern is empty.', 'Write {} for "present".')
      const source = readPattern(fields.regex, cursor.at('regex'))
      return source === null ? null : { kind: 'regex', value: source }
    },
  }
}

/** A value of an AuthorizationPolicy: exact, `prefix*`, `*suffix`, or `*` for present and not empty. */
export function wildcardMatch(value: string): StringMatch {
  if (value === '*') return { kind: 'present' }
  if (value.endsWith('*')) return { kind: 'prefix', value: value.slice(0, -1) }
  if (value.startsWith('*')) return { kind: 'suffix', value: value.slice(1) }
  return { kind: 'exact', value }
}

// --- names ---

export function isDnsLabel(name: string): boolean {
  return name.length <= 63 && /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(name)
}

/** Text that is a DNS label (namespaces, subsets). */
export const dnsLabel: Shape<string | null> = checked(text, (name, cursor) => {
  if (!isDnsLabel(name)) {
    cursor.reject(
      `${quote(name)} is not a valid name.`,
      'Use lower-case letters, digits and "-", at most 63 characters.',
    )
  }
})

/** Labels that select pods; every one must be equal. */
export const labelMap: Shape<ReadonlyMap<string, string | null>> = map(
  checked(text, (value, cursor) => {
    if (value.includes('*')) cursor.reject('Wildcards do not select labels.', 'Write the whole value.')
    else if (!/^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/.test(value) || value.length > 63) {
      cursor.reject(`${quote(value)} is not a valid label value.`, 'Use letters, digits, "-", "_" and ".".')
    }
  }),
  (key, cursor) => {
    if (key === '' || key.includes('*'))
      cursor.reject(`${quote(key)} is not a valid label name.`, 'Write the whole name.')
  },
)

/** True for a field name of HTTP (RFC 9110 s5.6.2 token). */
export function isHeaderName(name: string): boolean {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)
}
