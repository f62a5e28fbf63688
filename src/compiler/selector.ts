/** Label selectors: every given label must be equal. */
import { compareText } from './messages.ts'

/** Labels that must all be there; empty selects everything. */
export interface Selector {
  /** Canonical text, `a=1,b=2`: equal selectors have equal texts. Empty selects everything. */
  readonly text: string
  readonly labels: readonly (readonly [string, string])[]
}

export const SELECT_ALL: Selector = { text: '', labels: [] }

/** A selector from labels as read by `labelMap`. */
export function selectorOf(labels: ReadonlyMap<string, string | null>): Selector {
  const pairs = [...labels].map(([name, value]) => [name, value ?? ''] as const)
  pairs.sort((a, b) => compareText(a[0], b[0]))
  return { text: pairs.map(([name, value]) => `${name}=${value}`).join(','), labels: pairs }
}

/** True when `labels` have all labels of the selector. */
export function selects(selector: Selector, labels: Readonly<Record<string, string>>): boolean {
  return selector.labels.every(([name, value]) => Object.hasOwn(labels, name) && labels[name] === value)
}
