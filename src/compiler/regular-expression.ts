/**
 * RE2 syntax (what the APIs promise their users) to JavaScript source (what agents run). What the two share passes,
 * what JavaScript spells differently is rewritten, and everything else is refused with a reason.
 *
 * JavaScript backtracks where RE2 does not: a repetition inside a repetition is pointed out.
 */

export type TranslatedPattern =
  | { readonly source: string /** A repeated group itself repeats. */; readonly isSlow: boolean }
  | { readonly problem: string }

const POSIX_CLASSES: Readonly<Record<string, string>> = {
  alnum: '0-9A-Za-z',
  alpha: 'A-Za-z',
  ascii: '\\x00-\\x7f',
  blank: '\\t ',
  cntrl: '\\x00-\\x1f\\x7f',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`{-~',
  space: '\\t\\n\\v\\f\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
}

/** Translates a whole pattern. The result compiles; matching the whole value is the caller's business. */
export function translatePattern(pattern: string): TranslatedPattern {
  const translator = new Translator(pattern)
  try {
    const source = translator.run()
    new RegExp(`^(?:${source})$`)
    return { source, isSlow: translator.isSlow }
  } catch (error) {
    // V8 repeats the whole pattern in its message; its reason follows the last colon.
    const message = (error as Error).message
    const reason = error instanceof SyntaxError ? message.slice(message.lastIndexOf(': ') + 2).toLowerCase() : message
    return { problem: reason }
  }
}

class Unusable extends Error {}

interface Group {
  /** Closing text: one more `)` for flags that hold until the end of the group. */
  closing: string
  /** It contains something that repeats without bound. */
  repeats: boolean
}

class Translator {
  isSlow = false
  private readonly pattern: string
  private index = 0
  private output = ''
  private readonly groups: Group[] = [{ closing: '', repeats: false }]
  /** Whether what was just translated repeats inside; what follows may repeat it again. */
  private lastRepeats = false

  constructor(pattern: string) {
    this.pattern = pattern
  }

  run(): string {
    while (this.index < this.pattern.length) this.step()
    if (this.groups.length > 1) throw new Unusable('a group is not closed')
    return this.output + this.groups[0]!.closing
  }

  private step(): void {
    const character = this.pattern[this.index]!
    const quantifier = /^(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??/.exec(this.pattern.slice(this.index))
    if (quantifier !== null) this.quantify(quantifier[0])
    else if (character === '\\') this.escape(false)
    else if (character === '[') this.characterClass()
    else if (character === '(') this.openGroup()
    else if (character === ')') this.closeGroup()
    else this.emit(character, 1)
  }

  private emit(text: string, consumed: number): void {
    this.output += text
    this.index += consumed
    this.lastRepeats = false
  }

  private quantify(quantifier: string): void {
    const isUnbounded = /^[*+]|,\}/.test(quantifier)
    if (isUnbounded) {
      if (this.lastRepeats) this.isSlow = true
      this.groups.at(-1)!.repeats = true
    }
    this.output += quantifier
    this.index += quantifier.length
    this.lastRepeats = false
  }

  private openGroup(): void {
    const rest = this.pattern.slice(this.index)
    const group: Group = { closing: ')', repeats: false }
    const isStart = this.output === '' || this.output.endsWith('(') || this.output.endsWith('(?:')
    const named = /^\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>/.exec(rest)
    const flags = /^\(\?([imsU]*(?:-[imsU]+)?)([:)])/.exec(rest)
    if (named !== null) {
      this.emit(`(?<${named[1]}>`, named[0].length)
    } else if (flags !== null) {
      const letters = flags[1]!
      if (letters.includes('U')) throw new Unusable('the flag U is not supported')
      if (flags[2] === ':') this.emit(letters === '' ? '(?:' : `(?${letters}:`, flags[0].length)
      else {
        // Flags for the rest of the group: only at its start can they become a group of their own.
        if (!isStart || letters === '')
          throw new Unusable('flags are allowed at the start of the pattern or of a group')
        this.emit(`(?${letters}:`, flags[0].length)
        this.groups.at(-1)!.closing += ')'
        return
      }
    } else if (rest.startsWith('(?')) {
      throw new Unusable('look-ahead, look-behind and other (?...) groups do not exist in RE2')
    } else this.emit('(', 1)
    this.groups.push(group)
  }

  private closeGroup(): void {
    if (this.groups.length === 1) throw new Unusable('a group is closed that was not opened')
    const group = this.groups.pop()!
    this.emit(group.closing, 1)
    this.lastRepeats = group.repeats
    if (group.repeats) this.groups.at(-1)!.repeats = true
  }

  private escape(isInClass: boolean): void {
    const next = this.pattern[this.index + 1]
    if (next === undefined) throw new Unusable('it ends with a backslash')
    const hex = /^\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,4})\})/.exec(this.pattern.slice(this.index))
    if (hex !== null) this.emit(`\\u${(hex[1] ?? hex[2])!.padStart(4, '0')}`, hex[0].length)
    else if (next === 'Q' && !isInClass) this.literal()
    else if (next === 'A' && !isInClass) this.emit('^', 2)
    else if (next === 'z' && !isInClass) this.emit('$', 2)
    else if (next === 'a') this.emit('\\x07', 2)
    else if ('dDwWsStnrfv'.includes(next) || ('bB'.includes(next) && !isInClass)) this.emit(`\\${next}`, 2)
    else if (/[0-9]/.test(next)) throw new Unusable('references to groups do not exist in RE2')
    else if (/[A-Za-z]/.test(next)) throw new Unusable(`\\${next} is not supported`)
    else this.emit(`\\${next}`, 2)
  }

  /** `\Q...\E`: everything between is literal. */
  private literal(): void {
    const end = this.pattern.indexOf('\\E', this.index + 2)
    const text = this.pattern.slice(this.index + 2, end < 0 ? undefined : end)
    this.emit(text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), (end < 0 ? 0 : 2) + 2 + text.length)
  }

  private characterClass(): void {
    this.emit('[', 1)
    if (this.pattern[this.index] === '^') this.emit('^', 1)
    // A closing bracket that comes first is literal.
    if (this.pattern[this.index] === ']') this.emit('\\]', 1)
    while (this.pattern[this.index] !== ']') {
      const character = this.pattern[this.index]
      if (character === undefined) throw new Unusable('a character class is not closed')
      if (character === '\\') this.escape(true)
      else if (character === '[' && this.pattern[this.index + 1] === ':') this.posixClass()
      else this.emit(character, 1)
    }
    this.emit(']', 1)
  }

  private posixClass(): void {
    const named = /^\[:([a-z]+):\]/.exec(this.pattern.slice(this.index))
    const name = named?.[1] ?? ''
    if (!Object.hasOwn(POSIX_CLASSES, name)) throw new Unusable('a [:class:] has no such name')
    this.emit(POSIX_CLASSES[name]!, named![0].length)
  }
}
