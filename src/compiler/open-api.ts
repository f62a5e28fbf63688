/**
 * Forms (form.ts) as the OpenAPI v3 of a CRD, structural as Kubernetes demands.
 *
 * Unknown fields are kept, at every level: the API server would drop them without a word, and a policy that has lost a
 * misspelled condition is not what its author wrote. Kept, they reach the compiler, which names them.
 */
import type { Form } from './form.ts'

/** A node of a schema, as it is written. */
export type OpenApi = Readonly<Record<string, unknown>>

/** Says that a node keeps fields that its schema does not have. */
export const KEEP_UNKNOWN = 'x-kubernetes-preserve-unknown-fields'

/** Largest value of int32, which is what smaller integers are called. */
const INT32_MAX = 2_147_483_647

/** The schema of what `form` takes. */
export function openApiOf(form: Form): OpenApi {
  switch (form.kind) {
    case 'anything':
      return { [KEEP_UNKNOWN]: true }
    case 'unused':
      return { description: form.note, [KEEP_UNKNOWN]: true }
    case 'text': {
      const { pattern, charactersMax } = form
      return {
        type: 'string',
        ...(charactersMax === undefined ? {} : { maxLength: charactersMax }),
        ...(pattern === undefined ? {} : { pattern }),
      }
    }
    case 'flag':
      return { type: 'boolean' }
    case 'integer': {
      const format = form.max > INT32_MAX ? 'int64' : 'int32'
      return { type: 'integer', format, minimum: form.min, maximum: form.max }
    }
    case 'decimal':
      return { type: 'number', format: 'double', minimum: form.min, maximum: form.max }
    case 'words':
      return { type: 'string', enum: form.words }
    case 'list':
      return { type: 'array', maxItems: form.elementsMax, items: openApiOf(form.element) }
    case 'map':
      return { type: 'object', maxProperties: form.entriesMax, additionalProperties: openApiOf(form.element) }
    case 'object':
      return objectOf(form)
    case 'either':
      // Kubernetes has one such node, for a number or a text; none of our own kinds has others.
      return { 'x-kubernetes-int-or-string': true }
  }
}

function objectOf({ fields, atMostOneOf = [] }: Extract<Form, { kind: 'object' }>): OpenApi {
  const properties: Record<string, OpenApi> = {}
  const required: string[] = []
  for (const name of Object.keys(fields).sort()) {
    const { form, isRequired } = fields[name]!
    properties[name] = openApiOf(form)
    if (isRequired) required.push(name)
  }
  const pairs = atMostOneOf.flatMap(pairsOf)
  return {
    type: 'object',
    ...(required.length === 0 ? {} : { required }),
    properties,
    ...(pairs.length === 0 ? {} : { not: { anyOf: pairs.map((pair) => ({ required: pair })) } }),
    [KEEP_UNKNOWN]: true,
  }
}

function pairsOf(names: readonly string[]): (readonly string[])[] {
  return names.flatMap((first, i) => names.slice(i + 1).map((second) => [first, second]))
}
