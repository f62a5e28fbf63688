/**
 * Reads regular expressions in RE2 syntax, the one that mesh APIs promise, into a tree (regex.ts runs them).
 *
 * Understood: literals and escapes, `\Q..\E`, `.`, classes (ranges, negation, `\d \w \s`, POSIX names), groups (named or
 * not), flags `i s m U`, alternation, `* + ? {n,m}` greedy or lazy, `^ $ \A \z \b \B`. Refused, with a reason: what
 * RE2 has not (look-around, back-references) and Unicode properties, for header values are bytes. `m` changes nothing:
 * the values that we match have no line ends.
 */
import {
  anySet,
  CHARSET_SIZE,
  type Charset,
  complement,
  foldCase,
  PERL_CLASSES,
  POSIX_CLASSES,
  setOf,
  unite,
} from './charset.ts'

/** Longest expression. The limit that the APIs state. */
export const REGEX_LENGTH_MAX = 1_024

/** Largest count of `{n}`. RE2's limit. */
const REPEAT_MAX = 1_000

/** Deepest nesting of groups: the parser recurses. */
const DEPTH_MAX = 64

export const ASSERT_BEGIN = 0
export const ASSERT_END = 1
export const ASSERT_WORD = 2
export const ASSERT_NOT_WORD = 3
/** What must hold at a place without consuming anything. */
export type Assertion = typeof ASSERT_BEGIN | typeof ASSERT_END | typeof ASSERT_WORD | typeof ASSERT_NOT_WORD

/** A node of the parsed expression. */
export type RegexNode =
  | { readonly kind: 'set'; readonly set: Charset }
  | { readonly kind: 'assert'; readonly assertion: Assertion }
  | { readonly kind: 'sequence'; readonly nodes: readonly RegexNode[] }
  | { readonly kind: 'choice'; readonly nodes: readonly RegexNode[] }
  /** `index` counts capturing groups from 1; 0 does not capture. */
  | { readonly kind: 'group'; readonly node: RegexNode; readonly index: number }
  /** `max` -1 is unbounded. */
  | {
      readonly kind: 'repeat'
      readonly node: RegexNode
      readonly min: number
      readonly max: number
      readonly isGreedy: boolean
    }

interface RegexTree {
  readonly root: RegexNode
  readonly groupCount: number
}

/** Throws SyntaxError with the position and the reason when `pattern` cannot be read. */
export function parseRegex(pattern: string, isCaseIgnored: boolean): RegexTree {
  if (pattern.length > REGEX_LENGTH_MAX) {
    throw new SyntaxError(`a regular expression has at most ${REGEX_LENGTH_MAX} characters, this one ${pattern.length}`)
  }
  const parser = new RegexParser(pattern, isCaseIgnored)
  return parser.parse()
}

interface Flags {
  readonly isCaseIgnored: boolean
  readonly isDotAll: boolean
  readonly isLazyByDefault: boolean
}

class RegexParser {
  private readonly pattern: string
  private position: number
  private flags: Flags
  private groupCount: number
  private depth: number

  constructor(pattern: string, isCaseIgnored: boolean) {
    this.pattern = pattern
    this.position = 0
    this.flags = { isCaseIgnored, isDotAll: false, isLazyByDefault: false }
    this.groupCount = 0
    this.depth = 0
  }

  parse(): RegexTree {
    const root = this.parseChoice()
    if (this.position < this.pattern.length) throw this.error('a `)` without its `(`')
    return { root, groupCount: this.groupCount }
  }

  private parseChoice(): RegexNode {
    if (++this.depth > DEPTH_MAX) throw this.error(`groups are nested more than ${DEPTH_MAX} deep`)
    const nodes = [this.parseSequence()]
    while (this.take('|')) nodes.push(this.parseSequence())
    this.depth--
    return nodes.length === 1 ? nodes[0]! : { kind: 'choice', nodes }
  }

  private parseSequence(): RegexNode {
    const nodes: RegexNode[] = []
    while (this.position < this.pattern.length) {
      const char = this.pattern[this.position]!
      if (char === '|' || char === ')') break
      if (this.take('\\Q')) this.parseQuoted(nodes)
      else this.parseTerm(nodes)
    }
    return nodes.length === 1 ? nodes[0]! : { kind: 'sequence', nodes }
  }

  /** `\Q...\E`, or to the end. A quantifier after it belongs to its last character. */
  private parseQuoted(nodes: RegexNode[]): void {
    const end = this.pattern.indexOf('\\E', this.position)
    const text = this.pattern.slice(this.position, end < 0 ? undefined : end)
    for (let i = 0; i < text.length; i++) nodes.push(this.literal(text.charCodeAt(i)))
    this.position = end < 0 ? this.pattern.length : end + 2
    const last = nodes.pop()
    if (last !== undefined) nodes.push(this.parseRepeat(last))
  }

