/**
 * What would be said of an object if it were part of the mesh: the whole analysis, with everything else as it is now.
 * Nothing of it takes effect.
 */
import type { Steps } from '../base/steps.ts'
import { compileSteps } from '../compiler/compile.ts'
import { CompileMemo } from '../compiler/compile-memo.ts'
import { compareText, formatMessage, type Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import type { CompileSettings } from '../compiler/settings.ts'

/** The mesh as it is. */
export interface PresentMesh {
  readonly objects: readonly MeshObject[]
  /** What is said of them already. */
  readonly messages: readonly Message[]
}

/** What an object would bring. */
export interface CandidateFindings {
  /** About the object itself. */
  readonly own: readonly Message[]
  /** About others, and new: rules that it takes over, say. */
  readonly others: readonly Message[]
}

/**
 * Analyses `candidate` in the place of the object with its key, if there is one, a step at a time. `memo` is the compiler's
 * of the same mesh; it learns nothing of the candidate.
 */
export function* analyseCandidate(
  candidate: MeshObject,
  present: PresentMesh,
  settings: CompileSettings,
  memo: CompileMemo = new CompileMemo(),
): Steps<CandidateFindings> {
  const others = present.objects.filter(({ key }) => key !== candidate.key)
  yield
  const { messages } = yield* compileSteps([...others, candidate], settings, memo.fork())
  const known = new Set(present.messages.map(formatMessage))
  const own: Message[] = []
  const fresh: Message[] = []
  for (const message of messages) {
    if (message.object === candidate.key) own.push(message)
    else if (message.severity !== 'info' && !known.has(formatMessage(message))) fresh.push(message)
  }
  fresh.sort((a, b) => compareText(a.object, b.object))
  return { own, others: fresh }
}
