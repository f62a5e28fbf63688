/**
 * What a shape (schema.ts) takes, as data: what reads a field by a function can be said in other languages from this, such
 * as the OpenAPI of a CRD. It says no more than is true of every value that the shape accepts.
 */

/** See the head of the file. */
export type Form =
  | { readonly kind: 'anything' }
  | { readonly kind: 'text'; readonly pattern?: string; readonly charactersMax?: number }
  | { readonly kind: 'flag' }
  | { readonly kind: 'integer' | 'decimal'; readonly min: number; readonly max: number }
  | { readonly kind: 'words'; readonly words: readonly string[] }
  | { readonly kind: 'list'; readonly element: Form; readonly elementsMax: number }
  | { readonly kind: 'map'; readonly element: Form; readonly entriesMax: number }
  | {
      readonly kind: 'object'
      readonly fields: Readonly<Record<string, { readonly form: Form; readonly isRequired: boolean }>>
      /** Of each of these lists of fields at most one is given. */
      readonly atMostOneOf?: readonly (readonly string[])[]
    }
  /** One of several; each can be told from the others by its type. */
  | { readonly kind: 'either'; readonly forms: readonly Form[] }
  /** Exists in the API, has no effect here, or is refused; `note` says so. */
  | { readonly kind: 'unused'; readonly note: string }

export const ANYTHING: Form = { kind: 'anything' }
export const TEXT: Form = { kind: 'text' }
