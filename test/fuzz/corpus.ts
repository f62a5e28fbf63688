/**
 * Inputs on disk: test/fuzz/corpus/<target>/ holds those that reach what the seeds do not, few and small, because every
 * test run replays them; test/fuzz/crashes/ (not in the repository) those that broke a property.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Fuzzer } from './fuzzer.ts'

/** Per target: with all targets about 100 files and 300 KB. */
const FILES_MAX = 14
const BYTES_MAX = 40_000

/** Attempts to make one input smaller. Each costs a run and a take of the coverage, a few milliseconds. */
const MINIMISE_ATTEMPTS_MAX = 200

const crashes = join(import.meta.dirname, 'crashes')

function folderOf(target: string): string {
  return join(import.meta.dirname, 'corpus', target)
}

/** The inputs kept for a target, in the order of their names. */
export function readCorpus(target: string): Uint8Array[] {
  const folder = folderOf(target)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .sort()
    .map((name) => new Uint8Array(readFileSync(join(folder, name))))
}

/** Replaces the corpus of a target. */
export function writeCorpus(target: string, inputs: readonly Uint8Array[]): void {
  const folder = folderOf(target)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const input of inputs) writeFileSync(join(folder, nameOf(input)), input)
}

/** Where a crash of this name and content goes. */
export function crashPath(target: string, name: string): string {
  mkdirSync(crashes, { recursive: true })
  return join(crashes, `${target}-${name}`)
}

export function writeCrash(target: string, input: Uint8Array): string {
  const path = crashPath(target, nameOf(input))
  writeFileSync(path, input)
  return path
}

function nameOf(input: Uint8Array): string {
  return createHash('sha256').update(input).digest('hex').slice(0, 12)
}

/** The few of `inputs` that together reach most of what all reach beyond the seeds: the largest gains first, made small. */
export function distil(fuzzer: Fuzzer, seeds: readonly Uint8Array[], inputs: readonly Uint8Array[]): Uint8Array[] {
  const { coverage } = fuzzer
  coverage.take()
  coverage.clear()
  for (const seed of seeds) coverage.add(fuzzer.reachOf(seed))
  const open = inputs.map((input) => ({ input, reach: fuzzer.reachOf(input) }))
  const chosen: Uint8Array[] = []
  let bytes = 0
  while (chosen.length < FILES_MAX) {
    let best: (typeof open)[number] | null = null
    let gain = 0
    for (const one of open) {
      const here = coverage.gainOf(one.reach)
      const isBetter = here > gain || (here === gain && best !== null && one.input.length < best.input.length)
      if (here === 0 || !isBetter) continue
      best = one
      gain = here
    }
    if (best === null) break
    open.splice(open.indexOf(best), 1)
    const small = minimise(best.input, (input) => coverage.gainOf(fuzzer.reachOf(input)) >= gain)
    coverage.add(best.reach)
    if (bytes + small.length > BYTES_MAX) continue
    bytes += small.length
    chosen.push(small)
  }
  return chosen
}

/** Cuts blocks out of `input`, large ones first, as long as `isGood` holds for what is left. */
export function minimise(input: Uint8Array, isGood: (input: Uint8Array) => boolean): Uint8Array {
  let smallest = input
  let attempts = 0
  for (let size = input.length >>> 1; size > 0; size >>>= 1) {
    for (let at = 0; at + size <= smallest.length; ) {
      if (++attempts > MINIMISE_ATTEMPTS_MAX) return smallest
      const shorter = new Uint8Array(smallest.length - size)
      shorter.set(smallest.subarray(0, at))
      shorter.set(smallest.subarray(at + size), at)
      if (isGood(shorter)) smallest = shorter
      else at += size
    }
  }
  return smallest
}
