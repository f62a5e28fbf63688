/** Places in users' files. */

/** Line and column, from 1. */
export interface Position {
  readonly file: string
  /** From 1. */
  readonly line: number
  /** From 1. */
  readonly column: number
}

/** Keys and list indexes from the root of an object. */
export type Path = readonly (string | number)[]

/** Where the field at `path` was written; null when it was not, or the source has no positions (an API server). */
export type PositionLookup = (path: Path) => Position | null
