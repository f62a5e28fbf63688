/**
 * Regular expressions in RE2 syntax whose time is linear in the length of the value, whatever the expression. Node's own
 * engine backtracks: one expression of one tenant and one crafted header would stop a worker that serves a whole node.
 *
 * `test` runs a deterministic automaton that is built as values need it, some nanoseconds per character. Its states
 * are sets of program positions; the table is thrown away when it grows too large, which costs time but never memory.
 * `replaceAll`, which must know groups, runs the program with a list of threads in order of preference (Pike).
 */
import { CHARSET_SIZE, WORD } from './charset.ts'
import {
  assemble,
  type Instruction,
  OP_ASSERT,
  OP_MATCH,
  OP_SAVE,
  OP_SET,
  OP_SPLIT,
  partition,
} from './regex-program.ts'
import { ASSERT_BEGIN, ASSERT_END, ASSERT_WORD, parseRegex } from './regex-syntax.ts'

/** States kept by one automaton. Expressions in use have some tens; the largest ones then take 4 MiB. */
const STATES_MAX = 256

/** Thread steps of one `replaceAll`, about 20 ms. Searching again after each match is quadratic at worst. */
const REPLACE_STEPS_MAX = 1_000_000

/** One state of the automaton. */
class State {
  /** Positions before assertions are judged and jumps taken, in ascending order. */
  readonly positions: readonly number[]
  readonly isStart: boolean
  readonly isAfterWord: boolean
  /** By class of character; null is not known yet. */
  readonly next: (State | null)[]
  /** Whether a value may end here; null is not known yet. */
  isFinal: boolean | null

  constructor(positions: readonly number[], isStart: boolean, isAfterWord: boolean, classCount: number) {
    this.positions = positions
    this.isStart = isStart
    this.isAfterWord = isAfterWord
    this.next = new Array<State | null>(classCount).fill(null)
    this.isFinal = null
  }
}

/** A piece of a substitution: text, or the number of a group. */
export type SubstitutionPiece = string | number

/** A compiled expression; matching takes time linear in the text. */
export class Regex {
  private readonly program: readonly Instruction[]
  private readonly slotCount: number
  /** Class of each unit: units that no instruction tells apart share one. */
  private readonly classOf: Uint16Array
  /** A unit of each class. */
  private readonly sampleOf: readonly number[]
  private readonly marks: Uint32Array
  private mark: number
  private states: Map<string, State>
  private start: State

  /** Throws SyntaxError, naming the place and the reason, when the expression cannot be read or is too large. */
  constructor(pattern: string, isCaseIgnored: boolean) {
    const { root, groupCount } = parseRegex(pattern, isCaseIgnored)
    this.program = assemble(root, pattern)
    this.slotCount = (groupCount + 1) * 2
    this.classOf = new Uint16Array(CHARSET_SIZE)
    this.sampleOf = partition(this.program, this.classOf)
    this.marks = new Uint32Array(this.program.length)
    this.mark = 0
    this.states = new Map()
    this.start = new State([0], true, false, this.sampleOf.length)
  }

  /** True when the whole of `value` matches. */
  test(value: string): boolean {
    const { classOf } = this
    let state = this.start
    for (let i = 0; i < value.length; i++) {
      const unit = value.charCodeAt(i)
      const kind = classOf[unit < CHARSET_SIZE ? unit : CHARSET_SIZE - 1]!
      state = state.next[kind] ?? this.advance(state, kind)
      if (state.positions.length === 0) return false
    }
    state.isFinal ??= this.expand(state, true, false).includes(this.program.length - 1)
    return state.isFinal
  }

  /** `text` with every match replaced, left to right; unchanged when finding them would take too long. */
  replaceAll(text: string, substitution: readonly SubstitutionPiece[]): string {
    const search = new Search(this.program, this.slotCount, text)
    let replaced = ''
    let copied = 0
    let from = 0
    while (from <= text.length) {
      const slots = search.find(from)
      if (search.isExhausted) return text
      if (slots === null) break
      const begin = slots[0]!
      const end = slots[1]!
      // An empty match right after a match is part of it.
      if (end > begin || begin > copied || copied === 0) {
        replaced += text.slice(copied, begin) + fill(substitution, slots, text)
        copied = end
      }
      from = end > begin ? end : end + 1
    }
    return replaced + text.slice(copied)
  }

  /** The state after a unit of class `kind`, made at its first use. */
  private advance(state: State, kind: number): State {
    const unit = this.sampleOf[kind]!
    const isWord = WORD[unit] === 1
    const targets: number[] = []
    for (const position of this.expand(state, false, isWord)) {
      const instruction = this.program[position]!
      if (instruction.op === OP_SET && instruction.set![unit] === 1) targets.push(instruction.next)
    }
    targets.sort((a, b) => a - b)
    const positions = targets.filter((position, index) => index === 0 || position !== targets[index - 1])
    const key = `${isWord ? 'w' : '-'}${positions.join()}`
    let next = this.states.get(key)
    if (next === undefined) {
      if (this.states.size >= STATES_MAX) this.forget()
      next = new State(positions, false, isWord, this.sampleOf.length)
      this.states.set(key, next)
    }
    state.next[kind] = next
    return next
  }

  private forget(): void {
    this.states = new Map()
    this.start = new State([0], true, false, this.sampleOf.length)
  }

