/**
 * Regular expressions against V8's, where both read an expression alike: against its linear engine, and where case is
 * ignored, which that has not, against the usual one on expressions on which backtracking stays bounded. The input is text: `i` or another letter, the expression, a line end, the value. Work is counted, not timed:
 * the automaton makes at most one step per character and keeps its table within bounds, whatever the expression.
 */
import assert from 'node:assert/strict'
import { setFlagsFromString } from 'node:v8'
import { parseSubstitution, Regex } from '../../../src/base/regex.ts'
import { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, type Target } from '../target.ts'

// The flag `l`.
setFlagsFromString('--enable-experimental-regexp-engine')

/** As in regex.ts. */
const STATES_MAX = 256

/** Short inputs find the differences, and V8 ends in time on them. */
const COMPARED_PATTERN_MAX = 40
const COMPARED_VALUE_MAX = 12

/** Syntax that the two read differently, or that only one has. */
const DIFFERS = /\\[QEAzpPxkcusSvBbaC0-9]|\(\?(?!:)|\[\^?\]|\[\[|\[:|[^\n -~]|\{,|\{0[0-9]|[0-9]{3}/
/** With case ignored: counts of groups multiply the ways to backtrack. */
const BACKTRACKS = /\(.*\{|(?:[*+?].*){4}/
/** Values on which `.`, `\w` or case differ. */
const VALUE_DIFFERS = /[^\n -~]/

/** Steps of the automaton since the last count: how often a state had to be expanded. */
let expansions = 0

/** Counts the work of one expression. */
class CountedRegex extends Regex {
  constructor(pattern: string, isCaseIgnored: boolean) {
    super(pattern, isCaseIgnored)
    const expand = this['expand'].bind(this)
    this['expand'] = (...args): number[] => {
      expansions++
      return expand(...args)
    }
  }

  get stateCount(): number {
    return this['states'].size
  }

  get size(): number {
    return this['program'].length
  }
}

function compile(pattern: string, isCaseIgnored: boolean): CountedRegex | string {
  try {
    return new CountedRegex(pattern, isCaseIgnored)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    // Reasons name the expression and the place; the rest is a stable text.
    return error.message.replace(/"(?:[^"\\]|\\.)*"|[0-9]+|`[^`]*`/g, '#').slice(0, 90)
  }
}

/** V8's reading of the same expression; null when it has none. */
function theirs(pattern: string, flags: string): RegExp | null {
  try {
    return new RegExp(pattern, flags)
  } catch {
    return null
  }
}

function run(input: Uint8Array): string {
  const text = Buffer.from(input).toString('latin1')
  const isCaseIgnored = text[0] === 'i'
  const end = text.indexOf('\n')
  const pattern = end < 0 ? text.slice(1) : text.slice(1, end)
  const value = end < 0 ? '' : text.slice(end + 1)
  const regex = compile(pattern, isCaseIgnored)
  if (typeof regex === 'string') return regex
  assert.ok(regex.size <= 4_200, `a program of ${regex.size}`)
  const answer = regex.test(value)
  checkWork(regex, value, answer)
  const isCompared = compare(pattern, isCaseIgnored, value, regex, answer)
  checkReplacement(regex, value)
  return `${answer} ${isCompared} ${regex.size > 100} ${regex.stateCount > 20}`
}

/** One expansion per character at most, also on a value thirty times as long, and the same answer again. */
function checkWork(regex: CountedRegex, value: string, answer: boolean): void {
  // Assertions at the beginning look at the first character twice.
  const long = value.repeat(30).slice(0, 3_000)
  for (const one of [value, long]) {
    expansions = 0
    regex.test(one)
    assert.ok(expansions <= one.length + 1, `${expansions} expansions for ${one.length} characters`)
    assert.ok(regex.stateCount <= STATES_MAX, `${regex.stateCount} states`)
  }
  assert.equal(regex.test(value), answer, 'a second look gives another answer')
}

function compare(pattern: string, isCaseIgnored: boolean, value: string, regex: Regex, answer: boolean): boolean {
  if (pattern.length > COMPARED_PATTERN_MAX || value.length > COMPARED_VALUE_MAX) return false
  if (DIFFERS.test(pattern) || VALUE_DIFFERS.test(value)) return false
  if (isCaseIgnored && BACKTRACKS.test(pattern)) return false
  const flag = isCaseIgnored ? 'i' : 'l'
  const whole = theirs(`^(?:${pattern})$`, flag)
  if (whole === null || theirs(pattern, '') === null) return false
  assert.equal(answer, whole.test(value), `${pattern} on ${JSON.stringify(value)}`)
  // Which of several matches is preferred differs where a round of a loop may be empty: without groups it cannot.
  if (pattern.includes('(')) return true
  const expected = value.replace(theirs(pattern, `g${flag}`)!, '<$&>')
  // RE2 takes no empty match right after a match.
  if (!expected.includes('<>')) assert.equal(regex.replaceAll(value, ['<', 0, '>']), expected, `${pattern} in ${value}`)
  return true
}

/** Replacing by itself changes nothing, also where it gives up. */
function checkReplacement(regex: Regex, value: string): void {
  assert.equal(regex.replaceAll(value, [0]), value)
  const substitution = value.slice(0, 20)
  try {
    regex.replaceAll(value.slice(0, 200), parseSubstitution(substitution))
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
}

// biome-ignore format: a dense table
const PIECES = [
  'a', 'b', 'c', 'A', 'ab', '.', '[ab]', '[^a]', '[a-c]', '[^\\d]', '[-a]', '[a-]', '\\d', '\\w', '\\W', '\\D', '\\.', '\\-', '\\t', '\\n',
  '^', '$', '|', '||', '(', ')', '(?:', '(a|b)', '(?:a|)', '(^|a)', '()', '*', '+', '?', '*?', '+?', '??', '{2}', '{0}', '{1,2}', '{2,}',
  '{0,3}?', '{', '}', ']', '-', '/',
]

function mutateText(random: SeededRandom, input: Uint8Array): Uint8Array {
  const text = Buffer.from(input).toString('latin1')
  const end = text.indexOf('\n')
  const pattern = end < 0 ? text.slice(1) : text.slice(1, end)
  const value = end < 0 ? '' : text.slice(end + 1)
  const at = random.integer(0, pattern.length)
  if (random.next() < 0.3) {
    const place = random.integer(0, value.length)
    const piece = random.pick(['a', 'b', 'c', 'A', '-', ' ', '1', '\n', '_', 'ab', value])
    return bytesOf(
      `${text.slice(0, 1)}${pattern}\n${value.slice(0, place)}${piece}${value.slice(place + random.integer(0, 1))}`,
    )
  }
  const kept = pattern.slice(at + random.pick([0, 0, 0, 1, 3]))
  return bytesOf(`${random.pick(['i', '-', '-'])}${pattern.slice(0, at)}${random.pick(PIECES)}${kept}\n${value}`)
}

/** `a` and `b` at random. */
function text(length: number): string {
  const random = new SeededRandom(12)
  return Array.from({ length }, () => random.pick(['a', 'b'])).join('')
}

export const target: Target = {
  sources: ['src/base/regex', 'src/base/charset.ts'],
  bytesMax: 2_000,
  testIterations: 2_500,
  // biome-ignore format: a dense table
  tokens: [
    ...PIECES, '\n', '(?i)', '(?s)', '(?U)', '(?m)', '(?-i:', '(?P<n>', '(?<n>', '\\Q', '\\E', '\\A', '\\z', '\\b', '\\B', '\\x41', '\\x{263a}',
    '\\0', '\\07', '\\s', '\\S', '[[:alpha:]]', '[[:^digit:]]', '[]a]', '[^]]', '{1000}', '{1001}', '{9999}', '\\pL', '(?=', '\\1', '\\',
  ].map(bytesOf),
  seeds: () =>
    [
      '-(?:ab){2}(c)?\nababc',
      'i/api/v[0-9]+/.*\n/API/v1/x',
      '-(.*?;)?(user=jason)(;.*)?\na=b;user=jason;c=d',
      '-(a+)+b\naaaaaaaaaaaa',
      '-(?:a|b)*a(?:a|b){11}\nabababababababab',
      // More states than are kept: the live positions depend on the last twelve characters.
      `-(?:a|b)*a(?:a|b){11}\n${text(1_500)}`,
      '-[[:alpha:]_]+\\x41\\x{62}\\Qa.b*\\E+\nxA',
      '-(?P<year>[0-9]{4})-(?<month>\\d\\d)\n2026-08',
      '-(?i)a(?-i)b|(?s:.)|(?U)a+\\bfoo\\B\nab',
      '-(^a|b)*$\\A\\z\nabb',
      '-x*\nabxxc',
    ].map(bytesOf),
  run,
  mutate: mutateText,
}
