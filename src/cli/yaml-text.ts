/** YAML as the command line reads and prints it: values of users, and Kubernetes objects. */
import { Document, isMap, isSeq, parseDocument, type YAMLMap } from 'yaml'
import { UsageError } from '../base/flags.ts'

/** Comments that printed objects carry, by the object or list that they belong to. */
export type Comments = Pick<WeakMap<object, string>, 'get'>

/** Columns of a comment, so that it is read beside what it is about without scrolling. */
const COMMENT_COLUMNS = 100

/** A file of values: one mapping. `name` is for errors. Throws UsageError with line and column. */
export function readYamlMapping(text: string, name: string): Readonly<Record<string, unknown>> {
  const document = parseDocument(text, { prettyErrors: true })
  const error = document.errors[0]
  if (error !== undefined) throw new UsageError(`${name}: ${error.message.split('\n')[0]}`)
  const value: unknown = document.toJS()
  if (value === null || value === undefined) return {}
  if (typeof value !== 'object' || Array.isArray(value)) throw new UsageError(`${name}: must hold one mapping`)
  return value as Readonly<Record<string, unknown>>
}

/** Documents of one YAML stream, as plain values. Throws UsageError. */
export function yamlText(value: unknown, comments: Comments = new WeakMap()): string {
  const document = new Document(value, { aliasDuplicateObjects: false })
  comment(document.contents, value, comments)
  return document.toString({ lineWidth: 0 })
}

/** Several documents with `---` between them. */
export function yamlStream(values: readonly unknown[], comments: Comments = new WeakMap()): string {
  return values.map((value) => yamlText(value, comments)).join('---\n')
}

/** Breaks a text into lines of a comment. */
export function commentLines(text: string): string {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + word.length + 1 > COMMENT_COLUMNS) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line].join('\n')
}

function comment(node: unknown, value: unknown, comments: Comments): void {
  if (typeof value !== 'object' || value === null) return
  const text = comments.get(value)
  if (text !== undefined) (node as YAMLMap).commentBefore = commentLines(text).replaceAll(/^/gm, ' ')
  if (isSeq(node)) for (const [i, item] of node.items.entries()) comment(item, (value as unknown[])[i], comments)
  if (!isMap(node)) return
  for (const pair of node.items) {
    const key = String((pair.key as { value: unknown }).value)
    comment(pair.value, (value as Record<string, unknown>)[key], comments)
  }
}