  private parseTerm(nodes: RegexNode[]): void {
    const start = this.position
    const atom = this.parseAtom()
    // `(?i)` alone is no atom.
    if (atom === null) return
    const repeated = this.parseRepeat(atom)
    if (repeated !== atom && this.parseRepeat(repeated) !== repeated) {
      this.position = start
      throw this.error('a repetition of a repetition')
    }
    nodes.push(repeated)
  }

  private parseAtom(): RegexNode | null {
    const char = this.pattern[this.position]!
    switch (char) {
      case '(':
        return this.parseGroup()
      case '[':
        return this.parseClass()
      case '.':
        this.position++
        return { kind: 'set', set: this.flags.isDotAll ? anySet() : complement(setOf(0x0a, 0x0a)) }
      case '^':
        this.position++
        return { kind: 'assert', assertion: ASSERT_BEGIN }
      case '$':
        this.position++
        return { kind: 'assert', assertion: ASSERT_END }
      case '*':
      case '+':
      case '?':
        throw this.error(`\`${char}\` with nothing to repeat`)
      case '\\':
        return this.parseEscape()
      default:
        this.position++
        return this.literal(char.charCodeAt(0))
    }
  }

  private parseGroup(): RegexNode | null {
    this.position++
    const outer = this.flags
    let index = 0
    if (this.take('?')) {
      if (this.take('P<') || (!this.ahead('<=') && !this.ahead('<!') && this.take('<'))) {
        this.parseGroupName()
        index = ++this.groupCount
      } else {
        const isWhole = this.parseFlags()
        if (isWhole) return null
      }
    } else {
      index = ++this.groupCount
    }
    const node = this.parseChoice()
    if (!this.take(')')) throw this.error('a `(` without its `)`')
    this.flags = outer
    return { kind: 'group', node, index }
  }

  private parseGroupName(): void {
    const end = this.pattern.indexOf('>', this.position)
    if (end < 0 || !/^[A-Za-z0-9_]+$/.test(this.pattern.slice(this.position, end))) {
      throw this.error('a group name of letters, digits and `_`, closed by `>`, is expected')
    }
    this.position = end + 1
  }

  /** After `(?`. True for `(?flags)`, which holds for the rest of the enclosing group; false for `(?flags:`. */
  private parseFlags(): boolean {
    let isOn = true
    let { isCaseIgnored, isDotAll, isLazyByDefault } = this.flags
    for (;;) {
      const char = this.pattern[this.position++]
      if (char === 'i') isCaseIgnored = isOn
      else if (char === 's') isDotAll = isOn
      else if (char === 'U') isLazyByDefault = isOn
      else if (char === '-' && isOn) isOn = false
      else if (char === ')' || char === ':') {
        this.flags = { isCaseIgnored, isDotAll, isLazyByDefault }
        return char === ')'
      } else if (char !== 'm') {
        this.position--
        throw this.error('look-around and unknown group flags are not in RE2 syntax')
      }
    }
  }

