/**
 * The last good snapshot on disk: what an agent starts with while the controller is away.
 *
 * JSON of resources with their versions, in the encoding of the wire, so that it passes the same validation when it is
 * read and survives an upgrade of the agent. Written to a neighbour and renamed: never half a file. Mode 0600: it tells
 * who may talk to whom.
 */
import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { makePrivateDirectory, writeFileAtomically } from '../security/credential-files.ts'
import { isResourceType } from '../wire/discovery.ts'
import { decodeResource } from '../wire/mesh-codec.ts'
import type { ResourceStore } from './resource-store.ts'

/** Of the file's form. Another one is not read: the controller sends everything anew. */
const FORMAT = 1

/** Its name in the state directory. */
export const SNAPSHOT_FILE = 'snapshot.json'

interface SnapshotFile {
  readonly format: number
  readonly node: string
  readonly resources: readonly SnapshotEntry[]
}

interface SnapshotEntry {
  readonly type: string
  readonly name: string
  readonly version: string
  /** Base64. */
  readonly bytes: string
}

/** Writes everything the store holds. Rejects with WeftError WEFT_SYSCALL. */
export async function writeSnapshot(path: string, node: string, store: ResourceStore): Promise<void> {
  const resources = store.entries().map(
    ([type, name, { version, bytes }]): SnapshotEntry => ({
      type,
      name,
      version,
      bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64'),
    }),
  )
  const file: SnapshotFile = { format: FORMAT, node, resources }
  await makePrivateDirectory(dirname(path))
  await writeFileAtomically(path, JSON.stringify(file), 0o600)
}

/** Puts what the file holds into the store; returns the number of resources. A file that is not usable counts as none. */
export async function readSnapshot(path: string, node: string, store: ResourceStore, log: Logger): Promise<number> {
  let file: SnapshotFile
  try {
    file = JSON.parse(await readFile(path, 'utf8')) as SnapshotFile
    if (file.format !== FORMAT) throw new Error(`format ${file.format} is not ${FORMAT}`)
    if (file.node !== node) throw new Error(`it belongs to node ${file.node}`)
    if (!Array.isArray(file.resources)) throw new Error('it has no resources')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      log.warn('the snapshot on disk is not usable; starting without it', { path, error: describeError(error) })
    }
    return 0
  }
  let count = 0
  for (const { type, name, version, bytes } of file.resources) {
    try {
      if (!isResourceType(type)) throw new Error(`there is no resource type ${type}`)
      const decoded = Buffer.from(bytes, 'base64')
      store.put(type, name, { version, bytes: decoded, resource: decodeResource(type, name, decoded) })
      count++
    } catch (error) {
      log.warn('a resource of the snapshot on disk is not usable', { path, name, error: describeError(error) })
    }
  }
  return count
}
