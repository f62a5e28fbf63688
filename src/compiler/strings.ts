/**
 * The string conditions of the APIs: StringMatch of VirtualService, the wildcard values of AuthorizationPolicy, names.
 * Regular expressions are checked here by the engine that will run them, so that agents only ever see valid ones.
 */
import { Regex } from '../base/regex.ts'
import type { StringMatch } from '../model/route.ts'
import { quote } from './messages.ts'
import { checked, exclusive, map, object, type Shape, text } from './schema.ts'

/** Why an expression (RE2 syntax) cannot be used; null when it can. */
function patternProblem(pattern: string): string | null {
  try {
    new Regex(pattern, false)
    return null
  } catch (error) {
    return (error as Error).message
  }
}

/** A regular expression in RE2 syntax. */
export const pattern: Shape<string | null> = checked(text, (value, cursor) => {
  const problem = patternProblem(value)
  if (problem !== null) cursor.reject(`The pattern cannot be used: ${problem}.`, 'Write it in RE2 syntax.')
})

const stringMatchFields = exclusive(object({ exact: text, prefix: text, regex: text }), 'exact', 'prefix', 'regex')

/** Where a StringMatch stands decides which empty values are allowed. */
export type StringMatchPlace = 'uri' | 'value'

/** StringMatch: exactly one of exact, prefix, regex; none, or the regex `*`, means "present". */
export function stringMatch(place: StringMatchPlace): Shape<StringMatch | null> {
  return {
    absent: null,
    isRequired: false,
    form: stringMatchFields.form,
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
      return { kind: 'regex', value: pattern.read(fields.regex, cursor.at('regex')) ?? '' }
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

const DNS_LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/
const DNS_LABEL_CHARACTERS_MAX = 63

/** True for a label of RFC 1123. */
export function isDnsLabel(name: string): boolean {
  return name.length <= DNS_LABEL_CHARACTERS_MAX && DNS_LABEL.test(name)
}

/** Text that is a DNS label (namespaces, subsets). */
export const dnsLabel: Shape<string | null> = checked(
  text,
  (name, cursor) => {
    if (!isDnsLabel(name)) {
      cursor.reject(
        `${quote(name)} is not a valid name.`,
        'Use lower-case letters, digits and "-", at most 63 characters.',
      )
    }
  },
  { kind: 'text', pattern: DNS_LABEL.source, charactersMax: DNS_LABEL_CHARACTERS_MAX },
)

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