  /** A quantifier after `node`, if there is one. */
  private parseRepeat(node: RegexNode): RegexNode {
    let min = 0
    let max = -1
    if (this.take('+')) min = 1
    else if (this.take('?')) max = 1
    else if (!this.take('*')) {
      // A brace that is no count is a literal brace; a count beyond the limit is still a count.
      const count = /^\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}/.exec(this.pattern.slice(this.position))
      if (count === null) return node
      min = Number(count[1])
      max = count[2] === undefined ? min : count[3] === undefined ? -1 : Number(count[3])
      if (min > REPEAT_MAX || max > REPEAT_MAX) throw this.error(`a repeat count above ${REPEAT_MAX}`)
      if (max >= 0 && max < min) throw this.error('a repeat range that ends before it begins')
      this.position += count[0].length
    }
    const isLazy = this.take('?')
    return { kind: 'repeat', node, min, max, isGreedy: isLazy === this.flags.isLazyByDefault }
  }

  // --- characters ---

  private parseEscape(): RegexNode {
    const char = this.pattern[this.position + 1]
    const assertion = char === undefined ? undefined : ASSERTION_BY_LETTER[char]
    if (assertion !== undefined) {
      this.position += 2
      return { kind: 'assert', assertion }
    }
    const set = this.parseClassEscape()
    if (set !== null) return { kind: 'set', set }
    return this.literal(this.parseCharacterEscape())
  }

  /** `\d` and its kin; null, and nothing is taken, for another escape. */
  private parseClassEscape(): Charset | null {
    const letter = this.pattern[this.position + 1] ?? ''
    const set = PERL_CLASSES[letter.toLowerCase()]
    if (set === undefined) return null
    this.position += 2
    return letter === letter.toLowerCase() ? set : complement(set)
  }

  /** A backslash and what names one character. */
  private parseCharacterEscape(): number {
    this.position++
    const char = this.pattern[this.position]
    if (char === undefined) throw this.error('a backslash at the end')
    const control = CONTROL_BY_LETTER[char]
    if (control !== undefined) {
      this.position++
      return control
    }
    if (char === 'x') return this.parseHexEscape()
    const octal = /^0[0-7]{0,2}/.exec(this.pattern.slice(this.position, this.position + 3))
    if (octal !== null) {
      this.position += octal[0].length
      return Number.parseInt(octal[0], 8)
    }
    if (/[1-9]/.test(char)) throw this.error('back-references are not in RE2 syntax')
    if (/[A-Za-z]/.test(char)) throw this.error(`the escape \`\\${char}\` is not supported`)
    this.position++
    return char.charCodeAt(0)
  }

  private parseHexEscape(): number {
    const hex = /^x([0-9A-Fa-f]{2}|\{[0-9A-Fa-f]{1,6}\})/.exec(this.pattern.slice(this.position, this.position + 9))
    if (hex === null) throw this.error('`\\x` takes two hexadecimal digits, or more in braces')
    this.position += hex[0].length
    return Number.parseInt(hex[1]!.replace(/[{}]/g, ''), 16)
  }

  private parseClass(): RegexNode {
    const start = this.position++
    const isNegated = this.take('^')
    const set = new Uint8Array(CHARSET_SIZE)
    let isFirst = true
    while (isFirst || this.pattern[this.position] !== ']') {
      if (this.position >= this.pattern.length) {
        this.position = start
        throw this.error('a `[` without its `]`')
      }
      isFirst = false
      this.parseClassItem(set)
    }
    this.position++
    const folded = this.flags.isCaseIgnored ? foldCase(set) : set
    return { kind: 'set', set: isNegated ? complement(folded) : folded }
  }

  private parseClassItem(set: Charset): void {
    const posix = /^\[:(\^?)([a-z]+):\]/.exec(this.pattern.slice(this.position, this.position + 16))
    if (posix !== null) {
      const named = POSIX_CLASSES[posix[2]!]
      if (named === undefined) throw this.error(`there is no class \`[:${posix[2]}:]\``)
      unite(set, posix[1] === '^' ? complement(named) : named)
      this.position += posix[0].length
      return
    }
    if (this.pattern[this.position] === '\\') {
      const perl = this.parseClassEscape()
      if (perl !== null) {
        unite(set, perl)
        return
      }
    }
    const low = this.parseClassCharacter()
    let high = low
    if (this.pattern[this.position] === '-' && this.pattern[this.position + 1] !== ']') {
      this.position++
      high = this.parseClassCharacter()
      if (high < low) throw this.error('a range that ends before it begins')
    }
    for (let code = low; code <= high && code < CHARSET_SIZE - 1; code++) set[code] = 1
    if (high >= CHARSET_SIZE - 1) set[CHARSET_SIZE - 1] = 1
  }

  private parseClassCharacter(): number {
    if (this.position >= this.pattern.length) throw this.error('a `[` without its `]`')
    if (this.pattern[this.position] === '\\') return this.parseCharacterEscape()
    return this.pattern.charCodeAt(this.position++)
  }

  private literal(code: number): RegexNode {
    const set = setOf(code, code)
    return { kind: 'set', set: this.flags.isCaseIgnored ? foldCase(set) : set }
  }

  // --- reading ---

  private ahead(text: string): boolean {
    return this.pattern.startsWith(text, this.position)
  }

  private take(text: string): boolean {
    if (!this.ahead(text)) return false
    this.position += text.length
    return true
  }

  private error(reason: string): SyntaxError {
    return new SyntaxError(
      `in the regular expression ${JSON.stringify(this.pattern)} at ${this.position + 1}: ${reason}`,
    )
  }
}

const ASSERTION_BY_LETTER: Readonly<Record<string, Assertion>> = {
  A: ASSERT_BEGIN,
  z: ASSERT_END,
  b: ASSERT_WORD,
  B: ASSERT_NOT_WORD,
}

const CONTROL_BY_LETTER: Readonly<Record<string, number>> = {
  a: 0x07,
  f: 0x0c,
  n: 0x0a,
  r: 0x0d,
  t: 0x09,
  v: 0x0b,
}