  /** The positions that `state` stands for once it is known what comes next: characters to take, or the match. */
  private expand(state: State, isEnd: boolean, isBeforeWord: boolean): number[] {
    const reached: number[] = []
    this.mark++
    const open = [...state.positions]
    while (open.length > 0) {
      const position = open.pop()!
      if (this.marks[position] === this.mark) continue
      this.marks[position] = this.mark
      const instruction = this.program[position]!
      if (instruction.op === OP_SPLIT) open.push(instruction.next, instruction.other)
      else if (instruction.op === OP_SAVE) open.push(instruction.next)
      else if (instruction.op !== OP_ASSERT) reached.push(position)
      else if (holds(instruction.argument, state.isStart, isEnd, state.isAfterWord !== isBeforeWord)) {
        open.push(instruction.next)
      }
    }
    return reached
  }
}

function holds(assertion: number, isBegin: boolean, isEnd: boolean, isWordEdge: boolean): boolean {
  if (assertion === ASSERT_BEGIN) return isBegin
  if (assertion === ASSERT_END) return isEnd
  return (assertion === ASSERT_WORD) === isWordEdge
}

// --- search with groups ---

/** One way through the program, and where its groups are. */
interface Thread {
  readonly position: number
  readonly slots: readonly number[]
}

class Search {
  /** The budget is used up; what `find` says no longer counts. */
  isExhausted: boolean
  private readonly program: readonly Instruction[]
  private readonly text: string
  private readonly emptySlots: readonly number[]
  private readonly marks: Uint32Array
  private mark: number
  private stepsLeft: number

  constructor(program: readonly Instruction[], slotCount: number, text: string) {
    this.isExhausted = false
    this.program = program
    this.text = text
    this.emptySlots = new Array<number>(slotCount).fill(-1)
    this.marks = new Uint32Array(program.length)
    this.mark = 0
    this.stepsLeft = REPLACE_STEPS_MAX
  }

  /** Slots (begin and end of the match and of each group, -1 when it took no part) of the first match from `from`. */
  find(from: number): readonly number[] | null {
    let threads: Thread[] = []
    let found: readonly number[] | null = null
    for (let i = from; i <= this.text.length; i++) {
      this.mark++
      const ready: Thread[] = []
      for (const thread of threads) this.follow(ready, thread.position, thread.slots, i)
      if (found === null) this.follow(ready, 0, withSlot(this.emptySlots, 0, i), i)
      if (ready.length === 0 && found !== null) break
      threads = []
      for (const thread of ready) {
        const instruction = this.program[thread.position]!
        if (instruction.op === OP_MATCH) {
          // Threads after this one are less preferred: they are cut off.
          found = withSlot(thread.slots, 1, i)
          break
        }
        const unit = i < this.text.length ? Math.min(this.text.charCodeAt(i), CHARSET_SIZE - 1) : -1
        if (unit >= 0 && instruction.set![unit] === 1) threads.push({ position: instruction.next, slots: thread.slots })
      }
      if (this.isExhausted) return null
    }
    return found
  }

  private follow(ready: Thread[], position: number, slots: readonly number[], index: number): void {
    if (this.marks[position] === this.mark) return
    this.marks[position] = this.mark
    if (--this.stepsLeft <= 0) this.isExhausted = true
    const instruction = this.program[position]!
    if (instruction.op === OP_SPLIT) {
      this.follow(ready, instruction.next, slots, index)
      this.follow(ready, instruction.other, slots, index)
    } else if (instruction.op === OP_SAVE) {
      this.follow(ready, instruction.next, withSlot(slots, instruction.argument, index), index)
    } else if (instruction.op === OP_ASSERT) {
      const isEdge = this.isWordAt(index - 1) !== this.isWordAt(index)
      if (holds(instruction.argument, index === 0, index === this.text.length, isEdge)) {
        this.follow(ready, instruction.next, slots, index)
      }
    } else {
      ready.push({ position, slots })
    }
  }

  private isWordAt(index: number): boolean {
    return index >= 0 && index < this.text.length && WORD[this.text.charCodeAt(index)] === 1
  }
}

function withSlot(slots: readonly number[], slot: number, value: number): readonly number[] {
  const copy = slots.slice()
  copy[slot] = value
  return copy
}

function fill(substitution: readonly SubstitutionPiece[], slots: readonly number[], text: string): string {
  let filled = ''
  for (const piece of substitution) {
    if (typeof piece === 'string') filled += piece
    else if ((slots[piece * 2] ?? -1) >= 0) filled += text.slice(slots[piece * 2]!, slots[piece * 2 + 1]!)
  }
  return filled
}

/** Reads RE2's rewrite syntax: `\0` to `\9` are groups, `\\` is a backslash. Throws SyntaxError on another escape. */
export function parseSubstitution(text: string): readonly SubstitutionPiece[] {
  const pieces: SubstitutionPiece[] = []
  let literal = ''
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== '\\') {
      literal += text[i]
      continue
    }
    const next = text[++i] ?? ''
    if (/^[0-9]$/.test(next)) {
      pieces.push(literal, Number(next))
      literal = ''
    } else if (next === '\\') {
      literal += next
    } else {
      throw new SyntaxError(
        `in the substitution ${JSON.stringify(text)}: a backslash is followed by a digit or another`,
      )
    }
  }
  pieces.push(literal)
  return pieces.filter((piece) => piece !== '')
}
