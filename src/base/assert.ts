/** Assertions stay on in production: a broken invariant must stop the one thing it concerns, not corrupt the rest. */

/** Throws when `condition` is false. `message` names the invariant that was broken. A throw from here is a bug of ours. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`)
}

/** Marks a branch that the type system proves impossible; throws if it is reached all the same. */
export function unreachable(value: never): never {
  throw new Error(`unreachable value: ${String(value)}`)
}
