/**
 * One YAML file of Kubernetes-shaped objects, with the place of every field.
 *
 * All or nothing: a file with an error in it, be it YAML or an object without a name, yields no objects, so that a typo
 * never looks like the deletion of what comes after it. YAML 1.2 with merge keys; duplicate keys are errors.
 */
import { isNode, LineCounter, parseAllDocuments, type Document as YamlDocument } from 'yaml'
import { describeError } from '../base/errors.ts'
import type { Message } from '../compiler/messages.ts'
import { expandList, type MeshObject, type Path, type Position, parseObject } from '../compiler/object.ts'

/** Most messages about one file: one mistake often looks like many to a parser. */
const MESSAGES_MAX = 20

/** The objects of a file, or what is wrong with it. */
export interface YamlFile {
  readonly objects: readonly MeshObject[]
  /** Why there are no objects; empty when the file is good. */
  readonly messages: readonly Message[]
}

/** Parses the text of `file`, a name for messages. */
export function readYamlFile(text: string, file: string): YamlFile {
  const lines = new LineCounter()
  const positionAt = (offset: number): Position => {
    const { line, col } = lines.linePos(offset)
    return { file, line, column: col }
  }
  try {
    return readDocuments(text, lines, positionAt)
  } catch (error) {
    // Too many aliases, nesting beyond the parser's limits: the document as a whole is refused.
    return { objects: [], messages: [syntaxMessage(describeError(error), positionAt(0))] }
  }
}

function readDocuments(text: string, lines: LineCounter, positionAt: (offset: number) => Position): YamlFile {
  const objects: MeshObject[] = []
  const messages: Message[] = []
  const documents = parseAllDocuments(text, {
    lineCounter: lines,
    prettyErrors: false,
    merge: true,
    logLevel: 'silent',
  })
  for (const document of documents as YamlDocument[]) {
    for (const { message, pos } of [...document.errors, ...document.warnings]) {
      messages.push(syntaxMessage(message, positionAt(pos[0])))
    }
    // Nothing between two separators, or comments only.
    if (document.errors.length > 0 || document.contents === null) continue
    const raw: unknown = document.toJS()
    if (raw === null) continue
    const positionOf = (path: Path): Position | null => {
      const node = path.length === 0 ? document.contents : document.getIn(path, true)
      return isNode(node) && node.range != null ? positionAt(node.range[0]) : null
    }
    for (const one of expandList(raw, positionOf)) {
      const object = parseObject(one.raw, one.positions)
      if (Array.isArray(object)) messages.push(...object)
      else objects.push(object as MeshObject)
    }
  }
  return messages.length === 0 ? { objects, messages } : { objects: [], messages: messages.slice(0, MESSAGES_MAX) }
}

function syntaxMessage(text: string, position: Position): Message {
  return {
    code: 'WEFT0401',
    severity: 'error',
    text: `This is not valid YAML: ${text.split('\n')[0]}.`.replace(/\.\.$/, '.'),
    fix: '',
    object: '',
    field: '',
    position,
  }
}

/** A file as a whole cannot be used. */
export function fileMessage(file: string, text: string): Message {
  return {
    code: 'WEFT0402',
    severity: 'error',
    text,
    fix: '',
    object: '',
    field: '',
    position: { file, line: 1, column: 1 },
  }
}
