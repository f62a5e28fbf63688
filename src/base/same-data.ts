/**
 * Deep equality of plain data: scalars, lists and objects with own enumerable keys, in any order of keys.
 *
 * Anything else (a Map, bytes, an object of a class) is equal to itself alone: who asks takes "not the same" for "look
 * closer", never for "different".
 */

/** True when both are the same data. An absent field and one that is undefined are not. */
export function isSameData(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (Array.isArray(a)) {
    if (!Array.isArray(b) || a.length !== b.length) return false
    for (let i = 0; i < a.length; i++) if (!isSameData(a[i], b[i])) return false
    return true
  }
  if (!isPlain(a) || !isPlain(b)) return false
  // Not Object.keys: ten thousand comparisons must not make ten thousand lists.
  let count = 0
  for (const key in a) {
    if (!Object.hasOwn(b, key) || !isSameData((a as Tree)[key], (b as Tree)[key])) return false
    count++
  }
  for (const _ in b) count--
  return count === 0
}

type Tree = Readonly<Record<string, unknown>>

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
