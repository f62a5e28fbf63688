/**
 * What is fuzzed: one parser with the properties that must hold for any bytes. A target lives in targets/<name>.ts, which
 * exports `target`; `run.ts` feeds it by coverage, `fuzz.test.ts` for a fixed number of rounds.
 */
import { pathToFileURL } from 'node:url'
import type { SeededRandom } from '../support/seeded-random.ts'

export interface Target {
  /** Files and folders of the repository whose coverage counts. */
  readonly sources: readonly string[]
  /** Longest input. */
  readonly bytesMax: number
  /** Iterations of the bounded run: what takes about half a second. */
  readonly testIterations: number
  /** Pieces of the protocol that mutations put in. */
  readonly tokens: readonly Uint8Array[]
  /** Inputs to begin with. */
  seeds(): readonly Uint8Array[]
  /**
   * Throws when a property does not hold for `input`. Returns a word for how it ended: an input with a word that was not
   * seen before is kept, also when it reaches no new code.
   */
  run(input: Uint8Array): string
  /** A mutation that knows the structure of the input; null where there is none but the general ones. */
  readonly mutate: ((random: SeededRandom, input: Uint8Array) => Uint8Array) | null
}

export const TARGET_NAMES = ['h1', 'h2', 'hpack', 'headers', 'yaml', 'wire', 'regex', 'dns'] as const
export type TargetName = (typeof TARGET_NAMES)[number]

export function isTargetName(name: string): name is TargetName {
  return (TARGET_NAMES as readonly string[]).includes(name)
}

/** Loads a target late, so that coverage can be switched on before. */
export async function loadTarget(name: TargetName): Promise<Target> {
  const url = pathToFileURL(`${import.meta.dirname}/targets/${name}.ts`).href
  const { target } = (await import(url)) as { target: Target }
  return target
}

/** Bytes of a latin-1 text. */
export function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'latin1'))
}

export function concat(...pieces: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(pieces))
}
