// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Head parsers, lent to connections for as long as a head takes: mostly one call, so that one parser serves a thread and
 * an idle connection holds none.
 */
import { type HeadKind, HeadParser } from './head-parser.ts'

/** Parsers kept for reuse. 16: more are only out at once while many clients send their heads in pieces. */
const SPARE_PARSERS_MAX = 16

const spareParsers: HeadParser[] = []

/** A parser at the start of a head of that kind. The caller returns it. */
export function borrowParser(kind: HeadKind): HeadParser {
  const parser = spareParsers.pop() ?? new HeadParser()
  parser.begin(kind)
  return parser
}

/** Takes `parser` back; the caller must not look at it again. */
export function returnParser(parser: HeadParser): void {
  if (spareParsers.length === SPARE_PARSERS_MAX) return
  parser.release()
  spareParsers.push(parser)
}
