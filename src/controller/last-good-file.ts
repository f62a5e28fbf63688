/**
 * The last good objects on disk: what stands in for a broken object or file when the controller starts.
 *
 * Without it, a restart while a policy file is broken would open what the policy had closed. Trees as they were parsed,
 * with the file each came from; read through the same checks as everything else. Mode 0600, written beside and renamed.
 */
import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type MeshObject, parseObject } from '../compiler/object.ts'
import { makePrivateDirectory, writeFileAtomically } from '../security/credential-files.ts'

/** Of the file's form. Another one is not read. */
const FORMAT = 1

interface StoredObject {
  readonly file: string
  readonly raw: unknown
}

/** Writes `objects`. Rejects with WeftError WEFT_SYSCALL. */
export async function writeLastGood(path: string, objects: readonly MeshObject[]): Promise<void> {
  const stored = objects.map((object): StoredObject => ({ file: object.positionOf([])?.file ?? '', raw: object.raw }))
  await makePrivateDirectory(dirname(path))
  await writeFileAtomically(path, JSON.stringify({ format: FORMAT, objects: stored }), 0o600)
}

/** What the file holds; nothing when it is absent or not usable. Positions say the file, if any, and no line. */
export async function readLastGood(path: string, log: Logger): Promise<MeshObject[]> {
  let stored: readonly StoredObject[]
  try {
    const content = JSON.parse(await readFile(path, 'utf8')) as { format: unknown; objects: readonly StoredObject[] }
    if (content.format !== FORMAT) throw new Error(`format ${String(content.format)} is not ${FORMAT}`)
    if (!Array.isArray(content.objects)) throw new Error('it has no objects')
    stored = content.objects
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      log.warn('the last good objects on disk are not usable', { path, error: describeError(error) })
    }
    return []
  }
  return stored.flatMap(({ file, raw }) => {
    const object = parseObject(raw, () => (file === '' ? null : { file, line: 0, column: 0 }))
    return Array.isArray(object) ? [] : [object as MeshObject]
  })
}
