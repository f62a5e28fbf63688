/**
 * What the status of a rule says: two conditions of our own beside those of others, the messages about it, and which
 * generation of it all this is about. Pure.
 *
 *     weft.dev/Accepted     the object is right as it is written
 *     weft.dev/Programmed   it is in force as it is written; if not, what is in force instead
 */
import { isDeepStrictEqual } from 'node:util'
import { ACCEPTED_CONDITION } from '../compiler/crd.ts'
import type { Message } from '../compiler/messages.ts'
import { isTree, type MeshObject, own } from '../compiler/object.ts'
import { wordsOf } from './admission.ts'

export const PROGRAMMED_CONDITION = 'weft.dev/Programmed'

/** Longest message of a condition. What is longer nobody reads in a table; all of it is in validationMessages. */
const MESSAGE_CHARACTERS_MAX = 1_024

/** Most validationMessages: as many as the compiler keeps of one object. */
const MESSAGES_MAX = 50

/** Which version of an object is in force. */
export type InForce = 'written' | 'earlier' | 'none'

/** One condition, as Istio's objects have them. */
interface Condition {
  readonly type: string
  readonly status: 'True' | 'False'
  readonly reason: string
  readonly message: string
  readonly observedGeneration: number
  readonly lastTransitionTime: string
}

/** The part of a status that is ours, and what others have in `conditions`. */
export interface ObjectStatus {
  readonly conditions: readonly unknown[]
  readonly observedGeneration: number
  readonly validationMessages: readonly unknown[]
}

/** Names of codes, as `istioctl analyze` has them; codes of our own are their own names. */
const CODE_NAMES: ReadonlyMap<string, string> = new Map([
  ['IST0002', 'Deprecated'],
  ['IST0101', 'ReferencedResourceNotFound'],
  ['IST0106', 'SchemaValidationError'],
  ['IST0109', 'ConflictingMeshGatewayVirtualServiceHosts'],
  ['IST0112', 'VirtualServiceDestinationPortSelectorRequired'],
  ['IST0127', 'NoMatchingWorkloadsFound'],
  ['IST0130', 'VirtualServiceUnreachableRule'],
  ['IST0131', 'VirtualServiceIneffectiveMatch'],
  ['IST0133', 'SchemaWarning'],
  ['IST0167', 'IneffectivePolicy'],
  ['IST0173', 'DestinationRuleSubsetNotSelectPods'],
  ['IST0174', 'UnknownDestinationRuleHost'],
])

/**
 * The status that `object` should have. Null when it has it. `messages` are those about the object; `current` is its status
 * as the API server last had it.
 */
export function statusFor(
  object: MeshObject,
  messages: readonly Message[],
  inForce: InForce,
  nowText: string,
  current: unknown = object.status,
): ObjectStatus | null {
  const generation = generationOf(object)
  const before = isTree(current) ? current : {}
  const known = own(before, 'conditions')
  const others = Array.isArray(known) ? known.filter((one) => !isOurs(one)) : []
  const ours = [acceptedCondition(messages), programmedCondition(inForce)].map((made): Condition => {
    const old = Array.isArray(known) ? known.find((one) => isTree(one) && one['type'] === made.type) : undefined
    const isSame = isTree(old) && old['status'] === made.status && typeof old['lastTransitionTime'] === 'string'
    const lastTransitionTime = isSame ? (old['lastTransitionTime'] as string) : nowText
    return { ...made, observedGeneration: generation, lastTransitionTime }
  })
  const status: ObjectStatus = {
    conditions: [...others, ...ours],
    observedGeneration: generation,
    validationMessages: messages.slice(0, MESSAGES_MAX).map(validationMessage),
  }
  return isDeepStrictEqual(essenceOf(before), essenceOf(status)) ? null : status
}

/**
 * What of a status says something. Other CRDs of the same kinds (Istio's) drop fields that they do not know, and what was
 * dropped must not be written again and again.
 */
function essenceOf(status: object): unknown {
  const { conditions, validationMessages, observedGeneration } = status as Partial<Record<string, unknown>>
  return {
    conditions: listOf(conditions)
      .filter(isOurs)
      .map((one) => [own(one, 'type'), own(one, 'status'), own(one, 'reason'), own(one, 'message') ?? '']),
    validationMessages: listOf(validationMessages).map((one) => {
      const type = own(one, 'type')
      return [isTree(type) ? own(type, 'code') : undefined, own(one, 'level')]
    }),
    observedGeneration: Number(observedGeneration ?? -1),
  }
}

function listOf(value: unknown): readonly Readonly<Record<string, unknown>>[] {
  return Array.isArray(value) ? value.filter(isTree) : []
}

/** `metadata.generation`; 0 where nobody counts. */
export function generationOf({ raw }: MeshObject): number {
  const metadata = isTree(raw) ? own(raw, 'metadata') : undefined
  const generation = isTree(metadata) ? own(metadata, 'generation') : undefined
  return typeof generation === 'number' ? generation : 0
}

/** Messages by the key of the object that they are about. */
export function groupByObject(messages: readonly Message[]): ReadonlyMap<string, readonly Message[]> {
  const groups = new Map<string, Message[]>()
  for (const message of messages) {
    const group = groups.get(message.object)
    if (group === undefined) groups.set(message.object, [message])
    else group.push(message)
  }
  return groups
}

type Outcome = Omit<Condition, 'observedGeneration' | 'lastTransitionTime'>

function acceptedCondition(messages: readonly Message[]): Outcome {
  const errors = messages.filter(({ severity }) => severity === 'error')
  const warnings = messages.filter(({ severity }) => severity === 'warning')
  if (errors.length > 0) {
    return { type: ACCEPTED_CONDITION, status: 'False', reason: 'Invalid', message: joined(errors) }
  }
  return { type: ACCEPTED_CONDITION, status: 'True', reason: 'Accepted', message: joined(warnings) }
}

function programmedCondition(inForce: InForce): Outcome {
  const type = PROGRAMMED_CONDITION
  switch (inForce) {
    case 'written':
      return { type, status: 'True', reason: 'Programmed', message: '' }
    case 'earlier':
      return { type, status: 'False', reason: 'LastGood', message: 'An earlier version of the object is in force.' }
    case 'none':
      return { type, status: 'False', reason: 'NotInForce', message: 'Nothing of the object is in force.' }
  }
}

function joined(messages: readonly Message[]): string {
  const text = messages.map((message) => wordsOf(message)).join('\n')
  return text.length <= MESSAGE_CHARACTERS_MAX ? text : `${text.slice(0, MESSAGE_CHARACTERS_MAX - 3)}...`
}

function validationMessage(message: Message): unknown {
  const { code, severity, field } = message
  return {
    type: { name: CODE_NAMES.get(code) ?? code, code },
    level: severity.toUpperCase(),
    field,
    message: wordsOf(message),
  }
}

function isOurs(condition: unknown): boolean {
  const type = isTree(condition) ? condition['type'] : undefined
  return type === ACCEPTED_CONDITION || type === PROGRAMMED_CONDITION
}
