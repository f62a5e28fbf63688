/**
 * Sets of characters for regular expressions. Characters are the units of a string; all above U+00FF count as one: HTTP
 * text has none.
 */

/** One entry per unit up to U+00FF, and one for all above. */
export const CHARSET_SIZE = 257

/** Membership by unit: 1 is in. */
export type Charset = Uint8Array

/** The set of the ranges between pairs of bounds, both included. */
export function setOf(...bounds: readonly number[]): Charset {
  const set = new Uint8Array(CHARSET_SIZE)
  for (let i = 0; i < bounds.length; i += 2) {
    const low = Math.min(bounds[i]!, CHARSET_SIZE - 1)
    set.fill(1, low, Math.min(bounds[i + 1]!, CHARSET_SIZE - 1) + 1)
  }
  return set
}

/** The set of all characters. */
export function anySet(): Charset {
  return new Uint8Array(CHARSET_SIZE).fill(1)
}

/** All that is not in `set`. */
export function complement(set: Charset): Charset {
  return set.map((bit) => 1 - bit)
}

/** Adds `other` to `set`. */
export function unite(set: Charset, other: Charset): void {
  for (let i = 0; i < CHARSET_SIZE; i++) if (other[i] === 1) set[i] = 1
}

/** A set with the other case of every letter in it; ASCII letters only. */
export function foldCase(set: Charset): Charset {
  const folded = set.slice()
  for (let upper = 0x41; upper <= 0x5a; upper++) {
    if (set[upper] === 1 || set[upper + 32] === 1) {
      folded[upper] = 1
      folded[upper + 32] = 1
    }
  }
  return folded
}

const DIGIT = setOf(0x30, 0x39)
/** What `\\w` and `\\b` take for characters of words. */
export const WORD: Charset = setOf(0x30, 0x39, 0x41, 0x5a, 0x5f, 0x5f, 0x61, 0x7a)

/** By the letter of their escape. */
export const PERL_CLASSES: Readonly<Record<string, Charset>> = {
  d: DIGIT,
  w: WORD,
  s: setOf(0x09, 0x0a, 0x0c, 0x0d, 0x20, 0x20),
}

/** By name. */
export const POSIX_CLASSES: Readonly<Record<string, Charset>> = {
  alnum: setOf(0x30, 0x39, 0x41, 0x5a, 0x61, 0x7a),
  alpha: setOf(0x41, 0x5a, 0x61, 0x7a),
  ascii: setOf(0x00, 0x7f),
  blank: setOf(0x09, 0x09, 0x20, 0x20),
  cntrl: setOf(0x00, 0x1f, 0x7f, 0x7f),
  digit: DIGIT,
  graph: setOf(0x21, 0x7e),
  lower: setOf(0x61, 0x7a),
  print: setOf(0x20, 0x7e),
  punct: setOf(0x21, 0x2f, 0x3a, 0x40, 0x5b, 0x60, 0x7b, 0x7e),
  space: setOf(0x09, 0x0d, 0x20, 0x20),
  upper: setOf(0x41, 0x5a),
  word: WORD,
  xdigit: setOf(0x30, 0x39, 0x41, 0x46, 0x61, 0x66),
}
