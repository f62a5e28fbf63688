/**
 * Normal forms of objects that were read before, with what was said about them.
 *
 * Sources hand over the very same object as long as it does not change, and what a reader makes of an object depends on
 * nothing but the object and the settings. What is made of all of them together is remembered in compile-memo.ts.
 */
import { MessageLog } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { CompileSettings, Run } from './settings.ts'

/** Reads one object; reports about this object only. */
export type Reader<T> = (object: MeshObject, run: Run) => T | null

interface Known {
  readonly reader: Reader<unknown>
  readonly value: unknown
  /** Null when nothing was said. */
  readonly log: MessageLog | null
}

/** What one compiler has read, for one set of settings. Objects that are gone are forgotten by themselves. */
export class ReadMemo {
  private readonly known = new WeakMap<MeshObject, Known>()
  private readonly derived = new Map<(object: MeshObject) => unknown, WeakMap<MeshObject, unknown>>()
  private settings: CompileSettings | null = null

  /** What `make` makes of the object alone, without a word. `make` must be one and the same function every time. */
  derive<T>(object: MeshObject, make: (object: MeshObject) => T): T {
    let known = this.derived.get(make)
    if (known === undefined) {
      known = new WeakMap()
      this.derived.set(make, known)
    }
    if (known.has(object)) return known.get(object) as T
    const value = make(object)
    known.set(object, value)
    return value
  }

  /** What `reader` makes of the object, and says about it in `run`. */
  read<T>(object: MeshObject, reader: Reader<T>, run: Run): T | null {
    if (this.settings !== null && this.settings !== run.settings) throw new Error('a memo is for one set of settings')
    this.settings = run.settings
    // What was said before may keep a reader from going on, and is not of its making.
    if (run.log.has(object)) return reader(object, run)
    const known = this.known.get(object)
    if (known !== undefined && known.reader === reader) {
      if (known.log !== null) run.log.take(known.log)
      return known.value as T | null
    }
    const log = new MessageLog()
    const value = reader(object, { ...run, log })
    const isSilent = !log.has(object)
    this.known.set(object, { reader, value, log: isSilent ? null : log })
    if (!isSilent) run.log.take(log)
    return value
  }
}
