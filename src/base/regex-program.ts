/**
 * The program of a regular expression: instructions that take a character, test a place, remember a place, or go on in
 * two ways. regex.ts runs it.
 */
import { CHARSET_SIZE, type Charset, WORD } from './charset.ts'
import type { RegexNode } from './regex-syntax.ts'

/** Longest program: counted repetitions multiply. Stepping through this many positions takes some microseconds. */
const PROGRAM_SIZE_MAX = 2_048

export const OP_SET = 0
export const OP_SPLIT = 1
export const OP_ASSERT = 2
export const OP_SAVE = 3
export const OP_MATCH = 4

/** One step of a program. */
export interface Instruction {
  readonly op: number
  readonly set: Charset | null
  /** Assertion or slot. */
  readonly argument: number
  /** Next positions; for a split the preferred one first. */
  next: number
  other: number
}

/** The program of a tree; its last instruction is the match. */
export function assemble(root: RegexNode, pattern: string): readonly Instruction[] {
  const program: Instruction[] = []
  emit(program, root, pattern)
  program.push({ op: OP_MATCH, set: null, argument: 0, next: 0, other: 0 })
  return program
}

/** Every node's code is entered at its first instruction and left at the one after its last. */
function emit(program: Instruction[], node: RegexNode, pattern: string): void {
  if (program.length > PROGRAM_SIZE_MAX) {
    throw new SyntaxError(`the regular expression ${JSON.stringify(pattern)} is too large: use smaller repeat counts`)
  }
  switch (node.kind) {
    case 'set':
      push(program, OP_SET, node.set, 0)
      return
    case 'assert':
      push(program, OP_ASSERT, null, node.assertion)
      return
    case 'sequence':
      for (const part of node.nodes) emit(program, part, pattern)
      return
    case 'choice':
      emitChoice(program, node.nodes, pattern)
      return
    case 'group':
      if (node.index > 0) push(program, OP_SAVE, null, node.index * 2)
      emit(program, node.node, pattern)
      if (node.index > 0) push(program, OP_SAVE, null, node.index * 2 + 1)
      return
    case 'repeat':
      for (let i = 0; i < node.min; i++) {
        const start = program.length
        emit(program, node.node, pattern)
        // Nothing a thousand times over is nothing; without this, nested counts would run for hours.
        if (program.length === start) break
      }
      if (node.max < 0) emitLoop(program, node.node, node.isGreedy, pattern)
      else emitOptional(program, node.node, node.max - node.min, node.isGreedy, pattern)
  }
}

function push(program: Instruction[], op: number, set: Charset | null, argument: number): Instruction {
  const instruction: Instruction = { op, set, argument, next: program.length + 1, other: program.length + 1 }
  program.push(instruction)
  return instruction
}

function emitChoice(program: Instruction[], nodes: readonly RegexNode[], pattern: string): void {
  const exits: Instruction[] = []
  for (let i = 0; i < nodes.length; i++) {
    const split = i < nodes.length - 1 ? push(program, OP_SPLIT, null, 0) : null
    emit(program, nodes[i]!, pattern)
    if (split === null) continue
    exits.push(push(program, OP_SPLIT, null, 0))
    split.other = program.length
  }
  for (const exit of exits) {
    exit.next = program.length
    exit.other = program.length
  }
}

/** `split -> body -> split`, out at `other`. */
function emitLoop(program: Instruction[], node: RegexNode, isGreedy: boolean, pattern: string): void {
  const start = program.length
  const split = push(program, OP_SPLIT, null, 0)
  emit(program, node, pattern)
  const back = push(program, OP_SPLIT, null, 0)
  back.next = start
  back.other = start
  if (isGreedy) split.other = program.length
  else split.next = program.length
  if (!isGreedy) split.other = start + 1
}

function emitOptional(
  program: Instruction[],
  node: RegexNode,
  count: number,
  isGreedy: boolean,
  pattern: string,
): void {
  const splits: Instruction[] = []
  for (let i = 0; i < count; i++) {
    splits.push(push(program, OP_SPLIT, null, 0))
    emit(program, node, pattern)
  }
  for (const split of splits) {
    const body = split.next
    split.next = isGreedy ? body : program.length
    split.other = isGreedy ? program.length : body
  }
}

/** Fills `classOf` and returns a unit of each class. Units are told apart by the sets, and as characters of words. */
export function partition(program: readonly Instruction[], classOf: Uint16Array): readonly number[] {
  const sets = new Set<Charset>([WORD])
  for (const instruction of program) if (instruction.set !== null) sets.add(instruction.set)
  let classes = new Map<string, number>()
  for (const set of sets) {
    const refined = new Map<string, number>()
    for (let unit = 0; unit < CHARSET_SIZE; unit++) {
      const key = `${classOf[unit]},${set[unit]}`
      const known = refined.get(key)
      if (known === undefined) refined.set(key, refined.size)
      classOf[unit] = known ?? refined.size - 1
    }
    classes = refined
  }
  const samples = new Array<number>(classes.size).fill(0)
  for (let unit = CHARSET_SIZE - 1; unit >= 0; unit--) samples[classOf[unit]!] = unit
  return samples
}
