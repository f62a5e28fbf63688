/**
 * Compiles, and keeps the last good version of every object in force: an object with an error is replaced by the newest
 * version of it that had none, and the errors are reported all the same.
 */
import { atOnce, type Steps } from '../base/steps.ts'
import { type CompileResult, type CompileSettings, compileSteps } from '../compiler/compile.ts'
import { CompileMemo } from '../compiler/compile-memo.ts'
import type { MeshObject } from '../compiler/object.ts'
import { generationOf, type InForce } from './status-of-object.ts'

/**
 * Errors of objects that are in force in spite of them: policies that deny more than was written, because the compiler
 * cannot express what they say. An older version, which denied something else, would not be safer.
 */
const IN_FORCE_CODES: ReadonlySet<string> = new Set(['WEFT0303', 'WEFT0304'])

/** The last good version of every object, also across a restart. */
export class LastGood {
  private readonly settings: CompileSettings
  /** What the compiler remembers of objects; for whoever analyses the same ones. */
  readonly memo = new CompileMemo()
  private good: ReadonlyMap<string, MeshObject> = new Map()
  /** Keys of objects that are not in force as written. */
  private failed: ReadonlySet<string> = new Set()

  /** `remembered` are the last good objects of an earlier run. */
  constructor(settings: CompileSettings, remembered: readonly MeshObject[] = []) {
    this.settings = settings
    this.good = new Map(remembered.map((object) => [object.key, object]))
  }

  /** The objects that are in force, to be remembered. */
  get objects(): readonly MeshObject[] {
    return [...this.good.values()]
  }

  /** Which version of an object of the last `compile` is in force. */
  versionInForce(object: MeshObject): InForce {
    if (!this.failed.has(object.key)) return 'written'
    const good = this.good.get(object.key)
    return good === undefined || generationOf(good) === generationOf(object) ? 'none' : 'earlier'
  }

  /** The state to publish, and the messages about the objects as they are now. */
  compile(objects: readonly MeshObject[]): CompileResult {
    return atOnce(this.compileSteps(objects))
  }

  /** The same, a step at a time. What is in force and what has failed changes with the last step alone. */
  *compileSteps(objects: readonly MeshObject[]): Steps<CompileResult> {
    const result = yield* compileSteps(objects, this.settings, this.memo)
    const failed = new Set<string>()
    for (const { severity, code, object } of result.messages) {
      if (severity === 'error' && !IN_FORCE_CODES.has(code)) failed.add(object)
    }
    const replaced = objects.map((object) => (failed.has(object.key) ? (this.good.get(object.key) ?? object) : object))
    const isReplaced = replaced.some((object, i) => object !== objects[i])
    yield
    const state = isReplaced ? (yield* compileSteps(replaced, this.settings, this.memo.fork())).state : result.state
    const good = new Map<string, MeshObject>()
    for (const [i, object] of replaced.entries()) {
      if (!failed.has(object.key) || object !== objects[i]) good.set(object.key, object)
    }
    this.failed = failed
    this.good = good
    return { state, messages: result.messages }
  }
}
