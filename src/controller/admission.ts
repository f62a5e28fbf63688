/**
 * AdmissionReview (admission.k8s.io/v1): the API server asks whether an object may be written, and is told everything that
 * is wrong with it at once.
 *
 * It only ever stands in the way of new mistakes: deletions, objects that are on their way out, and changes beside the spec
 * of an object that was wrong already are let through, with warnings.
 */
import { isDeepStrictEqual } from 'node:util'
import type { Steps } from '../base/steps.ts'
import { meshKindOf } from '../compiler/mesh-kinds.ts'
import type { Message } from '../compiler/messages.ts'
import { groupOf, isTree, type MeshObject, own, parseObject } from '../compiler/object.ts'
import type { CandidateFindings } from './candidate-analysis.ts'

/** Longest warning, and most of them: what is longer the API server cuts, at 4,096 characters for all. */
const WARNING_CHARACTERS_MAX = 240
const WARNINGS_MAX = 16

/** Most errors that one refusal names. 50, as many as one object has. */
const ERRORS_MAX = 50

/** Name of an object that gets one from the API server later; its length is that of the suffix it will have. */
const GENERATED_SUFFIX = 'xxxxx'

/** The answer to one review. */
export interface AdmissionAnswer {
  readonly uid: string
  readonly isAllowed: boolean
  readonly warnings: readonly string[]
  /** Null when allowed. */
  readonly refusal: Refusal | null
  /** What was judged; null when nothing was, or something that is none of the mesh's kinds. */
  readonly judged: JudgedResource | null
}

/** A resource of the mesh's kinds, as paths name it. */
export interface JudgedResource {
  readonly group: string
  readonly version: string
  readonly plural: string
}

/** Why an object may not be written. */
export interface Refusal {
  readonly errors: readonly Message[]
  /** The object, as users call it. */
  readonly group: string
  readonly kind: string
  readonly name: string
}

/** The parts of a request that count. */
interface AdmissionRequest {
  readonly uid: string
  readonly operation: string
  readonly namespace: string
  readonly object: unknown
  readonly oldObject: unknown
}

/**
 * Answers a review, a step at a time. `analyse` is asked about objects that are to be made or changed. Null when `review` is none.
 */
export function* answerReview(
  review: unknown,
  analyse: (candidate: MeshObject) => Steps<CandidateFindings>,
): Steps<AdmissionAnswer | null> {
  const request = readRequest(review)
  if (request === null) return null
  const { uid, operation, object, oldObject } = request
  const isChange = operation === 'CREATE' || operation === 'UPDATE'
  if (!isChange || !isTree(object) || isGoing(object)) return allowed(uid, null, [])
  const candidate = parseObject(named(object, request.namespace), () => null)
  const findings = Array.isArray(candidate) ? { own: candidate, others: [] } : yield* analyse(candidate as MeshObject)
  const errors = findings.own.filter(({ severity }) => severity === 'error')
  const judged = judgedIn(object)
  const isUnchanged = isTree(oldObject) && isDeepStrictEqual(own(oldObject, 'spec'), own(object, 'spec'))
  if (errors.length > 0 && !isUnchanged) {
    const refusal = refusalOf(object, errors.slice(0, ERRORS_MAX))
    return { uid, isAllowed: false, warnings: [], refusal, judged }
  }
  const notes = findings.own.filter(({ severity }) => severity !== 'info')
  return allowed(uid, judged, [
    ...notes.map((message) => wordsOf(message)),
    ...findings.others.map((message) => `${message.object} ${wordsOf(message)}`),
  ])
}

/** The answer as the API server takes it. */
export function reviewOf({ uid, isAllowed, warnings, refusal }: AdmissionAnswer): object {
  return {
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    response: {
      uid,
      allowed: isAllowed,
      ...(warnings.length === 0 ? {} : { warnings }),
      ...(refusal === null ? {} : { status: statusOf(refusal) }),
    },
  }
}

/** What a message says, without the object: `spec.http[0].timeout: ...`. */
export function wordsOf({ field, text, fix, code }: Message): string {
  const where = field === '' ? '' : `${field}: `
  return `${where}${text}${fix === '' ? '' : ` ${fix}`} (${code})`
}

function refusalOf(object: Readonly<Record<string, unknown>>, errors: readonly Message[]): Refusal {
  const metadata = own(object, 'metadata')
  const [apiVersion, kind] = [own(object, 'apiVersion'), own(object, 'kind')]
  const name = isTree(metadata) ? (own(metadata, 'name') ?? own(metadata, 'generateName')) : undefined
  return { errors, group: groupOf(textOf(apiVersion)), kind: textOf(kind), name: textOf(name) }
}

/** Of kinds that there are: anybody may ask, and what is counted by name must not grow without end. */
function judgedIn(object: Readonly<Record<string, unknown>>): JudgedResource | null {
  const apiVersion = textOf(own(object, 'apiVersion'))
  const kind = meshKindOf(groupOf(apiVersion), textOf(own(object, 'kind')))
  const version = apiVersion.slice(apiVersion.indexOf('/') + 1)
  return kind?.versions.includes(version) === true ? { group: kind.group, version, plural: kind.plural } : null
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

/** As the API server itself answers to what its schemas refuse: kubectl then lists the causes line by line. */
function statusOf({ errors, group, kind, name }: Refusal): object {
  return {
    code: 422,
    reason: 'Invalid',
    message: errors.map((message) => wordsOf(message)).join('\n'),
    details: {
      group,
      kind,
      name,
      causes: errors.map(({ field, text, fix, code }) => ({
        reason: code,
        field,
        message: `${text}${fix === '' ? '' : ` ${fix}`} (${code})`,
      })),
    },
  }
}

function allowed(uid: string, judged: JudgedResource | null, texts: readonly string[]): AdmissionAnswer {
  const warnings = texts.slice(0, WARNINGS_MAX).map((text) => {
    const flat = text.replaceAll(/\s+/g, ' ')
    return flat.length <= WARNING_CHARACTERS_MAX ? flat : `${flat.slice(0, WARNING_CHARACTERS_MAX - 3)}...`
  })
  return { uid, isAllowed: true, warnings, refusal: null, judged }
}

function readRequest(review: unknown): AdmissionRequest | null {
  if (!isTree(review) || own(review, 'apiVersion') !== 'admission.k8s.io/v1') return null
  const request = own(review, 'request')
  if (own(review, 'kind') !== 'AdmissionReview' || !isTree(request)) return null
  const [uid, operation, namespace] = [own(request, 'uid'), own(request, 'operation'), own(request, 'namespace')]
  if (typeof uid !== 'string' || uid === '' || typeof operation !== 'string') return null
  return {
    uid,
    operation,
    namespace: typeof namespace === 'string' ? namespace : '',
    object: own(request, 'object'),
    oldObject: own(request, 'oldObject'),
  }
}

/** Deletion has begun: what is left to do is to remove finalizers. */
function isGoing(object: Readonly<Record<string, unknown>>): boolean {
  const metadata = own(object, 'metadata')
  return isTree(metadata) && own(metadata, 'deletionTimestamp') !== undefined
}

/** With the name and namespace that the object will have. */
function named(object: Readonly<Record<string, unknown>>, namespace: string): object {
  const metadata = own(object, 'metadata')
  if (!isTree(metadata)) return object
  const prefix = own(metadata, 'generateName')
  const name = own(metadata, 'name') ?? (typeof prefix === 'string' ? `${prefix}${GENERATED_SUFFIX}` : undefined)
  const space = namespace === '' ? {} : { namespace }
  return { ...object, metadata: { ...metadata, ...(name === undefined ? {} : { name }), ...space } }
}
