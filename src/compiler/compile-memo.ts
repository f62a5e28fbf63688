/**
 * What one compile run leaves for the next: the stages of the compiler with what they were made from. A stage whose inputs
 * are the very same values is not run again; what it said is said again. One whose inputs differ gets its former result,
 * of which it may take parts that come out the same.
 *
 * So the result of a run never depends on what a memo knows, only the time that it takes; and what did not change is the
 * very same value as before, for the stages and the publisher after it.
 */
import type { Steps } from '../base/steps.ts'
import { type Finding, MessageLog, type Subject } from './messages.ts'
import type { Path } from './position.ts'
import { ReadMemo } from './read-memo.ts'
import type { Run } from './settings.ts'

/** One thing that a stage said. */
interface Said {
  readonly object: Subject
  readonly path: Path
  readonly finding: Finding
}

interface Stage {
  readonly inputs: readonly unknown[]
  readonly value: unknown
  readonly said: readonly Said[]
}

/** See the head of the file. For one set of settings. */
export class CompileMemo {
  readonly reads: ReadMemo
  private readonly stages: Map<string, Stage>
  private readonly lists: Map<string, readonly unknown[]>

  constructor(known: CompileMemo | null = null) {
    this.reads = known?.reads ?? new ReadMemo()
    this.stages = new Map(known?.stages)
    this.lists = new Map(known?.lists)
  }

  /** A memo that knows what this one knows now, for a run beside the others: this one learns nothing of it. */
  fork(): CompileMemo {
    return new CompileMemo(this)
  }

  /** `list`, or the list of this name in the run before when it has the very same values. */
  list<T>(name: string, list: readonly T[]): readonly T[] {
    const known = this.lists.get(name) as readonly T[] | undefined
    if (known !== undefined && isSameList(known, list)) return known
    this.lists.set(name, list)
    return list
  }

  /**
   * The value of the stage `name` for `inputs`, made by `make` unless it is known. It must depend on nothing but them and
   * the settings, and ask the log nothing. The former value is null when there is none.
   */
  *stage<T>(
    name: string,
    inputs: readonly unknown[],
    run: Run,
    make: (run: Run, former: T | null) => Steps<T>,
  ): Steps<T> {
    const known = this.stages.get(name)
    if (known !== undefined && isSameList(known.inputs, inputs)) {
      for (const { object, path, finding } of known.said) run.log.add(object, path, finding)
      return known.value as T
    }
    const log = new StageLog(run.log)
    const value = yield* make({ ...run, log }, (known?.value as T | undefined) ?? null)
    this.stages.set(name, { inputs, value, said: log.said })
    return value
  }
}

/** True when both have the very same values in the same order. */
export function isSameList(a: readonly unknown[], b: readonly unknown[]): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return false
  return true
}

/** Hands on what a stage says, and keeps it. */
class StageLog extends MessageLog {
  readonly said: Said[] = []
  private readonly target: MessageLog

  constructor(target: MessageLog) {
    super()
    this.target = target
  }

  override add(object: Subject, path: Path, finding: Finding): void {
    this.said.push({ object, path, finding })
    this.target.add(object, path, finding)
  }

  override has(): boolean {
    return refuse()
  }

  override hasError(): boolean {
    return refuse()
  }
}

function refuse(): never {
  throw new Error('what a stage does must not depend on what was said before')
}
